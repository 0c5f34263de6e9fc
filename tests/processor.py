"""What the processor says that it can do."""

from pathlib import Path

_INFO = Path("/proc/cpuinfo")
FLAGS = frozenset(_INFO.read_text(encoding="utf-8").split()) if _INFO.exists() else frozenset()
# Without these instructions sums of int8 products saturate, and a student of random weights feels it.
VNNI = not FLAGS or any("vnni" in flag or flag == "asimddp" for flag in FLAGS)
