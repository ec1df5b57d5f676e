"""How `CompiledSVI` updates parameters, whichever optimizer it is given.

A torch optimizer updates all its parameters in a single call. A Pyro optimizer has a torch optimizer for each
parameter, and steps them itself, in a Python loop. Where all of these are plain Adam or AdamW, of either kind, a single
kernel takes the step in their place, on their own state: so that Pyro's SVI can continue from `CompiledSVI`, and
`CompiledSVI` from Pyro's.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from pyro.optim import PyroOptim
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from pyro_vae._utils import checks
from pyro_vae.svi.cpu.adam import FusedAdam, is_plain_adam

_FUSED = (torch.optim.Adam, torch.optim.AdamW)
# Parameters that had a gradient in an earlier step. Pyro leaves them gradients of zeros, by which later steps update
# them; here no gradients are left.
_had_gradient = WeakTensorKeyDictionary()


class SharedOptimizer(PyroOptim):
    """An optimizer of torch or Pyro as Pyro's SVI calls it.

    Args:
        optim: a torch optimizer, which updates its own parameters; its class, or any function that makes an optimizer
            from a list of parameters; or a Pyro optimizer.

    Raises:
        InputError: it is none of these, or its step needs a closure.

    >>> param = torch.ones(2, requires_grad=True)
    >>> param.grad = torch.ones(2)
    >>> SharedOptimizer(lambda params: torch.optim.SGD(params, lr=0.5)).step([param])
    >>> param
    tensor([0.5000, 0.5000], requires_grad=True)
    """

    def __init__(self, optim: Any) -> None:
        self.use(optim)

    def use(self, optim: Any) -> None:
        """Updates by this optimizer from now on."""
        if not isinstance(optim, (torch.optim.Optimizer, PyroOptim)) and not callable(optim):
            raise checks.fail("optim", type(optim).__name__, "an optimizer of torch or Pyro, or the class of one")
        self.optimizer = _without_closure(optim) if isinstance(optim, torch.optim.Optimizer) else None
        self.optim = optim
        self._state: dict[str, Any] = {}  # to be loaded as soon as the parameters are known

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Updates the parameters by their gradients."""
        if isinstance(self.optim, PyroOptim):
            self.optim({*params}, *args, **kwargs)  # type: ignore[arg-type]  # a set, as from Pyro's SVI
        else:
            optimizer = self._with(list(params))
            if optimizer is not None:
                optimizer.step(*args, **kwargs)

    def step(self, params: Sequence[Tensor]) -> None:
        """Updates the parameters by their gradients, and sets the gradients to None.

        A parameter that had a gradient in an earlier step and has none now is updated by zeros, as in Pyro.
        """
        for param in params:
            if param.grad is not None:
                _had_gradient[param] = True
            elif param in _had_gradient:
                param.grad = torch.zeros_like(param)
        self(params)
        for param in params:
            param.grad = None

    @staticmethod
    def had_gradient(param: Tensor) -> bool:
        """Whether the parameter had a gradient in any step so far."""
        return param in _had_gradient

    def fused_adam(self, params: Sequence[Tensor], last: FusedAdam | None = None) -> FusedAdam | None:
        """The update of these parameters as a single kernel; None if the optimizer must step itself.

        Args:
            params: the parameters that are about to be updated by a gradient.
            last: the result for them of the last call, which is returned if nothing has changed.
        """
        optim = self.optim
        if isinstance(optim, PyroOptim):
            if type(optim) is not PyroOptim or any(map(optim.grad_clip.get, params)):
                return None
            optimizers = list(map(optim.optim_objs.get, params))  # created in the first step, which is Pyro's
        else:
            optimizers = [self.optimizer if last is not None and self.optimizer is not None else self._with(params)]
        if last is not None and last.is_current(optimizers):
            return last
        alike = len({(param.device, param.dtype) for param in params}) == 1 and params[0].is_floating_point()
        if not alike or not all(map(self._is_left_to_the_kernel, optimizers, params)):
            return None
        _had_gradient.update(dict.fromkeys(params, True))
        return FusedAdam(optimizers, params)

    def _is_left_to_the_kernel(self, optimizer: Any, param: Tensor) -> bool:
        if not is_plain_adam(optimizer):
            return False
        if not isinstance(self.optim, PyroOptim):  # whose user chooses the kernel, by `fused`
            return all(group["fused"] for group in optimizer.param_groups)
        groups = optimizer.param_groups
        return [*map(id, groups[0]["params"])] == [id(param)] and len(groups) == 1 and groups[0]["fused"] is not False

    def get_state(self) -> dict[str, Any]:
        """The state, in the form of the optimizer: torch's `state_dict()`, or Pyro's `get_state()`."""
        if isinstance(self.optim, PyroOptim):
            return self.optim.get_state()
        return self._state if self.optimizer is None else self.optimizer.state_dict()

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Loads such a state; before the first step, as soon as the parameters are known."""
        if isinstance(self.optim, PyroOptim):
            if "param_groups" in state_dict:
                raise checks.fail("state", "the state of a torch optimizer", "that of the same Pyro optimizer")
            self.optim.optim_objs.clear()  # the next step creates them with this state
            self.optim.set_state(state_dict)
        elif self.optimizer is None:
            self._state = state_dict
        elif state_dict:
            self.optimizer.load_state_dict(state_dict)

    def params(self) -> list[Tensor]:
        """The parameters that are updated so far."""
        if isinstance(self.optim, PyroOptim):
            return list(self.optim.optim_objs)
        groups = [] if self.optimizer is None else self.optimizer.param_groups
        return [param for group in groups for param in group["params"]]

    def _with(self, params: Sequence[Tensor]) -> torch.optim.Optimizer | None:
        """The torch optimizer; where it is created here, with these parameters among others. None if there are none."""
        if isinstance(self.optim, torch.optim.Optimizer):
            return self.optim
        if self.optimizer is None:
            if not params:
                return None
            options = {"fused": True} if self.optim in _FUSED else {}
            self.optimizer = _without_closure(self.optim(list(params), **options))
        known = {*self.params()}
        new = [param for param in params if param not in known]
        if new:
            self.optimizer.add_param_group({"params": new})
        if self._state:
            state, self._state = self._state, {}
            self.optimizer.load_state_dict(state)
        return self.optimizer


def _without_closure(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer, if its step can be called without a closure."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        name = type(optimizer).__name__
        raise checks.fail("optim", name, "an optimizer whose step needs no closure")
    return optimizer
