"""Times an SVI step of the reference VAE in this library and in others, in the same run.

    python benchmarks/svi_step.py --data-root DATA [--device cuda] [--epochs 3]

MLP 784-400-20, tanh, Bernoulli, batch 128, binarized MNIST; and the convolutional VAE of d = 16. A row is the median
over epochs of the mean time of a step, with what belongs to it: shuffling, gathering and converting the batch, the
loss, its gradients, and Adam. All rows take turns, epoch by epoch, each in a process of its own, and after half a
second of other work, as processors slow down while a row waits. A time over another's is the median over these rounds,
as a shared machine is slower in some. Peers that are not installed are left out, and named. Prints a Markdown table and
writes svi_step.json, or svi_step_cuda.json.
"""

import argparse
import importlib.metadata
import itertools
import math
import multiprocessing
import operator
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import pyro
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from pyro_vae import Spec, build, load_data
from pyro_vae._utils import files
from pyro_vae._utils.device import choose_device, resident
from pyro_vae._utils.environment import environment
from pyro_vae.data import binarize
from pyro_vae.data.batches import gather, shuffled
from pyro_vae.svi import CompiledSVI

BATCH, HIDDEN, LATENT = 128, 400, 20
Epoch = Callable[[], float]  # runs one epoch, returns its loss per image


def pyro_stock(pixels: Tensor, device: torch.device, conv: bool) -> Epoch:
    """As in Pyro's VAE example: DataLoader, pyro.optim.Adam, SVI."""
    vae = vae_of(conv).to(device)
    loader = DataLoader(TensorDataset(pixels.float() / 255), batch_size=BATCH, shuffle=True)
    svi = pyro.infer.SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.Trace_ELBO())

    def epoch() -> float:
        return sum(svi.step(x.to(device)) for (x,) in loader) / len(pixels)

    return epoch


class HandWritten(nn.Module):
    """A hand-written loop without a library."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor) -> Tensor:
        loc, log_variance = self.encoder(x).chunk(2, -1)
        z = loc + torch.randn_like(loc) * (log_variance / 2).exp()
        cross_entropy = functional.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        return cross_entropy - 0.5 * (1 + log_variance - loc.square() - log_variance.exp()).sum()


def hand_written(pixels: Tensor, device: torch.device, conv: bool) -> Epoch:
    """PyTorch on resident uint8 images, with fused Adam."""
    vae = vae_of(conv)
    module = HandWritten(vae.encoder, vae.decoder).to(device)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, fused=True)
    pixels = pixels.to(device)

    def epoch() -> float:
        total = torch.zeros((), device=device)
        for index in torch.randperm(len(pixels), device=device).split(BATCH):
            loss = module(pixels[index].float() / 255)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item() / len(pixels)

    return epoch


def ours(compile: str, precision: str = "fp32") -> Callable[[Tensor, torch.device, bool], Epoch]:
    """An epoch as in `fit`."""

    def make(pixels: Tensor, device: torch.device, conv: bool) -> Epoch:
        vae = vae_of(conv).to(device)
        optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)
        on_device = resident(pixels, device)

        def batch(indices: Tensor) -> tuple[Tensor]:
            return (gather(on_device, indices, device),)

        svi = CompiledSVI(vae.model, vae.guide, optimizer, prepare=batch, compile=compile, precision=precision)

        def epoch() -> float:
            losses = list(svi.steps((indices,) for indices in shuffled(on_device, BATCH)))
            svi.check_finite()
            return torch.stack(losses).double().sum().item() / len(pixels)

        epoch.svi = svi
        return epoch

    return make


def numpyro_loop(
    pixels: Tensor, device: torch.device, conv: bool, bf16: bool = False, products: str = "highest"
) -> Epoch:
    """NumPyro with the epoch in a fori_loop; with `bf16`, the factors of its matrix products are rounded to bfloat16.

    `products` is JAX's precision of float32 ones: on a GPU `highest` is float32, as PyTorch's are, and `default` TF32.
    """
    import jax
    import numpyro
    import numpyro.distributions as dist
    from jax import numpy as jnp
    from numpyro.infer import SVI, Trace_ELBO

    jax.config.update("jax_default_matmul_precision", products)
    data = jnp.asarray(pixels.numpy().reshape(len(pixels), -1))
    full, rest = divmod(len(data), BATCH)

    def dense(name: str, inputs: int, outputs: int) -> Callable:
        def start(scale: float) -> Callable:
            bound = 1 / math.sqrt(inputs)
            return lambda key: jax.random.uniform(key, scale, minval=-bound, maxval=bound)

        weight = numpyro.param(f"{name}.weight", start((inputs, outputs)))
        bias = numpyro.param(f"{name}.bias", start((outputs,)))
        if bf16:
            return lambda x: (x.astype(jnp.bfloat16) @ weight.astype(jnp.bfloat16)).astype(jnp.float32) + bias
        return lambda x: x @ weight + bias

    def model(x):
        first, second = dense("decoder.0", LATENT, HIDDEN), dense("decoder.2", HIDDEN, 784)
        with numpyro.plate("data", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENT), 1).to_event(1))
            numpyro.sample("x", dist.Bernoulli(logits=second(jnp.tanh(first(z)))).to_event(1), obs=x)

    def guide(x):
        first, second = dense("encoder.0", 784, HIDDEN), dense("encoder.2", HIDDEN, 2 * LATENT)
        loc, log_variance = jnp.split(second(jnp.tanh(first(x))), 2, axis=-1)
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_variance / 2)).to_event(1))

    svi = SVI(model, guide, numpyro.optim.Adam(1e-3), Trace_ELBO())
    state = svi.init(jax.random.PRNGKey(0), data[:BATCH].astype(jnp.float32) / 255)

    @jax.jit
    def run(state, key):
        order = jax.random.permutation(key, len(data))

        def body(i, carry):
            state, total = carry
            index = jax.lax.dynamic_slice_in_dim(order, i * BATCH, BATCH)
            state, loss = svi.update(state, data[index].astype(jnp.float32) / 255)
            return state, total + loss

        state, total = jax.lax.fori_loop(0, full, body, (state, 0.0))
        if rest:
            state, loss = svi.update(state, data[order[full * BATCH :]].astype(jnp.float32) / 255)
            total = total + loss
        return state, total

    carry = [state, jax.random.PRNGKey(1)]

    def epoch() -> float:
        key, carry[1] = jax.random.split(carry[1])
        carry[0], total = run(carry[0], key)
        return float(total) / len(data)

    return epoch


def pythae_trainer(pixels: Tensor, device: torch.device, conv: bool) -> Epoch:
    """Pythae's BaseTrainer on its VAE, with our networks; its decoder gives probabilities, not logits."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    ours = vae_of(conv)

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = ours.encoder

        def forward(self, x: Tensor) -> ModelOutput:
            loc, log_variance = self.layers(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.layers = ours.decoder

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.layers(z).sigmoid())

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=16 if conv else LATENT, reconstruction_loss="bce")
    data = pixels.float() / 255
    trainer = BaseTrainer(
        VAE(config, Encoder(), Decoder()),
        BaseDataset(data, torch.zeros(len(data))),
        training_config=BaseTrainerConfig(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=BATCH,
            learning_rate=1e-3,
            optimizer_cls="Adam",
            no_cuda=device.type == "cpu",
        ),
    )
    trainer.prepare_training()
    epochs = itertools.count(1)
    return lambda: float(trainer.train_step(next(epochs)))


