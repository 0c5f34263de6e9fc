"""Students for other runtimes: what is handed over is the student, and what is not the student is not handed over."""

import contextlib
import copy
import io
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import ctranslate2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from models import FAMILIES, VOCAB, tiny_teacher
from processor import VNNI
from tiny import SENTENCES, tiny_marian_model, tiny_marian_tokenizer
from tokenizers import Tokenizer
from tokenizers import models as tokenizer_models
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, M2M100Tokenizer, PreTrainedTokenizerFast

from hf_weight_distill import StudentShape, WeightDistiller, export
from hf_weight_distill import data as data_module
from hf_weight_distill.cli import main
from hf_weight_distill.corpus import build_t5_tokenizer, built_in_corpus
from hf_weight_distill.export import FORMATS, ParityError, export_student
from hf_weight_distill.export.onnx import Onnx, OnnxModel
from hf_weight_distill.export.parity import compare_outputs, references
from hf_weight_distill.languages import set_languages

DOCS = Path(__file__).parents[1] / "docs"
WORDS = ["w5 w8 w12 w20 w31", "w30 w21", "w22"]
ENGLISH = ["two dogs run across the green meadow", "the child reads a book", "a cat"]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """Most tests are not about speed."""
    monkeypatch.setattr(export, "BATCH_SIZES", ())


def words(model):
    """A tokenizer whose tokens are w0, w1, ... with the special tokens where the model has them."""
    names = {model.config.pad_token_id: "<pad>", model.config.eos_token_id: "</s>", 3: "<unk>"}
    vocab = {names.get(number, f"w{number}"): number for number in range(VOCAB)}
    tokenizer = Tokenizer(tokenizer_models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    end = ("</s>", model.config.eos_token_id)
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[end])
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>", "bos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=30, **special)


needs_vnni = pytest.mark.skipif(not VNNI, reason="int8 is too coarse for a student of random weights here")


def tiny_student(family, **shape):
    """A student as this package makes them, with its tokenizer."""
    teacher = tiny_teacher(family.removesuffix(", unscaled"))
    if family == "umt5, unscaled":
        teacher.config.scale_decoder_outputs = False
    if family == "marian":
        with torch.no_grad():
            teacher.model.shared.weight[teacher.config.pad_token_id] = 0
    shape = {"encoder_layers": 2, "decoder_layers": 1} | shape
    student = WeightDistiller(teacher, student=StudentShape(**shape)).student
    student.generation_config = teacher.generation_config
    return student, words(student)


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A student with a tokenizer of its own, made so that outputs differ, and its folder."""
    folder = tmp_path_factory.mktemp("student") / "student"
    tokenizer = tiny_marian_tokenizer(folder)
    student = tiny_marian_model(tokenizer, encoder_layers=1, decoder_layers=1)
    with torch.no_grad():
        student.model.shared.weight[tokenizer.pad_token_id] = 0
    student.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return student, tokenizer, folder


def greedy(student, tokenizer, sentence, **options):
    batch = tokenizer([sentence], return_tensors="pt")
    with torch.no_grad():
        ids = student.generate(**batch, num_beams=1, do_sample=False, **options)[0]
    return tokenizer.decode(ids, skip_special_tokens=True)


def readme_prints(folder, monkeypatch):
    """What the code in the folder's README prints."""
    monkeypatch.chdir(folder.parent)
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), flags=re.S)[1]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    return printed.getvalue().rstrip("\n")


def left_behind(folder):
    return sorted(path.name for path in folder.iterdir())


# --- what is exported is the student ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", [*FAMILIES, "umt5, unscaled"])
def test_every_family_is_the_same_in_ctranslate2(family, tmp_path, monkeypatch):
    student, tokenizer = tiny_student(family)
    student.generation_config.max_length = 20
    report = export_student(student, tokenizer, tmp_path / "out", to="ctranslate2", sentences=WORDS)
    _, float32, int8 = report.rows
    assert float32.agreement.identical == len(WORDS)
    assert float32.agreement.difference < 2e-5
    assert abs(float32.agreement.loss) < 1e-5
    assert int8.bytes_on_disk < float32.bytes_on_disk
    assert 1e-4 < int8.agreement.difference < (1 if VNNI else 2)
    # by CTranslate2 and the files alone
    expected = greedy(student, tokenizer, WORDS[0], forced_eos_token_id=None)
    assert readme_prints(tmp_path / "out", monkeypatch) == expected


