"""Checks and measures everything that should run on a GPU, in a single command; `make gpu DATA=FOLDER` calls it.

    python benchmarks/gpu.py --data-root DATA [--out gpu-check] [--device cuda] [--quick] [--parts tests,step]

It needs no network and no installation of this checkout, but the packages of `pyproject.toml`, with pytest and
pytest-xdist for the tests; what is missing is named first. Each part is a process of its own, which is ended at its
limit and does not stop the others. Their output goes to `OUT/PART.log`, their results to `OUT`, and what all of them
found to `OUT/gpu.json` after each part; the table is printed last. `--device cpu --quick` rehearses all of it.
"""

import argparse
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
# By the name that is imported; the names on PyPI are those of `pyproject.toml`.
REQUIRED = {
    "arviz": "arviz",
    "jinja2": "jinja2",
    "joblib": "joblib",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "PIL": "pillow",
    "platformdirs": "platformdirs",
    "pyro": "pyro-ppl",
    "pyroapi": "pyro-api",
    "opt_einsum": "opt_einsum",
    "pytest": "pytest",
    "xdist": "pytest-xdist",
    "rich": "rich",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "torchvision": "torchvision",
    "tqdm": "tqdm",
    "typer": "typer",
}
PEERS = {"jax": "jax", "numpyro": "numpyro", "pythae": "pythae"}


@dataclass(frozen=True)
class Part:
    """A command, and its time limit in seconds."""

    name: str
    what: str
    command: list[str]
    limit_seconds: float


def parts(arguments: argparse.Namespace) -> list[Part]:
    """All parts in the order in which they run: first correctness, then speed."""
    from pyro_vae.experiments import study  # once it is known that all it needs is here

    python, data, device, quick = sys.executable, str(arguments.data_root), arguments.device, arguments.quick
    out = arguments.out
    bench = ["--data-root", data, "--device", device, "--out", str(out)]
    models = [entry.name for entry in study.named("fashion-14").entries if entry.spec.model == "vae"]
    study = ["--data-root", data, "--device", device, "--quiet", "--out", str(out / "study")]
    study += ["--jobs", "2", "--epochs", "1"] if quick else ["--jobs", "7"]
    study += [f"--only={model}" for model in models[: 1 if quick else None]]
    tests = ["tests/test_cuda.py", "tests/training/test_host_sync.py", "--device", device, "-vv"]
    tests += (
        ["-k", "capture and not a_training"]
        if quick
        else ["-p", "xdist", "-n", "12", "--dist", "load", "--durations=12"]
    )
    seeds = ["--images", "1280", "--epochs", "2"] if quick else ["--epochs", "3"]
    few = ["--images", "1280", "--conv-images", "256", "--epochs", "1"] if quick else ["--epochs", "3"]
    return [
        Part("tests", "training, resume, bf16 and evaluation are right", [python, "-m", "pytest", *tests], 240),
        Part("step", "one SVI step", [python, "benchmarks/svi_step.py", *bench, *few], 480),
        Part(
            "kernels",
            "where a step spends its time",
            [python, "benchmarks/svi_kernels.py", *bench, *(["--images", "15000"] if quick else ())],
            60,
        ),
        Part(
            "seeds",
            "8 seeds at once",
            [python, "benchmarks/many_seeds.py", *bench, *seeds],
            120,
        ),
        Part(
            "study",
            "14 models of Fashion-MNIST, 25 epochs each",
            [python, "-m", "pyro_vae", "study", "fashion-14", *study],
            300,
        ),
    ]


def missing() -> list[str]:
    """Required packages that are not installed; without a peer's package only its rows are left out."""
    absent = [package for name, package in REQUIRED.items() if importlib.util.find_spec(name) is None]
    peers = [package for name, package in PEERS.items() if importlib.util.find_spec(name) is None]
    if peers:
        print(f"rows of these packages, which are not installed, are left out: {', '.join(peers)}", flush=True)
    return absent


def run(part: Part, out: Path, limit_seconds: float) -> dict:
    """Runs a part and returns its result."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    environment |= {"PYTHONUNBUFFERED": "1", "PYRO_VAE_CACHE": str(out / "cache")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # warnings of other plugins would be errors
    log, started = out / f"{part.name}.log", time.perf_counter()
    print(f"{part.name}: {part.what}, at most {limit_seconds:.0f} s", flush=True)
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 (commands of this file)
            part.command, cwd=REPOSITORY, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            code: int | None = process.wait(limit_seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # whatever happens: processes that the part started must not run beside the next
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    text = log.read_text(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    counts = re.findall(r"^(?=.*\d+ (?:passed|failed)).*$", text, re.MULTILINE)
    result = "ended at its limit" if code is None else ("done" if code == 0 else f"exit {code}")
    seconds = time.perf_counter() - started
    print(f"{part.name}: {result}, {seconds:.0f} s", flush=True)
    return {
        "part": part.name,
        "what": part.what,
        "result": result,
        "seconds": round(seconds, 1),
        "failed": re.findall(r"^FAILED (.*?)(?: - .*)?$", text, re.MULTILINE),
        "tests": counts[-1].strip("= ") if counts else None,
        "last_line": lines[-1][-300:] if lines else "",
        "table": [line for line in lines if line.startswith("|")],
    }


def _terminated(*_: object) -> None:
    raise KeyboardInterrupt


def report(parts: list[dict]) -> None:
    """Prints the tables of the parts, and a line for each part."""
    for part in parts:
        if part["result"] != "done":
            print("\n".join([f"\n{part['part']}: {part['result']}; last line: {part['last_line']}", *part["failed"]]))
        if part["table"]:
            print(f"\n{part['what']}\n\n" + "\n".join(part["table"]))
    print("\n| part | result | seconds |\n|---|---|---|")
    for part in parts:
        print(f"| {part['part']}: {part['what']} | {part['tests'] or part['result']} | {part['seconds']:.0f} |")


def main() -> int:
    """Runs the chosen parts; returns 0 if all are done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"), help="folder of logs and results")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="little data and few tests, as a rehearsal")
    parser.add_argument("--parts", default="tests,step,kernels,seeds,study")
    arguments = parser.parse_args()
    arguments.out, arguments.data_root = arguments.out.absolute(), arguments.data_root.absolute()
    if absent := missing():
        print(f"install first, or carry as wheels: {' '.join(absent)}", file=sys.stderr)
        return 2
    chosen = arguments.parts.split(",")
    known = parts(arguments)
    if unknown := set(chosen) - {part.name for part in known}:
        parser.error(f"--parts: given {', '.join(sorted(unknown))}, expected {', '.join(part.name for part in known)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, _terminated)

    from pyro_vae._utils import files
    from pyro_vae._utils.environment import environment

    results: list[dict] = []
    surroundings = environment(arguments.device)
    print(", ".join(f"{name} {surroundings[name]}" for name in ("device", "torch", "pyro", "python")), flush=True)
    for part in known:
        if part.name in chosen:
            limit_seconds = part.limit_seconds * (10 if arguments.device == "cpu" else 1)
            results.append(run(part, arguments.out, limit_seconds))
            files.write_json(arguments.out / "gpu.json", {"environment": surroundings, "parts": results})
    report(results)
    return int(any(part["result"] != "done" for part in results))


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    sys.exit(main())
