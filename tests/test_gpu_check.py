"""The check of a GPU: what can be told about it without one."""

import argparse
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def gpu():
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_names_each_package_that_the_library_requires(gpu):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    required = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}
    assert required <= {*gpu.REQUIRED.values()}
    page = (ROOT / "docs" / "howto" / "gpu.md").read_text(encoding="utf-8")
    assert [name for name in gpu.REQUIRED.values() if name != "torch" and name not in page] == []


def test_it_trains_the_14_models(gpu, tmp_path):
    arguments = argparse.Namespace(data_root=tmp_path, out=tmp_path, device="cuda", quick=False)
    study = gpu.parts(arguments)[-1].command
    assert sum(word.startswith("--only=") for word in study) == 14
