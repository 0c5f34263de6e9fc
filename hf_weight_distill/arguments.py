"""Training arguments of a phase: those of ``Seq2SeqTrainer``, what a recipe adds, and what cannot work."""

import copy
import os
import typing
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.optimization import get_scheduler
from transformers.trainer_utils import SaveStrategy

from .config import check_names, fits, name_of
from .precision import bf16_pays, bf16_speedup

RATE_TIMES_WIDTH = 0.25
_ALWAYS_TOLD = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "optim",
    "seed",
)
_OF_THE_MACHINE = (
    *("output_dir", "run_name", "project", "trackio", "hub_", "push_to_hub", "report_to", "resume_from_checkpoint"),
    *("disable_tqdm", "use_cpu", "do_", "generation_config"),
)
_CADENCE = ("eval_strategy", "eval_steps", "logging_steps", "save_strategy", "save_steps", "save_total_limit")
_NOT_ABOUT_TRAINING = (*_OF_THE_MACHINE, "log", "save_", "dataloader_num_", "dataloader_p")


@dataclass
class WeightDistillTrainingArguments(Seq2SeqTrainingArguments):
    """``Seq2SeqTrainingArguments`` and what weight distillation adds.

    Args:
        learning_rate: the peak; by default ``0.25 / d_model`` of the student, see :func:`with_learning_rate`.
        projection_lr_factor: learning rate of projections and mixing coefficients, as a factor of ``learning_rate``.
            One step on a projection moves every weight that it makes, so that it needs smaller ones.
        max_tokens_per_batch: pairs of similar length are put into batches of at most so many tokens a process: pairs
            times their longest source or target; replaces ``per_device_train_batch_size``.
    """

    learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate; by default 0.25 / d_model of the student."}
    )
    projection_lr_factor: float = field(
        default=0.05, metadata={"help": "Learning rate of projections and mixing, as a factor of learning_rate."}
    )
    max_tokens_per_batch: int | None = field(
        default=None, metadata={"help": "Batches by tokens (of the longer side, padding included) instead of by pairs."}
    )

    def __post_init__(self) -> None:
        if self.deepspeed is not None and self.learning_rate is None:
            raise ValueError(
                "deepspeed takes the learning rate before the student's width is known, which its default depends on: "
                "give learning_rate"
            )
        super().__post_init__()
        if self.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor={self.label_smoothing_factor}: the objectives smooth labels themselves; set "
                "label_smoothing of WeightDistillConfig"
            )
        if self.projection_lr_factor < 0:
            raise ValueError(f"projection_lr_factor={self.projection_lr_factor}: expected a number of at least 0")
        if self.max_tokens_per_batch is not None and self.max_tokens_per_batch < 1:
            raise ValueError(f"max_tokens_per_batch={self.max_tokens_per_batch}: expected a positive number")
        if self.max_tokens_per_batch is not None:
            self._check_useless()

    def _check_useless(self) -> None:
        """Whether something else is to make the batches, too."""
        useless = {
            "per_device_train_batch_size": self.per_device_train_batch_size != type(self).per_device_train_batch_size,
            "auto_find_batch_size": self.auto_find_batch_size,
            "train_sampling_strategy": self.train_sampling_strategy == "sequential",
        }
        for name in (name for name, given in useless.items() if given):
            raise ValueError(
                f"max_tokens_per_batch={self.max_tokens_per_batch} makes the batches, and "
                f"{name}={getattr(self, name)!r} would have no effect: leave one of them out"
            )

    def description(self) -> dict[str, Any]:
        """What is needed to train in the same way, as plain values; no paths, and nothing of accounts."""
        given = about_training(self._given()).items()
        short = {name: os.path.basename(value) if isinstance(value, str) else value for name, value in given}
        return {"processes": self.world_size} | short

    def settings(self) -> dict[str, Any]:
        """Arguments that repeat the phase: those of :meth:`description`, and when it evaluates, logs and saves."""
        always = {name: _plain(getattr(self, name)) for name in (*_CADENCE, "max_steps", "num_train_epochs")}
        told = self._given() | always
        told.pop("max_steps" if self.max_steps < 0 else "num_train_epochs")  # has no effect beside the other
        return told

    def _given(self) -> dict[str, Any]:
        plain = type(self)(self.output_dir, use_cpu=self.use_cpu)
        shown = {}
        for name in (f.name for f in fields(self) if f.init and not f.name.startswith(_OF_THE_MACHINE)):
            value = getattr(self, name)
            if name in _ALWAYS_TOLD or str(value) != str(getattr(plain, name)):
                shown[name] = _plain(value)
        if self.max_tokens_per_batch is not None:
            shown.pop("per_device_train_batch_size")  # which it replaces
        return shown


