"""CTranslate2, by its own converter."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ctranslate2
import torch
from ctranslate2.converters import TransformersConverter
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, GenerationConfig

from ..evaluation import output_limit
from ..families import scales_outputs
from .base import STUDENT, Format, Reference, truncation

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class CTranslate2(Format):
    """The model of `CTranslate2 <https://github.com/OpenNMT/CTranslate2>`_: one binary file for CPU or GPU."""

    name = "CTranslate2"
    compared = "the log-probabilities of the student's tokens"

    def versions(self) -> dict[str, str]:
        return {"ctranslate2": ctranslate2.__version__}

    def check(self, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        config = student.config
        heads = [getattr(config, f"{stack}_attention_heads", None) for stack in ("encoder", "decoder")]
        if heads[0] != heads[1]:
            raise ValueError(
                f"encoder and decoder have {heads[0]} and {heads[1]} attention heads; CTranslate2's converter reads "
                "one number for both: use the onnx format, or distil a student with one number of heads"
            )
        if config.model_type == "m2m_100" and config.pad_token_id != 1:
            raise ValueError(
                f"pad_token_id={config.pad_token_id} moves the positions, which M2M100 counts from it; CTranslate2's "
                "converter takes pad_token_id=1 for granted: use the onnx format"
            )
        if getattr(tokenizer, "separate_vocabs", False):
            raise ValueError(
                "source and target have a vocabulary each; CTranslate2 knows tokens by name, and this tokenizer names "
                "those of the source by the target's: use the onnx format"
            )
        if config.model_type == "marian":
            _check_marian_padding(student, tokenizer)

    def convert(self, draft: Path, quantization: str) -> None:
        target = draft / quantization
        written = draft / f"{quantization}-ctranslate2"  # the converter makes its folder itself
        try:
            _Converter(str(draft / STUDENT)).convert(str(written), quantization=quantization)
        except (ValueError, NotImplementedError, KeyError, AttributeError) as error:
            reason = textwrap.shorten(f"{type(error).__name__}: {error}", 200)
            raise ValueError(
                f"CTranslate2 {ctranslate2.__version__} cannot convert this student ({reason}): use a newer one, "
                "or the onnx format"
            ) from error
        for file in written.iterdir():
            file.rename(target / file.name)
        written.rmdir()
        _set_start(draft / STUDENT, target / "config.json")

    def load(self, folder: Path, config: PretrainedConfig) -> CTranslate2Model:
        return CTranslate2Model(folder, config)

    def follow(self, model: CTranslate2Model, reference: Reference) -> tuple[float, torch.Tensor]:
        log_probs = torch.zeros(reference.mask.shape)
        targets = [ids[1:][mask] for ids, mask in zip(reference.outputs, reference.mask, strict=True)]
        for row, scores in enumerate(model.score(reference.batch, targets)):
            log_probs[row, : len(scores)] = scores
        logits = reference.logits
        if model.config.model_type == "marian":  # the converter takes <pad> out of the vocabulary
            logits = logits.index_fill(2, torch.tensor(model.config.pad_token_id), -torch.inf)
        lost = (reference.log_probs(logits) - log_probs).masked_fill(~reference.mask, 0)
        return lost.abs().max().item(), lost

    def usage(self, folder: str, sentence: str, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
        settings = student.generation_config
        longest = output_limit(student)
        first = _first_tokens(settings, tokenizer)
        options = {"beam_size": settings.num_beams or 1} | search_options(settings, tokenizer)
        options |= {"max_decoding_length": longest} if longest else {}
        options |= {"target_prefix": [first]} if first else {}
        cut = truncation(student, tokenizer)
        options |= {} if cut else {"max_input_length": 0}  # which cuts nothing off; by default 1024
        given = "".join(f",\n    {name}={value!r}" for name, value in options.items())
        text = json.dumps(sentence, ensure_ascii=False)
        return f"""```python
import ctranslate2
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({json.dumps(folder)})
translator = ctranslate2.Translator({json.dumps(folder)})
tokens = tokenizer.convert_ids_to_tokens(tokenizer({text}{cut})["input_ids"])
[result] = translator.translate_batch(
    [tokens]{given},
)
print(tokenizer.decode(tokenizer.convert_tokens_to_ids(result.hypotheses[0]), skip_special_tokens=True))
```
"""


class CTranslate2Model(torch.nn.Module):
    """A CTranslate2 folder that generates like a Transformers model, from and to token ids.

    Args:
        folder: which :func:`hf_weight_distill.export.export_student` wrote.
        config: of the student.
    """

    device = torch.device("cpu")

    def __init__(self, folder: Path, config: PretrainedConfig) -> None:
        super().__init__()
        self.config = config
        self.generation_config = GenerationConfig.from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.translator = ctranslate2.Translator(str(folder), intra_threads=torch.get_num_threads())

    def generate(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, num_beams: int, max_new_tokens: int, **_: Any
    ) -> torch.Tensor:
        """Ids like those of a stock ``generate``: (B, 1 + T), the decoder's start first, padded after the end."""
        first = _first_tokens(self.generation_config, self.tokenizer)
        results = self.translator.translate_batch(
            self._tokens(input_ids, attention_mask),
            target_prefix=[first] * len(input_ids) if first else None,
            beam_size=num_beams,
            max_decoding_length=max_new_tokens,
            max_input_length=0,
            return_end_token=True,
            **search_options(self.generation_config, self.tokenizer),
        )
        hypotheses = [self.tokenizer.convert_tokens_to_ids(result.hypotheses[0]) for result in results]
        ids = [torch.tensor([self.config.decoder_start_token_id, *row]) for row in hypotheses]
        return pad_sequence(ids, batch_first=True, padding_value=self.config.pad_token_id)

    def score(self, batch: Any, targets: list[torch.Tensor]) -> list[torch.Tensor]:
        """Log-probability of each token of the targets, which end with the end token or were cut off before it."""
        end = self.tokenizer.eos_token_id  # CTranslate2 puts it behind each target
        rows = [row[:-1] if len(row) and row[-1] == end else row for row in targets]
        tokens = [self.tokenizer.convert_ids_to_tokens(row.tolist()) for row in rows]
        sources = self._tokens(batch["input_ids"], batch["attention_mask"])
        scores = self.translator.score_batch(sources, tokens, max_input_length=0)
        return [torch.tensor(s.log_probs[: len(row)]) for s, row in zip(scores, targets, strict=True)]

    def _tokens(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> list[list[str]]:
        rows = zip(input_ids, attention_mask.bool(), strict=True)
        return [self.tokenizer.convert_ids_to_tokens(ids[mask].tolist()) for ids, mask in rows]


class _Converter(TransformersConverter):
    """Tells the converter what the configurations of Transformers 5 do not say, or say otherwise."""

    def load_model(self, model_class: Any, model_name_or_path: str, **kwargs: Any) -> PreTrainedModel:
        model = super().load_model(model_class, model_name_or_path, **kwargs)
        config, encoder = model.config, model.get_encoder()
        if hasattr(config, "num_decoder_layers"):  # T5 and its kin: the converter scales the outputs where this is true
            config.tie_word_embeddings = scales_outputs(config)
        else:
            config.normalize_before = hasattr(encoder, "layer_norm")
            config.normalize_embedding = hasattr(encoder, "layernorm_embedding")
        return model

    def load_tokenizer(self, tokenizer_class: Any, model_name_or_path: str, **kwargs: Any) -> PreTrainedTokenizerBase:
        tokenizer = super().load_tokenizer(tokenizer_class, model_name_or_path, **kwargs)
        if hasattr(tokenizer, "lang_token_to_id"):  # M2M100's vocabulary leaves its languages out
            vocabulary = tokenizer.get_vocab() | tokenizer.lang_token_to_id
            tokenizer.get_vocab = lambda: vocabulary
            del tokenizer.num_madeup_words  # a trimmed vocabulary has none; without, the converter counts the rows
        return tokenizer


def search_options(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Options of ``translate_batch`` for the generation settings that both runtimes have.

    The parity check tells whether the others matter.
    """
    # Transformers counts the decoder's start as well
    shortest = max((config.min_length or 1) - 1, config.min_new_tokens or 0, 0)
    options: dict[str, Any] = {"min_decoding_length": shortest}
    for name in ("no_repeat_ngram_size", "repetition_penalty", "length_penalty"):
        if getattr(config, name, None):
            options[name] = getattr(config, name)
    never = list(config.bad_words_ids or []) + [[token] for token in config.suppress_tokens or []]
    never = [ids for ids in never if ids != [config.pad_token_id]]  # Marian's <pad>, which is not there
    if never:
        options["suppress_sequences"] = [tokenizer.convert_ids_to_tokens(ids) for ids in never]
    return options


def _first_tokens(config: GenerationConfig, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What every output starts with: the language, say."""
    forced = config.forced_bos_token_id
    return [] if forced is None else tokenizer.convert_ids_to_tokens([forced])


def _check_marian_padding(student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    pad, last = student.config.pad_token_id, student.config.vocab_size - 1
    if pad != last or len(tokenizer) != student.config.vocab_size:
        raise ValueError(
            f"<pad> is token {pad} of {student.config.vocab_size} and the tokenizer has {len(tokenizer)}; "
            "CTranslate2's converter cuts the last one off as <pad>: use the onnx format"
        )
    if student.config.decoder_start_token_id != pad or student.get_decoder().embed_tokens.weight[pad].any():
        raise ValueError(
            "the decoder does not start from an embedding of zeros, from which CTranslate2 starts every Marian model: "
            "use the onnx format"
        )


def _set_start(student: Path, file: Path) -> None:
    """mBART-25 starts to decode from the language; with the student's settings that is one.

    mBART-50's tokenizer may have no first token, and CTranslate2 wants a text there.
    """
    config, tokenizer = json.loads(file.read_text(encoding="utf-8")), AutoTokenizer.from_pretrained(student)
    if config.get("decoder_start_token") is None:
        start = GenerationConfig.from_pretrained(student).decoder_start_token_id
        config["decoder_start_token"] = tokenizer.convert_ids_to_tokens(start)
    if config.get("bos_token", "") is None:
        config["bos_token"] = tokenizer.eos_token
    file.write_text(json.dumps(config, indent=2), encoding="utf-8")
