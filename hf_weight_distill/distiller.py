"""``WeightDistiller``: teacher in, student out. Both phases, read from top to bottom."""

import copy
import inspect
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from datasets import Dataset, IterableDataset, concatenate_datasets
from huggingface_hub import HfApi
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from . import __version__
from .calibration import Batch
from .card import PAPERS, SEQUENCE_LEVEL_KD, CardInfo, Component, shape_table, write_card
from .config import StudentShape, WeightDistillConfig
from .data import check_features, check_tokenizer, load_pairs, tokenize_pairs
from .evaluation import Comparison, compare
from .families import family_of
from .model import WeightDistillModel, check_source
from .objectives import OBJECTIVES, build_objectives
from .plan import WeightPlan, build_plan, decoder_inputs, tensors_of
from .recipes import recipe_config
from .schedules import SCHEDULES, build_schedules
from .sources import SOURCES
from .starts import random_start, student_start, teacher_start
from .teachers.pseudo_labels import generate_pseudo_labels
from .trainer import (
    WeightDistillTrainer,
    WeightDistillTrainingArguments,
    check_objectives,
    refuse_in_phase_1,
)

DatasetLike = Dataset | IterableDataset | str | os.PathLike
CALIBRATION_BATCH = 32
RUN_FILE = "weight_distill.yaml"


