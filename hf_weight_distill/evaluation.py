"""How good, how fast and how small is a student: translation scores, decoding speed and size, beside its teacher.

The metrics are `evaluate.Metric` classes which live here, because `evaluate.load` fetches its scripts from the Hub;
these work without a network. sacreBLEU computes BLEU and chrF, rouge_score computes ROUGE. All scores lie in 0..100.

```python
scores = compute_scores(translate(student, tokenizer, sources), references)
print(compare(teacher, student, tokenizer, sources, references, num_beams=(1, 5)))
```
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import rouge_score.tokenizers
import sacrebleu
import torch
from rich.console import Console
from rich.table import Table
from rouge_score import rouge_scorer
from transformers import BatchEncoding, GenerationConfig

from .progress import Stage
from .words import words

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
BUSY = 0.3  # spread of a speed from which on somebody else is at work
REPEATS, WARMUP = 3, 1  # passes of a comparison: timed, and before the clock runs


# ---------------------------------------------------------------------------------------------------------- metrics


def _text_features() -> list[datasets.Features]:
    """One reference per prediction, or a list of them: `evaluate` takes the first description that fits."""
    text = datasets.Value("string")
    one = datasets.Features({"predictions": text, "references": text})
    several = datasets.Features({"predictions": text, "references": datasets.Sequence(text)})
    return [several, one]


def _metric_info(description: str, url: str, citation: str) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description="predictions: list of strings; references: list of strings, or list of lists of strings.",
        features=_text_features(),
        reference_urls=[url],
    )


def _as_lists(references: Sequence[str] | Sequence[Sequence[str]]) -> list[list[str]]:
    """One list of references per prediction, in the order of the predictions."""
    lists = [[item] if isinstance(item, str) else list(item) for item in references]
    if not all(lists):
        raise ValueError(f"found no reference for sentence {lists.index([])}, expected at least one for each")
    return lists


def _streams(references: Sequence[str] | Sequence[Sequence[str]]) -> list[list[str]]:
    """sacreBLEU's layout: the first reference of every sentence, then the second, ..."""
    lists = _as_lists(references)
    counts = {len(items) for items in lists}
    if len(counts) != 1:
        raise ValueError(
            f"found {sorted(counts)} references per sentence, expected the same number for each: "
            "give every sentence as many references as the others"
        )
    return [list(stream) for stream in zip(*lists, strict=True)]


class Bleu(evaluate.Metric):
    """Corpus BLEU (Papineni et al. 2002) by sacreBLEU (Post 2018), offline.

    `compute(predictions=..., references=..., tokenize="13a")` returns `{"bleu": 0..100, "signature": str}`. `tokenize`
    is a sacreBLEU tokenizer name: "13a" by default, "zh" or "ja-mecab" for Chinese or Japanese, "flores200" for NLLB.

    Example:
        >>> Bleu(keep_in_memory=True).compute(predictions=["a b c d"], references=["a b c d"])["bleu"]
        100.00000000000004
    """

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info(
            "Corpus BLEU by sacreBLEU.",
            "https://github.com/mjpost/sacrebleu",
            "Post 2018, A Call for Clarity in Reporting BLEU Scores, https://aclanthology.org/W18-6319",
        )

    def _compute(self, predictions: list[str], references: list, tokenize: str = "13a") -> dict[str, Any]:
        scorer = sacrebleu.BLEU(tokenize=tokenize)
        score = scorer.corpus_score(predictions, _streams(references)).score
        return {"bleu": float(score), "signature": str(scorer.get_signature())}


