"""A student's file as an object with the functions of the file, each of which runs in another process.

`Submission(path).closed_form(loc, scale)` is what `closed_form` of the file returns, as plain tensors and numbers. It
raises :class:`AnswerError` where the function raises, ends the process or takes too long.
"""

import contextlib
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

from . import worker

START_SECONDS = 120.0  # for torch to be imported, which is none of the student's business
LOAD_SECONDS = 60.0  # for the student's own imports


class AnswerError(Exception):
    """Why a check is not passed, in words for the student."""


class NotDoneError(Exception):
    """The function is still as in the starter file."""


class Submission:
    """The functions of `path`, with a limit of `seconds` per call. Close it, or use it in a `with` statement."""

    def __init__(self, path: Path, seconds: float = 30.0) -> None:
        self._path, self._seconds = Path(path), seconds
        self._process: subprocess.Popen | None = None
        self._talk: threading.Thread | None = None
        self._calls = 0
        self._unloadable = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop()

    def __getattr__(self, name):
        return partial(self._call, None, (name,))

    def probe(self, probe, functions, *arguments):
        """What `worker.PROBES[probe]` makes of these functions of the file, such as Pyro programs."""
        return self._call(probe, functions, *arguments)

    def _call(self, probe, functions, *arguments):
        if self._process is None:
            self._start()
        request = {
            "probe": probe,
            "functions": functions,
            "arguments": [pack(argument) for argument in arguments],
            "seed": self._calls,
        }
        self._calls += 1
        return unwrap(self._exchange(request, functions[0], self._seconds))

    def _start(self):
        if not self._path.is_file():
            self._unloadable = f"there is no file {self._path.name}"
        if self._unloadable:  # a second try would end as the first
            raise AnswerError(self._unloadable)
        command = [sys.executable, worker.__file__, str(self._path)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, **pipes)  # noqa: S603
        try:
            self._exchange(None, "the grader's own process", START_SECONDS)
            unwrap(self._exchange(None, "the file, while it is loaded,", min(LOAD_SECONDS, 3 * self._seconds)))
        except AnswerError as problem:
            self._unloadable = str(problem)
            self._stop()
            raise

    def _exchange(self, request, name, seconds):
        """Sends a request, if any, and waits for a reply."""
        process, replies = self._process, []

        def talk():
            try:
                if request is not None:
                    worker.send(process.stdin, request)
                replies.append(worker.receive(process.stdout))
            except Exception:  # noqa: S110 - closed, or nothing that can be read: there is no reply
                pass

        # In a thread, as neither writing to nor reading from a pipe has a time limit of its own.
        self._talk = threading.Thread(target=talk, daemon=True)
        self._talk.start()
        self._talk.join(seconds)
        late = self._talk.is_alive()
        if replies and isinstance(replies[0], dict):
            return replies[0]
        code = self._stop()
        if late:
            raise AnswerError(f"{name} takes more than {seconds:.0f} seconds; is there a loop without end?")
        if code is None:
            raise AnswerError(f"{name} gives no reply that can be read")
        how = f"signal: {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
        raise AnswerError(f"{name} ends the process it runs in ({how})")

    def _stop(self):
        """Ends the process; its exit code, where it ended by itself."""
        process, self._process = self._process, None
        if process is None:
            return None
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(0 if self._talk.is_alive() else 0.5)
        process.kill()
        process.wait()
        self._talk.join(1)
        if not self._talk.is_alive():  # else a process that the student's code started holds the pipe
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()
        return code


def pack(argument):
    """A function as its name, a path as the model in that file; all else as it is."""
    if callable(argument):
        return {"call": argument.__name__}
    return {"model": str(argument)} if isinstance(argument, Path) else argument


def unwrap(reply):
    """The value in a reply."""
    if reply.get("not_done"):
        raise NotDoneError
    if "problem" in reply:
        raise AnswerError(str(reply["problem"]))
    return reply.get("value")
