"""A trimmed vocabulary: the same pieces, the same logits, stock files; on real tiny tokenizers of every kind."""

import copy
import functools
import io
import json
import re
import shlex
import socket
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import torch
import yaml
from datasets import Dataset
from huggingface_hub import ModelCard
from models import BART_LIKE, T5_LIKE
from tiny import tiny_marian_model, tiny_marian_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BartTokenizer,
    ByT5Tokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    M2M100Tokenizer,
    MarianConfig,
    MarianMTModel,
    MarianTokenizer,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    MT5Config,
    MT5ForConditionalGeneration,
    NllbTokenizer,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PegasusTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
    TokenizersBackend,
    UMT5Config,
    UMT5ForConditionalGeneration,
)
from transformers.convert_slow_tokenizer import generate_merges
from transformers.modeling_outputs import Seq2SeqLMOutput

from hf_weight_distill import StudentShape, WeightDistillConfig, WeightDistiller, WeightDistillTrainer, export
from hf_weight_distill import data as data_module
from hf_weight_distill.cli import main
from hf_weight_distill.corpus import built_in_corpus
from hf_weight_distill.evaluation import compute_scores, make_compute_metrics, translate
from hf_weight_distill.languages import set_languages
from hf_weight_distill.objectives.kl import KLDivergence
from hf_weight_distill.plan import tensors_of
from hf_weight_distill.vocabulary import (
    _renumber_post_processor,
    choose_tokens,
    count_tokens,
    load_trimmed,
    save_trimmed,
    trim_vocabulary,
)

PAIRS = built_in_corpus(300, 4, 4)["train"]["translation"]
SOURCES, TARGETS = ([pair[side] for pair in PAIRS] for side in ("en", "de"))
SMALL = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 128}
STRANGE = ("Qwxyz the dog 犬 🐕 <0x41>", "Zwölf Boxkämpfer jagen Viktor", ">>de<< __de__ <extra_id_0>", "  ", "")


# --- tokenizers as the public checkpoints have them, only small ------------------------------------------------------


def spm(text, kind, size=500, **options):
    """A SentencePiece model, in bytes."""
    writer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=writer,
        model_type=kind,
        vocab_size=size,
        hard_vocab_limit=kind != "unigram",
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return writer.getvalue()


def pieces_of(data):
    model = sentencepiece.SentencePieceProcessor(model_proto=data)
    return {model.id_to_piece(i): model.get_score(i) for i in range(model.get_piece_size())}


def marian(folder, kind="unigram", separate=False):
    sides = {"source": spm(SOURCES, kind, bos_id=-1), "target": spm(TARGETS, kind, bos_id=-1)}
    for name, data in sides.items():
        (folder / f"{name}.spm").write_bytes(data)
    special = ("</s>", "<unk>")
    tables = [[p for p in pieces_of(data) if p not in special] for data in sides.values()]
    if not separate:
        tables = [list(dict.fromkeys(tables[0] + tables[1]))]
    longest = max(map(len, tables))
    tables = [[*special, ">>de<<", *t, *(f"madeup{i}" for i in range(longest - len(t))), "<pad>"] for t in tables]
    for name, table in zip(("vocab.json", "target_vocab.json"), tables, strict=False):
        (folder / name).write_text(json.dumps({piece: i for i, piece in enumerate(table)}))
    return MarianTokenizer(
        str(folder / "source.spm"),
        str(folder / "target.spm"),
        str(folder / "vocab.json"),
        target_vocab_file=str(folder / "target_vocab.json") if separate else None,
        separate_vocabs=separate,
    )


def m2m100(folder, marked=False):
    data = spm(SOURCES + TARGETS, "bpe", bos_id=0, pad_id=1, eos_id=2, unk_id=3)
    (folder / "spm.model").write_bytes(data)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces_of(data))}))
    codes = {"additional_special_tokens": [f"__{code}__" for code in _languages()]} if marked else {}
    languages = {"src_lang": "en", "tgt_lang": "de"}
    return M2M100Tokenizer(str(folder / "vocab.json"), str(folder / "spm.model"), **languages, **codes)


def _languages():
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

    return FAIRSEQ_LANGUAGE_CODES["m2m100"]


def nllb(folder):
    codes = ["ace_Latn", "deu_Latn", "eng_Latn", "zul_Latn"]
    scores = {p: s for p, s in pieces_of(spm(SOURCES + TARGETS, "bpe")).items() if p not in ("<unk>", "<s>", "</s>")}
    names = ["<s>", "<pad>", "</s>", "<unk>", *scores, *codes, "<mask>"]
    vocab = {name: i for i, name in enumerate(names)}
    merges = generate_merges(scores, scores)
    options = {"extra_special_tokens": codes, "src_lang": "eng_Latn", "tgt_lang": "deu_Latn"}
    return NllbTokenizer(vocab=vocab, merges=merges, **options)


def from_spm(cls, name, **options):
    def build(folder):
        training = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1} if name == "spiece.model" else {}
        (folder / name).write_bytes(spm(SOURCES + TARGETS, "unigram", **training))
        return cls.from_pretrained(folder, **options)

    return build


