"""The objectives of training, the parts of an estimate, and the warm-up of beta."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
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
from pyro.infer.util import torch_item
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae._utils import checks
from pyro_vae._utils.rng import preserved_rng
from pyro_vae.data import Images
from pyro_vae.enumerated_terms import enumerated_terms, is_enumerated, unscaled_log_prob
from pyro_vae.free_bits import elbo_with_free_bits
from pyro_vae.models import VAE, build
from pyro_vae.models.base import device_of, evaluated_arguments, evaluating, first_of
from pyro_vae.part_classes import construct, resolve
from pyro_vae.parts import AnyPart, Part, checked
from pyro_vae.path_gradient import is_delta, only_latent, support_moves, takes_path_gradient
from pyro_vae.programs.traces import enumerated_sites
from pyro_vae.spec import Spec

# Pyro's objectives that estimate from traces, and the ones that compile those away.
TRACED = (Trace_ELBO, TraceMeanField_ELBO, RenyiELBO, TraceGraph_ELBO, TraceEnum_ELBO)
JITTED = (JitTrace_ELBO, JitTraceMeanField_ELBO, JitTraceGraph_ELBO, JitTraceEnum_ELBO)


class Auto:
    """The objective of least noise in its gradient; it is settled before the first step, see :func:`resolved`.

    That is `path-gradient` where the posterior takes it, else `mean-field` where the KL term has a closed form, else
    `elbo`. The measurement behind it is in the documentation, under "Two gradients of an expectation". A model with
    programs of its own may name what suits it, as the attribute `default_objective` of its class.
    """

    kind = "auto"


class SampledELBO(Trace_ELBO):
    r"""The ELBO with its KL term as an average over samples, for every posterior: Pyro's `Trace_ELBO`.

    .. math:: \mathcal L(x) = \mathbb E_{q(z|x)}[\log p(x|z) + \log p(z) - \log q(z|x)]

    Source: Kingma and Welling, 2014, equation 2, https://arxiv.org/abs/1312.6114
    """

    kind = "elbo"


class MeanFieldELBO(TraceMeanField_ELBO):
    r"""The ELBO with its KL term in closed form, for posteriors that have one: Pyro's `TraceMeanField_ELBO`.

    .. math:: \mathcal L(x) = \mathbb E_{q(z|x)}[\log p(x|z)] - \mathrm{KL}(q(z|x) \,\|\, p(z))

    With several latent sites there is a KL for each, given draws of the sites before it. That is unbiased where model
    and guide draw the sites in the same order, and refused where they do not: in a posterior that goes from the image
    upwards, the prior of a layer is given a layer that is yet to be drawn.

    With free bits each latent dimension counts as at least :math:`\lambda` nats of KL, in the mean over the B images of
    a batch, so that training does not push a dimension below that:

    .. math:: \tilde{\mathcal L} = \mathbb E_{q(z|x)}[\log p(x|z)] - \sum_{j=1}^d \max\Big(\lambda,
              \frac1B \sum_{i=1}^B \mathrm{KL}\big(q(z_j|x_i) \,\|\, p(z_j)\big)\Big)

    This needs the KL of each dimension in closed form, as the maximum of an estimate is biased upward. With several
    sites it is closed only given a draw of the sites before it, so that the maximum is biased there still. It is no
    bound on log p(x) that is comparable with others.

    Args:
        free_bits: :math:`\lambda`, nats per latent dimension, or per site; 0 is the ELBO.
        free_bits_per: what a threshold is for, `dimension` or `site`, which in a hierarchical model is a layer.

    Raises:
        InputError: model and guide draw the latent sites in different orders, or free bits are asked of a site without
            a KL in closed form for each dimension.

    Source: Kingma and Welling, 2014, equation 3, https://arxiv.org/abs/1312.6114; free bits: Kingma et al., 2016,
    https://arxiv.org/abs/1606.04934, where groups of dimensions share a threshold

    >>> import pyro.distributions as dist
    >>> def program(mean):
    ...     with pyro.plate("data", 3):
    ...         pyro.sample("z", dist.Normal(torch.tensor(mean), 1.0).to_event(1))
    >>> model, guide = lambda: program([0.0, 0.0]), lambda: program([0.0, 2.0])
    >>> MeanFieldELBO().loss(model, guide), MeanFieldELBO(free_bits=0.5).loss(model, guide)
    (6.0, 7.5)
    """

    kind = "mean-field"

    def __init__(
        self,
        num_particles: int = 1,
        vectorize_particles: bool = False,
        max_plate_nesting: float = math.inf,
        free_bits: float = 0.0,
        free_bits_per: str = "dimension",
    ) -> None:
        super().__init__(num_particles, max_plate_nesting, vectorize_particles=vectorize_particles)
        self.free_bits = checks.non_negative("free_bits", free_bits)
        self.free_bits_per = checks.one_of("free_bits_per", free_bits_per, ("dimension", "site"))

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        # Without the warning of TraceMeanField_ELBO's own, and whether or not validation is on.
        model_trace, guide_trace = super(TraceMeanField_ELBO, self)._get_trace(model, guide, args, kwargs)
        _check_order(model_trace, guide_trace)
        return model_trace, guide_trace

    def _differentiable_loss_particle(self, model_trace: Any, guide_trace: Any) -> tuple[Any, Any]:
        if not self.free_bits:
            return super()._differentiable_loss_particle(model_trace, guide_trace)
        elbo = elbo_with_free_bits(model_trace, guide_trace, self.free_bits, self.free_bits_per)
        return -torch_item(elbo), -elbo


class IWAE(RenyiELBO):
    r"""The importance-weighted bound of k particles: Pyro's `RenyiELBO` at alpha = 0.

    .. math:: \mathcal L_k(x) = \mathbb E_{z_1 \dots z_k \sim q(z|x)} \log \frac1k \sum_i \frac{p(x, z_i)}{q(z_i|x)}

    Source: Burda et al., "Importance weighted autoencoders", 2016, https://arxiv.org/abs/1509.00519
    """

    kind = "iwae"
    with_one_particle = "elbo"

    def __init__(
        self, num_particles: int = 2, vectorize_particles: bool = False, max_plate_nesting: float = math.inf
    ) -> None:
        super().__init__(0, num_particles, max_plate_nesting, vectorize_particles=vectorize_particles)


class EnumeratedELBO(TraceEnum_ELBO):
    r"""The ELBO in which discrete sites are summed over, and not drawn: Pyro's `TraceEnum_ELBO`.

    .. math:: \mathcal L(x) = \sum_y q(y|x)\, \mathbb E_{q(z|x, y)}\Big[\log \frac{p(x, y, z)}{q(y|x)\, q(z|x, y)}\Big]
              \qquad \text{or} \qquad
              \mathcal L(x) = \mathbb E_{q(z|x)}\Big[\log \frac{\sum_y p(x, y, z)}{q(z|x)}\Big]

    for a site y with `infer={"enumerate": "parallel"}` in the guide, or in the model alone. So no gradient goes through
    a discrete draw. A model without such sites has the ELBO of `elbo`.

    Source: Obermeyer et al., "Tensor variable elimination for plated factor graphs", 2019,
    https://arxiv.org/abs/1902.03210

    >>> import pyro.distributions as dist
    >>> def model():
    ...     y = pyro.sample("y", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
    ...     pyro.sample("x", dist.Normal(y, 1.0), obs=torch.tensor(0.5))
    >>> EnumeratedELBO(max_plate_nesting=0).loss(model, lambda: None)  # -log N(0.5; 0, 1), as that of y = 1
    1.0439...
    """

    kind = "enumerated"


def objective(name: AnyPart, particles: int = 1) -> ELBO:
    """An objective by its kind, such as `iwae` (`pyro-vae parts objective` lists them all), or `module:Class`.

    >>> objective("iwae", particles=5).num_particles
    5
    """
    part = checked("objective", name)
    if part.kind == Auto.kind:
        raise checks.fail("objective", part.kind, "another one: `resolved` tells what it stands for")
    particles = checks.positive_integer("particles", particles)
    instead = getattr(resolve("objective", part), "with_one_particle", None)
    if particles == 1 and instead:
        raise checks.fail("particles", 1, f"at least 2 for {part.kind}; with 1 it is the {instead}")
    # Both plates, of particles and of images, in one batch; and "data" is the only plate inside.
    options = {"num_particles": particles, "vectorize_particles": particles > 1, "max_plate_nesting": 1}
    return construct("objective", part, **options)


def resolved(name: AnyPart, model: Any, images: Images) -> Part:
    """`name` as a Part, or what `auto` stands for with this model: see :class:`Auto`.

    It is decided by the posterior of the first image. Posteriors that can't be evaluated so, and programs other than
    those of a `VAE`, are trained with `elbo`, but for programs with an enumerated latent site, whose discrete values
    `enumerated` alone sums over, and for a model that names another, as its `default_objective`, or the only one that
    it can be trained with, as its `only_objective`.

    Raises:
        InputError: the model can't be trained with this objective.

    >>> from pyro_vae import Spec, build
    >>> image = Images(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))
    >>> normal, uniform = build(Spec()), build(Spec(posterior="uniform", prior="uniform"))
    >>> resolved("auto", normal, image), resolved("auto", uniform, image)
    ('path-gradient', 'mean-field')
    """
    part = checked("objective", name)
    if not _has_programs_of_vae(model):
        return _for_programs(part, model, images)
    try:
        # With gradients, which tell whether a support moves with the parameters.
        with preserved_rng([device_of(model)]), evaluating(model, gradients=True), torch.enable_grad():
            q, p = model.encode(first_of(model, images)[:1]), model.prior()
            moves, takes_path, has_closed_kl = support_moves(q), takes_path_gradient(q), _has_closed_kl(q, p)
    except Exception:  # a user's own parts may raise anything; training then reports it
        return Part("elbo") if part.kind == Auto.kind else part
    if part.kind == Auto.kind:
        return Part("path-gradient" if takes_path else "mean-field" if has_closed_kl else "elbo")
    if part.kind == "mean-field" and not has_closed_kl:
        names = f"a {_name(model.posterior)} posterior has no analytic KL to a {_name(model.prior)} prior"
        raise checks.fail("objective", part.kind, f"elbo or iwae: {names}")
    if part.kind in ("path-gradient", "iwae-dreg") and moves:
        instead = "iwae" if part.kind == "iwae-dreg" else "mean-field or elbo"
        support = f"the support of a {_name(model.posterior)} posterior moves with it"
        raise checks.fail("objective", part.kind, f"{instead}: {support}")
    return part


def with_objective(spec: Spec, images: Images) -> Spec:
    """`spec`, its objective `auto` resolved for the model of this spec, which is built for it.

    Raises:
        InputError: the model can't be built, or can't be trained with this objective.

    >>> from pyro_vae import Spec
    >>> with_objective(Spec(), Images(torch.zeros(1, 1, 8, 8, dtype=torch.uint8))).objective
    'path-gradient'
    """
    objective(Part("elbo") if spec.objective == Auto.kind else spec.objective, spec.particles)
    return dataclasses.replace(spec, objective=resolved(spec.objective, build(spec), images))


def _has_programs_of_vae(model: Any) -> bool:
    programs = [(getattr(model, name), getattr(VAE, name)) for name in ("model", "guide")]
    return all(getattr(program, "__func__", None) is of_vae for program, of_vae in programs)


def _for_programs(part: Part, model: Any, images: Images) -> Part:
    """:func:`resolved` of any pair; programs that can't be run on one image are left to training."""
    traces = _traces_of_one(model, images)
    only: str | None = getattr(model, "only_objective", None)
    why = f"{type(model).__name__} takes no other"
    if traces and (sites := enumerated_sites(*traces)):
        only, why = "enumerated", f"it sums over the discrete site {', '.join(sites)}"
    if part.kind == Auto.kind:
        default: AnyPart = getattr(model, "default_objective", "elbo")
        return checked("objective", only or default)
    if only and part.kind != only and not part.own:
        raise checks.fail("objective", part.kind, f"{only}: {why}")
    if traces and part.kind == "iwae-dreg":
        only_latent(prune_subsample_sites(traces[0]))
    if traces and part.kind == "mean-field":
        _check_order(traces[1], traces[0])
    return part


