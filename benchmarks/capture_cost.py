"""The number of steps after which a capture pays off; `compile="auto"` in `fit` decides by it.

    python benchmarks/capture_cost.py

One thread of a CPU, whose own seconds are counted, batches of 128 random images of 28 x 28. Prints a table.
"""

import statistics
import time

import pyro
import torch
from torch import Tensor

from pyro_vae import Spec, build
from pyro_vae.objectives import objective
from pyro_vae.svi import CompiledSVI
from pyro_vae.training.backend import Operations

SPEC = {"image_shape": (1, 28, 28), "latent_dim": 20}
MODELS = {
    "MLP": {},
    "convolutional": {"network": "conv"},
    "4 planar layers": {"posterior": "planar"},
    "8 planar layers": {"posterior": {"kind": "planar", "layers": 8}},
    "32 planar layers": {"posterior": {"kind": "planar", "layers": 32}},
    "8 planar layers, amortized": {"posterior": {"kind": "conditional-planar", "layers": 8}},
    "MLP, importance-weighted, k = 10": {"objective": "iwae", "particles": 10},
}


def seconds(svi: CompiledSVI, x: Tensor, steps: int) -> float:
    """Median of some steps."""
    durations = []
    for _ in range(steps):
        started = time.process_time()
        svi.step(x)
        durations.append(time.process_time() - started)
    return statistics.median(durations)


def row(name: str, x: Tensor) -> str:
    """A row of the table; eager and captured steps alternate."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    spec = Spec(**SPEC, **MODELS[name])
    vae = build(spec)
    adam = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    with torch.no_grad(), pyro.validation_enabled(False), Operations() as operations:
        vae.guide(x)
        vae.model(x)
    loss = objective(spec.objective, spec.particles)
    eager, captured = (CompiledSVI(vae.model, vae.guide, adam, loss, compile=how) for how in ("off", "capture"))
    captured.step(x)
    capture = seconds(captured, x, 1)
    both = [(seconds(eager, x, 5), seconds(captured, x, 5)) for _ in range(5)]
    before, after = (min(column) for column in zip(*both, strict=True))
    milliseconds = f"{1e3 * before:.1f} | {1e3 * after:.1f}"
    return f"| {name} | {operations.count} | {capture:.1f} | {milliseconds} | {capture / (before - after):.0f} |"


def main() -> None:
    torch.set_num_threads(1)
    x = torch.rand(128, 1, 28, 28).round()
    row("MLP", x)  # warm-up
    print("| model | operations | capture, s | eager step, ms | captured step, ms | pays off after |")
    print("|---|---|---|---|---|---|")
    for name in MODELS:
        print(row(name, x), flush=True)


if __name__ == "__main__":
    main()
