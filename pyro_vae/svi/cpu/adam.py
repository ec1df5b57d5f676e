"""A step of torch's Adam as a single kernel."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from pyro_vae.svi.cpu import kernels, products
from pyro_vae.svi.cpu.recording import Used, span


def _methods(kind: type) -> tuple[Any, Any]:
    """What a step consists of; without the profiling that torch puts around `step` when an optimizer is made."""
    step: Any = kind.step  # type: ignore[attr-defined]
    step = step.__wrapped__ if getattr(step, "hooked", False) else step
    return _without_mark(step), _without_mark(kind._init_group)  # type: ignore[attr-defined]


def _without_mark(method: Any) -> Any:
    """Without what `torch.compile` puts around methods that it does not trace, in every process that calls it."""
    # By its code, because functools.wraps copies the attributes of what it wraps.
    is_marked = getattr(method, "__code__", _without_mark.__code__).co_filename.startswith(_DYNAMO)
    return getattr(method, "_torchdynamo_orig_callable", method) if is_marked else method


_DYNAMO = os.path.join(os.path.dirname(torch.__file__), "_dynamo") + os.sep
_METHODS = [_methods(kind) for kind in (torch.optim.Adam, torch.optim.AdamW)]
_OTHER_OPTIONS = ("amsgrad", "maximize", "foreach", "capturable", "differentiable")
_HOOKS_OF_ALL = (_global_optimizer_pre_hooks, _global_optimizer_post_hooks)
_settings_of = operator.itemgetter("betas", "eps", "weight_decay", "fused", *_OTHER_OPTIONS)
_state = operator.attrgetter("state")
PART = 8192  # elements of a parameter that a thread updates at a time


class FusedAdam:
    """A step of torch's fused Adam or AdamW without its Python overhead: the same kernel on the same state.

    Source: Kingma & Ba, "Adam: a method for stochastic optimization", 2015, https://arxiv.org/abs/1412.6980

    Args:
        optimizers: which have the parameters; see :func:`is_plain_adam`.
        params: to be updated; those that no optimizer has are left as they are.
    """

    def __init__(self, optimizers: Sequence[Any], params: Sequence[Tensor]) -> None:
        self._optimizers, self._settings_at_first = list(optimizers), _settings(optimizers)
        index_of = {param: index for index, param in enumerate(params)}
        by_numbers: dict[_Numbers, list[tuple[int, dict[str, Any], dict[str, Any]]]] = {}
        self._groups: list[_Group] = []
        for optimizer in optimizers:
            optimizer._opt_called = True  # which torch's schedulers want to see
            for group in optimizer.param_groups:
                updated = by_numbers.setdefault(_Numbers.of(group, optimizer), [])
                for param in filter(index_of.__contains__, group["params"]):
                    updated.append((index_of[param], group, _adam_state(optimizer.state[param], param)))
        for numbers, updated in by_numbers.items():
            if updated:
                indices, groups, states = zip(*updated, strict=True)
                tensors = ([state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step"))
                self._groups.append(_Group(groups, numbers, indices, [params[index] for index in indices], *tensors))
        self._state_dicts = [optimizer.state for optimizer in optimizers]
        self._states = [
            (optimizer.state, param, optimizer.state[param])
            for optimizer in optimizers
            for group in optimizer.param_groups
            for param in group["params"]
            if param in index_of
        ]
        # A recorded step reads the learning rate from memory.
        on_cuda = params[0].is_cuda
        self._rates = [
            torch.tensor(group.lr, dtype=torch.float32, device=params[0].device) if on_cuda else None
            for group in self._groups
        ]
        # In the layout of adam.cpp.
        self._numbers = [torch.tensor(group.numbers, dtype=torch.float64) for group in self._groups]
        self._set = [group.lr for group in self._groups]
        self._done: list[tuple[Tensor, list[tuple[Tensor, Tensor, Tensor | None]]]] = []  # the last call of adam.cpp

    def is_current(self, optimizers: Sequence[Any]) -> bool:
        """Whether these are the same optimizers, with the same state and settings; learning rates may differ."""
        return (
            optimizers == self._optimizers
            and _settings(optimizers) == self._settings_at_first
            and all(map(operator.is_, map(_state, optimizers), self._state_dicts))
            and all(state.get(param) is of_param for state, param, of_param in self._states)
            and all(group.has_one_rate() for group in self._groups)
        )

    def refresh(self) -> bool:
        """Updates the learning rates; False if groups that had the same learning rate no longer do."""
        for index, group in enumerate(self._groups):
            if not group.has_one_rate():
                return False
            now = group.lr
            if now != self._set[index]:
                self._set[index] = now
                self._numbers[index][0] = now
                rate = self._rates[index]
                if rate is not None:
                    rate.fill_(now)
        return True

    def written(self) -> list[Tensor]:
        """All tensors that a step writes to, including the parameters."""
        return [
            tensor for group in self._groups for tensor in (*group.params, *group.means, *group.squares, *group.steps)
        ]

    def __call__(self, gradients: Sequence[Tensor]) -> None:
        """Updates the parameters by their gradients."""
        for group, rate in zip(self._groups, self._rates, strict=True):
            torch._foreach_add_(group.steps, 1)
            _, beta1, beta2, eps, weight_decay, decoupled = group.numbers
            update = torch._fused_adamw_ if decoupled else torch._fused_adam_
            update(
                group.params,
                [gradients[index] for index in group.indices],
                group.means,
                group.squares,
                [],
                group.steps,
                lr=group.lr if rate is None else rate,
                beta1=beta1,
                beta2=beta2,
                weight_decay=weight_decay,
                eps=eps,
                amsgrad=False,
                maximize=False,
            )

    def by_kernel(self, gradients: Sequence[Tensor], halves: Mapping[Tensor, Tensor]) -> bool:
        """The same on the CPU by adam.cpp; False, and no update, if the tensors' types or strides don't allow it.

        Args:
            gradients: of each parameter.
            halves: bfloat16 copies of some parameters, which are updated as well.
        """
        tensors = [group.with_gradients(gradients) for group in self._groups]
        if not all(_match(matched) for of_group in tensors for *matched, _ in of_group):
            return False
        kernel = kernels.load("adam", "const int64_t*", "int64_t", "float**", "int64_t")
        self._done = []
        for of_group, group, settings in zip(tensors, self._groups, self._numbers, strict=True):
            of_halves = list(map(halves.get, group.params))
            parts = _parts(of_group, of_halves, settings)
            counters = torch.tensor([step.data_ptr() for step in group.steps])
            kernels.call(kernel, parts, len(parts), counters, len(counters))
            of_steps = [
                (param, gradient, half) for (param, gradient, *_), half in zip(of_group, of_halves, strict=True)
            ]
            self._done.append((parts, of_steps))
        return True

    def into_products(self, used: Used) -> None:
        """Moves updates of the last :meth:`by_kernel` into the products that compute their gradients, for replays.

        Args:
            used: the recorded kernels and operations, including those of :meth:`by_kernel`.
        """
        for (parts, of_steps), group in zip(self._done, self._groups, strict=True):
            if group.numbers.weight_decay and not group.numbers.decoupled:
                continue
            for param, gradient, half in of_steps:
                of_step = [tensor for tensor in (param, gradient, half) if tensor is not None]
                for index, (kernel, arguments) in enumerate(used):
                    update = products.update_of(kernel, arguments, gradient, half is not None)
                    if update is not None and not _overlaps(used[index + 1 :], of_step):
                        start, end = span(gradient)
                        of_param = (parts[:, 6] >= start) & (parts[:, 6] < end)
                        update.copy_(parts[of_param, : len(update)].amin(0))  # the addresses of its first part
                        parts[of_param, 7] = 0


class _Numbers(NamedTuple):
    """The settings of a group, in the order of adam.h; the learning rate is the one at first."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    decoupled: bool

    @classmethod
    def of(cls, group: dict[str, Any], optimizer: Any) -> _Numbers:
        decoupled = group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
        beta1, beta2 = group["betas"]
        return cls(group["lr"], beta1, beta2, group["eps"], group["weight_decay"], decoupled)


