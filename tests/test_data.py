"""Columns to features: every way in, every mistake by its message, batches by their bounds."""

import copy
import gzip
import json
import random
import subprocess
import sys
import types
from functools import partial

import datasets
import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard, prepare_data_loader
from datasets import Dataset, DatasetDict, IterableDataset
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from hf_weight_distill.corpus import build_marian_tokenizer, build_t5_tokenizer, built_in_corpus
from hf_weight_distill.data import (
    TokenBatchSampler,
    check_features,
    check_tokenizer,
    fingerprint,
    load_pairs,
    tokenize_pairs,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Recommended"),
    pytest.mark.filterwarnings("ignore:no language was named"),
]
ROWS = [{"en": "a house", "de": "ein Haus"}, {"en": 'say "go"', "de": "null"}, {"en": "NA", "de": "nah, nicht weit"}]
EXPECTED = {"source": ["a house", 'say "go"', "NA"], "target": ["ein Haus", "null", "nah, nicht weit"]}
NAMED = {"source_column": "en", "target_column": "de"}
packed = partial(gzip.compress, mtime=0)  # the bytes name tests, which all workers have to call alike


@pytest.fixture(scope="module")
def table():
    return Dataset.from_list(ROWS)


@pytest.fixture(scope="module")
def texts():
    return [text for row in built_in_corpus(1500, 0, 0)["train"]["translation"] for text in row.values()]


@pytest.fixture(scope="module")
def marian(texts, tmp_path_factory):
    return build_marian_tokenizer(texts, tmp_path_factory.mktemp("marian"), vocab_size=400)


@pytest.fixture(scope="module")
def t5(texts, tmp_path_factory):
    prefixed = [*texts, *["translate English to German: "] * 50]
    return build_t5_tokenizer(prefixed, tmp_path_factory.mktemp("t5"), vocab_size=400)


def columns(pairs):
    rows = list(pairs)
    return {name: [row[name] for row in rows] for name in rows[0]}


# ---- ways in


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    "name", ["t.json", "t.jsonl", "t.jsonl.gz", "t.json.gz", "t.csv", "t.tsv", "t.parquet", "saved"]
)
def test_every_file_gives_the_same_pairs(name, streaming, table, tmp_path):
    path = tmp_path / name
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    if name == "saved":
        table.save_to_disk(path)
    elif name.endswith(".gz"):
        path.write_bytes(packed(text.encode()))
    elif "json" in name:
        path.write_text(text)
    elif name.endswith("parquet"):
        table.to_parquet(path)
    elif name.endswith("tsv"):
        path.write_text("en\tde\n" + "".join(f"{row['en']}\t{row['de']}\n" for row in ROWS))
    else:
        table.to_csv(path)
    pairs = load_pairs(path, streaming=streaming, **NAMED)
    assert isinstance(pairs, IterableDataset if streaming else Dataset)
    assert columns(pairs) == EXPECTED


def test_datasets_objects_and_the_built_in_corpus(table):
    assert load_pairs(table, **NAMED).to_dict() == EXPECTED
    assert load_pairs(DatasetDict(only=table), **NAMED).to_dict() == EXPECTED
    assert columns(load_pairs(table.to_iterable_dataset(), **NAMED)) == EXPECTED
    pairs = load_pairs("built-in", "test")
    assert pairs.column_names == ["source", "target"] and len(pairs) == 500
    first = built_in_corpus(0, 0, 1)["test"][0]["translation"]
    assert pairs[0] == {"source": first["en"], "target": first["de"]}
    turned = load_pairs("built-in", "test", source_lang="de")
    assert turned[0] == {"source": first["de"], "target": first["en"]}


def test_a_hub_id_reaches_load_dataset_with_its_configuration(table, monkeypatch):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        return table

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert load_pairs("owner/name:de-en", "train[:3]", **NAMED).to_dict() == EXPECTED
    load_pairs("wmt16", "test", **NAMED)
    assert calls == [
        (("owner/name", "de-en"), {"split": "train[:3]", "streaming": False}),
        (("wmt16", None), {"split": "test", "streaming": False}),
    ]


