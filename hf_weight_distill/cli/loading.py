"""Teachers, tokenizers and data by the names that the user gave, and what is said meanwhile."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .job import Job

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from ..distiller import WeightDistiller

PROGRAM = "hf-weight-distill"
USUAL_SPLITS = {"train": "train", "eval": "validation", "test": "test", "data": "test"}


def say(text: str) -> None:
    """For the person who waits; results go to stdout."""
    print(text, file=sys.stderr, flush=True)


def _not_about_images(record: logging.LogRecord) -> bool:
    return "torchvision" not in record.getMessage()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Our own warnings as one line; none about packages that nobody needs here, and no bars of what takes no time."""
    import datasets
    from transformers.utils import logging as transformers_logging

    shown: set[str] = set()  # settings are checked before the data are read, and again by the distiller

    def show(message: Any, *_: Any, **__: Any) -> None:
        if str(message) not in shown:
            shown.add(str(message))
            say(f"{PROGRAM}: warning: {message}")

    imports = logging.getLogger("transformers.utils.import_utils")
    bars = transformers_logging.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.showwarning = show
        warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
        warnings.filterwarnings("ignore", message="'pin_memory' argument is set as true")
        imports.addFilter(_not_about_images)
        transformers_logging.disable_progress_bar()
        datasets.disable_progress_bars()
        try:
            yield
        finally:
            imports.removeFilter(_not_about_images)
            if bars[0]:
                transformers_logging.enable_progress_bar()
            if not bars[1]:
                datasets.enable_progress_bars()


@contextlib.contextmanager
def users_own(what: str) -> Iterator[None]:
    """What the operating system, the Hub or ``datasets`` say about a name that the user gave is the user's to mend."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, DatasetsError) as error:
        text = str(error.__cause__ or error) if isinstance(error, DatasetsError) else str(error)
        raise ValueError(f"{what}: {text}") from error


def load_model(name: str, revision: str | None = None) -> "PreTrainedModel":
    import torch

    from ..adapters import load_teacher

    with users_own(name):
        # on a CPU plain attention trains small models about twice as fast in bf16 as the fused kernel
        kernel = None if torch.cuda.is_available() else "eager"
        return load_teacher(name, revision=revision or "main", attn_implementation=kernel).eval()


def place(model: "PreTrainedModel", device: str | None) -> "PreTrainedModel":
    """Moves a model to the device that the user named, by default to a GPU, if there is one."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from error


def load_distiller(job: Job) -> "WeightDistiller":
    from ..adapters import load_tokenizer
    from ..distiller import WeightDistiller
    from ..languages import set_languages

    teacher = load_model(job.teacher, job.teacher_revision)
    with users_own(job.teacher):
        tokenizer = load_tokenizer(job.teacher, revision=job.teacher_revision or "main")
    set_languages(tokenizer, teacher, job.data.get("src_lang"), job.data.get("tgt_lang"))
    distiller = WeightDistiller(teacher, tokenizer, student=job.student, recipe=job.recipe, config=job.config)
    if job.teacher_identity is not None and job.teacher_identity != distiller.teacher_identity():
        warnings.warn(
            f"the run of the --config file had a teacher with other weights or generation settings than {job.teacher} "
            "has, and its student will not be repeated: were they changed in memory, then save that teacher with "
            "save_pretrained and name its folder",
            stacklevel=2,
        )
    return distiller


def load_pairs(flag: str, data: str, split: str | None, columns: dict[str, str]) -> "Dataset":
    from ..data import load_pairs

    with users_own(f"--{flag} {data}"):
        pairs = load_pairs(data, split, default_split=USUAL_SPLITS[flag], **columns)
    say(f"{flag}: {len(pairs):,} pairs from {data}")
    return pairs
