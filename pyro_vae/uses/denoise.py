"""Denoising: the mean of the clean image given a noisy one, under a model of images and a model of the noise."""

from __future__ import annotations

from dataclasses import dataclass

import pyro
import torch
from torch import Tensor
from torch.nn import functional

from pyro_vae._utils import checks
from pyro_vae._utils.progress import Progress
from pyro_vae._utils.rng import NOISE_BLOCK, seeded_rng, stream_seed
from pyro_vae.evaluation.likelihood.importance_weights import effective_sample_size, log_mean_weight
from pyro_vae.models import VAE, Model
from pyro_vae.models.base import dtype_of, evaluating_on
from pyro_vae.noise import Noise, check_noise, noise_of
from pyro_vae.posteriors import location
from pyro_vae.uses.code_posterior import Ascent, check_codes, drawn_codes, family_of, fitted

METHODS = ("importance", "encoder")


@dataclass(frozen=True, eq=False)
class Denoised:
    """The clean images given the noisy ones, on the CPU.

    - `mean`, `sd`: posterior mean and standard deviation of each pixel, `(N, C, H, W)`.
    - `log_likelihood_nats`: the estimate of log p(y) of each noisy image, `(N,)`, from the same weights.
    - `effective_samples`: of the importance weights, from 1 to the number of draws, `(N,)`. Where it is a few, the mean
      is that of a few codes, and the spread between codes is missing from `sd`.
    """

    mean: Tensor
    sd: Tensor
    log_likelihood_nats: Tensor
    effective_samples: Tensor


