"""Neighbours against a search of all pairs, and precision where it is known."""

import pytest
import torch

from pyro_vae import Images, Spec, build
from pyro_vae._utils.checks import InputError
from pyro_vae.uses.neighbours import Neighbours, nearest, retrieval, spaces


def rows(n, d=5, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("batch_size", [7, 500])
@pytest.mark.parametrize("offset", [0.0, 1000.0], ids=["centred", "far from 0"])
def test_neighbours_are_those_of_a_search_of_all_pairs(batch_size, offset):
    queries, reference = rows(30) + offset, rows(80, seed=1) + offset
    distances = (queries.double()[:, None] - reference.double()).norm(dim=-1)
    expected, index = distances.sort(1)
    result = nearest(queries, reference, 6, batch_size=batch_size)
    assert torch.equal(result.index, index[:, :6])
    assert torch.allclose(result.distance, expected[:, :6], rtol=1e-4)


def test_a_copy_is_the_nearest_at_no_distance():
    reference = rows(50)
    result = nearest(reference[10:20], reference, 3)
    assert torch.equal(result.index[:, 0], torch.arange(10, 20))
    assert torch.equal(result.distance[:, 0], torch.zeros(10, dtype=torch.float64))


def test_neighbours_do_not_depend_on_rotation_and_shift():
    queries, reference = rows(20), rows(60, seed=1)
    rotation = torch.linalg.qr(rows(5, seed=2)).Q
    moved = nearest(queries @ rotation + 2.0, reference @ rotation + 2.0, 4)
    assert torch.equal(moved.index, nearest(queries, reference, 4).index)


def test_precision_by_class():
    near = Neighbours(torch.tensor([[0, 1], [0, 2], [3, 2], [0, 3]]), torch.zeros(4, 2))
    result = retrieval(near, torch.tensor([4, 4, 7, -1]), torch.tensor([4, 4, 7, -1]))
    assert result.by_class == {4: 0.75, 7: 0.5}  # a neighbour of unknown label is wrong
    assert (result.n, result.k, result.precision) == (3, 2, pytest.approx(2 / 3))
    assert result.precision_se == pytest.approx(torch.tensor([1.0, 0.5, 0.5]).std().item() / 3**0.5)


def test_precision_of_random_codes_is_that_of_chance():
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(4000, generator=generator) < 0.2).long()  # a fifth is of class 1
    result = retrieval(nearest(rows(2000), rows(4000, seed=1), 10), labels, labels[:2000])
    assert result.by_class[1] == pytest.approx(0.2, abs=0.02)
    assert result.by_class[0] == pytest.approx(0.8, abs=0.02)


def test_components_span_the_codes_of_a_linear_model(digits):
    """As many components as pixels are a rotation of the pixels: the neighbours are the same."""
    model = build(Spec(latent_dim=64, hidden=(8,)))
    pairs = spaces(model, digits.test.take(slice(0, 20)), digits.train, device="cpu")
    assert pairs["codes"][0].shape == (20, 64)
    by_pixels, by_components = (nearest(*pairs[name], 5) for name in ("pixels", "PCA"))
    assert torch.equal(by_pixels.index, by_components.index)
    assert retrieval(by_pixels, digits.train.labels, digits.test.labels[:20]).precision > 0.9


IMAGES = Images(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
NEAR = nearest(rows(4), rows(9, seed=1), 2)
BAD = {
    "queries: given .*rows of 4 numbers": lambda: nearest(rows(3), rows(3, 4)),
    "queries: given .*matrix": lambda: nearest(torch.zeros(3), rows(3)),
    "reference: given 'NaN": lambda: nearest(rows(3), torch.full((3, 5), torch.nan)),
    "k: given 4, expected at most 3": lambda: nearest(rows(3), rows(3), 4),
    "k: given 0": lambda: nearest(rows(3), rows(3), 0),
    "neighbours: given": lambda: retrieval(rows(3), torch.zeros(3).long(), torch.zeros(3).long()),
    "query_labels: given .*4 labels": lambda: retrieval(NEAR, torch.zeros(9).long(), torch.zeros(3).long()),
    "query_labels: given .*known": lambda: retrieval(NEAR, torch.zeros(9).long(), -torch.ones(4).long()),
    "query_labels: given .*whole numbers": lambda: retrieval(NEAR, torch.zeros(9).long(), torch.zeros(4)),
    "reference_labels: given .*each row": lambda: retrieval(NEAR, torch.zeros(2).long(), torch.zeros(4).long()),
    "queries: given 'images of shape": lambda: spaces(
        build(Spec(latent_dim=2)), Images(torch.zeros(3, 1, 9, 9, dtype=torch.uint8)), IMAGES
    ),
    "queries: given .*expected Images": lambda: spaces(build(Spec(latent_dim=2)), rows(3), IMAGES),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_refused(message):
    with pytest.raises(InputError, match=message):
        BAD[message]()
