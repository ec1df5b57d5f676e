"""Masks: which pixels of images are seen, True, and which are hidden, False."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.noise import independent_pixels

_NAMES = "top, left, center, random:SHARE, or a .npy or .png file"
HALVES = ("top", "left", "center")


def mask_of(text: str, n: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    """Which pixels of n images are seen, bool, `(N, 1, H, W)`, the same for all channels of a pixel.

    `top` and `left` hide that half, `center` a rectangle of half the height and width, `random:0.5` half of the pixels,
    others in each image. A file, a picture or an array of shape `(H, W)`, hides the pixels that are black, or 0.

    Args:
        text: of the command line.
        n: images.
        shape: `(C, H, W)` of each.
        seed: of a random mask.

    Raises:
        InputError: another name, a file of another size, or a mask that hides all pixels or none.

    >>> mask_of("top", 1, (1, 2, 2)).int().tolist()
    [[[[0, 0], [1, 1]]]]
    """
    height, width = shape[1:]
    name, _, share = str(text).partition(":")
    seen = torch.ones(n, 1, height, width, dtype=torch.bool)
    if text in HALVES:
        rows = {"top": slice(height // 2), "center": slice(height // 4, height // 4 + height // 2)}
        columns = {"left": slice(width // 2), "center": slice(width // 4, width // 4 + width // 2)}
        seen[:, :, rows.get(name, slice(None)), columns.get(name, slice(None))] = False
    elif name == "random":
        generator = torch.Generator().manual_seed(checks.seed("seed", seed))
        hidden = round(_share(text, share) * height * width)
        order = torch.rand(n, height * width, generator=generator).argsort(1).argsort(1)
        seen = (order >= hidden).reshape(seen.shape)
    elif Path(text).suffix in (".npy", ".png"):
        seen = _read(Path(text), (height, width)).expand(seen.shape)
    else:
        raise checks.fail("mask", text, _NAMES)
    return check_mask(seen, (n, *shape))


def check_mask(seen: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A mask that fits images of this shape, `(N, C, H, W)`, and hides some pixels of each, but not all.

    Returns:
        The mask, bool, with four dimensions.
    """
    mask = checks.tensor("seen", seen)
    if mask.dtype != torch.bool or mask.dim() > 4:
        raise checks.fail("seen", seen, "a mask of True and False")
    try:
        full = mask.expand(shape)
    except RuntimeError as error:
        raise checks.fail("seen", seen, f"a mask that broadcasts to {shape}") from error
    count = full.flatten(1).sum(1)
    if not bool(((count > 0) & (count < full[0].numel())).all()):
        what = "a mask that hides " + ("all pixels" if bool((count == 0).any()) else "no pixel")
        raise checks.fail("seen", what, "one that hides some pixels of each image, and not all")
    return mask.reshape(*[1] * (4 - mask.dim()), *mask.shape)


def log_likelihood_of_seen(p: TorchDistribution, x: Tensor, seen: Tensor) -> Tensor:
    """log p(x_s|z), of the batch shape of p(x|z), whose pixels are independent; hidden pixels of x may be NaN.

    >>> pixels = torch.distributions.Bernoulli(probs=torch.full((1, 2, 2), 0.5))
    >>> p = torch.distributions.Independent(pixels, 3)
    >>> log_likelihood_of_seen(p, torch.ones(1, 2, 2), torch.eye(2) > 0).exp().item()  # 1/2 for each of two pixels
    0.25...
    """
    black = torch.where(seen, x, 0)
    return torch.where(seen, independent_pixels(p).log_prob(black), 0).sum((-3, -2, -1))


def _share(text: str, share: str) -> float:
    try:
        number = float(share)
    except ValueError as error:
        raise checks.fail("mask", text, _NAMES) from error
    if not 0 < number < 1:
        raise checks.fail("mask", text, "random:SHARE with a share above 0 and below 1")
    return number


def _read(path: Path, size: tuple[int, int]) -> Tensor:
    """A mask from a file, `(H, W)`."""
    try:
        if path.suffix == ".npy":
            with path.open("rb") as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        else:
            with Image.open(path, formats=("PNG",)) as picture:
                array = np.asarray(picture.convert("L"))
    except FileNotFoundError as error:
        raise checks.fail("mask", str(path), "an existing file with a mask") from error
    except Exception as error:  # whatever a damaged file raises: OSError, SyntaxError, DecompressionBombError, ...
        raise checks.fail("mask", str(path), f"a file with a mask ({error})") from error
    if array.shape != size or array.dtype.kind not in "biuf":
        raise checks.fail("mask", f"{path} of shape {array.shape}", f"{size}, the height and width of the images")
    if not np.isfinite(array).all():
        raise checks.fail("mask", f"{path} with NaN or infinity", "finite numbers: 0 where a pixel is hidden")
    return torch.from_numpy(array != 0)
