"""The demo from end to end with tiny sizes: what it writes, what it prints, and what a second call does."""

import json
from dataclasses import replace

import pytest
import transformers
from matplotlib.image import imread
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, MarianMTModel

from hf_weight_distill.corpus import built_in_corpus
from hf_weight_distill.demo import SHOWN, DemoSettings, _claim, _Demo, _quiet, _share_of_phase_1, arms, run_demo
from hf_weight_distill.recipes import recipe_config

TINY = DemoSettings(
    train_sentences=200,
    test_sentences=6,
    vocab_size=200,
    layers=2,
    d_model=32,
    ffn_dim=32,
    heads=2,
    teacher_updates=6,
    student={"decoder_layers": 1, "d_model": 16, "attention_heads": 1},
    labelled_sentences=32,
    updates=4,
    tokens_per_batch=400,
    speed_sentences=1,
)
STUDENTS = [arm.name for arm in arms(paper=False).values()]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A finished demo: (its folder, what it printed)."""
    folder = tmp_path_factory.mktemp("demo") / "made"
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("hf_weight_distill.demo.Console.print", lambda self, *parts, **options: lines.extend(parts))
        assert run_demo(folder, settings=TINY) == 0
    return folder, "\n".join(str(line) for line in lines)


def test_the_table_is_written_with_a_row_for_each_model(demo):
    content = json.loads((demo[0] / "results.json").read_text())
    rows = content["rows"]
    assert [row["name"] for row in rows] == ["teacher", *STUDENTS]
    assert all(row["tokens_per_second"] > 0 and 0 <= row["bleu"] <= 100 for row in rows)
    assert len({row["parameters"] for row in rows[1:]}) == 1 and rows[1]["parameters"] < rows[0]["parameters"]
    assert content["settings"]["updates"] == TINY.updates


def test_the_student_is_stock_and_translates(demo):
    model = AutoModelForSeq2SeqLM.from_pretrained(demo[0] / "student")
    tokenizer = AutoTokenizer.from_pretrained(demo[0] / "student")
    assert type(model) is MarianMTModel
    assert (model.config.d_model, model.config.decoder_layers, model.config.use_cache) == (16, 1, True)
    batch = tokenizer(["The dog sleeps.", "He reads."], return_tensors="pt", padding=True)
    assert len(model.generate(**batch, max_new_tokens=5)) == 2
    card = (demo[0] / "student" / "README.md").read_text()
    assert "1606.07947" in card and "2009.09152" not in card and str(demo[0]) not in card  # no generator took part


def test_the_pictures_can_be_read(demo):
    for name in ("quality_against_speed.png", "loss_curves.png"):
        assert imread(demo[0] / name).shape[1] > 500


def test_the_sentences_and_the_way_to_use_the_student_are_printed(demo):
    test = built_in_corpus(train=0, validation=0, test=SHOWN)["test"]["translation"]
    assert all(row["en"] in demo[1] and f"(expected: {row['de']})" in demo[1] for row in test)
    assert f'from_pretrained("{demo[0] / "student"}")' in demo[1]
    assert all(f"[{stage}/{len(STUDENTS) + 5}]" in demo[1] for stage in range(1, len(STUDENTS) + 6))


def test_a_second_call_keeps_the_teacher_and_its_labels(demo, capsys):
    teacher = demo[0] / "teacher" / "model.safetensors"
    before = teacher.stat().st_mtime_ns
    again = _Demo(demo[0], TINY, paper=True)
    _claim(demo[0], TINY)
    assert not (demo[0] / "runs").exists() and (demo[0] / "pseudo_labels").exists()
    again.train_teacher(again.make_corpus())
    assert teacher.stat().st_mtime_ns == before
    assert "taken over" in capsys.readouterr().out


def test_the_libraries_speak_as_before(demo):
    before = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    with _quiet():
        assert transformers.logging.get_verbosity() == transformers.logging.ERROR
    assert (transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()) == before


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="not empty and holds no demo: choose another output_dir"):
        run_demo(tmp_path, settings=TINY)
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_a_demo_with_other_settings_is_refused(demo):
    with pytest.raises(ValueError, match="a demo with other settings"):
        run_demo(demo[0], settings=replace(TINY, updates=5))


@pytest.mark.parametrize("key", arms(paper=True))
def test_every_way_gets_the_same_updates_and_batches(tmp_path, key):
    config = _Demo(tmp_path, TINY, paper=True).configured(key)
    phases = (config.generator_args, config.finetune_args)
    assert sum(args["max_steps"] for args in phases) == TINY.updates
    assert {args["max_tokens_per_batch"] for args in phases} == {TINY.tokens_per_batch}
    assert config.pseudo_labels == "none"


def test_the_papers_recipe_keeps_its_optimizer(tmp_path):
    args = _Demo(tmp_path, TINY, paper=True).configured("paper").generator_args
    assert (args["lr_scheduler_type"], args["learning_rate"], args["max_grad_norm"]) == ("inverse_sqrt", 7e-4, 0.0)
    assert args["warmup_steps"] == pytest.approx(4_000 / 30_000)


def test_phase_1_has_the_recipes_share():
    config = recipe_config("default")
    assert _share_of_phase_1(replace(config, generator_args={"max_steps": 1}, finetune_args={"max_steps": 3})) == 0.25


@pytest.mark.slow
def test_the_papers_recipe_is_one_more_row(tmp_path):
    assert run_demo(tmp_path / "demo", paper=True, settings=TINY) == 0
    rows = json.loads((tmp_path / "demo" / "results.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["teacher", *STUDENTS, arms(paper=True)["paper"].name]
