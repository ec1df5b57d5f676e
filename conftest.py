"""What every test stands on: an empty param store, validation on, and no trace left in the global state."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread for each of the workers, which share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pyro
import pytest
import torch

from pyro_vae import Images, Splits, load_data

collect_ignore = ["tests/typed_client.py"]  # read by mypy alone; nothing runs it
SHARED = Path(__file__).parents[1] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda", help="of tests/test_cuda.py, which are skipped where it is not there")


@pytest.fixture(autouse=True)
def _clean_pyro():
    pyro.clear_param_store()
    with pyro.validation_enabled():
        yield
    pyro.clear_param_store()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    """Nothing is read from or written to the cache of the user who runs the tests."""
    monkeypatch.setenv("PYRO_VAE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace["torch"] = torch  # each example would begin with this import
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits() -> Splits:
    return load_data("digits")


@pytest.fixture
def tiny() -> Images:
    """12 random 8x8 images in two classes."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(12) % 2, "tiny", ("even", "odd"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """A folder that holds MNIST and Fashion-MNIST in torchvision's layout."""
    root = Path(os.environ.get("PYRO_VAE_DATA", SHARED))
    if not (root / "MNIST" / "raw" / "train-images-idx3-ubyte").is_file():
        pytest.skip(f"no MNIST below {root}; PYRO_VAE_DATA names another folder")
    return root
