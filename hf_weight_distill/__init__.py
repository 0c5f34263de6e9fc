"""Weight Distillation for Hugging Face seq2seq models: a teacher's weights in, a small stock student out."""

__version__ = "0.1.0"

from .config import StudentShape, WeightDistillConfig
from .distiller import WeightDistiller
from .model import WeightDistillModel
from .plan import WeightPlan, build_plan
from .recipes import RECIPES
from .trainer import WeightDistillTrainer, WeightDistillTrainingArguments

__all__ = [
    "RECIPES",
    "StudentShape",
    "WeightDistillConfig",
    "WeightDistillModel",
    "WeightDistillTrainer",
    "WeightDistillTrainingArguments",
    "WeightDistiller",
    "WeightPlan",
    "build_plan",
]
