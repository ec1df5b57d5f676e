"""
Denoising with a model of the noise
===================================

The posterior mean of clean digits given noisy ones, for three kinds of noise, and what happens where the noise is not
what it was said to be. The page :doc:`/uses/denoise` has the equations.
"""

import matplotlib.pyplot as plt
import torch

from pyro_vae import Spec, build, fit, load_data, plots
from pyro_vae.data import binarize
from pyro_vae.noise import GaussianNoise, noise_of
from pyro_vae.uses.code_posterior import Ascent
from pyro_vae.uses.denoise import denoise
from pyro_vae.uses.image_quality import peak_signal_to_noise

train, test = load_data("digits")
vae = build(Spec(latent_dim=8, hidden=(200,), binarization="threshold", lr=2e-3, epochs=60))
fit(vae, train, progress=False)
x = binarize(test, "threshold").as_float()[:12]

# %%
# Each kind of noise: what was seen, the posterior mean, and the true digits.
torch.manual_seed(0)
rows = {}
for name in ("gaussian:0.6", "salt-and-pepper:0.4", "blur:1.0"):
    y = noise_of(name).corrupt(x)
    denoised = denoise(vae, y, name)
    rows |= {name: y.clamp(0, 1), f"{name}, denoised": denoised.mean}
    before, after = (peak_signal_to_noise(images, x).mean() for images in (y, denoised.mean))
    print(
        f"{name:20} PSNR {before:.1f} dB, denoised {after:.1f} dB, "
        f"{denoised.effective_samples.mean():.0f} effective samples of 200"
    )
sheet = plots.image_rows(rows | {"true": x}, title="Noisy and denoised digits")

# %%
# The posterior mean against two simpler estimates: the reconstruction of the noisy image, which asks an encoder about
# images that it never saw, and the reconstruction after a threshold; and against an encoder that was trained on noise
# of 0.8, which needs no fit to each image. At each level of noise, PSNR of 60 test digits.
many = binarize(test, "threshold").as_float()[:60]
denoising = build(
    Spec(
        model={"kind": "denoising", "noise": "gaussian:0.8"},
        latent_dim=8,
        hidden=(200,),
        binarization="threshold",
        lr=2e-3,
        epochs=60,
    )
)
fit(denoising, train, progress=False)
levels = (0.4, 0.6, 0.8, 1.0, 1.2)
quality = {
    "noisy": [],
    "reconstruction": [],
    "reconstruction after threshold": [],
    "posterior mean": [],
    "encoder trained on noise of 0.8": [],
}
for level in levels:
    y = GaussianNoise(level).corrupt(many)
    with torch.no_grad():
        estimates = {
            "noisy": y,
            "reconstruction": vae.reconstruct(y),
            "reconstruction after threshold": vae.reconstruct((y > 0.5).float()),
            "posterior mean": denoise(
                vae, y, GaussianNoise(level), draws=100, ascent=Ascent(steps=150)
            ).mean,
            "encoder trained on noise of 0.8": denoise(
                denoising, y, GaussianNoise(level), method="encoder", draws=100
            ).mean,
        }
    for name, images in estimates.items():
        quality[name].append(peak_signal_to_noise(images, many).mean().item())
figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
for (name, values), colour in zip(quality.items(), plots.COLOURS, strict=False):
    axes.plot(levels, values, "o-", color=colour, label=name)
axes.set_xlabel("standard deviation of the noise")
axes.set_ylabel("PSNR, dB")
axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)

# %%
# The noise has a standard deviation of 0.6; each row but the first is denoised as if it were another. Too small,
# and noise becomes strokes; too large, and the digit becomes a typical one.
y = GaussianNoise(0.6).corrupt(x[:6])
rows = {"noisy": y.clamp(0, 1)}
for said in (0.15, 0.3, 0.6, 1.2, 2.4):
    rows[f"said: {said}"] = denoise(vae, y, GaussianNoise(said), draws=100).mean
wrong = plots.image_rows(rows | {"true": x[:6]}, title="Noise of 0.6, said to be another")
