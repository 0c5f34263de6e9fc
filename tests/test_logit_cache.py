"""A cached teacher teaches what the live one does, up to what was cut off and to rounding; a wrong one is refused."""

import copy
import json
import math
import os
import pickle
import re
import shlex
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from models import BART_LIKE, tiny_teacher
from tiny import SENTENCES, tiny_marian_model, tiny_marian_tokenizer
from training import arguments, random_features
from transformers import MarianConfig, MarianMTModel
from transformers.modeling_outputs import Seq2SeqLMOutput

from hf_weight_distill import RECIPES, StudentShape, WeightDistillConfig, WeightDistiller, build_plan
from hf_weight_distill import data as data_module
from hf_weight_distill.cli import main
from hf_weight_distill.corpus import built_in_corpus
from hf_weight_distill.data import PlainCollator, tokenize_pairs
from hf_weight_distill.model import WeightDistillModel
from hf_weight_distill.objectives import KLDivergence, build_objectives
from hf_weight_distill.starts import teacher_start
from hf_weight_distill.teachers import logit_cache
from hf_weight_distill.teachers.logit_cache import build_teacher_cache
from hf_weight_distill.top_k import TopKDistribution, lump
from hf_weight_distill.trainer import WeightDistillTrainer

VOCAB = 40
COLLATE = PlainCollator(VOCAB - 1)
OPTIONS = {"data_collator": COLLATE, "batch_size": 3, "shard_size": 4, "progress": False}


@pytest.fixture
def teacher():
    return tiny_teacher("marian")


@pytest.fixture
def features():
    return random_features(10)


def build(teacher, features, folder, **options):
    return build_teacher_cache(teacher, features, folder, **OPTIONS | {"top_k": 5} | options)


def logits_of(rows, seed, scale=2.0):
    return scale * torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed))


def count_forwards(teacher, monkeypatch):
    calls = []
    forward = teacher.forward
    monkeypatch.setattr(teacher, "forward", lambda **batch: calls.append(batch) or forward(**batch))
    return calls


# --- the divergence over k tokens and the rest -----------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("k", [1, 7, VOCAB])
def test_the_divergence_is_the_naive_loop(k, temperature):
    labels = torch.tensor([[3, 1, -100], [0, 2, 4]])
    p_logits, q_logits = (logits_of(6, seed).view(2, 3, VOCAB) for seed in (1, 2))
    kept = labels != -100
    ids = p_logits[kept].topk(k).indices
    total = 0.0
    for z_p, z_q, tokens in zip(p_logits[kept].tolist(), q_logits[kept].tolist(), ids.tolist(), strict=True):
        p, q = ([math.exp(x / temperature) for x in z] for z in (z_p, z_q))
        p, q = ([x / sum(values) for x in values] for values in (p, q))
        total += sum(p[v] * math.log(p[v] / q[v]) for v in tokens)
        rest_p, rest_q = (sum(x for v, x in enumerate(values) if v not in tokens) for values in (p, q))
        total += rest_p * math.log(rest_p / rest_q) if rest_p else 0.0
    cached = TopKDistribution(lump(p_logits[kept] / temperature, ids), ids, temperature)
    found = KLDivergence(temperature)(Seq2SeqLMOutput(logits=q_logits), cached, labels)
    assert found.item() == pytest.approx(temperature**2 * total, rel=1e-5)


def divergence(z_q, z_p, k=None):
    labels = torch.zeros(1, len(z_p), dtype=torch.long)
    ids = z_p.topk(k or VOCAB).indices
    teacher = Seq2SeqLMOutput(logits=z_p[None]) if k is None else TopKDistribution(lump(z_p, ids), ids)
    return KLDivergence()(Seq2SeqLMOutput(logits=z_q[None]), teacher, labels)


def test_with_the_whole_vocabulary_it_is_the_live_divergence_and_its_gradient():
    z_p, z_q = logits_of(50, 1), logits_of(50, 2).requires_grad_()
    live, cached = divergence(z_q, z_p), divergence(z_q, z_p, VOCAB)
    torch.testing.assert_close(cached, live, rtol=1e-6, atol=0)
    gradients = [torch.autograd.grad(value, z_q)[0] for value in (live, cached)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)


