"""Objectives: a sum over label tokens, against naive loops and closed forms."""

import copy
import math

import pytest
import torch
from models import random_batch, tiny_teacher
from transformers.modeling_outputs import Seq2SeqLMOutput

from hf_weight_distill.objectives import OBJECTIVES, CrossEntropy, KLDivergence, build_objectives

LABELS = torch.tensor([[3, 1, -100], [0, 2, 4]])


def outputs(seed):
    return Seq2SeqLMOutput(logits=torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed)))


def test_cross_entropy_is_the_naive_loop():
    student, epsilon, total = outputs(0), 0.1, 0.0
    for row, labels in zip(student.logits, LABELS, strict=True):
        for logits, label in zip(row.tolist(), labels.tolist(), strict=True):
            if label != -100:
                log_z = math.log(sum(math.exp(x) for x in logits))
                log_q = [x - log_z for x in logits]
                total -= (1 - epsilon) * log_q[label] + epsilon * sum(log_q) / len(log_q)
    assert CrossEntropy(epsilon)(student, None, LABELS).item() == pytest.approx(total, rel=1e-5)


def test_cross_entropy_is_the_trainers_label_smoother():
    from transformers.trainer_pt_utils import LabelSmoother

    student = outputs(0)
    expected = LabelSmoother(0.1)(student, LABELS.clone()) * (LABELS != -100).sum()
    torch.testing.assert_close(CrossEntropy(0.1)(student, None, LABELS), expected)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_kl_is_the_naive_loop(temperature):
    student, teacher, total = outputs(0), outputs(1), 0.0
    for i, j in torch.nonzero(LABELS != -100).tolist():
        p, q = (torch.softmax(o.logits[i, j].double() / temperature, -1).tolist() for o in (teacher, student))
        total += temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert KLDivergence(temperature)(student, teacher, LABELS).item() == pytest.approx(total, rel=1e-5)
    assert KLDivergence(temperature)(student, student, LABELS).item() == pytest.approx(0, abs=1e-6)


def test_options_go_where_they_belong():
    built = build_objectives({"cross_entropy": 0.5, "kl": 2.0}, label_smoothing=0.2, temperature=3.0)
    assert (built["cross_entropy"][0].label_smoothing, built["cross_entropy"][1]) == (0.2, 0.5)
    assert (built["kl"][0].temperature, built["kl"][1]) == (3.0, 2.0)


@pytest.mark.parametrize(
    "weights, message",
    [
        ({}, "at least one objective needs a weight above 0"),
        ({"kl": 0.0}, "at least one objective"),
        ({"kl": -1.0}, "'kl' has weight -1.0"),
        ({"ce": 1.0}, "objectives: unknown 'ce'; known: .*cross_entropy, kl"),
    ],
)
def test_bad_settings(weights, message):
    with pytest.raises(ValueError, match=message):
        build_objectives(weights)


@pytest.mark.parametrize("name", [n for n, o in OBJECTIVES.items() if "exposed" not in o.needs])
def test_contract_finite_scalar_with_gradient_to_the_student(name):
    """Every objective: a scalar, differentiable in the student, indifferent to what lies on padding."""
    student, teacher = tiny_teacher("marian"), tiny_teacher("marian")
    with torch.no_grad():
        for p in student.parameters():
            p.add_(0.05 * torch.randn_like(p))
    batch = random_batch(student, rows=24)  # enough tokens for objectives over token statistics
    both = [m(**batch, output_hidden_states=True, output_attentions=True) for m in (student, teacher)]
    for out in both:
        out["encoder_mask"] = batch["attention_mask"]
    value = OBJECTIVES[name]()(*both, batch["labels"])
    assert value.dim() == 0 and torch.isfinite(value)
    value.backward(retain_graph=True)
    assert student.model.encoder.layers[0].fc1.weight.grad.any()
    noisy = [with_noise_on_padding(out, batch) for out in both]
    torch.testing.assert_close(OBJECTIVES[name]()(*noisy, batch["labels"]), value)


def with_noise_on_padding(outputs, batch):
    """Outputs of a model, with something else where no token stands."""
    padding = {"encoder": batch["attention_mask"] == 0, "decoder": batch["labels"] == -100}

    def noisy(states, stack):
        return torch.where(padding[stack][..., None], torch.randn_like(states), states)

    changed = copy.copy(outputs)
    changed["logits"] = noisy(outputs.logits, "decoder")
    changed["encoder_last_hidden_state"] = noisy(outputs.encoder_last_hidden_state, "encoder")
    for stack in padding:
        name = f"{stack}_hidden_states"
        changed[name] = tuple(noisy(states, stack) for states in outputs[name])
    return changed


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_half_precision_are_summed_in_float32(dtype):
    logits, other = (4 * torch.randn(2, 9, 300)).to(dtype), (4 * torch.randn(2, 9, 300)).to(dtype)
    labels = torch.randint(0, 300, (2, 9))
    labels[0, -3:] = -100
    keep = labels != -100
    q, p = (x.double()[keep].log_softmax(-1) for x in (logits, other))
    kl = (p.exp() * (p - q)).sum().item()
    ce = -(0.9 * q.gather(1, labels[keep][:, None]).sum() + 0.1 / 300 * q.sum()).item()
    for s, t in ((logits, other), (logits.float(), other), (logits, other.float())):
        found = KLDivergence()(Seq2SeqLMOutput(logits=s), Seq2SeqLMOutput(logits=t), labels)
        assert found.item() == pytest.approx(kl, rel=1e-5)
    found = CrossEntropy(0.1)(Seq2SeqLMOutput(logits=logits), None, labels)
    assert found.item() == pytest.approx(ce, rel=1e-5)
