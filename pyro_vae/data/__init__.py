"""Data sets: `Images` in `Splits`, loaded by `load_data`; `binarize` and `dequantize` change their pixels."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_vae.data.binarization import binarize as binarize
    from pyro_vae.data.binarization import fixed_binarization as fixed_binarization
    from pyro_vae.data.dequantization import dequantize as dequantize
    from pyro_vae.data.images import Images as Images
    from pyro_vae.data.images import Splits as Splits
    from pyro_vae.data.sources import load_data as load_data

# Imported on first use: the worker processes that decode pictures import this package, and need no torch.
_HOMES = {
    "Images": "images",
    "Splits": "images",
    "binarize": "binarization",
    "dequantize": "dequantization",
    "fixed_binarization": "binarization",
    "load_data": "sources",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
