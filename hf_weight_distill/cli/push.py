"""``hf-weight-distill push``: uploads a student."""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .loading import PROGRAM, users_own

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

SUMMARY = "upload a student"
DESCRIPTION = f"""\
Uploads a student that distill saved, in one commit, with its card naming the repository. Training checkpoints, teachers
and folders in which something is missing are refused.

example:
  {PROGRAM} push runs/small/student my-name/opus-mt-en-de-small --private
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("student", metavar="STUDENT_DIR", help="folder that distill saved the student to")
    parser.add_argument("repo_id", metavar="REPO_ID", help="owner/name on the Hub; made if it is not there")
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--revision", help="branch to commit to; made if it is not there (default: main)")


def run(arguments: argparse.Namespace) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    folder, repo_id = Path(arguments.student), arguments.repo_id
    card = _check_student(folder)
    files: dict[str, str | bytes] = {file.name: str(file) for file in sorted(folder.iterdir()) if file.is_file()}
    files["README.md"] = str(_renamed(card, repo_id)).encode()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
    api = HfApi()
    with users_own(f"cannot upload to {repo_id}"):
        api.create_repo(repo_id, private=arguments.private or None, exist_ok=True)
        if arguments.revision:
            api.create_branch(repo_id, branch=arguments.revision, exist_ok=True)
        message = "Add the student distilled with hf_weight_distill"
        commit = api.create_commit(repo_id, operations, commit_message=message, revision=arguments.revision)
    print(commit.commit_url)


def _check_student(folder: Path) -> "ModelCard":
    """The card of a whole student.

    Raises:
        ValueError: files are missing, or it is a training checkpoint, or another model than one of our students.
    """
    from huggingface_hub import ModelCard

    from ..card import WEIGHT_DISTILLATION

    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder: name the one that the student was saved to")
    if (folder / "trainer_state.json").exists():
        raise ValueError(f"{folder} is a checkpoint of a training run: push the student, which distill wrote to --save")
    whole = ("config.json", "model.safetensors", "README.md")
    index = folder / "model.safetensors.index.json"
    missing = [name for name in whole if not (folder / name).is_file() and not (name == whole[1] and index.is_file())]
    if missing:
        raise ValueError(
            f"{folder} is not a whole student: {', '.join(missing)} missing; push what distill wrote to --save"
        )
    card = ModelCard.load(folder / "README.md")
    if WEIGHT_DISTILLATION.tag not in (card.data.tags or []):
        tag = WEIGHT_DISTILLATION.tag
        raise ValueError(f"{folder} holds no student: its README.md lacks the tag {tag!r}. Is it the teacher?")
    return card


def _renamed(card: "ModelCard", repo_id: str) -> "ModelCard":
    """The card was written for a folder: its title and its code now name the repository."""
    title = re.search(r"^# (.+)$", card.text, flags=re.MULTILINE)
    if title:
        card.text = card.text.replace(title[0], f"# {repo_id}", 1)
        card.text = card.text.replace(f"name = {json.dumps(title[1])}", f"name = {json.dumps(repo_id)}", 1)
    if card.data.eval_results:
        card.data.model_name = repo_id.rpartition("/")[2]
    return card
