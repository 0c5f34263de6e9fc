"""The notebooks run from top to bottom: in a fresh kernel, without a network, on tiny teachers and a few steps.

Only what is named in ``REPLACED`` is changed, and each of these texts must stand in the notebook exactly once: one that
was edited cannot slip by with its full sizes.
"""

import base64
import copy
import io
import json
import os
import re
from pathlib import Path

import nbformat
import pytest
import torch
from datasets import DatasetDict
from nbclient import NotebookClient
from PIL import Image
from test_vocabulary import bart_like, m2m100
from tiny import tiny_marian_model
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_weight_distill.corpus import build_marian_tokenizer, build_t5_tokenizer, built_in_corpus

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))

REPOSITORY = "hf-weight-distill/hf_weight_distill"
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    f"(https://colab.research.google.com/github/{REPOSITORY}/blob/main/notebooks/{{}}.ipynb)"
)
INSTALL = f'%pip install -q "hf-weight-distill @ git+https://github.com/{REPOSITORY}"'
# In place of the installation. A mistake in a name then fails at once, and nothing is fetched unnoticed.
NO_NETWORK = """\
import socket
def refuse(self, address):
    raise OSError(f"a notebook under test asked the network for {address}")
socket.socket.connect = socket.socket.connect_ex = refuse"""
STEPS = {"GENERATOR_STEPS = 1000": "GENERATOR_STEPS = 3", "FINETUNE_STEPS = 1000": "FINETUNE_STEPS = 3"}
OPUS_100 = {'"Helsinki-NLP/opus-100:de-en"': '"translation"', '"train[:20000]"': '"train"'}
REPLACED = {
    "01_translation_marian": STEPS
    | OPUS_100
    | {INSTALL + " sacremoses": NO_NETWORK, '"Helsinki-NLP/opus-mt-en-de"': '"marian"', '"test[:500]"': '"test"'},
    "02_summarization_t5": STEPS
    | {INSTALL: NO_NETWORK, '"google-t5/t5-small"': '"t5"', '"abisee/cnn_dailymail:3.0.0"': '"summaries"'}
    | {'"train[:10000]"': '"train"', '"test[:200]"': '"test"'},
    "03_multilingual_vocabulary": STEPS
    | OPUS_100
    | {INSTALL: NO_NETWORK, '"facebook/m2m100_418M"': '"m2m100"', '"test[:300]"': '"test"'},
    "04_inside_the_generator": STEPS
    | OPUS_100
    | {INSTALL + " sacremoses": NO_NETWORK, '"Helsinki-NLP/opus-mt-en-de"': '"marian"', '"test[:300]"': '"test"'}
    | {"d_model=256, ffn_dim=1024, attention_heads=4": "d_model=8, ffn_dim=16, attention_heads=1"},
}
PICTURES = {  # by the cell that shows them
    "01_translation_marian": ["train", "quality", "sentences"],
    "02_summarization_t5": ["train", "quality", "lengths"],
    "03_multilingual_vocabulary": ["usage", "train", "quality", "parts"],
    "04_inside_the_generator": ["train", "mixing", "projections", "shift", "stages", "evaluate"],
}


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shrunk(notebook, replaced):
    """A copy with texts of its code replaced, each of which stands there exactly once."""
    notebook = copy.deepcopy(notebook)
    code = code_of(notebook)
    for old in replaced:
        count = sum(cell.source.count(old) for cell in code)
        assert count == 1, f"the text {old!r} stands {count} times in the notebook; it is replaced, and expected once"
    for cell in code:
        cell.source = re.sub("|".join(map(re.escape, replaced)), lambda found: replaced[found[0]], cell.source)
    return notebook


# --- as committed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_clean(name):
    raw = (NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8")
    notebook = read(name)
    nbformat.validate(json.loads(raw), relax_add_props=False)
    assert raw == nbformat.writes(notebook) + "\n", "saved by another program: nbformat.write puts it right"
    ids = [cell.get("id") for cell in json.loads(raw)["cells"]]
    assert all(re.fullmatch(r"[a-z-]+", id) for id in ids) and len(set(ids)) == len(ids)
    for cell in code_of(notebook):
        assert cell.outputs == [] and cell.execution_count is None, "clear the outputs"
        assert not cell.metadata


@pytest.mark.parametrize("name", NAMES)
def test_it_opens_in_colab_installs_first_and_ends_with_the_readers_sentence(name):
    notebook = read(name)
    title, code = notebook.cells[0].source, code_of(notebook)
    assert title.startswith("# ") and title.count("colab.research") == 1 + 1 and BADGE.format(name) in title
    assert code[0].source.removesuffix(" sacremoses") == INSTALL
    assert code[-1].source.startswith('sentence = "') and '"  # @param {type:"string"}\n' in code[-1].source


def test_there_are_four_and_each_is_replaced_looked_at_and_listed():
    assert NAMES == sorted(REPLACED) == sorted(PICTURES) and len(NAMES) == 4
    assert all(f"]({name}.ipynb)" in (NOTEBOOKS / "README.md").read_text(encoding="utf-8") for name in NAMES)


def test_an_edited_notebook_is_noticed():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("steps = 1000\nsteps = 500")])
    assert code_of(shrunk(notebook, {"steps = 1000": "steps = 2"}))[0].source == "steps = 2\nsteps = 500"
    with pytest.raises(AssertionError, match="'steps = 2000' stands 0 times"):
        shrunk(notebook, {"steps = 2000": "steps = 2"})
    with pytest.raises(AssertionError, match="'steps' stands 2 times"):
        shrunk(notebook, {"steps": "few"})
    assert code_of(notebook)[0].source == "steps = 1000\nsteps = 500", "the notebook itself stays"


