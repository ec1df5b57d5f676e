"""Counts and times the kernels of a recorded SVI step, to see where a step spends the GPU's time.

    python benchmarks/svi_kernels.py --data-root DATA [--device cuda] [--backends cudagraph,inductor]

MLP 784-400-20, tanh, Bernoulli, batch 128, binarized MNIST. `wall` is a step of :meth:`CompiledSVI.steps` within an
epoch, `replay` the captured step alone, called again and again; both are means, without the first epoch. Prints
Markdown tables and writes svi_kernels.json, or svi_kernels_cuda.json. On a CPU the profiler's operations are listed.
"""

import argparse
import time
from pathlib import Path

import pyro
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from pyro_vae import Spec, build, load_data
from pyro_vae._utils import files
from pyro_vae._utils.device import choose_device, resident
from pyro_vae._utils.environment import environment
from pyro_vae.data import binarize
from pyro_vae.data.batches import gather, shuffled
from pyro_vae.svi import CompiledSVI

BATCH, SHOWN = 128, 12


def measure(backend: str, pixels: Tensor, device: torch.device, replays: int) -> dict:
    """Times and kernels of the step of a backend."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    vae = build(Spec(dataset="mnist", image_shape=(1, 28, 28), latent_dim=20)).to(device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    svi = CompiledSVI(
        vae.model, vae.guide, optimizer, prepare=lambda indices: (gather(pixels, indices, device),), compile=backend
    )

    def epoch() -> float:
        started, steps = time.perf_counter(), 0
        for steps, _ in enumerate(svi.steps((indices,) for indices in shuffled(pixels, BATCH)), 1):  # noqa: B007
            pass
        return (synchronized(device) - started) / steps

    epoch()
    wall = epoch()
    replay = max(svi._captured.replays, key=lambda candidate: candidate.calls)
    indices = torch.arange(BATCH, device=device)
    with torch.no_grad():
        started = time.perf_counter()
        for _ in range(replays):
            replay([indices])
        alone = (synchronized(device) - started) / replays
        activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
        with profile(activities=[activity]) as profiled:
            for _ in range(20):
                replay([indices])
            synchronized(device)
    events = [
        {
            "kernel": event.key,
            "count": event.count / 20,
            "us": (event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total) / 20,
        }
        for event in profiled.key_averages()
    ]
    events = sorted((event for event in events if event["us"] > 0), key=lambda event: -event["us"])
    return {
        "backend": backend,
        "wall_us": wall * 1e6,
        "replay_us": alone * 1e6,
        "kernels": sum(event["count"] for event in events),
        "kernels_us": sum(event["us"] for event in events),
        "longest": events[:SHOWN],
    }


def synchronized(device: torch.device) -> float:
    """The time after the device has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    """Prints and writes the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backends", default="", help="with commas; cudagraph,inductor on CUDA, else inductor")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--replays", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the JSON file")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    pixels = binarize(load_data("mnist", arguments.data_root).train, "static").pixels[: arguments.images]
    pixels = resident(pixels, device)
    backends = arguments.backends or ("cudagraph,inductor" if device.type == "cuda" else "inductor")
    rows = [measure(backend, pixels, device, arguments.replays) for backend in backends.split(",")]
    print("| backend | wall, us | replay, us | kernels | kernels, us |\n|---|---|---|---|---|")
    for row in rows:
        times = " | ".join(f"{row[name]:.0f}" for name in ("wall_us", "replay_us", "kernels", "kernels_us"))
        print(f"| {row['backend']} | {times} |")
    for row in rows:
        print(f"\n{row['backend']}, the longest\n\n| us | count | kernel |\n|---|---|---|")
        for kernel in row["longest"]:
            print(f"| {kernel['us']:.1f} | {kernel['count']:.0f} | {kernel['kernel'][:90].replace('|', '/')} |")
    name = "svi_kernels.json" if device.type == "cpu" else "svi_kernels_cuda.json"
    files.write_json(arguments.out / name, {"environment": environment(arguments.device), "rows": rows})


if __name__ == "__main__":
    main()
