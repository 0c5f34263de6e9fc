"""The card reads as a card, its numbers are the measured ones and its code runs."""

import contextlib
import io
import re
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from tiny import tiny_marian_model, tiny_marian_tokenizer
from transformers import MarianConfig, T5Config

from hf_weight_distill.card import (
    SEQUENCE_LEVEL_KD,
    WEIGHT_DISTILLATION,
    CardInfo,
    Component,
    build_card,
    shape_table,
    write_card,
)
from hf_weight_distill.evaluation import Comparison, ComparisonRow

SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"


@pytest.fixture
def comparison():
    rows = (
        ComparisonRow("bleu", 34.567, 31.234, num_beams=1),
        ComparisonRow("bleu", 35.5, 32.25, num_beams=5),
        ComparisonRow("chrf", 60.125, 58.0, num_beams=1),
        ComparisonRow("parameters", 6_000_000, 1_500_000),
        ComparisonRow("bytes_on_disk", 24_000_000, 6_000_000),
        ComparisonRow("tokens_per_second", 100.5, 402.0, 5, 32, 0.1, 0.2),
    )
    return Comparison(rows, {"bleu": SIGNATURE, "chrf": "nc:6"}, {"device": "cpu (test)", "threads": 1}, 1000, 64)


@pytest.fixture
def info(comparison):
    return CardInfo(
        model_name="someone/tiny-en-de",
        teacher_name="someone/big-en-de",
        teacher_revision="abc123",
        license="cc-by-4.0",
        languages=("en", "de"),
        shape={"decoder layers": (6, 2), "odd | name": (1, 2)},
        recipe="paper",
        training={"steps": 100, "learning_rate": 5e-4, "phases": ("weights", "student"), "nested": {"beam": 6}},
        components=(WEIGHT_DISTILLATION, SEQUENCE_LEVEL_KD),
        comparison=comparison,
        dataset="someone/captions",
        tags=("small",),
    )


def section(card, heading):
    return card.text.split(f"## {heading}\n")[1].split("\n## ")[0]


def table(text):
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:2] == "| "]
    return rows


def test_the_written_card_reads_back(info, tmp_path):
    card = write_card(tmp_path / "student", info)
    loaded = ModelCard.load(tmp_path / "student" / "README.md")
    assert loaded.text == card.text
    assert loaded.data.to_dict() == card.data.to_dict()
    assert write_card(None, info).content == card.content


def test_the_metadata_say_what_the_hub_wants_to_know(info):
    data = ModelCardData(**yaml.safe_load(build_card(info).data.to_yaml())).to_dict()
    index = data.pop("model-index")
    assert data == {
        "language": ["en", "de"],
        "license": "cc-by-4.0",
        "library_name": "transformers",
        "pipeline_tag": "translation",
        "base_model": "someone/big-en-de",
        "base_model_relation": "finetune",
        "datasets": ["someone/captions"],
        "metrics": ["bleu", "chrf"],
        "tags": ["distillation", "weight-distillation", "sequence-level-knowledge-distillation", "small"],
    }
    (result,) = index[0]["results"]
    assert index[0]["name"] == "tiny-en-de"
    assert result["task"] == {"type": "translation", "name": "Translation"}
    assert result["dataset"] == {"type": "someone/captions", "name": "someone/captions", "split": "test"}
    assert [(metric["type"], metric["name"], metric["value"]) for metric in result["metrics"]] == [
        ("bleu", "BLEU (greedy)", 31.23),
        ("bleu", "BLEU (beam 5)", 32.25),
        ("chrf", "chrF2 (greedy)", 58.0),
    ]
    assert result["metrics"][0]["args"] == {"num_beams": 1, "signature": SIGNATURE}


def test_the_tables_hold_the_numbers(info):
    card = build_card(info)
    assert table(section(card, "Shape"))[1:] == [["decoder layers", "6", "2"], ["odd \\| name", "1", "2"]]
    scores = section(card, "Scores")
    assert table(scores) == [
        ["metric", "search", "teacher", "student"],
        ["BLEU", "greedy", "34.57", "31.23"],
        ["BLEU", "beam 5", "35.50", "32.25"],
        ["chrF2", "greedy", "60.12", "58.00"],
    ]
    assert SIGNATURE in scores and "1,000 sentences of [someone/captions]" in scores
    assert table(section(card, "Size and speed"))[1:] == [
        ["parameters", "6,000,000", "1,500,000", "0.25x"],
        ["bytes on disk", "24,000,000", "6,000,000", "0.25x"],
        ["tokens/s (beam 5, batch 32)", "100.50", "402", "4.00x"],
    ]
    assert "cpu (test)" in section(card, "Size and speed")


def test_the_recipe_is_whole_and_yaml(info):
    block = re.search(r"```yaml\n(.*?)```", section(build_card(info), "Training"), re.S).group(1)
    assert yaml.safe_load(block) == {
        "recipe": "paper",
        "steps": 100,
        "learning_rate": 5e-4,
        "phases": ["weights", "student"],
        "nested": {"beam": 6},
    }


