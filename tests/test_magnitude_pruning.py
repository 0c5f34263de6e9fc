"""Magnitude pruning: exact counts, masks that only grow, zeros that stay zero through real training."""

import copy
import warnings

import pytest
import torch
from datasets import Dataset as Table
from models import VOCAB, random_batch, tiny_teacher
from torch.utils.data import Dataset
from transformers import AutoModelForSeq2SeqLM, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from hf_weight_distill import (
    StudentShape,
    WeightDistillConfig,
    WeightDistiller,
    WeightDistillModel,
    WeightDistillTrainer,
    WeightDistillTrainingArguments,
    build_plan,
)
from hf_weight_distill.config import options_of
from hf_weight_distill.objectives import build_objectives
from hf_weight_distill.schedules import SCHEDULES, MagnitudePruning, build_schedules
from hf_weight_distill.schedules.magnitude_pruning import smallest, sparsity_by_class
from hf_weight_distill.starts import teacher_start

TINY = torch.finfo(torch.float32).tiny


class Rows(Dataset):
    """Random features of one length."""

    def __init__(self, count=24, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(3, VOCAB - 2, (count, 2, 6), generator=generator)

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        source, target = self.ids[index]
        return {"input_ids": source, "attention_mask": torch.ones_like(source), "labels": target}


class Watch(TrainerCallback):
    """Writes down what a user of the model would see; runs after the schedule."""

    def __init__(self, names):
        self.names, self.masks, self.gradients, self.norms = names, [], [], []

    def zeros(self, model):
        return torch.cat([model.get_parameter(name).detach().flatten() == 0 for name in self.names])

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.masks.append((f"before {state.global_step}", self.zeros(model)))
        self.gradients.append(torch.cat([model.get_parameter(n).grad.flatten() for n in self.names]))

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.masks.append((f"after {state.global_step}", self.zeros(model)))


class ZeroByChance(TrainerCallback):
    """One kept weight becomes exactly zero in the optimizer step; runs before the schedule."""

    def __init__(self, name, step):
        self.name, self.step, self.place = name, step, None

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == self.step:
            weight = model.get_parameter(self.name).detach().view(-1)
            self.place = int(weight.abs().argmax())
            weight[self.place] = 0.0


class Stop(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == self.step


def linear_of(model):
    plan = build_plan(model, StudentShape())
    return {c.path: c.student_names for c in plan.classes if c.weight_class.role == "linear"}


def small_student(family="marian"):
    """A tiny model of one layer a stack."""
    teacher = tiny_teacher(family)
    plan = build_plan(teacher, StudentShape(encoder_layers=1, decoder_layers=1))
    return WeightDistillModel(plan, teacher, teacher_start(plan, teacher), "direct").materialize()


def train(model, folder, callbacks, resume=None, objectives=None, teacher=None, **settings):
    settings = {
        "max_steps": 8,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "per_device_train_batch_size": 4,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    } | settings
    args = WeightDistillTrainingArguments(output_dir=str(folder), **settings)
    trainer = WeightDistillTrainer(
        model,
        args=args,
        objectives=objectives or build_objectives({"cross_entropy": 1.0}),
        teacher=teacher,
        train_dataset=Rows(),
        eval_dataset=Rows(8, seed=1),
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# --- which weights -------------------------------------------------------------------------------------------------


def by_sorting(magnitudes, count):
    """The naive choice: a stable sort of (magnitude, place) in Python."""
    flat = [x for m in magnitudes for x in m.flatten().tolist()]
    chosen = set(sorted(range(len(flat)), key=lambda i: (flat[i], i))[:count])
    masks, at = [], 0
    for m in magnitudes:
        masks.append(torch.tensor([at + i in chosen for i in range(m.numel())]).view(m.shape))
        at += m.numel()
    return masks


@pytest.mark.parametrize("count", [0, 1, 2, 5, 13, 30, 41, 42])
@pytest.mark.parametrize("kind", ["random", "ties", "extremes"])
def test_smallest_is_a_stable_sort(kind, count):
    magnitudes = [torch.rand(4, 5), torch.rand(3, 4).T, torch.rand(10)]
    if kind == "ties":
        magnitudes = [(m * 3).round() for m in magnitudes]
    if kind == "extremes":
        magnitudes[0][0] = torch.tensor([0.0, 1e-45, TINY, 3e38, float("inf")])
    found = smallest(magnitudes, count)
    assert sum(int(m.sum()) for m in found) == count
    for mask, expected in zip(found, by_sorting(magnitudes, count), strict=True):
        assert torch.equal(mask, expected)


# --- the plan of pruning steps -------------------------------------------------------------------------------------


def test_the_cubic_of_the_docstring():
    schedule = MagnitudePruning({}, sparsity=0.8, steps=4)
    assert [schedule.sparsity_after(step) for step in range(5)] == pytest.approx([0, 0.4625, 0.7, 0.7875, 0.8])
    assert schedule.sparsity_after(4) == 0.8


@pytest.mark.parametrize(
    "options, total, expected",
    [
        ({"steps": 4, "begin": 0.0, "end": 0.75}, 100, (0, 25, 50, 75)),
        ({"steps": 3, "begin": 0.2, "end": 0.4}, 10, (2, 3, 4)),
        ({"steps": 1, "begin": 0.5, "end": 0.9}, 10, (5,)),
        ({"steps": 2, "begin": 0.0, "end": 0.99}, 10, (0, 9)),  # one training step is left for recovery
    ],
)
def test_pruning_steps_are_spread_evenly(options, total, expected):
    assert MagnitudePruning({}, **options).training_steps(total) == expected


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"sparsity": 0}, "sparsity=0"),
        ({"steps": 0}, "steps=0"),
        ({"steps": 2.5}, "steps=2.5"),
        ({"end": 1.0}, "end=1.0.*recovers"),
        ({"begin": 0.9, "end": 0.5}, "begin=0.9, end=0.5"),
        ({"begin": -0.1}, "begin=-0.1"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MagnitudePruning({}, **options)


def test_the_dictionary_knows_it_and_its_options():
    settings = {"sparsity": 0.5, "steps": 3, "begin": 0.1, "end": 0.6}
    assert list(settings) == options_of(MagnitudePruning)
    (schedule,) = build_schedules({"magnitude_pruning": settings}, {"a": ("b",)})
    assert type(schedule) is SCHEDULES["magnitude_pruning"] and schedule.linear == {"a": ("b",)}
    assert {name: getattr(schedule, name) for name in settings} == settings


# --- in training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family, accumulation", [("marian", 1), ("marian", 2), ("flan-t5", 1)])
def test_training_prunes_exactly_and_for_good(family, accumulation, tmp_path):
    model = small_student(family)
    before, linear = weights_of(model), linear_of(model)
    names = [name for group in linear.values() for name in group]
    schedule, watch = MagnitudePruning(linear, sparsity=0.9, steps=4, begin=0.125, end=0.7), Watch(names)
    settings = {"optim": "adamw_torch", "gradient_accumulation_steps": accumulation, "max_grad_norm": 1e-3}
    train(model, tmp_path, [schedule, watch], max_steps=8, **settings)

    P = sum(before[name].numel() for name in names)
    pruning_steps = {0: 0, 1: 1, 2: 1, 3: 2, 4: 3, 5: 3, 6: 4, 7: 4}  # training step -> tau; 1, 2.53, 4.07, 5.6
    assert schedule.training_steps(8) == (1, 3, 4, 6)
    previous = torch.zeros(P, dtype=torch.bool)
    for (when, zeros), (step, tau) in zip(watch.masks, [s for s in pruning_steps.items() for _ in "ba"], strict=True):
        assert when.endswith(str(step))
        assert int(zeros.sum()) == round(0.9 * (1 - (1 - tau / 4) ** 3) * P), when
        assert (zeros | ~previous).all(), f"{when}: a mask shrank"
        previous = zeros
    for gradient, (_, zeros) in zip(watch.gradients, watch.masks[::2], strict=True):
        assert (gradient[zeros] == 0).all() and (gradient[~zeros] != 0).any()
    for name, p in model.named_parameters():
        if name not in names:
            assert int((p == 0).sum()) <= int((before[name] == 0).sum()), f"{name} is none of the pruned matrices"
    assert not any(p._backward_hooks for name, p in model.named_parameters() if name in names)


def test_the_first_pruning_step_takes_the_smallest_of_all_matrices(tmp_path):
    model = small_student()
    linear = linear_of(model)
    names = [name for group in linear.values() for name in group]
    before = [model.get_parameter(name).detach().abs() for name in names]
    P = sum(w.numel() for w in before)
    train(model, tmp_path, [MagnitudePruning(linear, sparsity=0.6, steps=1)], max_steps=1, learning_rate=1e-6)
    expected = by_sorting(before, round(0.6 * P))
    for name, mask in zip(names, expected, strict=True):
        assert torch.equal(model.get_parameter(name) == 0, mask), name
    assert len({float(mask.float().mean()) for mask in expected}) > 3  # global: matrices differ


def test_without_the_schedule_momentum_and_decay_would_move_zeros(tmp_path):
    """The control of the test above: the zeros do not stay by themselves."""
    model = small_student()
    name = "model.encoder.layers.0.fc1.weight"
    with torch.no_grad():
        model.get_parameter(name)[:, ::2] = 0
    train(model, tmp_path, [], max_steps=2)
    assert (model.get_parameter(name) != 0).all()


@pytest.mark.parametrize(
    "stop, steps, end, survives",
    [(3, 2, 0.25, True), (4, 4, 0.75, False)],  # before training steps 0, 2; before 0, 2, 4 (next to be done), 6
)
@pytest.mark.filterwarnings("ignore:training ended with")  # that of the part that is interrupted
def test_an_interrupted_run_resumes_bit_for_bit(stop, steps, end, survives, tmp_path):
    """Also where a kept weight is zero by chance in the very step before the checkpoint."""
    start = small_student()
    linear = linear_of(start)
    name, chance = "model.decoder.layers.0.fc2.weight", stop - 1
    options = {"sparsity": 0.8, "steps": steps, "end": end}
    saving = {"save_strategy": "steps", "save_steps": stop, "save_total_limit": 2}

    def run(folder, *more, resume=None):
        model, zero = copy.deepcopy(start), ZeroByChance(name, chance)
        train(model, folder, [zero, MagnitudePruning(linear, **options), *more], resume, **saving)
        return model, zero

    whole, zero = run(tmp_path / "whole")
    interrupted, _ = run(tmp_path / "parts", Stop(stop))
    assert interrupted.get_parameter(name).view(-1)[zero.place] == TINY
    checkpoint = get_last_checkpoint(tmp_path / "parts")
    assert checkpoint.endswith(f"checkpoint-{stop}")
    resumed, _ = run(tmp_path / "parts", resume=checkpoint)
    expected = weights_of(whole)
    assert bool(whole.get_parameter(name).view(-1)[zero.place] != 0) == survives
    for key, found in weights_of(resumed).items():
        assert torch.equal(found, expected[key]), key
    found = sparsity_by_class(resumed, linear)
    P = sum(start.get_parameter(n).numel() for group in linear.values() for n in group)
    assert found["total"] * P == pytest.approx(round(0.8 * P))


def test_the_best_model_is_a_fully_pruned_one(tmp_path):
    """The evaluation loss is best before pruning; the checkpoint that is loaded is not."""
    model = small_student()
    linear = linear_of(model)
    schedule = MagnitudePruning(linear, sparsity=0.9, steps=2, begin=0.25, end=0.5)
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": False}
    every = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = train(model, tmp_path, [schedule], max_steps=8, learning_rate=1e-5, **best, **every)
    losses = {row["step"]: row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row}
    assert min(losses, key=losses.get) <= 4  # the trap is there
    after = {step: loss for step, loss in losses.items() if step > 4}
    assert trainer.state.best_global_step == min(after, key=after.get)
    P = sum(model.get_parameter(n).numel() for group in linear.values() for n in group)
    assert sparsity_by_class(model, linear)["total"] == round(0.9 * P) / P


def test_weights_that_are_zero_at_the_start_are_pruned_weights(tmp_path):
    model = small_student()
    linear, name = linear_of(model), "model.encoder.layers.0.fc1.weight"
    with torch.no_grad():
        model.get_parameter(name)[:, :8] = 0
    watch = Watch([name])
    train(model, tmp_path, [MagnitudePruning(linear, sparsity=0.3, steps=2, begin=0.5, end=0.6), watch], max_steps=6)
    assert [int(zeros.sum()) for _, zeros in watch.masks[:6]] == [24 * 8] * 6  # before the first pruning step
    assert (model.get_parameter(name)[:, :8] == 0).all()
    P = sum(model.get_parameter(n).numel() for group in linear.values() for n in group)
    assert sparsity_by_class(model, linear)["total"] == round(0.3 * P) / P


def test_too_few_training_steps_are_said_and_the_sparsity_is_reached(tmp_path):
    model = small_student()
    linear = linear_of(model)
    with pytest.warns(UserWarning, match="10 pruning steps fall on 2 of 2 training steps"):
        train(model, tmp_path, [MagnitudePruning(linear)], max_steps=2)
    assert sparsity_by_class(model, linear)["total"] == pytest.approx(0.9, abs=1e-3)


def test_a_run_that_stops_before_the_last_pruning_step_says_so(tmp_path):
    model = small_student()
    with pytest.warns(UserWarning, match="ended with 78.8% of the weights pruned, not 90.0%"):
        train(model, tmp_path, [MagnitudePruning(linear_of(model), steps=2, end=0.5), Stop(3)], max_steps=8)


def test_a_source_in_phase_two_is_refused(tmp_path):
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, StudentShape())
    model = WeightDistillModel(plan, teacher, teacher_start(plan, teacher), "direct")
    with pytest.raises(ValueError, match="no parameter .*self_attn.* in the WeightDistillModel .*finetune_source=None"):
        train(model, tmp_path, [MagnitudePruning(linear_of(teacher))])


def test_a_wrapped_model_is_unwrapped(tmp_path):
    model = small_student()
    linear = linear_of(model)
    schedule = MagnitudePruning(linear, sparsity=0.5, steps=1)
    trainer = train(copy.deepcopy(model), tmp_path, [], max_steps=1)
    state = copy.copy(trainer.state)
    state.global_step = 0
    schedule.on_train_begin(trainer.args, state, trainer.control, model=torch.nn.DataParallel(model))
    schedule.on_step_begin(trainer.args, state, trainer.control)
    assert sparsity_by_class(model, linear)["total"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("setting", ["fsdp", "deepspeed"])
def test_sharded_parameters_are_refused(setting, tmp_path):
    trainer = train(small_student(), tmp_path, [], max_steps=1)
    setattr(trainer.args, setting, "on")
    schedule = MagnitudePruning(linear_of(trainer.model))
    with pytest.raises(ValueError, match="without FSDP and DeepSpeed"):
        schedule.on_train_begin(trainer.args, trainer.state, trainer.control, model=trainer.model)


# --- afterwards ----------------------------------------------------------------------------------------------------


def test_sparsity_by_class_counts_zeros():
    model = small_student()
    linear = linear_of(model)
    path = "model.encoder.layers.{}.fc1.weight"
    with torch.no_grad():
        model.get_parameter(path.format(0))[:, :4] = 0
    found = sparsity_by_class(model, linear)
    P = sum(model.get_parameter(n).numel() for group in linear.values() for n in group)
    assert set(found) == set(linear) | {"total"}
    assert found.pop(path) == 0.25 and found.pop("total") == pytest.approx(24 * 4 / P)
    assert not any(found.values())


def test_self_distilled_pruning_end_to_end(tmp_path):
    """The teacher's own shape, no phase 1, both objectives; saved and loaded again, zeros are zeros."""
    teacher = tiny_teacher("marian")
    before = weights_of(teacher)
    training = {"max_steps": 6, "learning_rate": 1e-3, "weight_decay": 0.01, "per_device_train_batch_size": 12}
    config = WeightDistillConfig(
        source="direct",
        generator_args={"max_steps": 0, "use_cpu": True},
        finetune_args={**training, "use_cpu": True, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True},
        finetune_objectives={"cross_entropy": 1.0, "cross_correlation": 0.1, "kl": 1.0},
        schedules={"magnitude_pruning": {"sparsity": 0.7, "steps": 3, "end": 0.5}},
    )
    distiller = WeightDistiller(teacher, student=StudentShape(), config=config)
    assert all(torch.equal(p, before[n]) for n, p in distiller.student.named_parameters())  # the unpruned model itself
    rows = [{key: value.tolist() for key, value in row.items()} for row in Rows()]
    student = distiller.distill(Table.from_list(rows), output_dir=tmp_path / "run")
    assert all(torch.equal(p, before[n]) for n, p in teacher.named_parameters())
    logged = [row["cross_correlation"] for row in distiller.history["finetune"] if "cross_correlation" in row]
    assert len(logged) == 6 and all(value > 0 for value in logged)

    linear = linear_of(student)
    found = sparsity_by_class(student, linear)
    P = sum(student.get_parameter(n).numel() for group in linear.values() for n in group)
    assert found["total"] == round(0.7 * P) / P
    distiller.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved").eval()
    assert sparsity_by_class(loaded, linear) == found
    batch = random_batch(student)
    torch.testing.assert_close(loaded(**batch).logits, student(**batch).logits)


def _schedule(tmp_path, **options):
    model = tiny_teacher("t5")
    linear = {"x": ("encoder.block.0.layer.1.DenseReluDense.wi.weight",)}
    schedule = MagnitudePruning(linear, **options)
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    state = TrainerState(max_steps=10, global_step=0)
    schedule.on_train_begin(args, state, TrainerControl(), model=model)
    return schedule, args, state


def test_the_best_checkpoint_after_the_last_pruning_step_is_not_forgotten(tmp_path):
    schedule, args, state = _schedule(tmp_path, sparsity=0.5, steps=1, begin=0.2, end=0.2)
    for step in range(10):
        state.global_step = step
        schedule.on_step_begin(args, state, TrainerControl())
        if step == 4:
            state.best_metric, state.best_global_step, state.best_model_checkpoint = 1.0, 4, "checkpoint-4"
    assert (state.best_metric, state.best_global_step, state.best_model_checkpoint) == (1.0, 4, "checkpoint-4")


def test_a_finished_pruning_is_not_said_to_be_unfinished(tmp_path):
    schedule, args, state = _schedule(tmp_path, sparsity=0.5, steps=1, begin=0.2, end=0.2)
    for step in range(10):
        state.global_step = step
        schedule.on_step_begin(args, state, TrainerControl())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schedule.on_train_end(args, state, TrainerControl())
