r"""Students that exist before any training: the structured start.

**Depth.** Each student layer starts as one teacher layer of its group, never as their mean: layers share no basis. As
its inputs are not those of that layer, its matrices are then fitted to text by least squares, so that it answers what
the teacher's layer answers: see :mod:`hf_weight_distill.least_squares`.

**Width.** One matrix ``R`` of shape ``(d_t, d_s)`` with orthonormal columns carries the whole residual stream, of both
stacks: the student's state is meant to be :math:`x' = R^\top x`. Then, for a linear map :math:`y = Wx + b`,

* a matrix that reads the stream becomes :math:`W R`, one that writes it :math:`R^\top W`, its bias :math:`R^\top b`;
* embeddings become :math:`c\,E R`; where a family multiplies embeddings by :math:`\sqrt{d}`, :math:`c = \sqrt{d_t/d_s}`
  keeps the product. A tied head reads the same matrix, so that the norm in front of it is scaled by what keeps the
  logits: :math:`\kappa = a_t / (c\, a_s)`, with :math:`a` the family's factor on logits (T5: :math:`d^{-1/2}`). In
  front of a head of its own :math:`\kappa = a_t / a_s`.
* LayerNorm subtracts the mean, that is the component along :math:`u = 1/\sqrt d`. ``R`` maps the teacher's ``u`` to the
  student's, so that both subtract the same thing: :math:`R = u_t u_s^\top + V O U_s^\top`, with ``V`` the principal
  components of the centred states, ``U_s`` a basis of what is orthogonal to ``u_s`` and ``O`` a rotation that is free.
  Where positions are computed and not learned, the student keeps its own table, and ``O`` turns the stream so that the
  teacher's positions fall on it (orthogonal Procrustes).
* a norm's weight is a diagonal, which no projection keeps diagonal. Weight and bias are fitted to the teacher's
  projected output by least squares on the calibration text, with a little pull towards what holds from weights alone:
  :math:`\gamma' = \sqrt{\rho}\,(R \circ R)^\top \gamma`, :math:`\beta' = R^\top \beta`, with :math:`\rho` the share of
  energy kept, times :math:`d_t/d_s`.

**Inner axes.** Whole heads and whole neurons, those with the most energy; where heads shrink, dimensions within each
head, and queries and keys are both scaled by :math:`(h_s/h_t)^{1/4}` where attention divides by :math:`\sqrt h`.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .calibration import Batch, NormMoments, Statistics, fit_norm, norm_statistics, text_statistics, weight_statistics
from .families import scales_outputs
from .least_squares import reconstruct
from .plan import ClassPlan, WeightPlan, fixed_tensors, stock_student, tensors_of
from .sources.base import ClassStart, Projection, contract


def random_start(plan: WeightPlan, teacher: PreTrainedModel, seed: int = 0) -> dict[str, ClassStart]:
    """The student's own random initialisation.

    As in the publication, norms outside the layers are the teacher's own where the width stays; nothing else is.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = stock_student(teacher, plan.student_config, device="cpu")
    copied = {c.path for c in plan.trained if c.unchanged}
    fresh, old = tensors_of(student), tensors_of(teacher)
    return {c.path: student_start(c, old if c.path in copied else fresh) for c in plan.classes}


def student_start(c: ClassPlan, tensors: dict[str, Tensor]) -> ClassStart:
    """A class of weights of a student that exists already, whatever it came from."""
    return ClassStart(torch.stack([tensors[name].detach().cpu() for name in c.student_names]))


