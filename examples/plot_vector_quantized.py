"""
A vector-quantized VAE and the prior of its codes
=================================================

Here an image of 8x8 pixels is a grid of 4x4 whole numbers, each of which stands for one of 32 vectors. The model is
trained under a uniform prior over codes; an autoregressive prior is then fitted to the codes of the training images.
Samples of the two differ in nothing else.
"""

import matplotlib.pyplot as plt
import torch

from pyro_vae import Spec, build, evaluate, fit, load_data, plots
from pyro_vae.training.code_prior import fit_code_prior

train, test = load_data("digits")

# %%
# The first stage: encoder, codebook and decoder.
model = build(
    Spec(
        model={"kind": "vector-quantized", "codes": 32, "channels": (32,)},
        likelihood="discretized-logistic",
        latent_dim=16,
    )
)
fit(model, train, epochs=20, batch_size=64, lr=2e-3)
first = evaluate(model, test)
print(f"codes used: {first.codes_used:.0%}, perplexity {first.code_perplexity:.1f} of 32")

# %%
# The codes of some digits, a colour for each number, over their reconstructions.
x = test.take(slice(0, 8)).as_float()
codes = model.codes(x)
figure, axes = plt.subplots(3, 8, figsize=(7, 3))
reconstructed = model.reconstruct(x).detach()
for column, panels in enumerate(zip(x, codes, reconstructed, strict=True)):
    image, grid, decoded = panels
    axes[0, column].imshow(image[0], cmap="gray", vmin=0, vmax=1)
    axes[1, column].imshow(grid, cmap="nipy_spectral", vmin=0, vmax=31)
    axes[2, column].imshow(decoded[0], cmap="gray", vmin=0, vmax=1)
for axis in axes.flat:
    axis.set_xticks([])
    axis.set_yticks([])
for row, name in enumerate(("image", "codes", "decoded")):
    axes[row, 0].set_ylabel(name)
figure.tight_layout()

# %%
# Samples of the uniform prior: each position has a code of its own, whatever its neighbours have.
torch.manual_seed(0)
uniform = plots.image_grid(model.sample(40).detach(), "Samples, uniform codes", columns=10)

# %%
# The second stage fits the prior alone. What it gains, the bound on log p(x) gains.
history = fit_code_prior(model, train, width=32, epochs=25, batch_size=64, lr=3e-3)
second = evaluate(model, test)
for name, metrics in (("uniform", first), ("autoregressive", second)):
    print(
        f"{name:15} -log p(codes) {metrics.kl_per_sample:5.1f}, "
        f"-log p(x|codes) {metrics.reconstruction_nats:5.1f}, ELBO {metrics.elbo_nats:6.1f} nats"
    )

# %%
# Samples of the learned prior.
torch.manual_seed(0)
learned = plots.image_grid(model.sample(40).detach(), "Samples, autoregressive codes", columns=10)