def denoise(
    model: Model,
    noisy: Tensor,
    noise: Noise | str,
    *,
    method: str = "importance",
    draws: int = 200,
    ascent: Ascent | None = None,
    decoded_at_once: int = 2000,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Denoised:
    r"""The posterior mean of each clean image x given the noisy one y.

    .. math:: \mathbb E[x|y] = \int \mathbb E[x|y, z]\, p(z|y)\, dz
              \approx \sum_k \bar w_k\, \mathbb E[x|y, z_k], \qquad
              \bar w_k \propto \frac{p(y|z_k)\, p(z_k)}{q(z_k)}, \quad p(y|z) = \int p(y|x)\, p(x|z)\, dx

    No image minimises the expected squared error better, if the images and the noise are as the two models say. The
    integrals over clean pixels are exact for noise of single pixels, and for a blur if p(x|z) is a normal distribution
    with a common variance; the one over z is by codes with these weights, drawn from

    - `importance`: a q that is fitted to p(z|y) for each image
      (:func:`~pyro_vae.uses.code_posterior.weighted_codes`);
    - `encoder`: q(z|y) as the encoder gives it. It needs no fit, and is for a model whose encoder was trained on images
      with this noise (:class:`~pyro_vae.models.denoising.Denoising`). Such a q(z|y) tends to be narrower than p(z|y);
      that of another noise, or of clean images, may be anywhere. Few effective samples tell that it is far from p(z|y).

    Args:
        model: with one latent site z, such as a `VAE`.
        noisy: `(N, C, H, W)`, floats, in the range of the clean pixels' [0, 1] or beyond it; not clipped.
        noise: :class:`~pyro_vae.noise.GaussianNoise`, :class:`~pyro_vae.noise.SaltAndPepper` or
            :class:`~pyro_vae.noise.Blur`, or as a text: `gaussian:0.3`, `salt-and-pepper:0.2`, `blur:1.0`.
        method: one of the above.
        draws: codes per image, K.
        ascent: how q is optimised.
        decoded_at_once: codes in one pass of the decoder, which bounds the memory.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of all draws. The global generators are as before afterwards.
        progress: a progress bar where standard error is a terminal; else a line every half minute.

    Raises:
        InputError: another method, a model without a prior density or with several latent sites, images that it does
            not take, or noise that its pixels can't have.

    Source: Im et al., "Denoising criterion for variational auto-encoding framework", 2017,
    https://arxiv.org/abs/1511.06406, trains an encoder for noisy images; for `importance` a model that was trained on
    clean images is enough.

    >>> from pyro_vae import Spec, build, load_data
    >>> vae, x = build(Spec(latent_dim=2)), load_data("digits").test.as_float()[:5].round()
    >>> with torch.random.fork_rng():
    ...     y = noise_of("gaussian:0.3").corrupt(x)
    >>> denoise(vae, y, "gaussian:0.3", draws=10, ascent=Ascent(steps=5)).mean.shape
    torch.Size([5, 1, 8, 8])
    """
    vae = check_codes(model, "denoise")
    checks.one_of("method", method, METHODS)
    noise, y = noise_of(noise), _check_noisy(noisy)
    draws = checks.positive_integer("draws", draws)
    at_once = checks.positive_integer("decoded_at_once", decoded_at_once)
    seed, ascent = checks.seed("seed", seed), ascent or Ascent()
    block = max(1, min(NOISE_BLOCK, at_once // ascent.particles))
    parts = []
    with evaluating_on(model, device, gradients=True) as target, torch.no_grad(), pyro.validation_enabled(False):
        y = y.to(target, dtype_of(model))
        _check_takes(vae, y, noise)
        with Progress(len(y), "image", "denoising", visible=progress) as bar:
            for index, rows in enumerate(y.split(block)):
                with seeded_rng(target, stream_seed(seed, f"denoise {index}")):
                    parts.append(
                        _denoised(vae, rows, noise, draws, ascent if method == "importance" else None, at_once)
                    )
                bar.update(len(rows))
    return Denoised(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _denoised(
    model: VAE, y: Tensor, noise: Noise, draws: int, ascent: Ascent | None, at_once: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The columns of :class:`Denoised`; by the encoder's q where there is no ascent."""
    if ascent is None:
        family_of(model, y)  # which has a density
        q = model.encode(y)
    else:
        starts = [y.clamp(0, 1), median_of_neighbours(y).clamp(0, 1)]
        q = fitted(model, starts, lambda p: noise.rough_log_likelihood(y, p), ascent)
    codes = drawn_codes(model, q, lambda p: noise.log_likelihood(y, p), draws, at_once)
    weights = codes.normalized().to(y)[..., None, None, None]
    first, second = torch.zeros_like(y), torch.zeros_like(y)
    chunk = max(1, at_once // len(y))
    for z, weight in zip(codes.z.split(chunk), weights.split(chunk), strict=True):
        pixels = noise.clean_pixels(y, model.decode(z))
        first += (weight * pixels.mean).sum(0)
        second += (weight * (pixels.variance + pixels.mean.square())).sum(0)
    sd = (second - first.square()).clamp(min=0).sqrt()
    return first.cpu(), sd.cpu(), log_mean_weight(codes.log_weights), effective_sample_size(codes.log_weights)


def median_of_neighbours(x: Tensor) -> Tensor:
    """The median of each pixel and its eight neighbours, of images `(N, C, H, W)`: a crude denoising.

    >>> x = torch.zeros(1, 1, 5, 5)
    >>> x[0, 0, 2, 2] = 1
    >>> median_of_neighbours(x).max().item()
    0.0
    """
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    return padded.unfold(2, 3, 1).unfold(3, 3, 1).flatten(-2).median(-1).values


def _check_noisy(noisy: Tensor) -> Tensor:
    y = checks.tensor("noisy", noisy)
    if y.dim() != 4 or 0 in y.shape or not y.is_floating_point():
        raise checks.fail("noisy", noisy, "floats of shape (N, C, H, W), with clean pixels in [0, 1]")
    if not bool(y.isfinite().all()):
        raise checks.fail("noisy", "NaN or infinity", "finite numbers")
    return y


def _check_takes(model: VAE, y: Tensor, noise: Noise) -> None:
    """Checks that the model takes images of this shape, and that the noise fits its pixels."""
    try:
        p = model.decode(location(model.encode(y[:1].clamp(0, 1))))
    except (RuntimeError, ValueError) as error:
        raise checks.fail("noisy", y, f"images that the model's encoder takes ({error})") from error
    if p.event_shape != y.shape[1:]:
        raise checks.fail("noisy", y, f"{tuple(p.event_shape)}, the shape that the decoder puts out")
    check_noise(noise, y, p)