def test_lumping_loses_information_and_never_gains_any():
    """The data-processing inequality, for every k against the next."""
    for seed in range(20):
        z_p, z_q = logits_of(1, seed), logits_of(1, seed + 100)
        values = [divergence(z_q, z_p, k).item() for k in range(1, VOCAB + 1)]
        assert all(a <= b + 1e-5 for a, b in zip(values, values[1:], strict=False))
        assert 0 <= values[0] < values[-1] - 0.1


def test_the_rest_keeps_its_digits_where_the_kept_are_nearly_all():
    z = torch.full((1, VOCAB), -30.0)
    z[0, 3] = 10.0
    z.requires_grad_()
    log_q = lump(z, torch.tensor([[3]]))
    exact = math.log((VOCAB - 1) * math.exp(-40.0))  # 1 - q is 0 in float32
    assert log_q[0, 1].item() == pytest.approx(exact, rel=1e-6)
    assert torch.isfinite(torch.autograd.grad(log_q.sum(), z)[0]).all()


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("family", ["marian", "t5", "m2m_100"])
def test_every_label_token_has_the_teachers_distribution(family, temperature, tmp_path):
    """Against the teacher on one sentence at a time, without padding; a label may be masked in the middle."""
    teacher, rows = tiny_teacher(family), random_features(10).to_list()
    rows[4]["labels"][1] = -100
    features = datasets.Dataset.from_list(rows)
    collate = PlainCollator(teacher.config.pad_token_id)
    teacher.train()  # with dropout, if it were left on
    teacher.config.dropout = 0.5
    cache = build(teacher, features, tmp_path, data_collator=collate, temperature=temperature)
    assert teacher.training
    teacher.eval()
    batch = cache.collator(collate)(cache.attach(features).to_list())
    found = cache.distribution(batch["teacher"])
    expected = []
    for row in rows:
        with torch.no_grad():
            logits = teacher(**{name: torch.tensor([value]) for name, value in row.items()}).logits[0]
        expected.append(torch.log_softmax(logits[torch.tensor(row["labels"]) != -100] / temperature, -1))
    log_p = torch.cat(expected)
    assert found.temperature == temperature and len(log_p) == cache.summary()["label_tokens"]
    values, ids = log_p.topk(5)
    assert torch.equal(found.token_ids, ids)
    torch.testing.assert_close(found.log_probs[:, :5], values, rtol=2e-3, atol=2e-3)
    rest = 1 - values.exp().sum(-1)
    torch.testing.assert_close(found.log_probs[:, 5].exp(), rest, rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(found.log_probs.exp().sum(-1), torch.ones(len(log_p)))
    assert cache.summary()["kept"] == pytest.approx(1 - rest.mean().item(), abs=1e-3)


def test_targets_may_have_a_larger_vocabulary_than_sources(tmp_path):
    """Its size decides how ids are kept: 16 bits would hold those of the 40 source tokens alone."""
    separate = {"share_encoder_decoder_embeddings": False, "tie_word_embeddings": False, "decoder_vocab_size": 66_000}
    teacher = MarianMTModel(MarianConfig(**BART_LIKE | separate | {"encoder_layers": 1, "decoder_layers": 1})).eval()
    teacher.final_logits_bias[0, 65_600:] = 20
    row = {"input_ids": [3, 4, 5, 0], "attention_mask": [1] * 4, "labels": [65_990, 65_991, 7, 0]}
    features, collate = datasets.Dataset.from_list([row] * 2), PlainCollator(teacher.config.pad_token_id)
    cache = build(teacher, features, tmp_path, data_collator=collate, top_k=50)
    batch = cache.collator(collate)(cache.attach(features).to_list())
    found = cache.distribution(batch.pop("teacher"))
    with torch.no_grad():
        expected = teacher(**batch).logits.flatten(0, 1).topk(50).indices
    assert torch.equal(found.token_ids, expected) and expected.max() > 65_600


@pytest.mark.parametrize("k, vocabulary, size", [(16, 40_000, 66), (16, 2**16, 66), (16, 2**16 + 1, 98), (8, 8, 32)])
def test_bytes_per_token(k, vocabulary, size):
    record = logit_cache._record(k, vocabulary)
    assert record.itemsize == size
    assert np.iinfo(record["token_ids"].base).max >= vocabulary - 1


def test_the_cache_is_memory_mapped_and_cheap_to_hand_to_a_worker(teacher, tmp_path):
    features = random_features(200)
    cache = build(teacher, features, tmp_path, batch_size=64, shard_size=128, top_k=30)
    size = sum(path.stat().st_size for path in (tmp_path / "shards").iterdir())
    assert size < 1.1 * cache.summary()["label_tokens"] * (30 * 2 + 31 * 2) + 2000
    assert {Path(file["filename"]).parent for file in cache.rows.cache_files} == {tmp_path / "shards"}
    assert len(pickle.dumps(cache)) < size / 10
    assert pickle.loads(pickle.dumps(cache)).rows[7] == cache.rows[7]


# --- training --------------------------------------------------------------------------------------------------------


def history(teacher, source, phase, folder, **args):
    """Log history and final weights of a run taught by `source`."""
    torch.manual_seed(0)
    plan = build_plan(teacher, StudentShape(decoder_layers=1, d_model=8, attention_heads=2))
    model = WeightDistillModel(plan, teacher, teacher_start(plan, teacher))
    trainer = WeightDistillTrainer(
        model if phase == "generator" else model.materialize(),
        args=arguments(folder, **args),
        objectives=build_objectives({"kl": 1.0, "cross_entropy": 0.5}, temperature=2.0),
        teacher=source,
        train_dataset=random_features(),
        eval_dataset=random_features(8, seed=3),
        data_collator=COLLATE,
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    rows = [row for row in trainer.state.log_history if "kl" in row]
    return before, [row["kl"] for row in rows], trainer


@pytest.mark.parametrize(
    "phase, args, bits",
    [
        ("generator", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, 16),
        ("finetune", {"max_tokens_per_batch": 56}, 16),
        ("generator", {"max_tokens_per_batch": 48}, 32),
        ("finetune", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}, 32),
    ],
)
def test_training_on_the_whole_vocabulary_is_training_with_the_live_teacher(
    phase, args, bits, teacher, tmp_path, monkeypatch
):
    """16 bits are what is stored; with 32 nothing is left to tell the two apart."""
    if bits == 32:
        record = [("token_ids", "<u2", (VOCAB,)), ("log_probs", "<f4", (VOCAB,))]
        monkeypatch.setattr(logit_cache, "_record", lambda *_: np.dtype(record))
    args = {"max_steps": 6, **args}
    before, live, _ = history(teacher, teacher, phase, tmp_path / "live", **args)
    cache = build(teacher, random_features(), tmp_path / "cache", top_k=VOCAB, temperature=2.0)
    monkeypatch.setattr(teacher, "forward", None)  # nobody needs it any more
    cached_before, cached, trainer = history(teacher, cache, phase, tmp_path / "cached", **args)
    assert len(live) == 6 and live[0] > 0.02
    assert cached == pytest.approx(live, rel=1e-3 if bits == 16 else 1e-5)
    assert cached_before == before and trainer.teacher is None


def test_a_phase_that_asks_for_no_teacher_reads_no_cache(teacher, features, tmp_path):
    cache = build(teacher, features, tmp_path / "cache")
    model = WeightDistillModel(plan := build_plan(teacher, StudentShape()), teacher, teacher_start(plan, teacher))
    objectives = build_objectives({"cross_entropy": 1.0})
    data = {"train_dataset": features, "data_collator": COLLATE}
    trainer = WeightDistillTrainer(
        model, args=arguments(tmp_path, max_steps=1), objectives=objectives, teacher=cache, **data
    )
    trainer.train()
    assert trainer.train_dataset is features and trainer.teacher_cache is None


@pytest.mark.parametrize(
    "objectives, options, message",
    [
        ({"cross_correlation": 1.0}, {}, "cross_correlation needs the teacher's hidden_states, and a teacher cache"),
        ({"kl": 1.0}, {"temperature": 3.0}, "at temperature 1.0 and the objective kl at 3.0"),
    ],
)
def test_objectives_that_a_cache_cannot_serve_are_refused(objectives, options, message, teacher, features, tmp_path):
    cache = build(teacher, features, tmp_path / "cache")
    options = {"args": arguments(tmp_path), "objectives": build_objectives(objectives, **options)}
    with pytest.raises(ValueError, match=message):
        WeightDistillTrainer(
            copy.deepcopy(teacher), teacher=cache, train_dataset=features, data_collator=COLLATE, **options
        )


def test_a_cache_of_other_features_is_refused(teacher, features, tmp_path):
    cache = build(teacher, features, tmp_path)
    assert len(cache.attach(features.select(range(10)))) == 10
    with pytest.raises(ValueError, match=r"source and target differ, 10 rows found, 10 expected"):
        cache.attach(features.select(range(9, -1, -1)))
    changed = features.map(lambda row: {"labels": [5, *row["labels"][1:]]}, keep_in_memory=True)
    with pytest.raises(ValueError, match=r"\(target differ"):
        cache.attach(changed)


# --- written once, resumed, refused ----------------------------------------------------------------------------------


def test_a_finished_cache_needs_no_teacher(teacher, features, tmp_path, monkeypatch):
    first = build(teacher, features, tmp_path)
    calls = count_forwards(teacher, monkeypatch)
    monkeypatch.setattr(teacher, "to", None)  # nor a place for it
    again = build(teacher, features, tmp_path, batch_size=7, shard_size=3, device="cuda:7")
    assert calls == [] and again.rows[:] == first.rows[:]


def test_a_killed_run_goes_on_at_the_first_missing_shard(teacher, features, tmp_path, monkeypatch):
    """The process dies by SIGKILL while it writes the second of three shards."""
    whole = build(teacher, features, tmp_path / "whole")
    pid = os.fork()
    if pid == 0:
        synced = []
        write = os.fsync
        # provenance, first shard, second shard
        os.fsync = lambda file: synced.append(file) or (write(file) if len(synced) < 3 else os.kill(os.getpid(), 9))
        build(teacher, features, tmp_path / "killed")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    left = {path.name for path in (tmp_path / "killed" / "shards").iterdir()}
    assert {name.partition(".tmp")[0] for name in left} == {"00000.arrow", "00001.arrow"}
    assert "00001.arrow" not in left
    calls = count_forwards(teacher, monkeypatch)
    resumed = build(teacher, features, tmp_path / "killed")
    assert sum(len(call["labels"]) for call in calls) == 6
    assert resumed.rows[:] == whole.rows[:]


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_shard_is_written_again(teacher, features, tmp_path, monkeypatch, caplog, damage):
    first = build(teacher, features, tmp_path).rows[:]
    shard = tmp_path / "shards" / "00001.arrow"
    good = shard.read_bytes()
    other = (tmp_path / "shards" / "00002.arrow").read_bytes()
    shard.unlink()
    shard.write_bytes({"cut": good[: len(good) // 2], "empty": b"", "other": other}[damage])
    calls = count_forwards(teacher, monkeypatch)
    assert build(teacher, features, tmp_path).rows[:] == first
    assert sum(len(call["labels"]) for call in calls) == 4
    assert "00001.arrow is damaged" in caplog.text and shard.read_bytes() == good


@pytest.fixture(scope="module")
def marian(tmp_path_factory):
    """A tiny Marian checkpoint with its tokenizer."""
    folder = tmp_path_factory.mktemp("marian")
    tokenizer = tiny_marian_tokenizer(folder)
    tiny_marian_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def other_weights(teacher):
    changed = copy.deepcopy(teacher)
    with torch.no_grad():
        changed.model.decoder.layers[0].fc1.weight[0, 0] += 1e-6
    return changed


def test_what_does_not_match_is_refused_and_every_difference_named(marian, tmp_path):
    distiller = WeightDistiller.from_pretrained(marian, student=StudentShape())
    teacher, tokenizer = distiller.teacher, distiller.tokenizer
    pairs = datasets.Dataset.from_dict({"source": SENTENCES[:5], "target": SENTENCES[5:]})
    features = tokenize_pairs(pairs, tokenizer)
    options = {"tokenizer": tokenizer, "top_k": 5, "progress": False}
    build_teacher_cache(teacher, features, tmp_path, **options)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["▁unheard"])
    cases = [
        ({"teacher": other_weights(teacher)}, ["teacher_fingerprint"]),
        ({"tokenizer": other}, ["tokenizer_fingerprint"]),
        ({"features": features.select([1, 0, 2, 3, 4])}, ["source_fingerprint", "target_fingerprint"]),
        (
            {"features": features.select(range(4))},
            ["sentences", "label_tokens", "source_fingerprint", "target_fingerprint"],
        ),
        ({"top_k": 6}, ["top_k", "bytes_per_token"]),
        ({"temperature": 2.0}, ["temperature"]),
    ]
    for change, expected in cases:
        asked = {"teacher": teacher, "features": features, "output_dir": tmp_path, **options, **change}
        with pytest.raises(ValueError, match="holds a teacher cache made in another way") as error:
            build_teacher_cache(**asked)
        assert re.findall(r"^  (\w+): found .*, asked ", str(error.value), re.M) == expected
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    shutil.move(tmp_path / "provenance.json", tmp_path / "gone")
    with pytest.raises(ValueError, match="nobody knows which teacher"):
        build_teacher_cache(teacher, features, tmp_path, **options)


def test_the_same_weights_under_another_name_and_a_used_tokenizer_are_welcome(marian, tmp_path, monkeypatch):
    distiller = WeightDistiller.from_pretrained(marian, student=StudentShape())
    pairs = datasets.Dataset.from_dict({"source": SENTENCES[:5], "target": SENTENCES[5:]})
    features = tokenize_pairs(pairs, distiller.tokenizer)
    options = {"top_k": 5, "progress": False}
    build_teacher_cache(distiller.teacher, features, tmp_path / "cache", tokenizer=distiller.tokenizer, **options)
    shutil.copytree(marian, tmp_path / "moved")
    again = WeightDistiller.from_pretrained(tmp_path / "moved", student=StudentShape())
    again.tokenizer(["a b c"], truncation=True, max_length=3, padding=True)
    calls = count_forwards(again.teacher, monkeypatch)
    build_teacher_cache(again.teacher, features, tmp_path / "cache", tokenizer=again.tokenizer, **options)
    assert calls == []


@pytest.mark.parametrize(
    "change, message",
    [
        ({"top_k": 0}, r"top_k=0: expected 1 to 40"),
        ({"top_k": 41}, r"top_k=41: expected 1 to 40, the tokens that the teacher chooses from"),
        ({"temperature": 0.0}, "expected numbers above 0"),
        ({"data_collator": None}, "neither tokenizer nor data_collator"),
        ({"features": random_features(3).to_iterable_dataset()}, "found features of type IterableDataset"),
        ({"features": random_features(3).remove_columns("labels")}, "expected at least one, with input_ids and labels"),
        ({"features": random_features(3).add_column("teacher", [1, 2, 3])}, "a column 'teacher'"),
    ],
)
def test_bad_arguments_leave_nothing_behind(change, message, teacher, features, tmp_path):
    asked = {"teacher": teacher, "features": features, "output_dir": tmp_path / "new", **OPTIONS, "top_k": 5} | change
    with pytest.raises(ValueError, match=message):
        build_teacher_cache(**asked)
    assert not (tmp_path / "new").exists()


# --- by configuration ------------------------------------------------------------------------------------------------


FAST = {"max_steps": 3, "learning_rate": 1e-2, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
KL = {"generator_objectives": {"kl": 1.0}, "finetune_objectives": {"kl": 1.0}}
CONFIG = WeightDistillConfig(generator_args=FAST, finetune_args=FAST, **KL)
PAIRS = datasets.Dataset.from_dict({"source": SENTENCES[:5], "target": SENTENCES[5:]})


def losses(distiller):
    return [row["train_loss"] for rows in distiller.history.values() for row in rows if "train_loss" in row]


def distil(marian, folder, **config):
    """Both phases: the mean loss of each, and the distiller."""
    distiller = WeightDistiller.from_pretrained(
        marian, student=StudentShape(decoder_layers=1), config=replace(CONFIG, **config)
    )
    distiller.distill(PAIRS, output_dir=folder)
    return losses(distiller), distiller


@pytest.mark.filterwarnings("ignore")
def test_runs_share_a_cache_and_the_second_one_costs_nothing(marian, tmp_path, monkeypatch):
    live, distiller = distil(marian, tmp_path / "live")
    k = distiller.teacher.config.vocab_size
    cache = {"teacher_cache_top_k": k, "teacher_cache_dir": str(tmp_path / "cache")}
    first, distiller = distil(marian, tmp_path / "a", **cache)
    assert first == pytest.approx(live, rel=2e-3) and live[1] > 0
    assert not (tmp_path / "a" / "teacher_cache").exists()
    with pytest.raises(ValueError, match="top_k: found"):
        distil(marian, tmp_path / "c", **cache | {"teacher_cache_top_k": 4})
    distiller.save_pretrained(tmp_path / "student")
    card = (tmp_path / "student" / "README.md").read_text(encoding="utf-8")
    assert f"teacher_cache_top_k: {k}" in card and str(tmp_path) not in card
    again = WeightDistiller.from_pretrained(marian, student=distiller.shape, config=distiller.config)
    monkeypatch.setattr(logit_cache, "_fill", None)
    monkeypatch.setattr(again.teacher, "to", None)  # and stays where it is
    again.distill(PAIRS, output_dir=tmp_path / "b")
    assert losses(again) == first


@pytest.mark.filterwarnings("ignore")
def test_beside_pseudo_labels_the_cache_is_of_what_is_trained_on(marian, tmp_path):
    distil(
        marian,
        tmp_path / "run",
        teacher_cache_top_k=8,
        pseudo_labels="augment",
        num_beams=1,
        max_target_length=12,
        temperature=3.0,
        objective_options={"temperature": 2.0},  # wins
    )
    found = json.loads((tmp_path / "run" / "teacher_cache" / "provenance.json").read_text())
    assert (found["sentences"], found["top_k"], found["temperature"]) == (10, 8, 2.0)
    assert found["tokenizer"] == "MarianTokenizer" and len(found["tokenizer_fingerprint"]) == 64
    assert found["teacher"] == str(marian) and found["versions"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    "change, message",
    [
        ({"finetune_objectives": {"cross_correlation": 1.0}}, "cross_correlation needs the teacher's hidden_states"),
        (
            {"generator_objectives": {"cross_entropy": 1.0}, "finetune_objectives": {"cross_entropy": 1.0}},
            "teacher_cache_top_k=8, but no objective of a phase that trains asks for the teacher",
        ),
        (  # of two phases the one that trains asks for nothing
            {
                "generator_objectives": {"kl": 1.0},
                "generator_args": {"max_steps": 0},
                "finetune_objectives": {"cross_entropy": 1.0},
            },
            "teacher_cache_top_k=8, but no objective of a phase that trains asks for the teacher",
        ),
    ],
)
def test_settings_that_a_cache_cannot_serve_are_refused_before_any_work(change, message, marian, tmp_path):
    with pytest.raises(ValueError, match=message):
        distil(marian, tmp_path / "run", teacher_cache_top_k=8, **change)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="teacher_cache_top_k=0: expected a positive number"):
        replace(CONFIG, teacher_cache_top_k=0)


# --- the documentation -----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_the_commands_and_the_code_of_the_documentation_run(marian, tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[1] / "docs" / "teacher_cache.md").read_text(encoding="utf-8")
    command, benchmark = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    shutil.copytree(marian, tmp_path / "demo" / "teacher")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data_module, "_corpus", lambda: built_in_corpus(20, 2, 2))
    fast = "max_steps=2 use_cpu=true disable_tqdm=true save_strategy=no"
    shrunk, count = re.subn(r"max_steps=\d+", fast, command)
    assert count == 2 and main(shlex.split(shrunk.replace("\\\n", " "))[1:]) == 0
    assert (tmp_path / "caches" / "demo" / "shards" / "00000.arrow").exists()
    options = {"max_steps": 2, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    recipe = replace(RECIPES["default"], generator_args=options, finetune_args=options)
    monkeypatch.setitem(RECIPES, "default", recipe)
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.S)), {})
    assert "'bytes_per_token': 130" in capsys.readouterr().out
    assert (tmp_path / "runs" / "cached-2" / "teacher_cache" / "shards" / "00000.arrow").exists()
    assert (Path(__file__).parents[1] / benchmark.split()[1]).exists()


def test_a_cache_knows_where_rows_end(tmp_path):
    teacher = tiny_teacher("marian")
    one = datasets.Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}, {"input_ids": [8], "labels": [8]}])
    two = datasets.Dataset.from_list([{"input_ids": [5, 6], "labels": [5, 6]}, {"input_ids": [7, 8], "labels": [7, 8]}])
    cache = build_teacher_cache(teacher, one, tmp_path, data_collator=PlainCollator(39), top_k=4, progress=False)
    with pytest.raises(ValueError, match="source and target differ"):
        cache.attach(two)
