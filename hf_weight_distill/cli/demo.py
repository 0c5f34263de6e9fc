"""``hf-weight-distill demo``: the whole way in minutes."""

import argparse
from pathlib import Path

from .loading import PROGRAM

SUMMARY = "see it work in minutes"
DESCRIPTION = f"""\
Shows the whole way on a small teacher of its own and generated text, without the Hub.

examples:
  {PROGRAM} demo
  {PROGRAM} demo --paper --output_dir demo-paper
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    text = "adds the published recipe, for which minutes are far too few"
    parser.add_argument("--paper", action="store_true", help=text)
    parser.add_argument("--output_dir", metavar="DIR", default="demo", help="where everything goes (default: demo)")


def run(arguments: argparse.Namespace) -> int:
    from ..demo import run_demo

    return run_demo(Path(arguments.output_dir), paper=arguments.paper)
