"""A student goes to the Hub and comes back, with the real client and a server on this machine."""

import json
import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from loopback_hub import loopback_hub
from tiny import tiny_marian_model, tiny_marian_tokenizer

from hf_weight_distill.card import CardInfo, write_card

REPO = "someone/tiny-student"
PUSH = """
import sys
from huggingface_hub import HfApi
api = HfApi()
api.create_repo(sys.argv[1], exist_ok=True)
api.upload_folder(repo_id=sys.argv[1], folder_path=sys.argv[2])
"""
LOAD = """
import json, sys
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1])
batch = tokenizer(["two dogs run"], return_tensors="pt")
with torch.no_grad():
    logits = model(**batch, decoder_input_ids=torch.tensor([[model.config.decoder_start_token_id, 3]])).logits
    output = model.generate(**batch)
print(json.dumps({
    "logits": logits.tolist(), "output": output.tolist(), "ids": batch["input_ids"].tolist(),
    "num_beams": model.generation_config.num_beams, "class": type(model).__name__,
    "ours": [name for name in sys.modules if name.startswith("hf_weight_distill")],
}))
"""


@pytest.fixture
def hub():
    with loopback_hub() as server:
        yield server


@pytest.fixture
def student_folder(tmp_path):
    tokenizer = tiny_marian_tokenizer(tmp_path / "tokenizer")
    model = tiny_marian_model(tokenizer, decoder_layers=1)
    model.generation_config.num_beams = 3
    model.generation_config.max_length = 20
    folder = tmp_path / "student"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_card(folder, CardInfo(REPO, "someone/teacher", license="mit", languages=("en", "de")))
    return folder, model, tokenizer


def run(script, *arguments, hub, home):
    """A fresh process: the client reads HF_ENDPOINT and HF_HOME when it is imported."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment = {
        **clean,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_loopback",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=home.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_pushed_student_comes_back_as_it_was(hub, student_folder, tmp_path):
    folder, model, tokenizer = student_folder
    run(PUSH, REPO, folder, hub=hub, home=tmp_path / "home-of-the-author")
    assert hub.repos[REPO] == {file.name: file.read_bytes() for file in folder.iterdir()}

    hub.requests.clear()
    loaded = json.loads(run(LOAD, REPO, hub=hub, home=tmp_path / "home-of-a-stranger").splitlines()[-1])

    batch = tokenizer(["two dogs run"], return_tensors="pt")
    assert loaded["ids"] == batch["input_ids"].tolist()
    with torch.no_grad():
        start = torch.tensor([[model.config.decoder_start_token_id, 3]])
        logits = model(**batch, decoder_input_ids=start).logits
        output = model.generate(**batch)
    assert torch.equal(torch.tensor(loaded["logits"]), logits)
    assert loaded["output"] == output.tolist()
    assert loaded["num_beams"] == 3
    assert loaded["class"] == "MarianMTModel"
    assert loaded["ours"] == [], "a student must load where this package is not imported"
    assert any(request.startswith("GET ") and request.endswith("/model.safetensors") for request in hub.requests)
    assert not hub.unknown, f"the client asked for what this hub does not know: {hub.unknown}"


def test_the_card_arrives_and_reads_as_a_card(hub, student_folder, tmp_path):
    folder, *_ = student_folder
    run(PUSH, REPO, folder, hub=hub, home=tmp_path / "home")
    assert "POST /api/validate-yaml" in hub.requests
    card = ModelCard(hub.repos[REPO]["README.md"].decode())
    assert card.data.base_model == "someone/teacher"
    assert card.data.license == "mit"
