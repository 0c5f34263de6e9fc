"""Tiny random teachers of every family, built in code."""

import copy
import functools

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

VOCAB = 40
BART_LIKE = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 32,
    "pad_token_id": VOCAB - 1,
    "bos_token_id": 1,
    "eos_token_id": 0,
    "decoder_start_token_id": VOCAB - 1,
    "forced_eos_token_id": 0,
}
T5_LIKE = {
    "vocab_size": VOCAB,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_layers": 4,
    "num_decoder_layers": 4,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
GATED = {"feed_forward_proj": "gated-gelu"}
FAMILIES = ("marian", "bart", "mbart", "pegasus", "m2m_100", "t5", "flan-t5", "mt5", "umt5")


def _build(family: str) -> PreTrainedModel:
    if family == "marian":
        return MarianMTModel(MarianConfig(**BART_LIKE, scale_embedding=True, activation_function="swish"))
    if family == "bart":
        return BartForConditionalGeneration(BartConfig(**BART_LIKE))
    if family == "mbart":
        return MBartForConditionalGeneration(MBartConfig(**BART_LIKE))
    if family == "pegasus":
        return PegasusForConditionalGeneration(PegasusConfig(**BART_LIKE, scale_embedding=True))
    if family == "m2m_100":
        # its position table has a row for the padding token, whose id must lie inside it
        ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
        config = M2M100Config(**BART_LIKE | ids, encoder_layerdrop=0.0, decoder_layerdrop=0.0)
        return M2M100ForConditionalGeneration(config)
    if family == "t5":
        return T5ForConditionalGeneration(T5Config(**T5_LIKE))
    if family == "flan-t5":
        return _untie(T5ForConditionalGeneration(T5Config(**T5_LIKE, **GATED)))
    if family == "mt5":
        return _untie(MT5ForConditionalGeneration(MT5Config(**T5_LIKE, **GATED)))
    return UMT5ForConditionalGeneration(UMT5Config(**T5_LIKE, **GATED))


def _untie(model: PreTrainedModel) -> PreTrainedModel:
    """As checkpoints with a head of their own load: flan, T5 v1.1, mT5."""
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight))
    del model.all_tied_weights_keys["lm_head.weight"]
    model.config.scale_decoder_outputs = False
    return model


@functools.cache
def _cached(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = _build(family)
    with torch.no_grad():  # zero biases and unit norms would hide mistakes
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    if "final_logits_bias" in dict(model.named_buffers()):
        model.final_logits_bias.normal_()
    return model.eval()


def tiny_teacher(family: str) -> PreTrainedModel:
    """A fresh copy of a random teacher: 4 + 4 layers, width 16, 4 heads, 24 neurons."""
    return copy.deepcopy(_cached(family))


def random_batch(model: PreTrainedModel, rows: int = 3, source: int = 7, target: int = 6, seed: int = 0) -> dict:
    """Token ids with padding on both sides."""
    generator = torch.Generator().manual_seed(seed)
    pad = model.config.pad_token_id
    low, high = 3, VOCAB - 2
    input_ids = torch.randint(low, high, (rows, source), generator=generator)
    labels = torch.randint(low, high, (rows, target), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    input_ids[0, -2:], attention_mask[0, -2:] = pad, 0
    labels[1, -2:] = -100
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
