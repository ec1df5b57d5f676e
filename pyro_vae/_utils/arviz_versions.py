"""What ArviZ 0.x and 1.x do in different ways, called as if there were a single version."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np


def import_arviz() -> ModuleType:
    """ArviZ, whose import takes a second and is therefore left to those who need it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.x announces its 1.0 on import
        import arviz
    return arviz


def _before_1(arviz: ModuleType) -> bool:
    return int(arviz.__version__.split(".")[0]) < 1


def smooth_by_psis(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed log-weights and Pareto k of each row `(N, K)` of log-weights; k = inf where no tail can be fitted.

    The smoothed weights have the scale of the weights: only those of the tail differ.
    """
    arviz = import_arviz()
    if _before_1(arviz):
        with np.errstate(over="ignore"):  # in its fit of heavy tails, where 1 / inf is the 0 that is meant
            smoothed, k = arviz.psislw(log_weights, normalize=False)
        return np.asarray(smoothed), np.atleast_1d(np.asarray(k, dtype=np.float64))
    from arviz_stats.base import array_stats

    # ArviZ 1.x takes log-likelihoods, whose negatives are the log-weights of leave-one-out; with the other sign it fits
    # the other tail, and says nothing.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        normalized, k = array_stats.psislw(-log_weights, axis=-1)
    # It always normalizes. The median is below the tail, which is at most a fifth, and so shows by how much.
    middle = np.argsort(log_weights, axis=-1)[:, [log_weights.shape[-1] // 2]]
    scale = np.take_along_axis(log_weights - normalized, middle, axis=-1)
    return normalized + scale, np.nan_to_num(np.atleast_1d(k), nan=np.inf, posinf=np.inf)


def inference_data(
    groups: Mapping[str, Mapping[str, np.ndarray]], coords: Mapping[str, np.ndarray], dims: Mapping[str, Sequence[str]]
) -> Any:
    """ArviZ 0.x's `InferenceData`, or the `xarray.DataTree` that takes its place in 1.x, of groups of arrays."""
    arviz = import_arviz()
    if _before_1(arviz):
        return arviz.from_dict(**groups, coords=dict(coords), dims=dict(dims), save_warmup=False)
    return arviz.from_dict(groups, coords=coords, dims=dims, save_warmup=False)
