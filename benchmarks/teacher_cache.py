"""What a teacher cache costs, keeps and saves, as a Markdown table: bytes a label token, seconds to write it, the mean
share of probability on the kept tokens, the share of the student's KL divergence that they show, and the time of an
update with the cache and with the live teacher.

    python benchmarks/teacher_cache.py --teacher DIR --data DIR --student 4+1 --rows 2000 --top_k 1 4 16 64

``--data`` holds a ``train.jsonl.gz`` with a ``translation`` column. Times are medians over ``--updates`` updates after
one that is not counted: seconds of the processor on a CPU, where other work does not disturb them, and seconds on the
clock with a GPU. The learning rate is 0, so that every run sees one student.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from arms import STUDENTS
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, set_seed

from hf_weight_distill import WeightDistiller, WeightDistillTrainer, WeightDistillTrainingArguments
from hf_weight_distill.data import load_pairs, tokenize_pairs
from hf_weight_distill.objectives import build_objectives
from hf_weight_distill.teachers.logit_cache import build_teacher_cache

CUDA = torch.cuda.is_available()
HEADER = "| teacher | bytes a token | writing, s | probability kept | KL seen | update, phase 1 | update, phase 2 |"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--student", required=True, choices=STUDENTS)
    parser.add_argument("--rows", type=int, default=2000, help="training pairs, from the first")
    parser.add_argument("--top_k", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--updates", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=3000, help="tokens a batch: pairs times their longest side")
    return parser.parse_args()


def seconds() -> float:
    """Of the processor, or with a GPU on the clock."""
    if CUDA:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


class Clock(TrainerCallback):
    """The time of each update."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._start = seconds()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(seconds() - self._start)

    @property
    def median(self) -> float:
        return statistics.median(self.times[1:])


def train(options: argparse.Namespace, distiller: WeightDistiller, features: Dataset, source: Any, phase: int) -> dict:
    """The median time of an update of a phase, and the mean divergence."""
    clock = Clock()
    set_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        args = WeightDistillTrainingArguments(
            folder,
            max_steps=options.updates + 1,
            learning_rate=0.0,
            max_tokens_per_batch=options.tokens,
            bf16=CUDA,
            logging_steps=options.updates + 1,
            disable_tqdm=True,
            save_strategy="no",
            use_cpu=not CUDA,
        )
        trainer = WeightDistillTrainer(
            distiller.model if phase == 1 else distiller.model.materialize(),
            args=args,
            objectives=build_objectives({"kl": 1.0}, temperature=options.temperature),
            teacher=source,
            train_dataset=features,
            data_collator=distiller.collator,
            callbacks=[clock],
        )
        trainer.remove_callback(PrinterCallback)  # stdout is the table's
        trainer.train()
    return {"time": clock.median, "kl": trainer.state.log_history[0]["kl"]}


def rows(options: argparse.Namespace, distiller: WeightDistiller, features: Dataset) -> Iterator[str]:
    """The lines of the table: the live teacher, then a cache of each size."""
    live = [train(options, distiller, features, distiller.teacher, phase) for phase in (1, 2)]
    yield f"| live | | | 100% | 100% | {live[0]['time']:.2f} s | {live[1]['time']:.2f} s |"
    for top_k in options.top_k:
        with tempfile.TemporaryDirectory() as folder:
            started = seconds()
            cache = build_teacher_cache(
                distiller.teacher,
                features,
                folder,
                tokenizer=distiller.tokenizer,
                top_k=top_k,
                temperature=options.temperature,
                device="cuda" if CUDA else None,
            )
            written = seconds() - started
            found = [train(options, distiller, features, cache, phase) for phase in (1, 2)]
        kept, size = cache.summary()["kept"], cache.summary()["bytes_per_token"]
        updates = (f"{f['time']:.2f} s, {x['time'] / f['time']:.1f}x" for f, x in zip(found, live, strict=True))
        seen = found[1]["kl"] / live[1]["kl"]
        yield f"| k = {top_k} | {size} | {written:.1f} | {kept:.2%} | {seen:.1%} | {' | '.join(updates)} |"


def main() -> None:
    options = parse()
    distiller = WeightDistiller.from_pretrained(options.teacher, student=STUDENTS[options.student])
    pairs = load_pairs(str(options.data / "train.jsonl.gz"))
    features = tokenize_pairs(pairs.select(range(min(options.rows, len(pairs)))), distiller.tokenizer)
    device = torch.cuda.get_device_name() if CUDA else f"CPU, {torch.get_num_threads()} thread(s)"
    vocabulary = distiller.teacher.config.vocab_size
    print(f"{device}; {len(features)} sentences, vocabulary {vocabulary}, {options.tokens} tokens a batch\n")
    print(HEADER, "|---|---|---|---|---|---|---|", sep="\n")
    for row in rows(options, distiller, features):
        print(row, flush=True)


if __name__ == "__main__":
    main()
