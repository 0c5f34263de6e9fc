"""``hf-weight-distill push``: uploads a student."""

import argparse

from .loading import PROGRAM

SUMMARY = "upload a student"
DESCRIPTION = f"""\
Uploads a student that distill saved, in one commit, with its card naming the repository. Training checkpoints, teachers
and folders in which something is missing are refused. After a failure the same command completes the upload.

examples:
  {PROGRAM} push runs/small/student my-name/opus-mt-en-de-small --private
  {PROGRAM} push runs/small/student my-name/opus-mt-en-de-small --revision longer-training
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("student", metavar="STUDENT_DIR", help="folder that distill saved the student to")
    parser.add_argument(
        "repo_id", metavar="REPO_ID", help="owner/name on the Hub, or the name alone; made if it is not there"
    )
    parser.add_argument("--private", action="store_true", help="a new repository is private; a public one is refused")
    parser.add_argument("--revision", help="branch to commit to; made if it is not there (default: main)")


def run(arguments: argparse.Namespace) -> None:
    from ..hub import push_folder

    options = {"private": arguments.private or None, "revision": arguments.revision}
    try:
        print(push_folder(arguments.student, arguments.repo_id, **options))
    except OSError as error:  # one line, and no traceback of the client's
        raise ValueError(str(error)) from error
