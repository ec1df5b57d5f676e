"""Numbers in the tables of the documentation."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "_ext"))
results = pytest.importorskip("results")


@pytest.mark.parametrize(
    ("row", "cell"),
    [
        ({"x": -99.38334, "x_se": 1.8137}, "-99.4 ± 1.8"),
        ({"x": -102.81, "x_se": 5.0}, "-102.8 ± 5.0"),
        ({"x": 0.366789, "x_sd": 0.02}, "0.367 ± 0.020 (sd)"),
        ({"x": 1234.5, "x_se": 120.0}, "1,234 ± 120"),
        ({"x": 0.25614, "x_interval": [0.2321, 0.2803]}, "0.256 (0.232 to 0.280)"),
        ({"x": 0.0, "x_interval": [0.0, 0.0]}, "0 (0 to 0)"),
        ({"x": 1000}, "1,000"),
        ({"x": 0.366789}, "0.3668"),
    ],
)
def test_a_number_is_shown_to_the_second_digit_of_its_error(row, cell):
    assert results._of_row(row, "x") == cell
