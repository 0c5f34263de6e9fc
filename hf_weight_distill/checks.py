"""What a run is refused for, before the teacher translates and before anything is trained or written."""

import copy
from collections.abc import Callable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .adapters import check_lora, is_adapted
from .arguments import WeightDistillTrainingArguments, refuse_in_phase_1
from .config import WeightDistillConfig
from .families import family_of
from .model import check_source
from .objectives import Objective, build_objectives
from .plan import WeightPlan, check_precision, stock_student
from .schedules import build_schedules
from .sources import SOURCES
from .starts import refuse_growth
from .teachers.logit_cache import check_top_k, target_tokens
from .trainer import check_objectives


def check_teacher(teacher: PreTrainedModel) -> None:
    """Whether it is an encoder-decoder of a known family that writes text, in float32."""
    if not isinstance(teacher, PreTrainedModel) and not is_adapted(teacher):
        raise ValueError(f"the teacher is a {type(teacher).__name__}: expected a transformers PreTrainedModel")
    family_of(teacher.config)
    if not teacher.can_generate():
        raise ValueError(
            f"the teacher is a {type(teacher).__name__}, which has no output layer for text: load it with "
            "AutoModelForSeq2SeqLM"
        )
    check_precision(teacher)


def check_lengths(config: WeightDistillConfig, teacher: PreTrainedModel) -> None:
    """Whether sources and targets find room in the teacher's table of positions."""
    positions = getattr(teacher.config, "max_position_embeddings", None)
    for name in ("max_source_length", "max_target_length"):
        if positions is not None and getattr(config, name) > positions:
            raise ValueError(
                f"{name}={getattr(config, name)}, but the teacher has {positions} positions: set at most that"
            )


def check_decoder(compute_metrics: Callable | None, tokenizer: PreTrainedTokenizerBase) -> None:
    """Whether metrics of translations decode the ids of the trimmed vocabulary, and not those of before."""
    theirs = getattr(compute_metrics, "vocabulary", len(tokenizer))
    if theirs != len(tokenizer):
        raise ValueError(
            f"compute_metrics decodes with a tokenizer of {theirs} tokens, but the student's has {len(tokenizer)}: "
            "call trim_vocabulary(train_dataset) first, then make_compute_metrics(distiller.tokenizer)"
        )


def check_run(
    config: WeightDistillConfig,
    plan: WeightPlan,
    teacher: PreTrainedModel,
    generator_args: WeightDistillTrainingArguments,
    finetune_args: WeightDistillTrainingArguments,
) -> None:
    """Whether sources, objectives, cache, schedules and adapters go with one another and with the arguments.

    Raises:
        ValueError: they do not, or something would have no effect.
    """
    _check_generation(teacher)
    check_source(config.source, config.source_options, config.start == "teacher")
    if config.start == "teacher":
        refuse_growth(plan)
    if config.finetune_source is not None:
        if config.finetune_source in SOURCES and SOURCES[config.finetune_source].from_teacher:
            raise ValueError(
                f"finetune_source={config.finetune_source!r} makes weights from the teacher's and cannot go on "
                "from those of phase 1: use it as source"
            )
        check_source(config.finetune_source, config.finetune_source_options, False)
    phases = (
        ("generator", generator_args, config.source),
        ("finetune", finetune_args, config.finetune_source),
    )
    for phase, args, source in phases:
        _check_phase(config, plan, phase, args, source)
    for name in ("schedules", "finetune_source", "finetune_lora"):
        if getattr(config, name) and finetune_args.max_steps == 0:
            raise ValueError(
                f"{name}={getattr(config, name)!r} acts in phase 2, which finetune_args skips by max_steps=0: give "
                "it updates, or leave it out"
            )
    trained = [phase for phase, args, _ in phases if args.max_steps != 0]
    used = [objective for phase in trained for objective, _ in phase_objectives(config, phase).values()]
    _check_cache(config, teacher, used)
    _check_temperature(config, used)
    if config.schedules:
        _check_schedules(config, finetune_args)
    if config.finetune_lora:
        _check_lora(config, plan, teacher)


def phase_objectives(config: WeightDistillConfig, phase: str) -> dict[str, tuple[Objective, float]]:
    """The objectives of ``"generator"`` or ``"finetune"``, each with its weight."""
    return build_objectives(getattr(config, f"{phase}_objectives"), **config.all_objective_options)


def _check_generation(teacher: PreTrainedModel) -> None:
    """Whether the teacher's generation settings, which the student inherits, can be saved."""
    try:
        copy.deepcopy(teacher.generation_config).validate(strict=True)
    except ValueError as error:
        reasons = " ".join(line.removeprefix("- ") for line in str(error).splitlines() if line.startswith("- "))
        raise ValueError(
            f"the teacher's generation settings could not be saved with the student: {reasons} Change "
            "teacher.generation_config, or the generation_config.json of its folder"
        ) from error


def _check_phase(
    config: WeightDistillConfig, plan: WeightPlan, phase: str, args: WeightDistillTrainingArguments, source: str | None
) -> None:
    """Whether the objectives of a phase can be had there, and its arguments go with its weight source."""
    objectives = phase_objectives(config, phase)
    check_objectives(objectives, True, source is not None)
    if args.max_steps == 0:
        return
    for objective, _ in objectives.values():
        objective.check_plan(plan, source)
    if source is not None:
        refuse_in_phase_1(args)


def _check_cache(config: WeightDistillConfig, teacher: PreTrainedModel, used: list[Objective]) -> None:
    """Whether the objectives of the phases that train can be had from a cache, and one of them is."""
    if config.teacher_cache_top_k is None:
        return
    check_top_k(config.teacher_cache_top_k, target_tokens(teacher))
    for objective in used:
        objective.check_cache(config.all_objective_options["temperature"])
    if not any("teacher" in objective.needs for objective in used):
        raise ValueError(
            f"teacher_cache_top_k={config.teacher_cache_top_k}, but no objective of a phase that trains asks "
            "for the teacher: leave it out, or use kl in generator_objectives or finetune_objectives"
        )


def _check_temperature(config: WeightDistillConfig, used: list[Objective]) -> None:
    """Whether an objective of the phases that train has it."""
    if config.temperature == WeightDistillConfig.temperature:
        return
    if used and not any(hasattr(objective, "temperature") for objective in used):
        raise ValueError(
            f"temperature={config.temperature}, but no objective of a phase that trains has one: leave it out, or use "
            "kl in generator_objectives or finetune_objectives"
        )


def _check_schedules(config: WeightDistillConfig, args: WeightDistillTrainingArguments) -> None:
    build_schedules(config.schedules, {})
    if args.fsdp or args.deepspeed:
        raise ValueError("schedules change whole weights, which FSDP and DeepSpeed cut up: use DDP")


def _check_lora(config: WeightDistillConfig, plan: WeightPlan, teacher: PreTrainedModel) -> None:
    """Whether the student takes these adapters, tried on one without weights."""
    shell = stock_student(teacher, plan.student_config, device="meta")
    check_lora(shell, sum(plan.linear.values(), ()), config.finetune_lora)
