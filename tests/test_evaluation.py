"""Scores against sacrebleu and rouge_score called directly and against numbers computed by hand; speed and size."""

import dataclasses
import json
import math
import random
import string
import time
from types import SimpleNamespace

import numpy as np
import pytest
import sacrebleu
import torch
from rouge_score import rouge_scorer
from safetensors import safe_open
from tiny import SENTENCES, tiny_marian_model, tiny_marian_tokenizer
from transformers import EvalPrediction

from hf_weight_distill import evaluation
from hf_weight_distill.evaluation import (
    METRICS,
    Bleu,
    ChrF,
    Comparison,
    ComparisonRow,
    Rouge,
    compare,
    compute_scores,
    decoding_speed,
    generate_batch,
    make_compute_metrics,
    model_size,
    translate,
)

PREDICTIONS = ["the cat sat on the mat .", "two dogs are running", "a man rides"]
REFERENCES = ["the cat sat on a mat .", "two dogs run fast", "a man rides his bike to work"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_marian_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def model(tokenizer):
    return tiny_marian_model(tokenizer)


# metrics


@pytest.mark.parametrize("in_memory", [True, False])
def test_bleu_and_chrf_are_sacrebleu(in_memory, tmp_path):
    options = {"keep_in_memory": in_memory, "cache_dir": str(tmp_path)}
    bleu = Bleu(**options).compute(predictions=PREDICTIONS, references=REFERENCES)
    chrf = ChrF(**options).compute(predictions=PREDICTIONS, references=REFERENCES)
    assert bleu["bleu"] == sacrebleu.corpus_bleu(PREDICTIONS, [REFERENCES]).score
    assert chrf["chrf"] == sacrebleu.corpus_chrf(PREDICTIONS, [REFERENCES]).score
    assert "tok:13a" in bleu["signature"] and f"version:{sacrebleu.__version__}" in bleu["signature"]
    assert "nc:6|nw:0" in chrf["signature"]


def test_bleu_by_hand():
    # 6 tokens, reference 6 tokens: precisions 5/6, 3/5, 1/4, and 0/3, which exponential smoothing makes 1/(2*3).
    score = compute_scores(["a b c d x f"], ["a b c d e f"], ("bleu",))["bleu"]
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    assert score == pytest.approx(expected)


def test_bleu_brevity_by_hand():
    # All n-grams are right, but 4 tokens stand against 5: exp(1 - 5/4).
    assert compute_scores(["a b c d"], ["a b c d e"], ("bleu",))["bleu"] == pytest.approx(100 * math.exp(-0.25))


def test_scores_are_of_the_corpus_not_means_of_sentences():
    means = np.mean([compute_scores([p], [r], ("bleu",))["bleu"] for p, r in zip(PREDICTIONS, REFERENCES, strict=True)])
    assert abs(compute_scores(PREDICTIONS, REFERENCES, ("bleu",))["bleu"] - means) > 1


def test_rouge_is_rouge_score_and_does_not_stem():
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=False)
    each = [scorer.score(reference, prediction) for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True)]
    scores = Rouge(keep_in_memory=True).compute(predictions=PREDICTIONS, references=REFERENCES)
    assert list(scores) == ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    for name, value in scores.items():
        assert value == pytest.approx(100 * np.mean([score[name].fmeasure for score in each]))
    assert compute_scores(["running"], ["runs"], ("rouge",))["rouge1"] == 0


def test_rouge_by_hand():
    # 2 of 3 unigrams on both sides, order kept; no bigram in common.
    scores = compute_scores(["a x c"], ["a b c"], ("rouge",))
    assert scores["rouge1"] == scores["rougeL"] == pytest.approx(200 / 3)
    assert scores["rouge2"] == 0


@pytest.mark.parametrize(
    "prediction, reference, expected",
    [
        ("привет мир дорогой", "привет мир дорогой", 100),
        ("schöne grüße", "schäne gräße", 0),  # rouge_score sees sch, ne, gr, e on both sides
        ("schöne grüße", "schöne gräße", 50),
        ("我喜欢吃红苹果", "我喜欢吃青苹果", 100 * 6 / 7),
        ("हिन्दी भाषा", "हिन्दी बोली", 50),
    ],
)
def test_rouge_knows_other_letters_than_english(prediction, reference, expected):
    assert compute_scores([prediction], [reference], ("rouge",))["rouge1"] == pytest.approx(expected)