def check_arguments(where: str, values: dict[str, Any]) -> None:
    """Whether arguments of a phase have the names and types of :class:`WeightDistillTrainingArguments`.

    Numbers and truth values alone are looked at: ``bf16="off"`` is a text, which would count as true.

    Raises:
        ValueError: an unknown name, a wrong type, two lengths, or a folder, which is the run's to choose.
    """
    if "output_dir" in values:
        raise ValueError(
            f"{where}: output_dir={values['output_dir']!r}, but the run's own output_dir holds both phases"
        )
    check_names(where, values, [field.name for field in fields(WeightDistillTrainingArguments) if field.init])
    kinds = typing.get_type_hints(WeightDistillTrainingArguments)
    for name, value in values.items():
        inside = {kinds[name], *typing.get_args(kinds[name])}
        if inside & {bool, int, float} and not fits(value, kinds[name]):
            expected = "true or false" if bool in inside else name_of(kinds[name])
            raise ValueError(f"{where}: {name}={value!r}, expected {expected}")
    if "num_train_epochs" in values and values.get("max_steps", -1) != -1:
        raise ValueError(
            f"{where}: num_train_epochs={values['num_train_epochs']!r} has no effect beside "
            f"max_steps={values['max_steps']!r}: take one of them out"
        )


def about_training(arguments: dict[str, Any]) -> dict[str, Any]:
    """Without what changes no update."""
    return {name: value for name, value in arguments.items() if not name.startswith(_NOT_ABOUT_TRAINING)}


def phase_arguments(
    values: dict[str, Any], folder: Path, *, evaluates: bool, generates: bool
) -> WeightDistillTrainingArguments:
    """Arguments of a phase from those of a configuration: it saves, logs and evaluates as often as is useful.

    Args:
        values: ``generator_args`` or ``finetune_args`` of :class:`WeightDistillConfig`.
        folder: for its checkpoints, named as the phase is.
        evaluates: whether there is a data set to evaluate on.
        generates: whether a metric reads translations.
    """
    check_arguments(f"{folder.name}_args", values)
    defaults = {"save_strategy": "steps", "save_total_limit": 2, "report_to": "none"}
    defaults |= {"eval_strategy": "steps" if evaluates else "no", "predict_with_generate": generates}
    if "logging_steps" not in values:  # which is also how often is evaluated
        defaults["logging_steps"] = 0.02  # 50 times, however short training is
        if evaluates:
            best = values.get("load_best_model_at_end")  # is one of those that are saved
            defaults["eval_steps"] = values.get("save_steps", 500) if best else 250
    return WeightDistillTrainingArguments(**defaults | values | {"output_dir": str(folder)})


def with_learning_rate(args: WeightDistillTrainingArguments, d_model: int) -> WeightDistillTrainingArguments:
    r"""A peak learning rate for the student's width ``d_model`` where none was given: :math:`0.25 / d`.

    With Adam the best rate of matrices within a network falls as the inverse of their inputs' number (Yang et al. 2022,
    https://arxiv.org/abs/2203.03466). The benchmarks found it between 0.25 and 0.5 at widths from 128 to 512, and a T5
    that breaks above 0.4: the factor keeps away from there.
    """
    if args.learning_rate is None:
        args = copy.copy(args)
        args.learning_rate = RATE_TIMES_WIDTH / d_model
    return args


def with_whole_translations(
    args: WeightDistillTrainingArguments, teacher: PreTrainedModel, max_target_length: int
) -> WeightDistillTrainingArguments:
    """Translations of evaluations end where targets do, and not at 20 tokens; what was given stays as it is."""
    wanted = args.predict_with_generate and args.generation_max_length is None
    if not wanted or teacher.generation_config.max_length is not None:
        return args
    args, longest = copy.copy(args), max_target_length + 1  # it counts the start token
    args.generation_max_length = min(longest, getattr(teacher.config, "max_position_embeddings", longest))
    return args


def _plain(value: Any) -> Any:
    """A setting as JSON and YAML hold it."""
    value = value.to_dict() if hasattr(value, "to_dict") else getattr(value, "value", value)
    return value if isinstance(value, (str, int, float, bool, list, tuple, dict, NoneType)) else str(value)


def refuse_in_phase_1(args: WeightDistillTrainingArguments) -> None:
    """In phase 1 neither a checkpointed layer's recomputation nor a gathered shard would see the generated weights.

    Raises:
        ValueError: activation checkpointing, FSDP, DeepSpeed, several GPUs in one process, NEFTune, or uploading
            checkpoints is on.
    """
    if getattr(args, "activation_checkpointing", None) or args.gradient_checkpointing:
        raise ValueError(
            "activation_checkpointing=True gives wrong gradients in phase 1, where the recomputation would not see the "
            "generated weights: leave it off there (finetune_args may have it), or lower the batch size"
        )
    if args.fsdp or args.deepspeed:
        raise ValueError(
            "FSDP and DeepSpeed would gather the student's own parameters over the generated ones in phase 1: use DDP "
            "there (finetune_args may have them)"
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"found {args.n_gpu} GPUs in one process, and torch.nn.DataParallel cannot copy a weight source: start "
            "with torchrun --nproc_per_node, or show one GPU with CUDA_VISIBLE_DEVICES=0"
        )
    if args.neftune_noise_alpha is not None:
        raise ValueError(
            "neftune_noise_alpha adds noise to an embedding module, and generated embeddings have none: leave it off "
            "in phase 1 (finetune_args may have it)"
        )
    if args.push_to_hub:
        raise ValueError(
            "push_to_hub=True would publish the checkpoints of a weight source, which no stock model can load: leave "
            "it off where one trains, and push the student with WeightDistiller.push_to_hub or hf-weight-distill push"
        )


