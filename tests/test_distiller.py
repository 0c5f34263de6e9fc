"""Teacher in, student out: the whole way on tiny models, what comes out, and what is refused."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard
from models import tiny_teacher
from safetensors.torch import load_file
from tiny import SENTENCES, tiny_marian_model, tiny_marian_tokenizer
from training import arguments, random_features
from transformers import (
    AutoModel,
    EarlyStoppingCallback,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    MarianMTModel,
    Seq2SeqTrainingArguments,
    TrainerCallback,
)

from hf_weight_distill import (
    RECIPES,
    StudentShape,
    WeightDistillConfig,
    WeightDistiller,
    WeightDistillTrainingArguments,
)
from hf_weight_distill import distiller as module
from hf_weight_distill.arguments import check_training, phase_arguments
from hf_weight_distill.corpus import built_in_corpus
from hf_weight_distill.evaluation import make_compute_metrics
from hf_weight_distill.plan import tensors_of
from hf_weight_distill.runs import last_checkpoint
from hf_weight_distill.sources import Inspection

SHAPE = StudentShape(decoder_layers=1)
FAST = {"max_steps": 3, "learning_rate": 1e-2, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
CONFIG = WeightDistillConfig(generator_args=FAST, finetune_args=FAST)
PAIRS = Dataset.from_dict({"source": SENTENCES[:5], "target": SENTENCES[5:]})


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A tiny Marian checkpoint with its tokenizer, as the public ones are."""
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = tiny_marian_tokenizer(folder)
    model = tiny_marian_model(tokenizer, decoder_layers=2)
    with torch.no_grad():
        model.model.shared.weight[tokenizer.pad_token_id] = 0
    model.generation_config.max_length = 24
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def load(marian, **options):
    return WeightDistiller.from_pretrained(marian, **{"config": CONFIG, "student": SHAPE} | options)


# --- the way through -------------------------------------------------------------------------------------------------


