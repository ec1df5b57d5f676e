"""
Codes in the shape of any prior: adversarial autoencoders
=========================================================

An adversarial autoencoder draws the codes of all images together to a prior that need only be sampled: a ring of
normals, a spiral, or one that is learned. Theory: chapter 15.
"""

import math

import matplotlib.pyplot as plt
import torch

from pyro_vae import Spec, build, fit, latent, load_data, plots
from pyro_vae.evaluation import two_sample_test

train, test = load_data("digits")


def trained(model, prior, latent_dim, epochs):
    spec = Spec(
        model=model,
        prior=prior,
        latent_dim=latent_dim,
        hidden=(200,),
        network={"kind": "mlp", "activation": "relu"},
        binarization="threshold",
        optimizer={"kind": "adam", "betas": (0.5, 0.9)},
        schedule="cosine",
        batch_size=64,
        epochs=epochs,
    )
    net = build(spec)
    fit(net, train, progress=False, compile="capture")
    return net


# The shapes are strict, so the discriminator has more weight, and steps further than the encoder.
strict = {
    "kind": "adversarial",
    "discriminator": (200, 200),
    "weight": 30.0,
    "gradient_penalty": 0.03,
    "discriminator_rate": 4.0,
}
models = {prior: trained(strict, prior, 2, epochs=85) for prior in ("mixture", "swiss-roll")}

# %%
# Draws of each prior, and the codes of the training images by class. Another classifier, which took no
# part in the training, tells the codes from draws of the prior; it is right half of the time where the
# two are distributed alike.
# The shapes are approached here, in few steps; 60,000 images of MNIST come much closer.
figure, panels = plt.subplots(2, 2, figsize=(9, 8), layout="constrained")
for column, (prior, model) in zip(panels.T, models.items(), strict=True):
    draws, codes = model.prior().sample((len(train),)), latent.codes(model, train)
    result = two_sample_test(codes, draws)
    print(f"{prior:11} two-sample accuracy {result.accuracy:.2f} ± {result.accuracy_se:.2f}")
    column[0].scatter(*draws.T, s=4, color="0.5")
    for label in range(10):
        chosen = codes[train.labels == label]
        style = {"color": plots.COLOURS[label], "marker": plots.MARKERS[label]}
        column[1].scatter(*chosen.T, s=10, linewidths=0.5, label=str(label), **style)
    column[0].set_title(f"draws of {prior}")
    column[1].set_title("codes of the training images")
    for axes in column:
        axes.set_aspect("equal", adjustable="datalim")
figure.legend(*panels[1, 0].get_legend_handles_labels(), loc="outside right center", title="class")

# %%
# Decoded along the spiral, from its inner end to the outer one.
angle = torch.linspace((1.5 * math.pi) ** 2, (4.5 * math.pi) ** 2, 40).sqrt()
on_roll = angle[:, None] / 5 * torch.stack([angle.cos(), angle.sin()], 1)
along = plots.image_grid(
    latent.decode_codes(models["swiss-roll"], on_roll), "Along the swiss roll, decoded", columns=10
)

# %%
# Where no prior is at hand, it is learned: noise through a network, drawn to the codes while these are
# drawn to it.
learned = trained("adversarial", "generator", latent_dim=8, epochs=40)
samples = plots.image_grid(latent.prior_samples(learned, 40), "Samples, learned prior", columns=10)
