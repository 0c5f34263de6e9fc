"""The page about a run: right numbers, whole HTML, nothing from outside, whatever the folder lacks."""

import json
import re
import shlex
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread
from safetensors.torch import load_file
from tiny import tiny_marian_model, tiny_marian_tokenizer

from hf_weight_distill import data
from hf_weight_distill.cli import build_parser, main
from hf_weight_distill.corpus import built_in_corpus
from hf_weight_distill.report import charts, write_report
from hf_weight_distill.report.numbers import duration, millions, percent, signed
from hf_weight_distill.report.page import MOST_LETTERS

DOCS = Path(__file__).parents[1] / "docs" / "report.md"
SECTIONS = ("quality", "curves", "sentences", "texts", "mixing", "time", "settings")
VOID = {"meta", "br"}
EVIL = "<script>alert('x')</script> & \"more\""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STAGE = {"stage": "data", "seconds": 1.0, "finished": True}


# --- a run, written by hand ------------------------------------------------------------------------------------------


def comparison_rows():
    def row(quantity, teacher, student, num_beams=None, batch_size=None, spread=None):
        values = {"quantity": quantity, "teacher": teacher, "student": student, "ratio": student / teacher}
        return values | {
            **{"num_beams": num_beams, "batch_size": batch_size, "label": quantity},
            **{"teacher_spread": spread, "student_spread": spread},
        }

    return [
        row("bleu", 30.0, 24.0, 1),
        row("chrf", 60.0, 55.0, 1),
        row("parameters", 6_000_000, 1_500_000),
        row("bytes_on_disk", 24_000_000, 6_000_000),
        row("tokens_per_second", 100.0, 350.0, 1, 1, 0.05),
        row("sentences_per_second", 10.0, 36.0, 1, 1, 0.05),
    ]


def log(values, **more):
    return [{"step": step, **row, **more} for step, row in values]


def write_run(folder, students=("der Hund rennt",) * 9, **changes):
    """A finished run; ``changes`` replace its files by name, ``None`` leaves one out."""
    outputs = [
        {"source": "the dog runs", "reference": "der Hund rennt", "teacher": "der Hund läuft", "student": student}
        for student in students
    ]
    generator = log((step, {"loss": 4 - step / 10, "cross_entropy": 3.0, "kl": 2.0}) for step in (10, 20))
    finetune = log((step, {"loss": 2 - step / 100, "cross_entropy": 2 - step / 100}) for step in (10, 20, 30))
    mixing = {
        "model.decoder.layers.{}.fc1.weight": {
            **{"groups": [[0, 1], [2]], "start": [[1.0, 0.0], [1.0]], "end": [[0.75, 0.125], [1.0]]},
        },
        "model.shared.weight": {"groups": [[0]], "start": [[1.5]], "end": [[1.25]]},
    }
    stages = [("data", 2.0, True), ("generator", 100.0, False), ("generator", 50.0, True), ("finetune", 48.0, True)]
    files = {
        "weight_distill.yaml": {
            "teacher": "/somewhere/on/this/machine/opus-mt-en-de",
            "recipe": "default",
            "config": {
                "source": "generator",
                "generator_objectives": {"cross_entropy": 0.5, "kl": 0.25},
                "finetune_objectives": {"cross_entropy": 1.0},
            },
            "source_lang": "en",
            "target_lang": "de",
        },
        "record.json": {
            "finished": True,
            "shape": {"decoder layers": [3, 2], "vocabulary": [80, 80]},
            "parameters": [6_000_000, 1_500_000],
            "history": {"generator": generator, "finetune": finetune},
            "learned": {"mixing": mixing, "moved": {"model": 0.02}},
            "stages": [{"stage": name, "seconds": seconds, "finished": done} for name, seconds, done in stages],
        },
        "scores.json": {
            "rows": comparison_rows(),
            "signatures": {"bleu": "nrefs:1"},
            "environment": {"device": "cpu (x)", "threads": 1, "torch": "2.13.0"},
            "sentences": len(outputs),
            "speed_sentences": 4,
            "outputs": outputs,
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {**files, **changes}.items():
        if content is not None:
            text = content if isinstance(content, str) else json.dumps(content)
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def edited(folder, name, **changes):
    """A file of a run with other values at its top; ``None`` takes one away."""
    content = json.loads((folder / name).read_text()) | changes
    content = {key: value for key, value in content.items() if value is not None}
    (folder / name).write_text(json.dumps(content))
    return folder


# --- reading a page --------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Elements, text and faults of a page."""

    def __init__(self, file):
        super().__init__()
        self.open, self.elements, self.faults, self.words = [], [], [], []
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self.open]
        self.text = " ".join("".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.open)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, text):
        if "style" not in self.open:
            self.words.append(text)

    def every(self, name):
        return [(attributes, parents) for tag, attributes, parents in self.elements if tag == name]

    def ids(self):
        return [attributes["id"] for _, attributes, _ in self.elements if "id" in attributes]

    def section(self, name):
        """The text of a section."""
        return Page._stripped(self.source.partition(f'<section id="{name}"')[2].partition("</section>")[0])

    @staticmethod
    def _stripped(html):
        return " ".join(re.sub(r"<[^>]*>", "", html).split())


