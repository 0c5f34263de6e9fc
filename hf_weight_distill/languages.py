"""Languages of multilingual tokenizers (NLLB, M2M100, mBART), and what a teacher is made to write in."""

import warnings
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .card import language_of


def language_token(tokenizer: PreTrainedTokenizerBase, code: str) -> int | None:
    """The id of a language's token in a multilingual tokenizer; `None` for what is no language of it.

    Args:
        tokenizer: of NLLB, M2M100 or mBART.
        code: as the tokenizer has it, such as `"deu_Latn"`.

    Example:
        >>> language_token(tokenizer, "deu_Latn")  # doctest: +SKIP
        256042
    """
    if not hasattr(tokenizer, "get_lang_id"):
        token = tokenizer.convert_tokens_to_ids(code)
        known = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids} - {tokenizer.unk_token_id}
        return token if token in known else None  # a piece of a word, such as "de", is no language
    try:
        return tokenizer.get_lang_id(code)  # M2M100: its token is __de__
    except KeyError:
        return None


def set_languages(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, src_lang: str | None, tgt_lang: str | None
) -> None:
    """Makes a multilingual tokenizer and model translate in one direction.

    Args:
        tokenizer: gets ``src_lang`` and ``tgt_lang``.
        model: its generation settings get the token of ``tgt_lang`` as the first to be generated. mBART-25, which was
            trained to start decoding from it, gets it as the decoder's start.
        src_lang, tgt_lang: codes as the tokenizer has them; ``None`` changes nothing.

    Raises:
        ValueError: the tokenizer knows no languages, or not this one.

    Example:
        >>> set_languages(tokenizer, teacher, "eng_Latn", "deu_Latn")  # doctest: +SKIP
    """
    for name, code in (("src_lang", src_lang), ("tgt_lang", tgt_lang)):
        if code is None:
            continue
        kind = type(tokenizer).__name__
        if not hasattr(tokenizer, name):
            raise ValueError(f"{name}={code!r}: a {kind} has no languages to choose from; leave it out")
        token = language_token(tokenizer, code)
        if token is None:
            raise ValueError(f"{name}={code!r}: the {kind} does not know this language; use its own code")
        setattr(tokenizer, name, code)
        if name == "tgt_lang":
            first = "decoder_start_token_id" if kind.startswith("MBartTokenizer") else "forced_bos_token_id"
            setattr(model.generation_config, first, token)


def language_codes(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, str]:
    """Of a tokenizer that was set to both languages; nothing of another."""
    codes = {name: getattr(tokenizer, name, None) for name in ("src_lang", "tgt_lang")}
    return {} if None in codes.values() else codes


def direction(tokenizer: PreTrainedTokenizerBase | None) -> dict[str, Any]:
    """From which language into which, for the card."""
    codes = language_codes(tokenizer)
    return codes | ({"languages": tuple(dict.fromkeys(map(language_of, codes.values())))} if codes else {})


def forced_direction(teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> dict[str, str]:
    """The languages that ``--src_lang`` and ``--tgt_lang`` would set tokenizer and teacher to, if they are so."""
    codes, settings = language_codes(tokenizer), teacher.generation_config
    token = language_token(tokenizer, codes["tgt_lang"]) if codes else None
    forced = settings.forced_bos_token_id, settings.decoder_start_token_id  # mBART-25 starts from it
    return codes if token is not None and token in forced else {}


def check_languages(teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Whether labels begin with the language that generation is made to begin with (NLLB, M2M100, mBART-50)."""
    forced = teacher.generation_config.forced_bos_token_id
    if getattr(tokenizer, "tgt_lang", None) is None or not isinstance(forced, int):
        return
    first = tokenizer(text_target="")["input_ids"][0]
    if first != forced:
        begins, written = tokenizer.convert_ids_to_tokens([first, forced])
        raise ValueError(
            f"with tgt_lang={tokenizer.tgt_lang!r} the targets begin with {begins!r}, but the teacher's generation "
            f"settings force {written!r}: set teacher.generation_config.forced_bos_token_id and the tokenizer's "
            "tgt_lang to one language"
        )


def warn_of_no_language(teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """NLLB and its like write in the language whose token is forced, or that they start from."""
    settings, target = teacher.generation_config, getattr(tokenizer, "tgt_lang", None)
    plain = (None, tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    if target is not None and settings.forced_bos_token_id is None and settings.decoder_start_token_id in plain:
        warnings.warn(
            f"the tokenizer has tgt_lang={target!r}, but the teacher's generation settings force no first token, so "
            "that it chooses one itself: set teacher.generation_config.forced_bos_token_id to the token of yours",
            stacklevel=3,
        )
