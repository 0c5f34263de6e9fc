"""The plan: which teacher layers and axes feed each class of student weights. Facts, no tensors.

Index legend, here and in every module below: ``S`` student layers, ``G`` teacher layers in a group, ``O, I`` output and
input axis of the teacher's matrix, ``P, Q`` those of the student's.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from .config import StudentShape
from .families import Family, WeightClass, family_of

DROPOUT = ("dropout", "dropout_rate")  # as configurations call it
FINER_DROPOUTS = ("attention_dropout", "activation_dropout", "encoder_layerdrop", "decoder_layerdrop")


@dataclass(frozen=True)
class ClassPlan:
    """One class of weights on its way from teacher to student.

    Args:
        weight_class: the family's row.
        groups: for each student layer the teacher layers that feed it; ``((0,),)`` where there is one parameter.
        teacher_shape: shape in one teacher layer.
        student_shape: shape in one student layer.
        teacher_layers: how many of them the teacher has.
        generated: made by the weight source (true), or a free parameter that is trained as it is (false).
    """

    weight_class: WeightClass
    groups: tuple[tuple[int, ...], ...]
    teacher_shape: tuple[int, ...]
    student_shape: tuple[int, ...]
    teacher_layers: int
    generated: bool = True

    @property
    def path(self) -> str:
        """Path with ``{}`` for the layer: the class's name."""
        return self.weight_class.path

    @property
    def axes(self) -> tuple[str, ...]:
        """Meaning of the axes, output first."""
        return self.weight_class.axes

    @property
    def student_names(self) -> tuple[str, ...]:
        """Names of the student's parameters, one a layer."""
        return self.weight_class.names(len(self.groups))

    @property
    def unchanged(self) -> bool:
        """Whether the student has the teacher's layers, all of them in their order and shape."""
        own = tuple((layer,) for layer in range(self.teacher_layers))
        return self.teacher_shape == self.student_shape and self.groups == own

    @property
    def changed_axes(self) -> tuple[bool, ...]:
        """For each axis, whether its size changes."""
        return tuple(t != s for t, s in zip(self.teacher_shape, self.student_shape, strict=True))

    def stack(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """``T_SGOI`` (or ``T_SGO`` for vectors): the teacher's tensors, group by group.

        Groups of unequal length are filled up with zeros, which mixing leaves out whatever their coefficient.
        """
        width = max(len(group) for group in self.groups)
        blank = torch.zeros(self.teacher_shape)
        rows = []
        for group in self.groups:
            layers = [tensors[self.path.format(layer)].detach() for layer in group]
            rows.append(torch.stack(layers + [blank.to(layers[0])] * (width - len(layers))))
        return torch.stack(rows)


@dataclass(frozen=True)
class WeightPlan:
    """What feeds what. Every parameter of the student is exactly one of generated, trained, copied, constant.

    ``vocabulary`` is the number of tokens of teacher and student. Where only text or another tokenizer can tell the
    student's, it is what ``StudentShape.vocab`` says of it, and sizes are those of the whole vocabulary.

    ``zero_rows`` names the embeddings whose padding row is zero in the teacher and stays so: Marian starts decoding
    with it, and CTranslate2 takes a zero for granted. Without care a tied head would move it.
    """

    family: Family
    teacher_config: PretrainedConfig
    student_config: PretrainedConfig
    classes: tuple[ClassPlan, ...]
    copied: tuple[str, ...]
    constants: tuple[str, ...]
    zero_rows: tuple[str, ...]
    teacher_parameters: int
    student_parameters: int
    vocabulary: tuple[int, int | str]

    @property
    def generated(self) -> tuple[ClassPlan, ...]:
        """Classes that the weight source makes."""
        return tuple(c for c in self.classes if c.generated)

    @property
    def trained(self) -> tuple[ClassPlan, ...]:
        """Classes that are free parameters: norms outside the layers."""
        return tuple(c for c in self.classes if not c.generated)

    @property
    def linear(self) -> dict[str, tuple[str, ...]]:
        """``{path of a class: parameter names}`` of the student's attention and feed-forward matrices."""
        return {c.path: c.student_names for c in self.classes if c.weight_class.role == "linear"}

    def __str__(self) -> str:
        return _describe(self)


def check_precision(teacher: PreTrainedModel) -> None:
    """Whether the weights are whole: students are made, and measured, in float32.

    Raises:
        ValueError: they are quantized, or of half precision.
    """
    if getattr(teacher.config, "quantization_config", None) is not None:
        raise ValueError(
            "the teacher is quantized; a student made from rounded weights would inherit their rounding: load it "
            "without quantization_config, with dtype=torch.float32 (an adapter goes on top of that)"
        )
    half = sorted({str(p.dtype) for p in teacher.parameters() if p.dtype != torch.float32})
    if half:
        raise ValueError(
            f"the teacher has {', '.join(half)} weights; the generator computes in float32 and would inherit their "
            "rounding: load it with dtype=torch.float32, or call teacher.float()"
        )


def build_plan(teacher: PreTrainedModel, shape: StudentShape, dropout: float | None = None) -> WeightPlan:
    """Works out what feeds what.

    Args:
        teacher: a seq2seq model of a known family.
        shape: the student's.
        dropout: of the student, and the most that its attention, activations and layers may have; ``None``: the
            teacher's.

    Raises:
        ValueError: the family is unknown, the shape does not fit it, or the layers cannot be grouped.

    Example:
        >>> print(build_plan(teacher, StudentShape(decoder_layers=1)))    # doctest: +SKIP
    """
    family = family_of(teacher.config)
    config = student_config(teacher.config, shape, family)
    if dropout is not None:
        _set_dropout(config, dropout)
    shell = stock_student(teacher, config, device="meta")
    groups = {stack: _groups(stack, teacher.config, shape, family) for stack in ("encoder", "decoder")}
    tensors, shells = tensors_of(teacher), tensors_of(shell)
    depths = {stack: layer_count(teacher.config, stack, family) for stack in groups}
    classes = tuple(_class_plans(family, groups, depths, tensors, shells))
    copied = tuple(name for name in family.copied if name in shells)
    constants = tuple(name for name in family.constants if name in shells)
    _check_partition(shells, classes, copied, constants, family)
    pad = teacher.config.pad_token_id
    tokens = [c.path for c in classes if c.axes[0] == "vocab"] if pad is not None else []
    zero_rows = tuple(path for path in tokens if not tensors[path][pad].any())
    count = [sum(p.numel() for p in model.parameters()) for model in (teacher, shell)]
    vocabulary = (teacher.config.vocab_size, shape.to_dict().get("vocab", teacher.config.vocab_size))
    return WeightPlan(family, teacher.config, config, classes, copied, constants, zero_rows, *count, vocabulary)


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters (tied ones once) and buffers by name."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def _class_plans(
    family: Family,
    groups: dict[str, tuple[tuple[int, ...], ...]],
    depths: dict[str, int],
    tensors: dict[str, torch.Tensor],
    shells: dict[str, torch.Tensor],
) -> Iterable[ClassPlan]:
    for row in family.classes:
        if row.path.format(0) in tensors:
            teacher_shape, student_shape = (tuple(side[row.path.format(0)].shape) for side in (tensors, shells))
            outside = row.role.startswith("norm") and not row.layered
            feeds, layers = (groups[row.stack], depths[row.stack]) if row.layered else (((0,),), 1)
            yield ClassPlan(row, feeds, teacher_shape, student_shape, layers, generated=not outside)


