"""The trainer: one gradient however a batch is cut, objectives logged, groups, resume, and what it refuses."""

import copy
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from datasets import Dataset, concatenate_datasets
from ddp_worker import train
from models import random_batch, tiny_teacher
from training import arguments, random_features

from hf_weight_distill import StudentShape, WeightDistillTrainingArguments, build_plan
from hf_weight_distill.arguments import refuse_in_phase_1
from hf_weight_distill.data import PlainCollator
from hf_weight_distill.model import WeightDistillModel
from hf_weight_distill.objectives import OBJECTIVES, Objective, build_objectives
from hf_weight_distill.plan import tensors_of
from hf_weight_distill.runs import last_checkpoint
from hf_weight_distill.starts import teacher_start
from hf_weight_distill.trainer import WeightDistillTrainer, passes, token_batches

HERE = Path(__file__).parent


def build(phase="generator", family="marian", shape=None, dropout=None):
    teacher = tiny_teacher(family)
    plan = build_plan(teacher, shape or StudentShape(decoder_layers=1), dropout)
    model = WeightDistillModel(plan, teacher, teacher_start(plan, teacher))
    return teacher, model if phase == "generator" else model.materialize()


def trainer_of(model, teacher, args, objectives=None, **options):
    return WeightDistillTrainer(
        model,
        args=args,
        objectives=build_objectives(objectives or {"cross_entropy": 1.0}),
        teacher=teacher,
        train_dataset=options.pop("train_dataset", random_features()),
        data_collator=PlainCollator(teacher.config.pad_token_id),
        **options,
    )


# --- scaling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["generator", "finetune"])
def test_one_times_eight_and_two_times_four_are_one_gradient(phase, tmp_path):
    whole, a = train(phase, tmp_path, per_device_train_batch_size=8)
    cut, b = train(phase, tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    for name in whole:
        torch.testing.assert_close(cut[name], whole[name], atol=1e-6, rtol=1e-5)
    for x, y in zip(a.state.log_history[:2], b.state.log_history[:2], strict=True):
        assert [x[k] for k in ("loss", "cross_entropy", "kl")] == pytest.approx(
            [y[k] for k in ("loss", "cross_entropy", "kl")]
        )


@pytest.mark.parametrize("phase", ["generator", "finetune", "opdf", "stream", "shards"])
def test_two_processes_are_one(phase, tmp_path):
    target = tmp_path / "weights.pt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    command += [str(HERE / "ddp_worker.py"), phase, str(tmp_path / "run"), str(target)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{HERE.parent}:{HERE}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    weights, history = torch.load(target, weights_only=False)
    whole, single = train(phase, tmp_path / "single", per_device_train_batch_size=8)
    for name in whole:
        torch.testing.assert_close(weights[name], whole[name], atol=1e-6, rtol=1e-5)
    for x, y in zip(history[:2], single.state.log_history[:2], strict=True):
        assert [x["cross_entropy"], x["kl"]] == pytest.approx([y["cross_entropy"], y["kl"]], rel=1e-4)


def test_the_gradient_is_the_mean_over_all_label_tokens(tmp_path):
    """Against plain autograd on the stock student: sum over tokens, divided once."""
    teacher, student = build("finetune")
    student.eval()
    trainer = trainer_of(student, teacher, arguments(tmp_path))
    batch = random_batch(student)
    student.train()
    for module in student.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
    loss = trainer.compute_loss(student, batch, num_items_in_batch=torch.tensor(40))
    logits = student(**batch).logits
    kept = batch["labels"] != -100
    expected = -torch.log_softmax(logits, -1)[kept].gather(1, batch["labels"][kept][:, None]).sum() / 40
    torch.testing.assert_close(loss, expected)


# --- logging and evaluation ------------------------------------------------------------------------------------------


def test_objectives_are_logged_one_by_one_and_sum_to_the_loss(tmp_path):
    teacher, model = build()
    args = arguments(tmp_path, max_steps=3, logging_steps=3)
    trainer = trainer_of(model, teacher, args, {"cross_entropy": 0.25, "kl": 2.0})
    trainer.train()
    row = trainer.state.log_history[0]
    # batches of one step each hold a like number of tokens: the mean over steps and over tokens nearly agree
    assert row["loss"] == pytest.approx(0.25 * row["cross_entropy"] + 2.0 * row["kl"], rel=0.02)


@pytest.mark.parametrize("phase", ["generator", "finetune"])
def test_eval_loss_is_the_plain_cross_entropy_whatever_is_trained(phase, tmp_path):
    teacher, model = build(phase)
    args = arguments(tmp_path, per_device_eval_batch_size=32)
    trainer = trainer_of(model, teacher, args, {"kl": 1.0}, eval_dataset=random_features(8, seed=3))
    found = trainer.evaluate()["eval_loss"]
    student = model.materialize() if phase == "generator" else model
    batch = PlainCollator(39)(list(random_features(8, seed=3)))
    assert found == pytest.approx(student.eval()(**batch).loss.item(), rel=1e-5)


@pytest.mark.parametrize("phase", ["generator", "finetune"])
def test_predict_with_generate_decodes_the_student(phase, tmp_path):
    teacher, model = build(phase)
    args = arguments(tmp_path, predict_with_generate=True, generation_max_length=7, per_device_eval_batch_size=32)
    seen = []
    trainer = trainer_of(
        model,
        teacher,
        args,
        eval_dataset=random_features(4),
        compute_metrics=lambda p: seen.append(p.predictions) or {"n": 1},
    )
    metrics = trainer.evaluate()
    student = model.materialize() if phase == "generator" else model
    batch = PlainCollator(39)(list(random_features(4)))
    expected = student.eval().generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_length=7)
    assert metrics["eval_n"] == 1
    width = expected.shape[1]
    assert torch.equal(torch.as_tensor(seen[0])[:, :width], expected)


