"""The whole way in minutes on two cores: a teacher, its translations, students by several ways, one table.

Everything is made here: generated English-German text, a small Marian teacher trained on it, and students of one shape
that get the same teacher translations and the same number of updates, so that only the way they are made differs.
"""

import contextlib
import json
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from datasets import Dataset, DatasetDict
from rich.console import Console
from rich.table import Table
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
)

from .card import SEQUENCE_LEVEL_KD
from .config import StudentShape, WeightDistillConfig
from .corpus import build_marian_tokenizer, built_in_corpus
from .data import load_pairs, tokenize_pairs
from .distiller import WeightDistiller
from .evaluation import Comparison, ComparisonRow
from .objectives import build_objectives
from .precision import bf16_pays
from .progress import clock
from .recipes import recipe_config
from .report import loss_curves, quality_against_speed
from .teachers.pseudo_labels import generate_pseudo_labels, teacher_pairs
from .trainer import WeightDistillTrainer, WeightDistillTrainingArguments
from .training_progress import TrainingProgress

SETTINGS_FILE = "settings.json"
SHOWN = 3  # test sentences printed with the student's translation, the first ones whatever comes out


# Peak rates, each the best on the validation split (500 sentences, one seed, BLEU). The first way after 600 updates
# from 8,000 labels, the others after 500 from 7,000:
#   rate      4e-3   6e-3   8e-3   9e-3  13e-3
#   random     0.3           0.6           0.3
#   copied            69.3          69.6   64.4
#   default           72.3          72.7
# Copied are the last layers of each group; the first ones have 66.7 at 9e-3.
# Every way gains from a higher rate until it is unstable, so that one rate for all would favour one of them.
LEARNING_RATES = {"random": 8e-3, "copied": 9e-3, "default": 9e-3}


@dataclass(frozen=True)
class DemoSettings:
    """Sizes of the demo; the defaults take about five minutes on one core, which is all it uses of a CPU.

    Args:
        train_sentences: sentence pairs that the teacher learns from.
        test_sentences: sentence pairs that are scored.
        vocab_size: joint SentencePiece vocabulary.
        layers: of the teacher's encoder, and of its decoder.
        d_model: width of the teacher.
        ffn_dim: neurons of its feed-forward layers.
        heads: attention heads.
        teacher_updates: updates of the teacher.
        teacher_learning_rate: its peak learning rate.
        student: shape of all students.
        labelled_sentences: training sentences that the teacher translates for the students.
        num_beams: beam of these translations.
        updates: updates of each student, both phases together.
        learning_rates: peak learning rate of each way.
        tokens_per_batch: tokens of the longer side a batch, padding included.
        speed_sentences: test sentences whose decoding is timed.
        seed: of all that is random.
    """

    train_sentences: int = 20_000
    test_sentences: int = 400
    vocab_size: int = 1_000
    layers: int = 4
    d_model: int = 128
    ffn_dim: int = 256
    heads: int = 4
    teacher_updates: int = 750
    teacher_learning_rate: float = 3e-3
    student: dict[str, Any] = field(
        default_factory=lambda: {"decoder_layers": 1, "d_model": 64, "ffn_dim": 128, "attention_heads": 2}
    )
    labelled_sentences: int = 7_000
    num_beams: int = 1
    updates: int = 500
    learning_rates: dict[str, float] = field(default_factory=lambda: dict(LEARNING_RATES))
    tokens_per_batch: int = 1_500
    speed_sentences: int = 24
    seed: int = 1


@dataclass(frozen=True)
class Arm:
    """One way to a student: its name in the table, what it does, its configuration without training arguments."""

    name: str
    what: str
    config: WeightDistillConfig


def arms(paper: bool) -> dict[str, Arm]:
    """The ways that are compared. Only the start differs between the first three."""
    default = recipe_config("default")
    found = {
        "random": Arm(
            "KD from random weights",
            "a fresh student learns from the teacher's translations",
            replace(default, start="random"),
        ),
        "copied": Arm(
            "copied layers",
            "the student starts as teacher layers, projected to its width, and learns on from there",
            replace(default, reconstruction="none"),
        ),
        "default": Arm(
            "weight distillation",
            "the same, and every matrix is fitted to what the teacher computes before training (recipe 'default')",
            default,
        ),
    }
    if paper:
        found["paper"] = Arm(
            "paper's recipe",
            "the published generator and optimizer; made for 30,000 updates a phase, so that it stays far behind here",
            recipe_config("paper"),
        )
    return found


