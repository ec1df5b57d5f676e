"""The second stage of a vector-quantized VAE: a prior over the codes of the trained model."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.rng import preserved_rng
from pyro_vae.data import Images, binarize
from pyro_vae.data.batches import batches
from pyro_vae.data.binarization import fixed_binarization
from pyro_vae.models.base import PyroPair, check_set, device_of, dtype_of, evaluating
from pyro_vae.models.codes.code_priors import AutoregressiveCodes, UniformCodes
from pyro_vae.models.vector_quantized import VectorQuantized
from pyro_vae.parts import Part
from pyro_vae.spec import Spec
from pyro_vae.training.fit import fit
from pyro_vae.training.history import History


def fit_code_prior(
    model: VectorQuantized,
    images: Images,
    *,
    width: int | None = None,
    layers: int | None = None,
    validation: Images | None = None,
    seed: int = 0,
    **settings: Any,
) -> History:
    r"""Fits an autoregressive prior to the codes of images; encoder, codebook and decoder stay as they are.

    .. math:: \max_\theta \sum_i \log p_\theta(k(x_i))

    This is the ELBO of the whole model as a function of the prior alone. A uniform prior is replaced by a new
    :class:`~pyro_vae.models.codes.code_priors.AutoregressiveCodes`, and `model.spec` then says so, so that
    :func:`pyro_vae.save` writes the whole model as one file; one that is there already is trained on.

    Args:
        model: trained by :func:`~pyro_vae.fit`.
        images: the training images; `dynamic` binarization, if the model's spec has it, is one draw here.
        width, layers: of a new prior, by default 64 and 2; of one that is there already, if given, what it has.
        validation: images whose codes' log-probability is reported after each epoch.
        seed: of the new prior's weights and of the training.
        **settings: further arguments of :func:`~pyro_vae.fit`, such as `epochs`, `lr`, `checkpoint` and `resume`.

    Returns:
        The losses of each epoch, :math:`-\log p(k)` in nats per image.

    Raises:
        InputError: a model of another kind, another width or number of layers than those of the prior that is there,
            or an argument that `fit` refuses.

    Source: van den Oord et al., 2017, section 3.3, https://arxiv.org/abs/1711.00937

    >>> from pyro_vae import Spec, build, load_data
    >>> model = build(Spec(model={"kind": "vector-quantized", "codes": 16}, latent_dim=4))
    >>> history = fit_code_prior(model, load_data("digits").train, epochs=1, progress=False)
    >>> model.spec.model
    {'kind': 'vector-quantized', 'codes': 16, 'code_prior': 'autoregressive'}
    """
    if not isinstance(model, VectorQuantized):
        raise checks.fail("model", model, "a VectorQuantized, as build(Spec(model='vector-quantized')) makes it")
    for name, part in (("images", images), ("validation", validation)):
        if part is not None:
            check_set(name, part)
    seed = checks.seed("seed", seed)
    prior, spec = model.code_prior, model.spec
    if isinstance(prior, UniformCodes):
        width, layers = 64 if width is None else width, 2 if layers is None else layers
        with preserved_rng([torch.device("cpu")]):
            torch.default_generator.manual_seed(seed)
            grid: tuple[int, ...] = tuple(prior.logits.shape[:-1])
            prior = AutoregressiveCodes(model.num_codes, grid, width, layers).to(device_of(model), dtype_of(model))
        if isinstance(spec, Spec):
            spec = dataclasses.replace(spec, model=_with_prior(Part.of(spec.model), width, layers))
    else:
        _check_sizes(prior, width=width, layers=layers)
    held_out = None if validation is None else _codes_as_data(model, validation)
    alone: Any = _CodesAlone(prior)
    history = fit(alone, _codes_as_data(model, images), validation=held_out, seed=seed, **settings)
    model.code_prior, model.spec = prior, spec
    model.eval()
    return history


def _check_sizes(prior: AutoregressiveCodes, **sizes: int | None) -> None:
    """A prior that is trained on keeps its sizes."""
    of_prior = {"width": prior.start.numel(), "layers": len(prior.blocks)}
    for name, size in sizes.items():
        if size is not None and size != of_prior[name]:
            raise checks.fail(name, size, f"{of_prior[name]}, that of the model's code prior, which is trained on")


def _with_prior(part: Part, width: int, layers: int) -> Part:
    options = {"code_prior": "autoregressive", "prior_width": width, "prior_layers": layers}
    return Part(part.kind, dict(part.options) | options)


class _CodesAlone(PyroPair):
    """p(codes) alone, with the codes observed."""

    def __init__(self, code_prior: AutoregressiveCodes) -> None:
        super().__init__()
        self.code_prior = code_prior

    def model(self, x: Tensor, beta: float | Tensor = 1.0, *, codes: Tensor) -> None:
        self.register("code_prior")
        with pyro.plate("data", len(codes)):
            pyro.sample("codes", self.code_prior(), obs=codes)

    def guide(self, x: Tensor, beta: float | Tensor = 1.0, *, codes: Tensor) -> None:
        """Empty: there is no latent variable."""


def _codes_as_data(model: VectorQuantized, images: Images) -> Images:
    """The codes of the images, as a covariate of images of a single black pixel."""
    binarization = model.spec.binarization if isinstance(model.spec, Spec) else "none"
    pixels = binarize(images, fixed_binarization(binarization)).pixels
    with evaluating(model):
        codes = [model.codes(x) for x in batches(pixels, 500, device_of(model), dtype=dtype_of(model))]
    black = torch.zeros(len(pixels), 1, 1, 1, dtype=torch.uint8)
    return Images(black, name=f"codes of {images.name}", covariates={"codes": torch.cat(codes).cpu()})
