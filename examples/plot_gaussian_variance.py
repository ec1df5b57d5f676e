"""
The variance of a Gaussian likelihood
=====================================

Document 003 writes the loss as C times the squared error plus the KL, with C = 1/(2c), so that the variance c weighs
the squared error against the KL. Here are four fixed variances, and one that is learned.
"""

import argparse

import matplotlib.pyplot as plt
import torch

from pyro_vae import Spec, build, evaluate, fit, load_data, plots

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)
originals = test.as_float()[:10]

# %%
sheets = {"original": originals}
for c in (0.5, 0.1, 0.02, 0.004, None):
    fields = (
        {"likelihood": {"kind": "gaussian", "variance": c}}
        if c
        else {"likelihood": {"kind": "gaussian-learned", "variance": 0.05}}
    )
    vae = build(
        Spec(
            dataset=arguments.dataset,
            latent_dim=8,
            network={"kind": "mlp", "activation": "relu"},
            **fields,
        )
    )
    fit(vae, train, epochs=40, batch_size=64, lr=2e-3)
    metrics, learned = evaluate(vae, test), vae.likelihood.log_variance.exp().item()
    name = f"c = {c}" if c else f"learned: {learned:.4f}"
    with torch.no_grad():
        sheets[name] = vae.reconstruct(originals.to(next(vae.parameters()))).cpu()
    print(
        f"{name:16} MSE {metrics.mse_per_pixel:.4f} (sampled {metrics.mse_per_pixel_sampled:.4f}), "
        f"KL {metrics.kl_per_sample:5.2f} nats, ELBO {metrics.elbo_nats:7.2f}"
    )

# %%
# The ELBO is highest where c is learned; of these numbers, only the ELBO is comparable across c.
figure, panels = plt.subplots(len(sheets), 1, figsize=(8.5, 5.6), layout="constrained")
for axes, (name, images) in zip(panels, sheets.items(), strict=True):
    axes.imshow(plots.tile(images, len(images)).squeeze(-1), cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_ylabel(name, rotation=0, ha="right", va="center")
