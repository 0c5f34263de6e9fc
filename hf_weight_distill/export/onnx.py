"""ONNX, by ``torch.onnx.export``: three graphs with a key-value cache, named and laid out as Optimum has them."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnxruntime
import onnxscript  # noqa: F401  torch.onnx.export needs it
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch.export import Dim
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    DynamicCache,
    EncoderDecoderCache,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from ..card import LONGEST
from ..evaluation import own_bound
from .base import FLOAT32, STUDENT, Format, Reference, truncation

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

ENCODER, DECODER, DECODER_WITH_PAST = "encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"
LARGEST = 2 * 1024**3 - 2**24  # bytes: what one protobuf file holds, with room for the graph
FREE = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}  # batch and length
FREE_STATES = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC}  # batch and length of keys and values, (B, heads, length, head size)
CACHE = "cache" if "cache" in Seq2SeqLMOutput.__dataclass_fields__ else "past_key_values"  # since Transformers 5.24
Layer = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # keys, values of self- and of cross-attention


class Onnx(Format):
    """Encoder, decoder, and decoder with cache, for `ONNX Runtime <https://onnxruntime.ai>`_."""

    name = "ONNX"
    compared = "the logits, with and without the cache"

    def versions(self) -> dict[str, str]:
        return {"onnxruntime": onnxruntime.__version__}

    def check(self, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        size = _largest_file(student)
        if size > LARGEST:
            raise ValueError(
                f"the student's larger stack has {size / 1024**3:.1f} GiB of float32 weights with its head, and one "
                "ONNX file holds less than 2: use the ctranslate2 format"
            )

    def convert(self, draft: Path, quantization: str) -> None:
        target = draft / quantization
        with _quiet():
            if quantization == FLOAT32:
                _convert(draft / STUDENT, target)
            else:
                for name in (ENCODER, DECODER, DECODER_WITH_PAST):
                    _quantize(draft / FLOAT32 / name, target / name)
        AutoConfig.from_pretrained(draft / STUDENT).save_pretrained(target)

    def load(self, folder: Path, config: PretrainedConfig) -> OnnxModel:
        return OnnxModel(folder)

    def follow(self, model: OnnxModel, reference: Reference) -> tuple[float, torch.Tensor]:
        inputs = {"attention_mask": reference.batch["attention_mask"]}
        inputs["encoder_outputs"] = model.get_encoder()(**reference.batch)
        at_once = model(decoder_input_ids=reference.outputs[:, :-1], **inputs).logits
        steps, cache = [], EncoderDecoderCache(DynamicCache(), DynamicCache())
        for token in reference.outputs[:, :-1].split(1, dim=1):
            steps.append(model(decoder_input_ids=token, cache=cache, **inputs).logits)
        stepwise = torch.cat(steps, dim=1)
        apart = [(logits - reference.logits)[reference.mask].abs().max() for logits in (at_once, stepwise)]
        return torch.stack(apart).max().item(), reference.log_probs(reference.logits) - reference.log_probs(stepwise)

    def usage(self, folder: str, sentence: str, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
        longest = min(LONGEST, getattr(student.config, "max_position_embeddings", LONGEST))
        bound = "" if own_bound(student.generation_config) else f", max_length={longest}"
        return f"""```python
from hf_weight_distill.export.onnx import OnnxModel
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained({json.dumps(folder)})
model = OnnxModel({json.dumps(folder)})
batch = tokenizer([{json.dumps(sentence, ensure_ascii=False)}]{truncation(student, tokenizer)}, return_tensors="pt")
print(tokenizer.batch_decode(model.generate(**batch{bound}), skip_special_tokens=True)[0])
```

