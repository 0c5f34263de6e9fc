"""What a run writes down about itself while it works, for ``hf-weight-distill report``.

The folder of a run holds, beside checkpoints and the student,

```
weight_distill.yaml    the configuration that repeats it
record.json            sizes, seconds of each stage, log history of both phases, what the generator learned
scores.json            teacher and student on the test set, with their outputs
```
"""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .files import write_json, write_whole

RUN_FILE = "weight_distill.yaml"
RECORD_FILE = "record.json"
SCORES_FILE = "scores.json"


def read_json(file: Path) -> dict[str, Any]:
    """The content of a JSON file; nothing where there is none.

    Raises:
        ValueError: it is no JSON object.
    """
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} cannot be read ({error}): delete it") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, expected a JSON object: delete it")
    return content


def read_settings(file: Path) -> dict[str, Any]:
    """The configuration that repeats a run, from its :data:`RUN_FILE`.

    Raises:
        ValueError: it is not YAML, or holds no settings.
    """
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} holds {type(settings).__name__}, expected the settings of a run")
    return settings


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that either version of YAML takes for a number: ``1e3`` is one in 1.2 alone."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def settings_text(settings: dict[str, Any]) -> str:
    """Settings as YAML, for people and for ``--config``."""
    return yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def write_settings(file: Path, settings: dict[str, Any]) -> None:
    """What :func:`read_settings` reads, whole or not at all."""
    write_whole(file, lambda target: target.write(settings_text(settings).encode("utf-8")))


class RunRecord:
    """The facts of a run in ``record.json``; a resumed run adds to them.

    Args:
        folder: of the run; ``None`` keeps nothing.
        writes: whether this process is the one that writes.

    Raises:
        ValueError: the file of an earlier start cannot be read.

    Example:
        >>> record = RunRecord(None)
        >>> with record.stage("data"):
        ...     pass
        >>> record.facts["stages"][0]["stage"]
        'data'
    """

    def __init__(self, folder: Path | None, writes: bool = True) -> None:
        self.file = None if folder is None else folder / RECORD_FILE
        self.writes = writes
        self.facts: dict[str, Any] = {} if self.file is None else read_json(self.file)
        self._inside: list[float] = []  # for each open stage, the seconds of stages within it

    def move(self, folder: Path) -> None:
        """From here on the record of a folder: what was noted before follows what stands there."""
        stages = self.facts.get("stages", ())
        self.file = folder / RECORD_FILE
        self.facts = read_json(self.file)
        self.write(stages=[*self.facts.get("stages", ()), *stages])

    def write(self, **facts: Any) -> None:
        """Adds facts. A folder that is not there yet is not made: a run that fails early leaves nothing behind."""
        self.facts |= facts
        if self.writes and self.file is not None and self.file.parent.is_dir():
            write_json(self.file, self.facts)

    def seconds(self) -> dict[str, float]:
        """Seconds by stage; several of a kind, after an interruption, together."""
        seconds: dict[str, float] = {}
        for entry in self.facts.get("stages", ()):
            seconds[entry["stage"]] = round(seconds.get(entry["stage"], 0) + entry["seconds"], 1)
        return seconds

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Notes the wall-clock seconds of a stage, also of one that is interrupted; a stage inside counts apart."""
        begun, finished = time.perf_counter(), False
        self._inside.append(0.0)
        try:
            yield
            finished = True
        finally:
            seconds = time.perf_counter() - begun
            entry = {"stage": name, "seconds": round(seconds - self._inside.pop(), 3), "finished": finished}
            if self._inside:
                self._inside[-1] += seconds
            self.write(stages=[*self.facts.get("stages", ()), entry])
