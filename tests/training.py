"""Random features and training arguments for tiny runs."""

import torch
from datasets import Dataset

from hf_weight_distill import WeightDistillTrainingArguments


def random_features(rows=32, low=3, high=38, seed=0):
    """Features of unequal length."""
    g = torch.Generator().manual_seed(seed)
    sizes = torch.randint(3, 9, (rows, 2), generator=g).tolist()
    return Dataset.from_list(
        [
            {
                "input_ids": torch.randint(low, high, (source,), generator=g).tolist(),
                "attention_mask": [1] * source,
                "labels": torch.randint(low, high, (target,), generator=g).tolist(),
            }
            for source, target in sizes
        ]
    )


def arguments(folder, **options):
    """Quiet, on the CPU, deterministic."""
    defaults = {
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
    }
    quiet = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "logging_steps": 1, "save_strategy": "no"}
    return WeightDistillTrainingArguments(**defaults | quiet | options, output_dir=str(folder))
