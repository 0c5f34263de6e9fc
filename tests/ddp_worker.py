"""Run by torchrun from test_trainer.py: two SGD steps of a phase, weights written by the first process."""

import gc
import sys

import torch
from models import tiny_teacher
from training import arguments, random_features

from hf_weight_distill import StudentShape, build_plan
from hf_weight_distill.data import PlainCollator
from hf_weight_distill.model import WeightDistillModel
from hf_weight_distill.objectives import build_objectives
from hf_weight_distill.starts import teacher_start
from hf_weight_distill.trainer import WeightDistillTrainer


def features(phase, whole):
    """Each of two processes reads a shard, if there are two: of the whole, in batches of 8, that is another order."""
    rows = random_features(16)
    if phase == "shards":
        order = [*range(4), *range(8, 12), *range(4, 8), *range(12, 16)]
        return rows.select(order).to_iterable_dataset() if whole else rows.to_iterable_dataset(num_shards=2)
    return rows.to_iterable_dataset() if phase == "stream" else rows


def train(phase, folder, **options):
    """Returns the trained student's weights."""
    torch.manual_seed(0)
    teacher = tiny_teacher("marian").requires_grad_(True)
    for module in teacher.modules():  # dropout would differ between the ways to cut a batch
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    teacher.config.dropout = 0.0
    plan = build_plan(teacher, StudentShape(decoder_layers=1))
    source, extra = ("mpo", {"tensor_constraint": 1.0}) if phase == "opdf" else ("generator", {})
    model = WeightDistillModel(plan, teacher, teacher_start(plan, teacher, layers="last"), source)
    if phase not in ("generator", "opdf"):
        model = model.materialize()
    args = arguments(folder, optim="sgd", max_steps=2, learning_rate=0.5, max_grad_norm=0.0, **options)
    trainer = WeightDistillTrainer(
        model,
        args=args,
        objectives=build_objectives({"cross_entropy": 1.0, "kl": 0.5, **extra}, label_smoothing=0.1),
        teacher=teacher,
        train_dataset=features(phase, whole=options["per_device_train_batch_size"] == 8),
        data_collator=PlainCollator(39),
    )
    trainer.train()
    return (model.materialize() if isinstance(model, WeightDistillModel) else model).state_dict(), trainer


def main():
    phase, folder, target = sys.argv[1:]
    weights, trainer = train(phase, folder, per_device_train_batch_size=4)
    assert trainer.args.world_size == 2
    if trainer.args.process_index == 0:
        torch.save((weights, trainer.state.log_history), target)


if __name__ == "__main__":
    main()
    gc.collect()  # DDP holds the process group, whose threads may abort a process that exits with it
    torch.distributed.destroy_process_group()
