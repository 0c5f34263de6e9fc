"""The arms of the comparison, and the students they make. Data only.

An arm says how the student's weights begin and what is trained in which phase; teacher, data, student shape, number of
updates, learning rate and seed are the run's. ``phase1`` is the share of the updates that phase 1 gets.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from hf_weight_distill import RECIPES, StudentShape

STUDENTS: dict[str, StudentShape] = {
    "4+1": StudentShape(decoder_layers=1),
    "2+1": StudentShape(encoder_layers=2, decoder_layers=1),
    "4+1-half": StudentShape(decoder_layers=1, d_model=128, ffn_dim=256, attention_heads=2),
    "4+1-half-all": StudentShape(  # every encoder layer is fed by all four, its own last: that is where it starts
        decoder_layers=1,
        d_model=128,
        ffn_dim=256,
        attention_heads=2,
        encoder_groups=((1, 2, 3, 0), (0, 2, 3, 1), (0, 1, 3, 2), (0, 1, 2, 3)),
    ),
    "2+2-half": StudentShape(encoder_layers=2, decoder_layers=2, d_model=128, ffn_dim=256, attention_heads=2),
    "4+1-quarter": StudentShape(decoder_layers=1, d_model=64, ffn_dim=128, attention_heads=1),
    "6+1": StudentShape(encoder_layers=6, decoder_layers=1),
    "3+1": StudentShape(encoder_layers=3, decoder_layers=1),
    "6+1-anew": StudentShape(encoder_layers=6, decoder_layers=1),  # the deeper teacher grown once more
    "3+1-anew": StudentShape(encoder_layers=3, decoder_layers=1),
    "2+2-double": StudentShape(encoder_layers=2, decoder_layers=2, d_model=512, ffn_dim=1024, attention_heads=8),
    "2+1-double": StudentShape(encoder_layers=2, decoder_layers=1, d_model=512, ffn_dim=1024, attention_heads=8),
    "same": StudentShape(),
}


@dataclass(frozen=True)
class Arm:
    """One arm; ``config`` replaces fields of ``WeightDistillConfig``, ``args`` training arguments.

    ``finetune_rate`` is the learning rate of phase 2 as a factor of phase 1's; ``labels`` are the targets: the
    teacher's translations, the gold ones or both.
    """

    config: dict[str, Any] = field(default_factory=dict)
    phase1: float = 0.0
    args: dict[str, Any] = field(default_factory=dict)
    finetune_rate: float = 1.0
    labels: Literal["teacher", "gold", "both"] = "teacher"


_COPIED = {"layers": "first", "reconstruction": "none"}
_KL = {"generator_objectives": {"kl": 1.0}, "finetune_objectives": {"kl": 1.0}}
_PAPER = {"source_options": RECIPES["paper"].source_options, "start": "random"}


def _copied(layers: str = "first", labels: str = "teacher", **config: Any) -> Arm:
    return Arm({"source": "direct", **_COPIED, "layers": layers, **config}, labels=labels)


def _fitted(labels: str = "teacher", **config: Any) -> Arm:
    return Arm({"source": "direct", **config}, labels=labels)


def _generator(
    phase1: float, config: dict[str, Any], factor: float = 0.05, labels: str = "teacher", **options: Any
) -> Arm:
    config = {"source": "generator", "source_options": options, **config}
    return Arm(config, phase1, {"projection_lr_factor": factor}, labels=labels)


def _opdf(sites: int, start: dict[str, Any]) -> Arm:
    return Arm({"source": "mpo", "source_options": {"unit_sites": sites}, **start}, phase1=1.0)


def _generator_opdf(sites: int) -> Arm:
    second = {"finetune_source": "mpo", "finetune_source_options": {"unit_sites": sites}}
    return Arm({"source": "generator", **second, **_COPIED}, phase1=0.5, finetune_rate=0.3)


def _pruned(sparsity: float, self_distilled: bool) -> Arm:
    objectives = {"cross_entropy": 1.0} | ({"cross_correlation": 0.1} if self_distilled else {})
    schedule = {"magnitude_pruning": {"sparsity": sparsity, "steps": 8, "end": 0.7}}
    return Arm({"source": "direct", "finetune_objectives": objectives, "schedules": schedule})


ARMS: dict[str, Arm] = {
    "random-ce": Arm({"source": "direct", "start": "random"}, labels="gold"),
    "random-seqkd": Arm({"source": "direct", "start": "random"}),
    "random-both": Arm({"source": "direct", "start": "random"}, labels="both"),
    "random-kl": Arm({"source": "direct", "start": "random", **_KL}),
    "copied-first": _copied("first"),
    "copied-last": _copied("last"),
    "copied-spaced": _copied("spaced"),
    "copied-first-kl": _copied("first", **_KL),
    "copied-first-both": _copied("first", labels="both"),
    "copied-last-both": _copied("last", labels="both"),
    "uniform": _copied(width="uniform"),
    "importance": _copied(width="importance"),
    "pca": _copied(width="pca"),
    "pca-last": _copied("last", width="pca"),
    "pca-kl": _copied(width="pca", **_KL),
    "pca-both": _copied(width="pca", labels="both"),
    "pca-last-both": _copied("last", width="pca", labels="both"),
    "fitted": _fitted(),
    "fitted-both": _fitted(labels="both"),
    "fitted-sharp": _fitted(label_smoothing=0.0),
    "fitted-kl": _fitted(**_KL),
    "fitted-importance": _fitted(width="importance"),
    "generator-fitted": _generator(0.5, {}),
    "generator-fitted-short": _generator(0.1, {}),
    "generator-fitted-long": _generator(1.0, {}),
    "generator-fitted-long-both": _generator(1.0, {}, labels="both"),
    "generator-fitted-kl": _generator(0.5, _KL),
    "generator-fitted-no-shift": _generator(0.5, {}, shift=False),
    "generator-fitted-no-shift-fast": _generator(0.5, {}, factor=0.25, shift=False),
    "generator-fitted-scale": _generator(0.5, {}, scale=True),
    "generator-fitted-own-projections": _generator(0.5, {}, share=False),
    "paper": Arm(_PAPER, phase1=0.5, args={"projection_lr_factor": 1.0}),
    "generator-short": _generator(0.1, _COPIED),
    "generator": _generator(0.5, _COPIED),
    "generator-long": _generator(1.0, _COPIED),
    "generator-scale": _generator(0.5, _COPIED, scale=True),
    "generator-own-projections": _generator(0.5, _COPIED, share=False),
    **{f"opdf-{sites}": _opdf(sites, _COPIED) for sites in (0, 1, 3)},
    "fitted-opdf-1": _opdf(1, {}),
    **{f"generator-opdf-{sites}": _generator_opdf(sites) for sites in (0, 1, 3)},
    **{f"pruned-{share:.0%}": _pruned(share, False) for share in (0.5, 0.7, 0.9)},
    **{f"self-distilled-{share:.0%}": _pruned(share, True) for share in (0.5, 0.7, 0.9)},
}
