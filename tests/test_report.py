"""The pictures: what is drawn is what was measured, and the file is a picture."""

import pytest
from matplotlib.image import imread

from hf_weight_distill.report import loss_curves, quality_against_speed

ROWS = [
    {"name": "teacher", "bleu": 90.0, "tokens_per_second": 1000.0, "parameters": 1_500_000},
    {"name": "random", "bleu": 20.0, "tokens_per_second": 2500.0, "parameters": 300_000},
    {"name": "copied", "bleu": 55.5, "tokens_per_second": 2400.0, "parameters": 300_000},
]
HISTORIES = {
    "both": {
        "generator": [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0}, {"step": 20, "train_loss": 2.5}],
        "finetune": [{"step": 10, "loss": 1.5}, {"step": 20, "loss": 1.0}],
    },
    "plain": {"finetune": [{"step": 20, "loss": 4.0}, {"step": 40, "loss": 3.5}]},
}


def is_picture(path) -> bool:
    height, width, _ = imread(path).shape
    return height > 300 and width > 500


def points(axes) -> dict[str, tuple[float, float]]:
    return {scatter.get_label().split(":")[0]: tuple(scatter.get_offsets()[0]) for scatter in axes.collections}


def test_quality_against_speed_draws_each_model_where_it_was_measured(tmp_path):
    figure = quality_against_speed(ROWS, tmp_path / "q.png")
    axes = figure.axes[0]
    assert points(axes) == {row["name"]: (row["tokens_per_second"], row["bleu"]) for row in ROWS}
    assert axes.get_xlabel() == "greedy decoding, tokens per second"
    assert axes.get_ylabel() == "BLEU on the test set"
    assert is_picture(tmp_path / "q.png")


def test_the_teachers_quality_is_a_line_and_every_point_lies_inside(tmp_path):
    axes = quality_against_speed(ROWS, tmp_path / "q.png").axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[90.0, 90.0]]
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    assert all(left < x < right and bottom <= y < top for x, y in points(axes).values())


def test_students_alone_and_other_quantities(tmp_path):
    rows = [{"name": "a", "rouge2": 10.0, "sentences_per_second": 3.0, "parameters": 10}]
    figure = quality_against_speed(
        rows, tmp_path / "q.pdf", quality="rouge2", quality_label="ROUGE-2", speed="sentences_per_second"
    )
    assert points(figure.axes[0]) == {"a": (3.0, 10.0)}
    assert not figure.axes[0].lines
    assert (tmp_path / "q.pdf").read_bytes().startswith(b"%PDF")


def test_the_legend_names_every_model_with_its_numbers(tmp_path):
    (legend,) = quality_against_speed(ROWS, tmp_path / "q.png").legends
    assert [text.get_text() for text in legend.get_texts()][0] == "teacher: 90.0, 1.5\N{NARROW NO-BREAK SPACE}M"
    assert len(legend.get_texts()) == len(ROWS)


def test_a_score_of_zero_everywhere_can_be_drawn(tmp_path):
    quality_against_speed([{**row, "bleu": 0.0} for row in ROWS], tmp_path / "q.png")


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="found no rows"):
        quality_against_speed([], tmp_path / "q.png")


def test_phase_2_goes_on_where_phase_1_ended(tmp_path):
    axes = loss_curves(HISTORIES, tmp_path / "l.png").axes[0]
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}
    assert lines["both, phase 1"] == ([10, 20], [3.0, 2.0])
    assert lines["both"] == ([20, 30, 40], [2.0, 1.5, 1.0])
    assert lines["plain"] == ([20, 40], [4.0, 3.5])
    assert is_picture(tmp_path / "l.png")


def test_phases_share_a_colour_and_differ_in_style(tmp_path):
    first, second, other = loss_curves(HISTORIES, tmp_path / "l.png").axes[0].lines
    assert first.get_color() == second.get_color() != other.get_color()
    assert first.get_linestyle() != second.get_linestyle()


def test_histories_without_the_value_are_refused(tmp_path):
    with pytest.raises(ValueError, match="found no 'kl' in the histories of \\['both', 'plain'\\]"):
        loss_curves(HISTORIES, tmp_path / "l.png", key="kl")
