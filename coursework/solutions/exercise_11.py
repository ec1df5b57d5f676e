"""Exercise 11, solved."""

from torch import Tensor
from torch.distributions import LowRankMultivariateNormal
from torch.nn.functional import avg_pool2d


def negative_log_likelihood(x: Tensor, model: dict[str, Tensor]) -> Tensor:
    noise = model["noise"].square().expand(len(model["mean"]))
    return -LowRankMultivariateNormal(model["mean"], model["w"], noise).log_prob(x)


def fooling(digits: Tensor) -> Tensor:
    # Nearer to the mean, and without sharp edges: both terms of the quadratic form become small.
    return avg_pool2d(digits.view(-1, 1, 8, 8), 3, stride=1, padding=1).flatten(1)


def repaired(x: Tensor, train: Tensor, model: dict[str, Tensor]) -> Tensor:
    # Nearly all digits have about this many nats: fewer are as unusual as more.
    typical = negative_log_likelihood(train, model)
    return (negative_log_likelihood(x, model) - typical.mean()).abs() / typical.std()
