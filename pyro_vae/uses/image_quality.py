"""How near images are to true ones: peak signal-to-noise ratio and structural similarity."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from pyro_vae._utils import checks

WINDOW = 7  # pixels, of structural similarity
EQUAL_DB = 100.0  # the PSNR of equal images, in the place of infinity


def peak_signal_to_noise(images: Tensor, true: Tensor) -> Tensor:
    r"""The peak signal-to-noise ratio of each image in decibels, `(N,)`; 100 where the images are equal.

    .. math:: -10 \log_{10} \Big(\frac1D \sum_i (a_i - b_i)^2 + 10^{-10}\Big)

    Args:
        images: `(N, C, H, W)`, in units in which the range of pixels is 1.
        true: the same images without error, of the same shape.

    >>> peak_signal_to_noise(torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, 1, 8, 8)).item()
    6.0205...
    """
    images, true = _check_pair(images, true)
    return -10 * ((images - true).square().mean((1, 2, 3)) + 10 ** (-EQUAL_DB / 10)).log10()


def structural_similarity(images: Tensor, true: Tensor) -> Tensor:
    r"""The structural similarity of each image to the true one, `(N,)`, at most 1.

    .. math:: \frac{(2 \mu_a \mu_b + c_1)(2 \sigma_{ab} + c_2)}
                   {(\mu_a^2 + \mu_b^2 + c_1)(\sigma_a^2 + \sigma_b^2 + c_2)}, \qquad c_1 = 0.01^2, \quad c_2 = 0.03^2

    with means, variances and the covariance over windows of 7 by 7 pixels (divided by 48), averaged over the windows
    within the image and over channels. These are scikit-image's defaults.

    Args:
        images: `(N, C, H, W)`, at least 7 by 7 pixels, in units in which the range of pixels is 1.
        true: of the same shape.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004,
    https://doi.org/10.1109/TIP.2003.819861

    >>> x = torch.rand(2, 1, 8, 8)
    >>> structural_similarity(x, x).tolist()
    [1.0, 1.0]
    """
    a, b = _check_pair(images, true)
    if min(a.shape[-2:]) < WINDOW:
        raise checks.fail("images", images, f"images of at least {WINDOW} by {WINDOW} pixels")

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(values, WINDOW, stride=1)

    mean_a, mean_b = mean(a), mean(b)
    unbiased = WINDOW**2 / (WINDOW**2 - 1)
    of_a, of_b = (unbiased * (mean(x.square()) - m.square()) for x, m in ((a, mean_a), (b, mean_b)))
    of_both = unbiased * (mean(a * b) - mean_a * mean_b)
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mean_a * mean_b + c1) * (2 * of_both + c2)
    similarity /= (mean_a.square() + mean_b.square() + c1) * (of_a + of_b + c2)
    return similarity.mean((1, 2, 3))


def _check_pair(images: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    a, b = (checks.tensor(name, value).cpu() for name, value in (("images", images), ("true", true)))
    if a.dim() != 4 or 0 in a.shape or not a.is_floating_point():
        raise checks.fail("images", images, "floats of shape (N, C, H, W)")
    if a.shape != b.shape or not b.is_floating_point():
        raise checks.fail("true", true, f"floats of shape {tuple(a.shape)}, as the images")
    return a.double(), b.double()
