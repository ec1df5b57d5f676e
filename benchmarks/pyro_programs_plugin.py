"""A plugin of pytest for `pyro_programs.py --tests`: notes the outcome of each test, by SVI or by CompiledSVI.

OUTCOMES is a file that gets a line of JSON for each test; a test that it has is not run again. CompiledSVI takes the
place of SVI, and a line also says how many SVIs took steps, how many captured one, and the first losses. With STEPPED,
such a file, Pyro's SVI stays, and only those of its tests are run in which an SVI took steps. With LAST_STEP, a number,
a test is skipped after as many steps.
"""

import json
import os
from pathlib import Path

import pyro
import pyro.infer
import pyro.infer.svi
import pytest

from pyro_vae.svi import CompiledSVI

OUTCOMES, STEPPED = Path(os.environ["OUTCOMES"]), os.environ["STEPPED"]
LAST_STEP = int(os.environ["LAST_STEP"] or 0)
KEPT = 200  # losses of a test
made: list[pyro.infer.SVI] = []  # in the present test, which took steps
losses: list[list[float]] = []  # of its steps, in turn


def noted_steps(kind: type[pyro.infer.SVI]) -> type[pyro.infer.SVI]:
    class Noted(kind):
        def step(self, *args, **kwargs):
            loss = super().step(*args, **kwargs)
            if not any(svi is self for svi in made):
                made.append(self)
            losses.append([float(part) for part in (loss if isinstance(loss, tuple) else (loss,))])
            if len(losses) == LAST_STEP:
                pytest.skip(f"{LAST_STEP} steps taken")
            return loss

    return Noted


pyro.infer.SVI = pyro.infer.svi.SVI = noted_steps(pyro.infer.SVI if STEPPED else CompiledSVI)


def noted(path: Path) -> dict[str, dict]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {line["test"]: line for line in map(json.loads, lines)}


def pytest_collection_modifyitems(items):
    known = noted(OUTCOMES)
    items[:] = [item for item in items if item.nodeid not in known]
    if STEPPED:
        stepped = noted(Path(STEPPED))
        items[:] = [item for item in items if stepped.get(item.nodeid, {}).get("svis")]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    pyro.set_rng_seed(0)  # unless the test has a seed of its own


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    item.outcome = "passed"
    made.clear()
    losses.clear()
    done = yield
    line = {
        "test": item.nodeid,
        "outcome": item.outcome,
        "svis": len(made),
        "captured": sum(getattr(svi, "signatures", 0) > 0 for svi in made),
        "losses": losses[:KEPT],
    }
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