def test_both_phases_save_and_load_without_this_package(marian, tmp_path):
    distiller = load(marian)
    student = distiller.distill(PAIRS, PAIRS, output_dir=tmp_path / "run")
    assert type(student) is MarianMTModel and student.config.decoder_layers == 1
    assert {"generator", "finetune"} == set(distiller.history)
    distiller.evaluate(PAIRS, batch_sizes=(4,), speed_sentences=2)
    distiller.save_pretrained(tmp_path / "student", license="apache-2.0")
    keys = load_file(tmp_path / "student" / "model.safetensors")
    assert not [k for k in keys if "source" in k or "shift" in k or "projection" in k]
    config = json.loads((tmp_path / "student" / "config.json").read_text())
    assert config["architectures"] == ["MarianMTModel"] and config["use_cache"] is True
    script = """
import sys
sys.modules["hf_weight_distill"] = None
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
folder = sys.argv[1]
model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
ids = model.generate(**tokenizer("two dogs run", return_tensors="pt"), num_beams=1, max_new_tokens=9)
print("IDS", ids[0].tolist(), float(model.model.shared.weight[tokenizer.pad_token_id].abs().max()))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "student")], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tokens = distiller.tokenizer("two dogs run", return_tensors="pt")
    expected = student.generate(**tokens, num_beams=1, max_new_tokens=9)[0].tolist()
    assert f"IDS {expected} 0.0" in done.stdout
    card = (tmp_path / "student" / "README.md").read_text()
    assert "apache-2.0" in card and "2009.09152" in card and "BLEU" in card


@pytest.mark.parametrize("family", ["bart", "m2m_100", "t5", "flan-t5", "umt5"])
def test_any_family_without_a_tokenizer(family, tmp_path):
    distiller = WeightDistiller(
        tiny_teacher(family), student=replace(SHAPE, d_model=8, attention_heads=2), config=CONFIG
    )
    student = distiller.distill(random_features(), output_dir=tmp_path / "run")
    distiller.save_pretrained(tmp_path / "student")
    assert type(student) is type(distiller.teacher)


def test_a_student_with_large_logits_is_saved_by_the_kernel_that_it_was_made_with(tmp_path):
    teacher = tiny_teacher("t5")
    teacher.set_attn_implementation("eager")
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(6)
    logits = module.probe_logits(teacher)
    teacher.set_attn_implementation("sdpa")
    assert (module.probe_logits(teacher) - logits).abs().max() > 2e-4, "the kernels must differ for this test"
    teacher.set_attn_implementation("eager")
    WeightDistiller(teacher, student=StudentShape()).save_pretrained(tmp_path / "student")
    assert (tmp_path / "student" / "model.safetensors").exists()


@pytest.mark.parametrize("random", [False, True])
def test_every_run_writes_what_repeats_it(marian, tmp_path, random):
    options = {"source_options": RECIPES["paper"].source_options, "start": "random"} if random else {}
    first = load(marian, config=replace(CONFIG, **options)).distill(PAIRS, output_dir=tmp_path / "a")
    torch.rand(7)  # what was drawn in between must not matter
    run = yaml.safe_load((tmp_path / "a" / "weight_distill.yaml").read_text())
    config, shape = WeightDistillConfig.from_dict(run["config"]), StudentShape(**run["student"])
    again = WeightDistiller.from_pretrained(run["teacher"], student=shape, config=config)
    second = again.distill(PAIRS, output_dir=tmp_path / "b")
    assert all(torch.equal(t, tensors_of(second)[n]) for n, t in tensors_of(first).items())


def test_the_model_before_training_is_the_start(marian):
    distiller = load(marian)
    weights, student = distiller.model.student_weights(), distiller.model.materialize()
    assert all(torch.equal(weights[n], t) for n, t in tensors_of(student).items())
    before = distiller.teacher.model.decoder.layers[-1].state_dict()
    assert all(torch.equal(t, before[n]) for n, t in student.model.decoder.layers[0].state_dict().items())


def test_features_may_lie_in_splits_and_folders(marian, tmp_path):
    distiller = load(marian, config=replace(CONFIG, pseudo_labels="none"))
    features = distiller.features(PAIRS)
    splits = DatasetDict({"train": features, "validation": features.select([0])})
    splits.save_to_disk(tmp_path / "features")
    for data in (splits, str(tmp_path / "features"), tmp_path / "features"):
        assert distiller.features(data)[:] == features[:]
        assert distiller.features(data, default_split="validation")[:] == features[:1]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"max_step": 3}, "finetune_args: unknown 'max_step'; did you mean 'max_steps'?"),
        ({"learning_rate": "1e-3"}, "finetune_args: learning_rate='1e-3', expected number"),
        ({"output_dir": "elsewhere"}, "finetune_args: output_dir='elsewhere', but the run's own"),
    ],
)
def test_wrong_arguments_of_a_phase_are_named_before_anything_is_written(marian, tmp_path, args, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(marian, config=replace(CONFIG, finetune_args=args)).distill(PAIRS, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("labels, rows", [("none", 5), ("replace", 5), ("augment", 10)])
def test_pseudo_labels_take_the_place_of_the_gold_or_stand_beside_it(marian, tmp_path, labels, rows):
    config = replace(CONFIG, pseudo_labels=labels, num_beams=2, max_target_length=12)
    distiller = load(marian, config=config)
    folder = tmp_path / "labels" if labels != "none" else None
    features = distiller.features(PAIRS, folder, augment=labels == "augment")
    assert len(features) == rows
    gold = [row["labels"] for row in distiller.features(PAIRS)]
    found = [row["labels"] for row in features]
    assert [g in found for g in gold] == [labels != "replace"] * 5
    if labels != "none":
        inputs = distiller.tokenizer(SENTENCES[2], return_tensors="pt")
        ids = distiller.teacher.generate(**inputs, num_beams=2, length_penalty=1.0, max_length=None, max_new_tokens=12)
        text = distiller.tokenizer.decode(ids[0], skip_special_tokens=True)
        assert found[rows - 3] == distiller.tokenizer(text_target=text, truncation=True, max_length=12)["input_ids"]


@pytest.mark.parametrize(
    "phase1, phase2, pairs, targets",
    [(0, 11, 5, "replace"), (0, 12, 6, "replace"), (0, 12, 5, "augment"), (9, 3, 5, "augment")],
)
def test_gold_targets_stand_beside_them_where_training_is_long(
    marian, tmp_path, monkeypatch, phase1, phase2, pairs, targets
):
    monkeypatch.setattr(module, "GOLD_FROM_PAIRS", pairs)
    steps = {"generator_args": {"max_steps": phase1}, "finetune_args": {"max_steps": phase2}}
    in_a_pass = FAST | {"per_device_train_batch_size": 2}  # 3 updates for 5 pairs
    steps = {phase: in_a_pass | args for phase, args in steps.items()}
    config = replace(CONFIG, pseudo_labels="auto", num_beams=1, max_target_length=12, **steps)
    distiller = load(marian, config=config)
    distiller.distill(PAIRS, output_dir=tmp_path / "run")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert (record["pseudo_labels"], record["examples"]) == (targets, {"replace": 5, "augment": 10}[targets])
    distiller.save_pretrained(tmp_path / "student")
    assert f"pseudo_labels: {targets}\n" in (tmp_path / "student" / "README.md").read_text()
    assert yaml.safe_load((tmp_path / "run" / "weight_distill.yaml").read_text())["config"]["pseudo_labels"] == "auto"


def test_what_is_translated_for_nothing_is_told(marian, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(module, "GOLD_FROM_PAIRS", 5)
    for steps, told in (
        (2, ["training reads 40% of the 5 pairs, .* give 2 of them .--train_split 'train.:2.'."]),
        (5, []),
        (0, []),  # nothing trains at all
    ):
        args = FAST | {"per_device_train_batch_size": 1, "max_steps": steps}
        config = replace(CONFIG, generator_args=FAST | {"max_steps": 0}, finetune_args=args, pseudo_labels="auto")
        load(marian, config=config).distill(PAIRS, output_dir=tmp_path / str(steps))
        found = [text for warning in recwarn if "training reads" in (text := str(warning.message))]
        assert len(found) == len(told) and all(map(re.search, told, found)), found
        recwarn.clear()


def test_runs_can_share_their_pseudo_labels(marian, tmp_path, monkeypatch):
    config = replace(CONFIG, pseudo_labels="replace", num_beams=1, pseudo_labels_dir=str(tmp_path / "labels"))
    load(marian, config=config).distill(PAIRS, output_dir=tmp_path / "a")
    distiller = load(marian, config=config)
    monkeypatch.setattr(distiller.teacher, "generate", None)  # the second run must not need it
    distiller.distill(PAIRS, output_dir=tmp_path / "b")
    assert not (tmp_path / "a" / "pseudo_labels").exists()


def test_a_distilled_student_is_pruned_and_a_pruned_model_teaches(marian, tmp_path):
    pruning = {"magnitude_pruning": {"sparsity": 0.5, "steps": 2, "end": 0.5}}
    config = replace(CONFIG, schedules=pruning, finetune_args=FAST | {"max_steps": 8})
    distiller = load(marian, config=config)
    distiller.distill(PAIRS, output_dir=tmp_path / "run")
    distiller.save_pretrained(tmp_path / "pruned")
    weights = load_file(tmp_path / "pruned" / "model.safetensors")
    matrices = [t for n, t in weights.items() if "layers" in n and t.dim() == 2]
    zeros, count = sum(int((t == 0).sum()) for t in matrices), sum(t.numel() for t in matrices)
    assert zeros == round(0.5 * count)
    card = (tmp_path / "pruned" / "README.md").read_text()
    assert "total: 0.5" in card and "2109.15014" in card
    again = load(tmp_path / "pruned", student=StudentShape(encoder_layers=1, d_model=8, attention_heads=2))
    student = again.distill(PAIRS, output_dir=tmp_path / "second")
    assert student.config.d_model == 8 and all(torch.isfinite(t).all() for t in tensors_of(student).values())


def test_max_steps_zero_skips_a_phase(marian, tmp_path):
    distiller = load(marian, config=replace(CONFIG, generator_args=FAST | {"max_steps": 0}))
    distiller.distill(PAIRS, output_dir=tmp_path / "run")
    assert set(distiller.history) == {"finetune"}


SKIPPED = FAST | {"max_steps": 0}
TAUGHT = CONFIG.to_dict() | {"source": "direct", "pseudo_labels": "replace", "num_beams": 1}
COMPUTED = "Made with `hf_weight_distill`: the student's weights were computed from the teacher's (closed form), "
GENERATED = "`generator` makes the student's weights from the teacher's"
SEQUENCE, WEIGHT, TOKEN, LORA = "1606.07947", "2009.09152", "1503.02531", "2106.09685"  # papers


@pytest.mark.parametrize(
    ("settings", "method", "papers"),
    [
        ({"generator_args": SKIPPED}, COMPUTED + "then trained as a plain model. All settings:", {SEQUENCE}),
        ({"generator_args": SKIPPED, "source": "generator"}, COMPUTED + "then trained as a plain model.", {SEQUENCE}),
        ({"generator_args": SKIPPED, "finetune_args": SKIPPED}, COMPUTED + "and not trained. All settings, of", set()),
        ({"generator_args": SKIPPED, "start": "random"}, "drawn at random, then trained as a plain model.", {SEQUENCE}),
        (
            {"source": "generator", "finetune_objectives": {"kl": 1.0}},
            f" in two phases: {GENERATED}, `finetune` trains the student on as a plain model. All settings:",
            {SEQUENCE, WEIGHT, TOKEN},
        ),
        (
            {"source": "generator", "finetune_args": SKIPPED, "finetune_objectives": {"kl": 1.0}},
            f" in one phase: {GENERATED}. All settings:",
            {SEQUENCE, WEIGHT},
        ),
        ({"finetune_lora": {"r": 2}}, "`finetune` trains the student on by adapters, which", {SEQUENCE, LORA}),
    ],
)
def test_the_card_says_what_ran(marian, tmp_path, settings, method, papers):
    distiller = load(marian, config=WeightDistillConfig(**TAUGHT | settings))
    distiller.distill(PAIRS, output_dir=tmp_path / "run")
    distiller.save_pretrained(tmp_path / "student")
    card = (tmp_path / "student" / "README.md").read_text()
    assert method in card
    assert {paper for paper in (SEQUENCE, WEIGHT, TOKEN, LORA) if paper in card} == papers
    assert ("Training cut sources at" in card) == ("distilled from" in card) == ("not trained" not in card)


@pytest.mark.parametrize("recipe", ["default", "generator"])
def test_a_student_that_was_only_computed_is_not_said_to_be_distilled(marian, tmp_path, recipe):
    WeightDistiller.from_pretrained(marian, student=SHAPE, recipe=recipe).save_pretrained(tmp_path / "student")
    card = (tmp_path / "student" / "README.md").read_text()
    assert COMPUTED + "and not trained." in card and "made without training from" in card
    for claim in ("distilled from", "phase", "sequence-level", "arxiv", "## Citation", "Training cut"):
        assert claim not in card, claim


def test_a_phase_2_that_broke_off_is_not_on_the_card(marian, tmp_path):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    distiller = load(marian, config=WeightDistillConfig(**TAUGHT | {"generator_args": SKIPPED}))
    with pytest.raises(KeyboardInterrupt):
        distiller.distill(PAIRS, output_dir=tmp_path / "run", callbacks=[Stop()])
    assert not distiller._card(model_name="x").trained


def test_the_user_may_bring_arguments_of_their_own(marian, tmp_path):
    args = [arguments(tmp_path / "run" / phase, max_steps=n) for phase, n in (("generator", 1), ("finetune", 2))]
    distiller = load(marian)
    distiller.distill(PAIRS, output_dir=tmp_path / "run", generator_args=args[0], finetune_args=args[1])
    assert [distiller.history[p][-1]["step"] for p in ("generator", "finetune")] == [1, 2]


def test_the_learning_rate_is_the_inverse_of_the_students_width(marian, tmp_path):
    fast = {name: value for name, value in FAST.items() if name != "learning_rate"}
    fast |= {"max_steps": 1, "lr_scheduler_type": "constant", "logging_steps": 1}
    config = replace(CONFIG, generator_args=fast, finetune_args=fast)
    own = WeightDistillTrainingArguments(str(tmp_path / "own"), **fast)
    given = WeightDistillTrainingArguments(str(tmp_path / "given"), **fast, learning_rate=0.7)
    for width, args, expected in ((16, None, 0.25 / 16), (8, None, 0.25 / 8), (8, own, 0.25 / 8), (8, given, 0.7)):
        distiller, run = load(marian, config=config, student=StudentShape(1, 1, d_model=width)), tmp_path / "run"
        distiller.distill(PAIRS, output_dir=run, finetune_args=args)
        told = [json.loads((run / "record.json").read_text())["arguments"][phase] for phase in distiller.history]
        assert [phase["learning_rate"] for phase in told] == [0.25 / width, expected]
        assert distiller.history["finetune"][0]["learning_rate"] == expected
        shutil.rmtree(run)
    assert own.learning_rate is None, "it may be used again, for another width"
    with pytest.raises(ValueError, match="deepspeed takes the learning rate before .*: give learning_rate"):
        WeightDistillTrainingArguments(str(tmp_path), deepspeed={})


def test_arguments_of_the_users_own_are_in_what_repeats_the_run(marian, tmp_path):
    options = {
        "max_steps": 2,
        "accelerator_config": {"dispatch_batches": False},
        "generation_config": GenerationConfig(),
    }
    distiller, args = load(marian), arguments(tmp_path / "finetune", **options)
    distiller.distill(PAIRS, output_dir=tmp_path / "a", finetune_args=args)
    run = yaml.safe_load((tmp_path / "a" / "weight_distill.yaml").read_text())
    config = WeightDistillConfig.from_dict(run["config"])
    assert config.generator_args == FAST and config.finetune_args["lr_scheduler_type"] == "constant"
    again = load(marian, config=replace(config, finetune_args=config.finetune_args | {"use_cpu": True}))
    second = again.distill(PAIRS, output_dir=tmp_path / "b")
    assert all(torch.equal(t, tensors_of(second)[n]) for n, t in tensors_of(distiller.student).items())
    other = arguments(tmp_path / "finetune", **options | {"max_steps": 3})
    with pytest.raises(ValueError, match=r"other settings \(config.finetune_args.max_steps: 2 -> 3\)"):
        load(marian).distill(PAIRS, output_dir=tmp_path / "a", finetune_args=other, resume_from_checkpoint=True)


def test_arguments_that_repeat_a_phase_have_whole_paths_and_one_length(tmp_path):
    args = arguments(tmp_path, max_steps=2, num_train_epochs=7, eval_strategy="no", torch_compile_backend="some/where")
    name = "torch_compile_backend"
    assert (args.settings()[name], args.description()[name]) == ("some/where", "where")
    assert args.settings()["max_steps"] == 2 and "num_train_epochs" not in args.settings()
    assert args.settings().items() >= {"eval_strategy": "no", "logging_steps": 1, "save_total_limit": None}.items()
    epochs = arguments(tmp_path, max_steps=-1, num_train_epochs=4).settings()
    assert epochs["num_train_epochs"] == 4 and "max_steps" not in epochs


def test_what_is_trained_is_logged_however_short_it_is(marian, tmp_path):
    distiller = load(marian, config=replace(CONFIG, finetune_args=FAST | {"max_steps": 20}))
    distiller.distill(PAIRS, PAIRS, output_dir=tmp_path / "run")
    history = distiller.history["finetune"]
    assert sum("cross_entropy" in row for row in history) == 20
    assert [row["step"] for row in history if "eval_loss" in row] == [20]
    for own, steps in (
        ({}, (0.02, 250, 500)),
        ({"logging_steps": 40}, (40, 40, 500)),  # as in a Trainer
        ({"load_best_model_at_end": True}, (0.02, 500, 500)),  # every evaluation has its checkpoint
        ({"load_best_model_at_end": True, "save_steps": 100}, (0.02, 100, 100)),
    ):
        given = phase_arguments({"max_steps": 2000, **own}, tmp_path, evaluates=True, generates=False)
        assert (given.logging_steps, given.eval_steps, given.save_steps) == steps


def test_both_phases_may_have_a_precision_of_their_own(marian, tmp_path, monkeypatch):
    real, seen = module.WeightDistillTrainer.train, []

    def train(self, **kwargs):
        seen.append(self.accelerator.mixed_precision)
        return real(self, **kwargs)

    monkeypatch.setattr(module.WeightDistillTrainer, "train", train)
    for order in ((True, False), (False, True)):
        phases = zip(("generator_args", "finetune_args"), order, strict=True)
        config = replace(CONFIG, **{name: FAST | {"bf16": bf16} for name, bf16 in phases})
        load(marian, config=config).distill(PAIRS, output_dir=tmp_path / str(order))
    assert seen == ["bf16", "no", "no", "bf16"]


def test_the_seed_draws_the_random_start(tmp_path):
    config = replace(CONFIG, source="direct", start="random", pseudo_labels="none")
    none = {"max_steps": 0, "use_cpu": True}
    students = []
    for k, seed in enumerate((1, 2, 1)):
        distiller = WeightDistiller(tiny_teacher("marian"), student=SHAPE, config=config)
        args = [arguments(tmp_path / f"{phase}{k}", seed=seed, **none) for phase in ("generator", "finetune")]
        distiller.distill(
            random_features(), output_dir=tmp_path / str(k), generator_args=args[0], finetune_args=args[1]
        )
        students.append(distiller.student.model.shared.weight)
    assert torch.equal(students[0], students[2]) and not torch.equal(students[0], students[1])


def test_an_evaluation_set_is_evaluated_on(marian, tmp_path):
    distiller = load(marian, config=replace(CONFIG, finetune_args=FAST | {"logging_steps": 3}))
    distiller.distill(PAIRS, PAIRS, output_dir=tmp_path / "run")
    assert [row["step"] for row in distiller.history["finetune"] if "eval_loss" in row] == [3]


def test_of_several_splits_each_purpose_takes_its_own(marian, tmp_path, monkeypatch):
    splits = {"test": PAIRS.select([4]), "train": PAIRS.select([0, 1]), "validation": PAIRS.select([2, 3])}
    DatasetDict(splits).save_to_disk(tmp_path / "data")
    expected = load(marian).distill(splits["train"], splits["validation"], output_dir=tmp_path / "a")
    distiller, data = load(marian), str(tmp_path / "data")
    found = distiller.distill(data, data, output_dir=tmp_path / "b")
    assert all(torch.equal(t, tensors_of(found)[n]) for n, t in tensors_of(expected).items())
    monkeypatch.setattr(
        module, "compare", lambda *args, **options: SimpleNamespace(to_dict=lambda: {"sources": args[3]})
    )
    assert distiller.evaluate(data).to_dict() == {"sources": splits["test"]["source"]}


def test_a_second_run_has_no_scores_of_the_first(marian, tmp_path):
    distiller = load(marian)
    distiller.distill(PAIRS, output_dir=tmp_path / "a")
    distiller.evaluate(PAIRS, batch_sizes=(4,), speed_sentences=2)
    distiller.distill(PAIRS, output_dir=tmp_path / "b")
    assert distiller.comparison is None


def test_features_may_have_columns_that_a_trainer_drops_and_come_as_a_stream(marian, tmp_path):
    distiller = load(marian)

    def encode(rows):
        return {
            **distiller.tokenizer(rows["source"]),
            "labels": distiller.tokenizer(text_target=rows["target"])["input_ids"],
        }

    features = PAIRS.map(encode, batched=True)
    stream = PAIRS.to_iterable_dataset().map(encode, batched=True, remove_columns=["source", "target"])
    assert stream.column_names is None
    expected = load(marian).distill(PAIRS, output_dir=tmp_path / "text")
    found = distiller.distill(features, output_dir=tmp_path / "features")
    assert all(torch.equal(t, tensors_of(found)[n]) for n, t in tensors_of(expected).items())
    load(marian).distill(stream, output_dir=tmp_path / "stream")


def test_a_finetune_source_trains_under_a_parameterisation_and_comes_out_stock(marian, tmp_path):
    plain = load(marian).distill(PAIRS, output_dir=tmp_path / "a")
    other = load(marian, config=replace(CONFIG, finetune_source="direct")).distill(PAIRS, output_dir=tmp_path / "b")
    for name, tensor in tensors_of(plain).items():  # the direct source is plain training
        if name.endswith("k_proj.bias"):
            continue  # moves no softmax: its gradient is rounding, which Adam blows up
        torch.testing.assert_close(tensors_of(other)[name], tensor, atol=1e-5, rtol=1e-4)


# --- interruption ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_at", ["generator", "boundary", "finetune"])
def test_resume_goes_on_where_it_stopped_and_ends_the_same(marian, tmp_path, stop_at, monkeypatch):
    saving = FAST | {"save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    config = replace(CONFIG, generator_args=saving, finetune_args=saving)
    whole = load(marian, config=config).distill(PAIRS, output_dir=tmp_path / "whole")
    real = module.WeightDistillTrainer.training_step

    def interrupted(self, *args, **kwargs):
        phase = self.args.output_dir.rsplit("/", 1)[1]
        if (phase == stop_at and self.state.global_step == 3) or (phase == "finetune" and stop_at == "boundary"):
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(module.WeightDistillTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(marian, config=config).distill(PAIRS, output_dir=tmp_path / "cut")
    monkeypatch.setattr(module.WeightDistillTrainer, "training_step", real)
    resumed = load(marian, config=config).distill(PAIRS, output_dir=tmp_path / "cut", resume_from_checkpoint=True)
    assert all(torch.equal(t, tensors_of(resumed)[n]) for n, t in tensors_of(whole).items())


def test_after_a_refusal_nothing_of_the_other_run_is_changed(marian, tmp_path):
    config = replace(CONFIG, pseudo_labels="none")
    first = load(marian, config=config)
    first.distill(PAIRS, output_dir=tmp_path / "run")
    measure = {"batch_sizes": (4,), "speed_sentences": 2, "metrics": ("chrf",)}
    first.evaluate(PAIRS, **measure)
    files = [tmp_path / "run" / name for name in ("scores.json", "record.json", "weight_distill.yaml")]
    before = [file.read_text() for file in files]
    another = replace(config, label_smoothing=0.0)
    for settings, resume, message in (
        (config, False, "exists and is not empty"),
        (another, True, "other settings"),
    ):
        second = load(marian, config=settings)
        with pytest.raises(ValueError, match=message):
            second.distill(PAIRS, output_dir=tmp_path / "run", resume_from_checkpoint=resume)
        second.evaluate(PAIRS, **measure)  # an untrained start, whose scores are not the run's
        assert [file.read_text() for file in files] == before


def test_a_resumed_run_that_is_interrupted_again_has_the_student_of_phase_1(marian, tmp_path, monkeypatch):
    def interrupted(self, *args, **kwargs):
        if self.args.output_dir.endswith("finetune"):
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    real = module.WeightDistillTrainer.training_step
    monkeypatch.setattr(module.WeightDistillTrainer, "training_step", interrupted)
    for resume in (False, True):
        distiller = load(marian)
        with pytest.raises(KeyboardInterrupt):
            distiller.distill(PAIRS, output_dir=tmp_path / "run", resume_from_checkpoint=resume)
        made = tensors_of(MarianMTModel.from_pretrained(tmp_path / "run" / "generated_student"))
        assert all(torch.equal(t, made[n]) for n, t in tensors_of(distiller.student).items()), resume
    distiller.save_pretrained(tmp_path / "student")


def test_a_checkpoint_that_was_not_finished_is_passed_over(marian, tmp_path):
    config = replace(CONFIG, finetune_args=FAST | {"save_strategy": "steps", "save_steps": 1, "save_total_limit": None})
    whole = load(marian, config=config).distill(PAIRS, output_dir=tmp_path / "run")
    (tmp_path / "run" / "finetune" / "checkpoint-3" / "trainer_state.json").unlink()  # what the trainer writes last
    resumed = load(marian, config=config).distill(PAIRS, output_dir=tmp_path / "run", resume_from_checkpoint=True)
    assert all(torch.equal(t, tensors_of(resumed)[n]) for n, t in tensors_of(whole).items())
    assert (tmp_path / "run" / "finetune" / "checkpoint-3" / "trainer_state.json").exists()


@pytest.mark.parametrize("state", ["", '{"log_history": ['])
def test_a_checkpoint_whose_state_was_cut_off_is_passed_over(tmp_path, state):
    for step, text in ((9, "{}"), (10, "{}"), (11, state)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(text)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_checkpoints_of_another_run_are_no_ones(marian, tmp_path):
    args = arguments(tmp_path / "mine", max_steps=2, save_strategy="steps", save_steps=1)
    load(marian).distill(PAIRS, output_dir=tmp_path / "a", finetune_args=args)
    with pytest.raises(ValueError, match=r"mine/checkpoint-2' is of another run, and resuming would take it"):
        load(marian).distill(PAIRS, output_dir=tmp_path / "b", finetune_args=args)
    assert not (tmp_path / "b").exists()


def test_resume_with_other_data_is_refused(marian, tmp_path):
    config = replace(CONFIG, pseudo_labels="none")
    load(marian, config=config).distill(PAIRS, output_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="was started with other data"):
        other = PAIRS.select([0, 2, 1, 3, 4])
        load(marian, config=config).distill(other, output_dir=tmp_path / "run", resume_from_checkpoint=True)


def test_a_run_goes_on_with_its_teacher_whatever_the_path(marian, tmp_path, monkeypatch):
    config = replace(CONFIG, pseudo_labels="none")
    load(marian, config=config).distill(PAIRS, output_dir=tmp_path / "run")
    monkeypatch.chdir(marian.parent)
    load(marian.name, config=config).distill(PAIRS, output_dir=tmp_path / "run", resume_from_checkpoint=True)


def test_an_interrupted_run_goes_on_with_the_same_arguments(marian, tmp_path, monkeypatch):
    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 1:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    args = arguments(tmp_path / "mine", max_steps=2, learning_rate=1e-3, save_strategy="steps", save_steps=1)
    distiller, real, options = load(marian), module.WeightDistillTrainer.training_step, {"generator_args": args}
    before = args.to_dict()
    monkeypatch.setattr(module.WeightDistillTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        distiller.distill(PAIRS, output_dir=tmp_path / "run", **options)
    assert args.to_dict() == before
    monkeypatch.setattr(module.WeightDistillTrainer, "training_step", real)
    distiller.distill(PAIRS, output_dir=tmp_path / "run", resume_from_checkpoint=True, **options)


def test_resume_with_another_teacher_of_the_same_name_is_refused(marian, tmp_path):
    config = replace(CONFIG, pseudo_labels="none")
    load(marian, config=config).distill(PAIRS, output_dir=tmp_path / "run")
    other = load(marian, config=config)
    with torch.no_grad():
        other.teacher.model.encoder.layers[0].fc1.bias += 1e-3
    with pytest.raises(ValueError, match="was started with another teacher"):
        other.distill(PAIRS, output_dir=tmp_path / "run", resume_from_checkpoint=True)


def test_a_checkpoint_of_weights_alone_is_not_gone_on_from(marian, tmp_path, monkeypatch):
    saving = FAST | {"save_strategy": "steps", "save_steps": 1, "save_only_model": True}
    config = replace(CONFIG, generator_args={"max_steps": 0}, finetune_args=saving)
    real = module.WeightDistillTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 2:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(module.WeightDistillTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(marian, config=config).distill(PAIRS, output_dir=tmp_path / "run")
    whole = replace(config, finetune_args=saving | {"save_only_model": False})  # what is in the checkpoint counts
    for later in (config, whole):
        with pytest.raises(ValueError, match=r"checkpoint-2' holds the model alone .* would begin anew"):
            load(marian, config=later).distill(PAIRS, output_dir=tmp_path / "run", resume_from_checkpoint=True)
    with pytest.raises(KeyboardInterrupt):
        load(marian, config=whole).distill(PAIRS, output_dir=tmp_path / "b")
    monkeypatch.setattr(module.WeightDistillTrainer, "training_step", real)
    load(marian, config=config).distill(PAIRS, output_dir=tmp_path / "b", resume_from_checkpoint=True)


def test_when_a_run_logs_and_saves_may_change_on_resuming_and_is_repeated(marian, tmp_path):
    often = arguments(tmp_path / "mine", max_steps=2, logging_steps=1, eval_strategy="epoch", save_strategy="epoch")
    load(marian).distill(PAIRS, PAIRS, output_dir=tmp_path / "run", finetune_args=often)
    written = yaml.safe_load((tmp_path / "run" / "weight_distill.yaml").read_text())["config"]["finetune_args"]
    assert written.items() >= {"logging_steps": 1, "eval_strategy": "epoch", "save_strategy": "epoch"}.items()
    assert "output_dir" not in written
    seldom = arguments(tmp_path / "mine", max_steps=2, logging_steps=2, eval_strategy="epoch", save_strategy="no")
    options = {"finetune_args": seldom, "resume_from_checkpoint": True}
    load(marian).distill(PAIRS, PAIRS, output_dir=tmp_path / "run", **options)


def test_resuming_a_run_that_is_over_changes_nothing(marian, tmp_path):
    saving = FAST | {"save_strategy": "steps", "save_steps": 1, "max_steps": 3, "per_device_train_batch_size": 2}
    saving |= {
        "lr_scheduler_type": "constant",
        "load_best_model_at_end": True,
        "eval_strategy": "steps",
        "eval_steps": 1,
    }
    config = replace(CONFIG, generator_args=saving, finetune_args=saving | {"max_steps": 4})
    whole = load(marian, config=config).distill(PAIRS, PAIRS, output_dir=tmp_path / "run")
    for kept in ("after phase 2", "after phase 1"):
        if kept == "after phase 1":
            shutil.rmtree(tmp_path / "run" / "generated_student")
        again = load(marian, config=config)
        resumed = again.distill(PAIRS, PAIRS, output_dir=tmp_path / "run", resume_from_checkpoint=True)
        assert all(torch.equal(t, tensors_of(resumed)[n]) for n, t in tensors_of(whole).items()), kept
        assert again.history["finetune"][-1]["step"] == 4


def test_a_run_that_is_over_and_was_moved_still_has_its_best_weights(marian, tmp_path):
    class Spoil(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            if state.global_step == 3:  # the best are those of step 2, the last ones are nonsense
                for parameter in filter(lambda p: p.requires_grad, model.parameters()):  # not the computed positions
                    parameter.data.normal_()

    best = {"save_strategy": "steps", "save_steps": 1, "load_best_model_at_end": True, "eval_steps": 1}
    config = replace(CONFIG, generator_args={"max_steps": 0}, finetune_args=FAST | best)
    options = {"output_dir": tmp_path / "there", "callbacks": [Spoil()]}
    whole = load(marian, config=config).distill(PAIRS, PAIRS, **options)
    (tmp_path / "there").rename(tmp_path / "here")
    again = {"output_dir": tmp_path / "here", "resume_from_checkpoint": True}
    resumed = load(marian, config=config).distill(PAIRS, PAIRS, **again)
    assert all(torch.equal(t, tensors_of(resumed)[n]) for n, t in tensors_of(whole).items())


@pytest.mark.parametrize("interrupted_in", [4, None])
def test_resume_keeps_the_patience_of_early_stopping(interrupted_in, marian, tmp_path):
    """Nothing counts as better than the first evaluation: three later ones end the training at step 4 of 8."""

    class Interrupt(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step + 1 == interrupted_in:
                raise KeyboardInterrupt

    def patience():
        return EarlyStoppingCallback(early_stopping_patience=3, early_stopping_threshold=100.0)

    often = {"max_steps": 8, "save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    finetune = FAST | often | {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    config = replace(CONFIG, generator_args={"max_steps": 0}, finetune_args=finetune)
    options = {"output_dir": tmp_path / "run", "callbacks": [patience(), Interrupt()]}
    with contextlib.nullcontext() if interrupted_in is None else pytest.raises(KeyboardInterrupt):
        load(marian, config=config).distill(PAIRS, PAIRS, **options)
    resumed = load(marian, config=config)
    again = {"output_dir": tmp_path / "run", "callbacks": [patience()], "resume_from_checkpoint": True}
    resumed.distill(PAIRS, PAIRS, **again)
    assert [row["step"] for row in resumed.history["finetune"] if "eval_loss" in row] == [1, 2, 3, 4]


def test_resume_takes_no_path(marian, tmp_path):
    """The base class's argument does: taken for True it would go on from another checkpoint."""
    with pytest.raises(ValueError, match="found resume_from_checkpoint='run/finetune/checkpoint-1', expected True or"):
        load(marian).distill(PAIRS, output_dir=tmp_path / "run", resume_from_checkpoint="run/finetune/checkpoint-1")
    assert not (tmp_path / "run").exists()


