"""Families: which parameter of a seq2seq model is which, and what its axes mean. Data only.

A row (:class:`WeightClass`) names one class of weights by its path, with ``{}`` where the layer's number stands, and
says what each axis means, output axis first:

========== ==================================================================================================
``vocab``     tokens; never projected
``positions`` learned positions; never projected
``buckets``   buckets of a relative position bias; never projected
``model``     the residual stream, shared by every layer of both stacks
``qk``        queries and keys of one attention module, head after head: a selection keeps heads whole
``vo``        values and inputs of the output projection of one attention module, likewise
``heads``     one number a head (T5's relative position bias)
``ffn``       neurons of one feed-forward module
========== ==================================================================================================

The inner axes (``qk``, ``vo``, ``heads``, ``ffn``) belong to a ``unit``, the module whose classes must agree on them.

To add a family, write its rows with the helpers below and add it to :data:`FAMILIES`; the partition test
(``tests/test_families.py``) tells at once which parameters the table forgets.
"""

from dataclasses import dataclass

from transformers import PretrainedConfig

NEVER_PROJECTED = ("vocab", "positions", "buckets")


@dataclass(frozen=True)
class WeightClass:
    """One class of weights: the same parameter in every layer of a stack.

    Args:
        path: parameter name with ``{}`` for the layer; without ``{}`` the parameter exists once.
        axes: meaning of each axis, output axis first.
        role: ``"linear"``, ``"bias"``, ``"norm_weight"``, ``"norm_bias"``, ``"embedding"``, ``"head"`` or
            ``"relative_bias"``.
        unit: the module whose classes share the inner axes, or ``None``.
        stream: ``"encoder"`` or ``"decoder"``: whose tokens flow through it (cross-attention keys: the encoder's).
        key: it makes attention keys, whose mean over tokens changes nothing.
    """

    path: str
    axes: tuple[str, ...]
    role: str
    unit: str | None = None
    stream: str = "decoder"
    key: bool = False

    @property
    def layered(self) -> bool:
        """Whether each layer has one."""
        return "{}" in self.path

    @property
    def stack(self) -> str:
        """``"encoder"`` or ``"decoder"``: the stack whose layers own it."""
        return "encoder" if "encoder." in self.path.split("{}")[0] else "decoder"

    def names(self, layers: int) -> tuple[str, ...]:
        """Parameter names of this class in a stack of ``layers`` layers."""
        return tuple(self.path.format(layer) for layer in range(layers)) if self.layered else (self.path,)


@dataclass(frozen=True)
class Family:
    """What the plan has to know of a model family.

    Args:
        name: for messages.
        classes: rows; a row whose parameter a checkpoint does not have (no bias, tied head) is skipped.
        constants: positions that are computed, not learned: the student keeps its own.
        copied: tensors that are taken from the teacher as they are.
        shape: field of ``StudentShape`` -> configuration attributes for (encoder, decoder).
        output_norm: module in front of the output projection; ``{}`` stands for the last decoder layer.
        mean_free_norm: LayerNorm subtracts the mean (true), T5's RMS norm does not (false).
        scaled_attention: queries times keys are divided by the square root of the head's size.
        own_head_size: the head's size is a field of its own (T5's ``d_kv``) and not ``d_model / heads``.
        shared_relative_bias: the first block's relative position bias serves all blocks, so that every
            self-attention of a stack must keep the same heads.
    """

    name: str
    classes: tuple[WeightClass, ...]
    shape: dict[str, tuple[str, ...]]
    output_norm: str
    constants: tuple[str, ...] = ()
    copied: tuple[str, ...] = ()
    mean_free_norm: bool = True
    scaled_attention: bool = True
    own_head_size: bool = False
    shared_relative_bias: bool = False


