"""A teacher's next-token distributions, written once and read in every later run in place of the live teacher.

For each label token the cache holds the ``k`` likeliest tokens with their log-probabilities, and that of all others
together (see :mod:`hf_weight_distill.top_k`). The folder holds

```
provenance.json           which teacher, tokenizer, data, k and temperature: written first, checked on every later call
shards/00000.arrow ...    `shard_size` sentences each, memory-mapped; a binary column, one value a sentence
```

A value is an array of records, one a label token, with nothing between them:

```
token_ids   k x uint16        (int32 where the vocabulary has more than 65,536 tokens)
log_probs   (k + 1) x float16
```

Index legend: ``N`` label tokens, ``V`` vocabulary, ``k`` kept tokens, ``C = min(k + 1, V)`` classes.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor
from torch.nn.functional import log_softmax
from transformers import DataCollatorForSeq2Seq

from hf_weight_distill.data import lengths_and_values
from hf_weight_distill.evaluation import inference, length_batches
from hf_weight_distill.files import write_whole
from hf_weight_distill.progress import Stage
from hf_weight_distill.top_k import TopKDistribution, lump

from .resumable import claim, library_versions, placed, provenance_of, tokenizer_fingerprint

logger = logging.getLogger(__name__)

COLUMN = "teacher"
IGNORED = -100
FORMAT = 1  # of the shards; another one is refused


# ------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class _Data:
    """What a cache has to know of features: fingerprints of both sides, and the label tokens of each row."""

    source: str
    target: str
    label_tokens: np.ndarray


def _model_columns(features: Dataset) -> Dataset:
    """What the teacher sees, without formats, labels last."""
    columns = [name for name in ("input_ids", "attention_mask", "labels") if name in features.column_names]
    return features.select_columns(columns).with_format(None)


def _describe(features: Dataset) -> _Data:
    source, target, counts = hashlib.sha256(), hashlib.sha256(), [np.empty(0, np.int64)]
    for table in _model_columns(features).with_format("arrow").iter(batch_size=1000):
        for name in table.column_names:
            lengths, values = lengths_and_values(table[name])
            digest = target if name == "labels" else source
            digest.update(lengths.tobytes() + values.tobytes())
        row_of_value = np.repeat(np.arange(len(lengths)), lengths)  # of the labels, which come last
        counts.append(np.bincount(row_of_value[values != IGNORED], minlength=len(lengths)))
    return _Data(source.hexdigest(), target.hexdigest(), np.concatenate(counts))


# ------------------------------------------------------------------------------------------------------------ cache


@dataclass(frozen=True)
class TeacherCache:
    """A finished cache; give it to :class:`~hf_weight_distill.WeightDistillTrainer` as ``teacher``.

    Args:
        rows: memory-mapped, the column ``"teacher"``, in the order of the features that it was made of.
        record: what stands in it for one label token.
        temperature: that the teacher's logits were divided by.
        source_fingerprint: of the features' ``input_ids`` and ``attention_mask``.
        target_fingerprint: of their ``labels``.

    Example:
        >>> cache = build_teacher_cache(teacher, features, "cache", tokenizer=tokenizer)      # doctest: +SKIP
        >>> WeightDistillTrainer(student, objectives=build_objectives({"kl": 1.0}), teacher=cache,
        ...                      train_dataset=features, args=args)                           # doctest: +SKIP
    """

    rows: Dataset
    record: np.dtype
    temperature: float
    source_fingerprint: str
    target_fingerprint: str

    def attach(self, features: Dataset) -> Dataset:
        """The features with their cached rows beside them, so that shuffling and sharding keep them together.

        Raises:
            ValueError: these are not the features that the cache was made of.
        """
        data = _describe(features)
        sides = {"source": self.source_fingerprint, "target": self.target_fingerprint}
        wrong = [side for side, expected in sides.items() if getattr(data, side) != expected]
        if wrong:
            raise ValueError(
                f"the teacher cache was made of other features ({' and '.join(wrong)} differ, {len(features)} rows "
                f"found, {len(self.rows)} expected): give the same features in the same order, or make a new cache"
            )
        return concatenate_datasets([features, self.rows], axis=1)

    def collator(self, data_collator: Callable) -> Callable:
        """A collator that knows the cached column too; rows without it pass as before."""
        return _Collator(data_collator, self.record)

    def distribution(self, columns: dict[str, Tensor]) -> TopKDistribution:
        """What the collator made of the cached column, as the objectives want it.

        Rounding to 16 bits is evened out: the classes sum to 1 again.
        """
        return TopKDistribution(log_softmax(columns["log_probs"], dim=-1), columns["token_ids"], self.temperature)

    def summary(self) -> dict[str, float]:
        """``label_tokens``, ``bytes_per_token`` and ``kept``, the mean share of probability on the kept tokens."""
        counted = np.zeros(2)
        for batch in self.rows.iter(batch_size=1000):
            counted += _tokens_and_tail(batch[COLUMN], self.record)
        tokens, tail = counted
        return {"label_tokens": int(tokens), "bytes_per_token": self.record.itemsize, "kept": 1 - tail / max(tokens, 1)}


@dataclass(frozen=True)
class _Collator:
    """Decodes the cached column; everything else is the inner collator's."""

    inner: Callable
    record: np.dtype

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        if COLUMN not in rows[0]:
            return self.inner(rows)
        batch = self.inner([{name: value for name, value in row.items() if name != COLUMN} for row in rows])
        records = np.frombuffer(b"".join(row[COLUMN] for row in rows), self.record)
        batch[COLUMN] = {
            "log_probs": torch.from_numpy(records["log_probs"].astype(np.float32)),
            "token_ids": torch.from_numpy(records["token_ids"].astype(np.int64)),
        }
        return batch


