"""Numbers that Python code reads from tensors: Pyro's own reads, which a capture does without, and the program's."""

from __future__ import annotations

import linecache
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

_ENGINE = "pyro_vae.svi."
_PROGRAM = "pyro_vae.svi.program"
_PLATES = "pyro.poutine.indep_messenger"
_LIBRARIES = ("torch", "pyro", "numpy", "contextlib", "functools")
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8)
_OUTSIDE_THE_DISPATCHER = (Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__)


def _all_pairs(distinct: Tensor) -> Tensor:
    return torch.tril_indices(len(distinct), len(distinct), -1, device=distinct.device).T


# What Pyro's own code does by the values of tensors: the function, the module that calls it (or what its name starts
# with), and what is done instead.
PYROS_READS: tuple[tuple[Any, str, Callable[..., Any]], ...] = (
    (Tensor.item, "pyro.infer.", Tensor.detach),  # a loss, as a number
    (Tensor.__bool__, "pyro.util", lambda _: False),  # warn_if_nan: the first call, which is not captured, warns
    (Tensor.__bool__, "torch.distributions.distribution", lambda _: True),  # in range? asked by one made before
    (Tensor.__bool__, "pyro.distributions.stable", lambda _: True),  # is a stability near 1? then it interpolates there
    (Tensor.__bool__, "pyro.infer.util", lambda _: False),  # Dice: if not all probabilities are positive, it selects
    (Tensor.masked_select, "pyro.infer.util", lambda values, mask: torch.where(mask, values, 0.0)),  # those that are
    (Tensor.nonzero, "pyro.infer.energy_distance", _all_pairs),  # pairs of particles
    (Tensor.__float__, "pyro.infer.traceenum_elbo", lambda _: 0.0),  # compares scales, as the first call has done
)


class NotCapturable(Exception):  # noqa: N818 (a reason to run eagerly, not an error)
    """Why a function can't be captured, in a single line."""


class LossesStayTensors(TorchFunctionMode):
    """Inside, Pyro's objectives don't wait for the device: their losses stay tensors, and their checks are left out.

    Objectives read each loss back as a number, and compare numbers for their warnings. Of these reads, by
    `PYROS_READS`, none happens inside; those of the program itself do, because Python code may depend on them. Only
    the thread that enters is concerned. The indices of a sequential plate are read, unless they are a subsample.
    `docs/how/pyro-reads.md` has the hook in Pyro that would make this needless.

    Args:
        varies: tells whether the values of a tensor may differ in a later run. Where the program reads such a tensor in
            a way that no dispatch mode sees, by `.numpy()` say, :class:`NotCapturable` is raised.

    >>> import pyro, pyro.distributions as dist
    >>> def model():
    ...     pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))
    >>> with LossesStayTensors():
    ...     loss = pyro.infer.Trace_ELBO().loss(model, lambda: None)
    >>> loss
    tensor(0.9189)
    """

    def __init__(self, varies: Callable[[Tensor], bool] = lambda tensor: False) -> None:
        super().__init__()
        self._varies = varies

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for read, module, instead in PYROS_READS:
            if func is read and _name(sys._getframe(1)).startswith(module):
                return instead(*args)
        if func is Tensor.item and _in_objective(sys._getframe(1)):
            return args[0].detach()
        if func is Tensor.item and _name(sys._getframe(1)) == _PLATES:  # `for i in plate`
            if self._varies(args[0]):
                raise NotCapturable("it reads numbers back from a tensor, the indices of a plate, as of a subsample")
            with _disable_current_modes():
                return args[0].item()
        if func is Tensor.register_hook and _name(sys._getframe(3)) == "pyro.util":
            return None  # warn_if_nan for a gradient; the frames between are of torch's own Python code
        if func is Tensor.__getitem__:
            return _item(*args)
        if func is Tensor.__repr__:
            raise NotCapturable("it prints a tensor, which a replay would not")
        if func in _OUTSIDE_THE_DISPATCHER and self._varies(args[0]):
            raise NotCapturable(f"it reads numbers back from a tensor, by .{func.__name__}()")
        if func is functional.one_hot:
            return _one_hot(*args, **kwargs)
        return func(*args, **kwargs)


def _name(frame: types.FrameType) -> str:
    name: str = frame.f_globals.get("__name__", "")
    return name


def _in_objective(frame: types.FrameType | None) -> bool:
    """Whether this is code of an objective, and not of a model or guide, which an objective runs inside handlers."""
    while frame is not None:
        if _name(frame) == _PROGRAM or _name(frame).startswith("pyro.poutine."):
            return _name(frame) == _PROGRAM
        frame = frame.f_back
    return False


def _item(tensor: Tensor, index: Any) -> Tensor:
    """`tensor[index]`, where torch would read back an integer in a tensor without dimensions."""
    parts = index if isinstance(index, tuple) else (index,)
    integers = [isinstance(part, Tensor) and not part.dim() and part.dtype in _INTEGERS for part in parts]
    others = [part for part, integer in zip(parts, integers, strict=True) if not integer]
    if len(others) == len(parts) or not all(type(part) in (int, slice) for part in others):
        return tensor[index]
    sliced = tensor[tuple(slice(None) if integer else part for part, integer in zip(parts, integers, strict=True))]
    indices = [None if isinstance(part, slice) else part for part in parts if type(part) is not int]
    return torch.ops.aten.index.Tensor(sliced, indices)


def _one_hot(input: Tensor, num_classes: int = -1) -> Tensor:
    """`one_hot`, which reads its labels to check them, without the check where `num_classes` is given."""
    if num_classes < 1:
        return functional.one_hot(input, num_classes)
    return input.new_zeros(*input.shape, num_classes).scatter_(-1, input.unsqueeze(-1), 1)


def innermost_line(frames: Iterable[tuple[types.FrameType, int]]) -> str:
    """The innermost frame's line of the user's program, as the end of a message; empty if there is none."""
    for frame, number in frames:
        module, file = _name(frame), frame.f_code.co_filename
        if module.startswith(_ENGINE) or module.split(".")[0] in _LIBRARIES or file == "<string>":  # as of a dataclass
            continue
        return f", at {file}:{number}: {linecache.getline(file, number).strip()[:120]}".rstrip(": ")
    return ""
