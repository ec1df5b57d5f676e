"""
Outliers by their evidence
==========================

Documents 002 and 003 name outlier detection as a use of VAEs: outliers are images of low log p(x). Here a model of
digits evaluates test digits, digits upside down, with noise, and with pixels in random order.
"""

import argparse
from dataclasses import replace

import matplotlib.pyplot as plt
import torch

from pyro_vae import Spec, build, fit, load_data, plots
from pyro_vae.evaluation import evidence

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)
vae = build(
    Spec(dataset=arguments.dataset, latent_dim=8, network={"kind": "mlp", "activation": "relu"})
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
# The kinds, as binary pixels.
images = test.take(slice(0, 150))
generator = torch.Generator().manual_seed(0)
binary = (images.pixels > 127).to(torch.uint8) * 255
flips = torch.rand(binary.shape, generator=generator) < 0.1
order = torch.randperm(binary[0].numel(), generator=generator)
kinds = {
    "test images": binary,
    "upside down": binary.flip(2),
    "10% of pixels flipped": torch.where(flips, 255 - binary, binary),
    "pixels in random order": binary.flatten(1)[:, order].reshape(binary.shape),
}
sheet = plots.image_grid(
    torch.cat([kind[:10] for kind in kinds.values()]) / 255, "Four kinds", columns=10
)

# %%
# log p(x) of each image by importance sampling.
log_likelihoods = {
    name: evidence(vae, replace(images, pixels=kind), k=200).log_likelihood
    for name, kind in kinds.items()
}
figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
for index, (name, values) in enumerate(log_likelihoods.items()):
    axes.hist(values.numpy(), bins=30, alpha=0.6, color=plots.COLOURS[index], label=name)
axes.set_xlabel(r"$\log p(x)$, nats")
axes.set_ylabel("images")
axes.legend()

# %%
# The area under the ROC curve: the probability that a test image has the higher evidence.
for name, values in list(log_likelihoods.items())[1:]:
    area = (log_likelihoods["test images"][:, None] > values[None]).double().mean().item()
    print(f"{name:24} area under the curve {area:.3f}")
