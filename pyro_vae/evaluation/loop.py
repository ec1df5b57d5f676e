"""The setup that every evaluation shares: a model in evaluation mode, and the images as it sees them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.data import Images, binarize, fixed_binarization
from pyro_vae.data.batches import AsFloats, to_unit
from pyro_vae.data.dequantization import dequantized_once
from pyro_vae.evaluation.programs import check_programs
from pyro_vae.models import Model
from pyro_vae.models.base import (
    check_calls,
    check_dequantize,
    check_finite_weights,
    check_fits,
    check_set,
    conditioned_batches,
    evaluated_arguments,
    evaluating_on,
    warn_if_not_binary,
    warn_if_unbounded,
)
from pyro_vae.models.binding import bound
from pyro_vae.programs.densities import Densities, has_parts
from pyro_vae.spec import BINARIZATIONS


@dataclass(frozen=True)
class Evaluation:
    """A model in evaluation mode on its device, and images as it is evaluated on them.

    - `images`: binarized once and for all.
    - `trained_with`: the binarization of training; `binarization`: that of these images, `static` for `dynamic`.
    - `dequantize`: whether the noise of each image, drawn once, is added to its levels.
    """

    model: Model
    images: Images
    device: torch.device
    trained_with: str
    dequantize: bool

    @property
    def binarization(self) -> str:
        return fixed_binarization(self.trained_with)

    @property
    def seen(self) -> Tensor | None:
        """Which pixels of each image are scored, where a covariate of the images says so."""
        name = getattr(self.model, "scored", None)
        return self.images.covariates.get(name) if isinstance(name, str) else None

    @property
    def as_floats(self) -> AsFloats:
        """What the model sees of uint8 grey levels."""
        return dequantized_once if self.dequantize else to_unit

    def batches(self, size: int, start: int = 0) -> Iterator[tuple[Tensor, Densities]]:
        """The images in order, `size` at a time: floats `(B, C, H, W)`, and the densities given their arguments."""
        return conditioned_batches(self.model, self.images, size, self.device, as_floats=self.as_floats, start=start)

    def take(self, index: Tensor) -> Evaluation:
        """The same evaluation on a subset of the images."""
        return replace(self, images=self.images.take(index))

    def draw(self, n: int | None) -> Evaluation:
        """The same evaluation on n images drawn at random, or on all where n is None."""
        return self if n is None else replace(self, images=self.images.draw(n))


@contextmanager
def evaluation_of(
    model: Model,
    images: Images,
    function: str,
    *,
    binarization: str | None,
    dequantize: bool | None,
    device: str | torch.device,
    gradients: bool = False,
    finite_weights: bool = False,
    likelihood: bool = True,
) -> Iterator[Evaluation]:
    """Checks model and images; inside, the model is on the device and in evaluation mode; outside, as it was.

    Args:
        model: its spec supplies `binarization` and `dequantize` where they are None.
        images: the set to evaluate on.
        function: name of the public function that is called, for warnings.
        binarization: as in training.
        dequantize: as in training.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
        gradients: whether gradients are needed inside.
        finite_weights: whether a weight that is not finite is an error, and not a result that is not finite.
        likelihood: whether results use log p(x|z): then a warning tells where it is no log-likelihood of the data.

    Raises:
        InputError: an argument that does not fit the model or the images.
    """
    check_set("images", images)
    told, spec = binarization, getattr(model, "spec", None)
    if told is not None:
        checks.one_of("binarization", told, BINARIZATIONS)
    if told is not None and spec is not None and fixed_binarization(told) == fixed_binarization(spec.binarization):
        binarization = None  # `static` does not contradict `dynamic` here
    settings = bound(model, function, stacklevel=5, binarization=binarization, dequantize=dequantize)
    how = settings["binarization"]
    dequantize = check_dequantize(model, settings["dequantize"], how)
    with evaluating_on(model, device, gradients) as target:
        fixed = binarize(images, fixed_binarization(how))
        if finite_weights:
            check_finite_weights(model)
        if not has_parts(model):
            check_calls(model, evaluated_arguments(model, fixed))
        check_fits(model, fixed)
        evaluation = Evaluation(model, fixed, target, how, dequantize)
        x, densities = next(evaluation.take(torch.arange(min(2, len(fixed)))).batches(2))
        check_programs(model, x, densities.arguments)
        if likelihood:
            warn_if_not_binary(model, fixed, "none", stacklevel=5)
            warn_if_unbounded(model, fixed, dequantize, stacklevel=5)
        yield evaluation