def test_each_component_is_cited(info):
    own = Component("My Method", "A Title", "https://example.org/paper", "@misc{mine}")
    for component in (WEIGHT_DISTILLATION, SEQUENCE_LEVEL_KD, own):
        card = build_card(CardInfo("a/b", "c/d", components=(component,)))
        assert f"```bibtex\n{component.bibtex}\n```" in section(card, "Citation")
        assert component.paper_url in section(card, "Citation")
        assert component.tag in card.data.tags
    assert own.tag == "my-method"
    assert "2009.09152" in WEIGHT_DISTILLATION.paper_url and "1606.07947" in SEQUENCE_LEVEL_KD.paper_url


def test_the_licence_is_inherited_or_said_to_be_unknown(info):
    assert "`cc-by-4.0`, inherited from the teacher" in section(build_card(info), "Licence")
    unknown = build_card(CardInfo("a/b", "c/d"))
    assert "look it up" in section(unknown, "Licence")
    assert "license" not in unknown.data.to_dict()


def test_a_card_that_knows_little_is_still_a_card():
    card = build_card(CardInfo("a/b", "c/d", components=()))
    assert "No scores were measured" in section(card, "Scores")
    assert "## Shape" not in card.text and "## Size and speed" not in card.text and "## Citation" not in card.text
    assert "model-index" not in card.data.to_dict()
    assert "None" not in str(card)


def test_local_paths_stay_private(tmp_path):
    (tmp_path / "teacher").mkdir()
    for name in (str(tmp_path / "teacher"), "/not/here/teacher", "./runs/teacher", "~/teacher"):
        card = build_card(CardInfo("a/b", name, dataset=str(tmp_path / "teacher")))
        assert "base_model" not in card.data.to_dict() and "datasets" not in card.data.to_dict()
        assert "distilled from `teacher`" in card.text
        assert str(tmp_path) not in str(card) and name not in str(card)


def test_a_description_is_no_repository(comparison):
    card = build_card(CardInfo("a/b", "t5-small", dataset="29,000 caption pairs", comparison=comparison))
    assert card.data.base_model == "t5-small"
    assert card.data.datasets is None
    assert card.data.eval_results[0].dataset_type == "custom"
    assert card.data.eval_results[0].dataset_name == "29,000 caption pairs"
    assert "Training data: 29,000 caption pairs." in card.text


def test_the_evaluation_may_have_its_own_data(info, comparison):
    card = build_card(
        CardInfo("a/b", "c/d", dataset="e/train", eval_dataset="f/news", eval_split="dev", comparison=comparison)
    )
    assert card.data.datasets == ["e/train"]
    assert (card.data.eval_results[0].dataset_type, card.data.eval_results[0].dataset_split) == ("f/news", "dev")


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="found task='chat', expected one of translation, summarization"):
        CardInfo("a/b", "c/d", task="chat")


def test_the_code_on_the_card_runs(tmp_path, monkeypatch):
    tokenizer = tiny_marian_tokenizer(tmp_path / "tokenizer")
    model = tiny_marian_model(tokenizer)
    folder = tmp_path / "someone" / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    example = 'the "cat" \\ sleeps'
    card = write_card(folder, CardInfo("someone/tiny", "someone/big", example=example))
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.S)
    # Transformers takes a folder of that name before it asks the Hub.
    monkeypatch.chdir(tmp_path)
    printed, names = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(code, names)
    ids = model.generate(**tokenizer(example, return_tensors="pt"), max_new_tokens=128)
    assert printed.getvalue().strip() == str(tokenizer.batch_decode(ids, skip_special_tokens=True))
    assert type(names["model"]).__name__ == "MarianMTModel"


def test_language_codes_reach_the_code():
    code = section(build_card(CardInfo("a/b", "c/d", src_lang="eng_Latn", tgt_lang="deu_Latn")), "How to use it")
    compile(re.search(r"```python\n(.*?)```", code, re.S).group(1), "card", "exec")
    assert "from_pretrained(name, src_lang='eng_Latn')" in code
    assert "forced_bos_token_id=tokenizer.convert_tokens_to_ids('deu_Latn')" in code
    assert "pipeline(" not in code


def test_shapes_come_from_the_configs_of_each_family():
    marian = shape_table(
        MarianConfig(encoder_layers=6, decoder_layers=6, d_model=512, encoder_ffn_dim=2048, decoder_ffn_dim=2048),
        MarianConfig(encoder_layers=3, decoder_layers=1, d_model=256, encoder_ffn_dim=1024, decoder_ffn_dim=512),
    )
    assert marian["encoder layers"] == (6, 3) and marian["decoder layers"] == (6, 1)
    assert marian["model width"] == (512, 256) and marian["decoder FFN width"] == (2048, 512)
    t5 = shape_table(T5Config(num_layers=6, d_ff=99), T5Config(num_layers=4, num_decoder_layers=2, d_ff=50))
    assert t5["encoder layers"] == (6, 4) and t5["decoder layers"] == (6, 2)
    assert t5["encoder FFN width"] == t5["decoder FFN width"] == (99, 50)
    assert shape_table(SimpleNamespace(d_model=8), SimpleNamespace(d_model=4)) == {"model width": (8, 4)}
