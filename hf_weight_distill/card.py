"""The model card of a student: what it is, where it comes from, how to run it, how good it is and how it was made.

```python
info = CardInfo(
    model_name="me/opus-mt-en-de-small",
    teacher_name="Helsinki-NLP/opus-mt-en-de",
    license="cc-by-4.0",
    languages=("en", "de"),
    shape=shape_table(teacher.config, student.config),
    comparison=compare(teacher, student, tokenizer, sources, references),
)
write_card("student", info)
```
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id, yaml_dump

if TYPE_CHECKING:
    from hf_weight_distill.evaluation import Comparison, ComparisonRow

TASKS = ("translation", "summarization")
METRIC_NAMES = {
    "bleu": "BLEU",
    "chrf": "chrF2",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
}
# The same fact has one attribute in BART-like configs and another in T5's.
_SHAPE_ATTRIBUTES = {
    "encoder layers": ("encoder_layers", "num_layers"),
    "decoder layers": ("decoder_layers", "num_decoder_layers"),
    "model width": ("d_model",),
    "encoder FFN width": ("encoder_ffn_dim", "d_ff"),
    "decoder FFN width": ("decoder_ffn_dim", "d_ff"),
    "encoder heads": ("encoder_attention_heads", "num_heads"),
    "decoder heads": ("decoder_attention_heads", "num_heads"),
    "vocabulary": ("vocab_size",),
}


@dataclass(frozen=True)
class Component:
    """A published method that went into a student.

    Args:
        name: its name; the tag is made from it.
        title: title of the paper.
        paper_url: where the paper can be read.
        bibtex: its BibTeX entry.
    """

    name: str
    title: str
    paper_url: str
    bibtex: str

    @property
    def tag(self) -> str:
        """The name in the form of the Hub's tags: lower case with dashes."""
        return self.name.lower().replace(" ", "-")


WEIGHT_DISTILLATION = Component(
    name="weight distillation",
    title="Weight Distillation: Transferring the Knowledge in Neural Network Parameters",
    paper_url="https://arxiv.org/abs/2009.09152",
    bibtex="""@inproceedings{lin-etal-2021-weight,
  title = {Weight Distillation: Transferring the Knowledge in Neural Network Parameters},
  author = {Lin, Ye and Li, Yanyang and Wang, Ziyang and Li, Bei and Du, Quan and Xiao, Tong and Zhu, Jingbo},
  booktitle = {Proceedings of the 59th Annual Meeting of the Association for Computational Linguistics},
  year = {2021},
  url = {https://arxiv.org/abs/2009.09152}
}""",
)

SEQUENCE_LEVEL_KD = Component(
    name="sequence-level knowledge distillation",
    title="Sequence-Level Knowledge Distillation",
    paper_url="https://arxiv.org/abs/1606.07947",
    bibtex="""@inproceedings{kim-rush-2016-sequence,
  title = {Sequence-Level Knowledge Distillation},
  author = {Kim, Yoon and Rush, Alexander M.},
  booktitle = {Proceedings of the 2016 Conference on Empirical Methods in Natural Language Processing},
  year = {2016},
  url = {https://arxiv.org/abs/1606.07947}
}""",
)


TOKEN_LEVEL_KD = Component(
    name="knowledge distillation",
    title="Distilling the Knowledge in a Neural Network",
    paper_url="https://arxiv.org/abs/1503.02531",
    bibtex="""@article{hinton-etal-2015-distilling,
  title = {Distilling the Knowledge in a Neural Network},
  author = {Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff},
  journal = {arXiv:1503.02531},
  year = {2015},
  url = {https://arxiv.org/abs/1503.02531}
}""",
)

OPDF = Component(
    name="over-parameterized distillation framework",
    title="Over-parameterized Student Model via Tensor Decomposition Boosted Knowledge Distillation",
    paper_url="https://arxiv.org/abs/2411.06448",
    bibtex="""@article{arxiv-2411-06448,
  title = {Over-parameterized Student Model via Tensor Decomposition Boosted Knowledge Distillation},
  journal = {arXiv:2411.06448},
  year = {2024},
  url = {https://arxiv.org/abs/2411.06448}
}""",
)

SELF_DISTILLED_PRUNING = Component(
    name="self-distilled pruning",
    title="Deep Neural Compression Via Concurrent Pruning and Self-Distillation",
    paper_url="https://arxiv.org/abs/2109.15014",
    bibtex="""@article{arxiv-2109-15014,
  title = {Deep Neural Compression Via Concurrent Pruning and Self-Distillation},
  author = {O'Neill, James and Dutta, Sourav and Assem, Haytham},
  journal = {arXiv:2109.15014},
  year = {2021},
  url = {https://arxiv.org/abs/2109.15014}
}""",
)

