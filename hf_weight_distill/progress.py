"""Progress of long work with the time left: a bar on a terminal, elsewhere a plain line now and then.

All of it goes to stderr, so that what a command prints as its result can be piped. Training, pseudo labels and
evaluation look the same.
"""

from time import monotonic as _now
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

SECONDS_A_LINE = 30
REFRESHES_A_SECOND = 4


class Stage:
    """One stage of long work, as a context manager.

    Args:
        name: what is being done.
        total: how much there is of it.
        unit: what is counted.
        done: how much was done before, by an interrupted run; it does not count for the time left.
        console: where it is shown; stderr by default.
        enabled: whether it is shown at all.
        refresh: draw the bar between updates too, by a thread that takes a little time from the work.

    Example:
        >>> with Stage("pseudo labels", 100, "sentences") as stage:
        ...     stage.advance(32)                                             # doctest: +SKIP
        pseudo labels: 100 sentences in 0:02
    """

    def __init__(
        self,
        name: str,
        total: int,
        unit: str,
        *,
        done: int = 0,
        console: Console | None = None,
        enabled: bool = True,
        refresh: bool = True,
    ) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.name, self.unit, self.enabled = name, unit, enabled
        drawn = self.console.is_interactive or self.console.is_jupyter
        self.plain = enabled and not drawn
        self._progress = Progress(
            TextColumn("{task.description:<18}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} {task.fields[unit]}", style="progress.download"),
            _TimeLeft(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            disable=not enabled or self.plain,
            auto_refresh=refresh,
            refresh_per_second=REFRESHES_A_SECOND,
            redirect_stdout=False,  # a result that is printed meanwhile belongs to stdout
            speed_estimate_period=300,
            get_time=_now,
        )
        self._id = self._progress.add_task(name, total=total, completed=done, unit=unit, note="", start=False)
        self._refresh = refresh
        self._last_line = _now()

    def __enter__(self) -> "Stage":
        self._last_line = _now()
        self._progress.start_task(self._id)
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self._progress.stop()
        if self.plain and kind is None:
            self._line(f"{self._task.completed:,.0f} {self.unit} in {clock(self._task.elapsed or 0)}")

    @property
    def _task(self) -> Task:
        return self._progress.tasks[0]

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """``count`` more are done; ``note`` replaces what stands beside them."""
        self._progress.update(self._id, advance=count, **({} if note is None else {"note": note}))
        if not self._refresh:
            self._progress.refresh()
        if self.plain and _now() - self._last_line >= SECONDS_A_LINE:
            self._last_line = _now()
            done = f"{self._task.completed:,.0f} of {self._task.total:,.0f} {self.unit}"
            left = self._task.time_remaining
            self._line(done + ("" if left is None else f", {clock(left)} left"))

    def skip(self, count: int) -> None:
        """``count`` need not be done: out of the total, or the time left would be far too hopeful."""
        self._progress.update(self._id, total=self._task.total - count)

    def _line(self, text: str) -> None:
        note = self._task.fields["note"]
        self.console.print(f"{self.name}: {text}" + (f", {note}" if note else ""), soft_wrap=True, markup=False)


class _TimeLeft(ProgressColumn):
    """The time left; at the end the time taken."""

    def render(self, task: Task) -> Text:
        if task.finished:
            return Text(f"in {clock(task.finished_time or 0)}", style="progress.elapsed")
        left = "-:--" if task.time_remaining is None else clock(task.time_remaining)
        return Text(f"{left} left", style="progress.remaining")


def clock(seconds: float) -> str:
    """``m:ss``, or ``h:mm:ss`` from one hour on."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
