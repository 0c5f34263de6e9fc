"""``hf-weight-distill evaluate``: compares teacher and student."""

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import WeightDistillConfig
from ..files import check_file, write_json
from .flags import COMPARISON, add_comparison, add_teacher, add_texts
from .job import COLUMN_FLAGS, LANGUAGE_FLAGS
from .loading import PROGRAM, load_model, load_pairs, place, quiet, users_own
from .values import field_docs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SUMMARY = "compare teacher and student"
USAGE = "TEACHER STUDENT --data DATA [flags]"
DESCRIPTION = f"""\
Compares teacher and student on the same text under the same conditions: scores, size and decoding speed.

examples:
  {PROGRAM} evaluate Helsinki-NLP/opus-mt-en-de runs/small/student --data built-in
  {PROGRAM} evaluate Helsinki-NLP/opus-mt-en-de runs/small/student --data built-in --num_beams 1 5 \\
      --batch_sizes 1 32 --metrics bleu chrf --json scores.json
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_teacher(parser, required=True)
    parser.add_argument("student", metavar="STUDENT", help="Hub repository or folder of the student")
    parser.add_argument("--data", metavar="DATA", required=True, help="test pairs; see --train of distill")
    add_texts(parser, {"data_split": "split of --data (default: test)", **COLUMN_FLAGS, **LANGUAGE_FLAGS})
    parser.add_argument("--prefix", default="", metavar="TEXT", help=field_docs(WeightDistillConfig)["prefix"])
    add_comparison(parser, "")
    parser.set_defaults(**COMPARISON)
    text = "the first so many sentences are timed (default: 64)"
    parser.add_argument("--speed_sentences", type=int, default=64, metavar="N", help=text)
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU, if there is one)")
    parser.add_argument("--json", metavar="FILE", help="write the comparison there, too")


def run(arguments: argparse.Namespace) -> None:
    with quiet():
        from transformers import AutoTokenizer

        from ..adapters import load_tokenizer
        from ..data import check_tokenizer
        from ..evaluation import check_comparison, compare
        from ..languages import set_languages

        names = ("metrics", "num_beams", "batch_sizes", "speed_sentences", "tokenize")
        settings = {name: getattr(arguments, name) for name in names}
        check_comparison(**settings)
        if arguments.json:
            check_file(Path(arguments.json), "--json")
        models = [load_model(arguments.teacher, arguments.teacher_revision), load_model(arguments.student)]
        with users_own(arguments.teacher):
            tokenizer = load_tokenizer(arguments.teacher, revision=arguments.teacher_revision or "main")
        tokenizers = [tokenizer, tokenizer]
        with users_own(arguments.student):
            own = None
            with contextlib.suppress(OSError, ValueError, TypeError):  # none there
                own = AutoTokenizer.from_pretrained(arguments.student)
            if own is not None and models[1].config.vocab_size != models[0].config.vocab_size:  # trimmed
                tokenizers[1] = own
            check_tokenizer(tokenizers[1], models[1].config)
        for model, tokenizer in zip(models, tokenizers, strict=True):
            set_languages(tokenizer, model, arguments.src_lang, arguments.tgt_lang)
            place(model, arguments.device)
        if own is not None:
            _check_languages(tokenizers[0], own, arguments)
        _check_first_token(*models, tokenizers[0])
        columns = {name: getattr(arguments, name) for name in COLUMN_FLAGS}
        pairs = load_pairs("data", arguments.data, arguments.data_split, columns)
        comparison = compare(
            *models,
            tokenizers[0],
            [arguments.prefix + source for source in pairs["source"]],
            list(pairs["target"]),
            **settings,
            progress=True,
            student_tokenizer=tokenizers[1],
        )
    print(comparison)
    if arguments.json:
        write_json(Path(arguments.json), comparison.to_dict())


def _check_languages(
    tokenizer: "PreTrainedTokenizerBase", student: "PreTrainedTokenizerBase", given: argparse.Namespace
) -> None:
    """A student of one direction beside a teacher of many: which one is measured has to be said."""
    for name in LANGUAGE_FLAGS:
        made_for, used = getattr(student, name, None), getattr(tokenizer, name, None)
        if getattr(given, name) is None and made_for != used:
            raise ValueError(
                f"the student was made for {name}={made_for}, the teacher's tokenizer is set to {used}: give "
                f"--{name} {made_for or used}"
            )


def _check_first_token(
    teacher: "PreTrainedModel", student: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase"
) -> None:
    """A student that is made to write in a language beside a teacher that chooses one itself."""
    language = getattr(tokenizer, "tgt_lang", None)
    theirs, own = (model.generation_config.forced_bos_token_id for model in (teacher, student))
    if language is not None and theirs is None and own is not None:
        raise ValueError(
            "the student's translations are made to begin with a language, and the teacher's are not, so that it "
            f"chooses one itself: give --tgt_lang {language}"
        )
