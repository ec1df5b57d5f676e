"""Outlier scores, one number for each image: the higher, the more outlying; and which pixels are to blame."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.progress import track
from pyro_vae._utils.rng import NOISE_BLOCK, seeded_rng, stream_seed
from pyro_vae.data import Images
from pyro_vae.data.images import is_binary
from pyro_vae.evaluation.bounds import bounds
from pyro_vae.evaluation.likelihood.evidence import evidence
from pyro_vae.evaluation.likelihood.inference_gap import inference_gap
from pyro_vae.evaluation.loop import evaluation_of
from pyro_vae.models import VAE, Model, check_evaluable
from pyro_vae.models.base import check_set
from pyro_vae.programs.densities import Densities
from pyro_vae.programs.traces import Traces


def negative_elbo(model: Model, images: Images, *, samples: int = 8, **options: Any) -> Tensor:
    r"""Minus the ELBO of each image, nats, float64 `(N,)`: an upper bound on -log p(x).

    Args:
        model: a model with an ELBO; an autoencoder has none.
        images: to score.
        samples: draws from q(z|x) per image.
        options: further arguments of :func:`~pyro_vae.evaluation.bounds`, such as `binarization`, `seed`, `progress`.

    >>> from pyro_vae import Spec, build, load_data
    >>> negative_elbo(build(Spec(latent_dim=2)), load_data("digits").test, binarization="threshold").shape
    torch.Size([359])
    """
    per_image = bounds(model, images, samples=samples, **options).per_image
    if "elbo_nats" not in per_image:
        raise checks.fail("model", type(model).__name__, "a model with an ELBO")
    return -per_image["elbo_nats"]


def negative_log_likelihood(model: Model, images: Images, *, k: int = 500, **options: Any) -> Tensor:
    r"""-log p(x) of each image by importance sampling, nats, float64 `(N,)`.

    .. math:: -\log \frac1K \sum_k \frac{p(x, z_k)}{q(z_k|x)}, \qquad z_k \sim q(z|x)

    An outlier's posterior is often one that the encoder misses: with few samples its score is far too high, which
    helps to detect it, but is no likelihood.

    Args:
        model: a model whose guide has a density.
        images: to score.
        k: samples per image.
        options: further arguments of :func:`~pyro_vae.evaluation.evidence`, such as `binarization`, `seed`, `progress`.

    >>> from pyro_vae import Spec, build, load_data
    >>> some = load_data("digits").test.take(slice(0, 10))
    >>> negative_log_likelihood(build(Spec(latent_dim=2)), some, k=10, binarization="threshold").shape
    torch.Size([10])
    """
    return -evidence(model, images, k=k, **options).log_likelihood


def reconstruction_error(model: Model, images: Images, *, samples: int = 8, **options: Any) -> Tensor:
    r"""The reconstruction term :math:`-\mathbb E_{q(z|x)} \log p(x|z)` of each image, nats, float64 `(N,)`.

    Arguments as of :func:`negative_elbo`; an autoencoder has it, too.

    >>> from pyro_vae import Spec, build, load_data
    >>> autoencoder = build(Spec(model="autoencoder", latent_dim=2))
    >>> reconstruction_error(autoencoder, load_data("digits").test, binarization="threshold").shape
    torch.Size([359])
    """
    return bounds(model, images, samples=samples, **options).per_image["reconstruction_nats"]


def likelihood_regret(
    model: VAE,
    images: Images,
    *,
    particles: int = 2,
    lr: float = 0.02,
    tolerance_nats: float = 0.1,
    samples: int = 64,
    **options: Any,
) -> Tensor:
    r"""By how much the ELBO of each image rises when q is fitted to that image alone, nats, float64 `(N,)`, at least 0.

    .. math:: \max_{q \in \mathcal Q} \mathcal L(x; q) - \mathcal L(x; q_\phi)

    The decoder stays as it is; only the parameters of q, which the encoder has put out, ascend. The maximum is that of
    :func:`~pyro_vae.evaluation.inference_gap`, whose amortization gap this is, with settings for a score: differences
    between images are many nats. It is scored with other draws than those that chose q, so that values near 0 may be
    slightly below it.

    Args:
        model: a `VAE`: the parameters of q are those of its `posterior`.
        images: to score.
        particles: draws per image and step of the ascent.
        lr: of the ascent.
        tolerance_nats: gain per image that a round of the ascent must exceed to be followed by another.
        samples: draws per image by which an ELBO is estimated.
        options: further arguments of :func:`~pyro_vae.evaluation.inference_gap`.

    Source: Xiao, Yan and Amit, "Likelihood regret", 2020, https://arxiv.org/abs/2003.02977

    >>> from pyro_vae import Spec, build, load_data
    >>> some = load_data("digits").test.take(slice(0, 10))
    >>> regret = likelihood_regret(build(Spec(latent_dim=2)), some, binarization="threshold", steps=20)
    >>> regret.shape
    torch.Size([10])
    """
    # log p(x) is not used: one sample of it is the least that can be drawn.
    settings: dict[str, Any] = {"particles": particles, "lr": lr, "tolerance_nats": tolerance_nats, "samples": samples}
    gap = inference_gap(model, images, **settings, k=1, **options)
    return gap.per_image["amortization_gap_nats"]


def likelihood_ratio(nll_nats: Tensor, background_nll_nats: Tensor) -> Tensor:
    r"""Minus the log-likelihood ratio of a model to a background model, nats, `(N,)`.

    .. math:: -\log \frac{p(x)}{p_{\text{background}}(x)}

    What both models know, such as how smooth images are, cancels. The background is a model of the same kind, trained
    on images of :func:`perturbed`; the same binarization and likelihood for both.

    Args:
        nll_nats: -log p(x) of each image, or an upper bound such as -ELBO, `(N,)`.
        background_nll_nats: the same under the background model.

    Source: Ren et al., "Likelihood ratios for out-of-distribution detection", 2019, https://arxiv.org/abs/1906.02845

    >>> likelihood_ratio(torch.tensor([100.0, 90.0]), torch.tensor([130.0, 95.0]))
    tensor([-30.,  -5.], dtype=torch.float64)
    """
    nll, background = scores("nll_nats", nll_nats), scores("background_nll_nats", background_nll_nats)
    if nll.shape != background.shape:
        raise checks.fail("background_nll_nats", background_nll_nats, f"a value for each of {len(nll)} images")
    return nll - background


def perturbed(images: Images, rate: float = 0.2, seed: int = 0) -> Images:
    """The images, each pixel replaced with probability `rate` by a grey level from 0 to 255, all equally likely.

    A background model for :func:`likelihood_ratio` is trained on these. Ren et al. choose the rate, from 0.1 to 0.3, by
    a second set of outliers.

    >>> images = Images(torch.zeros(1, 1, 100, 100, dtype=torch.uint8))
    >>> round((perturbed(images, 0.5).pixels > 0).double().mean().item(), 1)
    0.5
    """
    check_set("images", images)
    if checks.non_negative("rate", rate) > 1:
        raise checks.fail("rate", rate, "a probability")
    generator = torch.Generator().manual_seed(checks.seed("seed", seed))
    pixels = images.pixels.cpu()
    replaced = torch.rand(pixels.shape, generator=generator) < rate
    levels = torch.randint(0, 256, pixels.shape, dtype=torch.uint8, generator=generator)
    labels, covariates, names = images.labels, images.covariates, images.class_names
    return Images(torch.where(replaced, levels, pixels), labels, f"{images.name}, perturbed", names, covariates)


def png_bits(images: Images) -> Tensor:
    """The size of each image as a PNG file, in bits, float64 `(N,)`; black and white images have one bit per pixel.

    >>> flat = Images(torch.zeros(1, 1, 32, 32, dtype=torch.uint8))
    >>> (png_bits(perturbed(flat, 1.0)) > 8 * png_bits(flat)).item()  # noise can't be compressed
    True
    """
    check_set("images", images)
    if images.shape[0] not in (1, 3):
        raise checks.fail("images", f"{images.shape[0]} channels", "1 or 3, as a PNG file has")
    mode = "RGB" if images.shape[0] == 3 else "1" if is_binary(images.pixels) else "L"
    sizes = []
    for pixels in images.pixels.cpu().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)).convert(
            mode
        ).save(file, "png", optimize=True)
        sizes.append(8 * len(file.getvalue()))
    return torch.tensor(sizes, dtype=torch.float64)


def input_complexity(nll_nats: Tensor, images: Images) -> Tensor:
    r"""How many bits more than a PNG file a code by the model takes for each image, float64 `(N,)`.

    .. math:: -\log_2 p(x) - L_{\text{PNG}}(x)

    Simple images have a high likelihood under almost any model, and a short file. The header of the file shifts all
    values alike, and so does the width of a level, of a density: ranks are those of the equation.

    Args:
        nll_nats: -log p(x) of each image, or an upper bound such as -ELBO, `(N,)`.
        images: as the model is evaluated on them: binarized, where it is.

    Source: Serra et al., "Input complexity and out-of-distribution detection", 2020, https://arxiv.org/abs/1909.11480

    >>> images = Images(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    >>> bits = input_complexity(torch.tensor([0.0, math.log(2)]), images)
    >>> round((bits[1] - bits[0]).item(), 6)
    1.0
    """
    nll = scores("nll_nats", nll_nats)
    check_set("images", images)
    if len(nll) != len(images):
        raise checks.fail("nll_nats", nll_nats, f"a value for each of {len(images)} images")
    return nll / math.log(2) - png_bits(images)


def waic(nll_nats: Tensor) -> Tensor:
    r"""The variance of log p(x) over models minus its mean, float64 `(N,)`.

    .. math:: \mathrm{Var}_\theta \log p_\theta(x) - \mathbb E_\theta \log p_\theta(x)

    Models that differ in their seed alone agree where they have seen data, and may differ elsewhere. The variance is
    that over the models at hand (ddof = 0), in squared nats beside nats.

    Args:
        nll_nats: -log p(x) of N images under S models, `(S, N)`, S of at least 2; see :func:`pyro_vae.fit_many`.

    Source: Choi, Jang and Alemi, "WAIC, but why?", 2018, https://arxiv.org/abs/1810.01392

    >>> waic(torch.tensor([[100.0, 100.0], [100.0, 104.0]]))
    tensor([100., 106.], dtype=torch.float64)
    """
    nll = checks.matrix("nll_nats", nll_nats).double()
    if len(nll) < 2:
        raise checks.fail("nll_nats", f"{len(nll)} model", "at least 2, for a variance over models")
    scores("nll_nats", nll.flatten())
    return nll.var(0, correction=0) + nll.mean(0)


def typicality(nll_nats: Tensor, held_out_nll_nats: Tensor) -> Tensor:
    r"""How far -log p(x) is from its mean over held-out images, in either direction, nats, float64 `(N,)`.

    .. math:: \bigl| -\log p(x) - \bar H \bigr|

    Images of too high a likelihood are outliers, too: draws of a distribution in many dimensions have a log-density
    near minus its entropy, not near its maximum.

    Source: Nalisnick et al., "Detecting out-of-distribution inputs to deep generative models using typicality", 2019,
    https://arxiv.org/abs/1906.02994

    >>> typicality(torch.tensor([80.0, 100.0, 130.0]), torch.tensor([90.0, 110.0]))
    tensor([20.,  0., 30.], dtype=torch.float64)
    """
    return (scores("nll_nats", nll_nats) - scores("held_out_nll_nats", held_out_nll_nats).mean()).abs()


def code_distance(codes: Tensor, training_codes: Tensor) -> Tensor:
    r"""The Mahalanobis distance of codes `(N, d)` to a normal distribution fitted to training codes, float64 `(N,)`.

    .. math:: \sqrt{(c - m)^\top S^+ (c - m)}

    m and S are the mean and covariance of the training codes, without regard to classes. Directions in which
    they do not vary, such as collapsed dimensions, have no distance.

    Args:
        codes: of the images to score, such as :func:`pyro_vae.latent.codes` gives.
        training_codes: `(M, d)`, M of at least 2.

    Source: Lee et al., "A simple unified framework for detecting out-of-distribution samples", 2018,
    https://arxiv.org/abs/1807.03888, with one class

    >>> code_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[-1.0], [1.0]]))  # variance 2
    tensor([0.0000, 1.4142], dtype=torch.float64)
    """
    codes, training = checks.matrix("codes", codes).double(), checks.matrix("training_codes", training_codes).double()
    if codes.shape[1] != training.shape[1] or len(training) < 2:
        raise checks.fail("training_codes", training_codes, f"at least 2 codes of {codes.shape[1]} dimensions")
    scores("codes", codes.flatten()), scores("training_codes", training.flatten())
    variances, directions = torch.linalg.eigh(training.T.cov().reshape(training.shape[1], -1))
    # A standard deviation of a thousandth of the largest is the noise of a collapsed dimension.
    varies = variances > 1e-6 * variances.amax().clamp(min=torch.finfo(torch.float64).tiny)
    projected = (codes - training.mean(0)) @ directions[:, varies] / variances[varies].sqrt()
    return projected.square().sum(1).sqrt()


def pixel_terms(
    model: Model,
    images: Images,
    *,
    samples: int = 8,
    binarization: str | None = None,
    dequantize: bool | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    r"""Which pixels make an image outlying: :math:`-\mathbb E_{q(z|x)} \log p(x_i|z)` of each, nats, `(N, C, H, W)`.

    They add up to :func:`reconstruction_error`. The KL term, the rest of the ELBO, belongs to no pixel.

    Args:
        model: a model whose likelihood is a product over pixels.
        images: to explain.
        samples: draws from q(z|x) per image.
        binarization: as in training, by default what the model's spec says.
        dequantize: as in training, by default what the model's spec says.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of the draws. The global generators are as before afterwards.
        progress: a progress bar where standard error is a terminal; else a line every half minute.

    Raises:
        InputError: p(x|z) does not factorize over pixels, or the model has enumerated sites, whose values share it.

    >>> from pyro_vae import Spec, build, load_data
    >>> some = load_data("digits").test.take(slice(0, 10))
    >>> pixel_terms(build(Spec(latent_dim=2)), some, binarization="threshold").shape
    torch.Size([10, 1, 8, 8])
    """
    check_evaluable(model)
    samples, seed = checks.positive_integer("samples", samples), checks.seed("seed", seed)
    maps = []
    with evaluation_of(
        model, images, "pixel_terms", binarization=binarization, dequantize=dequantize, device=device
    ) as evaluation:
        steps = -(-len(images) // NOISE_BLOCK)
        batches = track(evaluation.batches(NOISE_BLOCK), steps, "batch", "pixels", visible=progress)
        for block, (x, densities) in enumerate(batches):
            with seeded_rng(evaluation.device, stream_seed(seed, f"pixel terms {block}")):
                drawn = [_log_prob_by_pixel(densities, x).cpu().double() for _ in range(samples)]
            maps.append(-torch.stack(drawn).mean(0))
    return torch.cat(maps)


def _log_prob_by_pixel(densities: Densities, x: Tensor) -> Tensor:
    """log p(x_i|z) for one draw of z, of the shape of x."""
    if densities.has_parts:
        p: Any = densities.decode(densities.encode(x).sample())
    else:
        p = _traced_density(densities.traces, x)
    base = p.base_dist if isinstance(p, torch.distributions.Independent) else None
    terms = None if base is None else base.log_prob(x)
    if terms is None or terms.shape != x.shape:
        raise checks.fail("model", type(densities.model).__name__, "a model whose p(x|z) is a product over pixels")
    return terms


def _traced_density(traces: Traces, x: Tensor) -> Any:
    """p(x|z) of the site `x` for one draw of z; None where sites are enumerated, or another site has the images."""
    draws = traces.draws(x, 1)
    if draws.sizes:
        return None
    nodes = traces.model_at(x, {name: value[0] for name, value in draws.cases[0].values.items()}).nodes
    return nodes["x"]["fn"] if "x" in nodes else None


def scores(argument: str, value: Any) -> Tensor:
    """`value` as finite numbers, float64 `(N,)`, on the CPU."""
    tensor = checks.tensor(argument, value).cpu()
    if tensor.dim() != 1 or not len(tensor) or tensor.is_complex():
        raise checks.fail(argument, value, "a number for each image, shape (N,)")
    if not bool(tensor.double().isfinite().all()):
        raise checks.fail(argument, "NaN or infinity", "finite numbers")
    return tensor.double()
