"""Looking at what was made: the page of a run, and pictures of a comparison."""

from .page import render, write_report
from .pictures import loss_curves, quality_against_speed
from .run import Run, read_run

__all__ = ["Run", "loss_curves", "quality_against_speed", "read_run", "render", "write_report"]