def test_in_ascii_rouge_has_the_words_of_rouge_score():
    drawn, letters = random.Random(0), [*string.printable, *" " * 30]
    texts = ["".join(drawn.choices(letters, k=40)) for _ in range(200)]
    scorer = rouge_scorer.RougeScorer(["rouge1", "rougeLsum"])
    each = [scorer.score(reference, text) for text, reference in zip(texts, texts[1:], strict=False)]
    scores = compute_scores(texts[:-1], texts[1:], ("rouge",))
    for name in ("rouge1", "rougeLsum"):
        assert scores[name] == pytest.approx(100 * np.mean([score[name].fmeasure for score in each]))


def test_several_references_are_transposed_for_sacrebleu():
    streams = [REFERENCES, ["the cat sat on the mat .", "x", "y"]]
    references = [list(pair) for pair in zip(*streams, strict=True)]
    scores = compute_scores(PREDICTIONS, references)
    assert scores["bleu"] == sacrebleu.corpus_bleu(PREDICTIONS, streams).score
    assert scores["chrf"] == sacrebleu.corpus_chrf(PREDICTIONS, streams).score


def test_the_tokenizer_of_bleu_can_be_chosen():
    prediction, reference = ["我喜欢你们的猫"], ["我喜欢他们的猫"]
    chosen = compute_scores(prediction, reference, ("bleu",), tokenize="zh")["bleu"]
    assert chosen == sacrebleu.corpus_bleu(prediction, [reference], tokenize="zh").score > 1


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="unknown metric 'comet': use one of bleu, chrf, rouge"):
        compute_scores(["a"], ["a"], ("bleu", "comet"))
    with pytest.raises(ValueError, match="found 1 predictions and 2 references"):
        compute_scores(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="found 0 predictions"):
        compute_scores([], [])
    with pytest.raises(ValueError, match=r"found \[1, 2\] references per sentence"):
        compute_scores(["a", "b"], [["a"], ["a", "b"]])
    for metric in METRICS:
        with pytest.raises(ValueError, match="found no reference for sentence 1, expected at least one for each"):
            compute_scores(["a", "b"], [["a"], []], (metric,))


def test_a_tokenizer_whose_package_is_missing_is_named(monkeypatch):
    def missing(tokenize):
        raise RuntimeError("pip install sacrebleu[ja]")

    missing.TOKENIZERS = sacrebleu.BLEU.TOKENIZERS
    monkeypatch.setattr(sacrebleu, "BLEU", missing)
    with pytest.raises(ValueError, match=r"tokenize='ja-mecab': pip install sacrebleu\[ja\]"):
        compute_scores(["a"], ["a"], tokenize="ja-mecab")
    assert compute_scores(["a"], ["a"], ("chrf",), tokenize="ja-mecab")["chrf"] == 100


def test_every_metric_has_its_name():
    assert {name: metric(keep_in_memory=True).name for name, metric in METRICS.items()} == {
        "bleu": "bleu",
        "chrf": "chr_f",
        "rouge": "rouge",
    }


# Trainer


def test_compute_metrics_of_the_trainer(tokenizer):
    texts, references = list(SENTENCES[:3]), [SENTENCES[0], SENTENCES[4], SENTENCES[2]]

    def padded(sentences):
        rows = [tokenizer(text)["input_ids"] for text in sentences]
        return np.array([row + [-100] * (60 - len(row)) for row in rows])

    # generate's first column is the start token, which is pad.
    predictions = np.concatenate([np.full((3, 1), tokenizer.pad_token_id), padded(texts)], axis=1)
    before = predictions.copy()
    compute_metrics = make_compute_metrics(tokenizer, ("bleu", "rouge"))
    scores = compute_metrics(EvalPrediction(predictions=predictions, label_ids=padded(references)))
    assert scores == compute_scores(texts, references, ("bleu", "rouge"))
    assert compute_metrics(EvalPrediction(predictions=(predictions, None), label_ids=padded(references))) == scores
    assert np.array_equal(predictions, before)


