import math

import numpy as np
import pytest

from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation import (
    dci_from_importance,
    disentanglement_completeness_informativeness,
    mutual_information_gap,
    separated_attribute_predictability,
)

RNG = np.random.default_rng(0)
RARE = np.zeros((1500, 1), dtype=int)  # whose one 1 falls among the test codes
RARE[np.random.default_rng(0).permutation(1500)[0]] = 1
FACTORS = RNG.integers(0, 5, (1500, 3))
SCORES = {
    "MIG": lambda codes, factors: mutual_information_gap(codes, factors).score,
    "SAP": lambda codes, factors: separated_attribute_predictability(codes, factors).score,
    "DCI": lambda codes, factors: disentanglement_completeness_informativeness(codes, factors).disentanglement,
}


@pytest.mark.parametrize("name", ["MIG", "DCI"])
def test_the_factors_themselves_are_disentangled(name):
    assert SCORES[name](FACTORS.astype(float), FACTORS) >= 0.9


def test_sap_of_the_factors_themselves():
    """One linear SVM on one code: two-valued factors are found, against chance for the others."""
    factors = RNG.integers(0, 2, (1500, 3))
    assert separated_attribute_predictability(factors.astype(float), factors).score == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("name", SCORES)
def test_codes_that_never_change_say_nothing(name):
    assert SCORES[name](np.zeros((1500, 3)), FACTORS) <= 0.2


def test_two_codes_for_one_factor_leave_no_gap():
    twice = np.repeat(FACTORS.astype(float), 2, axis=1)
    assert mutual_information_gap(twice, FACTORS).score <= 0.1
    assert separated_attribute_predictability(twice, FACTORS).score <= 0.1


def test_rotated_codes_are_less_disentangled():
    rotation = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    for name in ("MIG", "DCI"):
        assert SCORES[name](FACTORS @ rotation, FACTORS) < 0.6


def test_dci_closed_forms():
    """Five codes for ten factors, two each: a code's importance is over two of ten, a factor's over one of five."""
    importance = np.kron(np.eye(5), np.ones((1, 2)))
    dci = dci_from_importance(importance)
    assert dci.disentanglement == pytest.approx(1 - math.log(2) / math.log(10), abs=1e-6)
    assert dci.completeness == pytest.approx(1, abs=1e-6)
    assert dci_from_importance(importance.T).completeness == pytest.approx(1 - math.log(2) / math.log(10), abs=1e-6)
    assert dci_from_importance(np.ones((4, 6))).disentanglement == pytest.approx(0, abs=1e-6)
    assert dci_from_importance(np.zeros((4, 6))).disentanglement == 0


def test_informativeness_is_accuracy_on_codes_not_trained_on():
    dci = disentanglement_completeness_informativeness(RNG.normal(size=(900, 2)), RNG.integers(0, 2, (900, 1)))
    assert dci.informativeness == pytest.approx(0.5, abs=0.1)


def test_continuous_factors():
    factors = RNG.random((1500, 2))
    codes = factors + 1e-3 * RNG.normal(size=factors.shape)
    assert mutual_information_gap(codes, factors, continuous=True).score > 0.8
    assert separated_attribute_predictability(codes, factors, continuous=True).score > 0.95
    dci = disentanglement_completeness_informativeness(codes, factors, continuous=True)
    assert min(dci.disentanglement, dci.completeness, dci.informativeness) > 0.95


def test_the_order_of_codes_and_factors_does_not_matter():
    codes = FACTORS + RNG.normal(size=FACTORS.shape)
    assert mutual_information_gap(codes[:, ::-1], FACTORS).score == pytest.approx(
        mutual_information_gap(codes, FACTORS).score
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mutual_information_gap(np.zeros(5), FACTORS), "codes: given"),
        (lambda: mutual_information_gap(np.full((1500, 2), np.nan), FACTORS), "codes: given"),
        (lambda: mutual_information_gap(np.zeros((9, 2)), FACTORS), "factors: given"),
        (lambda: mutual_information_gap(np.zeros((1500, 2)), np.ones((1500, 2), int)), "a constant factor 0"),
        (
            lambda: mutual_information_gap(FACTORS, FACTORS.astype(float)),
            "factors: given 'float64', expected whole numbers, or",
        ),
        (lambda: mutual_information_gap(FACTORS, np.full((1500, 1), np.nan), continuous=True), "factors: given 'NaN"),
        (lambda: separated_attribute_predictability(FACTORS, RARE), "constant on the training codes"),
        (lambda: mutual_information_gap(np.zeros((1500, 2)), FACTORS, bins=0), "bins: given 0"),
        (lambda: separated_attribute_predictability(FACTORS, FACTORS, test_share=1), "test_share: given 1"),
        (lambda: dci_from_importance(np.array([[-1.0]])), "importance: given"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
