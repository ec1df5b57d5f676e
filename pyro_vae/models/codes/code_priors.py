"""Priors over a grid of codes: modules whose `forward()` returns a distribution of event shape `(H', W')`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.nn import functional

from pyro_vae._utils import checks


class UniformCodes(nn.Module):
    r"""Every grid alike.

    .. math:: \log p(k) = -H' W' \log K

    Args:
        num_codes: K.
        grid: `(H', W')`.

    >>> UniformCodes(2, (3, 3))().log_prob(torch.zeros(3, 3)).item()  # -9 log 2
    -6.238...
    """

    logits: Tensor

    def __init__(self, num_codes: int, grid: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("logits", torch.zeros(*grid, num_codes), persistent=False)

    def forward(self) -> dist.TorchDistribution:
        """p(codes): batch shape `()`, event shape `(H', W')`."""
        return dist.Categorical(logits=self.logits).to_event(2)


class AutoregressiveCodes(nn.Module):
    r"""Each code given those before it, row by row, by a transformer.

    .. math:: p(k) = \prod_{t=1}^{H' W'} p(k_t \mid k_1, \dots, k_{t-1})

    All factors are computed in one pass: attention is masked, so that the output at t depends on earlier codes alone.
    The last layer starts at 0, and so p starts uniform.

    Args:
        num_codes: K.
        grid: `(H', W')`.
        width: units of each layer, a multiple of 4, the number of attention heads.
        layers: blocks of attention and a dense network.

    Source: Vaswani et al., "Attention is all you need", 2017, https://arxiv.org/abs/1706.03762; a learned prior of
    codes, there a PixelCNN: van den Oord et al., 2017, section 3.3, https://arxiv.org/abs/1711.00937

    >>> p = AutoregressiveCodes(num_codes=16, grid=(2, 2))()
    >>> p.sample((5,)).shape, p.log_prob(torch.zeros(2, 2, dtype=torch.long)).item()  # -4 log 16
    (torch.Size([5, 2, 2]), -11.0903...)
    """

    def __init__(self, num_codes: int, grid: Sequence[int], width: int = 64, layers: int = 2) -> None:
        super().__init__()
        if checks.positive_integer("prior_width", width) % _HEADS:
            raise checks.fail("prior_width", width, f"a multiple of {_HEADS}, the number of attention heads")
        height, columns = grid
        self.num_codes, self.grid = num_codes, torch.Size((height, columns))
        self.start = nn.Parameter(0.02 * torch.randn(width))  # what stands before the first code
        self.embedding = nn.Embedding(num_codes, width)
        self.positions = nn.Parameter(0.02 * torch.randn(height * columns, width))
        self.blocks = nn.Sequential(*[_Block(width) for _ in range(checks.positive_integer("prior_layers", layers))])
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, num_codes)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self) -> dist.TorchDistribution:
        """p(codes): batch shape `()`, event shape `(H', W')`."""
        return CodesInOrder(self)

    def logits(self, before: Tensor) -> Tensor:
        """The logits `(M, t + 1, K)` of the first t + 1 codes, given the first t, `(M, t)`."""
        inputs = torch.cat([self.start.expand(len(before), 1, -1), self.embedding(before)], dim=1)
        hidden = self.blocks(inputs + self.positions[: inputs.shape[1]])
        logits: Tensor = self.output(self.norm(hidden))
        return logits


class CodesInOrder(dist.TorchDistribution):
    """The distribution of a grid of codes under the logits of an :class:`AutoregressiveCodes` network (eq. 14.9)."""

    arg_constraints = {}  # noqa: RUF012 (as torch's distributions have it)

    def __init__(
        self, network: AutoregressiveCodes, batch_shape: Sequence[int] = (), validate_args: bool | None = None
    ) -> None:
        self.network = network
        super().__init__(torch.Size(batch_shape), network.grid, validate_args=validate_args)

    @property
    def support(self) -> Any:
        """Grids of codes below K."""
        return constraints.independent(constraints.integer_interval(0, self.network.num_codes - 1), 2)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> CodesInOrder:
        """The same, for a batch of independent grids."""
        return CodesInOrder(self.network, batch_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(codes), in one pass through the network."""
        if self._validate_args:
            self._validate_sample(value)
        codes = value.reshape(-1, self.event_shape.numel()).long()
        logits = self.network.logits(codes[:, :-1])
        each = -functional.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none")
        return (
            each.view(codes.shape)
            .sum(1)
            .reshape(value.shape[:-2])
            .expand(torch.broadcast_shapes(value.shape[:-2], self.batch_shape))
        )

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Codes drawn one after the other, each with a pass through the network."""
        return self._in_order(self._extended_shape(torch.Size(sample_shape)), lambda p: p.sample())

    @property
    def mode(self) -> Tensor:
        """The most probable code at each position, given those chosen before; other grids may be more probable.

        Of batch shape `(...)`, `(..., H', W')`.
        """
        return self._in_order(self._extended_shape(), lambda p: p.mode)

    @torch.no_grad()
    def _in_order(self, shape: torch.Size, choose: Callable[[dist.Categorical], Tensor]) -> Tensor:
        codes = torch.empty(shape[:-2].numel(), 0, dtype=torch.long, device=self.network.start.device)
        for _ in range(self.event_shape.numel()):
            next_code = dist.Categorical(logits=self.network.logits(codes)[:, -1])
            codes = torch.cat([codes, choose(next_code)[:, None]], dim=1)
        return codes.view(shape)


_HEADS = 4


class _Block(nn.Module):
    """Masked self-attention and a dense network, each added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.dense = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        # (M, T, 3 width) -> 3 times (M, heads, T, width / heads)
        q, k, v = self.queries_keys_values(self.norm(x)).unflatten(-1, (3, _HEADS, -1)).movedim(1, -2).unbind(1)
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(later, -math.inf)
        x = x + self.mix((scores.softmax(-1) @ v).movedim(1, 2).flatten(2))
        y: Tensor = x + self.dense(x)
        return y
