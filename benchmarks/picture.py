"""Draws test BLEU against greedy decoding speed: every arm a point, every student shape a column, the teacher a line.

    python benchmarks/picture.py --students 4+1 2+1 2+2-half 4+1-half --updates 300 1000 --output docs/benchmarks.png

Arms and scores come from ``results.jsonl`` (each arm at its best learning rate on validation, the mean over its seeds),
the speed of a shape from ``speed.json``.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from tables import HERE, best, load, mean, run_name

from hf_weight_distill.report.pictures import COLOURS, MARKERS


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", required=True, nargs="+")
    parser.add_argument("--updates", required=True, nargs="+", type=int)
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


def main() -> None:
    options = parse()
    runs = load(options.results)
    shapes, teacher = speeds(options, runs)
    rows = [r for r in runs if r["updates"] in options.updates and r["student"] in options.students]
    arms = {(row["updates"], row["arm"]): None for row in sorted(rows, key=lambda row: row["updates"])}
    styles = dict(zip(arms, ((marker, colour) for marker in MARKERS for colour in COLOURS), strict=False))
    figure = Figure(figsize=(10, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.axhline(teacher, color="black", linewidth=1, linestyle=(0, (4, 4)), label=f"teacher, {teacher:.1f}")
    for (updates, arm), (marker, colour) in styles.items():
        drawn = [row for row in rows if (row["updates"], row["arm"]) == (updates, arm)]
        groups = [best([row for row in drawn if row["student"] == student]) for student in options.students]
        points = [(shapes[group[0]["student"]], mean(group, "test_bleu")) for found in groups for group in found]
        style = {"s": 60, "marker": marker, "color": colour, "edgecolor": "white", "zorder": 3}
        axes.scatter(*zip(*points, strict=True), label=f"{arm}, {updates:,} updates", **style)
    for student in options.students:
        axes.text(shapes[student], 1.01, student, rotation=90, ha="center", transform=axes.get_xaxis_transform())
    setting = f"{options.runtime}, batch {options.batch_size}"
    axes.set(xlabel=f"greedy decoding, times the teacher's speed ({setting})", ylabel="BLEU, test set")
    axes.set_ylim(bottom=-1)
    axes.grid(alpha=0.25)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=150)


if __name__ == "__main__":
    main()
