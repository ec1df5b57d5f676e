"""
Outliers by eight scores
========================

Documents 002 and 003 name outlier detection as a use of VAEs: outliers are images of low log p(x). Here a model of
digits scores test digits, digits upside down, with noise, with pixels in random order, and images of a
single stroke, simpler than digits. Each score is a plain function, and higher means more outlying.
"""

import argparse
from dataclasses import replace

import matplotlib.pyplot as plt
import torch

from pyro_vae import Spec, build, fit, load_data, plots
from pyro_vae.uses.detection import detection, flagged_share, roc, threshold
from pyro_vae.uses.outlier_table import outlier_table
from pyro_vae.uses.outliers import perturbed, pixel_terms

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)
settings = {"binarization": "threshold", "batch_size": 64, "lr": 2e-3, "progress": False}
settings["epochs"] = 40 if arguments.dataset == "digits" else 20


def trained(images, seed=0):
    network = {"kind": "mlp", "activation": "relu"}
    model = build(Spec(dataset=arguments.dataset, latent_dim=8, network=network, seed=seed))
    fit(model, images, **settings)
    return model


vae, another_seed = trained(train), trained(train, seed=1)
background = trained(perturbed(train, 0.2))

# %%
# The kinds, as binary pixels.
inliers, held_out = test.split(0.5)
inliers = inliers.take(slice(0, 150))
generator = torch.Generator().manual_seed(0)
binary = (inliers.pixels > 127).to(torch.uint8) * 255
flips = torch.rand(binary.shape, generator=generator) < 0.1
order = torch.randperm(binary[0].numel(), generator=generator)
middle = torch.zeros_like(binary)
middle[..., binary.shape[-1] // 2] = 255
kinds = {
    "test images": binary,
    "upside down": binary.flip(2),
    "10% of pixels flipped": torch.where(flips, 255 - binary, binary),
    "pixels in random order": binary.flatten(1)[:, order].reshape(binary.shape),
    "one stroke": middle & torch.where(flips, 0, 255).to(torch.uint8),
}
sheet = plots.image_grid(
    torch.cat([kind[:10] for kind in kinds.values()]) / 255, "Five kinds", columns=10
)

# %%
# All scores of all kinds but regret, which fits q to each image and takes longest.
sets = {name: replace(inliers, pixels=kind) for name, kind in kinds.items()}
names = ["elbo", "nll", "reconstruction", "complexity", "typicality", "codes", "ratio", "waic"]
table = outlier_table(
    vae,
    sets | {"held out": held_out},
    names,
    held_out="held out",
    train=train,
    background=background,
    ensemble=[another_seed],
    binarization="threshold",
    k=100,
)
others = list(kinds)[1:]
print(f"{'AUROC':16}" + "".join(f"{name:>24}" for name in others))
for name, scores in table.scores.items():
    areas = [detection(scores["test images"], scores[kind], resamples=100) for kind in others]
    print(f"{name:16}" + "".join(f"{area.auroc:24.3f}" for area in areas))

# %%
# The ROC curves for digits upside down.
curves = plots.roc_curves(
    {
        name: roc(scores["test images"], scores["upside down"])
        for name, scores in table.scores.items()
    },
    "Digits against digits upside down",
)

# %%
# A threshold from held-out images, and how much it flags.
limit = threshold(table.scores["nll"]["held out"], 0.05)
figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
for index, name in enumerate(kinds):
    values = table.scores["nll"][name]
    share = flagged_share(limit.flags(values)).share
    axes.hist(
        values.numpy(),
        bins=30,
        alpha=0.6,
        color=plots.COLOURS[index],
        label=f"{name}: {share:.0%} flagged",
    )
axes.axvline(limit.value, color="black", linestyle="--")
axes.set_xlabel(r"$-\log p(x)$, nats")
axes.set_ylabel("images")
axes.legend()

# %%
# Which pixels: the terms of log p(x|z), on one scale.
some = {name: sets[name].take(slice(0, 10)) for name in ("test images", "10% of pixels flipped")}
terms = {name: pixel_terms(vae, images, binarization="threshold") for name, images in some.items()}
most = max(values.max() for values in terms.values())
pixels = plots.image_rows(
    {
        name: values
        for kind, images in some.items()
        for name, values in {kind: images.as_float(), f"terms, {kind}": terms[kind] / most}.items()
    },
    title="-log p(x|z) of each pixel",
)