def test_the_default_split_is_taken_of_several_alone():
    def first(data, *split):
        return load_pairs(data, *split, default_split="b")[0]["source"]

    a, b = (Dataset.from_dict({"source": [name], "target": ["t"]}) for name in "ab")
    assert [first(DatasetDict(a=a, b=b)), first(DatasetDict(a=a, b=b), "a"), first(DatasetDict(a=a))] == ["b", "a", "a"]
    with pytest.raises(ValueError, match=r"found no split name; expected one of \['a', 'c'\]: choose it by"):
        first(DatasetDict(a=a, c=b))


@pytest.mark.parametrize("pair", [("document", "summary"), ("article", "highlights"), ("dialogue", "summary")])
def test_usual_pairs_are_found_and_other_columns_dropped(pair):
    data = Dataset.from_dict({"id": [1, 2], pair[1]: ["s", "t"], pair[0]: ["long s", "long t"]})
    assert load_pairs(data).to_dict() == {"source": ["long s", "long t"], "target": ["s", "t"]}


def test_the_direction_is_the_stored_order_and_is_said():
    stored = Dataset.from_dict({"translation": [{"de": "Haus", "en": "house"}]})
    with pytest.warns(UserWarning, match="translating 'de' to 'en'"):
        assert load_pairs(stored)[0] == {"source": "Haus", "target": "house"}
    features = datasets.Features({"translation": datasets.Translation(["en", "de"])})
    sorted_by_datasets = Dataset.from_dict({"translation": [{"en": "house", "de": "Haus"}]}, features=features)
    assert load_pairs(sorted_by_datasets)[0] == {"source": "Haus", "target": "house"}
    for named in ({"source_lang": "en"}, {"target_lang": "de"}, {"source_lang": "en", "target_lang": "de"}):
        assert load_pairs(stored, **named)[0] == {"source": "house", "target": "Haus"}


@pytest.mark.parametrize("shape", ["columns", "translation"])
def test_rows_with_an_empty_side_are_dropped_and_counted(shape):
    sides = [("a", "b"), ("", "b"), ("a", None), (" \n", "b"), ("c", "d")]
    if shape == "columns":
        data = Dataset.from_list([{"source": source, "target": target} for source, target in sides])
    else:
        data = Dataset.from_list([{"translation": {"en": source, "de": target}} for source, target in sides])
    with pytest.warns(UserWarning, match="dropped 3 of 5 rows"):
        assert load_pairs(data).to_dict() == {"source": ["a", "c"], "target": ["b", "d"]}
    assert columns(load_pairs(data, streaming=True)) == {"source": ["a", "c"], "target": ["b", "d"]}


# ---- mistakes


def one(**row):
    return Dataset.from_list([row])


def test_a_translation_may_be_a_column_of_text():
    """As in somebody's spreadsheet: it is no pair of languages then, and no other column loses by it."""
    table = one(source="x", target="y", translation="z")
    assert load_pairs(table)[0] == {"source": "x", "target": "y"}
    chosen = load_pairs(table, source_column="source", target_column="translation")
    assert chosen[0] == {"source": "x", "target": "z"}


TWO_SPLITS = DatasetDict(a=one(x="y"), b=one(x="y"))
THREE = {"en": "a", "de": "b", "fr": "c"}


