"""The weight generator of Weight Distillation (Lin et al., ACL 2021, https://arxiv.org/abs/2009.09152)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .base import BufferDict, ClassSpec, Inspection, WeightSource, contract

ACTIVATIONS = {"tanh": torch.tanh, "identity": lambda x: x}


class Generator(WeightSource):
    r"""Generates a class of student weights from the frozen teacher's.

    .. math::
        W_{spq} = scale_{spq}\; \phi\Big(\sum_{g,o,i} T_{sgoi}\, mix_{sg}\, out_{sop}\, in_{siq}\Big) + shift_{spq}

    Args:
        specs: the classes.
        init: ``"start"`` begins as the structured start, exactly: its projections and mixing coefficients, and a shift
            that holds what they cannot reach (norm weights). ``"xavier"`` is the published initialisation:
            Xavier-normal projections, the mean over layers, scale 1, shift 0.
        activation: ``"identity"`` or the published ``"tanh"``.
        scale: whether ``scale`` is learned (else 1).
        shift: whether ``shift`` is learned (else what the start needs, fixed).
        share: projections with one key are one parameter: one matrix for the whole residual stream. Off: every class
            has projections of its own, as published. Heads and neurons that a start picks are picked for good: what
            follows them acts on each alone, so that a mixture of them means nothing, and a projection costs much.

    Relations:
        With ``init="xavier"`` this is the published generator, parameter for parameter: the mixing vector is the
        product of its ``W_L`` and ``w``; classes whose shape and depth stay have only ``scale`` and ``shift``; an
        untied output projection has neither ``tanh``, ``scale`` nor ``shift``. Vectors have projections of their own.
    """

    name = "generator"
    paper = "https://arxiv.org/abs/2009.09152"
    from_teacher = True
    autocasts = True  # in contract, which is nearly all of its cost

    def __init__(
        self,
        specs: list[ClassSpec],
        *,
        init: str = "start",
        activation: str = "identity",
        scale: bool = False,
        shift: bool = True,
        share: bool = True,
    ) -> None:
        super().__init__(specs)
        if init not in ("start", "xavier"):
            raise ValueError(f"init={init!r}: expected 'start' or 'xavier'")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r}: expected one of {', '.join(ACTIVATIONS)}")
        self.activation = activation
        self.teacher, self.fixed_shift = BufferDict(), BufferDict()
        self.mix, self.layer_matrix = nn.ParameterDict(), nn.ParameterDict()
        self.projections = nn.ParameterDict()
        self.axes: dict[str, tuple[str | None, ...]] = {}
        self.scale, self.shift = nn.ParameterDict(), nn.ParameterDict()
        self.plain = {s.key for s in specs if init == "xavier" and s.role == "head"}
        for spec in specs:
            self.teacher[spec.key] = spec.teacher
            if init == "xavier":
                self._init_published(spec)
            else:
                self._init_from_start(spec, share)
            self._init_affine(spec, scale, shift, from_start=init == "start")

    # --- initialisation ---

    def _init_published(self, spec: ClassSpec) -> None:
        layers, group = spec.teacher.shape[:2]
        self.axes[spec.key] = (None,) * len(spec.axes)
        if not spec.changed:
            return
        if "{}" in spec.path:
            self.mix[spec.key] = nn.Parameter(_means(spec.group_sizes, group))
            self.layer_matrix[spec.key] = nn.Parameter(_xavier(layers, group, group))
        names = [None] * len(spec.axes)
        for axis, projected in enumerate(spec.project):
            if projected:
                names[axis] = f"{spec.key}/{axis}"
                size = spec.teacher.shape[2 + axis], spec.student_shape[axis]
                self.projections[names[axis]] = nn.Parameter(_xavier(layers, *size))
        self.axes[spec.key] = tuple(names)

    def _init_from_start(self, spec: ClassSpec, share: bool) -> None:
        start = spec.start
        if start.mix is None:
            raise ValueError(
                f"{spec.path}: the generator cannot start from random student weights, which are no function of the "
                "teacher's; use start='teacher', or source_options={'init': 'xavier'}"
            )
        if spec.changed:
            self.mix[spec.key] = nn.Parameter(start.mix.clone())
        names: list[str | None] = []
        for axis, projection in enumerate(start.projections):
            name, picks_SP = None, _picks(spec, axis)
            if picks_SP is not None:
                self.teacher[spec.key] = _picked(self.teacher[spec.key], picks_SP, 2 + axis)
            elif projection is not None:
                name = (projection.key if share else f"{spec.path}/{axis}").replace(".", "/")
                if name not in self.projections:
                    self.projections[name] = nn.Parameter(projection.matrix.clone())
            names.append(name)
        self.axes[spec.key] = tuple(names)

    def _init_affine(self, spec: ClassSpec, scale: bool, shift: bool, from_start: bool) -> None:
        if spec.key in self.plain:
            return
        shape = (spec.teacher.shape[0], *spec.student_shape)
        if scale:
            self.scale[spec.key] = nn.Parameter(torch.ones(shape))
        missing = torch.zeros(shape)
        if from_start and shift and not scale and not spec.changed:
            del self.teacher[spec.key]  # a teacher that nothing acts on and a shift of it are one parameter
            missing = spec.start.weight.clone()
        elif from_start:
            with torch.no_grad():
                missing = spec.start.weight - self.generated(spec.key)
        if shift:
            self.shift[spec.key] = nn.Parameter(missing)
        elif missing.abs().max() > 0:
            self.fixed_shift[spec.key] = missing

    # --- the formula ---

    def mixing(self, key: str) -> Tensor:
        """``mix_SG`` of a class whose layers are mixed."""
        mix = self.mix[key]
        if key not in self.layer_matrix:
            return mix
        return (self.layer_matrix[key] * mix.unsqueeze(1)).sum(-1)  # no matrix product: autocast would round it

    def generated(self, key: str) -> Tensor:
        """What the teacher contributes: ``scale * phi(contraction)``."""
        mix = self.mixing(key) if key in self.mix else None
        sides = [self.projections[name] if name else None for name in self.axes[key]]
        weight = contract(self.teacher[key], mix, *sides)
        if key in self.plain:
            return weight
        weight = ACTIVATIONS[self.activation](weight)
        return weight * self.scale[key] if key in self.scale else weight

    def weight(self, key: str) -> Tensor:
        """``W_SPQ`` of one class."""
        parts = [self.generated(key)] if key in self.teacher else []
        parts += [shifts[key] for shifts in (self.shift, self.fixed_shift) if key in shifts]
        return sum(parts[1:], start=parts[0])

    @torch.no_grad()
    def inspected(self) -> Inspection:
        """Mixing coefficients and projections."""
        mixing = {path: self.mixing(key).cpu().clone() for key, path in self.paths.items() if key in self.mix}
        return Inspection(mixing, {name: matrix.cpu().clone() for name, matrix in self.projections.items()})

    def slow_parameters(self) -> Iterator[nn.Parameter]:
        """Projections and mixing coefficients."""
        for parameters in (self.projections, self.mix, self.layer_matrix):
            yield from parameters.values()


def _picks(spec: ClassSpec, axis: int) -> Tensor | None:
    """``(S | 1, P)``: which heads' dimensions or neurons the start takes, where it takes them as they are."""
    projection = spec.start.projections[axis]
    if projection is None or spec.axes[axis] == "model":
        return None
    matrix_SOP = projection.matrix
    one_of_each = (matrix_SOP.count_nonzero(dim=1) == 1) & (matrix_SOP.sum(dim=1) == 1)
    return matrix_SOP.argmax(dim=1) if one_of_each.all() else None


def _picked(teacher: Tensor, picks_SP: Tensor, dim: int) -> Tensor:
    """``T_SGOI`` or ``T_SGO`` with the heads' dimensions or neurons that the start takes, and no others."""
    shape = [1] * teacher.ndim
    shape[0], shape[dim] = picks_SP.shape
    return teacher.take_along_dim(picks_SP.view(shape), dim=dim)


def _means(sizes: tuple[int, ...], width: int) -> Tensor:
    """``mix_SG`` of the mean over each group; what only fills up a short one has no share."""
    return torch.tensor([[1 / size] * size + [0.0] * (width - size) for size in sizes])


def _xavier(layers: int, rows: int, columns: int) -> Tensor:
    matrix = torch.empty(layers, rows, columns)
    for layer in matrix:
        nn.init.xavier_normal_(layer)
    return matrix
