"""A captured step, replayed."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import pyro
from torch import Tensor

from pyro_vae import backends
from pyro_vae.capture import Captured
from pyro_vae.optimizers import FusedAdam, SharedOptimizer

_requires_grad_and_hooks = operator.attrgetter("requires_grad", "_backward_hooks")
_grad = operator.attrgetter("grad")


class Replay:
    """A captured loss, and in a step its gradients and the step of the optimizer.

    `graph` takes the parameters, the inputs, and what is live, and gives the loss and the gradients.
    """

    def __init__(self, captured: Captured, params: dict[str, Tensor], optimizer: SharedOptimizer | None) -> None:
        self.captured, self.params, self.optimizer = captured, params, optimizer
        self.graph: backends.Run = captured.graph.forward
        self.recorded: backends.Run | None = None  # the whole step as a CUDA graph
        self.calls = 0
        self.settled = False  # nothing faster is to be tried
        self._tensors = tuple(params.values())
        self._as_captured = list(map(_requires_grad_and_hooks, self._tensors))
        gradients: Any = captured.graph.graph.output_node().args[0][1:]  # type: ignore[index]
        pairs = zip(self._tensors, gradients, strict=False)
        self._trained = tuple(param for param, gradient in pairs if gradient is not None)
        self._adam: FusedAdam | None = None

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
            if self._adam is None or not self._adam.is_current():
                self._adam = self.optimizer.fused_adam(self._trained)
                if self.recorded is not None and self._adam is not None:
                    self.record(inputs)
            if self._adam is not None:
                self._adam.refresh()
        loss, *gradients = (self.recorded or self._run)(*inputs)
        if self.optimizer is not None and self._adam is None:
            for param, gradient in zip(self._tensors, gradients, strict=True):
                param.grad = gradient
            self.optimizer.step(self._tensors)
        return loss

    def record(self, inputs: Sequence[Tensor]) -> None:
        """From now on the step is one CUDA graph, with the optimizer in it where that is one kernel."""
        written = [*self._tensors, *self.captured.live, *(self._adam.written() if self._adam else ())]
        self.recorded = backends.cuda_graph(self._run, inputs, written)

    def _run(self, *inputs: Tensor) -> Sequence[Tensor]:
        """The loss, with the gradients where they have not been used yet."""
        outputs = self.graph(*self._tensors, *inputs, *self.captured.live)
        if self._adam is None:
            return outputs
        self._adam([gradient for gradient in outputs[1:] if gradient is not None])
        return outputs[:1]
