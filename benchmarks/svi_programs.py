"""Times steps of small Pyro programs, and of one that enumerates, by Pyro's SVI and by CompiledSVI in turns; and draws.

    python benchmarks/svi_programs.py [--rounds 5] [--steps 300]

- `eight schools`: the model of Rubin, 1981, not centred, with AutoNormal.
- `regression`: 500 rows of 5 covariates, with AutoNormal.
- `M2`: the semi-supervised VAE of 784-500-50 with ten enumerated classes, batch 128, of which 13 have a label.

A row is the median over rounds of the mean time of a step, after enough steps that all is captured and compiled; a
ratio is the median within a round. `step` is `svi.step(...)` of one batch; `run_steps` makes all steps of a round in a
call, as does NumPyro's `fori_loop`, where it is installed. M2's matrix products are timed alone, too, by
torch. Seconds are from the making of `CompiledSVI` to the end of the first compiled step, in a process of its own, with
an empty folder for compiled code and with the one that this has filled; torch has been imported before. Draws are those
of Pyro's Predictive and of CompiledPredictive, from an AutoNormal and the model, after a first call of each.
Prints a Markdown table and writes svi_programs.json.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal

from pyro_vae import Spec, build
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.svi import CompiledPredictive, CompiledSVI

BACKENDS = ("capture", "inductor")
Made = tuple[Callable, Callable, type, tuple]  # model, guide, objective, arguments


def eight_schools() -> Made:
    y = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12])
    sigma = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18])

    def model(y: torch.Tensor, sigma: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", 8):
            eta = pyro.sample("eta", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)

    return model, AutoNormal(model), Trace_ELBO, (y, sigma)


def regression() -> Made:
    x = torch.randn(500, 5)
    y = x @ torch.arange(5.0) + torch.randn(500)

    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        weights = pyro.sample("weights", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(x @ weights, scale), obs=y)

    return model, AutoNormal(model), Trace_ELBO, (x, y)


def m2() -> Made:
    kind = {"kind": "semi-supervised", "alpha": 20.0}
    model = build(Spec(model=kind, image_shape=(1, 28, 28), latent_dim=50, hidden=(500,)))
    labels = torch.where(torch.arange(128) < 13, torch.arange(128) % 10, -1)
    return model.model, model.guide, TraceEnum_ELBO, (torch.rand(128, 1, 28, 28).round(), 1.0, labels)


PROGRAMS = {"eight schools": eight_schools, "regression": regression, "M2": m2}


def numpyro_loop(name: str, steps: int) -> Callable[[], object]:
    """All steps of a round by NumPyro, in a fori_loop; of the small programs."""
    import jax
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    def eight_schools(y: jax.Array, sigma: jax.Array) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("schools", 8):
            eta = numpyro.sample("eta", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(mu + tau * eta, sigma), obs=y)

    def regression(x: jax.Array, y: jax.Array) -> None:
        weights = numpyro.sample("weights", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(x @ weights, scale), obs=y)

    model = {"eight schools": eight_schools, "regression": regression}[name]
    batch = [jax.numpy.asarray(tensor.numpy()) for tensor in PROGRAMS[name]()[3]]
    svi = SVI(model, AutoNormal(model), numpyro.optim.Adam(1e-3), Trace_ELBO())
    carry = [svi.init(jax.random.PRNGKey(0), *batch)]
    run = jax.jit(lambda state: jax.lax.fori_loop(0, steps, lambda _, state: svi.update(state, *batch)[0], state))

    def take() -> None:
        carry[0] = jax.block_until_ready(run(carry[0]))

    return take


def products_alone(graph: torch.fx.GraphModule, steps: int) -> Callable[[], object]:
    """The matrix products of a captured step, of random factors of the same shapes and strides."""
    aten = torch.ops.aten
    products = [node for node in graph.graph.nodes if node.target in (aten.mm.default, aten.addmm.default)]
    values = [[factor.meta["val"] for factor in node.args[-2:]] for node in products]
    factors = [[torch.empty_strided(each.shape, each.stride()).normal_() for each in of_one] for of_one in values]
    return lambda: [left @ right for _ in range(steps) for left, right in factors]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="of each round; a tenth of them for M2")
    parser.add_argument("--first", help=argparse.SUPPRESS)  # prints the seconds to the first compiled step
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the JSON file")
    arguments = parser.parse_args()
    if arguments.first:
        print(json.dumps(seconds_to_compiled(arguments.first)))
        return
    torch.manual_seed(0)
    rows = [row for name in PROGRAMS for row in timed(name, arguments.rounds, arguments.steps)]
    print("| program | who | ms per step | over Pyro |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row['program']} | {row['who']} | {row['ms_per_step']:.3f} | {row['over_pyro']:.2f} |")
    draws = [drawn(name, arguments.rounds, arguments.steps) for name in PROGRAMS if name != "M2"]
    print("\n| program | Predictive, ms per draw | CompiledPredictive | over Pyro |\n|---|---|---|---|")
    for row in draws:
        print(f"| {row['program']} | {row['pyro_ms']:.3f} | {row['ms_per_draw']:.3f} | {row['over_pyro']:.2f} |")
    first = {name: cold_and_warm(name) for name in PROGRAMS}
    print("\n| program | first compiled step, cold, s | warm, s |\n|---|---|---|")
    for name, (cold, warm) in first.items():
        print(f"| {name} | {cold:.1f} | {warm:.1f} |")
    results = {
        "environment": environment("cpu"),
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "rows": rows,
        "draws": draws,
    }
    results["first_compiled_step_seconds"] = {
        name: {"cold": cold, "warm": warm} for name, (cold, warm) in first.items()
    }
    files.write_json(arguments.out / "svi_programs.json", results)


def timed(name: str, rounds: int, steps: int) -> list[dict]:
    """Rows of a program: Pyro's SVI, CompiledSVI by each backend, and NumPyro where it is installed."""
    steps = steps // 10 if name == "M2" else steps
    takers = {}
    for who in ("Pyro", *BACKENDS):
        pyro.clear_param_store()
        model, guide, objective, batch = PROGRAMS[name]()
        loss = objective(max_plate_nesting=1)
        optim = pyro.optim.Adam({"lr": 1e-3})
        kind = SVI if who == "Pyro" else CompiledSVI
        svi = kind(model, guide, optim, loss, **({} if who == "Pyro" else {"compile": who}))
        takers[who] = with_own_store(lambda svi=svi, batch=batch: [svi.step(*batch) for _ in range(steps)])
        if who != "Pyro":
            takers[f"{who}, run_steps"] = with_own_store(
                lambda svi=svi, batch=batch: svi.run_steps(steps, *batch), takers[who].state
            )
    for _ in range(3):
        for take in takers.values():
            take()
    if name == "M2":
        (captured,) = svi._captured.replays
        takers["its products, by torch"] = products_alone(captured.captured.graph, steps)
    elif importlib.util.find_spec("numpyro"):
        takers["NumPyro, fori_loop"] = numpyro_loop(name, steps)
        takers["NumPyro, fori_loop"]()
    times: dict[str, list[float]] = {who: [] for who in takers}
    for _ in range(rounds):
        for who, take in takers.items():
            started = time.perf_counter()
            take()
            times[who].append((time.perf_counter() - started) / steps)
    return [
        {
            "program": name,
            "who": who,
            "ms_per_step": 1e3 * statistics.median(of_who),
            "over_pyro": statistics.median(a / b for a, b in zip(of_who, times["Pyro"], strict=True)),
        }
        for who, of_who in times.items()
    ]


