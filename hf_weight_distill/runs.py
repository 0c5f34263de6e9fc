"""The folder of a run: whether it is free, or holds the run that is to go on."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .arguments import WeightDistillTrainingArguments, about_training
from .record import RECORD_FILE, RUN_FILE, read_json, read_settings, write_settings

# The recipe is in its settings; of data and teacher the record has the contents.
_NOT_COMPARED = ("recipe", "train", "eval", "teacher", "teacher_revision", "teacher_identity")


def check_folders(run: Path, phases: list[WeightDistillTrainingArguments], resume: bool) -> None:
    """Whether a new run finds its folder empty, and each phase that trains a folder of its own.

    Raises:
        ValueError: it would be mixed with another run, a phase could not tell its checkpoints from another's, or one
            of several checkpoints is asked for.
    """
    if not isinstance(resume, bool):
        raise ValueError(
            f"found resume_from_checkpoint={resume!r}, expected True or False: with True the run in output_dir goes on "
            "from its newest checkpoint"
        )
    if run.exists() and any(run.iterdir()) and not resume and phases[0].process_index == 0:
        raise ValueError(
            f"the folder {str(run)!r} exists and is not empty: choose another output_dir, delete it, or go on with "
            "the run in it by resume_from_checkpoint=True"
        )
    training = [args for args in phases if args.max_steps != 0]
    folders = [os.path.abspath(args.output_dir) for args in training]
    if len(set(folders)) < len(folders):
        raise ValueError(
            f"both phases have output_dir={folders[0]!r}, where neither could tell its checkpoints from the other's: "
            "give each a folder of its own"
        )
    for args in training:
        found = None if resume else last_checkpoint(args.output_dir)
        if found is not None and args.process_index == 0:
            raise ValueError(
                f"{found!r} is of another run, and resuming would take it for one of this run: give the phase another "
                "output_dir, or delete that one"
            )


def last_checkpoint(folder: str | os.PathLike) -> str | None:
    """The newest whole checkpoint of a phase."""
    whole = [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if _is_whole(path)]
    return str(max(whole, key=lambda path: int(path.name.rpartition("-")[2]))) if whole else None


def _is_whole(checkpoint: Path) -> bool:
    """The trainer writes its state last, and may be interrupted before or while it does."""
    try:
        json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def check_same_content(run: Path, made_of: dict[str, str | None]) -> None:
    """Whether a run goes on with the texts and the teacher that it began with, whatever their names are.

    Args:
        run: its folder.
        made_of: fingerprints of ``data`` and ``teacher`` now.
    """
    facts = read_json(run / RECORD_FILE)
    for name, kind in (("data", "other data"), ("teacher", "another teacher")):
        if facts.get(name) not in (None, made_of[name]):
            raise ValueError(
                f"the run in {str(run)!r} was started with {kind}: resume it with the same, or choose another "
                "output_dir"
            )


def write_or_compare(run: Path, description: dict[str, Any]) -> None:
    """Writes what repeats a new run; one that goes on has to have been started with the same settings."""
    if not (run / RUN_FILE).exists():
        write_settings(run / RUN_FILE, description)
        return
    found, now = _compared(read_settings(run / RUN_FILE)), _compared(description)
    changed = list(_changes({name: found.get(name) for name in now}, now))
    if changed:
        raise ValueError(
            f"the run in {str(run)!r} was started with other settings ({'; '.join(changed)}): resume it with "
            f"the settings of its {RUN_FILE}, or choose another output_dir"
        )


def _changes(found: dict[str, Any], now: dict[str, Any], inside: str = "") -> Iterator[str]:
    """Each setting that differs, by its name and those of what it stands in."""
    for name in found | now:
        before, after = found.get(name), now.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _changes(before, after, f"{inside}{name}.")
        elif before != after:
            yield f"{inside}{name}: {before!r} -> {after!r}"


def _compared(description: dict[str, Any]) -> dict[str, Any]:
    """What has to be the same for a run to go on: when it logs and saves may change."""
    config = {name: value for name, value in description.get("config", {}).items() if name != "teacher_batch_size"}
    phases = {name: about_training(config[name]) for name in ("generator_args", "finetune_args") if config.get(name)}
    found = {name: value for name, value in description.items() if name not in _NOT_COMPARED}
    return found | {"config": config | phases}
