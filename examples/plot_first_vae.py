"""
A first VAE, composed by hand
=============================

A variational autoencoder is five modules. This example puts them together for the 8x8 digits that scikit-learn brings
along, trains the pair with Pyro's SVI, and looks at what came out. To change one thing, change one line.
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
# The pair. Swap `DiagonalNormal` for `Planar(8, layers=4)` and the posterior is a flow.
posterior = posteriors.DiagonalNormal(latent_dim=8)
vae = VAE(
    encoder=networks.mlp_encoder(train.shape, posterior.num_parameters, hidden=(200,)),
    decoder=networks.mlp_decoder(8, train.shape, hidden=(200,)),
    prior=priors.StandardNormal(8),
    likelihood=likelihoods.Gaussian(variance=0.05, learned=True),
    posterior=posterior,
)

# %%
# Training, with a fifth of the training images held out to watch.
kept, held_out = train.split(0.2)
history = fit(vae, kept, validation=held_out, epochs=40, batch_size=64, lr=2e-3)
curves = plots.learning_curves(history, "A VAE on 8x8 digits")

# %%
# What the numbers say, on images that were not trained on.
metrics = evaluate(vae, test)
for label, value, meaning in metrics.rows():
    print(f"{label:24} {value:>16}   {meaning}")

# %%
# What the pictures say.
shown = test.take(slice(0, 20)).as_float()
pairs = plots.reconstructions(
    shown, vae.reconstruct(shown).detach(), "Originals over reconstructions"
)
samples = plots.image_grid(latent.prior_samples(vae, 40), "Samples", columns=10)
codes = plots.latent_scatter(
    latent.to_plane(latent.codes(vae, test)), test.labels, test.class_names, "Codes"
)
