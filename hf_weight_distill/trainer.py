"""One trainer for both phases: a ``Seq2SeqTrainer`` with our objectives."""

import json
import os
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from pyarrow.compute import list_value_length
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    TrainerCallback,
    TrainerState,
)
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.optimization import get_scheduler
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy, TrainOutput

from .config import check_names, fits, name_of
from .data import TokenBatchSampler
from .model import WeightDistillModel
from .objectives import Objective
from .plan import decoder_inputs
from .teachers.logit_cache import COLUMN, TeacherCache
from .training_progress import TrainingProgress

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
_NOT_ABOUT_TRAINING = (*_OF_THE_MACHINE, "log", "save_", "dataloader_")


@dataclass
class WeightDistillTrainingArguments(Seq2SeqTrainingArguments):
    """``Seq2SeqTrainingArguments`` and what weight distillation adds.

    Args:
        projection_lr_factor: learning rate of projections and mixing coefficients, as a factor of ``learning_rate``.
            One step on a projection moves every weight that it makes, so that it needs smaller ones.
        max_tokens_per_batch: sentences of similar length are put into batches of at most so many target tokens a
            process, padding included; replaces ``per_device_train_batch_size``.
    """

    projection_lr_factor: float = field(
        default=0.05, metadata={"help": "Learning rate of projections and mixing, as a factor of learning_rate."}
    )
    max_tokens_per_batch: int | None = field(
        default=None, metadata={"help": "Batches by target tokens (padding included) instead of by sentences."}
    )

    def __post_init__(self) -> None:
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
        others = {"auto_find_batch_size": True, "train_sampling_strategy": "sequential"}
        useless = [f"{name}={value!r}" for name, value in others.items() if getattr(self, name) == value]
        if self.max_tokens_per_batch is not None and useless:
            raise ValueError(
                f"max_tokens_per_batch makes the batches, and {useless[0]} would have no effect: leave one of them out"
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


def last_checkpoint(folder: str | os.PathLike) -> str | None:
    """The newest whole checkpoint of a phase."""
    whole = [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if _is_whole(path)]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def _is_whole(checkpoint: Path) -> bool:
    """The trainer writes its state last, and may be interrupted before or while it does."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


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
        ValueError: arguments of another class, evaluation without data, a metric that nothing computes or translations
            that none reads, an optimizer or a package to report to that is not installed, a schedule of the learning
            rate without what it needs, early stopping or a best checkpoint without what it looks at.
    """
    if not isinstance(args, WeightDistillTrainingArguments):
        raise ValueError(f"found {type(args).__name__} for a phase, expected WeightDistillTrainingArguments")
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


def check_stream(dataset: Dataset | IterableDataset, args: WeightDistillTrainingArguments) -> None:
    """Whether the number of updates is known.

    Raises:
        ValueError: a stream that is to be read in epochs.
    """
    if args.max_steps < 0 and not isinstance(dataset, Dataset):
        raise ValueError(
            f"num_train_epochs={args.num_train_epochs:g} of a stream, whose length is not known: give max_steps"
        )


def token_batches(dataset: Dataset | IterableDataset, args: WeightDistillTrainingArguments) -> TokenBatchSampler | None:
    """Batches by target tokens; ``None`` where the arguments ask for none.

    Raises:
        ValueError: a stream, whose lengths are not known, or a sentence that fits no batch.
    """
    if args.max_tokens_per_batch is None or args.max_steps == 0:
        return None
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"max_tokens_per_batch={args.max_tokens_per_batch} sorts sentences by length, and a stream does not know "
            "its lengths: load the data without streaming, or set per_device_train_batch_size"
        )
    seed = args.seed if args.data_seed is None else args.data_seed
    labels = dataset.select_columns("labels").with_format("arrow")[:]["labels"]
    lengths = list_value_length(labels).to_pylist()
    return TokenBatchSampler(lengths, args.max_tokens_per_batch, seed=seed, drop_last=args.dataloader_drop_last)


def check_objectives(
    objectives: dict[str, tuple[Objective, float]], has_teacher: bool, has_source: bool
) -> frozenset[str]:
    """What the objectives of a phase need, if it can be had there.

    Raises:
        ValueError: it cannot.
    """

    def named(need: str) -> str:
        return ", ".join(name for name, (objective, _) in objectives.items() if need in objective.needs)

    if named("teacher") and not has_teacher:
        raise ValueError(f"the objective {named('teacher')} needs a live teacher: pass teacher=, or use cross_entropy")
    if named("exposed") and not has_source:
        raise ValueError(
            f"the objective {named('exposed')} looks at the tensors of a weight source, and a plain student has none: "
            "use it in the phase that has the source (source, finetune_source)"
        )
    return frozenset().union(*(objective.needs for objective, _ in objectives.values()))


