"""
Debiasing by the density of codes
=================================

Three of a hundred training images are shifted to the right, and nobody has noted which. A classifier is bad at shifted
images. A VAE's codes find them: images whose codes are rare are drawn more often in the classifier's training. What
does it gain, and what do the other images pay?
"""

import argparse
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from sklearn.linear_model import LogisticRegression

from pyro_vae import Spec, build, fit, load_data, plots
from pyro_vae.latent import codes
from pyro_vae.uses.debias import density_weights

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)
train, test = train.draw(5000), test.draw(2000)


def shifted(pixels):
    """A quarter of the width to the right."""
    columns = pixels.shape[-1] // 4
    return torch.nn.functional.pad(pixels, (columns, 0))[..., : pixels.shape[-1]]


generator = torch.Generator().manual_seed(0)
rare = torch.randperm(len(train), generator=generator) < round(0.03 * len(train))
pixels = torch.where(rare[:, None, None, None], shifted(train.pixels), train.pixels)
train = replace(train, pixels=pixels)

# %%
# The VAE is trained on all images alike. Its codes have six dimensions.
vae = build(
    Spec(latent_dim=6, network={"kind": "mlp", "activation": "relu"}, binarization="dynamic")
)
fit(vae, train, epochs=60 if arguments.dataset == "digits" else 10, batch_size=64, lr=2e-3)
z = codes(vae, train)
weights = density_weights(z)
share = weights[rare].sum().item()
print(f"shifted: {rare.double().mean():.3f} of the images, {share:.3f} of the draws")

# %%
# The images with the largest and the smallest weights, and the distribution of all weights.
order = weights.argsort(descending=True)
rows = {
    "largest weights": train.pixels[order[:14]],
    "smallest weights": train.pixels[order[-14:]],
}
groups = {"shifted": (rare.double().mean().item(), share)}
groups["others"] = tuple(1 - value for value in groups["shifted"])
pictures = plots.sampling_weights(weights, rows, groups, "Training images by rarity of their code")

# %%
# A classifier, trained with weights of several smoothings, by the maximum over dimensions and by their product. The
# loss of each image is multiplied by its weight, which is the mean over draws.
x, y = train.as_float().flatten(1).numpy(), train.labels.numpy()
images = {"shifted": shifted(test.pixels), "others": test.pixels}


def recalls(w):
    """The share of test images that are classified correctly, shifted and as they are."""
    classifier = LogisticRegression(max_iter=200, tol=1e-3).fit(x, y, (w * len(w)).numpy())
    return [
        classifier.score((each / 255).flatten(1).numpy(), test.labels) for each in images.values()
    ]


smoothings = [1.0, 0.1, 0.03, 0.01, 0.001]
curves = {
    combine: [recalls(density_weights(z, smoothing=alpha, combine=combine)) for alpha in smoothings]
    for combine in ("max", "product")
}
plain = recalls(torch.full((len(train),), 1 / len(train)))
oracle = recalls(torch.where(rare, 0.5 / rare.sum(), 0.5 / (~rare).sum()).double())

# %%
# Each point is a smoothing. To the right the other images pay less; upwards the shifted ones gain more. The oracle
# knows which images are shifted, and draws as many of them as of the others.
figure, axes = plt.subplots(figsize=(6.5, 4.2), layout="constrained")
for (name, points), marker, colour in zip(curves.items(), "os", plots.COLOURS, strict=False):
    gain, cost = zip(*points, strict=True)
    axes.plot(cost, gain, marker=marker, color=colour, label=f"density, {name}")
axes.plot(plain[1], plain[0], "k*", markersize=12, label="all alike")
axes.plot(oracle[1], oracle[0], "kD", markersize=7, label="oracle")
axes.set_xlabel("accuracy on test images as they are")
axes.set_ylabel("accuracy on shifted test images")
axes.legend(frameon=False)
axes.spines[["top", "right"]].set_visible(False)
for name, (gain, cost) in {"all alike": plain, "oracle": oracle}.items():
    print(f"{name}: shifted {gain:.3f}, others {cost:.3f}")
for combine, points in curves.items():
    for alpha, (gain, cost) in zip(smoothings, points, strict=True):
        print(f"{combine}, smoothing {alpha:g}: shifted {gain:.3f}, others {cost:.3f}")
