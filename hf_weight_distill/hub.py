"""Uploads a student to the Hub: in one commit, all of it or nothing.

```python
push_folder("runs/small/student", "me/opus-mt-en-de-small", private=True)
```
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from shlex import quote

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id
from yaml import YAMLError

from .card import TAG, readdressed

MESSAGE = "Add the student distilled with hf_weight_distill"
_LOG_IN = "log in with `hf auth login`, or give a token"
_REMEDIES = {
    401: _LOG_IN,
    403: "use a token that may write there",
    404: "check the name, and that the token may see it",
    413: "it takes no files of this size",
    429: "wait before trying again",
}


def push_folder(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
) -> str:
    """Uploads a student that `WeightDistiller.save_pretrained` wrote. Its card names the repository it goes to.

    Args:
        folder: the student's; nothing in it is changed.
        repo_id: "owner/name", or the name alone for a repository of one's own; made if it is not there.
        private: a repository that is made is private (`True`), public (`False`) or what its owner's settings say.
        token: a token for the Hub; by default the one that is logged in.
        revision: branch to commit to, made from main if it is not there.

    Returns:
        The commit's address.

    Raises:
        ValueError: before anything is sent: the folder holds no whole student, or the name can be no repository's.
        OSError: the Hub refused or could not be reached. The folder is as it was; the same call again completes the
            upload, without sending again what has arrived.

    Example:
        >>> push_folder("runs/small/student", "me/opus-mt-en-de-small", revision="v2")  # doctest: +SKIP
        'https://huggingface.co/me/opus-mt-en-de-small/commit/...'
    """
    folder = Path(folder)
    check_repo_id(repo_id)
    card = check_student(folder)
    try:
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id  # with its owner
        if private:
            _check_private(api, repo_id)
        if _branch(revision):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        card = readdressed(card, repo_id, _branch(revision))
        commit = api.create_commit(repo_id, _operations(folder, card), commit_message=MESSAGE, revision=revision)
    except Exception as error:  # of many libraries: HTTP, LFS, Xet, the operating system
        flags = f"{' --private' if private else ''}{f' --revision {quote(revision)}' if revision else ''}"
        raise OSError(
            f"cannot push to {repo_id}: {_reason(error)}. Nothing is lost: the student is whole in {folder}, and "
            f"`hf-weight-distill push {quote(str(folder))} {repo_id}{flags}` pushes it"
        ) from error
    return commit.commit_url


def check_repo_id(repo_id: str) -> None:
    """Whether a name can be a repository's.

    Raises:
        ValueError: no.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"found {repo_id!r}, expected a name on the Hub such as 'me/opus-mt-en-de-small'") from error


def check_student(folder: Path) -> ModelCard:
    """The card of a whole student.

    Args:
        folder: what is to be uploaded.

    Raises:
        ValueError: files are missing, or it is a training checkpoint, or another model than one of our students.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: name the one that the student was saved to")
    if (folder / "trainer_state.json").exists():
        raise ValueError(f"{folder} is a checkpoint of a training run: push the student, which distill wrote to --save")
    missing = [name for name in ("config.json", *_weights(folder), "README.md") if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} is not a whole student: {', '.join(missing)} missing; push what distill wrote to --save"
        )
    try:
        card = ModelCard.load(folder / "README.md")
    except YAMLError as error:
        raise ValueError(
            f"{folder / 'README.md'}: its metadata are no YAML ({' '.join(str(error).split())}): mend them"
        ) from error
    if TAG not in (card.data.tags or []):
        raise ValueError(f"{folder} holds no student: its README.md lacks the tag {TAG!r}. Is it the teacher?")
    return card


def _weights(folder: Path) -> list[str]:
    """The files that hold the weights, several where they are many."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _branch(revision: str | None) -> str | None:
    """A revision that is a branch with a name of its own; pull requests (refs/pr/1) are not."""
    return None if revision in (None, "main") or revision.startswith("refs/") else revision


def _check_private(api: HfApi, repo_id: str) -> None:
    """`create_repo` leaves a repository that exists as it is, public too."""
    if not api.model_info(repo_id).private:
        raise ValueError(
            "the repository exists and is public, so nothing was uploaded; make it private in its settings, or push "
            "to another name"
        )


def _operations(folder: Path, card: ModelCard) -> list[CommitOperationAdd]:
    """Every file that is not hidden, and the card as it is to be."""
    files: dict[str, str | bytes] = {
        path.relative_to(folder).as_posix(): str(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }
    files["README.md"] = str(card).encode()
    return [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]


def _reason(error: Exception) -> str:
    """What went wrong and what helps, on one line."""
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, Exception):
        return f"{str(error).rstrip('.')}: {_reason(error.__cause__)}"  # one file of several
    if isinstance(error, LocalTokenNotFoundError):
        return f"no token was found; {_LOG_IN}"
    if not isinstance(error, HfHubHTTPError):
        return " ".join(str(error).split()) or type(error).__name__
    status = error.response.status_code
    said = error.server_message or error.response.headers.get("X-Error-Message") or error.response.reason_phrase
    remedy = _REMEDIES.get(status, "the Hub is in trouble, try again later" if status >= 500 else "")
    return f"the Hub answered {status} ({' '.join(said.split())})" + (f"; {remedy}" if remedy else "")
