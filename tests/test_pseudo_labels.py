"""The teacher's translations stand beside the right sources, and an interruption costs no more than a shard."""

import copy
import json
import random
import shutil

import datasets
import pytest
import torch
from tiny import SENTENCES, tiny_marian_model, tiny_marian_tokenizer
from transformers import AutoTokenizer

from hf_weight_distill.teachers.pseudo_labels import generate_pseudo_labels, teacher_pairs
from hf_weight_distill.teachers.resumable import teacher_fingerprint

OPTIONS = {"num_beams": 2, "batch_size": 2, "max_target_length": 10, "shard_size": 4, "progress": False}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny_marian_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def teacher(tokenizer):
    return tiny_marian_model(tokenizer)


def make_pairs(sources=SENTENCES):
    return datasets.Dataset.from_dict({"source": list(sources), "target": [f"gold {text}" for text in sources]})


@pytest.fixture
def pairs():
    return make_pairs()


def test_sources_that_the_teacher_left_unanswered_are_counted():
    columns = {"source": ["a", "b", "c"], "target": ["x", "y", "z"], "teacher_target": ["A", " ", ""]}
    with pytest.warns(UserWarning, match="the teacher left 2 of 3 sources unanswered"):
        kept = teacher_pairs(datasets.Dataset.from_dict(columns))
    assert kept[:] == {"source": ["a"], "target": ["A"]}
    nothing = datasets.Dataset.from_dict(columns | {"teacher_target": [""] * 3})
    with pytest.raises(ValueError, match="the teacher answered none of 3 sources: check its languages"):
        teacher_pairs(nothing)


class Interrupted(RuntimeError):
    """The plug was pulled."""


def count_generate(teacher, monkeypatch, fail_at=None):
    """Count the calls of generate; the call number `fail_at` (from 0) raises."""
    calls = []
    generate = teacher.generate

    def wrapped(**options):
        if len(calls) == fail_at:
            raise Interrupted
        calls.append(options)
        return generate(**options)

    monkeypatch.setattr(teacher, "generate", wrapped)
    return calls


def alone(teacher, tokenizer, source, **options):
    settings = {"num_beams": 2, "length_penalty": 1.0, "max_new_tokens": 10, "max_length": None, **options}
    ids = teacher.generate(**tokenizer(source, return_tensors="pt"), **settings)
    return tokenizer.batch_decode(ids, skip_special_tokens=True)[0]


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_source_keeps_its_own_translation(teacher, tokenizer, tmp_path):
    sources = [*SENTENCES, "a", "the cat", "Hunde"]
    random.Random(3).shuffle(sources)
    labelled = generate_pseudo_labels(teacher, tokenizer, make_pairs(sources), tmp_path / "labels", **OPTIONS)
    assert labelled.column_names == ["source", "target", "teacher_target"]
    assert labelled["source"][:] == sources
    assert labelled["target"][:] == [f"gold {text}" for text in sources]
    assert labelled["teacher_target"][:] == [alone(teacher, tokenizer, text) for text in sources]
    assert len(set(labelled["teacher_target"])) > len(sources) // 2, "the test needs translations that differ"


def test_labels_of_another_tokenizer_of_the_same_size_are_refused(teacher, tokenizer, pairs, tmp_path):
    generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path / "labels", **OPTIONS)
    tokenizer.save_pretrained(tmp_path / "other")
    file = tmp_path / "other" / "vocab.json"
    pieces = json.loads(file.read_text())
    one, two = [piece for piece in pieces if len(piece) == 1][:2]
    pieces[one], pieces[two] = pieces[two], pieces[one]
    file.write_text(json.dumps(pieces))
    other = AutoTokenizer.from_pretrained(tmp_path / "other")
    assert len(other) == len(tokenizer)
    with pytest.raises(ValueError, match="fingerprint"):
        generate_pseudo_labels(teacher, other, pairs, tmp_path / "labels", **OPTIONS)


def test_a_selection_of_another_data_set_is_read_in_its_own_order(teacher, tokenizer, tmp_path, pairs):
    extra = pairs.add_column("id", list(range(len(pairs)))).shuffle(seed=1).select(range(5))
    labelled = generate_pseudo_labels(teacher, tokenizer, extra, tmp_path / "labels", **OPTIONS)
    assert labelled["source"][:] == extra["source"][:]
    assert labelled["teacher_target"][:] == [alone(teacher, tokenizer, text) for text in extra["source"]]


