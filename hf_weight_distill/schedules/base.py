"""What a schedule is."""

from typing import Any, ClassVar

from torch import nn
from transformers import TrainerCallback


class Schedule(TrainerCallback):
    """A Trainer callback that changes weights during phase 2 (pruning, say).

    The keyword arguments of the constructor are its options: what a configuration sets.

    Class attributes:
        name, paper: for the model card.

    Args:
        linear: ``{path of a class: parameter names}`` of the attention and feed-forward matrices of the student.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""

    def __init__(self, linear: dict[str, tuple[str, ...]]) -> None:
        self.linear = linear

    def summary(self, model: nn.Module) -> dict[str, Any]:
        """What it made of the student, as plain values for the model card."""
        return {}
