"""What the long work of a teacher shares: who made it from what, files that are whole or absent, a device.

A folder of such work holds ``provenance.json``, written before anything else and compared on every later call, and
``shards/``: the finished pieces, which an interruption does not lose.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import tokenizers
import torch
import transformers

from hf_weight_distill.files import write_json

PROVENANCE = "provenance.json"
# Recorded for people, not compared: the same weights under another name, revision, version or cut into other shards
# give the same result.
_NOT_COMPARED = ("teacher", "teacher_revision", "shard_size", "versions")
# What differs between a fresh and a reloaded config although the model is the same.
_VOLATILE_CONFIG = ("_name_or_path", "_commit_hash", "architectures", "dtype", "transformers_version", "use_cache")


# ----------------------------------------------------------------------------------------------------- fingerprints


def hash_strings(digest: Any, strings: Sequence[str]) -> None:
    """Feeds strings to a hash so that ["ab", "c"] and ["a", "bc"] differ."""
    for text in strings:
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little") + data)


def teacher_fingerprint(teacher: torch.nn.Module) -> str:
    """SHA-256 over the teacher's config and every byte of its weights, the same on every device.

    Args:
        teacher: a model with a `config`. One tensor at a time is copied to the CPU; about a second per 2 GB.

    Returns:
        64 hexadecimal digits. The name, the revision and the folder of the model have no part in it.

    Example:
        >>> teacher_fingerprint(teacher) == teacher_fingerprint(copy.deepcopy(teacher))  # doctest: +SKIP
        True
    """
    config = {key: value for key, value in teacher.config.to_dict().items() if key not in _VOLATILE_CONFIG}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    aliases = getattr(teacher, "all_tied_weights_keys", None) or {}
    # state_dict, not named_buffers: M2M100's non-persistent positions grow while it generates.
    for name, tensor in sorted(teacher.state_dict().items()):
        if name not in aliases:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer) -> str:
    """SHA-256 over a tokenizer's class, vocabulary, special tokens and languages.

    Truncation and padding, which every call leaves behind in a fast tokenizer, have no part in it.
    """
    content = [
        type(tokenizer).__name__,
        tokenizer.get_vocab(),
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        [getattr(tokenizer, name, None) for name in ("src_lang", "tgt_lang")],
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------- provenance


def provenance_of(teacher) -> dict[str, Any]:
    """What every provenance says of a teacher."""
    return {
        "teacher": getattr(teacher, "name_or_path", None) or None,
        "teacher_revision": getattr(teacher.config, "_commit_hash", None),
        "teacher_fingerprint": teacher_fingerprint(teacher),
    }


def library_versions() -> dict[str, str]:
    """Versions for a provenance."""
    return {module.__name__: module.__version__ for module in (transformers, torch, tokenizers, datasets)}


def claim(folder: Path, asked: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Writes the provenance of a new folder, or compares that of an old one.

    Args:
        folder: made if missing.
        asked: the provenance of the work at hand, with a `shard_size`; plain JSON values.
        what: what the folder holds, for errors.

    Returns:
        The provenance in the folder: its `shard_size` counts.

    Raises:
        ValueError: the folder holds something else, and every difference is named.
    """
    found = _read_provenance(folder, what)
    if found is None:
        write_json(folder / PROVENANCE, asked)
        return dict(asked)
    differing = [key for key in asked if found.get(key) != asked[key]]
    if any(key not in _NOT_COMPARED for key in differing):
        lines = [
            f"  {key}: found {found.get(key)!r}, asked {asked[key]!r}"
            for key in differing
            if key not in ("shard_size", "versions")
        ]
        raise ValueError(
            f"{folder} holds {what} made in another way:\n"
            + "\n".join(lines)
            + "\nA run that goes on needs the data and settings that it began with. For a new one choose another "
            "folder, or delete this one."
        )
    return found


def _read_provenance(folder: Path, what: str) -> dict[str, Any] | None:
    path = folder / PROVENANCE
    if not path.exists():
        if (folder / "shards").exists() or (folder / "dataset").exists():
            raise ValueError(
                f"{folder} holds {what} but no {PROVENANCE}, so nobody knows which teacher made it: "
                "choose another output_dir or delete this one"
            )
        return None
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): choose another output_dir or delete this one") from error


# ---------------------------------------------------------------------------------------------------- while it runs


@contextlib.contextmanager
def placed(model, device: torch.device | str | None) -> Iterator[None]:
    """The model on a device, and afterwards back where it was; ``None`` leaves it there."""
    before = model.device
    model.to(device or before)
    try:
        yield
    finally:
        model.to(before)
