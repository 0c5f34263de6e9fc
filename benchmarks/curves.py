r"""Draws test BLEU against updates: the default's start, the best control and the baseline of the paper, by shape.

    python benchmarks/curves.py --dropout 0 --students 4+1 2+1 4+1-half 2+2-half --teacher_bleu 34.5 \
        --output docs/budgets.png

Each point is an arm at its best learning rate on validation, the mean over its seeds, with their standard deviation
where there are several; the control is the best one of its budget on validation. Both learn from the teacher's
translations, and from gold targets too; beside them sequence-level knowledge distillation from random weights.
``--teacher_bleu`` is the broken line: the teacher's score. The axis leaves out what is below ``FLOOR``.

Printed: how many updates the control needs for what the default's start has (its BLEU on straight lines in the
logarithm of the updates between its budgets), and how many it does in the processor time that the default took, closed
form included.
"""

import argparse
import math
from itertools import pairwise
from pathlib import Path

from matplotlib.figure import Figure
from tables import HERE, TEACHERS_DROPOUT, best, best_control, by_budget, contest, load, mean, spread, time_ratio

from hf_weight_distill.report.pictures import COLOURS, MARKERS

OURS, CONTROL, RANDOM, OURS_BOTH, CONTROL_BOTH = LINES = (
    "reconstructed",
    "best copied, projected or OPDF start",
    "random weights",
    "reconstructed, gold targets too",
    "best copied or projected start, gold targets too",
)
ARMS = {OURS: "fitted", RANDOM: "random-seqkd", OURS_BOTH: "fitted-both"}
FLOOR = 13  # BLEU


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--students", required=True, nargs="+")
    parser.add_argument("--teacher_bleu", required=True, type=float)
    parser.add_argument("--dropout", type=float, default=TEACHERS_DROPOUT)
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--output", required=True, type=Path)
    return parser.parse_args()


def main() -> None:
    options = parse()
    budgets = [
        (budget, rows)
        for budget, rows in sorted(by_budget(load(options.results)).items())
        if not budget.sentences and budget.dropout == options.dropout and budget.budget == "updates"
    ]
    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, len(options.students), sharex=True, sharey=True, squeeze=False)[0]
    drawn: set[int] = set()
    print("| student | updates | reconstructed | updates the control needs | control's updates in the same time |")
    print("|---|---|---|---|---|")
    for axes, student in zip(panels, options.students, strict=True):
        runs = {budget.updates: lines(rows) for budget, rows in budgets if budget.student == student}
        axes.axhline(options.teacher_bleu, color="black", linewidth=1, linestyle=(0, (4, 4)), label="teacher, beam")
        for name, marker, colour in zip(LINES, MARKERS, COLOURS, strict=False):
            groups = {updates: found[name] for updates, found in runs.items() if name in found}
            scores = [mean(group, "test_bleu") for group in groups.values()]
            bars = [spread(group, "test_bleu") for group in groups.values()]
            axes.errorbar(list(groups), scores, bars, marker=marker, color=colour, capsize=3, label=name)
            drawn |= groups.keys()
        pairs = {budget.updates: contest(rows) for budget, rows in budgets if budget.student == student}
        print_times(student, {updates: pair for updates, pair in pairs.items() if pair})
        axes.set(title=student, xscale="log", xlabel="updates")
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("BLEU, test set, greedy")
    panels[0].set_ylim(bottom=FLOOR)
    panels[0].set_xticks(sorted(drawn), [f"{updates:,}" for updates in sorted(drawn)], minor=False)
    for axes in panels:
        axes.minorticks_off()
        axes.tick_params(axis="x", rotation=60)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=150)


def lines(rows: list[dict]) -> dict[str, list[dict]]:
    """The runs of one budget by the line that they are a point of."""
    arms = {group[0]["arm"]: group for group in best(rows)}
    found = {line: arms.get(arm) for line, arm in ARMS.items()}
    found |= {CONTROL: best_control(rows), CONTROL_BOTH: best_control(rows, "-both")}
    return {line: group for line, group in found.items() if group}


def print_times(student: str, pairs: dict[int, tuple[list[dict], list[dict]]]) -> None:
    """A row a budget: what the control takes for what the default's start has, and gets in its time."""
    curve = {updates: mean(control, "test_bleu") for updates, (_, control) in pairs.items()}
    for updates, (ours, control) in pairs.items():
        score, equal = mean(ours, "test_bleu"), round(updates * time_ratio(ours, control))
        print(f"| {student} | {updates:,} | {score:.1f} | {needed(curve, score)} | {equal:,} |")


def needed(curve: dict[int, float], score: float) -> str:
    """Updates at which a curve ``{updates: score}`` comes to a score."""
    if score <= min(curve.values()):
        return f"at most {min(curve):,}"
    for (before, low), (after, high) in pairwise(sorted(curve.items())):
        if low < score <= high:
            share = (score - low) / (high - low)
            return f"{math.exp((1 - share) * math.log(before) + share * math.log(after)):,.0f}"
    return f"more than {max(curve):,}"


if __name__ == "__main__":
    main()
