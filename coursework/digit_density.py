"""A linear-Gaussian model of the digits for exercise 11: `train, held_out, model = digit_density()`.

x = mean + W z + noise e, with z and e standard normal: probabilistic PCA (Tipping and Bishop, 1999), at its maximum of
the likelihood. It is a VAE whose decoder is linear and whose posterior is known, so that log p(x) is exact.
"""

from functools import cache

import torch
from torch import Tensor

from pyro_vae import load_data

PIXELS, DIMENSIONS = 64, 10


@cache
def digit_density() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Training and held-out digits, (N, 64) in [0, 1], and the model: `mean` (64,), `w` (64, 10) and `noise`, an sd."""
    splits = load_data("digits")
    train, held_out = (
        images.as_float().flatten(1).double() for images in (splits.train, splits.test)
    )
    mean = train.mean(0)
    variances, directions = torch.linalg.eigh((train - mean).T @ (train - mean) / len(train))
    variances, directions = variances.flip(0), directions.flip(1)
    noise_variance = variances[DIMENSIONS:].mean()
    w = directions[:, :DIMENSIONS] * (variances[:DIMENSIONS] - noise_variance).sqrt()
    return train, held_out, {"mean": mean, "w": w, "noise": noise_variance.sqrt()}