class WeightDistiller:
    """Turns a seq2seq teacher into a small stock student.

    Args:
        teacher: Marian, BART, mBART, Pegasus, M2M100/NLLB, T5, mT5 or UMT5 model in float32.
        tokenizer: the teacher's; ``None`` where only weights are wanted.
        student: shape of the student.
        recipe: ``"default"`` or ``"paper"``; the start of ``config``.
        config: replaces the recipe's configuration.

    Raises:
        ValueError: no encoder-decoder, an unknown family, adapters that are not merged, half precision, a tokenizer
            that is not the model's, a shape that the family cannot express.

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
        recipe: str = "default",
        config: WeightDistillConfig | None = None,
    ) -> None:
        _check_teacher(teacher)
        if tokenizer is not None:
            check_tokenizer(tokenizer, teacher.config)
        self.teacher, self.tokenizer = teacher.eval(), tokenizer
        self.shape, self.recipe = student, recipe
        self.config = config or recipe_config(recipe)
        self.plan: WeightPlan = build_plan(teacher, student)
        self.comparison: Comparison | None = None
        self.history: dict[str, list[dict[str, float]]] = {}
        self._model: WeightDistillModel | None = None
        self._student: PreTrainedModel | None = None
        self._run: Path | None = None
        self.summary: dict[str, Any] = {}  # what the schedules of phase 2 made of the student

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        *,
        student: StudentShape,
        recipe: str = "default",
        config: WeightDistillConfig | None = None,
        **kwargs: Any,
    ) -> "WeightDistiller":
        """Loads teacher and tokenizer from the Hub or a folder.

        Args:
            name_or_path: repository or folder.
            student, recipe, config: as in the constructor.
            kwargs: of ``from_pretrained`` (``revision``, ``cache_dir``, ``token``, ...).
        """
        name_or_path = str(name_or_path)
        family_of(AutoConfig.from_pretrained(name_or_path, **kwargs))
        teacher = AutoModelForSeq2SeqLM.from_pretrained(name_or_path, dtype=torch.float32, **kwargs)
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, **kwargs)
        return cls(teacher, tokenizer, student=student, recipe=recipe, config=config)

    # --- the parts ---

    @property
    def model(self) -> WeightDistillModel:
        """The phase-1 module. Before :meth:`calibrate` or :meth:`distill` its start is made from weights alone."""
        if self._model is None:
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
        self._model = self._build_model(self._calibration_batches(self.features(features)))
        return self._model

    def _build_model(self, batches: list[Batch] | None) -> WeightDistillModel:
        config = self.config
        if config.start == "random":
            start = random_start(self.plan, self.teacher)
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
        rows = sorted(features.take(count) if count else [], key=lambda row: len(row["input_ids"]))
        collate = self._collator()
        return [collate(rows[i : i + CALIBRATION_BATCH]) for i in range(0, len(rows), CALIBRATION_BATCH)]

    # --- data ---

    def features(self, data: DatasetLike, pseudo_labels_dir: Path | None = None) -> Dataset | IterableDataset:
        """Rows of ``input_ids``, ``attention_mask`` and ``labels`` from text pairs; features pass as they are.

        Args:
            data: features, or whatever :func:`hf_weight_distill.data.load_pairs` takes.
            pseudo_labels_dir: where the teacher's own translations go, which then replace the targets or stand beside
                them, as the configuration says; ``None`` keeps the targets.
        """
        if isinstance(data, Dataset | IterableDataset) and {"input_ids", "labels"} <= set(data.column_names or ()):
            check_features(data, self.teacher.config.pad_token_id)
            return data
        if self.tokenizer is None:
            raise ValueError(
                "text pairs need a tokenizer: give one to WeightDistiller, or pass features (input_ids, labels)"
            )
        self._check_lengths()
        is_name = isinstance(data, str | os.PathLike)
        pairs = load_pairs(data, "train" if is_name and str(data) == "built-in" else None)
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
        )
        taught = labelled.select_columns(["source", "teacher_target"]).rename_column("teacher_target", "target")
        taught = taught.filter(_has_target)
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
            train_dataset: text pairs (see :func:`hf_weight_distill.data.load_pairs`) or features.
            eval_dataset: likewise, for ``eval_strategy``.
            output_dir: checkpoints of both phases, pseudo labels and the run's configuration.
            generator_args: training arguments of phase 1; ``max_steps=0`` skips it. By default the recipe's.
            finetune_args: of phase 2.
            resume_from_checkpoint: goes on where an interrupted run in ``output_dir`` stopped, in either phase.
            compute_metrics: as in ``Seq2SeqTrainer``, with ``predict_with_generate``.
            callbacks: for both phases.

        Returns:
            The stock student, in evaluation mode.

        Raises:
            ValueError: before anything is trained, for data, settings or folders that cannot work.
            FloatingPointError: the loss is not finite.
        """
        run = self._run = Path(output_dir)
        generator_args = generator_args or self._arguments(self.config.generator_args, run / "generator")
        finetune_args = finetune_args or self._arguments(self.config.finetune_args, run / "finetune")
        self._check_run(run, generator_args, resume_from_checkpoint)
        self.teacher.to(generator_args.device)
        pseudo = None
        if self.config.pseudo_labels != "none":
            pseudo = Path(self.config.pseudo_labels_dir or run / "pseudo_labels")
        with generator_args.main_process_first(desc="preparing the data"):
            features = self.features(train_dataset, pseudo)
        evaluation = None if eval_dataset is None else self.features(eval_dataset)
        self._write_run(run, generator_args, finetune_args)
        datasets = {"train_dataset": features, "eval_dataset": evaluation}
        shared = {**datasets, "compute_metrics": compute_metrics, "callbacks": list(callbacks)}
        student = self._generate(run / "generated_student", features, generator_args, shared, resume_from_checkpoint)
        self._student = self._finetune(student, finetune_args, shared, resume_from_checkpoint)
        return self._student

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
        set_seed(args.seed)  # random starts are drawn before the trainer sets it
        self._model = self._build_model(self._calibration_batches(features))
        self._train(self._model, "generator", args, shared, resume)
        student = self._finished(self._model.materialize())
        if args.should_save:
            _write_whole(folder, student.save_pretrained)
        return student

    def _finetune(
        self, student: PreTrainedModel, args: WeightDistillTrainingArguments, shared: dict[str, Any], resume: bool
    ) -> PreTrainedModel:
        """Phase 2: the student as a plain model, or under a source of its own (over-parameterised, say)."""
        config, tensors = self.config, tensors_of(student)
        linear = {c.path: c.student_names for c in self.plan.classes if c.weight_class.role == "linear"}
        for name in self.plan.constants:  # loaded computed positions ask for a gradient and never get one
            tensors[name].requires_grad_(False)
        schedules = build_schedules(config.schedules, linear)
        callbacks = shared["callbacks"] + schedules
        model: torch.nn.Module = student
        if config.finetune_source is not None:
            start = {c.path: student_start(c, tensors) for c in self.plan.classes}
            options = self._beside_run(config.finetune_source, config.finetune_source_options)
            model = WeightDistillModel(self.plan, self.teacher, start, config.finetune_source, options)
        self._train(model, "finetune", args, shared | {"callbacks": callbacks}, resume)
        student = self._finished(student if model is student else model.materialize())
        self.summary = {schedule.name: schedule.summary(student) for schedule in schedules}
        return student

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
        trainer = WeightDistillTrainer(
            model,
            args=args,
            objectives=self._objectives(phase),
            teacher=self.teacher,
            data_collator=self._collator(),
            processing_class=self.tokenizer,
            **shared,
        )
        checkpoint = get_last_checkpoint(args.output_dir) if resume and os.path.isdir(args.output_dir) else None
        trainer.train(resume_from_checkpoint=checkpoint)
        self.history[phase] = trainer.state.log_history
        trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False)  # takes autocast off forward
        trainer.accelerator.free_memory()

    def _objectives(self, phase: str) -> dict:
        config = self.config
        weights = config.generator_objectives if phase == "generator" else config.finetune_objectives
        options = {"label_smoothing": config.label_smoothing, "temperature": config.temperature}
        return build_objectives(weights, **options | config.objective_options)

    def _arguments(self, values: dict[str, Any], folder: Path) -> WeightDistillTrainingArguments:
        defaults = {"save_strategy": "steps", "save_total_limit": 2, "report_to": "none"}
        return WeightDistillTrainingArguments(**defaults | values | {"output_dir": str(folder)})

    def _check_run(self, run: Path, args: WeightDistillTrainingArguments, resume: bool) -> None:
        if run.exists() and any(run.iterdir()) and not resume and args.process_index == 0:
            raise ValueError(
                f"the folder {str(run)!r} exists and is not empty: choose another output_dir, delete it, or go on with "
                "the run in it by resume_from_checkpoint=True"
            )
        config = self.config
        check_source(config.source, config.source_options)
        if config.finetune_source is not None:
            check_source(config.finetune_source, config.finetune_source_options)
        for phase, has_source in (("generator", True), ("finetune", config.finetune_source is not None)):
            check_objectives(self._objectives(phase), True, has_source)
        build_schedules(config.schedules, {})
        if config.schedules and config.finetune_source is not None:
            raise ValueError("schedules change the weights of a plain student: use them without finetune_source")
        if args.max_steps != 0:
            refuse_in_phase_1(args)

    def _write_run(self, run: Path, *phases: WeightDistillTrainingArguments) -> None:
        """The configuration that repeats this run."""
        if not phases[0].should_save:
            return
        if (run / RUN_FILE).exists():
            found = yaml.safe_load((run / RUN_FILE).read_text(encoding="utf-8"))
            changed = [f"{k}: {found.get(k)!r} -> {v!r}" for k, v in self.description().items() if found.get(k) != v]
            if changed:
                raise ValueError(
                    f"the run in {str(run)!r} was started with other settings ({'; '.join(changed)}): resume it with "
                    f"the settings of its {RUN_FILE}, or choose another output_dir"
                )
            return
        run.mkdir(parents=True, exist_ok=True)
        (run / RUN_FILE).write_text(yaml.safe_dump(self.description(), sort_keys=False), encoding="utf-8")

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
        student.generation_config = copy.deepcopy(self.teacher.generation_config)
        return student.eval()

    # --- after training ---

    def evaluate(self, dataset: DatasetLike, split: str | None = None, **kwargs: Any) -> Comparison:
        """Teacher and student side by side: scores, size, speed. Kept for the model card.

        Args:
            dataset: text pairs, as for :meth:`distill`.
            split: of a data set that has several.
            kwargs: of :func:`hf_weight_distill.evaluation.compare` (``num_beams``, ``metrics``, ``batch_sizes``, ...).
        """
        pairs = load_pairs(dataset, split)
        sources = [self.config.prefix + source for source in pairs["source"]]
        student = self.student.to(self.teacher.device)
        self.comparison = compare(self.teacher, student, self.tokenizer, sources, list(pairs["target"]), **kwargs)
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
        card = {"model_name": folder.name} | card

        def write(target: Path) -> None:
            student.save_pretrained(target)
            if self.tokenizer is not None:
                self.tokenizer.save_pretrained(target)
            write_card(target, self._card(**card))
            _check_export(student, target)

        _write_whole(folder, write)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        **card: Any,
    ) -> str:
        """Uploads what :meth:`save_pretrained` writes, in one commit.

        Args:
            repo_id: ``"me/opus-mt-en-ro-6-1"``.
            private, token, revision: as in ``huggingface_hub``.
            card: fields of :class:`hf_weight_distill.card.CardInfo`.

        Returns:
            The commit's address.
        """
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "student"
            self.save_pretrained(target, **{"model_name": repo_id} | card)
            api = HfApi(token=token)
            api.create_repo(repo_id, private=private, exist_ok=True)
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            message = "Add the student distilled with hf_weight_distill"
            commit = api.upload_folder(repo_id=repo_id, folder_path=target, revision=revision, commit_message=message)
        return commit.commit_url

    def _card(self, **fields: Any) -> CardInfo:
        teacher = self.teacher.name_or_path or self.plan.family.name
        public = Path(teacher).name if Path(teacher).exists() else teacher  # no path of this machine on the card
        description = self.description()
        description["config"].pop("pseudo_labels_dir")
        known = {
            "teacher_name": teacher,
            "teacher_revision": getattr(self.teacher.config, "_commit_hash", None),
            "shape": shape_table(self.teacher.config, self.plan.student_config),
            "recipe": self.recipe,
            "training": description | {"teacher": public} | ({"result": self.summary} if self.summary else {}),
            "components": self._components(),
            "comparison": self.comparison,
        }
        return CardInfo(**known | fields)

    def _components(self) -> tuple[Component, ...]:
        """The published methods that this configuration uses, for the card."""
        config = self.config
        used = [SOURCES[config.source], *(SCHEDULES[name] for name in config.schedules)]
        used += [SOURCES[config.finetune_source]] if config.finetune_source else []
        used += [OBJECTIVES[name] for name in {**config.generator_objectives, **config.finetune_objectives}]
        papers = [SEQUENCE_LEVEL_KD.paper_url] * (config.pseudo_labels != "none") + [part.paper for part in used]
        return tuple(PAPERS[paper] for paper in dict.fromkeys(papers) if paper in PAPERS)


