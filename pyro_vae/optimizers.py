"""One torch optimizer over all parameters, where Pyro keeps one for each and steps them in a Python loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor

from pyro_vae import checks
from pyro_vae.adam import FusedAdam, nothing_but_the_kernel


class SharedOptimizer(PyroOptim):
    """Steps all parameters at once; it stands wherever Pyro takes an optimizer.

    Args:
        optim: a torch optimizer, which steps the parameters that it was given; or a class of such, or anything that
            makes one from groups of parameters; or one of Pyro's wrappers, of any torch optimizer, with its arguments,
            its clipping and its scheduler.

    >>> param = torch.ones(2, requires_grad=True)
    >>> param.grad = torch.ones(2)
    >>> SharedOptimizer(lambda params: torch.optim.SGD(params, lr=0.5)).step([param])
    >>> param
    tensor([0.5000, 0.5000], requires_grad=True)
    """

    def __init__(self, optim: Any) -> None:
        self.optimizer: torch.optim.Optimizer | None = None
        self._pyro: PyroOptim | None = None
        self._clipped: dict[Tensor, Callable[[Tensor], None]] = {}
        self._known: set[int] = set()
        self._pending: dict[str, Any] | None = None
        if isinstance(optim, torch.optim.Optimizer):
            self.optimizer = optim
            self._known = {id(param) for group in optim.param_groups for param in group["params"]}
            self._make: Any = None
        elif isinstance(optim, PyroOptim):
            self._pyro, self._make = optim, optim.pt_optim_constructor
        elif callable(optim):
            self._make = optim
        else:
            raise checks.fail("optim", type(optim).__name__, "an optimizer of torch or Pyro, or a class of such")

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """As Pyro calls it, which zeroes the gradients itself."""
        params = list(params)
        self._add([param for param in params if id(param) not in self._known])
        for param in params:
            if param in self._clipped:
                self._clipped[param](param)
        if self.optimizer is not None:
            self.optimizer.step()

    def step(self, params: Sequence[Tensor]) -> None:
        """A step of the parameters by their gradients, which are gone then."""
        self(params)
        for param in params:
            param.grad = None

    def fused_adam(self, params: Sequence[Tensor]) -> FusedAdam | None:
        """The step of these parameters as one kernel, where this optimizer is one that such a kernel is all of."""
        self._add([param for param in params if id(param) not in self._known])
        optimizer = self.optimizer
        if optimizer is None or self._clipped or type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW):
            return None
        alike = len({(param.device, param.dtype) for param in params}) == 1  # as the kernel takes them
        return FusedAdam(optimizer, params) if alike and nothing_but_the_kernel(optimizer) else None

    def state_dict(self) -> dict[str, Any]:
        """The state of the torch optimizer."""
        if self.optimizer is None:
            return self._pending or {}
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from such a state; before the first step it waits for the parameters."""
        if self.optimizer is None:
            self._pending = state
        elif state:
            self.optimizer.load_state_dict(state)

    def _add(self, params: list[Tensor]) -> None:
        if not params or self._make is None:
            return
        groups = self._groups(params)
        if self.optimizer is None:
            self.optimizer = self._make(groups, **_fused(self._make))
            if isinstance(self._pyro, PyroLRScheduler):
                # Under one of the parameters, so that the wrapper's own step() reaches the one scheduler.
                self._pyro.optim_objs[params[0]] = self._pyro.pt_scheduler_constructor(
                    self.optimizer, **self._pyro.kwargs
                )
            if self._pending:
                self.optimizer.load_state_dict(self._pending)
        else:
            for group in groups:
                self.optimizer.add_param_group(group)
        self._known |= {id(param) for param in params}

    def _groups(self, params: list[Tensor]) -> list[dict[str, Any]]:
        """Parameters of the same arguments in one group, which is one call of the optimizer's kernel."""
        if self._pyro is None:
            return [{"params": params}]
        groups: list[dict[str, Any]] = []
        for param in params:
            clip = self._pyro._get_grad_clip(param)  # type: ignore[arg-type]
            if clip is not None:
                self._clipped[param] = clip
            arguments = self._pyro._get_optim_args(param)
            same = next((one for one in groups if arguments == {k: v for k, v in one.items() if k != "params"}), None)
            if same is None:
                groups.append({"params": [param], **arguments})
            else:
                same["params"].append(param)
        return groups


def _fused(make: Any) -> dict[str, bool]:
    """The fused kernel, for the optimizers of torch that have one for the CPU as well."""
    return {"fused": True} if make in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD) else {}
