"""Checks that a model's programs agree with its `encode`, `prior` and `decode`, which the estimators use."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.rng import seeded_rng
from pyro_vae.models import VAE, Autoencoder, Model
from pyro_vae.models.adversarial import Adversarial
from pyro_vae.models.base import device_of, evaluating
from pyro_vae.models.vae_prior_at_start import PriorAtStart
from pyro_vae.posteriors import location
from pyro_vae.programs.densities import Densities, has_parts
from pyro_vae.programs.traces import Traces

# Programs known to agree; the guides of the last two differ from a VAE's by further terms of their losses.
_OWN = [(kind.model, kind.guide) for kind in (VAE, Autoencoder, PriorAtStart, Adversarial)]


def check_programs(model: Model, x: Tensor, arguments: Mapping[str, Tensor] | None = None) -> None:
    """Checks that `model.model` and `model.guide` have the sites and log-probabilities of the model's parts.

    Both are run once, at beta = 1: the latent site is `z`, the observed one `x`, and at the z that the guide draws
    their log-probabilities are those of `prior()`, `encode(x)` and `decode(z)`. An autoencoder has no latent site.
    A model without these methods is evaluated by its programs' traces, which :meth:`Traces.check` checks.

    Args:
        model: a `VAE`, an `Autoencoder`, or a module with programs of its own.
        x: some images, `(N, C, H, W)`, where the model is.
        arguments: their labels and covariates, where the model takes them.

    Raises:
        InputError: they differ; the message says in what.
    """
    if not all(callable(getattr(model, name, None)) for name in ("model", "guide")):
        return
    store = pyro.get_param_store()
    with (
        seeded_rng(device_of(model), 0),
        evaluating(model),
        store.scope(store.get_state()),
        pyro.validation_enabled(False),
    ):
        if has_parts(model):
            _check(model, x, arguments or {})
        else:
            Traces(model, arguments or {}).check(x)


def _check(model: Model, x: Tensor, arguments: Mapping[str, Tensor]) -> None:
    for name in ("model", "guide"):
        try:
            inspect.signature(getattr(model, name)).bind(x, 1.0, **arguments)
        except TypeError as error:
            raise _differs(model, f"a `{name}` that does not take ({', '.join(('x', 'beta', *arguments))})") from error
    guide = poutine.trace(model.guide).get_trace(x, 1.0, **arguments)
    replayed = poutine.trace(poutine.replay(model.model, trace=guide)).get_trace(x, 1.0, **arguments)
    of_guide, of_model = _sites(guide), _sites(replayed)
    is_own = tuple(getattr(program, "__func__", None) for program in (model.model, model.guide)) in _OWN
    latent = sorted(name for name, site in of_model.items() if not site["is_observed"])
    observed = sorted(name for name, site in of_model.items() if site["is_observed"])
    expected = [] if isinstance(model, Autoencoder) else ["z"]
    if latent != expected:
        raise _differs(model, f"the latent sites {', '.join(latent) or 'none'} in `model`")
    if observed != ["x"]:
        raise _differs(model, f"the observed sites {', '.join(observed) or 'none'} in `model`")
    if sorted(of_guide) != expected and not is_own:
        raise _differs(model, f"the sites {', '.join(sorted(of_guide)) or 'none'} in `guide`")
    if not is_own:
        _check_values(Densities(model, arguments), x, of_guide, of_model)


def _check_values(densities: Densities, x: Tensor, of_guide: dict[str, Any], of_model: dict[str, Any]) -> None:
    model, q = densities.model, densities.encode(x)
    z = of_guide["z"]["value"] if "z" in of_guide else location(q)
    pairs = [("log p(x|z) in `model`", of_model["x"], densities.decode(z).log_prob(x))]
    if "z" in of_guide:
        pairs.append(("log p(z) in `model`", of_model["z"], densities.prior().log_prob(z)))
        if not isinstance(q, torch.distributions.TransformedDistribution):  # a flow scores only draws of its own
            pairs.append(("log q(z|x) in `guide`", of_guide["z"], q.log_prob(z)))
    for what, site, values in pairs:
        traced, composed = site["log_prob"].sum().item(), values.sum().item()
        size = max(1.0, values.abs().sum().item(), site["log_prob"].abs().sum().item())
        if abs(traced - composed) > 1e-4 * size:
            raise _differs(model, f"{what} of {traced:.6g} on {len(x)} images, where its parts give {composed:.6g}")


def _sites(trace: poutine.Trace) -> dict[str, Any]:
    """The sites of a trace that are draws, data, or factors, which add to the log-probability otherwise."""
    trace.compute_log_prob()
    samples = {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}
    return {
        name: site
        for name, site in samples.items()
        if not (site_is_subsample(site) or (site["infer"] or {}).get("_deterministic"))
    }


def _differs(model: Model, what: str) -> checks.InputError:
    return checks.fail(
        "model",
        f"{type(model).__name__} with {what}",
        "the latent site z of `prior()` and `encode(x)`, and the observed site x of `decode(z)`, and no others: these "
        "are what an evaluation is of",
    )