In an environment with Optimum and the Transformers that it asks for, where this package is not needed:
`ORTModelForSeq2SeqLM.from_pretrained({json.dumps(folder)})` from `optimum.onnxruntime` in the place of `OnnxModel`.
"""


# --- running ---------------------------------------------------------------------------------------------------------


class OnnxModel(PreTrainedModel, GenerationMixin):
    """An exported folder on ONNX Runtime, on the CPU, with the ``generate`` of Transformers (beams and all).

    Args:
        folder: which :func:`hf_weight_distill.export.export_student` wrote.
        threads: of ONNX Runtime; by default PyTorch's.

    Example:
        >>> model = OnnxModel("opus-small-onnx")                                       # doctest: +SKIP
        >>> model.generate(**tokenizer(["Two dogs run."], return_tensors="pt"))        # doctest: +SKIP
    """

    main_input_name = "input_ids"
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        super().__init__(AutoConfig.from_pretrained(folder))
        self.generation_config = GenerationConfig.from_pretrained(folder)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        files = [str(Path(folder) / name) for name in (ENCODER, DECODER, DECODER_WITH_PAST)]
        sessions = [onnxruntime.InferenceSession(f, options, providers=["CPUExecutionProvider"]) for f in files]
        self._encoder = _EncoderSession(sessions[0])
        self._decoder, self._decoder_with_past = sessions[1:]

    def get_encoder(self, modality: str | None = None) -> torch.nn.Module:
        return self._encoder

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        cache: EncoderDecoderCache | None = None,
        past_key_values: EncoderDecoderCache | None = None,
        **_: Any,
    ) -> Seq2SeqLMOutput:
        """Logits (B, T, V) of the decoder's inputs (B, T); with a filled cache T is 1.

        ``past_key_values`` is what Transformers called the cache before 5.24.
        """
        encoder_outputs = encoder_outputs or self._encoder(input_ids, attention_mask)
        cache = cache if cache is not None else past_key_values
        cache = cache if cache is not None else EncoderDecoderCache(DynamicCache(), DynamicCache())
        feeds = {"input_ids": decoder_input_ids, "encoder_attention_mask": attention_mask}
        if cache.get_seq_length() == 0:
            found = _run(self._decoder, feeds | {"encoder_hidden_states": encoder_outputs.last_hidden_state})
        else:
            found = _run(self._decoder_with_past, feeds | _named(_layers(cache), "past_key_values"))
        _fill(cache, found)
        return Seq2SeqLMOutput(logits=found["logits"], **{CACHE: cache})


class _EncoderSession(torch.nn.Module):
    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        super().__init__()
        self.session = session

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> BaseModelOutput:
        return BaseModelOutput(**_run(self.session, {"input_ids": input_ids, "attention_mask": attention_mask}))


def _run(session: onnxruntime.InferenceSession, feeds: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    arrays = {name: tensor.numpy() for name, tensor in feeds.items()}
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(names, arrays)), strict=True))


def _layers(cache: EncoderDecoderCache) -> list[Layer]:
    pairs = zip(cache.self_attention_cache.layers, cache.cross_attention_cache.layers, strict=True)
    # A T5 has a place for every layer of its encoder, and those beyond its decoder stay empty.
    return [(own.keys, own.values, cross.keys, cross.values) for own, cross in pairs if own.keys is not None]


def _state_names(layers: int, prefix: str) -> list[list[str]]:
    """Optimum's names of what a :data:`Layer` holds, for each layer."""
    kinds = [f"{stack}.{state}" for stack in ("decoder", "encoder") for state in ("key", "value")]
    return [[f"{prefix}.{layer}.{kind}" for kind in kinds] for layer in range(layers)]


def _named(layers: Sequence[Layer], prefix: str) -> dict[str, torch.Tensor]:
    rows = zip(_state_names(len(layers), prefix), layers, strict=True)
    return {name: state for names, states in rows for name, state in zip(names, states, strict=True)}


def _fill(cache: EncoderDecoderCache, found: dict[str, torch.Tensor]) -> None:
    """Puts the keys and values of a step into the cache; the graphs give them whole, with those of the past."""
    for layer, names in enumerate(_state_names(sum(name.endswith("decoder.key") for name in found), "present")):
        own = [found[name] for name in names[:2]]
        if not cache.is_updated.get(layer):
            cache.self_attention_cache.update(*own, layer)
            cache.cross_attention_cache.update(*(found[name] for name in names[2:]), layer)
            cache.is_updated[layer] = True
        else:
            kept = cache.self_attention_cache.layers[layer]
            kept.keys, kept.values = own


