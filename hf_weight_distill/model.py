"""The phase-1 module: a weight source inside a stock student."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import Seq2SeqLMOutput

from .config import check_names, options_of
from .families import NEVER_PROJECTED
from .plan import ClassPlan, WeightPlan, decoder_inputs, fixed_tensors, stock_student, tensors_of
from .sources import SOURCES, ClassSpec, ClassStart, WeightSource
from .sources.base import BufferDict


@dataclass
class ExposingOutput(Seq2SeqLMOutput):
    """The student's outputs and what its weight source exposes; a dataclass, because DDP rebuilds outputs by fields."""

    exposed: dict[str, Any] | None = None


class WeightDistillModel(nn.Module):
    """Makes the student's weights on every forward pass and runs a stock student with them.

    The student is never rewritten: a stock model on the meta device is the shell, and
    :func:`torch.func.functional_call` runs it with the generated tensors. Teacher and shell stay outside the module
    tree, so that only what is trained is saved.

    Args:
        plan: what feeds what.
        teacher: seq2seq model, float32; it is read once and not kept.
        start: ``{path: ClassStart}`` from :mod:`hf_weight_distill.starts`.
        source: key of ``SOURCES``.
        source_options: options of the source.

    Example:
        >>> model = WeightDistillModel(plan, teacher, teacher_start(plan, teacher))    # doctest: +SKIP
        >>> student = model.materialize()                                              # doctest: +SKIP
    """

    main_input_name = "input_ids"
    _keys_to_ignore_on_save = None

    def __init__(
        self,
        plan: WeightPlan,
        teacher: PreTrainedModel,
        start: dict[str, ClassStart],
        source: str = "generator",
        source_options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        check_source(source, source_options or {})
        self.plan = plan
        self.config: PretrainedConfig = copy.deepcopy(plan.student_config)
        self.generation_config = copy.deepcopy(teacher.generation_config)
        tensors = tensors_of(teacher)
        specs = [_spec(c, tensors, start[c.path]) for c in plan.generated]
        self.source: WeightSource = SOURCES[source](specs, **(source_options or {}))
        self.free = nn.ParameterDict({_key(c.path): nn.Parameter(start[c.path].weight.clone()) for c in plan.trained})
        self.fixed = BufferDict({_key(name): tensor for name, tensor in fixed_tensors(plan, teacher).items()})
        shell = stock_student(teacher, plan.student_config, device="meta")
        object.__setattr__(self, "_shell", shell)  # not a submodule: meta tensors can be neither moved nor saved
        object.__setattr__(self, "_student", None)

    # --- weights ---

    def student_weights(self) -> dict[str, Tensor]:
        """``{parameter name: tensor}`` of the student, tied tensors once, constants included. Differentiable."""
        weights = {_name(key): tensor for key, tensor in self.fixed.named_buffers()}
        generated = self.source()
        for c in self.plan.classes:
            rows = generated[c.path] if c.generated else self.free[_key(c.path)]
            weights.update(zip(c.student_names, rows.unbind(0), strict=True))
        for name in self.plan.zero_rows:
            pad = torch.tensor(self.config.pad_token_id, device=self.device)
            weights[name] = weights[name].index_fill(0, pad, 0)
        return weights

    @torch.no_grad()
    def materialize(self) -> PreTrainedModel:
        """The stock student, on the model's device, with weights of its own and the teacher's generation settings."""
        return copy.deepcopy(self._refreshed())

    @torch.no_grad()
    def _refreshed(self) -> PreTrainedModel:
        """The evaluation copy with today's weights; copied in place, which keeps ties."""
        if self._student is None:
            object.__setattr__(self, "_student", stock_student(self._shell, self.plan.student_config, device="cpu"))
        student: PreTrainedModel = self._student.to(self.device)
        tensors = tensors_of(student)
        for name, tensor in self.student_weights().items():
            tensors[name][: len(tensor)].copy_(tensor)  # M2M100's table of positions may have grown
        for name in self.plan.constants:
            if isinstance(tensors[name], nn.Parameter):
                tensors[name].requires_grad_(False)  # computed positions get no gradient; DDP would wait for one
        student.generation_config = copy.deepcopy(self.generation_config)
        return student.eval()

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    # --- what a Seq2SeqTrainer asks of a model ---

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_exposed: bool = False,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput:
        """Runs the student with freshly generated weights; arguments are the stock model's.

        ``output_exposed`` adds what the source exposes (see ``WeightSource.exposed``) as ``outputs.exposed``.
        """
        if decoder_input_ids is None and labels is not None:
            decoder_input_ids = decoder_inputs(self._shell, labels)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "decoder_input_ids": decoder_input_ids}
        if labels is not None:
            inputs["labels"] = labels
        self._shell.train(self.training)
        outputs = functional_call(self._shell, self.student_weights(), (), inputs | kwargs)
        if output_exposed:
            outputs = ExposingOutput(**outputs, exposed=self.source.exposed())
        return outputs

    def generate(self, *args: Any, **kwargs: Any) -> Tensor:
        """Decodes with the materialised student."""
        return self._refreshed().generate(*args, **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """Labels shifted to the right, as the student does it."""
        return decoder_inputs(self._shell, labels)

    def set_attn_implementation(self, name: str) -> None:
        """The kernel of attention in training, as of any ``PreTrainedModel``."""
        self._shell.set_attn_implementation(name)

    def slow_parameters(self) -> Iterator[nn.Parameter]:
        """Projections and mixing: see ``WeightDistillTrainingArguments.projection_lr_factor``."""
        return self.source.slow_parameters()


def check_source(source: str, options: dict[str, Any], from_teacher: bool = True) -> None:
    """Whether there is such a source with such options, and for such a start: tried on a class of one number.

    Raises:
        ValueError: no.
    """
    check_names("weight source", [source], SOURCES)
    check_names(f"weight source {source!r}", options, options_of(SOURCES[source]))
    if not SOURCES[source].__module__.startswith(f"{__package__}."):
        return  # a user's own may ask for more than one class of one number
    mix = torch.ones(1, 1) if from_teacher else None
    probe = ClassStart(torch.zeros(1, 1), mix, (None,))
    spec = ClassSpec("every class", ("ffn",), torch.zeros(1, 1, 1), (1,), (1,), True, "bias", (True,), probe)
    with torch.random.fork_rng(devices=()):
        SOURCES[source]([spec], **options)


def _key(name: str) -> str:
    """A parameter's name as one that a module can hold."""
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")


def _spec(c: ClassPlan, tensors: dict[str, Tensor], start: ClassStart) -> ClassSpec:
    row, changed = c.weight_class, not c.unchanged
    reach = [axis not in NEVER_PROJECTED for axis in c.axes]
    project = reach if row.layered else [r and x for r, x in zip(reach, c.changed_axes, strict=True)]
    teacher = c.stack(tensors).cpu()
    sizes = tuple(map(len, c.groups))
    return ClassSpec(c.path, c.axes, teacher, c.student_shape, sizes, changed, row.role, tuple(project), start)
