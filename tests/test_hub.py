"""A student goes to the Hub and comes back, with the real client and a server on this machine."""

import contextlib
import hashlib
import io
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from huggingface_hub import HfApi, ModelCard
from loopback_hub import OWNER, client_of, environment, loopback_hub
from tiny import SENTENCES, tiny_marian_model, tiny_marian_tokenizer

from hf_weight_distill import StudentShape, WeightDistiller
from hf_weight_distill.card import inherited_fields
from hf_weight_distill.cli import main
from hf_weight_distill.evaluation import Comparison, ComparisonRow
from hf_weight_distill.hub import check_student, push_folder

REPO = "someone/tiny-student"
PAIRS = Dataset.from_dict({"source": SENTENCES[:5], "target": SENTENCES[5:]})
# A stranger has Transformers and the card.
STRANGER = """
import io, json, re, sys
from contextlib import redirect_stdout
from pathlib import Path
sys.modules["hf_weight_distill"] = None
from huggingface_hub import hf_hub_download
found = []
for repo_id, revision in json.loads(sys.argv[1]):
    card = Path(hf_hub_download(repo_id, "README.md", revision=revision)).read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\\n(.*?)```", card, re.S)
    printed, names = io.StringIO(), {}
    with redirect_stdout(printed):
        exec(code, names)
    model, batch = names["model"], names["batch"]
    logits = model(**batch, decoder_input_ids=batch["input_ids"][:, :3]).logits
    found.append({"printed": printed.getvalue(), "logits": logits.tolist(), "class": type(model).__name__,
                  "beams": model.generation_config.num_beams})
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "teacher"
    tokenizer = tiny_marian_tokenizer(folder)
    model = tiny_marian_model(tokenizer)
    model.generation_config.num_beams = 3
    model.generation_config.max_length = 20
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    card = "---\nlicense: cc-by-4.0\nlanguage: [en, de]\nbase_model: someone/big\n---\n# Teacher\n"
    (folder / "README.md").write_text(card)
    return folder


@pytest.fixture
def distiller(teacher):
    return WeightDistiller.from_pretrained(teacher, student=StudentShape(decoder_layers=1))


@pytest.fixture(scope="module")
def folder(teacher):
    """A saved student."""
    folder = teacher.parent / "the student"
    distiller = WeightDistiller.from_pretrained(teacher, student=StudentShape(decoder_layers=1))
    rows = (ComparisonRow("bleu", 30.5, 29.25, 5), ComparisonRow("tokens_per_second", 10.0, 40.0, 5, 32, 0.1, 0.1))
    distiller.comparison = Comparison(rows, {"bleu": "nrefs:1"}, {"device": "cpu"}, 5, 5)
    distiller.save_pretrained(folder, dataset="wmt/wmt16:ro-en", eval_split="test")
    return folder


@pytest.fixture
def hub(tmp_path):
    with loopback_hub() as server, client_of(server, tmp_path / "home"):
        yield server
    assert not server.unknown, f"the client asked for what this hub does not know: {server.unknown}"


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- there and back --------------------------------------------------------------------------------------------------


def test_the_code_on_the_card_runs_for_a_stranger(hub, distiller, tmp_path):
    distiller.push_to_hub(REPO, example=SENTENCES[0])
    distiller.push_to_hub("someone/versions", example=SENTENCES[1], revision="v2")
    home = tmp_path / "home-of-a-stranger"
    wishes = json.dumps([(REPO, "main"), ("someone/versions", "v2")])
    command = [sys.executable, "-c", STRANGER, wishes]
    done = subprocess.run(command, env=environment(hub, home), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    for found, example in zip(json.loads(done.stdout.splitlines()[-1]), SENTENCES, strict=False):
        student, batch = distiller.student, distiller.tokenizer([example], return_tensors="pt")
        with torch.no_grad():
            logits = student(**batch, decoder_input_ids=batch["input_ids"][:, :3]).logits
        assert torch.equal(torch.tensor(found["logits"]), logits)
        assert student.generation_config.max_length is not None
        ids = student.generate(**batch)
        output = distiller.tokenizer.batch_decode(ids, skip_special_tokens=True)
        assert found["printed"] == f"{output}\n" and found["class"] == "MarianMTModel" and found["beams"] == 3
    assert f"GET /{REPO}/resolve/{hub.sha(REPO)}/model.safetensors" in hub.requests


def test_a_push_is_one_commit_of_what_was_saved_with_a_card_of_the_repository(hub, folder):
    before = content(folder)
    url = push_folder(folder, REPO)
    assert url == f"{hub.url}/{REPO}/commit/{hub.sha(REPO)}"
    assert sum("/commit/" in request for request in hub.requests) == 1
    pushed = dict(hub.repos[REPO])
    card = ModelCard(pushed.pop("README.md").decode())
    assert pushed == {name: data for name, data in before.items() if name != "README.md"}
    assert content(folder) == before and not hub.private
    assert card.text.startswith(f"\n# {REPO}\n") and f'name = "{REPO}"\n' in card.text
    assert card.data.model_name == "tiny-student" and card.data.eval_results[0].metric_value == 29.25
    assert card.data.license == "cc-by-4.0" and card.data.language == ["en", "de"]


def test_a_revision_is_a_branch_and_leaves_main_alone(hub, folder):
    push_folder(folder, REPO)
    main_files = dict(hub.repos[REPO])
    url = push_folder(folder, REPO, revision="v2")
    assert f"POST /api/models/{REPO}/branch/v2" in hub.requests
    assert hub.repos[REPO] == main_files and hub.sha(REPO, "v2") in url
    branch = hub.branches[REPO]["v2"]
    assert 'from_pretrained(name, revision="v2")' in branch["README.md"].decode()
    assert branch["model.safetensors"] == main_files["model.safetensors"]
    assert push_folder(folder, REPO, revision="v2").endswith(hub.sha(REPO, "v2"))  # the branch is there now


def test_a_private_student_is_seen_by_its_owner_alone(hub, folder):
    push_folder(folder, REPO, private=True)
    assert hub.private == {REPO} and HfApi().model_info(REPO).private
    assert not HfApi(token=False).repo_exists(REPO)
    push_folder(folder, REPO, private=True)  # into the private one that is there


def test_what_is_to_be_private_does_not_go_to_a_public_repository(hub, folder):
    HfApi().create_repo(REPO)
    with pytest.raises(OSError, match="exists and is public, so nothing was uploaded"):
        push_folder(folder, REPO, private=True)
    assert hub.repos[REPO] == {}


# --- what the Hub refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_, status, message",
    [
        ("POST /api/repos/create", 401, "401 .*; log in with `hf auth login`"),
        ("POST /api/repos/create", 403, "403 .*; use a token that may write there"),
        ("POST *preupload*", 403, "403 .*; use a token that may write there"),
        ("POST *branch*", 403, "403 .*; use a token that may write there"),
        ("POST *commit*", 413, "413 .*; it takes no files of this size"),
        ("POST *commit*", 429, "429 .*; wait before trying again"),
        ("POST *commit*", 500, "500 .*; the Hub is in trouble, try again later"),
        ("POST *commit*", 503, "503 .*; the Hub is in trouble, try again later"),
        ("POST *commit*", 0, "disconnected"),
    ],
)
def test_after_a_failure_nothing_is_lost_and_a_second_push_completes(hub, folder, request_, status, message):
    before = content(folder)
    hub.fail(request_, status, "no, said the loopback", times=1)
    with pytest.raises(OSError, match=message) as caught:
        push_folder(folder, REPO, revision="v2", private=True)
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"cannot push to {REPO}: ")
    assert f"Nothing is lost: the student is whole in {folder}, and " in line
    assert f"`hf-weight-distill push '{folder}' {REPO} --private --revision v2` pushes it" in line
    assert status == 0 or "no, said the loopback" in line
    assert content(folder) == before
    assert hub.branches.get(REPO, {}).get("v2", {}) == {}  # a commit is whole or not there
    push_folder(folder, REPO, revision="v2", private=True)
    assert set(hub.branches[REPO]["v2"]) == set(before)


def test_weights_that_did_not_arrive_are_sent_again_and_only_those(folder, tmp_path):
    with loopback_hub(large=("model.safetensors", "vocab.json")) as hub, client_of(hub, tmp_path / "home"):
        sent = {name: f"PUT /store/{hashlib.sha256(data).hexdigest()}" for name, data in content(folder).items()}
        hub.fail(sent["model.safetensors"], 403, "expired")
        message = "Error while uploading 'model.safetensors' to the Hub: the Hub answered 403 .expired."
        with pytest.raises(OSError, match=message):
            push_folder(folder, REPO)
        while not hub.store:  # the client sends several files at once and does not wait for the others
            time.sleep(0.01)
        assert hub.repos[REPO] == {}
        hub.requests.clear()
        push_folder(folder, REPO)
        assert [request for request in hub.requests if request.startswith("PUT ")] == [sent["model.safetensors"]]
        assert set(hub.repos[REPO]) == set(content(folder))
        assert hub.repos[REPO]["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_metadata_that_the_hub_rejects_are_named_before_anything_is_uploaded(hub, folder, tmp_path):
    broken = tmp_path / "student"
    broken.mkdir()
    for name, data in content(folder).items():
        (broken / name).write_bytes(data.replace(b"license: cc-by-4.0", b"license: 4"))
    with pytest.raises(OSError, match='Invalid metadata in README.md. - "license" must be a string'):
        push_folder(broken, REPO)
    assert hub.repos[REPO] == {}


def test_a_hub_that_is_not_there(folder, tmp_path):
    with loopback_hub() as hub:
        pass
    with client_of(hub, tmp_path), pytest.raises(OSError, match=f"cannot push to {REPO}: .*refused.*Nothing is lost"):
        push_folder(folder, REPO)


def test_names_that_no_repository_has_are_refused_before_the_student_is_written(distiller, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("a/b/c", "white space", "-"):
        with pytest.raises(ValueError, match=f"found '{name}', expected a name on the Hub"):
            distiller.push_to_hub(name)
    assert list(tmp_path.iterdir()) == []


def test_a_name_alone_is_a_repository_of_ones_own(hub, folder):
    for _ in range(2):  # made, and there already
        url = push_folder(folder, "small", revision="v2")
    assert url == f"{hub.url}/{OWNER}/small/commit/{hub.sha(f'{OWNER}/small', 'v2')}"
    card = hub.branches[f"{OWNER}/small"]["v2"]["README.md"].decode()
    assert f"# {OWNER}/small\n" in card and f'name = "{OWNER}/small"' in card
    hub.fail("POST *commit*", 500)
    with pytest.raises(OSError, match=f"`hf-weight-distill push .* {OWNER}/small` pushes it"):
        push_folder(folder, "small")


def test_a_card_that_was_edited_into_no_yaml_is_named(folder, tmp_path):
    for name, data in content(folder).items():
        (tmp_path / name).write_bytes(data.replace(b"license: cc-by-4.0", b"license: [cc-by-4.0"))
    with pytest.raises(ValueError, match="README.md: its metadata are no YAML .*: mend them"):
        push_folder(tmp_path, REPO)


def test_a_distiller_whose_push_fails_leaves_the_student_where_the_command_line_finds_it(hub, distiller, tmp_path):
    distiller._run = tmp_path / "run"
    distiller._run.mkdir()
    hub.fail("POST *commit*", 500)
    with pytest.raises(OSError, match="pushes it$") as caught:
        distiller.push_to_hub(REPO)
    (kept,) = distiller._run.iterdir()
    check_student(kept)
    command = re.search(r"`hf-weight-distill (push .*?)`", str(caught.value))[1].split()
    out, err = io.StringIO(), io.StringIO()
    hub.fail("POST *commit*", 403)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        assert [main(command), main(command)] == [2, 0]  # refused, then done
    (line,) = err.getvalue().splitlines()
    assert line.startswith(f"hf-weight-distill push: error: cannot push to {REPO}: the Hub answered 403")
    assert out.getvalue() == f"{hub.url}/{REPO}/commit/{hub.sha(REPO)}\n"
    assert set(hub.repos[REPO]) == {path.name for path in kept.iterdir()}
    distiller.push_to_hub(REPO)
    assert list(distiller._run.iterdir()) == [kept]  # what arrived is not kept


def test_a_student_of_many_files_is_whole_with_all_of_them(folder, tmp_path):
    for name, data in content(folder).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="model-2.safetensors missing"):
        push_folder(tmp_path, REPO)
    (tmp_path / "model-2.safetensors").touch()
    check_student(tmp_path)


# --- the card's metadata ---------------------------------------------------------------------------------------------


def test_the_client_validates_the_card(hub, folder):
    card = ModelCard.load(folder / "README.md")
    card.validate()
    assert hub.requests == ["POST /api/validate-yaml"]
    card.data.base_model_relation = "child"
    with pytest.raises(ValueError, match="base_model_relation"):
        card.validate()


def test_a_teacher_on_the_hub_passes_on_its_licence(hub, teacher, tmp_path):
    text = "---\nlicense: other\nlicense_name: research\nlicense_link: LICENSE.md\nlanguage: en\n---\n# Big\n"
    old = b"---\nlicense: mit\n---\n"
    hub.branches["someone/big"] = {"main": {"README.md": text.encode()}, "old": {"README.md": old}}
    link = "https://huggingface.co/someone/big/blob/main/LICENSE.md"
    found = {"teacher_license": "other", "license_name": "research", "license_link": link, "languages": ("en",)}
    assert inherited_fields("someone/big") == found
    assert inherited_fields("someone/big", "old") == {"teacher_license": "mit"}
    distiller = WeightDistiller.from_pretrained(teacher, student=StudentShape(decoder_layers=1))
    distiller.teacher.name_or_path = "someone/big"
    distiller.save_pretrained(tmp_path / "student")
    card = ModelCard.load(tmp_path / "student" / "README.md")
    card.validate()
    assert (card.data.license, card.data["license_name"], card.data.base_model) == ("other", "research", "someone/big")
    assert f"[research]({link}), inherited from the teacher" in card.text
    with pytest.warns(UserWarning, match="license='mit', but the card of the teacher"):
        distiller.save_pretrained(tmp_path / "mine", license="mit")
    card = ModelCard.load(tmp_path / "mine" / "README.md")
    assert "`mit`. The weights are derived from the teacher's, whose card says `other`" in card.text
    assert card.data.license == "mit" and link not in card.text


def test_a_teacher_without_a_card_or_out_of_reach_costs_nothing(hub, tmp_path):
    hub.branches["someone/bare"] = {"main": {}}
    assert inherited_fields("someone/bare") == inherited_fields("someone/nowhere") == {}
    hub.fail("*", 403, times=9)
    assert inherited_fields("someone/bare") == {}


def test_a_student_in_the_working_directory_has_its_name(hub, distiller, tmp_path, monkeypatch):
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path / "small")
    distiller.save_pretrained(".")
    assert ModelCard.load("README.md").text.lstrip().startswith("# small\n")
    assert main(["push", ".", "me/small"]) == 0
    assert b"\n# me/small\n" in hub.branches["me/small"]["main"]["README.md"]


# --- the documentation -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_the_documentation_runs(hub, distiller, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs" / "hub.md").read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.S):
        exec(block, {"distiller": distiller})
    for line in "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.S)).splitlines():
        program, *arguments = line.split()
        assert program == "hf-weight-distill" and main(arguments) == 0, line
    assert {"me/opus-mt-en-ro-6-1"} == set(hub.repos) and "v2" in hub.branches["me/opus-mt-en-ro-6-1"]