def bytes_unigram(folder):
    """UMT5's: a bare tokenizer.json, here with bytes for what has no piece, and the end token as the last."""
    scores = pieces_of(spm(SOURCES + TARGETS, "unigram", pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, byte_fallback=True))
    backend = Tokenizer(models.Unigram(list(scores.items()), unk_id=1, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<pad>", "<unk>", "<extra_id_0>", "</s>"])
    return TokenizersBackend(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", add_eos_token=True
    )


def byte_level_bpe(folder):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, initial_alphabet=letters, show_progress=False)
    backend.train_from_iterator(SOURCES + TARGETS, trainer)
    state = json.loads(backend.to_str())["model"]
    vocab = state["vocab"] | {"<mask>": len(state["vocab"])}
    return BartTokenizer(vocab=vocab, merges=[tuple(merge) for merge in state["merges"]])


def bart_like(config, model, **more):
    def build(tokenizer, rows):
        ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
        start = tokenizer.pad_token_id if config is MarianConfig else tokenizer.eos_token_id
        ids |= {"decoder_start_token_id": start, "forced_eos_token_id": tokenizer.eos_token_id}
        return model(config(**BART_LIKE | SMALL | ids | {"vocab_size": rows} | more))

    return build


def t5_like(config, model, untied=False):
    def build(tokenizer, rows):
        shape = {"vocab_size": rows, "num_layers": 1, "num_decoder_layers": 1}
        t5 = model(config(**T5_LIKE | shape | {"eos_token_id": tokenizer.eos_token_id}))
        if untied:
            t5.lm_head.weight = torch.nn.Parameter(torch.randn_like(t5.shared.weight))
            del t5.all_tied_weights_keys["lm_head.weight"]
        return t5

    return build


MARIAN = bart_like(MarianConfig, MarianMTModel)
APART = bart_like(MarianConfig, MarianMTModel, share_encoder_decoder_embeddings=False, tie_word_embeddings=False)
M2M100 = bart_like(M2M100Config, M2M100ForConditionalGeneration, encoder_layerdrop=0.0, decoder_layerdrop=0.0)
MBART = bart_like(MBartConfig, MBartForConditionalGeneration)
CASES = {  # tokenizer, model, rows of the embedding beyond the tokens
    "marian": (marian, MARIAN, 0),
    "marian-bpe": (functools.partial(marian, kind="bpe"), MARIAN, 0),
    "marian-separate": (functools.partial(marian, separate=True), APART, 0),
    "m2m100": (m2m100, M2M100, 8 + len(_languages())),
    "m2m100-marked": (functools.partial(m2m100, marked=True), M2M100, 8),
    "nllb": (nllb, M2M100, 2),
    "mbart": (from_spm(MBartTokenizer, "sentencepiece.bpe.model", src_lang="en_XX", tgt_lang="de_DE"), MBART, 0),
    "mbart50": (from_spm(MBart50Tokenizer, "sentencepiece.bpe.model", src_lang="en_XX", tgt_lang="de_DE"), MBART, 0),
    "pegasus": (
        from_spm(PegasusTokenizer, "spiece.model"),
        bart_like(PegasusConfig, PegasusForConditionalGeneration),
        0,
    ),
    "t5": (from_spm(T5Tokenizer, "spiece.model", extra_ids=5), t5_like(T5Config, T5ForConditionalGeneration), 28),
    "mt5": (
        from_spm(T5Tokenizer, "spiece.model", extra_ids=5),
        t5_like(MT5Config, MT5ForConditionalGeneration, untied=True),
        12,
    ),
    "umt5-bytes": (bytes_unigram, t5_like(UMT5Config, UMT5ForConditionalGeneration), 3),
    "bart": (byte_level_bpe, bart_like(BartConfig, BartForConditionalGeneration), 0),
    "bart-large-cnn": (byte_level_bpe, bart_like(BartConfig, BartForConditionalGeneration), -1),  # <mask> has no row
}


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """``teachers(case)``: a random teacher and its tokenizer, as loaded from a folder."""

    @functools.cache
    def load(case):
        make_tokenizer, make_model, empty_rows = CASES[case]
        raw, folder = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp(case)
        tokenizer = make_tokenizer(raw)
        torch.manual_seed(0)
        model = make_model(tokenizer, len(tokenizer) + empty_rows)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.3 * torch.randn_like(parameter))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_()
        last = min(len(tokenizer), model.config.vocab_size) - 1
        model.generation_config.bad_words_ids = [[tokenizer.pad_token_id], [last, 5]]
        model.generation_config.suppress_tokens = [last]
        model.config.task_specific_params = {"translation": {"decoder_start_token_id": last, "num_beams": 4}}
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    return load


@pytest.fixture(scope="module")
def trimmed(teachers):
    """``trimmed(case)``: teacher, tokenizer, and both trimmed to the first 30 pairs of the corpus."""

    @functools.cache
    def trim(case):
        teacher, tokenizer = teachers(case)
        ids = tokenizer(SOURCES[:30])["input_ids"] + tokenizer(text_target=TARGETS[:30])["input_ids"]
        return teacher, tokenizer, trim_vocabulary(teacher, tokenizer, set(sum(ids, [])))

    return trim


def inputs_of(tokenizer, sources, targets, **options):
    batch = tokenizer(sources, text_target=targets, padding=True, return_tensors="pt", **options)
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "decoder_input_ids": batch["labels"],
    }


def numbered(ids, small):
    """Old ids as new ones."""
    numbers = {old: new for new, old in enumerate(small.ids)}
    return ids.clone().apply_(numbers.__getitem__)


@pytest.mark.parametrize("case, code", [("nllb", "deu_Latn"), ("mbart", "de_DE"), ("mbart50", "de_DE")])
def test_a_language_is_no_piece_of_a_word(case, code, teachers):
    teacher, tokenizer = (copy.deepcopy(part) for part in teachers(case))
    set_languages(tokenizer, teacher, None, code)
    assert tokenizer.tgt_lang == code
    piece = next(token for token, i in tokenizer.get_vocab().items() if i not in tokenizer.added_tokens_decoder)
    with pytest.raises(ValueError, match="does not know this language"):
        set_languages(tokenizer, teacher, None, piece)