def run_demo(output_dir: Path, paper: bool = False, settings: DemoSettings | None = None) -> int:
    """Trains a teacher, distils it in three ways (four with ``paper``) and compares them.

    Args:
        output_dir: a new or empty folder, or one of an earlier demo with the same settings: its teacher and the
            teacher's translations are then taken over, the students are made anew.
        paper: adds the published recipe at the same, for it far too small, number of updates.
        settings: sizes.

    Returns:
        0.

    Raises:
        ValueError: ``output_dir`` holds something else.
    """
    demo = _Demo(Path(output_dir), settings or DemoSettings(), paper)
    with _quiet(), _one_thread():
        demo.run()
    return 0


class _Demo:
    """The stages, in the order in which they run."""

    def __init__(self, folder: Path, settings: DemoSettings, paper: bool) -> None:
        self.folder, self.settings = folder, settings
        self.arms = arms(paper)
        self.console = Console(file=sys.stdout, highlight=False)
        self.stage, self.stages, self.begun = 0, len(self.arms) + 5, time.perf_counter()
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

    def run(self) -> None:
        _claim(self.folder, self.settings)
        corpus = self.make_corpus()
        self.train_teacher(corpus)
        taught = self.label(corpus)
        test = _pairs(corpus, "test")
        distillers, minutes = {}, {}
        for key in self.arms:
            started = time.perf_counter()
            distillers[key] = self.distill(key, taught)
            minutes[key] = (time.perf_counter() - started) / 60
        comparisons = self.evaluate(distillers, test)
        rows = _rows(self.arms, comparisons, minutes)
        self.write(rows, distillers, test)
        self.console.print(_table(rows, self.settings))
        self.console.print(_NOTES, soft_wrap=True)
        self.translate(test)

    def say(self, text: str) -> None:
        self.stage += 1
        seconds = time.perf_counter() - self.begun
        self.console.print(f"\n[bold][{self.stage}/{self.stages}][/bold] {clock(seconds)}  {text}", soft_wrap=True)

    # --- the stages ---

    def make_corpus(self) -> DatasetDict:
        s = self.settings
        self.say(f"Making {s.train_sentences:,} English-German sentence pairs; nothing is downloaded")
        return built_in_corpus(train=s.train_sentences, validation=0, test=s.test_sentences)

    def train_teacher(self, corpus: DatasetDict) -> None:
        s, folder = self.settings, self.folder / "teacher"
        size = f"{s.layers}+{s.layers} layers, width {s.d_model}"
        if folder.exists():
            self.say(f"The teacher ({size}) of the earlier demo is taken over")
            return
        self.say(f"Training the teacher, a Marian model of {size}: {s.teacher_updates} updates")
        pairs = _pairs(corpus, "train")
        draft = self.folder / "teacher.draft"
        shutil.rmtree(draft, ignore_errors=True)
        tokenizer = build_marian_tokenizer(pairs["source"][:10_000] + pairs["target"][:10_000], draft, s.vocab_size)
        teacher = _fresh_teacher(tokenizer, s)
        arguments = self.arguments(s.teacher_updates, s.teacher_learning_rate)
        trainer = WeightDistillTrainer(
            teacher,
            args=WeightDistillTrainingArguments(output_dir=str(self.folder / "runs" / "teacher"), **arguments),
            objectives=build_objectives({"cross_entropy": 1.0}, label_smoothing=0.1),
            train_dataset=tokenize_pairs(pairs, tokenizer),
            data_collator=DataCollatorForSeq2Seq(tokenizer),
            callbacks=[TrainingProgress(self.console)],
        )
        trainer.train()
        teacher.config.use_cache = True  # the trainer switches it off
        teacher.save_pretrained(draft)
        draft.rename(folder)

    def label(self, corpus: DatasetDict) -> Dataset:
        s = self.settings
        self.say(f"The teacher translates {s.labelled_sentences:,} training sentences: what every student learns from")
        distiller = self.distiller(recipe_config("default"))
        pairs = _pairs(corpus, "train").select(range(min(s.labelled_sentences, len(corpus["train"]))))
        folder = self.folder / "pseudo_labels"
        labelled = generate_pseudo_labels(
            distiller.teacher, distiller.tokenizer, pairs, folder, num_beams=s.num_beams, batch_size=64
        )
        return teacher_pairs(labelled)

    def distill(self, key: str, taught: Dataset) -> WeightDistiller:
        arm, s = self.arms[key], self.settings
        self.say(f"{arm.name}: {arm.what}; {s.updates} updates")
        distiller = self.distiller(self.configured(key))
        with TrainingProgress(self.console) as progress:
            distiller.distill(taught, output_dir=self.folder / "runs" / key, callbacks=[progress])
        return distiller

    def evaluate(self, distillers: dict[str, WeightDistiller], test: Dataset) -> dict[str, Comparison]:
        s, found = self.settings, {}
        self.say(f"Scoring and timing teacher and students on {len(test):,} sentences that none has seen")
        for key, distiller in distillers.items():
            found[key] = distiller.evaluate(test, batch_sizes=(1, 32), speed_sentences=s.speed_sentences)
            self.console.print(f"      {self.arms[key].name}: done")
        return found

    def write(self, rows: list[dict[str, Any]], distillers: dict[str, WeightDistiller], test: Dataset) -> None:
        self.say(f"Writing the student, the table and two pictures to {self.folder}")
        distiller = distillers["default"]
        distiller.save_pretrained(
            self.folder / "student",
            model_name="hf-weight-distill-demo",
            teacher_name=str((self.folder / "teacher").resolve()),  # the card shows a folder without its path
            languages=("en", "de"),
            dataset="generated English-German sentences",
            eval_split="test",
            training=distiller.description() | {"teacher": "teacher"},  # not the path on this machine
            components=(SEQUENCE_LEVEL_KD,),
            example=test["source"][0],
        )
        content = {"settings": asdict(self.settings), "rows": rows}
        (self.folder / "results.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        quality_against_speed(rows, self.folder / "quality_against_speed.png")
        histories = {self.arms[key].name: distiller.history for key, distiller in distillers.items()}
        loss_curves(histories, self.folder / "loss_curves.png")

    def translate(self, test: Dataset) -> None:
        """The first test sentences, by the saved student and stock transformers."""
        folder, shown = self.folder / "student", test[:SHOWN]
        model = AutoModelForSeq2SeqLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        outputs = model.generate(**tokenizer(shown["source"], return_tensors="pt", padding=True), max_new_tokens=60)
        found = tokenizer.batch_decode(outputs, skip_special_tokens=True)
        self.console.print("\nThe first test sentences, by the saved student:")
        for source, target, expected in zip(shown["source"], found, shown["target"], strict=True):
            self.console.print(f"    {source}\n    -> {target}\n       (expected: {expected})", soft_wrap=True)
        self.console.print(_USE.format(folder=str(folder), sentence=shown["source"][0]), markup=False, soft_wrap=True)
        self.console.print(f"All done in {clock(time.perf_counter() - self.begun)}.")

    # --- settings ---

    def arguments(self, updates: int, learning_rate: float) -> dict[str, Any]:
        """Training arguments that the teacher and all students share."""
        return {
            "max_steps": updates,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": 0.02},
            "warmup_steps": 0.125,
            "adam_beta2": 0.98,
            "max_tokens_per_batch": self.settings.tokens_per_batch,
            "bf16": bf16_pays(self.device),
            "seed": self.settings.seed,
            "logging_steps": max(1, self.settings.updates // 20),
            "save_strategy": "no",
            "disable_tqdm": True,
            "report_to": "none",
            "use_cpu": self.device == "cpu",
        }

    def configured(self, key: str) -> WeightDistillConfig:
        """An arm's configuration with this demo's updates. The labels are made already, and are the same for all."""
        config, updates = self.arms[key].config, self.settings.updates
        first = round(updates * _share_of_phase_1(config))
        phases = {"generator_args": first, "finetune_args": updates - first}
        values = {name: self.phase(key, getattr(config, name), steps) for name, steps in phases.items()}
        return replace(config, pseudo_labels="none", **values)

    def phase(self, key: str, recipe: dict[str, Any], updates: int) -> dict[str, Any]:
        """Training arguments of one phase: the paper's recipe keeps its own optimizer, with the warm-up's share."""
        shared = self.arguments(updates, self.settings.learning_rates.get(key) or recipe["learning_rate"])
        if key != "paper":
            return {name: value for name, value in recipe.items() if name not in shared} | shared
        own = {name: value for name, value in recipe.items() if name not in ("max_steps", "max_tokens_per_batch")}
        own |= {"warmup_steps": recipe["warmup_steps"] / recipe["max_steps"], "lr_scheduler_kwargs": None}
        return shared | own

    def distiller(self, config: WeightDistillConfig) -> WeightDistiller:
        """A distiller with a teacher of its own. On a CPU eager attention in bf16 is twice as fast as the fused one."""
        torch.manual_seed(self.settings.seed)
        options = {"attn_implementation": "eager"} if self.device == "cpu" else {}
        student = StudentShape(**self.settings.student)
        distiller = WeightDistiller.from_pretrained(self.folder / "teacher", student=student, config=config, **options)
        distiller.teacher.to(self.device)
        return distiller


_NOTES = """\
tokens/s: greedy search, one sentence at a time. minutes: of training.
One seed and few updates: a point or two of BLEU between students is chance."""
_USE = """
How to use the student, anywhere where transformers is installed:

    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    model = AutoModelForSeq2SeqLM.from_pretrained("{folder}")
    tokenizer = AutoTokenizer.from_pretrained("{folder}")
    batch = tokenizer(["{sentence}"], return_tensors="pt")
    print(tokenizer.batch_decode(model.generate(**batch, max_new_tokens=60), skip_special_tokens=True))
"""


# --- the folder ------------------------------------------------------------------------------------------------------


def _claim(folder: Path, settings: DemoSettings) -> None:
    """Marks the folder as this demo's, and clears what a repetition makes anew."""
    marker, wanted = folder / SETTINGS_FILE, json.loads(json.dumps(asdict(settings)))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        found = json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else None
        if found != wanted:
            what = "a demo with other settings" if found else "no demo"
            raise ValueError(
                f"the folder {str(folder)!r} is not empty and holds {what}: choose another output_dir, or delete it"
            )
        for name in ("runs", "student"):
            shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    marker.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")


# --- data and teacher ------------------------------------------------------------------------------------------------


def _pairs(corpus: DatasetDict, split: str) -> Dataset:
    return load_pairs(corpus, split, source_lang="en", target_lang="de")


def _fresh_teacher(tokenizer: MarianTokenizer, s: DemoSettings) -> MarianMTModel:
    """A Marian model with the conventions of the public checkpoints: pad starts the decoder, its embedding is zero."""
    torch.manual_seed(s.seed)
    pad = tokenizer.pad_token_id
    config = MarianConfig(
        vocab_size=len(tokenizer),
        d_model=s.d_model,
        encoder_layers=s.layers,
        decoder_layers=s.layers,
        encoder_ffn_dim=s.ffn_dim,
        decoder_ffn_dim=s.ffn_dim,
        encoder_attention_heads=s.heads,
        decoder_attention_heads=s.heads,
        max_position_embeddings=128,
        activation_function="swish",
        scale_embedding=True,
        dropout=0.0,  # a handful of epochs over generated text: nothing is learned by heart
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=pad,
        attn_implementation=None if torch.cuda.is_available() else "eager",
    )
    teacher = MarianMTModel(config)
    with torch.no_grad():
        teacher.get_input_embeddings().weight[pad] = 0
    teacher.generation_config.bad_words_ids = [[pad]]
    return teacher


def _share_of_phase_1(config: WeightDistillConfig) -> float:
    first, second = (args.get("max_steps", 0) for args in (config.generator_args, config.finetune_args))
    return first / (first + second)


# --- the table -------------------------------------------------------------------------------------------------------


def _rows(arms: dict[str, Arm], comparisons: dict[str, Comparison], minutes: dict[str, float]) -> list[dict[str, Any]]:
    """The teacher, measured beside the default student, and one row a student."""
    names = ("bleu", "chrf", "parameters", "tokens_per_second")
    default = _by_quantity(comparisons["default"])
    rows = [{"name": "teacher", **{name: default[name].teacher for name in names}, "minutes": None}]
    for key, comparison in comparisons.items():
        found = _by_quantity(comparison)
        rows.append({"name": arms[key].name, **{name: found[name].student for name in names}, "minutes": minutes[key]})
    return rows


def _by_quantity(comparison: Comparison) -> dict[str, ComparisonRow]:
    """Speeds of one sentence at a time: in larger batches a student that never ends its sentences looks faster."""
    return {row.quantity: row for row in comparison.rows if row.batch_size in (None, 1)}


def _table(rows: list[dict[str, Any]], s: DemoSettings) -> Table:
    table = Table(title=f"\nThe same teacher, labels, shape and {s.updates} updates for every student")
    table.add_column("")
    for heading in ("BLEU", "chrF", "parameters", "tokens/s", "minutes"):
        table.add_column(heading, justify="right")
    for row in rows:
        minutes = "" if row["minutes"] is None else f"{row['minutes']:.1f}"
        numbers = (f"{row['bleu']:.1f}", f"{row['chrf']:.1f}", f"{row['parameters']:,}")
        table.add_row(row["name"], *numbers, f"{row['tokens_per_second']:,.0f}", minutes)
    return table


# --- what is seen meanwhile ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread is enough here; two that wait for each other on busy cores were seen to be several times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Only this module speaks; afterwards the libraries speak as before."""
    logs, bars = transformers.logging, transformers.logging.is_progress_bar_enabled()
    level, data_bars = logs.get_verbosity(), datasets.are_progress_bars_disabled()
    logs.set_verbosity_error()
    logs.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Recommended: pip install sacremoses")
            yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()
        if not data_bars:
            datasets.enable_progress_bars()