def test_a_refused_call_does_not_cost_the_student_before_it(marian, tmp_path):
    distiller = load(marian)
    student = distiller.distill(PAIRS, output_dir=tmp_path / "run")
    scores = distiller.evaluate(PAIRS, metrics="chrf", batch_sizes=(1,))
    with pytest.raises(ValueError, match="found data of type list"):
        distiller.distill([{"source": "a"}], output_dir=tmp_path / "other")
    assert distiller.student is student
    distiller.save_pretrained(tmp_path / "saved")
    assert f"{scores.rows[0].student:.1f}" in (tmp_path / "saved" / "README.md").read_text()


def test_generation_settings_of_the_student_are_saved(marian, tmp_path):
    distiller = load(marian)
    student = distiller.distill(PAIRS, output_dir=tmp_path / "run")
    student.generation_config.update(num_beams=7, max_length=33)
    distiller.save_pretrained(tmp_path / "saved")
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert (saved.num_beams, saved.max_length) == (7, 33)


def test_resume_with_other_batches_is_refused(marian, tmp_path):
    load(marian).distill(PAIRS, output_dir=tmp_path / "run")
    other = replace(CONFIG, finetune_args=FAST | {"dataloader_drop_last": True})
    with pytest.raises(ValueError, match="other settings .*dataloader_drop_last"):
        load(marian, config=other).distill(PAIRS, output_dir=tmp_path / "run", resume_from_checkpoint=True)


