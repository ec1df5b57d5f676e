"""A single torch optimizer over all parameters, where Pyro has an optimizer for each and a Python loop over them.

Among Pyro's optimizers this is done for Adam and AdamW. Their own optimizers for each parameter then share the groups
and the state of the single optimizer, so that either can continue from the other. Others step as they do in Pyro.
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
# For each Pyro optimizer, the parameters that it has updated by a gradient, in any of its SVIs.
_had_gradients: weakref.WeakKeyDictionary[PyroOptim, set[Tensor]] = weakref.WeakKeyDictionary()


class SharedOptimizer(PyroOptim):
    """An optimizer that updates all parameters at once; usable wherever Pyro takes an optimizer.

    Args:
        optim: a torch optimizer, which updates its own parameters; its class, or any function that makes an optimizer
            from parameter groups; or a Pyro optimizer.

    >>> param = torch.ones(2, requires_grad=True)
    >>> param.grad = torch.ones(2)
    >>> SharedOptimizer(lambda params: torch.optim.SGD(params, lr=0.5)).step([param])
    >>> param
    tensor([0.5000, 0.5000], requires_grad=True)
    """

    def __init__(self, optim: Any) -> None:
        self.optimizer: torch.optim.Optimizer | None = None
        self._wrapper: PyroOptim | None = None  # a Pyro optimizer whose parameters this optimizer updates
        self._left_to: PyroOptim | None = None  # a Pyro optimizer that updates them itself
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
            raise checks.fail("optim", type(optim).__name__, "an optimizer of torch or Pyro, or the class of one")

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """A step as Pyro's SVI calls it, which zeroes the gradients itself."""
        params = list(params)
        if self._left_to is not None:
            self._left_to(params)
            return
        self._adopt(params)
        for param in params:
            if param in self._clipped:
                self._clipped[param](param)
        if self.optimizer is not None:
            with self._only(set(params)):
                self.optimizer.step()

    def step(self, params: Sequence[Tensor]) -> None:
        """Updates the parameters by their gradients, and sets the gradients to None.

        A parameter that had a gradient in an earlier step and has none now is updated by zeros, as in Pyro.
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
        """Whether the parameter had a gradient in any step so far."""
        return param in self._had_gradient

    def fused_adam(self, params: Sequence[Tensor], last: FusedAdam | None = None) -> FusedAdam | None:
        """The update of these parameters as a single kernel; None if this optimizer is not plain Adam or AdamW.

        Args:
            params: the parameters that are about to be updated.
            last: the result for them of the last call, which is returned if nothing has changed.
        """
        self._had_gradient |= set(params)
        if self._left_to is not None:
            return None
        self._adopt(params)
        optimizer = self.optimizer
        if last is not None and last.optimizer is optimizer and last.is_current():
            return last
        if optimizer is None or self._clipped or not isinstance(optimizer, _FUSED):
            return None
        alike = len({(param.device, param.dtype) for param in params}) == 1  # which the kernel requires
        return FusedAdam(optimizer, params) if alike and nothing_but_the_kernel(optimizer) else None

    def state_dict(self) -> dict[str, Any]:
        """The state of the torch optimizer; or of the Pyro optimizer, where that takes the steps."""
        if self._left_to is not None:
            return self._left_to.get_state()
        if self.optimizer is None:
            return self._pending or {}
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads such a state; before the first step, as soon as the parameters are known."""
        if self._left_to is not None:
            if "param_groups" in state:
                raise checks.fail("state", "the state of a torch optimizer", "that of the same Pyro optimizer")
            self._left_to.optim_objs.clear()  # the next step creates them with this state
            self._left_to.set_state(state)
        elif self.optimizer is None:
            self._pending = state
        elif state:
            self._load(state)

    def _adopt(self, params: Sequence[Tensor]) -> None:
        """Creates the torch optimizer, or adds new parameters to it."""
        if self._make is None:
            return
        if self._wrapper_has_changed():
            self.optimizer = None
            self._known.clear()
        new = [param for param in params if param not in self._known]
        if not new:
            return
        groups = [{"params": new}] if self._wrapper is None else [self._group_of(self._wrapper, param) for param in new]
        if self.optimizer is None:
            self.optimizer = self._make(groups, **({"fused": True} if self._make in _FUSED else {}))
        else:
            for group in groups:
                self.optimizer.add_param_group(group)
        self._known |= set(new)
        if self._wrapper is not None:
            for param in new:
                self.optimizer.state[param] = self._wrapper.optim_objs[param].state[param]
            self._share_state(self._wrapper, self.optimizer)
        if self._pending:
            state, self._pending = self._pending, None
            self._load(state)

    def _group_of(self, wrapper: PyroOptim, param: Tensor) -> dict[str, Any]:
        """The group of the Pyro optimizer's own optimizer for a parameter, created and loaded as in Pyro."""
        if param not in wrapper.optim_objs:
            optimizer = wrapper.optim_objs[param] = wrapper._get_optim(param)
            wrapper.grad_clip[param] = wrapper._get_grad_clip(param)  # type: ignore[arg-type]
            state = wrapper._state_waiting_to_be_consumed.pop(pyro.get_param_store().param_name(param), None)
            if state is not None:
                optimizer.load_state_dict(state)
        clip = wrapper.grad_clip[param]
        if clip is not None:
            self._clipped[param] = clip
        (group,) = wrapper.optim_objs[param].param_groups
        step = wrapper.optim_objs[param].state[param].get("step")
        if step is not None:  # on the device and in the type that the fused kernel requires
            wrapper.optim_objs[param].state[param]["step"] = step.to(param.device, torch.float32)
        return _fused(group)

    def _share_state(self, wrapper: PyroOptim, optimizer: torch.optim.Optimizer) -> None:
        """Gives the Pyro optimizer's own optimizers the groups and the state of the single optimizer."""
        for group in optimizer.param_groups:
            (param,) = group["params"]
            wrapper.optim_objs[param].param_groups[0] = group
            wrapper.optim_objs[param].state[param] = optimizer.state[param]

    def _wrapper_has_changed(self) -> bool:
        """Whether the groups or states that :meth:`_share_state` set have been replaced since."""
        if self._wrapper is None or self.optimizer is None:
            return False
        for group in self.optimizer.param_groups:
            (param,) = group["params"]
            of_wrapper = self._wrapper.optim_objs.get(param)
            if of_wrapper is None or of_wrapper.state.get(param) is not self.optimizer.state.get(param):
                return True
        return False

    def _load(self, state: dict[str, Any]) -> None:
        if self.optimizer is None:
            return
        if self._wrapper is not None:  # a Pyro optimizer has a group for each parameter
            groups = [{**group, "params": [param]} for group in state["param_groups"] for param in group["params"]]
            state = {**state, "param_groups": list(map(_fused, groups))}
        self.optimizer.load_state_dict(state)
        if self._wrapper is not None:
            self._share_state(self._wrapper, self.optimizer)

    @contextmanager
    def _only(self, params: set[Tensor]) -> Iterator[None]:
        """Inside, the optimizer has the groups of these parameters only, because Pyro updates no others."""
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
    """The group, changed in place to use the fused kernel unless another implementation was chosen."""
    if group["fused"] is None and not group["foreach"] and not group["differentiable"]:
        group["fused"] = True
    return group
