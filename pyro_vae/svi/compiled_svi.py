"""`CompiledSVI`: Pyro's SVI, with the step captured as a graph of tensor operations and replayed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from pyro.poutine import runtime
from torch import Tensor
from torch.utils import _pytree as pytree

from pyro_vae._utils import checks
from pyro_vae.svi import backends
from pyro_vae.svi.capture import Captured, NotCapturable
from pyro_vae.svi.optimizers import SharedOptimizer
from pyro_vae.svi.program import ChangesItself, Program, ProgramError, params_of, readable
from pyro_vae.svi.reach import PLAIN
from pyro_vae.svi.replay import Replay

CAPTURED_LOSSES = (Trace_ELBO, TraceMeanField_ELBO, RenyiELBO, TraceGraph_ELBO)
INDUCTOR_AFTER = 5000  # steps, after which a compilation of about 10 s pays off
FURTHER_AFTER = 1000  # likewise, for signatures after the first, under compile="inductor"
CHECKED_EVERY = 200  # steps between checks for losses that are not finite
MAX_SIGNATURES = 16
VERIFIED_AT = (1, 10, 100, 1000)  # calls of a captured step
VERIFIED_EVERY = 5000  # calls after those; a verification takes as long as about twenty compiled steps
FLOATS_BEFORE_LIVE = 3
RESCANNED_EVERY = 100  # steps of `steps`
CHANGES_BEFORE_EAGER = 3  # captures because of changing Python state, each called less than WORTH_A_CAPTURE times
WORTH_A_CAPTURE = 20

Signature = tuple[Any, ...]


def can_capture(loss: type[ELBO]) -> bool:
    """Whether steps of this loss can be captured: it is one of `CAPTURED_LOSSES`, or its class sets `capturable`.

    A subclass must set `capturable` itself: what it overrides may not be capturable.
    """
    return loss in CAPTURED_LOSSES or vars(loss).get("capturable", False)


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
    once in :meth:`step`, within 200 steps in :meth:`step_tensor`.

    Not re-entrant, and not thread-safe: like Pyro's SVI it updates the parameters in place. During a capture, Pyro's
    validation is off in all threads.

    Args:
        model, guide: Pyro programs with the same arguments.
        optim: a torch optimizer; its class, or any function that makes an optimizer from parameters; or a Pyro
            optimizer, with or without a scheduler. A class, and Pyro's Adam and AdamW without a scheduler, become a
            single optimizer over all parameters. A Pyro optimizer has the same state and learning rates as with Pyro's
            SVI, and either can resume from the other's state; but gradients are left as None, not as zeros.
        loss, loss_and_grads: one of Pyro's objectives; other objectives, or functions as Pyro's SVI takes them, run
            eagerly.
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
        self.compile, self.precision = compile, precision
        self.num_steps = 0
        self._replays: dict[Signature, Replay | None] = {}  # None: the signature runs eagerly
        self.ready = False
        self._used: Replay | None = None  # by the last step
        self._program = Program(model, guide, loss, prepare)
        self._raised: set[Signature] = set()  # signatures whose program itself raised during a capture
        self._changing: set[Any] = set()  # arguments with which Python state keeps changing
        self._floats: dict[int, set[float]] = {}
        self._unchecked: list[tuple[int, Tensor]] = []
        self._warned: set[str] = set()
        if compile != "off" and not can_capture(type(loss)):
            names = ", ".join(kind.__name__ for kind in CAPTURED_LOSSES)
            self._warn_once(f"runs eagerly: {type(loss).__name__} can't be captured, as {names} can")
            self.compile = "off"

    @property
    def signatures(self) -> int:
        """The number of captured signatures."""
        return sum(replay is not None for replay in self._replays.values())

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Takes a gradient step; returns the loss before it (or both losses, where Pyro returns two)."""
        loss = self._step(args, kwargs)
        if isinstance(loss, Tensor):
            loss = loss.item() if loss.dim() == 0 else tuple(loss.tolist())
        number: Any = tuple(map(float, loss)) if isinstance(loss, tuple) else float(loss)
        if not math.isfinite(sum(number) if isinstance(number, tuple) else number):
            raise NotFiniteError(number, self.num_steps)
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
            if trusted is not None and (trusted.calls + 1) % RESCANNED_EVERY and list(map(_kind_of, args)) == kinds:
                self.num_steps += 1
                with torch.no_grad():
                    loss = trusted.run_unchecked([argument for argument in args if isinstance(argument, Tensor)])
                self._note(loss)
            else:
                self._used = None
                loss = self.step_tensor(*args)
                trusted, kinds = self._trusted(args), list(map(_kind_of, args))
            yield loss

    def _trusted(self, args: tuple[Any, ...]) -> Replay | None:
        """The captured step that has just run, if it can run the next step without checks."""
        replay = self._used
        if replay is None or not replay.is_all_recorded or replay.calls < RESCANNED_EVERY:
            return None
        live = any(len(seen) > FLOATS_BEFORE_LIVE for seen in self._floats.values())
        return None if live or not all(isinstance(argument, (Tensor, *PLAIN)) for argument in args) else replay

    def _note(self, loss: Tensor) -> None:
        self._unchecked.append((self.num_steps, loss))
        if len(self._unchecked) >= CHECKED_EVERY:
            self.check_finite()

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """An estimate of the loss, without taking a step."""
        return float(self._evaluate(args, kwargs))

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
        losses = torch.stack([loss.sum() if loss.dim() else loss for _, loss in self._unchecked]).tolist()
        self._unchecked.clear()
        for step, loss in zip(steps, losses, strict=True):
            if not math.isfinite(loss):
                raise NotFiniteError(loss, step)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's state. The parameters are in Pyro's store, or in your modules."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads the state of another `CompiledSVI`'s optimizer, or of any torch optimizer over the same parameters.

        Where a Pyro optimizer takes the steps, the state of a torch optimizer is an InputError.
        """
        self.optimizer.load_state_dict(state)

    # --- running eagerly, as Pyro does --------------------------------------------------------------------------

    def _eager_step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with poutine.trace(param_only=True) as traced:
            loss = self._program.estimate_with_gradients(*args, **kwargs)
        self.optimizer.step(list(params_of(traced.trace).values()))
        return loss

    # --- capturing ----------------------------------------------------------------------------------------------

    def _replay(self, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Replay | None, list[Tensor]]:
        """The captured step for these arguments, and its inputs; None where the call runs eagerly."""
        parts = (self.model, self.guide, self.loss, self.prepare)
        if parts != self._program.parts:
            self._program = Program(*parts)
        if self.compile == "off" or torch.is_inference_mode_enabled():
            return None, []
        if runtime._PYRO_STACK or (kind == "step" and not torch.is_grad_enabled()):
            self._warn_once("runs eagerly inside another of Pyro's handlers, or without gradients")
            return None, []
        leaves, tree = pytree.tree_flatten((args, kwargs))
        other = next((leaf for leaf in leaves if not isinstance(leaf, (Tensor, *PLAIN))), None)
        if other is not None:
            self._warn_once(
                f"runs eagerly: an argument is a {type(other).__name__}, neither a tensor nor a plain value"
            )
            return None, []
        if any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in leaves):
            self._warn_once("runs eagerly: an argument requires gradients")
            return None, []
        like = _like(leaves)
        leaves = [self._live_float(index, leaf, like) for index, leaf in enumerate(leaves)]
        inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        arguments = (kind, _hashable(tree), *map(_kind_of, leaves), torch.get_default_dtype())
        watched = self._program.watched
        signature = (arguments, watched())
        replay = self._replays.get(signature)
        if replay is not None and replay.params_are_the_same():
            if replay.adds_to_gradients():
                return None, []
            replay.calls += 1
            if replay.calls in VERIFIED_AT or replay.calls % VERIFIED_EVERY == 0:
                return self._verified(signature, replay, args, kwargs, inputs), inputs
            return self._faster(replay, inputs), inputs
        if replay is None and (signature in self._replays or not self.ready):
            self.ready = True  # this first call runs as Pyro's, with all checks, and creates the parameters
            return None, []
        if len(self._replays) >= MAX_SIGNATURES and signature not in self._replays:
            self._warn_once(f"more than {MAX_SIGNATURES} signatures; further signatures run eagerly")
            return None, []
        if arguments in self._changing:
            return None, []
        of_arguments = [entry for (others, _), entry in self._replays.items() if others == arguments]
        hardly_used = sum(entry is None or entry.calls < WORTH_A_CAPTURE for entry in of_arguments)
        if signature not in self._replays and hardly_used >= CHANGES_BEFORE_EAGER:
            self._changing.add(arguments)
            self._warn_once(f"runs eagerly: {readable(watched.changed)} keeps changing")
            return None, []
        try:
            watched.rescan()
            signature = (arguments, watched())
            result = self._program.capture(kind, leaves, tree)
            if result is None:
                return None, inputs
            captured, params = result
            if self.precision == "bf16":
                captured = Captured(backends.in_bfloat16(captured.graph), captured.live)
            replay = Replay(captured, params, self.optimizer if kind == "step" else None)
            self._replays[signature] = replay
            return replay, inputs
        except ProgramError as error:  # which may not happen at the next call
            if signature in self._raised:
                self._replays[signature] = None
                self._warn_once(f"runs eagerly: its estimate without gradients raises {_one_line(error.__cause__)}")
            self._raised.add(signature)
        except Exception as reason:
            self._replays[signature] = None
            if isinstance(reason, ChangesItself):
                self._changing.add(arguments)
            text = reason if isinstance(reason, NotCapturable) else f"capturing it raises {_one_line(reason)}"
            self._warn_once(f"runs eagerly: {text}")
        return None, inputs

    def _verified(
        self, signature: Signature, replay: Replay, args: Any, kwargs: Any, inputs: list[Tensor]
    ) -> Replay | None:
        """The captured step, if its loss is still that of the program."""
        loss, captured = self._program.losses(replay.captured, list(replay.params.values()), inputs, args, kwargs)
        tolerance = 0.03 if self.precision == "bf16" else 1e-4
        if math.isclose(loss, captured, rel_tol=tolerance, abs_tol=1e-4) or not math.isfinite(loss):
            return self._faster(replay, inputs)
        self._replays[signature] = None
        self._warn_once(
            f"runs eagerly from call {replay.calls} of this signature on: the program's loss is {loss:.6g}, that of "
            f"its captured step {captured:.6g}; the program has changed undetected, perhaps soon after the last such "
            "comparison"
        )
        return None

    def _faster(self, replay: Replay, inputs: list[Tensor]) -> Replay:
        """The captured step, compiled or to be recorded if it has been called often enough."""
        if replay.settled or self.compile == "capture":
            return replay
        tensors = [*replay.params.values(), *inputs, *replay.captured.live]
        on_cuda = tensors[0].is_cuda if tensors else False
        first = not any(entry is not None and entry.settled for entry in self._replays.values())
        if self.compile == "auto":
            on_cpu = bool(tensors) and tensors[0].device.type == "cpu"
            wanted = on_cuda or (on_cpu and replay.calls > INDUCTOR_AFTER)
        else:  # compiling for each shorter last batch would not pay off
            wanted = first or replay.calls > FURTHER_AFTER
        if not wanted:
            return replay
        replay.settled = True
        if self.compile == "inductor" or not on_cuda:
            try:
                replay.compile(inputs)
            except backends.NotCompilable as reason:
                self._warn_once(f"the captured step is not compiled: {reason}")
        replay.to_record = True  # on CUDA as a CUDA graph; on a CPU as calls from C++
        return replay

    def _live_float(self, index: int, leaf: Any, like: dict[str, Any]) -> Any:
        """A float that keeps changing, as a tensor; other leaves, and its first few values, unchanged."""
        if not isinstance(leaf, float):
            return leaf
        seen = self._floats.setdefault(index, set())
        if len(seen) <= FLOATS_BEFORE_LIVE:
            seen.add(leaf)
        return torch.tensor(leaf, **like) if len(seen) > FLOATS_BEFORE_LIVE else leaf

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(f"CompiledSVI: {text}", stacklevel=4)


class _LossFunction:
    """A loss that is a function of the model, the guide and their arguments, as Pyro's SVI allows."""

    def __init__(self, loss: Callable[..., Any], loss_and_grads: Callable[..., Any] | None) -> None:
        self.loss, self.loss_and_grads = loss, loss_and_grads or self._backward

    def _backward(self, *args: Any, **kwargs: Any) -> Any:
        loss = self.loss(*args, **kwargs)
        if getattr(loss, "requires_grad", False):
            loss.backward(retain_graph=True)
        return loss


