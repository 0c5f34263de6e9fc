"""Whether an exported model is the student: the same greedy output, the same numbers behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..evaluation import generate_batch, inference, input_limit, source_batches
from .base import Format, Reference

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

BATCH = 8  # sentences; the logits of a batch are held in memory, with vocabularies of 250,000 tokens too
# The last token that fits is the end token in Transformers, whatever the model says; other runtimes just stop.
GREEDY = {"forced_eos_token_id": None}


@dataclass(frozen=True)
class Agreement:
    """How far an exported model agrees with the student.

    Args:
        sentences: that both translated.
        identical: of them, with the same tokens.
        ties: of the others, those that part where the student itself is undecided: it gives the two tokens the same
            logit within twice the tolerance.
        difference: largest absolute one over all tokens of the student's outputs; of what, the format says.
        loss: by how many nats a token the student's outputs are less probable for the exported model, on average.
    """

    sentences: int
    identical: int
    ties: int
    difference: float
    loss: float


def references(
    student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]
) -> list[tuple[BatchEncoding, torch.Tensor]]:
    """Batches of like length, and the student's greedy outputs for them (the decoder's start first, padded)."""
    batches = source_batches(tokenizer, sentences, BATCH, input_limit(student, tokenizer), student.device)
    with inference(student):
        return [(batch, generate_batch(student, batch, 1, None, GREEDY)) for _, batch in batches]


def compare_outputs(
    form: Format,
    exported: Any,
    student: PreTrainedModel,
    expected: Sequence[tuple[BatchEncoding, torch.Tensor]],
    tolerance: float,
) -> Agreement:
    """Translates again with the exported model, and lets it score the student's outputs.

    Args:
        form: the format of ``exported``.
        exported: from ``form.load``.
        student: in PyTorch.
        expected: from :func:`references`.
        tolerance: how far two logits may lie apart and still count as equal.
    """
    sentences = identical = ties = tokens = 0
    lost, differences = 0.0, []
    with inference(student):
        for batch, outputs in expected:
            reference = _reference(student, batch, outputs)
            found = generate_batch(exported, batch, 1, outputs.shape[1] - 1, GREEDY)
            for row in range(len(outputs)):
                same, tie = _same(reference, row, found[row], 2 * tolerance)
                sentences, identical, ties = sentences + 1, identical + same, ties + tie
            largest, missing = form.follow(exported, reference)
            lost += missing[reference.mask].sum().item()
            tokens += int(reference.mask.sum())
            differences.append(largest)
    return Agreement(sentences, identical, ties, float(np.max(differences)), lost / tokens)  # NaN stays NaN


def _reference(student: PreTrainedModel, batch: BatchEncoding, outputs: torch.Tensor) -> Reference:
    ends = torch.as_tensor(student.generation_config.eos_token_id).reshape(-1)
    ended = torch.isin(outputs[:, 1:], ends).long().cumsum(1) - torch.isin(outputs[:, 1:], ends).long()
    logits = student(**batch, decoder_input_ids=outputs[:, :-1]).logits
    return Reference(batch, outputs, ended == 0, logits)


def _same(reference: Reference, row: int, found: torch.Tensor, margin: float) -> tuple[bool, bool]:
    """Whether a sentence has the same tokens, and if not, whether it parts where two logits are equal."""
    expected = reference.outputs[row, 1:][reference.mask[row]]
    found = found[1 : 1 + len(expected)]
    shared = min(len(found), len(expected))
    parted = (found[:shared] != expected[:shared]).nonzero()
    if not len(parted):
        return len(found) == len(expected), False
    at = int(parted[0])
    logits = reference.logits[row, at]
    return False, bool(abs(logits[expected[at]] - logits[found[at]]) <= margin)