# --- the same teacher, only smaller ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_text_of_kept_tokens_has_the_same_pieces(case, trimmed):
    _, tokenizer, small = trimmed(case)
    sources, targets = SOURCES[:120], TARGETS[:120]
    strange = [text[: n % 30] + "犬" + text[n % 30 :] for n, text in enumerate(sources)]
    texts = [{"text": text} for text in sources + strange] + [{"text_target": text} for text in targets]
    covered = 0
    for how in texts:
        old = tokenizer(**how)["input_ids"]
        if set(old) <= set(small.ids):
            covered += 1
            assert [small.ids[i] for i in small.tokenizer(**how)["input_ids"]] == old, how
    assert covered > 75  # 60 were counted


@pytest.mark.parametrize("case", CASES)
def test_logits_are_the_whole_teachers_on_the_kept_tokens(case, trimmed):
    teacher, tokenizer, small = trimmed(case)
    assert len(small.ids) == small.teacher.config.vocab_size < teacher.config.vocab_size - 20
    old = inputs_of(tokenizer, SOURCES[:8], TARGETS[:8])
    new = inputs_of(small.tokenizer, SOURCES[:8], TARGETS[:8])
    assert all(torch.equal(new[name], numbered(old[name], small)) for name in ("input_ids", "decoder_input_ids"))
    with torch.no_grad():
        expected, found = teacher(**old).logits[..., small.ids], small.teacher(**new).logits
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_stock_classes_load_it_and_generate_what_the_teacher_would(case, trimmed, tmp_path):
    teacher, tokenizer, small = trimmed(case)
    small.teacher.save_pretrained(tmp_path)
    small.tokenizer.save_pretrained(tmp_path)
    model, own = AutoModelForSeq2SeqLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert (type(model), type(own)) == (type(teacher), type(tokenizer))
    batch = tokenizer(SOURCES[:6], padding=True, return_tensors="pt")
    dropped = sorted(set(range(teacher.config.vocab_size)) - set(small.ids))
    options = {"max_new_tokens": 8, "num_beams": 1, "max_length": None}
    suppressed = teacher.generation_config.suppress_tokens + dropped
    expected = teacher.generate(**batch, **options, suppress_tokens=suppressed)
    found = model.generate(**own(SOURCES[:6], padding=True, return_tensors="pt"), **options)
    assert torch.equal(found, numbered(expected, small))
    assert own.batch_decode(found) == tokenizer.batch_decode(expected)


@pytest.mark.parametrize("case", CASES)
def test_other_text_falls_back_as_the_tokenizer_does(case, trimmed):
    _, tokenizer, small = trimmed(case)
    letters = sorted({c for text in SOURCES[:30] for c in text if c.isalpha()})
    for text in (*STRANGE, "".join(letters), "".join(reversed(letters))):
        for how in ({"text": text}, {"text_target": text}):
            ids = small.tokenizer(**how)["input_ids"]
            assert all(0 <= i < len(small.ids) for i in ids)
            small.tokenizer.decode(ids)
    word = "".join(letters[n] for n in torch.randperm(len(letters)).tolist())
    assert small.tokenizer.unk_token_id not in small.tokenizer(word)["input_ids"]  # characters of the text are kept
    has_bytes = case.startswith(("umt5-bytes", "bart"))
    for one in (tokenizer, small.tokenizer):
        ids = one("犬 🐕")["input_ids"]
        assert (one.unk_token_id in ids) != has_bytes
        assert (one.decode(ids, skip_special_tokens=True).strip() == "犬 🐕") == has_bytes


@pytest.mark.parametrize("case", CASES)
def test_what_is_special_stays_and_settings_name_the_same_tokens(case, trimmed):
    teacher, tokenizer, small = trimmed(case)
    special = {*tokenizer.all_special_tokens, *map(str, tokenizer.added_tokens_decoder.values())}
    special |= {*getattr(tokenizer, "lang_token_to_id", ()), *getattr(tokenizer, "supported_language_codes", ())}
    if case == "bart-large-cnn":  # the one special token without a row has none here either
        special -= {tokenizer.mask_token}
        assert small.tokenizer.mask_token_id == len(small.ids)
    assert special
    for token in special:
        assert small.ids[small.tokenizer.convert_tokens_to_ids(token)] == tokenizer.convert_tokens_to_ids(token)
    for name in ("bad_words_ids", "suppress_tokens", "eos_token_id", "decoder_start_token_id", "pad_token_id"):
        for side in ("config", "generation_config"):
            old, new = (getattr(getattr(model, side), name, None) for model in (teacher, small.teacher))
            flat = [
                torch.tensor(sum(x, []) if isinstance(x, list) and isinstance(x[0], list) else x)
                for x in (old, new)
                if x is not None
            ]
            assert len(flat) in (0, 2) and (not flat or torch.equal(numbered(flat[0], small), flat[1]))
    start = small.teacher.config.task_specific_params["translation"]["decoder_start_token_id"]
    last = min(len(tokenizer), teacher.config.vocab_size) - 1
    assert small.ids[start] == last
    assert teacher.generation_config.bad_words_ids[1] == [last, 5]  # the teacher keeps its own


@pytest.mark.parametrize("case", ["marian", "mt5", "nllb"])
def test_ties_stay_and_only_what_hangs_on_the_vocabulary_is_copied(case, trimmed):
    teacher, _, small = trimmed(case)
    old, new = (dict(model.named_parameters(remove_duplicate=False)) for model in (teacher, small.teacher))
    assert old.keys() == new.keys() and set(tensors_of(teacher)) == set(tensors_of(small.teacher))
    ties = [{frozenset(b for b in p if p[a] is p[b]) for a in p} for p in (old, new)]
    assert ties[0] == ties[1]
    for name, parameter in new.items():
        by_token = len(small.ids) in parameter.shape
        assert parameter.requires_grad == old[name].requires_grad
        assert (parameter.data_ptr() == old[name].data_ptr()) != by_token, name