class _Group(NamedTuple):
    """Parameters with the same settings, and Adam's state of each."""

    groups: Sequence[dict[str, Any]]  # of the optimizer of each parameter
    numbers: _Numbers
    indices: Sequence[int]  # of these parameters among all
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
        of_group = [gradients[index] for index in self.indices]
        return list(zip(self.params, of_group, self.means, self.squares, self.steps, strict=True))


def _parts(of_group: Sequence[tuple[Tensor, ...]], halves: Sequence[Tensor | None], settings: Tensor) -> Tensor:
    """The rows for adam.cpp, ordered so that each thread gets a share of each parameter."""
    rows: list[tuple[float, list[int]]] = []
    for (*tensors, step), half in zip(of_group, halves, strict=True):
        count = tensors[0].numel()
        for start in range(0, count, PART):
            param, gradient, mean, square, of_half = (
                0 if tensor is None else tensor.data_ptr() + start * tensor.element_size()
                for tensor in (*tensors, half)
            )
            others = (step.data_ptr(), of_half, settings.data_ptr(), gradient)
            rows.append((start / count, [param, mean, square, *others, min(PART, count - start)]))
    return torch.tensor([row for _, row in sorted(rows)], dtype=torch.int64)


def _overlaps(used: Used, tensors: Sequence[Tensor]) -> bool:
    """Whether an argument of these calls shares memory with any of the tensors."""
    spans = [span(argument) for _, arguments in used for argument in arguments if isinstance(argument, Tensor)]
    return any(start < other_end and other < end for start, end in map(span, tensors) for other, other_end in spans)


