"""Decoding speed and BLEU of students against their teacher, all in one run, and written to a JSON file.

    python benchmarks/speed.py --teacher DIR --data DIR --students runs/students/*

Transformers and CTranslate2 (float32 and int8), greedy and beam, one sentence at a time and in batches. The models
take turns in each round, so that a busy machine is busy for all of them; the median round is taken. Speed is generated
tokens a second on the first test sentences, BLEU that of the whole test set.
"""

import argparse
import itertools
import json
import statistics
import tempfile
from pathlib import Path

import torch
from tables import HERE
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_weight_distill.data import load_pairs
from hf_weight_distill.evaluation import compute_scores, decoding_speed, model_size, translate
from hf_weight_distill.export import export_student
from hf_weight_distill.export.ctranslate2 import CTranslate2Model

RUNTIMES = ("transformers", "ctranslate2 float32", "ctranslate2 int8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, type=Path)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--students", required=True, nargs="+", type=Path)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--sentences", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=HERE / "speed.json")
    return parser.parse_args()


def runtimes(
    names: list[str], model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: list[str], folder: Path
) -> dict[str, torch.nn.Module]:
    """The model as each runtime of ``names`` has it."""
    found = {}
    for runtime in names:
        if runtime == "transformers":
            found[runtime] = model
            continue
        to, quantization = runtime.split()
        export_student(model, tokenizer, folder / runtime, to=to, quantization=quantization, sentences=sentences)
        found[runtime] = CTranslate2Model(folder / runtime, model.config)
    return found


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    test = load_pairs(str(options.data / "test.jsonl.gz"))
    sentences, references = test["source"][: options.sentences], list(test["target"])
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        models, tokenizers, sizes = {}, {}, {}
        for path in (options.teacher, *options.students):
            name = "teacher" if path == options.teacher else path.name
            model = AutoModelForSeq2SeqLM.from_pretrained(path).eval()
            tokenizers[name] = AutoTokenizer.from_pretrained(path)
            models[name] = runtimes(options.runtimes, model, tokenizers[name], sentences, Path(folder) / name)
            sizes[name] = model_size(model)["parameters"]
        for runtime, beams, batch in itertools.product(options.runtimes, options.beams, options.batches):
            speeds = {name: [] for name in models}
            for _, name in itertools.product(range(options.rounds), models):
                found = decoding_speed(
                    models[name][runtime], tokenizers[name], sentences, batch_size=batch, num_beams=beams, repeats=1
                )
                speeds[name].append(found["tokens_per_second"])
            setting = {"runtime": runtime, "num_beams": beams, "batch_size": batch}
            for name, values in speeds.items():
                speed = statistics.median(values)
                rows.append({"model": name, "parameters": sizes[name], **setting, "tokens_per_second": round(speed, 1)})
        for runtime, beams, name in itertools.product(options.runtimes, options.beams, models):
            found = translate(models[name][runtime], tokenizers[name], test["source"], batch_size=64, num_beams=beams)
            bleu = round(compute_scores(found, references)["bleu"], 2)
            for row in rows:
                if (row["model"], row["runtime"], row["num_beams"]) == (name, runtime, beams):
                    row["test_bleu"] = bleu
    options.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))


def table(rows: list[dict]) -> str:
    """One line for a model in a runtime with a beam; speeds as factors of the teacher's in the same runtime."""
    batches = sorted({row["batch_size"] for row in rows})
    heads = [f"batch {batch}, tokens/s" for batch in batches]
    lines = [f"| runtime | beam | model | {' | '.join(heads)} | test BLEU |", "|---" * (4 + len(heads)) + "|"]
    speeds = {(r["runtime"], r["num_beams"], r["batch_size"], r["model"]): r["tokens_per_second"] for r in rows}
    for row in rows:
        if row["batch_size"] != batches[0]:
            continue
        key = row["runtime"], row["num_beams"]
        cells = []
        for batch in batches:
            speed, teacher = (speeds[(*key, batch, name)] for name in (row["model"], "teacher"))
            cells.append(f"{speed:.0f} ({speed / teacher:.2f}x)")
        scores = f"{row['test_bleu']:.1f}"
        lines.append(f"| {row['runtime']} | {row['num_beams']} | {row['model']} | {' | '.join(cells)} | {scores} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
