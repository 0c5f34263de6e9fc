"""``WeightDistiller``: teacher in, student out. Both phases, read from top to bottom."""

import contextlib
import copy
import hashlib
import json
import math
import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import PartialState
from accelerate.state import AcceleratorState
from datasets import Dataset, IterableDataset, concatenate_datasets
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from . import __version__
from .adapters import (
    IN_MEMORY,
    MergedAdapter,
    add_lora,
    hub_options,
    load_teacher,
    load_tokenizer,
    merge_adapters,
    probe_logits,
)
from .arguments import (
    WeightDistillTrainingArguments,
    check_stream,
    check_training,
    phase_arguments,
    with_learning_rate,
    with_whole_translations,
)
from .calibration import Batch
from .card import CardInfo, inherited_fields, shape_table, without_paths, write_card
from .checks import check_decoder, check_lengths, check_run, check_teacher, phase_objectives
from .config import GOLD_FROM_PAIRS, GOLD_FROM_PASSES, StudentShape, WeightDistillConfig, options_of
from .data import (
    PlainCollator,
    check_features,
    check_fits,
    check_tokenizer,
    fingerprint,
    load_pairs,
    open_table,
    save_tokenizer,
    split_name,
    tokenize_pairs,
)
from .evaluation import Comparison, compare, own_bound
from .files import write_json, write_whole_folder
from .hub import check_repo_id, push_folder
from .languages import check_languages, direction, forced_direction, set_languages, warn_of_no_language
from .methods import components, method, phases_that_trained
from .model import WeightDistillModel
from .plan import WeightPlan, build_plan, tensors_of
from .recipes import nearest_recipe, recipe_config
from .record import RUN_FILE, SCORES_FILE, RunRecord
from .runs import check_folders, check_same_content, last_checkpoint, write_or_compare
from .schedules import build_schedules
from .sources import SOURCES
from .starts import random_start, student_start, teacher_start
from .teachers.logit_cache import TeacherCache, build_teacher_cache, check_top_k
from .teachers.pseudo_labels import generate_pseudo_labels, inherited_generation_settings, teacher_pairs
from .teachers.resumable import teacher_fingerprint
from .trainer import WeightDistillTrainer, passes, token_batches
from .vocabulary import choose_tokens, count_tokens, load_trimmed, needs_text, save_trimmed, trim_vocabulary

DatasetLike = Dataset | IterableDataset | str | os.PathLike
CALIBRATION_BATCH = 32
FEATURES = ("input_ids", "attention_mask", "labels")
GENERATED = "generated_student"  # folder of what phase 1 made


