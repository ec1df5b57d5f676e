"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    r"""The mean of the weights over the steps so far, the last ones weighing most; the initial weights are the first.

    .. math:: \bar\theta_t = \frac{\sum_{i=0}^t d^{t-i} \theta_i}{\sum_{i=0}^t d^{t-i}}

    Each step adds the weights that it starts from to the numerator, so that this can be part of the captured step;
    those of the last step are added when the mean is taken. Buffers, such as running means, are not averaged.

    Args:
        model: whose parameters are averaged.
        decay: d, from above 0 to below 1.

    Source: Polyak and Juditsky, 1992, https://doi.org/10.1137/0330046; exponential, with the division: Kingma and Ba,
    2015, section 7.2, https://arxiv.org/abs/1412.6980

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> average = WeightAverage(model, decay=0.5)
    >>> for step in range(3):  # of the weights 0, 1 and 2, the last of which comes after the second step
    ...     _ = model.weight.data.fill_(step)
    ...     if step < 2:
    ...         average.add()
    >>> with average.applied(steps=2):
    ...     round(model.weight.item(), 4)
    1.4286
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._params = [param for param in model.parameters() if param.requires_grad]
        self.sums = [torch.zeros_like(param, requires_grad=False) for param in self._params]

    @torch.no_grad()
    def add(self) -> None:
        """Adds the current weights to the mean."""
        for total, param in zip(self.sums, self._params, strict=True):
            total.copy_(total * self.decay + param)

    @contextmanager
    def applied(self, steps: int) -> Iterator[None]:
        """Inside, the weights of the model are their mean after `steps` steps; outside, they are as before."""
        before = [param.detach().clone() for param in self._params]
        self.put(steps)
        try:
            yield
        finally:
            with torch.no_grad():
                for param, value in zip(self._params, before, strict=True):
                    param.copy_(value)

    @torch.no_grad()
    def put(self, steps: int) -> None:
        """Sets the weights of the model to their mean after `steps` steps."""
        total_weight = (1 - self.decay ** (steps + 1)) / (1 - self.decay)
        for total, param in zip(self.sums, self._params, strict=True):
            param.copy_((total * self.decay + param) / total_weight)

    @torch.no_grad()
    def load(self, sums: Sequence[Tensor]) -> None:
        """Continues from the sums of a checkpoint."""
        for total, stored in zip(self.sums, sums, strict=True):
            total.copy_(stored)
