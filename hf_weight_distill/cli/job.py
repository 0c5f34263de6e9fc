"""What a ``--config`` file and the flags ask for together."""

import argparse
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..config import StudentShape, WeightDistillConfig, check_names, fits, name_of
from ..recipes import recipe_config
from .values import GONE, given_fields, load_yaml, merge_flags

DATA_FLAGS = {
    "train": "training pairs: a .json, .jsonl, .csv, .tsv (each also .gz) or .parquet file, a folder written by "
    "save_to_disk, a Hub data set (owner/name or owner/name:config), or 'built-in' (generated English-German pairs)",
    "eval": "pairs for eval_loss during training, likewise; by default every 250 updates, or after each logging_steps",
    "test": "pairs to compare teacher and student on afterwards, likewise",
    "train_split": "split of --train, where it has several, or of a file or Hub data set a slice: 'train[:1000]' "
    "(default: train)",
    "eval_split": "split of --eval likewise (default: validation)",
    "test_split": "split of --test likewise (default: test)",
}
COLUMN_FLAGS = {
    "source_column": "column of the source texts; without it a 'translation' column or a usual pair of names is taken",
    "target_column": "column of the target texts",
    "source_lang": "key of the source in a 'translation' column, such as en",
    "target_lang": "key of the target in a 'translation' column, such as de",
}
LANGUAGE_FLAGS = {
    "src_lang": "source language as a multilingual teacher's tokenizer names it, such as eng_Latn",
    "tgt_lang": "target language likewise; generation is made to start with it",
}
PHASES = ("generator_args", "finetune_args")
_ONE_OF_TWO = (("num_train_epochs", "max_steps"), ("per_device_train_batch_size", "max_tokens_per_batch"))
# What the card says and how the test set is measured, after training: flags, and how a --config file has them.
AFTERWARDS = {
    "task": Literal["translation", "summarization"],
    "license": str,
    "languages": list[str],
    "test_metrics": list[str],
    "test_num_beams": list[int],
    "test_batch_sizes": list[int],
    "test_tokenize": str,
}


