"""The package's annotations are there for a program outside of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLIENT = ROOT / "tests" / "typed_client.py"


@pytest.mark.slow
def test_mypy_takes_a_typed_client_and_sees_its_mistakes(tmp_path):
    client = tmp_path / "client.py"
    client.write_text(CLIENT.read_text(encoding="utf-8"), encoding="utf-8")
    arguments = ["--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache"), str(client)]
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    outcome = subprocess.run(
        [sys.executable, "-m", "mypy", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
