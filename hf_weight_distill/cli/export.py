"""``hf-weight-distill export``: a student for another runtime."""

import argparse

from ..config import WeightDistillConfig
from .flags import add_texts
from .job import COLUMN_FLAGS, LANGUAGE_FLAGS
from .loading import PROGRAM, load_model, load_pairs, quiet, say, users_own
from .values import field_docs, registered

SUMMARY = "convert a student for another runtime"
USAGE = "STUDENT --to FORMAT --output_dir DIR [flags]"
DESCRIPTION = f"""\
Converts a student for CTranslate2 or ONNX Runtime and compares the result with the student: the same greedy output,
logits or log-probabilities within a tolerance, size, speed, in float32 and in int8. A model that is not the student is
not written. Needs the extra of the format's name: pip install 'hf_weight_distill[ctranslate2]' or [onnx].

examples:
  {PROGRAM} export runs/small/student --to ctranslate2 --quantization int8 --output_dir runs/small/ctranslate2
  {PROGRAM} export runs/small/student --to onnx --data test.jsonl --output_dir runs/small/onnx
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("student", metavar="STUDENT", help="folder or Hub repository of the student")
    parser.add_argument("--to", choices=registered("export/__init__.py", "FORMATS"), required=True, help="the format")
    parser.add_argument("--output_dir", metavar="DIR", required=True, help="new folder for the exported student")
    text = "precision of the weights that are written; both are compared (default: float32)"
    parser.add_argument("--quantization", choices=("float32", "int8"), default="float32", help=text)
    text = "pairs whose first 64 sources are compared and timed on; see --train of distill (default: built-in)"
    parser.add_argument("--data", metavar="DATA", default="built-in", help=text)
    add_texts(parser, {"data_split": "split of --data (default: test)", **COLUMN_FLAGS, **LANGUAGE_FLAGS})
    parser.add_argument("--prefix", default="", metavar="TEXT", help=field_docs(WeightDistillConfig)["prefix"])


def run(arguments: argparse.Namespace) -> int:
    with quiet():
        from transformers import AutoTokenizer

        from ..export import ParityError, export_student
        from ..languages import set_languages

        student = load_model(arguments.student)
        with users_own(arguments.student):
            tokenizer = AutoTokenizer.from_pretrained(arguments.student)
        set_languages(tokenizer, student, arguments.src_lang, arguments.tgt_lang)
        columns = {name: getattr(arguments, name) for name in COLUMN_FLAGS}
        pairs = load_pairs("data", arguments.data, arguments.data_split, columns)
        options = {name: getattr(arguments, name) for name in ("to", "quantization", "prefix")}
        options |= {"sentences": list(pairs["source"]), "progress": True}
        try:
            report = export_student(student, tokenizer, arguments.output_dir, **options)
        except ParityError as error:
            say(f"{PROGRAM} export: {error}")
            return 1
    print(report)
    return 0
