"""
How many latent dimensions?
===========================

One image per digit, reconstructed by VAEs with 2, 5, 10 and 50 latent dimensions: the first experiment of document 002.
The number of active units says how many of the dimensions are used.
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
one_of_each = [int((test.labels == label).nonzero()[0]) for label in test.labels.unique().tolist()]
originals = (test.as_float()[one_of_each] >= 0.5).float()

# %%
sheets = {"original": originals}
for d in (2, 5, 10, 50):
    vae = build(Spec(dataset=arguments.dataset, latent_dim=d, hidden=(200,)))
    fit(
        vae,
        train,
        epochs=40 if arguments.dataset == "digits" else 20,
        batch_size=64,
        lr=2e-3,
        binarization="threshold",
    )
    metrics = evaluate(vae, test, binarization="threshold")
    with torch.no_grad():
        sheets[f"d = {d}"] = vae.reconstruct(originals.to(next(vae.parameters()))).cpu()
    print(
        f"d = {d:2}: reconstruction {metrics.reconstruction_nats:6.2f} ± {metrics.reconstruction_se:.2f} nats, "
        f"KL {metrics.kl_per_sample:5.2f}, ELBO {metrics.elbo_nats:.2f}, {metrics.active_units} active units"
    )

# %%
figure, panels = plt.subplots(len(sheets), 1, figsize=(8, 5), layout="constrained")
for axes, (name, images) in zip(panels, sheets.items(), strict=True):
    axes.imshow(plots.tile(images, len(images)).squeeze(-1), cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_ylabel(name, rotation=0, ha="right", va="center")
