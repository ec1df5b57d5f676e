"""Which images an epoch trains on: each once, or drawn with weights that a function of the model gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae import part_classes
from pyro_vae._utils import checks
from pyro_vae.data import Images
from pyro_vae.models import Model
from pyro_vae.models.base import evaluating
from pyro_vae.parts import Part

WeightsOf = Callable[[Model, Images], Tensor | None]
Sampler = str | Mapping[str, Any] | Part | WeightsOf


class Shuffle:
    """Each image once per epoch, in random order.

    >>> Shuffle.kind
    'shuffle'
    """

    kind = "shuffle"

    def __call__(self, model: Model, images: Images) -> None:
        """No weights."""


def make_sampler(sampler: Sampler) -> WeightsOf:
    """The function `(model, images)` of a kind with its options; a function is returned as it is.

    Raises:
        InputError: an unknown kind or option, or something that can't be called.

    >>> make_sampler({"kind": "latent-density", "bins": 5}).bins
    5
    """
    if isinstance(sampler, str | Mapping | Part):
        sampler = part_classes.construct("sampler", sampler)
    if not callable(sampler) or isinstance(sampler, type):
        raise checks.fail("sampler", sampler, "a kind with options, or a function of the model and the images")
    return sampler


def weights_of(sampler: WeightsOf, model: Model, images: Images) -> Tensor | None:
    """The weights of the images in the next epoch, checked, float64 `(N,)` on the CPU; None for each image once.

    The model is in evaluation mode inside, and in its former modes afterwards. Gradients are off, which a function may
    turn on for itself: this is not inference mode.
    """
    with evaluating(model, gradients=True), torch.no_grad():
        weights = sampler(model, images)
    if weights is None:
        return None
    values = checks.tensor("sampler", weights).detach().cpu()
    expected = f"None, or {len(images):,} finite weights of at least 0, one for each image, and some above 0"
    if values.shape != (len(images),) or values.is_complex():
        raise checks.fail("sampler", weights, expected)
    if not bool(values.isfinite().all() and (values >= 0).all() and (values > 0).any()):
        raise checks.fail("sampler", "weights that are negative, not finite or all 0", expected)
    return values.double()