# Sources, objectives and schedules name their paper by its address; here is what the card says of it.
PAPERS = {
    paper.paper_url: paper
    for paper in (WEIGHT_DISTILLATION, SEQUENCE_LEVEL_KD, TOKEN_LEVEL_KD, OPDF, SELF_DISTILLED_PRUNING)
}


@dataclass(frozen=True)
class CardInfo:
    """Everything a card says. What is not known stays at its default, and the card says so or leaves it out.

    Args:
        model_name: the repository of the student, "owner/name"; the code on the card loads it.
        teacher_name: the teacher's repository. The name of a local folder is shown without its path and stays out of
            the metadata, where only repositories may stand.
        teacher_revision: commit of the teacher's repository.
        license: the Hub's identifier, "cc-by-4.0". A student's weights are derived from the teacher's: give the
            teacher's licence.
        languages: ISO 639 codes, ("en", "de").
        task: "translation" or "summarization".
        shape: `{what: (teacher, student)}`; see `shape_table`.
        recipe: name of the recipe.
        training: all settings of the training, plain values nested at will; printed as YAML.
        components: the published methods that went into the student.
        comparison: what `evaluation.compare` measured.
        dataset: the training data, a repository's name or a description.
        eval_dataset: the data that `comparison` was measured on; by default `dataset`.
        eval_split: its split.
        example: a source text for the code, with its prefix if the model wants one.
        src_lang, tgt_lang: language codes that the tokenizer wants (NLLB, mBART).
        intended_use, limits: paragraphs put behind the general ones.
        tags: further tags.

    Raises:
        ValueError: an unknown task.
    """

    model_name: str
    teacher_name: str
    teacher_revision: str | None = None
    license: str | None = None
    languages: tuple[str, ...] = ()
    task: str = "translation"
    shape: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    recipe: str = "default"
    training: Mapping[str, Any] = field(default_factory=dict)
    components: tuple[Component, ...] = (WEIGHT_DISTILLATION,)
    comparison: Comparison | None = None
    dataset: str | None = None
    eval_dataset: str | None = None
    eval_split: str | None = "test"
    example: str = "Two dogs run across the meadow."
    src_lang: str | None = None
    tgt_lang: str | None = None
    intended_use: str = ""
    limits: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"found task={self.task!r}, expected one of {', '.join(TASKS)}")

    @property
    def measured_on(self) -> str | None:
        """The data set of the scores."""
        return self.eval_dataset or self.dataset


def shape_table(teacher_config, student_config) -> dict[str, tuple[Any, Any]]:
    """Depth, widths, heads and vocabulary of two configs, for `CardInfo.shape`.

    Args:
        teacher_config, student_config: configs of one family, BART-like (Marian, mBART, NLLB) or T5-like.

    Returns:
        `{what: (teacher, student)}`; what a config does not have is left out.

    Example:
        >>> shape_table(teacher.config, student.config)["decoder layers"]  # doctest: +SKIP
        (6, 2)
    """
    table = {}
    for what, names in _SHAPE_ATTRIBUTES.items():
        name = next((name for name in names if hasattr(teacher_config, name) and hasattr(student_config, name)), None)
        if name is not None:
            table[what] = (getattr(teacher_config, name), getattr(student_config, name))
    return table


# --------------------------------------------------------------------------------------------------------- metadata


def _is_local(name: str) -> bool:
    """Whether a name is a path. A folder that exists here is one, even if a repository might be called so."""
    return os.path.exists(name) or name.startswith(("/", ".", "~"))


def _is_model(name: str) -> bool:
    """Whether a name can be a model's repository on the Hub: "owner/name", or an old name such as "t5-small"."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not _is_local(name)


def _is_dataset(name: str | None) -> bool:
    """Whether a name can be a data set's repository. Without an owner it is taken for a description ("Multi30k")."""
    return name is not None and "/" in name and _is_model(name)


def _without_path(name: str) -> str:
    """A local folder's own name: the path to it is nobody's business."""
    return Path(name).name if _is_local(name) else name


def _model_link(name: str) -> str:
    return f"[{name}](https://huggingface.co/{name})" if _is_model(name) else f"`{_without_path(name)}`"


