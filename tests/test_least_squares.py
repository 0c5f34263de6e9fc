"""The reconstructed start: every fit against a naive one, on recorded activations of plain forward passes."""

import functools
from collections import Counter

import numpy as np
import pytest
import torch
from models import FAMILIES, random_batch, tiny_teacher

from hf_weight_distill import StudentShape, build_plan
from hf_weight_distill.least_squares import RIDGE, reconstruct
from hf_weight_distill.model import WeightDistillModel
from hf_weight_distill.plan import decoder_inputs, tensors_of
from hf_weight_distill.starts import teacher_start

SHAPE = StudentShape(encoder_layers=2, decoder_layers=1)


@functools.cache
def start_of(family, shape, reconstruction, layers="last"):
    teacher = tiny_teacher(family)
    plan = build_plan(teacher, shape)
    start = teacher_start(plan, teacher, batches_of(teacher), layers=layers, reconstruction=reconstruction)
    return plan, start, WeightDistillModel(plan, teacher, start, "direct").materialize()


def batches_of(model, count=6):
    return [random_batch(model, rows=8, seed=seed) for seed in range(count)]


def activations(model, names, batches):
    """Inputs and outputs of modules over all batches, in plain forward passes: {name: (inputs, outputs)}."""
    found = {name: ([], []) for name in names}

    def hook(name):
        def record(_, inputs, output):
            for values, value in zip(found[name], (inputs[0], output), strict=True):
                values.append(value.detach())

        return record

    handles = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    with torch.no_grad():
        for batch in batches:
            model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                decoder_input_ids=decoder_inputs(model, batch["labels"]),
            )
    for handle in handles:
        handle.remove()
    return found


def tokens(values, batches, stack):
    masks = [b["attention_mask"].bool() if stack == "encoder" else b["labels"] != -100 for b in batches]
    return np.concatenate([v[m].double().numpy() for v, m in zip(values, masks, strict=True)])


def naive_ridge(inputs, goal, weight, bias):
    """Least squares on a system to which the ridge's rows are appended."""
    before = weight.double().numpy().T
    if bias is not None:
        inputs, before = np.hstack([inputs, np.ones((len(inputs), 1))]), np.vstack([before, bias.double().numpy()])
    root = np.sqrt(RIDGE * np.mean(np.sum(inputs**2, axis=0))) * np.eye(inputs.shape[1])
    return np.linalg.lstsq(np.vstack([inputs, root]), np.vstack([goal, root @ before]), rcond=None)[0]


# (family, module in the student's layer, the norm that is given the stream after it, stack, student and teacher layer)
READERS = [
    ("marian", "model.decoder.layers.{}.encoder_attn.q_proj", "decoder", 0, 3),
    ("marian", "model.encoder.layers.{}.self_attn.v_proj", "encoder", 1, 3),
    ("bart", "model.decoder.layers.{}.fc1", "decoder", 0, 3),
    ("t5", "decoder.block.{}.layer.2.DenseReluDense.wi", "decoder", 0, 3),
    ("flan-t5", "encoder.block.{}.layer.1.DenseReluDense.wi_1", "encoder", 0, 1),
    ("m2m_100", "model.decoder.layers.{}.encoder_attn.k_proj", "encoder", 0, 3),  # keys are of the encoder's tokens
]
WRITERS = [  # post-norm: the module's own norm sees the sum; pre-norm: the next one does
    ("marian", "model.decoder.layers.{}.fc2", "model.decoder.layers.{}.final_layer_norm", "decoder", 0, 3),
    ("marian", "model.encoder.layers.{}.self_attn.out_proj", "model.encoder.layers.{}.self_attn_layer_norm")
    + ("encoder", 0, 1),
    ("pegasus", "model.decoder.layers.{}.encoder_attn.out_proj", "model.decoder.layers.{}.final_layer_norm")
    + ("decoder", 0, 3),
    ("mbart", "model.decoder.layers.{}.fc2", "model.decoder.layer_norm", "decoder", 0, 3),
    ("t5", "decoder.block.{}.layer.0.SelfAttention.o", "decoder.block.{}.layer.1.layer_norm", "decoder", 0, 3),
    ("umt5", "encoder.block.{}.layer.1.DenseReluDense.wo", "encoder.final_layer_norm", "encoder", 1, 3),
]


