"""`CompiledSVI`: Pyro's SVI, with the step captured as a graph of tensor operations and replayed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, SVI, Trace_ELBO
from pyro.poutine import runtime
from torch import Tensor

from pyro_vae._utils import checks
from pyro_vae.svi import ambient, backends
from pyro_vae.svi.captured_steps import CapturedSteps
from pyro_vae.svi.losses import FiniteCheck, LossFunctions, number_of, tensor_of
from pyro_vae.svi.optimizers import SharedOptimizer
from pyro_vae.svi.places import PLAIN
from pyro_vae.svi.program import Program, params_of
from pyro_vae.svi.replay import Replay
from pyro_vae.svi.signature import metadata_of

RESCANNED_EVERY = 100  # steps of `steps` and `run_steps`


class CompiledSVI(SVI):
    r"""`pyro.infer.SVI` for static programs: the step is captured once and replayed without Python.

    A subclass of Pyro's SVI, with the same arguments, methods and attributes: `model`, `guide`, `optim`, `loss` and
    `loss_and_grads` may be assigned. Copies and pickles are without the captured steps, and capture their own.

    The first call runs as Pyro's, with Pyro's checks. The next, and then each call with arguments of a new signature,
    runs the objective once more and captures it, with handlers, distributions and autograd, as a graph of tensor
    operations, which all later calls replay. Draws come from torch's generators in the same order, so that under the
    same seed the losses are those of Pyro.

    *Signature.* Tensors among the arguments are inputs of the graph, and tensors that the model uses otherwise, such as
    buffers, are read at each call. Other arguments are part of the signature, plain values (integers, strings, ...) by
    their value and objects by identity: another one means another capture. A float argument that keeps changing
    becomes a tensor input. NumPy arrays and iterators as arguments run eagerly.

    *Python values* that the programs read while they were captured are guarded: attributes, items, closed-over and
    global variables, default arguments, `training`, hooks, `requires_grad`, methods and submodules, whether in your
    files or in an installed package. Another value means another capture; after three captures that were hardly used,
    the program runs eagerly. What the programs only write, a counter or a list of records, is nobody's business: it is
    guarded by no one, and a replay does not write it. Not guarded are

    - the items of a list or an array between about 64 evenly spaced ones, those of other containers after 64, and what
      an `lru_cache` holds;
    - what only C code reads: attributes in a format string that is no constant, or of a scripted module;
    - attributes of attributes by names made at run time, as by ``reduce(getattr, names, x)``;
    - another class of a library's object, bases of a class; names that begin to hide a class's;
    - what only a library holds, in its objects, its classes, its global variables, or a `contextvars.ContextVar`;
    - what is read in another thread, and what is outside of the program: files, the clock;
    - what a signal handler, a finalizer or another thread changes during :meth:`run_steps`, for up to 100 steps.

    A change of these is caught by comparison. Each captured graph is compared with its program, in the loss and its
    gradients, on other values of the parameters, the arguments and the tensors within reach. At replays 1, 10, 100,
    1,000 and every 5,000th of a signature the graph's loss and gradients are compared with the program's on the same
    draws; where they differ, a warning says so, and the program runs eagerly from then on (earlier steps are not
    undone). In float32, what Inductor makes of the graph is compared with the graph, and given up where it differs.

    *A program that can't be captured* runs eagerly, and a warning says why, with the line of the program if a line is
    the cause: it branches on values of tensors, reads them back or prints them; each run changes state that it reads (a
    counter, or a running mean that is not a buffer written in place); it draws from generators other than torch's
    default ones; it writes to an argument in place; it uses tensors of a class of their own, or nested, quantized or
    sparse ones other than COO; its backward pass goes through operations that happened before it ran; or it fails while
    it is captured. So do calls under `torch.autocast`, anomaly detection, hooks on saved tensors (which torch 2.6
    doesn't tell of), transforms of `torch.func`, and modes. A capture writes to copies of the program's tensors.
    Parameters that are not Pyro's get their gradients, which add up as in autograd.

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
        num_samples, num_steps: of Pyro's :meth:`run`, deprecated there; :attr:`steps_taken` counts the steps.
        prepare: makes the tuple of the programs' arguments from those of :meth:`step`, for example a batch from its
            indices. It is captured with the programs, and runs once per step, so that the model and the guide see the
            same draws.
        compile: `off`; `capture`: the captured graph, operation by operation; `inductor`: the graph compiled to
            machine code, which takes 5 to 20 s for the first signature, and happens for others after 1,000 calls of
            each; on CUDA its kernels are then recorded as a CUDA graph; on a CPU the update of Adam is compiled as
            well, and all kernels are called from C++; `cudagraph`: the kernels recorded as a CUDA graph; `auto`:
            `cudagraph` on CUDA, else `capture`, and `inductor` after 5,000 calls of a signature. (Inductor may make the
            draws of a step in another order, or lay out drawn tensors otherwise, and so give other draws.)
        precision: `fp32`, or `bf16` for the matrix products and convolutions of captured steps; all else is computed
            in fp32. So are these, with a warning, on a processor without instructions for bfloat16.

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
        num_samples: int = 0,
        num_steps: int = 0,
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
        if not isinstance(loss, ELBO) and not callable(loss):
            raise checks.fail("loss", type(loss).__name__, "one of Pyro's ELBO objects, or a function")
        self.prepare, self.compile, self.precision = prepare, compile, precision
        self.steps_taken = 0
        self.optimizer = SharedOptimizer(optim)
        self._finite = FiniteCheck()
        self._captured = CapturedSteps(compile, precision, self.optimizer)
        self._program: Program | None = None
        super().__init__(model, guide, self.optimizer, loss, loss_and_grads, num_samples, num_steps)

    def __getstate__(self) -> dict[str, Any]:
        programs = [program for program in (self.model, self.guide) if isinstance(program, torch.nn.Module)]
        for param in (*self.optimizer.params(), *(param for program in programs for param in program.parameters())):
            vars(param).pop("unconstrained", None)  # a weak reference by Pyro's store, which can't be pickled
        return self.__dict__

    @property
    def optim(self) -> Any:
        """The optimizer as it was given; another that is assigned takes the next step."""
        return self.optimizer.optim

    @optim.setter
    def optim(self, optim: Any) -> None:
        if optim is not self.optimizer:
            self.optimizer.use(optim)

    @property
    def signatures(self) -> int:
        """The number of captured signatures."""
        return len(self._captured.replays)

    @property
    def ready(self) -> bool:
        """Whether the next call captures; at first it is False, and a call runs as Pyro's, creating the parameters."""
        return self._captured.ready

    @ready.setter
    def ready(self, ready: bool) -> None:
        self._captured.ready = ready

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Takes a gradient step; returns the loss before it (or both losses, where Pyro returns two)."""
        number = number_of(self._step(args, kwargs))
        self._finite.check(number, self.steps_taken)
        return number

    def step_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        """As :meth:`step`, without waiting for the device: the loss is a tensor there."""
        loss = tensor_of(self._step(args, kwargs), args, kwargs)
        self._finite.note(loss, self.steps_taken)
        return loss

    def _step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The loss: a tensor, or what Pyro's objective returns."""
        self.steps_taken += 1
        program = self._current_program()
        replay, inputs = self._captured.replay(program, "step", args, kwargs)
        if replay is None:
            with poutine.trace(param_only=True) as traced:
                loss = program.estimate_with_gradients(*args, **kwargs)
            self.optimizer.step(list(params_of(traced.trace).values()))
            return loss
        with torch.no_grad():
            loss = replay(inputs)
        self._captured.used = replay
        return loss

    def steps(self, arguments: Iterable[tuple[Any, ...]]) -> Iterator[Tensor]:
        """Many steps: :meth:`step_tensor` for each of `arguments`, with less overhead between steps.

        Under `bf16`, change parameters by ordinary in-place operations and not through ``.data``, because rounded
        copies of them are made by the preceding step.
        """
        return self._steps((args, {}) for args in arguments)

    def run_steps(self, num_steps: int, *args: Any, **kwargs: Any) -> Tensor:
        """Takes `num_steps` steps with the same arguments, as :meth:`steps` does.

        Only signal handlers, finalizers and other threads can run between two recorded steps, so that what the
        programs read is compared with every hundredth alone.

        Returns the losses before each step, (num_steps,), on the device. (:meth:`run` is Pyro's, which then samples
        traces of the posterior.)
        """
        checks.positive_integer("num_steps", num_steps)
        losses = list(self._steps(itertools.repeat((args, kwargs), num_steps), alone=True))
        self.check_finite()
        return torch.stack(losses)

    def _steps(self, calls: Iterable[tuple[Any, dict[str, Any]]], alone: bool = False) -> Iterator[Tensor]:
        trusted: Replay | None = None
        before: list[Any] = []
        for args, kwargs in calls:
            leaves = [*args, *kwargs.values()]
            alike = alone or (trusted is not None and self._stands_on(leaves) == before and trusted.is_as_recorded())
            if trusted is not None and alike and (trusted.calls + 1) % RESCANNED_EVERY:
                self.steps_taken += 1
                with torch.no_grad():
                    loss = trusted.run_unchecked([leaf for leaf in leaves if isinstance(leaf, Tensor)])
                self._finite.note(loss, self.steps_taken)
            else:
                self._captured.used = None
                loss = self.step_tensor(*args, **kwargs)
                trusted, before = self._trusted(leaves), self._stands_on(leaves)
            yield loss

    def _stands_on(self, leaves: list[Any]) -> list[Any]:
        """What a step depends on beside the guards of its captured step, the parameters and the optimizer."""
        return [
            self._current_program(),
            *map(type, runtime._PYRO_STACK),
            *ambient.in_force(),
            *map(metadata_of, leaves),
        ]

    def _trusted(self, leaves: list[Any]) -> Replay | None:
        """The captured step that has just run, if its recorded kernels can run the next step alone."""
        replay = self._captured.used
        if replay is None or not replay.is_all_recorded or replay.calls < RESCANNED_EVERY:
            return None
        plain = all(isinstance(leaf, (Tensor, *PLAIN)) for leaf in leaves)
        return replay if plain and not self._captured.floats.some_keep_changing else None

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """An estimate of the loss (or of both losses, where Pyro returns two), without taking a step."""
        return number_of(self._evaluate(args, kwargs))

    def evaluate_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        """As :meth:`evaluate_loss`, without waiting for the device."""
        return tensor_of(self._evaluate(args, kwargs), args, kwargs)

    def _evaluate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The loss: a tensor, or what Pyro's objective returns."""
        program = self._current_program()
        replay, inputs = self._captured.replay(program, "evaluate", args, kwargs)
        with torch.no_grad():
            return program.estimate(*args, **kwargs) if replay is None else replay(inputs)

    def check_finite(self) -> None:
        """Waits for the device, and raises :class:`NotFiniteError` if a loss since the last check was not finite."""
        self._finite.check_noted()

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state. The parameters are in Pyro's store, or in your modules."""
        return self.optimizer.get_state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads the state of another optimizer over the same parameters: torch's, or with a Pyro optimizer, Pyro's."""
        self.optimizer.set_state(state)

    def _traces(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """The traces that Pyro's :meth:`run` collects."""
        if self.prepare is not None:
            args, kwargs = self.prepare(*args, **kwargs), {}
        yield from super()._traces(*args, **kwargs)

    def _current_program(self) -> Program:
        """The model, the guide and the objective, any of which may have been assigned since the last call."""
        functions = LossFunctions(self.loss, self.loss_and_grads)
        objective: Any = getattr(self.loss, "__self__", None)
        if not isinstance(objective, ELBO) or functions != (objective.loss, objective.loss_and_grads):  # type: ignore[attr-defined]
            objective = functions
        parts = (self.model, self.guide, objective, self.prepare)
        if self._program is None or parts != self._program.parts:
            self._program = Program(*parts)
        return self._program