def _traces_of_one(model: Any, images: Images) -> tuple[Any, Any] | None:
    """The traces of guide and model for the first image; None where they can't be run so."""
    store = pyro.get_param_store()
    try:
        x, arguments = first_of(model, images)[:1], evaluated_arguments(model, images.take(slice(0, 1)))
        arguments = {name: values.to(x.device) for name, values in arguments.items()}
        with preserved_rng([x.device]), evaluating(model), store.scope(), pyro.validation_enabled(False):
            guide = poutine.trace(model.guide).get_trace(x, **arguments)
            return guide, poutine.trace(poutine.replay(model.model, guide)).get_trace(x, **arguments)
    except Exception:
        return None


def _check_order(model_trace: Any, guide_trace: Any) -> None:
    """Checks that both programs draw their common latent sites in the same order."""
    of_model, of_guide = (
        [name for name in trace.nodes if _is_latent(model_trace, name) and name in guide_trace.nodes]
        for trace in (model_trace, guide_trace)
    )
    if of_model != of_guide:
        drawn = f"mean-field with a guide that draws {', '.join(of_guide)}"
        expected = f"elbo, or a guide in the order of the model, {', '.join(of_model)}, as a KL in closed form needs"
        raise checks.fail("objective", drawn, expected)


def _is_latent(trace: Any, name: str) -> bool:
    site = trace.nodes.get(name, {"type": "none"})
    return bool(site["type"] == "sample" and not site["is_observed"] and not site_is_subsample(site))


