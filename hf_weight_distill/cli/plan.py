"""``hf-weight-distill plan``: what a student would be."""

import argparse

from .flags import SPELLING, add_shape, add_teacher
from .job import job_of
from .loading import PROGRAM, load_model, quiet

SUMMARY = "show what a student would be"
USAGE = "TEACHER [shape flags]"
EPILOG = SPELLING
DESCRIPTION = f"""\
Shows what a student of the given shape would be: its size, which teacher layers and axes feed which of its weights, and
what is copied. Loads the teacher and trains nothing.

examples:
  {PROGRAM} plan Helsinki-NLP/opus-mt-en-de --decoder_layers 1
  {PROGRAM} plan Helsinki-NLP/opus-mt-en-de --encoder_groups 0,1 2,3 4,5 --decoder_layers 2 --ffn_dim 1024 512
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_teacher(parser)
    parser.add_argument("--config", metavar="FILE", help="YAML file of a run, for its teacher and student")
    add_shape(parser)


def run(arguments: argparse.Namespace) -> None:
    job = job_of(arguments)
    with quiet():
        from ..plan import build_plan

        print(build_plan(load_model(job.teacher, job.teacher_revision), job.student))
