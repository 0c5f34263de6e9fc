"""The benchmarks as their page says to run them: arms, resuming, tables, bootstrap, speed, picture."""

import gzip
import importlib
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy
import pytest
import sacrebleu
from matplotlib.image import imread
from tiny import SENTENCES, tiny_marian_model, tiny_marian_tokenizer

from hf_weight_distill import WeightDistillConfig
from hf_weight_distill.model import check_source
from hf_weight_distill.objectives import build_objectives
from hf_weight_distill.schedules import build_schedules

FOLDER = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(FOLDER))
arms = importlib.import_module("arms")
tables = importlib.import_module("tables")


def call(script: str, *arguments: object) -> None:
    """Runs a script of the benchmarks in this process, as from the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        importlib.import_module(script).main()


@pytest.mark.parametrize("name", arms.ARMS)
def test_every_arm_is_a_configuration_that_the_package_takes(name):
    config = replace(WeightDistillConfig(pseudo_labels="none"), **arms.ARMS[name].config)
    check_source(config.source, config.source_options)
    if config.finetune_source is not None:
        check_source(config.finetune_source, config.finetune_source_options)
    for weights in (config.generator_objectives, config.finetune_objectives):
        build_objectives(weights, label_smoothing=config.label_smoothing, temperature=config.temperature)
    build_schedules(config.schedules, {})


# --- tables ---


def row(arm, rate, seed, validation, test, **more):
    key = {"student": "4+1", "arm": arm, "updates": 300, "learning_rate": rate, "seed": seed}
    return key | {"validation_bleu": validation, "test_bleu": test, "test_chrf": 2 * test} | more


def test_the_best_rate_is_the_one_with_the_best_mean_on_validation():
    rows = [row("pca", 1e-3, seed, 20.0, 30.0) for seed in (1, 2)]
    rows += [row("pca", 2e-3, 1, 25.0, 10.0), row("pca", 2e-3, 2, 19.0, 12.0)]
    (group,) = tables.best(rows)
    assert {r["learning_rate"] for r in group} == {2e-3}  # 22 against 20; the test set has no say
    assert tables.cell(group, "test_bleu") == f"11.0 ± {numpy.std([10, 12], ddof=1):.1f}"
    assert "0.001: 20.0, 0.002: 22.0" in tables.table(rows)


def test_two_rates_are_compared_on_the_seeds_that_both_have():
    rows = [row("pca", 1e-3, 1, 20.1, 0), row("pca", 2e-3, 1, 20.2, 0), row("pca", 2e-3, 2, 15.0, 0)]
    assert {r["learning_rate"] for r in tables.best(rows)[0]} == {2e-3}
    rows += [row("pca", 1e-3, 2, 20.3, 0)]  # 2e-3 won with the first seed and loses with both
    rows += [row("pca", 5e-4, 1, 19.0, 0)]  # which has the first seed alone, and no say in that
    assert {r["learning_rate"] for r in tables.best(rows)[0]} == {1e-3}
    apart = [row("pca", 1e-3, 1, 20.1, 0), row("pca", 2e-3, 2, 15.0, 0)]
    assert {r["learning_rate"] for r in tables.best(apart)[0]} == {1e-3}


def test_the_default_meets_the_best_control_on_the_seeds_that_both_have():
    rows = [row("fitted", 1e-3, seed, 30.0, 31.0 + seed) for seed in (1, 2)]
    rows += [row("copied-first", 1e-3, 2, 20.0, 21.5), row("copied-last", 1e-3, 2, 19.0, 40.0)]
    rows += [row("random-seqkd", 1e-3, 2, 90.0, 90.0), row("pca-kl", 1e-3, 2, 90.0, 90.0)]  # not controls
    rows += [row("pca-both", 1e-3, 2, 90.0, 90.0)]
    ours, theirs = tables.contest(rows)
    assert [(r["arm"], r["test_bleu"]) for r in ours + theirs] == [("fitted", 33.0), ("copied-first", 21.5)]
    assert tables.contest([r for r in rows if r["arm"] != "fitted"]) is None
    ours, theirs = tables.contest(rows, "random-seqkd")  # another arm instead
    assert [(r["arm"], r["test_bleu"]) for r in ours + theirs] == [("random-seqkd", 90.0), ("copied-first", 21.5)]


def test_runs_on_part_of_the_training_set_stand_apart():
    few, all_pairs = row("pca", 1e-3, 1, 20.0, 30.0, sentences=500), row("pca", 1e-3, 1, 20.0, 30.0)
    assert tables.by_budget([few, all_pairs]) == {
        ("4+1", 300, 0.1, 500, "updates"): [few],
        ("4+1", 300, 0.1, 0, "updates"): [all_pairs],
    }
    assert tables.run_name(few) != tables.run_name(all_pairs)


def test_the_committed_tables_are_those_of_the_committed_runs(capsys):
    call("tables")
    assert (FOLDER / "TABLES.md").read_text() == capsys.readouterr().out


def test_minutes_are_those_of_the_processor_where_they_were_recorded():
    assert tables.cost([row("pca", 1e-3, 1, 0, 0, seconds=240.0, cpu_seconds=90.0)]) == "1.5"
    slow = row("pca", 1e-3, 2, 0, 0, seconds=240.0, cpu_seconds=240.0, device="cpu, 1 thread(s), float32")
    assert tables.cost([row("pca", 1e-3, 1, 0, 0, seconds=240.0, cpu_seconds=90.0), slow]) == "1.5"
    assert tables.cost([slow]) == "4.0"
    assert tables.cost([row("pca", 1e-3, 1, 0, 0, seconds=240.0)]) == "~4.0"


def test_the_updates_that_a_control_needs_lie_on_a_line_in_their_logarithm():
    needed = importlib.import_module("curves").needed
    curve = {100: 10.0, 1_000: 20.0, 4_000: 30.0}
    assert needed(curve, 15.0) == f"{numpy.exp(numpy.interp(15, [10, 20], numpy.log([100, 1000]))):,.0f}" == "316"
    assert needed(curve, 25.0) == "2,000" and needed(curve, 20.0) == "1,000"
    assert needed(curve, 31.0) == "more than 4,000" and needed(curve, 9.0) == "at most 100"


def test_in_the_same_time_a_control_gets_as_many_updates_more_as_its_updates_are_cheaper():
    ours = [row("fitted", 1e-3, seed, 0, 0, cpu_seconds=seconds) for seed, seconds in enumerate((110.0, 130.0))]
    theirs = [row("pca", 1e-3, 1, 0, 0, cpu_seconds=100.0), row("pca", 1e-3, 2, 0, 0)]
    assert tables.time_ratio(ours, theirs) == pytest.approx(1.2)
    assert tables.time_ratio(ours, theirs[1:]) == 1.0  # not recorded


def test_what_had_the_time_of_the_default_is_compared_with_it_and_with_nothing_else():
    ours, theirs = row("fitted", 1e-3, 1, 30.0, 31.0), row("pca", 1e-3, 1, 20.0, 21.0)
    longer = row("pca", 1e-3, 1, 22.0, 23.0) | {"budget": "seconds", "updates": 360, "as_long_as": 300}
    groups = tables.by_budget([ours, theirs, longer])
    assert groups == {
        ("4+1", 300, 0.1, 0, "updates"): [ours, theirs],
        ("4+1", 300, 0.1, 0, "seconds"): [ours, longer],
    }
    assert "`pca`, 360 updates" in tables.table(groups[("4+1", 300, 0.1, 0, "seconds")])


# --- the whole way, with a tiny teacher ---


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder of two finished runs and what they were made from."""
    folder = tmp_path_factory.mktemp("benchmarks")
    tokenizer = tiny_marian_tokenizer(folder / "pieces")
    tiny_marian_model(tokenizer).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    pairs = [{"translation": {"en": en, "de": de}} for en, de in zip(SENTENCES[:5], SENTENCES[5:], strict=True)]
    for split, times in {"train": 8, "validation": 1, "test": 2}.items():
        lines = "".join(json.dumps(pair) + "\n" for pair in pairs * times)
        (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    run(folder)
    return folder


def run(folder: Path, *more: str) -> None:
    where = ("--teacher", folder / "teacher", "--data", folder, "--results", folder / "results.jsonl", "--tokens", 200)
    kept = ("--runs", folder / "runs", "--labels", folder / "labels", "--keep", folder / "students", "--num_beams", 1)
    what = ("--student", "4+1", "--updates", 4, "--arms", "copied-first", "fitted", "--dropout", 0)
    call("run", *where, *kept, *what, "--threads", 1, *more)


def test_a_run_is_one_line_with_scores_that_its_translations_have(made):
    rows = tables.load(made / "results.jsonl")
    assert [(r["arm"], r["student"], r["updates"], r["seed"]) for r in rows] == [
        ("copied-first", "4+1", 4, 1),
        ("fitted", "4+1", 4, 1),
    ]
    references = [SENTENCES[5:] * 2]
    for r in rows:
        packed = (made / "translations" / f"{tables.run_name(r)}.txt.gz").read_bytes()
        translations = gzip.decompress(packed).decode().splitlines()
        assert r["test_bleu"] == round(sacrebleu.corpus_bleu(translations, references).score, 2)
        assert r["test_chrf"] == round(sacrebleu.corpus_chrf(translations, references).score, 2)
        assert r["cpu_seconds"] > 0 and r["greedy_tokens_per_second"] > 0 and r["peak_memory_bytes"] > 0
    assert rows[0]["parameters"] == rows[1]["parameters"]
    assert not any((made / "runs").glob("4+1*"))  # checkpoints go with the run


def test_a_finished_run_is_not_run_again(made):
    before = (made / "results.jsonl").read_bytes()
    run(made)
    assert (made / "results.jsonl").read_bytes() == before


def test_at_equal_time_an_arm_gets_the_updates_of_its_time(made, tmp_path):
    """On a copy of the results in which a run of the control took half as long as one of the default."""
    seconds = {"copied-first": 10.0, "fitted": 20.0}
    rows = [r | {"cpu_seconds": seconds[r["arm"]]} for r in tables.load(made / "results.jsonl")]
    results = tmp_path / "results.jsonl"
    results.write_text("".join(json.dumps(r) + "\n" for r in rows))
    equal = ("--results", results, "--keep", tmp_path, "--arms", "copied-first", "--budget", "seconds")
    for _ in range(2):  # the second time it stands there
        run(made, *equal)
    assert [r["arm"] for r in tables.load(results)] == ["copied-first", "fitted", "copied-first"]
    last = tables.load(results)[-1]
    assert (last["budget"], last["updates"], last["as_long_as"]) == ("seconds", 8, 4) and "test_bleu" in last
    with pytest.raises(SystemExit, match="run fitted and pca with --budget updates first"):
        run(made, *equal, "--arms", "pca")


@pytest.mark.parametrize(("metric", "one"), [("SeveralBLEU", sacrebleu.BLEU), ("SeveralCHRF", sacrebleu.CHRF)])
def test_the_score_of_several_seeds_is_that_of_their_texts_in_a_row(metric, one):
    gold, seeds = list(SENTENCES[:5]), [SENTENCES[k : k + 5] for k in (1, 2, 0)]
    lines = ["\t".join(texts) for texts in zip(*seeds, strict=True)]
    several = getattr(importlib.import_module("significance"), metric)(references=[gold])
    expected = one().corpus_score([text for texts in seeds for text in texts], [gold * 3]).score
    assert several.corpus_score(lines, None).score == pytest.approx(expected, rel=1e-12) and expected < 100


def test_bootstrap_speed_and_picture_are_made_from_the_results(made, capsys):
    results = ("--results", made / "results.jsonl")
    arms_of = ("--baseline", "copied-first", "--arms", "fitted")
    call("significance", "--data", made, *results, "--student", "4+1", "--updates", 4, *arms_of, "--resamples", 20)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("| fitted | 1 |") and 0 < float(line.split("|")[5]) <= 1
    call("significance", "--data", made, *results, "--resamples", 20)
    cells = [cell.strip() for cell in capsys.readouterr().out.splitlines()[-1].split("|")[1:-1]]
    scores = {r["arm"]: r["test_bleu"] for r in tables.load(made / "results.jsonl")}
    budget, bleu = ["4+1", "4", "updates", "0", "all", "1"], [f"{score:.1f}" for score in scores.values()]
    assert cells[:9] == [*budget, "`copied-first`", *bleu]
    assert cells[9:11] == [f"{scores['fitted'] - scores['copied-first']:+.1f}", ""] and 0 < float(cells[11]) <= 1
    significance = importlib.import_module("significance")
    (budget, group), *_ = tables.by_budget(tables.load(made / "results.jsonl")).items()
    pair = tables.contest(group)
    asked = SimpleNamespace(results=made / "results.jsonl", data=made, resamples=20)
    significance.together(asked, budget._replace(student="all"), [pair, pair])  # two shapes that happen to be alike
    together = [cell.strip() for cell in capsys.readouterr().out.split("|")[1:-1]]
    assert together == ["all", *cells[1:6], "of each", *cells[7:11], together[11], cells[12], together[13]]
    significance.summary(asked, budget, *(2 * side for side in pair))  # two seeds likewise
    twice = [cell.strip() for cell in capsys.readouterr().out.split("|")[1:-1]]
    assert twice[5] == "2" and twice[9:12] == [cells[9], f"{cells[11]}, {cells[11]}", cells[11]]
    students = sorted((made / "students").iterdir())
    models = ("--teacher", made / "teacher", "--data", made, "--students", *students)
    few = ("--runtimes", "transformers", "--beams", 1, "--batches", 2, "--sentences", 2, "--rounds", 1)
    call("speed", *models, *few, "--output", made / "speed.json")
    speeds = json.loads((made / "speed.json").read_text())
    assert {r["model"] for r in speeds} == {"teacher", *(student.name for student in students)}
    scores = {tables.run_name(r): r["test_bleu"] for r in tables.load(made / "results.jsonl")}
    assert {r["model"]: r["test_bleu"] for r in speeds if r["model"] != "teacher"} == scores
    picture = ("--output", made / "picture.png", "--runtime", "transformers", "--batch_size", 2, "--dropout", 0)
    curves = ("--output", made / "curves.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a layout that does not fit is a warning
        call("picture", *results, "--speed", made / "speed.json", "--students", "4+1", "--updates", 4, *picture)
        call("curves", *results, "--students", "4+1", "--dropout", 0, "--teacher_bleu", 1.0, *curves)
    assert all(imread(made / name).std() > 0 for name in ("picture.png", "curves.png"))
