"""Matrix product operators against explicit loops, the publication's algorithm and its figures."""

import itertools
import math

import pytest
import torch
from models import random_batch, tiny_teacher

from hf_weight_distill import StudentShape, build_plan
from hf_weight_distill.model import WeightDistillModel
from hf_weight_distill.plan import tensors_of
from hf_weight_distill.sources import MPO, ClassSpec, ClassStart
from hf_weight_distill.sources.mpo import (
    bond_dimensions,
    central_index,
    contract_sites,
    decompose,
    factor_pair,
    last_of_group,
    site_shapes,
)
from hf_weight_distill.starts import random_start, teacher_start

DEPTH = StudentShape(decoder_layers=2)
WIDTH = StudentShape(encoder_layers=2, decoder_layers=1, d_model=8, ffn_dim=12, attention_heads=2)


def relative_error(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def pattern(shape, unit_sites):
    """Row and column factors of the sites, from the rule."""
    return tuple((a, *[1] * unit_sites, b) for a, b in map(factor_pair, shape))


# --- references, written without the module under test --------------------------------------------------------------


def naive_matrix(sites):
    """Site by site: every entry is a product of small matrices, looked up by its row's and its column's digits."""
    rows, columns = ([site.shape[axis] for site in sites] for axis in (1, 2))
    matrix = torch.zeros(math.prod(rows), math.prod(columns), dtype=torch.float64)
    for p, i in enumerate(itertools.product(*map(range, rows))):
        for q, j in enumerate(itertools.product(*map(range, columns))):
            vector = torch.ones(1, dtype=torch.float64)
            for k, site in enumerate(sites):
                vector = vector @ site[:, i[k], j[k], :].double()
            matrix[p, q] = vector.item()
    return matrix


def published_sites(W_PQ, rows, columns):
    """The publication's algorithm as it is written: successive decompositions, then a gauge change at every bond."""
    n = len(rows)
    order = [axis for k in range(n) for axis in (k, n + k)]
    rest, sites, bond = W_PQ.double().reshape(*rows, *columns).permute(order).reshape(1, -1), [], 1
    for i, j in zip(rows[:-1], columns[:-1], strict=True):
        U, spectrum, V = torch.linalg.svd(rest.reshape(bond * i * j, -1), full_matrices=False)
        sites.append(U.reshape(bond, i, j, -1))
        rest, bond = spectrum[:, None] * V, len(spectrum)
    sites.append(rest.reshape(bond, rows[-1], columns[-1], 1))
    return [gauged(sites, k) for k in range(n)]


def gauged(sites, k):
    """Site ``k`` with ``q`` of the bond on its left and ``p`` of the bond on its right."""
    site = sites[k]
    if k > 0:
        site = torch.einsum("ab,bijc->aijc", gauge_pair(sites, k)[1], site)
    return torch.einsum("aijb,bc->aijc", site, gauge_pair(sites, k + 1)[0]) if k + 1 < len(sites) else site


def gauge_pair(sites, bond):
    """``p = R V L^(-1/2)`` and ``q = L^(-1/2) U^T L`` of one bond."""
    left, right = torch.ones(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    for site in sites[:bond]:
        left = torch.einsum("xa,aijb->xijb", left, site).flatten(0, 2)
    for site in reversed(sites[bond:]):
        right = torch.einsum("aijb,by->aijy", site, right).flatten(1)
    L, R = torch.linalg.qr(left).R, torch.linalg.qr(right.T).R.T
    U, spectrum, V = torch.linalg.svd(L @ R)
    half = spectrum.rsqrt()
    return R @ V.T * half, half[:, None] * U.T @ L


def fixed_signs(sites):
    """Every bond's directions turned so that the largest entry of all that is on its left is positive."""
    left, before, turned = torch.ones(1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64), []
    for site in sites[:-1]:
        left = torch.einsum("xa,aijb->xijb", left, site).flatten(0, 2)
        signs = left.gather(0, left.abs().argmax(0, keepdim=True)).sign()[0]
        turned.append(before[:, None, None, None] * site * signs)
        before = signs
    return [*turned, before[:, None, None, None] * sites[-1]]


# --- shapes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, pair", [(768, (32, 24)), (3072, (64, 48)), (512, (32, 16)), (2048, (64, 32)), (256, (16, 16))]
)
def test_factors_of_the_publication_and_the_specification(size, pair):
    assert factor_pair(size) == pair


def test_factors_are_the_nearest_of_all_divisors():
    for size in range(1, 1000):
        aim = math.sqrt(4 / 3 * size)
        divisors = [d for d in range(1, size + 1) if size % d == 0]
        best = min(abs(math.log(d / aim)) for d in divisors)
        a, b = factor_pair(size)
        assert a * b == size and a >= b
        assert abs(math.log(a / aim)) == pytest.approx(best, abs=1e-9)
    assert [factor_pair(tie) for tie in (144, 240, 960)] == [(12, 12), (16, 15), (32, 30)]
    with pytest.raises(ValueError, match="size=0: expected a positive"):
        factor_pair(0)


def test_bonds_are_the_smaller_side_of_every_cut():
    cases = [((3, 2), (2, 2)), ((2, 3), (1, 4)), ((4, 1, 1, 3), (3, 1, 1, 2)), ((2, 3, 5, 2), (1, 2, 2, 3))]
    for rows, columns in cases:
        pairs = [i * j for i, j in zip(rows, columns, strict=True)]
        naive = [min(math.prod(pairs[:k]), math.prod(pairs[k:])) for k in range(len(pairs) + 1)]
        assert list(bond_dimensions(rows, columns)) == naive
    with pytest.raises(ValueError, match="2 row factors and 1 column factors"):
        bond_dimensions((2, 2), (4,))


def test_the_bond_is_the_rank_of_a_generic_cut():
    W_PQ, rows, columns = torch.randn(12, 6), (4, 3), (3, 2)
    digits = itertools.product(range(4), range(3), range(3), range(2))
    cut = torch.stack([W_PQ[i * 3 + k, j * 2 + m] for i, j, k, m in digits]).view(12, 6)
    assert torch.linalg.matrix_rank(cut) == bond_dimensions(rows, columns)[1]


@pytest.mark.parametrize("shape", [(768, 768), (3072, 768), (512, 2048), (24, 16), (7, 5), (17, 12)])
@pytest.mark.parametrize("unit_sites", [0, 1, 3, 8])
def test_parameter_count_in_closed_form(shape, unit_sites):
    (_, b_i), (_, b_j) = map(factor_pair, shape)
    expected = math.prod(shape) + (unit_sites + 1) * (b_i * b_j) ** 2
    assert sum(math.prod(s) for s in site_shapes(*pattern(shape, unit_sites))) == expected
    if max(shape) < 100:
        sites = decompose(torch.randn(shape), unit_sites)
        assert tuple(tuple(s.shape) for s in sites) == site_shapes(*pattern(shape, unit_sites))


@pytest.mark.parametrize("unit_sites, millions", [(0, 89.9), (3, 161.6)])
def test_parameter_count_of_the_papers_66m_student(unit_sites, millions):
    """Six BERT layers: the publication reports 66 M, 90 M with L=0 and 160 M with L=3."""
    unit = (1,) * unit_sites
    narrow, wide = (32, *unit, 24), (64, *unit, 48)
    matrices = [(narrow, narrow)] * 4 + [(wide, narrow), (narrow, wide)]
    dense = 6 * sum(math.prod(rows) * math.prod(columns) for rows, columns in matrices)
    trained = 6 * sum(math.prod(s) for rows, columns in matrices for s in site_shapes(rows, columns))
    assert dense == pytest.approx(42.47e6, rel=1e-4)
    assert (66e6 - dense + trained) / 1e6 == pytest.approx(millions, abs=0.05)


# --- matrix to sites and back ----------------------------------------------------------------------------------------

SHAPES = [(64, 48), (96, 24), (24, 96), (7, 5), (13, 1), (1, 7), (1, 1), (15, 21)]


@pytest.mark.parametrize("gauge", [True, False])
@pytest.mark.parametrize("unit_sites", [0, 1, 3])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_full_bonds_reconstruct_the_matrix(shape, unit_sites, gauge):
    W_PQ = 0.05 * torch.randn(shape)
    sites = decompose(W_PQ, unit_sites, gauge=gauge)
    assert all(site.dtype == torch.float32 and site.is_contiguous() for site in sites)
    assert relative_error(contract_sites(sites), W_PQ) <= 1e-6


@pytest.mark.parametrize("gauge", [True, False])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_rank_deficient_matrices_reconstruct_and_stay_finite(rank, gauge):
    W_PQ = torch.randn(48, rank) @ torch.randn(rank, 24) if rank else torch.zeros(48, 24)
    sites = decompose(W_PQ, 3, gauge=gauge)
    assert all(torch.isfinite(site).all() for site in sites)
    torch.testing.assert_close(contract_sites(sites), W_PQ, atol=1e-6 * float(W_PQ.norm()), rtol=0)


def test_no_direction_of_a_rank_deficient_matrix_is_dead():
    """Where both factors of a direction are zero, so are both gradients, for ever."""
    W_PQ = torch.kron(torch.randn(4, 3), torch.randn(3, 2))  # rank 1 in the bond
    sites = [site.requires_grad_() for site in decompose(W_PQ, 0)]
    (contract_sites(sites) * torch.randn(12, 6)).sum().backward()
    first, last = sites[0].grad.flatten(0, 2), sites[1].grad.flatten(1)
    assert ((first != 0).any(0) | (last != 0).any(1)).all()


@pytest.mark.parametrize("factors", [((2, 6), (4, 2)), ((12, 1), (1, 8)), ((1, 12), (1, 8)), ((3, 4), (8, 1))], ids=str)
def test_any_divisors_are_legal(factors):
    W_PQ = torch.randn(12, 8)
    sites = decompose(W_PQ, 1, factors=factors)
    rows, columns = ((a, 1, b) for a, b in factors)
    assert tuple(tuple(s.shape) for s in sites) == site_shapes(rows, columns)
    assert relative_error(contract_sites(sites), W_PQ) <= 1e-6


@pytest.mark.parametrize("rows, columns", [((3, 2), (2, 2)), ((2, 1, 3), (3, 1, 1)), ((2, 3, 2), (2, 1, 2))], ids=str)
def test_contraction_is_the_naive_loop(rows, columns):
    sites = [torch.randn(shape) for shape in site_shapes(rows, columns)]
    assert relative_error(contract_sites(sites), naive_matrix(sites)) <= 1e-6


@pytest.mark.parametrize("unit_sites", [0, 1, 3])
@pytest.mark.parametrize("shape", [(12, 6), (6, 12), (9, 7)], ids=str)
def test_decomposition_is_the_published_algorithm_up_to_signs(shape, unit_sites):
    W_PQ = torch.randn(shape)
    expected = published_sites(W_PQ, *pattern(shape, unit_sites))
    found = decompose(W_PQ, unit_sites)
    assert relative_error(naive_matrix(expected), W_PQ) <= 1e-6
    for ours, theirs in zip(found, fixed_signs(expected), strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)


def test_the_gauge_splits_the_spectrum_evenly_and_its_absence_does_not():
    W_PQ = torch.randn(24, 16)
    even, plain = decompose(W_PQ, 0), decompose(W_PQ, 0, gauge=False)
    square = even[0].flatten(0, 2).T @ even[0].flatten(0, 2)
    torch.testing.assert_close(square, even[1].flatten(1) @ even[1].flatten(1).T, atol=1e-4, rtol=0)
    first = plain[0].flatten(0, 2)
    torch.testing.assert_close(first.T @ first, torch.eye(first.shape[1]), atol=1e-5, rtol=0)


def test_signs_do_not_depend_on_the_decomposition(monkeypatch):
    W_PQ, svd = torch.randn(24, 16), torch.linalg.svd
    expected = decompose(W_PQ, 1)

    def flipped(matrix, **options):
        U, spectrum, V = svd(matrix, **options)
        signs = torch.tensor([1.0, -1.0]).double().repeat(len(spectrum))[: len(spectrum)]
        return U * signs, spectrum, V * signs[:, None]

    monkeypatch.setattr(torch.linalg, "svd", flipped)
    assert all(torch.equal(a, b) for a, b in zip(decompose(W_PQ, 1), expected, strict=True))


def test_sites_are_leaves_without_the_matrixs_history():
    assert not any(site.requires_grad for site in decompose(torch.randn(6, 4, requires_grad=True), 1))


def test_leading_axes_are_batch():
    W_SPQ = torch.randn(3, 12, 8)
    whole = decompose(W_SPQ, 1)
    for s, W_PQ in enumerate(W_SPQ):
        for site, alone in zip(whole, decompose(W_PQ, 1), strict=True):
            torch.testing.assert_close(site[s], alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(contract_sites(whole)[1], contract_sites([site[1] for site in whole]))


@pytest.mark.parametrize("kept", [(5, 5, 5), (2, 9, 6), (1, 12, 12)], ids=str)
def test_truncation_stays_below_the_bound_of_theorem_1(kept):
    """``|W - MPO(W)| <= sqrt(sum_k eps_k^2)``, ``eps_k`` the residual of the best fit of the k-th unfolding."""
    W_PQ, (a_i, b_i), (a_j, b_j) = torch.randn(16, 9), (4, 4), (3, 3)
    first, *units, last = decompose(W_PQ, 2)
    bounds = (1, *kept, 1)
    cut = [site[: bounds[k], ..., : bounds[k + 1]] for k, site in enumerate((first, *units, last))]
    unfolding = W_PQ.reshape(a_i, b_i, a_j, b_j).permute(0, 2, 1, 3).reshape(a_i * a_j, b_i * b_j)
    residuals = [torch.linalg.svdvals(unfolding)[rank:].square().sum() for rank in kept]
    error = (contract_sites(cut) - W_PQ).norm()
    assert 0 < error <= torch.stack(residuals).sum().sqrt() * (1 + 1e-5)
    assert error >= max(residuals).sqrt() * (1 - 1e-5)  # Eckart and Young: no fit of that rank is better


@pytest.mark.parametrize(
    "options, message",
    [
        ({"unit_sites": -1}, "unit_sites=-1: expected a whole number of at least 0"),
        ({"unit_sites": 1.5}, "unit_sites=1.5"),
        ({"unit_sites": True}, "unit_sites=True"),
        ({"factors": ((4, 4), (4, 2))}, r"factors \(4, 4\) of the rows make 16, and the matrix has 12"),
        ({"factors": ((4, 3), (4, 3))}, r"factors \(4, 3\) of the columns make 12, and the matrix has 8"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        decompose(torch.randn(12, 8), **options)


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    calls, svd = [], torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *a, **k: calls.append(a) or svd(*a, **k))
    return calls


def test_the_second_construction_reads_the_cache(tmp_path, counted):
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, DEPTH)
    start = teacher_start(plan, teacher)
    options = {"unit_sites": 1, "cache_dir": str(tmp_path / "cache")}
    one = WeightDistillModel(plan, teacher, start, "mpo", options)
    one.source.exposed()
    assert counted
    counted.clear()
    two = WeightDistillModel(plan, teacher, start, "mpo", options)
    pairs = zip(one.source.exposed()["auxiliary"], two.source.exposed()["auxiliary"], strict=True)
    assert counted == []
    assert all(torch.equal(p, q) for a, b in pairs for p, q in zip(a, b, strict=True))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    assert not [p for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".safetensors")]


def test_the_key_is_contents_factors_and_gauge(tmp_path, counted):
    W_PQ, changed = torch.randn(12, 8), torch.randn(12, 8)
    for matrix, options in [
        (W_PQ, {}),
        (changed, {}),
        (W_PQ, {"gauge": False}),
        (W_PQ, {"factors": ((3, 4), (4, 2))}),
        (W_PQ.reshape(6, 16), {}),
        (W_PQ[None], {}),
    ]:
        before = len(counted)
        for _ in range(2):
            sites = decompose(matrix, cache_dir=tmp_path, **options)
            assert contract_sites(sites).shape == matrix.shape
            assert relative_error(contract_sites(sites), matrix) <= 1e-6
        assert len(counted) == before + 1
    decompose(W_PQ, 3, cache_dir=tmp_path)  # unit sites are identities and need no file of their own
    assert len(counted) == 6


def test_a_broken_file_is_named(tmp_path):
    W_PQ = torch.randn(12, 8)
    decompose(W_PQ, cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"broken")
    with pytest.raises(ValueError, match=f"{file.name}.*cannot be read.*delete it"):
        decompose(W_PQ, cache_dir=tmp_path)


# --- the source ------------------------------------------------------------------------------------------------------


def mpo_model(family, shape=DEPTH, unit_sites=1, start=None, **options):
    teacher = tiny_teacher(family)
    plan = build_plan(teacher, shape)
    start = start or teacher_start(plan, teacher)
    return teacher, plan, start, WeightDistillModel(plan, teacher, start, "mpo", {"unit_sites": unit_sites, **options})


@pytest.mark.parametrize("family", ["marian", "t5"])
@pytest.mark.parametrize("shape", [DEPTH, WIDTH], ids=["depth", "width"])
def test_logits_are_the_starts_and_those_of_the_merged_student(family, shape):
    teacher, plan, start, model = mpo_model(family, shape, 3)
    batch = random_batch(teacher)
    direct = WeightDistillModel(plan, teacher, start, "direct", {}).eval()
    torch.testing.assert_close(model.eval()(**batch).logits, direct(**batch).logits, atol=2e-5, rtol=1e-5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    merged, weights = model.materialize(), model.student_weights()
    assert type(merged) is type(teacher)
    assert {n: t.shape for n, t in tensors_of(merged).items()} == {n: t.shape for n, t in weights.items()}
    logits = model(**batch).logits
    torch.testing.assert_close(logits, merged(**batch).logits, atol=0, rtol=0)
    assert (logits - direct(**batch).logits).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["marian", "flan-t5"])
def test_linear_matrices_are_decomposed_and_nothing_else(family):
    _, plan, start, model = mpo_model(family)
    source: MPO = model.source
    linear = {c.path.replace(".", "/") for c in plan.generated if c.weight_class.role == "linear"}
    assert set(source.sites) == linear and not linear & set(source.weights)
    kinds = 3 if family == "flan-t5" else 2  # gated: two matrices into the feed-forward layer
    assert len(linear) == 4 + 8 + 2 * kinds  # self-attention of both stacks, cross-attention, feed-forward
    for key, path in source.paths.items():
        if key not in linear:
            assert torch.equal(source.weight(key), start[path].weight)
    expected = sum(
        len(c.groups) * sum(math.prod(s) for s in site_shapes(*pattern(c.student_shape, 1)))
        for c in plan.generated
        if c.path.replace(".", "/") in linear
    )
    assert sum(p.numel() for p in source.sites.parameters()) == expected


def test_it_starts_from_random_weights_too():
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, WIDTH)
    start = random_start(plan, teacher)
    _, _, _, model = mpo_model("marian", WIDTH, start=start)
    for path, weight in model.source().items():
        torch.testing.assert_close(weight, start[path].weight, atol=1e-6, rtol=0)


def test_the_teacher_of_a_layer_is_the_last_of_its_group_whatever_the_group_holds():
    T_SGOI = torch.randn(2, 3, 4, 5)
    T_SGOI[0, 2] = 0  # a shorter group, filled up
    T_SGOI[1, 2] = 0  # a teacher's matrix that is zero all the same
    assert torch.equal(last_of_group(T_SGOI, (2, 3)), torch.stack([T_SGOI[0, 1], T_SGOI[1, 2]]))


@pytest.mark.parametrize("unit_sites", [0, 1, 3])
def test_exposed_pairs_are_auxiliary_sites_of_student_and_teacher(unit_sites):
    teacher, plan, _, model = mpo_model("marian", DEPTH, unit_sites)
    auxiliary = [k for k in range(unit_sites + 2) if k != (unit_sites + 1) // 2]
    assert central_index(unit_sites + 2) == (unit_sites + 1) // 2
    expected, tensors = [], dict(teacher.named_parameters())
    for c in plan.generated:
        if c.weight_class.role == "linear":
            last = [decompose(tensors[c.path.format(group[-1])], unit_sites) for group in c.groups]
            expected += [sites[k].detach() for k in auxiliary for sites in last]
    pairs = model.source.exposed()["auxiliary"]
    assert len(pairs) == len(expected) == (6 * 4 + 10 * 2) * len(auxiliary)
    for (ours, theirs), site in zip(pairs, expected, strict=True):
        assert ours.requires_grad and not theirs.requires_grad and ours.shape == theirs.shape
        torch.testing.assert_close(theirs, site, atol=1e-5, rtol=0)


def test_a_narrower_student_pairs_what_kept_its_shape():
    assert mpo_model("marian", WIDTH)[3].source.exposed() == {"auxiliary": []}
    source = mpo_model("marian", StudentShape(ffn_dim=12))[3].source
    assert source.paired and all("attn" in key for key in source.paired)


def test_teacher_tensors_are_neither_trained_nor_saved_nor_made_before_they_are_asked_for(counted):
    _, plan, _, model = mpo_model("marian")
    linear = sum(c.weight_class.role == "linear" for c in plan.generated)
    assert len(counted) == linear
    before = set(model.state_dict())
    first, second = model.source.exposed(), model.source.exposed()
    assert len(counted) == 2 * linear
    assert set(model.state_dict()) == before == {n for n, _ in model.named_parameters()}
    assert all(a[1].data_ptr() == b[1].data_ptr() for a, b in zip(first["auxiliary"], second["auxiliary"], strict=True))


def test_a_class_spec_alone_is_enough():
    """The source knows neither models nor families."""
    W_SPQ = torch.randn(2, 12, 8)
    start = ClassStart(W_SPQ)
    T_SGOI = torch.randn(2, 1, 12, 8)
    spec = ClassSpec("a.{}.b", ("ffn", "model"), T_SGOI, (12, 8), (1, 1), False, "linear", (True, True), start)
    torch.testing.assert_close(MPO([spec])()["a.{}.b"], W_SPQ, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="unit_sites=-2"):
        MPO([spec], unit_sites=-2)


def test_without_the_gauge_the_first_sites_of_both_sides_are_orthonormal():
    teacher = tiny_teacher("marian")
    plan = build_plan(teacher, StudentShape(decoder_layers=2))
    model = WeightDistillModel(plan, teacher, teacher_start(plan, teacher), "mpo", {"unit_sites": 1, "gauge": False})
    for ours, theirs in model.source.exposed()["auxiliary"]:
        if ours.shape[0] == 1:  # a first site, (1, i, j, B)
            for site in (ours, theirs):
                first = site.detach().flatten(0, 2)
                torch.testing.assert_close(first.T @ first, torch.eye(first.shape[1]), atol=1e-4, rtol=0)


def test_a_decomposition_that_breaks_off_leaves_no_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        decompose(torch.randn(12, 8), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_small_singular_values_are_split_evenly_down_to_1e_7_of_the_largest():
    factors = ((2, 1), (1, 2))  # the folded matrix is the matrix
    for small, expected in ((1e-5, 1e-5), (1e-9, 1e-7)):
        W = torch.diag(torch.tensor([1.0, small], dtype=torch.float64))
        first, last = decompose(W, factors=factors)
        torch.testing.assert_close(
            first.flatten(0, 2).square().sum(0), torch.tensor([1.0, expected]).double(), rtol=1e-6, atol=0
        )
