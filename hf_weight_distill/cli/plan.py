"""``hf-weight-distill plan``: what a student would be, and which one is small or fast enough."""

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import check_file, write_json
from .flags import SPELLING, add_shape, add_teacher
from .job import Job, job_of
from .loading import PROGRAM, load_distiller, load_model, place, quiet, say

if TYPE_CHECKING:
    from ..planner import ShapeSearch, Targets

SUMMARY = "show what a student would be, or find one that is small or fast enough"
USAGE = "TEACHER [shape flags] [--target_speedup X] [--target_params N] [--target_disk SIZE]"
EPILOG = SPELLING
DESCRIPTION = f"""\
Shows what a student of the given shape would be: its size, which teacher layers and axes feed which of its weights, and
what is copied. Loads the teacher and trains nothing.

With a target it looks for the shape instead: sizes are counted exactly, speed is measured on this machine, teacher and
students in turn. The decoder is made shallow first, then encoder, feed-forward layers and width in rounds; dimensions
that are given as shape flags stay as they are. The largest shape that meets every target is picked, and the flags for
distill are printed. Exit code 2: no shape meets them; the closest is shown.

examples:
  {PROGRAM} plan Helsinki-NLP/opus-mt-en-de --decoder_layers 1
  {PROGRAM} plan Helsinki-NLP/opus-mt-en-de --encoder_groups 0,1 2,3 4,5 --decoder_layers 2 --ffn_dim 1024 512
  {PROGRAM} plan --teacher Helsinki-NLP/opus-mt-en-de --target_speedup 3
  {PROGRAM} plan Helsinki-NLP/opus-mt-en-de --target_params 30M --encoder_layers 6
"""
COUNTS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
SIZES = {
    unit: base**power
    for letter, power in (("K", 1), ("M", 2), ("G", 3))
    for unit, base in ((f"{letter}B", 1000), (f"{letter}IB", 1024))
}


def count_of(text: str) -> int:
    """``30M`` and ``1.5B`` are 30 million and 1.5 billion; a number alone counts itself."""
    return _with_unit(text, COUNTS, "a number such as 30M, 1.5B or 30000000")


def bytes_of(text: str) -> int:
    """``50MB`` are 50 times 1000 times 1000 bytes, ``50MiB`` 50 times 1024 times 1024."""
    return _with_unit(text, SIZES, "a size such as 50MB, 50MiB or 1.5GB")


def _with_unit(text: str, units: dict[str, int], expected: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+) ?([A-Za-z]*)", text.strip())
    if not found or found[2].upper() not in units:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}")
    return round(float(found[1]) * units[found[2].upper()])


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_teacher(parser)
    parser.add_argument("--teacher", dest="teacher_flag", metavar="TEACHER", help="the same as a flag")
    parser.add_argument("--config", metavar="FILE", help="YAML file of a run, for its teacher and student")
    targets = parser.add_argument_group("targets", "with any of them a shape is looked for that meets all of them")
    text = "at least so many times the teacher's tokens per second, such as 3, at every batch size"
    targets.add_argument("--target_speedup", type=float, metavar="X", help=text)
    text = "at most so many parameters, such as 30M or 1.5B"
    targets.add_argument("--target_params", type=count_of, metavar="N", help=text)
    text = "at most so much disk, weights in float32, such as 50MB (1000 x 1000 bytes) or 50MiB (1024 x 1024)"
    targets.add_argument("--target_disk", type=bytes_of, metavar="SIZE", help=text)
    text = "batch sizes to time (default: 1 32)"
    targets.add_argument("--batch_sizes", type=int, nargs="+", metavar="N ...", help=text)
    targets.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU, if there is one)")
    targets.add_argument("--json", metavar="FILE", help="write the table there, too")
    add_shape(parser)


def run(arguments: argparse.Namespace) -> int:
    _take_teacher(arguments)
    job = job_of(arguments)
    wanted = [getattr(arguments, f"target_{name}") for name in ("speedup", "params", "disk")]
    if all(value is None for value in wanted):
        for name in ("batch_sizes", "device", "json"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"--{name} is for a search: give --target_speedup, --target_params or --target_disk")
        return _describe(job)
    if arguments.json:
        check_file(Path(arguments.json), "--json")
    with quiet():
        from ..planner import Targets

        return _search(job, Targets(*wanted), arguments)


def _take_teacher(arguments: argparse.Namespace) -> None:
    """The teacher may stand alone or behind its flag."""
    named = {name for name in (arguments.teacher, arguments.teacher_flag) if name is not None}
    if len(named) > 1:
        raise ValueError(f"two teachers: {arguments.teacher} and --teacher {arguments.teacher_flag}")
    arguments.teacher = next(iter(named), None)


def _describe(job: Job) -> int:
    with quiet():
        from ..plan import build_plan
        from ..starts import refuse_growth

        if job.student.vocab is not None:  # perhaps a tokenizer, which must be there and be the teacher's kind
            plan = load_distiller(job).plan
        else:
            plan = build_plan(load_model(job.teacher, job.teacher_revision), job.student)
        print(plan)
        if job.config.start == "teacher":
            refuse_growth(plan)
    return 0


def _search(job: Job, targets: "Targets", arguments: argparse.Namespace) -> int:
    from ..planner import BATCH_SIZES, find_shape

    teacher = place(load_model(job.teacher, job.teacher_revision), arguments.device)
    sizes = arguments.batch_sizes or BATCH_SIZES
    search = find_shape(teacher, targets, job.student, batch_sizes=sizes, progress=say)
    if arguments.json:
        write_json(Path(arguments.json), search.to_dict())
    _show(search, job)
    if search.picked is None:
        say(f"{PROGRAM} plan: no shape tried has {targets}")
        return 2
    return 0


def _show(search: "ShapeSearch", job: Job) -> None:
    from rich.console import Console

    from ..planner import shape_flags

    console, wide = Console(), Console(width=1000)
    if sys.stdout.isatty() and wide.measure(search.table()).maximum <= console.width:
        console.print(search.table())
        print(search.verdict())
    else:  # a narrow terminal would cut the numbers of the table; whole lines it wraps
        print(search)
    if search.picked is not None:
        words = [job.teacher, *(("--revision", job.teacher_revision) if job.teacher_revision else ())]
        flags = f"{shlex.join(words)} {shape_flags(search.picked.shape)}"
        print(f"next: {PROGRAM} distill {flags} --train DATA --output_dir DIR")
