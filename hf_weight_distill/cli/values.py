"""Texts of the command line and of YAML files to values, and a dataclass's fields to flags."""

import argparse
import ast
import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..config import Pair, Vocab


class _Yaml(yaml.SafeLoader):
    """YAML 1.2's plain values: ``1e-3`` is a number, ``no`` is a word (PyYAML has it the other way round)."""

    yaml_implicit_resolvers: typing.ClassVar[dict] = {}


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    _Yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), list(_first))


def load_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Yaml)
    except yaml.YAMLError as error:
        raise ValueError(f"{where} is not YAML: {error}") from error


def _value(text: str) -> Any:
    """A value inside a dictionary flag: a number, true, false, null, a YAML list or mapping in brackets, else text."""
    if text[:1] in tuple("[{\"'"):
        return load_yaml(text, repr(text))
    loader = _Yaml("")
    tag = loader.resolve(yaml.ScalarNode, text, (True, False))
    return loader.construct_object(yaml.ScalarNode(tag, text))


GONE = object()  # KEY= without a value


def _entries(texts: list[str]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if text.startswith("{"):
            entries |= _value(text)
        elif equals and key:
            entries[key] = _value(value) if value else GONE
        else:
            raise ValueError(f"found {text!r}, expected KEY=VALUE, or a YAML mapping in braces")
    return entries


def _number(text: str, kind: type = int) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"found {text!r}, expected a {'whole ' if kind is int else ''}number") from None


def _pair(texts: list[str]) -> int | tuple[int, int]:
    numbers = tuple(_number(text) for text in texts)
    if len(numbers) > 2:
        raise ValueError(f"found {len(numbers)} numbers, expected one, or two (encoder, decoder)")
    return numbers if len(numbers) == 2 else numbers[0]


def _groups(texts: list[str]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(_number(layer) for layer in text.split(",")) for text in texts)


@dataclass(frozen=True)
class _Spelling:
    """How values of one type are written on the command line."""

    metavar: str
    read: Callable[[Any], Any]
    nargs: str | None = None


_ENTRIES = _Spelling("KEY=VALUE ...", _entries, "+")
_SPELLINGS: dict[Any, _Spelling] = {
    int: _Spelling("N", _number),
    float: _Spelling("X", functools.partial(_number, kind=float)),
    str: _Spelling("TEXT", str),
    Pair: _Spelling("N [N]", _pair, "+"),
    Vocab: _Spelling("N|from-data|DIR", str),
    tuple[tuple[int, ...], ...] | None: _Spelling("GROUP ...", _groups, "+"),
    dict[str, Any]: _ENTRIES,
    dict[str, float]: _ENTRIES,
    dict[str, dict[str, Any]]: _ENTRIES,
}
_SPELLINGS |= {kind | None: _SPELLINGS[kind] for kind in (int, float, str)}


def _spelling(kind: Any) -> _Spelling:
    return _SPELLINGS[str if typing.get_origin(kind) is typing.Literal else kind]


def read_flag(name: str, given: Any, kind: Any) -> Any:
    optional = type(None) in typing.get_args(kind)
    if optional and given in ("none", ["none"], "None", ["None"]):
        return None
    try:
        return _spelling(kind).read(given)
    except ValueError as error:
        raise ValueError(f"--{name}: {error}") from error


def field_docs(cls: type) -> dict[str, str]:
    """The text of each field in the ``Args`` section of a class's docstring, on one line and without markup."""
    _, _, section = (inspect.getdoc(cls) or "").partition("Args:\n")
    docs: dict[str, str] = {}
    for line in section.partition("\n\n")[0].splitlines():
        field = re.match(r" {4}(\w+): (.*)", line)
        if field:
            name = field[1]
            docs[name] = field[2]
        else:
            docs[name] += " " + line.strip()
    return docs


def registered(file: str, registry: str) -> list[str]:
    """Keys of a dictionary in a module that would import torch, read from its source."""
    tree = ast.parse((Path(__file__).parent.parent / file).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == registry:
            return [key.value for key in node.value.keys]
    return []


def _named_in(field: str) -> list[str]:
    """What may stand in a field that names modules of the package."""
    registry = "schedules" if field == "schedules" else "sources" if field.endswith("source") else "objectives"
    return registered(f"{registry}/__init__.py", registry.upper())


def add_fields(parser: argparse._ActionsContainer, cls: type) -> None:
    """A flag for each field of a dataclass."""
    docs, kinds = field_docs(cls), typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        text, kind = docs.get(field.name, ""), kinds[field.name]
        spelling = _spelling(kind)
        choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else None
        if field.name == "schedules" or field.name.endswith(("source", "_objectives")):
            text = f"{text.rstrip('.')}. Known: {', '.join(_named_in(field.name)) or 'none yet'}."
        parser.add_argument(
            f"--{field.name}",
            nargs=spelling.nargs,
            action="extend" if spelling is _ENTRIES else None,  # a flag given twice adds to its entries
            choices=choices,
            metavar=None if choices else spelling.metavar,
            help=_as_flags(text).replace("%", "%%"),
        )


def _as_flags(text: str) -> str:
    """The text of a docstring, with values as the command line spells them."""
    text = re.sub(r"``\(\((.+?)\)\)``", lambda groups: groups[1].replace(", ", ",").replace("),(", " "), text)
    return text.replace("``None``", "none").replace("``", "")


def given_fields(arguments: argparse.Namespace, cls: type) -> dict[str, Any]:
    """The fields that were given as flags, read."""
    kinds = typing.get_type_hints(cls)
    texts = {field.name: getattr(arguments, field.name, None) for field in dataclasses.fields(cls)}
    return {name: read_flag(name, text, kinds[name]) for name, text in texts.items() if text is not None}


def merge_flags(values: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    """Flags over values; dictionaries key by key."""
    merged = dict(values)
    for name, flag in flags.items():
        if isinstance(flag, dict):
            entries = {**merged.get(name, {}), **flag}
            flag = {key: value for key, value in entries.items() if value is not GONE}
        merged[name] = flag
    return merged
