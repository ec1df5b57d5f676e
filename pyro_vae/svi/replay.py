"""A captured step, replayed."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.svi import backends
from pyro_vae.svi.capture import Captured
from pyro_vae.svi.cpu import kernels, recording
from pyro_vae.svi.cpu.adam import FusedAdam
from pyro_vae.svi.optimizers import SharedOptimizer

_requires_grad_and_hooks = operator.attrgetter("requires_grad", "_backward_hooks")
_grad = operator.attrgetter("grad")
_version = operator.attrgetter("_version")


class Replay:
    """A captured loss, and in a step its gradients and the step of the optimizer.

    `graph` takes the parameters, the inputs, and what is live, and gives the loss and the gradients.
    """

    def __init__(self, captured: Captured, params: dict[str, Tensor], optimizer: SharedOptimizer | None) -> None:
        self.captured, self.params, self.optimizer = captured, params, optimizer
        self.graph: backends.Run = captured.graph.forward
        self.recorded: backends.Run | None = None  # the whole step, of which only kernels are left
        self.to_record = False
        self.calls = 0
        self.settled = False  # nothing faster is to be tried
        self._tensors = tuple(params.values())
        self._fixed = (*self._tensors, *captured.live)
        self._addresses: list[int] = []
        self._as_captured = list(map(_requires_grad_and_hooks, self._tensors))
        gradients: Any = captured.graph.graph.output_node().args[0][1:]  # type: ignore[index]
        pairs = zip(self._tensors, gradients, strict=False)
        self._without_gradient = {param for param, gradient in pairs if gradient is None}
        self._zeros: dict[Tensor, Tensor] = {}  # the gradients of those of them that had one in another step
        self._stepped = [param for param in self._tensors if param not in self._without_gradient]
        self._adam: FusedAdam | None = None
        self._halves: dict[Tensor, Tensor] = {}  # of some parameters copies in bfloat16, which the graph takes last
        self._versions: list[int] = []  # of these parameters, when the copies were made

    def compile(self, inputs: Sequence[Tensor]) -> None:
        """By Inductor.

        Raises:
            NotCompilable: there is no compiler, say.
        """
        graph, places = self.captured.graph, list[int]()
        if self.optimizer is not None and all(
            one.device.type == "cpu" for one in self._tensors
        ):  # where adam.cpp makes them
            graph, places = backends.halves_apart(graph, len(self._tensors))
        halves = {self._tensors[place]: self._tensors[place].detach().bfloat16() for place in places}
        given = [*self._tensors, *inputs, *self.captured.live, *halves.values()]
        self.graph, self._halves = backends.inductor(graph, given), halves

    def params_are_the_same(self) -> bool:
        """In the store, to be trained, and with the hooks that they had."""
        stored = map(pyro.get_param_store()._params.get, self.params)
        same = all(map(operator.is_, stored, self._tensors))
        return same and list(map(_requires_grad_and_hooks, self._tensors)) == self._as_captured

    def adds_to_gradients(self) -> bool:
        """Whether the user has left a gradient, to which Pyro's step would add."""
        return self.optimizer is not None and any(grad is not None for grad in map(_grad, self._tensors))

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The loss, after which the step is done."""
        if self.optimizer is not None:
            self._prepare_adam(self.optimizer)
        if self.to_record and (self.recorded is None or list(map(Tensor.data_ptr, self._fixed)) != self._addresses):
            self._record(inputs)
        self._refresh_halves()
        loss, *gradients = (self.recorded or self._run)(*inputs)
        if self.optimizer is not None and self._adam is None:
            for param, gradient in zip(self._tensors, gradients, strict=True):
                param.grad = gradient
            self.optimizer.step(self._tensors)
        return loss

    def _prepare_adam(self, optimizer: SharedOptimizer) -> None:
        last = self._adam
        had_gradient = set(filter(optimizer.had_gradient, self._without_gradient))
        if had_gradient != self._zeros.keys():
            self._zeros = {param: torch.zeros_like(param) for param in had_gradient}
            self._stepped = [one for one in self._tensors if one not in self._without_gradient or one in self._zeros]
            last = None
        adam = optimizer.fused_adam(self._stepped, last)
        if adam is not self._adam:
            self._adam, self.recorded = adam, None
        if adam is not None:
            adam.refresh()

    def _gradients(self, of_tensors: Sequence[Tensor | None]) -> list[Tensor]:
        """Of the parameters that are stepped."""
        found = (
            self._zeros.get(param) if gradient is None else gradient
            for param, gradient in zip(self._tensors, of_tensors, strict=True)
        )
        return [gradient for gradient in found if gradient is not None]

    @property
    def is_all_recorded(self) -> bool:
        """Whether nothing of the step but recorded kernels is left."""
        return self.recorded is not None and (self.optimizer is None or self._adam is not None)

    def again(self, inputs: Sequence[Tensor]) -> Tensor:
        """The same, where it has been recorded and nothing has been replaced since."""
        self.calls += 1
        if self._adam is not None and not self._adam.refresh():
            return self(inputs)
        if self._versions and self._versions != list(map(_version, self._halves)):
            self._refresh_halves()
        return self.recorded(*inputs)[0]  # type: ignore[misc]

    def _refresh_halves(self) -> None:
        for param, half in self._halves.items():
            half.copy_(param)
        self._versions = list(map(_version, self._halves))

    def _record(self, inputs: Sequence[Tensor]) -> None:
        """From now on the kernels are launched together, with the optimizer's among them where that is one kernel."""
        written = [*self._fixed, *self._halves.values(), *(self._adam.written() if self._adam else ())]
        self._addresses = list(map(Tensor.data_ptr, self._fixed))
        if any(one.is_cuda for one in (*written, *inputs)):
            try:
                self.recorded = backends.cuda_graph(self._run, inputs, written)
            except backends.NotRecordable as reason:
                self.to_record, self.recorded = False, None
                warnings.warn(f"CompiledSVI: no CUDA graph of the captured step: {reason}", stacklevel=6)
            return
        try:
            improve = [self._adam.into_products] if self._adam else []
            self.recorded = recording.record(self._run_kernels, inputs, written, *improve)
        except (recording.NotRecordable, kernels.NoKernelError):
            self.to_record, self.recorded = False, None

    def _run(self, *inputs: Tensor) -> Sequence[Tensor]:
        """The loss, with the gradients where they have not been used yet."""
        outputs = self.graph(*self._tensors, *inputs, *self.captured.live, *self._halves.values())
        if self._adam is None:
            return outputs
        self._adam(self._gradients(outputs[1:]))
        return outputs[:1]

    def _run_kernels(self, *inputs: Tensor) -> Sequence[Tensor]:
        """The same on the CPU, where the step has to be a kernel, too."""
        outputs = self.graph(*self._tensors, *inputs, *self.captured.live, *self._halves.values())
        if self.optimizer is None:
            return outputs
        if self._adam is None or not self._adam.by_kernel(self._gradients(outputs[1:]), self._halves):
            raise recording.NotRecordable("the optimizer is not Adam in float32")
        return outputs[:1]
