"""Pictures of a comparison: quality against decoding speed, and the loss of both phases.

Each function writes a file (the ending says which kind) and returns matplotlib's figure, so that what is drawn can be
looked at without reading pixels. No display is needed.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .numbers import millions

History = Mapping[str, Sequence[Mapping[str, Any]]]

# Okabe and Ito's colours without the yellow, told apart by all kinds of colour vision; shapes repeat the distinction.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = ("o", "s", "D", "^", "v", "P")
TEACHER_COLOUR = "#000000"
PHASES = ("generator", "finetune")
FIGURE_SIZE = (8, 5)  # inches
DOTS_PER_INCH = 150


def quality_against_speed(
    rows: Sequence[Mapping[str, Any]],
    path: str | PathLike,
    *,
    teacher: str = "teacher",
    quality: str = "bleu",
    quality_label: str = "BLEU on the test set",
    speed: str = "tokens_per_second",
    speed_label: str = "greedy decoding, tokens per second",
) -> Figure:
    """One point a model: the faster the further right, the better the higher. The teacher is a star.

    Args:
        rows: each with ``name``, ``parameters`` and the two quantities.
        path: the file to write.
        teacher: ``name`` of the teacher's row; a dashed line carries its quality across. It may be missing.
        quality, speed: the keys drawn.
        quality_label, speed_label: axis labels, units included.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("found no rows to draw; expected one a model")
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    axes = figure.subplots()
    students = [row for row in rows if row["name"] != teacher]
    for row in rows:
        _model(axes, row, row[speed], row[quality], None if row["name"] == teacher else students.index(row))
    axes.set(xlabel=speed_label, ylabel=quality_label, title="Quality against speed (legend: quality, parameters)")
    axes.set_xlim(0, 1.12 * max(row[speed] for row in rows))
    top = 1.08 * max([1e-9, *(row[quality] for row in rows)])
    axes.set_ylim(-0.03 * top, top)  # a score of zero is seen whole
    _finish(figure, axes, path)
    return figure


def _model(axes: Axes, row: Mapping[str, Any], speed: float, quality: float, index: int | None) -> None:
    label = f"{row['name']}: {quality:.1f}, {millions(row['parameters'])}"
    if index is None:
        axes.axhline(quality, color=TEACHER_COLOUR, linewidth=1, linestyle=(0, (4, 4)), zorder=1)
        axes.scatter([speed], [quality], s=260, marker="*", color=TEACHER_COLOUR, label=label, zorder=3)
        return
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    axes.scatter([speed], [quality], s=90, marker=marker, color=colour, edgecolor="white", label=label, zorder=3)


def loss_curves(histories: Mapping[str, History], path: str | PathLike, *, key: str = "loss") -> Figure:
    """The training loss of each run over its updates; phase 1 is dashed, phase 2 goes on where phase 1 ended.

    Args:
        histories: ``{name: {phase: log history of a Trainer}}`` with the phases ``generator`` and ``finetune``, as
            ``WeightDistiller.history`` has them. A phase may be missing.
        path: the file to write.
        key: the value drawn, per label token.

    Raises:
        ValueError: no history holds ``key``.
    """
    if not any(_points(history.get(phase, ()), key) for history in histories.values() for phase in PHASES):
        raise ValueError(f"found no {key!r} in the histories of {list(histories)}; expected a Trainer's log_history")
    figure = Figure(figsize=FIGURE_SIZE, layout="constrained")
    axes = figure.subplots()
    for index, (name, history) in enumerate(histories.items()):
        _curve(axes, name, history, key, COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)])
    axes.set(xlabel="updates", ylabel=f"training {key}, nats per label token", title="Loss while distilling")
    axes.set_xlim(left=0)
    _finish(figure, axes, path)
    return figure


def _curve(axes: Axes, name: str, history: History, key: str, colour: str, marker: str) -> None:
    """Both phases in one colour; the end of phase 1 is also the beginning of phase 2's line."""
    done, last, label = 0, [], name
    for phase, style in zip(PHASES, ((0, (3, 1.5)), "solid"), strict=True):
        points = [(done + step, value) for step, value in _points(history.get(phase, ()), key)]
        if not points:
            continue
        steps, values = zip(*last + points, strict=True)
        shown = label if phase == "finetune" or "finetune" not in history else f"{label}, phase 1"
        axes.plot(steps, values, color=colour, linestyle=style, marker=marker, markersize=4, label=shown)
        done, last = done + max(int(entry["step"]) for entry in history[phase]), points[-1:]


def _points(entries: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(int(entry["step"]), float(entry[key])) for entry in entries if key in entry]


def _finish(figure: Figure, axes: Axes, path: str | PathLike) -> None:
    axes.grid(alpha=0.25, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, markerscale=0.8
    )
    figure.savefig(path, dpi=DOTS_PER_INCH)
