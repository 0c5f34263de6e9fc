"""From a data set's columns to features: find the text pairs, tokenize them, batch them by length.

`load_pairs` turns whatever holds parallel text into two columns, `source` and `target`; `tokenize_pairs` turns these
into `input_ids`, `attention_mask` and `labels`; `TokenBatchSampler` forms batches of about equal numbers of tokens.
Mistakes in the data are `ValueError`s that say what was found, what was expected, and what to do.
"""

from __future__ import annotations

import csv
import glob
import gzip
import hashlib
import re
import warnings
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Sampler

from .corpus import built_in_corpus

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict, IterableDataset
    from numpy import ndarray
    from pyarrow import ChunkedArray
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# Columns taken as (source, target) when none is named, in this order.
USUAL_PAIRS = (
    ("source", "target"),
    ("document", "summary"),
    ("article", "highlights"),
    ("text", "summary"),
    ("dialogue", "summary"),
)
# File ending -> (builder of `datasets.load_dataset`, its options). Each may be followed by ".gz", parquet excepted.
# Else pandas reads the words "null" and "NA" as missing, and a row's surplus first field as its index.
_PANDAS = {"keep_default_na": False, "index_col": False}
FILE_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".csv": ("csv", _PANDAS),
    # Parallel text is not quoted: a quotation mark that is never closed would swallow the rows after it.
    ".tsv": ("csv", {"delimiter": "\t", "quoting": csv.QUOTE_NONE, **_PANDAS}),
    ".parquet": ("parquet", {}),
}
_EXPECTED = {
    "json": "JSON in UTF-8, one object a line or a list of objects",
    "csv": "UTF-8, a header and rows of as many fields: quote the texts of a .csv; those of a .tsv hold no tab",
    "parquet": "a Parquet file with rows",
}
_HUB_ID = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?")
_ROWS_LOOKED_AT = 8
_IDS = ["input_ids", "labels"]


# ---------------------------------------------------------------------------------------------------------------------
# Opening
# ---------------------------------------------------------------------------------------------------------------------


def _pick_split(splits: DatasetDict, split: str | None, default: str | None) -> Dataset | IterableDataset:
    names = list(splits)
    if split is None and (len(names) == 1 or default in names):
        return splits[names[0] if len(names) == 1 else default]
    if split not in names:
        found = "no split name" if split is None else f"the split name {split!r}"
        raise ValueError(
            f"found {found}; expected one of {names}: choose it by load_pairs(data, split), or on the command line by "
            "--train_split, --eval_split, --test_split or --data_split"
        )
    return splits[split]


def _check_lone_split(data: Any, split: str | None) -> None:
    """A single table has one split: another name asked of it is a mistake, not a wish to ignore."""
    own = str(getattr(data, "split", None) or "train")
    if split not in (None, own, own.partition("[")[0]):  # which names a slice as train[:1%]
        raise ValueError(
            f"found the split name {split!r} for a single table, which calls itself {own!r}; expected None or {own!r}: "
            "leave it out"
        )


def _file_kind(path: Path) -> tuple[str, dict[str, Any]] | None:
    """The builder for a file name, None where the ending is not known."""
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    if endings and endings[-1] == ".gz":
        endings.pop()
        return None if endings[-1:] == [".parquet"] else FILE_KINDS.get(endings[-1]) if endings else None
    return FILE_KINDS.get(endings[-1]) if endings else None


def _check_line_ends(path: Path) -> None:
    """A carriage return inside a text is a line end to pandas: halves of two texts would become a pair."""
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if b"\r" in line.removesuffix(b"\n").removesuffix(b"\r"):
                raise ValueError(f"line {number} has a carriage return inside: take them out by tr -d '\\r'")


