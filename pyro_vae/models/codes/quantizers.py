"""Quantizers: a grid of vectors -> a grid of whole numbers, its codes, and the vectors that these stand for.

The choice of a code has no gradient. Both quantizers return the code's vector to the last bit, plus a term that is 0
and has a gradient: `e + J (z - z.detach())`, where z is the encoder's vector and J takes the place of a Jacobian
(eq. 14.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_vae._utils import checks


class Quantized(NamedTuple):
    """The codes of N images, and their vectors, through which gradients reach the encoder."""

    codes: Tensor  #: whole numbers `(N, H', W')`
    embedding: Tensor  #: their vectors `(N, D, H', W')`
    penalty: Tensor  #: `(N,)`, which training adds to its loss


class VectorQuantizer(nn.Module):
    r"""The nearest of K vectors, the codebook.

    .. math:: k(z) = \arg\min_k \lVert z - e_k \rVert^2, \qquad
              \text{penalty} = c \lVert z - \mathrm{sg}(e_k) \rVert^2 + \lVert \mathrm{sg}(z) - e_k \rVert^2

    summed over the positions of the grid; sg passes no gradient. The first term of the penalty draws the encoder to the
    codebook. The second, which draws the codebook to the encoder, is there only where `codebook` is `gradient`; else
    each vector is the mean of what it stood for in recent batches, with weights that decay by `decay` per batch.

    In training mode each batch first restarts dead codes: those that have less than `restart_below` of the 1 / K of all
    positions that equal use would give them, in the same moving average, become vectors z of this batch, drawn at
    random. All are dead at first, so that the codebook starts from the first batch.

    Args:
        num_codes: K.
        dim: D, dimension of the vectors.
        codebook: how it is learned, `ema` or `gradient`.
        commitment: c, its weight in the penalty.
        decay: of the moving averages.
        restart_below: 0 restarts none; the codebook then starts from normal draws.
        gradient: `straight-through` passes the gradient at e_k to z unchanged. `rotation` turns and scales it as the
            rotation does that takes z to e_k, so that its angle to the vector is the same (eq. 14.4).

    Source: van den Oord et al., "Neural discrete representation learning", 2017, https://arxiv.org/abs/1711.00937;
    dead codes: Dhariwal et al., "Jukebox", 2020, https://arxiv.org/abs/2005.00341; rotation: Fifty et al.,
    "Restructuring vector quantization with the rotation trick", 2024, https://arxiv.org/abs/2410.06424

    >>> quantizer = VectorQuantizer(num_codes=16, dim=3)
    >>> quantized = quantizer(torch.randn(5, 3, 2, 2))
    >>> quantized.codes.shape, quantized.embedding.shape
    (torch.Size([5, 2, 2]), torch.Size([5, 3, 2, 2]))
    >>> bool((quantizer.embed(quantized.codes) == quantized.embedding).all())
    True
    """

    vectors: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(
        self,
        num_codes: int,
        dim: int,
        *,
        codebook: str = "ema",
        commitment: float = 0.25,
        decay: float = 0.99,
        restart_below: float = 0.1,
        gradient: str = "straight-through",
    ) -> None:
        super().__init__()
        self.num_codes = checks.positive_integer("codes", num_codes)
        self.dim = checks.positive_integer("latent_dim", dim)
        self.is_averaged = checks.one_of("codebook", codebook, ("ema", "gradient")) == "ema"
        self.rotates = checks.one_of("gradient", gradient, ("straight-through", "rotation")) == "rotation"
        self.commitment = checks.non_negative("commitment", commitment)
        self.decay = _share("decay", decay)
        self.restart_below = _share("restart_below", restart_below)
        start = torch.randn(num_codes, dim)
        if self.is_averaged:
            self.register_buffer("vectors", start)
            self.register_buffer("sums", torch.zeros(num_codes, dim))
        else:
            self.vectors = nn.Parameter(start)
        self.register_buffer("counts", torch.zeros(num_codes))

    def forward(self, z: Tensor) -> Quantized:
        """The codes of vectors `(N, D, H', W')`; in training mode the codebook learns from them."""
        positions = z.movedim(1, -1)  # (N, H', W', D)
        flat = positions.detach().flatten(0, -2)
        if self.training:
            self._restart(flat)
        codes = self._nearest(flat)
        if self.training:
            self._learn(flat, codes)
        codes = codes.view(positions.shape[:-1])
        nearest = self.vectors[codes]
        penalty = self.commitment * (positions - nearest.detach()).square().flatten(1).sum(1)  # (eq. 14.5)
        if not self.is_averaged:
            penalty = penalty + (positions.detach() - nearest).square().flatten(1).sum(1)
        nearest = nearest.detach()
        nothing = positions - positions.detach()  # 0, with the gradient of z
        nearest = nearest + (_rotated(nothing, positions.detach(), nearest) if self.rotates else nothing)
        return Quantized(codes, nearest.movedim(-1, 1), penalty)

    def codes(self, z: Tensor) -> Tensor:
        """The codes alone, `(N, H', W')`; nothing is learned."""
        positions = z.movedim(1, -1)
        return self._nearest(positions.detach().flatten(0, -2)).view(positions.shape[:-1])

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors `(..., D, H', W')` of codes `(..., H', W')`."""
        return self.vectors[codes].movedim(-1, -3)

    def _nearest(self, flat: Tensor) -> Tensor:
        vectors = self.vectors.detach()
        # |z - e|^2 less |z|^2, which is the same for all codes
        return torch.addmm(vectors.square().sum(1), flat, vectors.T, alpha=-2).argmin(1)  # (eq. 14.1)

    @torch.no_grad()
    def _restart(self, flat: Tensor) -> None:
        """Puts dead codes at vectors z of this batch, each with the least count of a living code."""
        if not self.restart_below:
            return
        equal = len(flat) / self.num_codes
        uniform = torch.empty(self.num_codes, dtype=flat.dtype, device=flat.device).uniform_()
        drawn = flat[(uniform * len(flat)).long().clamp(max=len(flat) - 1)]
        dead = self.counts < self.restart_below * equal
        self.vectors.copy_(torch.where(dead[:, None], drawn, self.vectors))
        if self.is_averaged:
            self.sums.copy_(torch.where(dead[:, None], drawn * (self.restart_below * equal), self.sums))
        self.counts.copy_(torch.where(dead, self.restart_below * equal, self.counts))

    @torch.no_grad()
    def _learn(self, flat: Tensor, codes: Tensor) -> None:
        """Moves the counts, and the vectors where they are averages, by a batch."""
        now = torch.zeros_like(self.counts).index_add_(0, codes, torch.ones_like(flat[:, 0]))
        self.counts.copy_(self.decay * self.counts + (1 - self.decay) * now)
        if self.is_averaged:
            sums = torch.zeros_like(self.sums).index_add_(0, codes, flat)
            self.sums.copy_(self.decay * self.sums + (1 - self.decay) * sums)
            used = self.counts > 1e-20  # else their ratio has no digits left
            means = self.sums / self.counts.where(used, 1.0)[:, None]  # (eq. 14.6)
            self.vectors.copy_(torch.where(used[:, None], means, self.vectors))