class CrossAttention(Objective):
    """Squared difference of the last layers' attention to the source, mean over heads."""

    name = "cross_attention"
    needs = frozenset({"teacher", "attentions"})

    def forward(self, student, teacher, labels):
        difference = student.cross_attentions[-1].mean(1) - teacher.cross_attentions[-1].mean(1)
        return difference.square().sum(-1)[labels != -100].sum()


@pytest.mark.parametrize("phase", ["generator", "finetune"])
@pytest.mark.parametrize("family", ["marian", "t5"])
def test_an_objective_of_attentions_is_given_them(phase, family, tmp_path, monkeypatch):
    monkeypatch.setitem(OBJECTIVES, CrossAttention.name, CrossAttention)
    teacher, model = build(phase, family, dropout=0.0)
    assert teacher.config._attn_implementation == "sdpa", "which hands none out"
    student = copy.deepcopy(model.materialize() if phase == "generator" else model).eval()
    args = arguments(tmp_path, max_steps=1, per_device_train_batch_size=4)
    objectives = {"cross_entropy": 1.0, "cross_attention": 1.0}
    trainer = trainer_of(model, teacher, args, objectives, train_dataset=random_features(4))
    trainer.train()
    batch = PlainCollator(teacher.config.pad_token_id)(list(random_features(4)))
    student.set_attn_implementation("eager")
    both = (student, teacher)
    ours, theirs = (part(**batch, output_attentions=True, use_cache=False).cross_attentions[-1] for part in both)
    gap = (ours.mean(1) - theirs.mean(1)).square().sum(-1)[batch["labels"] != -100].mean()
    assert trainer.state.log_history[0]["cross_attention"] == pytest.approx(gap.item(), rel=1e-3)


# --- optimizer and batches -------------------------------------------------------------------------------------------


def test_projections_and_mixing_learn_at_their_own_rate(tmp_path):
    teacher, model = build(shape=StudentShape(decoder_layers=1, d_model=8, attention_heads=2))
    args = arguments(
        tmp_path, learning_rate=0.1, projection_lr_factor=0.25, optim="sgd", max_grad_norm=0.0, max_steps=1
    )
    trainer = trainer_of(model, teacher, args)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer.train()
    slow = {id(p) for p in model.slow_parameters()}
    for name, p in model.named_parameters():  # one SGD step: the difference over the gradient is the rate
        step = (before[name] - p.detach()).norm() / p.grad.norm() if p.grad is not None and p.grad.any() else None
        if step is not None and p.grad.norm() > 1e-3:
            assert step.item() == pytest.approx(0.025 if id(p) in slow else 0.1, rel=1e-2), name
    assert len(trainer.optimizer.param_groups) > 2
    assert sum(len(g["params"]) for g in trainer.optimizer.param_groups) == len(before)


