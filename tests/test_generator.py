"""The generator against a naive reference, the paper's counts and its stated properties."""

import itertools
import math

import pytest
import torch
from models import FAMILIES, tiny_teacher
from transformers import MarianConfig, MarianMTModel

from hf_weight_distill import RECIPES, StudentShape, build_plan
from hf_weight_distill.model import WeightDistillModel
from hf_weight_distill.sources import contract
from hf_weight_distill.starts import random_start, teacher_start

SHAPE = StudentShape(decoder_layers=2, d_model=8, ffn_dim=6, attention_heads=2)
PAPER = RECIPES["paper"].source_options


def naive(T, mix, out=None, inner=None):
    """The paper's order and no einsum: every teacher layer is projected entry by entry, then mixed."""
    layers, group = T.shape[:2]
    T, result = T.double(), []
    for s in range(layers):
        total = 0
        for g in range(group):
            rows = T[s, g].tolist() if T.dim() == 4 else [[x] for x in T[s, g].tolist()]
            O, I = len(rows), len(rows[0])  # noqa: E741
            left = out[s if len(out) > 1 else 0].tolist() if out is not None else torch.eye(O).tolist()
            right = inner[s if len(inner) > 1 else 0].tolist() if inner is not None else torch.eye(I).tolist()
            P, Q = len(left[0]), len(right[0])
            projected = [[0.0] * Q for _ in range(P)]
            for p, q in itertools.product(range(P), range(Q)):
                projected[p][q] = sum(rows[o][i] * left[o][p] * right[i][q] for o in range(O) for i in range(I))
            total = total + mix[s, g].item() * torch.tensor(projected, dtype=torch.float64)
        result.append(total if T.dim() == 4 else total[:, 0])
    return torch.stack(result)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 2, 1, 7), (2, 2, 3)], ids=str)
def test_contract_is_the_naive_loop(shape):
    T, mix = torch.randn(shape), torch.randn(shape[:2])
    out = torch.randn(shape[0], shape[2], 3)
    inner = torch.randn(1, shape[3], 2) if len(shape) == 4 else None
    torch.testing.assert_close(contract(T, mix, out, inner).double(), naive(T, mix, out, inner), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(contract(T, mix).double(), naive(T, mix), atol=1e-6, rtol=1e-6)


def paper_model(family, shape=SHAPE):
    teacher = tiny_teacher(family)
    plan = build_plan(teacher, shape)
    model = WeightDistillModel(plan, teacher, random_start(plan, teacher), "generator", PAPER)
    with torch.no_grad():
        for p in model.source.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return teacher, plan, model


@pytest.mark.parametrize("family", FAMILIES)
def test_every_class_of_every_family_is_the_naive_formula(family):
    teacher, plan, model = paper_model(family)
    source, tensors = model.double().source, dict(teacher.double().named_parameters())
    weights = model.student_weights()
    for c in plan.generated:
        key = c.path.replace(".", "/")
        for s, (name, group) in enumerate(zip(c.student_names, c.groups, strict=True)):
            T = torch.stack([tensors[c.path.format(layer)] for layer in group])[None]
            mix = torch.ones(1, len(group), dtype=torch.float64)
            if key in source.mix:  # W_L w, the paper's factored mixing vector
                W_L, w = source.layer_matrix[key][s], source.mix[key][s]
                mix = torch.stack([sum(W_L[g, h] * w[h] for h in range(len(group))) for g in range(len(group))])[None]
            sides = [source.projections[n][s][None] if n else None for n in source.axes[key]]
            expected = naive(T, mix, *sides)[0]
            if c.weight_class.role != "head":
                expected = source.scale[key][s] * torch.tanh(expected) + source.shift[key][s]
            torch.testing.assert_close(weights[name], expected, atol=1e-9, rtol=1e-9, msg=c.path)


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_are_the_students_and_the_materialised_student_is_the_model(family):
    from models import random_batch

    teacher, plan, model = paper_model(family)
    student, batch = model.eval().materialize(), random_batch(teacher)
    assert {n: t.shape for n, t in model.student_weights().items()} == {
        n: t.shape for n, t in (dict(student.named_parameters()) | dict(student.named_buffers())).items()
    }
    torch.testing.assert_close(model(**batch).logits, student(**batch).logits, atol=0, rtol=0)


def test_the_published_form_is_the_same_under_autocast_but_for_rounding():
    _, _, model = paper_model("marian")
    exact = model.student_weights()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model.student_weights()
        mixing = {key: model.source.mixing(key) for key in model.source.mix}
    assert mixing and all(torch.equal(mixing[key], model.source.mixing(key)) for key in mixing)
    for name, weight in exact.items():
        torch.testing.assert_close(rounded[name], weight, rtol=0, atol=2**-6 * max(weight.abs().max().item(), 1))


def test_no_transform_gives_tanh_of_the_teacher():
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, StudentShape())
    weights = WeightDistillModel(plan, teacher, random_start(plan, teacher), "generator", PAPER).student_weights()
    for c in plan.generated:
        for name in c.student_names:
            torch.testing.assert_close(weights[name], torch.tanh(teacher.get_parameter(name)), atol=1e-6, rtol=0)


