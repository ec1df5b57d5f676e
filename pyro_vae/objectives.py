"""Which bound is trained, the parts of its last estimate, and how beta rises."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from pyro.infer import (
    ELBO,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    JitTraceGraph_ELBO,
    JitTraceMeanField_ELBO,
    RenyiELBO,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae._utils import checks
from pyro_vae._utils.rng import preserved_rng
from pyro_vae.data import Images
from pyro_vae.models import VAE
from pyro_vae.models.base import device_of, evaluating, first_of
from pyro_vae.path_gradient import DReGIWAE, PathGradientELBO, is_delta, takes_path_gradient
from pyro_vae.spec import OBJECTIVES, WITH_ONE_PARTICLE, automatic_objective

# Pyro's objectives that estimate from traces, and the ones that compile those away.
TRACED = (Trace_ELBO, TraceMeanField_ELBO, RenyiELBO, TraceGraph_ELBO, TraceEnum_ELBO)
JITTED = (JitTrace_ELBO, JitTraceMeanField_ELBO, JitTraceGraph_ELBO, JitTraceEnum_ELBO)


def objective(name: str, particles: int = 1) -> ELBO:
    r"""An objective by name; what `auto` stands for tells :func:`resolved`.

    - `elbo`: `Trace_ELBO`, with the KL term as a sample average of log q(z|x) - log p(z); for every posterior.
    - `mean-field`: `TraceMeanField_ELBO`, with the KL term in closed form; less noise, for posteriors that have one.
    - `path-gradient`: :class:`~pyro_vae.path_gradient.PathGradientELBO`, the value of `elbo`, and its gradient without
      the score of q; for every posterior whose support stays where it is.
    - `iwae`: `RenyiELBO` at alpha = 0, the importance-weighted bound with k = `particles`,
      :math:`\mathbb E \log \frac1k \sum_i p(x, z_i) / q(z_i|x)`, with z drawn from q.
    - `iwae-dreg`: :class:`~pyro_vae.path_gradient.DReGIWAE`, the value of `iwae`, and a gradient of the encoder with
      less noise; for the posteriors that `path-gradient` takes.

    Source of `iwae`: Burda et al., "Importance weighted autoencoders", 2016, https://arxiv.org/abs/1509.00519

    >>> objective("iwae", particles=5).num_particles
    5
    """
    checks.one_of("objective", name, OBJECTIVES[1:])
    particles = checks.positive_integer("particles", particles)
    # Both plates, of particles and of images, in one batch; and "data" is the only plate inside.
    options = {"num_particles": particles, "vectorize_particles": particles > 1, "max_plate_nesting": 1}
    if particles == 1 and name in WITH_ONE_PARTICLE:
        raise checks.fail("particles", 1, f"at least 2 for {name}; with 1 it is the {WITH_ONE_PARTICLE[name]}")
    if name == "iwae":
        return RenyiELBO(alpha=0, **options)
    kinds = {
        "elbo": Trace_ELBO,
        "mean-field": TraceMeanField_ELBO,
        "path-gradient": PathGradientELBO,
        "iwae-dreg": DReGIWAE,
    }
    return kinds[name](**options)


def resolved(name: str, model: Any, images: Images) -> str:
    """`name`, or what `auto` stands for with this model: see :func:`~pyro_vae.spec.automatic_objective`.

    The posterior of the first image tells. Other programs than those of a `VAE`, and what can't be asked, are trained
    with `elbo`, which is right for any.

    >>> from pyro_vae import Spec, build
    >>> image = Images(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    >>> normal, uniform = build(Spec()), build(Spec(posterior="uniform", prior="uniform"))
    >>> resolved("auto", normal, image), resolved("auto", uniform, image)
    ('path-gradient', 'mean-field')
    """
    name = checks.one_of("objective", name, OBJECTIVES)
    if name != "auto":
        return name
    if any(getattr(getattr(model, one), "__func__", None) is not getattr(VAE, one) for one in ("model", "guide")):
        return "elbo"
    try:
        # With gradients, as it is told by them whether a support moves with the parameters.
        with preserved_rng([device_of(model)]), evaluating(model, gradients=True), torch.enable_grad():
            q, p = model.encode(first_of(model, images)[:1]), model.prior()
            return automatic_objective(takes_path_gradient=takes_path_gradient(q), has_closed_kl=_has_closed_kl(q, p))
    except Exception:  # a user's own parts, which may do anything; what is wrong with them, training itself says
        return "elbo"


def _has_closed_kl(q: Any, p: Any) -> bool:
    if is_delta(q):  # Pyro's leaves its log_density out
        return False
    try:
        kl_divergence(q, p)
    except NotImplementedError:
        return False
    return True


class Losses(NamedTuple):
    """Means over images, in nats; all three are to be minimised."""

    loss: float
    reconstruction: float
    kl: float


class Terms:
    """The parts of an ELBO, summed over images and over all estimates since the last reset, at beta = 1.

    `watch(elbo)` returns a copy of an objective of Pyro's that adds log p(x|z), log q(z|x) and log p(z) to `sums` each
    time it makes its traces: the parts come with the step, at no second pass through the networks, and stay on the
    device. A captured step adds to them as well, because it adds in place. Not every device has float64, so what the
    additions round off is summed in `lost`.

    The summation is compensated, as in Neumaier, "Rundungsfehleranalyse einiger Verfahren zur Summation endlicher
    Summen", 1974, https://doi.org/10.1002/zamm.19740540106, but without his branch: what is lost is exact where the sum
    is the larger of the two, as it is but for the first estimates.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.sums, self.lost = (torch.zeros(3, dtype=dtype, device=device) for _ in range(2))

    def reset(self) -> None:
        """Back to nothing."""
        self.sums.zero_()
        self.lost.zero_()

    def watch(self, elbo: ELBO) -> ELBO:
        """A copy of `elbo` that reports here."""
        watched = copy.copy(elbo)

        def get_trace(*args: Any) -> Any:
            model_trace, guide_trace = elbo._get_trace(*args)
            self._add(model_trace, guide_trace, elbo.num_particles)
            return model_trace, guide_trace

        watched._get_trace = get_trace  # type: ignore[method-assign]
        return watched

    def totals(self) -> Tensor:
        """log p(x|z) and KL since the reset, float64 on the CPU, shape `(2,)`; here alone the device is waited for."""
        return exact_totals(self.sums, self.lost)

    @torch.no_grad()
    def _add(self, model_trace: Any, guide_trace: Any, particles: int) -> None:
        log_likelihood, log_q, log_p = list[Tensor](), list[Tensor](), list[Tensor]()
        for name, site in model_trace.nodes.items():
            if site["type"] != "sample":
                continue
            (log_likelihood if site["is_observed"] else log_p).append(site["unscaled_log_prob"].sum())
            if not site["is_observed"]:
                log_q.append(guide_trace.nodes[name]["unscaled_log_prob"].sum())
        nothing = self.sums.new_zeros(())
        parts = torch.stack([sum(one[1:], one[0]) if one else nothing for one in (log_likelihood, log_q, log_p)])
        added = parts / particles
        sums = self.sums + added
        self.lost.add_(added - (sums - self.sums))
        self.sums.copy_(sums)


def exact_totals(sums: Tensor, lost: Tensor) -> Tensor:
    """log p(x|z) and KL, `(..., 2)`, float64 on the CPU, from what `Terms` sums, and loses thereby, `(..., 3)`."""
    exact = sums.cpu().double() + lost.cpu().double().nan_to_num(nan=0.0)  # NaN beside an infinite sum
    log_likelihood, log_q, log_p = exact.unbind(-1)
    return torch.stack([log_likelihood, log_q - log_p], dim=-1)


def beta_at(step: int, beta: float, warmup_steps: int) -> float:
    """Beta of a linear warm-up: `beta / warmup_steps` at step 0, `beta` from step `warmup_steps - 1` on.

    >>> [beta_at(step, 4.0, 4) for step in range(6)]
    [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]
    """
    return beta * min(1.0, (step + 1) / max(warmup_steps, 1))
