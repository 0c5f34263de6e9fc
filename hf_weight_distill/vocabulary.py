r"""A smaller vocabulary: a teacher and its tokenizer, cut down to the tokens that a text uses.

The trimmed teacher is a stock model whose embeddings, output head and ``final_logits_bias`` hold the kept rows in their
old order, so that its logits are the teacher's on the kept tokens, and its softmax is the teacher's, renormalised:

.. math:: \mathrm{softmax}(z_K)_i = \frac{p_i}{\sum_{j \in K} p_j}, \qquad i \in K

Everything behind it (plan, start, Kullback-Leibler divergence, pseudo labels) then needs to know nothing of all this.

Why a text whose tokens are all kept is still cut into the same tokens:

* **Unigram** takes the segmentation of the highest score. Taking pieces away only takes competitors away, as long as no
  unknown character appears that was none before, and unknown characters cost as much as before. So the characters of
  kept pieces stay, and the piece of the lowest score, which the cost is counted from.
* **BPE** joins the neighbours of the best rank until none can be joined. Inside the bounds of a final token the same
  neighbours are joined in the same order as in that token alone. So the intermediate pieces of each kept token stay,
  down to its characters, and with them every merge that the text needs.

All other text falls back as the tokenizer does it: to smaller pieces, bytes where it has them, else the unknown token.
"""

import atexit
import copy
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset, IterableDataset
from sentencepiece import sentencepiece_model_pb2 as spm
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import AutoTokenizer, GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .config import Tokenizer, Vocab
from .families import family_of
from .plan import stock_student

KEPT_IDS = "kept_ids.json"
FROM_DATA = "from-data"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_MARIAN_CODE = re.compile(r">>.+<<")
_TABLES = ("vocab.json", "target_vocab.json")  # of tokenizers that are not one tokenizer.json: Marian, M2M100
_NORMAL = spm.ModelProto.SentencePiece.NORMAL


class Trimmed(NamedTuple):
    """A smaller teacher.

    Attributes:
        teacher: stock model with ``len(ids)`` tokens. It shares every other weight with the model it was cut from.
        tokenizer: of the same class as before, with the kept tokens.
        ids: ``ids[new] = old``.
    """

    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ids: list[int]