def _dataset_link(name: str) -> str:
    return f"[{name}](https://huggingface.co/datasets/{name})" if _is_dataset(name) else _without_path(name)


def _score_rows(comparison: Comparison | None) -> list[ComparisonRow]:
    return [row for row in comparison.rows if row.quantity in METRIC_NAMES] if comparison else []


def _metric_family(quantity: str) -> str:
    return "rouge" if quantity.startswith("rouge") else quantity


def _search_name(num_beams: int | None) -> str:
    return "greedy" if num_beams in (None, 1) else f"beam {num_beams}"


def _eval_results(info: CardInfo) -> list[EvalResult]:
    """The student's scores for the Hub's model index; the teacher's belong to the teacher's own card."""
    results = []
    for row in _score_rows(info.comparison):
        signature = info.comparison.signatures.get(row.quantity)
        arguments = {"num_beams": row.num_beams, "signature": signature}
        data = info.measured_on
        results.append(
            EvalResult(
                task_type=info.task,
                task_name=info.task.capitalize(),
                dataset_type=data if _is_dataset(data) else "custom",
                dataset_name=_without_path(data) if data else "unnamed",
                dataset_split=info.eval_split,
                metric_type=_metric_family(row.quantity),
                metric_name=f"{METRIC_NAMES[row.quantity]} ({_search_name(row.num_beams)})",
                metric_value=round(row.student, 2),
                metric_args={key: value for key, value in arguments.items() if value is not None},
            )
        )
    return results


def _metadata(info: CardInfo) -> ModelCardData:
    from_hub = _is_model(info.teacher_name)
    rows = _score_rows(info.comparison)
    results = _eval_results(info)
    return ModelCardData(
        language=list(info.languages) or None,
        license=info.license,
        library_name="transformers",
        pipeline_tag=info.task,
        base_model=info.teacher_name if from_hub else None,
        # The Hub knows adapter, merge, quantized and finetune. New weights trained from the teacher's are a finetune.
        base_model_relation="finetune" if from_hub else None,
        datasets=[info.dataset] if _is_dataset(info.dataset) else None,
        metrics=list(dict.fromkeys(_metric_family(row.quantity) for row in rows)) or None,
        tags=["distillation", *(component.tag for component in info.components), *info.tags],
        model_name=info.model_name.split("/")[-1] if results else None,
        eval_results=results or None,
    )


# ------------------------------------------------------------------------------------------------------------- text


def _table(headings: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    def line(cells: tuple[Any, ...]) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(headings), "|---" + "|---:" * (len(headings) - 1) + "|", *map(line, rows)])


def _introduction(info: CardInfo) -> str:
    methods = ", ".join(f"[{component.name}]({component.paper_url})" for component in info.components)
    revision = f" (revision `{info.teacher_revision}`)" if info.teacher_revision else ""
    languages = f" Languages: {', '.join(info.languages)}." if info.languages else ""
    made_by = f", by {methods}" if methods else ""
    return (
        f"A small {info.task} model, distilled from {_model_link(info.teacher_name)}{revision}{made_by}. It is an "
        f"ordinary Transformers checkpoint: no other package is needed to run it.{languages}"
    )


def _license(info: CardInfo) -> str:
    if info.license is None:
        return (
            "The weights are derived from the teacher's, whose licence was not given when this card was written: "
            "look it up before using this model."
        )
    return f"`{info.license}`, inherited from the teacher, whose weights this model's are derived from."


def _code(info: CardInfo) -> str:
    source = f", src_lang={info.src_lang!r}" if info.src_lang else ""
    target = f", forced_bos_token_id=tokenizer.convert_tokens_to_ids({info.tgt_lang!r})" if info.tgt_lang else ""
    # JSON quotes a string in a way that Python reads as well, whatever stands in it.
    name, example = (json.dumps(text, ensure_ascii=False) for text in (info.model_name, info.example))
    return f"""```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

name = {name}
tokenizer = AutoTokenizer.from_pretrained(name{source})
model = AutoModelForSeq2SeqLM.from_pretrained(name)

batch = tokenizer([{example}], return_tensors="pt", padding=True, truncation=True)
output = model.generate(**batch, max_new_tokens=128{target})
print(tokenizer.batch_decode(output, skip_special_tokens=True))
```"""