def _open_file(path: Path, split: str | None, streaming: bool) -> Dataset | IterableDataset:
    from datasets import Features, Value, load_dataset
    from datasets.exceptions import DatasetsError
    from pandas import read_csv
    from pandas.errors import ParserWarning

    kind = _file_kind(path)
    if kind is None:
        raise ValueError(f"found the file {path.name!r}; expected an ending of {list(FILE_KINDS)}: convert it")
    if path.stat().st_size == 0:
        raise ValueError(f"found the empty file {path}; expected rows")
    builder, options = kind
    part = split if split and split.startswith("train[") else "train"  # by which name `datasets` knows any file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ParserWarning)  # which only says that surplus fields were cut off
            if options.get("quoting") == csv.QUOTE_NONE:
                _check_line_ends(path)
            if builder == "csv":  # texts that look like numbers stay as they are
                names = read_csv(path, nrows=0, **options).columns
                options = options | {"features": Features({name: Value("string") for name in names})}
            file = glob.escape(str(path))  # a name with brackets is no pattern
            table = load_dataset(builder, data_files=file, split=part, streaming=streaming, **options)
            next(iter(table), None)  # a stream has read nothing yet
    except (DatasetsError, ParserWarning, ValueError, OSError, EOFError, zlib.error) as error:
        cause = error.__cause__ or error
        why = "its first row has too many fields" if isinstance(cause, ParserWarning) else str(cause).strip()
        slices = "" if part == "train" else ", and of it a slice such as 'train[:1000]', which no stream has"
        raise ValueError(
            f"found {path}, which cannot be read ({why}); expected {_EXPECTED[builder]}{slices}"
        ) from error
    return table


def _open_directory(path: Path) -> Dataset | DatasetDict:
    from datasets import load_from_disk

    try:
        return load_from_disk(str(path))
    except FileNotFoundError as error:
        raise ValueError(
            f"found the directory {path} without a data set in it; expected one written by save_to_disk: "
            "save it so, or pass the path of a file"
        ) from error


def _open_hub(name: str, split: str | None, streaming: bool) -> Any:
    from datasets import load_dataset

    match = _HUB_ID.fullmatch(name)
    if match is None or _file_kind(Path(name)) is not None:
        raise ValueError(
            f"found {name!r}, neither an existing file or directory nor a Hub id; expected 'built-in', a path, or "
            "'owner/name' with an optional ':config'"
        )
    return load_dataset(match["name"], match["config"], split=split, streaming=streaming)


@cache
def _corpus() -> DatasetDict:
    return built_in_corpus()


def _open_named(data: str | Path, split: str | None, streaming: bool) -> Any:
    path = Path(data)
    if str(data) == "built-in":
        return _corpus()
    if path.is_dir():
        return _open_directory(path)
    if path.is_file():
        return _open_file(path, split, streaming)
    return _open_hub(str(data), split, streaming)


def _open(data: Any, split: str | None, default: str | None, streaming: bool) -> Dataset | IterableDataset:
    """Any accepted `data` as one table."""
    from datasets import Dataset, IterableDataset

    named = isinstance(data, (str, Path))
    opened = _open_named(data, split, streaming) if named else data
    tables = (Dataset, IterableDataset)
    if isinstance(opened, dict) and all(isinstance(table, tables) for table in opened.values()):  # splits
        opened = _pick_split(opened, split, default)
    elif isinstance(opened, tables):
        # A Hub data set has its split taken already, perhaps a slice such as "train[:1%]".
        if not (named and not Path(data).exists()):
            _check_lone_split(opened, split)
    else:
        raise ValueError(
            f"found data of type {type(opened).__name__}; expected a Dataset, DatasetDict, IterableDataset, "
            "'built-in', a path or a Hub id: Dataset.from_dict and Dataset.from_list make one of columns and of rows"
        )
    opened = opened.with_format(None)  # the user's, of whatever rows are asked for: numpy, pandas, some of the columns
    return opened.to_iterable_dataset() if streaming and isinstance(opened, Dataset) else opened


def split_name(data: str | Path, table: Dataset | IterableDataset) -> str | None:
    """The split that rows of a named data set are of; `datasets` calls that of any file "train"."""
    return None if table.split is None or Path(data).is_file() else str(table.split)


def open_table(data: Any, default_split: str | None = None) -> Dataset | IterableDataset:
    """What :func:`load_pairs` takes as one table, with all of its columns."""
    return _open(data, None, default_split, streaming=False)


