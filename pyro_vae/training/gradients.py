"""Parts of a step around the gradient: clipping it, and adding the weights to their average."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_vae.training.averaging import WeightAverage


def stepped(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The parameters that an optimizer steps."""
    return [param for group in optimizer.param_groups for param in group["params"] if param.requires_grad]


@torch.no_grad()
def clip_by_norm(params: Sequence[Tensor], norm: float) -> None:
    r"""Scales the gradients by :math:`\min(1, c / \|g\|)`; the Euclidean norm is that of all of them together.

    Source: Pascanu et al., 2013, https://arxiv.org/abs/1211.5063

    >>> param = torch.zeros(2, requires_grad=True)
    >>> param.grad = torch.tensor([3.0, 4.0])
    >>> clip_by_norm([param], 1.0)
    >>> param.grad
    tensor([0.6000, 0.8000])
    """
    with_gradient = [param for param in params if param.grad is not None]
    if not with_gradient:
        return
    norms = [torch.linalg.vector_norm(param.grad) for param in with_gradient]
    scale = (norm / (torch.linalg.vector_norm(torch.stack(norms)) + 1e-6)).clamp(max=1.0)
    for param in with_gradient:
        param.grad = param.grad * scale


def with_clipping_and_average(
    elbo: Any, params: Sequence[Tensor], clip_norm: float, average: WeightAverage | None
) -> Any:
    """A copy of `elbo` whose gradients are clipped, and that adds the weights to their average before each step.

    As parts of the objective both are captured with it.

    Args:
        elbo: one of Pyro's objectives.
        params: whose gradients are clipped.
        clip_norm: largest norm; 0 clips nothing.
        average: of the weights; None for none.
    """
    if not clip_norm and average is None:
        return elbo
    changed = copy.copy(elbo)

    def loss_and_grads(*args: Any, **kwargs: Any) -> Any:
        if average is not None:
            average.add()
        loss = elbo.loss_and_grads(*args, **kwargs)
        if clip_norm:
            clip_by_norm(params, clip_norm)
        return loss

    changed.loss_and_grads = loss_and_grads
    return changed
