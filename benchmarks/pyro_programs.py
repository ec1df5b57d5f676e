"""Pyro's own examples, tutorials and tests, with CompiledSVI in the place of SVI.

    python benchmarks/pyro_programs.py CHECKOUT [--only TEXT ...] [--out FILE] [--steps 40] [--seconds 120]
    python benchmarks/pyro_programs.py CHECKOUT --tests [--last-step N] [--only TEXT ...] [--out FILE]

CHECKOUT is a checkout of https://github.com/pyro-ppl/pyro. Each program runs twice from the same seed, in a process of
its own; pyro_programs.txt lists them, with settings that are small. The result goes into pyro_programs.json; with
--only or --tests, that part of it is replaced. Tests take hours: their outcomes are kept in a folder (--outcomes), and
a run that was stopped continues. With --last-step N each test is skipped after N steps, so that all can be run; these
rows are kept beside those of whole tests.
"""

import argparse
import json
import math
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyro_program
from pyro.infer import SVI

from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.svi import CompiledSVI

HERE = Path(__file__).parent
WARM = 3  # steps before those that are timed: the capture is among them

# Files or tests of Pyro's that take steps by SVI.
TESTS = (
    "tests/optim/test_optim.py",
    "tests/nn/test_module.py",
    "tests/infer/autoguide/test_gaussian.py",
    "tests/contrib/easyguide/test_easyguide.py",
    "tests/contrib/tracking/test_em.py",
    "tests/infer/test_predictive.py",
    "tests/infer/test_abstract_infer.py",
    "tests/infer/test_autoguide.py",
    "tests/infer/test_inference.py",
    "tests/integration_tests/test_tracegraph_elbo.py",
    "tests/infer/autoguide/test_inference.py",
    "tests/integration_tests/test_conjugate_gaussian_models.py",
    "tests/infer/test_elbo_mapdata.py",
    "tests/infer/reparam",
    "tests/poutine/test_poutines.py",
    "tests/poutine/test_counterfactual.py",
    "tests/distributions/test_sine_skewed.py",
    "tests/distributions/test_sine_bivariate_von_mises.py",
    "tests/distributions/test_relaxed_straight_through.py",
    "tests/distributions/test_nanmasked.py",
    "tests/distributions/test_stable_log_prob.py",
    "tests/infer/test_jit.py",
    "tests/infer/test_enum.py",
    "tests/infer/test_valid_models.py",
)


def run(path: Path, arguments: list[str], kind: type, options: argparse.Namespace) -> dict:
    """What a program does, in a process of its own, which has imported all that this one has."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        inputs = (path, arguments, kind, options.steps, options.seconds, out)
        process = multiprocessing.get_context("fork").Process(target=quietly, args=inputs)
        process.start()
        process.join(2 * options.seconds)
        if process.is_alive():
            process.kill()
        if not out.is_file():
            return {"svis": [], "reasons": [], "error": f"it ends without a result: {process.exitcode}"}
        return json.loads(out.read_text(encoding="utf-8"))


def quietly(*inputs: object) -> None:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
        pyro_program.run(*inputs)


def compared(program: str, options: argparse.Namespace) -> dict:
    """A row of the table."""
    name, *arguments = program.split()
    path = options.checkout / name
    row: dict = {"program": name.removeprefix("tutorial/source/"), "arguments": " ".join(arguments)}
    stock = run(path, arguments, SVI, options)
    stepped = [notes for notes in stock["svis"] if notes["losses"]]
    row["objectives"] = sorted({notes["objective"] for notes in stepped})
    if not stepped:
        return {**row, "not_run": readable(stock["error"] or "no step in the time", options.checkout)}
    ours = run(path, arguments, CompiledSVI, options)
    if ours["error"] != stock["error"]:
        row["error"] = readable(ours["error"] or f"none, but with SVI {stock['error']}", options.checkout)
    pairs = list(zip(stock["svis"], ours["svis"], strict=False))
    row["steps"] = sum(min(len(a["losses"]), len(b["losses"])) for a, b in pairs)
    largest = max((difference(a, b) for a, b in pairs), default=math.inf)
    row["difference"] = largest if math.isfinite(largest) else None  # None: losses of different kinds, or none
    row["captured"] = sum(bool(notes["signatures"]) for notes in ours["svis"] if notes["losses"])
    row["svis"] = sum(bool(notes["losses"]) for notes in ours["svis"])
    row["reasons"] = sorted({readable(reason, options.checkout) for reason in ours["reasons"]})
    ratios = [median(b["seconds"]) / median(a["seconds"]) for a, b in pairs if len(b["seconds"]) > 2 * WARM]
    row["time_over_svi"] = statistics.median(ratios) if ratios else None
    return row


def difference(stock: dict, ours: dict) -> float:
    """The largest relative difference of two losses of two SVIs."""
    return max(difference_of_losses(stock[name], ours[name]) for name in ("losses", "evaluated"))


def difference_of_losses(stock: list[list[float]], ours: list[list[float]]) -> float:
    """The largest relative difference of two losses of the same step; infinite if they differ in kind."""
    largest = 0.0
    for a, b in zip(stock, ours, strict=False):
        if len(a) != len(b):
            return math.inf
        for x, y in zip(a, b, strict=True):
            if x != y and not (math.isnan(x) and math.isnan(y)):
                largest = max(largest, abs(x - y) / max(abs(x), abs(y), 1e-3))
    return largest


def median(seconds: list[float]) -> float:
    return statistics.median(seconds[WARM:])


def readable(reason: str, checkout: Path) -> str:
    """A reason without the folders of this machine."""
    text = reason.removeprefix("CompiledSVI: ").replace(f"{checkout}/", "").replace(sys.prefix, "")
    return re.sub(r"/lib/python3\.\d+/site-packages/", "", text)[:200]


def tested(options: argparse.Namespace) -> Iterator[dict]:
    """Pyro's tests with CompiledSVI and with SVI, those in which one takes steps: how many pass, and which differ."""
    names = [name for name in TESTS if not options.only or any(text in name for text in options.only)]
    with tempfile.TemporaryDirectory() as folder:
        # Links, so that the installed Pyro is tested and not the checkout's.
        for name in ("tests", "setup.cfg", "examples"):
            (Path(folder) / name).symlink_to(options.checkout / name)
        options.outcomes.mkdir(parents=True, exist_ok=True)
        for name in names:
            ours = {test: line for test, line in outcomes_of(folder, name, True, options).items() if line["svis"]}
            stock = outcomes_of(folder, name, False, options) if ours else {}
            pairs = [(stock.get(test, {"outcome": "not run", "losses": []}), line) for test, line in ours.items()]
            alike = [(a, b) for a, b in pairs if a["outcome"] == b["outcome"]]
            largest = max((difference_of_losses(a["losses"], b["losses"]) for a, b in alike), default=math.inf)
            yield {
                "tests": name,
                "last_step": options.last_step,
                "passed_with_svi": sum(line["outcome"] == "passed" for line in stock.values()),
                "passed": sum(line["outcome"] == "passed" for line in ours.values()),
                "stopped": sum(line["outcome"].endswith("steps taken") for line in ours.values()),
                **{count: sum(line[count] for line in ours.values()) for count in ("svis", "captured")},
                "steps": sum(len(line["losses"]) for _, line in alike),
                "difference": largest if math.isfinite(largest) else None,
                "differing": {b["test"]: b["outcome"] for a, b in pairs if a["outcome"] != b["outcome"]},
            }