def vae_of(conv: bool) -> nn.Module:
    pyro.clear_param_store()
    network = {"network": "conv", "latent_dim": 16, "hidden": (256,)} if conv else {"latent_dim": LATENT}
    return build(Spec(dataset="mnist", image_shape=(1, 28, 28), **network))


ROWS = {
    "Pyro, stock loop": pyro_stock,
    "pythae, BaseTrainer": pythae_trainer,
    "hand-written PyTorch, fused Adam": hand_written,
    "NumPyro bf16, fori_loop": partial(numpyro_loop, bf16=True, products="default"),
    "NumPyro tf32, fori_loop": partial(numpyro_loop, products="default"),
    "NumPyro, fori_loop": numpyro_loop,
    "pyro_vae, bf16 inductor": ours("inductor", "bf16"),
    "pyro_vae, inductor": ours("inductor"),
    "pyro_vae, bf16 cudagraph": ours("cudagraph", "bf16"),
    "pyro_vae, cudagraph": ours("cudagraph"),
    "pyro_vae, capture": ours("capture"),
    "pyro_vae, off": ours("off"),
}
ON_CUDA_ONLY = ("NumPyro tf32, fori_loop", "pyro_vae, bf16 cudagraph", "pyro_vae, cudagraph")
CONV_ROWS = (
    "Pyro, stock loop",
    "hand-written PyTorch, fused Adam",
    "pyro_vae, inductor",
    "pyro_vae, cudagraph",
    "pyro_vae, capture",
)


class Row:
    """A row of the table, timed in a process of its own, so that waiting threads of the others don't slow it."""

    def __init__(self, name: str, arguments: argparse.Namespace, conv: bool) -> None:
        processes = multiprocessing.get_context("spawn")
        self.name, (self.connection, end) = name, processes.Pipe()
        self.process = processes.Process(target=serve, args=(end, name, arguments, conv), daemon=True)
        self.process.start()
        end.close()

    def epoch(self) -> tuple[float, float, int | None]:
        """The seconds of an epoch, its loss in nats per image, and the number of captured signatures."""
        self.connection.send("epoch")
        answer = self.connection.recv()
        if isinstance(answer, RuntimeError):
            raise answer
        return answer


