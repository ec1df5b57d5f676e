"""
The codes of an autoencoder and of a VAE
========================================

The same networks as a deterministic autoencoder and as a VAE, both with a 2-d code. Documents 001, 003 and 004 begin
with this comparison. With ``--dataset mnist --data-root FOLDER`` it runs on MNIST (minutes).
"""

import argparse

import matplotlib.pyplot as plt
import torch

from pyro_vae import Spec, build, fit, latent, load_data, plots

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)


def trained(model):
    spec = Spec(
        dataset=arguments.dataset,
        model=model,
        latent_dim=2,
        hidden=(200,),
        network={"kind": "mlp", "activation": "relu"},
    )
    net = build(spec)
    fit(
        net,
        train,
        epochs=60 if arguments.dataset == "digits" else 20,
        batch_size=64,
        lr=2e-3,
        binarization="threshold",
    )
    return net


models = {"autoencoder": trained("autoencoder"), "VAE": trained("vae")}

# %%
# Codes of the test images by class. The circles contain 90% and 99% of the VAE's prior; the
# autoencoder has no prior.
figure, panels = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
for axes, (name, model) in zip(panels, models.items(), strict=True):
    codes = latent.codes(model, test)
    for label in test.labels.unique().tolist():
        chosen = codes[test.labels == label]
        style = {"color": plots.COLOURS[label], "marker": plots.MARKERS[label]}
        axes.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=12,
            alpha=0.7,
            linewidths=0,
            label=test.class_names[label],
            **style,
        )
    for share in (0.9, 0.99):
        radius = (-2 * torch.log(torch.tensor(1 - share))).sqrt().item()
        axes.add_patch(plt.Circle((0, 0), radius, fill=False, linestyle="--", color="black"))
    axes.set_title(name)
    axes.set_xlabel("$z_1$")
    axes.set_ylabel("$z_2$")
    axes.set_aspect("equal", adjustable="datalim")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", title="class")

# %%
# Decode the same draws from a standard normal with both. Only the VAE was trained for such codes.
z = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
for name, model in models.items():
    print(f"{name:12} standard deviation of the codes {latent.codes(model, test).std():.1f}")
from_autoencoder = plots.image_grid(
    latent.decode_codes(models["autoencoder"], z), "Random codes, autoencoder", columns=10
)
from_vae = plots.image_grid(latent.decode_codes(models["VAE"], z), "Random codes, VAE", columns=10)
