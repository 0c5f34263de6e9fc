"""The commands and the code of the documentation run, in order, with tiny teachers and few steps.

What a page marks as ``bash`` or ``python`` runs here, or in the test of the module that it is about. What it marks
as ``console`` does not run, but all commands are parsed.
"""

import importlib.util
import json
import math
import re
import shlex
from pathlib import Path

import pytest
import test_objectives
import test_sources
import torch
from models import BART_LIKE, T5_LIKE
from test_vocabulary import byte_level_bpe, from_spm, nllb
from tiny import tiny_marian_model, tiny_marian_tokenizer
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)

from hf_weight_distill import RECIPES, distiller, evaluation
from hf_weight_distill import arguments as arguments_module
from hf_weight_distill import data as data_module
from hf_weight_distill.cli import main
from hf_weight_distill.cli.main import build_parser, underscored
from hf_weight_distill.corpus import built_in_corpus
from hf_weight_distill.families import FAMILIES
from hf_weight_distill.objectives import OBJECTIVES
from hf_weight_distill.schedules import SCHEDULES
from hf_weight_distill.sources import SOURCES

DOCS = Path(__file__).parents[1] / "docs"
FAST = "use_cpu=true disable_tqdm=true save_strategy=no"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with the demo's teacher in it, only smaller, and a short corpus."""
    monkeypatch.chdir(tmp_path)
    _save(*_marian(tmp_path / "demo" / "teacher"), tmp_path / "demo" / "teacher")
    monkeypatch.setattr(data_module, "_corpus", lambda: built_in_corpus(40, 4, 4))
    return tmp_path


@pytest.fixture
def shrunk(monkeypatch):
    """Two steps a phase, on the CPU; speeds are measured once."""
    monkeypatch.setattr(evaluation, "REPEATS", 1)
    monkeypatch.setattr(evaluation, "WARMUP", 0)
    fast = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "max_steps": 2}
    real = distiller.phase_arguments

    def arguments(values, *others, **reads):
        return real(values | (fast if values.get("max_steps") else {}), *others, **reads)

    for module in (distiller, arguments_module):  # the command line takes it from the second
        monkeypatch.setattr(module, "phase_arguments", arguments)


def _marian(folder, **sizes):
    tokenizer = tiny_marian_tokenizer(folder)
    return tiny_marian_model(tokenizer, **sizes), tokenizer


