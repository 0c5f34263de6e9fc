"""What each section of the page shows, as plain values for the template; what is missing is said."""

import math
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from ..card import speed_quantity
from . import texts
from .charts import Setting, histogram, line_chart, speed_chart
from .numbers import amount, duration, percent, plain, quantity, signed, way
from .run import PHASES, STAGES, Run

WORST, SAMPLE, LOOPS = 20, 20, 6  # sentences shown
LENGTH_THAT_NAMES = 0.15  # difference of the student's length from the teacher's
SIZES = ("parameters", "bytes_on_disk")
SPEEDS = ("tokens_per_second", "sentences_per_second")
UNITS = {
    "loss": "weighted sum, per label token",
    "eval_loss": "nats per label token",
    "grad_norm": "norm",
    "learning_rate": "learning rate",
}
NOTES = {
    "loss": "what is trained: the sum of the objectives with their weights",
    "eval_loss": "cross-entropy with the labels of --eval, whatever is trained",
    "grad_norm": "length of the gradient before clipping",
    "learning_rate": "of the fastest group of parameters",
}
NOT_DRAWN = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")

Section = dict[str, Any]
Line = list[tuple[float, float]]


# --- quality against speed -------------------------------------------------------------------------------------------


def quality_rows(run: Run) -> list[dict[str, Any]]:
    """The rows of the comparison that hold scores."""
    return [row for row in run.scores.get("rows", ()) if row["quantity"] not in (*SIZES, *SPEEDS)]


def compared_speed(run: Run) -> str:
    """The speed in which teacher and student can be compared."""
    return speed_quantity(run.record.get("shape", {}))


def quality_section(run: Run) -> Section:
    """Teacher and student in a picture and a table."""
    rows = quality_rows(run)
    if not rows:
        return {
            "missing": "No test set was measured. Give --test to distill; for a finished run, "
            f"{_evaluate_command(run)} measures it."
        }
    settings = _settings(run, rows[0]["quantity"])
    name = quantity(rows[0]["quantity"])
    title = f"{name} against decoding speed, from teacher to student"
    return {
        "missing": None,
        "chart": speed_chart("speed", title, settings, name, quantity(compared_speed(run))) if settings else None,
        "settings": settings,
        "rows": [_comparison_row(row) for row in run.scores["rows"]],
        "signatures": run.scores.get("signatures", {}),
        "environment": run.scores.get("environment", {}),
        "sentences": run.scores.get("sentences"),
        "speed_sentences": run.scores.get("speed_sentences"),
    }


def _evaluate_command(run: Run) -> str:
    """With the languages, columns and prefix of the run, without which other texts would be translated."""
    settings, words = run.settings, ["hf-weight-distill", "evaluate", str(run.settings.get("teacher") or "TEACHER")]
    student = run.folder / "student"  # where the command line saves it
    words += [str(student) if student.is_dir() else "STUDENT", "--data", "DATA"]
    names = ("src_lang", "tgt_lang", "source_column", "target_column", "source_lang", "target_lang")
    flags = {"revision": settings.get("teacher_revision"), "prefix": run.config.get("prefix")}
    flags |= {name: settings.get(name) for name in names}
    words += [word for name, value in flags.items() if value for word in (f"--{name}", value)]
    return shlex.join([*words, "--json", str(run.folder / "scores.json")])


def _settings(run: Run, score: str) -> list[Setting]:
    """Each way to decode that was timed and whose search was scored."""
    scores = {row["num_beams"]: row for row in run.scores["rows"] if row["quantity"] == score}
    speed = compared_speed(run)
    timed = [row for row in run.scores["rows"] if row["quantity"] == speed and row["num_beams"] in scores]
    timed = [row for row in timed if row["teacher"] > 0 and row["student"] > 0]
    found = []
    for letter, row in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", timed, strict=False):
        points = [(row[side], scores[row["num_beams"]][side]) for side in ("teacher", "student")]
        found.append(Setting(letter, way(row), *points))
    return found


