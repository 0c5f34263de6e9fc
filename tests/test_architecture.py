"""Which way imports run, and that the package says so little in public."""

import ast
from pathlib import Path

import pytest

import hf_weight_distill

ROOT = Path(hf_weight_distill.__file__).parent
MODULES = sorted(path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in ROOT.rglob("*.py"))
ORDER = [
    "families",
    "plan",
    "vocabulary",
    "calibration",
    "starts",
    "model",
    "arguments",
    "trainer",
    "checks",
    "runs",
    "methods",
    "distiller",
    "cli",
]  # each may import those before
LEAVES = {"config", "card", "report", "corpus", "progress", "record", "languages"}
SEAMS = {"sources", "objectives", "schedules", "teachers"}


def imports(module):
    """Names of this package's modules that a module imports, anywhere in it but under TYPE_CHECKING."""
    path = ROOT / (module.replace(".", "/") + ".py")
    package = module.split(".")[:-1]
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in typing_only:
            if node.level:
                base = package[: len(package) - node.level + 1]
                found.add(".".join(base + ([node.module] if node.module else [])))
                found |= {".".join([*base, alias.name]) for alias in node.names if not node.module}
            elif (node.module or "").startswith("hf_weight_distill"):
                found.add(node.module.removeprefix("hf_weight_distill").lstrip("."))
    return {name for name in found if name}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    found = {name.split(".")[0] for name in imports(module)}
    room = module.split(".")[0]
    if room in LEAVES:
        assert not found & (set(ORDER) | SEAMS), "a leaf imports no room"
    if room in SEAMS:
        assert not found & (set(ORDER) | (SEAMS - {room})), "a seam receives tensors, shapes and names"
    if room in ORDER:
        later = set(ORDER[ORDER.index(room) + 1 :])
        assert not found & later
    if room not in ("cli", "demo", "__main__", "__init__"):
        assert "distiller" not in found


def test_about_ten_public_names():
    assert set(hf_weight_distill.__all__) == set(hf_weight_distill._MODULES) <= set(dir(hf_weight_distill))
    assert len(hf_weight_distill.__all__) <= 12
    assert all(getattr(hf_weight_distill, name).__doc__ for name in hf_weight_distill.__all__ if name != "RECIPES")


@pytest.mark.parametrize("word", ["sources", "objectives", "schedules"])
def test_trainer_model_and_distiller_know_no_variant_by_name(word):
    registry = getattr(__import__(f"hf_weight_distill.{word}", fromlist=["x"]), word.upper())
    for module in ("trainer", "model", "distiller"):
        tree = ast.parse((ROOT / f"{module}.py").read_text(encoding="utf-8"))
        strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {
            n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)
        }
        assert not {kind.__name__ for kind in registry.values()} & names
        assert not (set(registry) - {"generator"}) & strings  # "generator" is also the name of phase 1