# ---------------------------------------------------------------------------------------------------------------------
# Columns
# ---------------------------------------------------------------------------------------------------------------------


def _first_row(table: Dataset | IterableDataset) -> dict[str, Any]:
    row = next(iter(table), None)
    if row is None:
        raise ValueError("found an empty data set; expected at least one row: check the split and the file")
    return row


def _languages(entry: Any, source_lang: str | None, target_lang: str | None) -> tuple[str, str]:
    """The (source, target) keys of a `translation` entry."""
    if not isinstance(entry, dict):
        raise ValueError(
            f"found a 'translation' column of {type(entry).__name__}; expected dicts like {{'en': ...}}, or both "
            "source_column and target_column: name them, on the command line or in load_pairs(data, ...)"
        )
    found = list(entry)
    for asked in (source_lang, target_lang):
        if asked is not None and asked not in found:
            raise ValueError(f"found the languages {found}; expected {asked!r} among them: use their codes")
    if source_lang and target_lang:
        if source_lang == target_lang:
            raise ValueError(f"found {source_lang!r} as source and target; expected two of {found}")
        return source_lang, target_lang
    if len(found) != 2:
        raise ValueError(f"found the languages {found}; expected source_lang and target_lang to choose two of them")
    if source_lang or target_lang:
        other = found[found.index(source_lang or target_lang) - 1]
        return (source_lang, other) if source_lang else (other, target_lang)
    return found[0], found[1]


def _column_pair(found: list[str], source_column: str | None, target_column: str | None) -> tuple[str, str]:
    """The two columns that are named, or else the first usual pair."""
    asked = [column for column in (source_column, target_column) if column is not None]
    missing = [column for column in asked if column not in found]
    if missing:
        raise ValueError(f"found the columns {found}; expected {missing} among them: check the names")
    if len(asked) == 2:
        if source_column == target_column:
            raise ValueError(f"found {source_column!r} as source and target column; expected two of {found}")
        return source_column, target_column
    usual = [pair for pair in USUAL_PAIRS if set(pair) <= set(found)]
    if asked or not usual:
        raise ValueError(
            f"found the columns {found}; expected 'translation' by language, or a usual pair {list(USUAL_PAIRS)}, or "
            "both source_column and target_column: name them, on the command line or in load_pairs(data, ...)"
        )
    return usual[0]


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"found {type(value).__name__} in {name!r}; expected text: choose another column")
    return value


def _from_columns(batch: dict[str, list], source: str, target: str) -> dict[str, list[str]]:
    return {
        "source": [_text(value, source) for value in batch[source]],
        "target": [_text(value, target) for value in batch[target]],
    }


def _from_translation(batch: dict[str, list], source: str, target: str) -> dict[str, list[str]]:
    entries = [entry or {} for entry in batch["translation"]]
    return {
        "source": [_text(entry.get(source), source) for entry in entries],
        "target": [_text(entry.get(target), target) for entry in entries],
    }


def _both_filled(batch: dict[str, list[str]]) -> list[bool]:
    rows = zip(batch["source"], batch["target"], strict=True)
    return [bool(source.strip() and target.strip()) for source, target in rows]


