"""Global state of torch and Pyro that an operation's result may depend on, beside its arguments."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch
from pyro import settings
from torch.overrides import _get_current_function_mode_stack
from torch.utils import _device
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def _holder(alias: str) -> tuple[Any, str]:
    """The module or class that holds a setting of Pyro's, and its name there."""
    module, path = settings._REGISTRY[alias][:2]
    *names, last = path.split(".")
    return functools.reduce(getattr, names, importlib.import_module(module)), last


# Pyro's settings, but for those that switch checks on, of which a captured step makes none.
_HOLDERS, _NAMES = zip(
    *(_holder(alias) for alias in settings._REGISTRY if not alias.startswith("validate")), strict=True
)
_saved_tensors_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: None)  # not in 2.6


def not_replayable() -> str:
    """Why no step can be captured or replayed now; empty if it can.

    A replay runs no Python, and no autograd: what would change the operations of a program while they happen, or take
    part in its backward pass, would not be asked.

    >>> not_replayable()
    ''
    >>> with torch.autocast("cpu"):
    ...     not_replayable()
    'under torch.autocast'
    """
    if torch._C._is_any_autocast_enabled():
        return "under torch.autocast"
    if torch.is_anomaly_enabled():
        return "under anomaly detection"
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "inside a transform of torch.func"
    if _saved_tensors_hooks(True) is not None:
        return "under saved_tensors_hooks"
    if torch._C._get_tracing_state() is not None or torch.compiler.is_compiling():
        return "while torch traces it"
    modes: list[Any] = _get_current_dispatch_mode_stack() if torch._C._len_torch_dispatch_stack() else []
    if torch._C._len_torch_function_stack():
        modes += [mode for mode in _get_current_function_mode_stack() if not isinstance(mode, _device.DeviceContext)]
    return f"under {type(modes[0]).__name__}" if modes else ""


def in_force() -> tuple[Any, ...]:
    """Settings that a captured step depends on; with another value, another step is captured.

    >>> in_force() == in_force()
    True
    """
    return (
        not_replayable(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        _device.CURRENT_DEVICE,
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch._C._get_cudnn_allow_tf32(),
        torch._C._get_cudnn_deterministic(),
        *map(getattr, _HOLDERS, _NAMES),
    )
