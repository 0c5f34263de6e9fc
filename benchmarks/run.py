"""Runs arms of the comparison and appends one JSON object a finished run to a results file.

    python benchmarks/run.py --teacher DIR --data DIR --student 4+1 --arms copied-first generator \
        --updates 1000 --learning_rates 1e-3 2e-3 --seeds 1

``--data`` holds train, validation and test ``.jsonl.gz`` files with a ``translation`` column. The teacher's own
translations of the training set are made once, in ``--labels``. A run that stands in the results file is not run again;
an interrupted one goes on from its last checkpoint. Choose on ``validation_bleu``, report ``test_bleu``.
"""

import argparse
import gzip
import itertools
import json
import resource
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from arms import ARMS, STUDENTS
from datasets import Dataset, concatenate_datasets
from tables import GIVEN, HERE, Budget, asked_updates, by_budget, load, run_name, time_ratio
from transformers import PreTrainedModel

from hf_weight_distill import WeightDistillConfig, WeightDistiller, WeightDistillTrainingArguments
from hf_weight_distill.data import load_pairs, tokenize_pairs
from hf_weight_distill.evaluation import compute_scores, decoding_speed, model_size, translate
from hf_weight_distill.precision import bf16_pays
from hf_weight_distill.teachers.pseudo_labels import generate_pseudo_labels, teacher_pairs

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOKENS = 3360  # a batch: pairs times the longest side


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--student", required=True, choices=STUDENTS)
    parser.add_argument("--arms", required=True, nargs="+", choices=ARMS)
    parser.add_argument("--updates", type=int, default=1000)
    parser.add_argument(
        "--budget",
        choices=("updates", "seconds"),
        default="updates",
        help="seconds: as many updates as an arm does in the processor time that fitted took for --updates; both must "
        "stand in the results with so many",
    )
    parser.add_argument("--learning_rates", type=float, nargs="+", default=[1e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--sentences", type=int, help="train on the first so many pairs; without it on all of them")
    parser.add_argument("--dropout", type=float, help="of the students; without it the teacher's")
    parser.add_argument("--tokens", type=int, default=TOKENS, help="tokens a batch: pairs times their longest side")
    parser.add_argument("--num_beams", type=int, default=4, help="beam of the pseudo labels")
    parser.add_argument("--labels", type=Path, default=HERE / "runs" / "labels")
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--runs", type=Path, default=HERE / "runs")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the students, a folder each")
    return parser.parse_args()


def features(options: argparse.Namespace, distiller: WeightDistiller, labels: str) -> Dataset:
    """Training features: the teacher's translations, gold pairs or both."""
    pairs = load_pairs(str(options.data / "train.jsonl.gz"))
    kinds = {"gold": pairs.select_columns(["source", "target"])}
    if labels != "gold":
        labelled = generate_pseudo_labels(
            distiller.teacher, distiller.tokenizer, pairs, options.labels, num_beams=options.num_beams, batch_size=64
        )
        kinds["teacher"] = teacher_pairs(labelled)
    chosen = list(kinds.values()) if labels == "both" else [kinds[labels]]
    if options.sentences:
        chosen = [kind.take(options.sentences) for kind in chosen]
    return tokenize_pairs(concatenate_datasets(chosen), distiller.tokenizer)


def training_arguments(
    folder: Path, steps: int, rate: float, seed: int, tokens: int = TOKENS, **more: Any
) -> WeightDistillTrainingArguments:
    """What all runs have in common: one cosine after a warm-up, bf16 where it is fast, batches by tokens."""
    return WeightDistillTrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.02},
        warmup_steps=0.125,
        adam_beta2=0.98,
        max_tokens_per_batch=tokens,
        bf16=bf16_pays(DEVICE),
        seed=seed,
        logging_steps=50,
        save_steps=200,
        save_total_limit=1,
        disable_tqdm=True,
        report_to="none",
        use_cpu=DEVICE == "cpu",
        **more,
    )


def setting_of(options: argparse.Namespace, name: str, rate: float, seed: int) -> dict:
    """What the row of a run begins with."""
    setting = {"teacher": Path(options.teacher).name, "student": options.student, "arm": name, "seed": seed}
    given = {field: getattr(options, field) for field in GIVEN if getattr(options, field) is not None}
    setting |= given | {"budget": options.budget, "updates": options.updates}
    if options.budget == "seconds":
        asked = Budget(options.student, options.updates, **given)
        setting |= {"updates": updates_in_time(options, asked, name), "as_long_as": options.updates}
    return setting | {"learning_rate": rate, "phase1": ARMS[name].phase1}


