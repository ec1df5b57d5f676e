import pytest
import torch
from torch import nn

from pyro_vae import Spec, build, networks
from pyro_vae._utils.checks import InputError

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


@pytest.mark.parametrize("activation", ["relu", "elu", "tanh"])
@pytest.mark.parametrize("network", ["mlp", "conv"])
def test_signals_keep_their_size_from_layer_to_layer(network, activation):
    """From the start of He et al.; so the first pictures depend on z."""
    fields = {"dataset": "mnist", "hidden": (256, 256), "latent_dim": 16}
    torch.manual_seed(0)
    z = torch.randn(64, 16)
    spread = {}
    for start in ("torch", "he"):
        decoder = build(
            Spec(network={"kind": network, "initialization": start, "activation": activation}, **fields)
        ).decoder
        spread[start] = decoder(z).std(0).mean().item()
    assert 0.3 < spread["he"] < 2
    assert spread["he"] > 2 * spread["torch"]
    if activation == "relu":
        assert spread["torch"] < 0.15
        for layer in decoder:
            z = layer(z)
            if isinstance(layer, nn.Linear | nn.ConvTranspose2d):
                assert 0.3 < z.square().mean().sqrt() < 3


def test_he_starts_at_zero_biases_by_the_seed_and_is_asked_for():
    layers = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.Flatten())
    networks.initialize_he(layers)
    assert not layers[2].bias.any()
    models = [build(Spec(network={"kind": "mlp", "initialization": "he"}, seed=seed)) for seed in (0, 0, 1)]
    first, same_seed, other = (torch.cat([parameter.flatten() for parameter in model.parameters()]) for model in models)
    assert torch.equal(first, same_seed)
    assert not torch.equal(first, other)
    torch.manual_seed(0)
    alone = networks.mlp_encoder((1, 8, 8), 40)
    assert torch.equal(alone[1].weight, build(Spec()).encoder[1].weight)  # the start of earlier versions
