"""
The rate-distortion curve of a beta-VAE
=======================================

Each beta gives another trade-off between the rate (the KL) and the distortion (the reconstruction error). Document 000
prints such a table; the slope of the curve is minus beta. For the runs of a study, `rate_distortion(folder)` makes the
curve from their files.
"""

import argparse

from pyro_vae import Spec, build, fit, load_data
from pyro_vae.evaluation import RateDistortion, RatePoint, bounds
from pyro_vae.plots import rate_distortion_plane

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)

# %%
# A Gaussian likelihood with a fixed variance. Its density may exceed 1, so that the distortion may be negative.
points = []
for beta in (0.25, 0.5, 1.0, 2.0, 4.0):
    spec = Spec(
        dataset=arguments.dataset,
        latent_dim=8,
        likelihood={"kind": "gaussian", "variance": 0.05},
        network={"kind": "mlp", "activation": "relu"},
    )
    vae = build(spec)
    fit(vae, train, epochs=40, batch_size=64, lr=2e-3, beta=beta)
    estimates = bounds(vae, test, samples=20)
    point = RatePoint(
        beta,
        estimates.kl_per_sample,
        estimates.reconstruction_nats,
        estimates.kl_se,
        estimates.reconstruction_se,
    )
    points.append(point)
    print(f"beta {beta:4.2f}: rate {point.rate_nats:5.2f} ± {point.rate_se:.2f} nats, ", end="")
    print(f"distortion {point.distortion_nats:7.2f} ± {point.distortion_se:.2f} nats")

# %%
# The slope between neighbours lies between minus their betas, if each model is trained to its optimum.
curve = RateDistortion(tuple(points))
for secant in curve.secants:
    print(f"beta {secant.beta_low} to {secant.beta_high}: slope {secant.slope:.2f}")
figure = rate_distortion_plane(curve, title=f"beta-VAEs of {arguments.dataset}")
