"""
Convolutional autoencoder and VAE, two latent sizes
===================================================

Document 004: a convolutional VAE with d = 2 and d = 16 and an autoencoder of matched size; learning curves,
reconstructions, samples, codes, and an interpolation between two images.
"""

import argparse

from pyro_vae import Spec, build, evaluate, fit, latent, load_data, plots

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)
digits = arguments.dataset == "digits"
fields = {
    "dataset": arguments.dataset,
    "network": {"kind": "conv", "channels": (16,) if digits else (32, 64)},
    "hidden": (128,),
}
training, validation = train.split(0.1)

# %%
# The loss is the document's: cross-entropy summed over pixels, plus the KL. On binary pixels it is
# the negative ELBO. On the small digits beta is warmed up over the first ten epochs; without a
# warm-up the posterior of 16 dimensions may collapse.
models, histories = {}, {}
for name, more in {
    "autoencoder, d = 16": {"model": "autoencoder", "latent_dim": 16},
    "VAE, d = 2": {"latent_dim": 2},
    "VAE, d = 16": {"latent_dim": 16},
}.items():
    models[name] = build(Spec(**fields, **more))
    settings = {"epochs": 25, "batch_size": 64 if digits else 128, "lr": 2e-3 if digits else 1e-3}
    settings["beta_warmup"] = 10 if digits else 0
    histories[name] = fit(
        models[name], training, validation=validation, binarization="threshold", **settings
    )
    metrics = evaluate(models[name], test, binarization="threshold")
    reconstruction, kl = metrics.reconstruction_nats, metrics.kl_per_sample or 0.0
    total = reconstruction + kl
    print(f"{name:20} reconstruction {reconstruction:6.2f}, KL {kl:5.2f}, total {total:6.2f}")

# %%
curves = plots.learning_curves(histories["VAE, d = 16"], "VAE, d = 16")

# %%
x = (test.as_float()[:10] >= 0.5).float()
autoencoder = plots.reconstructions(
    x, models["autoencoder, d = 16"].reconstruct(x).detach(), "Autoencoder, d = 16"
)

# %%
small = plots.reconstructions(x, models["VAE, d = 2"].reconstruct(x).detach(), "VAE, d = 2")

# %%
large = plots.reconstructions(x, models["VAE, d = 16"].reconstruct(x).detach(), "VAE, d = 16")

# %%
# Samples from the prior.
samples = plots.image_grid(
    latent.prior_samples(models["VAE, d = 16"], 20), "Samples, VAE, d = 16", columns=10
)

# %%
# Codes by class; codes of 16 dimensions are projected on their first two principal components.
codes = plots.latent_scatter(
    latent.to_plane(latent.codes(models["VAE, d = 16"], test)),
    test.labels,
    test.class_names,
    "Posterior means, d = 16",
)

# %%
# Interpolation between the codes of two test images.
line = latent.interpolate(models["VAE, d = 16"], x[0], x[1], steps=10)
between = plots.image_grid(line, "Between two images, VAE, d = 16", columns=10)
