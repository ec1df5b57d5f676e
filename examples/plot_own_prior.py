"""
A prior of your own: a mixture of normals
=========================================

Under a standard normal prior the codes of all digits share a single mode. A mixture with learned components lets the
codes form clusters. A prior is a module whose ``forward`` returns a distribution; nothing else changes.
"""

import matplotlib.pyplot as plt
import pyro.distributions as dist
import torch
from torch import nn

from pyro_vae import (
    VAE,
    evaluate,
    fit,
    latent,
    likelihoods,
    load_data,
    networks,
    plots,
    posteriors,
    priors,
)

train, test = load_data("digits")


class Mixture(nn.Module):
    """p(z) = sum_k w_k N(z; m_k, diag s_k^2), all learned."""

    def __init__(self, latent_dim, components=10):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(
            torch.randn(components, latent_dim, generator=torch.Generator().manual_seed(0))
        )
        self.log_scale = nn.Parameter(torch.zeros(components, latent_dim))

    def forward(self):
        parts = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.logits), parts)


# %%
# The same VAE with either prior.
def trained(prior):
    torch.manual_seed(0)
    posterior = posteriors.DiagonalNormal(2)
    encoder = networks.mlp_encoder(train.shape, posterior.num_parameters, activation=nn.ReLU)
    decoder = networks.mlp_decoder(2, train.shape, activation=nn.ReLU)
    vae = VAE(encoder, decoder, prior, likelihoods.Bernoulli(), posterior)
    fit(vae, train, epochs=60, batch_size=64, lr=3e-3, binarization="threshold")
    return vae


models = {
    "standard normal": trained(priors.StandardNormal(2)),
    "mixture of 10": trained(Mixture(2)),
}
for name, vae in models.items():
    metrics = evaluate(vae, test, binarization="threshold")
    print(
        f"{name:16} ELBO {metrics.elbo_nats:.2f} ± {metrics.elbo_se:.2f}, KL {metrics.kl_per_sample:.2f} nats"
    )

# %%
# The density of each prior, with the codes of the test images.
figure, panels = plt.subplots(1, 2, figsize=(9.5, 4.5), layout="constrained")
for axes, (name, vae) in zip(panels, models.items(), strict=True):
    codes = latent.codes(vae, test)
    limit = codes.abs().max().item() * 1.05
    axis = torch.linspace(-limit, limit, 200)
    second, first = torch.meshgrid(axis, axis, indexing="ij")
    with torch.no_grad():
        density = vae.prior().log_prob(torch.stack([first, second], -1)).exp()
    axes.contourf(axis, axis, density, levels=15, cmap="Greys")
    for label in range(10):
        chosen = codes[test.labels == label]
        axes.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=10,
            color=plots.COLOURS[label],
            marker=plots.MARKERS[label],
        )
    axes.set_title(f"{name}: prior (grey) and codes")
    axes.set_xlabel("$z_1$")
    axes.set_ylabel("$z_2$")
    axes.set_aspect("equal")

# %%
# Samples from the mixture.
samples = plots.image_grid(
    latent.prior_samples(models["mixture of 10"], 40), "Samples, mixture prior", columns=10
)