@pytest.mark.slow  # tracing takes its time; Marian's is always tested below
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_the_same_in_onnx(family, tmp_path, monkeypatch):
    student, tokenizer = tiny_student(family, encoder_layers=1)
    report = export_student(student, tokenizer, tmp_path / "out", to="onnx", quantization="int8", sentences=WORDS)
    _, float32, int8 = report.rows
    assert float32.agreement.identical == len(WORDS)
    assert float32.agreement.difference < 2e-5
    assert abs(float32.agreement.loss) < 1e-5
    assert 1e-4 < int8.agreement.difference < (1 if VNNI else 10)
    assert all(of_matrices(file) <= EIGHT_BITS for file in (tmp_path / "out").glob("*.onnx"))
    readme_prints(tmp_path / "out", monkeypatch)
    own = student.generation_config.max_length or student.generation_config.max_new_tokens
    assert ("(**batch, max_length=" in (tmp_path / "out" / "README.md").read_text()) == (own is None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_t5_with_fewer_decoder_layers_is_the_same_in_onnx(tmp_path):
    """Transformers makes its cache as deep as the encoder."""
    student, tokenizer = tiny_student("t5")
    assert (student.config.num_layers, student.config.num_decoder_layers) == (2, 1)
    options = {"to": "onnx", "quantization": "float32", "sentences": WORDS}
    _, float32, *_ = export_student(student, tokenizer, tmp_path / "out", **options).rows
    assert float32.agreement.identical == len(WORDS) and float32.agreement.difference < 2e-5


EIGHT_BITS = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}


def of_matrices(file):
    """Types of the weights with two long axes."""
    return {w.data_type for w in onnx.load(file).graph.initializer if len(w.dims) == 2 and min(w.dims) >= 16}


@pytest.fixture(scope="module")
def onnx_folder(marian, tmp_path_factory):
    student, tokenizer, _ = marian
    folder = tmp_path_factory.mktemp("onnx") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "BATCH_SIZES", (3,))
        export_student(student, tokenizer, folder, to="onnx", sentences=ENGLISH)
    return folder


