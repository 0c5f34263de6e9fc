"""Objectives: outputs and labels in, a sum over label tokens out. One module each, one line here each."""

from ..config import check_names, options_of
from .base import Objective
from .cross_correlation import CrossCorrelation
from .cross_entropy import CrossEntropy
from .kl import KLDivergence
from .tensor_constraint import TensorConstraint

OBJECTIVES: dict[str, type[Objective]] = {
    "cross_correlation": CrossCorrelation,
    "cross_entropy": CrossEntropy,
    "kl": KLDivergence,
    "tensor_constraint": TensorConstraint,
}


def build_objectives(weights: dict[str, float], **options: float) -> dict[str, tuple[Objective, float]]:
    """Objectives by name, each with its weight; an objective takes those of ``options`` that it has.

    Raises:
        ValueError: an unknown name or option, a negative weight, or nothing to train on.
    """
    check_names("objectives", weights, OBJECTIVES)
    check_names("objective_options", options, {option for kind in OBJECTIVES.values() for option in options_of(kind)})
    if not any(weights.values()):
        raise ValueError(f"objectives={weights!r}: at least one objective needs a weight above 0")
    built = {}
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"objective {name!r} has weight {weight}: expected a number of at least 0")
        kind = OBJECTIVES[name]
        built[name] = kind(**{key: options[key] for key in options_of(kind) if key in options}), weight
    return built


__all__ = [
    "OBJECTIVES",
    "CrossCorrelation",
    "CrossEntropy",
    "KLDivergence",
    "Objective",
    "TensorConstraint",
    "build_objectives",
]