def teacher_start(
    plan: WeightPlan,
    teacher: PreTrainedModel,
    batches: list[Batch] | None = None,
    *,
    layers: str = "last",
    width: str = "pca",
    reconstruction: str = "least_squares",
) -> dict[str, ClassStart]:
    """The training-free student: chosen layers, a projected stream, whole heads and neurons.

    Args:
        plan: what feeds what.
        teacher: in float32.
        batches: calibration features; without them the choice is made from weights alone.
        layers: ``"first"`` or ``"last"`` of each group, or ``"spaced"`` evenly from the first layer to the last.
        width: ``"pca"``, ``"importance"`` or ``"uniform"``.
        reconstruction: with ``"least_squares"`` the matrices are then fitted to the batches, if there are any: see
            :mod:`hf_weight_distill.least_squares`; ``"none"`` leaves them.

    Returns:
        ``{path: ClassStart}``.

    Raises:
        ValueError: an axis of the student is larger than the teacher's, where nothing can be chosen.
    """
    refuse_growth(plan)
    statistics = None  # where no axis shrinks, nothing is chosen by them
    if any(any(c.changed_axes) for c in plan.classes):
        statistics = text_statistics(plan, teacher, batches) if batches else weight_statistics(plan, teacher)
    builder = _Builder(plan, tensors_of(teacher), statistics, fixed_tensors(plan, teacher), layers, width)
    if builder.stream is not None and batches:
        builder.norms = norm_statistics(plan, teacher, batches, builder.stream.to(teacher.device))
    start = {c.path: builder.start(c) for c in plan.classes}
    if reconstruction == "none" or not batches:
        return start
    return reconstruct(plan, teacher, start, builder.stream, batches)


def refuse_growth(plan: WeightPlan) -> None:
    for c in plan.classes:
        for axis, old, new in zip(c.axes, c.teacher_shape, c.student_shape, strict=True):
            if new > old:
                raise ValueError(
                    f"{c.path}: the student's {axis!r} axis has {new} dimensions, the teacher's {old}. A start from "
                    "the teacher chooses dimensions and cannot invent them: give a smaller shape, or use "
                    "recipe='paper', whose random projections reach any size"
                )
    for stack in ("encoder", "decoder"):
        heads, sizes = _heads(plan, stack), _head_sizes(plan, stack)
        narrower = f"d_model={heads[1] * sizes[0]} with {heads[1]} heads"
        if plan.family.own_head_size:
            narrower = f"d_kv of at most {sizes[0]}"
        checks = (("heads", heads, f"attention_heads={heads[0]}"), ("dimensions a head", sizes, narrower))
        for what, (old, new), remedy in checks:
            if new > old:
                raise ValueError(
                    f"{stack}: the student's attention has {new} {what}, the teacher's {old}, and a start from the "
                    f"teacher keeps whole heads: give {remedy}, say, or use recipe='paper'"
                )


def chosen_layers(groups: tuple[tuple[int, ...], ...], how: str, teacher_layers: int) -> tuple[int, ...]:
    """Which member of each group the start takes, as an index into the group."""
    if how == "first":
        return (0,) * len(groups)
    if how == "last":
        return tuple(len(group) - 1 for group in groups)
    step = (teacher_layers - 1) / max(len(groups) - 1, 1)
    wanted = [round(s * step) for s in range(len(groups))]
    return tuple(min(range(len(g)), key=lambda i, w=w, g=g: abs(g[i] - w)) for g, w in zip(groups, wanted, strict=True))