@pytest.mark.parametrize(
    "data, options, message",
    [
        (one(a="x", b="y"), {}, r"found the columns \['a', 'b'\]; expected 'translation' by language, or a usual pair"),
        (one(a="x", b="y"), {"source_column": "q"}, r"found the columns \['a', 'b'\]; expected \['q'\] among them"),
        (one(a="x", b="y"), {"source_column": "a"}, "expected .* both source_column and target_column"),
        (one(a="x", b="y"), {"source_column": "a", "target_column": "a"}, "found 'a' as source and target column"),
        (one(a="x", b=3), {"source_column": "a", "target_column": "b"}, "found int in 'b'; expected text"),
        (one(translation=THREE), {}, r"found the languages \['en', 'de', 'fr'\]; expected source_lang and target_lang"),
        (one(translation=THREE), {"source_lang": "xx"}, r"found the languages \['en', 'de', 'fr'\]; expected 'xx'"),
        (one(translation=THREE), {"source_lang": "en", "target_lang": "en"}, "found 'en' as source and target"),
        (one(source="a", translation="x"), {}, "both source_column and target_column: name them"),
        (one(translation=["x"]), {}, "found a 'translation' column of list; expected .* both source_column and"),
        (one(source="x", target="y"), {"split": "test"}, "found the split name 'test' for a single table"),
        (TWO_SPLITS, {"split": "c"}, r"found the split name 'c'; expected one of \['a', 'b'\]"),
        (TWO_SPLITS, {}, r"found no split name; expected one of \['a', 'b'\]"),
        ("built-in", {"split": "dev"}, r"expected one of \['train', 'validation', 'test'\]"),
        (Dataset.from_dict({"source": [], "target": []}), {}, "found an empty data set; expected at least one row"),
        (one(source="", target="y"), {}, "found 1 rows, all with an empty 'source' or 'target'"),
        (one(source="", target="y"), {"streaming": True}, "found only rows with an empty side"),
        ("./nowhere.json", {}, "neither an existing file or directory nor a Hub id"),
        ("nowhere.csv", {}, "neither an existing file or directory nor a Hub id"),
        (7, {}, "found data of type int; expected a Dataset"),
        ({"source": ["x"], "target": ["y"]}, {}, "found data of type dict; .* Dataset.from_dict"),
    ],
)
def test_mistakes_are_named(data, options, message):
    with pytest.raises(ValueError, match=message):
        load_pairs(data, **options)


def test_mistakes_in_paths_are_named(tmp_path):
    (tmp_path / "pairs.xlsx").write_text("x")
    with pytest.raises(ValueError, match=r"found the file 'pairs.xlsx'; expected an ending of \['.json', '.jsonl'"):
        load_pairs(tmp_path / "pairs.xlsx")
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(ValueError, match="found the empty file"):
        load_pairs(tmp_path / "empty.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="without a data set in it; expected one written by save_to_disk"):
        load_pairs(tmp_path / "folder")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["news[de].tsv", "[a]/t.jsonl", "q?.csv", "two*.tsv"])
def test_the_name_of_a_file_is_no_pattern(name, streaming, tmp_path):
    rows = {"tsv": "source\ttarget\n{0}\t{0}\n", "csv": "source,target\n{0},{0}\n"}
    row = rows.get(name[-3:], '{{"source": "{0}", "target": "{0}"}}\n')
    for other in ("newsd.tsv", "a/t.jsonl", "qx.csv", "twoo.tsv", name):  # a pattern would find one of the others
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text(row.format("right" if other == name else "wrong"))
    assert columns(load_pairs(tmp_path / name, streaming=streaming)) == {"source": ["right"], "target": ["right"]}


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".tsv.gz"])
def test_texts_that_look_like_numbers_stay_texts(ending, tmp_path):
    """Pandas guesses types in pieces of 10,000 rows."""
    texts = [f"{number:05d}" for number in range(10_050)] + ["7.0", "True", "1e3", "two"]
    between = "," if ending == ".csv" else "\t"
    content = "".join(f"{line}\n" for line in [f"source{between}target", *(f"{t}{between}{t}" for t in texts)])
    pack = packed if ending.endswith("gz") else bytes
    (tmp_path / f"t{ending}").write_bytes(pack(content.encode()))
    assert columns(load_pairs(tmp_path / f"t{ending}")) == {"source": texts, "target": texts}