@pytest.mark.parametrize("case", ["m2m100", "nllb", "mbart", "mbart50"])
def test_the_languages_that_were_set_stay_set(case, teachers, tmp_path):
    teacher, tokenizer = (copy.deepcopy(part) for part in teachers(case))
    source, target = {"m2m100": ("zu", "af"), "nllb": ("zul_Latn", "ace_Latn")}.get(case, ("ro_RO", "tr_TR"))
    tokenizer.src_lang, tokenizer.tgt_lang = source, target
    small = trim_vocabulary(teacher, tokenizer, [])
    old, new = ([t(text="")["input_ids"], t(text_target="")["input_ids"]] for t in (tokenizer, small.tokenizer))
    assert [[small.ids[i] for i in ids] for ids in new] == old
    assert old[0] != old[1]
    teacher.generation_config.forced_bos_token_id = old[1][0] if case != "mbart" else None
    distiller = WeightDistiller(teacher, tokenizer, student=StudentShape(encoder_layers=1))
    distiller.save_pretrained(tmp_path / "student")
    card = ModelCard.load(tmp_path / "student" / "README.md")
    assert card.data.language == [source.partition("_")[0], target.partition("_")[0]]
    assert f"src_lang={source!r}" in card.text and (f"It writes `{target}`" in card.text) == (case != "mbart")


def test_positions_of_m2m100_count_from_the_padding_id_which_stays_where_it_is():
    pieces = [("unused", -5.0), ("<pad>", 0.0), ("<unk>", 0.0), ("a", -2.0), ("lowest", -9.0), ("gone", -3.0)]
    backend = Tokenizer(models.Unigram(pieces, 2))
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<unk>"}
    tokenizer = TokenizersBackend(tokenizer_object=backend, **special)
    teacher = M2M100(tokenizer, 9).eval().requires_grad_(False)
    small = trim_vocabulary(teacher, tokenizer, [3])
    batch = {"input_ids": torch.tensor([[3, 3, 2]]), "decoder_input_ids": torch.tensor([[2, 3]])}
    expected, found = teacher(**batch).logits[..., small.ids], small.teacher(**batch).logits
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert small.ids == [0, 1, 2, 3, 4] and not any(p.requires_grad for p in small.teacher.parameters())


# --- which tokens ----------------------------------------------------------------------------------------------------


def counted(tokenizer, size, pairs=30, **limits):
    """Naively."""
    counts = [0] * size
    for source, target in zip(SOURCES[:pairs], TARGETS[:pairs], strict=True):
        ids = tokenizer(source)["input_ids"] + tokenizer(text_target=target, **limits)["input_ids"]
        for number in ids:
            counts[number] += 1
    return torch.tensor(counts)


@pytest.mark.parametrize("case", ["marian", "bart", "nllb"])
def test_a_number_keeps_so_many_of_the_most_frequent(case, teachers):
    teacher, tokenizer = teachers(case)
    counts = counted(tokenizer, teacher.config.vocab_size)
    with pytest.raises(ValueError, match=r"vocab=5: (\d+) tokens must stay .* give a number from \1 to (\d+)") as error:
        choose_tokens(teacher, tokenizer, 5, counts)
    least, most = map(int, re.search(r"from (\d+) to (\d+)", str(error.value)).groups())
    with pytest.raises(ValueError, match=f"to {most}"):
        choose_tokens(teacher, tokenizer, most + 1, counts)
    sets = [set(choose_tokens(teacher, tokenizer, size, counts)) for size in (least, least + 40, most)]
    assert list(map(len, sets)) == [least, least + 40, most] and sets[0] < sets[1] < sets[2]
    chosen = sets[1] - sets[0]
    left_out = min(counts[list(chosen)]), max(counts[i] for i in range(len(tokenizer)) if i not in sets[1])
    assert left_out[0] >= left_out[1] if case == "marian" else max(counts[list(chosen)]) >= left_out[1]
    small = trim_vocabulary(teacher, tokenizer, sets[0])
    unknown = small.tokenizer.unk_token_id
    assert not any(unknown in ids for ids in small.tokenizer(SOURCES[:30])["input_ids"])
    assert set(small.ids) == sets[0]  # nothing is missing that would have to be added


def test_more_tokens_than_the_text_has_are_filled_up_in_their_order(teachers):
    teacher, tokenizer = teachers("t5")
    counts = counted(tokenizer, teacher.config.vocab_size)
    used = choose_tokens(teacher, tokenizer, "from-data", counts)
    more = choose_tokens(teacher, tokenizer, len(used) + 7, counts)
    assert set(used) < set(more)
    added = sorted(set(more) - set(used))
    assert added == [i for i in range(len(tokenizer)) if i not in used][:7]


def test_another_tokenizer_chooses(trimmed, teachers):
    teacher, tokenizer, small = trimmed("m2m100")
    counts = torch.zeros(teacher.config.vocab_size, dtype=torch.long)
    must = choose_tokens(teacher, tokenizer, "from-data", counts)
    shared = choose_tokens(teacher, tokenizer, small.tokenizer)
    assert shared == small.ids and set(must) < set(shared)
    with pytest.raises(ValueError, match="teacher's tokenizer has only special ones.*same kind"):
        foreign = Tokenizer(models.WordLevel({"[UNK]": 0, "fremd": 1}, unk_token="[UNK]"))
        choose_tokens(teacher, tokenizer, TokenizersBackend(tokenizer_object=foreign))
    with pytest.raises(ValueError, match="marks where words begin in another way.*same kind"):
        choose_tokens(*teachers("nllb"), teachers("bart")[1])
    with pytest.raises(ValueError, match="vocab='nowhere/at-all' is neither 'from-data', a number, nor"):
        choose_tokens(teacher, tokenizer, "nowhere/at-all")