def test_batches_by_tokens(tmp_path):
    teacher, model = build()
    trainer = trainer_of(model, teacher, arguments(tmp_path, max_tokens_per_batch=24))
    batches = list(trainer.get_train_dataloader())
    assert all(b["labels"].numel() <= 24 for b in batches)
    assert sum(len(b["labels"]) for b in batches) == 32
    assert len({len(b["labels"]) for b in batches}) > 1


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 5, "max_tokens_per_batch": 24},
        {"max_steps": 6, "per_device_train_batch_size": 5, "gradient_accumulation_steps": 3},  # 7 batches: 3, 3, 1
        {"max_steps": -1, "num_train_epochs": 1.5, "per_device_train_batch_size": 16},
    ],
)
def test_passes_are_the_epochs_of_the_trainer(options, tmp_path):
    teacher, model = build()
    trainer = trainer_of(model, teacher, arguments(tmp_path, **options))
    trainer.train()
    assert passes(trainer.train_dataset, trainer.args) == pytest.approx(trainer.state.epoch)


def test_a_data_seed_of_zero_is_one(tmp_path):
    teacher, model = build()
    runs = []
    for seed in (1, 2):
        args = arguments(tmp_path, max_tokens_per_batch=24, data_seed=0, seed=seed)
        runs.append([b["labels"].tolist() for b in trainer_of(model, teacher, args).get_train_dataloader()])
    assert runs[0] == runs[1]


@pytest.mark.parametrize("family", ["marian", "t5", "umt5"])
def test_what_decays_in_the_plain_student_decays_under_a_source(family, tmp_path):
    teacher = tiny_teacher(family)
    plan = build_plan(teacher, StudentShape(decoder_layers=2))
    model = WeightDistillModel(plan, teacher, teacher_start(plan, teacher), "direct")
    decayed = []
    for either in (model, model.materialize()):
        trainer = trainer_of(either, teacher, arguments(tmp_path, weight_decay=0.1))
        names = {id(p): name for name, p in either.named_parameters()}
        groups = trainer.create_optimizer().param_groups
        decayed.append({names[id(p)] for g in groups if g["weight_decay"] for p in g["params"]})
    rows = {name: c.path for c in plan.classes for name in c.student_names}
    found = {name.rpartition(".")[2].replace("/", ".") for name in decayed[0]}
    assert found == {rows.get(name, name) for name in decayed[1]}


# --- resume ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["generator", "finetune"])
@pytest.mark.parametrize("tokens", [None, 24], ids=["sentences", "tokens"])
def test_resume_is_bit_exact(phase, tokens, tmp_path):
    options = {
        "max_steps": 5,
        "gradient_accumulation_steps": 2,
        "lr_scheduler_type": "cosine",
        "max_tokens_per_batch": tokens,
    }

    def run(folder, **more):
        torch.manual_seed(1)
        teacher, model = build(phase)
        trainer = trainer_of(
            model, teacher, arguments(tmp_path / folder, **options, save_strategy="steps", save_steps=3)
        )
        trainer.train(**more)
        return {n: p.detach().clone() for n, p in model.named_parameters()}

    whole = run("a")
    resumed = run("b", resume_from_checkpoint=str(tmp_path / "a" / "checkpoint-3"))
    assert all(torch.equal(whole[n], resumed[n]) for n in whole)


def trained_on(stream, folder, resume=None, **options):
    torch.manual_seed(1)
    teacher, model = build("finetune", dropout=0.0)
    args = arguments(folder, per_device_train_batch_size=4, gradient_accumulation_steps=2, logging_steps=1, **options)
    trainer = trainer_of(model, teacher, args, train_dataset=stream)
    trainer.train(resume_from_checkpoint=resume)
    return tensors_of(model), trainer


def test_an_update_goes_on_where_a_stream_begins_again(tmp_path):
    """As on a stream that is long enough: 12 rows are three batches, and an update has two."""
    rows = random_features(12)
    short, trainer = trained_on(rows.to_iterable_dataset(), tmp_path / "short", max_steps=4)
    whole, _ = trained_on(concatenate_datasets([rows] * 3).to_iterable_dataset(), tmp_path / "long", max_steps=4)
    assert all(torch.equal(short[name], whole[name]) for name in whole)
    for row in trainer.state.log_history[:4]:
        assert row["loss"] == pytest.approx(row["cross_entropy"], abs=1e-3)
    _, trainer = trained_on(random_features(3).to_iterable_dataset(), tmp_path / "few", max_steps=1)
    assert trainer.state.global_step == 1  # of more than the stream has


