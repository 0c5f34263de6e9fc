"""Flags that several commands share, and how help is laid out."""

import argparse
import shutil

from ..config import StudentShape
from .values import add_fields, registered

METRIC_CHOICES = registered("evaluation.py", "METRICS")
# where nothing is given
COMPARISON = {"metrics": ["bleu", "chrf"], "num_beams": [1, 5], "batch_sizes": [1, 32], "tokenize": "13a"}
SPELLING = """\
how values are written:
  KEY=VALUE  --generator_args max_steps=500 learning_rate=1e-3 bf16=true   merged into the recipe's, key by key;
             KEY= takes one of its keys away; VALUE may be a list or mapping: KEY='[1, 2]', KEY='{a: 1}';
             num_train_epochs=3 takes the place of max_steps
  GROUP      --decoder_groups 0,1 2,3,4   two student layers, fed by teacher layers 0 and 1, and 2 to 4
  N [N]      --ffn_dim 512, or --ffn_dim 512 256 for encoder and decoder
  none       unsets what the --config file set, where a field may be unset: --finetune_source none
  --decoder-layers is --decoder_layers: dashes and underscores are the same in all names
"""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' lines and gives flags and their help room."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, 120) - 2
        super().__init__(prog, max_help_position=34, width=width)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        """``N [N]`` and ``KEY=VALUE ...`` as they stand, not once more in brackets."""
        return action.metavar if action.nargs == "+" else super()._format_args(action, default_metavar)


def add_texts(parser: argparse._ActionsContainer, flags: dict[str, str]) -> None:
    for name, text in flags.items():
        metavar = "DATA" if name in ("train", "eval", "test") else name.rpartition("_")[2].upper()
        parser.add_argument(f"--{name}", metavar=metavar, help=text)


def add_teacher(parser: argparse.ArgumentParser, required: bool = False) -> None:
    text = "Hub repository or folder of the teacher" + ("" if required else "; may stand in the --config file")
    parser.add_argument("teacher", metavar="TEACHER", nargs=None if required else "?", help=text)
    revision = {"dest": "teacher_revision", "metavar": "REVISION", "help": "branch, tag or commit of the teacher"}
    parser.add_argument("--revision", **revision)


def add_shape(parser: argparse.ArgumentParser) -> None:
    text = "what is not given stays as the teacher has it"
    add_fields(parser.add_argument_group("shape of the student", text), StudentShape)


def add_comparison(parser: argparse._ActionsContainer, prefix: str) -> None:
    options = {"type": int, "nargs": "+", "metavar": "N ..."}
    parser.add_argument(f"--{prefix}num_beams", **options, help="searches; 1 is greedy (default: 1 5)")
    parser.add_argument(f"--{prefix}batch_sizes", **options, help="batch sizes to time (default: 1 32)")
    text = "scores, of %(choices)s (default: bleu chrf)"
    metrics = {"nargs": "+", "choices": METRIC_CHOICES, "metavar": "METRIC ..."}
    parser.add_argument(f"--{prefix}metrics", **metrics, help=text)
    text = "sacreBLEU's tokenizer for BLEU, such as zh or ja-mecab (default: 13a)"
    parser.add_argument(f"--{prefix}tokenize", metavar="NAME", help=text)
