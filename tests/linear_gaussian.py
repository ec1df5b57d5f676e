"""A linear-Gaussian VAE, whose evidence and posterior are known in closed form."""

import pyro
import torch
from torch import nn

from pyro_vae import VAE, posteriors, priors


def linear_gaussian(d=2, pixels=4, c=0.1):
    """p(z) = N(0, I), p(x|z) = N(Wz + b, cI): log p(x) is known."""

    class Linear(nn.Module):
        data_range = "unit interval"

        def forward(self, parameters):
            return pyro.distributions.Normal(parameters, c**0.5).to_event(3)

    torch.manual_seed(3)
    # Orthogonal columns: the exact posterior is then diagonal (Lucas et al., 2019).
    w = torch.linalg.qr(torch.randn(pixels, d)).Q * torch.tensor([0.8, 1.3])
    decoder = nn.Sequential(nn.Linear(d, pixels), nn.Unflatten(-1, (1, 2, 2)))
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 2 * d))
    variance = c / (w.square().sum(0) + c)
    with torch.no_grad():
        decoder[0].weight.copy_(w)
        # E[z|x] = (W'W + cI)^-1 W'(x - b), Var[z|x] = c (W'W + cI)^-1
        gain = (variance / c)[:, None] * w.T
        encoder[1].weight.copy_(torch.cat([gain, torch.zeros(d, pixels)]))
        encoder[1].bias.copy_(torch.cat([-gain @ decoder[0].bias, variance.log()]))
    vae = VAE(encoder, decoder, priors.StandardNormal(d), Linear(), posteriors.DiagonalNormal(d))
    evidence = torch.distributions.MultivariateNormal(decoder[0].bias.detach(), w @ w.T + c * torch.eye(pixels))
    return vae, evidence
