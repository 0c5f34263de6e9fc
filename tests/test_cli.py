"""The command line, called as a shell calls it, on tiny teachers."""

import contextlib
import dataclasses
import importlib
import io
import json
import logging
import os
import random
import re
import shlex
import subprocess
import sys
import types
import typing
import warnings
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard
from loopback_hub import loopback_hub
from tiny import SENTENCES, tiny_marian_model, tiny_marian_tokenizer
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianMTModel,
)

import hf_weight_distill
from hf_weight_distill import RECIPES, StudentShape, WeightDistillConfig, WeightDistiller, cli, data, planner
from hf_weight_distill.cli import COMMANDS, build_parser, distill, loading, main, plan
from hf_weight_distill.cli.job import AFTERWARDS, job_of
from hf_weight_distill.cli.loading import PROGRAM
from hf_weight_distill.cli.main import EPILOG, underscored
from hf_weight_distill.cli.values import field_docs
from hf_weight_distill.config import Tokenizer
from hf_weight_distill.corpus import built_in_corpus
from hf_weight_distill.evaluation import METRICS
from hf_weight_distill.languages import forced_direction, set_languages
from hf_weight_distill.objectives import OBJECTIVES
from hf_weight_distill.schedules import SCHEDULES
from hf_weight_distill.sources import SOURCES

FIELDS = [(cls, field.name) for cls in (StudentShape, WeightDistillConfig) for field in dataclasses.fields(cls)]
SETTINGS = shlex.split(
    "--decoder_layers 1 --source generator --source_options init=xavier activation=tanh "
    "--start random --calibration_sentences 0 --pseudo_labels none --max_source_length 40 --max_target_length 40 "
    "--generator_args max_steps=3 logging_steps=1 per_device_train_batch_size=4 warmup_steps=0 "
    "--finetune_args max_steps=3 logging_steps=1 per_device_train_batch_size=4 warmup_steps=0 "
    "--test_num_beams 1 --test_batch_sizes 8 --license mit"
)


