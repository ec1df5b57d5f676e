"""The share of codes in use, and their perplexity."""

import math

import pytest
import torch

from pyro_vae._utils.checks import InputError
from pyro_vae.evaluation.latent_codes.codebook import codebook_use


def test_closed_forms():
    even = codebook_use(torch.arange(12).view(3, 2, 2), 12)
    assert even.used == 1
    assert even.perplexity == pytest.approx(12)
    single = codebook_use(torch.full((5, 2, 2), 3), 8)
    assert (single.used, single.perplexity) == (1 / 8, 1.0)
    assert single.counts.tolist() == [0, 0, 0, 20, 0, 0, 0, 0]
    uneven = codebook_use([0, 0, 0, 1], 2)
    assert uneven.perplexity == pytest.approx(math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)))


@pytest.mark.parametrize(
    ("codes", "num_codes", "message"),
    [
        (torch.tensor([0, 4]), 4, "codes: given .*, expected whole numbers from 0 to 3"),
        (torch.tensor([-1]), 4, "codes: given .*, expected whole numbers from 0 to 3"),
        (torch.tensor([0.5]), 4, "codes: given .*, expected whole numbers"),
        (torch.tensor([True]), 4, "codes: given .*, expected whole numbers"),
        (torch.empty(0, dtype=torch.long), 4, "codes: given .*, expected .*, at least one"),
        (torch.tensor([0]), 0, "num_codes: given 0, expected a whole number of at least 1"),
    ],
)
def test_bad_input(codes, num_codes, message):
    with pytest.raises(InputError, match=message):
        codebook_use(codes, num_codes)
