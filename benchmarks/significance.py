"""Paired bootstrap (sacreBLEU's own) on the kept translations of the test set.

    python benchmarks/significance.py --data DATA       # the default's start against the best control, every budget
    python benchmarks/significance.py --data DATA --arms fitted-ridge-0.001     # another arm against it
    python benchmarks/significance.py --data DATA --student 4+1 --updates 300 --baseline copied-first --arms fitted-kl

Each arm stands at its best learning rate on validation. Seed k is compared with seed k, and then all seeds with all: a
resample of the sentences has each of them with the translations of every seed, and counts are summed before a score is
made of them. p is at least one part in so many resamples, by construction.
"""

import argparse
import functools
import gzip
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest
from tables import HERE, Budget, best, by_budget, cell, contest, load, mean, run_name

from hf_weight_distill.data import load_pairs

SUMMARY = (
    "student|updates|equal|dropout|sentences|seeds|best control|its BLEU|`{}`|difference|p, each seed|p, all seeds|"
    "chrF|p, all seeds"
)
PAIRS = "arm|seed|BLEU|baseline|p|chrF|baseline|p"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--student", nargs="+", help="these shapes only")
    parser.add_argument("--updates", type=int, help="one number of updates only")
    parser.add_argument("--budget", choices=("updates", "seconds"), help="at equal updates or at equal time only")
    parser.add_argument("--dropout", type=float, help="one dropout only")
    parser.add_argument("--sentences", type=int, help="one size of the training set only, 0 for all of it")
    parser.add_argument("--baseline", help="compare with this arm; without it with the best control")
    parser.add_argument("--arms", nargs="+", default=["fitted"], help="arms to compare; without --baseline the first")
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--resamples", type=int, default=1000)
    return parser.parse_args()


class _OfSeveralRuns:
    """A metric of sacreBLEU over lines that hold the translations of several runs, a tab between them."""

    def _extract_corpus_statistics(self, hypotheses: Sequence[str], references: None) -> list[list[float]]:
        runs = zip(*(line.split("\t") for line in hypotheses), strict=True)
        counts = [super(_OfSeveralRuns, self)._extract_corpus_statistics(list(run), references) for run in runs]
        return [[sum(numbers) for numbers in zip(*line, strict=True)] for line in zip(*counts, strict=True)]


class SeveralBLEU(_OfSeveralRuns, BLEU):
    """BLEU, its counts summed over runs."""


class SeveralCHRF(_OfSeveralRuns, CHRF):
    """chrF likewise."""


METRICS = {"BLEU": SeveralBLEU, "chrF": SeveralCHRF}


def bootstrap(
    options: argparse.Namespace, baseline: Sequence[dict], rows: Sequence[dict], metrics: Iterable[str] = METRICS
) -> list[tuple[float, float, float]]:
    """``(the baseline's score, the other's, p)`` by metric, of two arms, each in as many seeds."""
    folder, references = options.results.parent / "translations", [test_targets(options.data)]
    systems = []
    for name, runs in (("baseline", baseline), ("rows", rows)):
        lines = zip(*(translations(folder, run) for run in runs), strict=True)
        systems.append((name, ["\t".join(text.replace("\t", " ") for text in line) for line in lines]))
    scorers = {name: METRICS[name](references=references) for name in metrics}
    _, scores = PairedTest(systems, scorers, None, test_type="bs", n_samples=options.resamples)()
    del scores["System"]  # their names
    return [(before.score, found.score, found.p_value) for before, found in scores.values()]


@functools.cache
def test_targets(data: Path) -> list[str]:
    """The gold translations of the test set."""
    return list(load_pairs(str(data / "test.jsonl.gz"))["target"])


def translations(folder: Path, row: dict) -> list[str]:
    """What a run made of the test set."""
    return gzip.decompress((folder / f"{run_name(row)}.txt.gz").read_bytes()).decode().splitlines()


def summary(options: argparse.Namespace, budget: Budget, ours: list[dict], theirs: list[dict]) -> None:
    """One line: an arm against the best control."""
    seeds = list(zip(theirs, ours, strict=True)) if len(ours) > 1 else []  # of one, "all seeds" says it
    each = ", ".join(f"{bootstrap(options, [before], [row], ['BLEU'])[0][2]:.3f}" for before, row in seeds)
    print_line(options, budget, ours, theirs, cell, len(ours), f"`{theirs[0]['arm']}`", each)


def together(options: argparse.Namespace, budget: Budget, pairs: list[tuple[list[dict], list[dict]]]) -> None:
    """One line of several shapes, each with its best control: on the seeds that all of them have."""
    seeds = set.intersection(*({row["seed"] for row in ours} for ours, _ in pairs))
    ours, theirs = ([row for pair in pairs for row in pair[side] if row["seed"] in seeds] for side in (0, 1))
    print_line(options, budget, ours, theirs, lambda rows, field: f"{mean(rows, field):.1f}", len(seeds), "of each", "")


def print_line(
    options: argparse.Namespace,
    budget: Budget,
    ours: list[dict],
    theirs: list[dict],
    show: Callable[[list[dict], str], str],
    seeds: int,
    control: str,
    each: str,
) -> None:
    """A line of the table, with what is worked out over all runs of both sides."""
    difference = mean(ours, "test_bleu") - mean(theirs, "test_bleu")
    bleu, chrf = (f"{scores[2]:.3f}" for scores in bootstrap(options, theirs, ours))
    data = f"{budget.sentences:,}" if budget.sentences else "all"
    cells = [budget.student, f"{budget.updates:,}", budget.budget, f"{budget.dropout:g}", data, str(seeds), control]
    cells += [*(show(rows, "test_bleu") for rows in (theirs, ours)), f"{difference:+.1f}", each, bleu]
    cells += [", ".join(show(rows, "test_chrf") for rows in (theirs, ours)), chrf]
    print(f"| {' | '.join(cells)} |", flush=True)


def against(options: argparse.Namespace, rows: list[dict]) -> None:
    """A line an arm and seed, and one of all its seeds."""
    groups = {group[0]["arm"]: {row["seed"]: row for row in group} for group in best(rows)}
    before = groups.get(options.baseline, {})
    for arm in options.arms:
        seeds = sorted(groups.get(arm, {}).keys() & before.keys())
        for some in [[seed] for seed in seeds] + ([seeds] if len(seeds) > 1 else []):
            pair = ([group[seed] for seed in some] for group in (before, groups[arm]))
            cells = [f"{found:.1f} | {base:.1f} | {p:.3f}" for base, found, p in bootstrap(options, *pair)]
            print(f"| {arm} | {', '.join(map(str, some))} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    options = parse()
    asked = {name: getattr(options, name) for name in Budget._fields if name != "student"}
    names = PAIRS if options.baseline else SUMMARY.format(options.arms[0])
    print(f"|{names}|\n|{'---|' * len(names.split('|'))}")
    rows = [row for row in load(options.results) if options.student is None or row["student"] in options.student]
    groups = by_budget(rows)
    chosen = [b for b in sorted(groups) if all(value in (None, getattr(b, n)) for n, value in asked.items())]
    shapes = defaultdict(list)
    for budget in chosen:
        if options.baseline:
            against(options, groups[budget])
        elif pair := contest(groups[budget], options.arms[0]):
            summary(options, budget, *pair)
            shapes[budget._replace(student="all shapes")].append(pair)
    for budget, pairs in sorted(shapes.items()):
        if len(pairs) > 1:
            together(options, budget, pairs)


if __name__ == "__main__":
    main()
