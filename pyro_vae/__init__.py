"""Variational autoencoders as Pyro model/guide pairs."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from pyro_vae.checkpoints import load, save
    from pyro_vae.data import Images, Splits, load_data
    from pyro_vae.models import VAE, Autoencoder, build
    from pyro_vae.spec import Spec
    from pyro_vae.training import History, fit

# Imported on first use: torch and pyro take seconds, and `pyro-vae --help` needs neither.
_HOMES = {
    "Autoencoder": "models",
    "History": "training",
    "Images": "data",
    "Spec": "spec",
    "Splits": "data",
    "VAE": "models",
    "build": "models",
    "fit": "training",
    "load": "checkpoints",
    "load_data": "data",
    "save": "checkpoints",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
