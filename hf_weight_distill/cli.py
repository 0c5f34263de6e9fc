"""The command line: ``hf-weight-distill plan | distill | evaluate | push | demo``.

The fields of :class:`StudentShape` and :class:`WeightDistillConfig` are flags by themselves: the name is the field's,
the help its line in the class's docstring, the spelling follows from its annotation. What needs torch is imported by
the command that needs it, so that ``--help`` answers at once.
"""

import argparse
import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import json
import logging
import re
import shutil
import sys
import traceback
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from .config import Pair, StudentShape, WeightDistillConfig
from .recipes import RECIPES, recipe_config

if TYPE_CHECKING:
    from datasets import Dataset
    from huggingface_hub import ModelCard
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .distiller import WeightDistiller
    from .evaluation import Comparison
    from .trainer import WeightDistillTrainingArguments

PROGRAM = "hf-weight-distill"
SCORES_FILE = "scores.json"
BARS_FROM = 50_000  # pairs; below, a progress bar of the data is gone before it is read
BUILT_IN_SPLITS = {"train": "train", "eval": "validation", "test": "test", "data": "test"}
METRIC_CHOICES = ("bleu", "chrf", "rouge")

# Flags about data; in the --config file they have the same names.
DATA_FLAGS = {
    "train": "training pairs: a .json, .jsonl, .csv, .tsv (each also .gz) or .parquet file, a folder written by "
    "save_to_disk, a Hub data set (owner/name or owner/name:config), or 'built-in' (generated English-German pairs)",
    "eval": "pairs for eval_loss during training, likewise; by default after each logging_steps (see eval_strategy)",
    "test": "pairs to compare teacher and student on afterwards, likewise",
    "train_split": "split of --train, where it has several",
    "eval_split": "split of --eval",
    "test_split": "split of --test",
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


# --- texts to values -----------------------------------------------------------------------------------------------


class _Yaml(yaml.SafeLoader):
    """YAML 1.2's plain values: ``1e-3`` is a number, ``no`` is a word (PyYAML has it the other way round)."""

    yaml_implicit_resolvers: typing.ClassVar[dict] = {}


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))


def _load_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Yaml)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {error}") from error