def run(folder, name, **feeds):
    """A graph by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
    assert {i.name for i in session.get_inputs()} == set(feeds)
    arrays = {name: np.asarray(feed) for name, feed in feeds.items()}
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, arrays), strict=True))


@pytest.mark.parametrize(("rows", "source", "target"), [(1, 2, 2), (2, 17, 5), (5, 40, 9)])
def test_onnx_graphs_take_every_shape_and_are_named_as_optimum_names_them(onnx_folder, marian, rows, source, target):
    student, _, _ = marian
    high = student.config.vocab_size - 1
    ids, outputs = torch.randint(2, high, (rows, source)), torch.randint(2, high, (rows, target))
    mask = torch.ones_like(ids)
    mask[0, source // 2 :] = 0
    with torch.no_grad():
        expected = student(input_ids=ids, attention_mask=mask, decoder_input_ids=outputs).logits.numpy()
    states = run(onnx_folder, "encoder_model.onnx", input_ids=ids, attention_mask=mask)["last_hidden_state"]
    decoder = {"encoder_attention_mask": mask, "encoder_hidden_states": states}
    found = run(onnx_folder, "decoder_model.onnx", input_ids=outputs, **decoder)["logits"]
    np.testing.assert_allclose(found, expected, atol=2e-5)
    first = run(onnx_folder, "decoder_model.onnx", input_ids=outputs[:, :1], **decoder)
    kinds = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")
    past = {f"past_key_values.0.{kind}": first[f"present.0.{kind}"] for kind in kinds}
    for at in range(1, target):
        step = {"input_ids": outputs[:, at : at + 1], "encoder_attention_mask": mask}
        found = run(onnx_folder, "decoder_with_past_model.onnx", **step, **past)
        np.testing.assert_allclose(found["logits"][:, 0], expected[:, at], atol=2e-5)
        past |= {f"past_key_values.0.{kind}": found[f"present.0.{kind}"] for kind in kinds[:2]}


@pytest.mark.filterwarnings("ignore")
def test_the_onnx_readme_and_beams_give_what_the_student_gives(onnx_folder, marian, monkeypatch):
    student, tokenizer, _ = marian
    assert readme_prints(onnx_folder, monkeypatch) == greedy(student, tokenizer, ENGLISH[0], max_length=128) != ""
    batch = tokenizer(ENGLISH, return_tensors="pt", padding=True)
    options = {"num_beams": 3, "max_new_tokens": 12}
    assert torch.equal(OnnxModel(onnx_folder).generate(**batch, **options), student.generate(**batch, **options))


def test_the_code_for_onnx_cuts_what_the_student_cannot_read(onnx_folder, marian, tmp_path, monkeypatch):
    from hf_weight_distill.export.onnx import Onnx

    student, tokenizer, _ = marian
    tokenizer, text = copy.deepcopy(tokenizer), " ".join(ENGLISH * 20)
    tokenizer.model_max_length = student.config.max_position_embeddings
    assert len(tokenizer(text)["input_ids"]) > tokenizer.model_max_length
    shutil.copytree(onnx_folder, tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text(Onnx().usage("out", text, student, tokenizer))
    cut = {"truncation": True, "max_length": tokenizer.model_max_length}
    expected = student.generate(**tokenizer([text], return_tensors="pt", **cut), max_length=128)
    assert readme_prints(tmp_path / "out", monkeypatch) == tokenizer.decode(expected[0], skip_special_tokens=True)


def test_int8_takes_in_every_matrix_the_tied_head_too(onnx_folder, tmp_path):
    from hf_weight_distill.export.onnx import _quantize

    for file in onnx_folder.glob("*.onnx"):
        assert of_matrices(file) == {onnx.TensorProto.FLOAT}
        _quantize(file, tmp_path / file.name)
        assert of_matrices(tmp_path / file.name) <= EIGHT_BITS
        products = [node for node in onnx.load(tmp_path / file.name).graph.node if node.op_type == "MatMulInteger"]
        layers = {"encoder_model.onnx": 6, "decoder_model.onnx": 10 + 1, "decoder_with_past_model.onnx": 8 + 1}
        assert len(products) == layers[file.name]
    assert left_behind(tmp_path) == sorted(layers)


def test_the_figures_stand_in_the_folder(onnx_folder, marian):
    found = json.loads((onnx_folder / "export.json").read_text())
    pytorch, float32, int8 = found["rows"]
    assert (pytorch["model"], float32["model"], int8["model"]) == ("PyTorch", "ONNX float32", "ONNX int8")
    assert pytorch["bytes_on_disk"] == (marian[2] / "model.safetensors").stat().st_size
    files = [f for f in onnx_folder.iterdir() if f.suffix == ".onnx" or f.name == "config.json"]
    assert float32["bytes_on_disk"] == sum(f.stat().st_size for f in files)
    assert all(row["tokens_per_second"]["3"] > 0 for row in found["rows"])
    assert float32["agreement"]["sentences"] == float32["agreement"]["identical"] == 3
    line = next(li for li in (onnx_folder / "README.md").read_text().splitlines() if li.startswith("| ONNX float32"))
    assert f"| 3 of 3 | {float32['agreement']['difference']:.1e} |" in line


@pytest.mark.filterwarnings("ignore")
def test_settings_of_the_search_come_along(marian, tmp_path, monkeypatch):
    """A language to start with, a shortest length, no repetition: NLLB's and BART's ways."""
    _, tokenizer, folder = marian
    vocab = json.loads((folder / "vocab.json").read_text())
    order = ["<s>", "<pad>", "</s>", "<unk>", *(n for n in vocab if n not in ("</s>", "<unk>", "<pad>"))]
    (tmp_path / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(order)}))
    tokenizer = M2M100Tokenizer(str(tmp_path / "vocab.json"), str(folder / "source.spm"))
    from transformers import M2M100Config, M2M100ForConditionalGeneration

    config = tiny_teacher("m2m_100").config.to_dict() | {
        "vocab_size": len(order) + 100 + 8,  # the languages, and words that nobody uses
        "max_position_embeddings": 64,
        "init_std": 0.5,
    }
    student = M2M100ForConditionalGeneration(M2M100Config(**config)).eval()
    with torch.no_grad():
        student.model.shared.weight[-8:] = 0
    set_languages(tokenizer, student, "en", "de")
    settings = {"min_length": 9, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "max_length": 30}
    student.generation_config.update(**settings)
    report = export_student(student, tokenizer, tmp_path / "out", to="ctranslate2", sentences=ENGLISH)
    assert report.rows[1].agreement.identical == 3
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "min_decoding_length=8" in readme and "target_prefix=[['__de__']]" in readme
    expected = greedy(student, tokenizer, ENGLISH[0], forced_eos_token_id=None)
    assert readme_prints(tmp_path / "out", monkeypatch) == expected
    assert len(expected) > 10


@pytest.mark.filterwarnings("ignore")
def test_t5_with_its_own_tokenizer_prefix_and_rounded_vocabulary(tmp_path, monkeypatch):
    tokenizer = build_t5_tokenizer([*ENGLISH, "say it: "] * 4, tmp_path / "tokenizer", vocab_size=31)
    student, _ = tiny_student("t5", attention_heads=2)  # 2 heads of 4 in a width of 16
    student.generation_config.max_length = 20
    options = {"to": "ctranslate2", "sentences": ENGLISH, "prefix": "say it: "}
    report = export_student(student, tokenizer, tmp_path / "out", **options)
    assert report.rows[1].agreement.identical == 3
    assert '"say it: two dogs' in (tmp_path / "out" / "README.md").read_text()
    expected = greedy(student, tokenizer, "say it: " + ENGLISH[0])
    assert readme_prints(tmp_path / "out", monkeypatch) == expected
    options |= {"sentences": [" ".join(ENGLISH * 60)]}  # CTranslate2 would cut it at 1,024 tokens
    export_student(student, tokenizer, tmp_path / "long", **options)
    batch = tokenizer("say it: " + options["sentences"][0])["input_ids"]
    assert len(batch) > 1100 and "max_input_length=0" in (tmp_path / "long" / "README.md").read_text()
    expected = greedy(student, tokenizer, "say it: " + options["sentences"][0])
    assert readme_prints(tmp_path / "long", monkeypatch) == expected


@pytest.mark.filterwarnings("ignore")
def test_a_text_without_words_and_a_folder_that_is_a_link(marian, tmp_path):
    student, tokenizer, _ = marian
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")
    options = {"to": "ctranslate2", "sentences": ["", "\u200b", *ENGLISH]}  # the first two are no tokens
    report = export_student(student, tokenizer, tmp_path / "out", **options)
    assert report.rows[1].agreement.sentences == len(ENGLISH)
    assert (tmp_path / "disk" / "model.bin").exists() and left_behind(tmp_path) == ["disk", "out"]


# --- what is not the student is not handed over ----------------------------------------------------------------------


def corrupt(file, weights, change):
    """Changes the bytes of a float32 tensor inside a file."""
    data, old = file.read_bytes(), weights.detach().numpy().tobytes()
    assert data.count(old) == 1
    file.write_bytes(data.replace(old, np.asarray(change(weights.detach().numpy()), dtype=np.float32).tobytes()))


def spoilt(monkeypatch, quantization, spoil):
    """Between conversion and check, ``spoil(folder)``."""
    from hf_weight_distill.export.ctranslate2 import CTranslate2

    real = CTranslate2.convert

    def convert(self, draft, asked):
        real(self, draft, asked)
        if asked == quantization:
            spoil(draft / asked)

    monkeypatch.setattr(CTranslate2, "convert", convert)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", [lambda w: 1.02 * w, lambda w: w * np.nan], ids=["a little", "not a number"])
@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_a_changed_weight_is_caught_and_nothing_stays(marian, tmp_path, monkeypatch, quantization, change):
    student, tokenizer, _ = marian
    weights = student.model.encoder.layers[0].fc1.weight
    spoilt(monkeypatch, "float32", lambda folder: corrupt(folder / "model.bin", weights, change))
    options = {"to": "ctranslate2", "quantization": quantization, "sentences": ENGLISH}
    with pytest.raises(ParityError, match="is not the student: . of 3 sentences .* 0.001 is allowed; nothing was"):
        export_student(student, tokenizer, tmp_path / "here" / "out", **options)
    assert left_behind(tmp_path / "here") == []


@pytest.mark.filterwarnings("ignore")
def test_scores_are_compared_and_not_only_outputs(tmp_path, monkeypatch):
    """Scaled logits have the same greedy output, but beams would not."""
    from hf_weight_distill.export import ctranslate2 as module

    student, tokenizer = tiny_student("flan-t5")
    monkeypatch.setattr(module, "scales_outputs", lambda config: True)
    with pytest.raises(
        ParityError, match=r": 3 of 3 sentences have the same greedy output .* differ by up to \d\.\de\+00"
    ):
        export_student(student, tokenizer, tmp_path / "out", to="ctranslate2", sentences=WORDS)


@pytest.mark.filterwarnings("ignore")
def test_garbage_in_int8_is_refused_if_int8_is_what_is_written(marian, tmp_path, monkeypatch):
    student, tokenizer, _ = marian

    def spoil(folder):
        """Another model's weights."""
        other = tiny_marian_model(tokenizer, encoder_layers=1, decoder_layers=1, seed=1)
        other.save_pretrained(tmp_path / "other")
        tokenizer.save_pretrained(tmp_path / "other")
        converter = ctranslate2.converters.TransformersConverter(str(tmp_path / "other"))
        converter.convert(str(tmp_path / "converted"), quantization="int8", force=True)
        shutil.copy(tmp_path / "converted" / "model.bin", folder / "model.bin")

    spoilt(monkeypatch, "int8", spoil)
    options = {"to": "ctranslate2", "sentences": ENGLISH}
    with pytest.raises(
        ParityError, match=r"int8 spoils this student: .* by \d+\.\d\d nats a token, where 0.5 are allowed"
    ):
        export_student(student, tokenizer, tmp_path / "int8", quantization="int8", **options)
    assert not (tmp_path / "int8").exists()
    report = export_student(student, tokenizer, tmp_path / "float32", quantization="float32", **options)
    assert report.rows[2].agreement.loss > 0.5