def test_resume_with_other_settings_is_refused(marian, tmp_path):
    load(marian).distill(PAIRS, output_dir=tmp_path / "run")
    other = load(marian, config=replace(CONFIG, label_smoothing=0.3))
    with pytest.raises(ValueError, match=r"other settings \(config.label_smoothing: 0.1 -> 0.3\).*weight_distill.yaml"):
        other.distill(PAIRS, output_dir=tmp_path / "run", resume_from_checkpoint=True)


def test_the_card_names_no_path_of_this_machine(marian, tmp_path):
    load(marian).save_pretrained(tmp_path / "student")
    assert str(marian.parent) not in (tmp_path / "student" / "README.md").read_text()
    cache = str(tmp_path / "secret" / "cache")
    config = replace(CONFIG, source="mpo", source_options={"cache_dir": cache}, finetune_args=FAST | {"max_steps": 0})
    load(marian, config=config).save_pretrained(tmp_path / "other")
    card = (tmp_path / "other" / "README.md").read_text()
    assert "secret" not in card and "cache_dir: cache" in card


def test_what_only_the_model_wants_to_know_is_no_business_of_the_tokenizer(marian, tmp_path):
    distiller = load(marian, dtype=torch.float32, attn_implementation="eager", local_files_only=True)
    distiller.save_pretrained(tmp_path / "student")
    settings = json.loads((tmp_path / "student" / "tokenizer_config.json").read_text())
    assert not {"dtype", "attn_implementation"} & set(settings)


