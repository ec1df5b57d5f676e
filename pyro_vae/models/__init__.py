"""Graphical models, a file each, and `build`, which makes one from a `Spec`."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import nn

from pyro_vae import parts
from pyro_vae._utils import checks
from pyro_vae.models.autoencoder import Autoencoder
from pyro_vae.models.base import check_dequantize, check_model
from pyro_vae.models.vae import VAE
from pyro_vae.spec import Spec

__all__ = ["VAE", "Autoencoder", "Model", "build", "check_evaluable", "missing_methods", "require_prior"]

Model = VAE | Autoencoder

_IMAGE_SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


def build(spec: Spec) -> Model:
    """The untrained model of a `Spec`, with weights drawn from `spec.seed`; the global generators are not changed.

    Parts of a user's own are imported. The spec is kept as `model.spec`, so that :func:`pyro_vae.save` can store it
    beside the weights.

    Raises:
        InputError: the data set is a user's own and `spec.image_shape` is not given, a part refuses its options or that
            shape, or the parts do not go together.

    >>> build(Spec(dataset="mnist", network="conv", latent_dim=16)).sample(2).shape
    torch.Size([2, 1, 28, 28])
    """
    if not isinstance(spec, Spec):
        raise checks.fail("spec", spec, "a Spec")
    shape = spec.image_shape or _IMAGE_SHAPES.get(spec.dataset)
    if shape is None:
        raise checks.fail("image_shape", None, f"(channels, height, width) of the images of {spec.dataset}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.seed)
        model: Model = _compose(spec, shape)
    check_model(model, "model", "guide")
    check_dequantize(model, spec.dequantize, spec.binarization)
    model.spec = spec
    return model


def require_prior(model: Model) -> VAE:
    """Checks that `model` has a prior; an autoencoder has none, so neither samples nor evidence."""
    if isinstance(model, Autoencoder):
        raise checks.fail("model", "Autoencoder", "a model with a prior; a deterministic autoencoder has none")
    check_model(model, "encode", "decode", "prior")
    return model


def missing_methods(model: nn.Module) -> list[str]:
    """The methods that evaluation and figures need and that `model` lacks; an autoencoder needs no prior."""
    needed = ("encode", "decode") if isinstance(model, Autoencoder) else ("encode", "decode", "prior")
    return [name for name in needed if not callable(getattr(model, name, None))]


def check_evaluable(model: object) -> None:
    """Checks that `model` is a module with the methods that an evaluation needs."""
    check_model(model, *(missing_methods(model) if isinstance(model, nn.Module) else ("encode", "decode", "prior")))


def _compose(spec: Spec, shape: tuple[int, ...]) -> Any:
    """The model of a spec, made of the parts that its class takes."""
    asked = parts.arguments("model", spec.model)
    sizes: dict[str, Any] = {"image_shape": shape, "latent_dim": spec.latent_dim}
    made: dict[str, Any] = {}
    for name in ("posterior", "likelihood"):
        if name in asked:
            made[name] = parts.construct(name, getattr(spec, name), **sizes)
    if "encoder" in asked or "decoder" in asked:
        channels = shape[0] * getattr(made.get("likelihood"), "parameters_per_pixel", 1)
        num_outputs = made["posterior"].num_parameters if "posterior" in made else spec.latent_dim
        decoded = {"num_outputs": num_outputs, "decoded_shape": (channels, *shape[1:])}
        network = parts.construct("network", spec.network, hidden=spec.hidden, **sizes, **decoded)
        made |= {"encoder": network.encoder, "decoder": network.decoder}
    if "prior" in asked:
        made["prior"] = parts.construct("prior", spec.prior, **sizes, **made)
    if "prior" in made and "posterior" in made:
        _check_supports(spec, made["prior"](), made["posterior"](torch.zeros(1, made["posterior"].num_parameters)))
    return parts.construct("model", spec.model, spec=spec, **sizes, **made)


def _check_supports(spec: Spec, p: dist.TorchDistribution, q: dist.TorchDistribution) -> None:
    """Checks that the support of p(z) contains that of q(z|x); else the KL is infinite."""
    if _reaches_far(q) and not _reaches_far(p):
        expected = f"one within the support of the prior {spec.prior}: the KL of any other to it is infinite"
        raise checks.fail("posterior", str(spec.posterior), expected)


def _reaches_far(q: dist.TorchDistribution) -> bool:
    """Whether codes far from 0, on either side, are in the support, as if it is unbounded."""
    support, far = q.support, torch.full(q.event_shape, 1e4)
    return support is None or all(bool(support.check(z).all()) for z in (far, -far))
