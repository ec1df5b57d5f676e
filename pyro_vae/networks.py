"""MLP and convolutional networks: tensor -> parameters of a distribution, which is made elsewhere.

Encoders map images `(N, C, H, W)` to `(N, num_outputs)`; decoders map codes `(N, latent_dim)` to `(N, C, H, W)`. All
are plain `nn.Sequential`, so any module with these shapes can replace them. A network is an encoder and a decoder.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from pyro_vae._utils import checks

Activation = Callable[[], nn.Module]


_ACTIVATIONS: dict[str, Activation] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "leaky-relu": partial(nn.LeakyReLU, 0.1),
}


class MLP:
    """Dense layers: :func:`mlp_encoder` and its mirror, :func:`mlp_decoder`.

    Args:
        image_shape: `(C, H, W)` that the encoder takes.
        num_outputs: numbers that it puts out for each image.
        latent_dim: dimension of the codes that the decoder takes.
        decoded_shape: `(P C, H, W)` that it puts out.
        hidden: units of the encoder's layers; the decoder has them in the opposite order.
        activation: after each layer but the last: `tanh`, `relu`, `elu`, `silu`, `softplus` or `leaky-relu`.
        initialization: how the weights start: `torch`, or `he` (see :func:`initialize_he`), which keeps the size of
            signals, as deep networks need.
        batch_norm: normalize before each activation by the mean and variance over the images of the batch (Ioffe and
            Szegedy, 2015, https://arxiv.org/abs/1502.03167); an evaluation takes their running means.

    >>> MLP((1, 8, 8), 4, 2, (1, 8, 8)).decoder(torch.zeros(5, 2)).shape
    torch.Size([5, 1, 8, 8])
    """

    kind = "mlp"

    def __init__(
        self,
        image_shape: Sequence[int],
        num_outputs: int,
        latent_dim: int,
        decoded_shape: Sequence[int],
        hidden: Sequence[int] = (400,),
        activation: str = "tanh",
        initialization: str = "torch",
        batch_norm: bool = False,
    ) -> None:
        layer, normalized = activation_of(activation), checks.boolean("batch_norm", batch_norm)
        self.encoder = mlp_encoder(image_shape, num_outputs, hidden, layer, normalized)
        self.decoder = mlp_decoder(latent_dim, decoded_shape, hidden[::-1], layer, normalized)
        _initialize(initialization, self.encoder, self.decoder)


class Conv:
    """Convolutions of stride 2, then dense layers: :func:`conv_encoder` and its mirror, :func:`conv_decoder`.

    Args:
        image_shape: `(C, H, W)` that the encoder takes.
        num_outputs: numbers that it puts out for each image.
        latent_dim: dimension of the codes that the decoder takes.
        decoded_shape: `(P C, H, W)` that it puts out.
        hidden: units of the encoder's dense layers; the decoder has them in the opposite order.
        channels: of the convolutions, each of which halves height and width.
        activation: after each layer but the last: `tanh`, `relu`, `elu`, `silu`, `softplus` or `leaky-relu`.
        initialization: how the weights start: `torch`, or `he` (see :func:`initialize_he`), which keeps the size of
            signals, as deep networks need.
        batch_norm: normalize before each activation by the mean and variance over the images of the batch (Ioffe and
            Szegedy, 2015, https://arxiv.org/abs/1502.03167); an evaluation takes their running means.

    >>> Conv((1, 28, 28), 4, 2, (1, 28, 28)).encoder(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 4])
    """

    kind = "conv"

    def __init__(
        self,
        image_shape: Sequence[int],
        num_outputs: int,
        latent_dim: int,
        decoded_shape: Sequence[int],
        hidden: Sequence[int] = (256,),
        channels: Sequence[int] = (32, 64),
        activation: str = "relu",
        initialization: str = "torch",
        batch_norm: bool = False,
    ) -> None:
        layer, channels = activation_of(activation), checks.sizes("channels", channels)
        normalized = checks.boolean("batch_norm", batch_norm)
        self.encoder = conv_encoder(image_shape, num_outputs, channels, hidden, layer, normalized)
        self.decoder = conv_decoder(latent_dim, decoded_shape, channels, hidden[::-1], layer, normalized)
        _initialize(initialization, self.encoder, self.decoder)


def mlp_encoder(
    image_shape: Sequence[int],
    num_outputs: int,
    hidden: Sequence[int] = (400,),
    activation: Activation = nn.Tanh,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Images, flattened, through dense layers.

    >>> mlp_encoder((1, 28, 28), 40)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 40])
    """
    layers = _dense((math.prod(image_shape), *hidden, num_outputs), activation, batch_norm)
    return nn.Sequential(nn.Flatten(), *layers)


def mlp_decoder(
    latent_dim: int,
    image_shape: Sequence[int],
    hidden: Sequence[int] = (400,),
    activation: Activation = nn.Tanh,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Codes through dense layers, folded into images.

    >>> mlp_decoder(20, (1, 28, 28))(torch.zeros(5, 20)).shape
    torch.Size([5, 1, 28, 28])
    """
    layers = _dense((latent_dim, *hidden, math.prod(image_shape)), activation, batch_norm)
    return nn.Sequential(*layers, nn.Unflatten(-1, tuple(image_shape)))


def conv_encoder(
    image_shape: Sequence[int],
    num_outputs: int,
    channels: Sequence[int] = (32, 64),
    hidden: Sequence[int] = (256,),
    activation: Activation = nn.ReLU,
    batch_norm: bool = False,
) -> nn.Sequential:
    """One 4x4 convolution of stride 2 for each of `channels`, then dense layers.

    Each convolution halves height and width, rounded down. An image that gets smaller than one pixel is an error.

    >>> conv_encoder((1, 28, 28), 32)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 32])
    """
    sizes = _sizes(image_shape, channels)
    layers: list[nn.Module] = []
    for inputs, outputs in zip((image_shape[0], *channels), channels, strict=False):
        convolution = nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1, bias=not batch_norm)
        layers += [convolution, *([nn.BatchNorm2d(outputs)] if batch_norm else []), activation()]
    dense = _dense((channels[-1] * math.prod(sizes[-1]), *hidden, num_outputs), activation, batch_norm)
    return nn.Sequential(*layers, nn.Flatten(), *dense)


def conv_decoder(
    latent_dim: int,
    image_shape: Sequence[int],
    channels: Sequence[int] = (32, 64),
    hidden: Sequence[int] = (256,),
    activation: Activation = nn.ReLU,
    batch_norm: bool = False,
) -> nn.Sequential:
    """The mirror of :func:`conv_encoder`: dense layers, then transposed 4x4 convolutions of stride 2.

    >>> conv_decoder(16, (3, 17, 30))(torch.zeros(5, 16)).shape
    torch.Size([5, 3, 17, 30])
    """
    sizes = _sizes(image_shape, channels)
    deep = (channels[-1], *sizes[-1])
    layers: list[nn.Module] = [
        *hidden_layers(latent_dim, (*hidden, math.prod(deep)), activation, batch_norm),
        nn.Unflatten(-1, deep),
    ]
    outputs = (image_shape[0], *channels[:-1])
    for level in reversed(range(len(channels))):
        # A transposed convolution gives 2 * size; one more where the halving had rounded down.
        odd = (sizes[level][0] - 2 * sizes[level + 1][0], sizes[level][1] - 2 * sizes[level + 1][1])
        normalized = batch_norm and level > 0
        layers.append(
            nn.ConvTranspose2d(
                channels[level],
                outputs[level],
                kernel_size=4,
                stride=2,
                padding=1,
                output_padding=odd,
                bias=not normalized,
            )
        )
        if level:
            layers += [*([nn.BatchNorm2d(outputs[level])] if normalized else []), activation()]
    return nn.Sequential(*layers)


def grid_encoder(
    image_shape: Sequence[int],
    num_outputs: int,
    channels: Sequence[int] = (32, 64),
    blocks: int = 2,
    activation: Activation = nn.ReLU,
) -> nn.Sequential:
    """The convolutions of :func:`conv_encoder`, then residual blocks: `num_outputs` for each position of a grid.

    The weights start as :func:`initialize_he` draws them, so that positions differ from the first step on.

    >>> grid_encoder((1, 28, 28), 20)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 20, 7, 7])
    """
    _sizes(image_shape, channels)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise((image_shape[0], *channels)):
        layers += [nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1), activation()]
    body = nn.Sequential(
        *layers,
        *[Residual(channels[-1], activation) for _ in range(blocks)],
        nn.Conv2d(channels[-1], num_outputs, kernel_size=1),
    )
    initialize_he(body)
    return body


def grid_decoder(
    latent_dim: int,
    image_shape: Sequence[int],
    channels: Sequence[int] = (32, 64),
    blocks: int = 2,
    activation: Activation = nn.ReLU,
) -> nn.Sequential:
    """The mirror of :func:`grid_encoder`.

    >>> grid_decoder(20, (3, 17, 30))(torch.zeros(5, 20, *grid_shape((3, 17, 30)))).shape
    torch.Size([5, 3, 17, 30])
    """
    sizes = _sizes(image_shape, channels)
    layers: list[nn.Module] = []
    for level in reversed(range(len(channels))):
        odd = (sizes[level][0] - 2 * sizes[level + 1][0], sizes[level][1] - 2 * sizes[level + 1][1])
        outputs = channels[level - 1] if level else image_shape[0]
        upsample = nn.ConvTranspose2d(channels[level], outputs, 4, stride=2, padding=1, output_padding=odd)
        layers += [activation(), upsample]
    body = nn.Sequential(
        nn.Conv2d(latent_dim, channels[-1], kernel_size=1),
        *[Residual(channels[-1], activation) for _ in range(blocks)],
        *layers,
    )
    initialize_he(body)
    return body


def grid_shape(image_shape: Sequence[int], channels: Sequence[int] = (32, 64)) -> tuple[int, int]:
    """Height and width of the grid that :func:`grid_encoder` makes of an image.

    >>> grid_shape((3, 17, 30))
    (4, 7)
    """
    return _sizes(image_shape, channels)[-1]


class Residual(nn.Module):
    r"""A residual block of two convolutions, 3x3 to half the channels and 1x1 back.

    .. math:: y = x + W_2\, a(W_1 a(x))

    Source: He et al., "Identity mappings in deep residual networks", 2016, https://arxiv.org/abs/1603.05027

    >>> Residual(8)(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 8, 5, 5])
    """

    def __init__(self, channels: int, activation: Activation = nn.ReLU) -> None:
        super().__init__()
        inner = max(channels // 2, 1)
        self.layers = nn.Sequential(
            activation(), nn.Conv2d(channels, inner, 3, padding=1), activation(), nn.Conv2d(inner, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images `(N, channels, H, W)` -> the same shape."""
        y: Tensor = x + self.layers(x)
        return y