@pytest.mark.parametrize("case", ["nllb", "mbart", "mbart50", "m2m100"])
def test_targets_of_no_language_are_refused(teachers, case):
    teacher, tokenizer = (copy.deepcopy(part) for part in teachers(case))
    tokenizer.tgt_lang = None
    pairs = {"source": ["der Hund rennt"], "target": ["the dog runs"]}
    with pytest.raises(ValueError, match="tgt_lang is not set: set src_lang and tgt_lang"):
        WeightDistiller(teacher, tokenizer, student=StudentShape()).features(Dataset.from_dict(pairs))


@pytest.mark.parametrize("case", ["nllb", "mbart50", "m2m100"])
def test_targets_begin_with_the_language_that_is_generated(teachers, case):
    teacher, tokenizer = (copy.deepcopy(part) for part in teachers(case))
    pairs = Dataset.from_dict({"source": ["der Hund rennt"], "target": ["the dog runs"]})
    first = tokenizer(text_target="a")["input_ids"][0]
    teacher.generation_config.forced_bos_token_id = first
    (row,) = WeightDistiller(teacher, tokenizer, student=StudentShape()).features(pairs)
    assert row["labels"][0] == first
    teacher.generation_config.forced_bos_token_id = tokenizer("a")["input_ids"][0]
    with pytest.raises(ValueError, match="the targets begin with .* generation settings force"):
        WeightDistiller(teacher, tokenizer, student=StudentShape()).features(pairs)


@pytest.mark.parametrize("case", ["marian", "marian-separate"])
def test_the_codes_of_a_marian_of_several_languages_stay(teachers, case):
    teacher, tokenizer = teachers(case)
    small = trim_vocabulary(teacher, tokenizer, [5, 6, 7])
    first = small.tokenizer(">>de<< a")["input_ids"][0]
    assert small.ids[first] == tokenizer(">>de<< a")["input_ids"][0] != tokenizer.unk_token_id


def test_tokens_are_counted_on_both_sides():
    features = Dataset.from_list([{"input_ids": [3, 3, 1], "labels": [2, 1]}, {"input_ids": [0], "labels": [3]}])
    for data in (features, features.to_iterable_dataset()):
        assert count_tokens(data, 6).tolist() == [1, 2, 1, 3, 0, 0]