def test_an_interrupted_run_goes_on_at_the_first_missing_shard(teacher, tokenizer, pairs, tmp_path, monkeypatch):
    whole = generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path / "whole", **OPTIONS)
    # 10 sentences, 4 a shard, 2 a batch: 2 + 2 + 1 calls. The fourth call, inside the second shard, fails.
    with monkeypatch.context() as patch:
        calls = count_generate(teacher, patch, fail_at=3)
        with pytest.raises(Interrupted):
            generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path / "labels", **OPTIONS)
        assert len(calls) == 3
    assert [path.name for path in (tmp_path / "labels" / "shards").iterdir()] == ["00000.json"]
    assert not (tmp_path / "labels" / "dataset").exists()

    calls = count_generate(teacher, monkeypatch)
    resumed = generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path / "labels", **OPTIONS)
    assert len(calls) == 3
    assert resumed[:] == whole[:]


def test_a_finished_folder_needs_no_teacher(teacher, tokenizer, pairs, tmp_path, monkeypatch):
    first = generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)
    before = files(tmp_path)
    calls = count_generate(teacher, monkeypatch)
    again = generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)
    assert calls == [] and again[:] == first[:] and files(tmp_path) == before
    shutil.rmtree(tmp_path / "shards")
    assert generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)[:] == first[:]
    assert calls == [], "the finished data set is enough"
    assert datasets.load_from_disk(str(tmp_path / "dataset"))[:] == first[:]


def test_another_shard_size_or_batch_size_is_no_reason_to_refuse(teacher, tokenizer, pairs, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        count_generate(teacher, patch, fail_at=3)
        generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)
    calls = count_generate(teacher, monkeypatch)
    options = {**OPTIONS, "shard_size": 7, "batch_size": 4}
    labelled = generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **options)
    assert [call["input_ids"].shape[0] for call in calls] == [4, 2]
    assert labelled["source"][:] == pairs["source"][:]


@pytest.mark.parametrize("damage", ["", "{}", "[]"])
def test_a_damaged_data_set_is_put_together_again(teacher, tokenizer, pairs, tmp_path, monkeypatch, damage):
    first = generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)[:]
    (tmp_path / "dataset" / "state.json").write_text(damage)
    calls = count_generate(teacher, monkeypatch)
    assert generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)[:] == first
    assert not calls


@pytest.mark.parametrize("damage", ["", "{", '{"sha256": "0", "teacher_target": ["a", "b", "c", "d"]}', "[]", "edited"])
def test_a_damaged_shard_is_generated_again(teacher, tokenizer, pairs, tmp_path, monkeypatch, caplog, damage):
    first = generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)[:]
    (tmp_path / "dataset" / "state.json").unlink()
    shard = tmp_path / "shards" / "00001.json"
    good = shard.read_text(encoding="utf-8")
    content = json.loads(good)
    content["teacher_target"][0] += " and more"
    shard.write_text(json.dumps(content) if damage == "edited" else damage, encoding="utf-8")
    calls = count_generate(teacher, monkeypatch)
    assert generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)[:] == first
    assert len(calls) == 2
    assert shard.read_text(encoding="utf-8") == good
    assert "00001.json is damaged" in caplog.text


def test_a_shard_is_written_whole_or_not_at_all(teacher, tokenizer, pairs, tmp_path, monkeypatch):
    def no_replace(*_):
        raise Interrupted

    generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)
    (tmp_path / "shards" / "00000.json").unlink()
    (tmp_path / "dataset" / "state.json").unlink()
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("hf_weight_distill.teachers.pseudo_labels.os.replace", no_replace)
        generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)
    assert not (tmp_path / "shards" / "00000.json").exists()
    assert len(generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)) == len(pairs)