def initialize_he(body: nn.Sequential) -> None:
    r"""Draws new weights for a network, so that signals keep their size from layer to layer.

    .. math:: w \sim \mathcal N(0, g / n), \qquad b = 0

    with n the number of inputs that an output of the layer sums over, and g = 2 before an activation that lets about
    half of the mean square through, such as a ReLU, else 1. PyTorch's default has a variance of 1 / (3 n): each layer
    with a ReLU divides the mean square of the signal by 6, so that the outputs of a deep decoder hardly depend on z at
    first, and a VAE takes its first epochs to leave the solution that ignores z.

    Source: He et al., "Delving deep into rectifiers", 2015, https://arxiv.org/abs/1502.01852

    >>> body = nn.Sequential(*[nn.Sequential(nn.Linear(200, 200), nn.ReLU()) for _ in range(8)])
    >>> flat = nn.Sequential(*[layer for block in body for layer in block])
    >>> before = flat(torch.randn(100, 200)).square().mean()
    >>> initialize_he(flat)
    >>> bool(flat(torch.randn(100, 200)).square().mean() > 1000 * before)
    True
    """
    for layer, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(layer, nn.Linear):
            inputs: float = layer.in_features
        elif isinstance(layer, nn.Conv2d):
            inputs = layer.in_channels * math.prod(layer.kernel_size)
        elif isinstance(layer, nn.ConvTranspose2d):  # each output is under one in stride^2 of the kernel's numbers
            inputs = layer.in_channels * math.prod(layer.kernel_size) / math.prod(layer.stride)
        else:
            continue
        gain = 2 if isinstance(after, (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.Softplus)) else 1
        nn.init.normal_(layer.weight, std=math.sqrt(gain / inputs))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def hidden_layers(inputs: int, units: Sequence[int], activation: Activation, batch_norm: bool = False) -> nn.Sequential:
    """Dense layers, each followed by batch normalization where wanted, and by the activation.

    A layer before a normalization, which takes out the mean, has no bias.

    >>> hidden_layers(20, (200, 100), nn.Tanh)(torch.zeros(5, 20)).shape
    torch.Size([5, 100])
    """
    layers: list[nn.Module] = []
    for size, outputs in itertools.pairwise((inputs, *units)):
        dense = nn.Linear(size, outputs, bias=not batch_norm)
        layers += [dense, *([nn.BatchNorm1d(outputs)] if batch_norm else []), activation()]
    return nn.Sequential(*layers)


