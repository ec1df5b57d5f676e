"""The backend of the compiled step that `auto` stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_vae._utils.rng import seeded_rng
from pyro_vae.models.base import evaluating

# Steps from which on the seconds of the captures are earned back, with one more for each operation of the programs, and
# those of the compiler on a CPU. benchmarks/README.md has the measurements.
WORTH_CAPTURING, WORTH_COMPILING = 1_000, 15_000


class Operations(TorchDispatchMode):
    """Counts tensor operations; the time of a capture is proportional to their number.

    >>> with Operations() as operations:
    ...     _ = torch.ones(2) + 1
    >>> operations.count
    2
    """

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def register(
    model: nn.Module, programs: Sequence[Callable[..., Any]], device: torch.device, arguments: Sequence[Any]
) -> int:
    """Registers the parameters with Pyro before the first step, so that all steps run alike, also after a resume.

    Args:
        model: is in evaluation mode meanwhile.
        programs: the model's `model` and `guide`.
        device: where the model is.
        arguments: of both programs, for one image.

    Returns:
        How many tensor operations the programs are made of.
    """
    with (
        evaluating(model, gradients=True),
        seeded_rng(device, 0),
        torch.no_grad(),
        pyro.validation_enabled(False),
        Operations() as operations,
    ):
        for program in reversed(programs):
            program(*arguments)
    return operations.count


def backend_on(device: torch.device, stored: str) -> str:
    """The backend of a checkpoint on the device where it is resumed: CUDA graphs need CUDA."""
    return "capture" if stored == "cudagraph" and device.type != "cuda" else stored


def automatic_backend(steps: int, operations: int, device: torch.device, precision: str) -> str:
    """The backend that `auto` takes; by a count, not by a clock, so that a training is reproducible.

    >>> [automatic_backend(steps, 34, torch.device("cpu"), "fp32") for steps in (1_000, 1_034, 15_000)]
    ['off', 'capture', 'inductor']
    """
    if steps < WORTH_CAPTURING + operations and precision == "fp32":
        return "off"
    if device.type == "cuda":
        return "cudagraph"
    return "inductor" if steps >= WORTH_COMPILING and device.type == "cpu" else "capture"
