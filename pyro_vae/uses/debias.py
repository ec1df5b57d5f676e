"""Debiasing: images whose codes lie where few others do are drawn more often, without labels of the groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.data import Images
from pyro_vae.latent import codes
from pyro_vae.models import Model
from pyro_vae.models.base import device_of

COMBINATIONS = ("max", "product")
ACTIVE_VARIANCE = 0.01  # of the codes over images: below it a dimension of a VAE has collapsed


def density_weights(
    codes: Tensor,
    bins: int = 10,
    smoothing: float = 1e-3,
    combine: str = "max",
    min_variance: float = ACTIVE_VARIANCE,
) -> Tensor:
    r"""Probabilities of drawing each image that are high where codes are rare, float64 `(N,)`, of sum 1.

    Each dimension j of the code has a histogram of B bins of equal width between its least and its largest value. With
    :math:`\hat q_j(i)` the share of the N images in the bin of image i,

    .. math:: w_j(i) \propto \frac{1}{\hat q_j(i) + \alpha}, \qquad \sum_i w_j(i) = 1, \qquad
              w(i) \propto \max_j w_j(i) \quad\text{or}\quad \prod_j w_j(i)

    Of one dimension and without smoothing every bin that is not empty is drawn equally often. The product is the
    paper's, as if the dimensions were independent; with many dimensions it leaves nearly all of the weight to a few
    images. The maximum is that of the authors' course (MIT 6.S191), and the default: an image counts as rare by the
    dimension in which it is rarest.

    Args:
        codes: such as posterior means, of shape `(N, d)`.
        bins: B, of each dimension.
        smoothing: :math:`\alpha`, at least 0. An image can be drawn at most :math:`(1 + \alpha) / \alpha` times as
            often as another by each dimension; as it grows, all weights become 1 / N.
        combine: `max` or `product`, over dimensions.
        min_variance: dimensions whose variance over images is not above it are left out, as the posterior ignores them
            (Burda et al., 2016); pass 0 for features that are not codes of a VAE. If none is left, all weights are 1/N.

    Source: Amini et al., "Uncovering and Mitigating Algorithmic Bias through Learned Latent Structure", 2019,
    https://doi.org/10.1145/3306618.3314243

    >>> codes = torch.tensor([[0.0], [0.1], [0.2], [1.0]])
    >>> density_weights(codes, bins=2, smoothing=0.0)
    tensor([0.1667, 0.1667, 0.1667, 0.5000], dtype=torch.float64)

    They are weights for a loader of PyTorch's, which the training of any model may use:

    >>> from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler
    >>> weights = density_weights(codes)
    >>> sampler = WeightedRandomSampler(weights.tolist(), num_samples=len(weights))
    >>> loader = DataLoader(TensorDataset(codes), batch_size=2, sampler=sampler)
    """
    values = checks.matrix("codes", codes).double()
    if not bool(values.isfinite().all()):
        raise checks.fail("codes", "NaN or infinity", "finite numbers")
    bins, smoothing = checks.positive_integer("bins", bins), checks.non_negative("smoothing", smoothing)
    checks.one_of("combine", combine, COMBINATIONS)
    min_variance = checks.non_negative("min_variance", min_variance)
    differs = values.amax(0) > values.amin(0)  # of equal values the variance may be above 0 by rounding
    values = values[:, differs & (values.var(0, correction=0) > min_variance)]
    if not values.shape[1]:
        return torch.full((len(values),), 1 / len(values), dtype=torch.float64)
    rarity = 1 / (_share_of_bin(values, bins) + smoothing)
    log_w = (rarity / rarity.sum(0)).log()
    combined = log_w.amax(1) if combine == "max" else log_w.sum(1)
    return combined.softmax(0)  # of logarithms, as a product over many dimensions underflows


def _share_of_bin(values: Tensor, bins: int) -> Tensor:
    """The share of images in the bin of each value, of each column: `(N, d)`."""
    least, largest = values.amin(0), values.amax(0)
    bin_of = ((values - least) / (largest - least) * bins).long().clamp(max=bins - 1)
    counts = torch.zeros(bins, values.shape[1], dtype=values.dtype)
    counts.scatter_add_(0, bin_of, torch.ones_like(values))
    return counts.gather(0, bin_of) / len(values)


class LatentDensity:
    """Images are drawn with replacement, more often where the model's codes are rare: `density_weights` of each epoch.

    The weights are those of the model's codes at the beginning of each epoch, so that they follow what it has learned;
    as long as it tells no images apart, they are uniform. Each epoch has as many draws as there are images.

    Args:
        bins: of the histogram of each dimension of the code.
        smoothing: added to the share of each bin; the larger, the closer to drawing all images alike.
        combine: max (over the dimensions of the code) or product.

    Source: Amini et al., 2019, https://doi.org/10.1145/3306618.3314243

    >>> from pyro_vae import Spec, build, load_data
    >>> weights = LatentDensity(bins=5)(build(Spec(latent_dim=2)), load_data("digits").train)
    >>> weights.shape, weights.sum()
    (torch.Size([1438]), tensor(1.0000, dtype=torch.float64))
    """

    kind = "latent-density"

    def __init__(self, bins: int = 10, smoothing: float = 0.001, combine: str = "max") -> None:
        self.bins = checks.positive_integer("bins", bins)
        self.smoothing = checks.non_negative("smoothing", smoothing)
        self.combine = checks.one_of("combine", combine, COMBINATIONS)

    def __call__(self, model: Model, images: Images) -> Tensor:
        """The probability of drawing each of the images, float64 `(N,)`."""
        means = codes(model, images, device=device_of(model))
        return density_weights(means, self.bins, self.smoothing, self.combine)


@dataclass(frozen=True)
class GroupMean:
    """The mean of a value over the n images of a group; `se` is its standard error, None of one image."""

    n: int
    mean: float
    se: float | None


def group_means(values: Tensor, groups: Tensor) -> dict[int, GroupMean]:
    """The mean of `values` `(N,)` over each group of images, by the number of the group in `groups` `(N,)`.

    Of whether each image is classified correctly it is the recall of each class; of the NLL of each image, the NLL of
    each group.

    >>> group_means(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 7]))[0].mean
    0.5
    """
    of_images = checks.tensor("values", values).cpu().double()
    if of_images.dim() != 1 or not len(of_images) or not bool(of_images.isfinite().all()):
        raise checks.fail("values", values, "finite numbers, one for each image")
    of_group = checks.tensor("groups", groups).cpu()
    if of_group.shape != of_images.shape or of_group.is_floating_point() or of_group.is_complex():
        raise checks.fail("groups", groups, f"whole numbers, one for each of {len(of_images)} images")
    means = {}
    for group in of_group.unique().tolist():
        some = of_images[of_group == group]
        error = some.std().item() / len(some) ** 0.5 if len(some) > 1 else None
        means[int(group)] = GroupMean(len(some), some.mean().item(), error)
    return means
