"""Inpainting: draws of the hidden pixels of images given those that are seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.progress import Progress
from pyro_vae._utils.rng import NOISE_BLOCK, seeded_rng, stream_seed
from pyro_vae.evaluation.likelihood.importance_weights import effective_sample_size
from pyro_vae.models import VAE, Model
from pyro_vae.models.base import dtype_of, evaluating_on
from pyro_vae.noise import independent_pixels
from pyro_vae.posteriors import location
from pyro_vae.uses.chains import CHAINS, run_chains
from pyro_vae.uses.code_posterior import (
    Ascent,
    WeightedCodes,
    check_anywhere,
    check_codes,
    family_of,
    parameters_of,
    weighted_codes,
)
from pyro_vae.uses.masks import check_mask, log_likelihood_of_seen

RESAMPLING = ("importance", "adaptive-importance")
METHODS = (*RESAMPLING, *CHAINS)
FILLED = 19  # fillings x' whose q(z|x') adaptive importance sampling proposes from; a twentieth part is p(z)


@dataclass(frozen=True, eq=False)
class Inpainted:
    """Images whose hidden pixels are drawn; the seen ones are as they were.

    - `draws`: `(M, N, C, H, W)`.
    - `mean`: of each hidden pixel, `(N, C, H, W)`: of p(x|z), averaged over weighted codes, or over the second half of
      all chains.
    - `effective_samples`: of the importance weights, `(N,)`; None for chains.
    - `acceptance`: share of proposals that the chains of an image accepted, `(N,)`; None where codes have weights.
    """

    draws: Tensor
    mean: Tensor
    effective_samples: Tensor | None = None
    acceptance: Tensor | None = None


def inpaint(
    model: Model,
    images: Tensor,
    seen: Tensor,
    *,
    method: str = "importance",
    draws: int = 8,
    codes: int = 500,
    steps: int = 500,
    ascent: Ascent | None = None,
    decoded_at_once: int = 2000,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Inpainted:
    r"""Draws from p(hidden pixels | seen pixels) of each image.

    .. math:: p(x_h|x_s) = \int p(x_h|z)\, p(z|x_s)\, dz

    - `importance`: codes from a q that is fitted to the seen pixels, resampled by their weights
      :math:`p(x_s|z)\, p(z) / q(z)`, and hidden pixels from p(x|z). It tends to p as the number of codes grows, if q
      reaches all of p(z|x_s).
    - `adaptive-importance`: the same without a fit, in steps of 20 codes: one from each part of the mixture
      :math:`q_t(z) = \frac1{20} \bigl(\sum_{j=1}^{19} q(z|x'_{tj}) + p(z)\bigr)` of 19 fillings x'. Codes that are
      drawn by the weights :math:`p(x_s|z)\, p(z) / q_t(z)` fill in the x' of the next step; at the end those of all
      steps are resampled. It tends to p as the number of steps grows, whatever the encoder is.
    - `pseudo-gibbs`: z from q(z|x) and hidden pixels from p(x|z), in turn. It tends to p only if q is the exact
      posterior.
    - `metropolis`: the same, but z' from q(z|x) is accepted with probability
      :math:`\min\bigl(1, \frac{p(x|z')\, p(z')\, q(z|x)}{p(x|z)\, p(z)\, q(z'|x)}\bigr)`: it tends to p whatever q is,
      after how long is another matter. Its first tenth is pseudo-Gibbs.
    - `collapsed-metropolis`: z' is from :math:`\tilde q = (1 - \epsilon)\, q(z|x') + \epsilon\, p(z)`, for an earlier
      filling x' of the chain and :math:`\epsilon = 0.05`, and accepted with probability
      :math:`\min\bigl(1, \frac{p(x_s|z')\, p(z')\, \tilde q(z)}{p(x_s|z)\, p(z)\, \tilde q(z')}\bigr)`. The present
      filling has no say: so it leaves a filling that `metropolis` would have to stay with. x' is one of at most 100
      fillings, evenly spaced over the steps, from before the present code was accepted.

    Args:
        model: with one latent site z, such as a `VAE`.
        images: `(N, C, H, W)`, floats in [0, 1]; hidden pixels are not read.
        seen: bool, of a shape that broadcasts to that of the images; :func:`~pyro_vae.uses.masks.mask_of` makes some.
        method: one of the above.
        draws: of each image, M; also the number of chains.
        codes: of each image, of both kinds of importance sampling; of the adaptive one rounded up to a multiple of 20.
        steps: of each chain.
        ascent: how q is fitted, for `importance`.
        decoded_at_once: codes in one pass of the decoder, which bounds the memory; at least the `draws` chains of an
            image are decoded at once. `collapsed-metropolis` also keeps the encoder's parameters of 100 fillings of
            each of these chains: 32 MB for 2000 chains and 20 latent dimensions.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of all draws. The global generators are as before afterwards.
        progress: a progress bar where standard error is a terminal; else a line every half minute.

    Raises:
        InputError: a model with several latent sites or without a prior density, images that it does not take, seen
            pixels outside of [0, 1], or a mask that does not fit.

    Source: pseudo-Gibbs: Rezende, Mohamed and Wierstra, 2014, appendix F, https://arxiv.org/abs/1401.4082; Metropolis:
    Mattei and Frellsen, "Leveraging the exact likelihood of deep latent variable models", 2018,
    https://arxiv.org/abs/1802.04826; collapsed Metropolis is AC-MWG, and adaptive importance sampling LAIR, of Simkus
    and Gutmann, "Conditional sampling of variational autoencoders via iterated approximate ancestral sampling", 2023,
    https://arxiv.org/abs/2308.09078

    >>> from pyro_vae import Spec, build, load_data
    >>> from pyro_vae.uses.masks import mask_of
    >>> vae, x = build(Spec(latent_dim=2)), load_data("digits").test.as_float()[:3].round()
    >>> result = inpaint(vae, x, mask_of("left", 3, (1, 8, 8)), method="metropolis", draws=4, steps=5)
    >>> result.draws.shape, bool((result.draws[..., 4:] == x[..., 4:]).all())
    (torch.Size([4, 3, 1, 8, 8]), True)
    """
    vae = check_codes(model, "inpaint")
    checks.one_of("method", method, METHODS)
    x, mask = check_images(images, seen)
    counts = {"draws": draws, "codes": codes, "steps": steps, "decoded_at_once": decoded_at_once}
    counts = {name: checks.positive_integer(name, value) for name, value in counts.items()}
    seed, ascent = checks.seed("seed", seed), ascent or Ascent()
    of_image = {"importance": ascent.particles, "adaptive-importance": FILLED + 1}.get(method, draws)
    block = max(1, min(NOISE_BLOCK, decoded_at_once // of_image))
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with evaluating_on(model, device, gradients=True) as target, torch.no_grad(), pyro.validation_enabled(False):
        x, mask = x.to(target, dtype_of(model)), mask.to(target)
        check_takes(vae, x)
        with Progress(len(x), "image", "inpainting", visible=progress) as bar:
            for index, rows in enumerate(torch.arange(len(x)).split(block)):
                of_rows = mask.expand(x.shape)[rows]
                with seeded_rng(target, stream_seed(seed, f"inpaint {index}")):
                    if method in RESAMPLING:
                        part = _resampled(vae, x[rows], of_rows, method, counts, ascent)
                    else:
                        part = run_chains(vae, x[rows], of_rows, method=method, draws=draws, steps=steps)
                parts.append(part)
                bar.update(len(rows))
    drawn, mean, measure = zip(*parts, strict=True)
    key = "effective_samples" if method in RESAMPLING else "acceptance"
    return Inpainted(torch.cat(drawn, 1), torch.cat(mean), **{key: torch.cat(measure)})


def _resampled(
    model: VAE, x: Tensor, seen: Tensor, method: str, counts: dict[str, int], ascent: Ascent
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws, mean and effective samples by importance sampling."""
    if method == "importance":
        codes = weighted_codes(
            model,
            encodable(model, x, seen),
            lambda p: log_likelihood_of_seen(p, x, seen),
            draws=counts["codes"],
            ascent=ascent,
            decoded_at_once=counts["decoded_at_once"],
        )
    else:
        codes = _adapted_codes(model, x, seen, counts["codes"])
    weights = codes.normalized()
    mean = torch.zeros_like(x)
    chunk = max(1, counts["decoded_at_once"] // len(x))
    for z, weight in zip(codes.z.split(chunk), weights.to(x).split(chunk), strict=True):
        mean += (weight[..., None, None, None] * model.decode(z).mean).sum(0)
    z = _drawn_by(weights, codes.z, counts["draws"])
    drawn = torch.cat([torch.where(seen, x, model.decode(part).sample()).cpu() for part in z.split(chunk)])
    return drawn, torch.where(seen, x, mean).cpu(), effective_sample_size(codes.log_weights)


def _adapted_codes(model: VAE, x: Tensor, seen: Tensor, at_least: int) -> WeightedCodes:
    """Codes of each image in steps of `FILLED + 1`, and their weights under the mixture of the step.

    Whatever the fillings of a step are, its weighted sums are unbiased for integrals over p(x_s|z) p(z), as one code is
    from each part of the mixture. So the weights of all steps are of one scale.
    """
    family, prior, parts = family_of(model, x), model.prior(), []
    z = prior.sample((FILLED, len(x)))
    check_anywhere(model.encode(torch.where(seen, x, 0)), z[0])
    for _ in range(math.ceil(at_least / (FILLED + 1))):
        fillings = torch.where(seen, x, model.decode(z).sample())
        q = family(parameters_of(model, fillings.flatten(0, 1)))
        z = torch.cat([q.sample().unflatten(0, (FILLED, -1)), prior.sample((1, len(x)))])  # (20, N, d)
        log_prior = prior.log_prob(z)
        log_each = q.log_prob(z.repeat(1, FILLED, 1)).unflatten(1, (FILLED, -1))  # (20, 19, N)
        log_q = torch.cat([log_each, log_prior[:, None]], 1).logsumexp(1) - math.log(FILLED + 1)
        log_weights = log_likelihood_of_seen(model.decode(z), x, seen) + log_prior - log_q
        parts.append((z, log_weights.cpu().double()))
        z = _drawn_by(log_weights.softmax(0), z, FILLED)
    return WeightedCodes(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _drawn_by(weights: Tensor, z: Tensor, count: int) -> Tensor:
    """`count` of the codes of each image, `(count, N, d)`, with probabilities `(K, N)`."""
    index = torch.multinomial(weights.T, count, replacement=True).T.to(z.device)
    return z.gather(0, index[..., None].expand(*index.shape, z.shape[-1]))


def encodable(model: VAE, x: Tensor, seen: Tensor) -> list[Tensor]:
    """Images that the encoder takes: the hidden pixels black, and as the model reconstructs that image."""
    black = torch.where(seen, x, 0)
    return [black, torch.where(seen, x, model.decode(location(model.encode(black))).mean)]


def check_images(images: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Images whose seen pixels are in [0, 1], and a mask that fits them."""
    x = checks.tensor("images", images)
    if x.dim() != 4 or 0 in x.shape or not x.is_floating_point():
        raise checks.fail("images", images, "floats in [0, 1] of shape (N, C, H, W)")
    mask = check_mask(seen, tuple(x.shape))
    check_pixels(x[mask.expand(x.shape)], "seen pixels", "floats in [0, 1]")
    return x, mask


def check_pixels(x: Tensor, what: str, expected: str) -> None:
    """Checks that `what`, pixels of the argument `images`, are in [0, 1]."""
    if not bool(x.isfinite().all()):
        raise checks.fail("images", f"NaN or infinity in {what}", expected)
    lowest, highest = x.min().item(), x.max().item()
    if lowest < 0 or highest > 1:
        raise checks.fail("images", f"{what} from {lowest:g} to {highest:g}", expected)


def check_takes(model: VAE, x: Tensor) -> None:
    """Checks that the model takes images of this shape."""
    try:
        p = model.decode(location(model.encode(torch.zeros_like(x[:1]))))
    except (RuntimeError, ValueError) as error:
        raise checks.fail("images", x, f"images that the model's encoder takes ({error})") from error
    if p.event_shape != x.shape[1:]:
        raise checks.fail("images", x, f"{tuple(p.event_shape)}, the shape that the decoder puts out")
    independent_pixels(p)
