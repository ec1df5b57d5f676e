"""How probable the hidden pixels of images are, given those that are seen."""

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
from pyro_vae.uses.code_posterior import Ascent, check_anywhere, check_codes, fitted
from pyro_vae.uses.inpaint import check_images, check_pixels, check_takes, encodable
from pyro_vae.uses.masks import log_likelihood_of_seen


@dataclass(frozen=True, eq=False)
class LogScore:
    """log p(hidden pixels | seen pixels) of each image, float64 on the CPU, `(N,)`; larger is better.

    - `nats`: the estimate.
    - `mcse_nats`: its Monte Carlo standard error; far too small where there are only one or two effective samples.
    - `effective_samples`: of the importance weights, for the seen pixels or for the whole image, whichever are fewer.
    """

    nats: Tensor
    mcse_nats: Tensor
    effective_samples: Tensor


def log_score(
    model: Model,
    images: Tensor,
    seen: Tensor,
    *,
    codes: int = 500,
    ascent: Ascent | None = None,
    decoded_at_once: int = 2000,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = False,
) -> LogScore:
    r"""log p(hidden pixels | seen pixels) of each image, by importance sampling.

    .. math:: \log p(x_h|x_s) = \log \frac{p(x)}{p(x_s)} \approx \log \sum_k \bar w_k\, p(x_h|z_k), \qquad
              \bar w_k \propto \frac{p(x_s|z_k)\, p(z_k)}{\frac{K_s}K q_s(z_k) + \frac{K_x}K q_x(z_k)}

    Half of the codes (of an odd number one more), :math:`K_s`, are from a q that is fitted to the seen pixels, and the
    other :math:`K_x` from one that is fitted to the whole image; both integrals are estimated by all of them. So no
    mode counts for p(x) that is missing in p(x_s), and the score of pixels that have probabilities is never above 0. A
    mode of :math:`p(z|x_s)` far from both is missing in p(x_s) alone: the score is then too large, and neither the
    error nor the effective samples tell.

    The Monte Carlo error is by the delta method, with :math:`\bar v_k` the normalized weights
    :math:`\bar w_k\, p(x_h|z_k)`:

    .. math:: \mathrm{SE} \approx \Bigl(\sum_k (\bar v_k - \bar w_k)^2\Bigr)^{1/2}

    It means nothing where there is about one effective sample: if one code has nearly all of both weights, it tends to
    0, however wrong the score is.

    Args:
        model: with one latent site z, such as a `VAE`, whose posterior has a density at any code.
        images: `(N, C, H, W)`, floats in [0, 1].
        seen: bool, of a shape that broadcasts to that of the images.
        codes: of each image, K, at least 2.
        ascent: how each q is fitted.
        decoded_at_once: codes in one pass of the decoder, which bounds the memory.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of all draws. The global generators are as before afterwards.
        progress: a progress bar where standard error is a terminal; else a line every half minute.

    Raises:
        InputError: a model with several latent sites or without a prior density, a flow without an inverse, images that
            the model does not take, pixels outside of [0, 1], or a mask that does not fit.

    Source: the mixture of both q: Veach and Guibas, "Optimally combining sampling techniques for Monte Carlo
    rendering", 1995, https://doi.org/10.1145/218380.218498; the error: Owen, "Monte Carlo theory, methods and
    examples", 2013, section 9.2, https://artowen.su.domains/mc/

    >>> from pyro_vae import Spec, build, load_data
    >>> from pyro_vae.uses.masks import mask_of
    >>> vae, x = build(Spec(latent_dim=2)), load_data("digits").test.as_float()[:3].round()
    >>> score = log_score(vae, x, mask_of("top", 3, (1, 8, 8)), codes=50, ascent=Ascent(steps=5))
    >>> score.nats.shape, bool((score.nats < 0).all())
    (torch.Size([3]), True)
    """
    vae = check_codes(model, "log_score")
    x, mask = check_images(images, seen)
    check_pixels(x, "pixels", "floats in [0, 1]: the score is of the hidden pixels' values")
    codes = checks.positive_integer("codes", codes)
    if codes < 2:
        raise checks.fail("codes", codes, "a whole number of at least 2: one from each q")
    at_once = checks.positive_integer("decoded_at_once", decoded_at_once)
    seed, ascent = checks.seed("seed", seed), ascent or Ascent()
    block = max(1, min(NOISE_BLOCK, at_once // ascent.particles))
    parts = []
    with evaluating_on(model, device, gradients=True) as target, torch.no_grad(), pyro.validation_enabled(False):
        x, mask = x.to(target, dtype_of(model)), mask.to(target).expand(x.shape)
        check_takes(vae, x)
        check_anywhere(vae.encode(x[:1]), x.new_zeros(1, *vae.prior().event_shape))
        with Progress(len(x), "image", "scoring", visible=progress) as bar:
            for index, rows in enumerate(torch.arange(len(x)).split(block)):
                with seeded_rng(target, stream_seed(seed, f"log score {index}")):
                    parts.append(_log_weights(vae, x[rows], mask[rows], codes, ascent, at_once))
                bar.update(len(rows))
    of_seen, of_hidden = (torch.cat(columns, 1) for columns in zip(*parts, strict=True))
    of_image = of_seen + of_hidden
    return LogScore(
        nats=of_image.logsumexp(0) - of_seen.logsumexp(0),
        mcse_nats=(of_image.softmax(0) - of_seen.softmax(0)).square().sum(0).sqrt(),
        effective_samples=torch.minimum(effective_sample_size(of_seen), effective_sample_size(of_image)),
    )


def _log_weights(
    model: VAE, x: Tensor, seen: Tensor, codes: int, ascent: Ascent, at_once: int
) -> tuple[Tensor, Tensor]:
    """log p(x_s|z) + log p(z) - log q(z), and log p(x_h|z), of codes z of the mixture q, `(K, N)` each."""
    of_seen = fitted(model, encodable(model, x, seen), lambda p: log_likelihood_of_seen(p, x, seen), ascent)
    of_image = fitted(model, [x], lambda p: p.log_prob(x), ascent)
    chunk = max(1, at_once // len(x))
    rows: list[tuple[Tensor, Tensor]] = []
    mixture = ((of_seen, codes - codes // 2), (of_image, codes // 2))
    for q, count in mixture:
        for start in range(0, count, chunk):
            z = q.sample((min(chunk, count - start),))
            log_q = torch.stack([math.log(n / codes) + each.log_prob(z) for each, n in mixture]).logsumexp(0)
            p = model.decode(z)
            seen_part = log_likelihood_of_seen(p, x, seen) + model.prior().log_prob(z) - log_q
            rows.append((seen_part.cpu().double(), log_likelihood_of_seen(p, x, ~seen).cpu().double()))
    log_weights, hidden = (torch.cat(columns) for columns in zip(*rows, strict=True))
    return log_weights, hidden