def _check_partition(
    shells: dict[str, torch.Tensor],
    classes: tuple[ClassPlan, ...],
    copied: tuple[str, ...],
    constants: tuple[str, ...],
    family: Family,
) -> None:
    """Every tensor of the student has exactly one origin."""
    planned = [name for c in classes for name in c.student_names] + list(copied) + list(constants)
    missing = sorted(set(shells) - set(planned))
    if missing or len(planned) != len(set(planned)):
        twice = sorted({name for name in planned if planned.count(name) > 1})
        raise ValueError(
            f"the table of {family.name} does not fit this checkpoint: without a row {missing}, with two rows {twice}; "
            "add or correct rows in hf_weight_distill.families"
        )


def stock_student(teacher: PreTrainedModel, config: PretrainedConfig, device: str | torch.device) -> PreTrainedModel:
    """A fresh model of the teacher's class with the teacher's ties.

    ``cls(config)`` ties T5's head to its embedding whatever the checkpoint did, so that the head of T5 v1.1, flan and
    mT5 has to be set free again.
    """
    with torch.device(device):
        student = type(teacher)(copy.deepcopy(config))
    for alias in set(student.all_tied_weights_keys) - set(teacher.all_tied_weights_keys):
        module = student.get_submodule(alias.rpartition(".")[0])
        module.weight = nn.Parameter(module.weight.detach().clone())
        del student.all_tied_weights_keys[alias]
    student.eval()
    return student


