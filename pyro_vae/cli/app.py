"""The command line: all commands together, and exit codes. torch is imported inside commands, for fast help."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from pyro_vae import __version__
from pyro_vae._utils.checks import InputError
from pyro_vae._utils.console import show, silence
from pyro_vae._utils.progress import say
from pyro_vae.cli import data
from pyro_vae.cli.compare import compare
from pyro_vae.cli.debias import debias
from pyro_vae.cli.demo import demo
from pyro_vae.cli.denoise import denoise
from pyro_vae.cli.evaluate import evaluate
from pyro_vae.cli.inpaint import inpaint
from pyro_vae.cli.neighbours import neighbours
from pyro_vae.cli.options import CommandWithParts
from pyro_vae.cli.outliers import outliers
from pyro_vae.cli.parts import parts
from pyro_vae.cli.report import report
from pyro_vae.cli.sample import sample
from pyro_vae.cli.study import study
from pyro_vae.cli.train import train
from pyro_vae.cli.traverse import traverse
from pyro_vae.training import distributed

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Variational autoencoders as Pyro programs: train, evaluate and show them.",
)
app.command()(demo)
app.command(cls=CommandWithParts)(train)
for command in (
    evaluate,
    sample,
    denoise,
    inpaint,
    outliers,
    neighbours,
    traverse,
    debias,
    study,
    report,
    compare,
    parts,
):
    app.command()(command)
app.add_typer(data.app, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        show(f"pyro-vae {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


_STOPPED = {
    "train": "finished epochs are saved; `pyro-vae train --resume --out RUN` resumes the training",
    "study": "finished work is saved; the same command resumes it",
    "evaluate": "finished work is saved; the same command resumes it",
    "demo": "finished work is saved; the same command resumes it",
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns 0 when done, 2 on bad input (one line on standard error), 1 on anything else."""
    with _stopping_signals() as signals, warnings.catch_warnings(), _without_plotting_backend():
        warnings.simplefilter("default", UserWarning)  # always printed as notes, whatever PYTHONWARNINGS says
        warnings.showwarning = _show_once(set())
        return _run(sys.argv[1:] if arguments is None else arguments, signals)


_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt


def _run(arguments: list[str], signals: _Signals) -> int:
    try:
        try:
            signals.stop_the_command = True
            code = app(arguments, standalone_mode=False) or 0
        finally:
            signals.stop_the_command = False
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        if not signals.received:
            return _exit_code(error)
        code = _INTERRUPTED  # an interrupted import of torch may raise anything
    if code != _INTERRUPTED:
        return code
    return _report("; ".join(["stopped", *(text for name, text in _STOPPED.items() if name in arguments[:1])]), 1)


def _exit_code(error: Exception) -> int:
    """Reports, in one line, an error that the user can act on; a bug is raised, with its traceback."""
    match error:
        case InputError() | TyperException():
            text = error.format_message() if isinstance(error, TyperException) else str(error)
            return _report(text, 2) if text else 2  # without text: no arguments, for which typer prints the help
        case BrokenPipeError():  # output piped into `head`, for instance
            silence()
            return 1
        case OSError():
            reason = f"{error.filename or 'file'}: {error.strerror or error}"
            return _report(f"{reason}; expected a place that can be read and written, with room", 2)
        case FloatingPointError() | distributed.PeerStoppedError():
            return _report(str(error), 1)
        case RuntimeError() | MemoryError() if _is_out_of_memory(error):
            return _report(" ".join(str(error).split()) or "out of memory", 1)
    raise error


def _is_out_of_memory(error: Exception) -> bool:
    """On a GPU torch has a class for it, which need not be loaded; on the CPU there is only the text."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return any(text in str(error) for text in ("can't allocate memory", "Storage size calculation overflowed"))


def _report(text: str, code: int) -> int:
    if distributed.first_to_fail():  # of several processes, only one reports
        say(f"pyro-vae: {text}")
    return code


class _Signals:
    """Signals that stop a command while it runs, and are only noted while its end is reported."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.stop_the_command = False

    def receive(self, number: int, _: Any) -> None:
        self.received.append(number)
        if self.stop_the_command:
            raise KeyboardInterrupt


@contextmanager
def _stopping_signals() -> Iterator[_Signals]:
    """SIGTERM stops a command as Ctrl-C does. An ignored SIGINT stays ignored."""
    signals = _Signals()
    if threading.current_thread() is not threading.main_thread():  # handlers can be set there only
        yield signals
        return
    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        numbers.append(signal.SIGINT)
    before = {number: signal.signal(number, signals.receive) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _without_plotting_backend() -> Iterator[None]:
    """Ignores $MPLBACKEND: figures are saved, never displayed, so its backend need not be installed."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


def _show_once(printed: set[str]) -> Callable[..., None]:
    def note(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in printed and distributed.peers().rank == 0:
            say(f"pyro-vae: note: {message}")
        printed.add(str(message))

    return note