def check_training(
    args: WeightDistillTrainingArguments,
    evaluates: bool,
    compute_metrics: Callable | None,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """What the base class finds out when a phase begins, or after its first evaluation.

    Args:
        args: of the phase; nothing is asked of one without updates.
        evaluates: whether there is a data set to evaluate on.
        compute_metrics: of the phase.
        callbacks: of the phase.

    Raises:
        ValueError: evaluation without data, a metric that nothing computes or translations
            that none reads, an optimizer or a package to report to that is not installed, a schedule of the learning
            rate without what it needs, early stopping or a best checkpoint without what it looks at.
    """
    if args.max_steps == 0:
        return
    if args.eval_strategy != "no" and not evaluates:
        raise ValueError(
            f"eval_strategy={args.eval_strategy.value!r}, but there is no eval_dataset: give one, or leave it out"
        )
    if args.metric_for_best_model not in (None, "loss", "eval_loss") and compute_metrics is None:
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r}, but without compute_metrics there is eval_loss "
            "alone: leave it out, or give compute_metrics to WeightDistiller.distill"
        )
    if getattr(compute_metrics, "of_translations", False) and evaluates and not args.predict_with_generate:
        raise ValueError("compute_metrics reads translations: set predict_with_generate=True")
    if args.predict_with_generate and args.eval_strategy != "no" and compute_metrics is None:
        raise ValueError(
            "predict_with_generate=True generates at each evaluation, and without compute_metrics nothing reads that: "
            "leave it out, or give compute_metrics to WeightDistiller.distill"
        )
    if args.save_strategy == SaveStrategy.BEST and args.metric_for_best_model is None:
        raise ValueError("save_strategy='best' looks at metric_for_best_model: give one, eval_loss say")
    stops = any(isinstance(callback, EarlyStoppingCallback) for callback in callbacks)
    if stops and (args.metric_for_best_model is None or args.eval_strategy == "no"):
        raise ValueError(
            "EarlyStoppingCallback looks at an evaluation of every phase that trains: give each metric_for_best_model "
            "(eval_loss, say) and an eval_strategy, or skip one with max_steps=0"
        )
    _check_installed(args)
    _check_rate(args)
    _check_precision(args)


def _check_installed(args: WeightDistillTrainingArguments) -> None:
    try:
        for callback in get_reporting_integration_callbacks(args.report_to):
            callback()
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"report_to={args.report_to}: {error}") from error
    try:
        Seq2SeqTrainer.get_optimizer_cls_and_kwargs(args)
    except ImportError as error:
        raise ValueError(f"optim={args.optim.value!r}: {error}") from error
    except ValueError:  # some want the model, which is not there yet
        pass


def _check_rate(args: WeightDistillTrainingArguments) -> None:
    """Whether the schedule of the learning rate can be made, tried on an optimizer of one number."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=args.learning_rate)
    steps = {"num_warmup_steps": args.get_warmup_steps(2), "num_training_steps": 2}
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, **steps, scheduler_specific_kwargs=args.lr_scheduler_kwargs)
    except (TypeError, ValueError) as error:
        name = args.lr_scheduler_type.value
        raise ValueError(
            f"lr_scheduler_type={name!r} with lr_scheduler_kwargs={args.lr_scheduler_kwargs}: {error}"
        ) from error


def _check_precision(args: WeightDistillTrainingArguments) -> None:
    """Nothing else says why every update takes ten times as long."""
    if args.bf16 and args.device.type == "cpu" and not bf16_pays("cpu"):
        warnings.warn(
            f"bf16=True: matrix products in bf16 are {bf16_speedup():.2g}x as fast as in float32 on this processor: "
            "leave it off",
            stacklevel=3,
        )


def check_stream(dataset: Dataset | IterableDataset, args: WeightDistillTrainingArguments) -> None:
    """Whether the number of updates is known.

    Raises:
        ValueError: a stream that is to be read in epochs.
    """
    if args.max_steps < 0 and not isinstance(dataset, Dataset):
        raise ValueError(
            f"num_train_epochs={args.num_train_epochs:g} of a stream, whose length is not known: give max_steps"
        )
