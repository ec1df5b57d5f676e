"""
Clusters without labels
=======================

A mixture VAE gives each image a latent cluster y, and each cluster a normal distribution of codes. No label is used: it
is judged afterwards how well clusters and classes agree. A random start collapses onto few clusters; the codes of a VAE
are a better one.
"""

import torch

from pyro_vae import Spec, build, evaluate, fit, latent, load_data, plots

train, test = load_data("digits")
common = {"latent_dim": 5, "hidden": (128,), "network": {"kind": "mlp", "activation": "relu"}}
common |= {"binarization": "threshold", "batch_size": 64, "lr": 2e-3}


def report(name, mixture):
    metrics = evaluate(mixture, test, metrics=["codes"])
    print(
        f"{name:24} accuracy {metrics.cluster_accuracy:.2f}, NMI {metrics.cluster_nmi:.2f}, "
        f"{metrics.clusters_used} clusters used"
    )


# %%
# At random: ten clusters whose means are close to each other. The first to explain the codes takes them all.
collapsed = build(Spec(model={"kind": "mixture", "spread": 0.1}, **common))
fit(collapsed, train, epochs=60)
report("started at random", collapsed)

# %%
# At codes. A VAE with a small weight of the KL term lets its codes spread out into groups; a mixture is fitted to them
# by expectation-maximisation, and then all is trained together.
vae = build(Spec(beta=0.1, **common))
fit(vae, train, epochs=30)
mixture = build(Spec(model="mixture", **common))
mixture.start_at(vae, train)
report("started at codes", mixture)
fit(mixture, train, epochs=30)
report("trained from there", mixture)

# %%
# The codes of the test images, by their class, which the model has not seen.
codes = plots.latent_scatter(
    latent.to_plane(latent.codes(mixture, test)), test.labels, test.class_names, "Codes by class"
)

# %%
# And by cluster.
with torch.no_grad():
    clusters = mixture.classify((test.as_float() >= 0.5).float()).argmax(1)
by_cluster = plots.latent_scatter(
    latent.to_plane(latent.codes(mixture, test)), clusters, title="Codes by cluster"
)
by_cluster.legends[0].set_title("cluster")

# %%
# Draws of each cluster, a column for each.
with torch.random.fork_rng(), torch.no_grad():
    torch.manual_seed(0)
    z = mixture.clusters(torch.arange(10)).sample((6,))
    drawn = mixture.likelihood_of(z).mean.flatten(0, 1)
samples = plots.image_grid(drawn, "Samples, a column for each cluster", columns=10)
