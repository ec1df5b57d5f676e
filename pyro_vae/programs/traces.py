"""What the programs of any pair say of a batch of images, read from their traces: any number of latent sites."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.path_gradient import is_delta
from pyro_vae.posteriors import location
from pyro_vae.programs.draws import Case, Draws

PLATE = "data"  #: over the images, in both programs


@dataclass(frozen=True)
class Traces:
    """Both programs of a pair, with the labels and covariates of a batch; evaluation reads all that it needs here.

    The programs have one plate over the images, named `data`, and the same latent sites in it: continuous ones, or
    discrete ones with `infer={"enumerate": "parallel"}`, which may be in the model alone. The site of the images is
    `x`, or the only observed one. Factors of the guide are terms of a training's loss, which are left out here.

    Args:
        pair: with `model(x, beta, ...)` and `guide(x, beta, ...)`, as :func:`~pyro_vae.fit` trains it; beta is 1 here.
        arguments: labels and covariates of the batch, `(N, ...)`, by name.

    >>> from pyro_vae import Spec, build
    >>> with torch.random.fork_rng():
    ...     draws = Traces(build(Spec(latent_dim=2))).draws(torch.zeros(3, 1, 8, 8), 4)
    >>> draws.continuous, draws.log_weights().shape
    (('z',), torch.Size([4, 3]))
    """

    pair: Any
    arguments: Mapping[str, Tensor] = field(default_factory=dict)

    def draws(self, x: Tensor, k: int) -> Draws:
        """k draws of the guide for each image, all at once: the batch is repeated k times."""
        n = len(x)
        images = x.repeat(k, *[1] * (x.dim() - 1))
        arguments = self._repeated(k)
        with _programs_alone():
            guide, model = self._run(images, arguments)
            supports = {
                name: [value.expand(n * k, *value.shape) for value in values]
                for name, values in enumerated_sites(guide, model).items()
            }
            in_guide = tuple(name for name in guide.nodes if name in supports)
            in_model = tuple(name for name in supports if name not in in_guide)
            if not supports:
                return Draws((_case(guide, model, x, k, n, {}),), (), (), {})
            cases = []
            for fixed, drawn in self._guides(guide, images, arguments, {name: supports[name] for name in in_guide}):
                # The same draws for all values of the sites of the model alone, which are summed out given these.
                for values in itertools.product(*(supports[name] for name in in_model)):
                    every = fixed | dict(zip(in_model, values, strict=True))
                    cases.append(_case(drawn, self._replayed(drawn, images, arguments, every), x, k, n, every))
        sizes = {name: len(values) for name, values in supports.items()}
        return Draws(tuple(cases), in_guide, in_model, sizes)

    def means(self, x: Tensor, k: int, sites: Sequence[str]) -> dict[str, Tensor]:
        """The mean over k draws of the guide of these continuous sites, `(N, ...)`, by name.

        The guide's enumerated sites are summed out. Those of the model alone change no draw, so that it is not run.
        """
        n, arguments = len(x), self._repeated(k)
        images = x.repeat(k, *[1] * (x.dim() - 1))
        totals: dict[str, Any] = dict.fromkeys(sites, 0)
        with _programs_alone():
            first = poutine.trace(self.pair.guide).get_trace(images, 1.0, **arguments)
            supports = {
                name: [value.expand(n * k, *value.shape) for value in values]
                for name, values in enumerated_sites(first, first).items()
            }
            for _, guide in self._guides(first, images, arguments, supports):
                guide.compute_log_prob()
                log_probs = [_log_prob(guide.nodes[name], k, n) for name in supports]
                weight = sum(log_probs, x.new_zeros(k, n)).exp()  # q of the values of the enumerated sites
                for name in sites:
                    value = _latent(guide)[name]["value"].unflatten(0, (k, n))
                    totals[name] += torch.einsum("kn,kn...->n...", weight, value) / k
        return totals

    def _guides(
        self,
        first: poutine.Trace,
        images: Tensor,
        arguments: Mapping[str, Tensor],
        supports: Mapping[str, list[Tensor]],
    ) -> list[tuple[dict[str, Tensor], poutine.Trace]]:
        """A trace of the guide for each combination of values of its enumerated sites, in its order.

        Traces share the draws of all sites before the first whose value they differ in.
        """
        traces: list[tuple[dict[str, Tensor], poutine.Trace]] = [({}, first)]
        for site, values in supports.items():
            traces = [
                (fixed | {site: value}, self._guide(images, arguments, fixed | {site: value}, _before(trace, site)))
                for fixed, trace in traces
                for value in values
            ]
        return traces

    def _repeated(self, k: int) -> dict[str, Tensor]:
        return {name: value.repeat(k, *[1] * (value.dim() - 1)) for name, value in self.arguments.items()}

    def reconstruct(self, x: Tensor) -> Tensor:
        """The mean of p(x|z), each site of the guide at its mean or, where it is discrete, at its mode."""
        return self._mean(self._at_location(x)[1], x)

    def locations(self, x: Tensor) -> dict[str, Tensor]:
        """The mean of each continuous latent site, given those of the sites before it, `(N, ...)`, by name.

        The site next to the image, the last of the model's, comes first.
        """
        guide, model = self._at_location(x)
        codes = _continuous(guide)
        return {name: codes[name] for name in reversed(model.nodes) if name in codes}

    def code_shapes(self) -> dict[str, torch.Size]:
        """The shape of a code of each continuous latent site of the model, in its order."""
        with _programs_alone(), torch.random.fork_rng(devices=[]):
            trace = poutine.trace(self.pair.model).get_trace(None, 1.0, **self.arguments, size=1)
        image = _image_site(trace, None)
        return {name: value.shape[1:] for name, value in _continuous(trace).items() if name != image}

    def sample(self, size: int) -> Tensor:
        """The mean of p(x|z) for draws of the prior, `(size, C, H, W)`, given the arguments of the batch."""
        with _programs_alone():
            trace = poutine.trace(self.pair.model).get_trace(None, 1.0, **self.arguments, size=size)
        return self._mean(trace, None)

    def decode(self, values: Mapping[str, Tensor], size: int) -> Tensor:
        """The mean of p(x|z) where some latent sites have these values, and the others are at their location."""
        program = poutine.trace(poutine.condition(self.pair.model, data=dict(values)))
        with _programs_alone(), _AtLocation():
            trace = program.get_trace(None, 1.0, **self.arguments, size=size)
        return self._mean(trace, None, latent=tuple(values))

    def discrete_besides(self, values: Mapping[str, Tensor]) -> list[str]:
        """The discrete sites that p(x|z) depends on where other sites have these values, `(1, ...)` each: classes."""
        program = poutine.trace(poutine.condition(self.pair.model, data=dict(values)))
        with _programs_alone(), _AtLocation():
            sites = _latent(program.get_trace(None, 1.0, **self.arguments, size=1))
        supports = {
            name: site["fn"].enumerate_support(expand=False).reshape(-1, *site["fn"].event_shape)
            for name, site in sites.items()
            if name not in values and getattr(site["fn"], "has_enumerate_support", False)
        }
        means = {
            name: [self.decode({**values, name: value[None]}, 1) for value in support]
            for name, support in supports.items()
        }
        return [name for name, (first, *others) in means.items() if any(not first.equal(mean) for mean in others)]

    def model_at(self, x: Tensor, values: Mapping[str, Tensor]) -> poutine.Trace:
        """The trace of the model of images x, whose latent sites have these values."""
        with _programs_alone():
            program = poutine.trace(poutine.condition(self.pair.model, data=dict(values)))
            return program.get_trace(x, 1.0, **self.arguments)

    def rows(self, index: slice) -> Traces:
        """The programs for some of the images of the batch."""
        return Traces(self.pair, {name: values[index] for name, values in self.arguments.items()})

    def check(self, x: Tensor) -> None:
        """Checks that the traces of both programs are such that log p(x), log p(z) and log q(z|x) can be read.

        Raises:
            InputError: they are not; the message says what is wrong.
        """
        with _programs_alone():
            guide, model = self._run(x, self.arguments)
        of_guide, of_model = _latent(guide), _latent(model)
        enumerated = enumerated_sites(guide, model)
        for name in of_guide:
            if name not in of_model:
                raise _unreadable(self.pair, f"the latent site {name} in `guide` alone")
        for name in of_model:
            if name not in of_guide and name not in enumerated:
                expected = "a guide that draws it, or infer={'enumerate': 'parallel'} if its values are finitely many"
                raise _unreadable(self.pair, f"the latent site {name} in `model` alone", expected)
        self._check_images(model, x)
        for trace in (guide, model):
            trace.compute_log_prob()
            for name, site in _sampled(trace).items():
                frames = site["cond_indep_stack"]
                if not any(frame.name == PLATE for frame in frames):
                    raise _unreadable(self.pair, f"the site {name} outside of the plate `{PLATE}`")
                if not site["is_observed"] and [(frame.name, frame.dim) for frame in frames] != [(PLATE, -1)]:
                    expected = f"the plate `{PLATE}` alone, at dim -1: further dimensions are of the event (`to_event`)"
                    raise _unreadable(self.pair, f"the latent site {name} in other plates", expected)
        try:
            with _programs_alone():
                self._run(x.repeat(2, *[1] * (x.dim() - 1)), self._repeated(2))
        except (ValueError, RuntimeError) as error:
            expected = f"programs that take a batch of any size, with all of it in the plate `{PLATE}`"
            raise _unreadable(
                self.pair, f"an error for a batch of {2 * len(x)} ({str(error).splitlines()[0]})", expected
            ) from error

    def _check_images(self, model: poutine.Trace, x: Tensor) -> None:
        name = _image_site(model, x)
        if (model.nodes[name]["infer"] or {}).get("_deterministic"):
            expected = "images that are observed as a whole, without `obs_mask`"
            raise _unreadable(self.pair, f"a part of the site {name} observed", expected)

    def _run(self, x: Tensor, arguments: Mapping[str, Tensor]) -> tuple[poutine.Trace, poutine.Trace]:
        """The trace of the guide, and that of the model at its draws."""
        guide = poutine.trace(self.pair.guide).get_trace(x, 1.0, **arguments)
        return guide, self._replayed(guide, x, arguments, {})

    def _guide(
        self, x: Tensor, arguments: Mapping[str, Tensor], fixed: Mapping[str, Tensor], drawn: poutine.Trace
    ) -> poutine.Trace:
        """A trace of the guide where some sites have fixed values, and those in `drawn` the values there."""
        program = poutine.replay(poutine.condition(self.pair.guide, data=dict(fixed)), trace=drawn)
        return poutine.trace(program).get_trace(x, 1.0, **arguments)

    def _replayed(
        self, guide: poutine.Trace, x: Tensor, arguments: Mapping[str, Tensor], fixed: Mapping[str, Tensor]
    ) -> poutine.Trace:
        """The trace of the model at the draws of a guide, where some sites have fixed values."""
        program = poutine.replay(poutine.condition(self.pair.model, data=dict(fixed)), trace=_latent_alone(guide))
        return poutine.trace(program).get_trace(x, 1.0, **arguments)

    def _at_location(self, x: Tensor) -> tuple[poutine.Trace, poutine.Trace]:
        with _programs_alone(), _AtLocation():
            return self._run(x, self.arguments)

    def _mean(self, trace: poutine.Trace, x: Tensor | None, latent: tuple[str, ...] = ()) -> Tensor:
        mean = _mean_of(trace.nodes[_image_site(trace, x, latent)], x)
        if mean is None:
            raise _unreadable(self.pair, "a site of the images without a mean", "a distribution with one")
        return mean


def enumerated_sites(guide: poutine.Trace, model: poutine.Trace) -> dict[str, Tensor]:
    """The values of each enumerated latent site of either program, `(values, *event shape)`."""
    sites = _latent(model) | _latent(guide)
    values = {
        name: (site["fn"].enumerate_support(expand=False), site["fn"].event_shape)
        for name, site in sites.items()
        if _is_enumerated(site) and name in model.nodes
    }
    return {name: support.reshape(-1, *event_shape) for name, (support, event_shape) in values.items()}


def _is_enumerated(site: Mapping[str, Any]) -> bool:
    return bool((site["infer"] or {}).get("enumerate")) and bool(getattr(site["fn"], "has_enumerate_support", False))


def _sampled(trace: poutine.Trace) -> dict[str, Any]:
    """The sites of a trace that are draws, data, or factors."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not (site_is_subsample(site) or (site["infer"] or {}).get("_deterministic"))
    }


