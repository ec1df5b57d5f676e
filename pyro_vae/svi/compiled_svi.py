"""`CompiledSVI`: Pyro's SVI, with the step captured as a graph of tensor operations and replayed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, Trace_ELBO
from torch import Tensor
from torch.utils import _pytree as pytree

from pyro_vae._utils import checks
from pyro_vae.svi import backends
from pyro_vae.svi.captured_steps import CapturedSteps
from pyro_vae.svi.optimizers import SharedOptimizer
from pyro_vae.svi.program import Program, as_tensor, params_of
from pyro_vae.svi.reach import PLAIN
from pyro_vae.svi.replay import Replay
from pyro_vae.svi.signature import kind_of, number_like

CHECKED_EVERY = 200  # steps between checks for losses that are not finite
RESCANNED_EVERY = 100  # steps of `steps`


class NotFiniteError(FloatingPointError):
    """The loss of a step is NaN or infinite."""

    def __init__(self, loss: float, step: int) -> None:
        super().__init__(f"the loss is {loss} at step {step}")
        self.loss, self.step = loss, step


class CompiledSVI:
    r"""`pyro.infer.SVI` for static programs: the step is captured once and replayed without Python.

    The first call with arguments of a new signature runs the objective once as Pyro does, with Pyro's checks. Then the
    handlers, the distributions and autograd are run a second time and captured as a graph of tensor operations, which
    all later calls replay. Draws come from torch's generators in the same order, so that under the same seed the losses
    are those of Pyro.

    *Signature.* Tensors among the arguments are inputs of the graph, and tensors that the model uses otherwise, such as
    buffers, are read at each call. Plain values (integers, strings, ...) among the arguments are part of the signature:
    a new value means a new capture. A float argument that keeps changing becomes a tensor input.

    *Python state* that the model or the guide can read is part of the signature, too; changing it invalidates the
    capture. After three captures that were hardly used because state keeps changing, the program runs eagerly.

    - Detected: variables, default arguments and attributes that their functions mention by name, of the user's own
      objects, classes and modules, and what those hold; the parameters, buffers, children and forward hooks of modules;
      which parameters are frozen; `training` where it is used. Of lists, dictionaries, sets and NumPy arrays, 64 items.
    - Not detected: names made at run time; state of libraries other than torch's modules and Pyro's handlers, guides
      and objectives; anything beyond 1,000 such locations.
    - Verified: each capture is compared with its program, in the loss and its gradients, on other values of the
      parameters, the arguments and the tensors within reach. At calls 1, 10, 100, 1,000 and every 5,000th call of a
      signature its loss is compared with the program's on the same draws; where they differ, a warning says so, and the
      program runs eagerly from then on (earlier steps are not undone).

    *A program that can't be captured* runs eagerly, and a warning says why, with the line of the program if a line is
    the cause: it branches on values of tensors, reads them back, prints them or enumerates; each run changes state that
    it reads (a counter, or a running mean that is not a buffer written in place); it draws random numbers from
    generators other than torch's default ones; or it fails while it is captured.

    *A loss that is not finite* raises :class:`NotFiniteError`, a FloatingPointError, with the number of the step: at
    once in :meth:`step`, within 200 steps in :meth:`step_tensor`. The loss of some objectives is infinite by design,
    that of `TraceTailAdaptive_ELBO` for example: where the first step's is, infinite losses are returned, as by Pyro.

    Not re-entrant, and not thread-safe: like Pyro's SVI it updates the parameters in place. During a capture, Pyro's
    validation is off in all threads.

    Args:
        model, guide: Pyro programs with the same arguments.
        optim: a torch optimizer; its class, or any function that makes an optimizer from parameters; or a Pyro
            optimizer, with or without a scheduler. Where it is plain Adam or AdamW, of either kind, a single kernel
            takes the step of a captured step; a Pyro optimizer has the same state and learning rates as with Pyro's
            SVI, and either can resume from the other's state; but gradients are left as None, not as zeros.
        loss, loss_and_grads: one of Pyro's objectives, or one of your own; or functions, as Pyro's SVI takes them.
        prepare: makes the tuple of the programs' arguments from those of :meth:`step`, for example a batch from its
            indices. It is captured with the programs, and runs once per step, so that the model and the guide see the
            same draws.
        compile: `off`; `capture`: the captured graph, operation by operation; `inductor`: the graph compiled to
            machine code, which takes 5 to 20 s for the first signature, and happens for others after 1,000 calls of
            each; on CUDA its kernels are then recorded as a CUDA graph; on a CPU the update of Adam is compiled as
            well, and all kernels are called from C++; `cudagraph`: the kernels recorded as a CUDA graph; `auto`:
            `cudagraph` on CUDA, else `capture`, and `inductor` after 5,000 calls of a signature. (Inductor of torch
            2.11 makes several draws of a step in another order, that of 2.15 does not; either may use another memory
            layout for drawn tensors, so that a transformer with dropout, for example, drops other entries.)
        precision: `fp32`, or `bf16` for the matrix products and convolutions of captured steps; all else is computed
            in fp32.

    Example, of a program that is not a VAE:

    >>> import pyro, pyro.infer
    >>> import pyro.distributions as dist
    >>> def model(x):
    ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    ...     with pyro.plate("data", len(x)):
    ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
    >>> guide = pyro.infer.autoguide.AutoNormal(model)
    >>> svi = CompiledSVI(model, guide, torch.optim.Adam)
    >>> losses = [svi.step(torch.ones(50)) for _ in range(20)]
    >>> svi.signatures
    1
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: Any,
        loss: Any = None,
        loss_and_grads: Callable[..., Any] | None = None,
        *,
        prepare: Callable[..., tuple[Any, ...]] | None = None,
        compile: str = "auto",
        precision: str = "fp32",
    ) -> None:
        checks.one_of("compile", compile, ("auto", *backends.BACKENDS))
        checks.one_of("precision", precision, ("fp32", "bf16"))
        if compile == "cudagraph" and not torch.cuda.is_available():
            raise checks.fail("compile", compile, "another backend, where there is no CUDA device")
        loss = Trace_ELBO() if loss is None else loss
        if not isinstance(loss, ELBO):
            if not callable(loss):
                raise checks.fail("loss", type(loss).__name__, "one of Pyro's ELBO objects, or a function")
            loss = _LossFunction(loss, loss_and_grads)
        self.model, self.guide, self.prepare = model, guide, prepare
        self.loss: Any = loss
        self.optimizer = SharedOptimizer(optim)
        self.num_steps = 0
        self._may_be_infinite = False  # as the loss of the first step was
        self._used: Replay | None = None  # by the last step
        self._program = Program(model, guide, loss, prepare)
        self._captured = CapturedSteps(self.optimizer, compile, precision)
        self._unchecked: list[tuple[int, Tensor]] = []

    @property
    def signatures(self) -> int:
        """The number of captured signatures."""
        return sum(replay is not None for replay in self._captured.replays.values())

    @property
    def ready(self) -> bool:
        """Whether the next call captures; at first it is False, and a call runs as Pyro's, creating the parameters."""
        return self._captured.ready

    @ready.setter
    def ready(self, ready: bool) -> None:
        self._captured.ready = ready

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Takes a gradient step; returns the loss before it (or both losses, where Pyro returns two)."""
        number = _number(self._step(args, kwargs))
        self._check(number, self.num_steps)
        self._unchecked.clear()
        return number

    def step_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        """As :meth:`step`, without waiting for the device: the loss is a tensor there."""
        loss = _as_tensor(self._step(args, kwargs), args, kwargs)
        self._note(loss)
        return loss

    def _step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The loss: a tensor, or what Pyro's objective returns."""
        self.num_steps += 1
        replay, inputs = self._replay("step", args, kwargs)
        if replay is None:
            return self._eager_step(args, kwargs)
        with torch.no_grad():
            loss = replay(inputs)
        self._used = replay
        return loss

    def steps(self, arguments: Iterable[tuple[Any, ...]]) -> Iterator[Tensor]:
        """Many steps: :meth:`step_tensor` for each of `arguments`, with less overhead between steps.

        Python state and the state of the optimizer are checked only at every 100th step. Do not change them during the
        iteration, except for the learning rate and the content of tensors; under `bf16`, change parameters by ordinary
        in-place operations and not through ``.data``, because rounded copies of them are made by the preceding step.
        """
        trusted: Replay | None = None
        kinds: list[Any] = []
        for args in arguments:
            if trusted is not None and (trusted.calls + 1) % RESCANNED_EVERY and list(map(kind_of, args)) == kinds:
                self.num_steps += 1
                with torch.no_grad():
                    loss = trusted.run_unchecked([argument for argument in args if isinstance(argument, Tensor)])
                self._note(loss)
            else:
                self._used = None
                loss = self.step_tensor(*args)
                trusted, kinds = self._trusted(args), list(map(kind_of, args))
            yield loss

    def _trusted(self, args: tuple[Any, ...]) -> Replay | None:
        """The captured step that has just run, if it can run the next step without checks."""
        replay = self._used
        if replay is None or not replay.is_all_recorded or replay.calls < RESCANNED_EVERY:
            return None
        plain = all(isinstance(argument, (Tensor, *PLAIN)) for argument in args)
        return replay if plain and not self._captured.floats.some_keep_changing else None

    def _note(self, loss: Tensor) -> None:
        self._unchecked.append((self.num_steps, loss))
        if len(self._unchecked) >= CHECKED_EVERY:
            self.check_finite()

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """An estimate of the loss (or of both losses, where Pyro returns two), without taking a step."""
        return _number(self._evaluate(args, kwargs))

    def evaluate_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        """As :meth:`evaluate_loss`, without waiting for the device."""
        return _as_tensor(self._evaluate(args, kwargs), args, kwargs)

    def _evaluate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The loss: a tensor, or what Pyro's objective returns."""
        replay, inputs = self._replay("evaluate", args, kwargs)
        with torch.no_grad():
            return self._program.estimate(*args, **kwargs) if replay is None else replay(inputs)

    def check_finite(self) -> None:
        """Waits for the device, and raises :class:`NotFiniteError` if a loss since the last check was not finite."""
        if not self._unchecked:
            return
        steps = [step for step, _ in self._unchecked]
        losses = torch.stack([loss.sum() for _, loss in self._unchecked]).tolist()
        self._unchecked.clear()
        for step, loss in zip(steps, losses, strict=True):
            self._check(loss, step)

    def _check(self, loss: Any, step: int) -> None:
        total = sum(loss) if isinstance(loss, tuple) else loss
        if step == 1:
            self._may_be_infinite = total == math.inf
        if math.isnan(total) or (math.isinf(total) and not self._may_be_infinite):
            raise NotFiniteError(loss, step)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state. The parameters are in Pyro's store, or in your modules."""
        return self.optimizer.get_state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads the state of another optimizer over the same parameters: torch's, or with a Pyro optimizer, Pyro's."""
        self.optimizer.set_state(state)

    def _eager_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with poutine.trace(param_only=True) as traced:
            loss = self._program.estimate_with_gradients(*args, **kwargs)
        self.optimizer.step(list(params_of(traced.trace).values()))
        return loss

    def _replay(self, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Replay | None, list[Tensor]]:
        """The captured step for these arguments, and its inputs; None where the call runs eagerly."""
        parts = (self.model, self.guide, self.loss, self.prepare)
        if parts != self._program.parts:
            self._program = Program(*parts)
        return self._captured.replay(self._program, kind, args, kwargs)


class _LossFunction:
    """A loss that is a function of the model, the guide and their arguments, as Pyro's SVI allows."""

    def __init__(self, loss: Callable[..., Any], loss_and_grads: Callable[..., Any] | None) -> None:
        self.loss, self.loss_and_grads = loss, loss_and_grads or self._backward

    def _backward(self, *args: Any, **kwargs: Any) -> Any:
        loss = self.loss(*args, **kwargs)
        if getattr(loss, "requires_grad", False):
            loss.backward(retain_graph=True)
        return loss


def _number(loss: Any) -> Any:
    """A loss as Pyro's SVI returns it: a float, or several, of objectives that have several losses."""
    if isinstance(loss, Tensor) and loss.dim() == 1:
        return tuple(loss.tolist())
    return tuple(map(float, loss)) if isinstance(loss, tuple) else float(loss)


def _as_tensor(loss: Any, *arguments: Any) -> Tensor:
    """Pyro's number or numbers as a tensor on the device of the arguments, like the losses of captured steps."""
    if isinstance(loss, (Tensor, tuple)):
        return as_tensor(loss)
    return torch.as_tensor(loss, **number_like(pytree.tree_leaves(arguments)))