def target_tokens(teacher) -> int:
    """Marian may have a vocabulary of another size for the target."""
    return getattr(teacher.config, "decoder_vocab_size", None) or teacher.config.vocab_size


def _record(top_k: int, vocab_size: int) -> np.dtype:
    token_id = "<u2" if vocab_size <= 2**16 else "<i4"
    return np.dtype([("token_ids", token_id, (top_k,)), ("log_probs", "<f2", (min(top_k + 1, vocab_size),))])


def _tokens_and_tail(values: Sequence[bytes], record: np.dtype) -> np.ndarray:
    """``(2,)``: label tokens, and the sum of the probability that was cut off at them."""
    records = np.frombuffer(b"".join(values), record)
    has_tail = record["log_probs"].shape > record["token_ids"].shape
    tail = np.exp(records["log_probs"][:, -1].astype(np.float64)).sum() if has_tail else 0.0
    return np.array([len(records), tail])


# ---------------------------------------------------------------------------------------------------------- writing


@dataclass(frozen=True)
class _Writer:
    """The teacher at work: rows of features in, values of the column out."""

    teacher: Any
    data_collator: Callable
    record: np.dtype
    temperature: float
    batch_size: int

    def values(self, rows: list[dict[str, Any]], advance: Callable[[int], None]) -> list[bytes]:
        """The value of each row; ``advance(n)`` hears of every n finished rows."""
        values = [b""] * len(rows)
        for numbers in length_batches([row["input_ids"] + row["labels"] for row in rows], self.batch_size):
            batch = self.data_collator([rows[number] for number in numbers])
            tokens_of_row = (batch["labels"] != IGNORED).sum(dim=1)
            pieces = np.split(self._records(batch), tokens_of_row.cumsum(dim=0)[:-1].tolist())
            for number, piece in zip(numbers, pieces, strict=True):
                values[number] = piece.tobytes()
            advance(len(numbers))
        return values

    def _records(self, batch: dict[str, Tensor]) -> np.ndarray:
        """``(N,)``, a record for each label token of the batch, row after row."""
        batch = {name: tensor.to(self.teacher.device) for name, tensor in batch.items()}
        logits_NV = self.teacher(**batch).logits[batch["labels"] != IGNORED].float() / self.temperature
        token_ids_Nk = logits_NV.topk(self.record["token_ids"].shape[0]).indices
        records = np.empty(len(logits_NV), self.record)
        records["token_ids"] = token_ids_Nk.cpu().numpy()
        records["log_probs"] = lump(logits_NV, token_ids_Nk).cpu().numpy()
        return records


@dataclass(frozen=True)
class _Shard:
    """A file of the cache: ``rows`` of the features, whose values have ``sizes`` in bytes."""

    path: Path
    rows: range
    sizes: np.ndarray

    def write(self, values: list[bytes]) -> None:
        table = pa.table({COLUMN: pa.array(values, pa.binary())})

        def stream(file: BinaryIO) -> None:
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)

        write_whole(self.path, stream)

    def read(self) -> Dataset | None:
        """The values, memory-mapped; None if the file is missing or damaged."""
        if not self.path.exists():
            return None
        try:
            values = Dataset.from_file(str(self.path))
            found = pc.binary_length(values.data.column(COLUMN)).to_numpy()
            if np.array_equal(found, self.sizes):
                return values
        except (OSError, ValueError, KeyError):
            pass
        logger.warning("%s is damaged and will be written again", self.path)
        return None


def _shards(folder: Path, sizes: np.ndarray, shard_size: int) -> list[_Shard]:
    starts = range(0, len(sizes), shard_size)
    rows = [range(start, min(start + shard_size, len(sizes))) for start in starts]
    return [_Shard(folder / f"{n:05d}.arrow", r, sizes[r.start : r.stop]) for n, r in enumerate(rows)]


def _fill(shards: list[_Shard], features: Dataset, writer: _Writer, device: Any, progress: bool) -> None:
    counted = np.zeros(2)
    stage = Stage("teacher cache", sum(len(shard.rows) for shard in shards), "sentences", enabled=progress)
    with stage, placed(writer.teacher, device), inference(writer.teacher):
        for shard in shards:
            values = writer.values(_model_columns(features).select(shard.rows).to_list(), stage.advance)
            shard.write(values)
            counted += _tokens_and_tail(values, writer.record)
            stage.advance(0, note=f"{1 - counted[1] / max(counted[0], 1):.1%} of the probability kept")


