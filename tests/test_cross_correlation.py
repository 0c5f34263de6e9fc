"""The cross-correlation objective against a naive loop and the values that the formula must give."""

import math

import pytest
import torch
from models import random_batch, tiny_teacher
from transformers.modeling_outputs import Seq2SeqLMOutput

from hf_weight_distill import StudentShape, WeightDistillTrainer, WeightDistillTrainingArguments, build_plan
from hf_weight_distill.objectives import OBJECTIVES, CrossCorrelation, build_objectives
from hf_weight_distill.objectives.cross_correlation import cross_correlation_loss
from hf_weight_distill.plan import stock_student

LAMBDA = 0.0051


def naive(Zs, Zt, off_diagonal=LAMBDA):
    """Entry by entry, in Python's own double precision."""
    columns = [[standardised([row[d] for row in Z.tolist()]) for d in range(Z.shape[1])] for Z in (Zs, Zt)]
    total = 0.0
    for i, student in enumerate(columns[0]):
        for j, teacher in enumerate(columns[1]):
            c = sum(a * b for a, b in zip(student, teacher, strict=True)) / len(Zs)
            total += (1 - c) ** 2 if i == j else off_diagonal * c**2
    return total


def standardised(values):
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / len(values)
    return [(v - mean) / math.sqrt(variance + 1e-5) for v in values]


def decorrelated(tokens, features):
    """Columns of mean 0 and variance 100, orthogonal to each other; large, so that eps does not show."""
    Z = torch.randn(tokens, features, dtype=torch.float64)
    Z = torch.linalg.qr(Z - Z.mean(0)).Q  # orthonormal columns in the space of mean 0
    return Z * math.sqrt(tokens) * 10


def outputs(encoder, decoder, mask=None):
    found = Seq2SeqLMOutput(encoder_last_hidden_state=encoder, decoder_hidden_states=(decoder * 7, decoder))
    found["encoder_mask"] = mask
    return found


def random_outputs(D=3, rows=4, source=6, target=5, shift=0.0):
    """Student, teacher, labels; the mask and the labels leave some positions out."""
    mask = torch.ones(rows, source, dtype=torch.long)
    mask[0, -2:], mask[2, -1:] = 0, 0
    labels = torch.randint(0, 9, (rows, target))
    labels[1, -2:] = -100
    sides = []
    for _ in range(2):
        encoder, decoder = torch.randn(rows, source, D) + shift, 2 * torch.randn(rows, target, D)
        sides.append((encoder.requires_grad_(), decoder.requires_grad_()))
    return outputs(*sides[0], mask), outputs(*sides[1]), labels


def kept(student, teacher, labels):
    """Rows of both stacks that count, picked one by one."""
    mask = student["encoder_mask"]
    pairs = []
    for which, counted in (("encoder", mask.tolist()), ("decoder", (labels != -100).tolist())):
        rows = []
        for side in (student, teacher):
            hidden = side.encoder_last_hidden_state if which == "encoder" else side.decoder_hidden_states[-1]
            rows.append(torch.stack([hidden[b, n] for b, row in enumerate(counted) for n, x in enumerate(row) if x]))
        pairs.append(rows)
    return pairs


# --- the formula ---------------------------------------------------------------------------------------------------


def test_the_formula_is_the_naive_loop():
    Zs, Zt = torch.randn(11, 4) * 0.1 + 3, torch.randn(11, 4)
    assert cross_correlation_loss(Zs, Zt, LAMBDA).item() == pytest.approx(naive(Zs, Zt), rel=1e-4)
    assert cross_correlation_loss(Zs, Zt, 0.5).item() == pytest.approx(naive(Zs, Zt, 0.5), rel=1e-4)


def test_identical_decorrelated_features_give_zero():
    Z = decorrelated(40, 8)
    assert cross_correlation_loss(Z, Z, LAMBDA).item() == pytest.approx(0, abs=1e-9)