def residual_projection(
    moment_DD: Tensor, width: int, how: str, mean_free: bool, positions: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """``R``, shape ``(d_t, d_s)``, with orthonormal columns.

    Args:
        moment_DD: second moment of the stream's normalised states.
        width: ``d_s``.
        how: ``"pca"``, ``"importance"`` (dimensions with the most energy) or ``"uniform"`` (the first ones).
        mean_free: the norms subtract the mean, so that the mean's direction must be kept.
        positions: tables of computed positions, teacher's and student's, ``(N, d_t)`` and ``(N, d_s)``.
    """
    size = len(moment_DD)
    if how != "pca":
        order = torch.arange(size) if how == "uniform" else moment_DD.diagonal().argsort(descending=True)
        return torch.eye(size)[:, order[:width].sort().values]
    moment_DD = moment_DD.double()
    u_t = torch.full((size, 1), size**-0.5, dtype=torch.float64)
    if mean_free:  # the mean's direction is taken apart and put back below
        off = torch.eye(size, dtype=torch.float64) - u_t @ u_t.T
        moment_DD = off @ moment_DD @ off - u_t @ u_t.T
    V_DK = torch.linalg.eigh(moment_DD).eigenvectors.flip(-1)[:, : width - mean_free]
    V_DK = V_DK * V_DK.gather(0, V_DK.abs().argmax(0, keepdim=True)).sign()  # one sign on every machine
    U_EK = torch.eye(width, dtype=torch.float64)
    if mean_free:
        u_s = torch.full((width, 1), width**-0.5, dtype=torch.float64)
        U_EK = torch.linalg.qr(torch.cat([u_s, U_EK], dim=1)[:, :width]).Q[:, 1:]
    if positions is not None:
        teacher_ND, student_NE = (table.double() for table in positions)
        left, _, right = torch.linalg.svd(V_DK.T @ teacher_ND.T @ student_NE @ U_EK)
        V_DK = V_DK @ (left @ right)
    R_DE = V_DK @ U_EK.T
    return (R_DE + u_t @ u_s.T if mean_free else R_DE).float()


@dataclass
class _Builder:
    plan: WeightPlan
    tensors: dict[str, Tensor]
    statistics: Statistics | None
    constants: dict[str, Tensor]
    layers: str
    width: str
    norms: dict[tuple[str, int], NormMoments] | None = None
    stream: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        old, new = self.plan.teacher_config.d_model, self.plan.student_config.d_model
        self.stream = None
        if old != new:
            moment, mean_free = self.statistics.stream_DD, self.plan.family.mean_free_norm
            self.stream = residual_projection(moment, new, self.width, mean_free, self._positions())

    def start(self, c: ClassPlan) -> ClassStart:
        teacher = c.stack(self.tensors).cpu()
        chosen = self._chosen(c)
        mix = torch.zeros(teacher.shape[:2])
        mix[range(len(chosen)), chosen] = self._factor(c)
        if c.changed_axes[0] and c.weight_class.role == "norm_weight":
            squares = Projection(c.path, self.stream.square().unsqueeze(0) * self._kept() ** 0.5)
            return ClassStart(self._fitted(c, 0, contract(teacher, mix, squares.matrix)), mix, (squares,))
        projections = tuple(self._projection(c, axis) for axis in range(len(c.axes)))
        weight = contract(teacher, mix, *(p.matrix if p else None for p in projections))
        if c.changed_axes[0] and c.weight_class.role == "norm_bias":
            weight = self._fitted(c, 1, weight)
        return ClassStart(weight, mix, projections)

    def _fitted(self, c: ClassPlan, which: int, fallback: Tensor) -> Tensor:
        """Norm weights (0) or biases (1) from least squares, where there was text."""
        if self.norms is None:
            return fallback
        weights = next(p for p in self.plan.classes if p.path == c.path.replace(".bias", ".weight"))
        squares, scale, rows = self.stream.square() * self._kept() ** 0.5, self._output_scale(c)[:, None], []
        for group, i in zip(c.groups, self._chosen(c), strict=True):
            prior = self.tensors[weights.path.format(group[i])].detach().cpu() @ squares
            fit = fit_norm(self.norms[weights.path, group[i]], prior, self.plan.family.mean_free_norm)
            rows.append(fit[which])
        return torch.stack(rows) * scale

    def _chosen(self, c: ClassPlan) -> tuple[int, ...]:
        if not c.weight_class.layered:
            return (0,)
        return chosen_layers(c.groups, self.layers, c.teacher_layers)

    # --- factors ---

    def _factor(self, c: ClassPlan) -> Tensor:
        """Scalars of the derivation above, one a student layer."""
        factor = torch.ones(len(c.groups))
        if c.weight_class.role == "embedding" and c.axes[0] == "vocab":
            factor *= self._embedding_scale()
        if "qk" in c.axes and self.plan.family.scaled_attention:
            old, new = _head_sizes(self.plan, c.weight_class.stack)
            factor *= (new / old) ** 0.25
        return factor * self._output_scale(c)

    def _embedding_scale(self) -> float:
        old, new = self.plan.teacher_config, self.plan.student_config
        return (old.d_model / new.d_model) ** 0.5 if getattr(old, "scale_embedding", False) else 1.0

    def _output_scale(self, c: ClassPlan) -> Tensor:
        """kappa, on the norm in front of the head."""
        scale = torch.ones(len(c.groups))
        if c.path.rpartition(".")[0] == self.plan.family.output_norm:
            old, new = self.plan.teacher_config, self.plan.student_config
            if not self._own_head():
                scale[-1] /= self._embedding_scale()
            if scales_outputs(old):
                scale[-1] *= (new.d_model / old.d_model) ** 0.5
        return scale

    def _own_head(self) -> bool:
        return any(c.weight_class.role == "head" for c in self.plan.classes)

    def _kept(self) -> float:
        """rho: energy a dimension of the projected stream against that of the teacher's."""
        kept = (self.stream.T @ self.statistics.stream_DD @ self.stream).diagonal().sum().item()
        return kept * self.stream.shape[0] / self.stream.shape[1]

    def _positions(self) -> tuple[Tensor, Tensor] | None:
        if not self.plan.constants:
            return None
        name = self.plan.constants[-1]
        student = self.constants[name][:64]  # as many positions as sentences usually have
        return self.tensors[name].detach().cpu()[: len(student)], student

    # --- projections ---

    def _projection(self, c: ClassPlan, axis: int) -> Projection | None:
        name = c.axes[axis]
        if not c.changed_axes[axis]:
            return None
        if name == "model":
            return Projection("model", self.stream.unsqueeze(0))
        layers = [group[i] for group, i in zip(c.groups, self._chosen(c), strict=True)]
        old, new = c.teacher_shape[axis], c.student_shape[axis]
        rows = [torch.eye(old)[:, self._kept_units(c, name, layer, new)] for layer in layers]
        return Projection(f"{c.weight_class.unit}/{name}", torch.stack(rows))

    def _kept_units(self, c: ClassPlan, axis: str, layer: int, count: int) -> Tensor:
        """Indices of the inner dimensions that a layer keeps, in their order."""
        unit = c.weight_class.unit
        if axis == "ffn":
            return self._top(self.statistics.energy[unit, "ffn"][layer], count)
        stack = c.weight_class.stack
        heads = self._heads(unit, stack, layer)
        if axis == "heads":
            return heads
        old, new = _head_sizes(self.plan, stack)
        energy_HK = self.statistics.energy[unit, axis][layer].view(-1, old)[heads]
        within = torch.stack([self._top(energy_K, new) for energy_K in energy_HK])
        return (heads[:, None] * old + within).flatten()

    def _heads(self, unit: str, stack: str, layer: int) -> Tensor:
        """Heads by what they send to the stream; one choice for all layers where they share a position bias."""
        energy = self.statistics.energy[unit, "vo"]
        shared = self.plan.family.shared_relative_bias and unit.endswith("SelfAttention")
        row = energy.sum(0) if shared else energy[layer]
        old, new = _heads(self.plan, stack)
        return self._top(row.view(old, -1).sum(1), new)

    def _top(self, energy: Tensor, count: int) -> Tensor:
        if self.width == "uniform":
            return torch.arange(count)
        return energy.argsort(descending=True, stable=True)[:count].sort().values


def _heads(plan: WeightPlan, stack: str) -> tuple[int, int]:
    """Attention heads, teacher's and student's."""
    names = plan.family.shape["attention_heads"]
    name = names[stack == "decoder" and len(names) > 1]
    return getattr(plan.teacher_config, name), getattr(plan.student_config, name)


def _head_sizes(plan: WeightPlan, stack: str) -> tuple[int, int]:
    """Dimensions of a head, teacher's and student's."""
    configs = plan.teacher_config, plan.student_config
    if plan.family.own_head_size:
        return configs[0].d_kv, configs[1].d_kv
    return tuple(c.d_model // heads for c, heads in zip(configs, _heads(plan, stack), strict=True))
