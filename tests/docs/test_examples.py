"""Every example runs, and so does every Python block of the README."""

import re
import runpy
from pathlib import Path

import matplotlib
import matplotlib.pyplot
import pytest
import torch
from matplotlib.figure import Figure

from pyro_vae import fit

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("plot_*.py"))
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def two_epochs(model, *arguments, epochs=None, **options):
    """`fit`, for those who look at nothing that it learns."""
    return fit(model, *arguments, epochs=min(epochs or model.spec.epochs, 2), **options)


@pytest.mark.example
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the libraries that an example shows
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_makes_figures(path, capsys, monkeypatch):
    """After two epochs; `make docs` runs them whole."""
    monkeypatch.setattr("sys.argv", [str(path)])
    monkeypatch.setattr("pyro_vae.training.fit.fit", two_epochs)
    matplotlib.use("Agg")
    torch.manual_seed(0)
    names = runpy.run_path(str(path))
    assert any(isinstance(value, Figure) for value in names.values())
    matplotlib.pyplot.close("all")


@pytest.mark.slow  # tests/docs/test_docs.py runs them as one program
@pytest.mark.parametrize("block", BLOCKS)
def test_readme_block(block, capsys):
    torch.manual_seed(0)
    exec(compile(block, "README.md", "exec"), {})  # noqa: S102 (our own text)


def test_there_is_something_to_run():
    assert EXAMPLES
    assert BLOCKS
