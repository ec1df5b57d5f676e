"""
Conditional VAEs: images given a label, or given half of them
=============================================================

Two VAEs of digits: one is told the label of each image, the other its left half. The first draws images of the labels
that it is asked for, and gives the style of an image to other labels. The second completes images; a network without z,
trained on the same halves, has one answer for each where the VAE has many.
"""

import argparse

import torch

from pyro_vae import Spec, build, evaluate, fit, latent, load_data, plots

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--dataset", default="digits", help="digits, mnist, fashion-mnist")
parser.add_argument("--data-root", help="folder of the data set")
arguments, _ = parser.parse_known_args()
train, test = load_data(arguments.dataset, arguments.data_root)


def trained(model, **fields):
    spec = Spec(
        dataset=arguments.dataset,
        model=model,
        network={"kind": "mlp", "activation": "relu", "initialization": "he"},
        latent_dim=8,
        batch_size=64,
        epochs=40 if arguments.dataset == "digits" else 15,
        **fields,
    )
    model = build(spec)
    fit(model, train, progress=False)
    return model


# %%
# Given a label: a column for each of the ten.
by_label = trained("conditional", binarization="threshold")
labels = torch.arange(10).repeat(6)
drawn = plots.image_grid(
    latent.prior_samples(by_label, 60, labels=labels), "Samples of each label", columns=10
)

# %%
# The style of an image with each label: its own column is the reconstruction. Slant and thickness stay.
some = test.take(slice(0, 6))
styles = latent.style_grid(by_label, some, range(10))
rows = torch.cat([some.as_float()[:, None], styles], 1)
style = plots.image_grid(
    rows.flatten(0, 1), "An image, and its style with the labels 0 to 9", columns=11
)

# %%
# Given the left half: beta rises from 0, so that the code is in use before its KL has a price.
half = {"kind": "conditional", "condition": "quadrants-2"}
by_half = trained(half, binarization="threshold", beta_warmup=10)
baseline = trained(half | {"deterministic": True}, binarization="threshold")
for name, model in {"without z": baseline, "with z": by_half}.items():
    metrics = evaluate(model, test, metrics=["evidence"], k=100)
    print(
        f"{name:10} -log p(right|left) {metrics.nll_nats:.2f} ± {metrics.nll_se:.2f} nats per image"
    )

# %%
# An image, what is seen of it, the only answer of the network without z, and five completions of the VAE.
x = (test.as_float()[:8] >= 0.5).float()
left = torch.where(by_half.given.seen, x, 0.5)
completed = [x, left, baseline.complete(x)[0], *by_half.complete(x, draws=5)]
completions = plots.image_grid(
    torch.stack(completed, 1).flatten(0, 1),
    "Original, seen, without z, and five draws with z",
    columns=8,
)