def load_pairs(
    data: Dataset | DatasetDict | IterableDataset | str | Path,
    split: str | None = None,
    *,
    default_split: str | None = None,
    source_column: str | None = None,
    target_column: str | None = None,
    source_lang: str | None = None,
    target_lang: str | None = None,
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """Parallel text from anywhere, as exactly two string columns, `source` and `target`.

    Args:
        data: a `datasets` object; `"built-in"` (the generated English-German corpus); the path of a .json, .jsonl,
            .csv, .tsv (all also .gz) or .parquet file, or of a directory written by `save_to_disk`; or a Hub id, with
            a configuration after a colon if it has several ("wmt16:de-en"). A local path wins over a Hub id. In a .tsv
            quotation marks are text; in a .csv they hold texts with commas together.
        split: which split of a `DatasetDict`, the built-in corpus or a Hub data set. May be left out where there is
            only one. A file is one table, "train", of which a slice may be taken as of a Hub data set:
            "train[:1000]", "train[:10%]".
        default_split: the split to take where there are several and none is named.
        source_column, target_column: the columns to take. Without them, a `translation` column of dicts is taken, or
            else the first pair of `USUAL_PAIRS` that is there.
        source_lang, target_lang: keys of the `translation` dicts. If one is given and there are two languages, the
            other is the other. If none is given and there are two, the direction is **the order of the dict as
            stored**: English to German for the built-in corpus, but the alphabet's (de, en) for `Translation`
            features, which sort their languages; a warning names the direction unless it is the built-in corpus.
            Without a `translation` column these two are not used.
        streaming: return an `IterableDataset`, and read files and Hub data sets as streams.

    Returns:
        A map-style `Dataset` (an `IterableDataset` if `streaming` or if `data` is one). Rows with an empty, missing or
        blank side are dropped, map-style with one warning that counts them; other columns are dropped too.

    Raises:
        ValueError: unknown split, column, language or file ending; a file that cannot be read; a column that holds no
            text; no rows, or none with both sides filled (for a stream too: its first row is read).

    Example:
        >>> pairs = load_pairs("built-in", "train")
        >>> pairs = load_pairs("news.tsv", source_column="english", target_column="german")
    """
    from datasets import Features, IterableDataset, Value

    table = _open(data, split, default_split, streaming)
    row = _first_row(table)
    columns = list(row)
    languages = not isinstance(row.get("translation", ""), str)  # and not one column of text among others
    if source_column is None and target_column is None and languages:
        entries = (row["translation"] for row in chain([row], table))  # a stream is opened again only if it has to be
        source, target = _languages(next((e for e in entries if e is not None), None), source_lang, target_lang)
        if source_lang is None and target_lang is None and str(data) != "built-in":
            warnings.warn(f"no language was named: translating {source!r} to {target!r}, as stored", stacklevel=2)
        convert = _from_translation
    else:
        source, target = _column_pair(columns, source_column, target_column)
        convert = _from_columns
    strings = Features({"source": Value("string"), "target": Value("string")})
    names = {"source": source, "target": target}
    pairs = table.map(convert, batched=True, fn_kwargs=names, remove_columns=columns, features=strings)
    kept = pairs.filter(_both_filled, batched=True)
    if isinstance(kept, IterableDataset):
        if next(iter(kept), None) is None:
            raise ValueError("found only rows with an empty side; expected text on both: check the columns")
        return kept
    return _count_dropped(len(pairs), kept, source, target)


def _count_dropped(before: int, kept: Dataset, source: str, target: str) -> Dataset:
    dropped = before - len(kept)
    if not len(kept):
        raise ValueError(
            f"found {before} rows, all with an empty {source!r} or {target!r}; expected text on both sides: check the "
            "columns"
        )
    if dropped:
        warnings.warn(f"dropped {dropped} of {before} rows with an empty {source!r} or {target!r}", stacklevel=3)
    return kept


# ---------------------------------------------------------------------------------------------------------------------
# Features
# ---------------------------------------------------------------------------------------------------------------------


def lengths_and_values(lists: ChunkedArray) -> tuple[ndarray, ndarray]:
    """Rows of integers, of whatever width, as the length of each and all values in one row, both int64."""
    import pyarrow.compute as pc

    return tuple(part(lists).to_numpy().astype("int64") for part in (pc.list_value_length, pc.list_flatten))


def fingerprint(features: Dataset | IterableDataset) -> str | None:
    """What tells data sets of features apart: all their token ids. A stream, which may come mixed, has none."""
    from datasets import Dataset

    if not isinstance(features, Dataset):
        return None
    digest = hashlib.sha256(str(len(features)).encode())
    for _, lengths, ids in _token_ids(features):
        digest.update(lengths.tobytes())
        digest.update(ids.tobytes())
    return digest.hexdigest()


def _token_ids(features: Dataset) -> Iterator[tuple[str, ndarray, ndarray]]:
    """Column, lengths of its rows and their ids, a thousand rows at a time."""
    for table in features.select_columns(_IDS).with_format("arrow").iter(batch_size=1000):
        for name in _IDS:
            yield name, *lengths_and_values(table[name])


def _encode(
    batch: dict[str, list[str]],
    tokenizer: PreTrainedTokenizerBase,
    prefix: str,
    max_source_length: int,
    max_target_length: int,
) -> dict[str, list[list[int]]]:
    sources = [prefix + text for text in batch["source"]]
    encoded = tokenizer(sources, max_length=max_source_length, truncation=True, padding=False)
    labels = tokenizer(text_target=batch["target"], max_length=max_target_length, truncation=True, padding=False)
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "labels": labels["input_ids"],
    }


