"""Models of noise, p(y|x): they draw noisy images, and clean pixels are integrated out where p(x|z) is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional

from pyro_vae._utils import checks
from pyro_vae.pixel_distributions import LogisticLevels, NormalLevels

LEVELS = 256
_NAMES = "gaussian:SD, salt-and-pepper:SHARE or blur:WIDTH"


class CleanPixels(NamedTuple):
    """E[x|y,z] and Var[x|y,z] of each pixel, of shape `(..., C, H, W)` both."""

    mean: Tensor
    variance: Tensor


@dataclass(frozen=True)
class GaussianNoise:
    r"""Normal noise, independent for each pixel: :math:`y = x + s\,\epsilon`.

    Given z the clean pixels are integrated out, exactly:

    .. math:: p(y_i|z) = \pi_i \mathcal N(y_i; 1, s^2) + (1 - \pi_i) \mathcal N(y_i; 0, s^2)
              \quad\text{or}\quad \mathcal N(y_i; m_i, v + s^2)

    for binary and for normal pixels; other pixels are summed over their 256 levels, which takes 256 times as long.

    Args:
        sd: s, as a fraction of the range of pixels.

    >>> noise = GaussianNoise(0.5)
    >>> p = dist.Bernoulli(probs=torch.full((1, 1, 1), 0.5)).to_event(3)
    >>> noise.clean_pixels(torch.full((1, 1, 1), 0.5), p).mean.item()
    0.5
    """

    sd: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "sd", checks.positive("sd of Gaussian noise", self.sd))

    def __str__(self) -> str:
        return f"gaussian:{self.sd:g}"

    def corrupt(self, x: Tensor) -> Tensor:
        """Noisy images, drawn by torch's generator; they are not clipped to the range of pixels."""
        return x + self.sd * torch.randn_like(x)

    def log_likelihood(self, y: Tensor, p: dist.TorchDistribution) -> Tensor:
        """log p(y|z), of the batch shape of p(x|z)."""
        pixels = independent_pixels(p)
        if isinstance(pixels, torch.distributions.Bernoulli):
            black, white = self._of_both(y, pixels.logits)
            return torch.logaddexp(black, white).sum((-3, -2, -1))
        if isinstance(pixels, torch.distributions.Normal):
            return self.rough_log_likelihood(y, p)
        log_mass = log_joint = y.new_full(pixels.batch_shape, -math.inf)
        for level, log_p in _levels(pixels, y):
            log_mass = torch.logaddexp(log_mass, log_p)
            log_joint = torch.logaddexp(log_joint, log_p + _log_normal(y - level, self.sd**2))
        return (log_joint - log_mass).sum((-3, -2, -1))

    def rough_log_likelihood(self, y: Tensor, p: dist.TorchDistribution) -> Tensor:
        """The same with normal pixels in the place of those of 256 levels: fast enough to be optimised."""
        pixels = independent_pixels(p)
        if isinstance(pixels, torch.distributions.Bernoulli):
            return self.log_likelihood(y, p)
        mean, variance = _moments(pixels)
        return _log_normal(y - mean, variance + self.sd**2).sum((-3, -2, -1))

    def clean_pixels(self, y: Tensor, p: dist.TorchDistribution) -> CleanPixels:
        """The clean pixels given the noisy ones and z."""
        pixels = independent_pixels(p)
        if isinstance(pixels, torch.distributions.Bernoulli):
            black, white = self._of_both(y, pixels.logits)
            probability = (white - black).sigmoid()
            return CleanPixels(probability, probability * (1 - probability))
        if isinstance(pixels, torch.distributions.Normal):
            mean, variance = _moments(pixels)
            share = variance / (variance + self.sd**2)  # of the noisy pixel in the mean
            return CleanPixels(mean + share * (y - mean), share * self.sd**2)
        total, first, second = (y.new_zeros(pixels.batch_shape) for _ in range(3))
        # Relative to the largest term, so that no sum underflows.
        largest = torch.full_like(total, -math.inf)
        for level, log_p in _levels(pixels, y):
            log_joint = log_p + _log_normal(y - level, self.sd**2)
            shift = torch.maximum(largest, log_joint)
            fade, weight = (largest - shift).exp(), (log_joint - shift).exp()
            total, largest = total * fade + weight, shift
            first, second = first * fade + weight * level, second * fade + weight * level**2
        mean = first / total
        return CleanPixels(mean, (second / total - mean.square()).clamp(min=0))

    def _of_both(self, y: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x = 0, y|z) and log p(x = 1, y|z) of each pixel."""
        log_black = functional.logsigmoid(-logits) + _log_normal(y, self.sd**2)
        return log_black, functional.logsigmoid(logits) + _log_normal(y - 1, self.sd**2)


@dataclass(frozen=True)
class SaltAndPepper:
    r"""Each pixel is replaced with probability r, by black or by white with probability 1/2 each.

    .. math:: P(y_i|z) = (1 - r)\, P(x_i = y_i|z) + \tfrac r2 [y_i \in \{0, 1\}]

    Here pixels have probabilities: normal ones are those of 256 levels, with the mass of the normal distribution around
    each level. Pixels with another density, such as the continuous Bernoulli, are refused.

    Args:
        share: r, above 0 and below 1.

    >>> p = dist.Bernoulli(probs=torch.full((1, 1, 1), 0.5)).to_event(3)
    >>> SaltAndPepper(0.2).clean_pixels(torch.ones(1, 1, 1), p).mean.item()  # 0.45 / 0.5
    0.8999...
    """

    share: float

    def __post_init__(self) -> None:
        share = checks.positive("share of salt and pepper", self.share)
        if share >= 1:
            raise checks.fail("share of salt and pepper", share, "a number above 0 and below 1")
        object.__setattr__(self, "share", share)

    def __str__(self) -> str:
        return f"salt-and-pepper:{self.share:g}"

    def corrupt(self, x: Tensor) -> Tensor:
        """Noisy images, drawn by torch's generator."""
        replaced = torch.rand_like(x) < self.share
        return torch.where(replaced, (torch.rand_like(x) < 0.5).to(x), x)

    def log_likelihood(self, y: Tensor, p: dist.TorchDistribution) -> Tensor:
        """log P(y|z), of the batch shape of p(x|z)."""
        unchanged, replaced = self._of_both(y, _with_masses(independent_pixels(p)))
        return torch.logaddexp(unchanged, replaced).sum((-3, -2, -1))

    rough_log_likelihood = log_likelihood

    def clean_pixels(self, y: Tensor, p: dist.TorchDistribution) -> CleanPixels:
        """The clean pixels given the noisy ones and z."""
        pixels = _with_masses(independent_pixels(p))
        unchanged, replaced = self._of_both(y, pixels)
        is_clean = (unchanged - torch.logaddexp(unchanged, replaced)).exp()
        expected, variance = pixels.mean, pixels.variance  # of 256 levels these are sums over all of them
        mean = is_clean * y + (1 - is_clean) * expected
        second = is_clean * y.square() + (1 - is_clean) * (variance + expected.square())
        return CleanPixels(mean, (second - mean.square()).clamp(min=0))

    def _of_both(self, y: Tensor, pixels: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
        """log P(unchanged, y|z) and log P(replaced, y|z) of each pixel."""
        extreme = (y == 0) | (y == 1)
        replaced = torch.where(extreme, math.log(self.share / 2), -math.inf).to(y)
        return math.log(1 - self.share) + pixels.log_prob(y), replaced


@dataclass(frozen=True)
class Blur:
    r"""A Gaussian kernel of known width, and a little normal noise: :math:`y = K x + s\,\epsilon`.

    The kernel is cut at the edge of the image, and what is left sums to 1. Pixels that are normal with a common
    variance v given z have, in the singular vectors of K, with the singular values k,

    .. math:: p(\tilde y_j|z) = \mathcal N(\tilde y_j; k_j \tilde m_j, k_j^2 v + s^2), \qquad
              \mathbb E[\tilde x_j|y, z] = \tilde m_j + \frac{k_j v}{k_j^2 v + s^2} (\tilde y_j - k_j \tilde m_j)

    Other pixels are taken to be such: with their means m, and with v the average of their variances over the image.
    This is an approximation, since a sum over all binary images has no closed form.

    Args:
        width: the standard deviation of the kernel, pixels.
        sd: s, as a fraction of the range of pixels.

    >>> Blur(1.0).corrupt(torch.ones(1, 1, 8, 8)).shape
    torch.Size([1, 1, 8, 8])
    """

    width: float
    sd: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", checks.positive("width of the blur", self.width))
        object.__setattr__(self, "sd", checks.positive("sd of the blur's noise", self.sd))

    def __str__(self) -> str:
        return f"blur:{self.width:g}:{self.sd:g}"

    def corrupt(self, x: Tensor) -> Tensor:
        """Noisy images, drawn by torch's generator; they are not clipped to the range of pixels."""
        rows, columns = (self._kernel(size).to(x) for size in x.shape[-2:])
        return rows @ x @ columns.T + self.sd * torch.randn_like(x)

    def log_likelihood(self, y: Tensor, p: dist.TorchDistribution) -> Tensor:
        """log p(y|z), of the batch shape of p(x|z)."""
        error, _, _, total = self._in_singular_vectors(y, *self._normal(p))
        return _log_normal(error, total).sum((-3, -2, -1))

    rough_log_likelihood = log_likelihood

    def clean_pixels(self, y: Tensor, p: dist.TorchDistribution) -> CleanPixels:
        """The clean pixels given the noisy ones and z."""
        mean, variance = self._normal(p)
        error, values, (rows, columns), total = self._in_singular_vectors(y, mean, variance)
        gain = values * variance / total
        clean = mean + rows @ (gain * error) @ columns.T
        if not isinstance(independent_pixels(p), torch.distributions.Normal):
            clean = clean.clamp(0, 1)  # where the approximation leaves the range of the pixels
        return CleanPixels(clean, rows.square() @ (variance * (1 - gain * values)) @ columns.square().T)

    def _normal(self, p: dist.TorchDistribution) -> CleanPixels:
        """The means of the pixels, and the average of their variances over the image."""
        mean, variance = _moments(independent_pixels(p))
        return CleanPixels(mean, variance.expand_as(mean).mean((-3, -2, -1), keepdim=True))

    def _in_singular_vectors(
        self, y: Tensor, mean: Tensor, variance: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]:
        """y - K m, the singular values, the right singular vectors of rows and columns, and the variance of y - K m."""
        # The kernel is a product of one over rows and one over columns, and so is its decomposition.
        (u, k, v), (u2, k2, v2) = (
            (part.to(y) for part in torch.linalg.svd(self._kernel(size))) for size in y.shape[-2:]
        )
        values = k[:, None] * k2
        error = u.T @ y @ u2 - values * (v @ mean @ v2.T)
        return error, values, (v.T, v2.T), values.square() * variance + self.sd**2

    def _kernel(self, size: int) -> Tensor:
        """The kernel over one axis as a matrix, float64."""
        if self.width > size:
            raise checks.fail("noise", str(self), f"a blur of at most {size} pixels, the height or width of the images")
        position = torch.arange(size, dtype=torch.float64)
        weights = (-(position[:, None] - position).square() / (2 * self.width**2)).exp()
        return weights / weights.sum(1, keepdim=True)


Noise = GaussianNoise | SaltAndPepper | Blur


def noise_of(text: str | Noise) -> Noise:
    """A model of noise from its name and numbers, as the command line has it.

    Raises:
        InputError: another name, or a number out of its range.

    >>> noise_of("gaussian:0.3"), noise_of("blur:1.0:0.02")
    (GaussianNoise(sd=0.3), Blur(width=1.0, sd=0.02))
    """
    if isinstance(text, Noise):
        return text
    if not isinstance(text, str):
        raise checks.fail("noise", text, _NAMES)
    name, *numbers = text.split(":")
    kinds: dict[str, type[Noise]] = {"gaussian": GaussianNoise, "salt-and-pepper": SaltAndPepper, "blur": Blur}
    kind = kinds[checks.one_of("noise", name, kinds)]
    if not 1 <= len(numbers) <= len(fields(kind)):
        raise checks.fail("noise", text, _NAMES)
    try:
        values = [float(number) for number in numbers]
    except ValueError as error:
        raise checks.fail("noise", text, _NAMES) from error
    try:
        return kind(*values)
    except checks.InputError as error:
        raise checks.fail("noise", text, f"numbers in their range ({error})") from error


def check_noise(noise: Noise, noisy: Tensor, p: dist.TorchDistribution) -> None:
    """Checks that the pixels of a model, p(x|z), can have this noise, and that these images can come from it.

    Raises:
        InputError: salt and pepper for pixels that have no probabilities, or noisy pixels that are no levels of these;
            or pixels that depend on each other given z.
    """
    pixels = independent_pixels(p)
    if not isinstance(noise, SaltAndPepper):
        return
    if isinstance(pixels, torch.distributions.Bernoulli):
        levels, names = 1, "pixels that are 0 or 1, as those of a Bernoulli likelihood"
    else:
        pixels = _with_masses(pixels)
        levels, names = LEVELS - 1, "pixels of 256 levels, multiples of 1/255 in [0, 1]"
    level = levels * noisy
    if not bool(((level - level.round()).abs() < 1e-2).all() & (noisy >= 0).all() & (noisy <= 1).all()):
        raise checks.fail("noisy", "other pixels", f"{names}: salt and pepper leaves others unchanged")


def independent_pixels(p: dist.TorchDistribution) -> dist.TorchDistribution:
    """The distribution of each pixel, of batch shape `(..., C, H, W)`, of a p(x|z) that is a product over pixels."""
    if isinstance(p, torch.distributions.Independent) and p.reinterpreted_batch_ndims == 3:
        return p.base_dist
    raise checks.fail("model", f"p(x|z) as {type(p).__name__}", "p(x|z) with independent pixels, `.to_event(3)`")


def _with_masses(pixels: dist.TorchDistribution) -> dist.TorchDistribution:
    """Pixels that have probabilities: a normal's are those of the levels around which its mass is."""
    if isinstance(pixels, torch.distributions.Normal):
        return NormalLevels(pixels.loc, pixels.scale)
    if isinstance(pixels, torch.distributions.Bernoulli) or getattr(pixels.support, "is_discrete", False):
        return pixels
    expected = "pixels that have probabilities, or normal ones: salt and pepper leaves some unchanged"
    raise checks.fail("noise", f"salt-and-pepper for {type(pixels).__name__} pixels", expected)


def _moments(pixels: dist.TorchDistribution) -> CleanPixels:
    """Mean and variance of each pixel; of 256 levels, those without the rounding to levels and its open ends."""
    if isinstance(pixels, torch.distributions.MixtureSameFamily):
        weights = pixels.mixture_distribution.probs
        means, variances = _moments(pixels.component_distribution)
        mean = (weights * means).sum(-1)
        return CleanPixels(mean, (weights * (variances + means.square())).sum(-1) - mean.square())
    if isinstance(pixels, LogisticLevels):
        return CleanPixels(pixels.loc, pixels.scale.square() * (math.pi**2 / 3))
    if isinstance(pixels, NormalLevels):
        return CleanPixels(pixels.loc, pixels.scale.square())
    return CleanPixels(pixels.mean, pixels.variance)


def _levels(pixels: dist.TorchDistribution, y: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Each level, as a fraction of 1, and its log-probability (or log-density) in each pixel."""
    for number in range(LEVELS):
        level = number / (LEVELS - 1)
        yield level, pixels.log_prob(y.new_full(pixels.batch_shape, level))


def _log_normal(error: Tensor, variance: Tensor | float) -> Tensor:
    """log N(error; 0, variance)."""
    log_variance = variance.log() if isinstance(variance, Tensor) else math.log(variance)
    return -0.5 * (error.square() / variance + log_variance + math.log(2 * math.pi))
