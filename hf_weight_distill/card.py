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
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id, yaml_dump
from yaml import YAMLError

if TYPE_CHECKING:
    from hf_weight_distill.evaluation import Comparison, ComparisonRow

TASKS = ("translation", "summarization")
TAG = "hf-weight-distill"  # on every card that is written here
LONGEST = 128  # tokens of an output, where neither the model nor its training says
BUILT_IN = "built-in"  # what the data module calls the generated corpus
METRIC_NAMES = {
    "bleu": "BLEU",
    "chrf": "chrF",
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
    "head size": ("d_kv",),
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
    bibtex="""@inproceedings{zhan-etal-2024-over,
  title = {Over-parameterized Student Model via Tensor Decomposition Boosted Knowledge Distillation},
  author = {Zhan, Yu-Liang and Lu, Zhong-Yi and Sun, Hao and Gao, Ze-Feng},
  booktitle = {Advances in Neural Information Processing Systems},
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

LORA = Component(
    name="low-rank adaptation",
    title="LoRA: Low-Rank Adaptation of Large Language Models",
    paper_url="https://arxiv.org/abs/2106.09685",
    bibtex="""@inproceedings{hu-etal-2022-lora,
  title = {{LoRA}: Low-Rank Adaptation of Large Language Models},
  author = {Hu, Edward J. and Shen, Yelong and Wallis, Phillip and Allen-Zhu, Zeyuan and Li, Yuanzhi and Wang, Shean
            and Wang, Lu and Chen, Weizhu},
  booktitle = {International Conference on Learning Representations},
  year = {2022},
  url = {https://arxiv.org/abs/2106.09685}
}""",
)

# Sources, objectives and schedules name their paper by its address; here is what the card says of it.
PAPERS = {
    paper.paper_url: paper
    for paper in (WEIGHT_DISTILLATION, SEQUENCE_LEVEL_KD, TOKEN_LEVEL_KD, OPDF, SELF_DISTILLED_PRUNING, LORA)
}


@dataclass(frozen=True)
class CardInfo:
    """Everything a card says. What is not known stays at its default, and the card says so or leaves it out.

    Args:
        model_name: the repository of the student, "owner/name"; the code on the card loads it.
        teacher_name: the teacher's repository. The name of a local folder is shown without its path and stays out of
            the metadata, where only repositories may stand.
        teacher_revision: commit of the teacher's repository.
        teacher_bases: what the teacher was made from itself: the base of an adapter or of a fine-tuned folder.
        teacher_adapter: kind of the adapter that was merged into the teacher, "LORA".
        teacher_license: what the teacher's own card says; see `inherited_fields`.
        license: the Hub's identifier, "cc-by-4.0"; by default `teacher_license`, because a student's weights are
            derived from the teacher's.
        license_name, license_link: with the licence "other".
        languages: ISO 639 codes, ("en", "de").
        task: "translation" or "summarization".
        shape: `{what: (teacher, student)}`; see `shape_table`.
        recipe: name of the recipe.
        training: all settings of the training, plain values nested at will; printed as YAML.
        trained: whether it was trained at all; if not, its weights are a start, and the card says so.
        method: how the weights came about, words to follow "Made with `hf_weight_distill`".
        components: the published methods that went into the student.
        comparison: what `evaluation.compare` measured.
        dataset: the training data, a repository's name, with a configuration as "owner/name:config", or a description.
        dataset_split: its split, or a slice of it, where it is not the whole training split.
        eval_dataset: the data that `comparison` was measured on; where only `eval_split` is given, `dataset`.
        eval_split: its split.
        example: a source text for the code, with its prefix if the model wants one.
        src_lang: the language code that the tokenizer wants (NLLB, mBART, M2M100).
        tgt_lang: the code whose token `generation_config.json` makes the first one.
        max_lengths: longest source and target of the training, tokens.
        bounded: whether `generation_config.json` says how long an output may be.
        intended_use, limits: paragraphs put behind the general ones.
        tags: further tags.

    Raises:
        ValueError: an unknown task.

    Warns:
        UserWarning: the licence is not the one on the teacher's card.
    """

    model_name: str
    teacher_name: str
    teacher_revision: str | None = None
    teacher_bases: tuple[str, ...] = ()
    teacher_adapter: str | None = None
    teacher_license: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    languages: tuple[str, ...] = ()
    task: str = "translation"
    shape: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    recipe: str = "default"
    training: Mapping[str, Any] = field(default_factory=dict)
    trained: bool = True
    method: str = ""
    components: tuple[Component, ...] = (WEIGHT_DISTILLATION,)
    comparison: Comparison | None = None
    dataset: str | None = None
    dataset_split: str | None = None
    eval_dataset: str | None = None
    eval_split: str | None = None
    example: str = "Two dogs run across the meadow."
    src_lang: str | None = None
    tgt_lang: str | None = None
    max_lengths: tuple[int, int] | None = None
    bounded: bool = False
    intended_use: str = ""
    limits: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"found task={self.task!r}, expected one of {', '.join(TASKS)}")
        for name in ("languages", "tags", "teacher_bases"):
            if isinstance(getattr(self, name), str):  # one is not a sequence of letters
                object.__setattr__(self, name, (getattr(self, name),))
        if self.license is None:
            object.__setattr__(self, "license", self.teacher_license)
        elif self.teacher_license not in (None, self.license):
            warnings.warn(
                f"license={self.license!r}, but the card of the teacher, from whose weights the student is made, says "
                f"{self.teacher_license!r}: make sure that its terms allow this",
                stacklevel=3,
            )

    @property
    def measured_on(self) -> str | None:
        """The data set of the scores."""
        return self.eval_dataset or (self.dataset if self.eval_split else None)


def inherited_fields(teacher: str, revision: str | None = None) -> dict[str, Any]:
    """What a student takes over from its teacher's own card.

    Args:
        teacher: a folder with a `README.md`, or a repository, whose card is asked of the Hub (or of its cache).
        revision: of the repository.

    Returns:
        `teacher_license`, `license_name`, `license_link` and `languages` for `CardInfo`, and `teacher_bases` of a
        folder (the Hub knows those of a repository). What cannot be had is left out: a card that is missing, or the
        Hub out of reach, is no reason to lose a student.
    """
    folder = os.path.isdir(teacher)
    if not folder and not _is_model(teacher):
        return {}
    try:
        path = Path(teacher) / "README.md" if folder else hf_hub_download(teacher, "README.md", revision=revision)
        data = ModelCard.load(path, ignore_metadata_errors=True).data
    except (OSError, ValueError, YAMLError):
        return {}
    bases = _texts(data.get("base_model")) if folder else ()
    link = data.get("license_link")
    if isinstance(link, str) and "://" not in link:  # a file beside the teacher's card
        link = None if folder else f"https://huggingface.co/{teacher}/blob/main/{link}"
    known = {
        "teacher_license": data.get("license"),
        "license_name": data.get("license_name"),
        "license_link": link,
        "languages": _languages(data.get("language")),
        "teacher_bases": tuple(base for base in bases if _is_model(base)),
    }
    # A list of licences is nothing to pass on.
    return {name: value for name, value in known.items() if value and isinstance(value, str | tuple)}


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(text for text in _listed(value) if isinstance(text, str))


def language_of(code: str) -> str:
    """The language alone, where a code names a script or a country as well: ``deu_Latn``, ``de_DE``."""
    return code.partition("_")[0]


def _languages(value: Any) -> tuple[str, ...]:
    """YAML reads Norwegian, ``no``, as a truth value."""
    return _texts(["no" if code is False else code for code in _listed(value)])


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


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


def speed_quantity(shape: Mapping[str, Sequence[Any]]) -> str:
    """Which speed of a comparison can be compared: tokens of a trimmed vocabulary are shorter than the teacher's.

    Args:
        shape: of `shape_table`.
    """
    return "sentences_per_second" if len(set(shape.get("vocabulary", ()))) > 1 else "tokens_per_second"


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


def _dataset_parts(name: str | None) -> tuple[str, str | None] | None:
    """Repository and configuration of a data set. A lone name without them is taken for a description ("Multi30k")."""
    if name is None or _is_local(name):
        return None
    repository, _, config = name.partition(":")
    named = "/" in repository or re.fullmatch(r"[\w.-]+", config) is not None
    return (repository, config or None) if named and _is_model(repository) else None


def _without_path(name: str) -> str:
    """A local folder's own name: the path to it is nobody's business."""
    return (Path(name).name or name) if _is_local(name) else name


def without_paths(value: Any) -> Any:
    """Settings, nested at will, with local files and folders by their own names."""
    if isinstance(value, Mapping):
        return {name: without_paths(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(item) for item in value]
    return _without_path(value) if isinstance(value, str) else value


def _model_link(name: str) -> str:
    return f"[{name}](https://huggingface.co/{name})" if _is_model(name) else f"`{_without_path(name)}`"


def _dataset_name(name: str) -> str:
    return "generated English-German sentences of hf_weight_distill" if name == BUILT_IN else _without_path(name)


def _dataset_words(name: str, split: str | None) -> str:
    return f"{_dataset_link(name)}, split `{split}`" if split else _dataset_link(name)


def _dataset_link(name: str) -> str:
    parts = _dataset_parts(name)
    if parts is None:
        return _dataset_name(name)
    repository, config = parts
    link = f"[{repository}](https://huggingface.co/datasets/{repository})"
    return f"{link}, configuration `{config}`" if config else link


def _score_rows(comparison: Comparison | None) -> list[ComparisonRow]:
    return [row for row in comparison.rows if row.quantity in METRIC_NAMES] if comparison else []


def _metric_family(quantity: str) -> str:
    return "rouge" if quantity.startswith("rouge") else quantity


def _eval_results(info: CardInfo) -> list[EvalResult]:
    """The student's scores for the Hub's model index; the teacher's belong to the teacher's own card."""
    results = []
    for row in _score_rows(info.comparison):
        signature = info.comparison.signatures.get(row.quantity)
        arguments = {"num_beams": row.num_beams, "signature": signature}
        data = info.measured_on
        repository, config = _dataset_parts(data) or ("custom", None)
        results.append(
            EvalResult(
                task_type=info.task,
                task_name=info.task.capitalize(),
                dataset_type=repository,
                dataset_name=_dataset_name(data) if data else "unnamed",
                dataset_config=config,
                dataset_split=info.eval_split,
                metric_type=_metric_family(row.quantity),
                metric_name=f"{METRIC_NAMES[row.quantity]} ({row.setting})",
                metric_value=round(row.student, 2),
                metric_args={key: value for key, value in arguments.items() if value is not None},
            )
        )
    return results


def _metadata(info: CardInfo) -> ModelCardData:
    bases = [name for name in dict.fromkeys((info.teacher_name, *info.teacher_bases)) if _is_model(name)]
    data = _dataset_parts(info.dataset)
    rows = _score_rows(info.comparison)
    results = _eval_results(info)
    own_license = {"license_name": info.license_name, "license_link": info.license_link}
    return ModelCardData(
        language=list(info.languages) or None,
        license=info.license,
        **(own_license if info.license == "other" else {}),
        library_name="transformers",
        pipeline_tag=info.task,
        base_model=(bases[0] if len(bases) == 1 else bases) or None,
        # The Hub knows adapter, merge, quantized and finetune. New weights trained from the teacher's are a finetune.
        base_model_relation="finetune" if bases else None,
        datasets=[data[0]] if data else None,
        metrics=list(dict.fromkeys(_metric_family(row.quantity) for row in rows)) or None,
        tags=list(dict.fromkeys(["distillation", TAG, *(part.tag for part in info.components), *info.tags])),
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
    languages = f" Languages: {', '.join(info.languages)}." if info.languages else ""
    made_by = f", by {methods}" if methods else ""
    made = "distilled" if info.trained else "made without training"
    return (
        f"A small {info.task} model, {made} from {_teacher(info)}{made_by}. It is an ordinary Transformers "
        f"checkpoint: no other package is needed to run it.{languages}{_headline(info)}"
    )


def _teacher(info: CardInfo) -> str:
    """The teacher with what it was made from."""
    revision = f" (revision `{info.teacher_revision}`)" if info.teacher_revision else ""
    name = f"{_model_link(info.teacher_name)}{revision}"
    bases = " and ".join(_model_link(base) for base in info.teacher_bases)
    if info.teacher_adapter is None:
        return f"{name}, which was made from {bases}" if bases else name
    if not bases:
        return f"{name} with a {info.teacher_adapter} adapter merged into it"
    return f"{name}, a {info.teacher_adapter} adapter of {bases}"


def _headline(info: CardInfo) -> str:
    """Size and speed in one sentence."""
    rows = {row.quantity: row for row in reversed(info.comparison.rows)} if info.comparison else {}
    counted = speed_quantity(info.shape)
    size, speed = rows.get("parameters"), rows.get(counted)
    parts = []
    if size is not None and size.ratio is not None:
        parts.append(f"has {size.student:,.0f} parameters ({size.ratio:.2f} times the teacher's)")
    if speed is not None and speed.ratio is not None:
        what = counted.replace("_", " ")
        parts.append(f"generates {speed.ratio:.2f} times as many {what} ({speed.setting})")
    return f" It {' and '.join(parts)}." if parts else ""


def _license(info: CardInfo) -> str:
    if info.license is None:
        return (
            "The weights are derived from the teacher's, whose licence was not given when this card was written: "
            "look it up before using this model."
        )
    name = f"[{info.license_name or info.license}]({info.license_link})" if info.license_link else f"`{info.license}`"
    if info.teacher_license == info.license:
        return f"{name}, inherited from the teacher, whose weights this model's are derived from."
    says = f", whose card says `{info.teacher_license}`" if info.teacher_license else ""
    return f"{name}. The weights are derived from the teacher's{says}: its terms hold, too."


def _quoted(text: str) -> str:
    """JSON quotes a string in a way that Python reads as well, whatever stands in it."""
    return json.dumps(text, ensure_ascii=False)


def _code(info: CardInfo) -> str:
    source = f", src_lang={info.src_lang!r}" if info.src_lang else ""
    target = (
        f"\n\nIt writes `{info.tgt_lang}`, whose token `generation_config.json` puts first." if info.tgt_lang else ""
    )
    name, example = _quoted(info.model_name), _quoted(info.example)
    longest = max(LONGEST, 1 + (info.max_lengths[1] if info.max_lengths else 0))
    bound = "" if info.bounded else f", max_length={longest}"
    return f"""```bash
pip install torch transformers sentencepiece protobuf
```

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

name = {name}
tokenizer = AutoTokenizer.from_pretrained(name{source})
model = AutoModelForSeq2SeqLM.from_pretrained(name)

batch = tokenizer([{example}], return_tensors="pt", padding=True, truncation=True)
output = model.generate(**batch{bound})
print(tokenizer.batch_decode(output, skip_special_tokens=True))
```{target}"""


def _scores(info: CardInfo) -> str:
    rows = _score_rows(info.comparison)
    if not rows:
        return "No scores were measured for this card."
    table = [(METRIC_NAMES[row.quantity], row.setting, f"{row.teacher:.2f}", f"{row.student:.2f}") for row in rows]
    data = info.measured_on
    source = _dataset_words(data, info.eval_split) if data else "a data set that was not named"
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
        "of repeated passes of `generate`). Parameters count tied weights once; bytes are those of safetensors files "
        "in the precision that was loaded, float32 unless said otherwise."
    )
    if speed_quantity(info.shape) != "tokens_per_second":
        note += " The vocabularies differ, and with them what a token is: compare sentences/s."
    return f"{_table(('', 'teacher', 'student', 'student / teacher'), cells)}\n\n{note}"


def _recipe(info: CardInfo) -> str:
    # Through JSON: tuples, paths and enums become what YAML has words for.
    settings = json.loads(json.dumps({"recipe": info.recipe, **info.training}, default=str))
    data = ""
    if info.dataset:
        words = _dataset_words(info.dataset, info.dataset_split)
        data = f"{'Training data' if info.trained else 'Data'}: {words}.\n\n"
    method = f"Made with `hf_weight_distill`{info.method}."
    no_effect = "" if info.trained else ", of which those of a training had no effect"
    return f"{data}{method} All settings{no_effect}:\n\n```yaml\n{yaml_dump(settings, sort_keys=False).strip()}\n```"


def _use(info: CardInfo) -> str:
    general = (
        f"{info.task.capitalize()} of text like that of the training data, where the teacher is too slow or too large."
        if info.trained
        else f"A start to train for {info.task}: it was not trained itself."
    )
    return "\n\n".join(part for part in (general, info.intended_use) if part)


def _limits(info: CardInfo) -> str:
    general = (
        "The student inherits the teacher's errors and biases, and with fewer parameters it adds its own; look for "
        "them first in long sentences, rare words and domains that the training data does not cover. Scores of other "
        "data say little about yours. Do not use its output unchecked where an error can do harm."
    )
    lengths = ""
    if info.max_lengths is not None:
        source, target = info.max_lengths
        lengths = f"Training cut sources at {source} and targets at {target} tokens: expect little of longer ones."
    return "\n\n".join(part for part in (general, lengths, info.limits) if part)


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


def readdressed(card: ModelCard, repo_id: str, revision: str | None = None) -> ModelCard:
    """A card that was written for one place, saying another: in its title, its code and its metadata.

    Args:
        card: of `build_card`; it is changed.
        repo_id: the repository that the student goes to.
        revision: the branch, which the code then names.

    Returns:
        The same card.
    """
    title = re.search(r"^# (.+)$", card.text, flags=re.MULTILINE)
    if title:
        card.text = card.text.replace(title[0], f"# {repo_id}", 1)
        card.text = card.text.replace(f"name = {_quoted(title[1])}", f"name = {_quoted(repo_id)}", 1)
    card.text = re.sub(r'from_pretrained\(name(, revision="[^"]*")?', "from_pretrained(name", card.text)
    if revision is not None:
        card.text = card.text.replace("from_pretrained(name", f"from_pretrained(name, revision={_quoted(revision)}")
    if card.data.eval_results:
        card.data.model_name = repo_id.rpartition("/")[2]
    return card
