"""Label-smoothed cross-entropy (Szegedy et al., CVPR 2016, https://arxiv.org/abs/1512.00567)."""

from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.modeling_outputs import Seq2SeqLMOutput

from .base import IGNORED, Objective


class CrossEntropy(Objective):
    r"""Cross-entropy with the labels, smoothed over the vocabulary.

    .. math:: -\sum_n \Big[(1-\epsilon) \log q_n(y_n) + \frac{\epsilon}{V} \sum_v \log q_n(v)\Big]

    Args:
        label_smoothing: epsilon.

    Relations:
        On the teacher's own translations this is sequence-level knowledge distillation.

    Example:
        >>> CrossEntropy(label_smoothing=0.1)(student_outputs, None, labels)    # doctest: +SKIP
    """

    name = "cross_entropy"
    paper = "https://arxiv.org/abs/1512.00567"

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: expected 0 <= label_smoothing < 1")
        self.label_smoothing = label_smoothing

    def forward(self, student: Seq2SeqLMOutput, teacher: Seq2SeqLMOutput | None, labels: Tensor) -> Tensor:
        """Sum over label tokens; ``student.logits`` is ``(batch, target, vocab)``."""
        return cross_entropy(
            student.logits.flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=IGNORED,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )
