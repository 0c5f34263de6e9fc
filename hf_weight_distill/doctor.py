"""What the package needs and this machine has: versions, devices, memory, the Hub.

Whatever is missing or broken is reported and never raised: at the top only the standard library is imported. Where even
the command line does not start, ``python -m hf_weight_distill.doctor`` does.
"""

import importlib
import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .precision import bf16_speedup

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

DISTRIBUTION = "hf-weight-distill"
HUB_SECONDS = 5  # to wait for an answer
GIGABYTE = 10**9


@dataclass(frozen=True)
class Package:
    """A package that is asked for.

    Args:
        name: as pip knows it.
        asked: versions that will do, such as ``>=2.4``.
        found: the installed version, or ``None``.
        problem: what is wrong, or ``None``.
        culprit: canonical name of the package to be installed, which may be another one that this one imports.
    """

    name: str
    asked: str
    found: str | None
    problem: str | None = None
    culprit: str | None = None

    def __str__(self) -> str:
        return f"{self.name:<18} {self.found or '-':<14} {self.asked:<10} {self.problem or 'ok'}"


@dataclass(frozen=True)
class Diagnosis:
    """What :func:`diagnose` found.

    Args:
        required: packages without which nothing works.
        extras: packages by the name of the extra that asks for them.
        machine: pairs of (thing, finding): Python, devices, memory.
        hub: likewise: the Hub and the cache.
    """

    required: tuple[Package, ...]
    extras: dict[str, tuple[Package, ...]]
    machine: tuple[tuple[str, str], ...]
    hub: tuple[tuple[str, str], ...]

    @property
    def ok(self) -> bool:
        """Whether all that is required is there, new enough and can be imported."""
        return not any(package.problem for package in self.required)

    def __str__(self) -> str:
        lines = ["required", *_indented(self.required)]
        for name, packages in self.extras.items():
            lines += [f"extra {name}", *_indented(packages)]
        for title, findings in (("machine", self.machine), ("hub", self.hub)):
            lines += [title, *_indented(f"{name:<18} {finding}" for name, finding in findings)]
        known = {_canonical(package.name) for package in self.required}
        for name, packages in self.extras.items():
            lines += _mend(f"to have the extra {name}", [p for p in packages if p.culprit not in known])
        lines += _mend("to mend what is required", self.required)
        count = sum(package.problem is not None for package in self.required)
        lines.append(f"{count} of {len(self.required)} required packages need attention" if count else "all right")
        return "\n".join(lines)


def diagnose() -> Diagnosis:
    """Looks at packages, devices, memory and the Hub; asks the Hub for one answer, unless it is offline.

    Example:
        >>> print(diagnose())                                               # doctest: +SKIP
    """
    required, extras = check_packages()
    machine = [("python", f"{platform.python_version()} ({sys.executable}), {platform.platform()}")]
    for look in (_cpu, _gpus, _memory):
        machine += _guarded(look)
    hub = [finding for look in (_hub, _cache) for finding in _guarded(look)]
    return Diagnosis(required, extras, tuple(machine), tuple(hub))


def _guarded(look: Callable[[], Iterable[tuple[str, str]]]) -> list[tuple[str, str]]:
    """What is looked at may need a package that is not there."""
    try:
        return list(look())
    except Exception as error:
        return [(look.__name__.strip("_"), f"unknown: {_first_line(error)}")]


# --- packages ----------------------------------------------------------------------------------------------------


def check_packages() -> tuple[tuple[Package, ...], dict[str, tuple[Package, ...]]]:
    """What this package's own metadata asks for: required, and by extra."""
    try:
        from packaging.requirements import Requirement

        texts = importlib.metadata.requires(DISTRIBUTION) or []
    except ImportError as error:  # PackageNotFoundError is one
        name = "packaging" if error.name == "packaging" else DISTRIBUTION
        return (Package(name, "", None, "missing, so that nothing else can be checked", name),), {}
    requirements = [Requirement(text) for text in texts]
    modules = _modules()
    found = {str(r.specifier) + r.name: _check(r.name, r.specifier, modules) for r in requirements}

    def asked(extra: str) -> tuple[Package, ...]:
        chosen = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": extra})]
        return tuple(found[str(r.specifier) + r.name] for r in chosen)

    required = asked("")
    names = importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    return required, {name: tuple(p for p in asked(name) if p not in required) for name in names}


def _modules() -> dict[str, str]:
    """The module to import by the canonical name of its distribution."""
    modules: dict[str, str] = {}
    for module, names in importlib.metadata.packages_distributions().items():
        for name in map(_canonical, names):
            public = module.isidentifier() and not module.startswith("_")
            if public and (name not in modules or _canonical(module) == name):
                modules[name] = module
    return modules


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _check(name: str, specifier: "SpecifierSet", modules: dict[str, str]) -> Package:
    asked = str(specifier)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Package(name, asked, None, "missing", _canonical(name))
    if not specifier.contains(version, prereleases=True):
        return Package(name, asked, version, "another version is asked for", _canonical(name))
    module = modules.get(_canonical(name), name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:
        culprit = _culprit(error, module, modules)
        problem = "cannot be imported" if culprit == _canonical(name) else f"cannot be imported because of {culprit}"
        return Package(name, asked, version, f"{problem}: {_first_line(error)}", culprit)
    return Package(name, asked, version)


def _culprit(error: Exception, module: str, modules: dict[str, str]) -> str:
    """The distribution at fault: the one that is not found, or else the innermost that was being imported."""
    owners = {module: name for name, module in modules.items()}
    frames = list(traceback.walk_tb(error.__traceback__))[1:]  # without the one in this file
    inside = [frame.f_globals.get("__name__", "").partition(".")[0] for frame, _ in frames]
    if isinstance(error, ModuleNotFoundError) and error.name:
        inside.append(error.name.partition(".")[0])
        owners.setdefault(inside[-1], inside[-1])
    return next((owners[name] for name in reversed(inside) if name in owners), owners.get(module, module))


def _mend(what: str, packages: Iterable[Package]) -> list[str]:
    """The pip commands, with this Python, for what has a problem."""
    listed = {_canonical(package.name): package for package in packages}
    commands: dict[tuple[str, ...], list[str]] = {}
    for name in dict.fromkeys(package.culprit for package in listed.values() if package.culprit):
        package = listed.get(name)
        broken = package is not None and (package.problem or "").startswith("cannot")
        options = ("--force-reinstall", "--no-deps") if broken else ()
        commands.setdefault(options, []).append(name if package is None else package.name + package.asked)
    start = [sys.executable, "-m", "pip", "install"]
    return [f"{what}: {shlex.join([*start, *options, *names])}" for options, names in commands.items()]


# --- machine -----------------------------------------------------------------------------------------------------


def _cpu() -> Iterable[tuple[str, str]]:
    cores = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    try:
        import torch
    except Exception:
        yield "cpu", cores
        return
    ratio = bf16_speedup()
    off = "" if ratio > 1 else ": leave bf16 off"
    threads = f"{torch.get_num_threads()} used by torch"
    yield "cpu", f"{cores}, {threads}; matrix products in bf16 are {ratio:.2g}x as fast as in float32{off}"


def _gpus() -> Iterable[tuple[str, str]]:
    import torch

    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        bf16 = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
        name = torch.cuda.get_device_name(index)
        yield f"cuda:{index}", f"{name}, {_gigabytes(free)} of {_gigabytes(total)} free, {bf16}"
    if torch.backends.mps.is_available():
        yield "mps", "Apple GPU, which shares the memory below"
    elif not torch.cuda.device_count():
        driver = shutil.which("nvidia-smi") is not None
        built = torch.version.cuda or torch.version.hip
        if driver and not built:
            yield "gpu", f"not used: torch {torch.__version__} is built for CPUs, but an NVIDIA driver is installed"
        else:
            yield "gpu", "none" + (f" (torch is built for CUDA {built})" if built else "")


def _memory() -> Iterable[tuple[str, str]]:
    import psutil

    memory = psutil.virtual_memory()
    yield "memory", f"{_gigabytes(memory.available)} of {_gigabytes(memory.total)} free"


# --- Hub ---------------------------------------------------------------------------------------------------------


def _hub() -> Iterable[tuple[str, str]]:
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        yield "hub", f"{constants.ENDPOINT}: offline, as HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE says; folders work"
        return
    start = time.perf_counter()
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception as error:
        yield "hub", f"{constants.ENDPOINT}: not reached ({_first_line(error)}); folders work"
        return
    yield "hub", f"{constants.ENDPOINT}: reached in {time.perf_counter() - start:.1f} s"


def _cache() -> Iterable[tuple[str, str]]:
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    written = "" if os.access(there, os.W_OK) else ", but it cannot be written: set HF_HOME to another folder"
    yield "cache", f"{folder}: {_gigabytes(shutil.disk_usage(there).free)} free{written}"


# --- words -------------------------------------------------------------------------------------------------------


def _gigabytes(count: int) -> str:
    return f"{count / GIGABYTE:.1f} GB"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _indented(lines: Iterable[object]) -> list[str]:
    return [f"  {line}".rstrip() for line in lines]


def main() -> int:
    """Prints the diagnosis.

    Returns:
        0 where all that is required is fine, else 1.
    """
    diagnosis = diagnose()
    print(diagnosis)
    return 0 if diagnosis.ok else 1


if __name__ == "__main__":
    sys.exit(main())
