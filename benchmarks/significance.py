"""Paired bootstrap (sacreBLEU's own) of arms against a baseline, on the kept translations of the test set.

    python benchmarks/significance.py --data DATA --student 4+1 --updates 300 --baseline copied-first --arms fitted

Each arm and the baseline stand at their best learning rate on validation; seed k is compared with seed k.
"""

import argparse
import gzip
from pathlib import Path

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest
from tables import HERE, Budget, best, by_budget, load, run_name

from hf_weight_distill.data import load_pairs


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--student", required=True)
    parser.add_argument("--updates", required=True, type=int)
    parser.add_argument("--sentences", type=int, default=0)
    parser.add_argument("--baseline", required=True)
    parser.add_argument("--arms", required=True, nargs="+")
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--resamples", type=int, default=1000)
    return parser.parse_args()


def translations(folder: Path, row: dict) -> list[str]:
    """What a run made of the test set."""
    return gzip.decompress((folder / f"{run_name(row)}.txt.gz").read_bytes()).decode().splitlines()


def main() -> None:
    options = parse()
    folder = options.results.parent / "translations"
    rows = by_budget(load(options.results))[Budget(options.student, options.updates, options.sentences)]
    groups = {group[0]["arm"]: {row["seed"]: row for row in group} for group in best(rows)}
    references = [list(load_pairs(str(options.data / "test.jsonl.gz"))["target"])]
    print("| arm | seed | BLEU | baseline | p | chrF | baseline | p |\n|---|---|---|---|---|---|---|---|")
    for arm in options.arms:
        for seed in sorted(groups[arm].keys() & groups[options.baseline].keys()):
            systems = [(name, translations(folder, groups[name][seed])) for name in (options.baseline, arm)]
            metrics = {"BLEU": BLEU(references=references), "chrF": CHRF(references=references)}
            test = PairedTest(systems, metrics, None, test_type="bs", n_samples=options.resamples)
            _, scores = test()
            cells = []
            for metric in ("BLEU", "chrF2"):
                baseline, found = scores[metric]
                cells += [f"{found.score:.1f} | {baseline.score:.1f} | {found.p_value:.3f}"]
            print(f"| {arm} | {seed} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
