"""Prints the results file as Markdown: for each arm its best learning rate on validation, mean and spread over seeds.

    python benchmarks/tables.py > benchmarks/TABLES.md
    python benchmarks/tables.py --student 4+1 --updates 300

``by_budget``, ``best`` and ``contest`` are what the other pages and pictures choose by.
"""

import argparse
import functools
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
GIVEN = ("sentences", "dropout")  # what a row has only where the run was told
TEACHERS_DROPOUT = 0.1
EXPLANATION = """\
Made by `python benchmarks/tables.py` from `results.jsonl`. Each arm stands at its best learning rate on
validation, two rates compared on the seeds that both have: mean and standard deviation over its seeds. The last
column holds every rate that was tried with its mean validation BLEU; 0 is a run whose loss was no number any more.
Minutes are of one CPU thread where the run recorded them, with the closed form and the teacher's forward passes in
them, and the wall clock of a busy machine where it did not (~). "The time of 300 updates": the
others have as many updates as they do in the processor time that `fitted` took for 300, its closed form included.
What the arms are, and what follows: [README.md](README.md)."""
COPIED = ("copied", "pca", "importance", "uniform")  # starts without reconstruction, trained on
CONTROLS = (*COPIED, "opdf")
OTHERWISE = ("-kl", "-both")  # with another objective or other labels


def load(path: Path) -> list[dict]:
    """Finished runs."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_name(row: dict) -> str:
    """What the files of a run are called."""
    name = f"{row['student']}-{row['arm']}-{row['updates']}-{row['learning_rate']:g}-{row['seed']}"
    return name + "".join(f"-{field}-{row[field]:g}" for field in GIVEN if field in row)


class Budget(NamedTuple):
    """What the arms of a comparison share.

    ``sentences`` is 0 for all pairs of the training set. With ``budget="seconds"`` the arms have the processor time
    that ``fitted`` took for ``updates``.
    """

    student: str
    updates: int
    dropout: float = TEACHERS_DROPOUT
    sentences: int = 0
    budget: str = "updates"

    def __str__(self) -> str:
        few = f", {self.sentences:,} sentences" if self.sentences else ""
        size = f"{self.updates:,} updates" if self.budget == "updates" else f"the time of {self.updates:,} updates"
        return f"{self.student}, {size}{few}, dropout {self.dropout:g}"


def by_budget(rows: list[dict]) -> dict[Budget, list[dict]]:
    """Runs by what they share, in the order of the file; ``fitted`` stands beside the runs that have its time."""
    groups: dict[Budget, list[dict]] = defaultdict(list)
    for row in rows:
        shared = {field: row[field] for field in Budget._fields if field in row}
        groups[Budget(**shared | {"updates": asked_updates(row)})].append(row)
    for budget in [budget for budget in groups if budget.budget == "seconds"]:
        same = groups.get(budget._replace(budget="updates"), [])
        groups[budget] = [row for row in same if row["arm"] == "fitted"] + groups[budget]
    return groups


def asked_updates(row: dict) -> int:
    """The number of updates that names a run's budget: its own, or those of ``fitted`` whose time it has."""
    return row.get("as_long_as", row["updates"])


def time_ratio(ours: list[dict], theirs: list[dict]) -> float:
    """Processor time of a run of the one, in runs of the other; 1 where it was not recorded."""
    measured = [timed(group) for group in (ours, theirs)]
    return mean(measured[0], "cpu_seconds") / mean(measured[1], "cpu_seconds") if all(measured) else 1.0


def timed(rows: list[dict]) -> list[dict]:
    """The runs whose processor time was recorded: those in bf16, where float32 on another machine is beside them."""
    measured = [row for row in rows if "cpu_seconds" in row]
    return [row for row in measured if not row.get("device", "").endswith("float32")] or measured