def outcomes_of(folder: str, name: str, compiled: bool, options: argparse.Namespace) -> dict[str, dict]:
    """What the plugin notes of each test."""
    stem = f"{name.replace('/', '.')}-{options.last_step or 'whole'}"
    out, like = (options.outcomes / f"{stem}.{who}.jsonl" for who in ("stock", "ours"))
    out = like if compiled else out
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pyro_programs_plugin"]
    command += ["-c", "setup.cfg", "-W", "ignore:CompiledSVI", "--tb=line", name, *options.pytest]
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([folder, str(HERE), str(HERE.parent)]),
        "OUTCOMES": str(out),
        "STEPPED": "" if compiled else str(like),
        "LAST_STEP": str(options.last_step or ""),
    }
    subprocess.run(command, cwd=folder, env=environ, check=False, stdout=sys.stderr)  # noqa: S603
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    return {line["test"]: line for line in map(json.loads, lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=lambda text: Path(text).resolve())
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--tests", action="store_true")
    parser.add_argument("--last-step", type=int, help="of a test, which is skipped after it; without, tests run whole")
    parser.add_argument(
        "--outcomes",
        type=lambda text: Path(text).resolve(),
        default="outcomes",
        help="folder; tests noted there do not run again",
    )
    parser.add_argument("--pytest", nargs="*", default=[], help="further arguments of pytest, such as -k=TEXT")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seconds", type=int, default=120, help="for each program, by each SVI")
    parser.add_argument("--out", type=Path, default=HERE / "pyro_programs.json")
    options = parser.parse_args()
    result = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    if options.tests:
        rows = {(row["tests"], row.get("last_step")): row for row in result.get("tests", [])}
        for row in tested(options):
            rows[row["tests"], row["last_step"]] = row
            print(json.dumps(row, indent=1), flush=True)
            files.write_json(options.out, {**result, "tests": list(rows.values())})
        return
    rows = {(row["program"], row["arguments"]): row for row in result.get("programs", [])}
    programs = (HERE / "pyro_programs.txt").read_text(encoding="utf-8").splitlines()
    for program in [line for line in programs if not options.only or any(text in line for text in options.only)]:
        row = compared(program, options)
        rows[row["program"], row["arguments"]] = row
        print(json.dumps(row), flush=True)
        command = f"python benchmarks/pyro_programs.py CHECKOUT --steps {options.steps} --seconds {options.seconds}"
        result.update(command=command, environment=environment("cpu"), programs=list(rows.values()))
        files.write_json(options.out, result)


if __name__ == "__main__":
    main()
