"""The structured start: exact where a smaller model hides inside the teacher, and right piece by piece."""

import copy

import pytest
import torch
from models import FAMILIES, GATED, T5_LIKE, random_batch, tiny_teacher
from test_least_squares import activations, tokens
from transformers import MT5Config, MT5ForConditionalGeneration

from hf_weight_distill import StudentShape, build_plan
from hf_weight_distill.calibration import fit_norm, norm_statistics, text_statistics, weight_statistics
from hf_weight_distill.families import FAMILIES as TABLES
from hf_weight_distill.model import WeightDistillModel
from hf_weight_distill.plan import fixed_tensors, stock_student, tensors_of
from hf_weight_distill.starts import chosen_layers, random_start, residual_projection, teacher_start


def student_of(teacher, shape, batches=None, **options):
    plan = build_plan(teacher, shape)
    return WeightDistillModel(plan, teacher, teacher_start(plan, teacher, batches, **options)).materialize()


def batches_of(model, count=3):
    return [random_batch(model, rows=8, seed=seed) for seed in range(count)]


# --- a teacher that is a smaller model, isometrically embedded -------------------------------------------------------


def isometry(family, wide, narrow):
    """R with orthonormal columns; for LayerNorm it carries the mean's direction over."""
    if family != "marian":
        return torch.linalg.qr(torch.randn(wide, narrow)).Q
    u_t, u_s = torch.full((wide, 1), wide**-0.5), torch.full((narrow, 1), narrow**-0.5)
    V = torch.linalg.qr(torch.cat([u_t, torch.randn(wide, narrow - 1)], 1)).Q[:, 1:]
    U = torch.linalg.qr(torch.cat([u_s, torch.randn(narrow, narrow - 1)], 1)).Q[:, 1:]
    return u_t @ u_s.T + V @ U.T


def spread(tensor, axis, size, where):
    """Puts a tensor's rows (or columns) at the given places of a larger one of zeros."""
    shape = list(tensor.shape)
    shape[axis] = size
    return torch.zeros(shape).index_copy(axis, where, tensor)


def randomise(tensor, role):
    """Norm weights are one constant each."""
    if role == "norm_weight":
        tensor.fill_(0.5 + torch.rand(()).item())
    elif role != "embedding":
        tensor.copy_(0.5 * torch.randn_like(tensor))


def embedded(tensor, c, R, places):
    """A tensor of the small model in the large one: projected along the stream, spread along inner axes."""
    for axis, kind in enumerate(c.axes):
        if kind == "model" and c.weight_class.role == "norm_weight":
            tensor = tensor[:1].expand(16) * 2**-0.5
        elif kind == "model":
            tensor = torch.tensordot(tensor, R, dims=([axis], [1])).movedim(-1, axis)
        elif kind in places:
            tensor = spread(tensor, axis, *places[kind])
    return tensor


def head_of(family):
    """A teacher, with heads that the usual checkpoints do not have."""
    if family == "tied mt5":
        return MT5ForConditionalGeneration(MT5Config(**T5_LIKE, **GATED))
    model = tiny_teacher("flan-t5" if family == "t5, own scaled head" else family)
    if family == "t5, own scaled head":
        model.config.scale_decoder_outputs = True
    return model


