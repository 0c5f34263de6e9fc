"""The tables: every tensor of every family has exactly one origin."""

import pytest
import torch
from models import FAMILIES, tiny_teacher
from transformers import BertConfig, GPT2Config

from hf_weight_distill import StudentShape, build_plan
from hf_weight_distill.families import FAMILIES as TABLES
from hf_weight_distill.families import family_of
from hf_weight_distill.plan import stock_student, tensors_of

SHAPES = [
    StudentShape(),
    StudentShape(decoder_layers=1),
    StudentShape(encoder_layers=2, decoder_layers=2, d_model=8, ffn_dim=12, attention_heads=2),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_generated_trained_copied_and_constant_are_a_partition(family, shape):
    teacher = tiny_teacher(family)
    plan = build_plan(teacher, shape)
    kinds = [
        {name for c in plan.generated for name in c.student_names},
        {name for c in plan.trained for name in c.student_names},
        set(plan.copied),
        set(plan.constants),
    ]
    student = stock_student(teacher, plan.student_config, device="cpu")
    everything = set(tensors_of(student))
    assert set().union(*kinds) == everything
    assert sum(map(len, kinds)) == len(everything)


@pytest.mark.parametrize("family", FAMILIES)
def test_axes_have_the_sizes_that_their_meaning_demands(family):
    plan = build_plan(tiny_teacher(family), SHAPES[2])
    sizes = {"vocab": 40, "model": 8, "ffn": 12, "buckets": 32}
    for c in plan.classes:
        for axis, size in zip(c.axes, c.student_shape, strict=True):
            if axis in ("qk", "vo"):
                assert size == (2 * 4 if family in ("t5", "flan-t5", "mt5", "umt5") else 8), c.path
            elif axis == "heads":
                assert size == 2
            elif axis != "positions":
                assert size == sizes[axis], c.path


@pytest.mark.parametrize("family", FAMILIES)
def test_ties_are_the_teachers(family):
    teacher = tiny_teacher(family)
    student = stock_student(teacher, teacher.config, device="cpu")
    assert student.all_tied_weights_keys == teacher.all_tied_weights_keys
    assert set(dict(student.named_parameters())) == set(dict(teacher.named_parameters()))
    tied = student.get_output_embeddings().weight is student.get_input_embeddings().weight
    assert tied == (family not in ("flan-t5", "mt5"))


def test_a_parameter_without_a_row_is_named(monkeypatch):
    teacher = tiny_teacher("marian")
    table = TABLES["marian"]
    rows = tuple(row for row in table.classes if not row.path.endswith("decoder.layers.{}.fc1.weight"))
    monkeypatch.setitem(TABLES, "marian", type(table)(**{**vars(table), "classes": rows}))
    with pytest.raises(ValueError, match=r"without a row \['model.decoder.layers.0.fc1.weight'.*families"):
        build_plan(teacher, StudentShape())


@pytest.mark.parametrize("config", [GPT2Config(), BertConfig()], ids=["causal", "encoder-only"])
def test_other_architectures_are_refused(config):
    with pytest.raises(ValueError, match=rf"{config.model_type}.*not an encoder-decoder.*Marian.*seq2seq checkpoint"):
        family_of(config)


def test_an_unknown_family_is_told_how_to_add_one():
    config = tiny_teacher("t5").config
    config.model_type = "led"
    with pytest.raises(ValueError, match=r"no table for the family 'led'; known: marian.*FAMILIES.*docstring"):
        family_of(config)


def test_padding_rows_that_are_zero_are_known():
    teacher = tiny_teacher("marian")
    assert build_plan(teacher, StudentShape()).zero_rows == ()
    with torch.no_grad():
        teacher.model.shared.weight[teacher.config.pad_token_id] = 0
    assert build_plan(teacher, StudentShape()).zero_rows == ("model.shared.weight",)
