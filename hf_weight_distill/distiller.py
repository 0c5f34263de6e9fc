"""``WeightDistiller``: teacher in, student out. Both phases, read from top to bottom."""

import copy
import hashlib
import inspect
import json
import os
import shutil
import tempfile
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
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
    MergedAdapter,
    add_lora,
    check_lora,
    hub_options,
    is_adapted,
    load_teacher,
    load_tokenizer,
    merge_adapters,
    probe_logits,
)
from .calibration import Batch
from .card import (
    LORA,
    PAPERS,
    SEQUENCE_LEVEL_KD,
    CardInfo,
    Component,
    inherited_fields,
    language_of,
    shape_table,
    without_paths,
    write_card,
)
from .config import StudentShape, WeightDistillConfig
from .data import (
    check_features,
    check_tokenizer,
    fingerprint,
    language_token,
    load_pairs,
    open_table,
    save_tokenizer,
    split_name,
    tokenize_pairs,
)
from .evaluation import Comparison, compare
from .families import family_of
from .files import write_json, write_whole_folder
from .hub import check_repo_id, push_folder
from .model import WeightDistillModel, check_source
from .objectives import OBJECTIVES, build_objectives
from .plan import WeightPlan, build_plan, check_precision, stock_student, tensors_of
from .recipes import nearest_recipe, recipe_config
from .record import RUN_FILE, SCORES_FILE, RunRecord, read_settings, write_settings
from .schedules import SCHEDULES, build_schedules
from .sources import SOURCES, Inspection
from .starts import random_start, refuse_growth, student_start, teacher_start
from .teachers.logit_cache import TeacherCache, build_teacher_cache, check_top_k, target_tokens
from .teachers.pseudo_labels import generate_pseudo_labels, inherited_generation_settings, teacher_pairs
from .teachers.resumable import teacher_fingerprint
from .trainer import (
    WeightDistillTrainer,
    WeightDistillTrainingArguments,
    about_training,
    check_arguments,
    check_objectives,
    check_stream,
    check_training,
    last_checkpoint,
    refuse_in_phase_1,
    token_batches,
)
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
        _check_teacher(teacher)
        teacher = merge_adapters(teacher)
        if tokenizer is not None:
            check_tokenizer(tokenizer, teacher.config)
            _warn_of_no_language(tokenizer, teacher)
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
        **kwargs: Any,
    ) -> "WeightDistiller":
        """Loads teacher and tokenizer from the Hub or a folder.

        Args:
            name_or_path: repository or folder, of a model or of a PEFT adapter, whose base is loaded then.
            student, recipe, config: as in the constructor.
            kwargs: of ``from_pretrained`` (``revision``, ``cache_dir``, ``token``, ...).
        """
        name_or_path = str(name_or_path)
        teacher = load_teacher(name_or_path, **kwargs)
        tokenizer = load_tokenizer(name_or_path, **hub_options(kwargs))  # it would save the others
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
        """The distilled student, or before that the one that phase 1 starts from."""
        return self._student if self._student is not None else self.model.materialize()

    def calibrate(self, features: DatasetLike) -> WeightDistillModel:
        """Builds the phase-1 module with a start that looks at text: see :mod:`hf_weight_distill.starts`.

        Args:
            features: what :meth:`distill` takes.
        """
        self.trim_vocabulary(features)
        self._model = self._build_model(self._calibration_batches(self.features(features)))
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
        if self._run is None or "cache_dir" not in inspect.signature(SOURCES[source]).parameters:
            return options
        return {"cache_dir": str(self._run / "cache")} | options

    def _calibration_batches(self, features: Dataset | IterableDataset) -> list[Batch]:
        """The first ``calibration_sentences`` sentences."""
        count = self.config.calibration_sentences
        rows = [
            {name: row[name] for name in FEATURES if name in row} for row in (features.take(count) if count else ())
        ]
        rows.sort(key=lambda row: len(row["input_ids"]))
        collate = self._collator()
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

    def _trim(self, data: DatasetLike | None, folder: Path | None = None) -> None:
        """Once for the same text: what was chosen before, in ``folder`` or here, is taken again."""
        teacher, tokenizer = self._given
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
        self, data: DatasetLike, pseudo_labels_dir: Path | None = None, default_split: str = "train"
    ) -> Dataset | IterableDataset:
        """Rows of ``input_ids``, ``attention_mask`` and ``labels`` from text pairs; features pass as they are.

        Args:
            data: features, or whatever :func:`hf_weight_distill.data.load_pairs` takes.
            pseudo_labels_dir: where the teacher's own translations go, which then replace the targets or stand beside
                them, as the configuration says; ``None`` keeps the targets.
            default_split: of a data set that has several.
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
            return data
        if self.tokenizer is None:
            raise ValueError(
                "text pairs need a tokenizer: give one to WeightDistiller, or pass features (input_ids, labels)"
            )
        self._check_lengths()
        self._check_languages()
        pairs = load_pairs(data, default_split=default_split)
        if pseudo_labels_dir is not None:
            pairs = self._pseudo_labelled(pairs, pseudo_labels_dir)
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

    def _check_languages(self) -> None:
        """Whether labels begin with the language that generation is made to begin with (NLLB, M2M100, mBART-50)."""
        forced, tokenizer = self.teacher.generation_config.forced_bos_token_id, self.tokenizer
        if getattr(tokenizer, "tgt_lang", None) is None or not isinstance(forced, int):
            return
        first = tokenizer(text_target="")["input_ids"][0]
        if first != forced:
            begins, written = tokenizer.convert_ids_to_tokens([first, forced])
            raise ValueError(
                f"with tgt_lang={tokenizer.tgt_lang!r} the targets begin with {begins!r}, but the teacher's generation "
                f"settings force {written!r}: set teacher.generation_config.forced_bos_token_id and the tokenizer's "
                "tgt_lang to one language"
            )

    def _check_lengths(self) -> None:
        positions = getattr(self.teacher.config, "max_position_embeddings", None)
        for name in ("max_source_length", "max_target_length"):
            if positions is not None and getattr(self.config, name) > positions:
                raise ValueError(
                    f"{name}={getattr(self.config, name)}, but the teacher has {positions} positions: set at most that"
                )

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
        taught = teacher_pairs(labelled)
        return taught if config.pseudo_labels == "replace" else concatenate_datasets([pairs, taught])

    def _collator(self) -> Callable:
        if self.tokenizer is not None:
            return DataCollatorForSeq2Seq(self.tokenizer)
        return _PlainCollator(self.teacher.config.pad_token_id)

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
        callbacks: Sequence[Any] = (),
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
        """
        run = self._run = Path(output_dir)
        own = {"generator_args": generator_args, "finetune_args": finetune_args}
        evaluates = eval_dataset is not None
        reads = {"evaluates": evaluates, "generates": getattr(compute_metrics, "of_translations", False)}
        generator_args = generator_args or self._arguments(self.config.generator_args, run / "generator", **reads)
        finetune_args = finetune_args or self._arguments(self.config.finetune_args, run / "finetune", **reads)
        self._check_run(run, generator_args, finetune_args, resume_from_checkpoint)
        for args in (generator_args, finetune_args):
            check_training(args, evaluates, compute_metrics, callbacks)
        generator_args, finetune_args = map(self._generating, (generator_args, finetune_args))
        self.comparison, self._student = None, None  # of a run before this one
        self._data, self._told, self.summary = {}, {}, {}
        self._record = RunRecord(run, generator_args.should_save)
        self.history = dict(self._record.facts.get("history", {}))
        self._device = generator_args.device
        if self.shape.vocab is not None:
            with self._record.stage("vocabulary"), generator_args.main_process_first(desc="choosing the vocabulary"):
                self._trim(train_dataset, run / "vocabulary")
        if self.config.teacher_cache_top_k is None:
            self.teacher.to(self._device)
        pseudo = None
        if self.config.pseudo_labels != "none":
            pseudo = Path(self.config.pseudo_labels_dir or run / "pseudo_labels")
        with self._record.stage("data"):
            evaluation = None if eval_dataset is None else self.features(eval_dataset, default_split="validation")
            with generator_args.main_process_first(desc="preparing the data"):
                features = self.features(train_dataset, pseudo)
                teacher = self._cached(features, run)
            for args in (generator_args, finetune_args):
                check_stream(features, args)
                token_batches(features, args)
        made_of = {"data": fingerprint(features), "teacher": teacher_fingerprint(self._given[0])}
        if generator_args.should_save:
            named = {"train": train_dataset, "eval": eval_dataset}
            self._write_run(run, self._run_description(own, named, made_of["teacher"]))
        self._check_same(made_of, resume_from_checkpoint)
        if isinstance(train_dataset, str | os.PathLike):
            self._data["dataset"] = str(train_dataset)
        phases = {"generator": generator_args.description(), "finetune": finetune_args.description()}
        examples = len(features) if isinstance(features, Dataset) else None
        self._record.write(finished=False, arguments=phases, examples=examples, **made_of, **self._sizes())
        datasets = {"train_dataset": features, "eval_dataset": evaluation, "teacher": teacher}
        shared = {**datasets, "compute_metrics": compute_metrics, "callbacks": list(callbacks)}
        student = self._generate(run / GENERATED, features, generator_args, shared, resume_from_checkpoint)
        self._student = self._finetune(student, finetune_args, shared, resume_from_checkpoint)
        self._record.write(finished=True)
        return self._student

    def _generating(self, args: WeightDistillTrainingArguments) -> WeightDistillTrainingArguments:
        """Translations of evaluations end where targets do, and not at 20 tokens; what was given stays as it is."""
        wanted = args.predict_with_generate and args.generation_max_length is None
        if not wanted or self.teacher.generation_config.max_length is not None:
            return args
        args, longest = copy.copy(args), self.config.max_target_length + 1  # it counts the start token
        args.generation_max_length = min(longest, getattr(self.teacher.config, "max_position_embeddings", longest))
        return args

    def _check_same(self, made_of: dict[str, str | None], resume: bool) -> None:
        """Whether a run goes on with the texts and the teacher that it began with, whatever their names are."""
        for name, kind in (("data", "other data"), ("teacher", "another teacher")):
            found, content = self._record.facts.get(name), made_of[name]
            if resume and found is not None and found != content:
                raise ValueError(
                    f"the run in {str(self._run)!r} was started with {kind}: resume it with the same, or choose "
                    "another output_dir"
                )

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
            kernel = self.teacher.config._attn_implementation  # not saved; another one rounds differently
            return type(self.teacher).from_pretrained(folder, dtype=torch.float32, attn_implementation=kernel)
        set_seed(args.seed)  # random projections are drawn before the trainer sets it
        with self._record.stage("start"):
            self._model = self._build_model(self._calibration_batches(features), args.seed)
        before = self._model.source.inspected()
        self._train(self._model, "generator", args, shared, resume)
        self._record.write(learned=self._learned(before, self._model.source.inspected()))
        student = self._finished(self._model.materialize())
        if args.should_save:
            write_whole_folder(folder, student.save_pretrained)
        return student

    def _finetune(
        self, student: PreTrainedModel, args: WeightDistillTrainingArguments, shared: dict[str, Any], resume: bool
    ) -> PreTrainedModel:
        """Phase 2: the student as a plain model, with adapters, or under a source of its own."""
        config, tensors, linear = self.config, tensors_of(student), self._linear()
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

    def _linear(self) -> dict[str, tuple[str, ...]]:
        """``{path of a class: parameter names}`` of the student's attention and feed-forward matrices."""
        return {c.path: c.student_names for c in self.plan.classes if c.weight_class.role == "linear"}

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
        objectives = self._objectives(phase)
        if not any("teacher" in objective.needs for objective, _ in objectives.values()):
            self.teacher.to("cpu")  # its place on a GPU is the student's
        trainer = WeightDistillTrainer(
            model,
            args=args,
            objectives=objectives,
            data_collator=self._collator(),
            processing_class=self.tokenizer,
            **shared,
        )
        checkpoint = last_checkpoint(args.output_dir) if resume else None
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

    def _learned(self, before: Inspection, after: Inspection) -> dict[str, Any]:
        """How much each teacher layer gives to each student layer, and how far the projections have moved."""
        mixing = {
            c.path: {
                "groups": [list(group) for group in c.groups],
                "start": _mixed(before.mixing[c.path], c.groups),
                "end": _mixed(after.mixing[c.path], c.groups),
            }
            for c in self.plan.generated
            if c.path in after.mixing
        }
        return {"mixing": mixing, "moved": {name: _moved(before, after, name) for name in after.projections}}

    def _objectives(self, phase: str) -> dict:
        config = self.config
        weights = config.generator_objectives if phase == "generator" else config.finetune_objectives
        return build_objectives(weights, **self._objective_options())

    def _objective_options(self) -> dict[str, Any]:
        config = self.config
        return {"label_smoothing": config.label_smoothing, "temperature": config.temperature} | config.objective_options

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
                data_collator=self._collator(),
                top_k=config.teacher_cache_top_k,
                temperature=self._objective_options()["temperature"],
                batch_size=config.teacher_batch_size,
                device=self._device,
            )

    def _check_cache(self, phases: dict[str, WeightDistillTrainingArguments]) -> None:
        """Whether the phases that train can learn from a cache, and one of them does."""
        if self.config.teacher_cache_top_k is None:
            return
        check_top_k(self.config.teacher_cache_top_k, target_tokens(self.teacher))
        used = [o for phase, args in phases.items() if args.max_steps != 0 for o, _ in self._objectives(phase).values()]
        for objective in used:
            objective.check_cache(self._objective_options()["temperature"])
        if not any("teacher" in objective.needs for objective in used):
            raise ValueError(
                f"teacher_cache_top_k={self.config.teacher_cache_top_k}, but no objective of a phase that trains asks "
                "for the teacher: leave it out, or use kl in generator_objectives or finetune_objectives"
            )

    def _arguments(
        self, values: dict[str, Any], folder: Path, *, evaluates: bool, generates: bool
    ) -> WeightDistillTrainingArguments:
        check_arguments(f"{folder.name}_args", values)
        defaults = {"save_strategy": "steps", "save_total_limit": 2, "report_to": "none"}
        defaults |= {"eval_strategy": "steps" if evaluates else "no", "predict_with_generate": generates}
        if "logging_steps" not in values:  # which is also how often is evaluated
            defaults["logging_steps"] = 0.02  # 50 times, however short training is
            if evaluates:
                best = values.get("load_best_model_at_end")  # is one of those that are saved
                defaults["eval_steps"] = values.get("save_steps", 500) if best else 250
        return WeightDistillTrainingArguments(**defaults | values | {"output_dir": str(folder)})

    def _check_run(
        self,
        run: Path,
        generator_args: WeightDistillTrainingArguments,
        finetune_args: WeightDistillTrainingArguments,
        resume: bool,
    ) -> None:
        if run.exists() and any(run.iterdir()) and not resume and generator_args.process_index == 0:
            raise ValueError(
                f"the folder {str(run)!r} exists and is not empty: choose another output_dir, delete it, or go on with "
                "the run in it by resume_from_checkpoint=True"
            )
        config = self.config
        self._check_generation()
        check_source(config.source, config.source_options, config.start == "teacher")
        if config.start == "teacher":
            refuse_growth(self.plan)
        if config.finetune_source is not None:
            if config.finetune_source in SOURCES and SOURCES[config.finetune_source].from_teacher:
                raise ValueError(
                    f"finetune_source={config.finetune_source!r} makes weights from the teacher's and cannot go on "
                    "from those of phase 1: use it as source"
                )
            check_source(config.finetune_source, config.finetune_source_options, False)
        self._check_phase("generator", generator_args, config.source)
        self._check_phase("finetune", finetune_args, config.finetune_source)
        _check_phase_folders([args for args in (generator_args, finetune_args) if args.max_steps != 0], resume)
        self._check_cache({"generator": generator_args, "finetune": finetune_args})
        for name in ("schedules", "finetune_source", "finetune_lora"):
            if getattr(config, name) and finetune_args.max_steps == 0:
                raise ValueError(
                    f"{name}={getattr(config, name)!r} acts in phase 2, which finetune_args skips by max_steps=0: give "
                    "it updates, or leave it out"
                )
        if config.schedules:
            self._check_schedules(finetune_args)
        if config.finetune_lora:
            self._check_lora()

    def _check_phase(self, phase: str, args: WeightDistillTrainingArguments, source: str | None) -> None:
        """Whether the objectives of a phase can be had there, and its arguments go with its weight source."""
        objectives = self._objectives(phase)
        check_objectives(objectives, True, source is not None)
        if args.max_steps == 0:
            return
        for objective, _ in objectives.values():
            objective.check_plan(self.plan, source)
        if source is not None:
            refuse_in_phase_1(args)

    def _check_schedules(self, args: WeightDistillTrainingArguments) -> None:
        build_schedules(self.config.schedules, {})
        if self.config.finetune_source is not None:
            raise ValueError("schedules change the weights of a plain student: use them without finetune_source")
        if args.fsdp or args.deepspeed:
            raise ValueError("schedules change whole weights, which FSDP and DeepSpeed cut up: use DDP")

    def _check_generation(self) -> None:
        """Whether the teacher's generation settings, which the student inherits, can be saved."""
        try:
            copy.deepcopy(self.teacher.generation_config).validate(strict=True)
        except ValueError as error:
            reasons = " ".join(line.removeprefix("- ") for line in str(error).splitlines() if line.startswith("- "))
            raise ValueError(
                f"the teacher's generation settings could not be saved with the student: {reasons} Change "
                "teacher.generation_config, or the generation_config.json of its folder"
            ) from error

    def _check_lora(self) -> None:
        """Whether the student takes these adapters, tried on one without weights."""
        other = "finetune_source" if self.config.finetune_source is not None else "schedules"
        if self.config.finetune_source is not None or self.config.schedules:
            raise ValueError(f"finetune_lora trains a plain student with adapters: use it without {other}")
        shell = stock_student(self.teacher, self.plan.student_config, device="meta")
        check_lora(shell, sum(self._linear().values(), ()), self.config.finetune_lora)

    def _run_description(
        self, own: dict[str, WeightDistillTrainingArguments | None], data: dict[str, DatasetLike | None], teacher: str
    ) -> dict[str, Any]:
        """What repeats this run: the description, and what ``distill`` was given, as far as it has a name."""
        description = self.description()
        description["config"] |= {name: args.settings() for name, args in own.items() if args is not None}
        named = {name: str(given) for name, given in data.items() if isinstance(given, str | os.PathLike)}
        known = {"teacher_identity": self.teacher_identity(teacher)} | _forced_direction(*self._given)
        return json.loads(json.dumps(description | named | known))  # without tuples

    def teacher_identity(self, fingerprint: str | None = None) -> str:
        """SHA-256 of what the student takes from the teacher: weights, configuration, generation settings.

        Args:
            fingerprint: of the teacher, if it is known.
        """
        teacher = self._given[0]
        settings = json.dumps(inherited_generation_settings(teacher), sort_keys=True)
        return hashlib.sha256(f"{fingerprint or teacher_fingerprint(teacher)} {settings}".encode()).hexdigest()

    def _write_run(self, run: Path, description: dict[str, Any]) -> None:
        """Writes what repeats this run, or on resuming compares it with what stands there."""
        if (run / RUN_FILE).exists():
            found = _compared(read_settings(run / RUN_FILE))
            now = _compared(description)
            if now["teacher_revision"] is None:  # a folder or an adapter: the command line noted what it was given
                now["teacher_revision"] = found.get("teacher_revision")
            changed = [f"{k}: {found.get(k)!r} -> {v!r}" for k, v in now.items() if found.get(k) != v]
            if changed:
                raise ValueError(
                    f"the run in {str(run)!r} was started with other settings ({'; '.join(changed)}): resume it with "
                    f"the settings of its {RUN_FILE}, or choose another output_dir"
                )
            return
        write_settings(run / RUN_FILE, description)

    def description(self) -> dict[str, Any]:
        """Teacher, shape and configuration as plain values; what a run's YAML file holds."""
        return json.loads(
            json.dumps(
                {
                    "teacher": self.teacher.name_or_path,
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
        student = self._finished(self.student)
        said = {name: value for name, value in card.items() if name != "model_name"}
        card = {"model_name": folder.name} | self._told | card

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
        phases, config = self._trained_phases(), self.config
        known = {
            "teacher_name": teacher,
            "teacher_revision": getattr(self.teacher.config, "_commit_hash", None),
            "shape": shape_table(self._given[0].config, self.plan.student_config),
            "recipe": self.recipe,
            "training": self._training(teacher),
            "trained": bool(phases),
            "method": self._method(phases),
            "components": self._components(phases),
            "comparison": self.comparison,
            "max_lengths": (config.max_source_length, config.max_target_length) if phases else None,
            "example": config.prefix + CardInfo.example,
        }
        adapter: MergedAdapter | None = getattr(self._given[0], "merged_adapter", None)
        inherited = inherited_fields(teacher, known["teacher_revision"])
        if adapter is not None:
            inherited = inherited_fields(adapter.base) | inherited
            known |= {"teacher_adapter": adapter.kind, "teacher_bases": (adapter.base,) if adapter.base else ()}
        known |= _direction(self.tokenizer)
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
        seconds: dict[str, float] = {}
        for entry in facts.get("stages", ()):  # several of a kind after an interruption
            seconds[entry["stage"]] = round(seconds.get(entry["stage"], 0) + entry["seconds"], 1)
        found = {"training_examples": facts.get("examples"), "seconds": seconds, "result": self.summary}
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        known = description | versions | {name: value for name, value in found.items() if value}
        return without_paths(known)

    def _trained_phases(self) -> tuple[str, ...]:
        """The phases that trained :attr:`student`, as the run noted them; phase 2 counts when it is over."""
        noted = self._record.facts.get("arguments", {})
        ran = (phase for phase, arguments in noted.items() if arguments.get("max_steps") != 0)
        return tuple(phase for phase in ran if phase == "generator" or self._student is not None)

    def _method(self, phases: tuple[str, ...]) -> str:
        """How the student's weights came about, for the card."""
        config = self.config
        start = "drawn at random" if config.start == "random" else "computed from the teacher's (closed form)"
        how = "as a plain model"
        if config.finetune_source is not None:
            how = f"under the weight source `{config.finetune_source}`"
        elif config.finetune_lora:
            how = "by adapters, which were merged into it"
        generated = "`generator` makes the student's weights from the teacher's"
        return {
            (): f": the student's weights were {start}, and not trained",
            ("finetune",): f": the student's weights were {start}, then trained {how}",
            ("generator",): f" in one phase: {generated}",
        }.get(phases, f" in two phases: {generated}, `finetune` trains the student on {how}")

    def _components(self, phases: tuple[str, ...]) -> tuple[Component, ...]:
        """The published methods that these phases used, for the card."""
        config, used = self.config, []
        if "generator" in phases:
            used += [SOURCES[config.source], *(OBJECTIVES[name] for name in config.generator_objectives)]
        if "finetune" in phases:
            used += [SCHEDULES[name] for name in config.schedules]
            used += [SOURCES[config.finetune_source]] if config.finetune_source else []
            used += [OBJECTIVES[name] for name in config.finetune_objectives]
        labelled = config.pseudo_labels != "none" and bool(phases)
        papers = [SEQUENCE_LEVEL_KD.paper_url] * labelled + [part.paper for part in used]
        papers += [LORA.paper_url] * (bool(config.finetune_lora) and "finetune" in phases)
        return tuple(PAPERS[paper] for paper in dict.fromkeys(papers) if paper in PAPERS)


# --- checks and small helpers ---------------------------------------------------------------------------------------


def _check_phase_folders(phases: list[WeightDistillTrainingArguments], resume: bool) -> None:
    """Whether each phase can tell its checkpoints from those of the other, and of other runs."""
    folders = [os.path.abspath(args.output_dir) for args in phases]
    if len(set(folders)) < len(folders):
        raise ValueError(
            f"both phases have output_dir={folders[0]!r}, where neither could tell its checkpoints from the other's: "
            "give each a folder of its own"
        )
    for args in phases:
        found = None if resume else last_checkpoint(args.output_dir)
        if found is not None and args.process_index == 0:
            raise ValueError(
                f"{found!r} is of another run, and resuming would take it for one of this run: give the phase another "
                "output_dir, or delete that one"
            )


_NOT_COMPARED = ("recipe", "train", "eval", "teacher_identity")


def _compared(description: dict[str, Any]) -> dict[str, Any]:
    """What has to be the same for a run to go on: when it logs and saves may change."""
    config = {name: value for name, value in description.get("config", {}).items() if name != "teacher_batch_size"}
    phases = {name: about_training(config[name]) for name in ("generator_args", "finetune_args") if config.get(name)}
    # The recipe is in its settings; of data and teacher the record has the contents.
    found = {name: value for name, value in description.items() if name not in _NOT_COMPARED}
    return found | {"config": config | phases}


def _columns(data: Dataset | IterableDataset) -> set[str]:
    """Names of the columns; a stream that was mapped tells them only in its rows."""
    return set(data.column_names or next(iter(data), {}))


class _PlainCollator:
    """Pads features where there is no tokenizer."""

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        def pad(name: str, value: int) -> torch.Tensor:
            lists = [torch.as_tensor(row[name]) for row in rows]
            return torch.nn.utils.rnn.pad_sequence(lists, batch_first=True, padding_value=value)

        for row in rows:
            row.setdefault("attention_mask", [1] * len(row["input_ids"]))
        return {
            "input_ids": pad("input_ids", self.pad_token_id),
            "attention_mask": pad("attention_mask", 0),
            "labels": pad("labels", -100),
        }


def _check_teacher(teacher: PreTrainedModel) -> None:
    if not isinstance(teacher, PreTrainedModel) and not is_adapted(teacher):
        raise ValueError(f"the teacher is a {type(teacher).__name__}: expected a transformers PreTrainedModel")
    family_of(teacher.config)
    if not teacher.can_generate():
        raise ValueError(
            f"the teacher is a {type(teacher).__name__}, which has no output layer for text: load it with "
            "AutoModelForSeq2SeqLM"
        )
    check_precision(teacher)


def _warn_of_no_language(tokenizer: PreTrainedTokenizerBase, teacher: PreTrainedModel) -> None:
    """NLLB and its like write in the language whose token is forced, or that they start from."""
    settings, target = teacher.generation_config, getattr(tokenizer, "tgt_lang", None)
    plain = (None, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    if target is not None and settings.forced_bos_token_id is None and settings.decoder_start_token_id in plain:
        warnings.warn(
            f"the tokenizer has tgt_lang={target!r}, but the teacher's generation settings force no first token, so "
            "that it chooses one itself: set teacher.generation_config.forced_bos_token_id to the token of yours",
            stacklevel=3,
        )


def _language_codes(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, str]:
    """Of a tokenizer that was set to both languages (NLLB, M2M100, mBART); nothing of another."""
    codes = {name: getattr(tokenizer, name, None) for name in ("src_lang", "tgt_lang")}
    return {} if None in codes.values() else codes


def _direction(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """From which language into which, for the card."""
    codes = _language_codes(tokenizer)
    return codes | ({"languages": tuple(dict.fromkeys(map(language_of, codes.values())))} if codes else {})


def _forced_direction(teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, str]:
    """The languages that ``--src_lang`` and ``--tgt_lang`` would set tokenizer and teacher to, if they are so."""
    codes, settings = _language_codes(tokenizer), teacher.generation_config
    token = language_token(tokenizer, codes["tgt_lang"]) if codes else None
    forced = settings.forced_bos_token_id, settings.decoder_start_token_id  # mBART-25 starts from it
    return codes if token is not None and token in forced else {}


def _mixed(mix_SG: torch.Tensor, groups: tuple[tuple[int, ...], ...]) -> list[list[float]]:
    """Without what only fills up groups of unequal length."""
    rows = mix_SG.tolist()
    return [[round(value, 4) for value in row[: len(group)]] for row, group in zip(rows, groups, strict=True)]


def _moved(before: Inspection, after: Inspection, name: str) -> float:
    """Length of the way of a projection, relative to its norm at the start."""
    start, end = before.projections[name], after.projections[name]
    return ((end - start).norm() / start.norm()).item()


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
