"""Named recipes: the one place where a recipe's name becomes a configuration."""

from .config import WeightDistillConfig, check_names

_TRAINING = {  # at the learning rate of the student's width: see arguments.with_learning_rate
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "max_tokens_per_batch": 4096,  # a process
}
_PAPER_OPTIMIZER = {
    "max_steps": 30_000,
    "learning_rate": 7e-4,
    "lr_scheduler_type": "inverse_sqrt",
    "adam_beta1": 0.9,
    "adam_beta2": 0.98,
    "weight_decay": 0.0,
    "max_grad_norm": 0.0,  # no clipping
    "max_tokens_per_batch": 4096,  # a process; the publication used 8 processes
    "projection_lr_factor": 1.0,
}

RECIPES: dict[str, WeightDistillConfig] = {
    # What the benchmark shows to be best: the reconstructed start, trained as a plain model in one schedule, and where
    # training is long on gold targets, too. Learning a generator from the same start (recipe "generator") did not add
    # to it: see benchmarks/README.md.
    "default": WeightDistillConfig(
        source="direct",
        dropout=0.0,  # a student that has less room than its teacher has more to learn than to forget
        generator_args={"max_steps": 0},
        finetune_args={**_TRAINING, "max_steps": 2_000},
        pseudo_labels="auto",
        num_beams=4,
    ),
    # The generator of Weight Distillation from the reconstructed start, trained to the end: half of the updates for a
    # phase 2 with a schedule of its own were behind by 0.9 BLEU in benchmarks/README.md.
    "generator": WeightDistillConfig(
        source="generator",
        dropout=0.0,
        generator_args={**_TRAINING, "max_steps": 2_000},
        finetune_args={**_TRAINING, "max_steps": 0},
        pseudo_labels="auto",
        num_beams=4,
    ),
    # Lin et al., ACL 2021, with the settings of its published code.
    "paper": WeightDistillConfig(
        source_options={"init": "xavier", "activation": "tanh", "scale": True, "shift": True, "share": False},
        start="random",
        calibration_sentences=0,
        pseudo_labels="augment",
        num_beams=6,
        length_penalty=1.0,
        label_smoothing=0.1,
        generator_args={**_PAPER_OPTIMIZER, "warmup_steps": 4_000},
        finetune_args={**_PAPER_OPTIMIZER, "warmup_steps": 1_000},
    ),
    # Over-parameterised distillation (arXiv 2411.06448): copied layers, trained as matrix product operators. For a
    # student narrower than its teacher leave tensor_constraint out of generator_objectives.
    "opdf": WeightDistillConfig(
        source="mpo",
        source_options={"unit_sites": 1},
        reconstruction="none",
        generator_objectives={"cross_entropy": 1.0, "tensor_constraint": 1e-4},
        generator_args={**_TRAINING, "max_steps": 2_000, "learning_rate": 5e-4},
        finetune_args={"max_steps": 0},
        pseudo_labels="replace",
        num_beams=4,
    ),
    # Self-distilled pruning (arXiv 2109.15014): the teacher, of unchanged shape, teaches its own pruned version. Use it
    # with StudentShape().
    "self-distilled-pruning": WeightDistillConfig(
        source="direct",
        generator_args={"max_steps": 0},
        finetune_objectives={"cross_entropy": 1.0, "cross_correlation": 0.1},
        schedules={"magnitude_pruning": {"sparsity": 0.9, "steps": 10, "end": 0.75}},
        finetune_args={**_TRAINING, "max_steps": 2_000, "learning_rate": 5e-4, "warmup_steps": 0.02},
    ),
}


def nearest_recipe(config: WeightDistillConfig) -> str:
    """The name of the recipe from which the fewest fields of a configuration differ."""
    given = vars(config)

    def distance(name: str) -> tuple[int, int]:
        recipe = vars(RECIPES[name])
        kind = sum(given[field] != recipe[field] for field in ("source", "start"))
        kind += set(given["schedules"]) != set(recipe["schedules"])
        return kind, sum(given[field] != value for field, value in recipe.items())

    return min(RECIPES, key=distance)


def recipe_config(recipe: str) -> WeightDistillConfig:
    """The configuration of a recipe.

    Raises:
        ValueError: no such recipe.
    """
    check_names("recipe", [recipe], RECIPES)
    return RECIPES[recipe]
