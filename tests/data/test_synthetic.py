import pytest
import torch

from pyro_vae._utils.checks import InputError
from pyro_vae.data.synthetic import FACTORS, LEVELS, SHAPES, all_factors, sprites, sprites_of


def test_factors_are_uniform_independent_and_reproducible():
    images, factors = sprites(3000, size=16)
    assert factors.shape == (3000, len(FACTORS))
    assert torch.equal(images.labels, factors[:, 0])
    assert images.class_names == SHAPES
    for column, levels in zip(factors.T, (3, 6, 8, 16, 16), strict=True):
        counts = column.bincount(minlength=levels)
        assert len(counts) == levels
        assert counts.min() > 0.6 * 3000 / levels
    assert factors.double().T.corrcoef().fill_diagonal_(0).abs().max() < 0.08
    assert sprites(3000, size=16).images.fingerprint == images.fingerprint


def centre(pixels):
    weight = pixels.double().squeeze(1)
    axis = torch.arange(weight.shape[1], dtype=torch.float64)
    total = weight.sum((1, 2))
    return (weight.sum(1) @ axis) / total, (weight.sum(2) @ axis) / total


def test_each_factor_does_what_its_name_says():
    images, factors = sprites(2000)
    right, down = centre(images.pixels)
    assert torch.corrcoef(torch.stack([right, factors[:, 3].double()]))[0, 1] > 0.99
    assert torch.corrcoef(torch.stack([down, factors[:, 4].double()]))[0, 1] > 0.99
    area = images.as_float().sum((1, 2, 3)).double()
    for kind in range(3):
        chosen = factors[:, 0] == kind
        assert torch.corrcoef(torch.stack([area[chosen], factors[chosen, 1].double()]))[0, 1] > 0.97
    # A turned shape is another picture of the same area.
    same = (factors[:, [0, 1]] == torch.tensor([0, 5])).all(1)
    spread = area[same].std() / area[same].mean()
    assert spread < 0.02


def test_no_shape_touches_the_border():
    pixels = sprites(2000).images.pixels
    border = torch.cat([pixels[..., 0, :], pixels[..., -1, :], pixels[..., :, 0], pixels[..., :, -1]], -1)
    assert border.max() == 0


def test_sprites_are_those_of_their_factors():
    images, factors = sprites(30, seed=3)
    drawn = sprites_of(factors)
    assert drawn.images.fingerprint == images.fingerprint
    assert len(all_factors().unique(dim=0)) == torch.tensor(LEVELS).prod()
    assert len(sprites_of(all_factors()[::97]).images.pixels.unique(dim=0)) == len(all_factors()[::97])


@pytest.mark.parametrize("factors", [torch.zeros(2, 4), torch.zeros(2, 5), torch.tensor([[3, 0, 0, 0, 0]]), [[-1] * 5]])
def test_factors_that_no_sprite_has_are_refused(factors):
    with pytest.raises(InputError, match="factors: given"):
        sprites_of(factors)


@pytest.mark.parametrize(("arguments", "message"), [((0,), "n: given 0"), ((5, 8), "size: given 8")])
def test_bad_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        sprites(*arguments)