def _value(text: str) -> Any:
    """A value inside a dictionary flag: a number, true, false, null, a YAML list or mapping in brackets, else text."""
    if text[:1] in tuple("[{\"'"):
        return _load_yaml(text, repr(text))
    loader = _Yaml("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return loader.construct_object(yaml.ScalarNode(tag, text))


_GONE = object()  # KEY= without a value


def _entries(texts: list[str]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if text.startswith("{"):
            entries |= _value(text)
        elif equals and key:
            entries[key] = _value(value) if value else _GONE
        else:
            raise ValueError(f"found {text!r}, expected KEY=VALUE, or a YAML mapping in braces")
    return entries


def _number(text: str, kind: type = int) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"found {text!r}, expected a {'whole ' if kind is int else ''}number") from None


def _pair(texts: list[str]) -> int | tuple[int, int]:
    numbers = tuple(_number(text) for text in texts)
    if len(numbers) > 2:
        raise ValueError(f"found {len(numbers)} numbers, expected one, or two (encoder, decoder)")
    return numbers if len(numbers) == 2 else numbers[0]


def _groups(texts: list[str]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(_number(layer) for layer in text.split(",")) for text in texts)


@dataclass(frozen=True)
class _Spelling:
    """How values of one type are written on the command line."""

    metavar: str
    read: Callable[[Any], Any]
    nargs: str | None = None


_ENTRIES = _Spelling("KEY=VALUE ...", _entries, "+")
_SPELLINGS: dict[Any, _Spelling] = {
    int: _Spelling("N", _number),
    float: _Spelling("X", functools.partial(_number, kind=float)),
    str: _Spelling("TEXT", str),
    Pair: _Spelling("N [N]", _pair, "+"),
    tuple[tuple[int, ...], ...] | None: _Spelling("GROUP ...", _groups, "+"),
    dict[str, Any]: _ENTRIES,
    dict[str, float]: _ENTRIES,
    dict[str, dict[str, Any]]: _ENTRIES,
}
_SPELLINGS |= {kind | None: _SPELLINGS[kind] for kind in (int, float, str)}


def _read_flag(name: str, given: Any, kind: Any) -> Any:
    optional = type(None) in typing.get_args(kind)
    if optional and given in ("none", ["none"]):
        return None
    try:
        return _SPELLINGS[kind].read(given)
    except ValueError as error:
        raise ValueError(f"--{name}: {error}") from error


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value from a file is of the annotated type; lists pass for tuples, whole numbers for floats."""
    if kind is Any:
        return True
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is not None:
        return _fits_inside(value, origin, inner)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    return isinstance(value, kind)


def _fits_inside(value: Any, origin: type, inner: tuple[Any, ...]) -> bool:
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if not isinstance(value, list | tuple):
        return False
    kinds = inner[:1] * len(value) if inner[-1] is ... else inner
    return len(kinds) == len(value) and all(map(_fits, value, kinds))


# --- fields to flags -------------------------------------------------------------------------------------------------


def field_docs(cls: type) -> dict[str, str]:
    """The text of each field in the ``Args`` section of a class's docstring, on one line and without markup."""
    _, _, section = (inspect.getdoc(cls) or "").partition("Args:\n")
    docs: dict[str, str] = {}
    for line in section.partition("\n\n")[0].splitlines():
        field = re.match(r" {4}(\w+): (.*)", line)
        if field:
            name = field[1]
            docs[name] = field[2]
        else:
            docs[name] += " " + line.strip()
    return docs


def _registered(folder: str, registry: str) -> list[str]:
    """Keys of a dictionary in a module that would import torch, read from its source."""
    tree = ast.parse((Path(__file__).parent / folder / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == registry:
            return [key.value for key in node.value.keys]
    return []


def _named_in(field: str) -> list[str]:
    """What may stand in a field that names modules of the package."""
    registry = "schedules" if field == "schedules" else "sources" if field.endswith("source") else "objectives"
    return _registered(registry, registry.upper())


def _add_fields(parser: argparse._ActionsContainer, cls: type) -> None:
    """A flag for each field of a dataclass."""
    docs, kinds = field_docs(cls), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        text, kind = docs.get(field.name, ""), kinds[field.name]
        spelling = _SPELLINGS[kind]
        # A text field whose documentation quotes values has no others.
        choices = re.findall(r'``"(\w+)"``', text) if kind is str else []
        if field.name == "schedules" or field.name.endswith(("source", "_objectives")):
            text = f"{text.rstrip('.')}. Known: {', '.join(_named_in(field.name)) or 'none yet'}."
        parser.add_argument(
            f"--{field.name}",
            nargs=spelling.nargs,
            choices=choices or None,
            metavar=None if choices else spelling.metavar,
            help=text.replace("``", "").replace("%", "%%"),
        )


def _given(arguments: argparse.Namespace, cls: type) -> dict[str, Any]:
    """The fields that were given as flags, read."""
    kinds = typing.get_type_hints(cls)
    texts = {field.name: getattr(arguments, field.name, None) for field in dataclasses.fields(cls)}
    return {name: _read_flag(name, text, kinds[name]) for name, text in texts.items() if text is not None}


def _merged(values: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Flags over values; dictionaries key by key."""
    merged = dict(values)
    for name, flag in flags.items():
        if isinstance(flag, dict):
            entries = {**merged.get(name, {}), **flag}
            flag = {key: value for key, value in entries.items() if value is not _GONE}
        merged[name] = flag
    return merged


# --- the job: file and flags together --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a ``--config`` file and the flags ask for together.

    Args:
        teacher: repository or folder.
        teacher_revision: of the repository.
        recipe: the start of ``config``.
        student: shape of the student.
        config: how it is distilled.
        data: the flags about data that were given, by name.
    """

    teacher: str
    teacher_revision: str | None
    recipe: str
    student: StudentShape
    config: WeightDistillConfig
    data: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as the ``--config`` file has them."""
        head = {"teacher": self.teacher, "teacher_revision": self.teacher_revision, **self.data, "recipe": self.recipe}
        parts = {"student": self.student.to_dict(), "config": self.config.to_dict()}
        return json.loads(json.dumps(head | parts))  # tuples become lists, which YAML has words for

    def columns(self) -> dict[str, str]:
        """Columns and languages, for ``load_pairs``."""
        return {name: self.data[name] for name in COLUMN_FLAGS if name in self.data}


_JOB_TEXTS = ("teacher", "teacher_revision", "recipe", *DATA_FLAGS, *COLUMN_FLAGS, *LANGUAGE_FLAGS)
_FILE_KEYS = (*_JOB_TEXTS, "student", "config", "hf_weight_distill")


def _read_config(path: str | None) -> dict[str, Any]:
    """The ``--config`` file, checked."""
    if path is None:
        return {}
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"--config {path}: cannot be read ({error.strerror})") from error
    values = _load_yaml(text, f"--config {path}")
    if not isinstance(values, dict):
        raise ValueError(f"--config {path}: found {type(values).__name__}, expected keys such as teacher and student")
    _check_names(f"--config {path}", values, _FILE_KEYS)
    values = {name: value for name, value in values.items() if value is not None}
    for name in set(values) & set(_JOB_TEXTS):
        if not isinstance(values[name], str):
            raise ValueError(f"--config {path}: {name}={values[name]!r}, expected text")
    for name, cls in (("student", StudentShape), ("config", WeightDistillConfig)):
        _check_fields(f"--config {path}: {name}", values.get(name, {}), cls)
    return values


def _check_fields(where: str, values: Any, cls: type) -> None:
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {type(values).__name__}, expected the fields of {cls.__name__}")
    kinds = typing.get_type_hints(cls)
    _check_names(where, values, kinds)
    for name, value in values.items():
        if not _fits(value, kinds[name]):
            kind = kinds[name].__name__ if isinstance(kinds[name], type) else str(kinds[name]).replace("typing.", "")
            raise ValueError(f"{where}.{name}={value!r}, expected {kind}")


def _check_names(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuses the first unknown name, with the one that was probably meant."""
    known = list(known)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
            raise ValueError(f"{where}: unknown {name!r}; {hint}")


def job_of(arguments: argparse.Namespace) -> Job:
    """The job of parsed arguments: the recipe, over it the file's fields, over them the flags.

    A field of the file replaces the recipe's; a dictionary given as a flag is merged into it key by key.

    Raises:
        ValueError: a file that cannot be read, unknown or wrong fields, no teacher.
    """
    file = _read_config(arguments.config)
    flags = {name: value for name in _JOB_TEXTS if (value := getattr(arguments, name, None)) is not None}
    if "recipe" in flags and "config" in file and file.get("recipe", flags["recipe"]) != flags["recipe"]:
        raise ValueError(
            f"--recipe {flags['recipe']}, but {arguments.config} holds the settings of the recipe {file['recipe']!r}: "
            "leave --recipe out, or delete recipe and config from the file"
        )
    texts = {name: value for name, value in file.items() if name in _JOB_TEXTS} | flags
    if "teacher" not in texts:
        raise ValueError("no teacher: name a Hub repository or a folder, or give a --config file with teacher: in it")
    recipe = texts.get("recipe", "default")
    config = recipe_config(recipe).to_dict() | file.get("config", {})
    return Job(
        teacher=texts["teacher"],
        teacher_revision=texts.get("teacher_revision"),
        recipe=recipe,
        student=StudentShape(**_merged(file.get("student", {}), _given(arguments, StudentShape))),
        config=WeightDistillConfig.from_dict(_merged(config, _given(arguments, WeightDistillConfig))),
        data={name: texts[name] for name in (*DATA_FLAGS, *COLUMN_FLAGS, *LANGUAGE_FLAGS) if name in texts},
    )


# --- loading ---------------------------------------------------------------------------------------------------------


def _say(text: str) -> None:
    """For the person who waits; results go to stdout."""
    print(text, file=sys.stderr, flush=True)


def _not_about_images(record: logging.LogRecord) -> bool:
    return "torchvision" not in record.getMessage()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Our own warnings as one line; none about packages that nobody needs here, and no bars of what takes no time."""
    import datasets
    from transformers.utils import logging as transformers_logging

    def show(message: Any, *_: Any, **__: Any) -> None:
        _say(f"{PROGRAM}: warning: {message}")

    imports = logging.getLogger("transformers.utils.import_utils")
    bars = transformers_logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.showwarning = show
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true")
        imports.addFilter(_not_about_images)
        transformers_logging.disable_progress_bar()
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            imports.removeFilter(_not_about_images)
            if bars[0]:
                transformers_logging.enable_progress_bar()
            if not bars[1]:
                datasets.enable_progress_bars()


@contextlib.contextmanager
def _users_own(what: str) -> Iterator[None]:
    """What the operating system, the Hub or ``datasets`` say about a name that the user gave is the user's to mend."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, DatasetsError) as error:
        text = str(error.__cause__ or error) if isinstance(error, DatasetsError) else str(error)
        raise ValueError(f"{what}: {text}") from error


def _load_model(name: str, revision: str | None = None) -> "PreTrainedModel":
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    from .families import family_of

    with _users_own(name):
        family_of(AutoConfig.from_pretrained(name, revision=revision or "main"))
        # on a CPU plain attention trains small models about twice as fast in bf16 as the fused kernel
        kernel = None if torch.cuda.is_available() else "eager"
        options = {"revision": revision or "main", "dtype": torch.float32, "attn_implementation": kernel}
        return AutoModelForSeq2SeqLM.from_pretrained(name, **options).eval()


def _load_distiller(job: Job) -> "WeightDistiller":
    from transformers import AutoTokenizer

    from .distiller import WeightDistiller

    teacher = _load_model(job.teacher, job.teacher_revision)
    with _users_own(job.teacher):
        tokenizer = AutoTokenizer.from_pretrained(job.teacher, revision=job.teacher_revision or "main")
    set_languages(tokenizer, teacher, job.data.get("src_lang"), job.data.get("tgt_lang"))
    return WeightDistiller(teacher, tokenizer, student=job.student, recipe=job.recipe, config=job.config)


def set_languages(
    tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel", src_lang: str | None, tgt_lang: str | None
) -> None:
    """Makes a multilingual tokenizer and model translate in one direction.

    Args:
        tokenizer: gets ``src_lang`` and ``tgt_lang``.
        model: its generation settings get the token of ``tgt_lang`` as the first to be generated. mBART-25, which was
            trained to start decoding from it, gets it as the decoder's start.
        src_lang, tgt_lang: codes as the tokenizer has them; ``None`` changes nothing.

    Raises:
        ValueError: the tokenizer knows no languages, or not this one.
    """
    for name, code in (("src_lang", src_lang), ("tgt_lang", tgt_lang)):
        if code is None:
            continue
        kind = type(tokenizer).__name__
        if not hasattr(tokenizer, name):
            raise ValueError(f"--{name} {code}: a {kind} has no languages to choose from; leave it out")
        token = _language_token(tokenizer, code)
        if token in (None, tokenizer.unk_token_id):
            raise ValueError(f"--{name} {code}: the {kind} does not know this language; use its own code")
        setattr(tokenizer, name, code)
        if name == "tgt_lang":
            first = "decoder_start_token_id" if kind.startswith("MBartTokenizer") else "forced_bos_token_id"
            setattr(model.generation_config, first, token)


def _language_token(tokenizer: "PreTrainedTokenizerBase", code: str) -> int | None:
    if not hasattr(tokenizer, "get_lang_id"):
        return tokenizer.convert_tokens_to_ids(code)
    try:
        return tokenizer.get_lang_id(code)  # M2M100: its token is __de__
    except KeyError:
        return None


def _load_pairs(flag: str, data: str, split: str | None, columns: dict[str, str]) -> "Dataset":
    from .data import load_pairs

    if data == "built-in":
        split = split or BUILT_IN_SPLITS[flag]
    with _users_own(f"--{flag} {data}"):
        pairs = load_pairs(data, split, **columns)
    _say(f"{flag}: {len(pairs):,} pairs from {data}")
    return pairs


# --- plan ------------------------------------------------------------------------------------------------------------


def _plan(arguments: argparse.Namespace) -> None:
    job = job_of(arguments)
    with _quiet():
        from .plan import build_plan

        print(build_plan(_load_model(job.teacher, job.teacher_revision), job.student))


# --- distill ---------------------------------------------------------------------------------------------------------


def _distill(arguments: argparse.Namespace) -> None:
    job = job_of(arguments)
    if "train" not in job.data:
        raise ValueError("no training data: give --train, or a --config file with train: in it")
    job = _with_evaluation(job)
    run = Path(arguments.output_dir)
    save = Path(arguments.save) if arguments.save else run / "student"
    with _quiet():
        import datasets

        distiller = _load_distiller(job)
        args = _check_settings(distiller, run)
        if args.should_save:
            _check_folders(run, save, arguments.resume)
        pairs = {
            flag: _load_pairs(flag, job.data[flag], job.data.get(f"{flag}_split"), job.columns())
            for flag in ("train", "eval", "test")
            if flag in job.data
        }
        _check_pairs(distiller, pairs)
        if arguments.dry_run:
            _print_job(job, distiller)
            return
        if len(pairs["train"]) >= BARS_FROM:
            datasets.enable_progress_bars()
        if args.should_save:
            _say(str(distiller.plan).partition("\n")[0])
        try:
            options = {"output_dir": run, "resume_from_checkpoint": arguments.resume}
            distiller.distill(pairs["train"], pairs.get("eval"), **options)
        finally:
            if args.should_save:
                _complete_run_file(run, job)
        if args.should_save:
            _finish(distiller, job, pairs, arguments, run, save)


def _with_evaluation(job: Job) -> Job:
    """With ``--eval`` each phase evaluates; without, it cannot."""
    phases = {name: getattr(job.config, name) for name in ("generator_args", "finetune_args")}
    if "eval" in job.data:
        phases = {name: {"eval_strategy": "steps"} | args for name, args in phases.items()}
    for name, args in phases.items():
        if "eval" not in job.data and args.get("eval_strategy", "no") != "no":
            raise ValueError(f"{name} has eval_strategy={args['eval_strategy']}, but there is no data: give --eval")
    return dataclasses.replace(job, config=dataclasses.replace(job.config, **phases))


def _check_settings(distiller: "WeightDistiller", run: Path) -> "WeightDistillTrainingArguments":
    """What ``distill`` would refuse, and names in the training arguments; the first phase's arguments are returned."""
    from .trainer import WeightDistillTrainingArguments

    config = distiller.config
    known = [field.name for field in dataclasses.fields(WeightDistillTrainingArguments) if field.init]
    phases = []
    for name in ("generator_args", "finetune_args"):
        _check_names(name, getattr(config, name), known)
        with _users_own(name):
            phases.append(distiller._arguments(getattr(config, name), run / name.removesuffix("_args")))
    distiller._check_run(run, phases[0], resume=True)  # folders are looked at in _check_folders
    return phases[0]


def _check_folders(run: Path, save: Path, resume: bool) -> None:
    """Before hours of training, not after."""
    if run.exists() and not run.is_dir():
        raise ValueError(f"--output_dir {run}: is a file, expected a new folder")
    if run.exists() and any(run.iterdir()) and not resume:
        raise ValueError(f"--output_dir {run}: not empty; go on with its run by --resume, or choose another folder")
    if save.exists() and (not save.is_dir() or any(save.iterdir())):
        raise ValueError(f"the student's folder {save} is not empty: choose another one with --save, or delete it")


def _check_pairs(distiller: "WeightDistiller", pairs: dict[str, "Dataset"]) -> None:
    """The first pairs become features that something can be learned from."""
    from .data import check_features, tokenize_pairs

    config = distiller.config
    lengths = {name: getattr(config, name) for name in ("prefix", "max_source_length", "max_target_length")}
    for flag, table in pairs.items():
        with _users_own(f"--{flag}"):
            features = tokenize_pairs(table.select(range(min(8, len(table)))), distiller.tokenizer, **lengths)
            check_features(features, distiller.tokenizer.pad_token_id)


def _print_job(job: Job, distiller: "WeightDistiller") -> None:
    """The plan as comments and the configuration as YAML: together a file for ``--config``."""
    print("\n".join(f"# {line}".rstrip() for line in str(distiller.plan).splitlines()))
    print(yaml.safe_dump(job.to_dict(), sort_keys=False, allow_unicode=True), end="")
    _say("dry run: data, settings and folders are in order; nothing was trained or written")


def _complete_run_file(run: Path, job: Job) -> None:
    """Adds to the file that repeats the run what only the command line knows: the data."""
    from .distiller import RUN_FILE

    file = run / RUN_FILE
    if file.exists():
        values = yaml.safe_load(file.read_text(encoding="utf-8")) | job.data
        values["teacher_revision"] = values["teacher_revision"] or job.teacher_revision
        file.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _finish(
    distiller: "WeightDistiller",
    job: Job,
    pairs: dict[str, "Dataset"],
    arguments: argparse.Namespace,
    run: Path,
    save: Path,
) -> None:
    """Scores, then the student with its card; saved too if the scores cannot be had."""
    try:
        if "test" in pairs:
            comparison = distiller.evaluate(
                pairs["test"],
                num_beams=arguments.test_num_beams,
                batch_sizes=arguments.test_batch_sizes,
                metrics=arguments.test_metrics,
            )
            _write_json(run / SCORES_FILE, comparison)
            print(comparison)
    finally:
        distiller.save_pretrained(save, **_card_fields(job, arguments))
        _say(f"the student is in {save}")


def _write_json(file: Path, comparison: "Comparison") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _card_fields(job: Job, arguments: argparse.Namespace) -> dict[str, Any]:
    data = job.data
    pair = (data.get("source_lang"), data.get("target_lang"))
    fields = {
        "license": arguments.license,
        "languages": tuple(arguments.languages or (pair if all(pair) else ())),
        "task": arguments.task,
        "dataset": data["train"],
        "eval_dataset": data.get("test"),
        "eval_split": data.get("test_split") or (BUILT_IN_SPLITS["test"] if data.get("test") == "built-in" else None),
        "src_lang": data.get("src_lang"),
        "tgt_lang": data.get("tgt_lang"),
    }
    if job.config.prefix:
        fields["example"] = job.config.prefix + "Two dogs run across the meadow."
    return fields


# --- evaluate --------------------------------------------------------------------------------------------------------


def _evaluate(arguments: argparse.Namespace) -> None:
    with _quiet():
        import torch
        from transformers import AutoTokenizer

        from .data import check_tokenizer
        from .evaluation import compare

        models = [_load_model(arguments.teacher, arguments.teacher_revision), _load_model(arguments.student)]
        with _users_own(arguments.teacher):
            tokenizer = AutoTokenizer.from_pretrained(arguments.teacher, revision=arguments.teacher_revision or "main")
        with _users_own(arguments.student):
            check_tokenizer(tokenizer, models[1].config)
        for model in models:
            set_languages(tokenizer, model, arguments.src_lang, arguments.tgt_lang)
            model.to(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        columns = {name: getattr(arguments, name) for name in COLUMN_FLAGS}
        pairs = _load_pairs("data", arguments.data, arguments.data_split, columns)
        comparison = compare(
            *models,
            tokenizer,
            [arguments.prefix + source for source in pairs["source"]],
            list(pairs["target"]),
            metrics=arguments.metrics,
            num_beams=arguments.num_beams,
            batch_sizes=arguments.batch_sizes,
            speed_sentences=arguments.speed_sentences,
            tokenize=arguments.tokenize,
        )
    print(comparison)
    if arguments.json:
        _write_json(Path(arguments.json), comparison)


# --- push ------------------------------------------------------------------------------------------------------------


def _push(arguments: argparse.Namespace) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    folder, repo_id = Path(arguments.student), arguments.repo_id
    card = _check_student(folder)
    files: dict[str, str | bytes] = {file.name: str(file) for file in sorted(folder.iterdir()) if file.is_file()}
    files["README.md"] = str(_renamed(card, repo_id)).encode()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
    api = HfApi()
    with _users_own(f"cannot upload to {repo_id}"):
        api.create_repo(repo_id, private=arguments.private or None, exist_ok=True)
        if arguments.revision:
            api.create_branch(repo_id, branch=arguments.revision, exist_ok=True)
        message = "Add the student distilled with hf_weight_distill"
        commit = api.create_commit(repo_id, operations, commit_message=message, revision=arguments.revision)
    print(commit.commit_url)


def _check_student(folder: Path) -> "ModelCard":
    """The card of a whole student.

    Raises:
        ValueError: files are missing, or it is a training checkpoint, or another model than one of our students.
    """
    from huggingface_hub import ModelCard

    from .card import WEIGHT_DISTILLATION

    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: name the one that the student was saved to")
    if (folder / "trainer_state.json").exists():
        raise ValueError(f"{folder} is a checkpoint of a training run: push the student, which distill wrote to --save")
    whole = ("config.json", "model.safetensors", "README.md")
    index = folder / "model.safetensors.index.json"
    missing = [name for name in whole if not (folder / name).is_file() and not (name == whole[1] and index.is_file())]
    if missing:
        raise ValueError(
            f"{folder} is not a whole student: {', '.join(missing)} missing; push what distill wrote to --save"
        )
    card = ModelCard.load(folder / "README.md")
    if WEIGHT_DISTILLATION.tag not in (card.data.tags or []):
        tag = WEIGHT_DISTILLATION.tag
        raise ValueError(f"{folder} holds no student: its README.md lacks the tag {tag!r}. Is it the teacher?")
    return card


def _renamed(card: "ModelCard", repo_id: str) -> "ModelCard":
    """The card was written for a folder: its title and its code now name the repository."""
    title = re.search(r"^# (.+)$", card.text, flags=re.MULTILINE)
    if title:
        card.text = card.text.replace(title[0], f"# {repo_id}", 1)
        card.text = card.text.replace(f"name = {json.dumps(title[1])}", f"name = {json.dumps(repo_id)}", 1)
    if card.data.eval_results:
        card.data.model_name = repo_id.rpartition("/")[2]
    return card


# --- demo ------------------------------------------------------------------------------------------------------------


def _demo(arguments: argparse.Namespace) -> int:
    from .demo import run_demo

    return run_demo(Path(arguments.output_dir), paper=arguments.paper)


# --- the parser ------------------------------------------------------------------------------------------------------

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
PLAN = f"""\
Shows what a student of the given shape would be: its size, which teacher layers and axes feed which of its weights, and
what is copied. Loads the teacher and trains nothing.

examples:
  {PROGRAM} plan Helsinki-NLP/opus-mt-en-de --decoder_layers 1
  {PROGRAM} plan Helsinki-NLP/opus-mt-en-de --encoder_groups 0,1 2,3 4,5 --decoder_layers 2 --ffn_dim 1024 512
"""
DISTILL = f"""\
Distils: phase 1 trains a generator that makes the student's weights from the teacher's, phase 2 trains the student on.
The student is saved as an ordinary checkpoint with tokenizer and model card; with --test, scores and speed of teacher
and student are printed and stand in OUTPUT_DIR/{SCORES_FILE} and on the card.

examples:
  {PROGRAM} distill Helsinki-NLP/opus-mt-en-de --train built-in --decoder_layers 1 --output_dir runs/small --dry_run
  {PROGRAM} distill Helsinki-NLP/opus-mt-en-de --train built-in --eval built-in --test built-in \\
      --decoder_layers 1 --generator_args max_steps=200 --finetune_args max_steps=200 --output_dir runs/small
  {PROGRAM} distill --config runs/small/weight_distill.yaml --output_dir runs/again
"""
SPELLING = """\
how values are written:
  KEY=VALUE  --generator_args max_steps=500 learning_rate=1e-3 bf16=true   merged into the recipe's, key by key;
             KEY= takes one of its keys away; VALUE may be a list or mapping: KEY='[1, 2]', KEY='{a: 1}'
  GROUP      --decoder_groups 0,1 2,3,4   two student layers, fed by teacher layers 0 and 1, and 2 to 4
  N [N]      --ffn_dim 512, or --ffn_dim 512 256 for encoder and decoder
  none       unsets what the --config file set, where a field may be unset: --finetune_source none
  --decoder-layers is --decoder_layers: dashes and underscores are the same in all names
"""
CONFIG_HELP = (
    "YAML file with the keys teacher, train, eval, test, recipe, student, config and the names of the other data "
    "flags; the weight_distill.yaml of a run is one and repeats it. Flags win over it; its fields replace the recipe's"
)
EVALUATE = f"""\
Compares teacher and student on the same text under the same conditions: scores, size and decoding speed.

examples:
  {PROGRAM} evaluate Helsinki-NLP/opus-mt-en-de runs/small/student --data built-in
  {PROGRAM} evaluate Helsinki-NLP/opus-mt-en-de runs/small/student --data built-in --num_beams 1 5 \\
      --batch_sizes 1 32 --metrics bleu chrf --json scores.json
"""
PUSH = f"""\
Uploads a student that distill saved, in one commit, with its card naming the repository. Training checkpoints, teachers
and folders in which something is missing are refused.

example:
  {PROGRAM} push runs/small/student my-name/opus-mt-en-de-small --private
"""
DEMO = f"""\
Shows the whole way on a small teacher of its own and generated text, without the Hub.

examples:
  {PROGRAM} demo
  {PROGRAM} demo --paper --output_dir demo-paper
"""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples' lines and gives flags and their help room."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, 120) - 2
        super().__init__(prog, max_help_position=34, width=width)

    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        """``N [N]`` and ``KEY=VALUE ...`` as they stand, not once more in brackets."""
        return action.metavar if action.nargs == "+" else super()._format_args(action, default_metavar)


def _add_texts(parser: argparse._ActionsContainer, flags: dict[str, str]) -> None:
    for name, text in flags.items():
        metavar = "DATA" if name in ("train", "eval", "test") else name.rpartition("_")[2].upper()
        parser.add_argument(f"--{name}", metavar=metavar, help=text)


def _add_teacher(parser: argparse.ArgumentParser, required: bool = False) -> None:
    text = "Hub repository or folder of the teacher" + ("" if required else "; may stand in the --config file")
    parser.add_argument("teacher", metavar="TEACHER", nargs=None if required else "?", help=text)
    revision = {"dest": "teacher_revision", "metavar": "REVISION", "help": "branch, tag or commit of the teacher"}
    parser.add_argument("--revision", **revision)


def _add_shape(parser: argparse.ArgumentParser) -> None:
    text = "what is not given stays as the teacher has it"
    _add_fields(parser.add_argument_group("shape of the student", text), StudentShape)


def _add_comparison(parser: argparse._ActionsContainer, prefix: str) -> None:
    beams, sizes = [1, 5], [1, 32]
    options = {"type": int, "nargs": "+", "metavar": "N ..."}
    parser.add_argument(f"--{prefix}num_beams", default=beams, **options, help="searches; 1 is greedy (default: 1 5)")
    parser.add_argument(f"--{prefix}batch_sizes", default=sizes, **options, help="batch sizes to time (default: 1 32)")
    text = "scores, of %(choices)s (default: bleu chrf)"
    metrics = {"nargs": "+", "choices": METRIC_CHOICES, "metavar": "METRIC ...", "default": ["bleu", "chrf"]}
    parser.add_argument(f"--{prefix}metrics", **metrics, help=text)


def _plan_flags(parser: argparse.ArgumentParser) -> None:
    _add_teacher(parser)
    parser.add_argument("--config", metavar="FILE", help="YAML file of a run, for its teacher and student")
    _add_shape(parser)


def _distill_flags(parser: argparse.ArgumentParser) -> None:
    _add_teacher(parser)
    parser.add_argument("--config", metavar="FILE", help=CONFIG_HELP)
    data = parser.add_argument_group("data")
    _add_texts(data, DATA_FLAGS | COLUMN_FLAGS | LANGUAGE_FLAGS)
    out = parser.add_argument_group("what is written")
    folder = {"metavar": "DIR", "required": True}
    out.add_argument("--output_dir", **folder, help="new folder for checkpoints, pseudo labels and configuration")
    out.add_argument("--save", metavar="DIR", help="new folder for the student (default: OUTPUT_DIR/student)")
    text = "go on where an interrupted run in OUTPUT_DIR stopped; give the other flags again"
    out.add_argument("--resume", action="store_true", help=text)
    text = "print the plan and the full configuration as a file for --config, check data and folders, train nothing"
    out.add_argument("--dry_run", action="store_true", help=text)
    out.add_argument("--license", help="for the card, such as cc-by-4.0; a student inherits its teacher's")
    text = "for the card, such as en de (default: --source_lang and --target_lang)"
    out.add_argument("--languages", nargs="+", metavar="CODE ...", help=text)
    out.add_argument("--task", choices=("translation", "summarization"), default="translation", help="for the card")
    _add_comparison(parser.add_argument_group("measuring on --test"), "test_")
    _add_shape(parser)
    settings = parser.add_argument_group("how it is distilled", "what is not given stays as the recipe has it")
    settings.add_argument("--recipe", choices=list(RECIPES), help="named settings (default: default)")
    _add_fields(settings, WeightDistillConfig)


def _evaluate_flags(parser: argparse.ArgumentParser) -> None:
    _add_teacher(parser, required=True)
    parser.add_argument("student", metavar="STUDENT", help="Hub repository or folder of the student")
    parser.add_argument("--data", metavar="DATA", required=True, help="test pairs; see --train of distill")
    _add_texts(parser, {"data_split": "split of --data", **COLUMN_FLAGS, **LANGUAGE_FLAGS})
    parser.add_argument("--prefix", default="", metavar="TEXT", help=field_docs(WeightDistillConfig)["prefix"])
    _add_comparison(parser, "")
    text = "the first so many sentences are timed (default: 64)"
    parser.add_argument("--speed_sentences", type=int, default=64, metavar="N", help=text)
    text = "sacreBLEU's tokenizer for BLEU (default: 13a)"
    parser.add_argument("--tokenize", default="13a", metavar="NAME", help=text)
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU, if there is one)")
    parser.add_argument("--json", metavar="FILE", help="write the comparison there, too")


def _push_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("student", metavar="STUDENT_DIR", help="folder that distill saved the student to")
    parser.add_argument("repo_id", metavar="REPO_ID", help="owner/name on the Hub; made if it is not there")
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--revision", help="branch to commit to; made if it is not there (default: main)")


def _demo_flags(parser: argparse.ArgumentParser) -> None:
    text = "adds the published recipe, for which minutes are far too few"
    parser.add_argument("--paper", action="store_true", help=text)
    parser.add_argument("--output_dir", metavar="DIR", default="demo", help="where everything goes (default: demo)")


COMMANDS = {
    "plan": (_plan, _plan_flags, PLAN, "show what a student would be"),
    "distill": (_distill, _distill_flags, DISTILL, "make a student"),
    "evaluate": (_evaluate, _evaluate_flags, EVALUATE, "compare teacher and student"),
    "push": (_push, _push_flags, PUSH, "upload a student"),
    "demo": (_demo, _demo_flags, DEMO, "see it work in minutes"),
}
USAGES = {
    "plan": "TEACHER [shape flags]",
    "distill": "TEACHER --train DATA --output_dir DIR [flags]",
    "evaluate": "TEACHER STUDENT --data DATA [flags]",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; needs no torch."""
    from . import __version__

    parser = argparse.ArgumentParser(
        PROGRAM, description=DESCRIPTION, epilog=EPILOG, formatter_class=_Formatter, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for name, (run, add_flags, description, text) in COMMANDS.items():
        usage = f"{PROGRAM} {name} {USAGES[name]}" if name in USAGES else None
        command = commands.add_parser(
            name, help=text, usage=usage, description=description, formatter_class=_Formatter, allow_abbrev=False
        )
        add_flags(command)
        command.add_argument("--traceback", action="store_true", help="show where an error came from")
        command.set_defaults(run=run)
    commands.choices["distill"].epilog = commands.choices["plan"].epilog = SPELLING
    return parser


def _underscored(argv: Sequence[str]) -> list[str]:
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
        arguments = build_parser().parse_args(_underscored(sys.argv[1:] if argv is None else argv))
    except SystemExit as stop:  # --help, or wrong use, which argparse has explained
        return int(stop.code or 0)
    try:
        return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        resume = "; the same command with --resume goes on" if arguments.command == "distill" else ""
        _say(f"\n{PROGRAM}: interrupted{resume}")
        return 130
    except (ValueError, FloatingPointError) as error:
        if arguments.traceback:
            traceback.print_exc()
        _say(f"{PROGRAM} {arguments.command}: error: {' '.join(str(error).split())}")
        return 2
    except Exception:
        traceback.print_exc()
        return 1
