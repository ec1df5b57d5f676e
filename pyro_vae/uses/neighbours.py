"""Nearest images by codes, by pixels and by principal components, and how often they are of the same class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae._utils.progress import Progress
from pyro_vae.data import Images
from pyro_vae.data.images import UNKNOWN
from pyro_vae.latent import codes, principal_components
from pyro_vae.models import Model
from pyro_vae.models.base import check_set

MOST_FOR_COMPONENTS = 10_000  # images that principal components are computed of


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest of M rows, nearest first: their `index` `(M, k)` and `distance` `(M, k)`, Euclidean, float64."""

    index: Tensor
    distance: Tensor


@dataclass(frozen=True)
class Retrieval:
    """How many of the k nearest are of the class of their query.

    - `precision`: the mean share over n queries, `precision_se` its standard error over them (None of one query).
    - `by_class`: the mean share over the queries of each class, by label.
    """

    n: int
    k: int
    precision: float
    precision_se: float | None
    by_class: Mapping[int, float] = field(repr=False)


def nearest(
    queries: Tensor, reference: Tensor, k: int = 10, *, batch_size: int = 200, progress: bool = False
) -> Neighbours:
    """The k nearest rows of `reference` `(N, d)` for each row of `queries` `(M, d)`.

    Args:
        queries: such as codes, or pixels flattened.
        reference: of the same dimension; a query that is among them is its own nearest.
        k: at most N.
        batch_size: queries at a time, `batch_size * N` distances; it bounds the memory.
        progress: a progress bar where standard error is a terminal; else a line every half minute.

    >>> nearest(torch.tensor([[0.0]]), torch.tensor([[3.0], [-1.0], [2.0]]), 2).index
    tensor([[1, 2]])
    """
    queries, reference = _rows("queries", queries), _rows("reference", reference)
    if queries.shape[1] != reference.shape[1]:
        raise checks.fail("queries", queries, f"rows of {reference.shape[1]} numbers, as the reference has")
    k, batch_size = checks.positive_integer("k", k), checks.positive_integer("batch_size", batch_size)
    if k > len(reference):
        raise checks.fail("k", k, f"at most {len(reference)}, the rows of the reference")
    centre = reference.mean(0)
    queries, reference = queries - centre, reference - centre  # of rows far from 0 the products would round more
    norms = reference.square().sum(1)
    parts = []
    with Progress(len(queries), "image", "neighbours", visible=progress) as bar:
        for rows in queries.split(batch_size):
            near = (norms - 2 * rows @ reference.T).topk(k, largest=False).indices
            distance = (rows[:, None].double() - reference[near]).norm(dim=-1)
            distance, order = distance.sort(dim=1, stable=True)
            parts.append((near.gather(1, order), distance))
            bar.update(len(rows))
    return Neighbours(*(torch.cat(part) for part in zip(*parts, strict=True)))


def retrieval(neighbours: Neighbours, reference_labels: Tensor, query_labels: Tensor) -> Retrieval:
    r"""The precision at k: the share of the k nearest that have the label of their query.

    .. math:: \frac1n \sum_i \frac1k \sum_{j=1}^k [y_{i,j} = y_i]

    By chance it is, for each class, the class's share of the reference. Queries of unknown label are left out; a
    neighbour of unknown label counts as wrong.

    >>> three = Neighbours(torch.tensor([[0, 1], [2, 1]]), torch.zeros(2, 2))
    >>> retrieval(three, torch.tensor([5, 5, 6]), torch.tensor([5, 6])).by_class
    {5: 1.0, 6: 0.5}
    """
    if not isinstance(neighbours, Neighbours):
        raise checks.fail("neighbours", neighbours, "Neighbours, as `nearest` returns them")
    of_reference, of_queries = _labels("reference_labels", reference_labels), _labels("query_labels", query_labels)
    m, k = neighbours.index.shape
    if len(of_queries) != m:
        raise checks.fail("query_labels", query_labels, f"{m} labels, one for each query")
    if len(of_reference) <= int(neighbours.index.max()):
        raise checks.fail("reference_labels", reference_labels, "a label for each row of the reference")
    known = of_queries != UNKNOWN
    if not bool(known.any()):
        raise checks.fail("query_labels", query_labels, "at least one label that is known")
    shares = (of_reference[neighbours.index] == of_queries[:, None]).double().mean(1)[known]
    classes = of_queries[known]
    return Retrieval(
        n=len(shares),
        k=k,
        precision=shares.mean().item(),
        precision_se=shares.std().item() / len(shares) ** 0.5 if len(shares) > 1 else None,
        by_class={label: shares[classes == label].mean().item() for label in classes.unique().tolist()},
    )


def spaces(
    model: Model, queries: Images, reference: Images, *, device: str | torch.device = "auto"
) -> dict[str, tuple[Tensor, Tensor]]:
    """Rows for :func:`nearest`, of queries and of reference: their `codes`, their `pixels`, and `PCA` of these.

    There are as many principal components as the code has dimensions, of up to 10,000 images of the reference, so that
    codes are compared with a linear map of the same size. Images are encoded as they are passed: binarize them before,
    where the model saw thresholded pixels.

    >>> from pyro_vae import Spec, build, load_data
    >>> train, test = load_data("digits")
    >>> {name: tuple(rows[0].shape) for name, rows in spaces(build(Spec(latent_dim=2)), test, train).items()}
    {'codes': (359, 2), 'pixels': (359, 64), 'PCA': (359, 2)}
    """
    for name, images in (("queries", queries), ("reference", reference)):
        check_set(name, images)
    if queries.shape != reference.shape:
        raise checks.fail("queries", f"images of shape {queries.shape}", f"{reference.shape}, as the reference has")
    of_codes = codes(model, queries, device=device), codes(model, reference, device=device)
    of_pixels = queries.as_float().flatten(1), reference.as_float().flatten(1)
    some = reference.draw(MOST_FOR_COMPONENTS).as_float().flatten(1)
    pca = principal_components(some, min(of_codes[0].shape[1], *some.shape))
    axes, mean = torch.from_numpy(pca.components_.T).float(), torch.from_numpy(pca.mean_).float()
    of_components = (of_pixels[0] - mean) @ axes, (of_pixels[1] - mean) @ axes
    return {"codes": of_codes, "pixels": of_pixels, "PCA": of_components}


def _rows(argument: str, value: object) -> Tensor:
    rows = checks.matrix(argument, value)
    rows = rows if rows.is_floating_point() else rows.float()
    if not bool(rows.isfinite().all()):
        raise checks.fail(argument, "NaN or infinity", "finite numbers")
    return rows


def _labels(argument: str, value: object) -> Tensor:
    labels = checks.tensor(argument, value).cpu()
    if labels.dim() != 1 or labels.is_floating_point() or labels.is_complex():
        raise checks.fail(argument, value, "whole numbers, shape (N,)")
    return labels.long()