def test_a_translation_may_be_missing_first_and_last():
    rows = Dataset.from_dict({"translation": [None, {"en": "a", "de": "b"}, None]})
    with pytest.warns(UserWarning, match="dropped 2 of 3 rows"):
        assert load_pairs(rows, source_lang="en").to_dict() == {"source": ["a"], "target": ["b"]}


def test_a_table_of_one_split_is_not_another(tmp_path):
    DatasetDict(
        {n: Dataset.from_dict({"source": [n], "target": [n]}, split=n) for n in ("train", "test")}
    ).save_to_disk(tmp_path)
    assert load_pairs(tmp_path / "test", "test")[0]["source"] == "test"
    with pytest.raises(ValueError, match="'train' for a single table, which calls itself 'test'; expected None"):
        load_pairs(tmp_path / "test", "train")


@pytest.mark.parametrize("ending", [".jsonl", ".tsv", ".csv", ".parquet"])
def test_a_slice_is_taken_of_a_file(ending, tmp_path):
    rows = Dataset.from_dict({"source": list("abcd"), "target": list("wxyz")})
    path, options = tmp_path / f"t{ending}", {"sep": "\t"} if ending == ".tsv" else {}
    getattr(rows, f"to_{ {'.jsonl': 'json', '.tsv': 'csv'}.get(ending, ending[1:]) }")(path, **options)
    assert columns(load_pairs(path, "train[1:3]")) == {"source": ["b", "c"], "target": ["x", "y"]}
    assert columns(load_pairs(path, "train[75%:]")) == {"source": ["d"], "target": ["z"]}
    for wrong, streaming in (("train[1:x]", False), ("train[8:9]", False), ("train[1:3]", True)):
        with pytest.raises(
            ValueError, match=r"cannot be read .*train\[.* such as 'train\[:1000\]', which no stream has"
        ):
            load_pairs(path, wrong, streaming=streaming)
    with pytest.raises(ValueError, match=r"found the split name 'test\[:2\]' for a single table"):
        load_pairs(path, "test[:2]")


