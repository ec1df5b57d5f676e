"""One torch optimizer over all parameters, where Pyro keeps one for each and steps them in a Python loop.

Pyro's optimizers of each parameter are still there, and have the same state: what one steps, the others go on from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyro
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
        self._had_gradient: set[Tensor] = set()
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
        """A step of the parameters by their gradients, which are gone then.

        By zeros where one has had a gradient and has none now, as Pyro leaves zeros behind.
        """
        for param in params:
            if param.grad is not None:
                self._had_gradient.add(param)
            elif param in self._had_gradient:
                param.grad = torch.zeros_like(param)
        self(params)
        for param in params:
            param.grad = None

    def had_gradient(self, param: Tensor) -> bool:
        """In any of the steps so far."""
        return param in self._had_gradient

    def fused_adam(self, params: Sequence[Tensor]) -> FusedAdam | None:
        """The step of these parameters as one kernel, where this optimizer is one that such a kernel is all of."""
        self._add([param for param in params if id(param) not in self._known])
        self._had_gradient |= set(params)
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
            self._share()

    def _add(self, params: list[Tensor]) -> None:
        if not params or self._make is None:
            return
        groups = [{"params": params}] if self._pyro is None else self._groups(self._pyro, params)
        if self.optimizer is None:
            self.optimizer = self._make(groups, **_fused(self._make))
            if isinstance(self._pyro, PyroLRScheduler):
                self._schedule(self._pyro, params[0])
            if self._pending:
                self.optimizer.load_state_dict(self._pending)
        else:
            for group in groups:
                self.optimizer.add_param_group(group)
        self._known |= {id(param) for param in params}
        self._share()

    def _groups(self, wrapper: PyroOptim, params: list[Tensor]) -> list[dict[str, Any]]:
        """Of each parameter the group of the wrapper's own optimizer, so that its rate is one for both."""
        groups = []
        for param in params:
            clip = wrapper._get_grad_clip(param)  # type: ignore[arg-type]
            if clip is not None:
                self._clipped[param] = clip
            if isinstance(wrapper, PyroLRScheduler):
                groups.append({"params": [param], **wrapper._get_optim_args(param)})
            else:
                (group,) = _of_one(wrapper, param).param_groups
                group.update(_fused(self._make))
                groups.append(group)
        return groups

    def _share(self) -> None:
        """Lets the wrapper's optimizers have the groups and the state of this one."""
        if self._pyro is None or self.optimizer is None or isinstance(self._pyro, PyroLRScheduler):
            return
        for group in self.optimizer.param_groups:
            (param,) = group["params"]
            one = self._pyro.optim_objs[param]
            if one.state[param] and not self.optimizer.state[param]:
                self.optimizer.state[param] = _on_device_of(param, one.state[param])
            one.state[param] = self.optimizer.state[param]
            one.param_groups[0] = group

    def _schedule(self, wrapper: PyroLRScheduler, first: Tensor) -> None:
        """Makes the one scheduler, under one of the parameters, so that the wrapper's own step() reaches it."""
        if wrapper.optim_objs:
            raise checks.fail("optim", "a scheduler that is in use", "one of its own for each CompiledSVI")
        scheduler = wrapper.optim_objs[first] = wrapper.pt_scheduler_constructor(self.optimizer, **wrapper.kwargs)
        waiting = wrapper._state_waiting_to_be_consumed
        if waiting:
            state = waiting.pop(pyro.get_param_store().param_name(first), {})
            try:
                scheduler.load_state_dict(state["scheduler"])
                scheduler.optimizer.load_state_dict(state["optimizer"])
            except (KeyError, ValueError) as error:
                message = "the state of a scheduler that a CompiledSVI of the same parameters has used"
                raise checks.fail("optim", "the state of another scheduler", message) from error


def _of_one(wrapper: PyroOptim, param: Tensor) -> torch.optim.Optimizer:
    """The wrapper's optimizer of this parameter, made and loaded as Pyro does it."""
    if param not in wrapper.optim_objs:
        one = wrapper.optim_objs[param] = wrapper._get_optim(param)
        wrapper.grad_clip[param] = wrapper._get_grad_clip(param)  # type: ignore[arg-type]
        state = wrapper._state_waiting_to_be_consumed.pop(pyro.get_param_store().param_name(param), None)
        if state is not None:
            one.load_state_dict(state)
    return wrapper.optim_objs[param]


def _on_device_of(param: Tensor, state: dict[str, Any]) -> dict[str, Any]:
    """The same state, in place, with its number of steps where the fused kernel takes it."""
    if isinstance(state.get("step"), Tensor):
        state["step"] = state["step"].to(param.device, torch.float32)
    return state


def _fused(make: Any) -> dict[str, bool]:
    """The fused kernel for Adam; that of SGD fails where a parameter gets its first gradient later than others."""
    return {"fused": True} if make in (torch.optim.Adam, torch.optim.AdamW) else {}
