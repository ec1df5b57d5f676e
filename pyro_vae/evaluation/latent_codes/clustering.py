"""How well the classes or clusters that a model infers agree with the labels of images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae._utils import checks

LEAST_SHARE = 0.01  # of the images, from which on a cluster counts as used


@dataclass(frozen=True)
class LabelAccuracy:
    """The share of images whose most probable class is their label, and its standard error over images."""

    label_accuracy: float
    label_accuracy_se: float


@dataclass(frozen=True)
class Clustering:
    """The agreement of clusters with classes.

    - `cluster_accuracy`: the share of images whose cluster is matched to their class, by the best matching of each
      cluster to a class of its own (to none, where there are more clusters than classes), and its standard error over
      images.
    - `cluster_nmi`: the normalised mutual information of cluster and class, 0 to 1.
    - `clusters_used`: clusters that at least 1 % of the images are in.
    """

    cluster_accuracy: float
    cluster_accuracy_se: float
    cluster_nmi: float
    clusters_used: int


def label_accuracy(probabilities: Tensor, labels: Tensor) -> LabelAccuracy:
    """How often the most probable class of an image is its label.

    Args:
        probabilities: of each class, `(N, classes)`.
        labels: `(N,)`, from 0 to classes - 1, or -1 where unknown; those images are left out.

    Raises:
        InputError: probabilities that are not finite, labels of no class, or none that is known.

    >>> label_accuracy(torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]), torch.tensor([0, 0, -1])).label_accuracy
    0.5
    """
    values = _probabilities(probabilities)
    known = _known(values, labels)
    if (highest := int(labels.max())) >= values.shape[1]:
        raise checks.fail("labels", highest, f"labels below {values.shape[1]}, the columns of probabilities")
    share = float((values.argmax(1)[known] == labels.cpu()[known]).double().mean())
    return LabelAccuracy(share, _se(share, int(known.sum())))


def clustering(probabilities: Tensor, labels: Tensor) -> Clustering:
    """The agreement of the most probable cluster of each image with its label.

    The names of clusters are of no account: the matching that agrees with most labels is found by the Hungarian method
    (Kuhn, 1955), as Yang et al., 2010, https://doi.org/10.1109/TIP.2010.2049235, have it.

    Args:
        probabilities: of each cluster, `(N, clusters)`.
        labels: `(N,)`, of any number of classes, -1 where unknown; those images are left out.

    Raises:
        InputError: probabilities that are not finite, or no label that is known.

    >>> clusters = torch.eye(3)[torch.tensor([2, 2, 0, 0])]
    >>> clustering(clusters, torch.tensor([0, 0, 1, 1]))
    Clustering(cluster_accuracy=1.0, cluster_accuracy_se=0.0, cluster_nmi=1.0, clusters_used=2)
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import normalized_mutual_info_score

    values = _probabilities(probabilities)
    known = _known(values, labels)
    clusters, classes = values.argmax(1)[known], labels.cpu()[known]
    counts = torch.zeros(values.shape[1], int(classes.max()) + 1, dtype=torch.float64)
    counts.index_put_((clusters, classes), counts.new_ones(len(classes)), accumulate=True)
    matched = linear_sum_assignment(counts.numpy(), maximize=True)
    share = float(counts[matched].sum() / len(classes))
    return Clustering(
        cluster_accuracy=share,
        cluster_accuracy_se=_se(share, len(classes)),
        cluster_nmi=float(normalized_mutual_info_score(classes.numpy(), clusters.numpy())),
        clusters_used=int((counts.sum(1) >= LEAST_SHARE * len(classes)).sum()),
    )


def _se(share: float, n: int) -> float:
    """The standard error of a share of n images."""
    return (share * (1 - share) / n) ** 0.5


def _probabilities(values: Tensor) -> Tensor:
    """The matrix of them on the CPU."""
    values = checks.matrix("probabilities", values)
    if not bool(values.isfinite().all()):
        raise checks.fail("probabilities", "NaN or infinity", "finite numbers")
    return values


def _known(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Where labels are known; there must be one for each image, and one that is."""
    values = checks.tensor("labels", labels).cpu()
    if values.shape != (len(probabilities),) or values.is_floating_point():
        raise checks.fail("labels", tuple(values.shape), f"one label per image, shape ({len(probabilities)},)")
    if not bool((values >= 0).any()):
        raise checks.fail("labels", "none that is known", "known labels of at least some images")
    return values >= 0