# --- converting ------------------------------------------------------------------------------------------------------


class _Encoder(torch.nn.Module):
    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.encoder = model.get_encoder()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class _Decoder(torch.nn.Module):
    """Logits and the cache after them; of a filled cache only what grows, the self-attention's part."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        states: torch.Tensor | None,
        past: tuple[Layer, ...] = (),
    ) -> tuple[torch.Tensor, ...]:
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        for layer, (key, value, cross_key, cross_value) in enumerate(past):
            cache.self_attention_cache.update(key, value, layer)
            cache.cross_attention_cache.update(cross_key, cross_value, layer)
            cache.is_updated[layer] = True
        if past:  # its values are in the cache; the model asks for its shape
            states = torch.empty(*attention_mask.shape, self.model.config.d_model)
        logits = self.model(
            decoder_input_ids=input_ids,
            encoder_outputs=BaseModelOutput(states),
            attention_mask=attention_mask,
            use_cache=True,
            **{CACHE: cache},
        ).logits
        return (logits, *(state for layer in _layers(cache) for state in layer[: 2 if past else 4]))


def _convert(student: Path, target: Path) -> None:
    """The three graphs, traced with free batch size and lengths."""
    # plain attention gives a smaller graph than the fused kernel
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    model = AutoModelForSeq2SeqLM.from_pretrained(student, **options).eval()
    encoder, decoder = _Encoder(model), _Decoder(model)
    ids = torch.ones(2, 3, dtype=torch.long)  # any ids do; a size of 1 would be taken for a constant
    mask = torch.ones(2, 5, dtype=torch.long)
    source = torch.ones_like(mask)
    with torch.no_grad():
        states = encoder(source, mask)
        first = decoder(ids, mask, states)[1:]
        past = tuple(tuple(first[i : i + 4]) for i in range(0, len(first), 4))
        inputs = ["input_ids", "attention_mask"]
        _trace(encoder, (source, mask), (FREE, FREE), target / ENCODER, inputs, ["last_hidden_state"])
        inputs = ["input_ids", "encoder_attention_mask"]
        present = _state_names(len(past), "present")
        outputs = ["logits", *(name for row in present for name in row)]
        _trace(decoder, (ids, mask, states), (FREE,) * 3, target / DECODER, [*inputs, "encoder_hidden_states"], outputs)
        inputs += [name for row in _state_names(len(past), "past_key_values") for name in row]
        outputs = ["logits", *(name for row in present for name in row[:2])]
        free = ({0: Dim.DYNAMIC}, FREE, None, ((FREE_STATES,) * 4,) * len(past))
        _trace(decoder, (ids[:, :1], mask, None, past), free, target / DECODER_WITH_PAST, inputs, outputs)


def _trace(
    module: torch.nn.Module, inputs: tuple, free: tuple, file: Path, input_names: list[str], output_names: list[str]
) -> None:
    torch.onnx.export(
        module,
        inputs,
        str(file),
        input_names=input_names,
        output_names=output_names,
        dynamic_shapes=free,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _largest_file(student: PreTrainedModel) -> int:
    """Bytes of weights: folding before int8 puts a tied head beside the decoder's embeddings, transposed."""
    encoder, decoder, head = student.get_encoder(), student.get_decoder(), student.get_output_embeddings()
    sizes = [sum(p.numel() for p in stack.parameters()) for stack in (encoder, decoder)]
    return 4 * max(sizes[0], sizes[1] + head.weight.numel())


def _quantize(source: Path, target: Path) -> None:
    """Weights in int8, activations as they come; folded first, so that a tied head's transposed weights count too."""
    folded = target.with_suffix(".folded")
    quant_pre_process(str(source), str(folded), skip_symbolic_shape=True)
    quantize_dynamic(str(folded), str(target), weight_type=QuantType.QInt8, per_channel=True)
    folded.unlink()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says about torchvision and its own future."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
