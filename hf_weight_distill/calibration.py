"""What a short pass over text says of a teacher: which directions, heads and neurons carry its computation."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .evaluation import inference
from .families import WeightClass
from .plan import ClassPlan, WeightPlan, decoder_inputs, tensors_of

Batch = dict[str, Tensor]
NormMoments = tuple[Tensor, Tensor, Tensor, Tensor]
RIDGE = 1e-4  # against normalised states, whose mean square is 1


@dataclass(frozen=True)
class Statistics:
    """Second moments of the teacher.

    Args:
        stream_DD: second moment of the states of the residual stream, each scaled to unit norm (and freed of its mean
            where the family's norms do that), averaged over tokens, layers and both stacks. Its trace is 1.
        energy: ``{(unit, axis): (L, A)}`` for the inner axes: how much of a module's output runs through a dimension.
    """

    stream_DD: Tensor
    energy: dict[tuple[str, str], Tensor]


def module_of(row: WeightClass, layer: int) -> str:
    """Name of the module that owns a class's parameter in a layer."""
    return row.path.rpartition(".")[0].format(layer)


def weight_statistics(plan: WeightPlan, teacher: PreTrainedModel) -> Statistics:
    """Statistics from weights alone, for when there is no text.

    The stream is judged by what is written into it: embeddings and the output matrices of every module, each scaled
    to the same size. A dimension of an inner axis counts by the product of its squared norms on both sides.
    """
    tensors = tensors_of(teacher)
    stream, energy = 0, defaultdict(lambda: 1.0)
    for c in plan.classes:
        row = c.weight_class
        if len(row.axes) == 1 or row.role in ("relative_bias", "head"):
            continue
        layers_LOI = torch.stack([tensors[row.path.format(n)].detach().cpu() for n in range(c.teacher_layers)])
        if row.role == "embedding":
            stream = stream + _unit_trace(layers_LOI[0].T @ layers_LOI[0])
        elif row.axes[0] == "model":
            stream = stream + _unit_trace(sum(W_OI @ W_OI.T for W_OI in layers_LOI))
        if row.unit:
            inner = 0 if row.axes[0] != "model" else 1
            energy[row.unit, row.axes[inner]] = energy[row.unit, row.axes[inner]] * layers_LOI.square().sum(2 - inner)
    if plan.family.mean_free_norm:
        stream = _centre(_centre(stream).T)
    return Statistics(_unit_trace(stream), dict(energy))


def text_statistics(plan: WeightPlan, teacher: PreTrainedModel, batches: Iterable[Batch]) -> Statistics:
    """Statistics of the teacher's activations on batches of features (``input_ids``, ``attention_mask``, ``labels``).

    A neuron or value dimension counts by the energy that it sends through the output matrix,
    ``E[a_j^2] * |W_{:,j}|^2``; a query-key dimension by ``E[q_j^2] * Var[k_j]`` (a constant key moves no softmax).
    """
    stream: dict[tuple[str, int], list[Tensor | int]] = {}
    sums: dict[tuple[str, int], list[Tensor | int]] = {}
    inner = [c for c in plan.classes if c.weight_class.role == "linear" and _is_inner(c.weight_class)]

    def watch(row: WeightClass, layer: int) -> Callable:
        def hook(module: torch.nn.Module, inputs: tuple, output: Tensor) -> None:
            values = inputs[0] if row.axes[0] == "model" else output
            values_ND = values.flatten(0, -2)[masks[row.stream].flatten()].float()
            _add(sums, (row.path, layer), [values_ND.sum(0), values_ND.square().sum(0), len(values_ND)])

        return hook

    masks: dict[str, Tensor] = {}
    watched = {module_of(c.weight_class, n): watch(c.weight_class, n) for c in inner for n in range(c.teacher_layers)}
    with hooks(teacher, watched):
        for batch in batches:
            masks.update(token_masks(teacher, batch))
            for stack, states in run_stacks(teacher, batch, output_hidden_states=True).items():
                for layer, state in enumerate(states.hidden_states):
                    states_ND = _normalise(state[masks[stack]].float(), plan.family.mean_free_norm)
                    _add(stream, (stack, layer), [states_ND.T @ states_ND, len(states_ND)])
    moment_DD = sum(total_DD / tokens for total_DD, tokens in stream.values())
    return Statistics(_unit_trace(moment_DD).float(), _energies(inner, tensors_of(teacher), sums))


def norm_statistics(
    plan: WeightPlan, teacher: PreTrainedModel, batches: Iterable[Batch], projection_DE: Tensor
) -> dict[tuple[str, int], NormMoments]:
    r"""What :func:`fit_norm` needs of every norm, after a projection ``R`` of the residual stream.

    ``n = norm(R^T x)`` is the student's normalised input, ``t = R^T y`` the teacher's projected output.

    Returns:
        ``{(path of the weight class, layer): (E[n], E[t], E[n^2], E[n t])}``.
    """
    mean_free = plan.family.mean_free_norm
    sums: dict[tuple[str, int], list] = {}

    def watch(row: WeightClass, layer: int) -> Callable:
        def hook(module: torch.nn.Module, inputs: tuple, output: Tensor) -> None:
            mask = masks[row.stream]
            n = _normalise(inputs[0][mask].float() @ projection_DE, mean_free)
            t = output[mask].float() @ projection_DE
            _add(sums, (row.path, layer), [n.sum(0), t.sum(0), n.square().sum(0), (n * t).sum(0), len(n)])

        return hook

    masks: dict[str, Tensor] = {}
    norms = [c for c in plan.classes if c.weight_class.role == "norm_weight"]
    watched = {module_of(c.weight_class, n): watch(c.weight_class, n) for c in norms for n in range(c.teacher_layers)}
    with hooks(teacher, watched):
        for batch in batches:
            masks.update(token_masks(teacher, batch))
            run_stacks(teacher, batch)
    return {key: tuple(total / values[-1] for total in values[:-1]) for key, values in sums.items()}


def _add(sums: dict, key: tuple[str, int], new: list) -> None:
    """Adds to running sums, in double precision on the CPU."""
    new = [value.cpu().double() if isinstance(value, Tensor) else value for value in new]
    sums[key] = [a + b for a, b in zip(sums.get(key, [0] * len(new)), new, strict=True)]


def fit_norm(moments: NormMoments, prior_E: Tensor, with_bias: bool) -> tuple[Tensor, Tensor]:
    r"""Weight and bias of a student's norm: one least-squares line a dimension, with a little pull towards a prior.

    .. math::
        \gamma_j = \frac{\mathrm{Cov}(n_j, t_j) + \lambda \gamma^0_j}{\mathrm{Var}(n_j) + \lambda},
        \qquad \beta_j = E[t_j] - \gamma_j E[n_j], \qquad \lambda = 10^{-4}

    Where a dimension hardly varies over tokens the text says nothing of its slope, and the prior decides.

    Args:
        moments: of the student's normalised input ``n`` and the teacher's projected output ``t``.
        prior_E: weights to fall back on.
        with_bias: without (RMS norm) the line runs through the origin, and uncentred moments take the place.
    """
    mean_n, mean_t, square_n, product = moments
    if with_bias:
        square_n, product = square_n - mean_n.square(), product - mean_n * mean_t
    gamma = (product + RIDGE * prior_E.double()) / (square_n + RIDGE)
    beta = mean_t - gamma * mean_n if with_bias else torch.zeros_like(gamma)
    return gamma.float(), beta.float()


def _is_inner(row: WeightClass) -> bool:
    return row.axes[-1] in ("vo", "ffn") or row.axes[0] == "qk"


def _energies(inner: list[ClassPlan], tensors: dict[str, Tensor], sums: dict) -> dict[tuple[str, str], Tensor]:
    energy = defaultdict(lambda: 1.0)
    for c in inner:
        row, layers = c.weight_class, []
        for layer in range(c.teacher_layers):
            total, squares, count = sums[c.path, layer]
            if row.axes[0] == "model":
                layers.append(squares / count * tensors[c.path.format(layer)].detach().cpu().double().square().sum(0))
            else:
                layers.append(squares / count - (total / count).square() * row.key)
        axis = row.axes[1] if row.axes[0] == "model" else row.axes[0]
        energy[row.unit, axis] = energy[row.unit, axis] * torch.stack(layers).float().cpu()
    return dict(energy)


def in_double(values: Tensor) -> Tensor:
    """In double precision, which Apple's GPUs do not have."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def _normalise(states_ND: Tensor, mean_free: bool) -> Tensor:
    """LayerNorm or RMS norm without weights."""
    if mean_free:
        states_ND = states_ND - states_ND.mean(-1, keepdim=True)
    return states_ND * states_ND.square().mean(-1, keepdim=True).clamp_min(1e-12).rsqrt()


def _centre(moment_DD: Tensor) -> Tensor:
    return moment_DD - moment_DD.mean(0, keepdim=True)


def _unit_trace(moment_DD: Tensor) -> Tensor:
    return moment_DD / moment_DD.diagonal().sum().clamp_min(1e-30)


def token_masks(teacher: PreTrainedModel, batch: Batch) -> dict[str, Tensor]:
    """Which positions of each stack are tokens."""
    return {
        "encoder": batch["attention_mask"].bool().to(teacher.device),
        "decoder": batch["labels"].ne(-100).to(teacher.device),
    }


def run_stacks(model: PreTrainedModel, batch: Batch, **options: bool) -> dict[str, BaseModelOutput]:
    """``{"encoder": output, "decoder": output}`` on the text; no vocabulary is computed."""
    encoder = run_encoder(model, batch, **options)
    return {"encoder": encoder, "decoder": run_decoder(model, batch, encoder[0], **options)}


def run_encoder(model: PreTrainedModel, batch: Batch, **options: bool) -> BaseModelOutput:
    """The encoder on the sources."""
    mask = batch["attention_mask"].to(model.device)
    return model.get_encoder()(input_ids=batch["input_ids"].to(model.device), attention_mask=mask, **options)


def run_decoder(model: PreTrainedModel, batch: Batch, memory: Tensor, **options: bool) -> BaseModelOutput:
    """The decoder on the targets, looking at ``memory``."""
    inputs = decoder_inputs(model, batch["labels"].to(model.device))
    seen = {"encoder_hidden_states": memory, "encoder_attention_mask": batch["attention_mask"].to(model.device)}
    return model.get_decoder()(input_ids=inputs, use_cache=False, **seen, **options)


@contextmanager
def hooks(model: PreTrainedModel, watched: dict[str, Callable]) -> Iterator[None]:
    """Forward hooks by module name, for as long as the context lasts; in evaluation mode and without gradients."""
    handles = [model.get_submodule(name).register_forward_hook(hook) for name, hook in watched.items()]
    try:
        with inference(model):
            yield
    finally:
        for handle in handles:
            handle.remove()