@pytest.mark.parametrize("name", ["encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"])
def test_a_change_in_any_onnx_graph_is_seen(onnx_folder, marian, tmp_path, name):
    student, tokenizer, _ = marian
    expected = references(student, tokenizer, ENGLISH)
    folder = shutil.copytree(onnx_folder, tmp_path / "out")
    assert compare_outputs(Onnx(), OnnxModel(folder), student, expected, 1e-3).difference < 2e-5
    graph = onnx.load(folder / name)
    weights = max(
        (w for w in graph.graph.initializer if w.dims == [32, 16] or w.dims == [16, 32]), key=lambda w: w.name
    )
    weights.raw_data = (1.02 * np.frombuffer(weights.raw_data, dtype=np.float32)).tobytes()
    onnx.save(graph, folder / name)
    assert compare_outputs(Onnx(), OnnxModel(folder), student, expected, 1e-3).difference > 1e-3


def test_a_tie_is_the_students_own_and_no_difference(marian):
    """Two tokens with one embedding have one logit: which comes first is nobody's fault."""
    student, tokenizer, _ = marian
    twin = AutoModelForSeq2SeqLM.from_pretrained(marian[2]).eval()
    [(batch, outputs)] = references(twin, tokenizer, ENGLISH)
    first, other = outputs[0, 1].item(), next(i for i in range(2, 60) if i not in outputs[:, 1:])

    class Swapped:
        config, device = twin.config, twin.device

        def generate(self, **_):
            return torch.where(outputs == first, other, outputs)

    class Same:
        def follow(self, model, reference):
            return 0.0, torch.zeros(reference.mask.shape)

    rows = int((outputs[:, 1:] == first).any(1).sum())
    found = compare_outputs(Same(), Swapped(), twin, [(batch, outputs)], 1e-3)
    assert (found.sentences, found.identical, found.ties) == (3, 3 - rows, 0)
    with torch.no_grad():  # only the head: the output so far stays the same
        twin.lm_head.weight = torch.nn.Parameter(twin.lm_head.weight.clone())
        twin.lm_head.weight[other] = twin.lm_head.weight[first]
        twin.final_logits_bias[0, other] = twin.final_logits_bias[0, first]
    found = compare_outputs(Same(), Swapped(), twin, [(batch, outputs)], 1e-3)
    assert (found.identical, found.ties) == (3 - rows, rows)


