"""Digits of which a few were changed, for exercise 12.

`train, labels, codes, held_out, held_out_labels = hidden_group()` has them. Which were changed, and how, is in the code
below: find it first, without reading on.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyro_vae import load_data

SHARE, DIMENSIONS = 0.03, 5


@cache
def hidden_group() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Training images (N, 64) in [0, 1], their labels (N,) and codes (N, 5); held-out images and labels, none changed.

    The codes are principal components, as those of a linear autoencoder.
    """
    splits = load_data("digits")
    train, held_out = splits
    pixels = torch.where(
        members()[:, None, None, None], changed(train.as_float()), train.as_float()
    )
    x = pixels.flatten(1).double()
    _, _, directions = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    codes = (x - x.mean(0)) @ directions[:DIMENSIONS].T
    return x, train.labels, codes, held_out.as_float().flatten(1).double(), held_out.labels


def members() -> Tensor:
    """Whether each training image is of the hidden group."""
    n = len(load_data("digits").train)
    return torch.randperm(n, generator=torch.Generator().manual_seed(0)) < round(SHARE * n)


def changed(images: Tensor) -> Tensor:
    """Images (N, 1, 8, 8) two columns to the right."""
    return pad(images, (2, 0))[..., :8]