def updates_in_time(options: argparse.Namespace, asked: Budget, name: str) -> int:
    """How many updates an arm does in the time that ``fitted`` took for those of a budget."""
    rows = by_budget(load(options.results))[asked]
    ours, theirs = ([row for row in rows if row["arm"] == arm and "cpu_seconds" in row] for arm in ("fitted", name))
    if not ours or not theirs:
        raise SystemExit(f"--budget seconds: run fitted and {name} with --budget updates first, to know their times")
    return round(asked.updates * time_ratio(ours, theirs))


def run(options: argparse.Namespace, setting: dict) -> dict:
    """One arm at one learning rate with one seed: trains, scores validation and test."""
    arm, folder = ARMS[setting["arm"]], options.runs / run_name(setting)
    rate, seed = setting["learning_rate"], setting["seed"]
    base = WeightDistillConfig(pseudo_labels="none", label_smoothing=0.1, dropout=options.dropout)
    config = replace(base, **arm.config)
    distiller = WeightDistiller.from_pretrained(
        options.teacher, student=STUDENTS[options.student], config=config, attn_implementation="eager"
    )
    if DEVICE == "cuda":
        distiller.teacher.cuda()
    train = features(options, distiller, arm.labels)
    started, cpu = time.perf_counter(), time.process_time()
    first = round(arm.phase1 * setting["updates"])
    common = {"seed": seed, "tokens": options.tokens, **arm.args}
    torch.manual_seed(seed)
    try:
        student = distiller.distill(
            train,
            output_dir=folder,
            generator_args=training_arguments(folder / "generator", first, rate, **common),
            finetune_args=training_arguments(
                folder / "finetune", setting["updates"] - first, rate * arm.finetune_rate, **common
            ),
            resume_from_checkpoint=folder.exists(),
        )
        seconds = time.perf_counter() - started
        cpu_seconds = time.process_time() - cpu  # of one thread this is the wall clock of an idle machine
        row = scores(options, distiller, student) | {"seconds": round(seconds, 1), "cpu_seconds": round(cpu_seconds, 1)}
        if distiller.summary:
            row["sparsity"] = distiller.summary["magnitude_pruning"]["sparsity"]["total"]
        if options.keep:
            shutil.rmtree(options.keep / folder.name, ignore_errors=True)
            distiller.save_pretrained(options.keep / folder.name)
    except FloatingPointError as error:
        row = {"validation_bleu": 0.0, "test_bleu": 0.0, "failed": str(error)}
    shutil.rmtree(folder, ignore_errors=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout
    return setting | row | {"commit": commit.strip(), "device": device()}


def device() -> str:
    """What a run was made on, and its precision where that is not bf16."""
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else f"cpu, {torch.get_num_threads()} thread(s)"
    return name if bf16_pays(DEVICE) else f"{name}, float32"


def scores(options: argparse.Namespace, distiller: WeightDistiller, student: PreTrainedModel) -> dict:
    row = {}
    tokenizer = distiller.tokenizer
    for split in ("validation", "test"):
        pairs = load_pairs(str(options.data / f"{split}.jsonl.gz"))
        found = translate(student, tokenizer, pairs["source"], batch_size=64)
        values = compute_scores(found, list(pairs["target"]))
        row |= {f"{split}_bleu": round(values["bleu"], 2), f"{split}_chrf": round(values["chrf"], 2)}
    row["translations"] = found
    speed = decoding_speed(student, tokenizer, pairs["source"][:64], batch_size=32, num_beams=1)
    row["parameters"] = model_size(student)["parameters"]
    row["greedy_tokens_per_second"] = round(speed["tokens_per_second"])
    cuda = DEVICE == "cuda"
    row["peak_memory_bytes"] = (
        torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return row


def finished(options: argparse.Namespace) -> set[tuple]:
    if not options.results.exists():
        return set()
    return {identity(row) for row in load(options.results)}


def identity(row: dict) -> tuple:
    """What makes a run that run and no other."""
    fields = ("teacher", "student", *GIVEN, "arm", "budget", "learning_rate", "seed")
    return *(row.get(field) for field in fields), asked_updates(row)


def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    for seed, name, rate in itertools.product(options.seeds, options.arms, options.learning_rates):
        setting = setting_of(options, name, rate, seed)
        if identity(setting) in finished(options):
            continue
        row = run(options, setting)
        translations = row.pop("translations", None)
        if translations is not None:
            folder = options.results.parent / "translations"
            folder.mkdir(exist_ok=True)
            file = folder / f"{run_name(row)}.txt.gz"
            file.write_bytes(gzip.compress("".join(f"{line}\n" for line in translations).encode(), mtime=0))
        with options.results.open("a", encoding="utf-8") as results:
            results.write(json.dumps(row) + "\n")
        print(
            json.dumps(
                {k: row.get(k) for k in ("student", "arm", "learning_rate", "validation_bleu", "test_bleu", "seconds")}
            )
        )


if __name__ == "__main__":
    main()
