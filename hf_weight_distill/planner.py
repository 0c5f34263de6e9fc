"""Which student is small enough, or fast enough: shapes from large to small, counted exactly and timed here.

A search goes along one line of shapes on which every step is smaller than the one before:

1. the decoder, down to one layer: decoding time is mostly its;
2. then in rounds, each of which leaves at least half of what the one before left (an eighth in the end): layers of the
   encoder, feed-forward neurons, width with whole heads.

Parameters and disk are counted on the meta device, where a model has shapes and no weights. Speed is measured, with
random weights, which are multiplied as fast as trained ones. Because the line falls, the first shape that meets a
target is found by bisection, and only the shapes that it looks at are timed.
"""

import contextlib
import io
import json
import math
import shlex
import statistics
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from .config import StudentShape
from .evaluation import busy_note, environment_of, inference
from .families import Family, family_of
from .plan import build_plan, check_precision, layer_count, stock_student, student_config

BATCH_SIZES = (1, 32)
SOURCE_TOKENS = NEW_TOKENS = 32  # a sentence
REPEATS = 3
ROUNDS = 3
STEPS = 4  # between one half and the next
Dimension = int | tuple[int, int]


@dataclass(frozen=True)
class Targets:
    """What the student must reach: all that is given.

    Args:
        speedup: tokens per second over the teacher's, at every batch size that is timed.
        parameters: at most so many.
        disk_bytes: at most so many bytes of safetensors in float32.

    Raises:
        ValueError: no target, or one that nothing or everything meets.
    """

    speedup: float | None = None
    parameters: int | None = None
    disk_bytes: int | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if not given:
            raise ValueError("no target: give a speed-up, a number of parameters or a size on disk")
        for name, value in given.items():
            least = 1 if name == "speedup" else 0
            if not (math.isfinite(value) and value > least):
                raise ValueError(f"target {name}={value}: expected a number above {least}")

    def __str__(self) -> str:
        parts = []
        if self.speedup is not None:
            parts.append(f"at least {self.speedup:g}x the teacher's speed")
        if self.parameters is not None:
            parts.append(f"at most {self.parameters:,} parameters")
        if self.disk_bytes is not None:
            parts.append(f"at most {_megabytes(self.disk_bytes)} MB")
        return " and ".join(parts)

    def fitted_by(self, parameters: int, disk_bytes: int) -> bool:
        """Whether a model of this size is small enough."""
        return (self.parameters is None or parameters <= self.parameters) and (
            self.disk_bytes is None or disk_bytes <= self.disk_bytes
        )

    def met_by(self, row: "Row") -> bool:
        """Whether a measured shape reaches all that was asked."""
        fast = self.speedup is None or row.least_speedup >= self.speedup
        return fast and self.fitted_by(row.parameters, row.disk_bytes)


@dataclass(frozen=True)
class Candidate:
    """A shape and its size.

    Args:
        shape: of the student.
        config: the stock configuration of a model of this shape.
        parameters: elements of its parameters; a tied one counts once.
        disk_bytes: of the safetensors file in float32.
    """

    shape: StudentShape
    config: PretrainedConfig
    parameters: int
    disk_bytes: int