def tokenize_pairs(
    pairs: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prefix: str = "",
    max_source_length: int = 128,
    max_target_length: int = 128,
) -> Dataset | IterableDataset:
    """Text pairs as features, not padded: the collator pads.

    Args:
        pairs: with the columns `source` and `target`, from `load_pairs`.
        tokenizer: of the teacher. Multilingual ones (NLLB, M2M100, mBART) need `src_lang` and `tgt_lang` set before.
        prefix: put before each source ("translate English to German: " for T5).
        max_source_length, max_target_length: in tokens, the closing ones included; what is longer is cut.

    Returns:
        Columns `input_ids`, `attention_mask` (each a list of S ints a row) and `labels` (T ints), and no others;
        map-style or a stream, as `pairs` is. `datasets` finds its cached result again in a later run.

    Raises:
        ValueError: missing columns, no rows, a length below 2 (one token and the end), or a multilingual tokenizer that
            was not told its target language.

    Example:
        >>> features = tokenize_pairs(load_pairs("built-in", "train"), tokenizer)
    """
    for name, length in (("max_source_length", max_source_length), ("max_target_length", max_target_length)):
        if length < 2:
            raise ValueError(f"found {name}={length}; expected at least 2: one token and the end of the sentence")
    pairs = pairs.with_format(None)
    row = _first_row(pairs)
    missing = {"source", "target"} - set(row)
    if missing:
        raise ValueError(f"found the columns {list(row)}; expected 'source' and 'target': use load_pairs first")
    if getattr(tokenizer, "tgt_lang", "") is None:  # NLLB and mBART would take the source's, M2M100 fails
        raise ValueError(
            f"a {type(tokenizer).__name__} writes many languages, and tgt_lang is not set: set src_lang and tgt_lang "
            "of the tokenizer, on the command line by --src_lang and --tgt_lang"
        )
    options = {
        "tokenizer": tokenizer,
        "prefix": prefix,
        "max_source_length": max_source_length,
        "max_target_length": max_target_length,
    }
    # A call leaves its truncation in the tokenizer, and `map` hashes that state for its cache: without a first call
    # here, the second run would hash another state and compute everything again.
    _encode({"source": [row["source"]], "target": [row["target"]]}, **options)
    return pairs.map(_encode, batched=True, fn_kwargs=options, remove_columns=list(row))


def check_features(features: Iterable[dict[str, Any]], pad_token_id: int | None) -> None:
    """Refuse features that nothing can be learned from, before a model is built.

    Args:
        features: rows of `input_ids` and `labels`; the first few are looked at.
        pad_token_id: the tokenizer's; labels of nothing but it and -100 carry no loss.

    Raises:
        ValueError: no rows, a missing column, or only padding in the labels of all rows looked at.

    Example:
        >>> check_features(features, tokenizer.pad_token_id)
    """
    rows = list(islice(iter(features), _ROWS_LOOKED_AT))
    if not rows:
        raise ValueError("found features without rows; expected at least one: check the data set")
    for row in rows:
        missing = [name for name in ("input_ids", "labels") if name not in row]
        if missing:
            raise ValueError(f"found the columns {list(row)}; expected {missing} too: use tokenize_pairs")
    ignored = {-100, pad_token_id}
    if all(label in ignored for row in rows for label in torch.as_tensor(row["labels"]).tolist()):
        raise ValueError(
            f"found only padding (-100 or {pad_token_id}) in the labels of the first {len(rows)} rows; expected "
            "tokens: check the target column and the tokenizer"
        )