def drawn(name: str, rounds: int, draws: int) -> dict:
    """The row of a program's draws, by Pyro's Predictive and by CompiledPredictive in turns."""
    pyro.clear_param_store()
    model, guide, _, batch = PROGRAMS[name]()
    guide(*batch)
    takers = [kind(model, guide=guide, num_samples=draws) for kind in (Predictive, CompiledPredictive)]
    times = []
    for _ in range(1 + rounds):
        times.append([])
        for take in takers:
            started = time.perf_counter()
            take(*batch)
            times[-1].append((time.perf_counter() - started) / draws)
    of_pyro, compiled = (1e3 * statistics.median(of_kind) for of_kind in zip(*times[1:], strict=True))
    over_pyro = statistics.median(time_compiled / time_pyro for time_pyro, time_compiled in times[1:])
    return {"program": name, "pyro_ms": of_pyro, "ms_per_draw": compiled, "over_pyro": over_pyro}


def with_own_store(take: Callable, state: dict | None = None) -> Callable:
    """`take`, with a param store of its own, so that SVIs of the same names do not share parameters."""
    store = pyro.get_param_store()
    if state is None:
        with store.scope() as state:
            take()

    def inside() -> None:
        with store.scope(state):
            take()

    inside.state = state
    return inside


def cold_and_warm(name: str) -> tuple[float, float]:
    """Seconds to the first compiled step, with an empty folder of compiled code and with a full one."""
    with tempfile.TemporaryDirectory() as folder:
        environ = os.environ | {"TORCHINDUCTOR_CACHE_DIR": folder}
        command = [sys.executable, __file__, "--first", name]
        run = [subprocess.run(command, env=environ, capture_output=True, text=True, check=True) for _ in range(2)]  # noqa: S603
    cold, warm = (json.loads(each.stdout.splitlines()[-1]) for each in run)
    return cold, warm


def seconds_to_compiled(name: str) -> float:
    model, guide, objective, batch = PROGRAMS[name]()
    started = time.perf_counter()
    optim, loss = pyro.optim.Adam({"lr": 1e-3}), objective(max_plate_nesting=1)
    svi = CompiledSVI(model, guide, optim, loss, compile="inductor")
    for _ in range(4):
        svi.step(*batch)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
