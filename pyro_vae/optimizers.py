"""One torch optimizer over all parameters, where Pyro keeps one for each and steps them in a Python loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor

from pyro_vae import checks


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
        return FusedAdam(optimizer, params) if alike and _nothing_but_the_kernel(optimizer) else None

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


class FusedAdam:
    """A step of torch's fused Adam or AdamW without the Python around it: the same kernel on the same state.

    Source: Kingma & Ba, "Adam: a method for stochastic optimization", 2015, https://arxiv.org/abs/1412.6980
    """

    def __init__(self, optimizer: torch.optim.Optimizer, params: Sequence[Tensor]) -> None:
        self.optimizer, self._state = optimizer, optimizer.state
        places = {id(param): place for place, param in enumerate(params)}
        self._groups: list[
            tuple[dict[str, Any], list[int], list[Tensor], list[Tensor], list[Tensor], list[Tensor]]
        ] = []
        for group in optimizer.param_groups:
            of_group = [places[id(param)] for param in group["params"] if id(param) in places]
            if of_group:
                states = [_adam_state(optimizer.state[params[place]], params[place]) for place in of_group]
                means, squares, steps = (
                    [state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")
                )
                self._groups.append((group, of_group, [params[place] for place in of_group], means, squares, steps))
        # A recorded CUDA graph reads the rate where it lies.
        on_cuda = params[0].is_cuda
        self._rates = [
            torch.tensor(group["lr"], dtype=torch.float32, device=params[0].device) if on_cuda else None
            for group, *_ in self._groups
        ]
        self._set = [group["lr"] for group, *_ in self._groups]
        self._constants = self._read_constants()

    def is_current(self) -> bool:
        """Whether the optimizer still has the state, and beside the rate the constants, that this was made for."""
        return (
            self.optimizer.state is self._state
            and self._read_constants() == self._constants
            and _nothing_but_the_kernel(self.optimizer)
        )

    def refresh(self) -> None:
        """Takes over the learning rates as they are now."""
        for index, (group, *_) in enumerate(self._groups):
            rate = self._rates[index]
            if group["lr"] != self._set[index]:
                self._set[index] = group["lr"]
                if rate is not None:
                    rate.fill_(group["lr"])

    def written(self) -> list[Tensor]:
        """All tensors that a step writes to, the parameters among them."""
        return [one for *_, params, means, squares, steps in self._groups for one in params + means + squares + steps]

    def __call__(self, gradients: Sequence[Tensor]) -> None:
        """A step by these gradients, one for each of the parameters."""
        for index, (group, places, params, means, squares, steps) in enumerate(self._groups):
            torch._foreach_add_(steps, 1)
            decoupled = group.get("decoupled_weight_decay", isinstance(self.optimizer, torch.optim.AdamW))
            update = torch._fused_adamw_ if decoupled else torch._fused_adam_
            rate = self._rates[index]
            update(
                params,
                [gradients[place] for place in places],
                means,
                squares,
                [],
                steps,
                lr=group["lr"] if rate is None else rate,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def _read_constants(self) -> list[tuple[Any, ...]]:
        return [(group["betas"], group["eps"], group["weight_decay"]) for group, *_ in self._groups]


def _nothing_but_the_kernel(optimizer: torch.optim.Optimizer) -> bool:
    """Nobody counts or watches the calls of `step`, as schedulers do, and no group asks for more than the kernel."""
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks or "step" in vars(optimizer):
        return False
    return all(
        group["fused"] and not (group["amsgrad"] or group["maximize"] or isinstance(group["lr"], Tensor))
        for group in optimizer.param_groups
    )


def _adam_state(state: dict[str, Any], param: Tensor) -> dict[str, Any]:
    """The state of one parameter, at its start as torch's own step makes it."""
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
        state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
    return state


def _fused(make: Any) -> dict[str, bool]:
    """The fused kernel, for the optimizers of torch that have one for the CPU as well."""
    return {"fused": True} if make in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD) else {}