@dataclass(frozen=True)
class Job:
    """What a ``--config`` file and the flags ask for together.

    Args:
        teacher: repository or folder.
        teacher_revision: of the repository.
        recipe: the start of ``config``.
        student: shape of the student.
        config: how it is distilled.
        teacher_identity: of the teacher that the file's run had, where the file names the teacher and its language.
        data: the flags about data that were given, by name.
        afterwards: the flags about card and measuring that were given, by name.
    """

    teacher: str
    teacher_revision: str | None
    recipe: str
    student: StudentShape
    config: WeightDistillConfig
    teacher_identity: str | None
    data: dict[str, str]
    afterwards: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the ``--config`` file has them."""
        head = {"teacher": self.teacher, "teacher_revision": self.teacher_revision, **self.data, **self.afterwards}
        parts = {"recipe": self.recipe, "student": self.student.to_dict(), "config": self.config.to_dict()}
        return json.loads(json.dumps(head | parts))  # tuples become lists, which YAML has words for

    def columns(self) -> dict[str, str]:
        """Columns and languages, for ``load_pairs``."""
        return {name: self.data[name] for name in COLUMN_FLAGS if name in self.data}


_JOB_TEXTS = ("teacher", "teacher_revision", "recipe", *DATA_FLAGS, *COLUMN_FLAGS, *LANGUAGE_FLAGS)
_FILE_KEYS = (*_JOB_TEXTS, *AFTERWARDS, "student", "config", "teacher_identity", "hf_weight_distill")
# How, what or by what a phase trains: nothing where that one makes no updates. The distiller refuses the rest.
_OF_PHASES = {
    "generator_args": ("generator_args", "source", "generator_objectives"),
    "finetune_args": ("finetune_args", "finetune_objectives"),
}


def _read_config(path: str | None) -> dict[str, Any]:
    """The ``--config`` file, checked."""
    if path is None:
        return {}
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"{error}; expected UTF-8"
        raise ValueError(f"--config {path}: cannot be read ({reason})") from error
    values = load_yaml(text, f"--config {path}")
    if not isinstance(values, dict):
        raise ValueError(f"--config {path}: found {type(values).__name__}, expected keys such as teacher and student")
    check_names(f"--config {path}", values, _FILE_KEYS)
    values = {name: value for name, value in values.items() if value is not None}
    for name in set(values) & set(_JOB_TEXTS):
        if not isinstance(values[name], str):
            raise ValueError(f"--config {path}: {name}={values[name]!r}, expected text")
    for name, kind in AFTERWARDS.items():
        if name in values and not fits(values[name], kind):
            raise ValueError(f"--config {path}: {name}={values[name]!r}, expected {name_of(kind)}")
    for name, cls in (("student", StudentShape), ("config", WeightDistillConfig)):
        _check_fields(f"--config {path}: {name}", values.get(name, {}), cls)
    return values


def _check_fields(where: str, values: Any, cls: type) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {type(values).__name__}, expected the fields of {cls.__name__}")
    kinds = typing.get_type_hints(cls)
    check_names(where, values, kinds)
    for name, value in values.items():
        if not fits(value, kinds[name]):
            raise ValueError(f"{where}.{name}={value!r}, expected {name_of(kinds[name])}")


def job_of(arguments: argparse.Namespace) -> Job:
    """The job of parsed arguments: the recipe, over it the file's fields, over them the flags.

    A field of the file replaces the recipe's; a dictionary given as a flag is merged into it key by key, where epochs
    and updates, and batches of pairs and of tokens, take each other's place.

    Raises:
        ValueError: a file that cannot be read, unknown or wrong fields, no teacher, flags of a phase without updates.
    """
    file = _read_config(arguments.config)
    flags = {n: value for n in (*_JOB_TEXTS, *AFTERWARDS) if (value := getattr(arguments, n, None)) is not None}
    if "recipe" in flags and "config" in file and file.get("recipe", flags["recipe"]) != flags["recipe"]:
        raise ValueError(
            f"--recipe {flags['recipe']}, but {arguments.config} holds the settings of the recipe {file['recipe']!r}: "
            "leave --recipe out, or delete recipe and config from the file"
        )
    given = file | flags
    if not given.get("teacher"):  # empty in the file of a run whose teacher was in memory
        raise ValueError(
            "no teacher: name a Hub repository or a folder, before flags that take several values, or give a --config "
            "file with teacher: in it"
        )
    recipe = given.get("recipe", "default")
    config = recipe_config(recipe).to_dict() | file.get("config", {})
    settings = given_fields(arguments, WeightDistillConfig)
    for phase in PHASES:
        asked = settings.get(phase, {})
        for one, other in (*_ONE_OF_TWO, *(pair[::-1] for pair in _ONE_OF_TWO)):
            if asked.get(one, GONE) not in (GONE, -1, None):
                asked.setdefault(other, GONE)
    before, config = config, WeightDistillConfig.from_dict(merge_flags(config, settings))
    _check_phases({name: value for name, value in settings.items() if value != before[name]}, config)
    own_teacher = flags.keys() & {"teacher", "teacher_revision", *LANGUAGE_FLAGS}
    return Job(
        teacher=given["teacher"],
        teacher_revision=given.get("teacher_revision"),
        recipe=recipe,
        student=StudentShape(**merge_flags(file.get("student", {}), given_fields(arguments, StudentShape))),
        config=config,
        teacher_identity=None if own_teacher else file.get("teacher_identity"),
        data={name: given[name] for name in (*DATA_FLAGS, *COLUMN_FLAGS, *LANGUAGE_FLAGS) if name in given},
        afterwards={name: given[name] for name in AFTERWARDS if name in given},
    )


def _check_phases(given: dict[str, Any], config: WeightDistillConfig) -> None:
    """Whether what was given for a phase has an effect: where the recipe skips it, none."""
    for phase, names in _OF_PHASES.items():
        if "max_steps" in given.get(phase, {}):  # skipped on purpose
            continue
        useless = next((name for name in names if name in given), None)
        if useless is not None and getattr(config, phase).get("max_steps") == 0:
            raise ValueError(
                f"--{useless} acts in a phase that makes no updates (max_steps=0 in {phase}): leave it out, or give "
                f"that phase updates by --{phase} max_steps=1000, say, or by another --recipe; --{phase} max_steps=0 "
                "says that none are meant"
            )
