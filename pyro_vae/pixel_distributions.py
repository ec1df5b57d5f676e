"""Distributions of a pixel that torch lacks, or that it evaluates accurately only at moderate parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import register_kl
from torch.nn import functional


class BernoulliOfGrey(dist.Bernoulli):
    """A Bernoulli whose `log_prob` of a grey level is minus the cross-entropy; values outside [0, 1] are errors."""

    support = constraints.unit_interval

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # (eq. 8.1)
        # x l - log(1 + exp(l)) = (x - 1/2) l - |l|/2 + log sigmoid|l|: smooth at 0, exact at both ends, and without
        # log1p, whose CPU kernel takes ten times as long as log's.
        logits = self.logits
        size = logits.abs()
        return torch.addcmul(size.sigmoid().log().sub_(size, alpha=0.5), value - 0.5, logits)


class ContinuousBernoulliOfLogits(dist.TorchDistribution):
    r"""p(x) = l exp(l x) / (exp(l) - 1) on [0, 1], computed from the logits l, accurate for any size and sign of l.

    torch's `ContinuousBernoulli` computes with probabilities, which it clamps at \|l\| = 16.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012 (as torch's distributions have it)
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> ContinuousBernoulliOfLogits:
        return type(self)(self.logits.expand(torch.Size(batch_shape)), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return (value - 0.5) * self.logits - self._log_norm()  # (eq. 8.3)

    def _log_norm(self) -> Tensor:
        # log of sinh(l / 2) / (l / 2), whose limit at 0 is 0.
        size = self.logits.abs()
        small = size < 0.1
        safe = torch.where(small, 1.0, size)
        square = torch.where(small, self.logits, 0.0).square()
        series = square * (1 / 24 - square * (1 / 2880 - square / 181440))
        return torch.where(small, series, safe / 2 + (-torch.expm1(-safe) / safe).log())

    @property
    def mean(self) -> Tensor:
        # 1 / (1 - exp(-l)) - 1 / l
        small, safe, near = self._small()
        size = safe.abs()
        from_mode = 1 / size - (-size).exp() / -torch.expm1(-size)
        series = 0.5 + near * _series(near, [c for _, c in _BERNOULLI])
        return torch.where(small, series, torch.where(safe > 0, 1 - from_mode, from_mode))

    @property
    def variance(self) -> Tensor:
        # 1 / l^2 - 1 / (4 sinh(l / 2)^2)
        small, safe, near = self._small()
        size = safe.abs()
        direct = size.square().reciprocal() - (-size).exp() / torch.expm1(-size).square()
        return torch.where(small, _series(near, [(n - 1) * c for n, c in _BERNOULLI]), direct)

    def entropy(self) -> Tensor:
        # log((exp(l) - 1) / l) - l mean
        small, safe, near = self._small()
        size = safe.abs()
        rest = -torch.expm1(-size)
        direct = 1 - (size / rest).log() - size * (-size).exp() / rest
        series = near.square() * _series(near, [(1 / n - 1) * c for n, c in _BERNOULLI])
        return torch.where(small, series, direct)

    def cdf(self, value: Tensor) -> Tensor:
        # (exp(l x) - 1) / (exp(l) - 1)
        if self._validate_args:
            self._validate_sample(value)
        small, safe, logits = self._small(_reach(self.logits))
        size = safe.abs()
        rising = (size * (value - 1)).exp() * torch.expm1(-size * value)
        direct = torch.where(safe > 0, rising, torch.expm1(-size * value)) / torch.expm1(-size)
        v, m = value * (1 - value), 1 - 2 * value
        series = value - logits * v * (1 / 2 - logits * (m / 12 + logits * (v / 24 - logits * m * (3 * v + 1) / 720)))
        return torch.where(small, series, direct)

    def icdf(self, value: Tensor) -> Tensor:
        # log(1 + u (exp(l) - 1)) / l
        small, safe, logits = self._small(_reach(self.logits))
        size = safe.abs()
        below, above = value.log(), torch.log1p(-value)  # log masses below and above x
        beyond, between = torch.where(safe > 0, below, above), torch.where(safe > 0, above, below)
        from_mode = -torch.logaddexp(beyond, between - size) / size  # the mode is at 1 or at 0
        direct = torch.where(safe > 0, 1 - from_mode, from_mode)
        # Its Taylor series has the cumulants of a Bernoulli variable of probability u.
        v, m = value * (1 - value), 1 - 2 * value
        cumulants = logits / 6 * (m + logits / 4 * (1 - 6 * v + logits / 5 * m * (1 - 12 * v)))
        return torch.where(small, value + logits * v * (0.5 + cumulants), direct).clamp(0, 1)

    def rsample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.icdf(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))

    def _small(self, limit: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        """Where differences would cancel, so that a series is used; the logits for the direct formula; for the series.

        Neither formula may overflow where it is not used: its gradient would be 0 times infinity.
        """
        small = self.logits.abs() < limit
        return small, torch.where(small, 1.0, self.logits), torch.where(small, self.logits, 0.0)


@register_kl(ContinuousBernoulliOfLogits, ContinuousBernoulliOfLogits)
def _kl_of_continuous_bernoullis(p: ContinuousBernoulliOfLogits, q: ContinuousBernoulliOfLogits) -> Tensor:
    return (p.mean - 0.5) * (p.logits - q.logits) - p._log_norm() + q._log_norm()


def _series(x: Tensor, coefficients: Sequence[float]) -> Tensor:
    """The sum of c_k x^(2 k)."""
    square, total = x.square(), torch.zeros_like(x)
    for c in reversed(coefficients):
        total = total * square + c
    return total


def _reach(x: Tensor) -> float:
    """The size of l below which a series of degree 4 is used: its error is l^5, that of derivatives eps / l."""
    return float(torch.finfo(x.dtype).eps ** (1 / 7))


# n and B_n / n!, with the Bernoulli numbers B_n: the mean less 1/2 is the sum of B_n / n! l^(n - 1), for |l| < 2 pi.
_BERNOULLI = [
    (n, b / math.factorial(n))
    for n, b in zip(
        range(2, 22, 2),
        (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798, -174611 / 330),
        strict=True,
    )
]


class _Levels(constraints.Constraint):
    """k / 255 with a whole number k from 0 to 255."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        level = 255 * value
        return ((level - level.round()).abs() < 1e-2) & (value >= 0) & (value <= 1)


class _BinnedLevels(dist.TorchDistribution):
    """Levels x = k / 255, k = 0 ... 255: the mass of a symmetric density of `loc` and `scale` between k +- 1/2.

    Level 0 has all the mass below its upper edge, level 255 all the mass above its lower edge.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    support = _Levels()

    def __init__(self, loc: Tensor, scale: Tensor, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: None = None) -> _BinnedLevels:
        shape = torch.Size(batch_shape)
        return type(self)(self.loc.expand(shape), self.scale.expand(shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        level = (255 * value).round()
        # The upper edge of a level equals the lower edge of the next to the last bit, so that the masses sum to 1.
        lower, upper = (((2 * level + side) / 510 - self.loc) / self.scale for side in (-1, 1))
        below, above = self._log_cdf(upper), self._log_cdf(-lower)
        inside = self._log_mass(lower, upper, below, above)
        return torch.where(level == 0, below, torch.where(level == 255, above, inside))

    @property
    def mean(self) -> Tensor:
        return self._sum_over_edges(lambda level: 1) / 255

    @property
    def variance(self) -> Tensor:
        return self._sum_over_edges(lambda level: 2 * level + 1) / 255**2 - self.mean.square()

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            x = self.loc + self.scale * self._noise(shape)
            return (255 * x).round().clamp(0, 255) / 255

    def _sum_over_edges(self, weight: Callable[[int], int]) -> Tensor:
        """The sum of w(j) P(k > j) over the levels j: E k for w = 1, E k^2 for w = 2 j + 1."""
        total = torch.zeros_like(self.loc)
        for level in range(255):
            total = total + weight(level) * self._cdf((self.loc - (level + 0.5) / 255) / self.scale)
        return total

    # The standard distribution, which is symmetric around 0.

    def _cdf(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _log_cdf(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def _log_mass(self, lower: Tensor, upper: Tensor, below: Tensor, above: Tensor) -> Tensor:
        """log mass between `lower` and `upper`, from the log mass below `upper` and the log mass above `lower`."""
        raise NotImplementedError

    def _noise(self, shape: torch.Size) -> Tensor:
        raise NotImplementedError


class LogisticLevels(_BinnedLevels):
    """256 levels with the mass of a logistic distribution."""

    def _cdf(self, t: Tensor) -> Tensor:
        return t.sigmoid()

    def _log_cdf(self, t: Tensor) -> Tensor:
        return functional.logsigmoid(t)

    def _log_mass(self, lower: Tensor, upper: Tensor, below: Tensor, above: Tensor) -> Tensor:
        # F(b) - F(a) = F(b) (1 - F(a)) (1 - exp(a - b)), without a difference that could cancel
        return below + above + (-torch.expm1(-1 / (255 * self.scale))).log()

    def _noise(self, shape: torch.Size) -> Tensor:
        u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        return u.log() - torch.log1p(-u)


class NormalLevels(_BinnedLevels):
    """256 levels with the mass of a normal distribution."""

    def _cdf(self, t: Tensor) -> Tensor:
        return torch.erfc(-t * math.sqrt(0.5)) / 2

    def _log_cdf(self, t: Tensor) -> Tensor:
        # torch.special.log_ndtr has these values, but its derivative is lost to rounding at t = -1000.
        t = t * math.sqrt(0.5)
        left = t < -0.7
        far, near = torch.where(left, t, -1.0), torch.where(left, 0.0, t)
        return torch.where(
            left, (torch.special.erfcx(-far) / 2).log() - far.square(), torch.log1p(-torch.erfc(near) / 2)
        )

    def _log_mass(self, lower: Tensor, upper: Tensor, below: Tensor, above: Tensor) -> Tensor:
        width, centre = 1 / (255 * self.scale), (lower + upper) / 2
        size = centre.abs()
        flat = width * size.clamp(min=1) < 0.5
        # In a narrow bin: the density in its middle, times the Taylor series of its mean over the bin.
        d = torch.where(flat, width, 0.25).square()
        q = d * torch.where(flat, size, 0.0).square()
        series = (q - d) / 24 + (q**2 - 6 * q * d + 3 * d**2) / 1920
        series = series + (q**3 - 15 * q**2 * d + 45 * q * d**2 - 15 * d**3) / 322560
        narrow = torch.log1p(series) + d.log() / 2 - q / d / 2 - math.log(2 * math.pi) / 2
        # Else the difference of two tails, by symmetry the smaller ones.
        left = torch.where(flat, -1.0, torch.where(centre < 0, lower, -upper))
        right = torch.where(flat, 1.0, torch.where(centre < 0, upper, -lower))
        outer, inner = self._log_cdf(left), self._log_cdf(right)
        return torch.where(flat, narrow, inner + (-torch.expm1(outer - inner)).log())

    def _noise(self, shape: torch.Size) -> Tensor:
        return torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
