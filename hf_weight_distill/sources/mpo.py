r"""Matrix product operators: an over-parameterised student (OPDF, Zhan et al., NeurIPS 2024, https://arxiv.org/abs/2411.06448).

Index legend, beside that of :mod:`hf_weight_distill.plan`: a matrix :math:`W \in R^{P \times Q}` with
:math:`P = \prod_k i_k` and :math:`Q = \prod_k j_k` is the product of ``n`` sites,

.. math:: W_{i_1 \dots i_n,\; j_1 \dots j_n} = \sum_{b_1 \dots b_{n-1}}
    T^{(1)}_{1, i_1, j_1, b_1}\, T^{(2)}_{b_1, i_2, j_2, b_2} \cdots T^{(n)}_{b_{n-1}, i_n, j_n, 1}

Rows count as ``i_1 ... i_n`` with ``i_n`` fastest, columns likewise. Here ``n = L + 2``: two real factors, and ``L``
unit sites ``(B, 1, 1, B)`` between them, which add parameters and no shape. Suffixes: ``B`` bond, ``A`` the first
site's pair of indices ``i_1 j_1``, ``C`` the last site's ``i_n j_n``.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import mul
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..files import write_whole
from .base import BufferDict, ClassSpec, WeightSource

Pair = tuple[int, int]
CACHE_VERSION = 1  # part of every cache key: raise it when a decomposition changes
SMALLEST = 1e-7  # singular values below this share of the largest are not split evenly


# --- shapes ----------------------------------------------------------------------------------------------------------


def factor_pair(size: int) -> Pair:
    r"""The two divisors ``(a, b)`` of ``size`` nearest to :math:`(\sqrt{4/3\,size}, \sqrt{3/4\,size})`, by their ratio.

    The published shapes follow it (768 is 32 x 24, 3072 is 64 x 48); the rule itself is ours. Of two that are equally
    near (960 is 32 x 30 and 40 x 24) it takes the one nearer to a square. Never ``a < b``.

    Raises:
        ValueError: ``size`` is not positive.

    Example:
        >>> factor_pair(768), factor_pair(512), factor_pair(7)
        ((32, 24), (32, 16), (7, 1))
    """
    if size < 1:
        raise ValueError(f"size={size}: expected a positive whole number")
    larger = [size // b for b in range(1, math.isqrt(size) + 1) if size % b == 0]
    a = min(larger, key=lambda a: (round(abs(math.log(a * a / size * 3 / 4)), 9), a))
    return a, size // a


def bond_dimensions(rows: Sequence[int], columns: Sequence[int]) -> tuple[int, ...]:
    r"""``(d_0, ..., d_n)`` without truncation (Eq. 3).

    .. math:: d_k = \min\Big(\prod_{m \le k} i_m j_m,\; \prod_{m > k} i_m j_m\Big)

    Args:
        rows: ``i_1, ..., i_n``.
        columns: ``j_1, ..., j_n``.

    Raises:
        ValueError: rows and columns are not equally many.

    Example:
        >>> bond_dimensions((32, 1, 24), (32, 1, 24))
        (1, 576, 576, 1)
    """
    if len(rows) != len(columns):
        raise ValueError(f"{len(rows)} row factors and {len(columns)} column factors: expected equally many")
    left = list(accumulate((i * j for i, j in zip(rows, columns, strict=True)), mul, initial=1))
    return tuple(min(d, left[-1] // d) for d in left)


def site_shapes(rows: Sequence[int], columns: Sequence[int]) -> tuple[tuple[int, int, int, int], ...]:
    r"""Shapes ``(d_{k-1}, i_k, j_k, d_k)`` of the sites.

    For two real factors of rows and columns and ``L`` unit sites their entries are
    :math:`PQ + (L + 1) B^2` with :math:`B = i_n j_n \le i_1 j_1`.

    Args:
        rows: ``i_1, ..., i_n``.
        columns: ``j_1, ..., j_n``.

    Example:
        >>> site_shapes((3, 1, 2), (2, 1, 2))
        ((1, 3, 2, 4), (4, 1, 1, 4), (4, 2, 2, 1))
    """
    bonds = bond_dimensions(rows, columns)
    return tuple(zip(bonds, rows, columns, bonds[1:], strict=False))


def central_index(sites: int) -> int:
    """Which of the sites is the central tensor, ``(n - 1) // 2``; all others are auxiliary."""
    return (sites - 1) // 2


