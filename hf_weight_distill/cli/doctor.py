"""``hf-weight-distill doctor``: what is installed, what is missing, and what this machine can do."""

import argparse

from .loading import PROGRAM

SUMMARY = "check packages, devices, memory and the Hub"
DESCRIPTION = f"""\
Checks the packages that are asked for (version, and whether they can be imported), devices, memory, the Hub and its
cache, and prints the pip command that mends what is wrong. Exit code 0: all that is required is fine; 1: it is not.
Extras that are not installed, a missing GPU and an unreachable Hub are told and are no fault.

Where even this does not start: python -m hf_weight_distill.doctor

example:
  {PROGRAM} doctor
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    pass


def run(arguments: argparse.Namespace) -> int:
    from ..doctor import main

    return main()
