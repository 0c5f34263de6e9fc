"""What a format is: how a student gets into it, what runs it there, and how it is compared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..evaluation import input_limit

if TYPE_CHECKING:
    from transformers import BatchEncoding, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

FLOAT32, INT8 = "float32", "int8"
STUDENT = "student"  # folder beside those of the two quantizations, from which they are made


@dataclass(frozen=True)
class Reference:
    """One batch and what the PyTorch student makes of it. Axes: ``B`` sentences, ``T`` generated tokens, ``V`` tokens.

    Args:
        batch: padded ``input_ids`` and ``attention_mask``.
        outputs: ids of the greedy search, (B, 1 + T): the decoder's start first, padding after the end.
        mask: which of the T tokens were generated, the end token included, (B, T).
        logits: of the student for these tokens, (B, T, V).
    """

    batch: BatchEncoding
    outputs: torch.Tensor
    mask: torch.Tensor
    logits: torch.Tensor

    def log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        """Log-probability (natural logarithm) of each generated token under ``logits``, (B, T)."""
        chosen = logits.gather(2, self.outputs[:, 1:, None])[..., 0]
        return chosen - logits.logsumexp(2)


def truncation(student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Arguments, as code, by which the tokenizer cuts what is too long for the student; empty where nothing is."""
    limit = input_limit(student, tokenizer)
    return f", truncation=True, max_length={limit}" if limit else ""


class Format(ABC):
    """A runtime's format. A new one is a module with a subclass, its test, and one line in ``FORMATS``.

    Attributes:
        name: for people.
        compared: what :meth:`follow` takes the difference of.
    """

    name: str
    compared: str

    @abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions of what the speed depends on, by package."""

    @abstractmethod
    def check(self, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuses what cannot be converted.

        Raises:
            ValueError: with the reason.
        """

    @abstractmethod
    def convert(self, draft: Path, quantization: str) -> None:
        """Writes the model files of ``draft / quantization``, a folder that is there.

        Args:
            draft: holds the stock student in ``student`` and, for int8, the finished ``float32``.
            quantization: ``"float32"`` or ``"int8"``.

        Raises:
            ValueError: the runtime's converter does not take this student; with its reason.
        """

    @abstractmethod
    def load(self, folder: Path, config: PretrainedConfig) -> Any:
        """What runs the files of ``folder``: a module with ``generate``, ``config`` and ``device``, as a model has."""

    @abstractmethod
    def follow(self, model: Any, reference: Reference) -> tuple[float, torch.Tensor]:
        """Makes the exported model give the student's output, token by token.

        Args:
            model: from :meth:`load`.
            reference: whose outputs are given.

        Returns:
            The largest absolute difference from the student, of what ``compared`` says, and by how much less probable
            each token is than for the student, (B, T), in nats.
        """

    @abstractmethod
    def usage(self, folder: str, sentence: str, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
        """Markdown with code that translates ``sentence`` with the exported folder."""