# --- what cannot be exported is refused ------------------------------------------------------------------------------


def _moved_padding(student):
    student.config.pad_token_id = student.generation_config.pad_token_id = 5


def _nonzero_padding(student):
    with torch.no_grad():
        student.model.shared.weight[student.config.pad_token_id] = 0.1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "shape", "change", "message"),
    [
        (
            "bart",
            {"d_model": 8, "attention_heads": (4, 2)},
            None,
            "4 and 2 attention heads; CTranslate2's converter reads one number",
        ),
        ("m2m_100", {}, _moved_padding, "pad_token_id=5 moves the positions, which M2M100 counts from it"),
        ("marian", {}, _moved_padding, "<pad> is token 5 of 40 .* CTranslate2's converter cuts the last one off"),
        ("marian", {}, _nonzero_padding, "the decoder does not start from an embedding of zeros"),
        ("bart", {}, lambda s: setattr(s.config, "activation_function", "tanh"), "cannot convert .*KeyError: 'tanh'"),
    ],
)
def test_what_ctranslate2_cannot_hold_is_refused_with_the_reason(family, shape, change, message, tmp_path):
    student, _ = tiny_student(family, **shape)
    if change:
        change(student)
    with pytest.raises(ValueError, match=message) as caught:
        export_student(student, words(student), tmp_path / "in" / "out", to="ctranslate2", sentences=WORDS)
    assert "the onnx format" in str(caught.value)
    assert not (tmp_path / "in" / "out").exists()


