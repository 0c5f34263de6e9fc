"""The contract of every weight source, without a special case."""

import pytest
import torch
from models import random_batch, tiny_teacher

from hf_weight_distill import RECIPES, StudentShape, build_plan
from hf_weight_distill.model import WeightDistillModel
from hf_weight_distill.plan import tensors_of
from hf_weight_distill.sources import SOURCES
from hf_weight_distill.starts import teacher_start

SHAPE = StudentShape(encoder_layers=2, decoder_layers=1, d_model=8, ffn_dim=12, attention_heads=2)
CASES = [(name, {}) for name in SOURCES] + [("generator", RECIPES["paper"].source_options)]


def build(source, options, family="marian", seed=0):
    torch.manual_seed(seed)
    teacher = tiny_teacher(family)
    plan = build_plan(teacher, SHAPE)
    return teacher, WeightDistillModel(plan, teacher, teacher_start(plan, teacher), source, options)


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{len(case[1])}")
def case(request):
    return request.param


@pytest.mark.parametrize("family", ["marian", "flan-t5"])
def test_shapes_and_values(case, family):
    _, model = build(*case, family)
    stock = tensors_of(model.materialize())
    weights = model.student_weights()
    assert {n: w.shape for n, w in weights.items()} == {n: w.shape for n, w in stock.items()}
    assert all(torch.isfinite(w).all() for w in weights.values())


@pytest.mark.parametrize("family", ["marian", "flan-t5"])
def test_a_gradient_reaches_every_parameter_and_the_teacher_stays(case, family):
    teacher, model = build(*case, family)
    before = {n: t.clone() for n, t in tensors_of(teacher).items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**random_batch(teacher)).loss.backward()
    silent = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # a key's bias moves no softmax: its gradient is zero in exact arithmetic, and so may be what makes it
    assert [n for n in silent if not n.endswith("k_proj/bias") and "/k_proj/bias" not in n] == []
    optimizer.step()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(t, before[n]) for n, t in tensors_of(teacher).items())


def test_a_seed_repeats_exactly(case):
    a, b = (build(*case, seed=7)[1].student_weights() for _ in range(2))
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_only_what_is_trained_is_saved(case):
    _, model = build(*case)
    assert set(model.state_dict()) == {n for n, _ in model.named_parameters()}


def test_a_reloaded_state_gives_the_same_student(case):
    _, model = build(*case)
    _, other = build(*case, seed=1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01 * torch.randn_like(p))
    other.load_state_dict(model.state_dict())
    a, b = model.student_weights(), other.student_weights()
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_weights_are_float32_under_autocast(case):
    _, model = build(*case)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = model.student_weights()
    assert {w.dtype for w in weights.values()} == {torch.float32}
    if not model.source.autocasts:
        exact = model.student_weights()
        assert all(torch.equal(weights[n], exact[n]) for n in exact)


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match="weight source: unknown 'magic'; known: direct, generator"):
        build("magic", {})


def test_slow_parameters_are_projections_and_mixing():
    _, model = build("generator", {"scale": True})
    names = {n for n, p in model.named_parameters() if any(p is q for q in model.slow_parameters())}
    kinds = {n.split(".")[1] for n in names}
    assert kinds == {"projections", "mix"}
    assert not list(build("direct", {})[1].slow_parameters())
