"""Validation loss and BLEU of students before any training, and CPU seconds: what a start is worth, and what it costs.

python benchmarks/untrained.py --teacher TEACHER --data DATA --students 4+1 2+1
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from arms import STUDENTS
from transformers import PreTrainedModel

from hf_weight_distill import WeightDistillConfig, WeightDistiller
from hf_weight_distill.data import load_pairs, tokenize_pairs
from hf_weight_distill.evaluation import compute_scores, translate

STARTS = {
    "copied, first": {"layers": "first", "reconstruction": "none"},
    "copied, last": {"layers": "last", "reconstruction": "none"},
    "reconstructed": {},
}


@torch.no_grad()
def loss(model: PreTrainedModel, batches: list[dict[str, torch.Tensor]]) -> float:
    """Cross-entropy with the gold targets, nats a token."""
    total = tokens = 0.0
    for batch in batches:
        count = batch["labels"].ne(-100).sum().item()
        total, tokens = total + count * model(**batch).loss.item(), tokens + count
    return total / tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=["4+1"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = WeightDistillConfig(source="direct")
    distiller = WeightDistiller.from_pretrained(options.teacher, student=STUDENTS["4+1"], config=config)
    pairs = {split: load_pairs(str(options.data / f"{split}.jsonl.gz")) for split in ("train", "validation")}
    train, validation = (
        tokenize_pairs(pairs[split].select(range(count)), distiller.tokenizer)
        for split, count in (("train", config.calibration_sentences), ("validation", 500))
    )
    rows, collate = sorted(validation, key=lambda row: len(row["input_ids"])), distiller.collator
    batches = [collate([dict(row) for row in rows[i : i + 50]]) for i in range(0, len(rows), 50)]
    print(f"teacher: {loss(distiller.teacher, batches):.2f}")
    for student in options.students:
        for name, changes in STARTS.items():
            settings = {"student": STUDENTS[student], "config": replace(config, **changes)}
            made = WeightDistiller(distiller.teacher, distiller.tokenizer, **settings)
            started = time.process_time()
            made.calibrate(train)
            seconds = time.process_time() - started
            found = translate(made.student, distiller.tokenizer, pairs["validation"]["source"], batch_size=64)
            bleu = compute_scores(found, list(pairs["validation"]["target"]))["bleu"]
            print(f"{student}, {name}: {loss(made.student, batches):.2f}, BLEU {bleu:.1f}; {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