class WeightDistillTrainer(Seq2SeqTrainer):
    r"""Trains a :class:`WeightDistillModel` (phase 1) or a plain student (phase 2).

    The loss is :math:`\frac{1}{N}\sum_k w_k L_k`, where each objective :math:`L_k` is a sum over label tokens and ``N``
    is their number in the whole batch, over accumulation steps and processes. Each objective is logged by its name, per
    label token and before its weight. ``eval_loss`` is always the plain cross-entropy with the labels, whatever is
    trained, so that runs compare: as in ``Trainer`` the mean of each evaluation batch over its tokens, then over
    batches by their sentences.

    Args:
        model: phase-1 module or stock seq2seq model.
        objectives: ``{name: (objective, weight)}``.
        teacher: live teacher, or the cache of one that was made of ``train_dataset``; for objectives that need one.
        kwargs: of ``Seq2SeqTrainer``.

    Raises:
        ValueError: an objective needs a teacher and there is none, or more than a cache holds; the cache is of other
            features; activation checkpointing in phase 1.
        FloatingPointError: the loss is not finite; checkpoints written before stay.
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole accumulated batch

    def __init__(
        self,
        model: nn.Module,
        *,
        objectives: dict[str, tuple[Objective, float]],
        teacher: PreTrainedModel | TeacherCache | None = None,
        **kwargs: Any,
    ) -> None:
        needs = check_objectives(objectives, teacher is not None, isinstance(model, WeightDistillModel))
        if isinstance(model, WeightDistillModel):
            refuse_in_phase_1(kwargs["args"])
            for objective, _ in objectives.values():
                if "exposed" in objective.needs:
                    objective.check(model.source.exposed())
            if kwargs["args"].ddp_broadcast_buffers is None:  # the frozen teacher, which DDP would send at each forward
                kwargs["args"].ddp_broadcast_buffers = False
        super().__init__(model=model, **kwargs)
        if any(isinstance(callback, TrainingProgress) for callback in kwargs.get("callbacks") or ()):
            for kind in (ProgressCallback, PrinterCallback):  # one display is enough
                self.remove_callback(kind)
        self.model_accepts_loss_kwargs = True  # makes the base class count label tokens
        self.objectives = nn.ModuleDict({name: objective for name, (objective, _) in objectives.items()})
        self.objectives.to(self.args.device)
        self.objective_weights = {name: weight for name, (_, weight) in objectives.items()}
        self.teacher = self.teacher_cache = None
        if "teacher" in needs:
            self._learn_from(teacher)
        self.outputs_needed = {f"output_{need}": True for need in needs & {"hidden_states", "attentions"}}
        if "attentions" in needs:  # which other kernels do not hand out
            for part in filter(None, (model, self.teacher)):
                part.set_attn_implementation("eager")
        self.exposed_needed = "exposed" in needs
        self._logged: dict[str, Tensor] = {}
        self._keep_padding_rows_zero()

    def _learn_from(self, teacher: PreTrainedModel | TeacherCache) -> None:
        """A cache's rows travel with the features, so that nothing can part them."""
        if not isinstance(teacher, TeacherCache):
            self.teacher = teacher.to(self.args.device).eval()
            return
        for objective in self.objectives.values():
            objective.check_cache(teacher.temperature)
        self.teacher_cache = teacher
        self.train_dataset = teacher.attach(self.train_dataset)
        self.data_collator = teacher.collator(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        """What the base class does not drop from the data: arguments of the model, and the cached rows."""
        super()._set_signature_columns_if_needed()
        if self.teacher_cache is not None and COLUMN not in self._signature_columns:
            self._signature_columns.append(COLUMN)

    # --- resuming ---

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """As the base class, which after the last update would make one more."""
        if isinstance(resume_from_checkpoint, str):
            state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, TRAINER_STATE_NAME))
            last = self.args.max_steps if self.args.max_steps > 0 else state.max_steps
            if state.global_step >= last:
                self.state = state
                self._load_from_checkpoint(resume_from_checkpoint)
                if self.args.load_best_model_at_end:
                    self._load_best_model()
                return TrainOutput(state.global_step, 0.0, {})
            if not any(any(Path(resume_from_checkpoint).glob(kind)) for kind in ("optimizer*", "global_step*")):
                raise ValueError(
                    f"{resume_from_checkpoint!r} holds the model alone (save_only_model=True), so that the optimizer "
                    "and the learning rate would begin anew: start again, and leave it off where a run is to go on"
                )
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _load_best_model(self) -> None:
        """As the base class, also where the run's folder was moved: it notes whole paths."""
        best = self.state.best_model_checkpoint
        if best is not None and not os.path.exists(best):
            self.state.best_model_checkpoint = os.path.join(self.args.output_dir, os.path.basename(best))
        super()._load_best_model()

    # --- loss ---

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Seq2SeqLMOutput]:
        """Weighted objectives, divided by the number of label tokens."""
        if not model.training:
            outputs = model(**inputs)
            return (outputs.loss, outputs) if return_outputs else outputs.loss
        features = {name: value for name, value in inputs.items() if name not in ("labels", COLUMN)}
        labels = inputs["labels"]
        if "decoder_input_ids" not in features:
            features["decoder_input_ids"] = decoder_inputs(self.accelerator.unwrap_model(model), labels)
        exposed = {"output_exposed": True} if self.exposed_needed else {}
        outputs = model(**features, use_cache=False, **self.outputs_needed, **exposed)
        outputs["encoder_mask"] = features.get("attention_mask")  # objectives see outputs, not inputs
        teacher_outputs = None
        if self.teacher_cache is not None:
            teacher_outputs = self.teacher_cache.distribution(inputs[COLUMN])
        elif self.teacher is not None:
            with torch.no_grad(), self.accelerator.autocast():  # Accelerate wraps the trained model's forward alone
                teacher_outputs = self.teacher(**features, use_cache=False, **self.outputs_needed)
        tokens = num_items_in_batch if num_items_in_batch is not None else labels.ne(-100).sum()
        total = labels.new_zeros((), dtype=torch.float32)
        for name, objective in self.objectives.items():
            value = objective(outputs, teacher_outputs, labels)
            self._remember(name, value.detach(), labels)
            total = total + self.objective_weights[name] * value
        loss = total / tokens
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # DDP averages gradients over processes
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One step; stops at a loss that is not finite."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1} (learning rate "
                f"{self._get_learning_rate():.2e}); nothing is saved from here on, earlier checkpoints in "
                f"{self.args.output_dir} are whole. Lower learning_rate or max_grad_norm, or raise warmup_steps"
            )
        return loss

    def _remember(self, name: str, value: Tensor, labels: Tensor) -> None:
        row = torch.stack([value.float(), labels.ne(-100).sum().to(value.device).float()])
        self._logged[name] = self._logged.get(name, 0) + row

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds each objective, per label token, to the training log."""
        if "loss" in logs and self._logged:
            names = list(self._logged)
            sums = self.accelerator.reduce(torch.stack([self._logged[name] for name in names]), reduction="sum")
            logs |= {name: (value / tokens).item() for name, (value, tokens) in zip(names, sums, strict=True)}
            self._logged = {}
        super().log(logs, start_time)

    # --- optimizer and batches ---

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """As of the plain student, whose norms do not decay: a weight source calls theirs ``.../layer_norm/weight``."""
        return [name for name in super().get_decay_parameter_names(model) if "norm/" not in name]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The base class's optimizer, with projections and mixing in groups of their own."""
        optimizer = super().create_optimizer(model)
        slow = {id(p) for p in self.model.slow_parameters()} if isinstance(self.model, WeightDistillModel) else set()
        for group in list(optimizer.param_groups):
            inside = [p for p in group["params"] if id(p) in slow]
            if inside:
                group["params"] = [p for p in group["params"] if id(p) not in slow]
                factor = self.args.projection_lr_factor
                optimizer.add_param_group({**group, "params": inside, "lr": group["lr"] * factor})
        return optimizer

    def get_train_dataloader(self) -> DataLoader:
        """Batches by tokens where ``max_tokens_per_batch`` asks for it."""
        if self.args.max_tokens_per_batch is None:
            return super().get_train_dataloader()
        sampler = token_batches(self.train_dataset, self.args)
        loader = DataLoader(
            self._remove_unused_columns(self.train_dataset, description="training"),
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            persistent_workers=self.args.dataloader_persistent_workers,
        )
        loader = self.accelerator.prepare(loader)
        if loader.batch_sampler is not sampler:  # a shard of it, on several processes
            # Resuming puts another sampler before both, through which accelerate finds the one that wants to know the
            # epoch only where the shard names it.
            loader.batch_sampler.sampler = sampler
        return loader

    def _keep_padding_rows_zero(self) -> None:
        """In phase 2 a padding row that is zero gets no gradient through the tied head; phase 1 masks it itself."""
        if isinstance(self.model, WeightDistillModel):
            return
        pad = self.model.config.pad_token_id
        embeddings = {id(m.weight): m.weight for m in self.model.modules() if isinstance(m, nn.Embedding)}
        for weight in embeddings.values():
            if weight.requires_grad and pad is not None and pad < len(weight) and not weight[pad].any():
                weight.register_hook(
                    lambda gradient: gradient.index_fill(0, torch.tensor(pad, device=gradient.device), 0)
                )
