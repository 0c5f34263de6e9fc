"""The doctor: healthy, with packages missing, old and broken, with and without a Hub."""

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from loopback_hub import loopback_hub

from hf_weight_distill import doctor
from hf_weight_distill.doctor import Diagnosis, Package, check_packages, diagnose

ROOT = Path(doctor.__file__).parents[1]
BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
{then}
"""


def without(names, then):
    """A Python in which some modules cannot be imported."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = BLOCK.format(names=set(names), then=then)
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=300
    )
    return result.returncode, result.stdout, result.stderr


# --- packages --------------------------------------------------------------------------------------------------------


def test_versions_and_what_is_asked_are_those_of_the_metadata():
    required, extras = check_packages()
    assert {p.name for p in required} >= {"torch", "transformers", "accelerate", "datasets", "evaluate", "sacrebleu"}
    for package in required:
        assert package.found == importlib.metadata.version(package.name)
        assert f"{package.name}{package.asked}" in importlib.metadata.requires("hf-weight-distill")
        assert package.problem is None, package
    assert set(extras) >= {"peft", "test"}
    named = {p.name for p in extras["test"]}
    assert "pytest" in named and "accelerate" not in named, "an extra holds what it adds"


def distribution(folder, name, version="1.0", module=None, code="", head=()):
    """An installed package."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    head = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}", *head]
    (info / "METADATA").write_text("\n".join(head) + "\n")
    if module is not None:
        (info / "top_level.txt").write_text(module + "\n")
        (folder / f"{module}.py").write_text(code)


@pytest.fixture
def ward(tmp_path, monkeypatch):
    """A package of this name that asks for healthy, old, broken and missing ones."""
    asked = (
        "fine>=1",
        "old>=2",
        "Broken_Lib>=1",
        "leaning>=1",
        "wants-absent",
        "missing-one<3,>=1.5",
        "other-world; python_version < '3'",
        "spare>=2; extra == 'more'",
        "fine>=1; extra == 'more'",
        "leans-too; extra == 'more'",
    )
    lines = [f"Requires-Dist: {text}" for text in asked]
    distribution(tmp_path, "hf-weight-distill", "9.0", head=[*lines, "Provides-Extra: more"])
    distribution(tmp_path, "fine", "1.2", "fine_module")
    distribution(tmp_path, "old", "1.9")
    code = "import ctypes\nctypes.CDLL('libnowhere.so')\n"
    distribution(tmp_path, "Broken-Lib", "1.0", "broken_module", code)
    distribution(tmp_path, "leaning", "1.0", "leaning_module", "import broken_module\n")
    distribution(tmp_path, "leans-too", "1.0", "leans_too", "import broken_module\n")
    distribution(tmp_path, "wants-absent", "1.0", "wants_absent", "import absent_module.part\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_each_ailment_has_its_name(ward):
    required, extras = check_packages()
    assert [(p.name, p.asked, p.found, p.culprit) for p in required] == [
        ("fine", ">=1", "1.2", None),
        ("old", ">=2", "1.9", "old"),
        ("Broken_Lib", ">=1", "1.0", "broken-lib"),
        ("leaning", ">=1", "1.0", "broken-lib"),
        ("wants-absent", "", "1.0", "absent_module"),
        ("missing-one", "<3,>=1.5", None, "missing-one"),
    ]
    problems = [p.problem for p in required]
    assert problems[0] is None
    assert problems[1] == "another version is asked for" and problems[5] == "missing"
    assert problems[2].startswith("cannot be imported: OSError: libnowhere.so: cannot open")
    assert problems[3].startswith("cannot be imported because of broken-lib: OSError: libnowhere.so")
    assert problems[4] == (
        "cannot be imported because of absent_module: ModuleNotFoundError: No module named 'absent_module'"
    )
    assert [p.name for p in extras["more"]] == ["spare", "leans-too"]  # fine is required anyway


def test_the_printed_commands_mend_what_is_wrong_and_nothing_else(ward):
    diagnosis = Diagnosis(*check_packages(), (), ())
    assert not diagnosis.ok
    commands = [line.partition(": ") for line in str(diagnosis).splitlines() if " -m pip install " in line]
    assert [(what, shlex.split(command)) for what, _, command in commands] == [
        ("to have the extra more", [sys.executable, "-m", "pip", "install", "spare>=2"]),
        (
            "to mend what is required",
            [sys.executable, "-m", "pip", "install", "old>=2", "absent_module", "missing-one<3,>=1.5"],
        ),
        (
            "to mend what is required",
            [sys.executable, "-m", "pip", "install", "--force-reinstall", "--no-deps", "Broken_Lib>=1"],
        ),
    ]
    assert str(diagnosis).endswith("\n5 of 6 required packages need attention")


def test_a_missing_extra_is_no_fault():
    fine = Package("fine", ">=1", "1.2")
    diagnosis = Diagnosis((fine,), {"more": (Package("spare", ">=2", None, "missing", "spare"),)}, (), ())
    assert diagnosis.ok and str(diagnosis).endswith("\nall right")


def test_without_metadata_it_says_so(monkeypatch):
    monkeypatch.setattr(doctor, "DISTRIBUTION", "never-installed")
    required, extras = check_packages()
    assert required[0].name == "never-installed" and required[0].problem.startswith("missing") and not extras


def test_the_command_starts_without_torch_and_says_what_is_broken():
    then = "from hf_weight_distill.cli import main\nsys.exit(main(['doctor']))"
    code, out, err = without({"torch"}, then)
    assert code == 1 and "Traceback" not in err, err
    version = re.escape(importlib.metadata.version("torch"))
    assert re.search(
        rf"^  torch +{version} +>=\S+ +cannot be imported: ModuleNotFoundError: No module named 'torch'", out, re.M
    )
    assert re.search(r"^  accelerate .* cannot be imported because of torch: ", out, re.M)
    assert re.search(r"^  sentencepiece .* ok$", out, re.M)
    assert re.search(r"^  gpus +unknown: ModuleNotFoundError", out, re.M)
    mend = next(line for line in out.splitlines() if line.startswith("to mend"))
    assert shlex.split(mend.partition(": ")[2])[3:-1] == ["install", "--force-reinstall", "--no-deps"]
    assert mend.endswith("'torch>=2.4'")


def test_the_module_starts_where_the_command_line_does_not():
    then = "import runpy\nrunpy.run_module('hf_weight_distill.doctor', run_name='__main__')"
    code, out, err = without({"torch", "yaml", "rich", "psutil", "transformers"}, then)
    assert code == 1 and "Traceback" not in err, err
    for name in ("pyyaml", "rich", "torch", "transformers"):
        assert re.search(rf"^  {name} .* cannot be imported", out, re.M), out
    assert re.search(r"^  memory +unknown: ", out, re.M)


# --- machine and Hub -------------------------------------------------------------------------------------------------


def test_the_machine_is_described():
    diagnosis = diagnose()
    machine, hub = dict(diagnosis.machine), dict(diagnosis.hub)
    assert diagnosis.ok
    assert sys.executable in machine["python"]
    assert f"{os.cpu_count()} cores, {torch.get_num_threads()} used by torch" in machine["cpu"]
    ratio = float(re.search(r"bf16 are ([\d.e-]+)x", machine["cpu"])[1])
    assert 1e-3 < ratio < 100 and ("leave bf16 off" in machine["cpu"]) == (ratio <= 1)
    free, total = map(float, re.findall(r"([\d.]+) GB", machine["memory"]))
    assert total == pytest.approx(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, abs=0.06)
    assert 0 < free < total
    assert ("gpu" in machine) == (not torch.cuda.is_available() and not torch.backends.mps.is_available())
    assert "offline" in hub["hub"]
    text = str(diagnosis)
    for name in (*machine, *hub):
        assert re.search(rf"^  {re.escape(name)} ", text, re.M)


def test_a_driver_without_a_torch_for_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "is built for CPUs, but an NVIDIA driver is installed" in dict(doctor._gpus())["gpu"]


def test_the_hub_answers_or_does_not(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with loopback_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        assert re.fullmatch(rf"{hub.url}: reached in \d\.\d s", dict(doctor._hub())["hub"])
        assert hub.requests == ["HEAD /"]
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert dict(doctor._hub())["hub"].startswith("http://127.0.0.1:9: not reached (Connect")


def test_the_cache_is_where_the_disk_is_free(tmp_path, monkeypatch):
    folder = tmp_path / "not" / "yet"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    found = dict(doctor._cache())["cache"]
    gigabytes = float(re.fullmatch(rf"{folder}: ([\d.]+) GB free", found)[1])
    assert gigabytes == pytest.approx(shutil.disk_usage(tmp_path).free / 1e9, rel=0.05)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    assert dict(doctor._cache())["cache"].endswith("free, but it cannot be written: set HF_HOME to another folder")