class ChrF(evaluate.Metric):
    """Corpus chrF2 (Popović 2015) by sacreBLEU with its defaults: 6 characters, no words, beta 2; offline.

    `compute(predictions=..., references=..., word_order=0)` returns `{"chrf": 0..100, "signature": str}`;
    `word_order=2` is chrF++.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info(
            "Corpus chrF2 by sacreBLEU.",
            "https://github.com/mjpost/sacrebleu",
            "Popović 2015, chrF: character n-gram F-score for automatic MT evaluation, W15-3049",
        )

    def _compute(self, predictions: list[str], references: list, word_order: int = 0) -> dict[str, Any]:
        scorer = sacrebleu.CHRF(word_order=word_order)
        score = scorer.corpus_score(predictions, _streams(references)).score
        return {"chrf": float(score), "signature": str(scorer.get_signature())}


class _Words(rouge_score.tokenizers.Tokenizer):
    """What rouge_score takes for words in ASCII, and words of every other script, which it would throw away."""

    def tokenize(self, text: str) -> list[str]:
        return [word for word in words(text.lower()) if any(character.isalnum() for character in word)]


class Rouge(evaluate.Metric):
    """ROUGE F1 x 100 (Lin 2004) by rouge_score without stemming: the mean over the sentences, offline.

    `compute(predictions=..., references=...)` returns rouge1, rouge2, rougeL and rougeLsum; rougeLsum takes sentences
    to be separated by newlines. With several references the best one counts, as rouge_score's `score_multi` has it.
    Words are rouge_score's own in ASCII. It drops all other letters ("schöne" becomes "sch" and "ne", Russian nothing);
    here a word may be of any script, and each letter of Chinese, Japanese or Thai is one.
    """

    def _info(self) -> evaluate.MetricInfo:
        return _metric_info(
            "ROUGE F1 by rouge_score.",
            "https://github.com/google-research/google-research/tree/master/rouge",
            "Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, W04-1013",
        )

    def _compute(self, predictions: list[str], references: list) -> dict[str, float]:
        scorer = rouge_scorer.RougeScorer(ROUGE_TYPES, tokenizer=_Words())
        pairs = zip(_as_lists(references), predictions, strict=True)
        scores = [scorer.score_multi(targets, prediction) for targets, prediction in pairs]
        return {name: 100.0 * statistics.fmean(score[name].fmeasure for score in scores) for name in ROUGE_TYPES}


METRICS: dict[str, type[evaluate.Metric]] = {"bleu": Bleu, "chrf": ChrF, "rouge": Rouge}


def _check_metrics(metrics: Sequence[str], tokenize: str) -> tuple[str, ...]:
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"unknown metric {', '.join(map(repr, unknown))}: use one of {', '.join(METRICS)}")
    if tokenize not in sacrebleu.BLEU.TOKENIZERS:
        raise ValueError(f"unknown tokenize={tokenize!r}: use one of {', '.join(sacrebleu.BLEU.TOKENIZERS)}")
    if "bleu" in names:
        try:
            sacrebleu.BLEU(tokenize=tokenize)
        except (RuntimeError, OSError) as error:  # packages for Japanese or Korean, a model from the network
            raise ValueError(f"tokenize={tokenize!r}: {error}") from error
    return names


def _evaluate(
    predictions: Sequence[str], references: Sequence, metrics: Sequence[str], tokenize: str
) -> tuple[dict[str, float], dict[str, str]]:
    """Scores by name, and the sacreBLEU signatures by metric."""
    names = _check_metrics(metrics, tokenize)
    if not predictions or len(predictions) != len(references):
        raise ValueError(
            f"found {len(predictions)} predictions and {len(references)} references: "
            "expected the same number of both, and at least one"
        )
    scores, signatures = {}, {}
    for name in names:
        options = {"tokenize": tokenize} if name == "bleu" else {}
        # In memory: no lock files, so that processes which evaluate at the same time do not wait for one another.
        metric = METRICS[name](keep_in_memory=True)
        result = metric.compute(predictions=list(predictions), references=list(references), **options)
        if "signature" in result:
            signatures[name] = result.pop("signature")
        scores.update(result)
    return scores, signatures


def compute_scores(
    predictions: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    metrics: Sequence[str] = ("bleu", "chrf"),
    *,
    tokenize: str = "13a",
) -> dict[str, float]:
    """Corpus scores of `predictions`, all in 0..100, higher is better.

    Args:
        predictions: one string per sentence, detokenised.
        references: one string per sentence, or a list of strings per sentence (the same number for each).
        metrics: names from `METRICS`; "rouge" gives four numbers (rouge1, rouge2, rougeL, rougeLsum).
        tokenize: sacreBLEU's tokenizer for BLEU; the other metrics have none.

    Returns:
        The scores by name, in the order asked.

    Raises:
        ValueError: an unknown metric or `tokenize`, no predictions, or lists of different lengths.

    Example:
        >>> compute_scores(["the cat sat on the mat"], ["the cat sat on a mat"], metrics=("chrf",))
        {'chrf': 72.0848317308462}
    """
    return _evaluate(predictions, references, metrics, tokenize)[0]


def _token_ids(values: Any, pad_token_id: int) -> np.ndarray:
    """Trainer's arrays hold -100 where a row is shorter than the longest; no tokenizer can decode that."""
    ids = np.asarray(values[0] if isinstance(values, tuple) else values)
    return np.where(ids == -100, pad_token_id, ids)