def _latent(trace: poutine.Trace) -> dict[str, Any]:
    return {name: site for name, site in _sampled(trace).items() if not site["is_observed"]}


def _continuous(trace: poutine.Trace) -> dict[str, Tensor]:
    """The values of the latent sites that are continuous, by name."""
    return {
        name: site["value"]
        for name, site in _latent(trace).items()
        if _is_continuous(site) and not _is_enumerated(site)
    }


def _case(guide: poutine.Trace, model: poutine.Trace, x: Tensor, k: int, n: int, fixed: Mapping[str, Tensor]) -> Case:
    for trace in (guide, model):
        trace.compute_log_prob()
    latent_of_model, latent_of_guide = (
        {name: site for name, site in _sampled(trace).items() if name in fixed or not site["is_observed"]}
        for trace in (model, guide)
    )
    drawn = {name: site["value"] for name, site in latent_of_guide.items() if name not in fixed}
    observed = [site for name, site in _sampled(model).items() if name not in latent_of_model]
    mean = _mean_of(model.nodes[_image_site(model, x, tuple(latent_of_model))], x.repeat(k, *[1] * (x.dim() - 1)))
    return Case(
        values={name: value.unflatten(0, (k, n)) for name, value in drawn.items()},
        log_p={name: _log_prob(site, k, n) for name, site in latent_of_model.items()},
        log_q={name: _log_prob(site, k, n) for name, site in latent_of_guide.items()},
        log_likelihood=torch.stack([_log_prob(site, k, n) for site in observed]).sum(0),
        mean=None if mean is None else mean.unflatten(0, (k, n)),
        points=tuple(name for name, site in latent_of_guide.items() if _is_point(site, latent_of_model[name])),
        continuous=tuple(
            name
            for name in drawn
            if _is_continuous(latent_of_model[name]) and not is_delta(latent_of_model[name]["fn"])
        ),
        certain=bool(latent_of_guide) and all(is_delta(site["fn"]) for site in latent_of_guide.values()),
    )


