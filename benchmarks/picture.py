"""Draws test BLEU against greedy decoding speed: every arm a point, every student shape a column, the teacher a line.

    python benchmarks/picture.py --students 4+1 2+1 4+1-half 2+2-half --updates 300 --output docs/pictures/benchmark.svg

Arms and scores come from ``results.jsonl`` (each arm at its best learning rate on validation, the mean over its seeds),
the speed of a shape from ``speed.json``.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from tables import HERE, best, load, mean

from hf_weight_distill.report.pictures import COLOURS, MARKERS


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", required=True, nargs="+")
    parser.add_argument("--updates", required=True, type=int)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--speed", type=Path, default=HERE / "speed.json")
    parser.add_argument("--output", required=True, type=Path)
    return parser.parse_args()


def speeds(options: argparse.Namespace) -> tuple[dict[str, float], float]:
    """Times the teacher's speed by shape, and the teacher's BLEU."""
    rows = json.loads(options.speed.read_text(encoding="utf-8"))
    setting = ("transformers", 1, options.batch_size)
    rows = {r["model"]: r for r in rows if (r["runtime"], r["num_beams"], r["batch_size"]) == setting}
    teacher = rows.pop("teacher")
    speed = teacher["tokens_per_second"]
    return {name.split("-fitted")[0]: r["tokens_per_second"] / speed for name, r in rows.items()}, teacher["test_bleu"]


def main() -> None:
    options = parse()
    shapes, teacher = speeds(options)
    rows = [r for r in load(options.results) if r["updates"] == options.updates and r["student"] in options.students]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.axhline(teacher, color="black", linewidth=1, linestyle=(0, (4, 4)))
    axes.annotate(f"teacher {teacher:.1f}", (1, teacher), xytext=(0, 4), textcoords="offset points")
    arms = {row["arm"]: None for row in rows}
    styles = dict(zip(arms, ((m, c) for m in MARKERS for c in COLOURS), strict=False))
    for student in options.students:
        groups = best([row for row in rows if row["student"] == student])
        for group in groups:
            marker, colour = styles[group[0]["arm"]]
            score = mean(group, "test_bleu")
            axes.scatter(shapes[student], score, s=60, marker=marker, color=colour, edgecolor="white", zorder=3)
        axes.annotate(student, (shapes[student], 0), xytext=(0, 4), textcoords="offset points", ha="center")
    for arm, (marker, colour) in styles.items():
        axes.scatter([], [], s=60, marker=marker, color=colour, label=arm)
    axes.set(xlabel=f"greedy decoding, times the teacher's speed (batch {options.batch_size})", ylabel="BLEU, test set")
    axes.set_ylim(bottom=-1)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=150)


if __name__ == "__main__":
    main()