class WeightDistiller:
    """Turns a seq2seq teacher into a small stock student.

    Args:
        teacher: Marian, BART, mBART, Pegasus, M2M100/NLLB, T5, mT5 or UMT5 model in float32; a ``PeftModel`` of one is
            copied and its adapter merged into the copy.
        tokenizer: the teacher's; ``None`` where only weights are wanted.
        student: shape of the student.
        recipe: ``"default"``, where neither is given, ``"generator"``, ``"paper"``, ...: the start of ``config``.
        config: replaces the recipe's configuration; without ``recipe`` it goes by the name of the nearest one.

    Raises:
        ValueError: no encoder-decoder, an unknown family, adapters that cannot be merged, half or quantized precision,
            a tokenizer that is not the model's, a shape that the family cannot express, a smaller vocabulary without a
            tokenizer.

    Attributes:
        teacher, tokenizer: as given; with ``StudentShape.vocab`` cut down to the student's vocabulary as soon as it is
            known (:meth:`trim_vocabulary`).
        plan: what feeds what.

    Example:
        >>> distiller = WeightDistiller.from_pretrained(
        ...     "Helsinki-NLP/opus-mt-en-ro", student=StudentShape(decoder_layers=1)
        ... )                                                              # doctest: +SKIP
        >>> student = distiller.distill(train_dataset, eval_dataset)       # doctest: +SKIP
        >>> distiller.save_pretrained("opus-mt-en-ro-6-1")                 # doctest: +SKIP
    """

    def __init__(
        self,
        teacher: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        student: StudentShape,
        recipe: str | None = None,
        config: WeightDistillConfig | None = None,
    ) -> None:
        check_teacher(teacher)
        teacher = merge_adapters(teacher)
        if tokenizer is not None:
            check_tokenizer(tokenizer, teacher.config)
            warn_of_no_language(teacher, tokenizer)
        elif student.vocab is not None:
            raise ValueError(f"vocab={student.vocab!r} needs a tokenizer: give the teacher's to WeightDistiller")
        self.teacher, self.tokenizer = teacher.eval(), tokenizer
        self._given = self.teacher, self.tokenizer  # before the vocabulary is trimmed
        self._kept_ids: list[int] | None = None
        self.shape = student
        self.recipe = recipe or (nearest_recipe(config) if config else "default")
        self.config = config or recipe_config(self.recipe)
        self.plan: WeightPlan = build_plan(teacher, student, self.config.dropout)
        self.comparison: Comparison | None = None
        self.history: dict[str, list[dict[str, float]]] = {}
        self._model: WeightDistillModel | None = None
        self._student: PreTrainedModel | None = None
        self._generated: Path | None = None  # folder of what phase 1 made, where a resumed run took it from there
        self._run: Path | None = None
        self._device: torch.device | None = None  # where runs compute
        self._record = RunRecord(None)
        self._data: dict[str, str | None] = {}  # names of data sets, for the card
        self._told: dict[str, Any] = {}  # of the card, by the user
        self.summary: dict[str, Any] = {}  # what schedules and adapters of phase 2 made of the student
        if student.vocab is not None and not needs_text(student.vocab):
            self._trim(None)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        *,
        student: StudentShape,
        recipe: str | None = None,
        config: WeightDistillConfig | None = None,
        src_lang: str | None = None,
        tgt_lang: str | None = None,
        **kwargs: Any,
    ) -> "WeightDistiller":
        """Loads teacher and tokenizer from the Hub or a folder.

        Args:
            name_or_path: repository or folder, of a model or of a PEFT adapter, whose base is loaded then.
            student, recipe, config: as in the constructor.
            src_lang, tgt_lang: codes of a multilingual tokenizer (NLLB, M2M100, mBART): see
                :func:`hf_weight_distill.languages.set_languages`.
            kwargs: of ``from_pretrained`` (``revision``, ``cache_dir``, ``token``, ...).
        """
        name_or_path = str(name_or_path)
        teacher = load_teacher(name_or_path, **kwargs)
        tokenizer = load_tokenizer(name_or_path, **hub_options(kwargs))  # it would save the others
        set_languages(tokenizer, teacher, src_lang, tgt_lang)
        return cls(teacher, tokenizer, student=student, recipe=recipe, config=config)

    # --- the parts ---

    @property
    def model(self) -> WeightDistillModel:
        """The phase-1 module. Before :meth:`calibrate` or :meth:`distill` its start is made from weights alone."""
        if self._model is None:
            if self.shape.vocab is not None and self._kept_ids is None:
                raise ValueError(
                    f"vocab={self.shape.vocab!r}: the student's tokens are not known before the training text is seen; "
                    "call trim_vocabulary(train_dataset), or distill"
                )
            self._model = self._build_model(None)
        return self._model

    @property
    def student(self) -> PreTrainedModel:
        """The distilled student, or before that the one that phase 1 starts from, or has come to."""
        if self._student is not None:
            return self._student
        return self._finished(
            self.model.materialize() if self._generated is None else self._load_generated(self._generated)
        )

    def calibrate(self, features: DatasetLike) -> WeightDistillModel:
        """Builds the phase-1 module with a start that looks at text: see :mod:`hf_weight_distill.starts`.

        Args:
            features: what :meth:`distill` takes.
        """
        self.trim_vocabulary(features)
        self._model = self._build_model(self._calibration_batches(self.features(features)))
        self._generated = None
        return self._model

    def _build_model(self, batches: list[Batch] | None, seed: int = 0) -> WeightDistillModel:
        config = self.config
        if config.start == "random":
            start = random_start(self.plan, self.teacher, seed)
        else:
            how = {"layers": config.layers, "width": config.width, "reconstruction": config.reconstruction}
            start = teacher_start(self.plan, self.teacher, batches, **how)
        options = self._beside_run(config.source, config.source_options)
        return WeightDistillModel(self.plan, self.teacher, start, config.source, options)

    def _beside_run(self, source: str, options: dict[str, Any]) -> dict[str, Any]:
        """A source that keeps what it computed (``cache_dir``) does so beside the run, unless told otherwise."""
        if self._run is None or "cache_dir" not in options_of(SOURCES[source]):
            return options
        return {"cache_dir": str(self._run / "cache")} | options

    def _calibration_batches(self, features: Dataset | IterableDataset) -> list[Batch]:
        """The first ``calibration_sentences`` sentences."""
        count = self.config.calibration_sentences
        rows = [{name: row[name] for name in FEATURES if name in row} for row in islice(features, count)]
        rows.sort(key=lambda row: len(row["input_ids"]))
        collate = self.collator
        return [collate(rows[i : i + CALIBRATION_BATCH]) for i in range(0, len(rows), CALIBRATION_BATCH)]

    # --- vocabulary ---

    def trim_vocabulary(self, train_dataset: DatasetLike) -> None:
        """Cuts teacher and tokenizer down to the tokens that ``StudentShape.vocab`` asks for; nothing without it.

        :meth:`calibrate` and :meth:`distill` do so by themselves. Called before, it makes :attr:`plan` exact and
        :attr:`tokenizer` the student's own, which metrics of the trainer need. The first text decides; the gold targets
        count, also where pseudo labels replace them.

        Args:
            train_dataset: text pairs, as for :meth:`distill`.

        Raises:
            ValueError: a number too small for what must stay or larger than the vocabulary, a tokenizer of a kind that
                cannot be trimmed, features in place of text.
        """
        if self.shape.vocab is not None and self._kept_ids is None:
            self._trim(train_dataset)

    def _trim(self, data: DatasetLike | None, folder: Path | None = None, anew: bool = False) -> None:
        """Once for the same text: what was chosen before, in ``folder`` or here, is taken again.

        Args:
            data: to count tokens of.
            folder: to keep the choice in.
            anew: whether what lies in ``folder`` is to go.
        """
        teacher, tokenizer = self._given
        if folder is not None and anew:
            shutil.rmtree(folder, ignore_errors=True)
        if folder is not None and folder.exists():
            small = load_trimmed(teacher, tokenizer, folder)
        else:
            ids = self._kept_ids or self._chosen_tokens(data)
            if self.config.teacher_cache_top_k is not None:
                check_top_k(self.config.teacher_cache_top_k, len(ids))
            if folder is None:
                small = trim_vocabulary(teacher, tokenizer, ids)
            else:
                write_whole_folder(folder, partial(save_trimmed, tokenizer, ids))
                small = load_trimmed(teacher, tokenizer, folder)
        self.teacher, self.tokenizer, self._kept_ids = small
        sizes = {"teacher_parameters": self.plan.teacher_parameters}
        sizes["vocabulary"] = (teacher.config.vocab_size, self.teacher.config.vocab_size)
        plan = build_plan(self.teacher, replace(self.shape, vocab=None), self.config.dropout)
        self.plan = replace(plan, **sizes)
        self._model = self._student = None

    def _chosen_tokens(self, data: DatasetLike | None) -> list[int]:
        teacher, tokenizer = self._given
        counts = None
        if needs_text(self.shape.vocab):
            counts = count_tokens(self.features(data), teacher.config.vocab_size)
        return choose_tokens(teacher, tokenizer, self.shape.vocab, counts)

    # --- data ---

    def features(
        self,
        data: DatasetLike,
        pseudo_labels_dir: Path | None = None,
        default_split: str = "train",
        augment: bool = False,
    ) -> Dataset | IterableDataset:
        """Rows of ``input_ids``, ``attention_mask`` and ``labels`` from text pairs; features pass as they are.

        Args:
            data: features, or whatever :func:`hf_weight_distill.data.load_pairs` takes.
            pseudo_labels_dir: where the teacher's own translations go, which then replace the targets; ``None`` keeps
                the targets.
            default_split: of a data set that has several.
            augment: whether the teacher's translations stand beside the targets instead.
        """
        if not isinstance(data, str) or data != "built-in":  # whose languages load_pairs knows
            data = open_table(data, default_split)
        if not isinstance(data, str) and {"input_ids", "labels"} <= _columns(data):
            if pseudo_labels_dir is not None:
                raise ValueError(
                    f"pseudo_labels={self.config.pseudo_labels!r} has the teacher translate the sources, and features "
                    "(input_ids, labels) hold no text: pass text pairs, or set pseudo_labels='none'"
                )
            if self.shape.vocab is not None:
                raise ValueError(
                    f"vocab={self.shape.vocab!r} gives tokens new ids, and features (input_ids, labels) hold old ones: "
                    "pass text pairs"
                )
            check_features(data, self.teacher.config.pad_token_id)
            check_fits(data, self.teacher.config)
            return data
        if self.tokenizer is None:
            raise ValueError(
                "text pairs need a tokenizer: give one to WeightDistiller, or pass features (input_ids, labels)"
            )
        check_lengths(self.config, self.teacher)
        check_languages(self.teacher, self.tokenizer)
        pairs = load_pairs(data, default_split=default_split)
        if pseudo_labels_dir is not None:
            taught = self._pseudo_labelled(pairs, pseudo_labels_dir)
            pairs = concatenate_datasets([pairs, taught]) if augment else taught
        config = self.config
        features = tokenize_pairs(
            pairs,
            self.tokenizer,
            prefix=config.prefix,
            max_source_length=config.max_source_length,
            max_target_length=config.max_target_length,
        )
        check_features(features, self.tokenizer.pad_token_id)
        return features

    def _pseudo_labelled(self, pairs: Dataset | IterableDataset, folder: Path) -> Dataset:
        config = self.config
        if isinstance(pairs, IterableDataset):
            raise ValueError(
                "pseudo labels need a data set of known length, this one is a stream: load it without streaming, or "
                "set pseudo_labels='none' and use the kl objective"
            )
        with self._record.stage("pseudo labels"):
            labelled = generate_pseudo_labels(
                self.teacher,
                self.tokenizer,
                pairs,
                folder,
                num_beams=config.num_beams,
                length_penalty=config.length_penalty,
                max_source_length=config.max_source_length,
                max_target_length=config.max_target_length,
                prefix=config.prefix,
                batch_size=config.teacher_batch_size,
                device=self._device,
            )
        return teacher_pairs(labelled)

    def _targets(self, data: DatasetLike, phases: Sequence[WeightDistillTrainingArguments]) -> str:
        """``pseudo_labels`` of the configuration, with a choice made in place of ``"auto"``."""
        if self.config.pseudo_labels != "auto":
            return self.config.pseudo_labels
        gold = self.features(data)
        if not isinstance(gold, Dataset) or len(gold) < GOLD_FROM_PAIRS:  # a stream is refused when it is translated
            return "replace"
        read = sum(passes(gold, args) for args in phases)
        if 0 < read < 0.9:
            enough = math.ceil(read * len(gold))
            warnings.warn(
                f"training reads {read:.0%} of the {len(gold):,} pairs, and the teacher translates all of them before: "
                f"give {enough:,} of them (--train_split 'train[:{enough}]'), or raise max_steps",
                stacklevel=3,
            )
        return "augment" if read >= GOLD_FROM_PASSES else "replace"

    @property
    def collator(self) -> Callable[[list[dict[str, Any]]], Batch]:
        """Puts features into batches, as :meth:`distill` does."""
        if self.tokenizer is not None:
            return DataCollatorForSeq2Seq(self.tokenizer)
        return PlainCollator(self.teacher.config.pad_token_id)

    # --- training ---

    def distill(
        self,
        train_dataset: DatasetLike,
        eval_dataset: DatasetLike | None = None,
        *,
        output_dir: str | os.PathLike = "runs/weight-distill",
        generator_args: WeightDistillTrainingArguments | None = None,
        finetune_args: WeightDistillTrainingArguments | None = None,
        resume_from_checkpoint: bool = False,
        compute_metrics: Callable | None = None,
        callbacks: Sequence[Any] | None = None,
    ) -> PreTrainedModel:
        """Both phases: trains the generator, materialises the student, trains it on.

        Args:
            train_dataset: text pairs (see :func:`hf_weight_distill.data.load_pairs`) or features; of several splits
                ``train``.
            eval_dataset: likewise, of several splits ``validation``; the recipe's arguments then evaluate on it.
            output_dir: checkpoints of both phases, pseudo labels and the run's configuration.
            generator_args: training arguments of phase 1, in place of the configuration's; ``max_steps=0`` skips it.
            finetune_args: of phase 2.
            resume_from_checkpoint: goes on where an interrupted run in ``output_dir`` stopped, in either phase.
            compute_metrics: as in ``Seq2SeqTrainer``. For those of
                :func:`hf_weight_distill.evaluation.make_compute_metrics`, which reads translations, the recipe's
                arguments have ``predict_with_generate``; your own have to.
            callbacks: for both phases.

        Returns:
            The stock student, in evaluation mode.

        Raises:
            ValueError: before anything is trained, for data, settings or folders that cannot work.
            FloatingPointError: the loss is not finite.
            MemoryError: a batch is too large for the device.
        """
        run, config, callbacks = Path(output_dir), self.config, list(callbacks or ())
        own = {"generator_args": generator_args, "finetune_args": finetune_args}
        phases = self._phases(run, own, eval_dataset is not None, compute_metrics)
        check_folders(run, phases, resume_from_checkpoint)
        check_run(config, self.plan, self.teacher, *phases)
        for args in phases:
            check_training(args, eval_dataset is not None, compute_metrics, callbacks)
        phases = [with_whole_translations(args, self.teacher, config.max_target_length) for args in phases]
        generator_args, finetune_args = phases
        with self._unchanged_if_refused():
            self._run = self._generated = self.comparison = self._student = None  # of a run before this one
            self._data, self._told, self.summary = {}, {}, {}
            began = (run / RUN_FILE).exists()  # perhaps another run: nothing of it changes before they are compared
            self._record = RunRecord(None if began else run, generator_args.should_save)
            self._device = generator_args.device
            if self.shape.vocab is not None:
                choosing = generator_args.main_process_first(desc="choosing the vocabulary")
                with self._record.stage("vocabulary"), choosing:
                    # Of a start that failed, perhaps with other settings.
                    stale = generator_args.should_save and not began
                    self._trim(train_dataset, run / "vocabulary", anew=stale)
                check_decoder(compute_metrics, self.tokenizer)
            if config.teacher_cache_top_k is None:
                self.teacher.to(self._device)
            pseudo = None
            if config.pseudo_labels != "none":
                pseudo = Path(config.pseudo_labels_dir or run / "pseudo_labels")
            with self._record.stage("data"):
                evaluation = None if eval_dataset is None else self.features(eval_dataset, default_split="validation")
                with generator_args.main_process_first(desc="preparing the data"):
                    targets = self._targets(train_dataset, phases)
                    features = self.features(train_dataset, pseudo, augment=targets == "augment")
                    teacher = self._cached(features, run)
                for args in phases:
                    check_stream(features, args)
                    token_batches(features, args)
            made_of = {"data": fingerprint(features), "teacher": teacher_fingerprint(self._given[0])}
            if generator_args.should_save:
                named = {"train": train_dataset, "eval": eval_dataset}
                write_or_compare(run, self._run_description(own, named, made_of["teacher"]))
            if resume_from_checkpoint:
                check_same_content(run, made_of)
            self._run = run
            if began:
                self._record.move(run)
        self.history = dict(self._record.facts.get("history", {}))
        if isinstance(train_dataset, str | os.PathLike):
            self._data["dataset"] = str(train_dataset)
        arguments = {"generator": generator_args.description(), "finetune": finetune_args.description()}
        examples = len(features) if isinstance(features, Dataset) else None
        facts = {"arguments": arguments, "examples": examples, "pseudo_labels": targets}
        self._record.write(finished=False, **facts, **made_of, **self._sizes())
        datasets = {"train_dataset": features, "eval_dataset": evaluation, "teacher": teacher}
        shared = {**datasets, "compute_metrics": compute_metrics, "callbacks": list(callbacks)}
        student = self._generate(run / GENERATED, features, generator_args, shared, resume_from_checkpoint)
        self._student = self._finetune(student, finetune_args, shared, resume_from_checkpoint)
        self._record.write(finished=True)
        return self._student

    @contextlib.contextmanager
    def _unchanged_if_refused(self) -> Iterator[None]:
        """What a call that fails here has set is taken back: the student of the call before must not be lost."""
        before = dict(vars(self))
        try:
            yield
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    def _phases(
        self,
        run: Path,
        own: dict[str, WeightDistillTrainingArguments | None],
        evaluates: bool,
        compute_metrics: Callable | None,
    ) -> list[WeightDistillTrainingArguments]:
        """Arguments of both phases: the user's own, or those of the configuration."""
        for name, given in own.items():
            if not isinstance(given, WeightDistillTrainingArguments | None):
                raise ValueError(
                    f"found {type(given).__name__} for {name}, expected WeightDistillTrainingArguments: a dictionary "
                    f"goes into the configuration, by replace(config, {name}=...)"
                )
        reads = {"evaluates": evaluates, "generates": getattr(compute_metrics, "of_translations", False)}
        phases = (
            given or phase_arguments(getattr(self.config, name), run / name.removesuffix("_args"), **reads)
            for name, given in own.items()
        )
        return [with_learning_rate(args, self.plan.student_config.d_model) for args in phases]

    def _generate(
        self,
        folder: Path,
        features: Dataset | IterableDataset,
        args: WeightDistillTrainingArguments,
        shared: dict[str, Any],
        resume: bool,
    ) -> PreTrainedModel:
        """Phase 1, and across the boundary: the generated student lies in ``folder`` when it is over."""
        if resume and folder.exists():
            self._generated = folder  # phase 2 trains what it is given, and may be interrupted
            return self._load_generated(folder)
        set_seed(args.seed)  # random projections are drawn before the trainer sets it
        with self._record.stage("start"):
            self._model = self._build_model(self._calibration_batches(features), args.seed)
        before = self._model.source.inspected()
        self._train(self._model, "generator", args, shared, resume)
        groups = {c.path: c.groups for c in self.plan.generated}
        self._record.write(learned=self._model.source.inspected().learned_since(before, groups))
        student = self._finished(self._model.materialize())
        if args.should_save:
            write_whole_folder(folder, student.save_pretrained)
        return student

    def _load_generated(self, folder: Path) -> PreTrainedModel:
        kernel = self.teacher.config._attn_implementation  # not saved; another one rounds differently
        return type(self.teacher).from_pretrained(folder, dtype=torch.float32, attn_implementation=kernel)

    def _finetune(
        self, student: PreTrainedModel, args: WeightDistillTrainingArguments, shared: dict[str, Any], resume: bool
    ) -> PreTrainedModel:
        """Phase 2: the student as a plain model, with adapters, or under a source of its own."""
        config, tensors, linear = self.config, tensors_of(student), self.plan.linear
        for name in self.plan.constants:  # loaded computed positions ask for a gradient and never get one
            tensors[name].requires_grad_(False)
        schedules = build_schedules(config.schedules, linear)
        callbacks = shared["callbacks"] + schedules
        model: torch.nn.Module = student
        self.summary = {}
        if config.finetune_source is not None:
            start = {c.path: student_start(c, tensors) for c in self.plan.classes}
            options = self._beside_run(config.finetune_source, config.finetune_source_options)
            model = WeightDistillModel(self.plan, self.teacher, start, config.finetune_source, options)
        elif config.finetune_lora:
            set_seed(args.seed)  # adapters are drawn before the trainer sets it
            model = add_lora(student, sum(linear.values(), ()), config.finetune_lora, self._run / GENERATED)
            self.summary["lora"] = {"trainable_parameters": model.get_nb_trainable_parameters()[0]}
        self._train(model, "finetune", args, shared | {"callbacks": callbacks}, resume)
        plain = model.materialize() if isinstance(model, WeightDistillModel) else merge_adapters(model, in_place=True)
        self.summary |= {schedule.name: schedule.summary(plain) for schedule in schedules}
        return self._finished(plain)

    def _train(
        self,
        model: torch.nn.Module,
        phase: str,
        args: WeightDistillTrainingArguments,
        shared: dict[str, Any],
        resume: bool,
    ) -> None:
        """One phase; nothing at all with ``max_steps=0``."""
        if args.max_steps == 0:
            return
        AcceleratorState._reset_state()  # it holds the precision of the phase before
        kernel = self.teacher.config._attn_implementation
        objectives = phase_objectives(self.config, phase)
        if not any("teacher" in objective.needs for objective, _ in objectives.values()):
            self.teacher.to("cpu")  # its place on a GPU is the student's
        checkpoint = last_checkpoint(args.output_dir) if resume else None
        if checkpoint is not None:  # the patience that early stopping has left, say
            args = copy.copy(args)
            args.restore_callback_states_from_checkpoint = True
        trainer = WeightDistillTrainer(
            model,
            args=args,
            objectives=objectives,
            data_collator=self.collator,
            processing_class=self.tokenizer,
            **shared,
        )
        try:
            with self._record.stage(phase):
                trainer.train(resume_from_checkpoint=checkpoint)
        finally:
            self.history[phase] = trainer.state.log_history
            self._record.write(history=self.history)
            self.teacher.set_attn_implementation(kernel)  # objectives of attentions want another
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)  # takes autocast off forward
        trainer.accelerator.free_memory()

    def _sizes(self) -> dict[str, Any]:
        """Shape and size of teacher and student, as pairs."""
        plan, teacher = self.plan, self._given[0]
        shape = {name: list(pair) for name, pair in shape_table(teacher.config, plan.student_config).items()}
        return {"shape": shape, "parameters": [plan.teacher_parameters, plan.student_parameters]}

    def _cached(self, features: Dataset | IterableDataset, run: Path) -> PreTrainedModel | TeacherCache:
        """Who teaches: the teacher, or its cache where the configuration wants one."""
        config = self.config
        if config.teacher_cache_top_k is None:
            return self.teacher
        with self._record.stage("teacher cache"):
            return build_teacher_cache(
                self.teacher,
                features,
                config.teacher_cache_dir or run / "teacher_cache",
                tokenizer=self.tokenizer,
                data_collator=self.collator,
                top_k=config.teacher_cache_top_k,
                temperature=config.all_objective_options["temperature"],
                batch_size=config.teacher_batch_size,
                device=self._device,
            )

    def _run_description(
        self, own: dict[str, WeightDistillTrainingArguments | None], data: dict[str, DatasetLike | None], teacher: str
    ) -> dict[str, Any]:
        """What repeats this run: the description, and what ``distill`` was given, as far as it has a name."""
        description = self.description()
        description["config"] |= {name: args.settings() for name, args in own.items() if args is not None}
        named = {name: str(given) for name, given in data.items() if isinstance(given, str | os.PathLike)}
        known = {"teacher_identity": self.teacher_identity(teacher)} | forced_direction(*self._given)
        return json.loads(json.dumps(description | named | known))  # without tuples

    def teacher_identity(self, fingerprint: str | None = None) -> str:
        """SHA-256 of what the student takes from the teacher: weights, configuration, generation settings.

        Args:
            fingerprint: of the teacher, if it is known.
        """
        teacher = self._given[0]
        settings = json.dumps(inherited_generation_settings(teacher), sort_keys=True)
        return hashlib.sha256(f"{fingerprint or teacher_fingerprint(teacher)} {settings}".encode()).hexdigest()

    def description(self) -> dict[str, Any]:
        """Teacher, shape and configuration as plain values; what a run's YAML file holds."""
        return json.loads(
            json.dumps(
                {
                    "teacher": "" if self.teacher.name_or_path == IN_MEMORY else self.teacher.name_or_path,
                    "teacher_revision": getattr(self.teacher.config, "_commit_hash", None),
                    "recipe": self.recipe,
                    "student": self.shape.to_dict(),
                    "config": self.config.to_dict(),
                    "hf_weight_distill": __version__,
                }
            )
        )

    def _finished(self, student: PreTrainedModel) -> PreTrainedModel:
        """As the teacher had it: the trainer switches the cache off, and a fresh student has no generation settings."""
        student.config.use_cache = getattr(self.teacher.config, "use_cache", True)
        student.set_attn_implementation(self.teacher.config._attn_implementation)
        student.generation_config = copy.deepcopy(self.teacher.generation_config)
        return student.eval()

    # --- after training ---

    def evaluate(self, dataset: DatasetLike, split: str | None = None, **kwargs: Any) -> Comparison:
        """Teacher and student side by side: scores, size, speed. Kept for the model card, and beside the run.

        The teacher is the one that was given, with its whole vocabulary and its own tokenizer.

        Args:
            dataset: text pairs, as for :meth:`distill`.
            split: of a data set that has several; ``test`` by default.
            kwargs: of :func:`hf_weight_distill.evaluation.compare` (``num_beams``, ``metrics``, ``batch_sizes``, ...).
        """
        pairs = load_pairs(dataset, split, default_split="test")
        named = isinstance(dataset, str | os.PathLike)
        if named and split is None:
            split = split_name(dataset, pairs)
        self._data |= {"eval_dataset": str(dataset) if named else None, "eval_split": split if named else None}
        for name in ("eval_dataset", "eval_split", "comparison"):  # said of scores before these
            self._told.pop(name, None)
        sources = [self.config.prefix + source for source in pairs["source"]]
        device = self._device or self.teacher.device  # a teacher that nothing asked in training waits elsewhere
        teacher, tokenizer = self._given
        teacher, student = teacher.to(device), self.student.to(device)
        kwargs = {"student_tokenizer": self.tokenizer} | kwargs
        with self._record.stage("evaluation"):
            self.comparison = compare(teacher, student, tokenizer, sources, list(pairs["target"]), **kwargs)
        if self._run is not None and PartialState().is_main_process:
            write_json(self._run / SCORES_FILE, self.comparison.to_dict())
        return self.comparison

    def save_pretrained(self, save_directory: str | os.PathLike, **card: Any) -> None:
        """Writes model, tokenizer, generation config and model card, and loads the model again to compare logits.

        Under ``torchrun`` the first process writes and the others return at once.

        Args:
            save_directory: a new or empty folder.
            card: fields of :class:`hf_weight_distill.card.CardInfo`.

        Raises:
            ValueError: the folder is not empty.
            RuntimeError: the saved model is not the one in memory; nothing is left behind.
        """
        if not PartialState().is_main_process:
            return
        folder = Path(save_directory)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ValueError(f"the folder {str(folder)!r} exists and is not empty: choose another, or delete it")
        student = self.student
        said = {name: value for name, value in card.items() if name != "model_name"}
        card = {"model_name": folder.resolve().name} | self._told | card

        def write(target: Path) -> None:
            student.save_pretrained(target)
            if self.tokenizer is not None:
                save_tokenizer(self.tokenizer, target)
            write_card(target, self._card(**card))
            _check_export(student, target)

        write_whole_folder(folder, write)
        self._told |= said

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        **card: Any,
    ) -> str:
        """Uploads what :meth:`save_pretrained` writes, in one commit: :func:`hf_weight_distill.hub.push_folder`.

        Args:
            repo_id: ``"me/opus-mt-en-ro-6-1"``; made if it is not there.
            private: whether a repository that is made is private.
            token: by default the one that is logged in.
            revision: branch to commit to, made if it is not there.
            card: fields of :class:`hf_weight_distill.card.CardInfo`; by default those given to ``save_pretrained``.

        Returns:
            The commit's address. Under ``torchrun`` the first process uploads and the others get an empty string.

        Raises:
            ValueError: the name can be no repository's.
            OSError: the Hub refused or could not be reached. The student is kept in the folder that the message names,
                from where ``hf-weight-distill push`` goes on.
        """
        check_repo_id(repo_id)
        if not PartialState().is_main_process:
            return ""
        beside = self._run if self._run is not None and self._run.is_dir() else Path(tempfile.gettempdir())
        folder = beside / f"push-{uuid.uuid4().hex[:8]}"
        self.save_pretrained(folder, **{"model_name": repo_id} | card)
        url = push_folder(folder, repo_id, private=private, token=token, revision=revision)
        shutil.rmtree(folder)  # only now: an upload that fails must not cost the student
        return url

    def _card(self, **fields: Any) -> CardInfo:
        """What is known, what the teacher's own card says, and over both what the user gives."""
        teacher = self.teacher.name_or_path or f"a {self.plan.family.name} model in memory"  # no repository's name
        config = self.config
        phases = phases_that_trained(self._record.facts.get("arguments", {}), self._student is not None)
        known = {
            "teacher_name": teacher,
            "teacher_revision": getattr(self.teacher.config, "_commit_hash", None),
            "shape": shape_table(self._given[0].config, self.plan.student_config),
            "recipe": self.recipe,
            "training": self._training(teacher),
            "trained": bool(phases),
            "method": method(config, phases),
            "components": components(config, phases),
            "comparison": self.comparison,
            "bounded": own_bound((self._student or self.teacher).generation_config) is not None,
            "max_lengths": (config.max_source_length, config.max_target_length) if phases else None,
            "example": config.prefix + CardInfo.example,
        }
        adapter: MergedAdapter | None = getattr(self._given[0], "merged_adapter", None)
        inherited = inherited_fields(teacher, known["teacher_revision"])
        if adapter is not None:
            inherited = inherited_fields(adapter.base) | inherited
            known |= {"teacher_adapter": adapter.kind, "teacher_bases": (adapter.base,) if adapter.base else ()}
        known |= direction(self.tokenizer)
        if self.teacher.generation_config.forced_bos_token_id is None:
            known.pop("tgt_lang", None)  # the student writes in it where generation is made to
        given = {name: value for name, value in fields.items() if value not in (None, ())}
        if given.get("license") not in (None, inherited.get("teacher_license")):  # name and text of the teacher's own
            inherited = {name: value for name, value in inherited.items() if not name.startswith("license_")}
        return CardInfo(**inherited | known | self._data | given)

    def _training(self, teacher: str) -> dict[str, Any]:
        """How the student was made, for the card: settings, what training was really given, and what came of it."""
        description, facts = self.description(), self._record.facts
        description["teacher"] = teacher
        for folder in ("pseudo_labels_dir", "teacher_cache_dir"):
            description["config"].pop(folder)
        for phase, arguments in facts.get("arguments", {}).items():
            description["config"][f"{phase}_args"] = arguments
        description["config"]["pseudo_labels"] = facts.get("pseudo_labels", self.config.pseudo_labels)
        found = {
            "training_examples": facts.get("examples"),
            "seconds": self._record.seconds(),
            "result": self.summary,
        }
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        return without_paths(description | versions | {name: value for name, value in found.items() if value})


def _columns(data: Dataset | IterableDataset) -> set[str]:
    """Names of the columns; a stream that was mapped tells them only in its rows."""
    return set(data.column_names or next(iter(data), {}))


def _check_export(student: PreTrainedModel, folder: Path) -> None:
    """Loads the saved student with stock transformers and compares logits, by one kernel: others round otherwise."""
    kernel = student.config._attn_implementation
    loaded = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32, attn_implementation=kernel).eval()
    loaded = loaded.to(student.device)  # a GPU may round otherwise (TF32)
    found, expected = probe_logits(loaded), probe_logits(student)
    difference, largest = (found - expected).abs().max().item(), expected.abs().max().item()
    if type(loaded) is not type(student) or not difference <= 1e-4 * max(largest, 1.0):
        raise RuntimeError(
            f"the saved student does not give the logits of the one in memory (largest difference {difference:.2e}, "
            f"largest logit {largest:.2e}); nothing was written"
        )
