"""
beta: the weight of the KL
==========================

Beta-VAEs with a 2-d code, as in documents 000 and 001: the larger the weight beta of the KL, the smaller the KL, the
closer the codes to the prior, and the worse the reconstructions.
"""

import argparse

import matplotlib.pyplot as plt

from pyro_vae import Spec, build, evaluate, fit, latent, load_data, plots

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)
betas = (0.0, 0.25, 1.0, 2.0) if arguments.dataset == "digits" else (0.0, 1.0, 5.0, 50.0)

# %%
# Train a model for each beta.
models, histories = {}, {}
for beta in betas:
    models[beta] = build(
        Spec(
            dataset=arguments.dataset,
            latent_dim=2,
            hidden=(200,),
            network={"kind": "mlp", "activation": "relu"},
        )
    )
    histories[beta] = fit(
        models[beta], train, epochs=20, batch_size=64, lr=3e-3, beta=beta, binarization="threshold"
    )
    metrics = evaluate(models[beta], test, binarization="threshold")
    print(
        f"beta {beta:5.2f}: reconstruction {metrics.reconstruction_nats:6.2f}, KL {metrics.kl_per_sample:6.2f}, "
        f"ELBO {metrics.elbo_nats:7.2f} nats, {metrics.active_units} active units"
    )

# %%
# Codes. At beta = 0 nothing pulls them towards the prior; compare the axes.
figure, panels = plt.subplots(1, len(betas), figsize=(13, 3.6), layout="constrained")
for axes, (beta, model) in zip(panels, models.items(), strict=True):
    codes = latent.codes(model, test)
    axes.scatter(codes[:, 0], codes[:, 1], c=[plots.COLOURS[label] for label in test.labels], s=8)
    axes.set_title(rf"$\beta$ = {beta:g}")
    axes.set_xlabel("$z_1$")
panels[0].set_ylabel("$z_2$")

# %%
# The share of the weighted KL in the loss, epoch by epoch.
shares, axes = plt.subplots(figsize=(6.5, 3.5), layout="constrained")
for index, (beta, history) in enumerate(histories.items()):
    kl = [beta * value for value in history.column("train_kl_nats")]
    loss = history.column("train_loss_nats")
    style = {"color": plots.COLOURS[index], "marker": plots.MARKERS[index]}
    axes.plot(
        history.column("epoch"),
        [100 * a / b for a, b in zip(kl, loss, strict=True)],
        label=rf"$\beta$ = {beta:g}",
        **style,
    )
axes.set_xlabel("epoch")
axes.set_ylabel(r"$\beta$ KL, % of the loss")
axes.grid(alpha=0.3)
axes.legend()

# %%
# Samples from the prior. At beta = 0 the prior played no part in training.
without_prior = plots.image_grid(
    latent.prior_samples(models[betas[0]], 20), f"Samples, beta = {betas[0]:g}", columns=10
)
require_prior = plots.image_grid(
    latent.prior_samples(models[betas[2]], 20), f"Samples, beta = {betas[2]:g}", columns=10
)