def activation_of(name: str) -> Activation:
    """The activation of this name.

    >>> activation_of("relu")()
    ReLU()
    """
    return _ACTIVATIONS[checks.one_of("activation", name, _ACTIVATIONS)]


def _initialize(name: str, *bodies: nn.Sequential) -> None:
    if checks.one_of("initialization", name, ("torch", "he")) == "he":
        for body in bodies:
            initialize_he(body)


def _dense(sizes: Sequence[int], activation: Activation, batch_norm: bool) -> list[nn.Module]:
    *before, outputs = sizes
    hidden = hidden_layers(before[0], before[1:], activation, batch_norm)
    return [*hidden, nn.Linear(before[-1], outputs)]


def _sizes(image_shape: Sequence[int], channels: Sequence[int]) -> list[tuple[int, int]]:
    """(height, width) before the first convolution and after each."""
    if not channels:
        raise checks.fail("channels", tuple(channels), "the channels of at least one convolution")
    height, width = image_shape[1:]
    sizes = [(height >> level, width >> level) for level in range(len(channels) + 1)]
    if min(sizes[-1]) < 1:
        smallest = 2 ** len(channels)
        expected = (
            f"at least {smallest}x{smallest} pixels for {len(channels)} convolutions of stride 2, or fewer channels"
        )
        raise checks.fail("image_shape", tuple(image_shape), expected)
    return sizes