def check_whole(page):
    """What holds for every page."""
    assert page.faults == []
    ids = page.ids()
    assert len(ids) == len(set(ids))
    assert set(SECTIONS) <= set(ids)
    for tag, attributes, _ in page.elements:
        assert tag not in ("script", "iframe", "img", "link", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "xlink:href")]
        assert attributes.get("href", "#").startswith("#") and attributes.get("href", "#")[1:] in ["", *ids]
        for name in ("aria-labelledby", "aria-describedby"):
            assert set(attributes.get(name, "").split()) <= set(ids)
    assert "url(" not in page.source and "@import" not in page.source
    tables = page.source.count("<table")
    assert tables == len(page.every("caption")), "each table says what it holds"
    assert all("scope" in attributes for attributes, _ in page.every("th"))
    pictures = page.every("svg")
    assert all(attributes["role"] == "img" and attributes["aria-labelledby"] for attributes, _ in pictures)
    assert len(page.every("desc")) == len(pictures)
    assert len(page.source) < 2_000_000
    assert "None" not in page.text and "nan" not in page.text.split()


def page_of(folder):
    page = Page(write_report(folder))
    check_whole(page)
    return page


# --- what it shows ---------------------------------------------------------------------------------------------------


def test_the_overview_and_the_table_hold_the_measured_numbers(tmp_path):
    page = page_of(write_run(tmp_path))
    assert "BLEU, greedy 30.0 → 24.0 80 % of it kept" in page.text
    assert "3.5× the speed" in page.text and "4.0× smaller" in page.text
    assert "decoder layers 3 → 2" in page.text and "vocabulary 80" not in page.text, "only what differs"
    quality = page.section("quality")
    assert "9 sentences scored, 4 timed" in quality and "nrefs:1" in quality
    cells = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", page.source.partition('id="curves"')[0])
    cells = [re.sub(r"<[^>]*>", " ", row).split() for row in cells]
    assert ["parameters", "6,000,000", "1,500,000", "0.25"] in cells
    assert cells[0] == ["BLEU", "greedy", "30", "24", "0.80"]


def test_no_path_of_this_machine_stands_in_the_title(tmp_path):
    page = page_of(write_run(tmp_path))
    assert "<title>opus-mt-en-de distilled</title>" in page.source


def test_text_is_escaped_everywhere(tmp_path):
    rows = {side: f"{side} {EVIL}" for side in ("source", "reference", "teacher", "student")}
    write_run(tmp_path, **{"weight_distill.yaml": yaml.safe_dump({"teacher": EVIL, "recipe": EVIL, "config": {}})})
    history = {"generator": log([(1, {"eval_" + EVIL: 1.0}), (2, {"eval_" + EVIL: 2.0})])}
    edited(tmp_path, "scores.json", outputs=[rows, rows | {"student": EVIL}], signatures={EVIL: EVIL})
    edited(tmp_path, "record.json", history=history, shape={EVIL: [EVIL, "x"]}, stages=[{**STAGE, "stage": EVIL}])
    page = page_of(tmp_path)
    assert all(f"{side} {EVIL}" in unescape(page.section("sentences")) for side in rows)
    assert page.text.count("<script>") > 10, "it is shown, and check_whole has found no such element"


