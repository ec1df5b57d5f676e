"""
Model and guide as plain Pyro: SVI, Predictive, handlers
========================================================

``vae.model`` and ``vae.guide`` are ordinary Pyro programs: Pyro alone trains them, predicts with them and inspects
them.
"""

import matplotlib.pyplot as plt
import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO

from pyro_vae import VAE, likelihoods, load_data, networks, plots, posteriors, priors

train, test = load_data("digits")
x = (train.as_float() >= 0.5).float()
posterior = posteriors.DiagonalNormal(4)
vae = VAE(
    encoder=networks.mlp_encoder(train.shape, posterior.num_parameters),
    decoder=networks.mlp_decoder(4, train.shape),
    prior=priors.StandardNormal(4),
    likelihood=likelihoods.Bernoulli(),
    posterior=posterior,
)

# %%
# The trace shows a latent and an observed site in a common plate.
guide_trace = poutine.trace(vae.guide).get_trace(x[:5])
trace = poutine.trace(poutine.replay(vae.model, trace=guide_trace)).get_trace(x[:5])
trace.compute_log_prob()
print(trace.format_shapes())

# %%
# Pyro's own loop.
svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 2e-3}), Trace_ELBO())
losses = []
for _ in range(30):
    order = torch.randperm(len(x)).split(64)
    losses.append(sum(svi.step(x[batch]) for batch in order) / len(x))

curve, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.plot(range(1, 31), losses)
axes.set_xlabel("epoch")
axes.set_ylabel("negative ELBO, nats per image")
axes.grid(alpha=0.3)

# %%
# The prior predictive distribution: images whose pixels are drawn, too. Without ``obs`` the observed site is sampled.
unconditioned = poutine.uncondition(vae.model)
draws = Predictive(unconditioned, num_samples=1)(torch.zeros(40, 1, 8, 8))
samples = plots.image_grid(draws["x"][0], "Draws of x (binary pixels) from the model", columns=10)

# %%
# Conditioning: fix z at the posterior mean of an image, and draw images given z.
z = vae.encode(x[:1]).mean.detach()
around = poutine.condition(unconditioned, data={"z": z.expand(10, 4)})
draws = poutine.trace(around).get_trace(torch.zeros(10, 1, 8, 8)).nodes["x"]["value"]
same = plots.image_grid(draws, "Ten draws of x for one z", columns=10)
