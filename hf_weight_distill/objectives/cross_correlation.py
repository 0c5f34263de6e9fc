"""Cross-correlation of features: self-distilled pruning (O'Neill, Dutta, Assem, 2021, https://arxiv.org/abs/2109.15014).

Index legend: ``N`` tokens, ``D`` features (the width of the residual stream).
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers.modeling_outputs import Seq2SeqLMOutput

from .base import IGNORED, Objective

if TYPE_CHECKING:
    from ..plan import WeightPlan

EPS = 1e-5  # of the variance, as in batch normalisation
TOKENS_PER_FEATURE = 4
STACKS = ("encoder", "decoder")


class CrossCorrelation(Objective):
    r"""Pulls the cross-correlation matrix of student and teacher features towards the identity.

    .. math::
        C = \tfrac{1}{N} \tilde Z^{s\top} \tilde Z^t, \qquad
        L_{CC} = \sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2

    where :math:`\tilde Z` is :math:`Z` with every feature standardised over the tokens (mean 0, variance 1, eps 1e-5,
    no affine part). Features are the last hidden states of the encoder at source tokens and those of the decoder at
    label tokens. Each stack has a matrix of its own, and the objective is the mean over the two of :math:`L_{CC} / D`.

    Scaling: the sum grows with ``D``, so it is divided by ``D`` here, and a weight of 0.1 in a configuration is the
    specification's ``beta = 0.1 / D``. ``L_CC`` belongs to a batch and not to a token: like every objective it is
    returned times the number of label tokens, and the trainer divides by their number in the whole batch. The result is
    the mean over the micro-batches, weighted by their tokens.

    Tokens: off-diagonal correlations only mean something with many more tokens than features. A batch with fewer than
    ``4 D`` tokens in a stack is filled up to exactly ``4 D`` with detached features of the batches before it, student's
    and teacher's. Until so many were seen the stack's part is a zero that is still connected to the features. The
    gradient flows through the current batch alone and is scaled by ``N`` over its tokens, so that its size does not
    depend on how many were remembered. What is remembered is not part of a checkpoint: after a resume with such small
    batches the part is zero again until ``4 D`` tokens were seen. With several processes each uses its own tokens.

    Args:
        off_diagonal: lambda. 0.0051 is the value of the Barlow Twins code; that of the paper is not verified.

    Requirements:
        A live teacher of the student's width. For self-distilled pruning it is the unpruned model itself.

    Shapes:
        encoder features ``(batch, source, D)`` with ``encoder_mask`` ``(batch, source)``, decoder features
        ``(batch, target, D)``.

    Relations:
        With a ``magnitude_pruning`` schedule and ``cross_entropy`` this is self-distilled pruning. ``kl`` asks for the
        teacher's distribution; this one only for features that are each the teacher's up to scale and offset, and
        decorrelated. The form is that of Barlow Twins (https://arxiv.org/abs/2103.03230). Only the abstract of the
        paper could be read: where features are taken, one matrix a stack, the remembered tokens and the default weight
        are ours.

    Example:
        >>> objectives = {"cross_entropy": 1.0, "cross_correlation": 0.1}
    """

    name = "cross_correlation"
    paper = "https://arxiv.org/abs/2109.15014"
    needs = frozenset({"teacher", "hidden_states"})

    def __init__(self, off_diagonal: float = 0.0051) -> None:
        super().__init__()
        if off_diagonal < 0:
            raise ValueError(f"off_diagonal={off_diagonal}: expected a number of at least 0")
        self.off_diagonal = off_diagonal
        self._seen: dict[str, Tensor] = {}

    def check_plan(self, plan: "WeightPlan", source: str | None) -> None:
        """Whether the widths are equal."""
        self._check_widths("", plan.student_config.d_model, plan.teacher_config.d_model)

    @staticmethod
    def _check_widths(stack: str, student: int, teacher: int) -> None:
        if student != teacher:
            raise ValueError(
                f"the student{stack} has {student} features and the teacher's {teacher}: cross_correlation compares "
                "feature by feature; give the student the teacher's d_model, or use kl"
            )

    def forward(self, student: Seq2SeqLMOutput, teacher: Seq2SeqLMOutput | None, labels: Tensor) -> Tensor:
        """The loss of the batch, times the number of label tokens."""
        masks = {"encoder": student.get("encoder_mask"), "decoder": labels != IGNORED}
        total = torch.stack([self._stack_loss(stack, student, teacher, masks[stack]) for stack in STACKS]).mean()
        return total * masks["decoder"].sum()

    def _stack_loss(
        self, stack: str, student: Seq2SeqLMOutput, teacher: Seq2SeqLMOutput, mask: Tensor | None
    ) -> Tensor:
        """``L_CC / D`` of one stack."""
        current_sND, current_tND = (_features(outputs, stack, mask) for outputs in (student, teacher))
        tokens, D = current_sND.shape
        self._check_widths(f"'s {stack}", D, current_tND.shape[1])
        needed = TOKENS_PER_FEATURE * D
        current_2ND = torch.stack([current_sND.detach(), current_tND.detach()])
        known_2ND = torch.cat([self._seen.get(stack, current_2ND[:, :0]), current_2ND], dim=1)
        self._seen[stack] = known_2ND[:, -needed:].clone()
        if known_2ND.shape[1] < needed:
            return current_sND.sum() * 0.0
        earlier_sND, earlier_tND = known_2ND[:, -max(needed, tokens) : known_2ND.shape[1] - tokens]
        current_sND = _scale_gradient(current_sND, (len(earlier_sND) + tokens) / max(tokens, 1))
        Zs_ND, Zt_ND = torch.cat([earlier_sND, current_sND]), torch.cat([earlier_tND, current_tND])
        return cross_correlation_loss(Zs_ND, Zt_ND, self.off_diagonal) / D


def cross_correlation_loss(Zs_ND: Tensor, Zt_ND: Tensor, off_diagonal: float) -> Tensor:
    r""":math:`\sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2`, in float32 even under autocast.

    Args:
        Zs_ND: the student's features, ``(N, D)``.
        Zt_ND: the teacher's.
        off_diagonal: lambda.
    """
    with torch.autocast(Zs_ND.device.type, enabled=False):
        C_DD = torch.einsum("nd,ne->de", _standardised(Zs_ND), _standardised(Zt_ND)) / len(Zs_ND)
        diagonal = C_DD.diagonal()
        return (1 - diagonal).square().sum() + off_diagonal * (C_DD.square().sum() - diagonal.square().sum())


def _standardised(Z_ND: Tensor) -> Tensor:
    variance, mean = torch.var_mean(Z_ND.float(), dim=0, correction=0)
    return (Z_ND.float() - mean) * (variance + EPS).rsqrt()


def _features(outputs: Seq2SeqLMOutput, stack: str, mask: Tensor | None) -> Tensor:
    """``(N, D)``: last hidden states of a stack where the mask is true."""
    hidden = outputs.encoder_last_hidden_state if stack == "encoder" else outputs.decoder_hidden_states[-1]
    return (hidden.flatten(0, 1) if mask is None else hidden[mask.bool()]).float()


def _scale_gradient(features: Tensor, factor: float) -> Tensor:
    """The same values, with ``factor`` times the gradient."""
    return features.detach() + factor * (features - features.detach())