@dataclass(frozen=True)
class Speed:
    """Greedy decoding.

    Args:
        tokens: generated in one pass.
        seconds: of each pass.
    """

    tokens: int
    seconds: tuple[float, ...]

    @property
    def tokens_per_second(self) -> float:
        """Of the median pass."""
        return self.tokens / statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """(slowest - fastest) / median pass."""
        return (max(self.seconds) - min(self.seconds)) / statistics.median(self.seconds)

    def times(self, other: "Speed") -> float:
        """How many times as fast as another model that took turns with this one: the median over the turns."""
        return statistics.median(slow / fast for slow, fast in zip(other.seconds, self.seconds, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"tokens_per_second": self.tokens_per_second, "spread": self.spread} | asdict(self)


@dataclass(frozen=True)
class Row:
    """A model of the table.

    Args:
        shape: ``None`` for the teacher.
        dimensions: by the names of ``StudentShape``; a pair is (encoder, decoder).
        parameters, disk_bytes: its size.
        speeds: by batch size.
        speedups: over the teacher, which took turns with it, by batch size.
    """

    shape: StudentShape | None
    dimensions: dict[str, Dimension]
    parameters: int
    disk_bytes: int
    speeds: dict[int, Speed]
    speedups: dict[int, float]

    @property
    def least_speedup(self) -> float:
        """The speed-up that holds at every batch size."""
        return min(self.speedups.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the shape holds only what differs from the teacher."""
        speeds = {size: speed.to_dict() for size, speed in self.speeds.items()}
        return asdict(self) | {"shape": self.shape and self.shape.to_dict(), "speeds": speeds}


@dataclass(frozen=True)
class Advice:
    """What others found, and where they say so."""

    text: str
    source: str

    def __str__(self) -> str:
        return f"- {self.text} [{self.source}]"


@dataclass(frozen=True)
class ShapeSearch:
    """What :func:`find_shape` found.

    Args:
        targets: what was asked.
        teacher: its row.
        rows: the shapes that were timed, from large to small.
        picked: the largest that meets the targets, or ``None``.
        closest: ``picked``, or what comes nearest to the targets.
        advice: what others found about students like this one.
        environment: device, threads and version of torch; speeds hold for it alone.
    """

    targets: Targets
    teacher: Row
    rows: tuple[Row, ...]
    picked: Row | None
    closest: Row
    advice: tuple[Advice, ...]
    environment: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "targets": asdict(self.targets),
            "teacher": self.teacher.to_dict(),
            "rows": [row.to_dict() for row in self.rows],
            "picked": self.picked and self.picked.to_dict(),
            "closest": self.closest.to_dict(),
            "advice": [asdict(advice) for advice in self.advice],
            "environment": self.environment,
        }

    def table(self, lines: box.Box | None = box.ROUNDED) -> Table:
        """The rows for rich; ``lines=None`` draws none."""
        table = Table(box=lines, title=f"wanted: {self.targets}", title_justify="left", pad_edge=False)
        names = [name for name in self.teacher.dimensions if not name.endswith("_layers") and self._telling(name)]
        headings = ["layers", *names, "parameters", "of teacher", "disk MB"]
        table.add_column("")
        for heading in headings + [f"tokens/s (spread), batch {size}" for size in self.teacher.speeds]:
            table.add_column(heading, justify="right")
        for row in (self.teacher, *self.rows):
            table.add_row(*self._cells(row, names), style="bold" if row is self.picked else None)
        return table

    def _telling(self, name: str) -> bool:
        """Whether a dimension is worth a column: some are seldom changed."""
        return name not in ("d_kv", "vocab") or len({row.dimensions[name] for row in (self.teacher, *self.rows)}) > 1

    def _cells(self, row: Row, names: Sequence[str]) -> list[str]:
        mark = "teacher" if row is self.teacher else "picked" if row is self.picked else ""
        mark = mark or ("closest" if row is self.closest else "")
        share = f"{row.parameters / self.teacher.parameters:.0%}"
        cells = [mark, _layers(row), *(_number(row.dimensions[name]) for name in names), f"{row.parameters:,}", share]
        cells.append(_megabytes(row.disk_bytes))
        for size, speed in row.speeds.items():
            times = "" if row is self.teacher else f"  {row.speedups[size]:.2f}x"
            cells.append(f"{speed.tokens_per_second:,.0f} ({speed.spread:.0%}){times}")
        return cells

    def verdict(self) -> str:
        """The conditions, the shape that was picked with the flags that ask for it, and the advice."""
        machine = ", ".join(f"{name} {value}" for name, value in self.environment.items())
        lines = [
            f"speed: {machine}; float32, greedy, {SOURCE_TOKENS} source and {NEW_TOKENS} generated tokens a sentence, "
            f"random students; median of {REPEATS} passes, in turn with the teacher, and of their ratios (x)",
            "disk: safetensors in float32, 1 MB = 1,000,000 bytes",
        ]
        lines += busy_note(speed.spread for row in (self.teacher, *self.rows) for speed in row.speeds.values())
        if self.picked is None:
            lines.append(
                f"picked: none, no shape tried has {self.targets}; the closest: {shape_flags(self.closest.shape)}"
            )
        else:
            lines.append(f"picked: {shape_flags(self.picked.shape)}")
        return "\n".join([*lines, *map(str, self.advice)])

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=200)
        console.print(self.table(lines=None))
        rows = console.file.getvalue().rstrip().splitlines()
        return "\n".join([*(row.rstrip() for row in rows), self.verdict()])


def shape_flags(shape: StudentShape) -> str:
    """A shape as the flags of the command line.

    Example:
        >>> shape_flags(StudentShape(decoder_layers=1, ffn_dim=(1024, 512)))
        '--decoder_layers 1 --ffn_dim 1024 512'
    """
    words = []
    for name, value in shape.to_dict().items():
        values = value if isinstance(value, tuple) else (value,)
        groups = (",".join(map(str, item)) if isinstance(item, tuple) else str(item) for item in values)
        words += [f"--{name}", *groups]
    return shlex.join(words)


def find_shape(
    teacher: PreTrainedModel,
    targets: Targets,
    base: StudentShape | None = None,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    progress: Callable[[str], None] = lambda text: None,
) -> ShapeSearch:
    """The largest student on the line that meets the targets.

    Args:
        teacher: a seq2seq model of a known family, on the device to be measured.
        targets: what is wanted.
        base: what is decided already; the search leaves these dimensions alone.
        batch_sizes: sentences at once; a speed-up must hold at each.
        progress: told which shape is timed next.

    Raises:
        ValueError: the teacher itself meets the targets, nothing is left to be made smaller, an unknown family, or a
            base that the family cannot express.

    Example:
        >>> print(find_shape(teacher, Targets(speedup=3)))                  # doctest: +SKIP
    """
    base = base or StudentShape()
    size = _check_wanted(teacher, targets, base, batch_sizes)
    candidates = candidate_shapes(teacher, base)
    if not candidates:
        raise ValueError("nothing is left to be made smaller: give fewer shape flags beside a target")
    races: dict[int, tuple[dict[int, Speed], Row]] = {}

    def meets(index: int) -> bool:
        progress(f"timing {shape_flags(candidates[index].shape)}")
        races[index] = _race(teacher, candidates[index], batch_sizes)
        return targets.met_by(races[index][1])

    found = bisect_left(range(len(candidates)), True, key=meets)
    picked = races[found][1] if found < len(candidates) else None
    rows = tuple(races[index][1] for index in sorted(races))
    speeds = {n: _together([race[0][n] for race in races.values()]) for n in batch_sizes}
    own = Row(None, _dimensions(teacher.config), *size, speeds, dict.fromkeys(batch_sizes, 1.0))
    closest = picked or (rows[-1] if targets.speedup is None else max(rows, key=lambda row: row.least_speedup))
    advice = tuple(_advice(teacher, own, closest, candidates, targets))
    return ShapeSearch(targets, own, rows, picked, closest, advice, environment_of(teacher.device))


def _check_wanted(
    teacher: PreTrainedModel, targets: Targets, base: StudentShape, batch_sizes: Sequence[int]
) -> tuple[int, int]:
    """Refuses what no search can answer; the teacher's parameters and bytes are returned."""
    if not batch_sizes or min(batch_sizes) < 1:
        raise ValueError(f"batch_sizes={tuple(batch_sizes)}: expected positive numbers, such as 1 and 32")
    if base.vocab is not None and not isinstance(base.vocab, int):
        raise ValueError(
            f"vocab={base.to_dict()['vocab']!r}: how many tokens that keeps is known only when the text is read; "
            "beside a target give a number"
        )
    decided = set(base.to_dict()) & {"decoder_layers", "decoder_groups"}
    # Says what a base of this family cannot have, whatever the search makes of the rest
    build_plan(teacher, base if decided else replace(base, decoder_layers=1))
    check_precision(teacher)  # the students that race it are float32
    parameters, disk_bytes = sum(p.numel() for p in teacher.parameters()), safetensors_bytes(teacher)
    if targets.speedup is None and targets.fitted_by(parameters, disk_bytes):
        raise ValueError(f"the teacher itself has {targets}: {parameters:,} parameters, {_megabytes(disk_bytes)} MB")
    return parameters, disk_bytes


# --- the line of shapes ------------------------------------------------------------------------------------------


def candidate_shapes(teacher: PreTrainedModel, base: StudentShape | None = None) -> list[Candidate]:
    """The line of shapes, each smaller than the one before, with their sizes; no weights are made.

    Args:
        teacher: a seq2seq model of a known family.
        base: what is decided already. If it is smaller than the teacher it is the first of the line.

    Raises:
        ValueError: the family is unknown.
    """
    base, family = base or StudentShape(), family_of(teacher.config)
    last = sum(p.numel() for p in teacher.parameters())
    line, cuts = [], {}
    for cut in _cuts(teacher.config, family, set(base.to_dict())):
        shape = replace(base, **cuts | cut)
        try:
            config = student_config(teacher.config, shape, family)
        except ValueError:  # a T5 with fewer encoder than decoder layers
            continue
        cuts |= cut
        shell = stock_student(teacher, config, device="meta")
        parameters = sum(p.numel() for p in shell.parameters())
        if parameters < last:
            last = parameters
            line.append(Candidate(shape, config, parameters, safetensors_bytes(shell)))
    return line


def _cuts(config: PretrainedConfig, family: Family, decided: set[str]) -> Iterator[dict[str, Any]]:
    """Changes of ``StudentShape``, each on top of those before, from none to the smallest student."""
    yield {}
    if not decided & {"decoder_layers", "decoder_groups"}:
        layers = layer_count(config, "decoder", family)
        for fewer in _divisors(layers, 0, layers):
            yield {"decoder_layers": fewer}
    axes = [
        axis
        for axis, fields in (
            (_encoder_cuts, {"encoder_layers", "encoder_groups"}),
            (_ffn_cuts, {"ffn_dim"}),
            (_width_cuts, {"d_model", "attention_heads", "d_kv"}),
        )
        if not decided & fields
    ]
    for halving in range(1, ROUNDS + 1):
        for axis in axes:
            yield from axis(config, family, 0.5**halving)


def _divisors(number: int, low: float, high: float) -> list[int]:
    """Divisors with ``low <= divisor < high``, largest first."""
    return [n for n in range(number, 0, -1) if number % n == 0 and low <= n < high]


def _steps(number: int, part: float) -> list[int]:
    """Whole numbers from just below twice ``part`` of ``number`` down to ``part`` of it."""
    steps = {math.floor(number * part * (1 + step / STEPS)) for step in range(STEPS)}
    return sorted((n for n in steps if n >= max(1, number * part)), reverse=True)


def _encoder_cuts(config: PretrainedConfig, family: Family, part: float) -> Iterator[dict[str, Any]]:
    layers = layer_count(config, "encoder", family)
    for fewer in _divisors(layers, layers * part, layers * 2 * part):
        yield {"encoder_layers": fewer}


def _ffn_cuts(config: PretrainedConfig, family: Family, part: float) -> Iterator[dict[str, Any]]:
    encoder, decoder = _both(config, family, "ffn_dim")
    for fewer in _steps(encoder, part):
        yield {"ffn_dim": _one_or_both(fewer, max(1, decoder * fewer // encoder))}


def _width_cuts(config: PretrainedConfig, family: Family, part: float) -> Iterator[dict[str, Any]]:
    """Whole heads of the teacher's size, in both stacks."""
    encoder, decoder = _both(config, family, "attention_heads")
    width = config.d_model
    if family.own_head_size:  # the width is free of the heads there: it follows them
        for heads in _steps(encoder, part):
            yield {"d_model": _multiple(width * heads / encoder, min(config.d_kv, width)), "attention_heads": heads}
        return
    unit = math.lcm(width // encoder, width // decoder)
    for units in _steps(width // unit, part):
        heads = _one_or_both(units * unit * encoder // width, units * unit * decoder // width)
        yield {"d_model": units * unit, "attention_heads": heads}


def _multiple(number: float, unit: int) -> int:
    """The largest multiple of ``unit`` up to ``number``, or ``unit``."""
    return max(unit, int(number) // unit * unit)


def _both(config: PretrainedConfig, family: Family, name: str) -> tuple[int, int]:
    """A dimension of (encoder, decoder)."""
    values = [getattr(config, attribute) for attribute in family.shape[name]]
    return values[0], values[-1]


def _one_or_both(encoder: int, decoder: int) -> Dimension:
    return encoder if encoder == decoder else (encoder, decoder)


def _dimensions(config: PretrainedConfig) -> dict[str, Dimension]:
    family = family_of(config)
    sizes = {name: _one_or_both(*_both(config, family, name)) for name in family.shape}
    return sizes | {"vocab": config.vocab_size}


def safetensors_bytes(model: PreTrainedModel) -> int:
    """Size of the file that ``save_pretrained`` would write in float32, from shapes alone.

    The format is 8 bytes, a JSON header filled up with spaces to a multiple of 8, and the tensors.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in (*(model._keys_to_ignore_on_save or ()), *model.all_tied_weights_keys):
        shapes.pop(name, None)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + 4 * math.prod(shapes[name])
        header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": (start, end)}
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + math.ceil(length / 8) * 8 + end


# --- speed -------------------------------------------------------------------------------------------------------


def _race(teacher: PreTrainedModel, candidate: Candidate, batch_sizes: Sequence[int]) -> tuple[dict[int, Speed], Row]:
    """The teacher's speeds beside a random student's, and the student's row."""
    with torch.random.fork_rng():
        student = stock_student(teacher, candidate.config, device="cpu").to(teacher.device)
    teacher_speeds, speeds = measure_speed((teacher, student), batch_sizes)
    speedups = {n: speeds[n].times(teacher_speeds[n]) for n in batch_sizes}
    dimensions = _dimensions(candidate.config)
    return teacher_speeds, Row(
        candidate.shape, dimensions, candidate.parameters, candidate.disk_bytes, speeds, speedups
    )


def measure_speed(models: Sequence[PreTrainedModel], batch_sizes: Sequence[int]) -> list[dict[int, Speed]]:
    """Greedy decoding of several models, which take turns, so that a machine that slows down slows all of them.

    Every model reads the same number of random tokens and is made to generate the same number: weights that were never
    trained would otherwise stop at once, or never.

    Args:
        models: on the device to be measured.
        batch_sizes: sentences at once.

    Returns:
        For each model its speed by batch size.
    """
    speeds: list[dict[int, Speed]] = [{} for _ in models]
    with contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(_bare_generation(model))
        for batch_size in batch_sizes:
            turns = [[_timed_pass(model, batch_size) for model in models] for _ in range(REPEATS + 1)]
            turns = turns[1:]  # the first warms up
            for speed, passes in zip(speeds, zip(*turns, strict=True), strict=True):
                speed[batch_size] = Speed(passes[0][0], tuple(seconds for _, seconds in passes))
    return speeds


@contextlib.contextmanager
def _bare_generation(model: PreTrainedModel) -> Iterator[None]:
    """Greedy search of a fixed length: without an end token nothing ends it, and nothing of the checkpoint's counts."""
    own = model.generation_config
    length = 1 + min(NEW_TOKENS, _positions(model) - 1)  # with the decoder's start
    model.generation_config = GenerationConfig(decoder_start_token_id=0, pad_token_id=0, max_length=length)
    try:
        with inference(model):
            yield
    finally:
        model.generation_config = own


def _positions(model: PreTrainedModel) -> int:
    return getattr(model.config, "max_position_embeddings", None) or SOURCE_TOKENS + NEW_TOKENS  # T5 has no bound


def _timed_pass(model: PreTrainedModel, batch_size: int) -> tuple[int, float]:
    """Generated tokens and seconds."""
    size = (batch_size, min(SOURCE_TOKENS, _positions(model)))
    input_ids = torch.randint(model.config.vocab_size, size, generator=torch.Generator().manual_seed(0))
    input_ids = input_ids.to(model.device)
    start = time.perf_counter()
    output = model.generate(input_ids, attention_mask=torch.ones_like(input_ids)).cpu()  # waits for the device
    return batch_size * (output.shape[1] - 1), time.perf_counter() - start  # without the decoder's start


def _together(speeds: Sequence[Speed]) -> Speed:
    """The teacher ran beside several students."""
    return Speed(speeds[0].tokens, tuple(seconds for speed in speeds for seconds in speed.seconds))


# --- advice ------------------------------------------------------------------------------------------------------

DEEP_SHALLOW = "Kasai et al. 2021, arXiv 2006.10369; github.com/jungokasai/deep-shallow"
GUIDELINES = "NVIDIA Model Optimizer, examples/pruning/README.md, on language models without an encoder"
ASSISTANT = "Mirzadeh et al. 2020, arXiv 1902.03393"
PUBLICATION = "Lin et al. 2021, arXiv 2009.09152; github.com/Lollipop321/weight-distillation"
FIRST_STEP = 0.7  # of the teacher's parameters: the guidelines say to compress by 30 %, distil and compress again


def _advice(
    teacher: PreTrainedModel, own: Row, student: Row, candidates: Sequence[Candidate], targets: Targets
) -> Iterator[Advice]:
    """What applies to this student, each with its source."""
    smaller = {name for name, size in student.dimensions.items() if size != own.dimensions[name]}
    if "decoder_layers" in smaller:
        text = (
            "deep encoder, shallow decoder: English-German, 12+1 layers reach 28.3 BLEU and 6+1 layers 27.4; the "
            "decoder is cut first, the encoder late"
        )
        yield Advice(text, DEEP_SHALLOW)
    if smaller & {"ffn_dim", "d_model", "attention_heads"}:
        text = (
            "at the same number of parameters fewer layers are faster and a smaller width is more accurate; "
            "feed-forward neurons can be cut further than the width"
        )
        yield Advice(text, GUIDELINES)
    if student.parameters < own.parameters / 2:
        yield _steps_advice(own, student, candidates)
    text = (
        "data: teach with the teacher's translations of its training text (12+1 layers: 28.3 BLEU with them, 26.9 "
        "without)"
    )
    yield Advice(text, DEEP_SHALLOW)
    text = "length: the published Chinese-English students trained 30,000 updates of 8 x 4,096 tokens in each phase"
    yield Advice(text, PUBLICATION)
    smallest = candidates[-1]
    if not targets.fitted_by(smallest.parameters, smallest.disk_bytes):
        yield from _vocabulary_advice(teacher, smallest)


def _steps_advice(own: Row, student: Row, candidates: Sequence[Candidate]) -> Advice:
    """A first student on the way, from which the wanted one can be made."""

    def leads_on(candidate: Candidate) -> bool:
        layers = _dimensions(candidate.config)
        stacks = [f"{stack}_layers" for stack in ("encoder", "decoder")]
        fits = all(layers[stack] % student.dimensions[stack] == 0 for stack in stacks)
        return fits and candidate.parameters > student.parameters

    ways = [candidate for candidate in candidates if leads_on(candidate)]
    first = min(ways, key=lambda c: abs(c.parameters / own.parameters - FIRST_STEP), default=None)
    text = "below half of the teacher quality is hard to recover in one go: distil in steps"
    if first is not None:
        text += f", first {shape_flags(first.shape)} ({first.parameters / own.parameters:.0%} of it), then that student"
    return Advice(text, f"{GUIDELINES}; {ASSISTANT}")


def _vocabulary_advice(teacher: PreTrainedModel, smallest: Candidate) -> Iterator[Advice]:
    """Where embeddings are most of what is left, layers and width cannot help."""
    shell = stock_student(teacher, smallest.config, device="meta")
    paths = {row.path for row in family_of(teacher.config).classes if row.axes[0] == "vocab"}
    embeddings = sum(tensor.numel() for name, tensor in shell.named_parameters() if name in paths)
    if embeddings > smallest.parameters / 2:
        text = (
            f"{embeddings / smallest.parameters:.0%} of the smallest shape's parameters are embeddings of "
            f"{smallest.config.vocab_size:,} tokens: a smaller vocabulary (--vocab) goes on where layers and width end"
        )
        yield Advice(text, "counted here")


# --- words -------------------------------------------------------------------------------------------------------


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.2f}" if count < 1e7 else f"{count / 1e6:,.1f}"


def _number(size: Dimension) -> str:
    return "/".join(map(str, size)) if isinstance(size, tuple) else str(size)


def _layers(row: Row) -> str:
    return f"{row.dimensions['encoder_layers']}+{row.dimensions['decoder_layers']}"
