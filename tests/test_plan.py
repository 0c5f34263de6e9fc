"""Grouping of layers, the student's configuration, and the errors of both."""

import pytest
import torch
from models import FAMILIES, random_batch, tiny_teacher

from hf_weight_distill import StudentShape, build_plan


def groups(plan, stack="decoder"):
    return next(c.groups for c in plan.classes if c.weight_class.layered and c.weight_class.stack == stack)


@pytest.mark.parametrize(
    "shape, expected",
    [
        (StudentShape(decoder_layers=1), ((0, 1, 2, 3),)),
        (StudentShape(decoder_layers=2), ((0, 1), (2, 3))),
        (StudentShape(), ((0,), (1,), (2,), (3,))),
        (StudentShape(decoder_groups=((0, 1), (2,), (1, 3))), ((0, 1), (2,), (1, 3))),
    ],
)
def test_groups_are_consecutive_unless_given(shape, expected):
    assert groups(build_plan(tiny_teacher("marian"), shape)) == expected


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ({}, False),
        ({"decoder_groups": ((0,), (1,), (2,), (3,))}, False),
        ({"decoder_groups": ((3,),)}, True),
        ({"decoder_groups": ((0,), (1,), (3,), (2,))}, True),
        ({"decoder_groups": ((0,), (0,), (2,), (3,))}, True),
    ],
)
def test_layers_that_are_left_out_or_moved_are_a_change(shape, changes):
    plan = build_plan(tiny_teacher("marian"), StudentShape(**shape))
    classes = [c for c in plan.classes if c.weight_class.layered and c.weight_class.stack == "decoder"]
    assert [c.unchanged for c in classes] == [not changes] * len(classes)
    generated = sum(changes for c in classes)
    assert f"generated: {generated} classes that change" in str(plan)
    assert all(c.unchanged for c in plan.classes if c not in classes)


def test_unequal_groups_are_filled_with_zeros():
    teacher = tiny_teacher("t5")
    plan = build_plan(teacher, StudentShape(decoder_groups=((0,), (1, 2, 3))))
    c = next(c for c in plan.classes if c.path == "decoder.block.{}.layer.1.EncDecAttention.q.weight")
    stacked = c.stack(dict(teacher.named_parameters()))
    assert stacked.shape == (2, 3, 16, 16)
    assert stacked[0, 1:].abs().max() == 0
    assert torch.equal(stacked[1, 2], teacher.decoder.block[3].layer[1].EncDecAttention.q.weight)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_dropout_of_the_student_is_that_of_its_modules(family):
    teacher = tiny_teacher(family)
    known = ("dropout", "dropout_rate", "attention_dropout", "decoder_layerdrop")
    names = [name for name in known if hasattr(teacher.config, name)]
    teacher.config.update(dict.fromkeys(names, 0.3))
    assert {getattr(build_plan(teacher, StudentShape()).student_config, n) for n in names} == {0.3}
    assert {getattr(build_plan(teacher, StudentShape(), dropout=0.2).student_config, n) for n in names} == {0.2}
    teacher.config.update(dict.fromkeys(names[1:], 0.0))
    config = build_plan(teacher, StudentShape(), dropout=0.2).student_config
    assert [getattr(config, n) for n in names] == [0.2] + [0.0] * (len(names) - 1)  # what was off stays off
    student = type(teacher)(build_plan(teacher, StudentShape(), dropout=0.0).student_config).train()
    batch = random_batch(teacher)
    assert torch.equal(student(**batch).logits, student(**batch).logits)


@pytest.mark.parametrize(
    "family, shape, message",
    [
        ("marian", {"decoder_layers": 3}, r"4 teacher layers cannot form 3 equal groups.*1, 2 or 4.*decoder_groups"),
        ("marian", {"decoder_layers": 8}, r"8 student layers from 4 teacher layers.*decoder_groups"),
        ("marian", {"encoder_groups": ((0, 7),)}, r"names layers \[7\].*has layers 0 to 3"),
        (
            "marian",
            {"d_model": 10},
            r"d_model=10 cannot be divided by encoder_attention_heads=4.*attention_heads to one of 1, 2, 5",
        ),
        ("marian", {"d_kv": 4}, r"d_kv is no dimension of its own in Marian"),
        ("t5", {"ffn_dim": (8, 12)}, r"ffn_dim=\(8, 12\).*T5 has one 'd_ff' for both stacks"),
        ("t5", {"attention_heads": (2, 4)}, r"one 'num_heads' for both stacks"),
    ],
)
def test_shapes_that_cannot_be_are_explained(family, shape, message):
    with pytest.raises(ValueError, match=message):
        build_plan(tiny_teacher(family), StudentShape(**shape))


@pytest.mark.parametrize(
    "shape, message",
    [
        ({"d_model": (8, 16)}, "one width for encoder and decoder"),
        ({"decoder_layers": 0}, "decoder_layers=0: expected a positive whole number"),
        ({"ffn_dim": (1, 2, 3)}, r"or a pair \(encoder, decoder\)"),
        ({"decoder_layers": 2, "decoder_groups": ((0,),)}, "decoder_layers=2 but decoder_groups has 1 groups"),
        ({"decoder_groups": ((0,), ())}, "every student layer needs at least one teacher layer"),
    ],
)
def test_shapes_check_themselves(shape, message):
    with pytest.raises(ValueError, match=message):
        StudentShape(**shape)


def test_different_stacks_where_the_family_has_them():
    config = build_plan(tiny_teacher("bart"), StudentShape(ffn_dim=(8, 12), attention_heads=(2, 4))).student_config
    found = [
        config.encoder_ffn_dim,
        config.decoder_ffn_dim,
        config.encoder_attention_heads,
        config.decoder_attention_heads,
    ]
    assert found == [8, 12, 2, 4]


def test_the_plan_says_what_feeds_what():
    text = str(build_plan(tiny_teacher("marian"), StudentShape(decoder_layers=1)))
    assert "decoder layer 0 <- teacher layers 0, 1, 2, 3" in text
    assert "model.decoder.layers.{}.encoder_attn.q_proj.weight" in text
    assert "copied: final_logits_bias; constant: model.encoder.embed_positions.weight" in text


def test_parameter_counts_are_the_models():
    teacher = tiny_teacher("t5")
    plan = build_plan(teacher, StudentShape())
    assert plan.teacher_parameters == plan.student_parameters == teacher.num_parameters()


@pytest.mark.parametrize("family", ["t5", "flan-t5", "mt5", "umt5"])
def test_a_t5_that_could_not_generate_is_refused(family):
    teacher = tiny_teacher(family)
    with pytest.raises(ValueError, match="encoder_layers=2 with decoder_layers=4: .* cannot generate"):
        build_plan(teacher, StudentShape(encoder_layers=2))
    assert build_plan(teacher, StudentShape(encoder_layers=2, decoder_layers=2))
    assert build_plan(tiny_teacher("marian"), StudentShape(encoder_layers=2))