@pytest.mark.filterwarnings("ignore")
def test_two_vocabularies_are_left_to_onnx(tmp_path):
    student, tokenizer = tiny_student("marian")
    tokenizer.separate_vocabs = True
    with pytest.raises(ValueError, match="source and target have a vocabulary each.*use the onnx format"):
        export_student(student, tokenizer, tmp_path / "out", to="ctranslate2", sentences=WORDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "tflite"}, "to='tflite', expected one of ctranslate2, onnx"),
        ({"quantization": "int4"}, "quantization='int4', expected float32 or int8"),
        ({"sentences": []}, "found no sentence with words in it"),
        ({"sentences": ["", "\u200b"]}, "found no sentence with words in it"),
        ({"output_dir": "."}, "exists and is not empty"),
        ({"output_dir": "mine/out"}, "mine is no folder that can be written to"),
    ],
)
def test_wrong_use_is_refused_before_work(marian, tmp_path, monkeypatch, options, message):
    student, tokenizer, _ = marian
    (tmp_path / "mine").write_text("precious")
    monkeypatch.setattr(export, "_saved", None)
    options = {"output_dir": "out", "to": "ctranslate2", "sentences": ENGLISH} | options
    with pytest.raises(ValueError, match=message):
        export_student(student, tokenizer, tmp_path / options.pop("output_dir"), **options)
    assert left_behind(tmp_path) == ["mine"]


@pytest.mark.parametrize(
    ("to", "module"), [("ctranslate2", "ctranslate2"), ("onnx", "onnxruntime"), ("onnx", "onnxscript")]
)
def test_a_missing_extra_is_named(marian, tmp_path, monkeypatch, to, module):
    monkeypatch.delitem(sys.modules, f"hf_weight_distill.export.{to}")
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    with pytest.raises(
        ValueError, match=rf"{module}.*, which is not installed: pip install 'hf_weight_distill\[{to}\]'"
    ):
        export_student(marian[0], marian[1], tmp_path / "out", to=to, sentences=ENGLISH)


def test_a_student_beyond_one_file_is_refused(marian, tmp_path, monkeypatch):
    from hf_weight_distill.export import onnx as module

    monkeypatch.setattr(module, "LARGEST", 1000)
    with pytest.raises(ValueError, match="one ONNX file holds less than 2: use the ctranslate2 format"):
        export_student(marian[0], marian[1], tmp_path / "out", to="onnx", sentences=ENGLISH)
    assert left_behind(tmp_path) == []


