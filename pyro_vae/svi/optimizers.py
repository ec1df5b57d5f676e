"""One torch optimizer over all parameters, where Pyro keeps one for each and steps them in a Python loop.

Of Pyro's wrappers that is done for Adam and AdamW, whose own optimizers, one for each parameter, then have the groups
and the state of the shared one: what one steps, the others go on from. Other wrappers step as they do for Pyro.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.svi.cpu.adam import FusedAdam, nothing_but_the_kernel

_FUSED = (torch.optim.Adam, torch.optim.AdamW)
# Which parameters a wrapper has stepped by a gradient, in whichever of its SVIs.
_had_gradients: weakref.WeakKeyDictionary[PyroOptim, set[Tensor]] = weakref.WeakKeyDictionary()


class SharedOptimizer(PyroOptim):
    """Steps all parameters at once; it stands wherever Pyro takes an optimizer.

    Args:
        optim: a torch optimizer, which steps the parameters that it was given; or a class of such, or anything that
            makes one from groups of parameters; or one of Pyro's wrappers.

    >>> param = torch.ones(2, requires_grad=True)
    >>> param.grad = torch.ones(2)
    >>> SharedOptimizer(lambda params: torch.optim.SGD(params, lr=0.5)).step([param])
    >>> param
    tensor([0.5000, 0.5000], requires_grad=True)
    """

    def __init__(self, optim: Any) -> None:
        self.optimizer: torch.optim.Optimizer | None = None
        self._wrapper: PyroOptim | None = None  # whose parameters this one steps
        self._left_to: PyroOptim | None = None  # a wrapper that steps them itself
        self._clipped: dict[Tensor, Callable[[Tensor], None]] = {}
        self._known: set[Tensor] = set()
        self._had_gradient: set[Tensor] = set()
        self._pending: dict[str, Any] | None = None
        self._make: Any = None
        if isinstance(optim, torch.optim.Optimizer):
            self.optimizer = optim
        elif isinstance(optim, PyroOptim):
            self._had_gradient = _had_gradients.setdefault(optim, set())
            if optim.pt_optim_constructor in _FUSED and not isinstance(optim, PyroLRScheduler):
                self._wrapper, self._make = optim, optim.pt_optim_constructor
            else:
                self._left_to = optim
        elif callable(optim):
            self._make = optim
        else:
            raise checks.fail("optim", type(optim).__name__, "an optimizer of torch or Pyro, or a class of such")

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """As Pyro calls it, which zeroes the gradients itself."""
        params = list(params)
        if self._left_to is not None:
            self._left_to(params)
            return
        self._take(params)
        for param in params:
            if param in self._clipped:
                self._clipped[param](param)
        if self.optimizer is not None:
            with self._alone(set(params)):
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

    def fused_adam(self, params: Sequence[Tensor], last: FusedAdam | None = None) -> FusedAdam | None:
        """The step of these parameters as one kernel, where this optimizer is one that such a kernel is all of.

        Args:
            params: all of them are about to be stepped.
            last: what was given for them the last time, and is given again where nothing has changed.
        """
        self._had_gradient |= set(params)
        if self._left_to is not None:
            return None
        self._take(params)
        optimizer = self.optimizer
        if last is not None and last.optimizer is optimizer and last.is_current():
            return last
        if optimizer is None or self._clipped or type(optimizer) not in _FUSED:
            return None
        alike = len({(param.device, param.dtype) for param in params}) == 1  # as the kernel takes them
        return FusedAdam(optimizer, params) if alike and nothing_but_the_kernel(optimizer) else None

    def state_dict(self) -> dict[str, Any]:
        """The state of the torch optimizer; where Pyro's wrapper does the steps, that of the wrapper."""
        if self._left_to is not None:
            return self._left_to.get_state()
        if self.optimizer is None:
            return self._pending or {}
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from such a state; before the first step it waits for the parameters."""
        if self._left_to is not None:
            if "param_groups" in state:
                raise checks.fail("state", "the state of a torch optimizer", "that of the same optimizer of Pyro's")
            self._left_to.optim_objs.clear()  # made anew by the next step, they take it
            self._left_to.set_state(state)
        elif self.optimizer is None:
            self._pending = state
        elif state:
            self._load(state)

    def _take(self, params: Sequence[Tensor]) -> None:
        """Makes the torch optimizer, or adds parameters that it does not know."""
        if self._make is None:
            return
        if self._wrapper_has_changed():
            self.optimizer = None
            self._known.clear()
        new = [param for param in params if param not in self._known]
        if not new:
            return
        groups = [{"params": new}] if self._wrapper is None else [self._group_of(self._wrapper, one) for one in new]
        if self.optimizer is None:
            self.optimizer = self._make(groups, **({"fused": True} if self._make in _FUSED else {}))
        else:
            for group in groups:
                self.optimizer.add_param_group(group)
        self._known |= set(new)
        if self._wrapper is not None:
            for param in new:
                self.optimizer.state[param] = self._wrapper.optim_objs[param].state[param]
            self._give(self._wrapper, self.optimizer)
        if self._pending:
            state, self._pending = self._pending, None
            self._load(state)

    def _group_of(self, wrapper: PyroOptim, param: Tensor) -> dict[str, Any]:
        """That of the wrapper's own optimizer, which is made, and loaded, as Pyro does it."""
        if param not in wrapper.optim_objs:
            one = wrapper.optim_objs[param] = wrapper._get_optim(param)
            wrapper.grad_clip[param] = wrapper._get_grad_clip(param)  # type: ignore[arg-type]
            state = wrapper._state_waiting_to_be_consumed.pop(pyro.get_param_store().param_name(param), None)
            if state is not None:
                one.load_state_dict(state)
        clip = wrapper.grad_clip[param]
        if clip is not None:
            self._clipped[param] = clip
        (group,) = wrapper.optim_objs[param].param_groups
        step = wrapper.optim_objs[param].state[param].get("step")
        if step is not None:  # where the fused kernel takes it
            wrapper.optim_objs[param].state[param]["step"] = step.to(param.device, torch.float32)
        return _fused(group)

    def _give(self, wrapper: PyroOptim, optimizer: torch.optim.Optimizer) -> None:
        """Lets the wrapper's optimizers have the groups and the state of this one."""
        for group in optimizer.param_groups:
            (param,) = group["params"]
            wrapper.optim_objs[param].param_groups[0] = group
            wrapper.optim_objs[param].state[param] = optimizer.state[param]

    def _wrapper_has_changed(self) -> bool:
        """Whether somebody has replaced what :meth:`_give` gave."""
        if self._wrapper is None or self.optimizer is None:
            return False
        for group in self.optimizer.param_groups:
            (param,) = group["params"]
            one = self._wrapper.optim_objs.get(param)
            if one is None or one.state.get(param) is not self.optimizer.state.get(param):
                return True
        return False

    def _load(self, state: dict[str, Any]) -> None:
        if self.optimizer is None:
            return
        if self._wrapper is not None:  # which has a group for each parameter
            groups = [{**group, "params": [one]} for group in state["param_groups"] for one in group["params"]]
            state = {**state, "param_groups": list(map(_fused, groups))}
        self.optimizer.load_state_dict(state)
        if self._wrapper is not None:
            self._give(self._wrapper, self.optimizer)

    @contextmanager
    def _alone(self, params: set[Tensor]) -> Iterator[None]:
        """Inside, the optimizer has the groups of these parameters only, as Pyro's wrappers step no others."""
        if self._wrapper is None or self.optimizer is None:
            yield
            return
        groups = self.optimizer.param_groups
        self.optimizer.param_groups = [group for group in groups if group["params"][0] in params]
        try:
            yield
        finally:
            self.optimizer.param_groups = groups


def _fused(group: dict[str, Any]) -> dict[str, Any]:
    """The same group, stepped by the fused kernel where nobody has chosen another."""
    if group["fused"] is None and not group["foreach"] and not group["differentiable"]:
        group["fused"] = True
    return group
