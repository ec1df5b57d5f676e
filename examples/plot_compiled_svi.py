"""
CompiledSVI on a program that is not a VAE
==========================================

A robust regression: Pyro's SVI and :class:`~pyro_vae.svi.CompiledSVI` take the same steps, the second by replaying a
captured graph of tensor operations.
"""

import time

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

from pyro_vae.svi import CompiledSVI

# %%
# Data with a few outliers, and the program.
generator = torch.Generator().manual_seed(0)
x = torch.linspace(-2, 2, 120)
y = 0.5 + 1.5 * x + 0.3 * torch.randn(120, generator=generator)
y[::15] += 4


def regression(x, y):
    intercept = pyro.sample("intercept", dist.Normal(0.0, 3.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 3.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    freedom = pyro.sample("freedom", dist.Gamma(2.0, 0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.StudentT(freedom, intercept + slope * x, scale), obs=y)


# %%
# The same seed, the same steps.
def train(svi_class, steps=1500):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    guide = AutoNormal(regression)
    svi = svi_class(regression, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(x, y)  # runs as Pyro's SVI; the second step is captured
    started = time.perf_counter()
    losses = [svi.step(x, y) for _ in range(steps)]
    return losses, guide, (time.perf_counter() - started) / steps


stock, _, stock_seconds = train(SVI)
captured, guide, captured_seconds = train(CompiledSVI)
print(
    f"largest difference of a loss: {max(abs(a - b) for a, b in zip(stock, captured, strict=True)):.2g}"
)
print(
    f"Pyro {1e3 * stock_seconds:.2f} ms per step, captured {1e3 * captured_seconds:.2f} ms, on this machine"
)

# %%
# Left: the two loss curves coincide. Right: the regression line, which the outliers hardly move.
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
left.plot(stock, color="#0072B2", label="pyro.infer.SVI")
left.plot(captured, "--", color="#E69F00", label="CompiledSVI")
left.set_xlabel("step")
left.set_ylabel("loss, nats")
left.legend()
median = guide.median()
right.plot(x, y, ".", color="#999999", label="data")
right.plot(
    x,
    (median["intercept"] + median["slope"] * x).detach(),
    color="#D55E00",
    label="posterior median",
)
right.set_xlabel("x")
right.set_ylabel("y")
right.legend()