def serve(connection: Connection, name: str, arguments: argparse.Namespace, conv: bool) -> None:
    """Runs an epoch of a row for each request."""
    connection.send("ready")
    device = choose_device(arguments.device)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # JAX would take most of a GPU that all rows share
    if device.type == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    torch.manual_seed(0)  # the same for all rows, so that the loss of bf16 can be compared
    epoch = None
    while connection.recv():
        try:
            epoch = epoch or ROWS[name](pixels_of(arguments, conv), device, conv)
            warm_up(0.5 if device.type == "cpu" else 0.1)
            started = time.perf_counter()
            loss = epoch()
            if device.type == "cuda":
                torch.cuda.synchronize()
        except Exception as error:  # this row is left out
            return connection.send(RuntimeError(" ".join(f"{type(error).__name__}: {error}".split())[:300]))
        signatures = epoch.svi.signatures if hasattr(epoch, "svi") else None
        connection.send((time.perf_counter() - started, loss, signatures))
    return None


def warm_up(seconds: float) -> None:
    """Keeps all threads busy."""
    square, end = torch.ones(400, 400), time.perf_counter() + seconds
    while time.perf_counter() < end:
        square @ square


def pixels_of(arguments: argparse.Namespace, conv: bool) -> Tensor:
    few = arguments.conv_images if conv else arguments.images
    return binarize(load_data("mnist", arguments.data_root).train, "static").pixels[:few]


def measure(names: list[str], arguments: argparse.Namespace, conv: bool) -> list[dict]:
    """A dictionary per row; the first epoch of each, with its compilation, is reported separately."""
    steps = math.ceil((arguments.conv_images if conv else arguments.images) / BATCH)
    rows, first = [], {}
    started = [Row(name, arguments, conv) for name in names]
    for row in started:
        row.connection.recv()  # ready: all rows have imported before any is timed
    for row in started:
        try:
            first[row.name] = row.epoch()[0]
        except (RuntimeError, EOFError) as error:
            print(f"{row.name}: left out ({error})", flush=True)
            continue
        rows.append(row)
        print(f"{row.name}: first epoch {first[row.name]:.1f} s", flush=True)
    epochs_by_row = {row.name: [] for row in rows}
    for _ in range(arguments.epochs):
        for row in rows:
            epochs_by_row[row.name].append(row.epoch())
    for row in rows:
        row.connection.send("")
        row.process.join()
    return [
        {
            "who": name,
            "ms_per_step": 1000 * statistics.median(seconds for seconds, _, _ in epochs) / steps,
            "ms_per_step_of_epochs": [1000 * seconds / steps for seconds, _, _ in epochs],
            "first_epoch_seconds": first[name],
            "loss_nats": epochs[-1][1],
            "epochs": len(epochs) + 1,
            "signatures": epochs[-1][2],
        }
        for name, epochs in epochs_by_row.items()
    ]


def versions() -> dict[str, str]:
    """Versions of the installed peers; torch's and Pyro's are in the environment."""
    installed = {distribution.name.lower(): distribution.version for distribution in importlib.metadata.distributions()}
    return {name: installed[name] for name in ("jax", "numpyro", "pythae") if name in installed}


def table(rows: list[dict]) -> Iterator[str]:
    """Markdown, with ratios to the times of the peers in the same round."""
    times = {row["who"]: row["ms_per_step_of_epochs"] for row in rows}
    peers = [name for name in times if not name.startswith("pyro_vae")]
    over = " | ".join(f"over {name.split(',')[0]}" for name in peers)
    yield f"| step | ms | {over} | first epoch, s | loss, nats |"
    yield "|---|---|" + "---|" * (len(peers) + 2)
    for row in rows:
        of_rounds = [map(operator.truediv, times[row["who"]], times[name]) for name in peers]
        ratios = " | ".join(f"{statistics.median(ratio):.3g}" for ratio in of_rounds)
        last = f"{row['first_epoch_seconds']:.1f} | {row['loss_nats']:.2f}"
        yield f"| {row['who']} | {row['ms_per_step']:.3g} | {ratios} | {last} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of each row")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--conv-images", type=int, default=12_800)
    parser.add_argument("--rows", default="", help="only rows whose name contains this; writes no JSON")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the JSON file")
    arguments = parser.parse_args()
    device = choose_device(arguments.device)
    os.environ["TQDM_DISABLE"] = "1"  # pythae's bar; read when tqdm is imported, in the processes of the rows
    names = [name for name in ROWS if arguments.rows in name and (device.type == "cuda" or name not in ON_CUDA_ONLY)]
    results = {"environment": environment(arguments.device) | versions()}
    print(", ".join(f"{name} {results['environment'][name]}" for name in ("torch", "pyro", *versions())), flush=True)
    for kind, few in (("mlp", arguments.images), ("conv", arguments.conv_images)):
        conv = kind == "conv"
        wanted = [name for name in names if not conv or name in CONV_ROWS]
        if few and wanted:
            results[kind] = measure(wanted, arguments, conv)
            print("\n".join(table(results[kind])), flush=True)
        if not arguments.rows:
            files.write_json(arguments.out / f"svi_step{'' if device.type == 'cpu' else '_cuda'}.json", results)


if __name__ == "__main__":
    main()
