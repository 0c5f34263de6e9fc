"""Whether bfloat16 is worth having: a processor without arithmetic for it emulates it, many times as slowly."""

import functools
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@functools.cache
def bf16_speedup() -> float:
    """How many times as fast as in float32 matrix products in bfloat16 are on this processor.

    Example:
        >>> bf16_speedup() > 0
        True
    """
    import torch

    return _seconds(torch.float32) / _seconds(torch.bfloat16)


def bf16_pays(device: str) -> bool:
    """Whether mixed precision in bfloat16 makes training faster, on a GPU or on this processor.

    Args:
        device: ``"cuda"`` or ``"cpu"``.
    """
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bf16_speedup() > 1


def _seconds(dtype: "torch.dtype") -> float:
    """The fastest of some matrix products."""
    import torch

    matrix, passes = torch.ones(256, 256, dtype=dtype), []
    for _ in range(5):
        start = time.perf_counter()
        matrix @ matrix
        passes.append(time.perf_counter() - start)
    return min(passes)