def fixed_tensors(plan: "WeightPlan", teacher: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What is not learned: tensors copied from the teacher, and the student's own constants (computed positions)."""
    tensors = tensors_of(teacher)
    fixed = {name: tensors[name].detach().cpu().clone() for name in plan.copied}
    if plan.constants and plan.student_config.d_model == plan.teacher_config.d_model:
        shells = tensors_of(stock_student(teacher, plan.student_config, device="meta"))
        for name in plan.constants:  # M2M100's table grows when the teacher is given a longer text
            fixed[name] = tensors[name].detach()[: len(shells[name])].cpu().clone()
    elif plan.constants:
        fresh = tensors_of(stock_student(teacher, plan.student_config, device="cpu"))
        fixed |= {name: fresh[name].detach() for name in plan.constants}
    return fixed


def decoder_inputs(model: PreTrainedModel, labels: torch.Tensor) -> torch.Tensor:
    """Labels shifted to the right, as the model's own forward would do it.

    M2M100 shifts only inside its forward and offers no method for it.
    """
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        return model.prepare_decoder_input_ids_from_labels(labels=labels)
    start = labels.new_full((len(labels), 1), model.config.decoder_start_token_id)
    shifted = torch.cat([start, labels[:, :-1]], dim=1)
    return shifted.masked_fill(shifted == -100, model.config.pad_token_id)


# --- the student's configuration ---------------------------------------------------------------------------------


def student_config(teacher_config: PretrainedConfig, shape: StudentShape, family: Family) -> PretrainedConfig:
    """The teacher's configuration with the student's shape.

    Raises:
        ValueError: the family cannot express the shape.
    """
    config = copy.deepcopy(teacher_config)
    for name, value in shape.to_dict().items():
        if name == "vocab":
            _set_vocabulary(config, value)
            continue
        if name.endswith("_groups"):
            name, value = name.replace("groups", "layers"), len(value)
        for attribute, number in zip(*_attributes(family, name, value), strict=True):
            setattr(config, attribute, number)
    if not family.own_head_size:
        _check_heads(config, family)
    elif config.num_layers < config.num_decoder_layers:
        # transformers sizes the decoder's cache by num_layers, and generate fails with an IndexError
        raise ValueError(
            f"encoder_layers={config.num_layers} with decoder_layers={config.num_decoder_layers}: students of the "
            f"{family.name} family with fewer encoder than decoder layers cannot generate in Transformers 5; give at "
            "least as many encoder layers"
        )
    return config


def _set_dropout(config: PretrainedConfig, dropout: float) -> None:
    for name in DROPOUT + FINER_DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, dropout if name in DROPOUT else min(getattr(config, name), dropout))


def _set_vocabulary(config: PretrainedConfig, vocab: int | str) -> None:
    """So many tokens. Which ones only the training text can tell: until then ids are any that the model has."""
    if isinstance(vocab, str):
        return
    if vocab >= config.vocab_size:
        raise ValueError(
            f"vocab={vocab}, but the teacher has {config.vocab_size} tokens: give a smaller number, or leave it out"
        )
    for name, value in list(vars(config).items()):
        if name in ("vocab_size", "decoder_vocab_size") and value is not None:
            setattr(config, name, vocab)
        elif name.endswith("_token_id") and isinstance(value, int):
            setattr(config, name, min(value, vocab - 1))  # Marian's <pad> is and stays the last one


