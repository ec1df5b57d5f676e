"""Training a VAE on the digits with a student's arguments; runs in a process of its own, as those may be anything."""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_vae import Spec, build, fit, load_data

DEFAULTS = {"epochs": 20, "batch_size": 64, "lr": 2e-3, "binarization": "threshold"}


def binary(images):
    return (images.as_float() >= 0.5).float()


def trained(arguments, latent_dim=4):
    vae = build(Spec(dataset="digits", latent_dim=latent_dim, network={"kind": "mlp", "activation": "relu"}))
    fit(
        vae,
        load_data("digits").train,
        **{**DEFAULTS, **arguments, "device": "cpu", "progress": False},
    )
    return vae


def train(arguments):
    """Means and scales of q(z|x) (N, d) on the test images, and -E_q[log p(x|z)] in nats per image."""
    vae, x = trained(arguments), binary(load_data("digits").test)
    with torch.no_grad():
        q = vae.encode(x)
        logits = vae.decoder(q.sample())
        nats = binary_cross_entropy_with_logits(logits.reshape(x.shape), x, reduction="sum") / len(x)
    return q.mean, q.stddev, nats
