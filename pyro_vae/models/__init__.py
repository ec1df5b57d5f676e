"""Graphical models, one a file, and `build`, which composes one from a `Spec`."""

from __future__ import annotations

import torch
from torch import nn

from pyro_vae import likelihoods, networks, posteriors, priors
from pyro_vae._utils import checks
from pyro_vae.models.autoencoder import Autoencoder
from pyro_vae.models.base import check_model
from pyro_vae.models.vae import VAE
from pyro_vae.models.vae_prior_at_start import PriorAtStart
from pyro_vae.spec import Spec

__all__ = ["VAE", "Autoencoder", "Model", "build", "require_prior"]

Model = VAE | Autoencoder
Likelihood = (
    likelihoods.Bernoulli
    | likelihoods.ContinuousBernoulli
    | likelihoods.Gaussian
    | likelihoods.DiscretizedLogistic
    | likelihoods.DiscretizedGaussian
)

_IMAGE_SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
_ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU, "softplus": nn.Softplus}
_PRIORS = {"standard-normal": priors.StandardNormal, "laplace": priors.Laplace, "uniform": priors.Uniform}
_POSTERIORS: dict[str, type[posteriors.MeanField]] = {
    "normal": posteriors.DiagonalNormal,
    "laplace": posteriors.Laplace,
    "uniform": posteriors.Uniform,
}
_FLOWS: dict[str, type[posteriors.Flow]] = {
    "planar": posteriors.Planar,
    "conditional-planar": posteriors.ConditionalPlanar,
}


def build(spec: Spec) -> Model:
    """The untrained model of a `Spec`, its weights drawn from `spec.seed`; the global generators stay as they were.

    The spec is kept as `model.spec`, so that :func:`pyro_vae.save` can store it beside the weights.

    Raises:
        InputError: the data set is a user's own and `spec.image_shape` is not given, or the network does not fit that
            shape.

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
        model: Model = _autoencoder(spec, shape) if spec.model == "autoencoder" else _vae(spec, shape)
    model.spec = spec
    return model


def require_prior(model: Model) -> VAE:
    """`model`, where it has a prior; an autoencoder has none, so no samples and no evidence."""
    if isinstance(model, Autoencoder):
        raise checks.fail("model", "Autoencoder", "a model with a prior; a deterministic autoencoder has none")
    check_model(model, "encode", "decode", "prior")
    return model


def _vae(spec: Spec, shape: tuple[int, ...]) -> VAE:
    posterior, likelihood = _posterior(spec), _likelihood(spec)
    encoder, decoder = _networks(spec, shape, posterior.num_parameters, likelihood.parameters_per_pixel)
    kind = PriorAtStart if spec.model == "vae-prior-at-start" else VAE
    return kind(encoder, decoder, _PRIORS[spec.prior](spec.latent_dim), likelihood, posterior)


def _autoencoder(spec: Spec, shape: tuple[int, ...]) -> Autoencoder:
    likelihood = _likelihood(spec)
    encoder, decoder = _networks(spec, shape, spec.latent_dim, likelihood.parameters_per_pixel)
    return Autoencoder(encoder, decoder, likelihood)


def _networks(
    spec: Spec, shape: tuple[int, ...], num_outputs: int, parameters_per_pixel: int
) -> tuple[nn.Module, nn.Module]:
    decoded = (shape[0] * parameters_per_pixel, *shape[1:])
    if spec.network == "mlp":
        activation = _ACTIVATIONS[spec.activation or "tanh"]
        encoder = networks.mlp_encoder(shape, num_outputs, spec.hidden, activation)
        decoder = networks.mlp_decoder(spec.latent_dim, decoded, spec.hidden[::-1], activation)
    else:
        activation = _ACTIVATIONS[spec.activation or "relu"]
        encoder = networks.conv_encoder(shape, num_outputs, spec.channels, spec.hidden, activation)
        decoder = networks.conv_decoder(spec.latent_dim, decoded, spec.channels, spec.hidden[::-1], activation)
    if spec.initialization == "he":
        networks.initialize_he(encoder)
        networks.initialize_he(decoder)
    return encoder, decoder


def _likelihood(spec: Spec) -> Likelihood:
    if spec.likelihood == "bernoulli":
        return likelihoods.Bernoulli()
    if spec.likelihood == "continuous-bernoulli":
        return likelihoods.ContinuousBernoulli()
    if spec.likelihood == "discretized-logistic":
        return likelihoods.DiscretizedLogistic(spec.components)
    if spec.likelihood == "discretized-gaussian":
        return likelihoods.DiscretizedGaussian()
    return likelihoods.Gaussian(
        spec.variance, learned=spec.likelihood == "gaussian-learned", linear=spec.likelihood == "gaussian-linear"
    )


def _posterior(spec: Spec) -> posteriors.MeanField | posteriors.Flow:
    if spec.posterior in _FLOWS:
        return _FLOWS[spec.posterior](spec.latent_dim, spec.flow_layers)
    return _POSTERIORS[spec.posterior](spec.latent_dim)