def test_the_recipe_of_opdf_starts_from_the_layers_that_it_is_held_to(tmp_path):
    distiller = WeightDistiller(tiny_teacher("marian"), student=StudentShape(decoder_layers=1), recipe="opdf")
    model = distiller.calibrate(random_features(8))
    pairs = model.source.exposed()["auxiliary"]
    assert pairs and all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in pairs)


def test_a_teacher_without_a_name_is_no_repository(marian, tmp_path, monkeypatch):
    monkeypatch.setattr("hf_weight_distill.card.hf_hub_download", None)
    distiller = load(marian)
    distiller.teacher.name_or_path = ""
    distiller.save_pretrained(tmp_path / "student")
    card = ModelCard.load(tmp_path / "student" / "README.md")
    assert card.data.base_model is None and "from `a Marian model in memory`" in card.text


def test_the_card_names_the_split_that_was_scored(marian, tmp_path, monkeypatch):
    corpus = built_in_corpus(train=2, validation=2, test=2)
    monkeypatch.setattr("hf_weight_distill.data._corpus", lambda: corpus)
    (tmp_path / "test.jsonl").write_text('{"source": "a", "target": "b"}')
    options = {"metrics": ("chrf",), "batch_sizes": (1,), "speed_sentences": 1}
    for number, (data, split, expected) in enumerate(
        (("built-in", None, "test"), ("built-in", "validation", "validation"), (tmp_path / "test.jsonl", None, None))
    ):
        distiller = load(marian)
        distiller.evaluate(data, split, **options)
        distiller.save_pretrained(tmp_path / str(number))
        (result,) = ModelCard.load(tmp_path / str(number) / "README.md").data.eval_results
        assert result.dataset_split == expected