def _attributes(family: Family, name: str, value: int | tuple[int, int]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Configuration attributes of a field of the shape, and their values."""
    if name not in family.shape:
        raise ValueError(
            f"{name} is no dimension of its own in {family.name}, where a head has d_model / attention_heads "
            "dimensions; set attention_heads"
        )
    attributes = family.shape[name]
    values = value if isinstance(value, tuple) else (value,) * len(attributes)
    if len(attributes) == 1:
        if len(set(values)) > 1:
            raise ValueError(
                f"{name}={value}: {family.name} has one {attributes[0]!r} for both stacks and cannot "
                "express two; give one number"
            )
        values = values[:1]
    return attributes, values


def _check_heads(config: PretrainedConfig, family: Family) -> None:
    for attribute in family.shape["attention_heads"]:
        heads = getattr(config, attribute)
        if config.d_model % heads:
            divisors = [n for n in range(1, config.d_model + 1) if config.d_model % n == 0 and n <= 2 * heads]
            raise ValueError(
                f"d_model={config.d_model} cannot be divided by {attribute}={heads}: "
                f"set attention_heads to one of {', '.join(map(str, divisors))}"
            )


def layer_count(config: PretrainedConfig, stack: str, family: Family) -> int:
    """Layers of a stack."""
    return getattr(config, family.shape[f"{stack}_layers"][0])


def _groups(stack: str, config: PretrainedConfig, shape: StudentShape, family: Family) -> tuple[tuple[int, ...], ...]:
    """For each student layer the teacher layers that feed it: consecutive and equal, unless given."""
    teacher_layers = layer_count(config, stack, family)
    given = getattr(shape, f"{stack}_groups")
    if given is not None:
        beyond = sorted({layer for group in given for layer in group if not 0 <= layer < teacher_layers})
        if beyond:
            raise ValueError(
                f"{stack}_groups names layers {beyond}, but the teacher's {stack} has layers 0 to {teacher_layers - 1}"
            )
        return given
    student_layers = getattr(shape, f"{stack}_layers") or teacher_layers
    if student_layers > teacher_layers:
        raise ValueError(
            f"{student_layers} student layers from {teacher_layers} teacher layers in the {stack}: a deeper student "
            f"needs {stack}_groups, which may name a teacher layer more than once"
        )
    if teacher_layers % student_layers:
        fitting = [str(n) for n in range(1, teacher_layers + 1) if teacher_layers % n == 0]
        raise ValueError(
            f"{teacher_layers} teacher layers cannot form {student_layers} equal groups in the {stack}: use "
            f"{', '.join(fitting[:-1])} or {fitting[-1]} student layers, or give {stack}_groups yourself"
        )
    size = teacher_layers // student_layers
    return tuple(tuple(range(s * size, (s + 1) * size)) for s in range(student_layers))


# --- the plan in words -------------------------------------------------------------------------------------------


def _describe(plan: WeightPlan) -> str:
    teacher, student, family = plan.teacher_config, plan.student_config, plan.family
    tokens, kept = plan.vocabulary
    whole = " with the whole vocabulary" if isinstance(kept, str) else ""
    lines = [f"{family.name}: {plan.teacher_parameters:,} -> {plan.student_parameters:,} parameters{whole}"]
    for name, attributes in family.shape.items():
        for attribute in attributes:
            old, new = getattr(teacher, attribute), getattr(student, attribute)
            lines.append(
                f"  {attribute if len(attributes) > 1 else name:<24} {old:>6} -> {new}"
                + ("" if old != new else "  (unchanged)")
            )
    if kept != tokens:
        lines.append(f"  {'vocab':<24} {tokens:>6} -> {kept}" + ("  (counted before training)" if whole else ""))
    for stack in ("encoder", "decoder"):
        layered = next(c for c in plan.classes if c.weight_class.layered and c.weight_class.stack == stack)
        for layer, group in enumerate(layered.groups):
            lines.append(
                f"  {stack} layer {layer} <- teacher layer{'s' * (len(group) > 1)} {', '.join(map(str, group))}"
            )
    changed = [c for c in plan.generated if not c.unchanged]
    lines.append(
        f"  generated: {len(changed)} classes that change, {len(plan.generated) - len(changed)} of unchanged shape"
    )
    for c in changed:
        lines.append(f"    {c.path:<58} {_size(c.groups, c.teacher_shape)} -> {_size(c.groups, c.student_shape, 1)}")
    lines += [f"  trained as they are: {', '.join(c.path for c in plan.trained) or 'none'}"]
    lines += [f"  copied: {', '.join(plan.copied) or 'none'}; constant: {', '.join(plan.constants) or 'none'}"]
    return "\n".join(lines)


def _size(groups: tuple[tuple[int, ...], ...], shape: tuple[int, ...], layers: int | None = None) -> str:
    count = len(groups) if layers else sum(map(len, groups))
    return "x".join(map(str, shape)) + (f" ({count} layer{'s' * (count > 1)})")
