"""
A planar flow in two dimensions
===============================

In two dimensions a flow can be drawn. The target density is a ring with two modes, known up to a constant; the flow is
trained to minimise its KL divergence from the target, with Pyro's SVI.
"""

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import transforms
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae.svi import CompiledSVI


def log_target(z):
    """Unnormalized log-density: the first test energy of Rezende and Mohamed (2015)."""
    ring = -0.5 * ((z.norm(dim=-1) - 2) / 0.4) ** 2
    bulges = torch.stack(
        [-0.5 * ((z[..., 0] - 2) / 0.6) ** 2, -0.5 * ((z[..., 0] + 2) / 0.6) ** 2]
    ).logsumexp(0)
    return ring + bulges


# %%
# Model and guide. The model is the target, as a factor on a flat prior; the guide is a normal distribution transformed
# by planar layers, whose u is projected so that each stays invertible.
class Pair(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(transforms.Planar(2) for _ in range(layers))
        self.loc, self.log_scale = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))

    def flow(self):
        base = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return dist.TransformedDistribution(base, list(self.layers)) if len(self.layers) else base

    def model(self, n, weight=1.0):
        with pyro.plate("draws", n):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 100.0).to_event(1).mask(False))
            pyro.factor("target", weight * log_target(z))

    def guide(self, n, weight=1.0):
        pyro.module("pair", self)
        with pyro.plate("draws", n):
            pyro.sample("z", self.flow())


# %%
# Flows of 0, 2, 8 and 16 layers. As in the paper, the target is annealed: its weight rises during
# training, so that a flow covers both modes. The bound is a lower bound on the logarithm of the
# target's normalizing constant; higher is closer.
axis = torch.linspace(-4, 4, 300)
second, first = torch.meshgrid(axis, axis, indexing="ij")
grid = torch.stack([first, second], -1)
log_constant = (log_target(grid).exp().sum() * (axis[1] - axis[0]) ** 2).log().item()
print(f"log of the target's normalizing constant, on a grid: {log_constant:.2f}")
pairs = {}
for layers in (0, 2, 8, 16):
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    pair = pairs[layers] = Pair(layers)
    svi = CompiledSVI(
        pair.model, pair.guide, torch.optim.Adam(pair.parameters(), lr=1e-2), Trace_ELBO()
    )
    for step in range(1500):
        svi.step(200, torch.tensor(min(1.0, 0.05 + step / 900)))
    bound = -sum(svi.evaluate_loss(200, torch.tensor(1.0)) for _ in range(50)) / 50 / 200
    print(f"{layers:2} layers: bound {bound:6.2f}, so KL {log_constant - bound:.2f} nats")

# %%
# The target, and draws from each flow.
figure, panels = plt.subplots(1, 5, figsize=(13, 3), layout="constrained", sharey=True)
panels[0].contourf(axis, axis, log_target(grid).exp(), levels=20, cmap="Blues")
panels[0].set_title("target")
panels[0].set_ylabel("$z_2$")
for axes, (layers, pair) in zip(panels[1:], pairs.items(), strict=True):
    with torch.no_grad():
        z = pair.flow().sample((3000,))
    axes.hist2d(z[:, 0].numpy(), z[:, 1].numpy(), bins=80, range=[[-4, 4], [-4, 4]], cmap="Blues")
    axes.set_title(f"{layers} layers" if layers else "normal")
for axes in panels:
    axes.set_xlabel("$z_1$")
    axes.set_aspect("equal")

# %%
# Draws from the base distribution, after every second of eight layers.
z = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0))
steps, panels = plt.subplots(1, 5, figsize=(13, 3), layout="constrained", sharey=True)
with torch.no_grad():
    z = pairs[8].loc + pairs[8].log_scale.exp() * z
    hue = torch.atan2(z[:, 1], z[:, 0])
    for step in range(9):
        if step % 2 == 0:
            axes = panels[step // 2]
            axes.scatter(z[:, 0], z[:, 1], c=hue, s=2, cmap="twilight")
            axes.set_title(f"after {step} layers")
            axes.set_xlim(-5, 5)
            axes.set_ylim(-5, 5)
            axes.set_aspect("equal")
            axes.set_xlabel("$z_1$")
        if step < 8:
            z = pairs[8].layers[step](z)
panels[0].set_ylabel("$z_2$")