class FiniteScalarQuantizer(nn.Module):
    r"""Each dimension of z rounded to one of a few levels; their combinations are the codes, and there is no codebook.

    .. math:: k_j = \mathrm{round}\big((L_j - 1)\, \sigma(2 z_j)\big), \qquad
              e_j = \frac{2 k_j}{L_j - 1} - 1 \in [-1, 1]

    The code is the number that has the :math:`k_j` as its digits. Rounding has the gradient of the identity. Nothing
    draws the encoder to the levels, which are fixed, so there is no penalty. Where L is even the paper shifts the
    levels by half a step; here they lie symmetrically around 0.

    Args:
        levels: L of each dimension, at least 2; K is their product.

    Source: Mentzer et al., "Finite scalar quantization", 2023, https://arxiv.org/abs/2309.15505

    >>> quantizer = FiniteScalarQuantizer((3, 2))
    >>> quantizer.embed(torch.arange(6).reshape(6, 1, 1)).flatten(1).tolist()
    [[-1.0, -1.0], [-1.0, 1.0], [0.0, -1.0], [0.0, 1.0], [1.0, -1.0], [1.0, 1.0]]
    """

    highest: Tensor
    sizes: Tensor
    radix: Tensor

    def __init__(self, levels: Sequence[int] = (8, 8, 8)) -> None:
        super().__init__()
        levels = checks.sizes("levels", levels)
        if not levels or min(levels) < 2:
            raise checks.fail("levels", levels, "at least 2 levels for each of one or more dimensions")
        self.num_codes, self.dim = math.prod(levels), len(levels)
        radix = [math.prod(levels[digit + 1 :]) for digit in range(len(levels))]
        # A float, so that it is of the type of the weights.
        self.register_buffer("highest", torch.tensor(levels) - torch.ones(()), persistent=False)
        self.register_buffer("sizes", torch.tensor(levels), persistent=False)
        self.register_buffer("radix", torch.tensor(radix), persistent=False)

    def forward(self, z: Tensor) -> Quantized:
        """The codes of vectors `(N, D, H', W')`."""
        digits = self._continuous(z)
        rounded = digits.detach().round()
        embedding = self._scaled(rounded + (digits - digits.detach()))  # (eq. 14.8)
        return Quantized(self._number(rounded), embedding.movedim(-1, 1), z.new_zeros(len(z)))

    def codes(self, z: Tensor) -> Tensor:
        """The codes alone, `(N, H', W')`."""
        return self._number(self._continuous(z).detach().round())

    def embed(self, codes: Tensor) -> Tensor:
        """The vectors `(..., D, H', W')` of codes `(..., H', W')`."""
        digits = codes[..., None] // self.radix % self.sizes
        return self._scaled(digits.to(self.highest.dtype)).movedim(-1, -3)

    def _continuous(self, z: Tensor) -> Tensor:
        return self.highest * (2 * z.movedim(1, -1)).sigmoid()

    def _number(self, digits: Tensor) -> Tensor:
        return (digits.long() * self.radix).sum(-1)

    def _scaled(self, digits: Tensor) -> Tensor:
        return digits * 2 / self.highest - 1


def _rotated(change: Tensor, z: Tensor, e: Tensor) -> Tensor:
    """`change` under the rotation that takes the direction of z to that of e, scaled by |e| / |z| (eq. 14.4)."""
    length_z, length_e = (vector.norm(dim=-1, keepdim=True).clamp(min=1e-6) for vector in (z, e))
    u, v = z / length_z, e / length_e
    between = u + v
    between = between / between.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    turned = (
        change - 2 * between * (between * change).sum(-1, keepdim=True) + 2 * v * (u * change).sum(-1, keepdim=True)
    )
    return length_e / length_z * turned


def _share(argument: str, value: object) -> float:
    number = checks.non_negative(argument, value)
    if number >= 1:
        raise checks.fail(argument, value, "a number from 0 to below 1")
    return number
