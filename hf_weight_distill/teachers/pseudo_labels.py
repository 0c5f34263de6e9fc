"""Sequence-level knowledge distillation: the teacher translates the training sources, the student learns from that.

Kim and Rush 2016, Sequence-Level Knowledge Distillation, arXiv 1606.07947. The teacher's distribution over whole
sequences is replaced by its mode, which beam search approximates:

```
loss(student) = - log p_student(y* | x),   y* = argmax_y p_teacher(y | x)
```

Translating a corpus takes hours, so finished pieces survive an interruption. The folder holds

```
provenance.json          which teacher, which search, which data: written first, checked on every later call
shards/00000.json ...    the teacher's outputs of `shard_size` sentences each, with a check sum
dataset/                 the finished data set, columns source, target, teacher_target
```
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch

from hf_weight_distill.evaluation import translate_within
from hf_weight_distill.files import write_json, write_whole_folder
from hf_weight_distill.progress import Stage

from .resumable import claim, hash_strings, library_versions, placed, provenance_of, tokenizer_fingerprint

logger = logging.getLogger(__name__)

# What this module sets itself, or what does not change an output.
_SET_HERE = ("num_beams", "length_penalty", "do_sample", "num_return_sequences", "max_length", "max_new_tokens")
_NO_EFFECT = ("transformers_version", "_from_model_config", "use_cache", "output_attentions", "output_hidden_states")


@dataclass(frozen=True)
class _Search:
    """How the teacher generates. Lengths are in tokens."""

    num_beams: int
    length_penalty: float
    max_source_length: int
    max_target_length: int
    prefix: str


# ------------------------------------------------------------------------------------------------------- provenance


def _data_fingerprints(pairs: datasets.Dataset) -> tuple[str, str]:
    """SHA-256 of all sources and of all targets, in order. Checks on the way that they are strings."""
    digests = {"source": hashlib.sha256(), "target": hashlib.sha256()}
    position = 0
    for batch in pairs.select_columns(list(digests)).iter(batch_size=1000):
        for column, digest in digests.items():
            wrong = [row for row, text in enumerate(batch[column]) if not isinstance(text, str)]
            if wrong:
                found = type(batch[column][wrong[0]]).__name__
                raise ValueError(
                    f"row {position + wrong[0]} of column {column!r} is {found}, expected a string: "
                    "drop or repair such rows first, for example with Dataset.filter"
                )
            hash_strings(digest, batch[column])
        position += len(batch["source"])
    return digests["source"].hexdigest(), digests["target"].hexdigest()


def inherited_generation_settings(teacher) -> dict[str, Any]:
    """The settings that stay the teacher's own: bad words, forced tokens, early stopping, ..."""
    settings = teacher.generation_config.to_dict()
    kept = {key: settings[key] for key in settings if key not in (*_SET_HERE, *_NO_EFFECT)}
    # Through JSON, so that what is asked compares equal to what was read from the file.
    return json.loads(json.dumps({key: value for key, value in kept.items() if value is not None}, default=str))


def _provenance(teacher, tokenizer, pairs: datasets.Dataset, search: _Search, shard_size: int) -> dict[str, Any]:
    sources, targets = _data_fingerprints(pairs)
    return {
        "method": "sequence-level knowledge distillation (arXiv 1606.07947)",
        **provenance_of(teacher),
        "generation_config": inherited_generation_settings(teacher),
        "tokenizer": {
            "class": type(tokenizer).__name__,
            "size": len(tokenizer),
            "fingerprint": tokenizer_fingerprint(tokenizer),
            "src_lang": getattr(tokenizer, "src_lang", None),
            "tgt_lang": getattr(tokenizer, "tgt_lang", None),
        },
        "num_beams": search.num_beams,
        "length_penalty": search.length_penalty,
        "max_source_length": search.max_source_length,
        "max_target_length": search.max_target_length,
        "prefix": search.prefix,
        "sentences": len(pairs),
        "source_fingerprint": sources,
        "target_fingerprint": targets,
        "shard_size": shard_size,
        "versions": library_versions(),
    }


