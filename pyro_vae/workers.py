"""Tasks in processes of their own, on this machine; one that dies takes no other with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

Task = Callable[[], None]


class Done(NamedTuple):
    """A task that has ended; without an error it is done."""

    name: str
    error: str | None


class Processes:
    """Runs tasks, `jobs` at a time, each in a new process of `threads` threads.

    A process ends with the one that started it, whatever ends that one. Use it as a context: on leaving, what still
    runs is stopped.

    Args:
        jobs: processes at a time.
        threads: of torch in each; by default torch's own choice.
    """

    def __init__(self, jobs: int = 1, threads: int | None = None) -> None:
        self.jobs = jobs
        self.threads = threads
        self.waiting: list[tuple[str, Task]] = []
        self.running: dict[str, tuple[BaseProcess, Connection]] = {}
        # A server that has torch loaded and forks; where there is none, each process loads it anew.
        servers = "forkserver" in multiprocessing.get_all_start_methods()
        self.context = multiprocessing.get_context("forkserver" if servers else "spawn")
        if servers:
            self.context.set_forkserver_preload(["pyro_vae.study"])

    def submit(self, name: str, task: Task) -> None:
        """Queues a task, which must be picklable."""
        self.waiting.append((name, task))

    def wait(self, timeout_seconds: float) -> list[Done]:
        """Starts what there is room for; returns what ended within the time."""
        while self.waiting and len(self.running) < self.jobs:
            self._start(*self.waiting.pop(0))
        sentinels = {process.sentinel: name for name, (process, _) in self.running.items()}
        return [self._finish(sentinels[one]) for one in wait(list(sentinels), timeout_seconds)]  # type: ignore[index]

    def _start(self, name: str, task: Task) -> None:
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_run, args=(task, self.threads, sender), name=name)  # type: ignore[attr-defined]
        process.start()
        sender.close()
        self.running[name] = process, receiver

    def _finish(self, name: str) -> Done:
        process, receiver = self.running.pop(name)
        process.join()
        try:
            error = receiver.recv() if receiver.poll() else f"its process ended with code {process.exitcode}"
        except EOFError:
            error = f"its process ended with code {process.exitcode}"
        receiver.close()
        return Done(name, error)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: Any) -> None:
        for process, _receiver in self.running.values():
            process.terminate()
        for process, receiver in self.running.values():
            process.join()
            receiver.close()
        self.running.clear()


def _run(task: Task, threads: int | None, sender: Connection) -> None:
    """In the process: the task, and then what went wrong, or None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the one that started this stops it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    sender.send(outcome(task))


def outcome(task: Task) -> str | None:
    """Runs a task; what went wrong, in one line, or None."""
    try:
        task()
    except Exception as error:
        print(traceback.format_exc(), file=sys.stderr)
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
