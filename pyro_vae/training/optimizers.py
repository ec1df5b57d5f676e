"""The optimizers that a spec can name. All are torch's, so their states are those of torch."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor

from pyro_vae import part_classes
from pyro_vae._utils import checks
from pyro_vae.parts import Part, kinds


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
        super().__init__(params, lr=lr, **_checked_adam(betas, eps, weight_decay), fused=True)


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
        super().__init__(params, lr=lr, **_checked_adam(betas, eps, weight_decay), fused=True)


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
        super().__init__(params, lr=lr, **_checked_adam(betas, eps, weight_decay))


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
        momentum = checks.non_negative("momentum", momentum)
        weight_decay = checks.non_negative("weight_decay", weight_decay)
        if checks.boolean("nesterov", nesterov) and not momentum:
            raise checks.fail("nesterov", nesterov, "False where momentum is 0")
        super().__init__(params, lr=lr, momentum=momentum, nesterov=bool(nesterov), weight_decay=weight_decay)


def _checked_adam(betas: Any, eps: Any, weight_decay: Any) -> dict[str, Any]:
    """The options of Adam and its relatives, checked."""
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise checks.fail("betas", betas, "two numbers from 0 to below 1")
    decays = tuple(checks.non_negative("betas", beta) for beta in betas)
    if max(decays) >= 1:
        raise checks.fail("betas", betas, "two numbers from 0 to below 1")
    return {
        "betas": decays,
        "eps": checks.non_negative("eps", eps),
        "weight_decay": checks.non_negative("weight_decay", weight_decay),
    }


Optimizer = str | Mapping[str, Any] | Part | type[torch.optim.Optimizer] | Callable[[Any], torch.optim.Optimizer]


_EXPECTED = "a kind with options, a class of torch's optimizers, or a function of parameters that makes one"


def make_optimizer(optimizer: Optimizer, params: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
    """The optimizer of these parameters: of a kind, of a class of torch's, or what a function makes of them.

    Raises:
        InputError: an unknown kind or option, a value that the class refuses, something else than an optimizer, one of
            other parameters, or one whose step is not a function of the gradients.

    >>> params = [torch.zeros(2, requires_grad=True)]
    >>> make_optimizer({"kind": "sgd", "momentum": 0.9}, params, lr=0.1).defaults["momentum"]
    0.9
    >>> type(make_optimizer(torch.optim.RMSprop, params, lr=0.1)).__name__
    'RMSprop'
    """
    params = [param for param in params if param.requires_grad]
    _check_maker(optimizer)
    try:
        if isinstance(optimizer, str | Mapping | Part):
            made = part_classes.construct("optimizer", optimizer, params=params, lr=lr)
        else:
            make: Callable[..., Any] = optimizer
            made = make(params) if sets_rate(optimizer) else make(params, lr=lr)
    except checks.InputError:
        raise
    except (TypeError, ValueError) as error:
        raise checks.fail("optimizer", described(optimizer), f"values that it takes ({error})") from error
    _check_made(made, params)
    return made


def sets_rate(optimizer: Optimizer) -> bool:
    """Whether the learning rate is that of `optimizer`, a function, instead of being passed to it."""
    is_class = inspect.isclass(optimizer) and issubclass(optimizer, torch.optim.Optimizer)
    return not is_class and not isinstance(optimizer, str | Mapping | Part)


def _check_maker(optimizer: Any) -> None:
    """Not an optimizer that exists already: it has other parameters, or those before the model was moved."""
    if isinstance(optimizer, torch.optim.Optimizer):
        expected = f"a class or function, as fit makes the optimizer of the model's parameters: {_EXPECTED}"
        raise checks.fail("optimizer", f"an instance of {described(optimizer)}", expected)
    _refuse_pyro(optimizer)
    if not isinstance(optimizer, str | Mapping | Part) and not callable(optimizer):
        raise checks.fail("optimizer", described(optimizer), _EXPECTED)


def _check_made(made: Any, params: list[Tensor]) -> None:
    _refuse_pyro(made)
    if not isinstance(made, torch.optim.Optimizer):
        raise checks.fail("optimizer", described(made), _EXPECTED)
    own = {id(param) for param in params}
    if any(id(param) not in own for group in made.param_groups for param in group["params"]):
        raise checks.fail("optimizer", f"{described(made)} of other parameters", "one of the model's parameters alone")
    needs_closure = inspect.signature(type(made).step).parameters.get("closure")
    if needs_closure is not None and needs_closure.default is inspect.Parameter.empty:
        expected = "an optimizer that steps by the gradients: this one evaluates the loss several times per step"
        raise checks.fail("optimizer", described(made), expected)
    if isinstance(made, torch.optim.SparseAdam):
        raise checks.fail("optimizer", described(made), "an optimizer of dense gradients, such as adam")


def _refuse_pyro(optimizer: Any) -> None:
    """Pyro's wrappers, and the functions that make them, such as `pyro.optim.Adam`."""
    makes_wrapper = inspect.isfunction(optimizer) and optimizer.__module__.startswith("pyro.optim")
    if makes_wrapper or isinstance(optimizer, PyroOptim):
        name = (optimizer if makes_wrapper else optimizer.pt_optim_constructor).__name__
        kind = f'"{name.lower()}", or ' if name.lower() in kinds("optimizer") else ""
        torchs = f"torch.optim.{name}" if hasattr(torch.optim, name) else "a class of torch.optim"
        expected = f"{kind}{torchs}: fit takes torch's optimizers, not Pyro's wrappers of them"
        raise checks.fail("optimizer", f"pyro.optim.{name}", expected)


def described(part: object) -> Any:
    """A part as it is stored in a checkpoint: a kind with its options, or the name of a class or function.

    A `functools.partial` has its arguments as well, so far as these are plain values.

    >>> described(torch.optim.RMSprop)
    'torch.optim.rmsprop.RMSprop'
    >>> described(partial(torch.optim.RMSprop, lr=0.1))
    'torch.optim.rmsprop.RMSprop(lr=0.1)'
    """
    if isinstance(part, str | Mapping | Part):
        return Part.of(part).plain()
    if isinstance(part, partial):
        args = [_described_value(value) for value in part.args]
        args += [f"{name}={_described_value(value)}" for name, value in sorted(part.keywords.items())]
        return f"{described(part.func)}({', '.join(args)})"
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}.{named.__qualname__}"


def _described_value(value: Any) -> str:
    """A plain value, NumPy's and tensors included, in full; other objects by their class or name."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_described_value, value))})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_described_value(value[key])}' for key in value)}}}"
    return repr(value) if value is None or isinstance(value, bool | int | float | str) else str(described(value))