def make_compute_metrics(
    tokenizer, metrics: Sequence[str] = ("bleu", "chrf"), *, tokenize: str = "13a"
) -> Callable[[Any], dict[str, float]]:
    """A `compute_metrics` for `Seq2SeqTrainer(predict_with_generate=True)`.

    Args:
        tokenizer: decodes predictions and labels; needs a pad token.
        metrics: names from `METRICS`.
        tokenize: sacreBLEU's tokenizer for BLEU.

    Returns:
        A function of an `EvalPrediction` (token ids of shape (sentences, length), padded with -100 or pad) which
        returns the scores.

    Raises:
        ValueError: at once, not after the first epoch: an unknown metric or `tokenize`, a tokenizer without pad token.

    Example:
        `Seq2SeqTrainer(..., compute_metrics=make_compute_metrics(tokenizer, ("bleu",)))`
    """
    names = _check_metrics(metrics, tokenize)
    if tokenizer.pad_token_id is None:
        raise ValueError("the tokenizer has no pad token, which -100 is replaced by: set tokenizer.pad_token")

    def decode(values: Any) -> list[str]:
        return tokenizer.batch_decode(_token_ids(values, tokenizer.pad_token_id), skip_special_tokens=True)

    def compute_metrics(prediction) -> dict[str, float]:
        return compute_scores(decode(prediction.predictions), decode(prediction.label_ids), names, tokenize=tokenize)

    compute_metrics.of_translations = True  # and not of logits
    compute_metrics.vocabulary = len(tokenizer)
    return compute_metrics


# --------------------------------------------------------------------------------------------------------- decoding


