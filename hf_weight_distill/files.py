"""Files that are whole or not there."""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """All of the file or none of it, whenever the power goes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:8]}")  # several processes may write, on any machine
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # no space left, or interrupted
        temporary.unlink(missing_ok=True)
        raise


def write_whole_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """Writes into a draft and moves it to its place, which is empty or not there: the target is whole or not there."""
    draft = place_of_draft(folder) / f".{folder.name}-{uuid.uuid4().hex[:8]}"
    draft.mkdir()
    try:
        write(draft)
        place_draft(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def place_of_draft(folder: Path) -> Path:
    """Where the draft of a folder can be renamed from: on its own disk, and where the user may write."""
    place = folder if folder.is_dir() else folder.parent
    place.mkdir(parents=True, exist_ok=True)
    return place


def place_draft(draft: Path, folder: Path) -> None:
    """A folder that is there is filled: a mount point, a link or the working directory cannot be replaced."""
    if not folder.is_dir():
        draft.replace(folder)
        return
    moved = []
    try:
        for entry in list(draft.iterdir()):
            entry.replace(folder / entry.name)
            moved.append(entry)
    except BaseException:
        for entry in moved:
            (folder / entry.name).replace(entry)
        raise
    draft.rmdir()


def check_folder(path: Path, what: str) -> None:
    """Whether a folder is there or can be made; asked before the work whose result goes there.

    Args:
        path: of the folder.
        what: the flag or argument that names it.

    Raises:
        ValueError: no.
    """
    above = next(folder for folder in (path.absolute(), *path.absolute().parents) if os.path.exists(folder))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"{what} {path}: {above} is no folder that can be written to; choose another place")


def check_file(path: Path, what: str) -> None:
    """Whether a file can be written; arguments and errors as for :func:`check_folder`."""
    if path.is_dir():
        raise ValueError(f"{what} {path}: is a folder, expected a file; add its name")
    check_folder(path.parent, what)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """JSON by :func:`write_whole`."""
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    write_whole(path, lambda file: file.write(text.encode("utf-8")))