def call(*argv):
    """Exit code, stdout and stderr of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(part) for part in argv])
    return code, out.getvalue(), err.getvalue()


def parsed(*argv):
    argv = underscored(["distill", "someone/teacher", "--output_dir", "x", *argv])
    return job_of(build_parser().parse_args(argv))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher of 6 + 6 layers and text pairs."""
    folder = tmp_path_factory.mktemp("cli")
    tokenizer = tiny_marian_tokenizer(folder / "tokenizer")
    teacher = tiny_marian_model(tokenizer, encoder_layers=6, decoder_layers=6)
    teacher.save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    english, german = SENTENCES[:5], SENTENCES[5:]
    pairs = [{"translation": {"en": f"{a} {n}", "de": f"{b} {n}"}} for n in "abcdef" for a in english for b in german]
    for name, rows in (("train", pairs[:48]), ("test", pairs[48:56])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """A finished run: its folder and what it printed."""
    data = ["--train", folder / "train.jsonl", "--eval", folder / "test.jsonl", "--test", folder / "test.jsonl"]
    languages = ["--source-lang", "en", "--target-lang", "de"]
    torch.manual_seed(1)
    result = call("distill", folder / "teacher", *data, *languages, "--output-dir", folder / "run", *SETTINGS)
    assert result[0] == 0, result[2][-3000:]
    return folder / "run", *result


def weights(folder):
    return AutoModelForSeq2SeqLM.from_pretrained(folder).state_dict()


def same_weights(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- flags and fields ------------------------------------------------------------------------------------------------


def distill_actions():
    parser = next(a for a in build_parser()._actions if a.dest == "command").choices["distill"]
    return {action.dest: action for action in parser._actions}


@pytest.mark.parametrize(("cls", "name"), FIELDS)
def test_every_field_is_a_flag_with_the_help_of_the_docstring(cls, name):
    text = field_docs(cls)[name]
    assert text
    shown = text.replace("``((0, 1), (2, 3, 4))``", "0,1 2,3,4").replace("``None``", "none").replace("``", "")
    assert distill_actions()[name].help.startswith(shown.removesuffix("."))
    # The docstring itself, so that a parser that loses lines is seen.
    words = re.sub(r"\s+", " ", cls.__doc__)
    assert f" {name}: {text}" in words


@pytest.mark.parametrize(
    ("name", "choices"), [(n, distill_actions()[n].choices) for _, n in FIELDS if distill_actions()[n].choices]
)
def test_listed_choices_are_those_that_the_config_accepts(name, choices):
    assert set(choices) == set(re.findall(r'``"(\w+)"``', field_docs(WeightDistillConfig)[name]))
    for choice in choices:
        assert getattr(WeightDistillConfig(**{name: choice}), name) == choice
    with pytest.raises(ValueError, match="expected one of " + ", ".join(choices)):
        WeightDistillConfig(**{name: "anything"})


@pytest.mark.parametrize("name", [n for c, n in FIELDS if typing.get_type_hints(c)[n] is str])
def test_other_texts_are_free(name):
    assert distill_actions()[name].choices is None
    WeightDistillConfig(**{name: "anything"})


@pytest.mark.parametrize(
    ("name", "registry"),
    [
        ("source", SOURCES),
        ("finetune_source", SOURCES),
        ("generator_objectives", OBJECTIVES),
        ("finetune_objectives", OBJECTIVES),
        ("schedules", SCHEDULES),
    ],
)
def test_the_help_knows_what_is_registered(name, registry):
    assert f"Known: {', '.join(registry)}." in distill_actions()[name].help


def test_every_metric_can_be_chosen():
    assert list(METRICS) == list(distill_actions()["test_metrics"].choices)


def some(kind, rng):
    """A random value of an annotated type; never the empty one that no flag stands for."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is typing.Any:
        return rng.choice([1, 1e-3, True, None, "no", "1", "1e-3", "", "a b=c", "null", [1, "x"], {"a": 1.0}])
    if origin is typing.Literal:
        return rng.choice(inner)
    if origin is types.UnionType:
        return some(rng.choice([one for one in inner if one not in (types.NoneType, Tokenizer)]), rng)
    if origin is dict:
        return {f"key_{n}": some(inner[1], rng) for n in range(rng.randint(1, 3))}
    if origin is tuple:
        count = rng.randint(1, 3) if inner[-1] is ... else len(inner)
        return tuple(some(inner[0], rng) for _ in range(count))
    if kind is str:
        return rng.choice(["text", "with spaces: and colon", "1", "true"])
    return rng.randint(2, 9) if kind is int else rng.choice([0.25, 0.5, 1e-4])


def flags_of(values, base):
    """The flags that turn `base` into `values`."""
    argv = []
    for name, value in values.items():
        if isinstance(value, dict):
            entries = [f"{key}={json.dumps(entry)}" for key, entry in value.items()]
            entries += [f"{key}=" for key in base.get(name, {}) if key not in value]
            argv += [f"--{name}", *entries] if entries else []
        elif isinstance(value, tuple):
            argv += [f"--{name}", *(",".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in value)]
        else:
            argv += [f"--{name}", "none" if value is None else str(value)]
    return argv


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("seed", range(20))
def test_flags_give_the_configuration_they_were_made_from(recipe, seed):
    rng = random.Random(seed)
    kinds = typing.get_type_hints(WeightDistillConfig)
    values = {name: some(kind, rng) for name, kind in kinds.items()}
    if values["pseudo_labels"] == "none":
        values["pseudo_labels_dir"] = None  # a folder of none is refused
    if values["teacher_cache_top_k"] is None:
        values["teacher_cache_dir"] = None
    ways = {"finetune_source": None, "finetune_lora": {}, "schedules": {}}
    ways.pop(rng.choice(list(ways)))  # phase 2 has one of them
    values |= ways
    job = parsed("--recipe", recipe, *flags_of(values, RECIPES[recipe].to_dict()))
    assert job.config == WeightDistillConfig(**values)
    assert job.recipe == recipe

    kinds = typing.get_type_hints(StudentShape)
    shape = {name: some(kind, rng) for name, kind in kinds.items() if rng.random() < 0.7}
    for stack in ("encoder", "decoder"):
        if f"{stack}_groups" in shape:
            shape.pop(f"{stack}_layers", None)
    assert parsed(*flags_of(shape, {})).student == StudentShape(**shape)


def test_both_spellings_of_a_name_are_one():
    dashed = parsed("--decoder-layers", "1", "--generator-args=max_steps=5", "--prefix=a-b --c-d")
    assert dashed == parsed("--decoder_layers", "1", "--generator_args=max_steps=5", "--prefix=a-b --c-d")
    assert dashed.config.prefix == "a-b --c-d"


def test_recipe_then_file_then_flags(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "recipe: paper\nteacher_revision: v1\ntrain: a.csv\ntest: b.csv\nstudent: {decoder_layers: 3, d_model: 64}\n"
        "config:\n  label_smoothing: 0\n  temperature: 2\n"
        "  generator_args: {max_steps: 7, learning_rate: 1e-3, save_strategy: no}\n"
    )
    argv = ["--temperature", "3", "--generator_args", "max_steps=9", "bf16=true"]
    argv += ["--d_model", "none", "--train", "c.csv"]
    job = parsed("--config", str(file), *argv)
    assert (job.recipe, job.teacher, job.teacher_revision) == ("paper", "someone/teacher", "v1")
    assert job.data == {"train": "c.csv", "test": "b.csv"}
    assert job.student == StudentShape(decoder_layers=3)
    assert job.config.pseudo_labels == RECIPES["paper"].pseudo_labels  # from the recipe
    assert job.config.finetune_args == RECIPES["paper"].finetune_args
    assert job.config.label_smoothing == 0  # from the file
    assert job.config.temperature == 3  # from the flag
    # The file's dictionary replaces the recipe's, the flag's is merged into it; 1e-3 is a number and "no" a word.
    assert job.config.generator_args == {"max_steps": 9, "learning_rate": 0.001, "save_strategy": "no", "bf16": True}


def test_a_flag_adds_to_the_recipes_dictionary_and_takes_keys_away():
    merged = parsed("--finetune_objectives", "kl=0.5").config.finetune_objectives
    assert merged == {"cross_entropy": 1.0, "kl": 0.5}
    assert parsed("--finetune_objectives", "cross_entropy=", "kl=1").config.finetune_objectives == {"kl": 1}
    assert parsed("--pseudo_labels_dir", "None", "--dropout", "none").config.pseudo_labels_dir is None
    assert RECIPES["default"].finetune_objectives == {"cross_entropy": 1.0}, "the recipe itself must not change"
    words = parsed("--finetune_args", "report_to=none", "seed=null", "save_strategy=no", "x=1_0").config.finetune_args
    assert [words[key] for key in ("report_to", "seed", "save_strategy", "x")] == ["none", None, "no", "1_0"]
    nested = parsed("--schedules", "{prune: {sparsity: 0.5, steps: [1, 2]}}").config.schedules
    assert nested == parsed("--schedules", 'prune={"sparsity": 0.5, "steps": [1, 2]}').config.schedules
    assert nested == {"prune": {"sparsity": 0.5, "steps": [1, 2]}}
    twice = parsed("--finetune_args", "max_steps=5", "bf16=true", "--finetune_args", "max_steps=6", "seed=7").config
    assert [twice.finetune_args[key] for key in ("max_steps", "bf16", "seed")] == [6, True, 7], "the last word counts"


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ("--generator_objectives kl=1", "generator_objectives"),
        ("--source mpo", "source"),
        ("--generator_args learning_rate=1e-3", "generator_args"),
        ("--recipe opdf --finetune_objectives kl=1", "finetune_objectives"),
    ],
)
def test_flags_of_a_phase_that_the_recipe_skips_are_refused(argv, name):
    with pytest.raises(ValueError, match=f"--{name} acts in a phase that makes no updates"):
        parsed(*argv.split())
    assert parsed(*argv.split(), "--generator_args", "max_steps=5", "--finetune_args", "max_steps=5").config


def test_what_the_recipe_says_itself_is_not_refused():
    assert parsed("--source", "direct").config == RECIPES["default"]


def test_updates_take_the_place_of_a_files_epochs(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("config: {finetune_args: {num_train_epochs: 3, learning_rate: 1e-3}}\n")
    assert parsed("--config", str(file), "--finetune_args", "max_steps=10").config.finetune_args == {
        "learning_rate": 0.001,
        "max_steps": 10,
    }


def test_pairs_and_tokens_take_each_others_place(tmp_path):
    recipe = RECIPES["default"].finetune_args
    pairs = parsed("--finetune_args", "per_device_train_batch_size=16").config.finetune_args
    without = {name: value for name, value in recipe.items() if name != "max_tokens_per_batch"}
    assert pairs == without | {"per_device_train_batch_size": 16}
    file = tmp_path / "run.yaml"
    file.write_text("config: {finetune_args: {per_device_train_batch_size: 16}}\n")
    tokens = parsed("--config", str(file), "--finetune_args", "max_tokens_per_batch=100").config.finetune_args
    assert tokens == {"max_tokens_per_batch": 100}
    assert parsed("--finetune_args", "per_device_train_batch_size=").config.finetune_args == recipe


def test_epochs_take_the_place_of_the_recipes_updates():
    assert "max_steps" in RECIPES["default"].finetune_args
    assert "max_steps" not in parsed("--finetune_args", "num_train_epochs=3").config.finetune_args
    both = parsed("--finetune_args", "num_train_epochs=3", "max_steps=5").config.finetune_args
    assert (both["num_train_epochs"], both["max_steps"]) == (3, 5)
    assert parsed("--finetune_args", "num_train_epochs=").config.finetune_args == RECIPES["default"].finetune_args


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "found list, expected keys such as teacher"),
        ("techer: x", "unknown 'techer'; did you mean 'teacher'?"),
        ("config: {label_smothing: 0.1}", "config: unknown 'label_smothing'; did you mean 'label_smoothing'?"),
        ("student: {decoder_layers: one}", r"student.decoder_layers='one', expected int \| None"),
        ("config: {temperature: hot}", "config.temperature='hot', expected number"),
        ("config: {temperature: .nan}", "config.temperature=nan, expected number"),
        ("config: {max_source_length: 6.5}", "config.max_source_length=6.5, expected int"),
        ("config: {generator_args: [1]}", r"config.generator_args=\[1\], expected dict\[str, Any\]"),
        ("config: {finetune_objectives: {kl: much}}", "finetune_objectives={'kl': 'much'}, expected dict"),
        ("config: {label_smoothing: 2}", "label_smoothing=2: expected 0 <= label_smoothing < 1"),
        ("student: 3", "student is int, expected the fields of StudentShape"),
        ("train: 3", "train=3, expected text"),
        ("license: 4.0", "license=4.0, expected str"),
        ("task: summary", "task='summary', expected one of translation, summarization"),
        ("languages: en", r"languages='en', expected list\[str\]"),
        ("test_metrics: [1]", r"test_metrics=\[1\], expected list\[str\]"),
        ("test_num_beams: 5", r"test_num_beams=5, expected list\[int\]"),
        ("test_batch_sizes: [many]", r"test_batch_sizes=\['many'\], expected list\[int\]"),
        ("test_beams: [1]", "unknown 'test_beams'; did you mean 'test_num_beams'?"),
        ("recipe: best", "recipe: unknown 'best'"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text, message):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    code, out, err = call("plan", "x", "--config", file)
    assert code == 2 and not out
    assert re.search(message, err) and err.count("\n") == 1 and "Traceback" not in err


def test_a_file_in_another_encoding_is_named(tmp_path):
    (tmp_path / "run.yaml").write_bytes("train: Übersetzung.csv".encode("latin-1"))
    code, _, err = call("plan", "x", "--config", tmp_path / "run.yaml")
    assert code == 2 and re.search(r"--config .*: cannot be read \('utf-8' codec .*; expected UTF-8\)", err), err


def test_another_recipe_than_the_files_is_refused(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("recipe: paper\nconfig: {temperature: 2}\n")
    with pytest.raises(ValueError, match="--recipe default, but .* holds the settings of the recipe 'paper'"):
        parsed("--config", str(file), "--recipe", "default")
    assert parsed("--config", str(file), "--recipe", "paper").config.temperature == 2


# --- plan and dry run ------------------------------------------------------------------------------------------------


def test_plan_prints_the_plan(folder):
    code, out, err = call("plan", folder / "teacher", "--decoder-groups", "0,1", "2,3,4", "--ffn_dim", "32", "8")
    assert code == 0, err
    assert "decoder layer 0 <- teacher layers 0, 1\n  decoder layer 1 <- teacher layers 2, 3, 4\n" in out
    assert re.search(r"decoder_ffn_dim +32 -> 8\n", out) and re.search(r"encoder_ffn_dim +32 -> 32 ", out)
    assert not err
    code, out, err = call("plan", folder / "teacher", "--ffn_dim", "64")
    assert code == 2 and re.search(r"encoder_ffn_dim +32 -> 64", out), "it is shown, and said why no start makes it"
    assert "the student's 'ffn' axis has 64 dimensions, the teacher's 32" in err


def test_plan_refuses_a_vocabulary_that_is_no_tokenizer(folder):
    code, out, err = call("plan", folder / "teacher", "--vocab", "nofolder")
    assert (
        code == 2 and not out and "vocab='nofolder' is neither 'from-data', a number, nor a tokenizer's folder" in err
    )
    code, out, err = call("plan", folder / "teacher", "--vocab", folder / "teacher")
    assert code == 0, err


def test_dry_run_prints_a_file_for_config_and_writes_nothing(folder, tmp_path):
    argv = ["--train", folder / "train.jsonl", "--source_lang", "de", "--output_dir", tmp_path / "run", *SETTINGS]
    code, out, err = call("distill", folder / "teacher", *argv, "--dry-run")
    assert code == 0, err
    assert "# Marian: " in out and "decoder layer 0 <- teacher layers 0, 1, 2, 3, 4, 5" in out
    assert "train: 48 pairs" in err
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "run.yaml").write_text(out)
    asked = build_parser().parse_args(["distill", str(folder / "teacher"), *map(str, argv)])
    again = build_parser().parse_args(["distill", "--config", str(tmp_path / "run.yaml"), "--output_dir", "x"])
    assert job_of(again) == job_of(asked)
    assert job_of(again).data["source_lang"] == "de"
    assert job_of(again).afterwards == {"license": "mit", "test_num_beams": [1], "test_batch_sizes": [8]}


# --- distill ---------------------------------------------------------------------------------------------------------


def test_the_student_is_stock_and_stands_where_it_was_asked_for(folder, run):
    path, _, out, _ = run
    student = AutoModelForSeq2SeqLM.from_pretrained(path / "student")
    assert type(student) is MarianMTModel
    assert (student.config.encoder_layers, student.config.decoder_layers) == (6, 1)
    tokenizer = AutoTokenizer.from_pretrained(path / "student")
    assert student.generate(**tokenizer(["two dogs run"], return_tensors="pt"), max_new_tokens=4).shape[0] == 1
    assert not same_weights(path / "student", path / "generated_student"), "phase 2 must have trained"


def test_scores_are_printed_written_and_on_the_card(run):
    path, _, out, _ = run
    scores = json.loads((path / "scores.json").read_text())
    rows = {row["quantity"]: row for row in scores["rows"]}
    assert scores["sentences"] == 8 and {"bleu", "chrf", "parameters", "tokens_per_second"} <= set(rows)
    assert rows["parameters"]["student"] < rows["parameters"]["teacher"]
    assert "chrf (greedy)" in out
    card = ModelCard.load(path / "student" / "README.md")
    values = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert values["chrf"] == round(rows["chrf"]["student"], 2)
    assert card.data.license == "mit" and card.data.language == ["en", "de"]


def test_progress_is_seen_and_noise_is_not(run):
    path, _, out, err = run
    for phase in ("phase 1, generator", "phase 2, student"):
        assert re.search(
            rf"{phase}: 3 updates in 0:\d\d, \d+\.\d passes, loss \d+\.\d\d, eval_loss \d+\.\d\d\n", err
        ), err
    assert "evaluation: 80 sentences in 0:" in err, "8 translated and 4 x 8 timed, by teacher and student"
    assert "loss" not in out, "stdout is for results"
    history = json.loads((path / "record.json").read_text())["history"]
    assert all(sum("eval_loss" in entry for entry in history[phase]) == 3 for phase in ("generator", "finetune"))
    for noise in ("torchvision", "sacremoses", "pin_memory", "Loading weights", "Map:", "Filter:", "Writing model"):
        assert noise not in err, noise


def test_the_written_file_repeats_the_run_bit_for_bit(folder, run):
    path, *_ = run
    values = yaml.safe_load((path / "weight_distill.yaml").read_text())
    assert values["train"] == str(folder / "train.jsonl") and values["source_lang"] == "en"
    torch.manual_seed(2)  # another state than the first run began with
    argv = ["--config", path / "weight_distill.yaml", "--output_dir", folder / "again", "--save", folder / "elsewhere"]
    code, _, err = call("distill", *argv)
    assert code == 0, err[-3000:]
    assert same_weights(path / "student", folder / "elsewhere")
    assert not (folder / "again" / "student").exists()
    assert yaml.safe_load((folder / "again" / "weight_distill.yaml").read_text()) == values


def test_card_and_scores_are_repeated_too(folder, tmp_path):
    argv = ["--train", folder / "train.jsonl", "--test", folder / "test.jsonl", "--output_dir", tmp_path / "run"]
    argv += [*SETTINGS, "--generator_args", "max_steps=0", "--finetune_args", "max_steps=0"]
    argv += ["--train_split", "train[:24]"]
    given = {"task": "summarization", "languages": ["en", "fr"], "test_metrics": ["chrf", "rouge"]}
    given |= {"test_tokenize": "char"}
    for name, value in given.items():
        argv += [f"--{name}", *([value] if isinstance(value, str) else value)]
    code, _, err = call("distill", folder / "teacher", *argv)
    assert code == 0, err[-3000:]
    given |= {"license": "mit", "test_num_beams": [1], "test_batch_sizes": [8]}
    written = yaml.safe_load((tmp_path / "run" / "weight_distill.yaml").read_text())
    assert {name: written.get(name) for name in AFTERWARDS} == given

    argv = ["--config", tmp_path / "run" / "weight_distill.yaml", "--output_dir", tmp_path / "again"]
    code, _, err = call("distill", *argv, "--license", "apache-2.0")
    assert code == 0 and "train: 24 pairs" in err, err[-3000:]
    text = (tmp_path / "again" / "student" / "README.md").read_text()
    assert "Data: train.jsonl, split `train[:24]`." in text
    cards = [ModelCard.load(tmp_path / name / "student" / "README.md").data for name in ("run", "again")]
    assert [card.pipeline_tag for card in cards] == ["summarization"] * 2
    assert [card.language for card in cards] == [["en", "fr"]] * 2
    assert [card.license for card in cards] == ["mit", "apache-2.0"], "the flag wins"
    names = [[result.metric_name for result in card.eval_results] for card in cards]
    assert names[0] == names[1] and "chrF (greedy)" in names[0] and "ROUGE-L (greedy)" in names[0]
    rows = [json.loads((tmp_path / name / "scores.json").read_text())["rows"] for name in ("run", "again")]
    assert [row["label"] for row in rows[0]] == [row["label"] for row in rows[1]]
    assert not any("beam 5" in row["label"] or "bleu" in row["label"] for row in rows[1])

    # Another card is no other run: it may be resumed, and its file says what was asked for last.
    (tmp_path / "again" / "student").rename(tmp_path / "before")
    code, _, err = call("distill", *argv, "--resume", "--task", "translation", "--test_metrics", "bleu")
    assert code == 0, err[-3000:]
    card = ModelCard.load(tmp_path / "again" / "student" / "README.md").data
    assert card.pipeline_tag == "translation" and {r.metric_type for r in card.eval_results} == {"bleu"}
    assert "tok:char" in card.eval_results[0].metric_args["signature"]
    written = yaml.safe_load((tmp_path / "again" / "weight_distill.yaml").read_text())
    assert (written["task"], written["test_metrics"], written["license"]) == ("translation", ["bleu"], "mit")


def test_an_interrupted_run_goes_on_to_the_same_student(folder, run, monkeypatch):
    path, *_ = run
    from hf_weight_distill.trainer import WeightDistillTrainer

    argv = ["distill", "--config", path / "weight_distill.yaml", "--output_dir", folder / "stopped"]
    argv += ["--revision", "main"]  # which a teacher in a folder does not know
    step = WeightDistillTrainer.training_step

    def stop_in_phase_2(self, model, *rest):
        if "finetune" in self.args.output_dir and self.state.global_step == 1:
            raise KeyboardInterrupt
        return step(self, model, *rest)

    monkeypatch.setattr(WeightDistillTrainer, "training_step", stop_in_phase_2)
    code, _, err = call(*argv)
    assert code == 130 and "hf-weight-distill: interrupted; the same command with --resume goes on\n" in err
    assert yaml.safe_load((folder / "stopped" / "weight_distill.yaml").read_text())["train"], "written although stopped"
    monkeypatch.undo()
    code, _, err = call(*argv)
    assert code == 2 and "not empty; go on with its run by --resume" in err
    code, _, err = call(*argv, "--resume")
    assert code == 0, err[-3000:]
    assert same_weights(path / "student", folder / "stopped" / "student")


def test_a_run_interrupted_while_it_is_scored_goes_on_with_the_scores(folder, run, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    argv = ["distill", "--config", run[0] / "weight_distill.yaml", "--output_dir", folder / "scored"]
    argv += ["--test_num_beams", "1", "--test_batch_sizes", "8"]
    monkeypatch.setattr(WeightDistiller, "evaluate", interrupt)
    code, _, err = call(*argv)
    assert code == 130 and err.endswith("hf-weight-distill: interrupted; the same command with --resume goes on\n")
    assert not (folder / "scored" / "student").exists()
    monkeypatch.undo()
    code, _, err = call(*argv, "--resume")
    assert code == 0, err[-3000:]
    assert same_weights(run[0] / "student", folder / "scored" / "student")
    assert ModelCard.load(folder / "scored" / "student" / "README.md").data.eval_results


def test_a_run_goes_on_with_its_own_data(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(WeightDistiller, "distill", lambda *_, **__: pytest.fail("went on to train"))
    file = tmp_path / "weight_distill.yaml"

    def resumed(*argv):
        return call("distill", folder / "teacher", *argv, "--output_dir", tmp_path, "--resume", "--dry_run")

    file.write_text(yaml.safe_dump({"train": str(folder / "train.jsonl"), "source_lang": "en", "test": "there"}))
    before = file.read_text()
    for argv, change in (
        (["--train", folder / "test.jsonl", "--source_lang", "en"], "train: '.*train.jsonl' -> '.*test.jsonl'"),
        (["--train", folder / "train.jsonl"], "source_lang: 'en' -> None"),
        (["--train", folder / "train.jsonl", "--source_lang", "en", "--test", "here"], "test: 'there' -> 'here'"),
    ):
        code, _, err = resumed(*argv)
        assert code == 2 and re.search(rf"was started with other data \({change}\): resume it with the data of", err)
    assert resumed("--train", folder / "train.jsonl", "--source_lang", "en")[0] == 0, "a test set may be left out"
    assert file.read_text() == before
    for text, message in (("", "holds NoneType, expected the settings"), ("a: [", "is not YAML")):
        file.write_text(text)
        code, _, err = resumed("--train", folder / "train.jsonl")
        assert code == 2 and re.search(rf"weight_distill.yaml {message}", err), err


def test_a_run_that_is_refused_keeps_its_file(folder, run, tmp_path):
    file = run[0] / "weight_distill.yaml"
    before = file.read_bytes()
    argv = ["--config", file, "--output_dir", run[0], "--save", tmp_path / "student", "--resume"]
    for change in (["--decoder_layers", "2"], ["--finetune_args", "max_steps=9"]):
        code, _, err = call("distill", *argv, *change, "--task", "summarization", "--license", "apache-2.0")
        assert code == 2, err
        assert file.read_bytes() == before


@pytest.mark.parametrize("changed", [False, True])
def test_the_file_of_a_run_in_python_repeats_it_or_says_that_it_cannot(folder, tmp_path, changed):
    fast = {"max_steps": 2, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    config = dataclasses.replace(RECIPES["default"], finetune_args=fast, num_beams=1)
    options = {"student": StudentShape(decoder_layers=1), "config": config, "attn_implementation": "eager"}
    made = WeightDistiller.from_pretrained(folder / "teacher", **options)  # by the kernel of the command line
    if changed:
        made.teacher.generation_config.no_repeat_ngram_size = None  # the folder's says 1
    data = [str(folder / f"{name}.jsonl") for name in ("train", "test")]
    made.distill(*data, output_dir=tmp_path / "run")
    made.save_pretrained(tmp_path / "student")
    file = tmp_path / "run" / "weight_distill.yaml"
    assert [yaml.safe_load(file.read_text())[name] for name in ("train", "eval")] == data
    code, _, err = call("distill", "--config", file, "--output_dir", tmp_path / "again")
    assert code == 0, err[-3000:]
    assert ("had a teacher with other weights or generation settings" in err) == changed
    assert same_weights(tmp_path / "student", tmp_path / "again" / "student") != changed


def test_a_new_run_that_fails_still_knows_its_data(folder, tmp_path, monkeypatch):
    from hf_weight_distill.trainer import WeightDistillTrainer

    def fail(*_, **__):
        raise ValueError("an optimizer of its own mind")

    monkeypatch.setattr(WeightDistillTrainer, "train", fail)
    argv = ["--train", folder / "train.jsonl", "--source_lang", "en", "--output_dir", tmp_path / "run", *SETTINGS]
    assert call("distill", folder / "teacher", *argv)[0] == 2
    written = yaml.safe_load((tmp_path / "run" / "weight_distill.yaml").read_text())
    assert (written["train"], written["license"]) == (str(folder / "train.jsonl"), "mit")


def test_a_teacher_in_memory_has_no_name_to_repeat(tmp_path):
    (tmp_path / "run.yaml").write_text("teacher: ''\ntrain: built-in\n")
    code, _, err = call("distill", "--config", tmp_path / "run.yaml", "--output_dir", tmp_path / "run")
    assert code == 2 and "no teacher: name a Hub repository or a folder" in err


def test_the_student_is_saved_although_the_scores_fail(folder, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(WeightDistiller, "evaluate", fail)
    argv = ["--train", folder / "train.jsonl", "--test", folder / "test.jsonl", "--source_lang", "en", *SETTINGS]
    argv += ["--output_dir", folder / "unscored", "--generator_args", "max_steps=0", "--finetune_args", "max_steps=0"]
    code, _, err = call("distill", folder / "teacher", *argv)
    assert code == 1 and "RuntimeError: out of memory" in err
    assert type(AutoModelForSeq2SeqLM.from_pretrained(folder / "unscored" / "student")) is MarianMTModel


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no training data: give --train"),
        (["--train", "missing.jsonl"], "--train missing.jsonl: found 'missing.jsonl', neither an existing file"),
        (["--train", "DATA", "--train_split", "dev"], "found the split name 'dev' for a single table"),
        (["--train", "DATA", "--source_lang", "fr"], "expected 'fr' among them"),
        (["--train", "DATA", "--source_column", "english"], r"expected \['english'\] among them"),
        (["--train", "DATA", "--decoder_layers", "4"], "6 teacher layers cannot form 4 equal groups"),
        (["--train", "DATA", "--decoder_layers", "two"], "--decoder_layers: found 'two', expected a whole number"),
        (["--train", "DATA", "--ffn_dim", "1", "2", "3"], "--ffn_dim: found 3 numbers, expected one, or two"),
        (["--train", "DATA", "--generator_args", "max_steps"], "found 'max_steps', expected KEY=VALUE"),
        (["--train", "DATA", "--finetune_args", "max_step=3"], "unknown 'max_step'; did you mean 'max_steps'?"),
        (["--train", "DATA", "--finetune_args", "lr_scheduler_type=cosin"], "finetune_args: '?cosin'? is not a valid"),
        (["--train", "DATA", "--finetune_args", "eval_strategy=steps"], "there is no data: give --eval"),
        (
            ["--train", "DATA", "--recipe", "generator", "--source", "generater"],
            "weight source: unknown 'generater'; did you mean 'generator'?",
        ),
        (
            ["--train", "DATA", "--recipe", "generator", "--source_options", "inti=x"],
            "weight source 'generator': unknown 'inti'; did you mean 'init'?",
        ),
        (["--train", "DATA", "--finetune_args", "bf16=off"], "finetune_args: bf16='off', expected true or false"),
        (["--train", "DATA", "--finetune_args", "seed=0.5"], "finetune_args: seed=0.5, expected int"),
        (["--train", "DATA", "--finetune_args", "learning_rate=abc"], "learning_rate='abc', expected number"),
        (["--train", "DATA", "--finetune_objectives", "kll=1"], "objectives: unknown 'kll'; did you mean 'kl'?"),
        (["--train", "DATA", "--finetune_objectives", "kl=abc"], r"'kl': 'abc'\}: expected dict\[str, number\]"),
        (["--train", "DATA", "--finetune_objectives", "kl=.nan"], r"'kl': nan\}: expected dict\[str, number\]"),
        (["--train", "DATA", "--schedules", "magnitude_pruning=0.5"], r"schedules=.* expected dict\[str, dict"),
        (["--train", "DATA", "--schedules", "prun={}"], "schedules: unknown 'prun'; known"),
        (["--train", "DATA", "--start", "warm"], "invalid choice: 'warm'"),
        (["--train", "DATA", "--decoder_layer", "1"], "unrecognized arguments: --decoder_layer 1"),
        (["--train", "DATA", "--tgt_lang", "de"], "a MarianTokenizer has no languages to choose from"),
        (["--train", "DATA", "--max_source_length", "1"], "--train: found max_source_length=1; expected at least 2"),
        (["--train", "DATA", "--save", "FOLDER"], "is not empty: choose another one with --save"),
        (["--train", "DATA", "--output_dir", "FOLDER"], "not empty; go on with its run by --resume"),
        (["--train", "DATA", "--output_dir", "DATA"], "--output_dir .*: .* is no folder that can be written to"),
        (["--train", "DATA", "--output_dir", "DATA/run"], "--output_dir .*: .* is no folder that can be written to"),
        (["--train", "DATA", "--save", "DATA/student"], "--save .*: .* is no folder that can be written to"),
        (["--train", "DATA", "--output_dir", "new/run", "--save", "new/run"], "--save new/run: holds the run in"),
        (["--train", "DATA", "--output_dir", "new/run", "--save", "new"], "--save new: holds the run in"),
        (["--train", "DATA", "--finetune_args", "report_to=wandb"], r"finetune_args: report_to=\['wandb'\]: .*install"),
        (["--train", "DATA", "--finetune_args", "report_to=wand"], "finetune_args: wand is not supported"),
        (
            ["--train", "DATA", "--finetune_args", "metric_for_best_model=bleu"],
            "without compute_metrics there is eval_loss alone: leave it out",
        ),
        (
            ["--train", "DATA", "--teacher_cache_top_k", "9999", "--finetune_objectives", "kl=1"],
            "top_k=9999: expected 1",
        ),
        (["--train", "DATA", "--max_source_length", "1000"], "max_source_length=1000, but the teacher has 160"),
        (["--train", "DATA", "--test_metrics", "meteor"], "invalid choice: 'meteor'"),
        (["--train", "DATA", "--test_num_beams", "0"], r"num_beams=\[0\]: expected at least one number, none below 1"),
        (["--train", "DATA", "--test", "missing.csv"], "--test missing.csv: found 'missing.csv', neither"),
    ],
)
def test_wrong_use_costs_no_training(folder, tmp_path, monkeypatch, argv, message):
    monkeypatch.setattr(WeightDistiller, "distill", lambda *_, **__: pytest.fail("went on to train"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(transformers.integrations.integration_utils, "is_wandb_available", lambda: False)
    argv = [part.replace("FOLDER", str(folder)) for part in ("--output_dir", "run", *argv)]
    argv = [part.replace("DATA", str(folder / "train.jsonl")) for part in argv]
    code, out, err = call("distill", folder / "teacher", *argv)
    assert code == 2 and not out
    assert re.search(message, err), err
    assert "Traceback" not in err and not (tmp_path / "run").exists()


def test_broken_data_is_the_users_to_mend(folder, tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"source": "a", "target"\n')
    argv = ["--train", tmp_path / "bad.jsonl", "--output_dir", tmp_path / "run"]
    code, _, err = call("distill", folder / "teacher", *argv)
    assert code == 2 and "bad.jsonl: " in err and "JSON" in err


def test_the_teacher_is_taken_at_the_revision_asked_for(folder, tmp_path, monkeypatch):
    asked = set()
    for auto in (transformers.AutoConfig, transformers.AutoModelForSeq2SeqLM, transformers.AutoTokenizer):

        def load(name, *, revision=None, kind=auto.__name__, original=auto.from_pretrained, **options):
            asked.add((kind, revision))
            return original(name, **options)

        monkeypatch.setattr(auto, "from_pretrained", load)
    argv = ["--train", folder / "train.jsonl", "--source_lang", "en", "--output_dir", tmp_path, "--dry_run"]
    code, out, err = call("distill", folder / "teacher", *argv, "--revision", "v2")
    assert code == 0, err
    assert asked >= {("AutoConfig", "v2"), ("AutoModelForSeq2SeqLM", "v2"), ("AutoTokenizer", "v2")}
    assert "\nteacher_revision: v2\n" in out


# --- data and languages ----------------------------------------------------------------------------------------------


def test_columns_and_languages_choose_the_direction(folder, tmp_path):
    file = str(folder / "train.jsonl")
    there = loading.load_pairs("train", file, None, parsed("--source_lang", "en", "--target_lang", "de").columns())
    back = loading.load_pairs("train", file, None, parsed("--source_lang", "de", "--target_lang", "en").columns())
    assert there[0] == {"source": back[0]["target"], "target": back[0]["source"]}
    (tmp_path / "x.csv").write_text("german,english\nHund,dog\n")
    columns = parsed("--source_column", "english", "--target_column", "german").columns()
    assert loading.load_pairs("train", str(tmp_path / "x.csv"), None, columns)[0] == {"source": "dog", "target": "Hund"}


def test_there_is_a_split_for_each_purpose(monkeypatch):
    corpus = built_in_corpus(train=4, validation=3, test=2)
    monkeypatch.setattr(data, "_corpus", lambda: corpus)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: corpus)
    for name in ("built-in", "wmt16:ro-en"):
        sizes = [
            len(loading.load_pairs(flag, name, None, {"source_lang": "en"}))
            for flag in ("train", "eval", "test", "data")
        ]
        assert sizes == [4, 3, 2, 2]
    assert len(loading.load_pairs("train", "built-in", "validation", {})) == 3


@pytest.mark.parametrize(
    "argv, languages",
    [
        ((), ()),
        (("--source_lang", "en"), ()),
        (("--source_lang", "en", "--target_lang", "de"), ("en", "de")),
        (("--src_lang", "eng_Latn", "--tgt_lang", "deu_Latn"), ("eng", "deu")),
        (("--src_lang", "en_XX", "--tgt_lang", "de_DE", "--languages", "de"), ("de",)),
    ],
)
def test_the_card_names_the_languages_of_the_direction(argv, languages):
    argv = underscored(["distill", "someone/teacher", "--output_dir", "x", "--train", "train.jsonl", *argv])
    arguments = build_parser().parse_args(argv)
    assert distill._card_fields(job_of(arguments))["languages"] == languages


def test_an_unnamed_direction_is_a_warning_in_one_line(folder, tmp_path):
    argv = ["--train", folder / "train.jsonl", "--output_dir", tmp_path / "run", "--dry_run"]
    _, _, err = call("distill", folder / "teacher", *argv)
    assert "hf-weight-distill: warning: no language was named: translating 'en' to 'de', as stored\n" in err
    assert ".py" not in err


@pytest.fixture
def multilingual(folder, tmp_path):
    vocab = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    vocab = {name: vocab[name] for name in vocab if name != "<pad>"} | {"<s>": len(vocab) - 1, "<pad>": len(vocab)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    return M2M100Tokenizer(str(tmp_path / "vocab.json"), str(folder / "tokenizer" / "source.spm"))


def test_languages_are_set_on_tokenizer_and_generation(folder, multilingual):
    model = AutoModelForSeq2SeqLM.from_pretrained(folder / "teacher")
    assert forced_direction(model, multilingual) == {}
    set_languages(multilingual, model, "de", "fr")
    assert (multilingual.src_lang, multilingual.tgt_lang) == ("de", "fr")
    assert forced_direction(model, multilingual) == {"src_lang": "de", "tgt_lang": "fr"}, "what repeats it"
    first = multilingual("Hund")["input_ids"][0]
    assert first == multilingual.convert_tokens_to_ids("__de__")
    assert model.generation_config.forced_bos_token_id == multilingual.convert_tokens_to_ids("__fr__")
    with pytest.raises(ValueError, match="tgt_lang='klingon': the M2M100Tokenizer does not know this language"):
        set_languages(multilingual, model, None, "klingon")


# --- evaluate, push, demo --------------------------------------------------------------------------------------------


def test_evaluate_prints_and_writes_json(folder, run, tmp_path):
    argv = ["--data", folder / "test.jsonl", "--source_lang", "en", "--num_beams", "1", "2", "--batch_sizes", "8"]
    argv += ["--metrics", "chrf", "--speed_sentences", "2", "--json", tmp_path / "new" / "scores.json"]
    code, out, err = call("evaluate", folder / "teacher", run[0] / "student", *argv)
    assert code == 0, err
    written = json.loads((tmp_path / "new" / "scores.json").read_text())
    labels = [row["label"] for row in written["rows"]]
    assert labels[:2] == ["chrf (greedy)", "chrf (beam 2)"] and "bleu (greedy)" not in labels
    assert "tokens/s (beam 2, batch 8)" in out and written["speed_sentences"] == 2
    trained = json.loads((run[0] / "scores.json").read_text())
    assert written["rows"][0]["student"] == next(r["student"] for r in trained["rows"] if r["quantity"] == "chrf")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["evaluate", "x", "y", "--data", "z", "--num_beams", "0"], r"num_beams=\[0\]: expected"),
        (["evaluate", "x", "y", "--data", "z", "--speed_sentences", "-1"], "speed_sentences=-1: expected at least 1"),
        (["evaluate", "x", "y", "--data", "z", "--tokenize", "klingon"], "unknown tokenize='klingon'"),
        (["evaluate", "x", "y", "--data", "z", "--json", "FOLDER"], "--json .*: is a folder, expected a file"),
        (["evaluate", "x", "y", "--data", "z", "--json", "FOLDER/test.jsonl/x.json"], "is no folder that can be"),
        (["plan", "x", "--target_speedup", "2", "--json", "FOLDER/test.jsonl/x.json"], "is no folder that can be"),
    ],
)
def test_wrong_settings_are_refused_before_a_model_is_loaded(folder, argv, message):
    code, out, err = call(*(part.replace("FOLDER", str(folder)) for part in argv))
    assert code == 2 and not out and re.search(message, err), err


SIZES = {"layers": 1, "attention_heads": 2, "ffn_dim": 8}


def many_languages(tokenizer, folder, *languages):
    """A tiny M2M100 in a folder, set to a direction if one is given."""
    sizes = {f"{stack}_{name}": size for stack in ("encoder", "decoder") for name, size in SIZES.items()}
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = M2M100Config(vocab_size=len(tokenizer) + 200, d_model=8, **sizes, **ids, max_position_embeddings=512)
    model = M2M100ForConditionalGeneration(config)
    if languages:
        set_languages(tokenizer, model, *languages)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("direction", [(), ("de", "fr")])
def test_the_same_command_resumes_a_multilingual_teacher(folder, multilingual, tmp_path, direction):
    many_languages(multilingual, tmp_path / "teacher", *direction)
    argv = ["distill", tmp_path / "teacher", "--train", folder / "train.jsonl", "--output_dir", tmp_path / "run"]
    argv += ["--finetune_args", "max_steps=1", "use_cpu=true", "--num_beams", "1", "--max_target_length", "8"]
    argv += [] if direction else ["--tgt_lang", "fr"]
    code, _, err = call(*argv)
    assert code == 0, err[-3000:]
    written = yaml.safe_load((tmp_path / "run" / "weight_distill.yaml").read_text())
    assert (written["src_lang"], written["tgt_lang"]) == (direction or ("en", "fr"))
    code, _, err = call(*argv, "--resume", "--save", tmp_path / "student")
    assert code == 0, err[-3000:]
    code, _, err = call(*argv, "--resume", "--save", tmp_path / "other", "--tgt_lang", "en")
    assert code == 2 and "'tgt_lang': 'en'" in err


def test_a_student_of_one_direction_is_measured_in_it(folder, multilingual, tmp_path):
    argv = ["evaluate", tmp_path / "teacher", tmp_path / "student", "--data", folder / "test.jsonl"]
    argv += ["--num_beams", "1", "--batch_sizes", "8", "--speed_sentences", "1", "--metrics", "chrf"]
    many_languages(multilingual, tmp_path / "teacher")
    many_languages(multilingual, tmp_path / "student", "de", "fr")
    code, out, err = call(*argv)
    assert code == 2 and not out
    assert "the student was made for src_lang=de, the teacher's tokenizer is set to en: give --src_lang de" in err
    code, _, err = call(*argv, "--src_lang", "de")
    assert code == 2 and "give --tgt_lang fr" in err
    code, out, err = call(*argv, "--src_lang", "de", "--tgt_lang", "fr")
    assert code == 0 and "chrf (greedy)" in out, err
    multilingual.save_pretrained(tmp_path / "teacher")  # names the language, which nothing makes the teacher write in
    code, _, err = call(*argv)
    assert code == 2 and "the teacher's are not, so that it chooses one itself: give --tgt_lang fr" in err


def test_models_of_different_vocabularies_are_not_compared(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder / "teacher")
    tiny_marian_model(tokenizer, vocab_size=len(tokenizer) - 1, pad_token_id=0).save_pretrained(tmp_path)
    code, _, err = call("evaluate", folder / "teacher", tmp_path, "--data", folder / "test.jsonl")
    assert code == 2 and "expected ids below that" in err


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("teacher", "README.md missing"),
        ("run", "is not a whole student: config.json, model.safetensors, README.md missing"),
        ("run/generator/checkpoint-3", "is a checkpoint of a training run"),
        ("run/finetune/checkpoint-3", "is a checkpoint of a training run"),
        ("run/generated_student", "README.md missing"),
        ("nowhere", "is not a folder"),
    ],
)
def test_only_a_whole_student_is_pushed(folder, run, path, message):
    code, _, err = call("push", folder / path, "someone/student")
    assert code == 2 and message in err


def test_a_teacher_with_a_card_of_its_own_is_not_pushed(run, tmp_path):
    for file in (run[0] / "student").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "README.md").write_text("---\ntags: [translation]\n---\n# Teacher\n")
    code, _, err = call("push", tmp_path, "someone/student")
    assert code == 2 and "lacks the tag 'hf-weight-distill'. Is it the teacher?" in err


def test_a_student_is_pushed_whole_in_one_commit_under_its_new_name(run, tmp_path):
    student = run[0] / "student"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    with loopback_hub() as hub:
        environment = {
            **clean,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path),
            "HF_TOKEN": "hf_loopback",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(Path(hf_weight_distill.__file__).parents[1]),
        }
        command = [sys.executable, "-m", "hf_weight_distill", "push", str(student), "someone/tiny-student"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
        pushed = dict(hub.repos["someone/tiny-student"])
        assert sum("/commit/" in request for request in hub.requests) == 1
        assert f"/commit/{hub.sha('someone/tiny-student')}" in done.stdout
    card = pushed.pop("README.md").decode()
    assert pushed == {file.name: file.read_bytes() for file in student.iterdir() if file.name != "README.md"}
    assert "\n# someone/tiny-student\n" in card and 'name = "someone/tiny-student"\n' in card
    assert ModelCard(card).data.model_name == "tiny-student"
    assert ModelCard(card).data.eval_results == ModelCard.load(student / "README.md").data.eval_results


def test_demo_is_wired(monkeypatch):
    calls = []
    stub = types.ModuleType("hf_weight_distill.demo")
    stub.run_demo = lambda output_dir, paper=False: calls.append((output_dir, paper)) or 0
    monkeypatch.setitem(sys.modules, "hf_weight_distill.demo", stub)
    assert main(["demo"]) == 0 and main(["demo", "--paper", "--output-dir", "there"]) == 0
    assert calls == [(Path("demo"), False), (Path("there"), True)]


# --- help and exit codes ---------------------------------------------------------------------------------------------


def examples():
    """Each command in a help text, continued lines joined."""
    modules = [importlib.import_module(f"hf_weight_distill.cli.{name}") for name in COMMANDS]
    texts = "\n".join([EPILOG, *(module.DESCRIPTION for module in modules)])
    found = re.findall(rf"^  {PROGRAM} (.*)$", texts.replace("\\\n", " "), flags=re.MULTILINE)
    return [shlex.split(line) for line in found]


def test_the_examples_of_the_help_run_one_after_the_other(folder, tmp_path, monkeypatch):
    pairs = [{"translation": {"en": f"dogs {n}", "de": f"Hunde {n}"}} for n in "abcdefgh"]
    tables = {"train": pairs, "validation": pairs[:2], "test": pairs[:1]}
    corpus = DatasetDict({split: Dataset.from_list(rows) for split, rows in tables.items()})
    monkeypatch.setattr(data, "_corpus", lambda: corpus)
    monkeypatch.chdir(tmp_path)
    shown = ("plan", "distill", "evaluate", "report")
    commands = [argv for argv in examples() if argv[0] in shown and "--help" not in argv]
    assert [argv[0] for argv in commands] == ["plan"] * 5 + ["distill"] * 3 + ["evaluate"] * 2 + ["report"] * 2
    shrunk = {
        "Helsinki-NLP/opus-mt-en-de": str(folder / "teacher"),
        "max_steps=400": "max_steps=1",
        "30M": "20K",
        "1024": "32",
        "512": "16",
        "3": "1.1",
    }
    monkeypatch.setattr(planner, "NEW_TOKENS", 4)
    for text in shrunk:
        assert any(text in argv for argv in commands)
    for argv in commands:
        code, _, err = call(*(shrunk.get(part, part) for part in argv))
        assert code == 0, (argv, err[-3000:])
    assert same_weights("runs/small/student", "runs/again/student")
    assert json.loads(Path("scores.json").read_text())["sentences"] == 1
    assert Path("small.html").read_text() and Path("runs/small/report.html").exists()


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help_teaches(argv, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = call(*argv)
    assert code == 0
    assert "start here:" in out if argv == ["--help"] else re.search(rf"examples?:\n  {PROGRAM} {argv[0]}", out)
    assert "None" not in out.replace("None: a plain", "").replace("None: beside", "") and "``" not in out


def test_help_needs_no_torch():
    """In a package without its `__init__`, which is another module's business."""
    script = f"""
import sys, types
package = types.ModuleType("hf_weight_distill")
package.__path__, package.__version__ = [{str(Path(cli.__file__).parent.parent)!r}], "0"
sys.modules["hf_weight_distill"] = package
from hf_weight_distill.cli import main
assert main(["distill", "--help"]) == 0 and main(["--help"]) == 0
heavy = {{"torch", "transformers", "datasets", "huggingface_hub", "numpy"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_exit_codes_and_traceback(monkeypatch):
    def raises(error):
        def run(_):
            raise error

        return run

    def run_with(error, *argv):
        monkeypatch.setattr(plan, "run", raises(error))
        return call("plan", *argv)

    assert call("--version")[:2] == (0, f"hf-weight-distill {hf_weight_distill.__version__}\n")
    assert call("plan", "--nonsense")[0] == 2 and call()[0] == 2
    assert run_with(ValueError("two\nlines")) == (2, "", "hf-weight-distill plan: error: two lines\n")
    code, _, err = run_with(ValueError("why"), "--traceback")
    assert code == 2 and "Traceback" in err and err.endswith("hf-weight-distill plan: error: why\n")
    assert run_with(FloatingPointError("the loss is nan"))[0] == 2
    code, _, err = run_with(RuntimeError("a bug"))
    assert code == 1 and "Traceback" in err and "RuntimeError: a bug" in err
    assert run_with(KeyboardInterrupt())[0] == 130


def test_nothing_is_said_about_images(caplog):
    logger = logging.getLogger("transformers.utils.import_utils")
    logger.addHandler(caplog.handler)
    with loading.quiet():
        logger.warning("`AnImageProcessor` requires torchvision (not installed); falling back")
        logger.warning("something else")
    logger.removeHandler(caplog.handler)
    assert set(caplog.messages) == {"something else"}


def test_a_warning_is_said_once(capsys):
    with loading.quiet():
        warnings.warn("settings are looked at twice", stacklevel=1)
        warnings.warn("settings are looked at twice", stacklevel=1)
        warnings.warn("another one", stacklevel=1)
    said = capsys.readouterr().err.splitlines()
    assert said == [f"hf-weight-distill: warning: {text}" for text in ("settings are looked at twice", "another one")]


def test_a_command_leaves_warnings_and_bars_as_they_were(folder):
    import datasets
    from transformers.utils import logging as transformers_logging

    before = (
        list(warnings.filters),
        warnings.showwarning,
        datasets.are_progress_bars_disabled(),
        transformers_logging.is_progress_bar_enabled(),
    )
    assert call("plan", folder / "teacher")[0] == 0
    after = (
        list(warnings.filters),
        warnings.showwarning,
        datasets.are_progress_bars_disabled(),
        transformers_logging.is_progress_bar_enabled(),
    )
    assert after == before
