"""The tensor constraint of OPDF (Zhan et al., NeurIPS 2024, https://arxiv.org/abs/2411.06448)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from transformers.modeling_outputs import Seq2SeqLMOutput

from .base import IGNORED, Objective

if TYPE_CHECKING:
    from ..plan import WeightPlan


class TensorConstraint(Objective):
    r"""Holds the auxiliary tensors of an over-parameterised student near the teacher's (Eq. 5).

    .. math:: N\, L_{aux}, \qquad L_{aux} = \frac{1}{K} \sum_{k=1}^{K} \mathrm{MSE}(A_{s,k}, A_{t,k})

    with :math:`A_s` and :math:`A_t` the sites of the student's and the teacher's matrices without the central one,
    ``K`` their number over all matrices of one shape in both, and ``N`` the label tokens. The trainer divides by ``N``,
    so that the logged value is :math:`L_{aux}`, whatever the batch. The central tensor gets no gradient from here.

    Shapes:
        ``student["exposed"]["auxiliary"]`` is a list of pairs of equal shapes, from ``MPO.exposed``.

    Requirements:
        The source ``mpo``, and at least one linear matrix of the student as wide as the teacher's.

    Raises:
        ValueError: there is nothing to hold; :meth:`check_plan` says so before training.

    Relations:
        Beside ``cross_entropy`` or ``kl``, never alone. The publication states no coefficient. Its code multiplies by
        1e-4, and divides by the number of hidden layers, a constraint that has no gradient there: what weight is good
        is not verified. Tensors are compared in one gauge of fixed signs, which is ours. It makes pairs comparable
        when the matrices are close: start from the copied last layer of each group (``layers="last"``,
        ``reconstruction="none"``) and :math:`L_{aux}` begins at 0.

    Example:
        >>> objectives = {"kl": 1.0, "tensor_constraint": 1e-4}
    """

    name = "tensor_constraint"
    paper = "https://arxiv.org/abs/2411.06448"
    needs = frozenset({"exposed"})

    def check_plan(self, plan: "WeightPlan", source: str | None) -> None:
        """Whether the source is ``mpo``, and a matrix keeps its shape."""
        if source != "mpo":
            raise ValueError(
                "the objective tensor_constraint found a weight source without auxiliary tensors, and expected 'mpo': "
                "use that source, or drop tensor_constraint"
            )
        linear = [c for c in plan.classes if c.weight_class.role == "linear"]
        if not any(c.teacher_shape == c.student_shape for c in linear):
            raise ValueError(
                "the objective tensor_constraint found no linear matrix of the teacher's shape in the student, and "
                "expected at least one: drop tensor_constraint; the over-parameterisation works alone"
            )

    def forward(self, student: Seq2SeqLMOutput, teacher: Seq2SeqLMOutput | None, labels: Tensor) -> Tensor:
        """``L_aux`` times the number of label tokens."""
        pairs = student["exposed"]["auxiliary"]
        errors_K = torch.stack([mse_loss(ours.float(), theirs.float()) for ours, theirs in pairs])
        return errors_K.mean() * (labels != IGNORED).sum()