@contextlib.contextmanager
def inference(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module has the mode it had before.

    Per module, because a frozen part may stay in evaluation mode while the rest trains.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def input_limit(model, tokenizer) -> int | None:
    """The longest input in tokens that tokenizer and model take, None if neither sets a bound (T5)."""
    limits = [tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    # A tokenizer without a bound says 1e30.
    limits = [int(limit) for limit in limits if limit is not None and limit < 1_000_000]
    return min(limits, default=None)


def length_batches(input_ids: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """Row numbers in batches of like length, longest first: little padding, and memory runs out at once or never."""
    if batch_size < 1:
        raise ValueError(f"found batch_size={batch_size}, expected at least 1")
    order = sorted(range(len(input_ids)), key=lambda row: -len(input_ids[row]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def source_batches(
    tokenizer, sources: Sequence[str], batch_size: int, max_length: int | None, device: torch.device
) -> Iterator[tuple[list[int], BatchEncoding]]:
    """Row numbers and padded `input_ids` and `attention_mask` of batches of like length, on `device`.

    Sources are cut at `max_length` tokens (None: never).
    """
    input_ids = tokenizer(list(sources), truncation=max_length is not None, max_length=max_length)["input_ids"]
    for rows in length_batches(input_ids, batch_size):
        # verbose=False: fast tokenizers otherwise recommend tokenising and padding in one call, which cannot sort.
        batch = {"input_ids": [input_ids[row] for row in rows]}
        yield rows, tokenizer.pad(batch, padding=True, return_tensors="pt", verbose=False).to(device)


def own_bound(settings: GenerationConfig) -> int | None:
    """How many tokens a checkpoint's own generation settings let it write, without the decoder's start."""
    if settings.max_new_tokens is not None:  # which goes before the other, as in a stock generate
        return settings.max_new_tokens
    return None if settings.max_length is None else settings.max_length - 1


def output_limit(model) -> int | None:
    """How many tokens a model can write at most: by its own settings, and by its positions; `None` without either."""
    positions = getattr(model.config, "max_position_embeddings", None)  # counts the decoder's start, too
    limits = (own_bound(model.generation_config), None if positions is None else positions - 1)
    return min((limit for limit in limits if limit is not None), default=None)


def _new_token_bound(model, longest_source: int) -> int:
    settings, limit = model.generation_config, output_limit(model)
    shortest = max(settings.min_length or 0, settings.min_new_tokens or 0)  # of a summariser, say
    enough = max(2 * longest_source, shortest) + 10
    return enough if limit is None else min(enough, limit)


def generate_batch(model, batch, num_beams: int, max_new_tokens: int | None, generate_kwargs: Mapping[str, Any]):
    """Output ids of a padded batch, with the bound on new tokens and the settings of every score and speed here."""
    options = {
        "num_beams": num_beams,
        "max_new_tokens": max_new_tokens or _new_token_bound(model, batch["input_ids"].shape[1]),
        # The bound keeps to the checkpoint's own, and each call would warn that there are two.
        "max_length": None,
        # A checkpoint may ask for sampling; a score must not depend on chance.
        "do_sample": False,
        # Or for several answers to a sentence, or for more than their ids.
        "num_return_sequences": 1,
        "return_dict_in_generate": False,
    }
    return model.generate(**batch, **{**options, **generate_kwargs})


def translate(
    model,
    tokenizer,
    sources: Sequence[str],
    *,
    batch_size: int = 32,
    num_beams: int = 1,
    max_new_tokens: int | None = None,
    progress: bool = False,
    **generate_kwargs: Any,
) -> list[str]:
    """Translate (or summarise) `sources`, in batches of like length, and return the outputs in the order of the input.

    Args:
        model: a seq2seq model with `generate`; its device is used, its training mode is restored.
        tokenizer: the tokenizer of the model.
        sources: strings. A prefix such as T5's "translate English to German: " belongs to them already. They are cut
            at the longest input that tokenizer and model take.
        batch_size: sentences at once.
        num_beams: 1 is greedy search.
        max_new_tokens: longest output in tokens. By default `2 * n + 10` with `n` the tokens of the longest source in
            the batch, so that an untrained student does not run for 512 steps: more where the checkpoint's
            `min_length` asks for it, and no more than its `max_length` and the model's positions.
        progress: show a progress bar with the time left.
        generate_kwargs: handed to `model.generate`; what is not given here comes from the model's generation config.

    Returns:
        One string per source, without special tokens.

    Raises:
        ValueError: `batch_size` below 1.

    Example:
        >>> translate(student, tokenizer, ["Two dogs run."], num_beams=5)  # doctest: +SKIP
        ['Zwei Hunde laufen.']
    """
    with Stage("translating", len(sources), "sentences", enabled=progress) as stage:
        options = {"max_new_tokens": max_new_tokens, **generate_kwargs}
        return translate_within(model, tokenizer, sources, batch_size, num_beams, stage.advance, **options)


def translate_within(
    model,
    tokenizer,
    sources: Sequence[str],
    batch_size: int,
    num_beams: int,
    advance: Callable[[int], None],
    *,
    max_source_length: int | None = None,
    max_new_tokens: int | None = None,
    **generate_kwargs: Any,
) -> list[str]:
    """`translate` within a stage of longer work: `advance(n)` hears of every n finished sentences."""
    if not sources:
        return []
    outputs = [""] * len(sources)
    limit = max_source_length or input_limit(model, tokenizer)
    with inference(model):
        for rows, batch in source_batches(tokenizer, sources, batch_size, limit, model.device):
            ids = generate_batch(model, batch, num_beams, max_new_tokens, generate_kwargs)
            for row, text in zip(rows, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                outputs[row] = text
            advance(len(rows))
    return outputs


# --------------------------------------------------------------------------------------------------- speed and size


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _timed_pass(model, batches, num_beams: int, pad_token_id: int) -> tuple[int, float]:
    """Generated tokens and seconds of one pass. The outputs are counted after the clock has stopped."""
    _wait_for(model.device)
    start = time.perf_counter()
    outputs = [generate_batch(model, batch, num_beams, None, {}) for batch in batches]
    _wait_for(model.device)
    seconds = time.perf_counter() - start
    # The first column is the decoder start token, which nobody generated.
    return sum(int((ids[:, 1:] != pad_token_id).sum()) for ids in outputs), seconds


def decoding_speed(
    model,
    tokenizer,
    sources: Sequence[str],
    *,
    batch_size: int,
    num_beams: int,
    repeats: int = 3,
    warmup: int = 1,
) -> dict[str, float]:
    """Decoding speed of `model.generate`; tokenising, padding and detokenising are outside the clock.

    Args:
        model: on the device to be measured.
        tokenizer: the tokenizer of the model.
        sources: the sentences of one pass.
        batch_size: sentences at once, batched by length.
        num_beams: 1 is greedy search. Only the tokens of the best hypothesis count.
        repeats: timed passes; the median is reported.
        warmup: passes before the clock runs.

    Returns:
        `tokens_per_second` (generated tokens other than pad, with the end token, without the decoder start token),
        `sentences_per_second`, `seconds` (the median pass), `spread` ((slowest - fastest) / median pass, a fraction),
        `tokens` and `sentences` (of one pass).

    Raises:
        ValueError: no sources, or fewer than one repeat.

    Example:
        >>> speed = decoding_speed(student, tokenizer, sources, batch_size=1, num_beams=5)  # doctest: +SKIP
        >>> print(f"{speed['tokens_per_second']:.0f} tokens/s, spread {speed['spread']:.0%}")  # doctest: +SKIP
    """
    if not sources or repeats < 1:
        raise ValueError(f"found {len(sources)} sources and {repeats} repeats: expected at least one of both")
    limit = input_limit(model, tokenizer)
    batches = [batch for _, batch in source_batches(tokenizer, sources, batch_size, limit, model.device)]
    with inference(model):
        for _ in range(warmup):
            _timed_pass(model, batches, num_beams, tokenizer.pad_token_id)
        passes = [_timed_pass(model, batches, num_beams, tokenizer.pad_token_id) for _ in range(repeats)]
    tokens = passes[0][0]
    times = [seconds for _, seconds in passes]
    median = statistics.median(times)
    return {
        "tokens_per_second": tokens / median,
        "sentences_per_second": len(sources) / median,
        "seconds": median,
        "spread": (max(times) - min(times)) / median,
        "tokens": tokens,
        "sentences": len(sources),
    }


def model_size(model) -> dict[str, int]:
    """Size of a model in memory and on disk.

    Returns:
        `parameters`: elements of `model.parameters()`. A tied tensor counts once, buffers do not count, and fixed
        sinusoidal positions count where the class holds them as parameters (Marian does, M2M100 does not).
        `bytes_on_disk`: the size of the safetensors files that `save_pretrained` writes, measured by writing them into
        a temporary folder. Tokenizer and configs are not part of it; neither is what the class does not save.

    Example:
        >>> f"{model_size(student)['bytes_on_disk'] / 2**20:.0f} MiB"  # doctest: +SKIP
    """
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files = [entry for entry in os.scandir(folder) if entry.name.endswith(".safetensors")]
        size = sum(entry.stat().st_size for entry in files)
    return {"parameters": sum(parameter.numel() for parameter in model.parameters()), "bytes_on_disk": size}


# ------------------------------------------------------------------------------------------------------- comparison


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """One quantity of teacher and student.

    `quantity` is a score's name, "parameters", "bytes_on_disk", "tokens_per_second" or "sentences_per_second".
    `num_beams` and `batch_size` are None where they have no part in it. `teacher_spread` and `student_spread` are
    (slowest - fastest) / median pass of a speed, and None for the rest.
    """

    quantity: str
    teacher: float
    student: float
    num_beams: int | None = None
    batch_size: int | None = None
    teacher_spread: float | None = None
    student_spread: float | None = None

    @property
    def ratio(self) -> float | None:
        """Student / teacher: the speed-up for a speed, what is left for a size. None if the teacher's is 0."""
        return self.student / self.teacher if self.teacher else None

    @property
    def setting(self) -> str:
        """How it was decoded, for people: "beam 5, batch 32"; empty where that has no part in it."""
        parts = [] if self.num_beams is None else ["greedy" if self.num_beams == 1 else f"beam {self.num_beams}"]
        return ", ".join(parts if self.batch_size is None else [*parts, f"batch {self.batch_size}"])

    @property
    def label(self) -> str:
        """The quantity with the setting it was measured in, for people."""
        name = self.quantity.replace("_per_second", "/s").replace("_", " ")
        return f"{name} ({self.setting})" if self.setting else name


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.2f}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Teacher and student side by side, as `compare` measured them.

    Attributes:
        rows: one `ComparisonRow` per quantity and setting.
        signatures: sacreBLEU's signature by metric.
        environment: device, threads and library versions; speeds hold for it alone.
        sentences: the sentences scored; `speed_sentences` of them were timed.
        outputs: each sentence's `source`, `reference` and what `teacher` and `student` made of it, by the first of the
            searches.
    """

    rows: tuple[ComparisonRow, ...]
    signatures: dict[str, str]
    environment: dict[str, Any]
    sentences: int
    speed_sentences: int
    outputs: tuple[dict[str, Any], ...] = dataclasses.field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON, each row with its `ratio` and `label`; `from_dict` is the way back."""
        derived = [{**dataclasses.asdict(row), "ratio": row.ratio, "label": row.label} for row in self.rows]
        return {**dataclasses.asdict(self), "rows": derived, "outputs": list(self.outputs)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Comparison:
        """The comparison that `to_dict` wrote."""
        names = [field.name for field in dataclasses.fields(ComparisonRow)]
        rows = tuple(ComparisonRow(**{name: row[name] for name in names}) for row in values["rows"])
        return cls(**{**values, "rows": rows, "outputs": tuple(values.get("outputs", ()))})

    def cells(self) -> list[tuple[str, str, str, str]]:
        """The table as text: label, teacher, student, ratio."""
        ratios = ["" if row.ratio is None else f"{row.ratio:.2f}x" for row in self.rows]
        return [
            (row.label, _number(row.teacher), _number(row.student), ratio)
            for row, ratio in zip(self.rows, ratios, strict=True)
        ]

    def to_markdown(self) -> str:
        """A Markdown table, followed by the signatures."""
        lines = ["| | teacher | student | student / teacher |", "|---|---:|---:|---:|"]
        lines += ["| " + " | ".join(cells) + " |" for cells in self.cells()]
        notes = [f"{name}: `{signature}`" for name, signature in self.signatures.items()]
        return "\n".join(lines + (["", "; ".join(notes)] if notes else [])) + "\n"

    def __str__(self) -> str:
        table = Table(title=f"teacher and student, {self.sentences} sentences")
        table.add_column("")
        for heading in ("teacher", "student", "student / teacher"):
            table.add_column(heading, justify="right")
        for cells in self.cells():
            table.add_row(*cells)
        console = Console(file=io.StringIO(), width=100)
        console.print(table)
        for note in busy_note(spread for row in self.rows for spread in (row.teacher_spread, row.student_spread)):
            console.print(note)
        return console.file.getvalue()


def busy_note(spreads: Iterable[float | None]) -> list[str]:
    """A line that says so, if speeds spread as those of a busy machine do; none if not."""
    widest = max((spread for spread in spreads if spread is not None), default=0.0)
    note = f"speeds spread by up to {widest:.0%}: the machine is busy; repeat this when it is not"
    return [note] if widest > BUSY else []


def environment_of(device: torch.device) -> dict[str, Any]:
    """What a speed depends on beside the model: device, threads and version of torch."""
    on_gpu = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if on_gpu else platform.processor() or platform.machine()
    return {"device": f"{device.type} ({name})", "threads": torch.get_num_threads(), "torch": torch.__version__}


def _score_rows(models, sources, references, metrics, tokenize, beams, batch_size, advance):
    """Rows of scores, the signatures, and the outputs of the first search. `models` is teacher and student, each with
    its tokenizer."""
    rows, signatures, first = [], {}, []
    for num_beams in beams:
        scores, found = [], []
        for model, tokenizer in models:
            found.append(translate_within(model, tokenizer, sources, batch_size, num_beams, advance))
            values, signatures = _evaluate(found[-1], references, metrics, tokenize)
            scores.append(values)
        rows += [ComparisonRow(name, scores[0][name], scores[1][name], num_beams) for name in scores[0]]
        first = first or found
    names = ("source", "reference", "teacher", "student")
    columns = zip(sources, references, *first, strict=True)
    return rows, signatures, tuple(dict(zip(names, column, strict=True)) for column in columns)


def _speed_rows(models, sources, num_beams: int, batch_size: int, advance) -> list[ComparisonRow]:
    options = {"batch_size": batch_size, "num_beams": num_beams, "repeats": REPEATS, "warmup": WARMUP}
    speeds = []
    for model, tokenizer in models:
        speeds.append(decoding_speed(model, tokenizer, sources, **options))
        advance((REPEATS + WARMUP) * len(sources))
    teacher, student = speeds
    return [
        ComparisonRow(name, teacher[name], student[name], num_beams, batch_size, teacher["spread"], student["spread"])
        for name in ("tokens_per_second", "sentences_per_second")
    ]


def check_comparison(
    metrics: Sequence[str],
    num_beams: Sequence[int],
    batch_sizes: Sequence[int],
    speed_sentences: int = 64,
    tokenize: str = "13a",
) -> None:
    """What `compare` would refuse of its settings, asked before models are loaded or a student is trained.

    Raises:
        ValueError: an unknown metric or `tokenize`; no beams or batch sizes, or a number below 1.
    """
    _check_metrics(metrics, tokenize)
    for name, numbers in (("num_beams", num_beams), ("batch_sizes", batch_sizes)):
        if not isinstance(numbers, Sequence) or not numbers or min(numbers) < 1:
            raise ValueError(f"found {name}={numbers!r}: expected at least one number, none below 1, such as (1, 5)")
    if speed_sentences < 1:
        raise ValueError(f"found speed_sentences={speed_sentences}: expected at least 1")


def compare(
    teacher,
    student,
    tokenizer,
    sources: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    *,
    metrics: Sequence[str] = ("bleu", "chrf"),
    num_beams: Sequence[int] = (1,),
    batch_sizes: Sequence[int] = (1, 32),
    speed_sentences: int = 64,
    tokenize: str = "13a",
    progress: bool = False,
    student_tokenizer=None,
) -> Comparison:
    """Measure teacher and student under the same conditions: scores, sizes and decoding speeds.

    Args:
        teacher, student: models, each on its own device. Compare speeds on one device only.
        tokenizer: the tokenizer of both, or of the teacher.
        sources: strings, with their prefix if the model wants one.
        references: one string, or a list of strings, per source.
        metrics: names from `METRICS`.
        num_beams: the searches to be scored and timed; `(1, 5)` gives greedy and beam 5.
        batch_sizes: the batch sizes to be timed, sentences. Scores are computed with the largest.
        speed_sentences: the first so many sources are timed (one warm-up pass, the median of three).
        tokenize: sacreBLEU's tokenizer for BLEU.
        progress: show a progress bar with the time left; it stands still while the clock runs.
        student_tokenizer: of a student whose vocabulary is not the teacher's. Tokens/s then count each model's own
            tokens: compare sentences/s.

    Returns:
        A `Comparison`. A student which writes shorter outputs needs less time for the same sentences: tokens/s and
        sentences/s are both given, because only one of them shows that.

    Raises:
        ValueError: sources and references differ in number or are empty, or settings that `check_comparison` refuses.

    Example:
        >>> print(compare(teacher, student, tokenizer, sources, references, num_beams=(1, 5)))  # doctest: +SKIP
    """
    check_comparison(metrics, num_beams, batch_sizes, speed_sentences, tokenize)
    if not sources or len(sources) != len(references):
        raise ValueError(
            f"found {len(sources)} sources and {len(references)} references: "
            "expected the same number of both, and at least one"
        )
    _as_lists(references)
    if "bleu" in metrics or "chrf" in metrics:
        _streams(references)
    models = ((teacher, tokenizer), (student, student_tokenizer or tokenizer))
    sizes = [model_size(model) for model, _ in models]  # writes the models, which fails before hours of translating
    timed = list(sources)[:speed_sentences]
    passes = (REPEATS + WARMUP) * len(batch_sizes)
    total = len(models) * len(num_beams) * (len(sources) + passes * len(timed))
    with Stage("evaluation", total, "sentences", enabled=progress, refresh=False) as stage:
        rows, signatures, outputs = _score_rows(
            models, sources, references, metrics, tokenize, num_beams, max(batch_sizes), stage.advance
        )
        rows += [ComparisonRow(name, sizes[0][name], sizes[1][name]) for name in sizes[0]]
        for beams in num_beams:
            for batch_size in batch_sizes:
                rows += _speed_rows(models, timed, beams, batch_size, stage.advance)
    return Comparison(tuple(rows), signatures, environment_of(student.device), len(sources), len(timed), outputs)
