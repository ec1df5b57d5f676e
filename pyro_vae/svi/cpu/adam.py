"""A step of torch's Adam as one kernel."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_vae.svi.cpu import kernels, products
from pyro_vae.svi.cpu.recording import Used, span

PART = 8192  # numbers of a parameter that a thread steps at a time


class FusedAdam:
    """A step of torch's fused Adam or AdamW without the Python around it: the same kernel on the same state.

    Source: Kingma & Ba, "Adam: a method for stochastic optimization", 2015, https://arxiv.org/abs/1412.6980
    """

    def __init__(self, optimizer: torch.optim.Optimizer, params: Sequence[Tensor]) -> None:
        self.optimizer, self._state, self._params = optimizer, optimizer.state, tuple(params)
        self._states = [_adam_state(optimizer.state[param], param) for param in params]
        places = {param: place for place, param in enumerate(params)}
        self._groups: list[_Group] = []
        for groups in self._alike():
            found = [places[param] for group in groups for param in group["params"] if param in places]
            if found:
                states = [[self._states[place][name] for place in found] for name in ("exp_avg", "exp_avg_sq", "step")]
                self._groups.append(_Group(groups, found, [params[place] for place in found], *states))
        # A recorded step reads the rate where it lies.
        on_cuda = params[0].is_cuda
        self._rates = [
            torch.tensor(one.lr, dtype=torch.float32, device=params[0].device) if on_cuda else None
            for one in self._groups
        ]
        numbers = [self._numbers(one.groups[0]) for one in self._groups]
        self._settings = [torch.tensor(one, dtype=torch.float64) for one in numbers]  # as adam.cpp takes them
        self._set = [one.lr for one in self._groups]
        self._constants = self._read_constants()
        self._done: list[tuple[Tensor, list[tuple[Tensor, Tensor, Tensor | None]]]] = []  # by adam.cpp, the last time

    def is_current(self) -> bool:
        """Whether the optimizer still has the state, and beside the rate the constants, that this was made for."""
        return (
            self.optimizer.state is self._state
            and all(map(operator.is_, map(self._state.get, self._params), self._states))
            and self._read_constants() == self._constants
            and all(one.has_one_rate() for one in self._groups)
            and nothing_but_the_kernel(self.optimizer)
        )

    def refresh(self) -> bool:
        """Takes over the learning rates as they are now; False where it can't, as equal ones have parted."""
        for index, one in enumerate(self._groups):
            if not one.has_one_rate():
                return False
            now = one.lr
            if now != self._set[index]:
                self._set[index] = now
                self._settings[index][0] = now
                rate = self._rates[index]
                if rate is not None:
                    rate.fill_(now)
        return True

    def written(self) -> list[Tensor]:
        """All tensors that a step writes to, the parameters among them."""
        return [tensor for one in self._groups for tensor in (*one.params, *one.means, *one.squares, *one.steps)]

    def __call__(self, gradients: Sequence[Tensor]) -> None:
        """A step by these gradients, one for each of the parameters."""
        for one, rate in zip(self._groups, self._rates, strict=True):
            torch._foreach_add_(one.steps, 1)
            group = one.groups[0]
            update = torch._fused_adamw_ if self._decoupled(group) else torch._fused_adam_
            update(
                one.params,
                [gradients[place] for place in one.places],
                one.means,
                one.squares,
                [],
                one.steps,
                lr=one.lr if rate is None else rate,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def by_kernel(self, gradients: Sequence[Tensor], halves: Mapping[Tensor, Tensor]) -> bool:
        """The same on the CPU by adam.cpp; False, and nothing is done, where it can't.

        Args:
            gradients: one for each of the parameters.
            halves: of some parameters copies in bfloat16, which are to stay such.
        """
        tensors = [one.with_gradients(gradients) for one in self._groups]
        if not all(_match(of_one) for of_group in tensors for *of_one, _ in of_group):
            return False
        kernel = kernels.load("adam", "const int64_t*", "int64_t", "float**", "int64_t")
        self._done = []
        for of_group, one, settings in zip(tensors, self._groups, self._settings, strict=True):
            of_halves = list(map(halves.get, one.params))
            parts = _parts(of_group, of_halves, settings)
            counters = torch.tensor([step.data_ptr() for step in one.steps])
            kernels.call(kernel, parts, len(parts), counters, len(counters))
            of_steps = [
                (param, gradient, half) for (param, gradient, *_), half in zip(of_group, of_halves, strict=True)
            ]
            self._done.append((parts, of_steps))
        return True

    def into_products(self, used: Used) -> None:
        """Leaves steps of the last :meth:`by_kernel` to the products that give their gradients, when all run again.

        Args:
            used: the kernels and operations that were run, `by_kernel`'s among them.
        """
        for (parts, of_steps), one in zip(self._done, self._groups, strict=True):
            if one.groups[0]["weight_decay"] and not self._decoupled(one.groups[0]):
                continue
            for param, gradient, half in of_steps:
                of_step = [one for one in (param, gradient, half) if one is not None]
                for index, (kernel, arguments) in enumerate(used):
                    update = products.update_of(kernel, arguments, gradient, half is not None)
                    if update is not None and not _use(used[index + 1 :], of_step):
                        start, end = span(gradient)
                        of_param = (parts[:, 6] >= start) & (parts[:, 6] < end)
                        update.copy_(parts[of_param, : len(update)].amin(0))  # its first piece
                        parts[of_param, 7] = 0

    def _decoupled(self, group: dict[str, Any]) -> bool:
        return group.get("decoupled_weight_decay", isinstance(self.optimizer, torch.optim.AdamW))

    def _numbers(self, group: dict[str, Any]) -> tuple[float, ...]:
        """In the order of adam.h."""
        return group["lr"], *group["betas"], group["eps"], group["weight_decay"], self._decoupled(group)

    def _alike(self) -> list[list[dict[str, Any]]]:
        """The optimizer's groups, those of the same numbers together: one kernel steps them."""
        found: dict[tuple[float, ...], list[dict[str, Any]]] = {}
        for group in self.optimizer.param_groups:
            found.setdefault(self._numbers(group), []).append(group)
        return list(found.values())

    def _read_constants(self) -> list[tuple[Any, ...]]:
        groups = self.optimizer.param_groups
        return [(group["betas"], group["eps"], group["weight_decay"]) for group in groups]


class _Group(NamedTuple):
    """Parameters of the same settings, and what Adam keeps of each."""

    groups: list[dict[str, Any]]  # of the optimizer
    places: list[int]  # of these among all parameters
    params: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]

    @property
    def lr(self) -> float:
        return self.groups[0]["lr"]

    def has_one_rate(self) -> bool:
        lr = self.lr
        return all(group["lr"] == lr for group in self.groups)

    def with_gradients(self, gradients: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        of_group = [gradients[place] for place in self.places]
        return list(zip(self.params, of_group, self.means, self.squares, self.steps, strict=True))


def _parts(tensors: Sequence[tuple[Tensor, ...]], halves: Sequence[Tensor | None], settings: Tensor) -> Tensor:
    """The rows that adam.cpp takes, in an order in which each thread gets its share of each parameter."""
    found: list[tuple[float, list[int]]] = []
    for (*of_one, step), half in zip(tensors, halves, strict=True):
        count = of_one[0].numel()
        for start in range(0, count, PART):
            param, gradient, mean, square, of_half = (
                0 if one is None else one.data_ptr() + start * one.element_size() for one in (*of_one, half)
            )
            others = (step.data_ptr(), of_half, settings.data_ptr(), gradient)
            found.append((start / count, [param, mean, square, *others, min(PART, count - start)]))
    return torch.tensor([row for _, row in sorted(found)], dtype=torch.int64)


def _use(used: Used, tensors: Sequence[Tensor]) -> bool:
    """Whether these calls are given memory of any of the tensors."""
    given = [span(one) for _, arguments in used for one in arguments if isinstance(one, Tensor)]
    return any(start < other_end and other < end for start, end in map(span, tensors) for other, other_end in given)


def _match(tensors: Sequence[Tensor]) -> bool:
    """In float32 on the CPU, and their numbers in the same places, with nothing between."""
    first = tensors[0]
    dense = torch.ops.aten.is_non_overlapping_and_dense(first)
    return dense and all(
        one.dtype == torch.float32 and one.device.type == "cpu" and one.stride() == first.stride() for one in tensors
    )


def nothing_but_the_kernel(optimizer: torch.optim.Optimizer) -> bool:
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
