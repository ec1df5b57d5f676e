"""The optimizers that a spec can name. All are torch's, so their states are those of torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_vae import parts
from pyro_vae._utils import checks
from pyro_vae.parts import Part


class Adam(torch.optim.Adam):
    r"""Adam: steps by the running mean of the gradient over the root of that of its square.

    .. math:: m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2, \qquad
              \theta_t = \theta_{t-1} - \mathrm{lr} \, \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}

    with :math:`\hat m_t = m_t / (1 - \beta_1^t)` and :math:`\hat v_t = v_t / (1 - \beta_2^t)`. The step is one kernel,
    and part of the compiled step.

    Args:
        params: to be stepped.
        lr: learning rate.
        betas: decays of the two means.
        eps: added to the root.
        weight_decay: of an L2 penalty, whose gradient is added to that of the loss.

    Source: Kingma and Ba, 2015, https://arxiv.org/abs/1412.6980
    """

    kind = "adam"

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)


class AdamW(torch.optim.AdamW):
    r"""Adam with decoupled weight decay: each step also shrinks the weights by a share of themselves.

    .. math:: \theta_t = (1 - \mathrm{lr}\, \lambda)\, \theta_{t-1}
              - \mathrm{lr} \, \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}

    The step is one kernel, and part of the compiled step.

    Args:
        params: to be stepped.
        lr: learning rate.
        betas: decays of the two means.
        eps: added to the root.
        weight_decay: :math:`\lambda`.

    Source: Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101
    """

    kind = "adamw"

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)


class Adamax(torch.optim.Adamax):
    r"""Adam with the infinity norm: the mean gradient is divided by a running maximum.

    .. math:: u_t = \max(\beta_2 u_{t-1}, |g_t| + \epsilon), \qquad
              \theta_t = \theta_{t-1} - \frac{\mathrm{lr}}{1 - \beta_1^t} \frac{m_t}{u_t}

    Args:
        params: to be stepped.
        lr: learning rate.
        betas: decays of the mean and of the maximum.
        eps: added to the gradient's absolute value.
        weight_decay: of an L2 penalty.

    Source: Kingma and Ba, 2015, section 7.1, https://arxiv.org/abs/1412.6980
    """

    kind = "adamax"

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)


class SGD(torch.optim.SGD):
    r"""Stochastic gradient descent, with momentum.

    .. math:: b_t = \mu b_{t-1} + g_t, \qquad \theta_t = \theta_{t-1} - \mathrm{lr}\, b_t

    Args:
        params: to be stepped.
        lr: learning rate.
        momentum: :math:`\mu`.
        nesterov: steps by :math:`g_t + \mu b_t` instead.
        weight_decay: of an L2 penalty.

    Source: Robbins and Monro, 1951, https://doi.org/10.1214/aoms/1177729586; momentum as in Sutskever et al., 2013,
    https://proceedings.mlr.press/v28/sutskever13.html
    """

    kind = "sgd"

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr=lr, momentum=momentum, nesterov=nesterov, weight_decay=weight_decay)


Optimizer = str | Mapping[str, Any] | Part | type[torch.optim.Optimizer] | Callable[[Any], torch.optim.Optimizer]


def make_optimizer(optimizer: Optimizer, params: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    """The optimizer of these parameters: of a kind, of a class of torch's, or what a function makes of them.

    Raises:
        InputError: an unknown kind or option, a value that the class refuses, or something else than an optimizer.

    >>> params = [torch.zeros(2, requires_grad=True)]
    >>> make_optimizer({"kind": "sgd", "momentum": 0.9}, params, lr=0.1).defaults["momentum"]
    0.9
    >>> type(make_optimizer(torch.optim.RMSprop, params, lr=0.1)).__name__
    'RMSprop'
    """
    params = [param for param in params if param.requires_grad]
    try:
        if isinstance(optimizer, str | Mapping | Part):
            made = parts.construct("optimizer", optimizer, params=params, lr=lr)
        elif callable(optimizer):
            is_class = inspect.isclass(optimizer) and issubclass(optimizer, torch.optim.Optimizer)
            make: Callable[..., Any] = optimizer
            made = make(params, lr=lr) if is_class else make(params)
        else:
            made = optimizer
    except checks.InputError:
        raise
    except (TypeError, ValueError) as error:
        raise checks.fail("optimizer", described(optimizer), f"values that it takes ({error})") from error
    if not isinstance(made, torch.optim.Optimizer):
        expected = "a kind with options, a class of torch's optimizers, or a function of parameters that makes one"
        raise checks.fail("optimizer", described(made), expected)
    return made


def described(part: object) -> Any:
    """A part as it is stored in a checkpoint: a kind with its options, or the name of a class or function.

    >>> described(torch.optim.RMSprop)
    'torch.optim.rmsprop.RMSprop'
    """
    if isinstance(part, str | Mapping | Part):
        return Part.of(part).plain()
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}.{named.__qualname__}"