@pytest.mark.parametrize(
    ("change", "found", "asked"),
    [
        ({"num_beams": 3}, "num_beams: found 2", "asked 3"),
        ({"length_penalty": 0.5}, "length_penalty: found 1.0", "asked 0.5"),
        ({"max_source_length": 9}, "max_source_length: found 128", "asked 9"),
        ({"max_target_length": 9}, "max_target_length: found 10", "asked 9"),
        ({"prefix": "translate: "}, "prefix: found ''", "asked 'translate: '"),
    ],
)
def test_another_search_is_refused(teacher, tokenizer, pairs, tmp_path, change, found, asked):
    generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)
    before = files(tmp_path)
    with pytest.raises(ValueError, match="choose another folder, or delete this one") as error:
        generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **{**OPTIONS, **change})
    assert f"{found}, {asked}" in str(error.value)
    assert str(error.value).count(": found ") == 1
    assert files(tmp_path) == before


def test_every_difference_is_named(teacher, tokenizer, pairs, tmp_path):
    generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)
    other = copy.deepcopy(teacher)
    other.name_or_path = "someone/else"
    with torch.no_grad():
        other.model.decoder.layers[1].fc1.weight[0, 0] += 1e-6
    other.generation_config.forced_bos_token_id = 7
    with pytest.raises(ValueError) as error:
        generate_pseudo_labels(other, tokenizer, pairs.select(range(9)), tmp_path, **{**OPTIONS, "num_beams": 4})
    named = [line.split(":")[0].strip() for line in str(error.value).splitlines() if ": found " in line]
    assert named == [
        "teacher", "teacher_fingerprint", "generation_config", "num_beams", "sentences", "source_fingerprint",
        "target_fingerprint",
    ]  # fmt: skip
    assert "asked 'someone/else'" in str(error.value)


def test_the_same_teacher_under_another_name_is_welcome(teacher, tokenizer, pairs, tmp_path, monkeypatch):
    generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path / "labels", **OPTIONS)
    teacher.save_pretrained(tmp_path / "saved")
    moved = type(teacher).from_pretrained(tmp_path / "saved")
    calls = count_generate(moved, monkeypatch)
    generate_pseudo_labels(moved, tokenizer, pairs, tmp_path / "labels", **OPTIONS)
    assert calls == []


def test_greedy_labels_are_welcome_under_any_length_penalty(teacher, tokenizer, pairs, tmp_path, monkeypatch):
    greedy = {**OPTIONS, "num_beams": 1}
    generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **greedy)
    calls = count_generate(teacher, monkeypatch)
    generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **greedy, length_penalty=0.5)
    assert calls == []


def test_changed_gold_or_order_is_refused(teacher, tokenizer, pairs, tmp_path):
    generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)
    with pytest.raises(ValueError, match="source_fingerprint: found"):
        generate_pseudo_labels(teacher, tokenizer, pairs.select(range(9, -1, -1)), tmp_path, **OPTIONS)
    gold = pairs.map(lambda row: {"target": row["target"] + "!"}, keep_in_memory=True)
    with pytest.raises(ValueError, match="target_fingerprint: found") as error:
        generate_pseudo_labels(teacher, tokenizer, gold, tmp_path, **OPTIONS)
    assert "source_fingerprint" not in str(error.value)


def test_labels_without_provenance_are_refused(teacher, tokenizer, pairs, tmp_path):
    generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)
    (tmp_path / "provenance.json").unlink()
    with pytest.raises(ValueError, match="nobody knows which teacher"):
        generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)


def test_provenance_tells_how_the_labels_were_made(teacher, tokenizer, pairs, tmp_path):
    import transformers

    teacher.name_or_path = "someone/teacher"
    teacher.config._commit_hash = "abc123"
    teacher.generation_config.early_stopping = True
    generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)
    content = json.loads((tmp_path / "provenance.json").read_text())
    assert content["teacher"] == "someone/teacher"
    assert content["teacher_revision"] == "abc123"
    assert content["teacher_fingerprint"] == teacher_fingerprint(teacher)
    assert (content["num_beams"], content["length_penalty"], content["prefix"]) == (2, 1.0, "")
    assert (content["max_source_length"], content["max_target_length"]) == (128, 10)
    assert (content["sentences"], content["shard_size"]) == (10, 4)
    assert content["generation_config"]["bad_words_ids"] == [[tokenizer.pad_token_id]]
    assert content["generation_config"]["early_stopping"] is True
    assert "num_beams" not in content["generation_config"]
    assert content["versions"]["transformers"] == transformers.__version__
    assert len(content["source_fingerprint"]) == len(content["target_fingerprint"]) == 64