# --- checks and small helpers ---------------------------------------------------------------------------------------


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
    if hasattr(teacher, "peft_config") or any(
        "lora_" in name or ".base_layer." in name for name, _ in teacher.named_parameters()
    ):
        raise ValueError(
            "the teacher carries PEFT adapters that are not merged into its weights, which is what the generator "
            "reads: pass PeftModel.from_pretrained(base, adapter).merge_and_unload()"
        )
    if not isinstance(teacher, PreTrainedModel):
        raise ValueError(f"the teacher is a {type(teacher).__name__}: expected a transformers PreTrainedModel")
    family_of(teacher.config)
    half = sorted({str(p.dtype) for p in teacher.parameters() if p.dtype != torch.float32})
    if half:
        raise ValueError(
            f"the teacher has {', '.join(half)} weights; the generator computes in float32 and would inherit their "
            "rounding: load it with dtype=torch.float32, or call teacher.float()"
        )


def _has_target(row: dict[str, str]) -> bool:
    return bool(row["target"].strip())


def _write_whole(folder: Path, write: Callable[[Path], Any]) -> None:
    """Writes into a folder beside the target and renames it: the target is whole or not there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write(draft)
        draft.chmod(0o755)
        if folder.exists():
            folder.rmdir()
        draft.replace(folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _check_export(student: PreTrainedModel, folder: Path) -> None:
    """Loads the saved student with stock transformers and compares logits."""
    loaded = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    vocab = student.config.vocab_size
    ids = torch.arange(2, min(vocab - 1, 18)).view(1, -1)
    batch = {"input_ids": ids, "decoder_input_ids": decoder_inputs(loaded, ids)}
    with torch.no_grad():
        expected = student(**{k: v.to(student.device) for k, v in batch.items()}).logits.cpu()
        found = loaded(**batch).logits
    if type(loaded) is not type(student) or not torch.allclose(found, expected, atol=1e-4, rtol=1e-4):
        raise RuntimeError(
            f"the saved student does not give the logits of the one in memory (largest difference "
            f"{(found - expected).abs().max().item():.2e}); nothing was written"
        )