def test_compute_metrics_refuses_early(tokenizer):
    with pytest.raises(ValueError, match="unknown metric 'meteor'"):
        make_compute_metrics(tokenizer, ("meteor",))
    with pytest.raises(ValueError, match="no pad token"):
        make_compute_metrics(SimpleNamespace(pad_token_id=None))


# decoding


def alone(model, tokenizer, text, **options):
    ids = model.generate(**tokenizer(text, return_tensors="pt"), do_sample=False, max_length=None, **options)
    return tokenizer.batch_decode(ids, skip_special_tokens=True)[0]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_translations_come_back_in_the_order_of_the_sources(model, tokenizer, num_beams):
    sources = [SENTENCES[1], "a", SENTENCES[3], "the cat", SENTENCES[4]]
    expected = [alone(model, tokenizer, text, num_beams=num_beams, max_new_tokens=12) for text in sources]
    assert len(set(expected)) == len(sources), "the test needs translations that differ"
    found = translate(model, tokenizer, sources, batch_size=2, num_beams=num_beams, max_new_tokens=12)
    assert found == expected


def test_translate_restores_every_module_and_ignores_what_a_checkpoint_asks_for(model, tokenizer):
    model.train()
    model.model.encoder.eval()
    modes = [module.training for module in model.modules()]
    plain = translate(model, tokenizer, SENTENCES[:2], max_new_tokens=8)
    model.generation_config.do_sample = True
    first, second = (translate(model, tokenizer, SENTENCES[:2], max_new_tokens=8) for _ in range(2))
    assert first == second == plain
    model.generation_config.update(num_beams=2, num_return_sequences=2, return_dict_in_generate=True)
    assert translate(model, tokenizer, SENTENCES[:2], max_new_tokens=8) == plain
    assert [module.training for module in model.modules()] == modes
    model.generate = lambda **_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        translate(model, tokenizer, SENTENCES[:2])
    assert [module.training for module in model.modules()] == modes


def never_ends(model, tokenizer):
    """The end token never wins: the untrained student at its worst."""
    model.final_logits_bias[0, tokenizer.eos_token_id] = -1e4
    return model


def test_an_untrained_student_stops_at_twice_the_source(model, tokenizer, monkeypatch):
    lengths = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **options: lengths.append(generate(**options)) or lengths[-1])
    translate(never_ends(model, tokenizer), tokenizer, ["a b"])
    source = len(tokenizer("a b")["input_ids"])
    assert lengths[0].shape[1] == 1 + 2 * source + 10


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ({"max_length": 9}, 9),
        ({"min_length": 40}, 1 + 40 + 10),
        ({"min_new_tokens": 30, "max_length": 35}, 35),
        ({"max_new_tokens": 4, "max_length": 30}, 5),
    ],
)
def test_the_lengths_of_the_checkpoint_hold(settings, columns, model, tokenizer):
    """As in a stock ``generate``: a summariser may have to write more than twice its source."""
    model.generation_config.update(**settings)
    texts = translate(never_ends(model, tokenizer), tokenizer, ["a b"])
    batch = tokenizer(["a b"], return_tensors="pt")
    ids = generate_batch(model, batch, 1, None, {})
    assert ids.shape == (1, columns)
    if "min_length" not in settings:  # which alone leaves a stock generate without a bound
        assert torch.equal(ids, model.generate(**batch))
    assert texts == tokenizer.batch_decode(ids, skip_special_tokens=True)


def test_the_bound_never_leaves_the_positions(tokenizer):
    model = never_ends(tiny_marian_model(tokenizer, max_position_embeddings=16), tokenizer)
    assert len(translate(model, tokenizer, [SENTENCES[0]])) == 1  # a longer source or output would raise IndexError


def test_nothing_to_translate(model, tokenizer):
    assert translate(model, tokenizer, []) == []
    with pytest.raises(ValueError, match="batch_size=0"):
        translate(model, tokenizer, ["a"], batch_size=0)


# speed and size


