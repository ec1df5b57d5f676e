"""Runs one of Pyro's programs by Pyro's SVI or by CompiledSVI, and records its losses, for `pyro_programs.py`.

After some steps an SVI returns its last loss without taking a step, so that the rest of a program is quick. Data sets
that would be downloaded are replaced by random ones of the same form, and packages for pictures that are not installed
by empty ones.
"""

import ast
import importlib.util
import json
import math
import os
import re
import runpy
import signal
import sys
import time
import types
import warnings
from pathlib import Path
from unittest import mock

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyro
import pyro.infer
import torch

PICTURES = ("seaborn", "graphviz", "visdom", "wordcloud", "cartopy", "corner", "wget")
IDLE_SECONDS = 3  # after which a program ends whose SVIs have all taken their steps
IMAGES = {True: 15_000, False: 1_000}  # of the random MNIST: for training, and for tests


class Stopped(BaseException):  # which programs do not catch
    """The time is over."""


class Recorder:
    """Replaces the methods of an SVI class by ones that note what they return."""

    def __init__(self, kind: type, steps: int) -> None:
        self.kind, self.steps = kind, steps
        self.of: list[tuple[object, dict]] = []
        self.reasons: list[str] = []
        self.idle_since = math.inf
        init, step, evaluate, warn = kind.__init__, kind.step, kind.evaluate_loss, warnings.warn

        def made(svi, model, guide, optim, loss, *args, **kwargs):
            init(svi, model, guide, optim, loss, *args, **kwargs)
            name = getattr(loss, "__name__", type(loss).__name__)
            self.of.append((svi, {"objective": name, "losses": [], "seconds": [], "evaluated": []}))
            self.idle_since = math.inf

        def timed(svi, *args, **kwargs):
            notes = self.notes(svi)
            if len(notes["losses"]) >= self.steps:
                self.idle_since = min(self.idle_since, time.perf_counter())
                if time.perf_counter() > self.idle_since + IDLE_SECONDS:
                    raise Stopped
                return notes["last"]
            started = time.perf_counter()
            notes["last"] = step(svi, *args, **kwargs)
            notes["seconds"].append(time.perf_counter() - started)
            notes["losses"].append(numbers(notes["last"]))
            return notes["last"]

        def evaluated(svi, *args, **kwargs):
            notes = self.notes(svi)
            if len(notes["evaluated"]) >= self.steps:
                return notes["last evaluated"]
            notes["last evaluated"] = evaluate(svi, *args, **kwargs)
            notes["evaluated"].append(numbers(notes["last evaluated"]))
            return notes["last evaluated"]

        def noted(message, *args, **kwargs):
            if str(message).startswith("CompiledSVI"):
                self.reasons.append(str(message))
            else:
                warn(message, *args, **kwargs)

        kind.__init__, kind.step, kind.evaluate_loss, warnings.warn = made, timed, evaluated, noted

    def notes(self, svi: object) -> dict:
        return next(notes for other, notes in self.of if other is svi)

    def result(self) -> dict:
        rows = []
        for svi, notes in self.of:
            kept = {name: value for name, value in notes.items() if not name.startswith("last")}
            rows.append({**kept, "signatures": getattr(svi, "signatures", None)})
        return {"svis": rows, "reasons": self.reasons}


def numbers(loss) -> list[float]:
    return [float(part) for part in (loss if isinstance(loss, tuple) else (loss,))]


# --- data that is not downloaded ---


def random_mnist(data_set):
    generator = torch.Generator().manual_seed(0)
    images = IMAGES[data_set.train]
    pixels = (torch.rand(images, 28, 28, generator=generator) < 0.2).mul(255).to(torch.uint8)
    return pixels, torch.arange(images) % 10


def random_choral(data_set=None):
    """Sequences of chords as those of `polyphonic_data_loader`."""
    generator = torch.Generator().manual_seed(0)
    lengths = {split: torch.randint(6, 12, (40,), generator=generator) for split in ("train", "test", "valid")}
    return {
        split: {
            "sequence_lengths": of_split,
            "sequences": torch.bernoulli(torch.full((40, int(of_split.max()), 88), 0.1), generator=generator),
        }
        for split, of_split in lengths.items()
    }


