"""Last hidden states: how much of the teacher's a linear map of the student's does not explain."""

import torch
from torch import Tensor
from transformers.modeling_outputs import Seq2SeqLMOutput

from .base import Objective
from .cross_correlation import IGNORED, STACKS, _features


class HiddenStates(Objective):
    r"""Share of the variance of the teacher's last hidden states that the best linear map leaves.

    .. math:: L = \min_W \frac{\|\tilde Z^s W - \tilde Z^t\|^2}{\|\tilde Z^t\|^2}

    over the tokens of a batch, features centred, the mean of encoder and decoder, times the number of label tokens. The
    map is found in closed form for each batch (ridge 1e-3 of the mean variance), so that widths may differ and nothing
    is learned beside the student; FitNets (https://arxiv.org/abs/1412.6550) learn it.
    """

    name = "hidden_states"
    paper = "https://arxiv.org/abs/1412.6550"
    needs = frozenset({"teacher", "hidden_states"})

    def forward(self, student: Seq2SeqLMOutput, teacher: Seq2SeqLMOutput | None, labels: Tensor) -> Tensor:
        """The loss of the batch, times the number of label tokens."""
        masks = {"encoder": student.get("encoder_mask"), "decoder": labels != IGNORED}
        total = sum(
            unexplained(_features(student, stack, masks[stack]), _features(teacher, stack, masks[stack]))
            for stack in STACKS
        )
        return total / len(STACKS) * masks["decoder"].sum()


def unexplained(Zs_ND: Tensor, Zt_NE: Tensor) -> Tensor:
    with torch.autocast(Zs_ND.device.type, enabled=False):
        Zs_ND, Zt_NE = (Z.float() - Z.float().mean(0) for Z in (Zs_ND, Zt_NE))
        with torch.no_grad():  # the map is at its optimum: its own gradient is zero there
            gram_DD = Zs_ND.T @ Zs_ND
            gram_DD.diagonal().add_(1e-3 * gram_DD.diagonal().mean())
            W_DE = torch.linalg.solve(gram_DD, Zs_ND.T @ Zt_NE)
        return (Zs_ND @ W_DE - Zt_NE).square().sum() / Zt_NE.square().sum()
