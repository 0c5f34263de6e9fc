"""The configuration refuses what is not of a field's type, before anything is loaded."""

import re

import pytest

from hf_weight_distill import StudentShape, WeightDistillConfig

NAN = float("nan")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_beams": "4"}, "num_beams='4': expected int"),
        ({"num_beams": 2.5}, "num_beams=2.5: expected int"),
        ({"calibration_sentences": True}, "calibration_sentences=True: expected int"),
        ({"finetune_args": None}, "finetune_args=None: expected dict[str, Any]"),
        ({"prefix": None}, "prefix=None: expected str"),
        ({"temperature": NAN}, "temperature=nan: expected number"),
        ({"length_penalty": NAN}, "length_penalty=nan: expected number"),
        ({"finetune_objectives": ["kl"]}, "finetune_objectives=['kl']: expected dict[str, number]"),
        ({"generator_objectives": {"kl": NAN}}, "generator_objectives={'kl': nan}: expected dict[str, number]"),
        ({"schedules": {"magnitude_pruning": 0.5}}, "expected dict[str, dict[str, Any]]"),
    ],
)
def test_a_value_of_another_type_is_refused(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        WeightDistillConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"calibration_sentences": 0}, "calibration_sentences=0, and reconstruction='least_squares' fits"),
        (
            {"teacher_cache_dir": "cache"},
            "teacher_cache_dir='cache', but without teacher_cache_top_k there is no cache",
        ),
        ({"pseudo_labels_dir": "labels"}, "pseudo_labels_dir='labels', but pseudo_labels='none' makes and reads none"),
    ],
)
def test_a_field_without_effect_beside_the_others_is_refused(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        WeightDistillConfig(**values)
    others = {"reconstruction": "none", "teacher_cache_top_k": 8, "pseudo_labels": "replace"}
    assert WeightDistillConfig(**values, **others)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"finetune_source": "direct", "finetune_lora": {"r": 2}}, "finetune_source and finetune_lora"),
        ({"finetune_source": "direct", "schedules": {"magnitude_pruning": {}}}, "finetune_source and schedules"),
        ({"finetune_lora": {"r": 2}, "schedules": {"magnitude_pruning": {}}}, "finetune_lora and schedules"),
    ],
)
def test_phase_2_is_changed_in_one_way(values, named):
    with pytest.raises(ValueError, match=f"{named} each change how phase 2 trains the student: use one of them"):
        WeightDistillConfig(**values)


@pytest.mark.parametrize("groups", [(0, 1), [[0, "x"]], 3, [[0, True]]])
def test_groups_are_groups_of_numbers(groups):
    with pytest.raises(ValueError, match=re.escape(f"encoder_groups={groups!r}: expected numbers of layers in groups")):
        StudentShape(encoder_groups=groups)


def test_whole_numbers_are_numbers_and_none_may_stand_where_it_is_named():
    config = WeightDistillConfig(
        label_smoothing=0, finetune_objectives={"kl": 1}, dropout=None, finetune_args={"x": None}
    )
    assert (config.label_smoothing, config.finetune_objectives) == (0, {"kl": 1})