def trim_vocabulary(teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, keep: Iterable[int]) -> Trimmed:
    """Cuts a teacher and its tokenizer down to some tokens. Neither is changed.

    What must stay is added by itself: special and added tokens, language codes, bytes, every id that the configuration
    names, and the smaller pieces that kept tokens are made of.

    Args:
        teacher: a seq2seq model of a known family.
        tokenizer: the teacher's: Unigram or BPE, as one tokenizer.json or (Marian, M2M100) as SentencePiece models with
            a ``vocab.json``.
        keep: ids of tokens.

    Returns:
        Teacher and tokenizer. The tokenizer's files lie in a temporary folder until the process ends.

    Raises:
        ValueError: a tokenizer of another kind, or two vocabularies of different size.

    Example:
        >>> used = count_tokens(features, teacher.config.vocab_size).nonzero().flatten().tolist()  # doctest: +SKIP
        >>> small = trim_vocabulary(teacher, tokenizer, used)                                      # doctest: +SKIP
        >>> small.teacher.generate(**small.tokenizer("Two dogs run.", return_tensors="pt"))        # doctest: +SKIP
    """
    folder = Path(tempfile.mkdtemp(prefix="hf_weight_distill-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # slow tokenizers open their files again when copied
    save_trimmed(tokenizer, _Vocabulary(teacher, tokenizer).listed(keep), folder)
    return load_trimmed(teacher, tokenizer, folder)


def needs_text(vocab: Vocab) -> bool:
    """Whether only the training text can tell the tokens of ``StudentShape.vocab``."""
    return vocab == FROM_DATA or isinstance(vocab, int)


def count_tokens(features: Dataset | IterableDataset, size: int) -> Tensor:
    """How often each token occurs in sources and targets.

    Args:
        features: with ``input_ids`` and ``labels``; a stream is read once.
        size: of the vocabulary.

    Returns:
        Counts, shape ``(size,)``.
    """
    counts = torch.zeros(size, dtype=torch.long)
    for batch in features.iter(batch_size=1000):
        for column in ("input_ids", "labels"):
            counts += torch.bincount(torch.tensor(list(chain.from_iterable(batch[column]))), minlength=size)
    return counts


def choose_tokens(
    teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocab: Vocab, counts: Tensor | None = None
) -> list[int]:
    """The tokens of ``StudentShape.vocab``, with all that must stay.

    Args:
        teacher, tokenizer: as in :func:`trim_vocabulary`.
        vocab: ``"from-data"``: tokens that occur. A number: exactly so many, namely what must stay, the characters of
            tokens that occur (every word of the text can still be written), then tokens by their frequency, and where
            these run out by their id. A tokenizer, or its folder or repository: tokens that it has, too.
        counts: of :func:`count_tokens`, for the first two.

    Returns:
        ``ids[new] = old``.

    Raises:
        ValueError: a number below what must stay or above what there is, a tokenizer that cannot be loaded or that
            shares nothing.
    """
    vocabulary = _Vocabulary(teacher, tokenizer)
    if vocab == FROM_DATA:
        return vocabulary.listed(counts.nonzero().flatten().tolist())
    if isinstance(vocab, int):
        return vocabulary.listed(vocabulary.frequent(counts.tolist(), vocab))
    return vocabulary.listed(vocabulary.shared(_loaded(vocab) if isinstance(vocab, str) else vocab))


def _loaded(name: str) -> Tokenizer:
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, TypeError) as error:  # TypeError: no files there
        raise ValueError(
            f"vocab={name!r} is neither {FROM_DATA!r}, a number, nor a tokenizer's folder or Hub repository: {error}"
        ) from error


# --- what belongs together -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Segmenter:
    """What cuts text into pieces: a Unigram or a BPE model.

    Args:
        pieces: all of them.
        fixed: pieces that stay whatever the text.
        rank: of two neighbours to be joined, lowest first, ``None`` if they are not; Unigram joins nothing.
    """

    pieces: frozenset[str]
    fixed: frozenset[str]
    rank: Callable[[str, str], float | None] | None = None

    def parts(self, token: str) -> set[str]:
        """The pieces that must stay with a token: its characters, and what BPE joins them to on the way."""
        if token not in self.pieces:
            return set()
        symbols, seen = list(token), set(token)
        while self.rank is not None:
            ranks = [self.rank(*pair) for pair in pairwise(symbols)]
            joined = [(rank, at) for at, rank in enumerate(ranks) if rank is not None]
            if not joined:
                break
            at = min(joined)[1]  # of equal ranks the leftmost
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            seen.add(symbols[at])
        return seen & self.pieces

    def closed(self, tokens: Iterable[str]) -> set[str]:
        """Tokens of this model with their parts, and what is fixed."""
        kept = self.fixed | (self.pieces & set(tokens))
        return set(kept).union(*map(self.parts, kept))


def _fast_segmenter(state: dict[str, Any]) -> _Segmenter:
    """Of a tokenizer.json."""
    model = state["model"]
    if model["type"] == "Unigram":
        scores = dict(map(tuple, model["vocab"]))
        unknown = [piece for piece, _ in model["vocab"][model["unk_id"] :][:1]]
        return _unigram(scores, scores, [*unknown, *filter(_BYTE.fullmatch, scores)])
    if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ValueError(
            f"the tokenizer is a {model['type']} model; only Unigram and BPE (without prefixes and suffixes of words) "
            "can be trimmed: leave vocab out"
        )
    ranks = {_pair(merge): rank for rank, merge in enumerate(model["merges"])}
    byte_level = '"ByteLevel"' in json.dumps(state["pre_tokenizer"])
    letters = {model["unk_token"], *(ByteLevel.alphabet() if byte_level else ())}
    pieces = frozenset(model["vocab"])
    fixed = frozenset(piece for piece in pieces if piece in letters or _BYTE.fullmatch(piece))
    return _Segmenter(pieces, fixed, lambda left, right: ranks.get((left, right)))


def _spm_segmenter(proto: spm.ModelProto) -> _Segmenter:
    """Of a SentencePiece model."""
    scores = {piece.piece: piece.score for piece in proto.pieces}
    normal = {piece.piece: piece.score for piece in proto.pieces if piece.type == _NORMAL}
    kind = proto.trainer_spec.model_type
    if kind == spm.TrainerSpec.UNIGRAM:
        return _unigram(scores, normal, scores.keys() - normal.keys())
    if kind != spm.TrainerSpec.BPE:
        raise ValueError("the tokenizer's SentencePiece model is neither Unigram nor BPE: leave vocab out")

    def rank(left: str, right: str) -> float | None:
        score = scores.get(left + right)
        return None if score is None else -score

    return _Segmenter(frozenset(scores), frozenset(scores.keys() - normal.keys()), rank)


def _unigram(scores: Mapping[str, float], normal: Mapping[str, float], fixed: Iterable[str]) -> _Segmenter:
    """Unknown characters are scored by the lowest score, user-defined pieces by the highest: both stay."""
    extremes = {choose(normal, key=normal.get) for choose in (min, max)}
    return _Segmenter(frozenset(scores), frozenset({*fixed, *extremes}))


def _begin_words(pieces: Iterable[str]) -> bool:
    """Whether any of them begins a word, as SentencePiece or byte-level BPE marks it."""
    return any(len(piece) > 1 and piece[0] in "\u2581\u0120" for piece in pieces)


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """Older files have merges as one text."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


@dataclass(frozen=True)
class _Table:
    """Tokens and ids, and what cuts text into these tokens."""

    ids: dict[str, int]
    segmenters: list[_Segmenter]


class _Vocabulary:
    """The tokens of a teacher's tokenizer, and what must stay of them.

    Marian may have a table of its own for the target, with the same ids for other tokens: an id stays if either side
    needs it.
    """

    def __init__(self, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        self.teacher, self.tokenizer = teacher, tokenizer
        self.tables = _read_tables(tokenizer)
        codes = dict(getattr(tokenizer, "lang_token_to_id", {}))  # M2M100's are in no file
        self.tables[0].ids.update(codes)
        self.whole = {*map(str, tokenizer.added_tokens_decoder.values()), *codes}  # found before text is cut
        if type(tokenizer).__name__ == "MarianTokenizer":  # >>de<<; those of separate vocabularies it does not list
            self.whole |= {name for table in self.tables for name in table.ids if _MARIAN_CODE.fullmatch(name)}
        rows = teacher.config.vocab_size  # bart-large-cnn has none for its mask token
        self.names = [{number: name for name, number in t.ids.items() if number < rows} for t in self.tables]
        self.known = set().union(*self.names)
        self._parts: dict[int, set[int]] = {}

    def listed(self, ids: Iterable[int]) -> list[int]:
        """``ids[new] = old``, with all that must stay: tokens in their order, then rows without a token."""
        return sorted(self.closed({*ids, *self.must_stay()}), key=lambda number: (number not in self.known, number))

    def frequent(self, counts: Sequence[int], size: int) -> set[int]:
        """So many tokens: what must stay, the characters of the text, then by frequency."""
        kept = self.closed(self.must_stay() | self._characters(number for number in self.known if counts[number]))
        most = min(len(self.known | kept), self.teacher.config.vocab_size - 1)
        if not len(kept) <= size <= most:
            raise ValueError(
                f"vocab={size}: {len(kept)} tokens must stay (special tokens, language codes, bytes, the characters of "
                f"the training text), and fewer than the teacher's {self.teacher.config.vocab_size} are to: give a "
                f"number from {len(kept)} to {most}"
            )
        for token in sorted(self.known, key=lambda number: (-counts[number], number)):
            more = self.closed([token]) - kept
            if len(kept) + len(more) <= size:
                kept |= more
            if len(kept) == size:
                break
        return kept

    def shared(self, other: Tokenizer) -> set[int]:
        """Tokens that another tokenizer has, too."""
        wanted = set(other.get_vocab())
        shared = self._ids(lambda segmenter: segmenter.pieces & wanted)
        own = set().union(*(segmenter.pieces for table in self.tables for segmenter in table.segmenters))
        if shared <= self.must_stay():
            reason = f"of its {len(wanted)} tokens the teacher's tokenizer has only special ones"
        elif _begin_words(own) and not _begin_words(own & wanted):
            reason = "it marks where words begin in another way than the teacher's tokenizer, whose words would be cut"
        else:
            return shared
        raise ValueError(
            f"vocab={other.name_or_path!r}: {reason}; give a tokenizer of the same kind, a number, or 'from-data'"
        )

    def closed(self, ids: Iterable[int]) -> set[int]:
        """Tokens and all that they are made of."""
        closed, todo = set(), list(ids)
        while todo:
            number = todo.pop()
            if number not in closed:
                closed.add(number)
                todo += self._parts_of(number)
        return closed

    def must_stay(self) -> set[int]:
        """Special and added tokens, language codes, bytes, what the segmentation hangs on, what the settings name."""
        kept = {*self.tokenizer.all_special_ids, *self.tokenizer.added_tokens_decoder}
        kept |= {table.ids[token] for table in self.tables for token in self.whole & table.ids.keys()}
        kept |= self._ids(lambda segmenter: segmenter.fixed)
        for settings in (self.teacher.config, self.teacher.generation_config):
            _renumber(settings, lambda number: kept.add(number) or number)  # only listens
        if self.teacher.config.model_type == "m2m_100":  # counts positions from the padding id, which must not move
            kept |= set(range(self.teacher.config.pad_token_id))
        rows = range(self.teacher.config.vocab_size)
        return {number for number in kept if number in rows}

    def _parts_of(self, number: int) -> set[int]:
        if number not in self._parts:
            names = self._names_of(number)
            self._parts[number] = self._ids(lambda segmenter: set().union(*map(segmenter.parts, names)))
        return self._parts[number]

    def _characters(self, ids: Iterable[int]) -> set[int]:
        """Tokens of one character that occur in these tokens."""
        characters = set().union(*chain.from_iterable(map(self._names_of, ids)))
        return self._ids(lambda segmenter: segmenter.pieces & characters)

    def _names_of(self, number: int) -> set[str]:
        """Without those that are never cut."""
        return {names[number] for names in self.names if number in names} - self.whole

    def _ids(self, pieces: Callable[[_Segmenter], Set[str]]) -> set[int]:
        """Ids of the pieces that a function takes from each segmenter."""
        return {t.ids[name] for t in self.tables for s in t.segmenters for name in pieces(s) if name in t.ids}


def _read_tables(tokenizer: PreTrainedTokenizerBase) -> list[_Table]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer.save_pretrained(folder)
        if (folder / "tokenizer.json").exists():
            state = _read_json(folder / "tokenizer.json")
            return [_Table(_fast_ids(state), [_fast_segmenter(state)])]
        tables = {file: _Table(_read_json(folder / file), []) for file in _TABLES if (folder / file).exists()}
        for file in _spm_files(folder) if tables else ():
            tables[_table_of(file)].segmenters.append(_spm_segmenter(_read_spm(file)))
        if not tables or not all(table.segmenters for table in tables.values()):
            raise ValueError(
                f"a {type(tokenizer).__name__} has neither a tokenizer.json nor a vocab.json with SentencePiece "
                "models, so that it cannot be trimmed: leave vocab out"
            )
        return list(tables.values())


def _fast_ids(state: dict[str, Any]) -> dict[str, int]:
    vocab = state["model"]["vocab"]
    ids = {entry[0]: i for i, entry in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
    return ids | {token["content"]: token["id"] for token in state["added_tokens"]}


def _spm_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in (".spm", ".model"))


def _table_of(file: Path) -> str:
    """Name of the table that holds the ids of a SentencePiece model's pieces."""
    own = file.name.startswith("target") and (file.parent / _TABLES[1]).exists()
    return _TABLES[own]


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _read_spm(file: Path) -> spm.ModelProto:
    return spm.ModelProto.FromString(file.read_bytes())


# --- the tokenizer ---------------------------------------------------------------------------------------------------


def save_trimmed(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], folder: Path) -> None:
    """Writes the trimmed tokenizer, and the kept ids beside it.

    Args:
        tokenizer: the whole one.
        ids: ``ids[new] = old``, of :func:`choose_tokens`.
        folder: exists.
    """
    tokenizer.save_pretrained(folder)
    numbers = {old: new for new, old in enumerate(ids)}
    tables = [file for name in (*_TABLES, "added_tokens.json") if (file := folder / name).exists()]
    if (folder / "tokenizer.json").exists():
        _edit_json(folder / "tokenizer.json", lambda state: _trim_state(state, numbers))
        for file in (*tables, *_spm_files(folder), folder / "merges.txt"):
            file.unlink(missing_ok=True)  # the whole vocabulary once more, from older versions of transformers
    else:
        for file in tables:
            _edit_json(file, lambda table: {t: numbers[i] for t, i in table.items() if i in numbers})
        for file in _spm_files(folder):
            _trim_spm(file, _read_json(folder / _table_of(file)))
    _edit_json(folder / "tokenizer_config.json", lambda config: _renumber_added(config, numbers))
    (folder / KEPT_IDS).write_text(json.dumps(list(ids)), encoding="utf-8")