def test_speed_counts_generated_tokens_and_takes_the_median(model, tokenizer, monkeypatch):
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    start = 3  # BART's start token is no pad, and still nobody generated it
    outputs = torch.tensor([[start, 5, 6, 7, eos], [start, 5, eos, pad, pad]])
    calls = []
    monkeypatch.setattr(model, "generate", lambda **options: calls.append(options) or outputs)
    # warm-up 9 s, then 1 s, 4 s, 2 s
    ticks = iter([0, 9, 10, 11, 20, 24, 30, 32])
    monkeypatch.setattr(evaluation, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    speed = decoding_speed(model, tokenizer, ["a", "b"], batch_size=2, num_beams=3)
    assert speed == {
        "tokens_per_second": 6 / 2, "sentences_per_second": 2 / 2, "seconds": 2, "spread": 3 / 2,
        "tokens": 6, "sentences": 2,
    }  # fmt: skip
    assert len(calls) == 4 and all(call["num_beams"] == 3 for call in calls)


def test_speed_of_a_slow_model_is_lower(tokenizer, monkeypatch):
    fast, slow = tiny_marian_model(tokenizer), tiny_marian_model(tokenizer)
    generate = slow.generate
    monkeypatch.setattr(slow, "generate", lambda **options: (time.sleep(0.3), generate(**options))[1])
    options = {"batch_size": 4, "num_beams": 1, "repeats": 1, "warmup": 1}
    speeds = [decoding_speed(model, tokenizer, ["a"] * 4, **options) for model in (fast, slow)]
    assert speeds[0]["tokens"] == speeds[1]["tokens"]
    assert speeds[0]["tokens_per_second"] > speeds[1]["tokens_per_second"]
    with pytest.raises(ValueError, match="0 sources"):
        decoding_speed(fast, tokenizer, [], batch_size=1, num_beams=1)


def test_size_counts_a_tied_tensor_once(model, tokenizer, tmp_path):
    vocabulary, width, ffn, positions = len(tokenizer), 16, 32, 160
    attention, norm = 4 * (width * width + width), 2 * width
    feed_forward = width * ffn + ffn + ffn * width + width
    encoder = 2 * (attention + feed_forward + 2 * norm)
    decoder = 2 * (2 * attention + feed_forward + 3 * norm)
    size = model_size(model)
    assert size["parameters"] == vocabulary * width + encoder + decoder + 2 * positions * width
    model.save_pretrained(tmp_path)
    assert size["bytes_on_disk"] == (tmp_path / "model.safetensors").stat().st_size
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert 4 * stored < size["bytes_on_disk"] < 4 * stored + 20_000


# comparison


@pytest.fixture(scope="module")
def comparison(tokenizer):
    teacher, student = tiny_marian_model(tokenizer), tiny_marian_model(tokenizer, decoder_layers=1, seed=1)
    sources, references = list(SENTENCES[:3]), list(SENTENCES[5:8])
    result = compare(
        teacher, student, tokenizer, sources, references, num_beams=(1, 2), batch_sizes=(1, 2), speed_sentences=2
    )
    return SimpleNamespace(result=result, models=(teacher, student), sources=sources, references=references)


def test_compare_measures_everything(comparison, tokenizer):
    rows = {(row.quantity, row.num_beams, row.batch_size): row for row in comparison.result.rows}
    speeds = {
        (name, beams, batch)
        for name in ("tokens_per_second", "sentences_per_second")
        for beams in (1, 2)
        for batch in (1, 2)
    }
    scores = {(name, beams, None) for name in ("bleu", "chrf") for beams in (1, 2)}
    assert set(rows) == speeds | scores | {("parameters", None, None), ("bytes_on_disk", None, None)}
    for beams in (1, 2):
        for model, side in zip(comparison.models, ("teacher", "student"), strict=True):
            outputs = translate(model, tokenizer, comparison.sources, batch_size=2, num_beams=beams)
            expected = sacrebleu.corpus_chrf(outputs, [comparison.references]).score
            assert getattr(rows["chrf", beams, None], side) == expected
    sizes = rows["parameters", None, None]
    assert (sizes.teacher, sizes.student) == tuple(model_size(model)["parameters"] for model in comparison.models)
    assert sizes.ratio == sizes.student / sizes.teacher < 1
    assert all(rows[key].teacher > 0 and rows[key].teacher_spread >= 0 for key in speeds)
    assert (comparison.result.sentences, comparison.result.speed_sentences) == (3, 2)
    assert set(comparison.result.signatures) == {"bleu", "chrf"}


def test_a_comparison_survives_json(comparison):
    plain = json.loads(json.dumps(comparison.result.to_dict()))
    assert Comparison.from_dict(plain) == comparison.result
    assert plain["rows"][0]["ratio"] == comparison.result.rows[0].ratio


def test_a_comparison_reads_well():
    rows = (
        ComparisonRow("bleu", 30.0, 27.345, num_beams=5),
        ComparisonRow("parameters", 6_000_000, 1_500_000),
        ComparisonRow("tokens_per_second", 100.5, 402.0, 1, 32, 0.1, 0.2),
        ComparisonRow("rouge2", 0.0, 1.5, num_beams=1),
    )
    table = Comparison(rows, {"bleu": "nrefs:1"}, {"device": "cpu"}, 9, 4)
    lines = table.to_markdown().splitlines()
    assert "| bleu (beam 5) | 30 | 27.34 | 0.91x |" in lines or "| bleu (beam 5) | 30 | 27.35 | 0.91x |" in lines
    assert "| parameters | 6,000,000 | 1,500,000 | 0.25x |" in lines
    assert "| tokens/s (greedy, batch 32) | 100.50 | 402 | 4.00x |" in lines
    assert "| rouge2 (greedy) | 0 | 1.50 |  |" in lines
    assert lines[-1] == "bleu: `nrefs:1`"
    assert "1,500,000" in str(table) and "4.00x" in str(table) and "busy" not in str(table)
    slow = dataclasses.replace(rows[2], teacher_spread=0.5)
    noisy = dataclasses.replace(table, rows=(*rows, slow))
    assert "speeds spread by up to 50%: the machine is busy" in str(noisy)


def test_compare_refuses_early(model, tokenizer):
    with pytest.raises(ValueError, match="found 1 sources and 2 references"):
        compare(model, model, tokenizer, ["a"], ["a", "b"])
    with pytest.raises(ValueError, match="unknown metric 'ter'"):
        compare(model, model, tokenizer, ["a"], ["a"], metrics=("ter",))
    with pytest.raises(ValueError, match=r"found \[1, 2\] references per sentence"):
        compare(object(), object(), tokenizer, ["a", "b"], [["a"], ["a", "b"]])  # before a model is asked for anything
    for settings, message in (
        ({"batch_sizes": ()}, r"batch_sizes=\(\): expected at least one number"),
        ({"num_beams": (1, 0)}, r"num_beams=\(1, 0\): expected at least one number, none below 1"),
        ({"num_beams": 5}, "num_beams=5: expected at least one number"),
        ({"speed_sentences": 0}, "speed_sentences=0: expected at least 1"),
        ({"tokenize": "klingon"}, "unknown tokenize='klingon': use one of .*13a"),
    ):
        with pytest.raises(ValueError, match=message):
            compare(model, model, tokenizer, ["a"], ["a"], **settings)


def test_outputs_are_of_the_first_search_and_the_first_sentences_are_timed(tmp_path, monkeypatch):
    tokenizer = tiny_marian_tokenizer(tmp_path / "t")
    model = tiny_marian_model(tokenizer)
    greedy, beam = (evaluation.translate(model, tokenizer, SENTENCES[:4], num_beams=n) for n in (1, 4))
    assert greedy != beam
    timed, speed = [], {"tokens_per_second": 1.0, "sentences_per_second": 1.0, "spread": 0.0}
    monkeypatch.setattr(evaluation, "decoding_speed", lambda m, t, sources, **o: timed.append(sources) or speed)
    found = evaluation.compare(
        model,
        model,
        tokenizer,
        SENTENCES[:4],
        SENTENCES[:4],
        metrics=("chrf",),
        num_beams=(1, 4),
        batch_sizes=(4,),
        speed_sentences=2,
    )
    assert [row["student"] for row in found.outputs] == [row["teacher"] for row in found.outputs] == greedy
    assert all(sources == list(SENTENCES[:2]) for sources in timed) and timed