def test_the_asked_beams_rule_and_the_other_settings_stay(teacher, tokenizer, pairs, tmp_path, monkeypatch):
    teacher.generation_config.num_beams = 5
    teacher.generation_config.max_length = 3
    teacher.generation_config.do_sample = True
    forced = tokenizer.convert_tokens_to_ids("▁")
    teacher.generation_config.forced_bos_token_id = forced
    outputs = []
    generate = teacher.generate
    monkeypatch.setattr(teacher, "generate", lambda **options: outputs.append(generate(**options)) or outputs[-1])
    labelled = generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS)
    assert all((ids[:, 1] == forced).all() for ids in outputs)
    assert max(ids.shape[1] for ids in outputs) > 3
    expected = [alone(teacher, tokenizer, text, num_beams=2, do_sample=False) for text in pairs["source"]]
    assert labelled["teacher_target"][:] == expected
    assert teacher.generation_config.num_beams == 5


def test_bad_words_stay_out(teacher, tokenizer, pairs, tmp_path):
    free = generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path / "free", **OPTIONS)
    common = tokenizer(text_target=free["teacher_target"][0])["input_ids"][0]
    teacher.generation_config.bad_words_ids = [[tokenizer.pad_token_id], [common]]
    held = generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path / "held", **OPTIONS)
    assert held["teacher_target"][:] != free["teacher_target"][:]
    assert held["teacher_target"][0] == alone(teacher, tokenizer, pairs["source"][0])


def test_the_prefix_goes_to_the_teacher_only(teacher, tokenizer, pairs, tmp_path):
    labelled = generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **OPTIONS, prefix="the day ")
    assert labelled["source"][:] == pairs["source"][:]
    assert labelled["teacher_target"][:] == [alone(teacher, tokenizer, "the day " + text) for text in pairs["source"]]


def test_greedy_search_and_short_sources(teacher, tokenizer, pairs, tmp_path):
    options = {**OPTIONS, "num_beams": 1, "max_source_length": 4}
    labelled = generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **options)
    batch = tokenizer(pairs["source"][0], return_tensors="pt", truncation=True, max_length=4)
    ids = teacher.generate(**batch, num_beams=1, max_new_tokens=10, max_length=None)
    assert labelled["teacher_target"][0] == tokenizer.batch_decode(ids, skip_special_tokens=True)[0]


def test_the_teacher_is_left_as_it_was(teacher, tokenizer, pairs, tmp_path):
    teacher.train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path / "training", **OPTIONS)
    assert all(module.training for module in teacher.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    teacher.eval()
    calm = generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path / "evaluation", **OPTIONS)
    assert datasets.load_from_disk(str(tmp_path / "training" / "dataset"))[:] == calm[:], "dropout was on"


def test_the_fingerprint_sees_weights_and_architecture_only(tokenizer, teacher):
    base = teacher_fingerprint(teacher)
    assert teacher_fingerprint(copy.deepcopy(teacher)) == base
    assert teacher_fingerprint(tiny_marian_model(tokenizer, seed=1)) != base
    assert teacher_fingerprint(copy.deepcopy(teacher).to(torch.bfloat16)) != base
    swapped = copy.deepcopy(teacher)
    row = swapped.model.shared.weight.data
    row[[3, 4]] = row[[4, 3]]  # the sum stays the same
    assert teacher_fingerprint(swapped) != base
    other_heads = copy.deepcopy(teacher)
    other_heads.config.decoder_attention_heads = 4
    assert teacher_fingerprint(other_heads) != base


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"source": ["a"], "text": ["b"]}, r"found the columns \['source', 'text'\], expected 'source' and 'target'"),
        ({"source": [], "target": []}, "found 0 pairs"),
        ({"source": ["a", None], "target": ["b", "c"]}, "row 1 of column 'source' is NoneType"),
    ],
)
def test_data_that_cannot_be_used_is_refused(teacher, tokenizer, tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        generate_pseudo_labels(teacher, tokenizer, datasets.Dataset.from_dict(columns), tmp_path / "new", **OPTIONS)
    assert not (tmp_path / "new").exists()


def test_lengths_beyond_the_positions_are_refused(teacher, tokenizer, pairs, tmp_path):
    with pytest.raises(ValueError, match=r"the teacher has 160 positions.*use at most 160"):
        generate_pseudo_labels(teacher, tokenizer, pairs, tmp_path, **{**OPTIONS, "max_target_length": 161})