def _comparison_row(row: dict[str, Any]) -> Section:
    """One line of the table; the spread of a speed stands beside it."""
    spreads = [row.get(f"{side}_spread") for side in ("teacher", "student")]
    return {
        "quantity": quantity(row["quantity"]),
        "way": way(row),
        "sides": [amount(row[side]) for side in ("teacher", "student")],
        "ratio": "" if row["ratio"] is None else f"{row['ratio']:.2f}",
        "spread": "" if None in spreads else " / ".join(percent(spread) for spread in spreads),
    }


# --- curves ----------------------------------------------------------------------------------------------------------


def curves(run: Run) -> Section:
    """A chart for each logged quantity, and their ends as a table."""
    lines = {name: _lines(run, name) for name in _drawn(run)}
    lines = {name: found for name, found in lines.items() if any(found)}
    if not lines:
        return {
            "missing": "Nothing was logged: no phase has come to its first logging_steps, or the run was made by a "
            "version that kept no history, and its checkpoints are gone."
        }
    ends = [_updates(run, phase) for phase in PHASES]
    bounds = [0, ends[0], sum(ends)] if all(ends) else [0, sum(ends)]
    charts = [
        {
            "name": name,
            "note": _note(run, name),
            "picture": line_chart(
                f"curve-{index}", name, found, _unit(name), bounds, may_be_logarithmic=name != "learning_rate"
            ),
        }
        for index, (name, found) in enumerate(lines.items())
    ]
    silent = [(number, run.skips(phase)) for number, phase in enumerate(PHASES, 1) if phase not in run.history]
    return {"missing": None, "charts": charts, "rows": _ends(lines), "silent": silent}


def _updates(run: Run, phase: str) -> int:
    return max((row["step"] for row in run.history.get(phase, ())), default=0)


def _objectives(run: Run) -> dict[str, list[float | None]]:
    """The weight of each objective in both phases."""
    weights = [run.config.get(f"{phase}_objectives") or {} for phase in PHASES]
    return {name: [phase.get(name) for phase in weights] for name in {**weights[0], **weights[1]}}


def _drawn(run: Run) -> list[str]:
    """The logged quantities that get a chart, objectives first."""
    logged = {name: None for rows in run.history.values() for row in rows for name in row}
    objectives = _objectives(run)
    same = len(objectives) == 1 and all(weight in (None, 1) for weight in next(iter(objectives.values())))
    evaluated = [name for name in logged if name.startswith("eval_") and name not in NOT_DRAWN]
    wanted = [*objectives, *([] if same else ["loss"]), *evaluated, "grad_norm", "learning_rate"]
    return [name for name in wanted if name in logged]


def _lines(run: Run, name: str) -> list[Line]:
    """The points of each phase, phase 2 where phase 1 ended; what is no finite number is left out."""
    offset, found = 0, []
    for phase in PHASES:
        rows = [row for row in run.history.get(phase, ()) if isinstance(row.get(name), int | float)]
        found.append([(offset + row["step"], row[name]) for row in rows if math.isfinite(row[name])])
        offset += _updates(run, phase)
    return found


def _unit(name: str) -> str:
    return UNITS.get(name, name.removeprefix("eval_") if name.startswith("eval_") else "per label token")


def _note(run: Run, name: str) -> str:
    weights = _objectives(run).get(name)
    if weights is None:
        return NOTES.get(name, "on the data of --eval")
    parts = [f"{weight:g} in phase {number}" for number, weight in enumerate(weights, 1) if weight is not None]
    return f"objective, weight {', '.join(parts)}"


def _ends(lines: dict[str, list[Line]]) -> list[Section]:
    """First, last and lowest value of each curve."""
    return [
        {
            "name": name,
            "phase": phase,
            "ends": [f"{value:.4g}" for value in (line[0][1], line[-1][1], min(value for _, value in line))],
            "points": len(line),
        }
        for name, found in lines.items()
        for phase, line in enumerate(found, 1)
        if line
    ]


# --- sentences, lengths and repetition -------------------------------------------------------------------------------


