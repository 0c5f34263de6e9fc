"""What people see of long work: a bar on a terminal, plain lines elsewhere, and nothing twice."""

import io
import re
from dataclasses import replace

import pytest
from models import tiny_teacher
from rich.console import Console
from training import arguments, random_features

from hf_weight_distill import RECIPES, StudentShape, WeightDistiller, progress
from hf_weight_distill.progress import Stage, clock
from hf_weight_distill.training_progress import TrainingProgress

PLAIN = replace(RECIPES["default"], pseudo_labels="none")  # features hold no text to translate


def plain_console():
    return Console(file=io.StringIO(), width=200)


def terminal():
    return Console(file=io.StringIO(), width=200, force_terminal=True, force_interactive=True, color_system=None)


@pytest.fixture
def seconds(monkeypatch):
    """A clock that the test winds."""
    now = [1000.0]
    monkeypatch.setattr(progress, "_now", lambda: now[0])
    return now


def test_without_a_terminal_there_is_a_line_now_and_then_and_one_at_the_end(seconds):
    console = plain_console()
    with Stage("pseudo labels", 100, "sentences", console=console) as stage:
        for _ in range(10):
            seconds[0] += 16
            stage.advance(10, note="beam 6")
    lines = console.file.getvalue().splitlines()
    assert lines == [
        "pseudo labels: 20 of 100 sentences, 2:08 left, beam 6",
        "pseudo labels: 40 of 100 sentences, 1:36 left, beam 6",
        "pseudo labels: 60 of 100 sentences, 1:04 left, beam 6",
        "pseudo labels: 80 of 100 sentences, 0:32 left, beam 6",
        "pseudo labels: 100 of 100 sentences, 0:00 left, beam 6",
        "pseudo labels: 100 sentences in 2:40, beam 6",
    ]


def test_what_was_done_before_does_not_count_for_the_time_left(seconds):
    console = plain_console()
    with Stage("phase 1", 1_100, "updates", done=1_000, console=console) as stage:
        for _ in range(4):
            seconds[0] += 20
            stage.advance(10)
        stage.skip(20)
    assert "phase 1: 1,020 of 1,100 updates, 2:40 left" in console.file.getvalue()
    assert stage._task.total == 1_080


def test_an_interrupted_stage_claims_no_end():
    console = plain_console()
    with pytest.raises(KeyboardInterrupt), Stage("phase 1", 10, "updates", console=console):
        raise KeyboardInterrupt
    assert console.file.getvalue() == ""


def test_a_terminal_gets_a_bar_with_counts_and_note():
    console = terminal()
    with Stage("evaluation", 1_200, "sentences", console=console, refresh=False) as stage:
        stage.advance(1_200, note="greedy")
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue()).strip().splitlines()[-1]
    assert re.fullmatch(r"evaluation +━+ 1,200/1,200 sentences in 0:00 greedy *", last)


def test_a_stage_can_be_silent():
    for console in (plain_console(), terminal()):
        with Stage("evaluation", 10, "sentences", console=console, enabled=False) as stage:
            stage.advance(10)
        assert console.file.getvalue() == ""


@pytest.mark.parametrize(
    ("given", "expected"), [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")]
)
def test_clock(given, expected):
    assert clock(given) == expected


def test_both_phases_are_shown_and_the_trainers_own_display_is_not(tmp_path, capsys):
    console = plain_console()
    distiller = WeightDistiller(tiny_teacher("marian"), student=StudentShape(decoder_layers=1), config=PLAIN)
    options = {"max_steps": 3, "disable_tqdm": False, "eval_strategy": "steps", "eval_steps": 2}
    phases = {f"{name}_args": arguments(tmp_path / name, **options) for name in ("generator", "finetune")}
    with TrainingProgress(console) as shown:
        features = random_features(16)
        distiller.distill(features, features, output_dir=tmp_path / "run", callbacks=[shown], **phases)
    out, err = capsys.readouterr()
    assert out == "" and "/3 [" not in err, "neither the base class's lines nor its bar"
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2
    for line, name, phase in zip(lines, ("phase 1, generator", "phase 2, student"), distiller.history, strict=True):
        loss = [row["loss"] for row in distiller.history[phase] if "loss" in row][-1]
        evaluated = [row["eval_loss"] for row in distiller.history[phase] if "eval_loss" in row][-1]
        told = rf"1\.5 passes, loss {loss:.2f}, eval_loss {evaluated:.2f}"  # 3 updates of 8 rows of 16
        assert re.fullmatch(rf"{name}: 3 updates in 0:\d\d, {told}", line), line


def test_a_stream_has_no_passes(tmp_path):
    console = plain_console()
    distiller = WeightDistiller(tiny_teacher("marian"), student=StudentShape(decoder_layers=1), config=PLAIN)
    phases = {f"{name}_args": arguments(tmp_path / name, max_steps=1) for name in ("generator", "finetune")}
    with TrainingProgress(console) as shown:
        stream = random_features(16).to_iterable_dataset()
        distiller.distill(stream, output_dir=tmp_path / "run", callbacks=[shown], **phases)
    assert "updates" in console.file.getvalue() and "passes" not in console.file.getvalue()


def test_an_error_in_training_leaves_no_bar_behind(tmp_path):
    console = terminal()
    distiller = WeightDistiller(tiny_teacher("marian"), student=StudentShape(decoder_layers=1), config=PLAIN)
    args = arguments(tmp_path / "generator", learning_rate=1e30)
    with pytest.raises(FloatingPointError), TrainingProgress(console) as shown:
        distiller.distill(random_features(16), output_dir=tmp_path / "run", callbacks=[shown], generator_args=args)
    assert shown._stage is None and not console._live_stack