def check_fits(features: Dataset | IterableDataset, config: PretrainedConfig) -> None:
    """Refuse features that were made with another tokenizer or without truncation; a stream is not looked at.

    Args:
        features: rows of `input_ids` and `labels`.
        config: of the model, with `vocab_size` and, where it has a table of positions, `max_position_embeddings`.

    Raises:
        ValueError: an id without an embedding, or more tokens than positions.
    """
    from datasets import Dataset

    if not isinstance(features, Dataset):
        return
    positions = getattr(config, "max_position_embeddings", None)
    for name, lengths, ids in _token_ids(features):
        if name == "labels":
            ids = ids[ids != -100]
        wrong = ids[(ids < 0) | (ids >= config.vocab_size)]
        if len(wrong):
            raise ValueError(
                f"found the id {wrong[0]} in {name}; expected 0 to {config.vocab_size - 1}, which the teacher has "
                "embeddings for: tokenize with the teacher's own tokenizer"
            )
        if positions is not None and lengths.max() > positions:
            raise ValueError(
                f"found {lengths.max()} tokens in a row of {name}, but the teacher has {positions} positions: truncate "
                "to at most that, or pass text pairs"
            )


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Saves it without the truncation and padding of its last call, which `tokenizer.json` would hold."""
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> None:
    """Refuse a tokenizer that is not the model's.

    A vocabulary larger than the tokenizer is allowed, as T5's is rounded up; and a mask token without a row, as
    bart-large-cnn and bart-large-xsum have it: no text to be translated holds one.

    Args:
        tokenizer: whose ids must lie in the embedding, and whose special tokens must be the model's.
        config: of the model, with `vocab_size`, `pad_token_id` and `eos_token_id`.

    Raises:
        ValueError: an id beyond the embedding, or another padding or end token.

    Example:
        >>> check_tokenizer(tokenizer, teacher.config)
    """
    largest = max({*tokenizer.get_vocab().values(), len(tokenizer) - 1} - {tokenizer.mask_token_id})
    if largest >= config.vocab_size:
        raise ValueError(
            f"found a tokenizer with ids up to {largest} for a model with vocab_size={config.vocab_size}; expected ids "
            "below that: load the tokenizer of the same checkpoint"
        )
    for name in ("pad_token_id", "eos_token_id"):
        found, expected = getattr(tokenizer, name), getattr(config, name, None)
        allowed = expected if isinstance(expected, (list, tuple)) else [expected]
        if expected is not None and found not in allowed:
            raise ValueError(
                f"found {name}={found} in the tokenizer; expected the model's {expected}: load the tokenizer of the "
                "same checkpoint"
            )


# ---------------------------------------------------------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------------------------------------------------------


class PlainCollator:
    """Pads features where there is no tokenizer.

    Args:
        pad_token_id: of the sources; targets are padded with -100.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch of ``input_ids``, ``attention_mask`` and ``labels``."""

        def pad(name: str, value: int) -> torch.Tensor:
            lists = [torch.as_tensor(row[name]) for row in rows]
            return torch.nn.utils.rnn.pad_sequence(lists, batch_first=True, padding_value=value)

        for row in rows:
            row.setdefault("attention_mask", [1] * len(row["input_ids"]))
        return {
            "input_ids": pad("input_ids", self.pad_token_id),
            "attention_mask": pad("attention_mask", 0),
            "labels": pad("labels", -100),
        }


class TokenBatchSampler(Sampler[list[int]]):
    """Batches of sentences of like length, each of at most `max_tokens` tokens with its padding.

    A batch is a list of indices with `len(batch) * max(lengths in it) <= max_tokens`. The sentences are sorted by
    length, longest first, and cut greedily. Where the cuts fall depends on the sorted lengths alone, so the number of
    batches is the same in every epoch; each epoch shuffles sentences of equal length among each other, and then the
    order of the batches.

    Under `accelerate` (and so under the Trainer) the sampler works on any number of processes: `batch_size` is None,
    which makes `BatchSamplerShard` hand out whole batches in turn. Leave `even_batches` at True, its default: if the
    batches do not divide by the processes, the first ones are given out again at the end, so every process makes the
    same number of steps (with `drop_last=True` the remaining batches are left out instead). With `even_batches=False`
    the processes differ by one batch, and gradient synchronisation would wait for ever. `split_batches=True` needs
    batches of one size and raises. `gather_for_metrics` cannot tell the repeated batches: evaluate with a plain
    loader. The trainer must divide its loss by the number of tokens, since batches differ in size.

    Args:
        lengths: tokens of each sentence; for source and target together, their maximum.
        max_tokens: the bound on sentences times longest.
        seed: of the shuffling; the same on all processes.
        shuffle: False gives the batches longest first, in the same order always.
        drop_last: leave out the last batch cut (the shortest sentences) if it has room for another sentence of its
            longest length.

    Raises:
        ValueError: no lengths, a length below 1, a sentence longer than `max_tokens`, or nothing left by `drop_last`.

    Example:
        >>> lengths = [max(map(len, pair)) for pair in zip(features["input_ids"], features["labels"])]
        >>> loader = DataLoader(features, batch_sampler=TokenBatchSampler(lengths, 4096), collate_fn=collator)
    """

    batch_size = None  # for accelerate: batches differ in size

    def __init__(
        self, lengths: Sequence[int], max_tokens: int, *, seed: int = 0, shuffle: bool = True, drop_last: bool = False
    ):
        self.lengths = torch.as_tensor(list(lengths), dtype=torch.long)
        self.max_tokens, self.seed, self.shuffle, self.drop_last = max_tokens, seed, shuffle, drop_last
        self.epoch = 0
        self._check()
        self._cuts = self._cut()
        if not self._cuts:
            raise ValueError(
                f"found {len(self.lengths)} sentences that fill no batch of {max_tokens} tokens; expected one batch at "
                "least: lower max_tokens or use drop_last=False"
            )

    def _check(self) -> None:
        if not len(self.lengths):
            raise ValueError("found no lengths; expected one for each sentence")
        longest, shortest = int(self.lengths.argmax()), int(self.lengths.argmin())
        if self.lengths[shortest] < 1:
            raise ValueError(f"found length {int(self.lengths[shortest])} for sentence {shortest}; expected at least 1")
        if self.lengths[longest] > self.max_tokens:
            raise ValueError(
                f"found sentence {longest} with {int(self.lengths[longest])} tokens; expected at most "
                f"max_tokens={self.max_tokens}: raise it, or truncate to it"
            )

    def _cut(self) -> list[tuple[int, int]]:
        """(start, end) of each batch in the sentences sorted by length, longest first."""
        ordered = self.lengths.sort(descending=True).values.tolist()
        cuts, start = [], 0
        while start < len(ordered):
            room = self.max_tokens // ordered[start]
            if self.drop_last and start + room > len(ordered):
                break
            cuts.append((start, min(start + room, len(ordered))))
            start += room
        return cuts

    @property
    def sampler(self) -> TokenBatchSampler:
        """Itself: on several processes `accelerate` looks for `batch_sampler.sampler.set_epoch`, and nowhere else."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's shuffle. `accelerate`'s loaders call this at the start of each pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._cuts)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.arange(len(self.lengths))
        batch_order = list(range(len(self._cuts)))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
            order = torch.randperm(len(self.lengths), generator=generator)
            batch_order = torch.randperm(len(self._cuts), generator=generator).tolist()
        # A stable sort of a shuffled list shuffles exactly the ties.
        ranks = self.lengths[order].sort(descending=True, stable=True).indices
        ordered = order[ranks].tolist()
        for index in batch_order:
            start, end = self._cuts[index]
            yield ordered[start:end]