def test_a_quotation_mark_that_is_never_closed_joins_no_rows_of_a_tsv(tmp_path):
    (tmp_path / "t.tsv").write_text('source\ttarget\n"one\teins\ntwo\t"zwei"\nthree"\tdrei\n')
    assert columns(load_pairs(tmp_path / "t.tsv")) == {
        "source": ['"one', "two", 'three"'],
        "target": ["eins", '"zwei"', "drei"],
    }


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"source,target\nHello, world,Hallo\n", r"\(its first row has too many fields\); expected .* quote"),
        ("t.csv", b"source,target\na,b\nHello, world,Hallo\n", "Expected 2 fields in line 3, saw 3"),
        ("t.tsv", b"source\ttarget\na\tb\tc\n", "its first row has too many fields"),
        ("t.csv", "source,target\na,fährt\n".encode("latin-1"), "'utf-8' codec can't decode .* expected UTF-8"),
        ("t.jsonl", b'{"source": "a", "target"\n', "JSON parse error.* expected JSON in UTF-8"),
        ("t.jsonl.gz", b"no", "Not a gzipped file"),
        ("t.jsonl.gz", packed(b'{"source": "a", "target": "b"}\n' * 9)[:-9], "ended before the end-of-stream"),
        ("t.csv.gz", packed(b"source,target\na,b\n" * 9)[:-9], "ended before the end-of-stream"),
        ("t.tsv", b"source\ttarget\r\na\tb\r\nOne.\rTwo.\tEins.\rZwei.\r\n", r"line 3 has a carriage return inside"),
        ("t.tsv.gz", packed(b"source\ttarget\na\tb\rc\n"), r"line 2 has a carriage return .* tr -d '\\r'"),
        ("t.parquet", b"no", "expected a Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(name, content, message, streaming, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"found .*{name}, which cannot be read .*{message}"):
        load_pairs(tmp_path / name, streaming=streaming)


def test_a_header_without_rows_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("source,target\n")
    with pytest.raises(ValueError, match="t.csv, which cannot be read .* expected UTF-8, a header and rows"):
        load_pairs(tmp_path / "t.csv")


@pytest.mark.parametrize("rows", ["numpy", "pandas", "arrow", "torch"])
@pytest.mark.parametrize("streaming", [False, True])
def test_the_format_of_a_table_is_the_users_own(rows, streaming, marian):
    pairs = {"source": ["one", "two"], "target": ["eins", "zwei"]}
    plain = [row | {} for row in tokenize_pairs(load_pairs(Dataset.from_dict(pairs)), marian)]
    table = Dataset.from_dict(pairs).with_format(rows)
    assert list(tokenize_pairs(load_pairs(table, streaming=streaming), marian)) == plain
    assert list(tokenize_pairs(table, marian)) == plain
    assert table.format["type"] == rows
    table = Dataset.from_list([{"translation": {"en": "one", "de": "eins"}}]).with_format(rows)
    assert columns(load_pairs(table, source_lang="en")) == {"source": ["one"], "target": ["eins"]}


def test_columns_that_a_format_hides_are_there():
    table = Dataset.from_dict({"source": ["one"], "target": ["eins"]}).with_format(None, columns=["source"])
    assert columns(load_pairs(table)) == {"source": ["one"], "target": ["eins"]}


# ---- features


@pytest.mark.parametrize("streaming", [False, True])
def test_features_are_what_the_tokenizer_gives(streaming, marian):
    pairs = load_pairs("built-in", "validation", streaming=streaming)
    rows = list(tokenize_pairs(pairs, marian).take(20))
    for row, pair in zip(rows, pairs, strict=False):
        assert set(row) == {"input_ids", "attention_mask", "labels"}
        assert row["input_ids"] == marian(pair["source"])["input_ids"]
        assert row["attention_mask"] == [1] * len(row["input_ids"])
        assert marian.decode(row["labels"], skip_special_tokens=True) == pair["target"]


def test_prefix_and_truncation_keep_the_end_token(t5):
    pairs = load_pairs("built-in", "validation").select(range(30))
    prefix = "translate English to German: "
    features = tokenize_pairs(pairs, t5, prefix=prefix, max_source_length=12, max_target_length=5)
    plain = t5(prefix + pairs[0]["source"])["input_ids"]
    assert features[0]["input_ids"] == plain[:11] + [t5.eos_token_id]
    assert all(len(row["input_ids"]) == 12 and len(row["labels"]) <= 5 for row in features)
    assert all(row["labels"][-1] == t5.eos_token_id for row in features)


def test_the_cache_of_map_is_hit_again(marian, t5, tmp_path):
    """By a second call and by another process; a fast tokenizer (T5) changes its state when it is called."""
    marian.save_pretrained(tmp_path / "marian")
    t5.save_pretrained(tmp_path / "t5")
    load_pairs("built-in", "test").select(range(40)).flatten_indices().save_to_disk(tmp_path / "pairs")
    script = (
        "import sys; from datasets import load_from_disk; from transformers import AutoTokenizer\n"
        "from hf_weight_distill.data import tokenize_pairs\n"
        "pairs, tokenizers = load_from_disk(sys.argv[1]), [AutoTokenizer.from_pretrained(f) for f in sys.argv[2:]]\n"
        "print(*[tokenize_pairs(pairs, tokenizer)._fingerprint for tokenizer in tokenizers for _ in range(2)])"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, *(str(tmp_path / n) for n in ("pairs", "marian", "t5"))]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    pairs = datasets.load_from_disk(tmp_path / "pairs")
    for index, name in enumerate(("marian", "t5")):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        here = tokenize_pairs(pairs, tokenizer)._fingerprint
        assert other[2 * index : 2 * index + 2] == [here, here]
        assert tokenize_pairs(pairs, tokenizer, max_source_length=9)._fingerprint != here


def test_tokenizing_refuses_what_is_not_pairs(marian):
    with pytest.raises(ValueError, match=r"found the columns \['a'\]; expected 'source' and 'target'"):
        tokenize_pairs(one(a="x"), marian)
    with pytest.raises(ValueError, match="found max_target_length=1; expected at least 2"):
        tokenize_pairs(one(source="x", target="y"), marian, max_target_length=1)


def test_check_features(marian):
    good = tokenize_pairs(load_pairs("built-in", "test"), marian)
    check_features(good, marian.pad_token_id)
    check_features([{"input_ids": [1], "labels": torch.tensor([-100, 5])}], 0)
    with pytest.raises(ValueError, match="without rows"):
        check_features([], 0)
    with pytest.raises(ValueError, match=r"found the columns \['input_ids'\]; expected \['labels'\] too"):
        check_features([{"input_ids": [1]}], 0)
    with pytest.raises(ValueError, match=r"only padding \(-100 or 3\) in the labels of the first 2 rows"):
        check_features([{"input_ids": [1], "labels": [-100, 3]}, {"input_ids": [1], "labels": [3]}], 3)


def test_check_tokenizer(marian, t5):
    def config(vocab_size, pad, eos):
        return types.SimpleNamespace(vocab_size=vocab_size, pad_token_id=pad, eos_token_id=eos)

    check_tokenizer(marian, config(400, 399, 0))
    check_tokenizer(marian, config(400, 399, [0, 2]))
    check_tokenizer(t5, config(512, 0, 1))
    masked = copy.deepcopy(marian)
    masked.add_special_tokens({"mask_token": "<mask>"})
    check_tokenizer(masked, config(400, 399, 0))  # as bart-large-cnn: no row for the mask
    with pytest.raises(ValueError, match="found a tokenizer with ids up to 399 for a model with vocab_size=399"):
        check_tokenizer(marian, config(399, 399, 0))
    with pytest.raises(ValueError, match="found pad_token_id=399 in the tokenizer; expected the model's 0"):
        check_tokenizer(marian, config(512, 0, 0))
    with pytest.raises(ValueError, match="found eos_token_id=1 in the tokenizer; expected the model's 2"):
        check_tokenizer(t5, config(512, 0, 2))


# ---- batches


@pytest.fixture(scope="module")
def lengths():
    draw = random.Random(0)
    return [draw.randint(3, 40) for _ in range(501)]


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_keep_the_bound_and_cover_everything_once(lengths, drop_last):
    sampler = TokenBatchSampler(lengths, 200, drop_last=drop_last)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(len(batch) * max(lengths[i] for i in batch) <= 200 for batch in batches)
        seen = [i for batch in batches for i in batch]
        assert len(seen) == len(set(seen))
        left = set(range(501)) - set(seen)
        # Greedy cuts waste little: no batch but the last has room for one more of its longest.
        loose = [b for b in batches if (len(b) + 1) * max(lengths[i] for i in b) <= 200]
        assert len(loose) <= (0 if drop_last else 1)
        assert len(left) < 200 // 3 if drop_last else not left
    padded = sum(len(b) * max(lengths[i] for i in b) for b in sampler)
    assert padded < 1.12 * sum(lengths)


def test_epochs_shuffle_and_a_seed_repeats(lengths):
    def batches(seed=0, epoch=0, **options):
        sampler = TokenBatchSampler(lengths, 200, seed=seed, **options)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert batches() == batches()
    assert batches() != batches(epoch=1) and batches() != batches(seed=1)
    # Not only the order of the batches changes, also who is in them.
    assert {frozenset(batch) for batch in batches()} != {frozenset(batch) for batch in batches(epoch=1)}
    assert batches(shuffle=False) == batches(shuffle=False, epoch=5)
    assert [max(lengths[i] for i in batch) for batch in batches(shuffle=False)] == sorted(
        [max(lengths[i] for i in batch) for batch in batches()], reverse=True
    )


@pytest.mark.parametrize(
    "lengths, options, message",
    [
        ([3, 9, 4], {}, "found sentence 1 with 9 tokens; expected at most max_tokens=8"),
        ([], {}, "found no lengths"),
        ([3, 0], {}, "found length 0 for sentence 1; expected at least 1"),
        ([2], {"drop_last": True}, "found 1 sentences that fill no batch of 8 tokens"),
    ],
)
def test_impossible_batches_are_refused(lengths, options, message):
    with pytest.raises(ValueError, match=message):
        TokenBatchSampler(lengths, 8, **options)


def oddly_many(lengths, **options):
    """A sampler whose batches do not divide by two processes."""
    samplers = (TokenBatchSampler(lengths[:count], 200, **options) for count in range(len(lengths), 0, -5))
    return next(sampler for sampler in samplers if len(sampler) % 2)


@pytest.mark.parametrize("drop_last", [False, True])
def test_two_processes_get_equally_many_whole_batches(lengths, drop_last):
    sampler = oddly_many(lengths, drop_last=drop_last)
    whole = list(sampler)
    shards = [BatchSamplerShard(sampler, 2, index) for index in range(2)]
    first, second = (list(shard) for shard in shards)
    assert len(first) == len(second) == len(shards[0]) == len(shards[1])
    together = [batch for pair in zip(first, second, strict=True) for batch in pair]
    assert together == (whole[:-1] if drop_last else whole + whole[:1])


def test_shards_of_unlike_length_and_split_batches_are_what_the_docstring_says(lengths):
    sampler = oddly_many(lengths)
    uneven = [len(list(BatchSamplerShard(sampler, 2, index, even_batches=False))) for index in range(2)]
    assert uneven[0] == uneven[1] + 1
    with pytest.raises(ValueError, match="split_batches"):
        BatchSamplerShard(sampler, 2, 0, split_batches=True)


@pytest.mark.parametrize("processes", [1, 2])
def test_prepared_loaders_advance_the_epoch(lengths, processes):
    """A prepared loader reaches `set_epoch`, on one process and behind the shard of two."""
    epochs = []
    for index in range(processes):
        sampler = TokenBatchSampler(lengths, 200)
        loader = DataLoader(list(range(501)), batch_sampler=sampler, collate_fn=list)
        loader = prepare_data_loader(loader, num_processes=processes, process_index=index)
        epochs.append([[list(batch) for batch in loader] for _ in range(2)])
        assert len(loader) == len(epochs[-1][0])
    for epoch in range(2):
        expected = TokenBatchSampler(lengths, 200)
        expected.set_epoch(epoch)
        whole = list(expected)
        whole += whole[: len(whole) % processes]
        assert [epochs[k % processes][epoch][k // processes] for k in range(len(whole))] == whole
    assert epochs[0][0] != epochs[0][1]


def test_an_accelerator_takes_the_loader(lengths):
    sampler = TokenBatchSampler(lengths, 200)
    loader = DataLoader(list(range(501)), batch_sampler=sampler, collate_fn=torch.tensor)
    prepared = Accelerator(cpu=True).prepare(loader)
    assert len(prepared) == len(sampler)
    assert sorted(i for batch in prepared for i in batch.tolist()) == list(range(501))


def test_neighbouring_seeds_share_no_epoch():
    one, two = (TokenBatchSampler([4] * 64, 16, seed=seed) for seed in (0, 1))
    one.set_epoch(1)
    assert list(one) != list(two)


def test_data_that_differ_in_a_later_row_or_in_length_are_other_data():
    rows = [{"input_ids": [n, 1], "labels": [n, 2]} for n in range(80)]
    first = fingerprint(Dataset.from_list(rows))
    assert fingerprint(Dataset.from_list(rows[:79])) != first
    for n in (1, 63, 64, 79):
        changed = rows[:n] + [{"input_ids": [n, 1], "labels": [n, 3]}] + rows[n + 1 :]
        assert fingerprint(Dataset.from_list(changed)) != first