def test_differences_are_marked(tmp_path):
    page = page_of(write_run(tmp_path, students=("der Hund bellt",)))
    assert "<del>läuft</del>" in page.source and "<ins>bellt</ins>" in page.source
    assert 'lang="de" dir="auto">der Hund <ins>' in page.source
    same = page_of(write_run(tmp_path, students=("der Hund läuft",)))
    assert "same as the teacher" in same.text and "writes the same on 1" in same.text
    assert "Nowhere: no output scores below the teacher's." in same.text


def test_a_student_that_repeats_itself_is_named_and_shown(tmp_path):
    loops = "der Hund Hund Hund Hund rennt"
    page = page_of(write_run(tmp_path / "bad", students=("der Hund rennt",) * 18 + (loops, "")))
    assert "This student repeats itself. 1 of its 20 outputs loop (5.0 %); 0 of the" in page.text
    assert f"4 times: Hund {loops}" in page.section("texts")
    good = page_of(write_run(tmp_path / "good"))
    assert "This student repeats itself" not in good.text


def test_a_student_that_writes_too_little_is_named(tmp_path):
    page = page_of(write_run(tmp_path, students=("der Hund",) * 5))
    assert "outputs are 33 % shorter than its teacher's" in page.text


def curve(page, name):
    """The points of a chart's polylines."""
    figure = next(f for f in page.source.split("<figure>") if f"<strong>{name}</strong>" in f)
    lines = re.findall(r'class="line phase(\d)" points="([^"]*)"', figure)
    return {int(phase): [tuple(map(float, point.split(","))) for point in points.split()] for phase, points in lines}


def test_phase_2_goes_on_where_phase_1_ended(tmp_path):
    page = page_of(write_run(tmp_path))
    found = curve(page, "cross_entropy")
    scale = (charts.WIDTH - charts.RIGHT - charts.LEFT) / 50
    assert [x for x, _ in found[1] + found[2]] == pytest.approx(
        [charts.LEFT + scale * update for update in (10, 20, 30, 40, 50)], abs=0.1
    )
    heights = [y for _, y in found[1] + found[2]]
    assert heights[0] == heights[1] < heights[2] < heights[3] < heights[4], "down on the page is down in value"
    drops = np.diff(heights[2:])
    assert drops == pytest.approx(drops[0], abs=0.11)
    assert set(curve(page, "kl")) == {1} and set(curve(page, "loss")) == {1, 2}
    assert "weight 0.5 in phase 1, 1 in phase 2" in page.section("curves")


def test_one_objective_needs_no_chart_of_the_sum(tmp_path):
    settings = {"teacher": "t", "recipe": "r", "config": {"finetune_objectives": {"cross_entropy": 1.0}}}
    page = page_of(write_run(tmp_path, **{"weight_distill.yaml": yaml.safe_dump(settings)}))
    assert "<strong>loss</strong>" not in page.source and "<strong>cross_entropy</strong>" in page.source


def test_the_heat_map_shows_each_coefficient_and_its_change(tmp_path):
    page = page_of(write_run(tmp_path))
    mixing = page.section("mixing")
    assert "fc1.weight0.750.121.00" in mixing.replace(" ", "") or "fc1.weight0.750.131.00" in mixing.replace(" ", "")
    assert "fc1.weight\N{MINUS SIGN}0.250+0.1250.000" in mixing.replace(" ", "")
    assert "model.decoder.layers.0.fc1.weight: 1.000 → 0.750" in unescape(mixing)
    assert "model.shared.weight1.50001.2500" in mixing.replace(" ", "")
    assert re.search(r'colspan="2">student layer 0</th><th[^>]*colspan="1">student layer 1', page.source)


def test_the_time_of_all_starts_is_summed(tmp_path):
    page = page_of(write_run(tmp_path))
    time = page.section("time")
    assert "3:20 in all" in time and "2 starts" in time
    assert "phase 1: training the generator20 updates, 0.133 a second; 2 starts2:3075 %" in time


