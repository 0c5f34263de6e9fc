"""The parser of all commands, and what their errors become."""

import argparse
import importlib
import re
import sys
import traceback
from collections.abc import Sequence

from .flags import Formatter
from .loading import PROGRAM, say

DESCRIPTION = """\
Turns a seq2seq teacher (Marian, BART, mBART, Pegasus, M2M100/NLLB, T5, mT5, UMT5) into a small student of the same,
stock Transformers class, by Weight Distillation: the student's weights are generated from the teacher's, then trained.
"""
EPILOG = f"""\
start here:
  {PROGRAM} demo
  {PROGRAM} plan Helsinki-NLP/opus-mt-en-de --decoder_layers 1
  {PROGRAM} distill --help

exit codes: 0 done, 1 unexpected error, 2 wrong use (one line on stderr says what), 130 interrupted
"""

COMMANDS = ("plan", "distill", "evaluate", "report", "export", "push", "demo", "doctor")  # each a module here


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; needs no torch."""
    from .. import __version__

    parser = argparse.ArgumentParser(
        PROGRAM, description=DESCRIPTION, epilog=EPILOG, formatter_class=Formatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f".{name}", __package__)
        usage = getattr(module, "USAGE", None)
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            usage=f"{PROGRAM} {name} {usage}" if usage else None,
            description=module.DESCRIPTION,
            epilog=getattr(module, "EPILOG", None),
            formatter_class=Formatter,
            allow_abbrev=False,
        )
        module.add_flags(command)
        command.add_argument("--traceback", action="store_true", help="show where an error came from")
        command.set_defaults(run=module.run)
    return parser


def underscored(argv: Sequence[str]) -> list[str]:
    """``--decoder-layers`` is ``--decoder_layers``."""
    return [re.sub(r"^--[\w-]+", lambda name: "--" + name[0][2:].replace("-", "_"), text) for text in argv]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: arguments; by default the process's.

    Returns:
        0 done, 1 unexpected error, 2 wrong use, 130 interrupted.
    """
    try:
        arguments = build_parser().parse_args(underscored(sys.argv[1:] if argv is None else argv))
    except SystemExit as stop:  # --help, or wrong use, which argparse has explained
        return int(stop.code or 0)
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        resume = "; the same command with --resume goes on" if arguments.command == "distill" else ""
        say(f"\n{PROGRAM}: interrupted{resume}")
        return 130
    except (ValueError, FloatingPointError, MemoryError) as error:
        if arguments.traceback:
            traceback.print_exc()
        say(f"{PROGRAM} {arguments.command}: error: {' '.join(str(error).split())}")
        return 2
    except Exception:
        traceback.print_exc()
        return 1
