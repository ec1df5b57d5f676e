"""
A first VAE, composed by hand
=============================

A variational autoencoder consists of five modules. This example composes them for the 8x8 digits of scikit-learn,
trains model and guide with Pyro's SVI, and evaluates the result. To change a part, change a line.
"""

from pyro_vae import (
    VAE,
    evaluate,
    fit,
    latent,
    likelihoods,
    load_data,
    networks,
    plots,
    posteriors,
    priors,
)

# %%
# The data: uint8 pixels, shape (N, C, H, W).
train, test = load_data("digits")

# %%
# Model and guide. With `Planar(8, layers=4)` in place of `DiagonalNormal` the posterior is a flow.
posterior = posteriors.DiagonalNormal(latent_dim=8)
vae = VAE(
    encoder=networks.mlp_encoder(train.shape, posterior.num_parameters, hidden=(200,)),
    decoder=networks.mlp_decoder(8, train.shape, hidden=(200,)),
    prior=priors.StandardNormal(8),
    likelihood=likelihoods.LearnedGaussian(0.05),
    posterior=posterior,
)

# %%
# Training, with a fifth of the training images held out for validation.
training, validation = train.split(0.2)
history = fit(vae, training, validation=validation, epochs=40, batch_size=64, lr=2e-3)
curves = plots.learning_curves(history, "A VAE on 8x8 digits")

# %%
# Metrics on the test images.
metrics = evaluate(vae, test)
for label, value, meaning in metrics.rows():
    print(f"{label:24} {value:>16}   {meaning}")

# %%
# Pictures.
originals = test.take(slice(0, 20)).as_float()
pairs = plots.reconstructions(
    originals, vae.reconstruct(originals).detach(), "Originals over reconstructions"
)
samples = plots.image_grid(latent.prior_samples(vae, 40), "Samples", columns=10)
codes = plots.latent_scatter(
    latent.to_plane(latent.codes(vae, test)), test.labels, test.class_names, "Codes"
)
