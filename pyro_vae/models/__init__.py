"""Graphical models, a file each, and `build`, which makes one from a `Spec`."""

from __future__ import annotations

import torch

from pyro_vae._utils import checks
from pyro_vae.models.autoencoder import Autoencoder
from pyro_vae.models.base import check_dequantize, check_model
from pyro_vae.models.composition import compose, warn_if_ignored
from pyro_vae.models.vae import VAE
from pyro_vae.models.vector_quantized import VectorQuantized
from pyro_vae.programs.densities import groups_lacking, has_parts
from pyro_vae.spec import Spec

__all__ = [
    "VAE",
    "Autoencoder",
    "Model",
    "build",
    "check_evaluable",
    "model_of",
    "require_prior",
]

Model = VAE | Autoencoder

_IMAGE_SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}


def build(spec: Spec) -> Model:
    """The untrained model of a `Spec`, with weights drawn from `spec.seed`; the global generators are not changed.

    Parts of a user's own are imported, and tried once on a black image. A warning names the parts that a model of a
    user's own does not take. The spec is kept as `model.spec`, so that :func:`pyro_vae.save` can store it
    beside the weights.

    Raises:
        InputError: the data set is a user's own and `spec.image_shape` is not given, a part refuses its options or that
            shape, or the parts do not go together.

    >>> build(Spec(dataset="mnist", network="conv", latent_dim=16)).sample(2).shape
    torch.Size([2, 1, 28, 28])
    """
    if not isinstance(spec, Spec):
        raise checks.fail("spec", spec, "a Spec")
    model = model_of(spec)
    warn_if_ignored(spec)  # of a spec that the model does not refuse
    return model


def model_of(spec: Spec) -> Model:
    """As :func:`build`, without its warning: what a spec on disk says is as it was trained."""
    shape = spec.image_shape or _IMAGE_SHAPES.get(spec.dataset)
    if shape is None:
        raise checks.fail("image_shape", None, f"(channels, height, width) of the images of {spec.dataset}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(spec.seed)
        model: Model = compose(spec, shape)
    check_model(model, "model", "guide")
    check_dequantize(model, spec.dequantize, spec.binarization)
    model.spec = spec
    return model


def require_prior(model: Model, *, density: bool = True) -> VAE:
    """Checks that `model` has a prior, and densities of z unless `density` is False: then draws suffice.

    An autoencoder has no prior, so neither samples nor evidence; an adversarial one has samples alone.
    """
    if isinstance(model, Autoencoder):
        raise checks.fail("model", type(model).__name__, _needed_for("samples", model))
    if density and "evidence" in groups_lacking(model):
        raise checks.fail("model", type(model).__name__, _needed_for("evidence", model))
    check_model(model, "encode", "decode", "prior")
    return model


def check_evaluable(model: object, group: str = "") -> None:
    """Checks that `model` is a module that can be evaluated: a pair of programs; and that it has metrics of `group`."""
    check_model(model, *(() if has_parts(model) else ("model", "guide")))
    if group in groups_lacking(model):
        raise checks.fail("model", type(model).__name__, _needed_for(group, model))


def _needed_for(group: str, model: object) -> str:
    """What kind of model has metrics of the group, and where to turn with this one, which has none."""
    if group == "samples" and hasattr(model, "complete"):
        return "a model that draws whole images; this one is given a part of an image: model.complete(x) draws the rest"
    if group == "samples" and isinstance(model, Autoencoder):
        return "a model with a prior; a deterministic autoencoder has none"
    if group == "samples":
        return "a model with a prior"
    if isinstance(model, VectorQuantized):
        return "a model whose guide has a density; this one's is a point, whose weight is the ELBO (metrics: bounds)"
    return f"a model with {'a density of its codes' if group == 'evidence' else group}"
