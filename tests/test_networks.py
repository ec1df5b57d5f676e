import pytest
import torch
from torch import nn

from pyro_vae import networks
from pyro_vae.checks import InputError

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 17, 30), (1, 5, 9)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_shapes_of_any_size(kind, shape):
    encoder = getattr(networks, f"{kind}_encoder")(shape, 6)
    decoder = getattr(networks, f"{kind}_decoder")(3, shape)
    assert encoder(torch.rand(4, *shape)).shape == (4, 6)
    assert decoder(torch.rand(4, 3)).shape == (4, *shape)


def test_hidden_sizes_and_activation_are_arguments():
    layers = networks.mlp_encoder((1, 8, 8), 6, hidden=(5, 4), activation=nn.ELU)
    assert [layer.out_features for layer in layers if isinstance(layer, nn.Linear)] == [5, 4, 6]
    assert sum(isinstance(layer, nn.ELU) for layer in layers) == 2
    convolutions = networks.conv_decoder(3, (1, 8, 8), channels=(7, 9), hidden=(5,), activation=nn.SiLU)
    assert [layer.in_channels for layer in convolutions if isinstance(layer, nn.ConvTranspose2d)] == [9, 7]
    # One activation after each layer but the last, which puts out parameters.
    assert sum(isinstance(layer, nn.SiLU) for layer in convolutions) == 3
    assert isinstance(convolutions[-1], nn.ConvTranspose2d)


def test_no_hidden_layer_is_a_linear_map():
    encoder = networks.mlp_encoder((1, 8, 8), 2, hidden=())
    x, y = torch.rand(2, 3, 1, 8, 8)
    torch.testing.assert_close(encoder(x) + encoder(y), 2 * encoder((x + y) / 2))


@pytest.mark.parametrize(
    "make", [networks.conv_encoder, lambda shape, n, **more: networks.conv_decoder(n, shape, **more)]
)
def test_images_too_small_for_the_convolutions(make):
    with pytest.raises(InputError, match=r"image_shape: given \(1, 8, 3\), expected at least 4x4 pixels"):
        make((1, 8, 3), 2)
    with pytest.raises(InputError, match="channels"):
        make((1, 8, 8), 2, channels=())
