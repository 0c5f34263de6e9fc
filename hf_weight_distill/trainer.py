"""One trainer for both phases: a ``Seq2SeqTrainer`` with our objectives."""

import copy
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
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
    TrainerState,
)
from transformers.modeling_outputs import Seq2SeqLMOutput
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import TrainOutput

from .arguments import WeightDistillTrainingArguments, refuse_in_phase_1, with_learning_rate
from .data import TokenBatchSampler
from .model import WeightDistillModel
from .objectives import Objective
from .plan import decoder_inputs
from .teachers.logit_cache import COLUMN, TeacherCache
from .training_progress import TrainingProgress


def token_batches(dataset: Dataset | IterableDataset, args: WeightDistillTrainingArguments) -> TokenBatchSampler | None:
    """Batches by tokens; ``None`` where the arguments ask for none.

    Raises:
        ValueError: a stream, whose lengths are not known, or a sentence that fits no batch.
    """
    if args.max_tokens_per_batch is None or args.max_steps == 0:
        return None
    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"max_tokens_per_batch={args.max_tokens_per_batch} sorts sentences by length, and a stream does not know "
            "its lengths: load the data without streaming, or leave max_tokens_per_batch out and "
            "set per_device_train_batch_size"
        )
    seed = args.seed if args.data_seed is None else args.data_seed
    sides = dataset.select_columns(["input_ids", "labels"]).with_format("arrow")[:].columns
    longer = np.maximum(*(list_value_length(side) for side in sides))
    return TokenBatchSampler(longer.tolist(), args.max_tokens_per_batch, seed=seed, drop_last=args.dataloader_drop_last)


def passes(dataset: Dataset, args: WeightDistillTrainingArguments) -> float:
    """How many times a phase trains on each row of a data set: updates over the updates of one pass.

    Raises:
        ValueError: as :func:`token_batches`.
    """
    if args.max_steps < 0:
        return args.num_train_epochs
    sampler = token_batches(dataset, args)
    batches = math.ceil(len(dataset) / args.train_batch_size) if sampler is None else len(sampler)
    return args.max_steps / math.ceil(batches / (args.gradient_accumulation_steps * args.world_size))


def stopped_early(state: TrainerState) -> bool:
    """Whether the callback that a checkpoint was written under had run out of patience."""
    found = state.stateful_callbacks.get(EarlyStoppingCallback.__name__, [])
    callbacks = map(EarlyStoppingCallback.from_state, found if isinstance(found, list) else [found])
    return any(c.early_stopping_patience_counter >= c.early_stopping_patience for c in callbacks)


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


def _endless(dataset: Dataset | IterableDataset | None) -> Dataset | IterableDataset | None:
    """A stream as one pass without an end.

    Where a pass of a stream ends the base class leaves an update half accumulated, and it resumes in the first pass.
    """
    return dataset.repeat(None) if isinstance(dataset, IterableDataset) else dataset


class WeightDistillTrainer(Seq2SeqTrainer):
    r"""Trains a :class:`WeightDistillModel` (phase 1) or a plain student (phase 2).

    The loss is :math:`\frac{1}{N}\sum_k w_k L_k`, where each objective :math:`L_k` is a sum over label tokens and ``N``
    is their number in the whole batch, over accumulation steps and processes. Each objective is logged by its name, per
    label token and before its weight. ``eval_loss`` is always the plain cross-entropy with the labels, whatever is
    trained, so that runs compare: as in ``Trainer`` the mean of each evaluation batch over its tokens, then over
    batches by their sentences.

    Args:
        model: phase-1 module or stock seq2seq model.
        args: training arguments; without a learning rate they get that of the model's width.
        objectives: ``{name: (objective, weight)}``.
        teacher: live teacher, or the cache of one that was made of ``train_dataset``; for objectives that need one.
        train_dataset: features. A stream that comes to its end is read again, in the same order.
        kwargs: of ``Seq2SeqTrainer``.

    Raises:
        ValueError: an objective needs a teacher and there is none, or more than a cache holds; the cache is of other
            features; activation checkpointing in phase 1.
        FloatingPointError: the loss is not finite; checkpoints written before stay.
        MemoryError: a batch is too large for the device.
    """

    loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole accumulated batch

    def __init__(
        self,
        model: nn.Module,
        *,
        args: WeightDistillTrainingArguments,
        objectives: dict[str, tuple[Objective, float]],
        teacher: PreTrainedModel | TeacherCache | None = None,
        train_dataset: Dataset | IterableDataset | None = None,
        **kwargs: Any,
    ) -> None:
        needs = check_objectives(objectives, teacher is not None, isinstance(model, WeightDistillModel))
        args = with_learning_rate(args, model.config.d_model)
        if isinstance(model, WeightDistillModel):
            refuse_in_phase_1(args)
            for objective, _ in objectives.values():
                objective.check_plan(model.plan, model.source.name)
            if args.ddp_broadcast_buffers is None:  # the frozen teacher, which DDP would send at each forward
                args = copy.copy(args)  # the caller may resume with his own
                args.ddp_broadcast_buffers = False
        super().__init__(model=model, args=args, train_dataset=_endless(train_dataset), **kwargs)
        if self.args.accelerator_config.dispatch_batches is None:
            # else the first of several processes reads a stream, and joins batches that are not of one length
            self.accelerator.dataloader_config.dispatch_batches = False
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
        """As the base class, which after the last update, and where early stopping had ended it, would go on."""
        if isinstance(resume_from_checkpoint, str):
            state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, TRAINER_STATE_NAME))
            last = self.args.max_steps if self.args.max_steps > 0 else state.max_steps
            if state.global_step >= last or stopped_early(state):
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
        """One step; stops at a loss that is not finite, and says what to do about a batch that is too large."""
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        except RuntimeError as error:
            if self.args.auto_find_batch_size or not should_reduce_batch_size(error):
                raise
            tokens = self.args.max_tokens_per_batch is not None
            name = "max_tokens_per_batch" if tokens else "per_device_train_batch_size"
            raise MemoryError(
                f"out of memory on {self.args.device} with {name}={getattr(self.args, name)}: lower it, and raise "
                "gradient_accumulation_steps by the same factor to train on as much"
            ) from error
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