def _scores(info: CardInfo) -> str:
    rows = _score_rows(info.comparison)
    if not rows:
        return "No scores were measured for this card."
    table = [
        (METRIC_NAMES[row.quantity], _search_name(row.num_beams), f"{row.teacher:.2f}", f"{row.student:.2f}")
        for row in rows
    ]
    data = info.measured_on
    split = f", split `{info.eval_split}`" if data and info.eval_split else ""
    source = f"{_dataset_link(data)}{split}" if data else "a data set that was not named"
    signatures = [
        f"- sacreBLEU signature of {METRIC_NAMES.get(name, name)}: `{signature}`"
        for name, signature in info.comparison.signatures.items()
    ]
    return "\n\n".join(
        part
        for part in (
            f"Measured on {info.comparison.sentences:,} sentences of {source}.",
            _table(("metric", "search", "teacher", "student"), table),
            "\n".join(signatures),
        )
        if part
    )


def _size_and_speed(info: CardInfo) -> str:
    if info.comparison is None:
        return ""
    cells = [
        cell
        for row, cell in zip(info.comparison.rows, info.comparison.cells(), strict=True)
        if row.quantity not in METRIC_NAMES
    ]
    environment = ", ".join(f"{key} {value}" for key, value in info.comparison.environment.items())
    note = (
        f"Speeds hold for this machine alone ({environment}; {info.comparison.speed_sentences} sentences, the median "
        "of repeated passes of `generate`). Parameters count tied weights once; bytes are those of the safetensors "
        "files."
    )
    return f"{_table(('', 'teacher', 'student', 'student / teacher'), cells)}\n\n{note}"


def _recipe(info: CardInfo) -> str:
    # Through JSON: tuples, paths and enums become what YAML has words for.
    settings = json.loads(json.dumps({"recipe": info.recipe, **info.training}, default=str))
    data = f"Training data: {_dataset_link(info.dataset)}.\n\n" if info.dataset else ""
    return f"{data}```yaml\n{yaml_dump(settings, sort_keys=False).strip()}\n```"


def _use(info: CardInfo) -> str:
    general = (
        f"{info.task.capitalize()} of text like that of the training data, where the teacher is too slow or too large."
    )
    return "\n\n".join(part for part in (general, info.intended_use) if part)


def _limits(info: CardInfo) -> str:
    general = (
        "The student inherits the teacher's errors and biases, and with fewer parameters it adds its own; look for "
        "them first in long sentences, rare words and domains that the training data does not cover. Scores of other "
        "data say little about yours. Do not use its output unchecked where an error can do harm."
    )
    return "\n\n".join(part for part in (general, info.limits) if part)


def _citations(info: CardInfo) -> str:
    return "\n\n".join(
        f"{component.name.capitalize()}: [{component.title}]({component.paper_url})\n\n"
        f"```bibtex\n{component.bibtex}\n```"
        for component in info.components
    )


def build_card(info: CardInfo) -> ModelCard:
    """The model card of a student as an object; nothing is written.

    Args:
        info: what the card says.

    Returns:
        A `huggingface_hub.ModelCard`: metadata in `.data`, text in `.text`, both in `str(card)`.

    Example:
        >>> build_card(CardInfo("me/small", "Helsinki-NLP/opus-mt-en-de")).data.base_model
        'Helsinki-NLP/opus-mt-en-de'
    """
    shape = [(what, *values) for what, values in info.shape.items()]
    sections = {
        "Shape": _table(("", "teacher", "student"), shape) if shape else "",
        "How to use it": _code(info),
        "Scores": _scores(info),
        "Size and speed": _size_and_speed(info),
        "Training": _recipe(info),
        "Intended use": _use(info),
        "Limits": _limits(info),
        "Licence": _license(info),
        "Citation": _citations(info),
    }
    body = "\n\n".join(f"## {heading}\n\n{text}" for heading, text in sections.items() if text)
    header = f"---\n{_metadata(info).to_yaml()}\n---\n\n"
    return ModelCard(f"{header}# {info.model_name}\n\n{_introduction(info)}\n\n{body}\n")


def write_card(folder: str | os.PathLike | None, info: CardInfo) -> ModelCard:
    """Build the card and write it as `README.md` beside the student, where `upload_folder` takes it along.

    Args:
        folder: the student's folder, made if missing; None writes nothing.
        info: what the card says.

    Returns:
        The card. An existing `README.md` is replaced.

    Example:
        >>> write_card("student", CardInfo("me/small", "Helsinki-NLP/opus-mt-en-de"))  # doctest: +SKIP
    """
    card = build_card(info)
    if folder is not None:
        card.save(Path(folder) / "README.md")
    return card
