"""Reads the folder of a run, whatever of it is there."""

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..record import RECORD_FILE, RUN_FILE, SCORES_FILE, read_json, read_settings

PHASES = ("generator", "finetune")
STAGES = {
    "vocabulary": "vocabulary: choosing the pieces that are kept",
    "pseudo labels": "pseudo labels: the teacher translates the training sources",
    "data": "data: reading and tokenising",
    "teacher cache": "teacher cache: its likeliest next tokens are written down",
    "start": "start: calibration and the first student",
    "generator": "phase 1: training the generator",
    "finetune": "phase 2: training the student",
    "evaluation": "evaluation: scores and speed on the test set",
}


@dataclass(frozen=True)
class Run:
    """What a run's folder holds.

    Args:
        folder: of the run.
        settings: the file that repeats it.
        record: facts that were written on the way; empty for a run that wrote none.
        history: log history of each phase, by the name of the phase.
        scores: the comparison on the test set; empty where none was made.
    """

    folder: Path
    settings: dict[str, Any]
    record: dict[str, Any]
    history: dict[str, list[dict[str, Any]]]
    scores: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """How the student was made."""
        return self.settings.get("config") or {}

    @property
    def finished(self) -> bool:
        """Whether both phases came to their end."""
        return self.record.get("finished", (self.folder / "student").is_dir())

    def skips(self, phase: str) -> bool:
        """Whether a phase has no updates by the run's settings."""
        arguments = self.record.get("arguments", {}).get(phase) or self.config.get(f"{phase}_args") or {}
        return arguments.get("max_steps") == 0

    @property
    def reached(self) -> str:
        """The stage that a run which is not finished was in last."""
        stages = self.record.get("stages", ())
        if stages and not stages[-1]["finished"]:
            return STAGES.get(stages[-1]["stage"], stages[-1]["stage"])
        return STAGES["finetune" if (self.folder / "generated_student").is_dir() else "generator"]


def read_run(folder: Path) -> Run:
    """A run, finished or not.

    Args:
        folder: the ``output_dir`` of ``distill``.

    Raises:
        ValueError: there is no run in it, or one of its files cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: name the --output_dir of a distill run")
    if not (folder / RUN_FILE).is_file():
        if (folder / RECORD_FILE).is_file():
            raise ValueError(f"the run in {folder} has not begun to train: its page can be made as soon as it does")
        raise ValueError(f"{folder} holds no run, for there is no {RUN_FILE} in it: name the --output_dir of distill")
    settings = read_settings(folder / RUN_FILE)
    record, scores = read_json(folder / RECORD_FILE), read_json(folder / SCORES_FILE)
    recorded = record.get("history", {})
    history = {phase: _longest(recorded.get(phase, []), _checkpointed(folder / phase)) for phase in PHASES}
    return Run(folder, settings, record, {phase: rows for phase, rows in history.items() if rows}, scores)


def _checkpointed(folder: Path) -> list[dict[str, Any]]:
    """The log history in the last checkpoint, for a phase that was killed before it could write its own."""
    files = folder.glob("checkpoint-*/trainer_state.json")
    steps = {int(number[1]): file for file in files if (number := re.search(r"checkpoint-(\d+)$", str(file.parent)))}
    for step in sorted(steps, reverse=True):
        with contextlib.suppress(ValueError):  # cut off, or being written just now
            return read_json(steps[step]).get("log_history", [])
    return []


def _longest(*histories: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The one that went furthest, the first of equals."""
    return max(histories, key=lambda rows: max((row.get("step", 0) for row in rows), default=-1))