def test_scores_of_data_without_a_name_are_not_said_to_be_of_the_training_data(marian, tmp_path):
    distiller = load(marian)
    distiller.distill(PAIRS, output_dir=tmp_path / "run")
    splits = DatasetDict(dev=PAIRS, devtest=PAIRS)
    distiller.evaluate(splits, "devtest", metrics=("chrf",), batch_sizes=(1,), speed_sentences=1)
    distiller.save_pretrained(tmp_path / "student", dataset="wmt/wmt16:ro-en")
    card = ModelCard.load(tmp_path / "student" / "README.md")
    assert "a data set that was not named" in card.text and "devtest" not in card.content


def test_what_was_said_for_the_card_is_said_again_and_not_after_another_run(marian, tmp_path):
    distiller, said = load(marian), {"task": "summarization", "limits": "Not for medical texts."}
    for folder, given in (("a", said), ("b", {})):
        distiller.save_pretrained(tmp_path / folder, **given)
        card = ModelCard.load(tmp_path / folder / "README.md")
        assert card.data.pipeline_tag == "summarization" and said["limits"] in card.text
    with pytest.raises(TypeError, match="licence"):
        distiller.save_pretrained(tmp_path / "typo", licence="mit")  # is not remembered
    distiller.save_pretrained(tmp_path / "mended", license="mit")
    distiller.distill(PAIRS, output_dir=tmp_path / "run")
    distiller.save_pretrained(tmp_path / "c")
    assert said["limits"] not in (tmp_path / "c" / "README.md").read_text()


def test_a_configuration_without_a_recipe_goes_by_the_nearest(marian, tmp_path):
    for name, config in RECIPES.items():
        assert load(marian, config=replace(config, max_target_length=7, num_beams=2)).recipe == name
    assert (
        load(marian, config=WeightDistillConfig(source="direct", generator_args={"max_steps": 0})).recipe == "default"
    )
    assert load(marian, config=WeightDistillConfig(source="mpo")).recipe == "opdf"
    load(marian, config=replace(RECIPES["opdf"], num_beams=1)).save_pretrained(tmp_path / "a")
    assert "recipe: opdf" in (tmp_path / "a" / "README.md").read_text()


def test_a_save_that_fails_leaves_nothing(marian, tmp_path, monkeypatch):
    distiller = load(marian)
    monkeypatch.setattr(module, "write_card", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        distiller.save_pretrained(tmp_path / "student")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_loads_as_something_else_is_not_written(marian, tmp_path, monkeypatch):
    distiller = load(marian)
    student = distiller.model.materialize()
    monkeypatch.setattr(type(distiller), "student", property(lambda self: student))
    real = student.save_pretrained

    def wrong(folder):
        real(folder)
        other = load_file(folder / "model.safetensors")
        from safetensors.torch import save_file

        save_file({n: t + 0.5 for n, t in other.items()}, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(student, "save_pretrained", wrong)
    with pytest.raises(RuntimeError, match="does not give the logits of the one in memory"):
        distiller.save_pretrained(tmp_path / "student")
    assert list(tmp_path.iterdir()) == []


# --- refusals --------------------------------------------------------------------------------------------------------


def test_teachers_that_cannot_be(marian):
    with pytest.raises(ValueError, match="'gpt2' model, which is not an encoder-decoder"):
        WeightDistiller(GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=9)), student=SHAPE)
    with pytest.raises(ValueError, match="bfloat16 weights.*dtype=torch.float32"):
        WeightDistiller(tiny_teacher("t5").bfloat16(), student=SHAPE)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_teacher_without_an_output_layer_is_refused(family):
    with pytest.raises(ValueError, match="has no output layer for text: load it with AutoModelForSeq2SeqLM"):
        WeightDistiller(AutoModel.from_config(tiny_teacher(family).config), student=SHAPE)


def test_a_causal_checkpoint_is_refused_before_it_is_loaded(tmp_path):
    GPT2Config().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="not an encoder-decoder"):
        WeightDistiller.from_pretrained(tmp_path, student=SHAPE)


def test_a_tokenizer_of_another_model(marian):
    tokenizer = load(marian).tokenizer
    with pytest.raises(ValueError, match="vocab_size=40"):
        WeightDistiller(tiny_teacher("marian"), tokenizer, student=SHAPE)


