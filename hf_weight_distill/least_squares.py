r"""Closed-form reconstruction: a start whose layers do, as nearly as linear maps can, what the teacher's layers do.

A student that keeps one decoder layer of four feeds that layer states that it never saw in the teacher. So every
matrix of a layer is fitted to the text, in the order of computation: with the student's own inputs ``a`` and what the
teacher's matrix of the chosen layer answers on the same text, ``y`` (projected as the start projects it),

.. math::
    \min_{W, b} \sum_n \lVert W a_n + b - y_n \rVert^2
    + \lambda \big(\lVert W - W_0 \rVert^2 + \lVert b - b_0 \rVert^2\big)

over all tokens of the calibration text, a ridge regression towards the start ``W_0, b_0``, solved exactly. A matrix
that writes to the residual stream also makes up for what the stream lacks before it: ``y`` is then the teacher's stream
after the module less the student's stream before it. Each fit sees the student as the fits before have left it.

Layer-wise least squares is how channel pruning reconstructs features (He et al. 2017, https://arxiv.org/abs/1707.06168).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from .calibration import Batch, hooks, in_double, module_of, run_decoder, run_encoder, token_masks
from .evaluation import inference
from .families import WeightClass
from .plan import ClassPlan, WeightPlan, fixed_tensors, stock_student, tensors_of
from .sources.base import ClassStart

# Lambda, of an input's mean energy. A weaker pull fits better and trains worse: matrices that write to the residual
# stream come out several times as large as the teacher's, see benchmarks/README.md.
RIDGE = 0.1


@torch.no_grad()
def reconstruct(
    plan: WeightPlan,
    teacher: PreTrainedModel,
    start: dict[str, ClassStart],
    stream_DE: Tensor | None,
    batches: Sequence[Batch],
) -> dict[str, ClassStart]:
    """The start with every matrix and bias inside the layers fitted; a stack that keeps its shape stays as it is.

    Args:
        plan: what feeds what.
        teacher: in float32.
        start: the training-free student; its mixing coefficients name the layer that each student layer imitates.
        stream_DE: the projection ``R`` of the residual stream, or ``None`` where the width stays.
        batches: calibration features.

    Returns:
        ``{path: ClassStart}``. Fitted weights are no function of mixing and projections alone any more.
    """
    fit = _Reconstruction(plan, teacher, start, stream_DE, batches)
    fitted = dict(start)
    for stack in ("encoder", "decoder"):
        rows = _layered(plan, stack)
        if not _stays(rows):
            fit.stack(stack, rows)
            weights = {c.path: torch.stack([fit.tensors[name].cpu() for name in c.student_names]) for c in rows}
            fitted |= {path: replace(start[path], weight=weight) for path, weight in weights.items()}
    return fitted


@dataclass
class _Record:
    """One call of a linear module."""

    input: Tensor
    output: Tensor
    stream: Tensor | None = None  # the residual stream after it: what the next norm is given


def _layered(plan: WeightPlan, stack: str) -> list[ClassPlan]:
    return [c for c in plan.classes if c.weight_class.layered and c.weight_class.stack == stack]


def _stays(rows: list[ClassPlan]) -> bool:
    """Whether the student has this stack as the teacher has it."""
    return all(c.unchanged for c in rows)


class _Reached(Exception):
    """A run has come to what it was for; of a stack that is a layer, with these arguments."""


@dataclass
class _Layer:
    """A layer of a model that can be run by itself, and how it is called on each batch."""

    model: PreTrainedModel
    module: nn.Module
    index: int
    calls: list[tuple[tuple, dict[str, Any]]]
    norms: list[str]

    def runs(self, rows: list[WeightClass]) -> Iterator[list[_Record]]:
        """What goes through linear modules of the layer, batch by batch: one that writes to the stream, or readers.

        The stream after a module is what the next norm is given, or where no norm follows what the layer returns.
        Nothing that comes after it is computed.
        """
        records: dict[str, _Record] = {}
        names = [module_of(row, self.index) for row in rows]
        writes = rows[0].axes[0] == "model"

        def linear(name: str) -> Callable:
            def hook(_: nn.Module, inputs: tuple, output: Tensor) -> None:
                records[name] = _Record(inputs[0], output)
                if not writes and len(records) == len(names):
                    raise _Reached

            return hook

        def norm(_: nn.Module, inputs: tuple, output: Tensor) -> None:
            if writes and records:
                records[names[0]].stream = inputs[0]
                raise _Reached

        with hooks(self.model, dict.fromkeys(self.norms, norm) | {name: linear(name) for name in names}):
            for args, kwargs in self.calls:
                records.clear()
                try:
                    output = self.module(*args, **kwargs)
                    records[names[0]].stream = output if isinstance(output, Tensor) else output[0]
                except _Reached:
                    pass
                yield [records[name] for name in names]


class _Reconstruction:
    def __init__(
        self,
        plan: WeightPlan,
        teacher: PreTrainedModel,
        start: dict[str, ClassStart],
        stream_DE: Tensor | None,
        batches: Sequence[Batch],
    ) -> None:
        self.plan, self.teacher, self.start, self.batches = plan, teacher, start, batches
        self.stream_DE = stream_DE
        self.student = stock_student(teacher, plan.student_config, device="cpu")
        self.tensors = tensors_of(self.student)
        rows = {n: w for c in plan.classes for n, w in zip(c.student_names, start[c.path].weight, strict=True)}
        for name, value in (rows | fixed_tensors(plan, teacher)).items():
            self.tensors[name].copy_(value)
        self.student.to(teacher.device)

    def stack(self, stack: str, rows: list[ClassPlan]) -> None:
        """Fits the layers of a stack, first to last."""
        if stack == "decoder":  # what it looks at, computed once
            theirs = self._memories(self.teacher)
            mine = theirs if _stays(_layered(self.plan, "encoder")) else self._memories(self.student)
            self.memories = theirs, mine
        linear = [c for c in rows if c.weight_class.role == "linear"]
        biases = {c.path for c in rows if c.weight_class.role == "bias"}
        for layer in range(len(linear[0].groups)):
            layers = self._layers(linear[0], layer)
            for step in _steps(linear):
                for c, moments in zip(step, self._moments(step, layers), strict=True):
                    bias = c.path.removesuffix("weight") + "bias"
                    names = [path.format(layer) for path in (c.path, bias) if path == c.path or path in biases]
                    solution = _ridge(*moments, *(self.tensors[name] for name in names))
                    for name, value in zip(names, solution, strict=True):
                        self.tensors[name].copy_(value)

    @property
    def models(self) -> tuple[PreTrainedModel, PreTrainedModel]:
        return self.teacher, self.student

    def _memories(self, model: PreTrainedModel) -> list[Tensor]:
        with inference(model):
            return [run_encoder(model, batch)[0] for batch in self.batches]

    def _layers(self, c: ClassPlan, layer: int) -> tuple[_Layer, _Layer]:
        """The teacher's and the student's layer."""
        chosen = self.start[c.path].mix[layer].abs().argmax().item()
        return self._layer(c.weight_class, 0, c.groups[layer][chosen]), self._layer(c.weight_class, 1, layer)

    def _layer(self, row: WeightClass, side: int, index: int) -> _Layer:
        """A layer of a model and how it is called: what lies before it is run once a batch."""

        def stop(_: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            raise _Reached(args, kwargs)

        model, calls = self.models[side], []
        module = model.get_submodule(f"{row.path.partition('.{}')[0]}.{index}")
        with module.register_forward_pre_hook(stop, with_kwargs=True), inference(model):
            for k, batch in enumerate(self.batches):
                try:
                    if row.stack == "encoder":
                        run_encoder(model, batch)
                    else:
                        run_decoder(model, batch, self.memories[side][k])
                except _Reached as reached:
                    calls.append(reached.args)
        return _Layer(model, module, index, calls, self._norms(row.stack, index))

    def _moments(self, step: list[ClassPlan], layers: tuple[_Layer, _Layer]) -> list[tuple[Tensor, Tensor]]:
        """For each class ``sum a a'`` and ``sum a y'``, the inputs with a one at the end for the bias."""
        sums: list[tuple[Tensor | int, Tensor | int]] = [(0, 0)] * len(step)
        runs = (layer.runs([c.weight_class for c in step]) for layer in layers)
        for batch, *records in zip(self.batches, *runs, strict=True):
            masks = token_masks(self.teacher, batch)
            for k, (c, theirs, mine) in enumerate(zip(step, *records, strict=True)):
                mask = masks[c.weight_class.stream]
                goal_NP = self._goal(c, layers[1].index, theirs, mine, mask)
                input_NQ = in_double(mine.input[mask])
                input_NQ = torch.cat([input_NQ, input_NQ.new_ones(len(input_NQ), 1)], dim=1)
                gram, product = sums[k]
                sums[k] = gram + input_NQ.T @ input_NQ, product + input_NQ.T @ goal_NP
        return sums

    def _goal(self, c: ClassPlan, layer: int, theirs: _Record, mine: _Record, mask: Tensor) -> Tensor:
        """``y``, ``(tokens, P)``."""
        if c.axes[0] == "model":
            goal = in_double(theirs.stream[mask])
            if self.stream_DE is not None:
                goal = goal @ self.stream_DE.to(goal)
            return goal - in_double((mine.stream - mine.output)[mask])
        goal, start = in_double(theirs.output[mask]), self.start[c.path]
        if start.projections[0] is not None:
            matrix_SOP = start.projections[0].matrix.expand(len(c.groups), -1, -1)
            goal = goal @ matrix_SOP[layer].to(goal)
        return goal * start.mix[layer].sum().to(goal)

    def _norms(self, stack: str, layer: int) -> list[str]:
        rows = [c.weight_class for c in self.plan.classes if c.weight_class.role == "norm_weight"]
        return [module_of(row, layer) for row in rows if row.layered and row.stack == stack]


def _steps(linear: list[ClassPlan]) -> list[list[ClassPlan]]:
    """Matrices that can be fitted together: neighbours of one module that all read the stream."""
    steps: list[list[ClassPlan]] = []
    for c in linear:
        before = steps[-1][-1] if steps else None
        together = before and before.weight_class.unit == c.weight_class.unit
        if together and c.axes[0] != "model":
            steps[-1].append(c)
        else:
            steps.append([c])
    return steps


def _ridge(gram: Tensor, product: Tensor, weight: Tensor, bias: Tensor | None = None) -> list[Tensor]:
    """Weight and bias by ridge regression towards those that stand there."""
    before = [weight.T] if bias is None else [weight.T, bias[None]]
    size = sum(len(part) for part in before)
    gram, product, before = gram[:size, :size], product[:size], in_double(torch.cat(before)).to(product)
    ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-30)  # inputs that are all zero leave what stood there
    system = gram + ridge * torch.eye(size).to(gram)
    solution = torch.linalg.solve(system, product + ridge * before).float()
    return [solution.T] if bias is None else [solution[:-1].T, solution[-1]]
