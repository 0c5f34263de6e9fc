"""What the user decides: the student's shape and how it is distilled. Frozen, self-checking, to and from JSON."""

import dataclasses
import difflib
import inspect
import math
import types
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """What tokens can be taken from: any tokenizer of ``transformers``."""

    name_or_path: str

    def get_vocab(self) -> dict[str, int]:
        """``{token: id}``."""
        ...


GOLD_FROM_PASSES, GOLD_FROM_PAIRS = 4, 10_000  # chosen on validation: benchmarks/README.md, "Gold targets, too"

Pair = int | tuple[int, int] | None
Vocab = int | str | Tokenizer | None


def fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the annotated type: lists pass for tuples, whole numbers for floats, nan for neither."""
    if kind is Any:
        return True
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return value in inner
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, one) for one in inner)
    if origin is not None:
        return _fits_inside(value, origin, inner)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool) and not math.isnan(value)
    return isinstance(value, kind)


def _fits_inside(value: Any, origin: type, inner: tuple[Any, ...]) -> bool:
    if origin is dict:
        return isinstance(value, dict) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items())
    if not isinstance(value, list | tuple):
        return False
    kinds = inner[:1] * len(value) if origin is list or inner[-1] is ... else inner
    return len(kinds) == len(value) and all(map(fits, value, kinds))


def name_of(kind: Any) -> str:
    """An annotated type for people."""
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    name = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
    return name.replace("typing.", "").replace("float", "number")


def check_names(where: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuses the first unknown name, with the one that was probably meant."""
    known = list(known)
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"
            raise ValueError(f"{where}: unknown {name!r}; {hint}")


def options_of(kind: type) -> list[str]:
    """The options of a weight source, an objective or a schedule: the keyword arguments of its constructor."""
    parameters = inspect.signature(kind).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY or p.default is not p.empty]


