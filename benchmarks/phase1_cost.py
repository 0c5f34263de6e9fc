"""What a step of phase 1 costs against a plain step of the same student: seconds and peak memory, by width and batch.

    python benchmarks/phase1_cost.py --widths 64 256 1024 --batches 8 64 --threads 1

Random Marian teachers of 4+4 layers and 8,000 tokens; a student 4+1 of the teacher's width and one of half of it. Each
cell runs in a process of its own, on one batch of 20 source and 20 target tokens a sentence, forward, backward and
AdamW; the median of the steps is taken, and the two kinds of step take turns so that a busy machine is busy for both.
"""

import argparse
import gc
import multiprocessing
import statistics
import time
from functools import partial
from pathlib import Path

import torch
from transformers import MarianConfig, MarianMTModel

from hf_weight_distill import StudentShape, WeightDistillModel, build_plan
from hf_weight_distill.plan import tensors_of
from hf_weight_distill.precision import bf16_pays
from hf_weight_distill.starts import teacher_start

VOCAB, LENGTH = 8_000, 20
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KINDS = ("plain", "generator")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512, 1024])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32, 128], help="sentences of 20 + 20 tokens")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each kind, after two for warming up")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def models(width: int, half: bool) -> dict[str, torch.nn.Module]:
    """The plain student and the phase-1 module that starts as it."""
    heads = max(width // 64, 2)
    layers = {
        f"{stack}_{name}": n for stack in ("encoder", "decoder") for name, n in (("layers", 4), ("ffn_dim", 4 * width))
    }
    layers |= {f"{stack}_attention_heads": heads for stack in ("encoder", "decoder")}
    ids = {"pad_token_id": VOCAB - 1, "eos_token_id": 0, "decoder_start_token_id": VOCAB - 1, "forced_eos_token_id": 0}
    config = MarianConfig(vocab_size=VOCAB, d_model=width, max_position_embeddings=64, **layers, **ids)
    teacher = MarianMTModel(config).eval()
    shape = StudentShape(decoder_layers=1)
    if half:
        shape = StudentShape(decoder_layers=1, d_model=width // 2, ffn_dim=2 * width, attention_heads=heads // 2 or 1)
    plan = build_plan(teacher, shape)
    module = WeightDistillModel(plan, teacher, teacher_start(plan, teacher), "generator")
    student = module.materialize()
    for name in plan.constants:
        tensors_of(student)[name].requires_grad_(False)
    return {"plain": student, "generator": module}


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, torch.Tensor]) -> float:
    """Seconds of one update."""
    bf16 = bf16_pays(DEVICE)  # which is timed itself, the first time
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=bf16):
        loss = model(**batch, use_cache=False).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def memory(field: str) -> int:
    """Bytes of this process (Linux): ``VmRSS`` now, ``VmHWM`` at most since :func:`forget_peak`."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """What building the models took is not what training takes."""
    Path("/proc/self/clear_refs").write_text("5")
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()


def cell(kinds: tuple[str, ...], width: int, half: bool, sentences: int, steps: int, threads: int) -> dict:
    """Median seconds of each kind of step, and the peak memory of the process in bytes."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    before = memory("VmRSS")
    found = models(width, half)
    chosen = {kind: found.pop(kind).to(DEVICE).train() for kind in kinds}
    del found
    gc.collect()
    forget_peak()
    ids = torch.randint(1, VOCAB - 1, (sentences, LENGTH), device=DEVICE)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    optimizers = {k: torch.optim.AdamW([p for p in m.parameters() if p.requires_grad]) for k, m in chosen.items()}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(steps + 2):
        for kind in kinds:
            seconds[kind].append(step(chosen[kind], optimizers[kind], batch))
    peak = torch.cuda.max_memory_allocated() if DEVICE == "cuda" else memory("VmHWM") - before
    return {kind: statistics.median(values[2:]) for kind, values in seconds.items()} | {"peak": peak}


def main() -> None:
    options = parse()
    context = multiprocessing.get_context("spawn")
    print("| width | student | target tokens a batch | plain step, ms | phase 1, ms | ratio | peak memory, ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for width in options.widths:
        for half in (False, True):
            for sentences in options.batches:
                run = partial(cell, width=width, half=half, sentences=sentences, threads=options.threads)
                with context.Pool(1, maxtasksperchild=1) as pool:
                    times = pool.apply(run, (KINDS,), {"steps": options.steps})
                    peaks = [pool.apply(run, ((kind,),), {"steps": 2})["peak"] for kind in KINDS]
                plain, phase_1 = (1000 * times[kind] for kind in KINDS)
                student = f"4+1, width {width // 2 if half else width}"
                ratios = f"{phase_1 / plain:.2f} | {peaks[1] / peaks[0]:.2f}"
                print(
                    f"| {width} | {student} | {sentences * LENGTH} | {plain:.0f} | {phase_1:.0f} | {ratios} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
