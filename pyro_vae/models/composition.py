"""A model put together of the parts of a spec; parts of a user's own are tried once on a black image."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyro_vae import part_classes
from pyro_vae._utils import checks
from pyro_vae._utils.rng import preserved_rng
from pyro_vae.models.base import evaluating
from pyro_vae.parts import Part
from pyro_vae.priors import Implicit
from pyro_vae.spec import SPEC_FIELDS, Spec

_TAKEN_AS = {
    "network": ("encoder", "decoder"),
    "hidden": ("encoder", "decoder", "hidden"),
    "likelihood": ("likelihood",),
    "prior": ("prior",),
    "posterior": ("posterior",),
}


def compose(spec: Spec, shape: tuple[int, ...]) -> Any:
    """The model of a spec, made of the parts that its class takes.

    Raises:
        InputError: a part refuses its options, the parts do not go together, or a part of a user's own gives another
            shape than the model needs of it.
    """
    asked = part_classes.arguments("model", spec.model)
    sizes: dict[str, Any] = {"image_shape": shape, "latent_dim": spec.latent_dim}
    made: dict[str, Any] = {}
    for name in ("posterior", "likelihood"):
        if name in asked:
            made[name] = part_classes.construct(name, getattr(spec, name), **sizes)
    num_outputs = spec.latent_dim
    if "posterior" in made and {"encoder", "decoder", "prior"} & set(asked):
        num_outputs = _num_parameters(spec, made["posterior"])
    elif (features := getattr(part_classes.resolve("model", spec.model), "encoder_outputs", None)) is not None:
        num_outputs = features(spec)  # a model that makes more of the image than one posterior
    if "encoder" in asked or "decoder" in asked:
        channels = shape[0] * getattr(made.get("likelihood"), "parameters_per_pixel", 1)
        decoded: dict[str, Any] = {"num_outputs": num_outputs, "decoded_shape": (channels, *shape[1:])}
        network = part_classes.construct("network", spec.network, hidden=spec.hidden, **sizes, **decoded)
        if Part.of(spec.network).own:
            _check_network(spec, network, shape, **decoded)
        made |= {"encoder": network.encoder, "decoder": network.decoder}
    if "prior" in asked:
        made["prior"] = part_classes.construct("prior", spec.prior, **sizes, **made)
    if "prior" in made and "posterior" in made:
        p = _codes_of(spec, "prior", made["prior"])
        q = _codes_of(spec, "posterior", made["posterior"], torch.zeros(1, num_outputs))
        if not getattr(part_classes.resolve("model", spec.model), "samples_prior", False):
            _check_densities(spec, p, q)
    return part_classes.construct("model", spec.model, spec=spec, hidden=spec.hidden, **sizes, **made)


def warn_if_ignored(spec: Spec) -> None:
    """Warns of the parts in a spec that its model does not take."""
    asked = set(part_classes.arguments("model", spec.model))
    is_own = Part.of(spec.model).own  # what such a model makes of its spec is not known
    ignored = [
        f"{name} {getattr(spec, name)}"
        for name, arguments in _TAKEN_AS.items()
        if getattr(spec, name) != SPEC_FIELDS[name].default
        and not asked & {*arguments, *(["spec"] if is_own or name in ("network", "hidden") else [])}
    ]
    if ignored:
        takes = ", ".join(part_classes.arguments("model", spec.model)) or "no arguments"
        text = f"{Part.of(spec.model).kind} takes {takes}, so that this has no effect: {', '.join(ignored)}"
        warnings.warn(text, stacklevel=3)


def _num_parameters(spec: Spec, posterior: Any) -> int:
    """How many numbers the encoder gives for each image."""
    number = getattr(posterior, "num_parameters", None)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        described = f"{Part.of(spec.posterior).kind} with num_parameters {number!r}"
        expected = "an attribute `num_parameters`: how many numbers of the encoder `forward` takes for each image"
        raise checks.fail("posterior", described, expected)
    return number


def _check_network(
    spec: Spec, network: Any, shape: tuple[int, ...], num_outputs: int, decoded_shape: tuple[int, ...]
) -> None:
    """Checks the shapes that encoder and decoder of a user's own network give; lazy ones have no sizes to try."""
    of_image = f"an image of shape {shape}"
    of_code = f"a code of {spec.latent_dim} dimensions"
    for name, x, source, expected in (
        ("encoder", torch.zeros(1, *shape), of_image, (num_outputs,)),
        ("decoder", torch.zeros(1, spec.latent_dim), of_code, decoded_shape),
    ):
        module = getattr(network, name, None)
        if not isinstance(module, nn.Module):
            raise checks.fail("network", Part.of(spec.network).kind, f"an attribute `{name}`, a module")
        is_untold = name == "decoder" and Part.of(spec.likelihood).own  # what a likelihood of their own takes
        if is_untold or any(is_lazy(value) for value in (*module.parameters(), *module.buffers())):
            continue
        output = _tried("network", spec.network, f"a network whose {name} takes {source}", module, x)
        gives = tuple(output.shape[1:])
        if gives != expected:
            kind = Part.of(spec.network).kind
            raise checks.fail("network", f"{kind}, whose {name} gives {_shown(gives)} for {source}", _shown(expected))


def _shown(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} numbers" if len(shape) == 1 else f"shape {shape}"


def _codes_of(spec: Spec, part: str, module: Any, *inputs: Tensor) -> dist.TorchDistribution:
    """The distribution of codes that a prior or posterior gives; of a user's own its event shape is checked."""
    value = Part.of(getattr(spec, part))
    if not value.own:
        codes: dist.TorchDistribution = module(*inputs)
        return codes
    codes = _tried(part, value, "one whose `forward` runs", module, *inputs)
    shape = getattr(codes, "event_shape", None)
    if shape != (spec.latent_dim,):
        described = f"no distribution, but {type(codes).__name__}" if shape is None else f"event shape {tuple(shape)}"
        expected = f"event shape ({spec.latent_dim},), as .to_event(1) makes it of independent dimensions"
        raise checks.fail(part, f"{value.kind} with {described}", expected)
    return codes


def _tried(part: str, value: Any, expected: str, function: Callable[..., Any], *inputs: Tensor) -> Any:
    """What a user's own part gives; whatever it raises is a line that names the part. No generator is moved."""
    module = function if isinstance(function, nn.Module) else nn.Module()
    try:
        with evaluating(module, gradients=True), torch.no_grad(), preserved_rng([torch.device("cpu")]):
            return function(*inputs)
    except checks.InputError:
        raise
    except Exception as error:  # a user's own part may raise anything
        raise checks.fail(part, str(Part.of(value)), f"{expected} ({type(error).__name__}: {error})") from error


def _check_densities(spec: Spec, p: dist.TorchDistribution, q: dist.TorchDistribution) -> None:
    """Checks that p(z) has a density, whose support contains that of q(z|x); else the KL is infinite."""
    if isinstance(p, Implicit):
        expected = "one that has a density; the model `adversarial` alone takes a prior that is only sampled"
        raise checks.fail("prior", str(spec.prior), expected)
    if _reaches_far(q) and not _reaches_far(p):
        expected = f"one within the support of the prior {spec.prior}: the KL of any other to it is infinite"
        raise checks.fail("posterior", str(spec.posterior), expected)


def _reaches_far(q: dist.TorchDistribution) -> bool:
    """Whether codes far from 0, on either side, are in the support, as if it is unbounded."""
    support, far = q.support, torch.full(q.event_shape, 1e4)
    return support is None or all(bool(support.check(z).all()) for z in (far, -far))
