"""Exercise 12, solved."""

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor


def weights(codes: Tensor, bins: int, smoothing: float) -> Tensor:
    least, largest = codes.amin(0), codes.amax(0)
    bin_of = ((codes - least) / (largest - least) * bins).long().clamp(max=bins - 1)
    of_each = []
    for column in bin_of.T:
        share = torch.bincount(column, minlength=bins)[column] / len(codes)
        rarity = 1 / (share.double() + smoothing)
        of_each.append(rarity / rarity.sum())
    largest_of = torch.stack(of_each).amax(0)
    return largest_of / largest_of.sum()


def suspects(train: Tensor, codes: Tensor) -> Tensor:
    return weights(codes, bins=10, smoothing=0.01).topk(40).indices


def classify(train: Tensor, labels: Tensor, codes: Tensor, x: Tensor) -> Tensor:
    w = len(train) * weights(codes, bins=10, smoothing=0.001)
    # The weighted loss is that of images drawn with these weights, on average.
    model = LogisticRegression(max_iter=300).fit(train.numpy(), labels.numpy(), w.numpy())
    return torch.from_numpy(model.predict(x.numpy()))
