"""Attributes of images measured by moments, images along a direction of code space, and what changes along it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.evaluation.samples.features import Extractor, extract
from pyro_vae.latent import decode_codes
from pyro_vae.models import Model, require_prior
from pyro_vae.models.base import check_unconditional, device_of, dtype_of, evaluating

MEASURED = ("intensity", "thickness", "slant", "width", "height")
LEAST_CHANGE_SD = 1e-5  # of an attribute along a traversal; less is rounding
Measure = Callable[[Tensor], Mapping[str, Tensor]]  #: images `(N, C, H, W)` to attributes by name, `(N,)` each


def measured_attributes(images: Tensor) -> dict[str, Tensor]:
    r"""Attributes of strokes on black ground, float64 `(N,)` each, in pixels; NaN where an image is black.

    With m the sum of the pixels, and variances and covariance of their positions, each weighted by its pixel:

    - `intensity`: m.
    - `thickness`: :math:`2 m / \sum |\nabla x|`, twice the area over the length of the edges: of a bar w wide and h
      high it is :math:`w h / (w + h)`, which is near w where the stroke is long.
    - `slant`: :math:`-\mathrm{Cov}(\text{column}, \text{row}) / \mathrm{Var}(\text{row})`, the columns to the right per
      row upwards.
    - `height`: :math:`4\, \mathrm{sd}(\text{row})`; `width`: four times the sd of the columns about the slanted axis.

    Args:
        images: in [0, 1], `(N, C, H, W)`; the channels are averaged.

    Source: after Castro et al., "Morpho-MNIST", 2019, https://arxiv.org/abs/1809.08823, who measure thickness, width
    and height along a skeleton and a box.

    >>> bar = torch.zeros(1, 1, 20, 20)
    >>> bar[..., 2:18, 8:12] = 1.0  # upright, 4 wide and 16 high
    >>> {name: round(value.item(), 1) for name, value in measured_attributes(bar).items() if name != "intensity"}
    {'thickness': 3.2, 'slant': 0.0, 'width': 4.5, 'height': 18.4}
    """
    x = checks.tensor("images", images).cpu()
    if x.dim() != 4 or not x.is_floating_point() or 0 in x.shape:
        raise checks.fail("images", images, "floats in [0, 1] of shape (N, C, H, W)")
    x = x.double().mean(1)
    mass = x.sum((1, 2))
    rows, columns = (torch.arange(size, dtype=torch.float64) for size in x.shape[1:])

    def mean(values: Tensor) -> Tensor:
        return (x * values).sum((1, 2)) / mass

    row, column = rows[:, None] - mean(rows[:, None])[:, None, None], columns - mean(columns)[:, None, None]
    var_row, var_column, covariance = mean(row.square()), mean(column.square()), mean(row * column)
    # A single row has no slant.
    slope = torch.where(var_row > 0, covariance / var_row.clamp(min=torch.finfo(torch.float64).tiny), 0.0)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    down, across = padded.diff(dim=1)[:, :, :-1], padded.diff(dim=2)[:, :-1]
    edges = (down.square() + across.square()).sqrt().sum((1, 2))
    return {
        "intensity": mass,
        "thickness": 2 * mass / edges,
        "slant": torch.where(mass > 0, 0.0 - slope, torch.nan),
        "width": 4 * (var_column - slope * covariance).clamp(min=0).sqrt(),
        "height": 4 * var_row.sqrt(),
    }


@dataclass(frozen=True, eq=False)
class Traversal:
    """Codes moved along a direction.

    - `amounts`: by how much, `(A,)`; `codes`: `(N, A, d)`; `images`: the means of p(x|z), `(N, A, C, H, W)`.
    - `log_prior`: log p(z) of each code, nats, `(N, A)`: where it is far below that of other codes, the decoder has
      seen next to none there. It is -inf outside the support of the prior.
    """

    amounts: Tensor
    codes: Tensor
    images: Tensor
    log_prior: Tensor


def traverse(model: Model, codes: Tensor, direction: Tensor, amounts: Tensor) -> Traversal:
    """Decodes codes `(N, d)`, each moved by every amount `(A,)` times a direction `(d,)`.

    Raises:
        InputError: a model without a density of its prior, or one that is conditional; or shapes that do not go
            together.

    >>> from pyro_vae import Spec, build
    >>> codes, direction = torch.zeros(3, 2), torch.tensor([1.0, 0.0])
    >>> moved = traverse(build(Spec(latent_dim=2)), codes, direction, torch.linspace(-2, 2, 5))
    >>> moved.images.shape, moved.log_prior.shape
    (torch.Size([3, 5, 1, 8, 8]), torch.Size([3, 5]))
    """
    vae = require_prior(model)
    check_unconditional(vae, "traverse")
    start = checks.matrix("codes", codes)
    v, by = checks.tensor("direction", direction).cpu(), checks.tensor("amounts", amounts).cpu()
    if v.shape != start.shape[1:]:
        raise checks.fail("direction", direction, f"a direction of shape ({start.shape[1]},), as codes have")
    if by.dim() != 1 or not len(by):
        raise checks.fail("amounts", amounts, "numbers of shape (A,)")
    moved = start.double()[:, None] + by.double()[:, None] * v.double()
    flat = moved.flatten(0, 1).to(dtype_of(vae))
    images = decode_codes(vae, flat)
    with evaluating(vae):
        log_prior = _log_density(vae.prior(), flat.to(device_of(vae))).cpu().double()
    shape = moved.shape[:2]
    return Traversal(by, moved, images.unflatten(0, shape), log_prior.unflatten(0, shape))


def _log_density(p: Any, z: Tensor) -> Tensor:
    inside = p.support.check(z)
    if bool(inside.all()):
        return p.log_prob(z)
    return p.log_prob(torch.where(inside[:, None], z, p.mean)).masked_fill(~inside, -torch.inf)


def measured_along(traversal: Traversal, measure: Measure = measured_attributes) -> dict[str, Tensor]:
    """Attributes of the images of a traversal, `(N, A)` each."""
    if not isinstance(traversal, Traversal):
        raise checks.fail("traversal", traversal, "a Traversal, as `traverse` returns it")
    measured = measure(traversal.images.flatten(0, 1))
    return {name: values.unflatten(0, traversal.images.shape[:2]) for name, values in measured.items()}


@dataclass(frozen=True)
class Effect:
    """What moving along a direction does to an attribute, over n images.

    - `spearman`: the rank correlation of the amount with the attribute along the traversal of an image, 1 where it only
      ever rises, -1 where it only falls, and 0 where it stays; the mean over images, `spearman_se` its standard error
      (None of one image).
    - `change_sd`: the attribute at the last amount less that at the first, in standard deviations of the attribute over
      other images; the mean over images.
    """

    n: int
    spearman: float
    spearman_se: float | None
    change_sd: float


def effects(amounts: Tensor, measured: Mapping[str, Tensor], of_images: Mapping[str, Tensor]) -> dict[str, Effect]:
    """The effect of a direction on each attribute: a row of the matrix of effects, whose rows are directions.

    Args:
        amounts: of the traversal, increasing, `(A,)`.
        measured: attributes by name, `(N, A)` each, as of :func:`measured_along`. An image that lacks an attribute at
            some amount (NaN, as of a black image) is left out of that attribute.
        of_images: the same attributes of images, `(M,)` each, whose standard deviation is the unit of the change.

    >>> amounts, values = torch.tensor([-1.0, 0.0, 1.0]), torch.tensor([[1.0, 2.0, 4.0], [3.0, 2.0, 5.0]])
    >>> effects(amounts, {"thickness": values}, {"thickness": torch.tensor([1.0, 3.0, 5.0])})
    {'thickness': Effect(n=2, spearman=0.75, spearman_se=0.25, change_sd=1.25)}
    """
    by = checks.tensor("amounts", amounts).cpu()
    if by.dim() != 1 or len(by) < 2 or not bool((by.diff() > 0).all()):
        raise checks.fail("amounts", amounts, "at least 2 increasing numbers, shape (A,)")
    if missing := [name for name in measured if name not in of_images]:
        raise checks.fail("of_images", sorted(of_images), f"{missing[0]} as well, which was measured")
    return {name: _effect(by, name, values, of_images[name]) for name, values in measured.items()}


def _effect(amounts: Tensor, name: str, values: Tensor, of_images: Tensor) -> Effect:
    along = checks.tensor(f"measured {name!r}", values).cpu().double()
    if along.dim() != 2 or along.shape[1] != len(amounts):
        raise checks.fail(f"measured {name!r}", values, f"numbers of shape (N, {len(amounts)})")
    usual = checks.tensor(f"of_images {name!r}", of_images).cpu().double()
    along, usual = along[along.isfinite().all(1)], usual[usual.isfinite()]
    sd = usual.std() if len(usual) > 1 else torch.zeros(())
    if sd == 0:
        raise checks.fail(f"of_images {name!r}", of_images, "an attribute that varies over images")
    if not len(along):
        raise checks.fail(f"measured {name!r}", values, "at least one image that has the attribute at each amount")
    varies = along.amax(1) - along.amin(1) > LEAST_CHANGE_SD * sd
    rho = rank_correlation(amounts, along) * varies
    return Effect(
        n=len(along),
        spearman=rho.mean().item(),
        spearman_se=rho.std().item() / len(rho) ** 0.5 if len(rho) > 1 else None,
        change_sd=((along[:, -1] - along[:, 0]).mean() / sd).item(),
    )


def rank_correlation(x: Tensor, y: Tensor) -> Tensor:
    r"""Spearman's rank correlation of x `(A,)` with each row of y `(N, A)`, float64 `(N,)`.

    .. math:: \rho = \mathrm{corr}(\mathrm{rank}(x), \mathrm{rank}(y))

    Ties have their mean rank. A row whose numbers are all the same has 0.

    >>> rank_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[1.0, 10.0, 100.0], [2.0, 2.0, 2.0]]))
    tensor([1., 0.], dtype=torch.float64)
    """
    from scipy.stats import rankdata

    rows = checks.matrix("y", y).double()
    by = checks.tensor("x", x).cpu().double()
    if not bool(rows.isfinite().all()):
        raise checks.fail("y", "NaN or infinity", "finite numbers")
    if by.shape != rows.shape[1:] or len(by) < 2 or not bool(by.isfinite().all()):
        raise checks.fail("x", x, f"{rows.shape[1]} finite numbers, and at least 2, as many as the columns of y")
    ranks = [torch.from_numpy(rankdata(each.numpy(), axis=-1)) for each in (by, rows)]
    a, b = (each - each.mean(-1, keepdim=True) for each in ranks)
    scale = (a.square().sum() * b.square().sum(1)).sqrt()
    return (b @ a) / scale.clamp(min=torch.finfo(torch.float64).tiny)


def class_probabilities(classifier: Extractor, images: Tensor, *, device: str | torch.device = "auto") -> Tensor:
    """The probability of each class of images `(..., C, H, W)`, `(..., classes)`, by a classifier.

    Args:
        classifier: an extractor with logits, such as
            :func:`~pyro_vae.evaluation.samples.classifier.in_domain_classifier` or a
            :class:`~pyro_vae.evaluation.samples.features.ModuleExtractor`.
        images: floats in [0, 1], such as those of a :class:`Traversal`.
        device: `auto` is CUDA, else Apple's MPS, else the CPU.
    """
    x = checks.tensor("images", images)
    if x.dim() < 4:
        raise checks.fail("images", images, "floats in [0, 1] of shape (..., C, H, W)")
    logits = extract(classifier, x.reshape(-1, *x.shape[-3:]), device=device).logits
    if logits is None:
        raise checks.fail("classifier", classifier, "an extractor with logits")
    return logits.double().softmax(1).unflatten(0, x.shape[:-3])


def class_kept(labels: Tensor, predicted: Tensor) -> Tensor:
    """The share of images whose predicted class `(N, A)` is their label `(N,)`, at each amount, float64 `(A,)`.

    >>> class_kept(torch.tensor([3, 8]), torch.tensor([[3, 3, 5], [3, 8, 8]]))
    tensor([0.5000, 1.0000, 0.5000], dtype=torch.float64)
    """
    y, classes = checks.tensor("labels", labels).cpu(), checks.tensor("predicted", predicted).cpu()
    if classes.dim() != 2 or 0 in classes.shape:
        raise checks.fail("predicted", predicted, "classes of shape (N, A)")
    if y.shape != classes.shape[:1]:
        raise checks.fail("labels", labels, f"a label for each of {len(classes)} images")
    return (classes == y[:, None]).double().mean(0)
