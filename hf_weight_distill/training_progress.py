"""The progress of training, shown like that of all other long work."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import TrainerCallback

from .progress import Stage

PHASE_NAMES = {"generator": "phase 1, generator", "finetune": "phase 2, student"}  # by the folder of their checkpoints


class TrainingProgress(TrainerCallback):
    """Shows each phase as a :class:`Stage`: updates, time left, passes over the data, latest loss. A context manager.

    A ``WeightDistillTrainer`` with this callback has neither the base class's bar nor its lines.

    Args:
        console: where it is shown; stderr by default.

    Example:
        >>> with TrainingProgress() as progress:                                  # doctest: +SKIP
        ...     distiller.distill("built-in", callbacks=[progress])
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console
        self._stage: Stage | None = None
        self._seen: dict[str, str] = {}  # passes over the data and the latest losses

    def __enter__(self) -> "TrainingProgress":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self._close(kind)

    def _close(self, kind: type[BaseException] | None = None) -> None:
        if self._stage is not None:
            self._stage.__exit__(kind)
            self._stage = None

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        folder = Path(args.output_dir).name
        self._close()
        self._seen = {}
        options = {"done": state.global_step, "console": self.console, "enabled": state.is_world_process_zero}
        self._stage = Stage(PHASE_NAMES.get(folder, folder), state.max_steps, "updates", **options)
        self._stage.__enter__()

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self._stage.advance(1)

    def on_log(self, args, state, control, logs, **kwargs) -> None:
        """Passes, the loss of training, and that of evaluation when there is one."""
        if state.num_train_epochs < sys.maxsize:  # as the base class has it for a stream
            self._seen["passes"] = f"{state.epoch:.1f} passes"
        losses = ((name, float(value)) for name, value in logs.items() if name in ("loss", "eval_loss"))
        self._seen |= {name: f"{name} {value:.2f}" for name, value in losses}
        self._note()

    def on_prediction_step(self, args, state, control, **kwargs) -> None:
        """The updates stand still meanwhile."""
        self._note("evaluating")

    def _note(self, *doing: str) -> None:
        if self._stage is not None:
            self._stage.advance(0, note=", ".join([*self._seen.values(), *doing]))

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self._close()