def _save(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def fences(page):
    """``[(language, text)]`` of a page's blocks of code, in order."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.S | re.M)


def blocks(language, page="methods"):
    return [text for found, text in fences(page) if found == language]


def commands(block):
    """One a line; a backslash goes on with the next, and ``$`` is a prompt."""
    return [line.removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.mark.filterwarnings("ignore")
def test_the_commands_run_in_order(here):
    for command in blocks("bash"):
        assert "max_steps=" in command, "nothing to shrink"
        short = re.sub(r"max_steps=\d+", f"max_steps=2 {FAST}", command)
        program, *arguments = shlex.split(short.replace("\\\n", " "))
        assert program == "hf-weight-distill"
        assert main(arguments) == 0, command
    assert {p.name for p in (here / "runs").iterdir()} == {"opdf", "wd-opdf", "pruned", "pruned-twice"}
    assert (here / "runs" / "opdf" / "cache").is_dir()
    for run in (here / "runs").iterdir():
        assert (run / "student" / "model.safetensors").exists()


@pytest.mark.filterwarnings("ignore")
def test_the_code_runs(here, shrunk, capsys):
    assert all(RECIPES[name].num_beams for name in ("opdf", "self-distilled-pruning"))
    exec("\n".join(blocks("python")), {})
    assert "sparsity" in capsys.readouterr().out


# --- pages that name teachers of the Hub -----------------------------------------------------------------------------


@pytest.fixture
def hub(here):
    """Folders of the names that the pages have from the Hub, which win over it, and files of the names in the pages."""
    torch.manual_seed(0)
    (here / "raw").mkdir()
    ids = {"encoder_layers": 2, "decoder_layers": 6, "max_position_embeddings": 1024, "decoder_start_token_id": 2}
    bpe, pieces = byte_level_bpe(here / "raw"), nllb(here / "raw")
    sizes = BART_LIKE | ids | {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "forced_eos_token_id": 2}
    # The published one has no row for <mask>, the last token, either.
    bart = BartForConditionalGeneration(BartConfig(**sizes | {"vocab_size": len(bpe) - 1}))
    many = M2M100ForConditionalGeneration(M2M100Config(**sizes | {"vocab_size": len(pieces), "encoder_layerdrop": 0.0}))
    words = from_spm(T5Tokenizer, "spiece.model", extra_ids=5)(here / "raw")
    t5 = T5ForConditionalGeneration(
        T5Config(**T5_LIKE | {"vocab_size": len(words), "num_layers": 6, "num_decoder_layers": 6})
    )
    marian = _marian(here / "Helsinki-NLP" / "opus-mt-en-de", decoder_layers=6)
    for model in (bart, many, t5):
        model.generation_config.exponential_decay_length_penalty = (3, 2.0)  # random models would never stop
    _save(*marian, here / "Helsinki-NLP" / "opus-mt-en-de")
    _save(bart, bpe, here / "facebook" / "bart-large-cnn")
    _save(many, pieces, here / "facebook" / "nllb-200-distilled-600M")
    _save(t5, words, here / "google-t5" / "t5-small")
    texts = built_in_corpus(12, 2, 2)
    for name, columns in {"": ("source", "target"), "news": ("document", "summary")}.items():
        for split, rows in texts.items():
            pairs = [dict(zip(columns, row["translation"].values(), strict=True)) for row in rows]
            stem = "_".join(filter(None, (name, split))).replace("news_train", "news")
            (here / f"{stem}.jsonl").write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    return here


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", ["index", "quickstart", "concepts", pytest.param("tasks", marks=pytest.mark.slow)])
def test_a_page_runs(page, hub, shrunk):
    names = {}
    for language, text in fences(page):
        if language == "python":
            exec(text, names)
        for command in commands(text) if language == "bash" else ():
            program, *arguments = shlex.split(command)
            assert program == "hf-weight-distill"
            if arguments[0] != "export" or importlib.util.find_spec("ctranslate2"):
                assert main(arguments) == 0, command


@pytest.mark.parametrize("page", sorted(path.stem for path in DOCS.glob("*.md")))
def test_all_commands_are_understood(page):
    for block in blocks("bash", page) + blocks("console", page):
        for command in commands(block):
            words = shlex.split(command)
            if "hf_weight_distill" in words:  # torchrun -m
                words = ["hf-weight-distill", *words[words.index("hf_weight_distill") + 1 :]]
            if words[0] == "hf-weight-distill":
                build_parser().parse_args(underscored(words[1:]))


def test_links_of_the_repository_lead_to_files():
    for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]:
        for path in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / path).exists(), (page.name, path)


# --- how to extend ---------------------------------------------------------------------------------------------------


@pytest.fixture
def registries():
    """The dictionaries, which get back what they held."""
    all_of_them = (FAMILIES, SOURCES, OBJECTIVES, SCHEDULES)
    before = [dict(registry) for registry in all_of_them]
    yield
    for registry, entries in zip(all_of_them, before, strict=True):
        registry.clear()
        registry.update(entries)


@pytest.mark.filterwarnings("ignore")
def test_the_examples_of_extending_keep_the_contracts(tmp_path, monkeypatch, registries, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(blocks("python", "extending")), names)
    out = capsys.readouterr().out
    assert "Blenderbot: " in out and "'reverse_kl': " in out
    assert names["distiller"].summary["weight_clipping"]["largest"] <= 0.03
    for name in ("blenderbot", "row-scale", "reverse-kl", "clipped"):
        assert (tmp_path / "runs" / name / "student" / "model.safetensors").exists()
    source = ("row_scale", {})
    for family in ("marian", "flan-t5"):
        test_sources.test_shapes_and_values(source, family)
        test_sources.test_a_gradient_reaches_every_parameter_and_the_teacher_stays(source, family)
    test_sources.test_a_seed_repeats_exactly(source)
    test_sources.test_only_what_is_trained_is_saved(source)
    test_sources.test_a_reloaded_state_gives_the_same_student(source)
    test_objectives.test_contract_finite_scalar_with_gradient_to_the_student("reverse_kl")
    student, teacher, labels = test_objectives.outputs(0), test_objectives.outputs(1), test_objectives.LABELS
    total = 0.0
    for i, j in torch.nonzero(labels != -100).tolist():
        q, p = (torch.softmax(o.logits[i, j].double() / 2.0, -1).tolist() for o in (student, teacher))
        total += 4.0 * sum(a * math.log(a / b) for a, b in zip(q, p, strict=True))
    assert OBJECTIVES["reverse_kl"](temperature=2.0)(student, teacher, labels).item() == pytest.approx(total, rel=1e-5)
