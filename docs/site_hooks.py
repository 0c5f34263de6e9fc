"""What MkDocs cannot do by itself here: docstrings in reST, formulas without scripts, and pages that lie elsewhere.

Loaded twice: as MkDocs hooks (the functions) and as a Griffe extension (the class).
"""

import contextlib
import html
import io
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import griffe
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "benchmarks.md": "benchmarks/README.md",
    "benchmark_tables.md": "benchmarks/TABLES.md",
    "changelog.md": "CHANGELOG.md",
}


# --- pages ------------------------------------------------------------------------------------------------------------


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that lie outside docs/, and one with the help of every command."""
    for name, path in ELSEWHERE.items():
        content = (ROOT / path).read_text(encoding="utf-8").replace("](../docs/", "](")
        for neighbour, where in ELSEWHERE.items():
            if Path(where).parent == Path(path).parent:
                content = content.replace(f"]({Path(where).name})", f"]({neighbour})")
        files.append(File.generated(config, name, content=content))
    files.append(File.generated(config, "api/cli.md", content=command_line()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to files outside docs/, which work in the repository, lead to their pages."""
    for name, path in ELSEWHERE.items():
        markdown = markdown.replace(f"](../{path}", f"]({name}")
    return markdown


def command_line() -> str:
    """The help of every command, as a page."""
    from hf_weight_distill.cli.main import COMMANDS, main

    os.environ["COLUMNS"] = "122"  # as wide as the texts that help keeps as they are
    links = ", ".join(f"[{name}](#hf-weight-distill-{name})" for name in COMMANDS)
    parts = [f"---\nhide: [toc]\n---\n\n# Command line\n\nWhat each command says to `--help`: {links}.\n"]
    for command in ([], *([name] for name in COMMANDS)):
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            main([*command, "--help"])
        parts.append(f"## {' '.join(['hf-weight-distill', *command])}\n\n``` {{.text .wide}}\n{text.getvalue()}```\n")
    return "\n".join(parts)


def on_page_content(html_text: str, **_: Any) -> str:
    """LaTeX becomes MathML, which browsers show without a script."""

    def formula(found: re.Match) -> str:
        display = "block" if found["tag"] == "div" else "inline"
        latex = html.unescape(found["latex"]).strip()
        return f"{found['open']}{convert(latex, display=display)}</{found['tag']}>"

    pattern = r'(?P<open><(?P<tag>div|span) class="arithmatex">)\\[\[(](?P<latex>.*?)\\[\])]</(?P=tag)>'
    return re.sub(pattern, formula, html_text, flags=re.S)


# --- docstrings -------------------------------------------------------------------------------------------------------


class RestDocstrings(griffe.Extension):
    """Docstrings in Google style with reST inside become Markdown."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """All docstrings of a package."""
        self._visit(pkg)

    def _visit(self, obj: griffe.Object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value, obj)
        for member in obj.members.values():
            if not member.is_alias:
                self._visit(member)


def to_markdown(text: str, obj: griffe.Object) -> str:
    """A docstring's directives, roles and tables as Markdown.

    Args:
        text: the docstring.
        obj: where it stands; names in roles are looked up from there.
    """
    text = re.sub(r"^( *)\.\. math::(.*(?:\n\1 +\S.*|\n *(?=\n\1 +\S))*)", _formula, text, flags=re.M)
    text = re.sub(r":math:`([^`]+)`", lambda found: f"\\({' '.join(found[1].split())}\\)", text)
    text = re.sub(r":(?:attr|class|data|func|meth|mod):`([^`]+)`", lambda found: _reference(found[1], obj), text)
    text = re.sub(r"^    (\w+(?:, \w+)+)(: .*(?:\n {5,}.*)*)", _apart, text, flags=re.M)
    text = re.sub(r"^={3,} +={3,}\n((?:.+\n)+?)={3,} +={3,}$", _table, text, flags=re.M)
    return re.sub(r"^( *)(?:Example|Class attributes):$", _section, text, flags=re.M)


def _formula(found: re.Match) -> str:
    lines = textwrap.dedent(found[2]).strip()
    return textwrap.indent(f"\\[\n{lines}\n\\]", found[1])


def _reference(name: str, obj: griffe.Object) -> str:
    """A link where the site has the object, else code."""
    path = name
    with contextlib.suppress(griffe.NameResolutionError):
        path = obj.resolve(name)
    return f'<autoref identifier="{path}" optional><code>{name.rpartition(".")[2]}</code></autoref>'


def _apart(found: re.Match) -> str:
    """Arguments that share a text get it each."""
    return "\n".join(f"    {name}{found[2]}" for name in found[1].split(", "))


def _table(found: re.Match) -> str:
    rows = [re.split(r" {2,}", line.strip(), maxsplit=1) for line in found[1].splitlines()]
    return "\n".join(["| | |", "|---|---|", *(f"| {' | '.join(row)} |" for row in rows)])


def _section(found: re.Match) -> str:
    """Sections that Griffe knows under other names."""
    return f"{found[1]}{'Examples' if 'Example' in found[0] else 'Attributes'}:"