@dataclass(frozen=True)
class StudentShape:
    """Shape of the student; what is ``None`` stays as the teacher has it.

    Args:
        encoder_layers: layers of the encoder. Must divide the teacher's, unless ``encoder_groups`` is given.
        decoder_layers: layers of the decoder. Decoding time is mostly theirs: cut here first.
        d_model: width of the residual stream, one for both stacks.
        ffn_dim: neurons of the feed-forward layers; a pair is (encoder, decoder). T5 has one number for both.
        attention_heads: heads; a pair is (encoder, decoder). T5 has one number for both.
        d_kv: size of a head, for T5-like families; elsewhere it is ``d_model / attention_heads``.
        encoder_groups: for each student layer the teacher layers that feed it, e.g. ``((0, 1), (2, 3, 4))``.
        decoder_groups: likewise.
        vocab: tokens that the student keeps of the teacher's: ``"from-data"`` (those that the training text uses), a
            number (the most frequent so many) or a tokenizer, its folder or Hub repository (those that it has, too).
            Special tokens and language codes stay in any case.

    Example:
        >>> StudentShape(decoder_layers=1).to_dict()
        {'decoder_layers': 1}
    """

    encoder_layers: int | None = None
    decoder_layers: int | None = None
    d_model: int | None = None
    ffn_dim: Pair = None
    attention_heads: Pair = None
    d_kv: int | None = None
    encoder_groups: tuple[tuple[int, ...], ...] | None = None
    decoder_groups: tuple[tuple[int, ...], ...] | None = None
    vocab: Vocab = None

    def __post_init__(self) -> None:
        self._check_vocab()
        for name in ("encoder_groups", "decoder_groups"):
            groups = getattr(self, name)
            if groups is not None:
                if not fits(groups, tuple[tuple[int, ...], ...]):
                    raise ValueError(f"{name}={groups!r}: expected numbers of layers in groups, as ((0, 1), (2, 3, 4))")
                object.__setattr__(self, name, tuple(map(tuple, groups)))
                self._check_groups(name)
        for name in ("ffn_dim", "attention_heads"):
            value = getattr(self, name)
            if isinstance(value, list | tuple):
                value = tuple(value)
                object.__setattr__(self, name, value[0] if len(value) == 1 else value)
        for name, value in self.to_dict().items():
            if not name.endswith("_groups") and name != "vocab":
                self._check_number(name, value)

    def _check_vocab(self) -> None:
        if isinstance(self.vocab, str) and self.vocab.isdecimal():  # as the command line has it
            object.__setattr__(self, "vocab", int(self.vocab))
        if isinstance(self.vocab, str | None) and self.vocab != "":
            return
        if isinstance(self.vocab, int):
            self._check_number("vocab", self.vocab)
        elif not isinstance(self.vocab, Tokenizer) or not self.vocab.name_or_path:
            raise ValueError(
                f"vocab={self.vocab!r}: expected 'from-data', a number, or a tokenizer that was loaded by name or "
                "folder, which the run's configuration file can repeat"
            )

    def _check_groups(self, name: str) -> None:
        groups, layers = getattr(self, name), name.replace("groups", "layers")
        if not groups or not all(groups):
            raise ValueError(f"{name}={groups!r}: every student layer needs at least one teacher layer")
        if getattr(self, layers) not in (None, len(groups)):
            raise ValueError(
                f"{layers}={getattr(self, layers)} but {name} has {len(groups)} groups: give one or the other"
            )

    @staticmethod
    def _check_number(name: str, value: Any) -> None:
        if isinstance(value, tuple) and name == "d_model":
            raise ValueError(
                f"d_model={value!r}: these families have one width for encoder and decoder; give one number"
            )
        numbers = value if isinstance(value, tuple) else (value,)
        if len(numbers) > 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers):
            pair = " or a pair (encoder, decoder)" if name in ("ffn_dim", "attention_heads") else ""
            raise ValueError(f"{name}={value!r}: expected a positive whole number{pair}")

    def to_dict(self) -> dict[str, Any]:
        """The fields that were given, for JSON and YAML; a tokenizer by its name or folder."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if isinstance(self.vocab, Tokenizer):
            given["vocab"] = self.vocab.name_or_path
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class WeightDistillConfig:
    """How a student is made. ``RECIPES`` holds the named ones.

    Args:
        source: weight source of phase 1, a key of ``hf_weight_distill.sources.SOURCES``.
        source_options: options of that source.
        start: the student that phase 1 starts from: ``"teacher"`` (chosen layers, projected widths) or ``"random"``.
        layers: which teacher layer of a group the start takes: ``"first"``, ``"last"`` or ``"spaced"``.
        width: how the start narrows the residual stream: ``"pca"`` (a shared orthogonal projection), ``"importance"``
            (dimensions with the most energy) or ``"uniform"`` (the first ones).
        reconstruction: ``"least_squares"`` fits the matrices of the start to the teacher's activations, layer by layer;
            ``"none"`` leaves them as they were chosen and projected.
        calibration_sentences: number of training sentences from which the start is computed, the first ones.
        finetune_source: weight source of phase 2, started from the generated student; ``None``: a plain model.
        finetune_source_options: options of that source.
        finetune_lora: options of ``peft.LoraConfig``, such as ``r`` and ``lora_alpha``: phase 2 trains adapters on the
            attention and feed-forward matrices, which are merged at the end; empty: it trains all weights.
        schedules: what happens to the weights during phase 2; keys of ``schedules.SCHEDULES`` with their options.
        generator_objectives: objectives of phase 1 with their weights; keys of ``objectives.OBJECTIVES``.
        finetune_objectives: objectives of phase 2.
        dropout: dropout of the student, and the upper limit of its attention dropout, activation dropout and LayerDrop;
            saved in its configuration. Without it all of them are the teacher's.
        label_smoothing: of the cross-entropy.
        temperature: of the KL divergence to the teacher.
        teacher_cache_top_k: number of most likely next tokens that a cache of the teacher keeps for each label token;
            it is written once and read in place of the live teacher. Without it there is no cache.
        teacher_cache_dir: where the cache is kept, for several runs to share; by default beside the run.
        teacher_batch_size: sentences in a batch of the teacher while pseudo labels and the cache are written: more are
            faster on a GPU and need more memory. A run may be resumed with another number.
        objective_options: further options of objectives, by name.
        pseudo_labels: ``"none"`` (gold targets), ``"replace"`` (the teacher's translations), ``"augment"`` (both) or
            ``"auto"``: both where training makes at least four passes over at least 10,000 pairs, else the teacher's
            translations.
        pseudo_labels_dir: where they are kept, for several runs to share; ``None``: beside the run.
        num_beams: beam size of the pseudo labels.
        length_penalty: of the pseudo labels.
        generator_args: arguments of ``WeightDistillTrainingArguments`` for phase 1.
        finetune_args: the same for phase 2.
        prefix: text in front of every source (T5's task prefix).
        max_source_length: longest source in tokens; what is longer is cut.
        max_target_length: longest target in tokens, likewise.
    """

    source: str = "generator"
    source_options: dict[str, Any] = field(default_factory=dict)
    start: Literal["teacher", "random"] = "teacher"
    layers: Literal["first", "last", "spaced"] = "last"
    width: Literal["pca", "importance", "uniform"] = "pca"
    reconstruction: Literal["least_squares", "none"] = "least_squares"
    calibration_sentences: int = 512
    finetune_source: str | None = None
    finetune_source_options: dict[str, Any] = field(default_factory=dict)
    finetune_lora: dict[str, Any] = field(default_factory=dict)
    schedules: dict[str, dict[str, Any]] = field(default_factory=dict)
    generator_objectives: dict[str, float] = field(default_factory=lambda: {"cross_entropy": 1.0})
    finetune_objectives: dict[str, float] = field(default_factory=lambda: {"cross_entropy": 1.0})
    dropout: float | None = None
    label_smoothing: float = 0.1
    temperature: float = 1.0
    teacher_cache_top_k: int | None = None
    teacher_cache_dir: str | None = None
    teacher_batch_size: int = 32
    objective_options: dict[str, Any] = field(default_factory=dict)
    pseudo_labels: Literal["none", "replace", "augment", "auto"] = "none"
    pseudo_labels_dir: str | None = None
    num_beams: int = 6
    length_penalty: float = 1.0
    generator_args: dict[str, Any] = field(default_factory=dict)
    finetune_args: dict[str, Any] = field(default_factory=dict)
    prefix: str = ""
    max_source_length: int = 128
    max_target_length: int = 128

    def __post_init__(self) -> None:
        for name, kind in typing.get_type_hints(type(self)).items():
            if not fits(getattr(self, name), kind):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {name_of(kind)}")
        for name in ("num_beams", "teacher_batch_size", "max_source_length", "max_target_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected a positive number")
        if self.calibration_sentences < 0:
            raise ValueError(f"calibration_sentences={self.calibration_sentences}: expected a number of at least 0")
        if self.teacher_cache_top_k is not None and self.teacher_cache_top_k < 1:
            raise ValueError(f"teacher_cache_top_k={self.teacher_cache_top_k}: expected a positive number, or none")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: expected 0 <= dropout < 1, or none for the teacher's")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing}: expected 0 <= label_smoothing < 1")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature}: expected a number above 0")
        self._check_together()

    def _check_together(self) -> None:
        """Whether each field has an effect beside the others."""
        if not self.calibration_sentences and self.start == "teacher" and self.reconstruction != "none":
            raise ValueError(
                f"calibration_sentences=0, and reconstruction={self.reconstruction!r} fits the student to what they "
                "make of the teacher: give some, or set reconstruction='none'"
            )
        if self.teacher_cache_dir is not None and self.teacher_cache_top_k is None:
            raise ValueError(
                f"teacher_cache_dir={self.teacher_cache_dir!r}, but without teacher_cache_top_k there is no cache: "
                "give a number of tokens, or set teacher_cache_dir to none"
            )
        if self.pseudo_labels_dir is not None and self.pseudo_labels == "none":
            raise ValueError(
                f"pseudo_labels_dir={self.pseudo_labels_dir!r}, but pseudo_labels='none' makes and reads none: set "
                "'replace', 'augment' or 'auto', or pseudo_labels_dir to none"
            )
        ways = [name for name in ("finetune_source", "finetune_lora", "schedules") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)} each change how phase 2 trains the student: use one of them")

    @property
    def all_objective_options(self) -> dict[str, Any]:
        """Options of objectives, those that have a field of their own too."""
        return {"label_smoothing": self.label_smoothing, "temperature": self.temperature} | self.objective_options

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and YAML."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "WeightDistillConfig":
        """From plain values.

        Raises:
            ValueError: an unknown field.
        """
        check_names(cls.__name__, values, [f.name for f in dataclasses.fields(cls)])
        return cls(**values)
