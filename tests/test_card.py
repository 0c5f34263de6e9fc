"""The card reads as a card, its numbers are the measured ones and its code runs."""

import contextlib
import io
import re
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from tiny import tiny_marian_model, tiny_marian_tokenizer
from transformers import MarianConfig, T5Config

from hf_weight_distill.card import (
    PAPERS,
    SEQUENCE_LEVEL_KD,
    WEIGHT_DISTILLATION,
    CardInfo,
    Component,
    build_card,
    inherited_fields,
    readdressed,
    shape_table,
    write_card,
)
from hf_weight_distill.evaluation import Comparison, ComparisonRow
from hf_weight_distill.objectives import OBJECTIVES
from hf_weight_distill.schedules import SCHEDULES
from hf_weight_distill.sources import SOURCES

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
        teacher_license="cc-by-4.0",
        languages=("en", "de"),
        shape={"decoder layers": (6, 2), "odd | name": (1, 2)},
        recipe="paper",
        training={"steps": 100, "learning_rate": 5e-4, "phases": ("weights", "student"), "nested": {"beam": 6}},
        components=(WEIGHT_DISTILLATION, SEQUENCE_LEVEL_KD),
        comparison=comparison,
        dataset="someone/captions",
        eval_split="test",
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
        "tags": [
            "distillation",
            "hf-weight-distill",
            "weight-distillation",
            "sequence-level-knowledge-distillation",
            "small",
        ],
    }
    (result,) = index[0]["results"]
    assert index[0]["name"] == "tiny-en-de"
    assert result["task"] == {"type": "translation", "name": "Translation"}
    assert result["dataset"] == {"type": "someone/captions", "name": "someone/captions", "split": "test"}
    assert [(metric["type"], metric["name"], metric["value"]) for metric in result["metrics"]] == [
        ("bleu", "BLEU (greedy)", 31.23),
        ("bleu", "BLEU (beam 5)", 32.25),
        ("chrf", "chrF (greedy)", 58.0),
    ]
    assert result["metrics"][0]["args"] == {"num_beams": 1, "signature": SIGNATURE}


def test_the_scores_survive_the_model_index(info):
    card = build_card(info)
    results = card.data.eval_results
    assert model_index_to_eval_results(eval_results_to_model_index("x", results))[1] == results
    loaded = ModelCardData(**yaml.safe_load(card.data.to_yaml())).eval_results
    assert [(r.metric_type, r.metric_value, r.metric_args) for r in loaded] == [
        (r.metric_type, r.metric_value, r.metric_args) for r in results
    ]


def test_the_first_lines_say_how_small_and_how_fast(info):
    text = build_card(info).text.partition("## ")[0]
    assert "1,500,000 parameters (0.25 times the teacher's)" in text
    assert "generates 4.00 times as many tokens per second (beam 5, batch 32)." in text
    assert "It has" not in build_card(replace(info, comparison=None)).text


def test_where_vocabularies_differ_sentences_are_compared_and_not_tokens(info):
    rows = (*info.comparison.rows, ComparisonRow("sentences_per_second", 10.0, 15.0, 5, 32, 0.1, 0.2))
    measured = replace(info, comparison=replace(info.comparison, rows=rows))
    note = "The vocabularies differ"
    same, cut = ({"vocabulary": sizes} for sizes in ((100, 100), (100, 70)))
    card = build_card(replace(measured, shape=same))
    assert "4.00 times as many tokens per second" in card.text and note not in card.text
    card = build_card(replace(measured, shape=cut))
    assert "generates 1.50 times as many sentences per second (beam 5, batch 32)." in card.text
    assert note in section(card, "Size and speed")


