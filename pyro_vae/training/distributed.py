"""Data-parallel training: the rank of this process among those that `torchrun` started, and their communication.

Each process holds all weights and takes its share of each batch. The loss is a sum over images, so the sum of the
processes' gradients is the gradient of the whole batch, however unequal the parts are. torch is imported where it is
needed, as the command line asks for the rank before it imports torch.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyro_vae._utils import checks

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_times_joined = itertools.count()


class PeerStoppedError(RuntimeError):
    """Another process of the training stopped, or can no longer be reached."""


@dataclass(frozen=True)
class Peers:
    """The processes of a training, as seen from one of them; with a single process the methods do nothing.

    All processes must call the same methods in the same order.

    Args:
        rank: this process's number, from 0; 0 is the one that writes files and shows progress.
        size: the number of processes.

    >>> Peers(rank=1, size=2).part(torch.arange(5))
    tensor([3, 4])
    """

    rank: int = 0
    size: int = 1

    def part(self, rows: Tensor) -> Tensor:
        """This process's share of the rows: sizes differ by at most one, and may be 0."""
        return rows.tensor_split(self.size)[self.rank] if self.size > 1 else rows

    def seed(self, seed: int, epoch: int) -> int:
        """A seed for the noise of this process in an epoch, derived from that of the training."""
        return int.from_bytes(hashlib.sha256(f"{seed} {epoch} {self.rank}".encode()).digest()[:7])

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Copies the tensors of the first process to all, in place."""
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        with _together(), torch.no_grad():
            for tensor in tensors:
                whole = tensor.contiguous()
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Sums the tensors over all processes, in place; all are on one device, and sent as one."""
        if self.size > 1:
            for tensor, total in zip(tensors, _sums(tensors), strict=True):
                tensor.copy_(total)

    def total(self, numbers: Tensor, device: torch.device) -> Tensor:
        """The sums over all processes of numbers on the CPU, which are sent from `device`."""
        return _sums([numbers.to(device)])[0].cpu() if self.size > 1 else numbers

    def add_gradients_up(self, optimizer: torch.optim.Optimizer, clip_norm: float = 0.0) -> None:
        """Makes each step of `optimizer` use the sum of the gradients of all processes; a missing one counts as 0.

        Where `clip_norm` is not 0, the sum is scaled down to that norm.
        """
        if self.size == 1:
            return
        import torch

        from pyro_vae.training.gradients import clip_by_norm, stepped

        params = stepped(optimizer)

        def before_step(*_: Any) -> None:
            gradients = [torch.zeros_like(param) if param.grad is None else param.grad for param in params]
            for param, total in zip(params, _sums(gradients), strict=True):
                param.grad = total
            if clip_norm:
                clip_by_norm(params, clip_norm)

        optimizer.register_step_pre_hook(before_step)

    def from_first(self, make: Callable[[], Any]) -> Any:
        """The result of `make()`, called in the first process only, in all processes: tensors and plain values."""
        if self.size == 1:
            return make()
        import torch

        content = b""
        if self.rank == 0:
            buffer = io.BytesIO()
            torch.save(make(), buffer)
            content = buffer.getvalue()
        length = torch.tensor(len(content))
        self.broadcast([length])
        sent = torch.empty(int(length), dtype=torch.uint8)
        if self.rank == 0:
            sent.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        self.broadcast([sent])
        return torch.load(io.BytesIO(sent.numpy().tobytes()), map_location="cpu", weights_only=True)


ALONE = Peers()


def peers() -> Peers:
    """The peers of this process, from PyTorch's process group if there is one, else from torchrun's variables."""
    if "torch" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            return Peers(dist.get_rank(), dist.get_world_size())
    if any(name not in os.environ for name in _LAUNCHED):
        return ALONE
    return Peers(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def own_device(device: torch.device) -> torch.device:
    """`device` with its number, as tensors name it; of several processes on CUDA, each has a GPU of its own.

    Raises:
        InputError: `device` is one GPU for all processes, or there are fewer GPUs than processes.
    """
    import torch

    if peers().size == 1 or device.type != "cuda":
        return torch.empty(0, device=device).device
    index, num_gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if device.index not in (None, index):
        raise checks.fail("device", str(device), "cpu, or cuda without a number: each process takes a GPU of its own")
    if index >= num_gpus:
        expected = f"a GPU for each process on this machine, which has {num_gpus}; or cpu"
        raise checks.fail("device", str(device), expected)
    return torch.device("cuda", index)


@contextmanager
def joined(device: str | torch.device = "auto") -> Iterator[Peers]:
    """The process group, inside: NCCL between GPUs, gloo for what lies on a CPU. For a single process, nothing.

    An existing group is used and left as it is. If this process fails, the others soon fail as well.
    """
    here = peers()
    if here.size == 1:
        yield here
        return
    import torch
    import torch.distributed as dist

    from pyro_vae._utils.device import choose_device

    if dist.is_initialized():
        yield here
        return
    own = own_device(choose_device(device))
    on_cuda = own.type == "cuda"
    with torch.cuda.device(own) if on_cuda else nullcontext():  # NCCL and CUDA graphs take the current one
        with _together():
            store = dist.PrefixStore(f"training {next(_times_joined)}", _store())
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_cuda else "gloo", store=store, rank=here.rank, world_size=here.size
            )
        try:
            yield here
            here.add_up([torch.zeros(1)])  # nobody leaves before all have what was sent last
        except BaseException:
            first_to_fail()  # settled before the others see this process leave
            if not on_cuda:  # NCCL would wait here for what was begun; it ends with the process
                dist.destroy_process_group()
            raise
        dist.destroy_process_group()


@functools.cache
def first_to_fail() -> bool:
    """Whether this process was the first to fail, so that its message is shown; true for a single process."""
    if peers().size == 1:
        return True
    try:
        return _store().add("failed", 1) == 1
    except (RuntimeError, ValueError):  # the store can't be reached
        return True


def refuse_batch_statistics(model: nn.Module, elbo: Any, here: Peers) -> None:
    """Refuses BatchNorm, free bits and codebooks, which would learn from a process's share of the batch alone."""
    from pyro_vae.models.base import has_batch_norm
    from pyro_vae.models.codes.quantizers import VectorQuantizer

    if here.size > 1 and has_batch_norm(model):
        raise checks.fail("model", "one with BatchNorm", "one without, where the batch is divided among processes")
    if here.size > 1 and any(isinstance(module, VectorQuantizer) for module in model.modules()):
        expected = "finite-scalar, which learns no codebook, where the batch is divided among processes"
        raise checks.fail("quantizer", "vector", expected)
    if here.size > 1 and getattr(elbo, "free_bits", None):
        raise checks.fail("free_bits", elbo.free_bits, "0, where the batch is divided among processes")


@functools.cache
def _store() -> Any:
    """The key-value store that torchrun keeps for its processes."""
    import torch.distributed as dist

    store, _, _ = next(iter(dist.rendezvous("env://")))
    return dist.PrefixStore(f"pyro_vae {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _sums(tensors: Sequence[Tensor]) -> list[Tensor]:
    import torch
    import torch.distributed as dist

    with _together(), torch.no_grad():
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
    totals = flat.split([tensor.numel() for tensor in tensors])
    return [total.view_as(tensor).to(tensor.dtype) for total, tensor in zip(totals, tensors, strict=True)]


@contextmanager
def _together() -> Iterator[None]:
    """Around communication of all processes: raises `PeerStoppedError` if one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise PeerStoppedError(f"another process stopped, or can't be reached ({reason})") from error