def _one_line(error: BaseException | None) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _as_tensor(loss: Any, *arguments: Any) -> Tensor:
    """Pyro's number or numbers as a tensor on the device of the arguments, like the losses of captured steps."""
    if isinstance(loss, Tensor):
        return loss.detach() if loss.requires_grad else loss
    if isinstance(loss, tuple):
        loss = [float(value) for value in loss]
    return torch.as_tensor(loss, **_like(pytree.tree_leaves(arguments)))


def _like(leaves: Sequence[Any]) -> dict[str, Any]:
    """Dtype and device for a number beside these arguments: float64 only beside float64, which some devices lack."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    types = {torch.get_default_dtype(), *(tensor.dtype for tensor in tensors)}
    dtype = torch.float64 if torch.float64 in types else torch.float32
    return {"dtype": dtype, "device": tensors[0].device if tensors else None}


def _hashable(tree: Any) -> Any:
    """The structure of arguments as part of a signature: older torch, 2.6 among them, gives its specs no hash."""
    return tree if _TREES_HAVE_A_HASH else str(tree)


def _has_hash(value: object) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


_TREES_HAVE_A_HASH = _has_hash(pytree.tree_structure(((), {})))


def _kind_of(leaf: Any) -> Any:
    """What a captured step depends on in an argument: a tensor's shape, strides and type; any other value itself."""
    if isinstance(leaf, Tensor):
        return leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.requires_grad
    return type(leaf), leaf
