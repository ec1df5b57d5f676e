"""
Flows in a VAE: the right KL
============================

Document 000 reports negative KLs for planar-flow VAEs. Here a diagonal normal and planar flows are trained on the same
data, with the prior at the last code z_K, where it belongs; the number with the prior at z_0 is printed beside the KL.
"""

import argparse

import matplotlib.pyplot as plt
import torch
from torch.distributions import kl_divergence

from pyro_vae import Spec, build, evaluate, fit, load_data, plots

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)
x = (test.as_float() >= 0.5).float()


def with_prior_at_start(vae):
    """KL of the base distribution from the prior, minus the log-determinants: not a divergence."""
    with torch.no_grad():
        q = vae.encode(x)
        if not isinstance(q, torch.distributions.TransformedDistribution):
            return kl_divergence(q, vae.prior()).mean().item()
        z, log_det = q.base_dist.sample(), 0.0
        for layer in q.transforms:
            after = layer(z)
            z, log_det = after, log_det + layer.log_abs_det_jacobian(z, after)
        return (kl_divergence(q.base_dist, vae.prior()) - log_det).mean().item()


# %%
specs = {
    "diagonal normal": {"posterior": "normal"},
    "planar, 4 layers": {"posterior": {"kind": "planar", "layers": 4}},
    "planar, 8 layers": {"posterior": {"kind": "planar", "layers": 8}},
    "amortized planar, 4": {"posterior": {"kind": "conditional-planar", "layers": 4}},
}
right, wrong, elbo = {}, {}, {}
for name, fields in specs.items():
    vae = build(
        Spec(
            dataset=arguments.dataset,
            latent_dim=8,
            network={"kind": "mlp", "activation": "relu"},
            **fields,
        )
    )
    fit(vae, train, epochs=25, batch_size=64, lr=2e-3, binarization="threshold")
    metrics = evaluate(vae, test, binarization="threshold", samples=5)
    right[name], wrong[name], elbo[name] = (
        metrics.kl_per_sample,
        with_prior_at_start(vae),
        metrics.elbo_nats,
    )
    print(f"{name:20} ELBO {elbo[name]:7.2f} ± {metrics.elbo_se:.2f}")
    print(f"{'':20} KL {right[name]:5.2f}; with the prior at z_0 {wrong[name]:5.2f}")

# %%
figure, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
positions = range(len(specs))
axes.bar(
    [position - 0.2 for position in positions],
    right.values(),
    0.38,
    color=plots.COLOURS[0],
    label="KL, prior at the last code",
)
axes.bar(
    [position + 0.2 for position in positions],
    wrong.values(),
    0.38,
    color=plots.COLOURS[1],
    label="prior at $z_0$: not a KL",
)
axes.set_xticks(list(positions), list(specs))
axes.set_ylabel("nats per image")
axes.axhline(0, color="black", linewidth=0.8)
axes.legend()