def test_without_scale_the_shift_is_the_student():
    _, plan, model = paper_model("marian")
    with torch.no_grad():
        for p in model.source.scale.values():
            p.zero_()
    weights = model.student_weights()
    for c in plan.generated:
        for s, name in enumerate(c.student_names):
            assert torch.equal(weights[name], model.source.shift[c.path.replace(".", "/")][s])


def test_permuting_a_group_with_its_mixing_rows_changes_nothing():
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, StudentShape(decoder_layers=1))
    model = WeightDistillModel(plan, teacher, random_start(plan, teacher), "generator", PAPER)
    before, order = model.student_weights(), torch.tensor([2, 0, 3, 1])
    source = model.source
    with torch.no_grad():
        for key in source.layer_matrix:
            if source.teacher[key].shape[1] == 4:
                source.layer_matrix[key].copy_(source.layer_matrix[key][:, order])
                source.teacher[key] = source.teacher[key][:, order]
    for name, weight in model.student_weights().items():
        torch.testing.assert_close(weight, before[name], atol=1e-6, rtol=1e-5)


def test_the_published_initialisation():
    torch.manual_seed(0)
    teacher = tiny_teacher("bart")
    plan = build_plan(teacher, StudentShape(decoder_layers=2))
    source = WeightDistillModel(plan, teacher, random_start(plan, teacher), "generator", PAPER).source
    assert all((p == 0.5).all() for key, p in source.mix.items())  # 1 / k
    assert all((p == 1).all() for p in source.scale.values()) and all((p == 0).all() for p in source.shift.values())
    projections = torch.cat([p.flatten() for n, p in source.projections.items() if p.shape[1:] == (16, 16)])
    assert projections.std().item() == pytest.approx(math.sqrt(2 / 32), rel=0.03)
    assert not any("encoder/layers" in name for name in source.projections)  # same shape and depth: element-wise only


def test_the_published_mean_is_over_the_layers_of_each_group():
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, StudentShape(decoder_groups=((0,), (1, 2, 3))))
    source = WeightDistillModel(plan, teacher, random_start(plan, teacher), "generator", PAPER).source
    for c in plan.generated:
        key = c.path.replace(".", "/")
        if key in source.mix:
            mean = torch.einsum("sg...,sg->s...", source.teacher[key], source.mix[key])
            tensors = dict(teacher.named_parameters())
            for row, group in zip(mean, c.groups, strict=True):
                expected = torch.stack([tensors[c.path.format(layer)].detach() for layer in group]).mean(0)
                torch.testing.assert_close(row, expected)


