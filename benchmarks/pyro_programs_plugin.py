"""A plugin of pytest for `pyro_programs.py --tests`: notes the outcome of each test, by SVI or by CompiledSVI.

OUTCOMES is a file that gets a line of JSON for each test; a test that it has is not run again. CompiledSVI takes the
place of SVI, and a line also says how many SVIs took steps, and how many captured one. With STEPPED, such a file, SVI
stays, and only those of its tests are run in which an SVI took steps.
"""

import json
import os
from pathlib import Path

import pyro.infer
import pyro.infer.svi
import pytest

from pyro_vae.svi import CompiledSVI

OUTCOMES, STEPPED = Path(os.environ["OUTCOMES"]), os.environ["STEPPED"]
made: list[CompiledSVI] = []  # in the present test


class Listed(CompiledSVI):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        made.append(self)


if not STEPPED:
    pyro.infer.SVI = pyro.infer.svi.SVI = Listed


def noted(path: Path) -> dict[str, dict]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {line["test"]: line for line in map(json.loads, lines)}


def pytest_collection_modifyitems(items):
    known = noted(OUTCOMES)
    items[:] = [item for item in items if item.nodeid not in known]
    if STEPPED:
        stepped = noted(Path(STEPPED))
        items[:] = [item for item in items if stepped.get(item.nodeid, {}).get("svis")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    item.outcome = "passed"
    made.clear()
    done = yield
    stepped = [svi for svi in made if svi.steps_taken]
    captured = sum(svi.signatures > 0 for svi in stepped)
    line = {"test": item.nodeid, "outcome": item.outcome, "svis": len(stepped), "captured": captured}
    with OUTCOMES.open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")
    return done


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if not report.passed and item.outcome == "passed":
        error = call.excinfo.exconly() if call.excinfo else ""
        item.outcome = f"{report.outcome}: {' '.join(error.split())[:200]}"
    return report
