"""The commands and the code of the documentation run, in order, with a tiny teacher and few steps."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from tiny import tiny_marian_model, tiny_marian_tokenizer

from hf_weight_distill import data as data_module
from hf_weight_distill.cli import main
from hf_weight_distill.corpus import built_in_corpus

DOCS = Path(__file__).parents[1] / "docs"
FAST = "use_cpu=true disable_tqdm=true save_strategy=no"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with the demo's teacher in it, only smaller, and a short corpus."""
    monkeypatch.chdir(tmp_path)
    tokenizer = tiny_marian_tokenizer(tmp_path / "demo" / "teacher")
    with torch.no_grad():
        model = tiny_marian_model(tokenizer)
    model.save_pretrained(tmp_path / "demo" / "teacher")
    tokenizer.save_pretrained(tmp_path / "demo" / "teacher")
    monkeypatch.setattr(data_module, "_corpus", lambda: built_in_corpus(40, 4, 4))
    return tmp_path


def blocks(language):
    text = (DOCS / "methods.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.S)


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
def test_the_code_runs(here, monkeypatch, capsys):
    from hf_weight_distill import RECIPES, distiller

    fast = dict(option.split("=") for option in FAST.split())
    fast |= {"use_cpu": True, "disable_tqdm": True, "max_steps": 2}
    real = distiller.WeightDistiller._arguments

    def shrunk(self, values, folder):
        return real(self, values | (fast if values.get("max_steps") else {}), folder)

    monkeypatch.setattr(distiller.WeightDistiller, "_arguments", shrunk)
    assert all(RECIPES[name].num_beams for name in ("opdf", "self-distilled-pruning"))
    exec("\n".join(blocks("python")), {})
    assert "sparsity" in capsys.readouterr().out