@pytest.mark.parametrize("targets, note", [("augment", "beside the gold targets"), ("replace", "")])
def test_gold_targets_beside_the_pseudo_labels_are_named(tmp_path, targets, note):
    stages = [{**STAGE, "stage": "pseudo labels"}]
    page = page_of(edited(write_run(tmp_path), "record.json", pseudo_labels=targets, stages=stages))
    assert f"the teacher translates the training sources{note}1.0 s" in page.section("time")


# --- what may be missing ---------------------------------------------------------------------------------------------


def test_without_a_test_set(tmp_path):
    page = page_of(write_run(tmp_path, **{"scores.json": None}))
    for section in ("quality", "sentences", "texts"):
        assert "test" in page.section(section) and "--test" in page.section(section)
    assert len(page.every("svg")) > 2, "the curves are there all the same"


def test_a_command_on_the_page_quotes_its_paths(tmp_path):
    run = write_run(tmp_path / "a run", **{"scores.json": None})
    assert "STUDENT --data DATA" in page_of(run).section("quality"), "it was saved elsewhere, or not yet"
    (run / "student").mkdir()
    page = page_of(run)
    command = unescape(page.section("quality").partition("hf-weight-distill ")[2]).partition(" measures it")[0]
    student, scores = (str(tmp_path / "a run" / name) for name in ("student", "scores.json"))
    teacher, languages = "/somewhere/on/this/machine/opus-mt-en-de", ["--source_lang", "en", "--target_lang", "de"]
    assert shlex.split(command) == ["evaluate", teacher, student, "--data", "DATA", *languages, "--json", scores]


def test_a_command_on_the_page_measures_what_the_run_trained(tmp_path):
    settings = {"teacher": "a/b", "teacher_revision": "v2", "src_lang": "deu_Latn", "tgt_lang": "eng_Latn"}
    settings |= {"source_column": "text", "config": {"prefix": "summarize: "}}
    write_run(tmp_path, **{"scores.json": None, "weight_distill.yaml": settings})
    command = unescape(page_of(tmp_path).section("quality").partition("hf-weight-distill ")[2]).partition(" measures")[
        0
    ]
    given = vars(build_parser().parse_args(shlex.split(command)))
    expected = {**settings, "prefix": "summarize: ", "student": "STUDENT", "target_column": None}
    del expected["config"]
    assert {name: given[name] for name in expected} == expected


def test_where_vocabularies_differ_sentences_are_compared_and_not_tokens(tmp_path):
    write_run(tmp_path)
    assert "tokens/s, greedy, batch 1 100 → 350 3.5× the speed" in page_of(tmp_path).text
    edited(tmp_path, "record.json", shape={"vocabulary": [80, 70]})
    page = page_of(tmp_path)
    assert "sentences/s, greedy, batch 1 10 → 36 3.6× the speed" in page.text
    assert "teacher 30.0 at 10 sentences/s, student 24.0 at 36" in page.text and "sentences/s, logarithmic" in page.text


def test_scores_of_a_version_without_outputs(tmp_path):
    page = page_of(edited(write_run(tmp_path), "scores.json", outputs=None))
    assert "holds no outputs" in page.section("sentences") and "4.0× smaller" in page.text


def test_a_run_that_recorded_nothing(tmp_path):
    page = page_of(write_run(tmp_path, **{"record.json": None}))
    assert "This run is not finished. It stopped in, or is still at, phase 1" in page.text
    for section in ("curves", "mixing", "time"):
        assert 'class="missing"' in page.source.partition(f'<section id="{section}"')[2].partition("</section>")[0]
    (tmp_path / "student").mkdir()
    assert "This run is not finished" not in page_of(tmp_path).text


