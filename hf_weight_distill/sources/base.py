"""What a weight source is, and the one contraction that every source and start uses.

Sources receive tensors, shapes and axis names; they know neither models nor families.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Projection:
    """A map from a teacher's axis to a student's.

    Args:
        key: projections with one key are one and the same (all classes that touch the residual stream, say).
        matrix: ``(S, A, B)``, or ``(1, A, B)`` for one matrix in all layers.
    """

    key: str
    matrix: Tensor


@dataclass(frozen=True)
class ClassStart:
    """A class of weights of a student that exists before any training.

    Args:
        weight: ``W_SPQ`` (``W_SP`` for vectors).
        mix: ``mix_SG``, or ``None`` where the weights do not come from the teacher.
        projections: one an axis, ``None`` where the axis keeps its size. ``contract(T, mix, *projections)`` is
            ``weight``, but for norm weights, which no projection can carry over exactly.
    """

    weight: Tensor
    mix: Tensor | None = None
    projections: tuple[Projection | None, ...] = ()


@dataclass(frozen=True)
class ClassSpec:
    """All that a source sees of a class: the stacked teacher, its axes and its start.

    Args:
        path: name.
        axes: meaning of the axes, output first.
        teacher: ``T_SGOI`` (``T_SGO`` for vectors), frozen.
        student_shape: ``(P, Q)`` or ``(P,)``.
        group_sizes: how many teacher layers feed each student layer, at most ``G``.
        changed: whether a shape or the layers change.
        role: the class's role, as the family's row has it.
        project: for each axis, whether the published generator projects it (never a vocabulary).
        start: the student that training starts from.
    """

    path: str
    axes: tuple[str, ...]
    teacher: Tensor
    student_shape: tuple[int, ...]
    group_sizes: tuple[int, ...]
    changed: bool
    role: str
    project: tuple[bool, ...]
    start: ClassStart

    @property
    def key(self) -> str:
        """The path as a name that a module can carry."""
        return self.path.replace(".", "/")


@dataclass(frozen=True)
class Inspection:
    """What a source has learned about layers and axes, on the CPU.

    Args:
        mixing: ``{path: mix_SG}`` of the classes that are mixed from several teacher layers or scaled.
        projections: ``{name: (S | 1, A, B)}``.
    """

    mixing: dict[str, Tensor] = field(default_factory=dict)
    projections: dict[str, Tensor] = field(default_factory=dict)

    def learned_since(self, before: "Inspection", groups: dict[str, tuple[tuple[int, ...], ...]]) -> dict[str, Any]:
        """What came of training, as plain values.

        Args:
            before: the source at the start.
            groups: ``{path: teacher layers that feed each student layer}``.

        Returns:
            ``mixing``: for each class how much each teacher layer gives, at the start and now. ``moved``: the length of
            each projection's way, relative to its norm at the start.
        """
        mixing = {
            path: {
                "groups": [list(group) for group in groups[path]],
                "start": _rows(before.mixing[path], groups[path]),
                "end": _rows(mix_SG, groups[path]),
            }
            for path, mix_SG in self.mixing.items()
        }
        moved = {}
        for name, end in self.projections.items():
            start = before.projections[name]
            moved[name] = ((end - start).norm() / start.norm()).item()
        return {"mixing": mixing, "moved": moved}


def _rows(mix_SG: Tensor, groups: tuple[tuple[int, ...], ...]) -> list[list[float]]:
    """Without what only fills up groups of unequal length."""
    return [
        [round(value, 4) for value in row[: len(group)]] for row, group in zip(mix_SG.tolist(), groups, strict=True)
    ]


def contract(
    teacher: Tensor, mix: Tensor | None = None, out: Tensor | None = None, inner: Tensor | None = None
) -> Tensor:
    r"""The teacher's tensors, mixed over layers and projected on both sides.

    .. math:: W_{spq} = \sum_{g,o,i} T_{sgoi}\, mix_{sg}\, out_{sop}\, in_{siq}

    Layers first, then output, then input: the projections then act on one matrix a student layer and not on every
    teacher layer. Projections with a leading 1 serve all student layers. Under autocast matrices are projected in its
    precision, which is that in which the student multiplies with them; mixing and vectors stay as they are.

    Args:
        teacher: ``T_SGOI`` or ``T_SGO``.
        mix: ``mix_SG``; ``None`` takes the first layer of every group.
        out: ``(S | 1, O, P)`` or ``None`` for the identity.
        inner: ``(S | 1, I, Q)`` or ``None``.

    Returns:
        ``W_SPQ`` or ``W_SP``, in the teacher's dtype.
    """
    with torch.autocast(teacher.device.type, enabled=False):
        mixed = teacher[:, 0] if mix is None else torch.einsum("sg...,sg->s...", teacher, mix)
        if teacher.dim() == 3:
            return mixed if out is None else torch.einsum("so,sop->sp", mixed, out.expand(len(mixed), -1, -1))
    if out is not None:
        mixed = torch.einsum("soi,sop->spi", mixed, out.expand(len(mixed), -1, -1))
    if inner is not None:
        mixed = mixed @ inner
    return mixed.to(teacher)


class BufferDict(nn.Module):
    """Tensors by name that move with a module and are neither trained nor saved."""

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        for key, value in (tensors or {}).items():
            self[key] = value

    def __setitem__(self, key: str, value: Tensor) -> None:
        self.register_buffer(key, value.detach(), persistent=False)

    def __getitem__(self, key: str) -> Tensor:
        return self._buffers[key]

    def __delitem__(self, key: str) -> None:
        del self._buffers[key]

    def __contains__(self, key: str) -> bool:
        return key in self._buffers


class WeightSource(nn.Module):
    """Makes the student's weights: the only learned part of phase 1.

    A subclass names itself and its paper, sets its parameters up from the specs and returns the weights in ``forward``.
    Its modules are keyed by :attr:`ClassSpec.key`.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    from_teacher: ClassVar[bool] = False  # needs a start that is a function of the teacher's weights
    autocasts: ClassVar[bool] = False  # makes weights under autocast, too, and hands them over in float32 itself

    def __init__(self, specs: list[ClassSpec]) -> None:
        super().__init__()
        self.paths = {spec.key: spec.path for spec in specs}

    def weight(self, key: str) -> Tensor:
        """``W_SPQ`` of one class."""
        raise NotImplementedError

    def forward(self) -> dict[str, Tensor]:
        """``{path: W_SPQ}`` for every class, in float32: a half-precision LayerNorm weight fails on a CPU."""
        device = next(self.parameters()).device.type
        with contextlib.nullcontext() if self.autocasts else torch.autocast(device, enabled=False):
            return {path: self.weight(key) for key, path in self.paths.items()}

    def exposed(self) -> dict[str, Any]:
        """Tensors of the parameterisation that an objective may look at, beside the student's outputs.

        The model puts them into its outputs under these names where an objective ``needs`` them.
        """
        return {}

    def inspected(self) -> Inspection:
        """A copy of what the source has learned about layers and axes, for the report."""
        return Inspection()

    def slow_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters whose every step moves a whole matrix at once (projections, mixing) and that learn slower."""
        return iter(())
