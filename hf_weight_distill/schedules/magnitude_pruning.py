"""Gradual global magnitude pruning: the schedule of self-distilled pruning (https://arxiv.org/abs/2109.15014)."""

import warnings
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from .base import Schedule

FLOAT32_PATTERNS = 2**31  # bit patterns of the float32 numbers that are not negative


class MagnitudePruning(Schedule):
    r"""Sets the smallest attention and feed-forward weights to zero, a few more at each of ``M`` pruning steps.

    .. math::
        s_\tau = s_f \big(1 - (1 - \tau / M)^3\big), \qquad \tau = 1, \dots, M

    Pruning step :math:`\tau` takes place before training step
    :math:`T \, (b + (e - b)\frac{\tau - 1}{M - 1})`, rounded and counted from 0, of ``T``; the training steps up to the
    next one, and those after the last, let the student recover. After it exactly :math:`\mathrm{round}(s_\tau P)` of
    the ``P`` weights in all matrices together are zero: those of the smallest magnitude, and among equals the ones that
    come first in ``linear``. Embeddings, norms and biases are left alone.

    Invariants, from the start of training on:

    - a weight of these matrices is exactly zero if and only if it is pruned. Pruned weights are set to zero again after
      each optimizer step, whatever momentum and weight decay do; a kept weight that lands on zero by chance becomes the
      smallest normal number of its type. So a checkpoint's weights alone hold the mask, and a resumed run is the
      uninterrupted one bit for bit;
    - masks only grow: zeros are the smallest magnitudes at the next pruning step;
    - weights that are zero when training starts count as pruned and stay so. A student that has more of them than a
      pruning step asks for is left as it is by that step.

    Pruned weights get no gradient, so that they do not count in the norm that ``max_grad_norm`` clips. Each pruning
    step makes the trainer forget its best checkpoint: ``load_best_model_at_end`` chooses among those after the last.

    Args:
        linear: ``{path of a class: parameter names}`` of the student's attention and feed-forward matrices.
        sparsity: final share of zeros, :math:`s_f`.
        steps: number of pruning steps, ``M``.
        begin: first pruning step as a share of training, ``b``.
        end: last pruning step likewise, ``e``; below 1, so that recovery follows.

    Raises:
        ValueError: settings that cannot work; at the start of training: a model without the named parameters, or one
            whose parameters are spread over processes (FSDP, DeepSpeed), where no process sees all magnitudes.

    Relations:
        Iterative, global, unstructured: fewer stored and multiplied numbers only where the runtime knows sparsity. For
        speed without such a runtime choose a smaller ``StudentShape``. With the objective ``cross_correlation`` this is
        self-distilled pruning. The cubic form is that of Zhu and Gupta (https://arxiv.org/abs/1710.01878). The paper's
        own schedule, number of pruning steps and sparsities are not verified; the defaults are ours.

    Example:
        >>> schedules = {"magnitude_pruning": {"sparsity": 0.8, "steps": 10}}
    """

    name = "magnitude_pruning"
    paper = "https://arxiv.org/abs/2109.15014"

    def __init__(
        self,
        linear: dict[str, tuple[str, ...]],
        sparsity: float = 0.9,
        steps: int = 10,
        begin: float = 0.0,
        end: float = 0.75,
    ) -> None:
        super().__init__(linear)
        if not 0 < sparsity < 1:
            raise ValueError(f"sparsity={sparsity}: expected a share of zeros between 0 and 1")
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps={steps!r}: expected a positive number of pruning steps")
        if not 0 <= begin <= end < 1:
            raise ValueError(
                f"begin={begin}, end={end}: expected 0 <= begin <= end < 1, as shares of training; the student "
                "recovers after the last pruning step"
            )
        self.sparsity, self.steps, self.begin, self.end = sparsity, steps, begin, end
        self._weights: list[nn.Parameter] = []
        self._kept: list[Tensor] = []
        self._pruned = 0  # weights
        self._hooks: list[Any] = []

    # --- the plan of pruning steps ---

    def sparsity_after(self, step: int) -> float:
        """Share of zeros after pruning step ``step``, counted from 1; 0 before the first."""
        return self.sparsity * (1 - (1 - step / self.steps) ** 3)

    def training_steps(self, max_steps: int) -> tuple[int, ...]:
        """For each pruning step the number of training steps done before it."""
        gap = (self.end - self.begin) / max(self.steps - 1, 1)
        return tuple(min(round(max_steps * (self.begin + gap * i)), max_steps - 1) for i in range(self.steps))

    # --- what the Trainer calls ---

    def summary(self, model: nn.Module) -> dict[str, Any]:
        """``{"sparsity": {path: share of zeros}}``, rounded to four places."""
        return {"sparsity": {path: round(share, 4) for path, share in sparsity_by_class(model, self.linear).items()}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> None:
        """Finds the matrices; zeros in them are pruned weights, of a checkpoint or of the student itself."""
        self._release()
        self._weights = _matrices(model, self.linear, args)
        self._kept = [weight.detach() != 0 for weight in self._weights]
        self._pruned = self._size - sum(int(kept.sum()) for kept in self._kept)
        for index, weight in enumerate(self._weights):
            if weight.requires_grad:
                self._hooks.append(weight.register_hook(lambda gradient, index=index: gradient * self._kept[index]))
        moments = self.training_steps(state.max_steps)
        if len(set(moments)) < self.steps:
            warnings.warn(
                f"{self.steps} pruning steps fall on {len(set(moments))} of {state.max_steps} training steps: the "
                "student does not recover after each; train longer, or lower steps",
                stacklevel=2,
            )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Prunes where a pruning step is due."""
        done = sum(moment <= state.global_step for moment in self.training_steps(state.max_steps))
        target = round(self.sparsity_after(done) * self._size)
        if target > self._pruned:
            self._pruned = target
            magnitudes = [weight.detach().abs().float() for weight in self._weights]
            self._kept = [~small for small in smallest(magnitudes, target)]
            self._apply()
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Pruned weights are zero again, all others are not."""
        self._apply()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Lets go of the model; says so if training stopped before the last pruning step."""
        zeros = sum(int((weight == 0).sum()) for weight in self._weights)
        if zeros < round(self.sparsity * self._size):
            warnings.warn(
                f"training ended with {zeros / self._size:.1%} of the weights pruned, not {self.sparsity:.1%}: it "
                f"stopped before the last pruning step, after {self.end:.0%} of max_steps",
                stacklevel=2,
            )
        self._release()

    # --- masks ---

    @property
    def _size(self) -> int:
        """``P``."""
        return sum(weight.numel() for weight in self._weights)

    @torch.no_grad()
    def _apply(self) -> None:
        for weight, kept in zip(self._weights, self._kept, strict=True):
            weight.masked_fill_(kept & (weight == 0), torch.finfo(weight.dtype).tiny)
            weight.masked_fill_(~kept, 0.0)

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._weights, self._kept, self._hooks = [], [], []


def smallest(magnitudes: list[Tensor], count: int) -> list[Tensor]:
    """Marks the ``count`` smallest entries of all tensors together; among equals, the first.

    Bisection over bit patterns: those of non-negative float32 numbers have the order of the numbers. Exact to the entry
    and deterministic on every device, without a sorted copy of all weights.

    Args:
        magnitudes: float32 tensors, nowhere negative.
        count: 0 to the number of entries.

    Returns:
        Masks of the tensors' shapes, ``count`` true entries together.
    """
    patterns = [magnitude.contiguous().view(torch.int32) for magnitude in magnitudes]
    low, high = -1, FLOAT32_PATTERNS - 1  # up to low are fewer than count entries, up to high at least as many
    while high - low > 1:
        middle = (low + high) // 2
        if sum(int((pattern <= middle).sum()) for pattern in patterns) < count:
            low = middle
        else:
            high = middle
    left = count - sum(int((pattern < high).sum()) for pattern in patterns)
    marked = []
    for pattern in patterns:
        equal = pattern == high
        first = equal & (equal.flatten().cumsum(0).view_as(equal) <= left)
        left -= int(first.sum())
        marked.append((pattern < high) | first)
    return marked


def sparsity_by_class(model: nn.Module, linear: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """Share of weights that are exactly zero, for the model card.

    Args:
        model: the student.
        linear: ``{path of a class: parameter names}``.

    Returns:
        ``{path: share}``, and the share of all together as ``"total"``.
    """
    weights = dict(model.named_parameters())
    groups = {path: [weights[name] for name in names] for path, names in linear.items()}
    groups["total"] = [weight for group in groups.values() for weight in group]
    return {
        path: sum(int((weight == 0).sum()) for weight in group) / sum(weight.numel() for weight in group)
        for path, group in groups.items()
    }


def _matrices(model: nn.Module, linear: dict[str, tuple[str, ...]], args: TrainingArguments) -> list[nn.Parameter]:
    """The named parameters, in the order of ``linear``."""
    if args.fsdp or args.deepspeed:
        raise ValueError("magnitude_pruning needs whole parameters in every process: train without FSDP and DeepSpeed")
    model = extract_model_from_parallel(model, keep_torch_compile=False)
    parameters = dict(model.named_parameters())
    names = [name for group in linear.values() for name in group]
    missing = [name for name in names if name not in parameters]
    if missing or not names:
        raise ValueError(
            f"magnitude_pruning finds no parameter {missing[0] if missing else 'at all'} in the {type(model).__name__} "
            f"that is trained ({len(missing)} of {len(names)} missing): it prunes a plain student; use it with "
            "finetune_source=None"
        )
    return [parameters[name] for name in names]