def _log_prob(site: Mapping[str, Any], k: int, n: int) -> Tensor:
    """The log-probability of a site, `(K, N)`: masked, not scaled, summed over the plates inside that of the images."""
    log_prob = site["unscaled_log_prob"]
    if site["mask"] is not None and site["mask"] is not True:
        log_prob = (
            log_prob * 0 if site["mask"] is False else torch.where(site["mask"], log_prob, log_prob.new_zeros(()))
        )
    frame = next(frame for frame in site["cond_indep_stack"] if frame.name == PLATE)
    sizes = {other.dim: other.size for other in site["cond_indep_stack"]}
    shape = [sizes.get(dim, 1) for dim in range(min(sizes), 0)]
    log_prob = log_prob.expand(torch.broadcast_shapes(log_prob.shape, tuple(shape)))
    rows = log_prob.movedim(frame.dim, -1)
    return rows.reshape(-1, k * n).sum(0).unflatten(0, (k, n))


def _image_site(trace: poutine.Trace, x: Tensor | None, latent: tuple[str, ...] = ()) -> str:
    """The site of the images: `x`, or the only one that is observed."""
    if "x" in trace.nodes:
        return "x"
    names = [
        name
        for name, site in _sampled(trace).items()
        if name not in latent and (x is None or site["is_observed"]) and type(site["fn"]).__name__ != "Unit"
    ]
    if x is None:
        names = names[-1:]
    if len(names) != 1:
        expected = "a site `x` of the images, or one observed site"
        raise checks.fail("model", f"a `model` with the observed sites {', '.join(names) or 'none'}", expected)
    return names[0]