def test_opposite_features_give_four_a_feature():
    Z = decorrelated(40, 8)
    assert cross_correlation_loss(Z, -Z, LAMBDA).item() == pytest.approx(32, abs=1e-4)


def test_a_positive_affine_map_of_each_feature_changes_nothing():
    Zs, Zt = torch.randn(30, 5) * 10, torch.randn(30, 5) * 10
    mapped = Zs * torch.tensor([0.5, 3.0, 10.0, 1.0, 2.0]) + torch.randn(5)
    expected = cross_correlation_loss(Zs, Zt, LAMBDA)
    assert cross_correlation_loss(mapped, Zt, LAMBDA).item() == pytest.approx(expected.item(), rel=1e-4)
    negative = mapped * torch.tensor([-1.0, 1, 1, 1, 1])
    assert abs(cross_correlation_loss(negative, Zt, LAMBDA) - expected) > 0.01


def test_the_formula_stays_in_float32_under_autocast():
    Zs, Zt = torch.randn(30, 5), torch.randn(30, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = cross_correlation_loss(Zs, Zt, LAMBDA)
    torch.testing.assert_close(found, cross_correlation_loss(Zs, Zt, LAMBDA), rtol=0, atol=0)


# --- the objective -------------------------------------------------------------------------------------------------


def test_the_objective_is_the_mean_of_both_stacks_times_label_tokens_over_features():
    student, teacher, labels = random_outputs(D=3)
    found = CrossCorrelation()(student, teacher, labels)
    stacks = [naive(*pair) for pair in kept(student, teacher, labels)]
    assert found.item() == pytest.approx(18 * sum(stacks) / 2 / 3, rel=1e-4)  # 4 x 5 labels, two of them ignored


def test_padding_and_ignored_positions_do_not_count():
    student, teacher, labels = random_outputs(D=3)
    expected = CrossCorrelation()(student, teacher, labels)
    with torch.no_grad():
        for side in (student, teacher):
            side.encoder_last_hidden_state[0, -2:] = 1e4
            side.decoder_hidden_states[-1][1, -2:] = -1e4
    torch.testing.assert_close(CrossCorrelation()(student, teacher, labels), expected)


def test_without_a_mask_every_source_position_counts():
    student, teacher, labels = random_outputs(D=3)
    student["encoder_mask"] = None
    found = CrossCorrelation()(student, teacher, labels)
    student["encoder_mask"] = torch.ones(4, 6)
    assert found == CrossCorrelation()(student, teacher, labels)


def test_gradients_reach_the_student_only():
    student, teacher, labels = random_outputs(D=3)
    CrossCorrelation()(student, teacher, labels).backward()
    for part in (student.encoder_last_hidden_state, student.decoder_hidden_states[-1]):
        assert part.grad.abs().sum() > 0
    assert student.encoder_last_hidden_state.grad[0, -2:].abs().sum() == 0


def test_lambda_weighs_the_off_diagonal():
    student, teacher, labels = random_outputs(D=3)
    without, half, whole = (CrossCorrelation(off_diagonal=x)(student, teacher, labels) for x in (0.0, 0.5, 1.0))
    assert without < half < whole
    torch.testing.assert_close(half, (without + whole) / 2)


# --- tokens of earlier batches -------------------------------------------------------------------------------------


def test_small_batches_wait_and_then_use_exactly_four_tokens_a_feature():
    D = 8  # 32 tokens are needed; a batch has 21 in the encoder and 18 in the decoder
    objective, batches = CrossCorrelation(), [random_outputs(D=D, shift=i) for i in range(3)]
    first = objective(*batches[0])
    assert first.item() == 0
    first.backward()  # connected, for DDP
    assert batches[0][0].encoder_last_hidden_state.grad.abs().sum() == 0

    for now in (1, 2):
        student, teacher, labels = batches[now]
        found = objective(student, teacher, labels)
        expected, losses = 0.0, []
        for stack in range(2):
            current = kept(student, teacher, labels)[stack]
            earlier = [torch.cat([kept(*batches[i])[stack][side] for i in range(now)]) for side in range(2)]
            count = 4 * D - len(current[0])
            joined = [torch.cat([e.detach()[-count:], c]) for e, c in zip(earlier, current, strict=True)]
            assert len(joined[0]) == 32
            expected += 18 * naive(*joined) / 2 / D
            losses.append(18 * cross_correlation_loss(*joined, LAMBDA) / 2 / D * 32 / len(current[0]))
        assert found.item() == pytest.approx(expected, rel=1e-4)
        features = (student.encoder_last_hidden_state, student.decoder_hidden_states[-1])
        gradients = torch.autograd.grad(found, features)
        for gradient, loss, feature in zip(gradients, losses, features, strict=True):
            torch.testing.assert_close(gradient, torch.autograd.grad(loss, feature)[0], rtol=1e-4, atol=1e-6)


def test_a_large_batch_needs_no_memory_of_others():
    objective = CrossCorrelation()
    for i in range(3):
        student, teacher, labels = random_outputs(D=3, shift=i)
        torch.testing.assert_close(objective(student, teacher, labels), CrossCorrelation()(student, teacher, labels))
    assert all(seen.shape == (2, 12, 3) and not seen.requires_grad for seen in objective._seen.values())


def test_a_batch_without_labels_gives_zero():
    student, teacher, labels = random_outputs(D=3)
    objective = CrossCorrelation()
    objective(student, teacher, labels)
    found = objective(student, teacher, torch.full_like(labels, -100))
    found.backward()
    assert found.item() == 0 and torch.isfinite(student.encoder_last_hidden_state.grad).all()


# --- errors and the trainer ----------------------------------------------------------------------------------------


def test_another_width_is_refused():
    student, _, labels = random_outputs(D=3)
    with pytest.raises(ValueError, match="3 features and the teacher's 4: .* d_model"):
        CrossCorrelation()(student, random_outputs(D=4)[1], labels)


def test_a_negative_lambda_is_refused():
    with pytest.raises(ValueError, match="off_diagonal=-1"):
        CrossCorrelation(off_diagonal=-1)


def test_the_dictionary_knows_it_and_passes_its_option():
    (objective, weight), *_ = build_objectives({"cross_correlation": 0.1}, off_diagonal=0.25, temperature=2.0).values()
    assert OBJECTIVES["cross_correlation"] is type(objective) and (objective.off_diagonal, weight) == (0.25, 0.1)


@pytest.mark.parametrize("family", ["marian", "t5", "mbart"])
def test_the_trainer_feeds_it(family, tmp_path):
    """Its value in compute_loss is the one computed from the models' own outputs; every matrix gets a gradient."""
    teacher = tiny_teacher(family)
    student = stock_student(teacher, build_plan(teacher, StudentShape(decoder_layers=2)).student_config, "cpu")
    args = WeightDistillTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    objectives = build_objectives({"cross_correlation": 0.1})
    trainer = WeightDistillTrainer(student, args=args, objectives=objectives, teacher=teacher)
    student.train()
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "activation_dropout", "attention_dropout", "dropout_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    batch = random_batch(teacher, rows=16)  # 110 source and 94 target tokens, 64 are needed
    loss = trainer.compute_loss(student, dict(batch))
    loss.backward()
    total = 0.0
    with torch.no_grad():
        found = [model.eval()(**batch, output_hidden_states=True) for model in (student, teacher)]
    encoder = [o.encoder_last_hidden_state[batch["attention_mask"].bool()] for o in found]
    decoder = [o.decoder_hidden_states[-1][batch["labels"] != -100] for o in found]
    total = sum(cross_correlation_loss(*pair, LAMBDA) for pair in (encoder, decoder)) / 2 / 16
    assert loss.item() == pytest.approx(0.1 * total.item(), rel=1e-3)
    matrices = [p for n, p in student.named_parameters() if p.dim() == 2 and "layer" in n and p.requires_grad]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in matrices)