def test_interrupted_in_phase_2_the_furthest_history_counts(tmp_path):
    write_run(tmp_path, **{"scores.json": None})
    stages = [STAGE, {"stage": "finetune", "seconds": 5, "finished": False}]
    history = {"generator": log([(5, {"loss": 3.0})]), "finetune": log([(5, {"loss": 2.0})])}
    edited(tmp_path, "record.json", finished=False, stages=stages, history=history, learned=None)
    assert "is still at, phase 2: training the student" in page_of(tmp_path).text
    for step in (4, 10):
        checkpoint = tmp_path / "finetune" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        entries = log((n, {"loss": 2.0, "cross_entropy": 2.0}) for n in range(1, step + 1))
        (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": entries}))
    (tmp_path / "finetune" / "checkpoint-12").mkdir()
    (tmp_path / "finetune" / "checkpoint-12" / "trainer_state.json").write_text('{"log_history": [')  # killed here
    page = page_of(tmp_path)
    assert len(curve(page, "loss")[2]) == 10
    assert "interrupted" in page.section("time") and "written when phase 1 ends" in page.section("mixing")


def test_a_source_that_mixes_no_layers(tmp_path):
    settings = {"teacher": "t", "recipe": "opdf", "config": {"source": "mpo"}}
    write_run(tmp_path, **{"weight_distill.yaml": yaml.safe_dump(settings)})
    page = page_of(edited(tmp_path, "record.json", learned={"mixing": {}, "moved": {}}))
    assert "source 'mpo' mixes no teacher layers" in unescape(page.section("mixing"))


def test_values_that_are_no_numbers_are_left_out(tmp_path):
    history = {"generator": log([(1, {"loss": 3.0}), (2, {"loss": float("nan")}), (3, {"loss": float("inf")})])}
    page = page_of(edited(write_run(tmp_path), "record.json", history=history))
    assert curve(page, "loss") == {}, "one point makes no line"
    assert "Phase 2 has logged nothing" in page.section("curves")


@pytest.mark.parametrize("where", ["settings", "record"])
def test_a_phase_without_updates_is_not_missed(tmp_path, where):
    write_run(tmp_path)
    history = json.loads((tmp_path / "record.json").read_text())["history"]
    arguments = {"generator": {"max_steps": 0}} if where == "record" else None
    edited(tmp_path, "record.json", history={"finetune": history["finetune"]}, arguments=arguments)
    if where == "settings":
        edited(tmp_path, "weight_distill.yaml", config={"source": "direct", "generator_args": {"max_steps": 0}})
    page = page_of(tmp_path)
    assert "This run has no phase 1: its settings give it no updates." in page.section("curves")
    assert set(curve(page, "loss")) == {2} and ">phase 1</text>" not in page.source


def test_a_large_run_stays_small_and_long_texts_are_cut(tmp_path):
    history = {"generator": log((n, {"loss": 1 / n, "cross_entropy": 1 / n}) for n in range(1, 20_001))}
    long = "word " * MOST_LETTERS
    page = page_of(edited(write_run(tmp_path, students=(long,) * 3), "record.json", history=history))
    assert "[...]" in page.section("sentences") and len(page.source) < 400_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no run, for there is no weight_distill.yaml in it"),
        ({"weight_distill.yaml": "a: ["}, "is not YAML"),
        ({"weight_distill.yaml": "- a"}, "holds list, expected the settings of a run"),
        ({"record.json": "{"}, "record.json cannot be read"),
        ({"scores.json": "[]"}, "scores.json holds a list, expected a JSON object"),
    ],
)
def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path, capsys, content, message):
    folder = tmp_path if content is None else write_run(tmp_path, **content)
    assert main(["report", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and not out
    assert not (tmp_path / "report.html").exists()
    assert main(["report", str(tmp_path / "nowhere")]) == 2


def test_a_run_that_still_prepares_its_data_is_told_from_no_run(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    (run / "weight_distill.yaml").unlink()
    assert main(["report", str(run)]) == 2
    assert "has not begun to train: its page can be made as soon as it does" in capsys.readouterr().err


def test_an_output_that_is_no_file_is_refused(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    for output in (tmp_path, tmp_path / "run" / "weight_distill.yaml" / "page.html"):
        assert main(["report", str(run), "--output", str(output)]) == 2
        out, err = capsys.readouterr()
        assert not out and "error: output " in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# --- a real run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The documentation's commands, with a tiny teacher and few steps."""
    folder = tmp_path_factory.mktemp("report")
    tokenizer = tiny_marian_tokenizer(folder / "demo" / "teacher")
    tiny_marian_model(tokenizer, decoder_layers=4).save_pretrained(folder / "demo" / "teacher")
    commands = [line for block in re.findall(r"```bash\n(.*?)```", DOCS.read_text(), re.S) for line in [block]]
    fast = "max_steps=6 use_cpu=true logging_steps=2 eval_steps=3 warmup_steps=0"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(data, "_corpus", lambda: built_in_corpus(32, 4, 5))
        lines = "".join(commands).replace("\\\n", " ").replace("max_steps=300", fast).strip().splitlines()
        for line in lines:
            program, *arguments = shlex.split(line)
            arguments += ["--test_num_beams", "1", "--test_batch_sizes", "4"] if arguments[0] == "distill" else []
            assert program == "hf-weight-distill" and main(arguments) == 0, line
        exec(re.search(r"```python\n(.*?)```", DOCS.read_text(), re.S)[1], {})
    return folder / "runs" / "small"


@pytest.mark.filterwarnings("ignore")
def test_a_real_run_has_every_section(real):
    page = Page(real / "report.html")
    check_whole(page)
    assert 'class="missing"' not in page.source
    record, scores = (json.loads((real / name).read_text()) for name in ("record.json", "scores.json"))
    assert [stage["stage"] for stage in record["stages"]] == [
        *("pseudo labels", "data", "start", "generator", "finetune", "evaluation")
    ]
    assert record["finished"] and {*record["history"]["generator"][0]} >= {"cross_entropy", "kl", "loss"}
    test = built_in_corpus(32, 4, 5)["test"]["translation"]
    assert [(row["source"], row["reference"]) for row in scores["outputs"]] == [(r["en"], r["de"]) for r in test]
    tokens = next(row for row in scores["rows"] if row["quantity"] == "parameters")
    assert f"{tokens['student']:,}" in page.text


@pytest.mark.filterwarnings("ignore")
def test_the_coefficients_on_the_page_are_those_of_the_generator(real):
    (checkpoint,) = (real / "generator").glob("checkpoint-*")
    state = load_file(checkpoint / "model.safetensors")
    mixing = json.loads((real / "record.json").read_text())["learned"]["mixing"]
    name = "model.decoder.layers.{}.fc1.weight"
    trained = state[f"source.mix.{name.replace('.', '/')}"]
    assert mixing[name]["groups"] == [[0, 1, 2, 3]] and sorted(*mixing[name]["start"]) == [0, 0, 0, 1]
    torch.testing.assert_close(torch.tensor(mixing[name]["end"]), trained, atol=1e-4, rtol=0)
    assert mixing[name]["end"] != mixing[name]["start"], "it has learned"


# --- in a browser ----------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium")
MEASURE = """
<script>
const outside = [...document.querySelectorAll('svg')].filter(svg => [...svg.querySelectorAll('text')].some(text => {
  const box = text.getBBox(), view = svg.viewBox.baseVal;
  return box.x < -1 || box.x + box.width > view.width + 1 || box.y < -1 || box.y + box.height > view.height + 1;
})).length;
document.title = JSON.stringify({wide: document.documentElement.scrollWidth, window: innerWidth, outside,
  rgb: getComputedStyle(document.body).backgroundColor});
</script>"""


def browse(tmp_path, file, *options):
    quiet = "--disable-background-networking --disable-component-update --disable-sync --no-first-run"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", *quiet.split(), "--hide-scrollbars"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", *options, file.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@needs_browser
def test_the_browser_sees_the_page_that_was_written(tmp_path):
    rows = {side: f"{side} {EVIL}" for side in ("source", "reference", "teacher", "student")}
    file = write_report(edited(write_run(tmp_path / "run"), "scores.json", outputs=[rows] * 3))
    seen = tmp_path / "seen.html"
    seen.write_text(browse(tmp_path, file, "--dump-dom"), encoding="utf-8")
    written, found = Page(file), Page(seen)
    assert found.text == written.text, "nothing was moved, closed or dropped by the browser's own repairs"
    assert [(tag, attributes.get("id")) for tag, attributes, _ in found.elements if tag != "script"] == [
        (tag, attributes.get("id")) for tag, attributes, _ in written.elements
    ]


@needs_browser
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (500, True)])
def test_nothing_sticks_out_and_both_colour_schemes_are_there(real, tmp_path, width, dark):
    page = (real / "report.html").read_text(encoding="utf-8")
    measured = re.sub(r"<meta http-equiv=.Content-Security-Policy.[^>]*>", "", page).replace(
        "</body>", MEASURE + "</body>"
    )
    assert measured.count("<script>") == 1
    (tmp_path / "measured.html").write_text(measured, encoding="utf-8")
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    dom = browse(tmp_path, tmp_path / "measured.html", f"--window-size={width},900", scheme, "--dump-dom")
    found = json.loads(re.search(r"<title>(.*?)</title>", dom)[1])
    assert found["wide"] <= found["window"] and found["outside"] == 0, found
    assert (sum(map(int, re.findall(r"\d+", found["rgb"])[:3])) < 150) == dark
    browse(
        tmp_path, real / "report.html", f"--window-size={width},900", scheme, f"--screenshot={tmp_path / 'page.png'}"
    )
    picture = imread(tmp_path / "page.png")[..., :3]
    assert (picture.mean() < 0.4) == dark and picture.std() > 0.05, "not one colour"


# --- charts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value, text", [(99_999, "99,999"), (6_563_000, "6.56 M"), (999_400_000, "999 M"), (1_370_000_000, "1.37 B")]
)
def test_parameters_are_short(value, text):
    assert millions(value).replace("\N{NARROW NO-BREAK SPACE}", " ") == text


def test_thinning_keeps_the_ends_and_the_peaks():
    points = [(float(n), 0.0) for n in range(10_000)]
    points[1234], points[7777] = (1234.0, 9.0), (7777.0, -9.0)
    kept = charts.thinned(points)
    assert len(kept) < 1.1 * charts.MOST_POINTS
    assert {points[0], points[-1], points[1234], points[7777]} <= set(kept)
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    assert charts.thinned(points[:50]) == points[:50]


@pytest.mark.parametrize(("low", "high", "logarithmic"), [(0, 7.3, False), (0.003, 0.2, True), (90, 12_000, True)])
def test_ticks_lie_within_the_axis_and_are_round(low, high, logarithmic):
    ticks = charts.Axis(low, high, 0, 100, logarithmic).ticks()
    assert 3 <= len(ticks) <= 9 and all(low <= tick <= high for tick in ticks)
    assert all(float(f"{tick:.2g}") == pytest.approx(tick) for tick in ticks)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0"), (0.25, "0.25"), (2.5e-4, "2.5e-4"), (1234, "1,234"), (2.5e4, "25k"), (-3e6, "-3M"), (7.125, "7.125")],
)
def test_ticks_are_short(value, expected):
    assert charts.number(value) == expected


