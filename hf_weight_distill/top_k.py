"""A next-token distribution cut to its likeliest tokens; what is cut off stays as one class, "any other token".

Index legend: ``N`` label tokens, ``V`` vocabulary, ``k`` kept tokens, ``C = min(k + 1, V)`` classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax


@dataclass(frozen=True)
class TopKDistribution:
    """What a cached teacher says at the label tokens; stands where a live teacher's outputs would.

    Args:
        log_probs: ``(N, C)``, the log-probabilities of the kept tokens and, last, of all others together. The label
            tokens are in the order of ``labels[labels != -100]``.
        token_ids: ``(N, k)``, the kept tokens.
        temperature: that the teacher's logits were divided by.
    """

    log_probs: Tensor
    token_ids: Tensor
    temperature: float = 1.0


def lump(logits_NV: Tensor, token_ids_Nk: Tensor) -> Tensor:
    r"""Log-probabilities of some tokens and of all others together: a softmax over ``C`` classes.

    .. math:: \log q_i = z_i - \log Z, \qquad \log q_{rest} = \log \sum_{v \notin ids} e^{z_v} - \log Z

    The rest is summed, not taken as one minus the kept: that would lose every digit where the kept are nearly all. With
    ``k = V`` there is no rest.

    Args:
        logits_NV: ``(N, V)``.
        token_ids_Nk: ``(N, k)``, different tokens in each row.

    Returns:
        ``(N, C)``; every row sums to 1 as probabilities.
    """
    z_NC = logits_NV.gather(-1, token_ids_Nk)
    if token_ids_Nk.shape[-1] < logits_NV.shape[-1]:
        others_NV = logits_NV.scatter(-1, token_ids_Nk, -torch.inf)
        z_NC = torch.cat([z_NC, others_NV.logsumexp(-1, keepdim=True)], dim=-1)
    return log_softmax(z_NC, dim=-1)
