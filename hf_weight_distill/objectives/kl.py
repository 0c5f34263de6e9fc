"""Token-level knowledge distillation (Hinton et al., 2015, https://arxiv.org/abs/1503.02531)."""

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from transformers.modeling_outputs import Seq2SeqLMOutput

from ..top_k import TopKDistribution, lump
from .base import IGNORED, Objective


class KLDivergence(Objective):
    r"""Kullback-Leibler divergence from the teacher's next-token distribution to the student's.

    .. math:: \tau^2 \sum_n \mathrm{KL}\big(\mathrm{softmax}(z^t_n / \tau) \,\|\, \mathrm{softmax}(z^s_n / \tau)\big)

    With a teacher cache the sum over the vocabulary becomes one over the ``k`` cached tokens and a class of all others.
    That never exceeds the divergence above (lumping tokens loses information), and equals it where ``k`` is the
    vocabulary.

    Args:
        temperature: tau; the factor tau squared keeps the gradient's size.

    Requirements:
        A teacher with the student's vocabulary, live or cached at the same temperature.
    """

    name = "kl"
    paper = "https://arxiv.org/abs/1503.02531"
    needs = frozenset({"teacher"})

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature={temperature}: expected a number above 0")
        self.temperature = temperature

    def check_cache(self, temperature: float) -> None:
        """Raises ``ValueError`` for another temperature: what is lumped at one cannot be told apart at another."""
        if temperature != self.temperature:
            raise ValueError(
                f"the teacher cache is at temperature {temperature} and the objective {self.name} at "
                f"{self.temperature}: the tail of one does not give the tail of the other; make a cache at "
                f"{self.temperature}"
            )

    def forward(
        self, student: Seq2SeqLMOutput, teacher: Seq2SeqLMOutput | TopKDistribution | None, labels: Tensor
    ) -> Tensor:
        """Sum over label tokens; logits are ``(batch, target, vocab)``."""
        label_tokens = labels != IGNORED
        logits_NV = student.logits[label_tokens].float() / self.temperature
        if isinstance(teacher, TopKDistribution):
            log_q, log_p = lump(logits_NV, teacher.token_ids), teacher.log_probs
        else:
            log_q = log_softmax(logits_NV, dim=-1)
            log_p = log_softmax(teacher.logits[label_tokens].float() / self.temperature, dim=-1)
        return self.temperature**2 * kl_div(log_q, log_p, log_target=True, reduction="sum")