def _match(tensors: Sequence[Tensor]) -> bool:
    """Whether the tensors are dense, in float32, on the CPU, and have the same strides."""
    first = tensors[0]
    dense = torch.ops.aten.is_non_overlapping_and_dense(first)
    return dense and all(
        tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.stride() == first.stride()
        for tensor in tensors
    )


def is_plain_adam(optimizer: Any) -> bool:
    """Whether `step` is that of torch's Adam or AdamW and does nothing but the update: no hooks and no other options.

    torch's schedulers replace `step` by one that only records that it was called.
    """
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) or _methods(type(optimizer)) not in _METHODS:
        return False
    if any(_hooks(optimizer)):
        return False
    step = vars(optimizer).get("step")
    if step is not None and not (hasattr(step, "_wrapped_by_lr_sched") and step.__wrapped__ is type(optimizer).step):
        return False
    return not any(
        isinstance(value, Tensor) for group in optimizer.param_groups for value in (group["lr"], *group["betas"])
    ) and not any(group.get(option) for group in optimizer.param_groups for option in _OTHER_OPTIONS)


def _hooks(optimizer: Any) -> list[int]:
    """The numbers of hooks of its step, and of those of all optimizers."""
    return list(map(len, (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks, *_HOOKS_OF_ALL)))


def _settings(optimizers: Sequence[Any]) -> list[Any]:
    """What the update depends on beside state and learning rates. Read at each step."""
    return [
        (
            type(optimizer).step,
            vars(optimizer).get("step"),
            _hooks(optimizer),
            [(*_settings_of(group), type(group["lr"])) for group in optimizer.param_groups],
        )
        for optimizer in optimizers
    ]


def _adam_state(state: dict[str, Any], param: Tensor) -> dict[str, Any]:
    """The state of a parameter, initialized as torch's own step does; its count as the kernel requires."""
    if not state:
        state["step"] = torch.zeros((), dtype=torch.float32, device=param.device)
        state["exp_avg"] = torch.zeros_like(param, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(param, memory_format=torch.preserve_format)
    state["step"] = state["step"].to(param.device, torch.float32)
    return state