def load_trimmed(teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Trimmed:
    """Trims a teacher to a tokenizer that :func:`save_trimmed` wrote.

    Args:
        teacher, tokenizer: the whole ones.
        folder: of the trimmed tokenizer.

    Raises:
        ValueError: they are not what the folder was made from, or the tokenizer's class numbers tokens in its own way.
    """
    ids = _read_json(folder / KEPT_IDS)
    if max(ids) >= teacher.config.vocab_size:
        raise ValueError(
            f"{str(folder)!r} keeps token {max(ids)} of a teacher that has {teacher.config.vocab_size}: it was made "
            "for another one; delete it, or load its teacher"
        )
    return Trimmed(_trim_model(teacher, ids), _load_tokenizer(tokenizer, ids, folder), ids)


def _load_tokenizer(whole: PreTrainedTokenizerBase, ids: Sequence[int], folder: Path) -> PreTrainedTokenizerBase:
    trimmed = type(whole).from_pretrained(folder)
    for new, old in enumerate(ids):
        if old >= len(whole):
            continue  # a row without a token
        expected, found = whole.convert_ids_to_tokens(old), trimmed.convert_ids_to_tokens(new)
        if found != expected:
            raise ValueError(
                f"the trimmed {type(whole).__name__} has {found!r} where {expected!r} should be (id {new}): the folder "
                f"{str(folder)!r} was made from another tokenizer, or its class numbers tokens in a way of its own"
            )
    return trimmed


def _edit_json(file: Path, edit: Callable[[Any], Any]) -> None:
    file.write_text(json.dumps(edit(_read_json(file)), ensure_ascii=False, indent=2), encoding="utf-8")


def _trim_state(state: dict[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    """A tokenizer.json with the kept tokens."""
    model = state["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [entry for old, entry in enumerate(model["vocab"]) if old in numbers]
        model["unk_id"] = numbers.get(model["unk_id"])
    else:
        vocab = model["vocab"] = {token: numbers[old] for token, old in model["vocab"].items() if old in numbers}
        pairs = map(_pair, model["merges"])
        model["merges"] = [[a, b] for a, b in pairs if a in vocab and b in vocab and a + b in vocab]
    state["added_tokens"] = [t | {"id": numbers[t["id"]]} for t in state["added_tokens"] if t["id"] in numbers]
    state["post_processor"] = _renumber_post_processor(state["post_processor"], numbers)
    state["truncation"] = state["padding"] = None  # left behind by the last call
    return state


def _renumber_post_processor(part: Any, numbers: Mapping[int, int]) -> Any:
    """Templates name ids in ``ids``, the processors of BERT and RoBERTa as ``[token, id]``."""
    if not isinstance(part, dict):
        return part
    part = dict(part)
    for key, value in part.items():
        if key == "special_tokens":
            part[key] = {t: v | {"ids": [numbers[i] for i in v["ids"]]} for t, v in value.items()}
        elif key in ("sep", "cls"):
            part[key] = [value[0], numbers[value[1]]]
        elif key == "processors":
            part[key] = [_renumber_post_processor(inner, numbers) for inner in value]
    return part


def _renumber_added(config: dict[str, Any], numbers: Mapping[int, int]) -> dict[str, Any]:
    """A tokenizer_config.json with the new ids of added tokens."""
    added = config.get("added_tokens_decoder")
    if added is not None:
        config["added_tokens_decoder"] = {
            str(numbers[int(old)]): token for old, token in added.items() if int(old) in numbers
        }
    return config


def _trim_spm(file: Path, tokens: Iterable[str]) -> None:
    """A SentencePiece model with the pieces of the kept tokens."""
    proto = _read_spm(file)
    kept = _spm_segmenter(proto).closed(tokens)
    pieces = [piece for piece in proto.pieces if piece.piece in kept]
    # a new message, without the old one's examples for a self-test, which the trimmed model would fail
    specs = {part.name: value for part, value in proto.ListFields() if part.name.endswith("_spec")}
    file.write_bytes(spm.ModelProto(pieces=pieces, **specs).SerializeToString())


# --- the model -------------------------------------------------------------------------------------------------------


def _trim_model(teacher: PreTrainedModel, ids: Sequence[int]) -> PreTrainedModel:
    """A stock model with the kept rows; every other tensor is shared, and ties are the teacher's."""
    family, config = family_of(teacher.config), copy.deepcopy(teacher.config)
    if getattr(config, "decoder_vocab_size", None) not in (None, config.vocab_size):
        raise ValueError(
            f"the teacher has {config.vocab_size} source and {config.decoder_vocab_size} target tokens; two "
            "vocabularies can be trimmed only if they are of one size: leave vocab out"
        )
    for name in ("vocab_size", "decoder_vocab_size"):
        if getattr(config, name, None) is not None:
            setattr(config, name, len(ids))
    numbers = {old: new for new, old in enumerate(ids)}
    _renumber(config, lambda old: numbers.get(old, old))
    trimmed = stock_student(teacher, config, device="meta")
    by_token = {c.path for c in family.classes if c.axes[0] == "vocab"}
    rows, made = torch.tensor(ids), {}
    for name, old in chain(teacher.named_parameters(remove_duplicate=False), teacher.named_buffers()):
        if id(old) not in made:
            made[id(old)] = _rows(old, rows, 0 if name in by_token else 1 if name in family.copied else None)
        owner, _, attribute = name.rpartition(".")
        setattr(trimmed.get_submodule(owner), attribute, made[id(old)])
    trimmed.generation_config = copy.deepcopy(teacher.generation_config)
    _renumber(trimmed.generation_config, lambda old: numbers.get(old, old))
    trimmed.name_or_path = teacher.name_or_path  # of an adapter, where the configuration names its base
    return trimmed.train(teacher.training)


def _rows(old: Tensor, rows: Tensor, axis: int | None) -> Tensor:
    """Some rows of a tensor, or the tensor itself; a parameter stays one, of its own, so that it can be moved alone."""
    values = old.detach() if axis is None else old.detach().index_select(axis, rows.to(old.device))
    return nn.Parameter(values, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else values


_ID_LISTS = ("bad_words_ids", "force_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias")


def _renumber(settings: PretrainedConfig | GenerationConfig, number: Callable[[int], int]) -> None:
    """Gives every token id in a configuration a new number, in place."""
    for name, value in list(vars(settings).items()):
        new = _renumbered(name, value, number)
        if new != value:
            setattr(settings, name, new)


def _renumbered(name: str, value: Any, number: Callable[[int], int]) -> Any:
    if name.endswith("_token_id") or name in _ID_LISTS:
        return _mapped(value, number)
    if isinstance(value, dict):  # task_specific_params
        return {key: _renumbered(str(key), inner, number) for key, inner in value.items()}
    return value


def _mapped(value: Any, number: Callable[[int], int]) -> Any:
    """Ids in lists of any depth. Biases of sequences are floats and stay."""
    if isinstance(value, list | tuple):
        return type(value)(_mapped(inner, number) for inner in value)
    if isinstance(value, dict):
        return {_mapped(key, number): bias for key, bias in value.items()}
    return number(value) if isinstance(value, int) and not isinstance(value, bool) else value