def _mean_of(site: Mapping[str, Any], x: Tensor | None) -> Tensor | None:
    """The mean of the site of the images, in their shape."""
    try:
        mean: Tensor = site["fn"].mean
    except (NotImplementedError, AttributeError):
        return None
    if getattr(site["fn"], "has_enumerate_support", False) and not bool(mean.isfinite().all()):  # of a categorical
        return None
    frame = next((frame for frame in site["cond_indep_stack"] if frame.name == PLATE), None)
    if frame is not None:  # plates inside that of the images are dimensions of the image
        mean = mean.movedim(frame.dim - len(site["fn"].event_shape), 0)
    return mean if x is None or mean.numel() != x.numel() else mean.reshape(x.shape)


def _is_point(of_guide: Mapping[str, Any], of_model: Mapping[str, Any]) -> bool:
    """Whether a draw is a point in a continuum, which has no density; a single code of many has a probability of 1.

    So has a point that is one in the model, too: other sites determine it.
    """
    return is_delta(of_guide["fn"]) and _is_continuous(of_model)


def _is_continuous(site: Mapping[str, Any]) -> bool:
    """Whether a site of the model is drawn from a continuum, and not determined by others."""
    is_real = site["value"].is_floating_point() and not is_delta(site["fn"])
    support = site["fn"].support if is_real else None
    return is_real and not (support is not None and support.is_discrete)


class _AtLocation(Messenger):
    """Inside, each latent site is at its mean, or at its mode where it is discrete, in place of a draw."""

    def _pyro_sample(self, message: Any) -> None:
        if message["is_observed"] or message["done"] or site_is_subsample(message):
            return
        fn = message["fn"]
        message["value"] = fn.mode if fn.support.is_discrete else location(fn)
        message["done"] = True


def _before(trace: poutine.Trace, site: str) -> poutine.Trace:
    """The latent sites of a trace that come before a site."""
    drawn = _latent_alone(trace)
    names = list(trace.nodes)
    for name in names[names.index(site) :]:
        if name in drawn.nodes:
            drawn.remove_node(name)
    return drawn


def _latent_alone(trace: poutine.Trace) -> poutine.Trace:
    """The trace of a guide to replay from: without sites that are observed there, such as labels."""
    replayed = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and site["is_observed"]:
            replayed.remove_node(name)
    return replayed


@contextmanager
def _programs_alone() -> Iterator[None]:
    """Inside, programs may register parameters, of which none is left; they read those that are there."""
    store = pyro.get_param_store()
    with store.scope(store.get_state()), pyro.validation_enabled(False):
        yield


def _unreadable(pair: object, what: str, expected: str | None = None) -> checks.InputError:
    return checks.fail(
        "model",
        f"{type(pair).__name__} with {what}",
        expected or f"the same latent sites in `model` and `guide`, in one plate `{PLATE}` over the images",
    )