# ----------------------------------------------------------------------------------------------------------- shards


def _check_sum(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    hash_strings(digest, texts)
    return digest.hexdigest()


def _read_shard(path: Path, count: int) -> list[str] | None:
    """The teacher's outputs in a shard; None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        texts = content["teacher_target"]
        if len(texts) == count and _check_sum(texts) == content["sha256"]:
            return texts
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    logger.warning("%s is damaged and will be generated again", path)
    return None


def _generate_shard(teacher, tokenizer, sources: Sequence[str], search: _Search, batch_size: int, advance) -> list[str]:
    """The teacher's outputs for `sources`, in their order; `advance(n)` hears of every n finished sentences."""
    options = {"max_source_length": search.max_source_length, "max_new_tokens": search.max_target_length}
    options["num_return_sequences"] = 1
    if search.num_beams > 1:  # greedy search warns about one
        options["length_penalty"] = search.length_penalty
    sources = [search.prefix + text for text in sources]
    return translate_within(teacher, tokenizer, sources, batch_size, search.num_beams, advance, **options)


def _labels(teacher, tokenizer, pairs, folder, search, batch_size, shard_size, progress) -> list[str]:
    """All outputs, shard after shard: read where they lie on disk, generated and written where they do not."""
    labels = []
    with Stage("pseudo labels", len(pairs), "sentences", enabled=progress) as stage:
        for start in range(0, len(pairs), shard_size):
            sources = pairs[start : start + shard_size]["source"]
            path = folder / "shards" / f"{start // shard_size:05d}.json"
            texts = _read_shard(path, len(sources))
            if texts is None:
                texts = _generate_shard(teacher, tokenizer, sources, search, batch_size, stage.advance)
                write_json(path, {"sha256": _check_sum(texts), "teacher_target": texts})
            else:
                stage.skip(len(sources))
            labels += texts
    return labels


# --------------------------------------------------------------------------------------------------------- data set


def _load_finished(folder: Path, count: int) -> datasets.Dataset | None:
    try:
        finished = datasets.load_from_disk(str(folder / "dataset"))
    except (OSError, ValueError, KeyError, TypeError):  # of damaged files
        return None
    return finished if len(finished) == count else None


def _assemble(pairs: datasets.Dataset, labels: list[str], folder: Path) -> datasets.Dataset:
    # Only a damaged one can lie there: a good one is returned before anything is generated.
    shutil.rmtree(folder / "dataset", ignore_errors=True)
    columns = pairs.select_columns(["source", "target"])
    write_whole_folder(folder / "dataset", columns.add_column("teacher_target", labels).save_to_disk)
    return datasets.load_from_disk(str(folder / "dataset"))


def _check_arguments(teacher, pairs, search: _Search, shard_size: int) -> None:
    missing = [column for column in ("source", "target") if column not in pairs.column_names]
    if missing:
        raise ValueError(
            f"found the columns {pairs.column_names}, expected 'source' and 'target': use Dataset.rename_columns"
        )
    if not len(pairs) or shard_size < 1 or search.num_beams < 1:
        raise ValueError(
            f"found {len(pairs)} pairs, shard_size={shard_size}, num_beams={search.num_beams}: "
            "expected at least 1 of each"
        )
    positions = getattr(teacher.config, "max_position_embeddings", None)
    if positions is not None and max(search.max_source_length, search.max_target_length) > positions:
        raise ValueError(
            f"the teacher has {positions} positions, but max_source_length={search.max_source_length} and "
            f"max_target_length={search.max_target_length}: use at most {positions}"
        )


def teacher_pairs(labelled: datasets.Dataset) -> datasets.Dataset:
    """Pairs of source and the teacher's translation as ``target``; rows that the teacher left empty are dropped.

    Args:
        labelled: what :func:`generate_pseudo_labels` returned.

    Raises:
        ValueError: it left all of them empty.
    """
    taught = labelled.select_columns(["source", "teacher_target"]).rename_column("teacher_target", "target")
    kept = taught.filter(_has_target)
    if not len(kept):
        raise ValueError(
            f"the teacher answered none of {len(taught)} sources: check its languages, its prefix and its generation "
            "settings"
        )
    if len(kept) < len(taught):
        warnings.warn(f"the teacher left {len(taught) - len(kept)} of {len(taught)} sources unanswered", stacklevel=2)
    return kept


def _has_target(row: dict[str, str]) -> bool:
    return bool(row["target"].strip())


def generate_pseudo_labels(
    teacher,
    tokenizer,
    pairs: datasets.Dataset,
    output_dir: str | os.PathLike,
    *,
    num_beams: int = 6,
    length_penalty: float = 1.0,
    batch_size: int = 32,
    max_source_length: int = 128,
    max_target_length: int = 128,
    prefix: str = "",
    shard_size: int = 2048,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> datasets.Dataset:
    """Let the teacher translate the sources of `pairs`; the student is then trained on its outputs.

    Finished shards lie in `output_dir`: an interrupted call is resumed by calling again, a finished folder is loaded
    without running the teacher, and a damaged shard is generated again. Only one process may work on a folder.

    Args:
        teacher: a seq2seq model with `generate`; its training mode and its device are restored. Its generation
            config keeps its say in everything not named here (bad words, forced tokens, early stopping): set
            `teacher.generation_config.forced_bos_token_id` to NLLB's target language before the call.
        tokenizer: the teacher's tokenizer, with `src_lang` set if it has one.
        pairs: a map-style data set with the string columns `source` and `target` (the gold translation).
        output_dir: the folder for shards, provenance and data set; made if missing.
        num_beams: width of the beam search, 1 is greedy. The generation config's own number is ignored.
        length_penalty: exponent of the length by which a hypothesis' log probability is divided; above 1 favours
            long outputs.
        batch_size: sentences at once; batches hold sentences of like length.
        max_source_length: sources are cut at so many tokens, end token included.
        max_target_length: outputs end after so many tokens, end token included, decoder start token not.
        prefix: put before every source for the teacher (T5), not stored in the data set.
        shard_size: sentences per shard, the most that an interruption can lose. A folder that was begun with another
            size keeps its own.
        device: where the teacher works if there is something left to generate; by default where it is.
        progress: show a progress bar with the time left.

    Returns:
        A data set on disk with the columns `source`, `target` and `teacher_target`, in the order of `pairs`.

    Raises:
        ValueError: the folder was made with another teacher, search or data (each difference is named), or the
            arguments do not fit the teacher or the data.

    Example:
        >>> labelled = generate_pseudo_labels(teacher, tokenizer, pairs, "labels/beam6")  # doctest: +SKIP
        >>> labelled[0]  # doctest: +SKIP
        {'source': 'Two dogs run.', 'target': 'Zwei Hunde rennen.', 'teacher_target': 'Zwei Hunde laufen.'}
    """
    if num_beams == 1:  # greedy search knows no length penalty, and labels made with another are the same
        length_penalty = 1.0
    search = _Search(num_beams, length_penalty, max_source_length, max_target_length, prefix)
    _check_arguments(teacher, pairs, search, shard_size)
    folder = Path(output_dir)
    asked = _provenance(teacher, tokenizer, pairs, search, shard_size)
    shard_size = claim(folder, asked, "pseudo labels")["shard_size"]
    finished = _load_finished(folder, len(pairs))
    if finished is not None:
        return finished
    with placed(teacher, device):
        labels = _labels(teacher, tokenizer, pairs, folder, search, batch_size, shard_size, progress)
    return _assemble(pairs, labels, folder)