# --- matrix to sites and back ----------------------------------------------------------------------------------------


def decompose(
    W_PQ: Tensor,
    unit_sites: int = 0,
    *,
    gauge: bool = True,
    factors: tuple[Pair, Pair] | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> tuple[Tensor, ...]:
    r"""Sites of a matrix, with full bonds: :func:`contract_sites` gives the matrix back up to rounding.

    One singular value decomposition :math:`U \Lambda V^\top` of the matrix of ``(i_1 j_1)`` against ``(i_n j_n)`` is
    all that two real factors need: the further ones of the publication's algorithm find identities at the unit sites.
    Its gauge step, which splits every bond's spectrum evenly between the neighbours, leaves those identities alone:

    .. math:: T^{(1)} = U \Lambda^{1/2}, \quad T^{(k)} = 1, \quad T^{(n)} = \Lambda^{1/2} V^\top

    The entry of largest magnitude in each column of ``U`` is made positive, so that two decompositions can be compared;
    within equal singular values they still may differ by a rotation. Where a singular value is (almost) zero the left
    factor stays at :math:`(10^{-7} \lambda_{max})^{1/2}` and the right one takes the rest: no division by zero, and no
    direction in which both factors, and with them both gradients, are zero. The decomposition runs in float64.

    Args:
        W_PQ: ``(..., P, Q)``; leading axes are batch.
        unit_sites: ``L``.
        gauge: whether the spectrum is split evenly; off, the left factor is orthonormal and the right one carries it.
        factors: ``((i_1, i_n), (j_1, j_n))``; without them those of :func:`factor_pair`.
        cache_dir: folder of decompositions that were computed before.

    Returns:
        ``L + 2`` sites, ``(..., d_{k-1}, i_k, j_k, d_k)``, in the matrix's dtype and without its history.

    Raises:
        ValueError: a negative ``unit_sites``; factors that do not multiply to the shape; a cached file that cannot be
            read.

    Example:
        >>> [tuple(site.shape) for site in decompose(torch.eye(6), unit_sites=1)]
        [(1, 3, 3, 4), (4, 1, 1, 4), (4, 2, 2, 1)]
    """
    _check_unit_sites(unit_sites)
    factors = factors or (factor_pair(W_PQ.shape[-2]), factor_pair(W_PQ.shape[-1]))
    _check_factors(W_PQ, factors)
    left_AB, right_BC = _halves(W_PQ.detach(), factors, gauge, cache_dir)
    (a_i, b_i), (a_j, b_j) = factors
    batch, bond = left_AB.shape[:-2], left_AB.shape[-1]
    unit = torch.eye(bond, dtype=W_PQ.dtype, device=W_PQ.device).view(bond, 1, 1, bond)
    first = left_AB.unflatten(-2, (a_i, a_j)).unsqueeze(-4)
    last = right_BC.unflatten(-1, (b_i, b_j)).unsqueeze(-1)
    return first, *(unit.expand(*batch, *unit.shape).clone() for _ in range(unit_sites)), last


def contract_sites(sites: Iterable[Tensor]) -> Tensor:
    r"""The matrix of its sites (the equation of this module), contracted from the last site to the first.

    Works for any number of sites and any factors; the last factors come first because the bond is never wider than the
    first pair of factors.

    Args:
        sites: ``(..., d_{k-1}, i_k, j_k, d_k)`` each.

    Returns:
        ``(..., P, Q)``.

    Example:
        >>> torch.allclose(contract_sites(decompose(torch.eye(6))), torch.eye(6), atol=1e-6)
        True
    """
    *others, last = sites
    rest = last.squeeze(-1)
    for site in reversed(others):
        rest = torch.einsum("...aijb,...bkl->...aikjl", site, rest).flatten(-2).flatten(-3, -2)
    return rest.squeeze(-3)


def _check_unit_sites(unit_sites: int) -> None:
    if not isinstance(unit_sites, int) or isinstance(unit_sites, bool) or unit_sites < 0:
        raise ValueError(f"unit_sites={unit_sites!r}: expected a whole number of at least 0")


def _check_factors(W_PQ: Tensor, factors: tuple[Pair, Pair]) -> None:
    for size, pair, axis in zip(W_PQ.shape[-2:], factors, ("rows", "columns"), strict=True):
        if pair[0] * pair[1] != size:
            raise ValueError(f"the factors {pair} of the {axis} make {pair[0] * pair[1]}, and the matrix has {size}")


def _halves(
    W_PQ: Tensor, factors: tuple[Pair, Pair], gauge: bool, cache_dir: str | os.PathLike | None
) -> tuple[Tensor, Tensor]:
    """First and last site as matrices, from the cache where they are in it."""
    if cache_dir is None:
        return _split(_folded(W_PQ, factors), gauge)
    file = Path(cache_dir) / f"mpo-{_digest(W_PQ, factors, gauge)}.safetensors"
    if not file.exists():
        left_AB, right_BC = _split(_folded(W_PQ, factors), gauge)
        halves = save({"left": left_AB.cpu(), "right": right_BC.cpu()})
        write_whole(file, lambda target: target.write(halves))
        return left_AB, right_BC
    try:
        halves = load_file(file, device=str(W_PQ.device))
        return halves["left"], halves["right"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"the cached decomposition {str(file)!r} cannot be read ({error}): delete it") from error


def _folded(W_PQ: Tensor, factors: tuple[Pair, Pair]) -> Tensor:
    """``(..., i_1 j_1, i_n j_n)``: the matrix whose rank the bond is."""
    blocks = W_PQ.unflatten(-1, factors[1]).unflatten(-3, factors[0])
    return blocks.transpose(-3, -2).flatten(-2).flatten(-3, -2)


def _split(M_AC: Tensor, gauge: bool) -> tuple[Tensor, Tensor]:
    """``U f`` and ``f^{-1} Lambda V^T``, ``f`` the even split or 1."""
    U_AB, spectrum_B, V_BC = torch.linalg.svd(M_AC.double(), full_matrices=False)
    sign_1B = U_AB.gather(-2, U_AB.abs().argmax(-2, keepdim=True)).sign()
    U_AB, V_BC = U_AB * sign_1B, V_BC * sign_1B.transpose(-2, -1)
    share_B = torch.ones_like(spectrum_B)
    if gauge:
        largest = spectrum_B[..., :1]
        share_B = spectrum_B.maximum(SMALLEST * largest.where(largest > 0, 1.0)).sqrt()
    left_AB, right_BC = U_AB * share_B.unsqueeze(-2), (spectrum_B / share_B).unsqueeze(-1) * V_BC
    return left_AB.to(M_AC.dtype).contiguous(), right_BC.to(M_AC.dtype).contiguous()


def _digest(W_PQ: Tensor, factors: tuple[Pair, Pair], gauge: bool) -> str:
    key = hashlib.sha256(repr((CACHE_VERSION, tuple(W_PQ.shape), str(W_PQ.dtype), factors, gauge)).encode())
    key.update(W_PQ.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return key.hexdigest()


# --- the source ------------------------------------------------------------------------------------------------------


class MPO(WeightSource):
    r"""Trains each linear matrix as a product of more parameters than it has entries.

    .. math:: W_{spq} = \big(T^{(1)} T^{(2)} \cdots T^{(n)}\big)_{spq}, \qquad n = L + 2

    Attention, cross-attention and feed-forward matrices of both stacks start as the exact decomposition of
    ``start.weight`` (:func:`decompose`); everything else (embeddings, head, norms, biases, position biases) is trained
    as it is. The student that comes out has the start's shape: the sites are contracted away. A matrix takes
    :math:`PQ + (L + 1) B^2` parameters while it trains, :math:`B` the product of the second factors of its axes: 1.56
    times (``L = 0``) or 3.25 times (``L = 3``) its entries where sizes are ``4/3`` of a square, as BERT's are.

    Args:
        specs: the classes.
        unit_sites: ``L``, the scale of over-parameterisation. The publication uses 3 most often, 1 to 8 by task; 0 is
            its baseline "+SVD".
        gauge: whether each bond's spectrum is split evenly between its neighbours, as in the publication.
        cache_dir: folder that keeps decompositions (minutes for a large teacher), keyed by the matrices' contents.

    Shapes:
        The sites of a class are ``(S, d_{k-1}, i_k, j_k, d_k)``; see :func:`site_shapes`.

    Raises:
        ValueError: a negative ``unit_sites``.

    Relations:
        ``direct`` trains the same student without the detour and is its control. ``tensor_constraint`` is the objective
        that holds the auxiliary sites near the teacher's; without it the over-parameterisation works alone. The
        publication measured classification with BERT's encoder, and image classification: decoders, cross-attention,
        translation and summarisation are not verified. At one learning rate the first step of Adam moved a random
        512 x 512 matrix 1.4 (``L = 0``), 1.8 (1) and 2.8 (3) times as far as with ``direct``: give a lower one, as the
        publication does for larger ``L``. Weight decay would pull the unit sites from the identity towards zero.

    Example:
        >>> WeightDistillConfig(source="mpo", source_options={"unit_sites": 3})    # doctest: +SKIP
    """

    name = "mpo"
    paper = "https://arxiv.org/abs/2411.06448"

    def __init__(
        self,
        specs: list[ClassSpec],
        *,
        unit_sites: int = 3,
        gauge: bool = True,
        cache_dir: str | os.PathLike | None = None,
    ) -> None:
        super().__init__(specs)
        _check_unit_sites(unit_sites)
        self.gauge, self.cache_dir = gauge, cache_dir
        self.sites, self.weights, self.teacher = nn.ModuleDict(), nn.ParameterDict(), BufferDict()
        self.auxiliary = [k for k in range(unit_sites + 2) if k != central_index(unit_sites + 2)]
        self.paired: list[str] = []
        for spec in specs:
            if spec.role != "linear":
                self.weights[spec.key] = nn.Parameter(spec.start.weight.clone())
                continue
            sites_kS = decompose(spec.start.weight, unit_sites, gauge=gauge, cache_dir=cache_dir)
            self.sites[spec.key] = nn.ParameterList([nn.Parameter(site) for site in sites_kS])
            if spec.teacher.shape[2:] == spec.student_shape:
                self.paired.append(spec.key)
                self.teacher[spec.key] = last_of_group(spec.teacher, spec.group_sizes)

    def weight(self, key: str) -> Tensor:
        """``W_SPQ`` of one class."""
        return contract_sites(self.sites[key]) if key in self.sites else self.weights[key]

    def exposed(self) -> dict[str, list[tuple[Tensor, Tensor]]]:
        """``{"auxiliary": [(student's, teacher's), ...]}``: auxiliary sites, one pair a site, class and layer.

        Matrices that are narrower than the teacher's have no counterpart and are left out. The teacher's matrix of a
        student layer is the last of its group, decomposed with the same factors and the same signs on the first call.
        The teacher's sites are frozen.
        """
        pairs: list[tuple[Tensor, Tensor]] = []
        for key in self.paired:
            teacher = self._teacher_sites(key)
            for k in self.auxiliary:
                pairs.extend(zip(self.sites[key][k].unbind(0), teacher[k].unbind(0), strict=True))
        return {"auxiliary": pairs}

    def _teacher_sites(self, key: str) -> dict[int, Tensor]:
        """Auxiliary sites of the teacher; made when they are first asked for, in place of its matrices."""
        if key in self.teacher:
            whole_SOI = self.teacher[key]
            del self.teacher[key]
            sites = decompose(whole_SOI.cpu(), len(self.auxiliary) - 1, gauge=self.gauge, cache_dir=self.cache_dir)
            for k in self.auxiliary:
                self.teacher[f"{key}/{k}"] = sites[k].to(whole_SOI.device)
        return {k: self.teacher[f"{key}/{k}"] for k in self.auxiliary}


def last_of_group(T_SGOI: Tensor, group_sizes: Sequence[int]) -> Tensor:
    """``T_SOI``: the last teacher layer of each group, where shorter groups are filled up with zeros."""
    return torch.stack([T_GOI[size - 1] for T_GOI, size in zip(T_SGOI, group_sizes, strict=True)])