# --- tiny data and teachers ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus():
    return built_in_corpus(20, 1, 2)


def save_data(corpus, folder):
    """As the data sets of the Hub have it, as folders."""
    corpus.save_to_disk(folder / "translation")
    columns = {"en": "article", "de": "highlights"}
    summaries = {
        name: split.map(
            lambda row: {columns[k]: v for k, v in row["translation"].items()}, remove_columns="translation"
        )
        for name, split in corpus.items()
    }
    DatasetDict(summaries).save_to_disk(folder / "summaries")


def random_teacher(kind, corpus, folder):
    """A random teacher, which ends its sentences soon, and its tokenizer."""
    texts = [text for row in corpus["train"]["translation"] for text in row.values()]
    torch.manual_seed(0)
    if kind == "marian":
        tokenizer = build_marian_tokenizer(texts, folder, vocab_size=160)
        model = tiny_marian_model(tokenizer, encoder_layers=6, decoder_layers=4)
    elif kind == "t5":
        tokenizer = build_t5_tokenizer([*texts, "summarize: "], folder, vocab_size=160)
        shape = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_heads": 2, "num_layers": 4}
        config = T5Config(vocab_size=160, decoder_start_token_id=0, initializer_factor=4.0, **shape)
        model = T5ForConditionalGeneration(config)
    else:
        folder.mkdir()
        tokenizer = m2m100(folder, marked=True)
        shape = {"encoder_layers": 2, "decoder_layers": 6, "init_std": 0.6}
        model = bart_like(M2M100Config, M2M100ForConditionalGeneration, **shape)(tokenizer, len(tokenizer) + 8)
    model.generation_config.no_repeat_ngram_size = 2 if kind == "m2m100" else 1  # M2M100 starts with its end token
    model.generation_config.exponential_decay_length_penalty = (4, 1.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# --- from top to bottom ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=NAMES)
def executed(request, corpus, tmp_path_factory):
    """A notebook's name, the notebook with its outputs, the folder that it ran in, and its teacher's."""
    name, folder = request.param, tmp_path_factory.mktemp("notebook")
    notebook = shrunk(read(name), REPLACED[name])
    save_data(corpus, folder)
    kind = re.search(r'TEACHER = "(\w+)"', code_of(notebook)[1].source)[1]
    random_teacher(kind, corpus, folder / kind)
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("HOME", "IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "HF_HOME", "MPLCONFIGDIR"):
            patch.setenv(variable, str(folder / "home"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("OMP_NUM_THREADS", "1")
        options = {"timeout": 600, "kernel_name": "python3", "resources": {"metadata": {"path": str(folder)}}}
        NotebookClient(notebook, **options).execute()
    return name, notebook, folder, folder / kind


def test_both_phases_ran_to_their_end(executed):
    _, _, folder, _ = executed
    record = json.loads((folder / "run" / "record.json").read_text())
    assert record["finished"] is True
    for phase in ("generator", "finetune"):
        history = record["history"][phase]
        assert max(entry["step"] for entry in history) == 3
        assert sum("loss" in entry for entry in history) == 3, "one point a step for the curve"


def test_the_pictures_are_there_and_not_blank(executed):
    name, notebook, _, _ = executed
    shown = {}
    for cell in code_of(notebook):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                shown.setdefault(cell.id, []).append(output.data["image/png"])
    assert list(shown) == PICTURES[name] and all(len(pictures) == 1 for pictures in shown.values())
    for picture in shown.values():
        pixels = Image.open(io.BytesIO(base64.b64decode(picture[0]))).convert("RGB")
        assert min(pixels.size) >= 200
        assert len(pixels.getcolors(pixels.width * pixels.height)) > 20


def test_the_student_is_a_stock_model_that_translates_what_the_last_cell_says(executed):
    name, notebook, folder, teacher_folder = executed
    last = code_of(notebook)[-1]
    teacher, student = map(AutoModelForSeq2SeqLM.from_pretrained, (teacher_folder, folder / "student"))
    assert type(student) is type(teacher) and type(student).__module__.startswith("transformers.")
    assert student.num_parameters() < teacher.num_parameters()
    sentence = re.match('sentence = "([^"]*)"', last.source)[1]
    languages = {"src_lang": "en", "tgt_lang": "de"} if name.startswith("03") else {}
    tokenizer = AutoTokenizer.from_pretrained(folder / "student", **languages)
    batch = tokenizer([("summarize: " if name.startswith("02") else "") + sentence], return_tensors="pt")
    longest = 2 * batch["input_ids"].shape[1] + 10
    ids = student.generate(**batch, num_beams=4, max_new_tokens=longest)
    expected = tokenizer.batch_decode(ids, skip_special_tokens=True)[0]
    lines = "".join(output.text for output in last.outputs if output.get("name") == "stdout").splitlines()
    assert [line.split(": ")[0] for line in lines] == ["teacher", "student"]
    assert lines[1] == f"student: {expected}" and expected.strip()
    assert lines[0] != f"teacher: {expected}", "two models that say the same would hide a mistake"
