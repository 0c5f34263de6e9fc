"""How a student came about, in the words of its card."""

from collections.abc import Mapping
from typing import Any

from .card import LORA, PAPERS, SEQUENCE_LEVEL_KD, Component
from .config import WeightDistillConfig
from .objectives import OBJECTIVES
from .schedules import SCHEDULES
from .sources import SOURCES


def phases_that_trained(arguments: Mapping[str, Mapping[str, Any]], finished: bool) -> tuple[str, ...]:
    """Of ``"generator"`` and ``"finetune"`` those that trained the student.

    Args:
        arguments: of each phase, as the run noted them.
        finished: whether phase 2, which counts when it is over, is so.
    """
    ran = (phase for phase, values in arguments.items() if values.get("max_steps") != 0)
    return tuple(phase for phase in ran if phase == "generator" or finished)


def method(config: WeightDistillConfig, phases: tuple[str, ...]) -> str:
    """How the student's weights came about, to follow the name of the method."""
    start = "drawn at random" if config.start == "random" else "computed from the teacher's (closed form)"
    how = "as a plain model"
    if config.finetune_source is not None:
        how = f"under the weight source `{config.finetune_source}`"
    elif config.finetune_lora:
        how = "by adapters, which were merged into it"
    generated = "`generator` makes the student's weights from the teacher's"
    return {
        (): f": the student's weights were {start}, and not trained",
        ("finetune",): f": the student's weights were {start}, then trained {how}",
        ("generator",): f" in one phase: {generated}",
    }.get(phases, f" in two phases: {generated}, `finetune` trains the student on {how}")


def components(config: WeightDistillConfig, phases: tuple[str, ...]) -> tuple[Component, ...]:
    """The published methods that these phases used."""
    used = []
    if "generator" in phases:
        used += [SOURCES[config.source], *(OBJECTIVES[name] for name in config.generator_objectives)]
    if "finetune" in phases:
        used += [SCHEDULES[name] for name in config.schedules]
        used += [SOURCES[config.finetune_source]] if config.finetune_source else []
        used += [OBJECTIVES[name] for name in config.finetune_objectives]
    labelled = config.pseudo_labels != "none" and bool(phases)
    papers = [SEQUENCE_LEVEL_KD.paper_url] * labelled + [part.paper for part in used]
    papers += [LORA.paper_url] * (bool(config.finetune_lora) and "finetune" in phases)
    return tuple(PAPERS[paper] for paper in dict.fromkeys(papers) if paper in PAPERS)
