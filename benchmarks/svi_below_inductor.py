"""Times what could take the place of the recorded kernel calls of a compiled step on a CPU, in the same run.

    python benchmarks/svi_below_inductor.py --data-root DATA [--epochs 3] [--images 60000]

The MLP and the batches of svi_step.py. The same captured graph, of loss and gradients, is run

- (a) by Inductor's own C++ wrapper, or as a library by AOTInductor, with torch's Adam;
- (b) by the same, with torch's fused Adam, called without the Python of its optimizer;
- (c) by the C++ wrapper, with torch's fused Adam, and with our kernels as operations that Inductor calls;
- (d) as it is: our kernels and Adam's, recorded once and called from C++ (`pyro_vae/svi/cpu/recording.py`).

Steps of (a) to (c) are without guards, in their favour. Ratios are medians over rounds, as in svi_step.py, to
hand-written PyTorch and NumPyro. Prints a Markdown table and writes svi_below_inductor.json.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import svi_step
import torch
from torch import Tensor

from pyro_vae._utils import files
from pyro_vae._utils.device import resident
from pyro_vae._utils.environment import environment
from pyro_vae.data.batches import gather, shuffled
from pyro_vae.svi import CompiledSVI, backends
from pyro_vae.svi.cpu import recording

COMPILED_AFTER = 4  # steps


def cpp_wrapper(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> backends.Run:
    import torch._inductor as compiler

    return compiler.compile(graph, list(inputs), options={"fallback_random": True, "cpp_wrapper": True})


def cpp_wrapper_and_kernels(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> backends.Run:
    return cpp_wrapper(backends.with_products(graph, inputs), inputs)


def aot_inductor(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> backends.Run:
    import torch._inductor as compiler

    library = compiler.aot_compile(graph, tuple(inputs), options={"fallback_random": True})
    runner = torch._C._aoti.AOTIModelContainerRunnerCpu(library, 1)
    return lambda *arguments: runner.run(list(arguments))


def unrecorded(compile: Callable[..., backends.Run], fused: bool, rows: bool = False) -> Callable[..., svi_step.Epoch]:
    """An epoch without recorded calls, in a process of its own, whose engine is changed."""

    def make(pixels: Tensor, device: torch.device, conv: bool) -> svi_step.Epoch:
        backends._compiled, recording.record = compile, refuse
        if not rows:
            backends.with_rows = lambda graph: graph
        vae = svi_step.vae_of(conv)
        optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=fused)
        on_device = resident(pixels, device)

        def batch(indices: Tensor) -> tuple[Tensor]:
            return (gather(on_device, indices, device),)

        svi = CompiledSVI(vae.model, vae.guide, optimizer, prepare=batch, compile="inductor")

        def step(indices: Tensor) -> Tensor:
            if svi.steps_taken < COMPILED_AFTER or len(indices) < svi_step.BATCH:
                loss = svi.step_tensor(indices)
                if len(indices) == svi_step.BATCH:
                    step.replay = svi._captured.used
                return loss
            with torch.no_grad():
                return step.replay([indices])

        def epoch() -> float:
            losses = [step(indices) for indices in shuffled(on_device, svi_step.BATCH)]
            return torch.stack(losses).double().sum().item() / len(pixels)

        epoch.svi = svi
        return epoch

    return make


def refuse(*_: object) -> None:
    raise recording.NotRecordable("not in this row")


# Added where this module is imported, as it is in the process of each row.
svi_step.ROWS |= {
    "pyro_vae, (a) C++ wrapper": unrecorded(cpp_wrapper, fused=False),
    "pyro_vae, (a) AOTInductor": unrecorded(aot_inductor, fused=False),
    "pyro_vae, (b) C++ wrapper, fused Adam": unrecorded(cpp_wrapper, fused=True),
    "pyro_vae, (b) AOTInductor, fused Adam": unrecorded(aot_inductor, fused=True),
    "pyro_vae, (c) C++ wrapper, fused Adam, our kernels": unrecorded(cpp_wrapper_and_kernels, fused=True, rows=True),
    "pyro_vae, (d) recorded": svi_step.ours("inductor"),
}
PEERS = ("hand-written PyTorch, fused Adam", "NumPyro, fori_loop")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of each row")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--rows", default="", help="only rows whose name contains this; writes no JSON")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the JSON file")
    arguments = parser.parse_args()
    arguments.device = "cpu"
    os.environ["TQDM_DISABLE"] = "1"
    names = [name for name in svi_step.ROWS if name in PEERS or "(" in name]
    rows = svi_step.measure([name for name in names if arguments.rows in name], arguments, conv=False)
    print("\n".join(svi_step.table(rows)), flush=True)
    if not arguments.rows:
        results = {"environment": environment("cpu") | svi_step.versions(), "rows": rows}
        files.write_json(arguments.out / "svi_below_inductor.json", results)


if __name__ == "__main__":
    main()