def _attention(unit: str, names: str, keys_from: str, stream: str) -> tuple[WeightClass, ...]:
    """Rows of one attention module; ``names`` are its query, key, value and output projections."""
    query, key, value, output = names.split()
    rows = []
    for name, axis, side in ((query, "qk", stream), (key, "qk", keys_from), (value, "vo", keys_from)):
        rows.append(WeightClass(f"{unit}.{name}.weight", (axis, "model"), "linear", unit, side, name == key))
        rows.append(WeightClass(f"{unit}.{name}.bias", (axis,), "bias", unit, side))
    rows.append(WeightClass(f"{unit}.{output}.weight", ("model", "vo"), "linear", unit, stream))
    rows.append(WeightClass(f"{unit}.{output}.bias", ("model",), "bias", None, stream))
    return tuple(rows)


def _feed_forward(unit: str, inputs: str, output: str, stream: str) -> tuple[WeightClass, ...]:
    rows = []
    for name in inputs.split():
        rows.append(WeightClass(f"{unit}.{name}.weight", ("ffn", "model"), "linear", unit, stream))
        rows.append(WeightClass(f"{unit}.{name}.bias", ("ffn",), "bias", unit, stream))
    rows.append(WeightClass(f"{unit}.{output}.weight", ("model", "ffn"), "linear", unit, stream))
    rows.append(WeightClass(f"{unit}.{output}.bias", ("model",), "bias", None, stream))
    return tuple(rows)


def _norm(path: str, stream: str) -> tuple[WeightClass, ...]:
    weight = WeightClass(f"{path}.weight", ("model",), "norm_weight", None, stream)
    return weight, WeightClass(f"{path}.bias", ("model",), "norm_bias", None, stream)


def _embedding(path: str, axis: str = "vocab", role: str = "embedding", stream: str = "decoder") -> WeightClass:
    return WeightClass(f"{path}.weight", (axis, "model"), role, None, stream)


def _bart_stack(stack: str) -> tuple[WeightClass, ...]:
    layer, names = f"model.{stack}.layers.{{}}", "q_proj k_proj v_proj out_proj"
    rows = _attention(f"{layer}.self_attn", names, stack, stack) + _norm(f"{layer}.self_attn_layer_norm", stack)
    if stack == "decoder":
        rows += _attention(f"{layer}.encoder_attn", names, "encoder", stack)
        rows += _norm(f"{layer}.encoder_attn_layer_norm", stack)
    rows += _feed_forward(layer, "fc1", "fc2", stack) + _norm(f"{layer}.final_layer_norm", stack)
    outside = _norm(f"model.{stack}.layernorm_embedding", stack) + _norm(f"model.{stack}.layer_norm", stack)
    tokens = _embedding(f"model.{stack}.embed_tokens", stream=stack)
    return rows + outside + (tokens,)


_BART_CLASSES = (
    (_embedding("model.shared"), _embedding("lm_head", role="head")) + _bart_stack("encoder") + _bart_stack("decoder")
)
_LEARNED_POSITIONS = tuple(
    _embedding(f"model.{stack}.embed_positions", "positions", stream=stack) for stack in ("encoder", "decoder")
)
_BART_SHAPE = {
    "encoder_layers": ("encoder_layers",),
    "decoder_layers": ("decoder_layers",),
    "d_model": ("d_model",),
    "ffn_dim": ("encoder_ffn_dim", "decoder_ffn_dim"),
    "attention_heads": ("encoder_attention_heads", "decoder_attention_heads"),
}


def _t5_stack(stack: str, bias_in_every_block: bool) -> tuple[WeightClass, ...]:
    block, names = f"{stack}.block.{{}}.layer", "q k v o"
    owner = f"{block}.0.SelfAttention"
    bias = f"{owner if bias_in_every_block else owner.format(0)}.relative_attention_bias.weight"
    rows = _attention(owner, names, stack, stack) + _norm(f"{block}.0.layer_norm", stack)
    rows += (WeightClass(bias, ("buckets", "heads"), "relative_bias", owner, stack),)
    feed_forward = 1
    if stack == "decoder":
        rows += _attention(f"{block}.1.EncDecAttention", names, "encoder", stack)
        rows += _norm(f"{block}.1.layer_norm", stack)
        feed_forward = 2
    rows += _feed_forward(f"{block}.{feed_forward}.DenseReluDense", "wi wi_0 wi_1", "wo", stack)
    rows += _norm(f"{block}.{feed_forward}.layer_norm", stack) + _norm(f"{stack}.final_layer_norm", stack)
    return rows + (_embedding(f"{stack}.embed_tokens", stream=stack),)


