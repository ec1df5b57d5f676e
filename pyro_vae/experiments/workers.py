"""Runs tasks in separate processes, on this machine or on a Ray cluster; a crash ends its own task only."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, Protocol

from pyro_vae._utils import checks

Task = Callable[[], None]


class Done(NamedTuple):
    """A task that has ended; `error` is None if it succeeded."""

    name: str
    error: str | None


class Workers(Protocol):
    """Runs tasks; a context that stops unfinished tasks on exit."""

    def __enter__(self) -> Any:
        """Returns the workers, ready for tasks."""

    def __exit__(self, *_: Any) -> None:
        """Stops unfinished tasks."""

    def submit(self, name: str, task: Task) -> None:
        """Queues a task, which must be picklable."""

    def wait(self, timeout_seconds: float) -> list[Done]:
        """The tasks that ended within the time."""


class Processes:
    """Runs tasks, `jobs` at a time, each in a new process of `threads` threads.

    A process ends with its parent, however that ends. Use it as a context: on exit, unfinished tasks are stopped.

    Args:
        jobs: processes at a time.
        threads: of torch in each; by default torch's own choice.
    """

    def __init__(self, jobs: int = 1, threads: int | None = None) -> None:
        self.jobs = jobs
        self.threads = threads
        self.waiting: list[tuple[str, Task]] = []
        self.running: dict[str, tuple[BaseProcess, Connection]] = {}
        # A server that has torch loaded and forks; where there is none, each process loads it anew. Every optimizer of
        # torch loads torch._dynamo, which takes longer than all the rest.
        servers = "forkserver" in multiprocessing.get_all_start_methods()
        self.context = multiprocessing.get_context("forkserver" if servers else "spawn")
        if servers:
            self.context.set_forkserver_preload(["pyro_vae.experiments.runner", "torch._dynamo"])

    def submit(self, name: str, task: Task) -> None:
        """Queues a task, which must be picklable."""
        self.waiting.append((name, task))

    def wait(self, timeout_seconds: float) -> list[Done]:
        """Starts as many tasks as there is room for; returns those that ended within the time."""
        while self.waiting and len(self.running) < self.jobs:
            self._start(*self.waiting.pop(0))
        sentinels = {process.sentinel: name for name, (process, _) in self.running.items()}
        return [self._finish(sentinels[sentinel]) for sentinel in wait(list(sentinels), timeout_seconds)]  # type: ignore[index]

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


class RayTasks:
    """Runs tasks on a Ray cluster; Ray restarts a task elsewhere if its worker is lost.

    Args:
        address: of a running cluster, or `local` to start one here for `jobs` tasks at a time.
        jobs: see `address`.
        threads: of torch in each task, and cores that Ray reserves for it.
        gpus: GPUs, or a fraction of one, for each task.
        retries: how often a task is restarted.
    """

    def __init__(self, address: str, jobs: int = 1, threads: int = 1, gpus: float = 0.0, retries: int = 3) -> None:
        try:
            import ray
        except ImportError as error:
            raise checks.fail("ray", address, "the package ray to be installed: pip install 'pyro_vae[ray]'") from error
        self.ray: Any = ray
        self.address = address
        self.jobs = jobs
        self.threads = threads
        self.options = {"num_cpus": threads, "num_gpus": gpus, "max_retries": retries}
        self.running: dict[Any, str] = {}

    def submit(self, name: str, task: Task) -> None:
        """Queues a task; Ray pickles it."""
        remote = self.ray.remote(**self.options)(_run_on_ray)
        self.running[remote.remote(task, self.threads, os.getcwd())] = name

    def wait(self, timeout_seconds: float) -> list[Done]:
        """The tasks that ended within the time."""
        ended, _ = self.ray.wait(list(self.running), timeout=timeout_seconds)
        return [self._finish(task) for task in ended]

    def _finish(self, task: Any) -> Done:
        name = self.running.pop(task)
        try:
            return Done(name, self.ray.get(task))
        except self.ray.exceptions.RayError as error:
            return Done(name, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}")

    def __enter__(self) -> RayTasks:
        size = {"num_cpus": self.jobs * self.threads, "include_dashboard": False} if self.address == "local" else {}
        try:
            self.ray.init(self.address, **size, logging_level=logging.WARNING, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise checks.fail("ray", self.address, f"local, or the address of a cluster that runs ({error})") from error
        return self

    def __exit__(self, *_: Any) -> None:
        for task in self.running:
            self.ray.cancel(task, force=True)
        self.running.clear()
        self.ray.shutdown()


def _run_on_ray(task: Task, threads: int, folder: str) -> str | None:
    import torch

    os.chdir(folder)  # relative paths are those of the caller
    torch.set_num_threads(threads)
    return outcome(task)


def _run(task: Task, threads: int | None, sender: Connection) -> None:
    """In the process: runs the task, then sends its error, or None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent stops this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    sender.send(outcome(task))


def outcome(task: Task) -> str | None:
    """Runs a task; returns its error in one line, or None."""
    try:
        task()
    except Exception as error:
        if not isinstance(error, checks.InputError | FloatingPointError):  # of these the message is enough
            print(traceback.format_exc(), file=sys.stderr)
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
