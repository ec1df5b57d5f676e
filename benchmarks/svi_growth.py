"""Scaling of the captured step: time with the number of images, memory with the steps, and the cost of a capture.

    python benchmarks/svi_growth.py --data-root DATA [--device cuda] [--steps 10000]

MLP 784-400-20 on MNIST, as in svi_step.py. Writes svi_growth.json, or svi_growth_cuda.json, and prints it.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch
from svi_step import BATCH, vae_of
from torch import Tensor

from pyro_vae import load_data
from pyro_vae._utils import files
from pyro_vae._utils.device import choose_device
from pyro_vae._utils.environment import environment
from pyro_vae.data.batches import gather, shuffled
from pyro_vae.svi import CompiledSVI


def stepper(pixels: Tensor, device: torch.device, compile: str) -> CompiledSVI:
    vae = vae_of(conv=False).to(device)
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
    return CompiledSVI(
        vae.model, vae.guide, optimizer, prepare=lambda indices: (gather(pixels, indices, device),), compile=compile
    )


def epoch(svi: CompiledSVI, pixels: Tensor) -> float:
    started = time.perf_counter()
    for indices in shuffled(pixels, BATCH):
        svi.step_tensor(indices)
    svi.check_finite()
    return time.perf_counter() - started


def resident_mib() -> float:
    """Memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * 4096 / 2**20


def seconds_by_images(pixels: Tensor, device: torch.device) -> dict[str, float]:
    """Median seconds of three epochs per number of images, after an epoch with the capture."""
    medians = {}
    for count in (7_680, 15_360, 30_720):
        svi = stepper(pixels[:count], device, "capture")
        seconds = [epoch(svi, pixels[:count]) for _ in range(4)]
        medians[str(count)] = statistics.median(seconds[1:])
    return medians


def memory_by_steps(pixels: Tensor, device: torch.device, steps: int) -> tuple[dict[str, float], int]:
    """Memory in MiB after each tenth of the steps, with shorter last batches, and the number of signatures."""
    svi = stepper(pixels, device, "capture")
    mebibytes: dict[str, float] = {}
    while svi.steps_taken < steps:
        for indices in shuffled(pixels[: 10 * BATCH + 40], BATCH):
            svi.step_tensor(indices)
            if svi.steps_taken % (steps // 10) == 0:
                on_device = torch.cuda.memory_allocated() / 2**20 if device.type == "cuda" else resident_mib()
                mebibytes[str(svi.steps_taken)] = round(on_device, 1)
    return mebibytes, svi.signatures


def capture_seconds(pixels: Tensor, device: torch.device, compile: str) -> float:
    """What the second step takes, which is captured, and the third, before which it is compiled or recorded.

    Inductor starts from an empty cache here, as on its first day on a machine.
    """
    svi = stepper(pixels, device, compile)
    indices = torch.arange(BATCH, device=device)
    svi.step(indices)
    with tempfile.TemporaryDirectory() as empty, mock.patch.dict("os.environ", TORCHINDUCTOR_CACHE_DIR=empty):
        started = time.perf_counter()
        svi.step(indices)
        svi.step(indices)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=10_000)
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    pixels = load_data("mnist", arguments.data_root).train.pixels.to(device)
    memory, signatures = memory_by_steps(pixels, device, arguments.steps)
    backends = ("capture", "inductor", *(("cudagraph",) if device.type == "cuda" else ()))
    results = {
        "environment": environment(arguments.device),
        "capture_seconds": {name: capture_seconds(pixels, device, name) for name in backends},
        "memory_mib_after_steps": memory,
        "signatures": signatures,
        "seconds_per_epoch_by_images": seconds_by_images(pixels, device),
    }
    name = "svi_growth.json" if device.type == "cpu" else "svi_growth_cuda.json"
    files.write_json(Path(__file__).with_name(name), results)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
