"""
The posterior of a single image
===============================

The encoder maps an image to a distribution q(z|x). Document 001 shows its density with a draw from it, and a digit
decoded from many draws. Here the exact posterior p(z|x), computed on a grid, is shown beside it.
"""

import argparse

import matplotlib.pyplot as plt
import torch

from pyro_vae import Spec, build, fit, load_data, plots

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)
vae = build(
    Spec(
        dataset=arguments.dataset,
        latent_dim=2,
        hidden=(200,),
        network={"kind": "mlp", "activation": "relu"},
    )
)
fit(
    vae,
    train,
    epochs=60 if arguments.dataset == "digits" else 20,
    batch_size=64,
    lr=2e-3,
    binarization="threshold",
)

# %%
# q(z|x) of an image, p(z|x) on a grid around its mean, and a draw from q.
x = (test.as_float()[4:5] >= 0.5).float()
with torch.no_grad():
    q = vae.encode(x)
    torch.manual_seed(0)
    draw = q.sample()[0]
    reach = 5 * q.stddev.max().item()
    axes_of = [torch.linspace(m - reach, m + reach, 151) for m in q.mean[0].tolist()]
    grid = torch.stack(torch.meshgrid(*axes_of, indexing="xy"), -1).reshape(-1, 2)
    joint = vae.decode(grid).log_prob(x) + vae.prior().log_prob(grid)
    densities = {
        "q(z|x), the encoder's": q.log_prob(grid).exp(),
        "p(z|x), exact": (joint - joint.max()).exp(),
    }

figure, panels = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", width_ratios=[1, 2, 2])
panels[0].imshow(x[0, 0], cmap="gray")
panels[0].set_axis_off()
panels[0].set_title("x")
for axes, (name, density) in zip(panels[1:], densities.items(), strict=True):
    axes.pcolormesh(
        *axes_of, density.reshape(151, 151), cmap="Blues", shading="auto", rasterized=True
    )
    axes.plot(*draw.tolist(), "ko", markersize=6)
    axes.set_title(name)
    axes.set_xlabel("$z_1$")
    axes.set_ylabel("$z_2$")
    axes.set_aspect("equal")

# %%
# Decoded from twenty draws of q(z|x): the images are almost the same.
with torch.no_grad():
    many = vae.decode(q.sample((20,))[:, 0]).mean
decoded = plots.image_grid(many, "One image, decoded from 20 draws of q(z|x)", columns=10)
