"""
Inpainting: several ways to fill a hole
=======================================

Draws of the hidden upper halves of digits given the lower ones, and how five methods compare where the truth is known.
The page :doc:`/uses/inpaint` has the equations.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch import nn

from pyro_vae import VAE, Spec, build, fit, likelihoods, load_data, plots, posteriors, priors
from pyro_vae.data import binarize
from pyro_vae.uses.inpaint import METHODS, inpaint
from pyro_vae.uses.masks import mask_of

train, test = load_data("digits")
vae = build(Spec(latent_dim=8, hidden=(200,), binarization="threshold", lr=2e-3, epochs=60))
fit(vae, train, progress=False)
x = binarize(test, "threshold").as_float()[:12]
seen = mask_of("top", len(x), (1, 8, 8))
result = inpaint(vae, x, seen, draws=5)

# %%
# Five draws of each: all end in the same lower half, and differ where it leaves a choice.
rows = {"seen": torch.where(seen, x, 0.5)}
rows |= {f"draw {index + 1}": drawn for index, drawn in enumerate(result.draws)}
sheet = plots.image_rows(
    rows | {"mean": result.mean, "true": x}, title="Digits given their lower half"
)
print(f"{result.effective_samples.mean():.0f} effective samples of 500")


# %%
# A model of two images, of which one pixel is seen that hardly tells them apart; in the second image the
# next pixel is white. Its exact probability is known by integrating over z; a chain starts in the first
# image. Metropolis and pseudo-Gibbs propose codes of the image that the chain has filled in, and so hardly
# ever leave it. Collapsed Metropolis does: the first draw of the prior that lands in the second image takes
# the chain there, and from then on it has fillings of both to propose codes of. Adaptive importance sampling
# proposes codes of fillings, too, and of the prior in each step.
class TwoImages(nn.Module):
    def forward(self, z):
        return ((20 * z).tanh() * torch.tensor([0.6, 5.0, -5.0, 5.0])).reshape(-1, 1, 2, 2)


class Encoder(nn.Module):
    """Codes near those of the image that is seen: q(z|x) with mean -1 or 1."""

    def forward(self, x):
        side = torch.sign(x.flatten(1)[:, [1, 3]].sum(1) - x.flatten(1)[:, 2] - 0.5)
        return torch.stack([side, torch.full_like(side, math.log(0.1))], -1)


two = VAE(
    Encoder(),
    TwoImages(),
    priors.StandardNormal(1),
    likelihoods.Bernoulli(),
    posteriors.DiagonalNormal(1),
)
z = torch.linspace(-6, 6, 20_001)
weight = ((20 * z).tanh() * 0.6).sigmoid() * (-z.square() / 2).exp()
is_white = (5 * (20 * z).tanh()).sigmoid()
exact = (weight * is_white).sum().item() / weight.sum().item()
shares = {}
for method in METHODS:
    drawn = inpaint(
        two,
        torch.ones(1, 1, 2, 2),
        torch.tensor([[True, False], [False, False]]),
        method=method,
        draws=2000,
        codes=10_000,
        steps=150,
        decoded_at_once=100_000,
    ).draws
    shares[method] = drawn[:, 0, 0, 0, 1].mean().item()

figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
labels = [method.replace("-", "-\n") for method in shares]
axes.bar(labels, list(shares.values()), color=plots.COLOURS[0])
axes.axhline(exact, color="black", linestyle="--", label="exact")
axes.set_ylabel("share of the second image")
axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