def random_table(path, *args, read=pd.read_csv, **kwargs):
    if not str(path).startswith("http"):
        return read(path, *args, **kwargs)
    rng = np.random.default_rng(0)
    if "rugged" in str(path):
        columns = {"rugged": rng.gamma(1.0, 1.0, 170), "cont_africa": rng.integers(0, 2, 170)}
        return pd.DataFrame({**columns, "rgdppc_2000": rng.lognormal(8.0, 1.0, 170), "isocode": "", "country": ""})
    if "SN_y_tot" in str(path):
        return pd.DataFrame({"time": np.arange(1700, 2020) + 0.5, "sunspot.year": rng.gamma(2.0, 40.0, 320)})
    raise OSError(f"no stand-in for {path}")


def random_prices():
    rng = np.random.default_rng(0)
    days = pd.date_range("2000-01-01", periods=500).strftime("%Y-%m-%d")
    return pd.DataFrame({"Date": days, "Close": 1000 * np.exp(0.01 * rng.standard_normal(500).cumsum())})


def random_newsgroups(*args, **kwargs):
    rng = np.random.default_rng(0)
    vocabulary = ["".join(rng.choice(list("abcdefgh"), 5)) for _ in range(200)]
    return types.SimpleNamespace(data=[" ".join(rng.choice(vocabulary, 60)) for _ in range(300)])


def stand_ins() -> None:
    """Puts random data in the place of downloads, and empty packages in that of what draws pictures."""
    import pyro.contrib.examples.finance
    import pyro.contrib.examples.polyphonic_data_loader as polyphonic
    import sklearn.datasets
    from torchvision.datasets import MNIST

    mpl.use("Agg")
    for name in PICTURES:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = mock.MagicMock()
    MNIST._check_exists, MNIST._load_data = (lambda data_set: True), random_mnist
    polyphonic.load_data = random_choral
    pd.read_csv = random_table
    pyro.contrib.examples.finance.load_snp500 = random_prices
    sklearn.datasets.fetch_20newsgroups = random_newsgroups


# --- running ---


def run_notebook(path: Path) -> None:
    """The cells of code, one after the other; a cell without SVI in it may fail, as what draws pictures does here."""
    namespace = {"__name__": "__main__", "get_ipython": mock.MagicMock(), "display": print}
    failed: Exception | None = None  # the first cell that does, whose failure may be the cause of later ones
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] != "code":
            continue
        lines = "".join(cell["source"]).splitlines()
        code = "\n".join(" " * (len(line) - len(line.lstrip())) + "pass" if is_magic(line) else line for line in lines)
        name = f"{path.name} cell {number}"
        try:
            exec(compile(ast.parse(code), name, "exec"), namespace)  # noqa: S102
        except Exception as error:
            if "SVI(" in code or ".step(" in code:
                raise failed or error from None
            failed = failed or error


def version_of_checkout(path: Path) -> str:
    for folder in path.parents:
        if (folder / "pyro" / "__init__.py").is_file():
            text = (folder / "pyro" / "__init__.py").read_text(encoding="utf-8")
            return re.search(r'^(?:version_prefix|__version__) = "([^"]*)"', text, re.MULTILINE)[1]
    return pyro.__version__


def is_magic(line: str) -> bool:
    return line.lstrip().startswith(("%", "!"))


def run(path: Path, arguments: list[str], kind: type, steps: int, seconds: int, out: Path) -> None:
    """Writes what the program's SVIs, which are of this kind, return in their first steps."""
    stand_ins()
    pyro.__version__ = version_of_checkout(path)  # which programs assert
    stock = pyro.infer.SVI
    for module in list(sys.modules.values()):
        if vars(module).get("SVI") is stock:
            module.SVI = kind
    recorder = Recorder(kind, steps)
    sys.argv = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))
    os.chdir(out.parent)
    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    error = ""
    pyro.set_rng_seed(0)
    try:
        run_notebook(path) if path.suffix == ".ipynb" else runpy.run_path(str(path), run_name="__main__")
    except Stopped:
        pass
    except (Exception, SystemExit) as raised:
        error = f"{type(raised).__name__}: {raised}".splitlines()[0][:200]
    signal.alarm(0)
    out.write_text(json.dumps({**recorder.result(), "error": error}), encoding="utf-8")


def stop(*_: object) -> None:
    raise Stopped