def check(family, module, norm, stack, layer, source):
    teacher = tiny_teacher(family)
    batches = batches_of(teacher)
    _, _, before = start_of(family, SHAPE, "none")
    _, _, student = start_of(family, SHAPE, "least_squares")
    ours, theirs = module.format(layer), module.format(source)
    names = [ours] + ([norm.format(layer)] if norm else [])
    mine = activations(student, names, batches)
    other = activations(teacher, [theirs] + ([norm.format(source)] if norm else []), batches)
    goal = tokens(other[theirs][1], batches, stack)
    if norm:
        after = tokens(other[norm.format(source)][0], batches, stack)
        own = tokens(mine[norm.format(layer)][0], batches, stack) - tokens(mine[ours][1], batches, stack)
        goal = after - own
    inputs = tokens(mine[ours][0], batches, stack)
    weight, bias = before.get_submodule(ours).weight, before.get_submodule(ours).bias
    expected = naive_ridge(inputs, goal, weight.detach(), None if bias is None else bias.detach())
    found = student.get_submodule(ours)
    np.testing.assert_allclose(found.weight.detach().numpy().T, expected[: weight.shape[1]], atol=2e-4, rtol=2e-3)
    if bias is not None:
        np.testing.assert_allclose(found.bias.detach().numpy(), expected[-1], atol=2e-4, rtol=2e-3)
    assert not torch.allclose(found.weight, weight, atol=1e-2), "the fit changes something"


@pytest.mark.parametrize("family, module, stack, layer, source", READERS)
def test_what_reads_the_stream_is_fitted_to_the_teachers_answers(family, module, stack, layer, source):
    check(family, module, None, stack, layer, source)


@pytest.mark.parametrize("family, module, norm, stack, layer, source", WRITERS)
def test_what_writes_to_the_stream_is_fitted_to_the_teachers_stream(family, module, norm, stack, layer, source):
    check(family, module, norm, stack, layer, source)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("width", [{}, {"d_model": 8, "ffn_dim": 16, "attention_heads": 2}], ids=["same", "half"])
def test_the_reconstructed_student_says_what_the_teacher_says(family, width):
    """In the mean over the calibration text its distribution is nearer to the teacher's than the start's."""
    teacher, shape = tiny_teacher(family), StudentShape(decoder_layers=1, **width)
    batches = batches_of(teacher)

    def distance(student):
        total = 0.0
        with torch.no_grad():
            for batch in batches:
                log_p, log_q = (
                    torch.log_softmax(m(**batch).logits, -1)[batch["labels"] != -100] for m in (teacher, student)
                )
                total += torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="sum").item()
        return total

    assert distance(start_of(family, shape, "least_squares")[2]) < 0.8 * distance(start_of(family, shape, "none")[2])