def test_the_tables_hold_the_numbers(info):
    card = build_card(info)
    assert table(section(card, "Shape"))[1:] == [["decoder layers", "6", "2"], ["odd \\| name", "1", "2"]]
    scores = section(card, "Scores")
    assert table(scores) == [
        ["metric", "search", "teacher", "student"],
        ["BLEU", "greedy", "34.57", "31.23"],
        ["BLEU", "beam 5", "35.50", "32.25"],
        ["chrF", "greedy", "60.12", "58.00"],
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


def test_a_student_that_was_not_trained_is_not_said_to_be_distilled(info):
    start = replace(info, trained=False, method=": its weights were computed", components=())
    card = build_card(start)
    assert "model, made without training from [someone/big-en-de]" in card.text and "distilled from" not in card.text
    training = section(card, "Training")
    assert training.startswith("\nData: [someone/captions]") and "of a training had no effect:\n" in training
    assert "Made with `hf_weight_distill`: its weights were computed. All settings" in training
    assert "training data" not in section(card, "Intended use")
    assert "distilled from" in build_card(info).text and "Training data: " in section(build_card(info), "Training")


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
    own = build_card(replace(info, teacher_license=None, license="mit"))
    assert "`mit`. The weights are derived from the teacher's: its terms hold, too." in section(own, "Licence")
    unknown = build_card(CardInfo("a/b", "c/d"))
    assert "look it up" in section(unknown, "Licence")
    assert "license" not in unknown.data.to_dict()


def test_every_paper_of_a_component_can_be_cited():
    papers = {part.paper for part in [*SOURCES.values(), *OBJECTIVES.values(), *SCHEDULES.values()]}
    label_smoothing = "https://arxiv.org/abs/1512.00567"  # a setting of ordinary training, on the card as such
    assert papers - {"", label_smoothing} <= set(PAPERS)


TEACHER_CARDS = {
    "---\nlicense: mit\nlanguage: en\nbase_model: someone/big\n---\n# T": {
        "teacher_license": "mit",
        "languages": ("en",),
        "teacher_bases": ("someone/big",),
    },
    "---\nlanguage: [en, no]\nbase_model: [/home/me/x, a/b, c/d]\n---\n": {
        "languages": ("en", "no"),  # which YAML reads as False
        "teacher_bases": ("a/b", "c/d"),
    },
    "---\nlicense: other\nlicense_name: own\nlicense_link: https://x.org/l\n---\n": {
        "teacher_license": "other",
        "license_name": "own",
        "license_link": "https://x.org/l",
    },
    "---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n": {
        "teacher_license": "other",
        "license_name": "own",  # the link would lead nowhere
    },
    "---\nlicense: [mit, gpl-3.0]\n---\n": {},
    "# A page without metadata": {},
    "---\nlicense: [\n---\n": {},
    "---\n- a list\n---\n": {},
}


@pytest.mark.parametrize("text", TEACHER_CARDS)
def test_a_folder_passes_on_what_its_card_says(text, tmp_path):
    (tmp_path / "README.md").write_text(text)
    assert inherited_fields(str(tmp_path)) == TEACHER_CARDS[text]


def test_no_card_and_no_hub_are_no_reason_to_fail(tmp_path):
    for teacher in (str(tmp_path), str(tmp_path / "nowhere"), "someone/offline", "T5", ""):
        assert inherited_fields(teacher) == {}


def test_another_licence_than_the_teachers_is_not_passed_over(info):
    with pytest.warns(UserWarning, match="license='mit', but the card of the teacher.*'cc-by-4.0'"):
        other = replace(info, license="mit")
    text = section(build_card(other), "Licence")
    assert "`mit`. The weights are derived from the teacher's, whose card says `cc-by-4.0`: its terms hold" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert replace(info, license="cc-by-4.0").license == "cc-by-4.0"


def test_a_licence_of_its_own_comes_with_name_and_link():
    info = CardInfo("a/b", "c/d", teacher_license="other", license_name="own", license_link="https://x.org/l")
    data = build_card(info).data.to_dict()
    assert (data["license"], data["license_name"], data["license_link"]) == ("other", "own", "https://x.org/l")
    assert "[own](https://x.org/l), inherited from the teacher" in section(build_card(info), "Licence")


@pytest.mark.parametrize(
    "teacher, bases, adapter, base_model, text",
    [
        ("a/fine", (), None, "a/fine", "distilled from [a/fine](https://huggingface.co/a/fine),"),
        ("./fine", ("a/big",), None, "a/big", "from `fine`, which was made from [a/big](https://huggingface.co/a/big)"),
        ("a/lora", ("a/big",), "LORA", ["a/lora", "a/big"], "co/a/lora), a LORA adapter of [a/big]("),
        ("./lora", ("a/big",), "LORA", "a/big", "distilled from `lora`, a LORA adapter of [a/big]"),
        ("a/big", (), "LORA", "a/big", "[a/big](https://huggingface.co/a/big) with a LORA adapter merged into it"),
    ],
)
def test_the_model_tree_knows_what_the_teacher_was_made_from(teacher, bases, adapter, base_model, text):
    card = build_card(CardInfo("x/y", teacher, teacher_bases=bases, teacher_adapter=adapter))
    assert card.data.base_model == base_model and card.data.base_model_relation == "finetune"
    assert text in card.text


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
    info = CardInfo("a/b", "t5-small", dataset="29,000 caption pairs", eval_split="x", comparison=comparison)
    card = build_card(info)
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


def test_scores_are_not_said_to_be_of_the_training_data(info):
    card = build_card(replace(info, eval_split=None))
    assert "sentences of a data set that was not named." in section(card, "Scores")
    assert card.data.eval_results[0].dataset_type == "custom" and card.data.eval_results[0].dataset_split is None


def test_a_configuration_of_a_data_set_is_no_part_of_its_name(info):
    for name, repository in (("wmt/wmt16:ro-en", "wmt/wmt16"), ("wmt16:ro-en", "wmt16")):
        card = build_card(replace(info, dataset=name))
        assert card.data.datasets == [repository]
        result = card.data.eval_results[0]
        assert (result.dataset_type, result.dataset_config, result.dataset_split) == (repository, "ro-en", "test")
        link = f"[{repository}](https://huggingface.co/datasets/{repository}), configuration `ro-en`"
        assert f"Training data: {link}." in card.text and f"sentences of {link}, split `test`." in card.text
        part = build_card(replace(info, dataset=name, dataset_split="train[:1%]")).text
        assert f"Training data: {link}, split `train[:1%]`." in part
    for name in ("Multi30k", "29,000 pairs: captions", "built-in"):
        assert build_card(replace(info, dataset=name)).data.datasets is None
    assert "Training data: generated English-German sentences" in build_card(replace(info, dataset="built-in")).text


def test_limits_name_the_longest_text(info):
    text = section(build_card(replace(info, max_lengths=(128, 64), limits="No poems.")), "Limits")
    assert "cut sources at 128 and targets at 64 tokens" in text and text.rstrip().endswith("No poems.")


def test_one_text_is_not_a_sequence_of_letters(info):
    data = build_card(replace(info, languages="de", tags="news", teacher_bases="a/b")).data
    assert data.language == ["de"] and data.tags[-1] == "news" and data.base_model == ["someone/big-en-de", "a/b"]


def test_a_card_can_move(info):
    card = build_card(replace(info, model_name="student", src_lang="en"))
    moved = readdressed(ModelCard(str(card)), "me/new-name", "v2")
    assert moved.text.count("# me/new-name\n") == 1 and 'name = "me/new-name"\n' in moved.text
    assert moved.text.count('from_pretrained(name, revision="v2"') == 2
    assert moved.data.to_dict()["model-index"][0]["name"] == "new-name"
    again = readdressed(ModelCard(str(moved)), "student")
    assert again.text == card.text


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
    ids = model.generate(**tokenizer(example, return_tensors="pt"), max_length=128)
    assert printed.getvalue().strip() == str(tokenizer.batch_decode(ids, skip_special_tokens=True))
    assert type(names["model"]).__name__ == "MarianMTModel"


@pytest.mark.parametrize(
    ("known", "options"),
    [
        ({}, ", max_length=128"),
        ({"max_lengths": (512, 100)}, ", max_length=128"),
        ({"max_lengths": (512, 200)}, ", max_length=201"),
        ({"max_lengths": (512, 200), "bounded": True}, ""),
    ],
)
def test_the_code_keeps_to_the_models_own_length(known, options):
    code = section(build_card(CardInfo("a/b", "c/d", **known)), "How to use it")
    assert f"model.generate(**batch{options})" in code


def test_language_codes_reach_the_code():
    code = section(build_card(CardInfo("a/b", "c/d", src_lang="eng_Latn", tgt_lang="deu_Latn")), "How to use it")
    compile(re.search(r"```python\n(.*?)```", code, re.S).group(1), "card", "exec")
    assert "from_pretrained(name, src_lang='eng_Latn')" in code
    assert "It writes `deu_Latn`, whose token `generation_config.json` puts first." in code
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


def test_the_headline_has_the_first_setting():
    rows = [ComparisonRow("tokens_per_second", 10.0, 10.0 * n, 1, size, 0.0, 0.0) for n, size in ((3, 1), (5, 32))]
    card = build_card(CardInfo("me/small", "you/large", comparison=Comparison(tuple(rows), {}, {}, 2, 2)))
    assert "generates 3.00 times as many tokens per second (greedy, batch 1)." in card.text
