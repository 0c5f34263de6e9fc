"""Token-level knowledge distillation (Hinton et al., 2015, https://arxiv.org/abs/1503.02531)."""

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from transformers.modeling_outputs import Seq2SeqLMOutput

from .base import IGNORED, Objective


class KLDivergence(Objective):
    r"""Kullback-Leibler divergence from the teacher's next-token distribution to the student's.

    .. math:: \tau^2 \sum_n \mathrm{KL}\big(\mathrm{softmax}(z^t_n / \tau) \,\|\, \mathrm{softmax}(z^s_n / \tau)\big)

    Args:
        temperature: tau; the factor tau squared keeps the gradient's size.

    Requirements:
        A live teacher with the student's vocabulary.
    """

    name = "kl"
    paper = "https://arxiv.org/abs/1503.02531"
    options = ("temperature",)
    needs = frozenset({"teacher"})

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Seq2SeqLMOutput, teacher: Seq2SeqLMOutput | None, labels: Tensor) -> Tensor:
        """Sum over label tokens; logits are ``(batch, target, vocab)``."""
        kept = labels != IGNORED
        log_q, log_p = (
            log_softmax(outputs.logits[kept].float() / self.temperature, dim=-1) for outputs in (student, teacher)
        )
        return self.temperature**2 * kl_div(log_q, log_p, log_target=True, reduction="sum")
