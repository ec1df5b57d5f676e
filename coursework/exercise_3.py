"""Exercise 3: make posterior collapse happen, measure it, mend it.

`python coursework/grade.py 3` grades this file.

The checks train a VAE with 4 latent dimensions on binary 8x8 digits for 20 epochs with the arguments of `pyro_vae.fit`
that you give, such as {"lr": 1e-3}.
"""

from typing import Any

from torch import Tensor


def active_units(means: Tensor) -> int:
    """How many dimensions of the posterior means (N, d) have a variance over the images above 0.01."""
    raise NotImplementedError


def collapsed() -> dict[str, Any]:
    """Arguments of fit under which the posterior collapses onto the prior, while the decoder learns."""
    raise NotImplementedError


def mended() -> dict[str, Any]:
    """The same, except for `beta` or `beta_warmup`, so that at least 2 units stay active."""
    raise NotImplementedError