def sentence_section(run: Run, outputs: texts.Outputs) -> Section:
    """The sentences on which the student loses most, and a random sample."""
    if not outputs:
        return {"missing": _no_outputs(run)}
    scored = texts.scored(outputs)
    return {
        "missing": None,
        "worst": [_card(sentence) for sentence in texts.worst(scored, WORST)],
        "sample": [_card(sentence) for sentence in texts.sample(scored, SAMPLE)],
        "all": len(scored),
        "below": sum(sentence.difference < 0 for sentence in scored),
        "above": sum(sentence.difference > 0 for sentence in scored),
        "same": sum(row["teacher"].split() == row["student"].split() for row in outputs),
    }


def _no_outputs(run: Run) -> str:
    if not run.scores:
        return "There are no outputs to look at, because no test set was measured: give --test to distill."
    return "scores.json holds no outputs: it was written by a version that did not keep them."


def _card(sentence: texts.Sentence) -> Section:
    teacher, student = texts.differences(sentence.row["teacher"], sentence.row["student"])
    return {
        "number": sentence.index + 1,
        "source": sentence.row["source"],
        "reference": sentence.row["reference"],
        "teacher": teacher,
        "student": student,
        "scores": [f"{sentence.teacher_chrf:.0f}", f"{sentence.student_chrf:.0f}"],
        "difference": signed(sentence.difference, 0),
        "same": not any(marked for _, marked in teacher + student),
    }


def text_section(run: Run, outputs: texts.Outputs) -> Section:
    """Lengths, repetition, and what of it deserves a warning."""
    if not outputs:
        return {"missing": _no_outputs(run)}
    sides = {side: texts.text_statistics(outputs, side) for side in ("reference", "teacher", "student")}
    teacher, student = sides["teacher"], sides["student"]
    ratios = texts.length_ratios(outputs)
    title = "Length of the student's outputs compared to the teacher's"
    named = texts.repeats_itself(student, teacher)
    ratio = student.words / teacher.words if teacher.words else None
    most = sorted(student.loops, key=lambda found: -found.times)[:LOOPS]
    return {
        "missing": None,
        "sides": sides,
        "chart": histogram("lengths", title, ratios, "student's words / teacher's words") if ratios else None,
        "ratio": ratio,
        "named": named,
        "loops": [
            {"number": found.index + 1, "loop": found, "output": outputs[found.index]["student"]} for found in most
        ],
        "warnings": [*_repetition_warning(teacher, student, named), *_length_warning(ratio)],
    }


def _repetition_warning(teacher: texts.TextStatistics, student: texts.TextStatistics, named: bool) -> Iterator[Section]:
    if named:
        text = (
            f"{len(student.loops):,} of its {student.sentences:,} outputs loop ({percent(student.looping)}); "
            f"{len(teacher.loops):,} of the teacher's do ({percent(teacher.looping)})."
        )
        yield {"title": "This student repeats itself.", "text": text, "link": "texts"}


def _length_warning(ratio: float | None) -> Iterator[Section]:
    if ratio is not None and abs(ratio - 1) > LENGTH_THAT_NAMES:
        kind = "shorter" if ratio < 1 else "longer"
        title = f"This student's outputs are {percent(abs(ratio - 1))} {kind} than its teacher's."
        yield {
            "title": title,
            "text": "Sentences per second profit from short outputs or suffer from long ones.",
            "link": "texts",
        }


# --- layer mixing ----------------------------------------------------------------------------------------------------


def layer_mixing(run: Run) -> Section:
    """Heat maps of the coefficients by which the generator mixes teacher layers."""
    learned = run.record.get("learned")
    if learned is None:
        early = not run.finished
        why = "it is written when phase 1 ends" if early else "this run was made by a version that did not keep it"
        return {"missing": f"What the generator learned is not known: {why}."}
    if not learned["mixing"]:
        source = run.config.get("source")
        return {"missing": f"Nothing to draw: the weight source {source!r} mixes no teacher layers."}
    layered = {path: entry for path, entry in learned["mixing"].items() if "{}" in path}
    single = {path: entry for path, entry in learned["mixing"].items() if "{}" not in path}
    stacks = dict.fromkeys(path.partition("{}")[0] for path in layered)
    return {
        "missing": None,
        "maps": [heat for stack in stacks for heat in _heat_maps(stack, layered)],
        "single": [(path, plain(e["start"][0][0], 4), plain(e["end"][0][0], 4)) for path, e in single.items()],
        "summary": _mixing_summary(layered),
        "moved": sorted(learned["moved"].items(), key=lambda item: -item[1]),
    }