def test_a_stack_that_keeps_its_shape_and_the_first_layer_stay():
    teacher = tiny_teacher("marian")
    plan, plain, _ = start_of("marian", StudentShape(decoder_layers=1), "none", layers="first")
    _, fitted, student = start_of("marian", StudentShape(decoder_layers=1), "least_squares", layers="first")
    assert plain.keys() == fitted.keys()
    for c in plan.classes:
        if c.weight_class.stack == "encoder":
            assert fitted[c.path] is plain[c.path] or torch.equal(fitted[c.path].weight, plain[c.path].weight)
        torch.testing.assert_close(fitted[c.path].weight, plain[c.path].weight, atol=1e-3, rtol=1e-3)
    names = tensors_of(teacher)
    for name, value in tensors_of(student).items():  # the first layer's inputs are the teacher's own
        torch.testing.assert_close(value, names[name], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("family", ["marian", "t5"])
def test_one_layer_chosen_by_hand_is_fitted_like_the_last_of_a_group(family):
    _, expected, _ = start_of(family, StudentShape(decoder_layers=1), "least_squares")
    for groups in (((3,),), ((0, 1, 2, 3),)):
        _, found, _ = start_of(family, StudentShape(decoder_groups=groups), "least_squares")
        assert all(torch.equal(found[path].weight, start.weight) for path, start in expected.items())
    moved = start_of(family, StudentShape(decoder_groups=((1,), (0,), (2,), (3,))), "least_squares")[1]
    plain = start_of(family, StudentShape(decoder_groups=((1,), (0,), (2,), (3,))), "none")[1]
    assert any(not torch.equal(moved[path].weight, start.weight) for path, start in plain.items())


def test_queries_of_smaller_heads_are_fitted_to_answers_of_their_own_temperature():
    """Scores are divided by the root of the head size: half of it wants queries and keys times 0.5^(1/4) each."""
    shape, module = StudentShape(decoder_layers=1, d_model=8), "model.decoder.layers.{}.encoder_attn.q_proj"
    teacher = tiny_teacher("marian")
    batches, path = batches_of(teacher), module + ".weight"
    plan, before, _ = start_of("marian", shape, "none")
    assert plan.student_config.d_model // plan.student_config.decoder_attention_heads == 2, "half of the teacher's"
    _, after, student = start_of("marian", shape, "least_squares")
    answers = tokens(activations(teacher, [module.format(3)], batches)[module.format(3)][1], batches, "decoder")
    goal = answers @ before[path].projections[0].matrix[0].numpy() * 0.5**0.25
    inputs = tokens(activations(student, [module.format(0)], batches)[module.format(0)][0], batches, "decoder")
    expected = naive_ridge(inputs, goal, before[path].weight[0], before[module + ".bias"].weight[0])
    fitted = after[path].weight[0].T.double()
    torch.testing.assert_close(fitted, torch.tensor(expected[:-1]), atol=2e-4, rtol=2e-3)


def test_one_token_is_enough_to_be_finite():
    teacher = tiny_teacher("t5")
    plan = build_plan(teacher, SHAPE)
    batch = {name: value[:1, :1] for name, value in random_batch(teacher).items()}
    start = teacher_start(plan, teacher, [batch], reconstruction="none")
    fitted = reconstruct(plan, teacher, start, None, [batch])
    assert all(torch.isfinite(value.weight).all() for value in fitted.values())


def test_inputs_that_are_all_zero_leave_what_stood_there():
    teacher = tiny_teacher("t5")
    for block in teacher.decoder.block:
        torch.nn.init.zeros_(block.layer[2].DenseReluDense.wi.weight)  # a pruned module, without biases
    plan = build_plan(teacher, SHAPE)
    start = teacher_start(plan, teacher, batches_of(teacher, 1), reconstruction="none")
    fitted = reconstruct(plan, teacher, start, None, batches_of(teacher, 1))
    path = "decoder.block.{}.layer.2.DenseReluDense.wo.weight"
    torch.testing.assert_close(fitted[path].weight, start[path].weight)
    assert all(torch.isfinite(value.weight).all() for value in fitted.values())


def test_a_teacher_that_was_left_in_training_mode_gives_the_same_start():
    teacher, shape = tiny_teacher("marian"), StudentShape(decoder_layers=1)
    assert teacher.config.dropout > 0
    plan, batches = build_plan(teacher, shape), batches_of(teacher)
    expected = teacher_start(plan, teacher.eval(), batches)
    found = teacher_start(plan, teacher.train(), batches)
    assert all(torch.equal(found[path].weight, expected[path].weight) for path in expected)


def test_each_layer_is_fitted_to_the_answers_of_its_own_neurons():
    teacher, module = tiny_teacher("marian"), "model.decoder.layers.{}.fc1"
    plan = build_plan(teacher, StudentShape(decoder_layers=2, ffn_dim=(24, 12)))
    batches = batches_of(teacher)
    before = teacher_start(plan, teacher, batches, reconstruction="none")
    after = teacher_start(plan, teacher, batches)
    student = WeightDistillModel(plan, teacher, after, "direct").materialize()
    picks = before[module + ".weight"].projections[0].matrix
    assert not torch.equal(picks[0], picks[1])
    answers = tokens(activations(teacher, [module.format(3)], batches)[module.format(3)][1], batches, "decoder")
    inputs = tokens(activations(student, [module.format(1)], batches)[module.format(1)][0], batches, "decoder")
    expected = naive_ridge(
        inputs, answers @ picks[1].numpy(), before[module + ".weight"].weight[1], before[module + ".bias"].weight[1]
    )
    torch.testing.assert_close(
        after[module + ".weight"].weight[1].T.double(), torch.tensor(expected[:-1]), atol=5e-4, rtol=5e-3
    )


def test_nothing_is_computed_that_no_fit_reads():
    """Where only the decoder is cut a batch runs through the teacher's encoder once, and a fit ends at its module."""
    teacher, calls = tiny_teacher("marian"), Counter()
    for name in ("encoder.layers.0", "decoder.layers.0", "decoder.layers.3.encoder_attn", "decoder.layers.3.fc2"):
        module = teacher.get_submodule(f"model.{name}")
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    batches = batches_of(teacher, 3)
    teacher_start(build_plan(teacher, StudentShape(decoder_layers=1)), teacher, batches)
    assert calls == {
        "encoder.layers.0": 3,  # what the decoder looks at; the student's encoder is the same
        "decoder.layers.0": 3,  # on the way to the layer that is imitated
        "decoder.layers.3.encoder_attn": 3 * 3,  # for its output, fc1 and fc2; queries, keys and values come before
        "decoder.layers.3.fc2": 3,
    }
