"""Weight sources: teacher tensors in, student tensors out. One module each, one line here each."""

from .base import ClassSpec, ClassStart, Inspection, Projection, WeightSource, contract
from .direct import Direct
from .generator import Generator
from .mpo import MPO

SOURCES: dict[str, type[WeightSource]] = {
    "generator": Generator,
    "direct": Direct,
    "mpo": MPO,
}

__all__ = [
    "MPO",
    "SOURCES",
    "ClassSpec",
    "ClassStart",
    "Direct",
    "Generator",
    "Inspection",
    "Projection",
    "WeightSource",
    "contract",
]
