"""The arms of the comparison, and the students they make. Data only.

An arm says how the student's weights begin and what is trained in which phase; teacher, data, student shape, number of
updates, learning rate and seed are the run's. ``phase1`` is the share of the updates that phase 1 gets.
"""

from dataclasses import dataclass, field
from typing import Any

from hf_weight_distill import RECIPES, StudentShape

STUDENTS: dict[str, StudentShape] = {
    "4+1": StudentShape(decoder_layers=1),
    "2+1": StudentShape(encoder_layers=2, decoder_layers=1),
    "4+1-half": StudentShape(decoder_layers=1, d_model=128, ffn_dim=256, attention_heads=2),
    "2+2-half": StudentShape(encoder_layers=2, decoder_layers=2, d_model=128, ffn_dim=256, attention_heads=2),
    "same": StudentShape(),
}


@dataclass(frozen=True)
class Arm:
    """One arm; ``config`` replaces fields of ``WeightDistillConfig``, ``args`` training arguments of phase 1."""

    config: dict[str, Any] = field(default_factory=dict)
    phase1: float = 0.0
    args: dict[str, Any] = field(default_factory=dict)
    gold: bool = False


def _copied(layers: str = "first", **config: Any) -> Arm:
    return Arm({"source": "direct", "layers": layers, **config})


def _generator(phase1: float, projection_lr_factor: float = 0.05, **options: Any) -> Arm:
    args = {"projection_lr_factor": projection_lr_factor}
    return Arm({"source": "generator", "source_options": options}, phase1=phase1, args=args)


_KL = {"generator_objectives": {"kl": 1.0}, "finetune_objectives": {"kl": 1.0}}
_PAPER = {"source_options": RECIPES["paper"].source_options, "start": "random"}

ARMS: dict[str, Arm] = {
    "random-ce": Arm({"source": "direct", "start": "random"}, gold=True),
    "random-seqkd": Arm({"source": "direct", "start": "random"}),
    "random-kl": Arm({"source": "direct", "start": "random", **_KL}),
    "copied-first": _copied("first"),
    "copied-last": _copied("last"),
    "copied-spaced": _copied("spaced"),
    "copied-first-kl": _copied("first", **_KL),
    "uniform": _copied(width="uniform"),
    "importance": _copied(width="importance"),
    "pca": _copied(width="pca"),
    "pca-kl": _copied(width="pca", **_KL),
    "paper": Arm(_PAPER, phase1=0.5, args={"projection_lr_factor": 1.0}),
    "generator-short": _generator(0.1),
    "generator": _generator(0.5),
    "generator-long": _generator(1.0),
    "generator-scale": _generator(0.5, scale=True),
    "generator-own-projections": _generator(0.5, share=False),
}