def _heat_maps(stack: str, layered: dict[str, Section]) -> list[Section]:
    """Two heat maps of a stack: the coefficients, and how much they changed."""
    entries = {path: entry for path, entry in layered.items() if path.startswith(stack + "{}")}
    ends = {path: [value for row in entry["end"] for value in row] for path, entry in entries.items()}
    starts = {path: [value for row in entry["start"] for value in row] for path, entry in entries.items()}
    changes = {path: [end - start for end, start in zip(ends[path], starts[path], strict=True)] for path in entries}
    groups = list(enumerate(next(iter(entries.values()))["groups"]))
    name = next((part for part in stack.split(".") if part in ("encoder", "decoder")), stack)
    return [
        {"title": f"{name}: {title}", "groups": groups, "rows": _heat_rows(table, stack, digits, least)}
        for title, table, digits, least in (
            ("coefficients at the end of phase 1", ends, 2, 1.0),
            ("change since the start", changes, 3, 0.001),
        )
    ]


def _heat_rows(table: dict[str, list[float]], stack: str, digits: int, least: float) -> list[Section]:
    """Text, strength of the colour and sign of each cell; ``least`` is the least value of the strongest colour."""
    most = max([least, *(abs(value) for values in table.values() for value in values)])
    write = signed if digits > 2 else plain
    return [
        {
            "name": path.removeprefix(stack + "{}."),
            "cells": [(write(value, digits), round(abs(value) / most, 3), value < 0) for value in values],
        }
        for path, values in table.items()
    ]


def _mixing_summary(layered: dict[str, Section]) -> Section | None:
    """The coefficient that changed most, and what became of the layers that the start left out."""
    found = [
        (path.format(layer), teacher_layer, start, end)
        for path, entry in layered.items()
        for layer, row in enumerate(zip(entry["groups"], entry["start"], entry["end"], strict=True))
        for teacher_layer, start, end in zip(*row, strict=True)
    ]
    if not found:
        return None
    name, layer, start, end = max(found, key=lambda one: abs(one[3] - one[2]))
    left_out = [abs(end) for _, _, start, end in found if start == 0]
    mean = sum(left_out) / len(left_out) if left_out else None
    return {"name": name, "layer": layer, "start": start, "end": end, "left_out": mean}


# --- time ------------------------------------------------------------------------------------------------------------


def timing(run: Run) -> Section:
    """Seconds of each stage, over all starts of the run."""
    stages = run.record.get("stages")
    if not stages:
        return {"missing": "No time was kept: the run was killed before a stage ended, or an older version made it."}
    names = dict.fromkeys([*STAGES, *(stage["stage"] for stage in stages)])
    entries = {name: [stage for stage in stages if stage["stage"] == name] for name in names}
    seconds = {name: sum(stage["seconds"] for stage in found) for name, found in entries.items() if found}
    longest, total = max(seconds.values()), sum(seconds.values())
    rows = [
        {
            "name": STAGES.get(name, name),
            "seconds": taken,
            "share": taken / total if total else 0.0,
            "bar": taken / longest if longest else 0.0,
            "note": "; ".join(_stage_notes(run, name, taken, entries[name])),
        }
        for name, taken in seconds.items()
    ]
    return {"missing": None, "rows": rows, "total": total}


def _stage_notes(run: Run, name: str, seconds: float, entries: Sequence[Section]) -> Iterator[str]:
    if name == "pseudo labels" and run.record.get("pseudo_labels") == "augment":
        yield "beside the gold targets"
    updates = _updates(run, name)
    if updates and seconds:
        yield f"{updates:,} updates, {updates / seconds:.3g} a second"
    evaluating = sum(row.get("eval_runtime", 0) for row in run.history.get(name, ()))
    if evaluating:
        yield f"{duration(evaluating)} of it for eval_loss"
    if len(entries) > 1:
        yield f"{len(entries)} starts"
    if not entries[-1]["finished"]:
        yield "interrupted"
