"""Functions and checks that all models over images share."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_vae._utils import checks
from pyro_vae._utils.device import choose_device, resident
from pyro_vae._utils.rng import preserved_rng
from pyro_vae.data import Images
from pyro_vae.data.batches import AsFloats, gather, to_unit
from pyro_vae.data.images import UNKNOWN, is_binary
from pyro_vae.likelihoods import ContinuousBernoulli
from pyro_vae.programs.densities import Densities

if TYPE_CHECKING:
    from pyro_vae.models import Model


class PyroPair(nn.Module):
    """A module with a `model` and a `guide`, whose parameters have unique names in Pyro's param store.

    `pyro.module("encoder", ...)` of two modules would be one entry: the second gets the weights of the first. So each
    instance, and each copy, registers its parts under a unique `prefix`, such as `vae_1c25a7f0.encoder`.
    """

    prefix: str  #: of its parameters in the param store; set it where another program must find them there

    def __init__(self) -> None:
        super().__init__()
        self.prefix = _unique_prefix(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.prefix = _unique_prefix(self)  # of a copy

    def register(self, *parts: str) -> None:
        """The parameters of these parts, in Pyro's param store."""
        for part in parts:
            pyro.module(f"{self.prefix}.{part}", getattr(self, part))


def _unique_prefix(module: nn.Module) -> str:
    # From the system's entropy: a counter would be global state that each new model changes.
    return f"{type(module).__name__.lower()}_{os.urandom(4).hex()}"


def batch_size_of(x: Tensor | None, size: int | None, labels: Tensor | None = None) -> int:
    """The number of images of a program: those of `x`, or one for each of the `labels` to draw, or `size`."""
    rows, what = (labels, "number of labels") if x is None else (x, "images of x")
    if rows is None:
        return checks.positive_integer("size", size)
    if size is not None and size != len(rows):
        raise checks.fail("size", size, f"None, or {len(rows)}, the {what}")
    return len(rows)


def check_images(x: Tensor) -> Tensor:
    """Checks that `x` is a batch of float images `(N, C, H, W)`."""
    if not isinstance(x, Tensor) or x.dim() != 4 or not x.is_floating_point():
        description = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else x
        raise checks.fail("x", description, "floats in [0, 1] of shape (N, C, H, W)")
    return x


def check_model(model: object, *methods: str) -> None:
    """Checks that `model` is a module with these methods."""
    missing = [name for name in methods if not callable(getattr(model, name, None))]
    if not isinstance(model, nn.Module) or missing:
        names = ", ".join(f"`{name}`" for name in missing or methods)
        known = "a VAE or another module" if "prior" in methods else "a VAE, an Autoencoder, or another module"
        raise checks.fail("model", model, f"{known} with {names}; build(spec) makes one")


def check_set(argument: str, images: object) -> None:
    """Checks that `images` are `Images`."""
    if isinstance(images, tuple):
        raise checks.fail(argument, images, "Images, such as the `train` or the `test` of these splits")
    if not isinstance(images, Images):
        raise checks.fail(argument, images, "Images; Images(pixels) makes them of uint8 pixels of shape (N, C, H, W)")


def decode(decoder: nn.Module, likelihood: nn.Module, z: Tensor) -> dist.TorchDistribution:
    """p(x|z) for codes with any number of leading dimensions, flattened to the one that convolutions take."""
    parameters = decoder(z.reshape(-1, z.shape[-1]))
    return likelihood(parameters.reshape(*z.shape[:-1], *parameters.shape[1:]))


def dtype_of(model: nn.Module) -> torch.dtype:
    """The type of a model's weights, float32 or float64, in which it takes its images."""
    dtype = next((parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()), torch.float32)
    if dtype not in (torch.float32, torch.float64):
        raise checks.fail("model", f"weights of type {str(dtype).removeprefix('torch.')}", "float32 or float64")
    return dtype


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a step of the model's training depends on the mean over its batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def first_of(model: nn.Module, images: Images) -> Tensor:
    """The first two images, or the only one, as the model takes them."""
    return images.take(slice(0, 2)).as_float().to(device_of(model), dtype_of(model))


