"""Students for other runtimes, each checked against the PyTorch student before it is handed over.

```python
report = export_student(student, tokenizer, "small-int8", to="ctranslate2", quantization="int8", sentences=sentences)
print(report)                       # same output, largest difference, size and speed: PyTorch, float32, int8
```

Both quantizations are always made, compared and timed: float32 shows that the conversion is right, int8 what rounding
costs and brings. The one that was asked for is written.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data import check_tokenizer, save_tokenizer
from ..evaluation import decoding_speed, environment_of
from ..families import family_of
from ..files import check_folder, place_draft, place_of_draft
from ..progress import Stage
from .base import FLOAT32, INT8, STUDENT, Format
from .parity import Agreement, compare_outputs, references
from .report import ExportReport, ExportRow

# Format -> its class, in the module of the format's name. That module imports the runtime, and the name is the extra.
FORMATS: dict[str, str] = {"ctranslate2": "CTranslate2", "onnx": "Onnx"}
TOLERANCE = 1e-3
LARGEST_LOSS = 0.5  # nats a token: the perplexity of the student's own output grows by less than 1.65 times
SENTENCES = 64
BATCH_SIZES = (1, 32)
README_FILE, REPORT_FILE = "README.md", "export.json"


class ParityError(RuntimeError):
    """The exported model is not the student."""


def export_student(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    output_dir: str | os.PathLike,
    *,
    to: str,
    quantization: str = FLOAT32,
    sentences: Sequence[str],
    prefix: str = "",
    progress: bool = False,
) -> ExportReport:
    """Converts a student, checks the result against it, times both, and writes a folder that stands on its own.

    The folder holds the model, the tokenizer, the generation settings, a README with code and figures, and the figures
    as JSON. All of it is made beside ``output_dir`` and renamed at the end. Checked and timed on the CPU.

    Args:
        student: a stock seq2seq model.
        tokenizer: the student's.
        output_dir: a new or empty folder.
        to: ``"ctranslate2"`` or ``"onnx"``.
        quantization: ``"float32"`` or ``"int8"``; this one is written.
        sentences: sources to compare and time on; the first 64 with words in them are taken.
        prefix: put before each sentence ("translate English to German: " for T5).
        progress: show on stderr what is being done.

    Returns:
        What was found. ``print`` shows it as a table.

    Raises:
        ValueError: before anything is written: an unknown name, a folder in use, a runtime that is not installed, a
            student that the format cannot hold. The message says why.
        ParityError: a ``RuntimeError``: the converted model is not the student. In float32 it gives another greedy
            output, or a difference above the tolerance of 1e-3; in int8, where that was asked for, the student's own
            output has become improbable. Nothing is left behind.

    Example:
        >>> print(export_student(model, tokenizer, "out", to="onnx", sentences=["Two dogs run."]))    # doctest: +SKIP
    """
    form, folder = _format(to), Path(output_dir)
    _check(student, tokenizer, folder, quantization, sentences)
    form.check(student, tokenizer)
    sentences = _texts(tokenizer, (prefix + sentence for sentence in sentences))
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=place_of_draft(folder)) as draft:
        trial = _Trial(form, Path(draft), _saved(student, tokenizer, Path(draft) / STUDENT), tokenizer, sentences)
        with Stage(f"export to {to}", 3, "models", enabled=progress) as stage:
            report = trial.run(quantization, stage)
        written = Path(draft) / quantization
        (written / README_FILE).write_text(trial.readme(folder.resolve().name, report), encoding="utf-8")
        (written / REPORT_FILE).write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        place_draft(written, folder)
    return report


def _texts(tokenizer: PreTrainedTokenizerBase, sentences: Iterable[str]) -> list[str]:
    """The first with words in them: of others (a zero-width space) CTranslate2 translates nothing, by its design.

    Raises:
        ValueError: there are none.
    """
    special = set(tokenizer.all_special_ids)
    texts = list(islice((s for s in sentences if set(tokenizer(s)["input_ids"]) - special), SENTENCES))
    if not texts:
        raise ValueError("found no sentence with words in it, expected at least one to compare on")
    return texts


def _format(to: str) -> Format:
    if to not in FORMATS:
        raise ValueError(f"to={to!r}, expected one of {', '.join(FORMATS)}")
    try:
        module = importlib.import_module(f".{to}", __package__)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"exporting to {to} needs {error.name}, which is not installed: pip install 'hf_weight_distill[{to}]'"
        ) from error
    return getattr(module, FORMATS[to])()


def _check(
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    quantization: str,
    sentences: Sequence[str],
) -> None:
    if quantization not in (FLOAT32, INT8):
        raise ValueError(f"quantization={quantization!r}, expected {FLOAT32} or {INT8}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"the folder {str(folder)!r} exists and is not empty: choose another, or delete it")
    check_folder(folder, "output_dir")
    family_of(student.config)
    check_tokenizer(tokenizer, student.config)


def _saved(student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> PreTrainedModel:
    """The student as its files have it, on the CPU: what is converted is what is compared with."""
    student.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    kernel = student.config._attn_implementation  # not saved, and its speed is compared
    return type(student).from_pretrained(folder, dtype=torch.float32, attn_implementation=kernel).eval()


@dataclass(frozen=True)
class _Trial:
    """An export before anyone may rely on it. ``draft`` holds the saved student and gets a folder a quantization."""

    form: Format
    draft: Path
    student: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    sentences: list[str]

    def run(self, quantization: str, stage: Stage) -> ExportReport:
        """PyTorch, float32 and int8 in turn.

        Raises:
            ParityError: float32, or int8 if that is the ``quantization`` asked for, is not the student.
        """
        stage.advance(0, note="PyTorch")
        expected = references(self.student, self.tokenizer, self.sentences)
        size = _bytes((self.draft / STUDENT).glob("*.safetensors"))
        rows = [ExportRow("PyTorch", size, self._speeds(self.student))]
        for name, refuse in ((FLOAT32, self._refuse_float32), (INT8, self._refuse_int8)):
            stage.advance(1, note=name)
            size = self._convert(name)
            exported = self.form.load(self.draft / name, self.student.config)
            agreement = compare_outputs(self.form, exported, self.student, expected, TOLERANCE)
            if name in (FLOAT32, quantization):
                refuse(agreement)
            rows.append(ExportRow(f"{self.form.name} {name}", size, self._speeds(exported), agreement))
        stage.advance(1, note="")
        environment = environment_of(self.student.device) | self.form.versions()
        return ExportReport(tuple(rows), quantization, self.form.compared, TOLERANCE, LARGEST_LOSS, environment)

    def _convert(self, quantization: str) -> int:
        """Bytes of the model's files; beside them the folder gets what else it needs."""
        target = self.draft / quantization
        target.mkdir()
        self.form.convert(self.draft, quantization)
        size = _bytes(target.iterdir())
        save_tokenizer(self.tokenizer, target)
        self.student.generation_config.save_pretrained(target)
        return size

    def _speeds(self, model: torch.nn.Module) -> dict[int, float]:
        speeds = {}
        for size in BATCH_SIZES:
            found = decoding_speed(model, self.tokenizer, self.sentences, batch_size=size, num_beams=1)
            speeds[size] = found["tokens_per_second"]
        return speeds

    def _refuse_float32(self, found: Agreement) -> None:
        if found.identical + found.ties == found.sentences and found.difference <= TOLERANCE:
            return
        hint = ""
        if found.difference <= TOLERANCE:
            hint = ": the weights are right; generation_config.json has a setting that this runtime does not know"
        raise ParityError(
            f"the {self.form.name} model is not the student: {found.identical} of {found.sentences} sentences have the "
            f"same greedy output ({found.ties} more part at a tie), and {self.form.compared} differ by up to "
            f"{found.difference:.1e}, where {TOLERANCE:g} is allowed; nothing was written{hint}"
        )

    def _refuse_int8(self, found: Agreement) -> None:
        if found.loss <= LARGEST_LOSS:
            return
        raise ParityError(
            f"int8 spoils this student: its own output becomes less probable by {found.loss:.2f} nats a token, where "
            f"{LARGEST_LOSS:g} are allowed ({found.identical} of {found.sentences} sentences have the same greedy "
            "output); nothing was written: use float32"
        )

    def readme(self, folder: str, report: ExportReport) -> str:
        """What stands in the folder, how to use it, and what was measured."""
        usage = self.form.usage(folder, self.sentences[0], self.student, self.tokenizer)
        return f"""# {folder}

A student made by hf_weight_distill, for {self.form.name} ({report.written}).

{usage}
## Checked against the PyTorch student

{report.to_markdown()}"""


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)
