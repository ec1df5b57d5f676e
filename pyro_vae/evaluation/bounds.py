"""Reconstruction, KL and ELBO on a data set: always at beta = 1, whatever beta the model was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae._utils import checks
from pyro_vae._utils.progress import track
from pyro_vae._utils.rng import NOISE_BLOCK, seeded_rng, stream_seed
from pyro_vae.data import Images
from pyro_vae.evaluation.loop import Evaluation, evaluation_of
from pyro_vae.models import Model, check_evaluable
from pyro_vae.path_gradient import is_delta
from pyro_vae.posteriors import location
from pyro_vae.programs.densities import Densities, groups_lacking
from pyro_vae.programs.draws import squared_error

_OF_SITE = "kl_of_"


@dataclass(frozen=True)
class Bounds:
    r"""Means over a data set, with standard errors over its images.

    A quantity that the model does not have is None: a deterministic autoencoder has no KL term.

    - `mse_per_pixel`: mean of :math:`(x - \hat x)^2` over the pixels that log p(x|z) is of, in [0, 1], :math:`\hat x`
      decoded from the posterior's :func:`~pyro_vae.posteriors.location` (its mean, where it is known). Of most models
      these are all pixels, and times C H W it is the summed squared error. Of a model that is given some quadrants they
      are the others; of images with holes (:class:`~pyro_vae.models.miwae.MIWAE`) the seen pixels of each image, and
      the mean is over these and then over images.
    - `mse_per_pixel_sampled`: the same, decoded from samples of the posterior.
    - `kl_per_sample`: :math:`\mathrm{KL}(q(z|x) \| p(z))`, nats per image; in closed form where there is one
      (`kl_is_exact`), else the Monte Carlo mean of :math:`\log q(z|x) - \log p(z)`. For flows z is the *last*
      :math:`z_K`, in both terms, so it is not negative in expectation.
    - `kl_prior_at_start`: flows only, and not a KL: :math:`\mathrm{KL}(q_0 \| p) - \mathbb E \sum_l \log |\det J_l|`,
      with the prior at the *first* :math:`z_0`, as some reports compute it. It can be below 0; it is here only to
      stand beside theirs.
    - `kl_by_site`: the part of each latent site of a pair that is evaluated by its traces; they add up to
      `kl_per_sample`, which is Monte Carlo then. The part of a site that is enumerated is exact given the others.
    - `reconstruction_nats`: :math:`-\mathbb E_{q(z|x)} \log p(x|z)`, Monte Carlo. For a density it can be negative.
    - `elbo_nats`: `-(reconstruction_nats + kl_per_sample)`, a lower bound on the mean :math:`\log p(x)`, where x is
      what the likelihood is a density of.
    - `per_image`: the values that these are means of, float64 tensors `(n,)` on the CPU in the order of the images, by
      the name of their mean; see :func:`~pyro_vae.evaluation.compare`.
    """

    n: int
    samples: int
    mse_per_pixel: float
    reconstruction_nats: float
    mse_per_pixel_sampled: float | None = None
    reconstruction_se: float | None = None
    kl_per_sample: float | None = None
    kl_se: float | None = None
    kl_is_exact: bool | None = None
    kl_prior_at_start: float | None = None
    kl_by_site: Mapping[str, float] | None = None
    elbo_nats: float | None = None
    elbo_se: float | None = None
    per_image: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)


def mse_per_pixel(x: Tensor, reconstruction: Tensor) -> float:
    """Mean squared error over images, channels and pixels, in float64.

    >>> mse_per_pixel(torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 0.5))
    0.25
    """
    x, reconstruction = checks.tensor("x", x), checks.tensor("reconstruction", reconstruction)
    if x.shape != reconstruction.shape:
        raise checks.fail("reconstruction", tuple(reconstruction.shape), f"the shape of x, {tuple(x.shape)}")
    return (x.cpu().double() - reconstruction.cpu().double()).square().mean().item()


def kl_per_image(q: dist.TorchDistribution, p: dist.TorchDistribution, z: Tensor) -> tuple[Tensor, bool]:
    r"""KL(q || p) in nats for each element of q's batch, and whether it is exact.

    In closed form where torch has one for the pair, else :math:`\log q(z) - \log p(z)` averaged over z of shape
    `(samples, *batch, d)`, drawn from q.

    >>> q = dist.Normal(torch.ones(5, 3), 1.0).to_event(1)
    >>> p = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    >>> kl_per_image(q, p, q.sample((1,)))[0]  # 1/2 for each dimension
    tensor([1.5000, 1.5000, 1.5000, 1.5000, 1.5000])
    """
    for name, argument in (("q", q), ("p", p)):
        if not isinstance(argument, torch.distributions.Distribution):
            raise checks.fail(name, argument, "a distribution")
    try:
        return kl_divergence(q, p), True  # (eq. 3.3)
    except NotImplementedError:
        return (q.log_prob(z) - p.log_prob(z)).mean(0), False  # (eq. 3.4); of flows (eq. 9.6)


def kl_per_dimension(q: dist.TorchDistribution, p: dist.TorchDistribution) -> Tensor:
    """KL(q || p) of each latent dimension, averaged over q's batch, nats, `(d,)`; for q and p that factorize.

    >>> q = dist.Normal(torch.tensor([[0.0, 1.0]]), 1.0).to_event(1)
    >>> kl_per_dimension(q, dist.Normal(torch.zeros(2), 1.0).to_event(1))
    tensor([0.0000, 0.5000], dtype=torch.float64)
    """
    for name, argument in (("q", q), ("p", p)):
        if not isinstance(argument, torch.distributions.Independent):
            raise checks.fail(name, type(argument).__name__, "a distribution of independent dimensions")
    values = torch.distributions.kl_divergence(q.base_dist, p.base_dist).detach().cpu().double()
    return values.reshape(-1, values.shape[-1]).mean(0)


def bounds(
    model: Model,
    images: Images,
    *,
    binarization: str | None = None,
    dequantize: bool | None = None,
    samples: int = 1,
    batch_size: int = 500,
    device: str | torch.device = "auto",
    seed: int = 0,
    progress: bool = False,
) -> Bounds:
    """Reconstruction error, KL and ELBO of `model` on `images`; nothing is trained.

    Args:
        model: a `VAE`, or another pair of programs (see :class:`~pyro_vae.programs.traces.Traces`); afterwards it is on
            its device and in its training mode as before.
        images: the images to evaluate on; means are over images, so batches of unequal length weigh as they should.
        binarization: as in training, by default what the model's spec says; `dynamic` is `static` here: each image is
            drawn once, the same for all models.
        dequantize: as in training, by default what the model's spec says; the noise of each image is drawn once, the
            same for all models (:func:`pyro_vae.data.dequantize`).
        samples: posterior samples per image for the Monte Carlo parts.
        batch_size: images decoded at a time, up to the 100 that are encoded, and whose noise is drawn, together. It
            bounds the memory, and changes the result by rounding only; that of a pair that is evaluated by its traces
            through the noise as well.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        seed: of the posterior samples. The global generators are as before afterwards.
        progress: a progress bar where standard error is a terminal; else a line every half minute.

    >>> from pyro_vae import Spec, build, load_data
    >>> result = bounds(build(Spec(latent_dim=2)), load_data("digits").test, binarization="threshold")
    >>> result.n, result.kl_is_exact
    (359, True)
    """
    check_evaluable(model)
    samples = checks.positive_integer("samples", samples)
    seed = checks.seed("seed", seed)
    batch_size = checks.positive_integer("batch_size", batch_size)
    with evaluation_of(
        model, images, "bounds", binarization=binarization, dequantize=dequantize, device=device
    ) as evaluation:
        return bounds_of(evaluation, samples=samples, batch_size=batch_size, seed=seed, progress=progress)


def bounds_of(evaluation: Evaluation, *, samples: int, batch_size: int, seed: int, progress: bool) -> Bounds:
    """:func:`bounds` of input that was checked."""
    _check_scored(evaluation)
    parts: dict[str, list[Tensor]] = {}
    kl_is_exact = None
    steps = -(-len(evaluation.images) // NOISE_BLOCK)
    batches = track(evaluation.batches(NOISE_BLOCK), steps, "batch", "ELBO", visible=progress)
    for block, (x, densities) in enumerate(batches):
        with seeded_rng(evaluation.device, stream_seed(seed, f"bounds {block}")):
            values, kl_is_exact = _terms(densities, x, samples, batch_size)
        for name, value in values.items():
            parts.setdefault(name, []).append(value.cpu().double())
    columns = {name: torch.cat(values) for name, values in parts.items()}
    if "kl_per_sample" in columns:
        columns["elbo_nats"] = -(columns["reconstruction_nats"] + columns["kl_per_sample"])
    by_site = {name: columns.pop(name) for name in list(columns) if name.startswith(_OF_SITE)}
    mean = {name: column.mean().item() for name, column in columns.items()}
    error = {name: standard_error(column) for name, column in columns.items()}
    return Bounds(
        n=len(evaluation.images),
        samples=samples,
        reconstruction_se=error["reconstruction_nats"],
        kl_se=error.get("kl_per_sample"),
        kl_is_exact=kl_is_exact,
        kl_by_site={name.removeprefix(_OF_SITE): each.mean().item() for name, each in by_site.items()} or None,
        elbo_se=error.get("elbo_nats"),
        per_image=columns,
        **mean,
    )


def _terms(densities: Densities, x: Tensor, samples: int, batch_size: int) -> tuple[dict[str, Tensor], bool | None]:
    """Each term for each image, shape `(N,)`, by the name of its mean."""
    if not densities.has_parts:
        return _traced_terms(densities, x, samples, batch_size), False
    q = densities.encode(x)
    error, log_likelihood = _decoded(densities, location(q), x, batch_size)
    values = {"mse_per_pixel": error}
    if is_delta(q) or "evidence" in groups_lacking(densities.model):  # no density of z, and so no KL
        return values | {"reconstruction_nats": -log_likelihood}, None
    p = densities.prior()
    total: dict[str, Tensor] = {}
    for _ in range(samples):  # one at a time, so that memory does not grow with their number
        z = q.rsample((1,))
        error, log_likelihood = _decoded(densities, z[0], x, batch_size)
        kl, exact = kl_per_image(q, p, z)
        parts = {"mse_per_pixel_sampled": error, "reconstruction_nats": -log_likelihood, "kl_per_sample": kl}
        if isinstance(q, torch.distributions.TransformedDistribution):
            with suppress(NotImplementedError):  # a prior to which the base has no closed KL
                parts["kl_prior_at_start"] = _kl_with_prior_at_start(q, p, z)
        total = {name: total.get(name, 0) + part / samples for name, part in parts.items()}
    return values | total, exact


def _traced_terms(densities: Densities, x: Tensor, samples: int, batch_size: int) -> dict[str, Tensor]:
    """As :func:`_terms`, of a pair with any latent sites; `kl_of_` and its name is the term of each."""
    parts = []
    for start in range(0, len(x), batch_size):
        rows = slice(start, start + batch_size)
        parts.append(_traced_rows(densities.rows(rows), x[rows], samples))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _traced_rows(densities: Densities, x: Tensor, samples: int) -> dict[str, Tensor]:
    traces, scored = densities.traces, densities.scored
    values = {"mse_per_pixel": squared_error(x, traces.reconstruct(x), scored)}
    total: dict[str, Tensor] = {}
    for _ in range(samples):
        draws = traces.draws(x, 1)
        parts = {"reconstruction_nats": draws.reconstruction()[0]}
        sampled = draws.squared_error(x, scored)
        if sampled is not None:
            parts["mse_per_pixel_sampled"] = sampled[0]
        if draws.has_density:
            by_site = {f"{_OF_SITE}{name}": kl[0] for name, kl in draws.kl().items()}
            parts |= by_site | {"kl_per_sample": sum(by_site.values(), x.new_zeros(len(x)))}
        total = {name: total.get(name, 0) + part / samples for name, part in parts.items()}
    return values | total


def _decoded(densities: Densities, z: Tensor, x: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """The squared error per pixel and log p(x|z) of each image, `(N,)`; `batch_size` of them are decoded at a time."""
    parts = []
    for start in range(0, len(x), batch_size):
        rows = slice(start, start + batch_size)
        of_rows = densities.rows(rows)
        p_x = of_rows.decode(z[rows])
        error = squared_error(x[rows], p_x.mean, of_rows.scored)
        parts.append(torch.stack([error, p_x.log_prob(x[rows])]))
    error, log_likelihood = torch.cat(parts, 1)
    return error, log_likelihood


def _kl_with_prior_at_start(
    q: torch.distributions.TransformedDistribution, p: dist.TorchDistribution, z: Tensor
) -> Tensor:
    """KL(q_0 || p) - E sum log|det J|, where that sum is log q_0(z_0) - log q(z_K)."""
    return kl_divergence(q.base_dist, p) + q.log_prob(z).mean(0) + q.base_dist.entropy()


def _check_scored(evaluation: Evaluation) -> None:
    """An image of which no pixel is seen has no mean over its seen pixels."""
    if evaluation.seen is None:
        return
    without = (~evaluation.seen.bool().flatten(1).any(1)).nonzero().flatten()
    if len(without):
        raise checks.fail("images", f"no seen pixel in image {without[0]}", "at least one seen pixel in each image")


def standard_error(column: Tensor) -> float | None:
    """Of the mean; None for a single image, whose spread is unknown."""
    return column.std().item() / len(column) ** 0.5 if len(column) > 1 else None
