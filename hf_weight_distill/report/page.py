"""The page about a run: one HTML file that needs nothing beside it, no network and no script."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from .. import __version__
from ..files import check_file, write_whole
from ..record import settings_text
from .numbers import amount, duration, millions, percent, plain, quantity, search, signed, times
from .run import Run, read_run
from .sections import (
    compared_speed,
    curves,
    layer_mixing,
    quality_rows,
    quality_section,
    sentence_section,
    text_section,
    timing,
)

PAGE_FILE = "report.html"
MOST_LETTERS = 3000  # of a text; a document's rest is left out


def write_report(folder: str | os.PathLike, output: str | os.PathLike | None = None) -> Path:
    """Writes the page about a run.

    Args:
        folder: the ``output_dir`` of ``distill``; the run may be unfinished.
        output: the file; by default ``report.html`` in the folder. It is replaced.

    Returns:
        The file.

    Raises:
        ValueError: the folder holds no run, one of its files cannot be read, or the page cannot be written there.

    Example:
        >>> write_report("runs/en-ro")                                     # doctest: +SKIP
        PosixPath('runs/en-ro/report.html')
    """
    run = read_run(Path(folder))
    file = run.folder / PAGE_FILE if output is None else Path(output)
    check_file(file, "output")
    page = render(run)
    write_whole(file, lambda target: target.write(page.encode("utf-8")))
    return file


def render(run: Run) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "duration": duration, "signed": signed, "plain": plain}
    outputs = [_shown(row) for row in run.scores.get("outputs", ())]
    sections = {
        "quality": quality_section(run),
        "curves": curves(run),
        "sentences": sentence_section(run, outputs),
        "texts": text_section(run, outputs),
        "mixing": layer_mixing(run),
        "time": timing(run),
    }
    return environment.get_template("page.html").render(
        title=f"{_teacher(run)} distilled",
        run=run,
        overview=_overview(run, sections["texts"].get("warnings", [])),
        settings=settings_text(run.settings),
        languages={side: run.settings.get(f"{side}_lang") for side in ("source", "target")},
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        **sections,
    )


def _teacher(run: Run) -> str:
    """The teacher's name, without where it lies on this machine."""
    name = str(run.settings.get("teacher") or "teacher")
    return Path(name).name if Path(name).is_absolute() or name.startswith(".") else name


def _shown(row: dict[str, Any]) -> dict[str, str]:
    """A test sentence as text; of several references the first."""
    texts = {side: text if isinstance(text, str) else next(iter(text), "") for side, text in row.items()}
    return {side: text if len(text) <= MOST_LETTERS else text[:MOST_LETTERS] + " [...]" for side, text in texts.items()}


# --- the overview ----------------------------------------------------------------------------------------------------


def _overview(run: Run, warnings: list[dict[str, Any]]) -> dict[str, Any]:
    if not run.finished:
        text = f"It stopped in, or is still at, {run.reached}. What is below is what it had written until then."
        warnings = [{"title": "This run is not finished.", "text": text, "link": None}, *warnings]
    shape = run.record.get("shape", {})
    tiles = [_score_tile(run), _speed_tile(run), _size_tile(run), _time_tile(run)]
    return {
        "tiles": [tile for tile in tiles if tile],
        "warnings": warnings,
        "recipe": run.settings.get("recipe", "unknown"),
        "shape": [(name, *pair) for name, pair in shape.items() if pair[0] != pair[1]],
    }


def _tile(name: str, before: str | None, after: str, note: str) -> dict[str, Any]:
    return {"name": name, "from": before, "to": after, "note": note}


def _score_tile(run: Run) -> dict[str, Any] | None:
    rows = quality_rows(run)
    if not rows:
        return None
    row = rows[0]
    name = f"{quantity(row['quantity'])}, {search(row['num_beams'])}"
    note = "" if row["ratio"] is None else f"{percent(row['ratio'])} of it kept"
    return _tile(name, f"{row['teacher']:.1f}", f"{row['student']:.1f}", note)


def _speed_tile(run: Run) -> dict[str, Any] | None:
    speed = compared_speed(run)
    row = next((row for row in run.scores.get("rows", ()) if row["quantity"] == speed), None)
    if row is None:
        return None
    name = f"{quantity(speed)}, {search(row['num_beams'])}, batch {row['batch_size']}"
    note = "" if row["ratio"] is None else f"{times(row['ratio'])} the speed"
    return _tile(name, amount(round(row["teacher"])), amount(round(row["student"])), note)


def _size_tile(run: Run) -> dict[str, Any] | None:
    measured = [row for row in run.scores.get("rows", ()) if row["quantity"] == "parameters"]
    pair = run.record.get("parameters") or [measured[0][side] for side in ("teacher", "student") if measured]
    if not pair:
        return None
    teacher, student = pair
    note = f"{times(teacher / student)} smaller" if student < teacher else "no smaller"
    return _tile("parameters", millions(teacher), millions(student), note)


def _time_tile(run: Run) -> dict[str, Any] | None:
    stages = run.record.get("stages")
    if not stages:
        return None
    return _tile("time", None, duration(sum(stage["seconds"] for stage in stages)), "all stages together")