def unigram_of(pieces):
    backend = Tokenizer(models.Unigram([("<pad>", 0.0), ("<unk>", 0.0), *pieces], unk_id=1))
    return TokenizersBackend(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")


def test_an_unknown_character_costs_what_it_cost(teachers, trimmed, tmp_path):
    """A Unigram model takes its lowest score as the measure: without that piece unknown would be a bargain."""
    pieces = [("abcbd", -1.0), ("ab", -8.0), ("cb", -8.0), ("db", -8.0), ("zzz", -40.0)]
    whole, without = unigram_of(pieces), unigram_of(pieces[:-1])
    assert whole.tokenize("abcbdb") == ["ab", "cb", "db"] != without.tokenize("abcbdb")
    small = trim_vocabulary(teachers("t5")[0], whole, [2, 3, 4, 5])
    assert small.tokenizer.tokenize("abcbdb") == ["ab", "cb", "db"]
    teacher, tokenizer, _ = trimmed("marian")
    kept = []
    for name, one in (("whole", tokenizer), ("small", trim_vocabulary(teacher, tokenizer, []).tokenizer)):
        one.save_pretrained(tmp_path / name)
        kept.append(pieces_of((tmp_path / name / "source.spm").read_bytes()))
    assert len(kept[1]) < 20 and min(kept[1].values()) == min(kept[0].values())


def test_ids_in_post_processors_are_renumbered():
    inner = processors.RobertaProcessing(("</s>", 7), ("<s>", 5))
    both = processors.Sequence([processors.ByteLevel(), inner])
    backend = Tokenizer(models.BPE())
    backend.post_processor = both
    state = _renumber_post_processor(json.loads(backend.to_str())["post_processor"], {7: 1, 5: 0})
    assert (state["processors"][1]["sep"], state["processors"][1]["cls"]) == (["</s>", 1], ["<s>", 0])


class WritesBoth(T5Tokenizer):
    """As older versions of transformers: the SentencePiece model beside the tokenizer.json."""

    def save_pretrained(self, folder, **options):
        (folder / "spiece.model").write_bytes(b"whole")
        return super().save_pretrained(folder, **options)


def test_no_file_of_the_whole_vocabulary_is_left_behind(teachers, tmp_path):
    tokenizer = WritesBoth.from_pretrained(teachers("t5")[1].name_or_path)
    save_trimmed(tokenizer, trim_vocabulary(teachers("t5")[0], tokenizer, []).ids, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json", "kept_ids.json"}


def test_tokenizers_that_cannot_be_trimmed(teachers):
    teacher, _ = teachers("t5")
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    for tokenizer, message in (
        (TokenizersBackend(tokenizer_object=words, unk_token="[UNK]"), "a WordPiece model; only Unigram and BPE"),
        (ByT5Tokenizer(), "a ByT5Tokenizer has neither a tokenizer.json nor a vocab.json"),
    ):
        with pytest.raises(ValueError, match=message):
            trim_vocabulary(teacher, tokenizer, [1])


def test_two_vocabularies_of_different_size(teachers):
    teacher, tokenizer = teachers("marian-separate")
    teacher = copy.deepcopy(teacher)
    teacher.config.decoder_vocab_size -= 1
    with pytest.raises(ValueError, match="only if they are of one size"):
        trim_vocabulary(teacher, tokenizer, [1])


def test_kl_to_the_trimmed_teacher_is_that_to_the_renormalised_one(trimmed):
    teacher, tokenizer, small = trimmed("marian")
    old, new = (inputs_of(t, SOURCES[:4], TARGETS[:4]) for t in (tokenizer, small.tokenizer))
    labels = new["decoder_input_ids"].masked_fill(new["decoder_input_ids"] == small.tokenizer.pad_token_id, -100)
    with torch.no_grad():
        p = teacher(**old).logits.softmax(-1)[..., small.ids]
        outputs = small.teacher(**new)
    p = p / p.sum(-1, keepdim=True)
    student = Seq2SeqLMOutput(logits=torch.randn_like(outputs.logits))
    q = student.logits.softmax(-1)
    expected = sum(
        float((p[b, t] * (p[b, t] / q[b, t]).log()).sum())
        for b in range(len(labels))
        for t in range(labels.shape[1])
        if labels[b, t] != -100
    )
    assert KLDivergence()(student, outputs, labels).item() == pytest.approx(expected, rel=1e-5)


# --- distilled -------------------------------------------------------------------------------------------------------

FAST = {"max_steps": 4, "learning_rate": 1e-2, "use_cpu": True, "disable_tqdm": True, "save_steps": 2}
CONFIG = WeightDistillConfig(generator_args=FAST, finetune_args=FAST, calibration_sentences=8, max_target_length=32)
TRAIN = Dataset.from_dict({"source": SOURCES[:16], "target": TARGETS[:16]})


def distiller_of(teachers, vocab, case="marian", config=CONFIG):
    shape = StudentShape(decoder_layers=1, vocab=vocab)
    return WeightDistiller.from_pretrained(teachers(case)[0].name_or_path, student=shape, config=config)


def same(a, b):
    return all(torch.equal(t, tensors_of(b)[n]) for n, t in tensors_of(a).items())


def test_distilling_from_data_end_to_end_and_again_from_its_file(teachers, tmp_path):
    config = replace(CONFIG, generator_objectives={"kl": 1.0}, pseudo_labels="replace", num_beams=1)
    distiller = distiller_of(teachers, "from-data", config=config)
    whole, tokenizer = distiller.teacher, distiller.tokenizer
    assert "909 -> from-data" in str(distiller.plan) and "with the whole vocabulary" in str(distiller.plan)
    student = distiller.distill(TRAIN, TRAIN, output_dir=tmp_path / "run")
    counts = counted(tokenizer, 909, pairs=16, truncation=True, max_length=32)
    ids = choose_tokens(whole, tokenizer, "from-data", counts)
    assert json.loads((tmp_path / "run" / "vocabulary" / "kept_ids.json").read_text()) == ids
    assert student.config.vocab_size == len(distiller.tokenizer) == len(ids)
    assert f"909 -> {len(ids)}" in str(distiller.plan)
    sizes = whole.num_parameters(), student.num_parameters()
    assert (distiller.plan.teacher_parameters, distiller.plan.student_parameters) == sizes
    rows = {row.quantity: row for row in distiller.evaluate(TRAIN, batch_sizes=(8,), speed_sentences=2).rows}
    assert (rows["parameters"].teacher, rows["parameters"].student) == sizes
    translated = compute_scores(translate(whole, tokenizer, TRAIN["source"], batch_size=8), TRAIN["target"])
    assert rows["chrf"].teacher == translated["chrf"]  # the whole teacher with its own tokenizer
    distiller.save_pretrained(tmp_path / "student")
    card = (tmp_path / "student" / "README.md").read_text()
    assert f"| vocabulary | 909 | {len(ids)} |" in card and "vocab: from-data" in card
    tokens = AutoTokenizer.from_pretrained(tmp_path / "student")(SOURCES[0])["input_ids"]
    assert [ids[i] for i in tokens] == tokenizer(SOURCES[0])["input_ids"]
    run = yaml.safe_load((tmp_path / "run" / "weight_distill.yaml").read_text())
    again = WeightDistiller.from_pretrained(
        run["teacher"], student=StudentShape(**run["student"]), config=WeightDistillConfig.from_dict(run["config"])
    )
    assert same(student, again.distill(TRAIN, output_dir=tmp_path / "again"))


def test_metrics_that_decode_the_ids_of_before_are_refused(teachers, tmp_path):
    distiller = distiller_of(teachers, 400)
    before = make_compute_metrics(distiller.tokenizer)
    with pytest.raises(ValueError, match="a tokenizer of 909 tokens, but the student's has 400: call trim_vocabulary"):
        distiller.distill(TRAIN, TRAIN, output_dir=tmp_path / "a", compute_metrics=before)
    distiller.trim_vocabulary(TRAIN)
    assert distiller.distill(
        TRAIN, output_dir=tmp_path / "b", compute_metrics=make_compute_metrics(distiller.tokenizer)
    )


def test_a_resumed_run_takes_the_tokens_that_it_began_with(teachers, tmp_path, monkeypatch):
    whole = distiller_of(teachers, 400).distill(TRAIN, output_dir=tmp_path / "whole")
    assert whole.config.vocab_size == 400
    real = WeightDistillTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return real(self, *args, **kwargs)

    monkeypatch.setattr(WeightDistillTrainer, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        distiller_of(teachers, 400).distill(TRAIN, output_dir=tmp_path / "cut")
    monkeypatch.setattr(WeightDistillTrainer, "training_step", real)
    monkeypatch.setattr("hf_weight_distill.distiller.choose_tokens", None)  # they lie in the folder
    resumed = distiller_of(teachers, 400).distill(TRAIN, output_dir=tmp_path / "cut", resume_from_checkpoint=True)
    assert same(resumed, whole)
    with pytest.raises(ValueError, match="was started with other settings .*student.*400.*380"):
        distiller_of(teachers, 380).distill(TRAIN, output_dir=tmp_path / "cut", resume_from_checkpoint=True)


def test_tokens_of_a_start_that_failed_are_not_taken_for_another_vocabulary(teachers, tmp_path):
    with pytest.raises(ValueError, match="found the columns"):
        distiller_of(teachers, 400).distill(TRAIN, TRAIN.rename_column("target", "x"), output_dir=tmp_path / "run")
    options = {"output_dir": tmp_path / "run", "resume_from_checkpoint": True}  # as the error of a second start says
    assert distiller_of(teachers, 380).distill(TRAIN, **options).config.vocab_size == 380


def test_a_folder_of_another_teacher_is_refused(teachers, trimmed, tmp_path):
    save_trimmed(teachers("marian")[1], trimmed("marian")[2].ids, tmp_path)
    with pytest.raises(ValueError, match="keeps token 908 of a teacher that has 533.*made for another"):
        load_trimmed(*teachers("t5"), tmp_path)
    with pytest.raises(ValueError, match="was made from another tokenizer"):
        load_trimmed(teachers("marian")[0], teachers("marian-bpe")[1], tmp_path)


def test_the_plan_of_a_number_is_exact_before_any_text(teachers):
    distiller = distiller_of(teachers, 300)
    planned = distiller.plan.student_parameters
    assert "909 -> 300" in str(distiller.plan) and "909x16 (1 layer) -> 300x16" in str(distiller.plan)
    config = distiller.plan.student_config  # what a search for a shape runs, before the tokens are known
    assert all(value < 300 for name, value in vars(config).items() if name.endswith("_token_id") and value is not None)
    distiller.trim_vocabulary(TRAIN.to_iterable_dataset())
    assert distiller.plan.student_parameters == planned == distiller.student.num_parameters()
    assert distiller.calibrate(TRAIN).materialize().config.vocab_size == len(distiller.tokenizer) == 300


def test_a_tokenizer_decides_at_once_and_stands_in_the_run_by_its_folder(teachers, trimmed, tmp_path):
    small = trimmed("t5")[2]
    small.tokenizer.save_pretrained(tmp_path / "small")
    other = AutoTokenizer.from_pretrained(tmp_path / "small")
    for vocab in (other, str(tmp_path / "small")):
        distiller = distiller_of(teachers, vocab, "t5")
        assert distiller.plan.vocabulary == (533, len(small.ids)) and len(distiller.tokenizer) == len(small.ids)
        assert distiller.description()["student"]["vocab"] == str(tmp_path / "small")
    distiller.save_pretrained(tmp_path / "student")
    card = (tmp_path / "student" / "README.md").read_text()
    assert "vocab: small" in card and str(tmp_path) not in card


def test_what_a_smaller_vocabulary_cannot_have(teachers, tmp_path):
    teacher, tokenizer = teachers("marian")
    with pytest.raises(ValueError, match="vocab=100 needs a tokenizer"):
        WeightDistiller(teacher, student=StudentShape(vocab=100))
    with pytest.raises(ValueError, match="vocab=909, but the teacher has 909 tokens"):
        WeightDistiller(teacher, tokenizer, student=StudentShape(vocab=909))
    with pytest.raises(ValueError, match="expected 'from-data', a number, or a tokenizer that was loaded"):
        StudentShape(vocab=byte_level_bpe(tmp_path))  # no name: the run's file could not repeat it
    distiller = distiller_of(teachers, "from-data")
    with pytest.raises(ValueError, match="not known before the training text is seen"):
        distiller.save_pretrained(tmp_path / "student")
    features = Dataset.from_dict({"input_ids": [[1, 2]], "labels": [[3, 4]]})
    with pytest.raises(ValueError, match="features .* hold old ones: pass text pairs"):
        distiller.distill(features, output_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="vocab=20: .* tokens must stay"):
        distiller_of(teachers, 20).distill(TRAIN, output_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_line(teachers, tmp_path, capsys):
    teacher = teachers("nllb")[0].name_or_path
    assert main(["plan", teacher, "--vocab", "300", "--decoder_layers", "1"]) == 0
    assert "508 -> 300" in capsys.readouterr().out
    data = tmp_path / "pairs.jsonl"
    data.write_text(
        "".join(json.dumps({"source": s, "target": t}) + "\n" for s, t in zip(SOURCES[:30], TARGETS[:30], strict=True))
    )
    steps = ["max_steps=2", "use_cpu=true", "disable_tqdm=true", "save_strategy=no"]
    distill = ["distill", teacher, "--vocab", "from-data", "--train", str(data), "--output_dir", str(tmp_path / "run")]
    distill += ["--src_lang", "eng_Latn", "--tgt_lang", "deu_Latn", "--calibration_sentences", "8"]
    distill += ["--pseudo_labels", "none"]
    assert main([*distill, "--generator_args", *steps, "--finetune_args", *steps]) == 0
    student = tmp_path / "run" / "student"
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(student), AutoTokenizer.from_pretrained(student)
    assert model.config.vocab_size == len(tokenizer) < 500
    assert tokenizer.convert_ids_to_tokens(model.generation_config.forced_bos_token_id) == "deu_Latn"
    evaluate = ["evaluate", teacher, str(student), "--data", str(data), "--num_beams", "1", "--batch_sizes", "300"]
    evaluate += ["--speed_sentences", "1", "--src_lang", "eng_Latn", "--tgt_lang", "deu_Latn"]
    assert main(evaluate) == 0
    assert f"{model.num_parameters():,}" in capsys.readouterr().out


# --- the documentation and several processes -------------------------------------------------------------------------

DOCS = Path(__file__).parents[1] / "docs" / "vocabulary.md"


@pytest.mark.filterwarnings("ignore")
def test_the_page_runs(teachers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for part in teachers("marian"):
        part.save_pretrained("demo/teacher")
    monkeypatch.setattr(data_module, "_corpus", lambda: built_in_corpus(20, 2, 2))
    text = DOCS.read_text(encoding="utf-8")
    (commands,) = re.findall(r"```bash\n(.*?)```", text, flags=re.S)
    short = re.sub(r"max_steps=\d+", "max_steps=1 use_cpu=true disable_tqdm=true save_strategy=no", commands)
    assert short != commands and "--num_beams 1" in commands
    for command in short.replace("\\\n", " ").strip().splitlines():
        program, *arguments = shlex.split(command)
        assert program == "hf-weight-distill" and main(arguments) == 0, command
    exec("\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.S)), {})
    small, student = (
        AutoModelForSeq2SeqLM.from_pretrained(f"runs/{name}") for name in ("small-teacher", "trimmed/student")
    )
    assert small.config.vocab_size < student.config.vocab_size < 909


@pytest.mark.slow
def test_two_processes_agree(teachers, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = tmp_path / "pairs.jsonl"
    rows = [{"source": source, "target": target} for source, target in zip(SOURCES[:40], TARGETS[:40], strict=True)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = ["max_steps=2", "use_cpu=true", "disable_tqdm=true", "save_strategy=no", "per_device_train_batch_size=4"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    command += ["-m", "hf_weight_distill", "distill", teachers("marian")[0].name_or_path, "--train", str(data)]
    command += ["--vocab", "from-data", "--pseudo_labels", "none", "--output_dir", str(tmp_path / "run")]
    command += ["--generator_args", *steps, "--finetune_args", *steps]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    kept = json.loads((tmp_path / "run" / "vocabulary" / "kept_ids.json").read_text())
    student = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run" / "student")
    assert student.config.vocab_size == len(kept) < 909


# --- what is saved and exported --------------------------------------------------------------------------------------


def test_the_saved_tokenizer_cuts_nothing_and_the_cards_code_has_the_prefix(teachers, tmp_path):
    """BART's has a tokenizer.json, which keeps the truncation of its last call."""
    teacher, tokenizer = teachers("bart")
    fast = {"max_steps": 1, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"}
    options = {"generator_args": {"max_steps": 0}, "finetune_args": fast, "prefix": "say: ", "max_source_length": 9}
    config = WeightDistillConfig(source="direct", **options)
    distiller = WeightDistiller(teacher, tokenizer, student=StudentShape(), config=config)
    distiller.distill(Dataset.from_dict({"source": SOURCES[:8], "target": TARGETS[:8]}), output_dir=tmp_path / "run")
    distiller.save_pretrained(tmp_path / "student")
    assert json.loads((tmp_path / "student" / "tokenizer.json").read_text())["truncation"] is None
    assert 'tokenizer(["say: Two dogs' in (tmp_path / "student" / "README.md").read_text()


@pytest.mark.parametrize("case, codes", [("m2m100-marked", ("de", "en")), ("mbart", ("de_DE", "en_XX"))])
def test_a_target_language_that_is_not_forced_is_a_warning(case, codes, teachers, tmp_path):
    teacher, tokenizer = map(copy.deepcopy, teachers(case))
    tokenizer.tgt_lang = codes[1]
    with pytest.warns(UserWarning, match=f"tgt_lang='{codes[1]}', but .* force no first token"):
        WeightDistiller(teacher, tokenizer, student=StudentShape())
    set_languages(tokenizer, teacher, *codes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WeightDistiller(teacher, tokenizer, student=StudentShape())
    teachers(case)[0].save_pretrained(tmp_path)
    teachers(case)[1].save_pretrained(tmp_path)
    loaded = WeightDistiller.from_pretrained(tmp_path, student=StudentShape(), src_lang=codes[0], tgt_lang=codes[1])
    assert (loaded.tokenizer.src_lang, loaded.tokenizer.tgt_lang) == codes
    assert loaded.teacher.generation_config.to_dict() == teacher.generation_config.to_dict()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case, cut", [("m2m100", False), ("m2m100", True), ("mbart50", False)])
def test_multilingual_students_are_the_same_in_ctranslate2(case, cut, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "BATCH_SIZES", ())
    make_tokenizer, make_model, empty_rows = CASES[case]
    tokenizer = make_tokenizer(tmp_path)
    torch.manual_seed(0)
    student = make_model(tokenizer, len(tokenizer) + empty_rows).eval()
    set_languages(tokenizer, student, *(("de", "en") if case == "m2m100" else ("de_DE", "en_XX")))
    if cut:
        ids = tokenizer(SOURCES[:30])["input_ids"] + tokenizer(text_target=TARGETS[:30])["input_ids"]
        student, tokenizer, _ = trim_vocabulary(student, tokenizer, sorted(set(sum(ids, []))))
    student.generation_config.max_length = 12
    report = export.export_student(student, tokenizer, tmp_path / "out", to="ctranslate2", sentences=SOURCES[:4])
    assert report.rows[1].agreement.identical == 4 and report.rows[1].agreement.difference < 2e-5


def test_biases_of_sequences_keep_their_tokens(tmp_path):
    tokenizer = tiny_marian_tokenizer(tmp_path / "t")
    teacher = tiny_marian_model(tokenizer)
    biased = len(tokenizer) - 2
    teacher.generation_config.sequence_bias = {(biased,): -5.0}
    small = trim_vocabulary(teacher, tokenizer, tokenizer("a cat")["input_ids"])
    assert len(small.ids) < len(tokenizer)
    assert small.teacher.generation_config.sequence_bias == {(small.ids.index(biased),): -5.0}