def embedded_teacher(family, head_size=4, heads=4):
    """A teacher of width 16 that computes what a model of width 8 computes, and that model.

    The smaller model's neurons and heads stand at random places; everything else of the teacher is zero, the norm
    weights are constants, which every projection carries over.
    """
    wide = head_of(family)
    shape = StudentShape(d_model=8, ffn_dim=12, attention_heads=8 // head_size)
    if family != "marian":
        shape = StudentShape(d_model=8, ffn_dim=12, attention_heads=2, d_kv=head_size)
    plan = build_plan(wide, shape)
    narrow = stock_student(wide, plan.student_config, device="cpu")
    small, large = tensors_of(narrow), tensors_of(wide)
    R = isometry(family, 16, 8)
    kept_heads = torch.randperm(4)[: 8 // head_size if family == "marian" else 2].sort().values
    inner = (kept_heads[:, None] * 4 + torch.randperm(4)[:head_size].sort().values).flatten()
    neurons = torch.randperm(24)[:12].sort().values
    scale = 2**-0.5 if family == "marian" else 1.0  # embeddings are multiplied by sqrt(d)
    places = {"qk": (16, inner), "vo": (16, inner), "heads": (4, kept_heads), "ffn": (24, neurons)}
    with torch.no_grad():
        for c in plan.classes:
            for name in c.student_names:
                randomise(small[name], c.weight_class.role)
                if "qk" in c.axes:
                    small[name].mul_(1.7)  # attention that is far from even, so that its temperature shows
                tensor = embedded(small[name], c, R, places)
                if "qk" in c.axes and family == "marian":
                    tensor = tensor * (4 / head_size) ** 0.25
                large[name].copy_(tensor * (scale if c.weight_class.role == "embedding" else 1))
        head = TABLES[plan.teacher_config.model_type].output_norm.format(3)
        for part in (".weight", ".bias"):  # the head's own factor; mT5 has none
            if head + part in large and family != "tied mt5":
                large[head + part].mul_(2**0.5)
        for name in plan.constants:
            large[name].copy_(small[name] @ R.T)
        for name in plan.copied:
            small[name].copy_(large[name])
    return wide.eval(), narrow.eval(), shape


@pytest.mark.parametrize("with_text", [True, False], ids=["text", "weights alone"])
@pytest.mark.parametrize(
    "family, head_size",
    [("marian", 4), ("marian", 2), ("t5", 4), ("t5", 2), ("tied mt5", 4), ("t5, own scaled head", 4)],
)
def test_a_smaller_model_inside_the_teacher_is_found(family, head_size, with_text):
    torch.manual_seed(3)
    teacher, small, shape = embedded_teacher(family, head_size)
    batch = random_batch(teacher)
    torch.testing.assert_close(teacher(**batch).logits, small(**batch).logits, atol=2e-3, rtol=2e-3)
    student = student_of(teacher, shape, batches_of(teacher) if with_text else None)
    kept = batch["labels"] != -100
    torch.testing.assert_close(student(**batch).logits[kept], teacher(**batch).logits[kept], atol=5e-3, rtol=5e-3)


# --- depth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_depth_alone_copies_whole_layers(family):
    teacher, batch = tiny_teacher(family), random_batch(tiny_teacher(family))
    student = student_of(teacher, StudentShape(decoder_layers=2), layers="last")
    expected = copy.deepcopy(teacher)
    decoder = expected.get_decoder()
    name = "block" if hasattr(decoder, "block") else "layers"
    layers = getattr(decoder, name)
    if family in ("t5", "flan-t5", "mt5"):  # the first block owns the relative position bias
        layers[1].layer[0].SelfAttention.relative_attention_bias = (
            layers[0].layer[0].SelfAttention.relative_attention_bias
        )
        layers[1].layer[0].SelfAttention.has_relative_attention_bias = True
    setattr(decoder, name, torch.nn.ModuleList([layers[1], layers[3]]))
    torch.testing.assert_close(
        student(**batch, use_cache=False).logits, expected(**batch, use_cache=False).logits, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    "groups, how, expected",
    [
        (((0, 1, 2), (3, 4, 5)), "first", (0, 0)),
        (((0, 1, 2), (3, 4, 5)), "last", (2, 2)),
        (((0, 1, 2), (3, 4, 5)), "spaced", (0, 2)),
        (((0, 1), (2, 3), (4, 5)), "spaced", (0, 0, 1)),
        (((0, 1, 2, 3, 4, 5),), "spaced", (0,)),
    ],
)
def test_chosen_layers(groups, how, expected):
    assert chosen_layers(groups, how, 6) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_step_zero_is_the_training_free_student(family):
    teacher = tiny_teacher(family)
    plan = build_plan(
        teacher, StudentShape(encoder_layers=2, decoder_layers=1, d_model=8, ffn_dim=12, attention_heads=2)
    )
    start = teacher_start(plan, teacher, batches_of(teacher, 1))
    generated, direct = (
        WeightDistillModel(plan, teacher, start, s).eval().materialize() for s in ("generator", "direct")
    )
    batch = random_batch(teacher)
    torch.testing.assert_close(generated(**batch).logits, direct(**batch).logits, atol=1e-5, rtol=1e-5)


# --- the projection --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pca", "importance", "uniform"])
@pytest.mark.parametrize("mean_free", [True, False])
def test_the_projection_has_orthonormal_columns(how, mean_free):
    states = torch.randn(50, 12) @ torch.randn(12, 12)
    R = residual_projection(states.T @ states, 5, how, mean_free)
    torch.testing.assert_close(R.T @ R, torch.eye(5), atol=1e-5, rtol=0)
    if how == "pca" and mean_free:
        torch.testing.assert_close(R.T @ torch.full((12,), 12**-0.5), torch.full((5,), 5**-0.5), atol=1e-5, rtol=0)


def test_pca_keeps_the_largest_eigenvalues():
    states = torch.randn(50, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    moment = states.T @ states
    R = residual_projection(moment, 5, "pca", mean_free=False).double()
    kept = torch.trace(R.T @ moment @ R)
    assert kept.item() == pytest.approx(torch.linalg.eigvalsh(moment)[-5:].sum().item(), rel=1e-5)


def test_the_rotation_lays_the_teachers_positions_on_the_students():
    R0 = isometry("marian", 12, 6)
    student_positions = torch.randn(20, 6)
    teacher_positions = student_positions @ R0.T
    moment = (R0 @ R0.T) + 1e-3 * torch.eye(12)
    free = residual_projection(moment, 6, "pca", True)
    turned = residual_projection(moment, 6, "pca", True, (teacher_positions, student_positions))
    torch.testing.assert_close(teacher_positions @ turned, student_positions, atol=1e-4, rtol=1e-4)
    assert (teacher_positions @ free - student_positions).abs().max() > 0.1


# --- calibration -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["marian", "t5"])
def test_padding_and_batching_change_no_statistic(family):
    teacher = tiny_teacher(family)
    plan = build_plan(teacher, StudentShape(d_model=8))
    batch = random_batch(teacher)
    rows = []
    for i in range(len(batch["labels"])):
        source, target = int(batch["attention_mask"][i].sum()), int(batch["labels"][i].ne(-100).sum())
        row = {name: tensor[i : i + 1, : target if name == "labels" else source] for name, tensor in batch.items()}
        rows.append(row)
    together, alone = text_statistics(plan, teacher, [batch]), text_statistics(plan, teacher, rows)
    for key, energy in together.energy.items():
        torch.testing.assert_close(alone.energy[key], energy, atol=1e-7, rtol=1e-4)
    naive = 0
    for stack in ("encoder", "decoder"):
        outputs = [teacher(**row, output_hidden_states=True)[f"{stack}_hidden_states"] for row in rows]
        tokens = sum(len(states[0][0]) for states in outputs)
        for x in torch.cat([state[0].detach() for states in outputs for state in states]):  # token by token
            x = x - x.mean() if family == "marian" else x
            naive = naive + torch.outer(x, x) / x.square().sum() / tokens
    for statistics in (together, alone):
        assert torch.trace(statistics.stream_DD).item() == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(statistics.stream_DD, naive / torch.trace(naive), atol=1e-6, rtol=1e-4)


def test_neuron_energy_is_the_naive_sum():
    teacher = tiny_teacher("marian")
    plan, batch = build_plan(teacher, StudentShape()), random_batch(teacher)
    statistics = text_statistics(plan, teacher, [batch])
    seen = []
    layer = teacher.model.decoder.layers[1]
    handle = layer.fc1.register_forward_hook(lambda m, i, o: seen.append(torch.nn.functional.silu(o)))
    teacher(**batch)
    handle.remove()
    kept = seen[0][batch["labels"] != -100].detach()
    for j in (0, 7):
        expected = sum(a[j] ** 2 for a in kept) / len(kept) * sum(w[j] ** 2 for w in layer.fc2.weight)
        assert statistics.energy["model.decoder.layers.{}", "ffn"][1][j].item() == pytest.approx(
            expected.item(), rel=1e-4
        )


def test_the_energy_of_a_pair_of_dimensions_is_that_of_the_query_times_the_variance_of_the_key():
    """What all keys have in common adds the same to every score, and the softmax does not see it."""
    teacher = tiny_teacher("marian")
    batch, base = random_batch(teacher), "model.decoder.layers.1.encoder_attn."
    key = ("model.decoder.layers.{}.encoder_attn", "qk")
    energy = text_statistics(build_plan(teacher, StudentShape()), teacher, [batch]).energy[key][1]
    seen = activations(teacher, [base + "q_proj", base + "k_proj"], [batch])
    query = tokens(seen[base + "q_proj"][1], [batch], "decoder")
    keys = tokens(seen[base + "k_proj"][1], [batch], "encoder")
    torch.testing.assert_close(energy.double(), torch.tensor((query**2).mean(0) * keys.var(0)), atol=1e-6, rtol=1e-4)


def test_without_text_the_energy_of_a_neuron_is_the_product_of_its_squared_norms():
    teacher = tiny_teacher("flan-t5")
    key = ("decoder.block.{}.layer.2.DenseReluDense", "ffn")
    energy = weight_statistics(build_plan(teacher, StudentShape()), teacher).energy[key][3]
    module = teacher.decoder.block[3].layer[2].DenseReluDense
    into, out = (
        module.wi_0.weight.square().sum(1) * module.wi_1.weight.square().sum(1),
        module.wo.weight.square().sum(0),
    )
    torch.testing.assert_close(energy, into * out, atol=1e-6, rtol=1e-5)


def test_without_text_norm_weights_make_up_for_what_the_projection_leaves_out():
    """sqrt(rho) g @ R^2 with rho = tr(R' M R) D_t / D_s, where the stream's moments M have trace 1."""
    teacher, path = tiny_teacher("t5"), "encoder.block.{}.layer.0.layer_norm.weight"
    plan = build_plan(teacher, StudentShape(d_model=8))
    start, moments = teacher_start(plan, teacher), weight_statistics(plan, teacher).stream_DD
    R = start["shared.weight"].projections[1].matrix[0]
    kept = torch.trace(R.T @ moments @ R) / torch.trace(moments) * 16 / 8
    weight = teacher.encoder.block[2].layer[0].layer_norm.weight
    torch.testing.assert_close(start[path].weight[2], kept.sqrt() * (weight @ R.square()), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("text", [True, False], ids=["text", "weights alone"])
def test_a_head_of_its_own_that_equals_the_embedding_changes_no_student(text):
    tied = tiny_teacher("marian")  # its embeddings are scaled
    own = copy.deepcopy(tied)
    own.lm_head.weight = torch.nn.Parameter(own.lm_head.weight.detach().clone())
    del own.all_tied_weights_keys["lm_head.weight"]
    batch, shape = random_batch(tied), StudentShape(d_model=8, attention_heads=2)
    students = [student_of(t, shape, batches_of(t) if text else None).eval() for t in (tied, own)]
    torch.testing.assert_close(students[0](**batch).logits, students[1](**batch).logits, atol=1e-4, rtol=1e-4)


def test_the_self_attentions_of_t5_keep_the_heads_of_their_position_bias():
    teacher = tiny_teacher("t5")
    plan = build_plan(teacher, StudentShape(attention_heads=2))
    start = teacher_start(plan, teacher, batches_of(teacher))
    for stack in ("encoder", "decoder"):
        attention = f"{stack}.block.{{}}.layer.0.SelfAttention"
        bias = start[attention.format(0) + ".relative_attention_bias.weight"].projections[1].matrix[0]
        for layer in start[attention + ".v.weight"].projections[0].matrix:
            assert torch.equal(layer.view(4, 4, 2, 4)[:, 0, :, 0], bias)


def test_norms_are_the_least_squares_solution():
    teacher = tiny_teacher("bart")
    plan, batch = build_plan(teacher, StudentShape(d_model=8)), random_batch(teacher)
    R = residual_projection(weight_statistics(plan, teacher).stream_DD, 8, "pca", True)
    path = "model.decoder.layers.{}.final_layer_norm.weight"
    moments = norm_statistics(plan, teacher, [batch], R)[path, 2]
    gamma, beta = fit_norm(moments, torch.full((8,), 5.0), with_bias=True)
    seen = []
    norm = teacher.model.decoder.layers[2].final_layer_norm
    norm.register_forward_hook(lambda m, i, o: seen.append((i[0].detach(), o.detach())))
    teacher(**batch)
    kept = batch["labels"] != -100
    x, y = (t[kept] @ R for t in seen[0])
    n = torch.nn.functional.layer_norm(x, (8,), eps=1e-12)
    for j in (0, 5):
        A = torch.stack([n[:, j], torch.ones(len(n))], 1)
        pull = (1e-4 * len(n)) ** 0.5  # one more row: the weight ought to be 5
        A, b = torch.cat([A, torch.tensor([[pull, 0.0]])]), torch.cat([y[:, j], torch.tensor([pull * 5.0])])
        solution = torch.linalg.lstsq(A, b[:, None]).solution[:, 0]
        torch.testing.assert_close(torch.stack([gamma[j], beta[j]]), solution, atol=1e-4, rtol=1e-3)


def test_text_makes_a_better_start_than_weights_alone():
    teacher = tiny_teacher("pegasus")
    shape, batch = StudentShape(d_model=8, ffn_dim=12, attention_heads=2), random_batch(teacher, seed=9)
    expected = teacher(**batch).logits
    errors = [
        (student_of(teacher, shape, b)(**batch).logits - expected).square().mean() for b in (batches_of(teacher), None)
    ]
    assert errors[0] < errors[1]


# --- what is refused, and the random start ---------------------------------------------------------------------------


def test_a_wider_student_needs_random_projections():
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, StudentShape(ffn_dim=32))
    with pytest.raises(
        ValueError, match=r"fc1.weight: the student's 'ffn' axis has 32 dimensions, the teacher's 24.*recipe='paper'"
    ):
        teacher_start(plan, teacher)


@pytest.mark.parametrize(
    "family, shape, message",
    [
        (
            "marian",
            {"attention_heads": 2},
            "encoder: .* has 8 dimensions a head, the teacher's 4.*: give d_model=8 with 2 heads",
        ),
        ("bart", {"attention_heads": 8}, "encoder: .* has 8 heads, the teacher's 4.*: give attention_heads=4"),
        ("marian", {"d_model": 8, "attention_heads": (4, 1)}, "decoder: .* has 8 dimensions a head"),
        ("t5", {"attention_heads": 2, "d_kv": 8}, "8 dimensions a head.*: give d_kv of at most 4"),
        ("t5", {"attention_heads": 8, "d_kv": 2}, "'heads' axis has 8"),
    ],
)
def test_heads_are_kept_whole_and_cannot_grow(family, shape, message):
    teacher = tiny_teacher(family)
    plan = build_plan(teacher, StudentShape(**shape))
    with pytest.raises(ValueError, match=message):
        teacher_start(plan, teacher)
    random_start(plan, teacher)


def test_without_text_each_layer_keeps_its_own_neurons_whatever_the_groups():
    teacher, path = tiny_teacher("marian"), "model.decoder.layers.{}.fc1.weight"
    shape = StudentShape(decoder_groups=((0,), (1,), (2,), (3,)), ffn_dim=8)
    whole = teacher_start(build_plan(teacher, shape), teacher)[path].weight
    for groups in (((1,), (3,)), ((3,), (2,), (1,))):
        plan = build_plan(teacher, StudentShape(decoder_groups=groups, ffn_dim=8))
        assert torch.equal(teacher_start(plan, teacher)[path].weight, whole[[group[0] for group in groups]])


@pytest.mark.parametrize("shape", [{"decoder_layers": 2}, {"decoder_layers": 2, "d_model": 8}])
def test_a_table_of_positions_that_grew_is_cut_back(shape):
    teacher, batch = tiny_teacher("m2m_100"), random_batch(tiny_teacher("m2m_100"))
    plan = build_plan(teacher, StudentShape(**shape))
    expected = WeightDistillModel(plan, teacher, teacher_start(plan, teacher), "direct").materialize()
    teacher.generate(batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=40, min_new_tokens=40)
    plan = build_plan(teacher, StudentShape(**shape))
    student = WeightDistillModel(plan, teacher, teacher_start(plan, teacher), "direct").materialize()
    assert all(torch.equal(t, tensors_of(student)[n]) for n, t in tensors_of(expected).items())


def test_the_random_start_is_the_stock_initialisation_and_leaves_the_generator_alone():
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, StudentShape(decoder_layers=1))
    state = torch.get_rng_state()
    start = random_start(plan, teacher, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    fresh = tensors_of(stock_student(teacher, plan.student_config, device="cpu"))
    assert all(
        torch.equal(start[c.path].weight[s], fresh[n]) for c in plan.classes for s, n in enumerate(c.student_names)
    )


def test_the_random_start_keeps_the_outer_norms_of_the_teacher_as_published():
    teacher = tiny_teacher("t5")
    same, narrow = (build_plan(teacher, StudentShape(d_model=width)) for width in (16, 8))
    norm = teacher.decoder.final_layer_norm.weight
    assert torch.equal(random_start(same, teacher)["decoder.final_layer_norm.weight"].weight[0], norm)
    assert torch.equal(random_start(narrow, teacher)["decoder.final_layer_norm.weight"].weight[0], torch.ones(8))


@pytest.mark.parametrize("mean_free", [True, False])
def test_the_projection_does_not_depend_on_the_signs_of_eigenvectors(mean_free, monkeypatch):
    states, eigh = torch.randn(50, 12) @ torch.randn(12, 12), torch.linalg.eigh
    expected = residual_projection(states.T @ states, 5, "pca", mean_free)

    def flipped(matrix):
        values, vectors = eigh(matrix)
        return torch.return_types.linalg_eigh((values, vectors * torch.tensor([1.0, -1.0]).double().repeat(6)))

    monkeypatch.setattr(torch.linalg, "eigh", flipped)
    torch.testing.assert_close(residual_projection(states.T @ states, 5, "pca", mean_free), expected, atol=1e-6, rtol=0)


def test_each_layer_keeps_the_strongest_dimensions_of_its_own_heads():
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, StudentShape(d_model=8))  # heads of 2 instead of 4 dimensions, layer by layer
    start = teacher_start(plan, teacher)
    for n, layer in enumerate(teacher.model.decoder.layers):
        at = layer.self_attn
        energy = at.q_proj.weight.square().sum(1) * at.k_proj.weight.square().sum(1)
        kept = [h * 4 + d for h in range(4) for d in sorted(sorted(range(4), key=lambda d: -energy[h * 4 + d])[:2])]
        found = start["model.decoder.layers.{}.self_attn.q_proj.weight"].projections[0].matrix[n]
        assert found.argmax(0).tolist() == kept


def test_the_stream_is_turned_by_all_usual_positions():
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, StudentShape(d_model=8))
    name = plan.constants[-1]
    tables = dict(teacher.named_parameters())[name].detach()[:64], fixed_tensors(plan, teacher)[name][:64]
    assert len(tables[0]) == len(tables[1]) == 32
    R = residual_projection(weight_statistics(plan, teacher).stream_DD, 8, "pca", True, tables)
    found = teacher_start(plan, teacher)["model.shared.weight"].projections[1].matrix[0]
    torch.testing.assert_close(found, R, atol=1e-6, rtol=0)


def test_the_teacher_keeps_its_mode():
    teacher = tiny_teacher("marian").train()
    teacher_start(build_plan(teacher, StudentShape(d_model=8)), teacher, [random_batch(teacher)], reconstruction="none")
    assert teacher.training