def by_rate(rows: list[dict]) -> dict[str, dict[float, list[dict]]]:
    """``{arm: {learning rate: runs}}``, arms in the order of the file."""
    groups: dict[str, dict[float, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["arm"]][row["learning_rate"]].append(row)
    return groups


def best(rows: list[dict]) -> list[list[dict]]:
    """The runs of each arm at its best learning rate: two rates are compared on the seeds that both have."""
    return [functools.reduce(better, rates.values()) for rates in by_rate(rows).values()]


def better(ours: list[dict], theirs: list[dict]) -> list[dict]:
    """Of the runs at two rates those with the better mean validation BLEU of the seeds that both have."""
    seeds = {row["seed"] for row in ours} & {row["seed"] for row in theirs}
    found = [[row for row in group if row["seed"] in seeds] or group for group in (ours, theirs)]
    return ours if mean(found[0], "validation_bleu") >= mean(found[1], "validation_bleu") else theirs


def mean(rows: list[dict], field: str) -> float:
    return statistics.mean(row[field] for row in rows)


def spread(rows: list[dict], field: str) -> float:
    """Standard deviation over seeds; 0 for a single one."""
    return statistics.stdev(row[field] for row in rows) if len(rows) > 1 else 0.0


def cell(rows: list[dict], field: str) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    return f"{mean(rows, field):.1f}" + (f" ± {spread(rows, field):.1f}" if len(rows) > 1 else "")


def cost(rows: list[dict]) -> str:
    """Minutes of a run."""
    measured = timed(rows)
    if measured:
        return f"{mean(measured, 'cpu_seconds') / 60:.1f}"
    return f"~{mean(rows, 'seconds') / 60:.1f}" if "seconds" in rows[0] else ""


def table(rows: list[dict]) -> str:
    """One line an arm, the best on validation first."""
    lines = [
        "| arm | learning rate | seeds | validation BLEU | test BLEU | chrF | minutes | rates tried: validation BLEU |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rates = by_rate(rows)
    for group in sorted(best(rows), key=lambda group: -mean(group, "validation_bleu")):
        first = group[0]
        scores = " | ".join(cell(group, field) for field in ("validation_bleu", "test_bleu", "test_chrf"))
        tried = ", ".join(f"{r:g}: {mean(g, 'validation_bleu'):.1f}" for r, g in sorted(rates[first["arm"]].items()))
        name = f"`{first['arm']}`" + (f", {first['updates']:,} updates" if "as_long_as" in first else "")
        lines.append(f"| {name} | {first['learning_rate']:g} | {len(group)} | {scores} | {cost(group)} | {tried} |")
    return "\n".join(lines)


def best_control(rows: list[dict], otherwise: str = "") -> list[dict] | None:
    """The runs of the best control on validation, of those that learn from the teacher's translations.

    Args:
        otherwise: one of ``OTHERWISE``: of those with that objective or those labels instead.
    """
    controls = []
    for group in best(rows):
        name = group[0]["arm"]
        if name.startswith(CONTROLS) and next(filter(name.endswith, OTHERWISE), "") == otherwise:
            controls.append(group)
    return max(controls, key=lambda group: mean(group, "validation_bleu"), default=None)


def contest(rows: list[dict], arm: str = "fitted") -> tuple[list[dict], list[dict]] | None:
    """The runs of an arm and of the best control on validation, on the seeds that both have, in their order."""
    ours = next((group for group in best(rows) if group[0]["arm"] == arm), None)
    control = best_control(rows)
    if ours is None or control is None:
        return None
    seeds = {row["seed"] for row in ours} & {row["seed"] for row in control}
    by_seed = (sorted(group, key=lambda row: row["seed"]) for group in (ours, control))
    return tuple([row for row in group if row["seed"] in seeds] for group in by_seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--student", help="one student only")
    parser.add_argument("--updates", type=int, help="one budget only")
    options = parser.parse_args()
    print(f"# Every run of the benchmarks\n\n{EXPLANATION}")
    for budget, rows in sorted(by_budget(load(options.results)).items()):
        if options.student in (None, budget.student) and options.updates in (None, budget.updates):
            print(f"\n## {budget}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
