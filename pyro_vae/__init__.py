"""Variational autoencoders as Pyro model/guide pairs."""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from pyro_vae.data import Images as Images
    from pyro_vae.data import Splits as Splits
    from pyro_vae.data import load_data as load_data
    from pyro_vae.evaluation import Metrics as Metrics
    from pyro_vae.evaluation import evaluate as evaluate
    from pyro_vae.models import VAE as VAE
    from pyro_vae.models import Autoencoder as Autoencoder
    from pyro_vae.models import build as build
    from pyro_vae.models.weights import load as load
    from pyro_vae.models.weights import save as save
    from pyro_vae.spec import Spec as Spec
    from pyro_vae.training.ensemble import fit_many as fit_many
    from pyro_vae.training.fit import fit as fit
    from pyro_vae.training.history import History as History

# Imported on first use: torch and pyro take seconds, and `pyro-vae --help` needs neither.
_HOMES = {
    "Autoencoder": "models",
    "History": "training.history",
    "Images": "data",
    "Metrics": "evaluation",
    "Spec": "spec",
    "Splits": "data",
    "VAE": "models",
    "build": "models",
    "evaluate": "evaluation",
    "fit": "training.fit",
    "fit_many": "training.ensemble",
    "load": "models.weights",
    "load_data": "data",
    "save": "models.weights",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