def test_a_stream_is_resumed_in_its_second_pass(tmp_path):
    stream, options = random_features(12).to_iterable_dataset(), {"max_steps": 5, "save_strategy": "steps"}
    whole, _ = trained_on(stream, tmp_path / "a", save_steps=3, **options)
    resumed, _ = trained_on(stream, tmp_path / "b", str(tmp_path / "a" / "checkpoint-3"), **options)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_longer_side_of_a_pair_fills_a_batch(tmp_path):
    sources, targets = (9, 2, 3, 1, 2), (2, 8, 3, 4, 1)
    rows = [{"input_ids": [5] * s, "labels": [6] * t} for s, t in zip(sources, targets, strict=True)]
    sampler = token_batches(Dataset.from_list(rows), arguments(tmp_path, max_tokens_per_batch=10))
    assert sorted(sorted(batch) for batch in sampler) == [[0], [1], [2, 3], [4]]  # 9; 8; 2 x 4; 2


def test_on_two_processes_token_batches_go_on_within_their_own_epoch(tmp_path):
    teacher, model = build()
    trainer = trainer_of(model, teacher, arguments(tmp_path, max_tokens_per_batch=24))
    shard = {"num_processes": 2, "process_index": 1, "put_on_device": False}
    trainer.accelerator.prepare = lambda loader: prepare_data_loader(loader, **shard)

    def epoch(loader, number):
        loader.set_epoch(number)
        return [batch["labels"].tolist() for batch in loader]

    first, second = (epoch(trainer.get_train_dataloader(), number) for number in (0, 1))
    assert first != second
    resumed = skip_first_batches(trainer.get_train_dataloader(), 2)
    assert epoch(resumed, 1) == second[2:]


def test_the_frozen_teacher_is_not_sent_at_each_forward_of_phase_1(tmp_path):
    for phase, expected in (("generator", False), ("finetune", None)):
        teacher, model = build(phase)
        assert trainer_of(model, teacher, arguments(tmp_path)).args.ddp_broadcast_buffers is expected
    teacher, model = build()
    args = arguments(tmp_path, ddp_broadcast_buffers=True)
    assert trainer_of(model, teacher, args).args.ddp_broadcast_buffers


# --- refusals --------------------------------------------------------------------------------------------------------


def test_several_gpus_in_one_process_are_refused_in_phase_1(tmp_path):
    args = arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="found 2 GPUs in one process.*torchrun"):
        refuse_in_phase_1(args)


def test_activation_checkpointing_is_refused_in_phase_1_only(tmp_path):
    teacher, model = build()
    with pytest.raises(ValueError, match="activation_checkpointing=True gives wrong gradients in phase 1"):
        trainer_of(model, teacher, arguments(tmp_path, activation_checkpointing=True))
    teacher, student = build("finetune")
    trainer_of(student, teacher, arguments(tmp_path, activation_checkpointing=True, max_steps=1)).train()


@pytest.mark.parametrize("phase", ["generator", "finetune"])
def test_the_learning_rate_goes_by_the_students_width(phase, tmp_path):
    teacher, model = build(phase)
    trainer = trainer_of(model, teacher, arguments(tmp_path, learning_rate=None, max_steps=1))
    trainer.train()
    assert trainer.state.log_history[0]["learning_rate"] == 0.25 / model.config.d_model


def test_sharding_is_refused_in_phase_1(tmp_path):
    args = arguments(tmp_path)
    args.deepspeed = "zero.json"
    with pytest.raises(ValueError, match="FSDP and DeepSpeed would gather .* use DDP there"):
        refuse_in_phase_1(args)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_live_teacher_runs_in_the_precision_of_the_training(bf16, tmp_path):
    teacher, student = build("finetune")
    heard = []
    teacher.lm_head.register_forward_hook(lambda module, args, output: heard.append(output.dtype))
    trainer_of(student, teacher, arguments(tmp_path, max_steps=1, bf16=bf16), {"kl": 1.0}).train()
    assert heard == [torch.bfloat16 if bf16 else torch.float32]


def test_an_objective_without_its_teacher_is_refused(tmp_path):
    _, model = build()
    with pytest.raises(ValueError, match="the objective kl needs a live teacher"):
        WeightDistillTrainer(model, args=arguments(tmp_path), objectives=build_objectives({"kl": 1.0}))


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    teacher, model = build("finetune")
    args = arguments(tmp_path, save_strategy="steps", save_steps=1, max_steps=6)
    trainer = trainer_of(model, teacher, args)

    class Poison(trainer.callback_handler.callbacks[0].__class__.__mro__[1]):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                with torch.no_grad():
                    model.model.shared.weight.fill_(float("nan"))

    trainer.add_callback(Poison())
    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 4 .*earlier checkpoints in .* are whole"):
        trainer.train()
    state = type(model).from_pretrained(tmp_path / "checkpoint-2").state_dict()
    assert all(torch.isfinite(t).all() for t in state.values())


