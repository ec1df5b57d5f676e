"""The captured steps of a program: which one a call replays, when one is captured, and why a call runs eagerly."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine import runtime
from pyro.poutine.block_messenger import BlockMessenger
from torch import Tensor

from pyro_vae._utils.warn import warn
from pyro_vae.svi import ambient, backends
from pyro_vae.svi.guards import Reads
from pyro_vae.svi.optimizers import SharedOptimizer
from pyro_vae.svi.program import ChangesItself, Program, ProgramError
from pyro_vae.svi.replay import Replay
from pyro_vae.svi.scalar_reads import NotCapturable
from pyro_vae.svi.signature import Arguments, ChangingFloats
from pyro_vae.svi.verification import difference

INDUCTOR_AFTER = 5000  # steps, after which a compilation of about 10 s pays off
FURTHER_AFTER = 1000  # likewise, for signatures after the first, under compile="inductor"
MAX_SIGNATURES = 16
VERIFIED_AT = (1, 10, 100, 1000)  # calls of a captured step
VERIFIED_EVERY = 5000  # calls after those; a verification takes as long as about twenty compiled steps
CHANGES_BEFORE_EAGER = 3  # captures because of changing Python values, each called less than WORTH_A_CAPTURE times
WORTH_A_CAPTURE = 20
FAILURES_BEFORE_EAGER = 3  # captures, of a program that was never captured

Signature = tuple[Any, ...]  # the program, `step` or `evaluate`, and what a call has in arguments and ambient state


class CapturedSteps:
    """The captured steps, by the signature of a call and what the program read. A copy is empty, and captures its own.

    None in the place of a captured step: the program runs eagerly.
    """

    def __init__(
        self, compile: str, precision: str, optimizer: SharedOptimizer | None = None, owner: str = "CompiledSVI"
    ) -> None:
        self.compile, self.precision, self.optimizer, self._owner = compile, precision, optimizer, owner
        self.ready = False  # after a first call, which runs as Pyro's, with all checks, and creates the parameters
        self.used: Replay | None = None  # by the last step
        self.floats = ChangingFloats()
        self._captures: dict[Signature, dict[Reads, Replay | None]] = {}
        self._raised: set[Signature] = set()  # where the program itself raised during a capture
        self._warned: set[str] = set()

    def __reduce__(self) -> Any:
        return type(self), (self.compile, self.precision, self.optimizer, self._owner)

    @property
    def replays(self) -> list[Replay]:
        """All captured steps."""
        return [replay for captures in self._captures.values() for replay in captures.values() if replay is not None]

    def replay(
        self, program: Program, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Replay | None, list[Tensor]]:
        """The captured step for these arguments, and its inputs; None where the call runs eagerly.

        Args:
            program: what is captured where no call had this signature.
            kind: `step` or `evaluate`.
            args, kwargs: the arguments of the call.
        """
        if self.compile == "off" or torch.is_inference_mode_enabled():
            return None, []
        # Pyro's `SVI.run` hides its steps from other handlers; where there are none, that has no effect.
        inside = any(type(handler) is not BlockMessenger for handler in runtime._PYRO_STACK)
        if inside or (kind == "step" and not torch.is_grad_enabled()):
            self.warn_once("runs eagerly inside another of Pyro's handlers, or without gradients")
            return None, []
        arguments = Arguments(args, kwargs)
        reason = ambient.not_replayable() or arguments.not_capturable()
        if reason:
            self.warn_once(f"runs eagerly: {reason}")
            return None, []
        self.floats.to_tensors(arguments)
        inputs, signature = arguments.tensors(), (program, kind, *arguments.metadata(), *ambient.in_force())
        captures = self._captures.get(signature, {})
        reads = next((reads for reads in captures if reads.hold()), None)
        replay = None if reads is None else captures[reads]
        if replay is not None and replay.params_are_the_same():
            if replay.adds_to_gradients():
                return None, []
            replay.calls += 1
            if replay.calls in VERIFIED_AT or replay.calls % VERIFIED_EVERY == 0:
                replay = self._verified(signature, replay, inputs, args, kwargs)
            return replay and self._faster(replay, inputs), inputs
        if replay is None and (reads is not None or not self.ready):
            self.ready = True
            return None, []
        if replay is not None or self._is_worth_a_capture(signature):
            return self._capture(signature, arguments), inputs
        return None, []

    def _is_worth_a_capture(self, signature: Signature) -> bool:
        """Whether there are few captures so far, some of the program succeeded, and Python state stays the same."""
        if sum(map(len, self._captures.values())) >= MAX_SIGNATURES:
            self.warn_once(f"more than {MAX_SIGNATURES} signatures; further signatures run eagerly")
            return False
        alike = [captures for other, captures in self._captures.items() if other[:2] == signature[:2]]
        tried = [replay for captures in alike for replay in captures.values()]
        if len(tried) >= FAILURES_BEFORE_EAGER and not any(tried):
            return False
        captures = self._captures.get(signature, {})
        if sum(replay is None or replay.calls < WORTH_A_CAPTURE for replay in captures.values()) < CHANGES_BEFORE_EAGER:
            return True
        self.warn_once(f"runs eagerly: {[*captures][-1].changed} keeps changing")
        self._add(signature, Reads(), None)  # without reads, so that it always holds
        return False

    def _capture(self, signature: Signature, arguments: Arguments) -> Replay | None:
        """A new captured step; None, with a warning, if the program can't be captured."""
        program, kind, *_ = signature
        reads, replay = Reads(), None
        try:
            captured = program.capture(kind, arguments, reads)
            if captured is None:
                return None
            if self.precision == "bf16" and backends.lacks_bfloat16(captured.graph):
                self.warn_once(backends.NO_BFLOAT16)
            replay = Replay(captured, self.optimizer if kind == "step" else None, reads, self.precision)
        except ProgramError as error:
            if signature not in self._raised:  # which may not happen at the next call
                self._raised.add(signature)
                return None
            self.warn_once(f"runs eagerly: its estimate raises {_one_line(error.__cause__)}")
        except Exception as reason:
            text = reason if isinstance(reason, NotCapturable) else f"capturing it raises {_one_line(reason)}"
            self.warn_once(f"runs eagerly: {text}")
            if isinstance(reason, ChangesItself):
                reads = Reads()  # no other values are worth a capture
        self._add(signature, reads, replay)
        return replay

    def _add(self, signature: Signature, reads: Reads, replay: Replay | None) -> None:
        """Adds a captured step, in the place of one whose reads hold as well."""
        captures = self._captures.get(signature, {})
        self._captures[signature] = {other: captures[other] for other in captures if not other.hold()} | {reads: replay}
        reads.settle()

    def _verified(
        self, signature: Signature, replay: Replay, inputs: list[Tensor], args: Any, kwargs: Any
    ) -> Replay | None:
        """The captured step, if its loss and its gradients are still those of the program."""
        program, kind, *_ = signature
        with replay.reads.restored():
            what = program.difference(kind, replay.captured, inputs, args, kwargs)
        if what is None:
            self._compare_compiled(replay, inputs)
            return replay
        self._captures[signature][replay.reads] = None
        self.warn_once(
            f"runs eagerly from call {replay.calls} of this signature on: {what}; the program has changed undetected, "
            "perhaps soon after the last such comparison"
        )
        return None

    def _faster(self, replay: Replay, inputs: list[Tensor]) -> Replay:
        """The captured step, compiled or to be recorded if it has been called often enough."""
        if replay.settled or self.compile == "capture":
            return replay
        tensors = [*replay.params.values(), *inputs, *replay.captured.live]
        device = tensors[0].device.type if tensors else ""
        if self.compile == "auto":
            wanted = device == "cuda" or (device == "cpu" and replay.calls > INDUCTOR_AFTER)
        else:  # compiling for each shorter last batch would not pay off
            wanted = replay.calls > FURTHER_AFTER or not any(other.settled for other in self.replays)
        if not wanted:
            return replay
        replay.settled = replay.to_record = True  # on CUDA as a CUDA graph; on a CPU as calls from C++
        if self.compile == "inductor" or device != "cuda":
            try:
                replay.compile(inputs)
            except backends.NotCompilable as reason:
                self.warn_once(f"the captured step is not compiled: {reason}")
        self._compare_compiled(replay, inputs)
        return replay

    def _compare_compiled(self, replay: Replay, inputs: list[Tensor]) -> None:
        """Gives up compiled code whose results are not those of the captured graph."""
        results = replay.compiled_results(inputs)
        what = results and difference(results[0], results[1], slack=10)
        if what:
            replay.give_up_compiled()
            self.warn_once(f"the captured step is not compiled: {what}, when compiled")

    def warn_once(self, text: str) -> None:
        """Warns at the line that called the package, unless the same text was a warning before."""
        if text not in self._warned:
            self._warned.add(text)
            warn(f"{self._owner}: {text}")


def _one_line(error: BaseException | None) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