def _check_arguments(teacher, features: Dataset, top_k: int, temperature: float, shard_size: int) -> None:
    if not isinstance(features, Dataset):
        raise ValueError(
            f"found features of type {type(features).__name__}; a teacher cache needs a datasets.Dataset, whose rows "
            "have numbers: load the data without streaming, or train with the live teacher"
        )
    missing = [name for name in ("input_ids", "labels") if name not in features.column_names]
    if missing or not len(features):
        raise ValueError(
            f"found {len(features)} features with the columns {features.column_names}; expected at least one, with "
            "input_ids and labels: use tokenize_pairs"
        )
    if COLUMN in features.column_names:
        raise ValueError(f"the features have a column {COLUMN!r}, where the cache goes: remove it")
    check_top_k(top_k, target_tokens(teacher))
    if temperature <= 0 or shard_size < 1:
        raise ValueError(f"temperature={temperature}, shard_size={shard_size}: expected numbers above 0")


def check_top_k(top_k: int, tokens: int) -> None:
    """Whether there are so many tokens to choose from.

    Raises:
        ValueError: there are not.
    """
    if not 1 <= top_k <= tokens:
        raise ValueError(f"top_k={top_k}: expected 1 to {tokens}, the tokens that the teacher chooses from")


def _provenance(teacher, tokenizer, data: _Data, record: np.dtype, temperature: float, shard_size: int) -> dict:
    return {
        "method": "top-k next-token distributions",
        "format": FORMAT,
        **provenance_of(teacher),
        "tokenizer": None if tokenizer is None else type(tokenizer).__name__,
        "tokenizer_fingerprint": None if tokenizer is None else tokenizer_fingerprint(tokenizer),
        "sentences": len(data.label_tokens),
        "label_tokens": int(data.label_tokens.sum()),
        "source_fingerprint": data.source,
        "target_fingerprint": data.target,
        "top_k": record["token_ids"].shape[0],
        "temperature": float(temperature),
        "vocab_size": target_tokens(teacher),
        "bytes_per_token": record.itemsize,
        "shard_size": shard_size,
        "versions": library_versions(),
    }


def build_teacher_cache(
    teacher,
    features: Dataset,
    output_dir: str | os.PathLike,
    *,
    tokenizer=None,
    data_collator: Callable | None = None,
    top_k: int = 32,
    temperature: float = 1.0,
    batch_size: int = 32,
    shard_size: int = 2048,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> TeacherCache:
    """Writes the teacher's next-token distributions on `features`, or opens those that were written before.

    Finished shards lie in `output_dir`: an interrupted call is resumed by calling again, a finished folder is opened
    without running the teacher, and a damaged shard is written again. Only one process may write to a folder.

    Args:
        teacher: a seq2seq model; its training mode and its device are restored, dropout is off.
        features: rows of `input_ids`, `labels` and perhaps `attention_mask`, as :func:`~hf_weight_distill.data.
            tokenize_pairs` makes them; the order counts.
        output_dir: the folder for shards and provenance; made if missing.
        tokenizer: of the features. Part of the key; ``None`` where there is none.
        data_collator: pads rows to batches; by default `DataCollatorForSeq2Seq(tokenizer)`.
        top_k: tokens to keep for each label token. :meth:`TeacherCache.summary` says how much probability they hold.
        temperature: divides the teacher's logits; that of the objective which will read the cache.
        batch_size: sentences at once; batches hold sentences of like length.
        shard_size: sentences per shard, the most that an interruption can lose. A folder that was begun with another
            size keeps its own.
        device: where the teacher works if there is something left to write; by default where it is.
        progress: show a progress bar with the time left.

    Returns:
        The cache, memory-mapped.

    Raises:
        ValueError: the folder was made with another teacher, tokenizer, data, `top_k` or temperature (each difference
            is named), or the arguments cannot be used.

    Example:
        >>> cache = build_teacher_cache(teacher, features, "cache", tokenizer=tokenizer)  # doctest: +SKIP
        >>> cache.summary()  # doctest: +SKIP
        {'label_tokens': 5713, 'bytes_per_token': 130, 'kept': 0.97}
    """
    _check_arguments(teacher, features, top_k, temperature, shard_size)
    if tokenizer is None and data_collator is None:
        raise ValueError("neither tokenizer nor data_collator is given: one of them has to pad the rows")
    folder, data = Path(output_dir), _describe(features)
    record = _record(top_k, target_tokens(teacher))
    asked = _provenance(teacher, tokenizer, data, record, temperature, shard_size)
    shard_size = claim(folder, asked, "a teacher cache")["shard_size"]
    shards = _shards(folder / "shards", data.label_tokens * record.itemsize, shard_size)
    missing = [shard for shard in shards if shard.read() is None]
    if missing:
        collate = data_collator or DataCollatorForSeq2Seq(tokenizer)
        _fill(missing, features, _Writer(teacher, collate, record, temperature, batch_size), device, progress)
    rows = concatenate_datasets([shard.read() for shard in shards])
    return TeacherCache(rows, record, float(temperature), data.source, data.target)
