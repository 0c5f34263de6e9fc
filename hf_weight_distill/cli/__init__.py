"""The command line, ``hf-weight-distill COMMAND``: one module a command.

The fields of :class:`StudentShape` and :class:`WeightDistillConfig` are flags by themselves: the name is the field's,
the help its line in the class's docstring, the spelling follows from its annotation. What needs torch is imported by
the command that needs it, so that ``--help`` answers at once.
"""

from .main import COMMANDS, build_parser, main

__all__ = ["COMMANDS", "build_parser", "main"]
