"""The phase-1 module as a model."""

import pytest
import torch
from models import FAMILIES, random_batch, tiny_teacher

from hf_weight_distill import StudentShape, build_plan
from hf_weight_distill.model import WeightDistillModel
from hf_weight_distill.starts import teacher_start

SHAPE = StudentShape(decoder_layers=1, d_model=8, attention_heads=2)


def build(family="marian", teacher=None, shape=SHAPE):
    teacher = teacher or tiny_teacher(family)
    plan = build_plan(teacher, shape)
    return teacher, WeightDistillModel(plan, teacher, teacher_start(plan, teacher))


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_gradient_are_those_of_the_plain_student(family):
    teacher, model = build(family)
    student, batch = model.materialize(), random_batch(teacher)
    model.eval()
    loss, expected = model(**batch).loss, student(**batch).loss
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    loss.backward()
    expected.backward()
    checked = 0
    for c in model.plan.generated:  # d/d shift is the gradient of the student's own parameter
        for s, name in enumerate(c.student_names):
            found = model.source.shift[c.path.replace(".", "/")].grad[s]
            torch.testing.assert_close(found, student.get_parameter(name).grad, atol=1e-5, rtol=1e-4)
            checked += 1
    assert checked > 40


def test_dropout_follows_the_mode():
    teacher, model = build()
    batch = random_batch(teacher)
    model.train()
    assert not torch.equal(model(**batch).logits, model(**batch).logits)
    model.eval()
    assert torch.equal(model(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("family", ["marian", "m2m_100", "mbart"])
def test_labels_are_shifted_as_the_family_does_it(family):
    teacher, model = build(family)
    batch = random_batch(teacher)
    ids = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    with_ids = {k: v for k, v in batch.items() if k != "labels"} | {"decoder_input_ids": ids}
    model.eval()
    torch.testing.assert_close(model(**with_ids).logits, model.materialize()(**batch).logits)


@pytest.mark.parametrize("family", ["marian", "t5"])
def test_generate_is_the_materialised_students_and_follows_training(family):
    teacher, model = build(family)
    batch = random_batch(teacher)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "max_new_tokens": 6}
    model.eval()
    first = model.generate(**inputs)
    assert torch.equal(first, model.materialize().generate(**inputs))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    assert torch.equal(model.generate(**inputs), model.materialize().generate(**inputs))
    assert not torch.equal(model.generate(**inputs), first)


def test_a_text_longer_than_the_table_of_positions_lets_it_grow_and_no_more():
    teacher, model = build("m2m_100")
    ids = torch.randint(3, 38, (1, 40))
    assert ids.shape[1] > teacher.config.max_position_embeddings
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 3}
    first = model.eval().generate(**inputs)
    assert torch.equal(model.generate(**inputs), first)


def test_autocast_projects_matrices_in_half_precision_and_nothing_else():
    teacher, model = build()
    exact = model.eval().student_weights()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model.student_weights()
        assert torch.isfinite(model(**random_batch(teacher)).loss)
    assert {w.dtype for w in rounded.values()} == {torch.float32}
    differ = {name for name, weight in exact.items() if not torch.equal(weight, rounded[name])}
    projected = {n for c in model.plan.generated if "model" in c.axes and len(c.axes) == 2 for n in c.student_names}
    assert differ == projected
    for name in differ:
        torch.testing.assert_close(rounded[name], exact[name], rtol=0, atol=2**-7 * exact[name].abs().max().item())


def test_a_class_that_nothing_changes_is_its_shift_alone():
    teacher, model = build(shape=StudentShape(decoder_layers=1))
    path = "model.encoder.layers.{}.fc1.weight"
    key = path.replace(".", "/")
    assert key not in model.source.teacher and key.replace("encoder", "decoder") in model.source.teacher
    for layer in range(4):
        assert torch.equal(model.source.shift[key][layer], teacher.get_parameter(path.format(layer)))


def test_a_zero_padding_row_stays_zero_and_takes_no_gradient():
    teacher = tiny_teacher("marian")
    pad = teacher.config.pad_token_id
    with torch.no_grad():
        teacher.model.shared.weight[pad] = 0
    teacher, model = build(teacher=teacher)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        model(**random_batch(teacher)).loss.backward()
        optimizer.step()
    weight = model.materialize().model.shared.weight
    assert weight[pad].abs().max() == 0 and weight[:pad].abs().min() > 0


def test_materialised_students_are_independent():
    _, model = build()
    one, two = model.materialize(), model.materialize()
    with torch.no_grad():
        one.model.shared.weight.zero_()
    assert two.model.shared.weight.abs().max() > 0
    assert one.lm_head.weight is one.model.shared.weight


def test_computed_positions_are_the_students_own_and_ask_for_no_gradient():
    _, model = build("marian")
    student = model.materialize()
    table = student.model.encoder.embed_positions.weight
    expected = torch.tensor([[torch.sin(torch.tensor(p / 10000 ** (2 * j / 8))) for j in range(4)] for p in range(32)])
    torch.testing.assert_close(table[:, :4], expected, atol=1e-6, rtol=0)
    assert not table.requires_grad
