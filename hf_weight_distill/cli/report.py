"""``hf-weight-distill report``: a page about a run."""

import argparse
from pathlib import Path

from .loading import PROGRAM

SUMMARY = "make a page about a run"
DESCRIPTION = f"""\
Writes one HTML page about a run, finished or not: curves of both phases by objective, quality against speed, teacher
against student on test sentences with the differences marked, length and repetition, the mixing of layers, and where
the time went. The page needs no network, no script and no other file. What is missing is said.

examples:
  {PROGRAM} report runs/small
  {PROGRAM} report runs/small --output small.html
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the --output_dir of a distill run")
    parser.add_argument("--output", metavar="FILE", help="the page, which is replaced (default: RUN_DIR/report.html)")


def run(arguments: argparse.Namespace) -> None:
    from ..report import write_report

    print(write_report(Path(arguments.run_dir), arguments.output))
