"""The documentation site: every link and every name leads somewhere, and it builds and shows without a network."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

import hf_weight_distill

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
MADE = {"benchmarks.md", "benchmark_tables.md", "changelog.md", "api/cli.md"}  # by docs/site_hooks.py
needs_mkdocs = pytest.mark.skipif(
    not all(map(find_spec, ("mkdocs", "material", "mkdocstrings", "latex2mathml"))),
    reason="needs the extra docs",
)


def settings():
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def nav(entries):
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from nav(value) if isinstance(value, list) else [value]


def without_code(text):
    return re.sub(r"`[^`\n]+`", "", re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M))


# --- without mkdocs --------------------------------------------------------------------------------------------------


def test_the_navigation_holds_every_page_once():
    named = list(nav(settings()["nav"]))
    assert sorted(named) == sorted({page.relative_to(DOCS).as_posix() for page in PAGES} | MADE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_links_between_files_lead_somewhere(page):
    """In the repository, where the pages are read, too."""
    text = without_code(page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        link = urlsplit(target)
        if link.scheme or not link.path or (page.parent / link.path).resolve().exists():
            continue
        assert (page.parent / link.path).resolve().relative_to(DOCS).as_posix() in MADE, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_documented_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"^::: (\S+)|\]\[(hf_weight_distill[\w.]*)\]", text, flags=re.M):
        path = "".join(name).split(".")
        file = ROOT.joinpath(*path)
        if file.is_dir() or file.with_suffix(".py").exists():
            continue
        source = ROOT.joinpath(*path[:-1])
        source = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        assert re.search(rf"^(class |def |){path[-1]}\b", source.read_text(encoding="utf-8"), flags=re.M), name


def test_the_reference_holds_all_public_names():
    text = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"\[`(\w+)`\]\[", text)
    assert sorted(listed) == sorted(hf_weight_distill.__all__)


# --- with mkdocs -----------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a page fetches, where it links to, its anchors and its text."""

    def __init__(self, file):
        super().__init__()
        self.fetched, self.links, self.anchors, self.text = [], [], set(), ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs.get("id"), attrs.get("name")}
        if tag in ("script", "img", "iframe"):
            self.fetched.append(attrs.get("src"))
        elif tag == "link":
            self.fetched.append(attrs.get("href"))
        elif tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Every page of the built site, by its path."""
    folder = tmp_path_factory.mktemp("site")
    dead_end = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, **dead_end, "no_proxy": "", "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-4000:]
    return {file: Page(file) for file in folder.rglob("*.html") if file.name != "404.html"}


@needs_mkdocs
def test_it_builds_strictly_and_fetches_nothing_from_elsewhere(site):
    assert len(site) == len(PAGES) + len(MADE)
    for file, page in site.items():
        for address in filter(None, page.fetched):
            link = urlsplit(address)
            assert not link.netloc, (file.name, address)
            assert (file.parent / unquote(link.path)).exists(), (file.name, address)


@needs_mkdocs
def test_every_internal_link_and_anchor_is_there(site):
    for file, page in site.items():
        for address in page.links:
            link = urlsplit(address)
            if link.scheme:
                continue
            target = (file.parent / unquote(link.path)).resolve() if link.path else file
            assert target in site or target.is_file(), (file.name, address)
            if link.fragment and target in site:
                assert unquote(link.fragment) in site[target].anchors, (file.name, address)


@needs_mkdocs
def test_docstrings_are_shown_and_nothing_of_their_markup_is_left(site):
    reference = {file.stem: page for file, page in site.items() if file.parent.name == "api"}
    assert "Trains the start's weights as they are" in reference["sources"].text
    for name, page in reference.items():
        found = re.search(r"\.\. math|:\w+:`|\\[\[(]|\\(?:sum|frac|mathrm)|={4,}|>>> .*doctest", page.text)
        assert found is None, (name, found)
    formula = next(file for file in site if file.name == "start.html").read_text(encoding="utf-8")
    assert re.search(r'<math [^>]*display="block"', formula)


@needs_mkdocs
def test_every_command_and_flag_stands_on_its_page(site):
    from hf_weight_distill.cli.main import COMMANDS

    page = next(page for file, page in site.items() if file.name == "cli.html")
    assert all(f"usage: hf-weight-distill {command} " in page.text for command in COMMANDS)
    assert "--finetune_lora KEY=VALUE ..." in page.text