def test_parameter_count_of_the_papers_small_student():
    """stu2: decoder 2 layers of width 512, FFN 2048, from 6 layers: 59.28 M against 8.408 M generated."""
    config = MarianConfig(vocab_size=32, pad_token_id=0, decoder_start_token_id=0, d_model=512, encoder_layers=1)
    config.update({"decoder_layers": 6, "encoder_ffn_dim": 8, "decoder_ffn_dim": 2048, "max_position_embeddings": 8})
    config.update({"encoder_attention_heads": 8, "decoder_attention_heads": 8})
    teacher = MarianMTModel(config)
    plan = build_plan(teacher, StudentShape(decoder_layers=2))
    source = WeightDistillModel(plan, teacher, random_start(plan, teacher), "generator", PAPER).source
    decoder = {n: p.numel() for n, p in source.named_parameters() if "model/decoder/layers" in n}
    classes, layers, group = 26, 2, 3
    mixing = classes * layers * (group + group * group)  # w and W_L, which the figure leaves out
    assert sum(decoder.values()) - mixing == pytest.approx(59.28e6, abs=5e3)
    student = sum(math.prod(c.student_shape) * 2 for c in plan.generated if "decoder.layers" in c.path)
    assert student == pytest.approx(8.408e6, abs=1e3)


@pytest.mark.parametrize(
    "options", [{}, {"share": False}, {"scale": True}, {"activation": "tanh", "scale": True}, {"shift": False}]
)
def test_it_starts_exactly_as_the_start_whatever_its_form(options):
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, SHAPE)
    start = teacher_start(plan, teacher)
    weights = WeightDistillModel(plan, teacher, start, "generator", options).student_weights()
    for c in plan.generated:
        for s, name in enumerate(c.student_names):
            torch.testing.assert_close(weights[name], start[c.path].weight[s], atol=1e-6, rtol=0)


def test_shared_projections_are_one_parameter_for_the_whole_stream():
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, SHAPE)
    start = teacher_start(plan, teacher)
    shared = WeightDistillModel(plan, teacher, start, "generator", {}).source
    own = WeightDistillModel(plan, teacher, start, "generator", {"share": False}).source
    assert shared.projections["model"].shape == (1, 16, 8)
    assert "model" not in own.projections and len(own.projections) > len(shared.projections)


def test_heads_and_neurons_are_picked_and_only_the_stream_is_projected():
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, SHAPE)
    start = teacher_start(plan, teacher)
    source = WeightDistillModel(plan, teacher, start, "generator", {}).source
    assert set(source.projections) == {"model"} | {k for k in source.projections if "layer_norm" in k}
    path = "model.decoder.layers.{}.fc1.weight"  # (neurons, stream)
    [groups] = [c.groups for c in plan.generated if c.path == path]
    neurons_SOP = start[path].projections[0].matrix
    for s, group in enumerate(groups):
        kept = [o for p in range(neurons_SOP.shape[2]) for o in range(neurons_SOP.shape[1]) if neurons_SOP[s, o, p]]
        for g, layer in enumerate(group):
            rows = teacher.get_parameter(path.format(layer))[kept]
            assert torch.equal(source.teacher[path.replace(".", "/")][s, g], rows)


def test_random_student_weights_cannot_start_a_generator():
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, SHAPE)
    with pytest.raises(ValueError, match="cannot start from random student weights.*init.*xavier"):
        WeightDistillModel(plan, teacher, random_start(plan, teacher), "generator", {})


def test_with_scale_and_shift_a_class_that_keeps_its_shape_still_has_both():
    teacher = tiny_teacher("t5")
    plan = build_plan(teacher, StudentShape(decoder_layers=2))
    model = WeightDistillModel(plan, teacher, teacher_start(plan, teacher), "generator", {"scale": True, "shift": True})
    path = "encoder.block.{}.layer.1.DenseReluDense.wi.weight"  # the encoder is unchanged
    key = path.replace(".", "/")
    with torch.no_grad():
        model.source.scale[key].fill_(3.0)
    expected = torch.stack([3 * b.layer[1].DenseReluDense.wi.weight for b in teacher.encoder.block])
    torch.testing.assert_close(model.source()[path], expected, atol=1e-6, rtol=1e-6)


def test_the_published_layer_matrix_learns_at_the_slow_rate():
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, StudentShape(decoder_layers=2))
    model = WeightDistillModel(plan, teacher, teacher_start(plan, teacher), "generator", {"init": "xavier"})
    slow = {id(p) for p in model.slow_parameters()}
    named = {n for n, p in model.named_parameters() if id(p) in slow}
    moving = {n for n, _ in model.named_parameters() if n.split(".")[1] in ("projections", "mix", "layer_matrix")}
    assert moving and named == moving and any(".layer_matrix." in n for n in named)
