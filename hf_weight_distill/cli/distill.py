"""``hf-weight-distill distill``: makes a student."""

import argparse
import gc
import shlex
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import WeightDistillConfig
from ..files import check_folder
from ..recipes import RECIPES
from ..record import RUN_FILE, SCORES_FILE, read_settings, settings_text, write_settings
from .flags import COMPARISON, SPELLING, add_comparison, add_shape, add_teacher, add_texts
from .job import AFTERWARDS, COLUMN_FLAGS, DATA_FLAGS, LANGUAGE_FLAGS, PHASES, Job, job_of
from .loading import PROGRAM, load_distiller, load_pairs, quiet, say, users_own
from .values import add_fields

if TYPE_CHECKING:
    from datasets import Dataset

    from ..arguments import WeightDistillTrainingArguments
    from ..distiller import WeightDistiller

BARS_FROM = 50_000  # pairs; below, a progress bar of the data is gone before it is read

SUMMARY = "make a student"
USAGE = "TEACHER --train DATA --output_dir DIR [flags]"
EPILOG = SPELLING
DESCRIPTION = f"""\
Distils: the student's weights are computed from the teacher's and fitted to what the teacher computes, then trained on.
With --recipe paper a generator of the weights is trained before that (phase 1), with --recipe generator in its place.
The student is saved as an ordinary checkpoint with tokenizer and model card; with --test, scores and speed of teacher
and student are printed and stand in OUTPUT_DIR/{SCORES_FILE} and on the card.

examples:
  {PROGRAM} distill Helsinki-NLP/opus-mt-en-de --train built-in --decoder_layers 1 --output_dir runs/small --dry_run
  {PROGRAM} distill Helsinki-NLP/opus-mt-en-de --train built-in --eval built-in --test built-in \\
      --decoder_layers 1 --finetune_args max_steps=400 --output_dir runs/small
  {PROGRAM} distill --config runs/small/weight_distill.yaml --output_dir runs/again
"""
CONFIG_HELP = (
    "YAML file with the keys teacher, train, eval, test, recipe, student, config and the names of the other flags "
    "about data, card and measuring; the weight_distill.yaml of a run is one and repeats it. Flags win over it; its "
    "fields replace the recipe's"
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    add_teacher(parser)
    parser.add_argument("--config", metavar="FILE", help=CONFIG_HELP)
    data = parser.add_argument_group("data")
    add_texts(data, DATA_FLAGS | COLUMN_FLAGS | LANGUAGE_FLAGS)
    out = parser.add_argument_group("what is written")
    folder = {"metavar": "DIR", "required": True}
    out.add_argument("--output_dir", **folder, help="new folder for checkpoints, pseudo labels and configuration")
    out.add_argument("--save", metavar="DIR", help="new folder for the student (default: OUTPUT_DIR/student)")
    text = "go on where an interrupted run in OUTPUT_DIR stopped; give the other flags again"
    out.add_argument("--resume", action="store_true", help=text)
    text = "print the plan and the full configuration as a file for --config, check data and folders, train nothing"
    out.add_argument("--dry_run", action="store_true", help=text)
    out.add_argument("--license", help="for the card, such as cc-by-4.0; a student inherits its teacher's")
    text = "for the card, such as en de (default: --source_lang and --target_lang, or --src_lang and --tgt_lang)"
    out.add_argument("--languages", nargs="+", metavar="CODE ...", help=text)
    tasks = typing.get_args(AFTERWARDS["task"])
    out.add_argument("--task", choices=tasks, help="for the card (default: translation)")
    add_comparison(parser.add_argument_group("measuring on --test"), "test_")
    add_shape(parser)
    settings = parser.add_argument_group("how it is distilled", "what is not given stays as the recipe has it")
    settings.add_argument("--recipe", choices=list(RECIPES), help="named settings (default: default)")
    add_fields(settings, WeightDistillConfig)


def run(arguments: argparse.Namespace) -> None:
    job = job_of(arguments)
    if "train" not in job.data:
        raise ValueError("no training data: give --train, or a --config file with train: in it")
    _check_evaluation(job)
    run = Path(arguments.output_dir)
    save = Path(arguments.save) if arguments.save else run / "student"
    _check_places(run, save)
    if arguments.resume and (run / RUN_FILE).exists():
        _check_same_data(run / RUN_FILE, job)
    with quiet():
        import datasets
        from accelerate import PartialState

        from ..evaluation import check_comparison
        from ..training_progress import TrainingProgress

        check_comparison(**_scoring(job))
        distiller = load_distiller(job)
        args = _check_settings(distiller, run, "eval" in job.data)
        if args.should_save:
            _check_folders(run, save, arguments.resume)
        pairs = {
            flag: load_pairs(flag, job.data[flag], job.data.get(f"{flag}_split"), job.columns())
            for flag in ("train", "eval", "test")
            if flag in job.data
        }
        _check_pairs(distiller, pairs)
        if len(pairs["train"]) >= BARS_FROM:
            datasets.enable_progress_bars()
        with args.main_process_first(desc="choosing the vocabulary"):
            distiller.trim_vocabulary(pairs["train"])
        if arguments.dry_run:
            _print_job(job, distiller)
            return
        if args.should_save:
            say(str(distiller.plan).partition("\n")[0])
        new = not (run / RUN_FILE).exists()
        finished = False
        try:
            with TrainingProgress() as progress:
                options = {"output_dir": run, "resume_from_checkpoint": arguments.resume, "callbacks": [progress]}
                distiller.distill(pairs["train"], pairs.get("eval"), **options)
            finished = True
        finally:
            if args.should_save and (new or finished):  # resuming may have been refused, which changes no file
                _complete_run_file(run / RUN_FILE, job)
        gc.collect()  # DDP holds the process group, with which a process that exits may abort, and torchrun the rest
        PartialState().destroy_process_group()
        if args.should_save:
            _finish(distiller, job, pairs, run, save)


def _check_evaluation(job: Job) -> None:
    """Without ``--eval`` no phase can evaluate."""
    for name in PHASES:
        strategy = getattr(job.config, name).get("eval_strategy", "no")
        if "eval" not in job.data and strategy != "no":
            raise ValueError(f"{name} has eval_strategy={strategy}, but there is no data: give --eval")


def _check_settings(distiller: "WeightDistiller", run: Path, evaluates: bool) -> "WeightDistillTrainingArguments":
    """What ``distill`` would refuse, and wrong training arguments; the first phase's arguments are returned."""
    from ..arguments import check_arguments, check_training, phase_arguments, with_learning_rate
    from ..checks import check_lengths, check_run

    config = distiller.config
    phases = []
    for name in PHASES:
        check_arguments(name, getattr(config, name))
        with users_own(name):
            folder = run / name.removesuffix("_args")
            args = phase_arguments(getattr(config, name), folder, evaluates=evaluates, generates=False)
            phases.append(with_learning_rate(args, distiller.plan.student_config.d_model))
            check_training(phases[-1], evaluates, compute_metrics=None)
    check_lengths(config, distiller.teacher)
    check_run(config, distiller.plan, distiller.teacher, *phases)
    return phases[0]


def _check_places(run: Path, save: Path) -> None:
    """Before hours of training, not after."""
    check_folder(run, "--output_dir")
    check_folder(save, "--save")
    if save.resolve() in (run.resolve(), *run.resolve().parents):
        raise ValueError(f"--save {save}: holds the run in --output_dir {run}, expected a folder of the student alone")


def _check_folders(run: Path, save: Path, resume: bool) -> None:
    """Whether they are new; of one process, for they are not when another has begun."""
    if run.exists() and any(run.iterdir()) and not resume:
        raise ValueError(f"--output_dir {run}: not empty; go on with its run by --resume, or choose another folder")
    if save.exists() and any(save.iterdir()):
        raise ValueError(f"the student's folder {save} is not empty: choose another one with --save, or delete it")


def _check_pairs(distiller: "WeightDistiller", pairs: dict[str, "Dataset"]) -> None:
    """The first pairs become features that something can be learned from."""
    from ..data import check_features, tokenize_pairs

    config = distiller.config
    lengths = {name: getattr(config, name) for name in ("prefix", "max_source_length", "max_target_length")}
    for flag, table in pairs.items():
        with users_own(f"--{flag}"):
            features = tokenize_pairs(table.select(range(min(8, len(table)))), distiller.tokenizer, **lengths)
            check_features(features, distiller.tokenizer.pad_token_id)


def _print_job(job: Job, distiller: "WeightDistiller") -> None:
    """The plan as comments and the configuration as YAML: together a file for ``--config``."""
    print("\n".join(f"# {line}".rstrip() for line in str(distiller.plan).splitlines()))
    print(settings_text(job.to_dict()), end="")
    say("dry run: data, settings and folders are in order; nothing was trained or written")


def _check_same_data(file: Path, job: Job) -> None:
    """A run goes on with the data that it was started with; a test set may be added or left out."""
    found = read_settings(file)
    if "train" not in found:  # killed before its data were noted, or started in Python
        return
    changed = []
    for name in DATA_FLAGS | COLUMN_FLAGS:  # languages, which may be the teacher's own, are the distiller's to compare
        before, now = found.get(name), job.data.get(name)
        if before != now and not (name.startswith("test") and None in (before, now)):
            changed.append(f"{name}: {before!r} -> {now!r}")
    if changed:
        raise ValueError(
            f"the run in {str(file.parent)!r} was started with other data ({'; '.join(changed)}): resume it with the "
            f"data of its {RUN_FILE}, or choose another --output_dir"
        )


def _complete_run_file(file: Path, job: Job) -> None:
    """Adds to the file that repeats the run what only the command line knows: data, card and measuring."""
    if file.exists():
        settings = read_settings(file)
        settings["teacher_revision"] = settings.get("teacher_revision") or job.teacher_revision
        settings |= {name: value for name, value in job.data.items() if name not in settings}
        settings |= job.afterwards  # which may have changed where the run was resumed
        write_settings(file, settings)


def _finish(distiller: "WeightDistiller", job: Job, pairs: dict[str, "Dataset"], run: Path, save: Path) -> None:
    """Scores, then the student with its card; saved too if the scores cannot be had.

    It is not saved where the user interrupts: ``--resume`` loads it from its last checkpoint, scores and saves it.
    """
    try:
        if "test" in pairs:
            print(distiller.evaluate(pairs["test"], **_scoring(job), progress=True))
    except Exception:
        _save(distiller, job, pairs, run, save)
        raise
    _save(distiller, job, pairs, run, save)


def _scoring(job: Job) -> dict[str, Any]:
    return {name: job.afterwards.get(f"test_{name}", usual) for name, usual in COMPARISON.items()}


def _save(distiller: "WeightDistiller", job: Job, pairs: dict[str, "Dataset"], run: Path, save: Path) -> None:
    distiller.save_pretrained(save, **_card_fields(job), eval_split=_test_split(job, pairs))
    say(f"the student is in {save}; next: {shlex.join([PROGRAM, 'report', str(run)])}")


def _test_split(job: Job, pairs: dict[str, "Dataset"]) -> str | None:
    from ..data import split_name

    return job.data.get("test_split") or (split_name(job.data["test"], pairs["test"]) if "test" in pairs else None)


def _card_fields(job: Job) -> dict[str, Any]:
    from ..card import language_of

    data, card = job.data, job.afterwards
    codes = (data.get("source_lang") or data.get("src_lang"), data.get("target_lang") or data.get("tgt_lang"))
    pair = tuple(language_of(code) for code in codes if code)
    return {
        "license": card.get("license"),
        "languages": tuple(card.get("languages") or (pair if len(pair) == 2 else ())),
        "task": card.get("task", "translation"),
        "dataset": data["train"],
        "dataset_split": data.get("train_split"),
        "eval_dataset": data.get("test"),
        "src_lang": data.get("src_lang"),
        "tgt_lang": data.get("tgt_lang"),
    }