def test_text_without_a_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="text pairs need a tokenizer"):
        WeightDistiller(tiny_teacher("t5"), student=SHAPE, config=CONFIG).distill(PAIRS, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "data, message",
    [
        (Dataset.from_dict({"a": ["x"], "b": ["y"]}), r"\['a', 'b'\]"),
        (Dataset.from_dict({"source": [], "target": []}), "no rows|empty|without rows"),
        (Dataset.from_dict({"source": [" "], "target": ["x"]}), "source|empty|blank"),
        (Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[-100, -100]]}), "only padding"),
        (random_features(low=3, high=20), "pseudo_labels='replace'.*hold no text: pass text pairs"),
    ],
)
def test_data_that_teaches_nothing_is_refused_before_anything_is_written(marian, tmp_path, data, message):
    config = replace(CONFIG, pseudo_labels="replace" if "pseudo_labels" in message else "none")
    with pytest.raises(ValueError, match=message):
        load(marian, config=config).distill(data, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folders_that_are_taken(marian, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    distiller = load(marian)
    with pytest.raises(ValueError, match="exists and is not empty.*resume_from_checkpoint=True"):
        distiller.distill(PAIRS, output_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="exists and is not empty: choose another"):
        distiller.save_pretrained(tmp_path / "run")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "config, message",
    [
        ({"generator_objectives": {"magic": 1.0}}, "objectives: unknown 'magic'"),
        ({"finetune_objectives": {"tensor_constraint": 1.0}}, "tensor_constraint"),
        ({"schedules": {"magic": {}}}, "schedules: unknown 'magic'"),
        ({"generator_args": FAST | {"activation_checkpointing": True}}, "wrong gradients in phase 1"),
        ({"max_source_length": 999}, "max_source_length=999, but the teacher has .* positions"),
        ({"source": "magic"}, "weight source: unknown 'magic'"),
        ({"finetune_source": "magic"}, "weight source: unknown 'magic'"),
        ({"finetune_source": "generator"}, "finetune_source='generator' makes weights from the teacher's"),
        ({"finetune_source": "direct", "finetune_args": FAST | {"gradient_checkpointing": True}}, "wrong gradients"),
        ({"generator_args": FAST | {"neftune_noise_alpha": 5.0}}, "neftune_noise_alpha"),
        ({"finetune_args": FAST | {"label_smoothing_factor": 0.1}}, "label_smoothing_factor=0.1.*WeightDistillConfig"),
        ({"finetune_args": FAST | {"max_tokens_per_batch": 2}}, "max_tokens=2"),
        ({"source_options": {"init": "magic"}}, "init='magic'"),
        ({"source_options": {"sacle": True}}, "source 'generator': unknown 'sacle'; did you mean 'scale'"),
        ({"schedules": {"magnitude_pruning": {"sparsty": 0.5}}}, "magnitude_pruning.*sparsty.*sparsity"),
        ({"objective_options": {"tau": 2.0}}, "objective_options: unknown 'tau'; known: .*temperature"),
        ({"finetune_args": FAST | {"eval_strategy": "steps"}}, "eval_strategy='steps', but there is no eval_dataset"),
        ({"finetune_args": FAST | {"metric_for_best_model": "bleu"}}, "'bleu', but without compute_metrics"),
        ({"finetune_args": FAST | {"report_to": "wandb"}}, r"report_to=\['wandb'\]: .*install"),
        ({"finetune_args": FAST | {"save_strategy": "best"}}, "save_strategy='best' looks at metric_for_best_model"),
        ({"finetune_args": FAST | {"optim": "adamw_8bit"}}, "optim='adamw_8bit': .*bitsandbytes"),
        ({"finetune_args": FAST | {"lr_scheduler_type": "cosine_with_min_lr"}}, "'cosine_with_min_lr' .*min_lr_rate"),
        ({"generator_args": FAST | {"lr_scheduler_type": "warmup_stable_decay"}}, "'warmup_stable_.*'num_decay_steps'"),
        (
            {"generator_args": FAST | {"push_to_hub": True}},
            "push_to_hub=True would publish the checkpoints of a weight",
        ),
        (
            {"finetune_args": FAST | {"max_tokens_per_batch": 99, "auto_find_batch_size": True}},
            "max_tokens_per_batch=99 makes the batches, and auto_find_batch_size=True",
        ),
        (
            {"finetune_args": FAST | {"max_tokens_per_batch": 99, "per_device_train_batch_size": 4}},
            "max_tokens_per_batch=99 makes the batches, and per_device_train_batch_size=4 .*leave one",
        ),
        (
            {"finetune_args": FAST | {"max_tokens_per_batch": 99, "train_sampling_strategy": "sequential"}},
            "makes the batches, and train_sampling_strategy='sequential'",
        ),
        ({"generator_objectives": {"tensor_constraint": 1.0}}, "without auxiliary tensors, and expected 'mpo'"),
        ({"schedules": {"magnitude_pruning": {}}, "finetune_args": FAST | {"fsdp": "full_shard"}}, "which FSDP and"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_anything_is_trained(marian, tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        load(marian, config=replace(CONFIG, **config)).distill(PAIRS, output_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "generated_student").exists()


def test_arguments_as_a_dictionary_are_refused(marian, tmp_path):
    with pytest.raises(ValueError, match=r"found dict for finetune_args, .* replace\(config, finetune_args=\.\.\.\)"):
        load(marian).distill(PAIRS, output_dir=tmp_path / "run", finetune_args={"max_steps": 2})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"input_ids": [5] * 161, "labels": [6]}, "found 161 tokens in a row of input_ids, but the teacher has 160"),
        ({"input_ids": [5], "labels": [6] * 161}, "found 161 tokens in a row of labels, but the teacher has 160"),
        ({"input_ids": [5, 9999], "labels": [6]}, "found the id 9999 in input_ids; expected 0 to"),
        ({"input_ids": [5], "labels": [-100, 6, -3]}, "found the id -3 in labels; expected 0 to"),
    ],
)
def test_features_that_do_not_fit_the_teacher_are_refused_before_anything_is_written(row, message, marian, tmp_path):
    good = {"input_ids": [5], "labels": [6, -100]}
    with pytest.raises(ValueError, match=message):
        load(marian, config=replace(CONFIG, pseudo_labels="none")).distill(
            Dataset.from_list([good] * 1500 + [row]), output_dir=tmp_path / "run"
        )
    assert not (tmp_path / "run" / "weight_distill.yaml").exists()


def test_arguments_of_the_stock_trainer_are_refused_before_anything_is_trained(marian, tmp_path):
    stock = Seq2SeqTrainingArguments(str(tmp_path / "finetune"), max_steps=1, use_cpu=True)
    with pytest.raises(ValueError, match="found Seq2SeqTrainingArguments .*, expected WeightDistillTrainingArguments"):
        load(marian).distill(PAIRS, output_dir=tmp_path / "run", finetune_args=stock)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "shape, config, message",
    [
        ({"ffn_dim": 64}, {}, "the student's 'ffn' axis has 64"),
        ({"attention_heads": 4}, {}, "the student's attention has 4 heads, the teacher's 2"),
        ({}, {"source": "generator", "start": "random"}, "the generator cannot start from random student weights"),
        ({}, {"source_options": {"init": "Xavier"}}, "init='Xavier'"),
        ({}, {"finetune_source": "mpo", "finetune_source_options": {"unit_sites": "3"}}, "unit_sites='3'"),
        ({}, {"objective_options": {"label_smoothing": 1.5}}, "label_smoothing=1.5: expected 0 <= label_smoothing < 1"),
        (
            {},
            {"finetune_objectives": {"kl": 1.0}, "objective_options": {"temperature": 0.0}},
            "temperature=0.0: expected a number above 0",
        ),
        (
            {},
            {"schedules": {"magnitude_pruning": {"sparsity": 0.5}}, "finetune_args": {"max_steps": 0}},
            "schedules={'magnitude_pruning'.* acts in phase 2, which finetune_args skips",
        ),
        ({}, {"temperature": 2.0}, "temperature=2.0, but no objective of a phase that trains has one"),
        ({}, {"finetune_lora": {"r": 2}, "finetune_args": {"max_steps": 0}}, "finetune_lora={'r': 2} acts in phase 2"),
        ({}, {"finetune_source": "mpo", "finetune_args": {"max_steps": 0}}, "finetune_source='mpo' acts in phase 2"),
        ({}, {"finetune_args": FAST | {"num_train_epochs": 1}}, "num_train_epochs=1 has no effect beside max_steps=3"),
        ({}, {"teacher_cache_top_k": 9999, "finetune_objectives": {"kl": 1.0}}, "top_k=9999: expected 1 to"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_the_teacher_translates(marian, tmp_path, shape, config, message):
    config = replace(CONFIG, pseudo_labels="replace", **config)
    with pytest.raises(ValueError, match=message):
        load(marian, config=config, student=replace(SHAPE, **shape)).distill(PAIRS, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cache_of_more_tokens_than_a_small_vocabulary_has_leaves_no_folder(marian, tmp_path):
    config = replace(CONFIG, teacher_cache_top_k=60, finetune_objectives={"kl": 1.0})
    distiller = load(marian, config=config, student=replace(SHAPE, vocab="from-data"))
    assert distiller.teacher.config.vocab_size > 60
    with pytest.raises(ValueError, match=r"top_k=60: expected 1 to \d\d, the tokens that the teacher chooses from"):
        distiller.distill(PAIRS.select(range(2)), output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluation_data_that_cannot_be_read_is_refused_before_the_teacher_translates(marian, tmp_path):
    config = replace(CONFIG, pseudo_labels="replace")
    with pytest.raises(ValueError, match="nothing.jsonl"):
        load(marian, config=config).distill(PAIRS, str(tmp_path / "nothing.jsonl"), output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["cosine", "constant_with_warmup", "inverse_sqrt", "polynomial"])
def test_usual_schedules_and_optimizers_pass(tmp_path, name):
    for optimizer in ("adamw_torch", "adafactor", "sgd"):
        check_training(arguments(tmp_path, lr_scheduler_type=name, optim=optimizer), False, None)


def test_metrics_of_translations_see_whole_translations(marian, tmp_path):
    teacher = tiny_teacher("t5")  # without a longest output, like the public ones: generation would end at 20 tokens
    teacher.generation_config.suppress_tokens = [teacher.config.eos_token_id]
    seen, evaluating = [], FAST | {"eval_strategy": "steps", "eval_steps": 3, "predict_with_generate": True}
    config = replace(CONFIG, max_target_length=31, finetune_args=evaluating, generator_args={"max_steps": 0})
    measure = make_compute_metrics(load(marian).tokenizer)
    distiller = WeightDistiller(teacher, student=SHAPE, config=config)

    def compute_metrics(prediction):
        seen.append(prediction.predictions.shape)
        return {"none": 0.0}

    data = random_features(4)
    distiller.distill(data, data, output_dir=tmp_path / "run", compute_metrics=compute_metrics)
    assert seen == [(4, 32)]  # the start token among them
    own = arguments(tmp_path / "own", max_steps=3, predict_with_generate=True, eval_strategy="steps", eval_steps=3)
    options = {"finetune_args": own, "compute_metrics": compute_metrics}
    distiller.distill(data, data, output_dir=tmp_path / "d", **options)
    assert seen[1] == (4, 32) and own.generation_max_length is None, "what was given stays as it is"
    idle = load(marian, config=replace(CONFIG, finetune_args=evaluating))
    with pytest.raises(ValueError, match="without compute_metrics nothing reads"):
        idle.distill(PAIRS, PAIRS, output_dir=tmp_path / "c")
    mine = arguments(tmp_path / "mine", eval_strategy="steps", eval_steps=3)
    with pytest.raises(ValueError, match="compute_metrics reads translations: set predict_with_generate=True"):
        distiller.distill(data, data, output_dir=tmp_path / "b", finetune_args=mine, compute_metrics=measure)


def test_a_stream_has_no_epochs_in_either_phase(marian, tmp_path):
    config = replace(CONFIG, finetune_args={"num_train_epochs": 2, "report_to": "none"})
    with pytest.raises(ValueError, match="num_train_epochs=2 of a stream, whose length is not known: give max_steps"):
        load(marian, config=config).distill(PAIRS.to_iterable_dataset(), output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "config, message",
    [
        ({"finetune_objectives": {"cross_correlation": 1.0}}, "student has 8 features and the teacher's 16"),
        (
            {"source": "mpo", "generator_objectives": {"cross_entropy": 1.0, "tensor_constraint": 1.0}},
            "no linear matrix of the teacher's shape",
        ),
    ],
)
def test_objectives_that_cannot_compare_a_narrower_student_are_refused_first(marian, tmp_path, config, message):
    shape = StudentShape(d_model=8, attention_heads=2, ffn_dim=16)
    with pytest.raises(ValueError, match=message):
        load(marian, config=replace(CONFIG, **config), student=shape).distill(PAIRS, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objective", ["cross_entropy", "kl"])
def test_a_teacher_that_nothing_asks_waits_on_the_cpu(marian, tmp_path, monkeypatch, objective):
    distiller = load(marian, config=replace(CONFIG, generator_objectives={objective: 1.0}))
    model, args, moved = distiller.model, arguments(tmp_path), []
    monkeypatch.setattr(distiller.teacher, "to", lambda place: moved.append(place) or distiller.teacher)
    shared = {"train_dataset": random_features(4), "teacher": distiller.teacher}
    distiller._train(model, "generator", args, shared, False)
    assert moved == (["cpu"] if objective == "cross_entropy" else [args.device])


def test_early_stopping_looks_at_both_phases(marian, tmp_path):
    best = {"eval_strategy": "steps", "metric_for_best_model": "loss"}
    config = replace(CONFIG, finetune_args=FAST | best)
    options = {"output_dir": tmp_path / "run", "callbacks": [EarlyStoppingCallback()]}
    with pytest.raises(ValueError, match="EarlyStoppingCallback looks at an evaluation of every phase"):
        load(marian, config=config).distill(PAIRS, PAIRS, **options)
    assert not (tmp_path / "run").exists()


def test_generation_settings_that_cannot_be_saved_are_refused_first(marian, tmp_path):
    distiller = load(marian)
    distiller.teacher.generation_config.update(num_beams=1, early_stopping=True)
    with pytest.raises(ValueError, match="generation settings could not be saved .*early_stopping.*Change"):
        distiller.distill(PAIRS, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_folder_for_both_phases_is_refused(marian, tmp_path):
    args = [arguments(tmp_path / "same") for _ in range(2)]
    with pytest.raises(ValueError, match="both phases have output_dir=.*same"):
        load(marian).distill(PAIRS, output_dir=tmp_path / "run", generator_args=args[0], finetune_args=args[1])


def test_a_stream_has_no_token_batches(marian, tmp_path):
    config = replace(CONFIG, finetune_args=FAST | {"max_tokens_per_batch": 64})
    with pytest.raises(ValueError, match="max_tokens_per_batch=64 .*stream"):
        load(marian, config=config).distill(PAIRS.to_iterable_dataset(), output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "run" / "generated_student").exists()


def test_unknown_recipes_and_fields():
    with pytest.raises(ValueError, match="recipe: unknown 'best'; known: default, generator, opdf"):
        WeightDistiller(tiny_teacher("t5"), student=SHAPE, recipe="best")
    with pytest.raises(ValueError, match="WeightDistillConfig: unknown 'lr'"):
        WeightDistillConfig.from_dict({"lr": 1})
    with pytest.raises(ValueError, match="width='svd': expected one of pca, importance, uniform"):
        WeightDistillConfig(width="svd")


def test_a_stream_needs_no_pseudo_labels(marian, tmp_path):
    distiller = load(marian, config=replace(CONFIG, pseudo_labels="replace"))
    with pytest.raises(ValueError, match="this one is a stream.*pseudo_labels='none'"):
        distiller.distill(PAIRS.to_iterable_dataset(), output_dir=tmp_path / "run")
    student = load(marian).distill(PAIRS.to_iterable_dataset(), output_dir=tmp_path / "run")
    assert student.config.decoder_layers == 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs(marian, tmp_path, recipe):
    config = RECIPES[recipe]
    small = {name: getattr(config, name) | FAST for name in ("generator_args", "finetune_args")}
    config = replace(config, num_beams=2, **small)
    student = load(marian, config=config).distill(PAIRS, output_dir=tmp_path / "run")
    assert all(torch.isfinite(t).all() for t in tensors_of(student).values())


def test_the_search_of_the_configuration_makes_the_pseudo_labels(tmp_path, monkeypatch):
    tokenizer = tiny_marian_tokenizer(tmp_path / "t")
    asked = {"num_beams": 3, "length_penalty": 0.5, "max_source_length": 20, "max_target_length": 30, "prefix": "a "}
    config = WeightDistillConfig(pseudo_labels="replace", teacher_batch_size=5, **asked)
    made = WeightDistiller(
        tiny_marian_model(tokenizer), tokenizer, student=StudentShape(decoder_layers=1), config=config
    )
    heard = {}

    def labels(teacher, tokenizer, pairs, folder, **options):
        heard.update(options)
        return pairs.add_column("teacher_target", pairs["target"])

    monkeypatch.setattr(module, "generate_pseudo_labels", labels)
    made.features(Dataset.from_dict({"source": SENTENCES[:3], "target": SENTENCES[5:8]}), tmp_path / "labels")
    assert {name: heard[name] for name in asked} == asked and heard["batch_size"] == 5


def test_the_way_of_a_projection_is_relative_to_its_start():
    before, after = (Inspection(projections={"a": factor * torch.ones(2, 2)}) for factor in (1.0, 3.0))
    assert after.learned_since(before, {})["moved"] == {"a": pytest.approx(2.0)}