class Greedy(Objective):
    """More numbers than any machine has room for."""

    name = "greedy"

    def forward(self, student, teacher, labels):
        return torch.empty(10**15).sum()


@pytest.mark.parametrize(
    ("options", "told"),
    [({"max_tokens_per_batch": 60}, "max_tokens_per_batch=60"), ({}, "per_device_train_batch_size=8")],
)
def test_a_batch_that_is_too_large_says_what_to_lower(options, told, tmp_path):
    teacher, student = build("finetune")
    trainer = trainer_of(student, teacher, arguments(tmp_path, **options))
    trainer.objectives["greedy"], trainer.objective_weights["greedy"] = Greedy(), 1.0
    with pytest.raises(MemoryError, match=f"out of memory on cpu with {told}: lower it, and raise gradient_acc"):
        trainer.train()


@pytest.mark.parametrize(
    "options, message",
    [({"projection_lr_factor": -1}, "expected a number of at least 0"), ({"max_tokens_per_batch": 0}, "positive")],
)
def test_arguments_check_themselves(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        WeightDistillTrainingArguments(output_dir=str(tmp_path), **options)


def test_a_zero_padding_row_stays_zero_in_phase_2(tmp_path):
    teacher, student = build("finetune")
    pad = teacher.config.pad_token_id
    with torch.no_grad():
        student.model.shared.weight[pad] = 0
    trainer_of(student, teacher, arguments(tmp_path)).train()
    assert student.model.shared.weight[pad].abs().max() == 0
    assert not torch.equal(student.model.shared.weight, teacher.model.shared.weight)


def test_each_log_has_the_objectives_of_its_own_steps(tmp_path):
    rows = {}
    for every in (1, 2):
        torch.manual_seed(0)
        teacher = tiny_teacher("marian")
        student = tiny_teacher("marian")
        with torch.no_grad():
            for p in student.parameters():
                p.add_(0.05 * torch.randn_like(p))
        trainer = WeightDistillTrainer(
            student,
            objectives=build_objectives({"kl": 1.0}),
            teacher=teacher,
            train_dataset=random_features(8),
            args=arguments(tmp_path / str(every), max_steps=4, logging_steps=every),
            data_collator=PlainCollator(teacher.config.pad_token_id),
        )
        trainer.train()
        rows[every] = [row["kl"] for row in trainer.state.log_history if "kl" in row]
    one, two = rows[1], rows[2]
    assert abs(one[0] - one[3]) > 0.01 * one[0]  # it moves
    assert two == [pytest.approx((one[0] + one[1]) / 2, rel=1e-4), pytest.approx((one[2] + one[3]) / 2, rel=1e-4)]


def _kl(teacher, tmp_path):
    student = tiny_teacher("bart")
    with torch.no_grad():
        for p in student.parameters():
            p.mul_(1.02)
    student.config.dropout = 0.0
    for m in student.modules():
        if hasattr(m, "dropout") and isinstance(m.dropout, float):
            m.dropout = 0.0
    before = student.model.shared.weight[student.config.pad_token_id].detach().clone()
    trainer = WeightDistillTrainer(
        student,
        objectives=build_objectives({"kl": 1.0}),
        teacher=teacher,
        train_dataset=random_features(8),
        args=arguments(tmp_path, max_steps=1),
        data_collator=PlainCollator(teacher.config.pad_token_id),
    )
    trainer.train()
    after = student.model.shared.weight[student.config.pad_token_id].detach()
    return trainer.state.log_history[0]["kl"], before, after


def test_a_live_teacher_that_was_left_in_training_mode_teaches_without_dropout(tmp_path):
    expected = _kl(tiny_teacher("bart").eval(), tmp_path / "a")[0]
    assert _kl(tiny_teacher("bart").train(), tmp_path / "b")[0] == pytest.approx(expected, rel=1e-5)


def test_a_padding_row_that_is_not_zero_learns_like_any_other(tmp_path):
    _, before, after = _kl(tiny_teacher("bart"), tmp_path)
    assert before.any() and not torch.equal(before, after)


def test_the_newest_checkpoint_is_the_one_of_the_largest_number(tmp_path):
    for step in (9, 10, 100, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path).endswith("checkpoint-100")