def batch_arguments(model: nn.Module, images: Images) -> dict[str, Tensor]:
    """The inputs of the model's programs for each image, besides pixels: labels and covariates, by argument.

    These are the parameters that `model.model` names beside `x`, `beta` and `size`, and that the images have: `labels`,
    or one of :attr:`~pyro_vae.Images.covariates`. Floats come in the type of the model's weights, and all where the
    images are. They travel with the batch, and are passed by name to `model`, `guide`, and whichever of `encode`,
    `decode` and `prior` name them.

    Returns:
        Tensors `(N, ...)`, a row for each image; nothing for a model of pixels alone.

    Raises:
        InputError: a parameter without default that the images lack, or labels that are not all known.

    >>> from pyro_vae import Spec, build, load_data
    >>> batch_arguments(build(Spec(latent_dim=2)), load_data("digits").test)
    {}
    """
    rows = dict(images.covariates) | ({} if images.labels is None else {"labels": images.labels})
    for name in required_arguments(model):
        if name not in rows:
            expected = f"{name}, which {type(model).__name__}.model takes: Images(pixels, "
            expected += "labels)" if name == "labels" else f"covariates={{{name!r}: ...}})"
            raise checks.fail("images", f"images without {name}", f"images with {expected}")
    chosen = {parameter.name: rows[parameter.name] for parameter in _own_parameters(model) if parameter.name in rows}
    is_condition = "labels" in chosen and "labels" not in getattr(model, "withheld", ())
    if is_condition and bool((chosen["labels"] == UNKNOWN).any()):
        expected = f"images whose labels are all known, on which {type(model).__name__} is conditional"
        raise checks.fail("images", "images with unknown labels", expected)
    if "labels" in chosen and "labels" in getattr(model, "takes", ()):
        check_classes("images", model, chosen["labels"])
    dtype = dtype_of(model)
    return {name: values.to(dtype) if values.is_floating_point() else values for name, values in chosen.items()}


def evaluated_arguments(model: nn.Module, images: Images) -> dict[str, Tensor]:
    """As :func:`batch_arguments`, without what training alone is told, the `withheld` of the model's class.

    Those are labels that a model infers, for example.
    """
    withheld = getattr(model, "withheld", ())
    return {name: values for name, values in batch_arguments(model, images).items() if name not in withheld}


def check_classes(argument: str, model: nn.Module, labels: Tensor) -> None:
    """Checks that labels are classes of a model, which has a number of `classes`; a captured step can't."""
    classes = getattr(model, "classes", None)
    if classes is None or not len(labels):
        return
    least, largest = int(labels.min()), int(labels.max())
    if least < 0 or largest >= classes:
        expected = f"labels from 0 to {classes - 1}, the classes of the model"
        raise checks.fail(argument, least if least == largest else f"labels from {least} to {largest}", expected)


def required_arguments(model: nn.Module) -> list[str]:
    """The required arguments of `model.model`, besides `x`, `beta` and `size`."""
    return [parameter.name for parameter in _own_parameters(model) if parameter.default is parameter.empty]


def condition_of(model: nn.Module) -> list[str]:
    """The labels and covariates without which the model draws no image: what `model`, `prior` or `decode` require."""
    required = required_arguments(model)
    for method, positional in (("prior", 0), ("decode", 1)):
        if callable(function := getattr(model, method, None)):
            parameters = _named_parameters(function)[positional:]
            required += [each.name for each in parameters if each.default is each.empty]
    return list(dict.fromkeys(required))


def _named_parameters(function: Any) -> list[inspect.Parameter]:
    """The parameters of a function, or of a module's `forward`, besides `*args` and `**kwargs`."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    signature = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    return [each for each in signature.parameters.values() if each.kind not in variadic]


def _own_parameters(model: nn.Module) -> list[inspect.Parameter]:
    """The parameters of `model.model` besides `x`, `beta` and `size`."""
    program = getattr(model, "model", None)
    parameters = _named_parameters(program) if callable(program) else []
    own = [each for each in parameters if each.name not in ("x", "beta", "size")]
    takes = getattr(model, "takes", None)  # of a model whose options decide which of them it takes
    return own if takes is None else [each.replace(default=each.empty) for each in own if each.name in takes]


def check_calls(model: nn.Module, arguments: Mapping[str, object]) -> None:
    """Checks that `model` and `guide` can be called as `(x, beta, labels=...)`, with these arguments by name."""
    for name in ("model", "guide"):
        program = getattr(model, name)
        try:
            inspect.signature(program).bind(None, 1.0, **arguments)
        except TypeError as error:
            parameters = ", ".join(inspect.signature(program).parameters)
            expected = f"{name}({', '.join(('x', 'beta', *arguments))}), called with x and beta by position ({error})"
            raise checks.fail("model", f"{type(model).__name__} with {name}({parameters})", expected) from error


def conditioned_batches(
    model: Model,
    images: Images,
    batch_size: int,
    device: torch.device,
    *,
    as_floats: AsFloats = to_unit,
    start: int = 0,
) -> Iterator[tuple[Tensor, Densities]]:
    """Batches in order, from the image `start` on: floats `(B, C, H, W)`, and the densities given their arguments."""
    arguments = evaluated_arguments(model, images)
    pixels = resident(images.pixels[start:], device)
    for index in torch.arange(len(pixels), device=pixels.device).split(batch_size):
        x = gather(pixels, index, device, as_floats=as_floats, dtype=dtype_of(model))
        rows = {name: values[start:][index.to(values.device)].to(device) for name, values in arguments.items()}
        yield x, Densities(model, rows)


def check_unconditional(model: nn.Module, function: str) -> None:
    """Checks that `model` needs only pixels, for functions that simulate images from it."""
    if names := condition_of(model):
        expected = f"one without, as {function} draws images and has nothing to condition them on"
        raise checks.fail("model", f"{type(model).__name__}, which takes {', '.join(names)}", expected)


def move(model: nn.Module, device: str | torch.device) -> torch.device:
    """Moves a model to `device`, which may be "auto"; returns the device."""
    target = choose_device(device)
    if target.type == "mps" and dtype_of(model) is torch.float64:
        raise checks.fail("model", "float64 weights", f"float32 on {target}, which has no float64")
    model.to(target)
    return target


@contextmanager
def evaluating(model: nn.Module, gradients: bool = False) -> Iterator[None]:
    """Inside, the model is in evaluation mode, without gradients unless wanted; outside, each module is as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(not gradients):
            yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating_on(model: nn.Module, device: str | torch.device, gradients: bool = False) -> Iterator[torch.device]:
    """As :func:`evaluating`, on `device`, which may be "auto"; outside, the model is on its device again.

    Yields:
        The device.
    """
    before = device_of(model)
    try:
        target = move(model, device)
        with evaluating(model, gradients):
            yield target
    finally:
        if device_of(model) != before:
            model.to(before)


