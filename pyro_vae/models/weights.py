"""Weights on disk, as safetensors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pyro_vae._utils import checks, files
from pyro_vae.models import Model, model_of
from pyro_vae.part_classes import check_trusted
from pyro_vae.spec import WEIGHTS, Spec


def save(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Writes the weights of a model, and its `Spec` where :func:`pyro_vae.build` made it, as one safetensors file.

    A tensor that the model has under several names, such as that of an encoder that the prior uses too, is written
    under the first; the file's metadata has the others, as `shared`.

    Raises:
        InputError: no model, a state that is not of tensors alone, or a file that can't be written.

    >>> import tempfile
    >>> from pyro_vae import build
    >>> folder = tempfile.mkdtemp()
    >>> path = save(build(Spec(latent_dim=2)), folder + "/vae.safetensors")
    >>> load(path).spec.latent_dim
    2
    """
    if not isinstance(model, nn.Module):
        raise checks.fail("model", model, "a model")
    spec = getattr(model, "spec", None)
    metadata = {"spec": spec.to_json()} if isinstance(spec, Spec) else {}
    state: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    first: dict[Any, str] = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise checks.fail("model", f"a {type(tensor).__name__} as {name}", "tensors alone in its state_dict")
        same = (tensor.device, tensor.dtype, tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and same in first:
            shared[name] = first[same]
        else:
            first[same] = name
            # Cloned, as safetensors takes no views of one another either.
            state[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    if shared:
        metadata["shared"] = json.dumps(shared)
    path = checks.path("path", path)
    try:
        return files.write(path, to_safetensors(state, metadata))
    except OSError as error:
        raise checks.fail("path", str(path), f"a file that can be written ({error.strerror or error})") from error


def load(path: str | os.PathLike[str], model: Model | None = None, *, trust: bool | Spec = False) -> Model:
    """Reads what :func:`save` wrote, from the file or from a run folder; nothing in it is executed.

    Args:
        path: the file, or a folder that holds `weights.safetensors`.
        model: a model of the same parts, into which the weights go; needed where the file has no `Spec` because the
            model was composed by hand.
        trust: whether the `Spec` in the file may name code to import, `module:Class` in the place of a kind;
            or a `Spec`, whose code alone it may name.

    Raises:
        InputError: a missing or damaged file, code that is not trusted, or weights that do not fit the model, which is
            then as it was.
    """
    path = checks.path("path", path)
    path = path / WEIGHTS if path.is_dir() else path
    if model is not None and not isinstance(model, nn.Module):
        raise checks.fail("model", model, "a model, into which the weights go")
    if not path.is_file():
        raise checks.fail("path", str(path), "a file of weights, or a run folder with one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        state |= _shared(state, metadata.get("shared", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise checks.fail("path", str(path), f"an undamaged safetensors file ({error})") from error
    if model is None:
        if "spec" not in metadata:
            raise checks.fail("model", None, f"the model to put the weights of {path} into: the file has no spec")
        spec = Spec.from_json(metadata["spec"])
        check_trusted(spec.to_dict(), path, trust.to_dict() if isinstance(trust, Spec) else trust)
        model = model_of(spec)
    # load_state_dict copies what fits before it refuses the rest.
    before = {name: value.clone() for name, value in _tensors(model)}
    try:
        _put(state, model)
    except Exception as error:
        for name, value in _tensors(model):
            if name in before:
                value.copy_(before[name])
        if not isinstance(error, RuntimeError | ValueError):
            raise
        reason = " ".join(str(error).split())
        raise checks.fail("path", str(path), f"weights that fit the model ({reason})") from error
    return model


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The tensors of a model's state; lazy ones, which have no size yet, are left out."""
    return [
        (name, value) for name, value in model.state_dict().items() if isinstance(value, Tensor) and not is_lazy(value)
    ]


def _put(state: dict[str, Tensor], model: nn.Module) -> None:
    """Loads `state`; an error if a name, a shape, or memory shared by several names does not fit."""
    model.load_state_dict(state)
    for name, value in _tensors(model):  # which another may have overwritten
        if name in state and not torch.allclose(value, state[name].to(value), rtol=0, atol=0, equal_nan=True):
            raise ValueError(f"{name} shares its memory there with what has other values in the file")


def _shared(state: dict[str, Tensor], text: str) -> dict[str, Tensor]:
    """The shared tensors of a file by their other names; a ValueError if its metadata are wrong."""
    names = json.loads(text)
    if not isinstance(names, dict):
        raise ValueError("`shared` is no object of names")
    for name, first in names.items():
        if name in state or not isinstance(first, str) or first not in state:
            raise ValueError(f"`shared` has {name!r} as another name of {first!r}")
    return {name: state[first] for name, first in names.items()}
