"""Codes of the digits for exercise 10: an 8x8 image is 16 patches of 2x2 pixels, each replaced by the nearest of 16.

`train, held_out, codebook = digit_codes()` makes them; `pictures(codes, codebook)` turns codes into images.
"""

from functools import cache

import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn.functional import fold, unfold

from pyro_vae import load_data

CODES = 16
POSITIONS = 16  #: in the order of reading: row by row, from left to right


@cache
def digit_codes() -> tuple[Tensor, Tensor, Tensor]:
    """Codes of the training and of the test images, each (N, 16) of 0 to 15, and the patches (16, 4) they stand for."""
    splits = load_data("digits")
    train, held_out = (_patches(images.as_float()) for images in (splits.train, splits.test))
    means = KMeans(CODES, n_init=1, random_state=0).fit(train.flatten(0, 1).numpy())
    codebook = torch.from_numpy(means.cluster_centers_).float()
    return (*(torch.cdist(patches, codebook).argmin(-1) for patches in (train, held_out)), codebook)


def _patches(images: Tensor) -> Tensor:
    """Images (N, 1, 8, 8) -> patches (N, 16, 4)."""
    return unfold(images, kernel_size=2, stride=2).transpose(1, 2).contiguous()


def pictures(codes: Tensor, codebook: Tensor) -> Tensor:
    """Codes (N, 16) -> images (N, 8, 8)."""
    return fold(codebook[codes].transpose(1, 2), output_size=8, kernel_size=2, stride=2)[:, 0]
