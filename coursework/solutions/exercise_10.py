"""Exercise 10, solved."""

import math

import torch
from torch import Tensor

WIDTH = 4  # of the grid
STRENGTH = 3.0  # how many counts the frequencies without neighbours are worth


def _conditional(train: Tensor, codes: Tensor, t: int, k: int) -> Tensor:
    """log p(code at t | the one above, the one to the left) for each row of codes: (N, k).

    If both neighbours are independent given the code, it is p(code | above) p(code | left) / p(code), normalised.
    """
    frequencies = (torch.bincount(train[:, t], minlength=k) + 1.0) / (len(train) + k)
    log_p = frequencies.log().expand(len(codes), -1)
    for neighbour in [t - WIDTH] * (t >= WIDTH) + [t - 1] * (t % WIDTH > 0):
        counts = torch.zeros(k, k)
        pair = (train[:, neighbour], train[:, t])
        counts.index_put_(pair, torch.ones(len(train)), accumulate=True)
        # A neighbour that was rarely seen leaves the code near its frequencies.
        p = (counts + STRENGTH * frequencies) / (counts.sum(-1, keepdim=True) + STRENGTH)
        log_p = log_p + (p / frequencies).log()[codes[:, neighbour]]
    return log_p.log_softmax(-1)


def conditionals(train: Tensor, codes: Tensor, k: int) -> Tensor:
    return torch.stack([_conditional(train, codes, t, k) for t in range(codes.shape[1])], 1)


def nats_per_code(log_p: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    nats = -log_p.gather(-1, codes[..., None]).mean()
    return nats, codes.shape[1] * (math.log(log_p.shape[-1]) - nats)


def sample(train: Tensor, n: int, k: int) -> Tensor:
    codes = torch.zeros(n, train.shape[1], dtype=torch.long)
    for t in range(train.shape[1]):  # codes that are not drawn yet are 0, and not used
        codes[:, t] = _conditional(train, codes, t, k).exp().multinomial(1)[:, 0]
    return codes
