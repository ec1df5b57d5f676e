"""A posterior, a prior, a network and a whole model, for the page "Your own parts"."""

import pyro.distributions as dist
import torch
from pyro.distributions import transforms
from torch import nn

from pyro_vae import VAE, likelihoods, networks, posteriors, priors


class Radial(nn.Module):
    """A normal posterior carried through radial layers (Rezende and Mohamed, 2015)."""

    def __init__(self, latent_dim, layers=2):
        super().__init__()
        self.base = posteriors.DiagonalNormal(latent_dim)
        self.num_parameters = self.base.num_parameters  # of the encoder, for each image
        self.layers = nn.ModuleList(transforms.Radial(latent_dim) for _ in range(layers))

    def forward(self, parameters):
        return dist.TransformedDistribution(self.base(parameters), list(self.layers))


class Mixture(nn.Module):
    """A prior: a mixture of normals, with weights, means and scales that are learned."""

    def __init__(self, latent_dim, components=10):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self):
        normals = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), normals)


class Narrow:
    """A network: an encoder and a decoder with dropout."""

    def __init__(
        self, image_shape, num_outputs, latent_dim, decoded_shape, width=64, dropout=0.1
    ):
        self.encoder = nn.Sequential(
            nn.Flatten(),
            nn.LazyLinear(width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, num_outputs),
        )
        self.encoder(torch.zeros(1, *image_shape))  # LazyLinear now knows its size
        self.decoder = networks.mlp_decoder(latent_dim, decoded_shape, (width,))


def linear(image_shape, latent_dim):
    """A model: a VAE without hidden layers."""
    q = posteriors.DiagonalNormal(latent_dim)
    encoder = networks.mlp_encoder(image_shape, q.num_parameters, hidden=())
    decoder = networks.mlp_decoder(latent_dim, image_shape, hidden=())
    return VAE(encoder, decoder, priors.StandardNormal(latent_dim), likelihoods.Bernoulli(), q)
