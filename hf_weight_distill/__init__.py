"""Weight Distillation for Hugging Face seq2seq models: a teacher's weights in, a small stock student out."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .config import StudentShape, WeightDistillConfig
    from .distiller import WeightDistiller
    from .model import WeightDistillModel
    from .plan import WeightPlan, build_plan
    from .recipes import RECIPES
    from .trainer import WeightDistillTrainer, WeightDistillTrainingArguments

# Public name -> module; imported when asked for (PEP 562), so that the command line's help does not wait for torch.
_MODULES = {
    "RECIPES": "recipes",
    "StudentShape": "config",
    "WeightDistillConfig": "config",
    "WeightDistillModel": "model",
    "WeightDistillTrainer": "trainer",
    "WeightDistillTrainingArguments": "arguments",
    "WeightDistiller": "distiller",
    "WeightPlan": "plan",
    "build_plan": "plan",
}
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


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
