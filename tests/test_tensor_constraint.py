"""The tensor constraint: values, gradients, and where it is refused."""

import pytest
import torch
from models import random_batch, tiny_teacher
from training import arguments, random_features
from transformers.modeling_outputs import Seq2SeqLMOutput

from hf_weight_distill import StudentShape, WeightDistillTrainer, build_plan
from hf_weight_distill.data import PlainCollator
from hf_weight_distill.model import WeightDistillModel
from hf_weight_distill.objectives import TensorConstraint, build_objectives
from hf_weight_distill.starts import teacher_start

LABELS = torch.tensor([[3, 1, -100], [0, 2, 4]])  # five tokens


def mpo_model(shape=None, layers="last", source="mpo", unit_sites=1):
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, shape or StudentShape(decoder_layers=2))
    start = teacher_start(plan, teacher, layers=layers)
    options = {"unit_sites": unit_sites} if source == "mpo" else {}
    return teacher, WeightDistillModel(plan, teacher, start, source, options)


def trainer(model, folder, weights, **options):
    pad = model.config.pad_token_id
    objectives = build_objectives(weights)
    data = {"train_dataset": random_features(), "data_collator": PlainCollator(pad)}
    return WeightDistillTrainer(model, args=arguments(folder, **options), objectives=objectives, **data)


def test_it_is_the_naive_mean_of_squares_times_the_tokens():
    pairs = [(torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)), (torch.randn(4, 1, 1, 4), torch.randn(4, 1, 1, 4))]
    outputs = Seq2SeqLMOutput(logits=torch.zeros(2, 3, 5))
    outputs["exposed"] = {"auxiliary": pairs}
    means = [sum((a - b) ** 2 for a, b in zip(x.flatten(), y.flatten(), strict=True)) / x.numel() for x, y in pairs]
    torch.testing.assert_close(TensorConstraint()(outputs, None, LABELS), 5 * sum(means) / 2)


@pytest.mark.parametrize("unit_sites", [0, 1, 3])
def test_zero_with_itself_then_a_gradient_on_auxiliary_tensors_alone(unit_sites):
    """The last layers of the groups are the student: nothing to hold, until something moves."""
    teacher, model = mpo_model(unit_sites=unit_sites)
    batch, objective = random_batch(teacher), TensorConstraint()
    value = objective(model(**batch, output_exposed=True), None, batch["labels"])
    assert value.item() == 0
    with torch.no_grad():
        for p in model.source.sites.parameters():
            p.add_(0.1 * torch.randn_like(p))
    value = objective(model(**batch, output_exposed=True), None, batch["labels"])
    tokens = (batch["labels"] != -100).sum()
    assert value.item() == pytest.approx(0.01 * tokens.item(), rel=0.1)
    value.backward()
    central = (unit_sites + 1) // 2
    for sites in model.source.sites.values():
        for k, site in enumerate(sites):
            assert (site.grad is None) if k == central else site.grad.any()
    assert all(p.grad is None for p in model.source.weights.parameters())


def test_another_layer_of_the_group_is_held_too():
    teacher, model = mpo_model(layers="first")
    batch = random_batch(teacher)
    assert TensorConstraint()(model(**batch, output_exposed=True), None, batch["labels"]) > 0


def test_a_step_moves_the_student_towards_the_teacher():
    teacher, model = mpo_model(layers="first")
    batch, objective = random_batch(teacher), TensorConstraint()
    optimizer, values = torch.optim.SGD(model.source.sites.parameters(), lr=1.0), []
    for _ in range(3):
        optimizer.zero_grad()
        value = objective(model(**batch, output_exposed=True), None, batch["labels"])
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[0] > values[1] > values[2]


def test_it_trains_and_is_logged_for_each_label_token(tmp_path):
    _, model = mpo_model(layers="first")
    with torch.no_grad():
        expected = torch.stack([(a - b).square().mean() for a, b in model.source.exposed()["auxiliary"]]).mean().item()
    run = trainer(model, tmp_path, {"cross_entropy": 1.0, "tensor_constraint": 0.5}, max_steps=3, bf16=True)
    run.train()
    logs = [row for row in run.state.log_history if "tensor_constraint" in row]
    assert logs[0]["tensor_constraint"] == pytest.approx(expected, rel=1e-4)
    assert logs[0]["loss"] == pytest.approx(logs[0]["cross_entropy"] + 0.5 * expected, rel=1e-3)


def test_a_resumed_run_is_the_run(tmp_path):
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-3}
    weights, results = {"cross_entropy": 1.0, "tensor_constraint": 0.1}, []
    for resume in (None, str(tmp_path / "checkpoint-2")):
        _, model = mpo_model(layers="first")
        run = trainer(model, tmp_path, weights, **options)
        run.train(resume_from_checkpoint=resume)
        results.append(model.student_weights())
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])


def test_a_narrower_student_has_nothing_to_hold(tmp_path):
    _, model = mpo_model(StudentShape(d_model=8, attention_heads=2, ffn_dim=12))
    assert not model.source.exposed()["auxiliary"]
    message = "no linear matrix of the teacher's shape.*expected at least one.*drop tensor_constraint.*works alone"
    with pytest.raises(ValueError, match=message):
        trainer(model, tmp_path, {"cross_entropy": 1.0, "tensor_constraint": 1e-4})


def test_another_source_has_nothing_to_hold(tmp_path):
    _, model = mpo_model(source="direct")
    with pytest.raises(ValueError, match="source without auxiliary tensors, and expected 'mpo'"):
        trainer(model, tmp_path, {"cross_entropy": 1.0, "tensor_constraint": 1e-4})
    assert trainer(mpo_model()[1], tmp_path, {"cross_entropy": 1.0, "tensor_constraint": 1e-4})


def test_a_plain_student_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="tensor_constraint looks at the tensors of a weight source"):
        trainer(tiny_teacher("marian"), tmp_path, {"cross_entropy": 1.0, "tensor_constraint": 1e-4})
