"""Where bfloat16 is faster: what the processor says about itself against what is measured."""

import platform
import warnings

import pytest
from processor import FLAGS
from training import arguments

from hf_weight_distill.arguments import check_training
from hf_weight_distill.precision import bf16_pays, bf16_speedup


@pytest.mark.skipif(platform.machine() != "x86_64" or not FLAGS, reason="flags of x86-64 on Linux")
def test_bf16_pays_where_the_processor_has_instructions_for_it():
    if "amx_bf16" in FLAGS or "avx512_bf16" in FLAGS:
        assert bf16_pays("cpu")
    elif "avx512f" not in FLAGS:  # with it oneDNN's emulation is near float32
        assert not bf16_pays("cpu") and bf16_speedup() < 0.5


def test_training_in_emulated_bf16_is_warned_of(tmp_path):
    for bf16 in (False, True):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            check_training(arguments(tmp_path, bf16=bf16, max_steps=1), False, None)
        told = [str(warning.message) for warning in seen if "bf16=True" in str(warning.message)]
        assert len(told) == (bf16 and not bf16_pays("cpu"))
        assert all(f"{bf16_speedup():.2g}x as fast" in text for text in told)
