"""
The rate-distortion curve of a beta-VAE
=======================================

Each beta buys a different number of nats, and pays with another error. Document 000 prints such a table; along the
curve the slope is minus beta, which tells what its loss was.
"""

import argparse

import matplotlib.pyplot as plt

from pyro_vae import Spec, build, evaluate, fit, load_data

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="the folder that holds it")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)
pixels = train.pixels[0].numel()

# %%
# A Gaussian likelihood with a fixed variance, so that the error is the squared one.
betas = (0.25, 0.5, 1.0, 2.0, 4.0)
rate, error = [], []
for beta in betas:
    spec = Spec(
        dataset=arguments.dataset,
        latent_dim=8,
        likelihood="gaussian",
        variance=0.05,
        activation="relu",
    )
    vae = build(spec)
    fit(vae, train, epochs=40, batch_size=64, lr=2e-3, beta=beta)
    found = evaluate(vae, test)
    rate.append(found.kl_per_sample)
    error.append(pixels * found.mse_per_pixel_sampled)
    print(f"beta {beta:4.2f}: KL {rate[-1]:5.2f} nats, summed squared error {error[-1]:.3f}")

# %%
# The slope between two neighbours, in units of 2 c = 0.1, beside the geometric mean of their betas.
for i in range(len(betas) - 1):
    slope = (error[i + 1] - error[i]) / (rate[i + 1] - rate[i]) / 0.1
    mean = (betas[i] * betas[i + 1]) ** 0.5
    print(f"beta {betas[i]} to {betas[i + 1]}: slope {slope:.2f}, minus the mean {-mean:.2f}")

figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
axes.plot(rate, error, "o-", color="#0072B2")
for beta, r, e in zip(betas, rate, error, strict=True):
    axes.annotate(rf"$\beta$ = {beta:g}", (r, e), textcoords="offset points", xytext=(8, 6))
axes.set_xlabel("rate: KL, nats an image")
axes.set_ylabel("distortion: summed squared error")
axes.margins(x=0.2)
axes.grid(alpha=0.3)