def test_equal_factors_are_equal_ways_on_a_logarithmic_axis():
    axis = charts.Axis(1, 100, 0, 300, logarithmic=True)
    assert axis(10) - axis(1) == pytest.approx(axis(100) - axis(10)) == pytest.approx(150)


def test_the_histogram_counts_every_value_once():
    picture = charts.histogram("h", "t", [0.0, 0.05, 0.95, 1.0, 1.04, 2.0, 9.0], "x")
    titles = re.findall(r"<title>([\d.]+ (?:to [\d.]+|and more): \d+)</title>", picture)
    counts = {title.partition(":")[0]: int(title.rpartition(" ")[2]) for title in titles}
    assert sum(counts.values()) == 7
    assert (counts["0.0 to 0.1"], counts["0.9 to 1.0"], counts["1.0 to 1.1"], counts["2 and more"]) == (2, 1, 2, 2)


def test_numbers_at_their_edges():
    space = "\N{NARROW NO-BREAK SPACE}"
    assert percent(0.0996) == f"10{space}%" and percent(0.0994) == f"9.9{space}%"
    assert millions(9.997e8) == f"1{space}B" and millions(9.99e8) == f"999{space}M"
    assert duration(59.97) == "1:00" and duration(59.9) == f"59.9{space}s"
    assert signed(0.001, 1) == signed(-0.001, 1) == "0.0"
