r"""Draws test BLEU against greedy decoding speed: every arm a point, every budget a panel, the teacher a line.

    python benchmarks/picture.py --dropout 0 --students 4+1 2+1 2+2-half 4+1-half --updates 100 300 1530 \
        --output docs/benchmarks.png

Arms and scores come from ``results.jsonl`` (each arm at its best learning rate on validation, the mean over its seeds),
the speed of a shape from ``speed.json``.
"""

import argparse
import json
import math
from pathlib import Path

from matplotlib.figure import Figure
from tables import COPIED, HERE, TEACHERS_DROPOUT, Budget, best, by_budget, load, mean, run_name

from hf_weight_distill.report.pictures import COLOURS, MARKERS

KINDS = {  # of arms, by the beginning of their names
    "reconstructed start": ("fitted",),
    "copied or projected layers": COPIED,
    "generator of the weights": ("generator",),
    "paper's recipe": ("paper",),
    "random weights + KD": ("random",),
    "matrix product operators": ("opdf",),
}
ASIDE = 0.04  # between the kinds of a shape, so that no point hides another


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", required=True, nargs="+")
    parser.add_argument("--updates", required=True, nargs="+", type=int)
    parser.add_argument("--dropout", type=float, default=TEACHERS_DROPOUT)
    parser.add_argument("--runtime", default="ctranslate2 float32")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--speed", type=Path, default=HERE / "speed.json")
    parser.add_argument("--output", required=True, type=Path)
    return parser.parse_args()


def speeds(options: argparse.Namespace, runs: list[dict]) -> tuple[dict[str, float], float]:
    """Times the teacher's speed by shape, and the teacher's BLEU."""
    shapes = {run_name(run): run["student"] for run in runs}
    rows = json.loads(options.speed.read_text(encoding="utf-8"))
    setting = (options.runtime, 1, options.batch_size)
    rows = {r["model"]: r for r in rows if (r["runtime"], r["num_beams"], r["batch_size"]) == setting}
    teacher = rows.pop("teacher")
    speed = teacher["tokens_per_second"]
    return {shapes[name]: row["tokens_per_second"] / speed for name, row in rows.items()}, teacher["test_bleu"]


def points(groups: dict[str, list[dict]], shapes: dict[str, float]) -> dict[str, list[tuple[float, float]]]:
    """Speed and BLEU of every arm of every shape, by kind of arm."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for student, rows in groups.items():
        for group in best(rows):
            kind = next(kind for kind, arms in KINDS.items() if group[0]["arm"].startswith(arms))
            found[kind].append((shapes[student], mean(group, "test_bleu")))
    return found


def main() -> None:
    options = parse()
    runs = load(options.results)
    shapes, teacher = speeds(options, runs)
    fastest = max(shapes[student] for student in options.students)
    figure = Figure(figsize=(10, 5), layout="constrained")
    panels = figure.subplots(1, len(options.updates), sharey=True, sharex=True, squeeze=False)[0]
    for axes, updates in zip(panels, options.updates, strict=True):
        axes.axhline(teacher, color="black", linewidth=1, linestyle=(0, (4, 4)), label=f"teacher, {teacher:.1f}")
        groups = {student: by_budget(runs)[Budget(student, updates, options.dropout)] for student in options.students}
        kinds = points(groups, shapes).items()
        for k, ((kind, found), marker, colour) in enumerate(zip(kinds, MARKERS, COLOURS, strict=True)):
            style = {"s": 50, "marker": marker, "color": colour, "edgecolor": "white", "linewidth": 0.5, "zorder": 3}
            across = [x + ASIDE * (k - (len(KINDS) - 1) / 2) for x, _ in found]
            axes.scatter(across, [y for _, y in found], label=kind, **style)
        at, above = -math.inf, axes.get_xaxis_transform()
        for student in sorted(options.students, key=shapes.get):
            at = max(shapes[student], at + 0.06 * fastest)  # names do not overlap
            axes.text(at, 1.01, student, rotation=90, ha="center", va="bottom", transform=above)
        axes.set_xlabel(f"times the teacher's speed, {updates:,} updates")
        axes.grid(alpha=0.25)
    panels[0].set(ylabel="BLEU, test set, greedy", xlim=(0, 1.08 * fastest), ylim=(-1, None))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"speed: {options.runtime}, greedy, batch {options.batch_size}", fontsize="medium")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=150)


if __name__ == "__main__":
    main()