def _t5(name: str, bias_in_every_block: bool) -> Family:
    stacks = _t5_stack("encoder", bias_in_every_block) + _t5_stack("decoder", bias_in_every_block)
    return Family(
        name=name,
        classes=(_embedding("shared"), _embedding("lm_head", role="head")) + stacks,
        shape={
            "encoder_layers": ("num_layers",),
            "decoder_layers": ("num_decoder_layers",),
            "d_model": ("d_model",),
            "ffn_dim": ("d_ff",),
            "attention_heads": ("num_heads",),
            "d_kv": ("d_kv",),
        },
        output_norm="decoder.final_layer_norm",
        mean_free_norm=False,
        scaled_attention=False,
        own_head_size=True,
        shared_relative_bias=not bias_in_every_block,
    )


_POSITION_PARAMETERS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
_POSITION_BUFFERS = ("model.encoder.embed_positions.weights", "model.decoder.embed_positions.weights")
_LAST_POST_NORM = "model.decoder.layers.{}.final_layer_norm"
_BIAS_BUFFER = ("final_logits_bias",)

FAMILIES: dict[str, Family] = {
    "marian": Family("Marian", _BART_CLASSES, _BART_SHAPE, _LAST_POST_NORM, _POSITION_PARAMETERS, _BIAS_BUFFER),
    "bart": Family("BART", _BART_CLASSES + _LEARNED_POSITIONS, _BART_SHAPE, _LAST_POST_NORM, (), _BIAS_BUFFER),
    "mbart": Family(
        "mBART", _BART_CLASSES + _LEARNED_POSITIONS, _BART_SHAPE, "model.decoder.layer_norm", (), _BIAS_BUFFER
    ),
    "pegasus": Family(
        "Pegasus", _BART_CLASSES, _BART_SHAPE, "model.decoder.layer_norm", _POSITION_PARAMETERS, _BIAS_BUFFER
    ),
    "m2m_100": Family("M2M100 (NLLB)", _BART_CLASSES, _BART_SHAPE, "model.decoder.layer_norm", _POSITION_BUFFERS, ()),
    "t5": _t5("T5", bias_in_every_block=False),
    "mt5": _t5("mT5", bias_in_every_block=False),
    "umt5": _t5("UMT5", bias_in_every_block=True),
}


def scales_outputs(config: PretrainedConfig) -> bool:
    """Whether the forward pass multiplies what the head reads by ``d_model ** -0.5``: T5's and UMT5's may, mT5's never.

    Earlier releases of Transformers 5 have no setting for it and ask whether the head is tied.
    """
    tied = getattr(config, "tie_word_embeddings", True)
    return config.model_type in ("t5", "umt5") and bool(getattr(config, "scale_decoder_outputs", tied))


def family_of(config: PretrainedConfig) -> Family:
    """The table of a configuration's family.

    Raises:
        ValueError: the model is no encoder-decoder, or its family has no table yet.
    """
    if not getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"the teacher is a {config.model_type!r} model, which is not an encoder-decoder; weight distillation here "
            f"works on {', '.join(family.name for family in FAMILIES.values())} teachers: use a seq2seq checkpoint"
        )
    if config.model_type not in FAMILIES:
        raise ValueError(
            f"no table for the family {config.model_type!r}; known: {', '.join(FAMILIES)}. Add one to "
            "hf_weight_distill.families.FAMILIES: a row for each class of weights, as the module's docstring says"
        )
    return FAMILIES[config.model_type]
