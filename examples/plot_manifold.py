"""
The manifold of a 2-d latent space
==================================

Decode a 20 x 20 grid of codes: evenly from -3 to 3, as in document 002, or through the inverse normal CDF, as in
document 003, so that each picture stands for an equal share of the prior. Then the codes of 24 images per digit.
"""

import argparse

import torch

from pyro_vae import Spec, build, fit, latent, load_data, plots

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)
vae = build(Spec(dataset=arguments.dataset, latent_dim=2, hidden=(200,)))
fit(
    vae,
    train,
    epochs=80 if arguments.dataset == "digits" else 20,
    batch_size=64,
    lr=3e-3,
    binarization="threshold",
)

# %%
# Evenly spaced. The corners are codes of low prior density.
even = plots.manifold(
    latent.manifold(vae, size=20, limit=3.0), title="Codes on an even grid from -3 to 3"
)

# %%
# Equal shares of the prior.
quantiles = plots.manifold(
    latent.manifold(vae, size=20, spacing="quantiles"), spacing="quantiles", title="Quantiles"
)

# %%
# 24 test images of each digit.
chosen = torch.cat([(test.labels == label).nonzero()[:24, 0] for label in test.labels.unique()])
images = test.take(chosen)
scatter = plots.latent_scatter(
    latent.to_plane(latent.codes(vae, images)),
    images.labels,
    images.class_names,
    "Posterior means, 24 per class",
)
