"""Prints the results file as Markdown: for each arm its best learning rate on validation, mean and spread over seeds.

python benchmarks/tables.py --student 4+1 --updates 300
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).parent


def load(path: Path) -> list[dict]:
    """Finished runs."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def best(rows: list[dict]) -> list[list[dict]]:
    """The runs of each arm at the learning rate with the best mean validation BLEU."""
    groups: dict[str, dict[float, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["arm"]][row["learning_rate"]].append(row)
    return [max(rates.values(), key=lambda g: mean(g, "validation_bleu")) for rates in groups.values()]


def mean(rows: list[dict], field: str) -> float:
    return statistics.mean(row[field] for row in rows)


def cell(rows: list[dict], field: str) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    spread = f" ± {statistics.stdev(row[field] for row in rows):.1f}" if len(rows) > 1 else ""
    return f"{mean(rows, field):.1f}{spread}"


def table(rows: list[dict]) -> str:
    """One line an arm, in the order of the file."""
    lines = [
        "| arm | learning rate | seeds | validation BLEU | test BLEU | test chrF | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for group in best(rows):
        first = group[0]
        scores = " | ".join(cell(group, field) for field in ("validation_bleu", "test_bleu", "test_chrf"))
        minutes = mean(group, "seconds") / 60 if "seconds" in first else float("nan")
        lines.append(f"| {first['arm']} | {first['learning_rate']:g} | {len(group)} | {scores} | {minutes:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--student", required=True)
    parser.add_argument("--updates", type=int, required=True)
    options = parser.parse_args()
    rows = [r for r in load(options.results) if (r["student"], r["updates"]) == (options.student, options.updates)]
    print(table(rows))


if __name__ == "__main__":
    main()