def test_a_folder_of_the_working_directory_has_its_name(marian, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    export_student(marian[0], marian[1], ".", to="ctranslate2", sentences=ENGLISH)
    assert Path("README.md").read_text(encoding="utf-8").startswith("# out\n")
    assert readme_prints(tmp_path / "out", monkeypatch) == greedy(*marian[:2], ENGLISH[0], max_length=128) != ""


@pytest.mark.parametrize("tied", [True, False])
def test_the_largest_file_holds_a_tied_head_twice(tied, tmp_path):
    """Of what is written on the way to int8."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from hf_weight_distill.export import onnx as module

    tokenizer = tiny_marian_tokenizer(tmp_path / "tokenizer")
    student = tiny_marian_model(tokenizer, vocab_size=60_000, tie_word_embeddings=tied)
    student.save_pretrained(tmp_path / "student")
    with module._quiet():
        module._convert(tmp_path / "student", tmp_path)
        quant_pre_process(str(tmp_path / module.DECODER), str(tmp_path / "folded"), skip_symbolic_shape=True)
    assert (tmp_path / "folded").stat().st_size == pytest.approx(module._largest_file(student), rel=0.05)


# --- the command line and the documentation --------------------------------------------------------------------------


@pytest.fixture
def corpus(monkeypatch):
    monkeypatch.setattr(data_module, "_corpus", lambda: built_in_corpus(4, 2, 3))


def call(*argv):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(part) for part in argv])
    return code, out.getvalue(), err.getvalue()


@pytest.mark.filterwarnings("ignore")
@needs_vnni
def test_the_command_writes_and_shows_the_table(marian, tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(export, "BATCH_SIZES", (2,))
    options = ["--to", "ctranslate2", "--quantization", "int8", "--output-dir", tmp_path / "out"]
    code, out, err = call("export", marian[2], *options)
    assert code == 0, err
    assert "CTranslate2 int8" in out and "3 of 3" in out and "written: int8" in out and "tokens/s, batch 2" in out
    assert "export to ctranslate2: 3 models in" in err
    assert ctranslate2.Translator(str(tmp_path / "out")).compute_type.startswith("int8")
    assert AutoTokenizer.from_pretrained(tmp_path / "out")(ENGLISH).input_ids == marian[1](ENGLISH).input_ids
    assert call("export", marian[2], *options)[0] == 2


@pytest.mark.filterwarnings("ignore")
def test_a_setting_that_the_runtime_lacks_is_told_from_a_wrong_weight(marian, tmp_path):
    student, tokenizer, _ = marian
    student = copy.deepcopy(student)
    first = student.generate(**tokenizer(ENGLISH[:1], return_tensors="pt"), max_new_tokens=1, num_beams=1)[0, 1].item()
    student.generation_config.sequence_bias = [[[first], -100.0]]  # CTranslate2 has no such thing
    with pytest.raises(ParityError, match="0.001 is allowed; nothing was written: the weights are right; generation_"):
        export_student(student, tokenizer, tmp_path / "out", to="ctranslate2", sentences=ENGLISH)


@pytest.mark.filterwarnings("ignore")
def test_the_command_says_in_one_line_what_is_not_the_student(marian, tmp_path, corpus, monkeypatch):
    weights = marian[0].model.decoder.layers[0].fc1.weight
    spoilt(monkeypatch, "float32", lambda folder: corrupt(folder / "model.bin", weights, lambda w: -w))
    code, out, err = call("export", marian[2], "--to", "ctranslate2", "--output_dir", tmp_path / "out")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("hf-weight-distill export: the CTranslate2 model is not the student: ")
    assert not (tmp_path / "out").exists()


def test_the_help_names_the_formats_of_the_package_and_an_example_that_runs(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = call("export", "--help")
    assert code == 0 and "{" + ",".join(FORMATS) + "}" in out
    assert next(documented()).values[1].strip() in out  # run below


def documented():
    """Blocks of code of the page; tracing for ONNX takes its time."""
    text = (DOCS / "deployment.md").read_text(encoding="utf-8")
    for language, block in re.findall(r"```(bash|python)\n(.*?)```", text, flags=re.S):
        marks = [pytest.mark.slow] if "--to onnx" in block else []
        if "ctranslate2 --quantization int8" in block:
            marks.append(needs_vnni)
        yield pytest.param(language, block, marks=marks)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("language", "block"), list(documented()))
def test_the_documentation_runs(language, block, marian, tmp_path, corpus, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(marian[2], tmp_path / "runs" / "small" / "student")
    if language == "python":
        exec(block, {})
    else:
        program, *arguments = shlex.split(block)
        assert program == "hf-weight-distill"
        assert main(arguments) == 0
    assert len(list((tmp_path / "runs" / "small").glob("*/export.json"))) == 1


def test_nats_are_counted_for_each_generated_token_and_for_no_padding(tmp_path):
    tokenizer = tiny_marian_tokenizer(tmp_path / "t")
    student = tiny_marian_model(tokenizer)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    batch = tokenizer(list(SENTENCES[:2]), return_tensors="pt", padding=True)
    outputs = torch.tensor([[pad, 5, 6, 7, 8, eos], [pad, 5, eos, pad, pad, pad]])
    masks = []
    form = SimpleNamespace(follow=lambda model, r: masks.append(r.mask) or (0.0, torch.ones(2, 5)))
    found = compare_outputs(form, student, student, [(batch, outputs)], 1e-3)
    assert masks[0].tolist() == [[True] * 5, [True, True, False, False, False]]
    assert found.loss == pytest.approx(1.0)
