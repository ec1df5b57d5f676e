"""How single codes stand for single factors of variation: MIG, SAP and DCI on arrays `(codes, factors)`.

Codes are `(N, d)`, factors `(N, f)`, discrete unless `continuous=True`. They need known factors, which real sets seldom
have: :func:`pyro_vae.data.synthetic.sprites` makes images with five.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
from sklearn.metrics import mutual_info_score
from sklearn.svm import LinearSVC

from pyro_vae._utils import checks


@dataclass(frozen=True, eq=False)
class Gap:
    """A gap score: its mean over factors, that of each factor `(f,)`, and the `(d, f)` matrix that it comes from."""

    score: float
    per_factor: np.ndarray
    matrix: np.ndarray


def mutual_information_gap(codes: np.ndarray, factors: np.ndarray, *, bins: int = 20, continuous: bool = False) -> Gap:
    r"""MIG: by how much the most informative code leads the second, :math:`(I_1 - I_2) / H(\text{factor})`.

    Codes (and continuous factors) are cut into `bins` of equal width.

    Source: Chen et al., "Isolating sources of disentanglement in VAEs", 2018, https://arxiv.org/abs/1802.04942

    >>> factors = np.random.default_rng(0).integers(0, 4, (500, 2))
    >>> round(mutual_information_gap(factors.astype(float), factors).score, 1)
    1.0
    """
    codes, factors = _check(codes, factors, continuous)
    checks.positive_integer("bins", bins)
    if continuous:
        factors = np.stack([_binned(column, bins) for column in factors.T], 1)
    binned = np.stack([_binned(column, bins) for column in codes.T], 1)
    matrix = np.array([[mutual_info_score(factor, code) for factor in factors.T] for code in binned.T])
    entropy = np.array([mutual_info_score(factor, factor) for factor in factors.T])
    return _gap(matrix / entropy)


def separated_attribute_predictability(
    codes: np.ndarray, factors: np.ndarray, *, continuous: bool = False, test_share: float = 1 / 3, seed: int = 0
) -> Gap:
    """SAP: by how much the code that predicts a factor best leads the second.

    A linear SVM on one code (C = 0.01, balanced) by its test accuracy; for continuous factors the squared correlation.

    Source: Kumar et al., "Variational inference of disentangled latent concepts", 2018,
    https://arxiv.org/abs/1711.00848
    """
    codes, factors = _check(codes, factors, continuous)
    if continuous:
        matrix = np.array([[_squared_correlation(code, factor) for factor in factors.T] for code in codes.T])
        return _gap(matrix)
    train, test = _split(len(codes), test_share, seed)
    for index, column in enumerate(factors[train].T):
        if len(np.unique(column)) < 2:
            raise checks.fail(
                "factors", f"a factor {index} constant on the training codes", "values that are less rare"
            )
    matrix = np.zeros((codes.shape[1], factors.shape[1]))
    for i, code in enumerate(codes.T):
        for j, factor in enumerate(factors.T):
            svm = LinearSVC(C=0.01, class_weight="balanced", random_state=seed)
            matrix[i, j] = svm.fit(code[train, None], factor[train]).score(code[test, None], factor[test])
    return _gap(matrix)


@dataclass(frozen=True, eq=False)
class DCI:
    """`disentanglement` (does a code matter to one factor only), `completeness` (does a factor need one code only), and
    `informativeness`: test accuracy of the predictors, or R squared; `importance` is `(d, f)`."""

    disentanglement: float
    completeness: float
    informativeness: float
    importance: np.ndarray


def disentanglement_completeness_informativeness(
    codes: np.ndarray, factors: np.ndarray, *, continuous: bool = False, test_share: float = 1 / 3, seed: int = 0
) -> DCI:
    """DCI from the feature importances of gradient-boosted trees, one predictor a factor.

    Source: Eastwood and Williams, "A framework for the quantitative evaluation of disentangled representations", 2018,
    https://openreview.net/forum?id=By-7dz-AZ
    """
    codes, factors = _check(codes, factors, continuous)
    train, test = _split(len(codes), test_share, seed)
    for index, column in enumerate(factors[train].T):
        if len(np.unique(column)) < 2:
            raise checks.fail(
                "factors", f"a factor {index} constant on the training codes", "values that are less rare"
            )
    kind = GradientBoostingRegressor if continuous else GradientBoostingClassifier
    importance, accuracy = [], []
    for factor in factors.T:
        predictor = kind(random_state=seed).fit(codes[train], factor[train])
        importance.append(np.abs(predictor.feature_importances_))
        accuracy.append(predictor.score(codes[test], factor[test]))
    return dci_from_importance(np.stack(importance, 1), float(np.mean(accuracy)))


def dci_from_importance(importance: np.ndarray, informativeness: float = float("nan")) -> DCI:
    """The two entropy scores of an importance matrix `(d, f)`.

    >>> one_each = np.eye(4)
    >>> round(dci_from_importance(one_each).disentanglement, 6)
    1.0
    """
    importance = _array("importance", importance, np.float64)
    if importance.ndim != 2 or importance.size == 0 or not np.isfinite(importance).all() or (importance < 0).any():
        raise checks.fail("importance", importance.shape, "a matrix (d, f) of finite numbers of at least 0")
    if importance.sum() == 0:  # no code matters to any factor
        return DCI(0.0, 0.0, informativeness, importance)
    d, f = importance.shape
    disentanglement = (1 - _entropy(importance, f)) @ importance.sum(1) / importance.sum()
    completeness = (1 - _entropy(importance.T, d)) @ importance.sum(0) / importance.sum()
    return DCI(float(disentanglement), float(completeness), informativeness, importance)


def _entropy(rows: np.ndarray, base: int) -> np.ndarray:
    """Of each row as a distribution, in units of log `base`."""
    p = (rows + 1e-11) / (rows + 1e-11).sum(1, keepdims=True)
    return -(p * np.log(p)).sum(1) / np.log(base) if base > 1 else np.zeros(len(rows))


def _gap(matrix: np.ndarray) -> Gap:
    ordered = np.sort(matrix, axis=0)
    gaps = ordered[-1] - (ordered[-2] if len(ordered) > 1 else 0)
    return Gap(float(gaps.mean()), gaps, matrix)


def _binned(column: np.ndarray, bins: int) -> np.ndarray:
    return np.digitize(column, np.histogram(column, bins)[1][:-1])


def _squared_correlation(code: np.ndarray, factor: np.ndarray) -> float:
    if code.std() < 1e-12:  # a constant code predicts nothing
        return 0.0
    return float(np.corrcoef(code, factor)[0, 1] ** 2)


def _split(n: int, test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    if not 0 < test_share < 1 or not 0 < round(n * test_share) < n:
        raise checks.fail("test_share", test_share, "a number above 0 and below 1 that leaves codes on both sides")
    order = np.random.default_rng(seed).permutation(n)
    count = round(n * test_share)
    return order[count:], order[:count]


def _array(name: str, values: Any, dtype: Any) -> np.ndarray:
    try:
        array = np.asarray(values, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise checks.fail(name, values, "an array of numbers") from error
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool):
        raise checks.fail(name, array, "an array of numbers")
    return array


def _check(codes: np.ndarray, factors: np.ndarray, continuous: bool) -> tuple[np.ndarray, np.ndarray]:
    codes, factors = _array("codes", codes, np.float64), _array("factors", factors, None)
    if codes.ndim != 2 or codes.size == 0 or not np.isfinite(codes).all():
        raise checks.fail("codes", codes.shape, "finite numbers of shape (N, d)")
    if factors.ndim != 2 or len(factors) != len(codes):
        raise checks.fail("factors", factors.shape, f"shape (N, f) with N = {len(codes)}, as codes have")
    if not continuous and not np.issubdtype(factors.dtype, np.integer):
        raise checks.fail("factors", factors.dtype.name, "whole numbers, or continuous=True")
    if not np.isfinite(factors).all():
        raise checks.fail("factors", "NaN or infinity", "finite numbers")
    for index, column in enumerate(factors.T):
        if len(np.unique(column)) < 2:
            raise checks.fail(
                "factors", f"a constant factor {index}", "factors that vary: a constant one has no information to find"
            )
    return codes, factors
