"""A captured step, replayed."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae._utils.warn import warn
from pyro_vae.svi import backends
from pyro_vae.svi.capture import Captured
from pyro_vae.svi.cpu import recording
from pyro_vae.svi.cpu.adam import FusedAdam
from pyro_vae.svi.cpu.kernels import NotCompilable
from pyro_vae.svi.cpu.recording import NotRecordable
from pyro_vae.svi.guards import Reads
from pyro_vae.svi.optimizers import SharedOptimizer

_metadata = operator.attrgetter("requires_grad", "_backward_hooks", "dtype", "shape", "device")
_grad = operator.attrgetter("grad")
_version = operator.attrgetter("_version")


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else -1


class Replay:
    """A captured loss; in a step, also its gradients and the update by the optimizer.

    `graph` takes the parameters, the inputs and the live tensors, and returns the loss and the gradients: those of the
    parameters, and those of other tensors, to which another optimizer may belong: these add up, as in autograd. With
    `precision="bf16"` its products are in bfloat16; those of `captured`, which is compared with the program, are not.
    """

    def __init__(self, captured: Captured, optimizer: SharedOptimizer | None, reads: Reads, precision: str) -> None:
        self.captured, self.optimizer, self.reads = captured, optimizer, reads
        self.params = params = captured.params
        self._graph = backends.in_bfloat16(captured.graph) if precision == "bf16" else captured.graph
        self.graph: backends.Run = self._graph.forward
        self.recorded: backends.Run | None = None  # the whole step, as recorded kernels
        self.to_record = False
        self.calls = 0
        self.settled = False  # no faster backend is left to try
        self._tensors = tuple(params.values())
        of_store = pyro.get_param_store()._params
        self._stored = {name: param for name, param in params.items() if of_store.get(name) is param}
        self._fixed = (*self._tensors, *captured.live)
        self._addresses: list[int] = []  # of the parameters and live tensors, when the kernels were recorded
        self._strided = [tensor for tensor in self._fixed if tensor.layout is torch.strided]
        self._as_captured = self._metadata()
        gradients: Any = captured.graph.graph.output_node().args[0][1:]  # type: ignore[index]
        pairs = zip(self._tensors, gradients, strict=False)
        self._without_gradient = {param for param, gradient in pairs if gradient is None}
        self._memory: set[int] = set()  # of the parameters
        self._zeros: dict[Tensor, Tensor] = {}  # zero gradients for those of them that had a gradient in another step
        self._stepped = [param for param in self._tensors if param not in self._without_gradient]
        self._adam: FusedAdam | None = None
        self._halves: dict[Tensor, Tensor] = {}  # bfloat16 copies of some parameters, the graph's last arguments
        self._versions: list[int] = []  # of these parameters, when they were copied

    def compile(self, inputs: Sequence[Tensor]) -> None:
        """Compiles the graph by Inductor.

        Raises:
            NotCompilable: there is no compiler, for example.
        """
        graph, positions = self._graph, list[int]()
        if self.optimizer is not None and all(
            tensor.device.type == "cpu" for tensor in self._tensors
        ):  # where adam.cpp makes them
            graph, positions = backends.lift_bfloat16_copies(graph, len(self._tensors))
        halves = {self._tensors[position]: self._tensors[position].detach().bfloat16() for position in positions}
        arguments = [*self._tensors, *inputs, *self.captured.live, *halves.values()]
        self.graph, self._halves = backends.inductor(graph, arguments), halves

    def compiled_results(self, inputs: Sequence[Tensor]) -> Any:
        """The results of the captured graph and of its compiled code; None without such a pair, or in bfloat16."""
        if self._graph is not self.captured.graph or self.graph == self._graph.forward:
            return None
        return backends.on_same_draws(self._graph, self.graph, [*self._tensors, *inputs, *self.captured.live])

    def give_up_compiled(self) -> None:
        """Runs the captured graph from now on."""
        self.graph, self.to_record, self.recorded, self._halves = self._graph.forward, False, None, {}

    def params_are_the_same(self) -> bool:
        """Whether the store still has the same parameters; of these and all tensors used, the same kinds and hooks."""
        stored = map(pyro.get_param_store()._params.get, self._stored)
        same = all(map(operator.is_, stored, self._stored.values()))
        return same and self._metadata() == self._as_captured

    def _metadata(self) -> list[Any]:
        return [*map(_metadata, self._fixed), *map(Tensor.stride, self._strided)]

    def adds_to_gradients(self) -> bool:
        """Whether a parameter has a gradient already, to which Pyro's step would add."""
        return self.optimizer is not None and any(grad is not None for grad in map(_grad, self._tensors))

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Runs the step, and returns the loss before it."""
        if self.optimizer is not None:
            self._prepare_adam(self.optimizer)
        record = self.to_record and not self.captured.others  # whose gradients are allocated by others
        if record and (self.recorded is None or [*map(Tensor.data_ptr, self._fixed)] != self._addresses):
            self._record(inputs)
        self._refresh_halves()
        loss, *gradients = (self._run if self.recorded is None or self._aliased(inputs) else self.recorded)(*inputs)
        if self.optimizer is not None and self._adam is None:
            for param, gradient in zip(self._tensors, gradients, strict=False):
                param.grad = gradient
            self.optimizer.step(self._tensors)
        if self.captured.others:
            self._accumulate(gradients[-len(self.captured.others) :])
        return loss

    def _accumulate(self, gradients: Sequence[Tensor | None]) -> None:
        """Adds to the gradients of tensors that are no parameters of Pyro's."""
        for tensor, gradient in zip(self.captured.others, gradients, strict=True):
            if gradient is not None:
                tensor.grad = gradient.clone() if tensor.grad is None else tensor.grad.add_(gradient)

    def _prepare_adam(self, optimizer: SharedOptimizer) -> None:
        last = self._adam
        had_gradient = set(filter(optimizer.had_gradient, self._without_gradient))
        if had_gradient != self._zeros.keys():
            self._zeros = {param: torch.zeros_like(param) for param in had_gradient}
            self._stepped = [
                param for param in self._tensors if param not in self._without_gradient or param in self._zeros
            ]
            last = None
        adam = optimizer.fused_adam(self._stepped, last)
        if adam is not self._adam:
            self._adam, self.recorded = adam, None
        if adam is not None:
            adam.refresh()

    @property
    def is_all_recorded(self) -> bool:
        """Whether a step consists of recorded kernels only."""
        return self.recorded is not None and (self.optimizer is None or self._adam is not None)

    def is_as_recorded(self) -> bool:
        """Whether nothing that the recorded kernels stand on was replaced: values, parameters and their memory."""
        return (
            self.reads.hold()
            and self.params_are_the_same()
            and not self.adds_to_gradients()
            and [*map(Tensor.data_ptr, self._fixed)] == self._addresses
            and (self.optimizer is None or self.optimizer.fused_adam(self._stepped, self._adam) is self._adam)
        )

    def _aliased(self, inputs: Sequence[Tensor]) -> bool:
        """Whether an input is a parameter, which recorded kernels may have updated by the time that they read it."""
        return not self._memory.isdisjoint(map(_memory, inputs))

    def run_unchecked(self, inputs: Sequence[Tensor]) -> Tensor:
        """Runs the recorded step where :meth:`is_as_recorded` has just been true."""
        self.calls += 1
        if self.recorded is None or (self._adam is not None and not self._adam.refresh()) or self._aliased(inputs):
            return self(inputs)
        if self._versions and self._versions != list(map(_version, self._halves)):
            self._refresh_halves()
        return self.recorded(*inputs)[0]

    def _refresh_halves(self) -> None:
        for param, half in self._halves.items():
            half.copy_(param)
        self._versions = list(map(_version, self._halves))

    def _record(self, inputs: Sequence[Tensor]) -> None:
        """Records the kernels, to be launched together; with the optimizer's update, if that is a single kernel."""
        written = [*self._fixed, *self._halves.values(), *(self._adam.written() if self._adam else ())]
        self._addresses, self._memory = [*map(Tensor.data_ptr, self._fixed)], {*map(_memory, self._tensors)}
        on_cuda = any(tensor.is_cuda for tensor in (*written, *inputs))
        try:
            if on_cuda:
                self.recorded = backends.cuda_graph(self._run, inputs, written)
            else:
                if self.optimizer is not None and self._adam is None:
                    raise NotRecordable("the optimizer is not Adam")
                improve = [self._adam.into_products] if self._adam else []
                self.recorded = recording.record(partial(self._run, by_kernel=True), inputs, written, *improve)
        except (NotRecordable, NotCompilable) as reason:
            self.to_record, self.recorded = False, None
            if on_cuda:
                warn(f"CompiledSVI: no CUDA graph of the captured step: {reason}")

    def _run(self, *inputs: Tensor, by_kernel: bool = False) -> Sequence[Tensor]:
        """The loss; and the gradients, except those that Adam has used: torch's own, or that of adam.cpp."""
        outputs = self.graph(*self._tensors, *inputs, *self.captured.live, *self._halves.values())
        if self._adam is None:
            return outputs
        loss, *gradients = outputs
        given = dict(zip(self._tensors, gradients, strict=False)) | self._zeros
        of_params = [given[param] for param in self._stepped]
        if not by_kernel:
            self._adam(of_params)
        elif not self._adam.by_kernel(of_params, self._halves):
            raise NotRecordable("a parameter or its gradient is not dense in float32")
        return [loss, *gradients[len(self._tensors) :]]