def _name(part: Any) -> str:
    return getattr(part, "kind", type(part).__name__)


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
    time it makes its traces: the parts come with the step, without a second pass through the networks, and stay on the
    device. A captured step adds to them as well, because it adds in place. Not every device has float64, so what the
    additions round off is summed in `lost`.

    The summation is compensated, as in Neumaier, "Rundungsfehleranalyse einiger Verfahren zur Summation endlicher
    Summen", 1974, https://doi.org/10.1002/zamm.19740540106, but without his branch: what is lost is exact where the sum
    is the larger of the two, as it is but for the first estimates.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.sums, self.lost = (torch.zeros(3, dtype=dtype, device=device) for _ in range(2))

    def reset(self) -> None:
        """Sets the sums to zero."""
        self.sums.zero_()
        self.lost.zero_()

    def watch(self, elbo: ELBO) -> ELBO:
        """A copy of `elbo` that adds its parts to these sums."""
        watched = copy.copy(elbo)

        def get_trace(*args: Any) -> Any:
            model_trace, guide_trace = elbo._get_trace(*args)
            self._add(model_trace, guide_trace, elbo.num_particles)
            return model_trace, guide_trace

        watched._get_trace = get_trace  # type: ignore[method-assign]
        return watched

    def totals(self) -> Tensor:
        """log p(x|z) and KL since the reset, float64 on the CPU, shape `(2,)`; waits for the device."""
        return exact_totals(self.sums, self.lost)

    @torch.no_grad()
    def _add(self, model_trace: Any, guide_trace: Any, particles: int) -> None:
        terms = (enumerated_terms if is_enumerated(model_trace, guide_trace) else _terms)(model_trace, guide_trace)
        nothing = self.sums.new_zeros(())
        parts = torch.stack([sum(values[1:], values[0]) if values else nothing for values in terms])
        added = parts / particles
        sums = self.sums + added
        self.lost.add_(added - (sums - self.sums))
        self.sums.copy_(sums)


def _terms(model_trace: Any, guide_trace: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """log p(x|z), log q(z|x) and log p(z) of each site, summed over images."""
    log_likelihood, log_q, log_p = list[Tensor](), list[Tensor](), list[Tensor]()
    for name, site in model_trace.nodes.items():
        if site["type"] != "sample":
            continue
        (log_likelihood if site["is_observed"] else log_p).append(unscaled_log_prob(site).sum())
        if not site["is_observed"]:
            log_q.append(unscaled_log_prob(guide_trace.nodes[name]).sum())
    return log_likelihood, log_q, log_p


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