def check_fits(model: Model, images: Images) -> None:
    """Runs the model on one image, so that a wrong size or number of channels is an error before any work is done."""
    device = device_of(model)
    (x, densities), *_ = conditioned_batches(model, images.take(slice(0, 1)), 1, device)
    try:
        with evaluating(model), preserved_rng([device]):
            shape = tuple(densities.reconstruct(x).shape[1:])
    except ValueError:  # weights that are not finite: a matter of numbers, not of shapes
        return
    except RuntimeError as error:
        raise checks.fail(
            "images", f"shape {images.shape}", f"images that the model's encoder takes ({error})"
        ) from error
    if shape != images.shape:
        raise checks.fail("images", f"shape {images.shape}", f"{shape}, the shape that the model's decoder puts out")


def check_training_images(model: Model, *sets: Images | None) -> None:
    """As :func:`check_fits`, of models that can be run for it: the package's kinds, and others with `reconstruct`."""
    if isinstance(model, PyroPair) or hasattr(model, "reconstruct"):
        for images in sets:
            if images is not None:
                check_fits(model, images)


def check_finite_weights(model: nn.Module) -> None:
    """Checks that no weight of the model is NaN or infinite."""
    for name, parameter in model.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise checks.fail("model", f"weights that are not finite, in {name}", "finite weights")


def likelihood_of(model: nn.Module) -> str | None:
    """The class of the model's likelihood by name; None where p(x|z) has no such part."""
    likelihood = getattr(model, "likelihood", None)
    return None if likelihood is None else type(likelihood).__name__


def data_range_of(model: nn.Module) -> str | None:
    """The `data_range` of the model's likelihood; None if it has none."""
    return getattr(getattr(model, "likelihood", None), "data_range", None)


def check_dequantize(model: nn.Module, dequantize: object, binarization: str) -> bool:
    """Checks `dequantize`, which is only for grey pixels under a density on the unit interval."""
    if not checks.boolean("dequantize", dequantize):
        return False
    if binarization != "none":
        raise checks.fail("dequantize", True, f"False with binarization {binarization!r}")
    if data_range_of(model) != "unit interval":
        expected = 'False, or a likelihood whose `data_range` is "unit interval", such as a Gaussian'
        raise checks.fail("dequantize", True, expected)
    return True


def warn_if_unbounded(model: nn.Module, images: Images, dequantize: bool, stacklevel: int = 3) -> None:
    """Warns if a continuous Bernoulli is used on pixels that are exactly 0 or 1, where its density has no bound."""
    if not isinstance(getattr(model, "likelihood", None), ContinuousBernoulli) or dequantize:
        return
    if bool(((images.pixels == 0) | (images.pixels == 255)).any()):
        warnings.warn(
            "pixels that are exactly 0 or 1 under a continuous Bernoulli: its density grows there without bound, so "
            "that ELBO and NLL can rise without end; use --dequantize, or --likelihood discretized-logistic",
            stacklevel=stacklevel,
        )


def warn_if_not_binary(model: nn.Module, images: Images | Tensor, binarization: str, stacklevel: int = 3) -> None:
    """Warns if a Bernoulli is used on grey pixels; dynamic binarization makes them binary in each batch."""
    pixels = images if isinstance(images, Tensor) else images.pixels
    if data_range_of(model) == "binary" and binarization != "dynamic" and not is_binary(pixels):
        warnings.warn(
            "grey pixels under a Bernoulli likelihood: the loss is a cross-entropy, not a log-likelihood of the data; "
            "binarize the images, or use a discretized likelihood",
            stacklevel=stacklevel,
        )
