"""Trains the same VAEs by each objective, from paired seeds, and measures the noise of their gradients.

    python benchmarks/objectives.py --data-root DATA --out RUNS [--device cuda]

An MLP 784-400-20, a convolutional VAE of d = 16, begun in four ways, and the MLP with flows, on 10,000 statically
binarized MNIST images, so that the ELBO is a bound on a log-likelihood. A seed fixes the initial weights, the order of
the images and the noise, for all objectives alike, so that differences between objectives are paired. Each run is kept
as a JSON file in RUNS and not done again. Prints Markdown tables of all that is there, and writes objectives.json, or
objectives_cuda.json.
"""

import argparse
import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch

from pyro_vae import Images, Spec, build, fit, load, load_data
from pyro_vae._utils import files
from pyro_vae._utils.device import choose_device
from pyro_vae._utils.environment import environment
from pyro_vae._utils.rng import seeded_rng
from pyro_vae.data import binarize
from pyro_vae.data.batches import to_unit
from pyro_vae.evaluation import bounds
from pyro_vae.objectives import objective

MNIST = {"dataset": "mnist", "binarization": "static", "validation_fraction": 0.0}
CLOSED, SAMPLED = ("elbo", "mean-field", "path-gradient"), ("elbo", "path-gradient")  # without a closed form of the KL
MODELS = {
    "mlp": (Spec(latent_dim=20, hidden=(400,), **MNIST), CLOSED),
    "conv": (Spec(network="conv", latent_dim=16, hidden=(256,), **MNIST), CLOSED),
    "conv-he": (Spec(network={"kind": "conv", "initialization": "he"}, latent_dim=16, hidden=(256,), **MNIST), CLOSED),
    "conv-warm-up": (Spec(network="conv", latent_dim=16, hidden=(256,), beta_warmup=5, **MNIST), ("path-gradient",)),
    "conv-narrow": (Spec(network="conv", latent_dim=16, hidden=(256,), **MNIST), ("path-gradient",)),
    "planar": (Spec(latent_dim=20, hidden=(400,), posterior="planar", **MNIST), SAMPLED),
    "conditional-planar": (Spec(latent_dim=20, hidden=(400,), posterior="conditional-planar", **MNIST), SAMPLED),
}
EVALUATED_AFTER = (1, 2, 6, 12, 25)  # epochs
LOWER_LOG_VARIANCE = {"conv-narrow": 4.0}  # subtracted from the log-variance of q(z|x) at the start
DRAWS = 50  # of a gradient
NOISE_OF = {"mlp": 2}  # number of seeds whose gradient noise is measured; 1 for the other models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results of the runs")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--objectives", nargs="+", choices=CLOSED, default=CLOSED)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, each a process with one thread")
    arguments = parser.parse_args()
    wanted = [
        (name, of, seed)
        for seed in range(arguments.seeds)
        for name in arguments.models
        for of in MODELS[name][1]
        if of in arguments.objectives
    ]
    # Spawned processes, because CUDA does not survive a fork.
    with ProcessPoolExecutor(arguments.jobs, multiprocessing.get_context("spawn")) as pool:
        for training in pool.map(partial(run_or_read, arguments), wanted):
            values = ", ".join(f"{value:.2f} after {epoch}" for epoch, value in training["elbo_nats"].items())
            print(f"{training['model']}, {training['objective']}, seed {training['seed']}: {values}", flush=True)
    runs = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(arguments.out.glob("*.json"))]
    print("\n" + table(runs))
    results = {"environment": environment(arguments.device), "images": arguments.images, "draws": DRAWS, "runs": runs}
    name = "objectives.json" if choose_device(arguments.device).type == "cpu" else "objectives_cuda.json"
    files.write_json(Path(__file__).with_name(name), results)


def run_or_read(arguments: argparse.Namespace, wanted: tuple[str, str, int]) -> dict:
    """The result of a run; from its file, if it was done before."""
    torch.set_num_threads(1)
    name, of, seed = wanted
    epochs = [epoch for epoch in EVALUATED_AFTER if epoch <= arguments.epochs]
    path = arguments.out / f"{name}-{of}-seed-{seed}-images-{arguments.images}-epochs-{epochs[-1]}.json"
    if not path.is_file():
        train, test = load_data("mnist", arguments.data_root)
        train = train.draw(arguments.images)
        files.write_json(path, run(name, of, seed, train, test, epochs, choose_device(arguments.device)))
    return json.loads(path.read_text(encoding="utf-8"))


def run(
    name: str, of: str, seed: int, train: Images, test: Images, epochs: Sequence[int], device: torch.device
) -> dict:
    """A training: ELBO of the test images after some epochs; for `elbo`, also the gradient noise of all objectives."""
    spec = Spec(**MODELS[name][0].to_dict() | {"image_shape": train.shape, "objective": of, "seed": seed})
    with tempfile.TemporaryDirectory() as folder:
        weights = {epoch: Path(folder) / f"{epoch}.safetensors" for epoch in epochs}
        model = build(spec)
        with torch.no_grad():  # the encoder's outputs are the means, then the log-variances
            model.encoder[-1].bias[spec.latent_dim :] -= LOWER_LOG_VARIANCE.get(name, 0.0)
        history = fit(
            model,
            train,
            epochs=epochs[-1],
            objective=of,
            beta_warmup=spec.beta_warmup,
            binarization="static",
            seed=seed,
            device=device,
            # On a CPU a compilation does not pay off in 2,000 steps of convolutions.
            compile="auto" if device.type == "cuda" else "capture" if spec.network == "conv" else "inductor",
            snapshots=weights,
            progress=False,
        )
        trained = {epoch: load(path) for epoch, path in weights.items()}
    bounds_by_epoch = {
        epoch: bounds(model, test, binarization="static", device=device) for epoch, model in trained.items()
    }
    result = {
        "model": name,
        "objective": of,
        "seed": seed,
        "elbo_nats": {epoch: estimate.elbo_nats for epoch, estimate in bounds_by_epoch.items()},
        "kl_nats": {epoch: estimate.kl_per_sample for epoch, estimate in bounds_by_epoch.items()},
        "train_loss_nats": history.column("train_loss_nats"),
        "seconds": sum(history.column("seconds")),
    }
    if of == "elbo" and seed < NOISE_OF.get(name, 1):  # all objectives are compared at the weights of `elbo`
        pixels = binarize(train, "static").pixels.to(device)
        at = {0: build(spec), 1: trained[epochs[0]], epochs[-1]: trained[epochs[-1]]}
        result["noise"] = {
            epoch: {of: noise(model.to(device), of, pixels, seed) for of in MODELS[name][1]}
            for epoch, model in at.items()
        }
    return result


def noise(model: torch.nn.Module, of: str, pixels: torch.Tensor, seed: int) -> dict:
    """Traces of the covariance of a step's gradient, in nats per image: for one batch, and over batches as well.

    The same batches and the same noise for all objectives.
    """
    parts = {
        "encoder": [*model.encoder.parameters(), *model.posterior.parameters()],
        "decoder": [*model.decoder.parameters()],
    }
    elbo, model = objective(of), model.train()
    variances: dict[str, dict[str, float]] = {part: {} for part in parts}
    for kind in ("one_batch", "batches"):
        sums = {part: [torch.zeros_like(param, dtype=torch.float64) for param in own] for part, own in parts.items()}
        squares = dict.fromkeys(parts, 0.0)
        with seeded_rng(pixels.device, seed):
            rows = torch.randperm(len(pixels), device=pixels.device)[:128]
            for _ in range(DRAWS):
                if kind == "batches":
                    rows = torch.randperm(len(pixels), device=pixels.device)[:128]
                model.zero_grad()
                elbo.loss_and_grads(model.model, model.guide, to_unit(pixels[rows]))
                for part, own in parts.items():
                    for total, parameter in zip(sums[part], own, strict=True):
                        gradient = parameter.grad.double() / len(rows)
                        total += gradient
                        squares[part] += float(gradient.square().sum())
        for part in parts:
            of_mean = sum(float(total.square().sum()) for total in sums[part]) / DRAWS
            variances[part][kind] = (squares[part] - of_mean) / (DRAWS - 1)
            variances[part][f"{kind}_mean_norm_squared"] = of_mean / DRAWS - variances[part][kind] / DRAWS
    return variances


def table(runs: list[dict]) -> str:
    """Markdown: ELBO of the test images by objective, differences from `elbo` with their standard errors, and noise."""
    epochs = sorted({int(epoch) for run in runs for epoch in run["elbo_nats"]})
    lines = [
        f"| model | objective | seeds | {' | '.join(f'after {epoch}' for epoch in epochs)} |",
        "|---" * (len(epochs) + 3) + "|",
    ]
    noise = [
        "| model | weights after | objective | encoder: noise | of elbo's | of batches and noise | decoder: noise "
        "| of elbo's | of batches and noise |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, int], dict[str, dict[int, dict]]] = {}  # model, epochs; objective; seed
    for run in runs:
        of_model = groups.setdefault((run["model"], len(run["train_loss_nats"])), {})
        of_model.setdefault(run["objective"], {})[run["seed"]] = run
    for (name, _), by_objective in groups.items():
        elbo = by_objective.get("elbo", {})
        for of, own in by_objective.items():
            cells = []
            for epoch in map(str, epochs):
                values = [run["elbo_nats"][epoch] for run in own.values() if epoch in run["elbo_nats"]]
                both = [(run, elbo[seed]) for seed, run in own.items() if seed in elbo and epoch in run["elbo_nats"]]
                pairs = [run["elbo_nats"][epoch] - other["elbo_nats"][epoch] for run, other in both]
                difference = f"; {_cell(pairs, paired=True)}" if pairs and of != "elbo" else ""
                cells.append(_cell(values) + difference if values else "")
            lines.append(f"| {name} | {of} | {len(own)} | {' | '.join(cells)} |")
        measured = [run["noise"] for run in elbo.values() if "noise" in run]
        for epoch in measured[0] if measured else ():
            for of in measured[0][epoch]:
                noise.append(f"| {name} | {epoch} | {of} | {' | '.join(_of_noise(measured, epoch, of))} |")
    return "\n".join([*lines, "", *noise])


def _of_noise(measured: list[dict], epoch: str, of: str) -> list[str]:
    """Of each part the trace, its ratio to that of `elbo`, and its share of the trace over batches and noise."""
    cells = []
    for part in ("encoder", "decoder"):
        variance, base, whole = (
            statistics.mean(noise[epoch][which][part][kind] for noise in measured)
            for which, kind in ((of, "one_batch"), ("elbo", "one_batch"), (of, "batches"))
        )
        cells += [f"{variance:.3g}", f"{variance / base:.2f}", f"{variance / whole:.2f}"]
    return cells


def _cell(values: list[float], paired: bool = False) -> str:
    """Mean and standard deviation over seeds; of paired differences, mean ± its standard error."""
    mean = f"{statistics.mean(values):{'+.2f' if paired else '.2f'}}"
    if len(values) < 2:
        return mean
    deviation = statistics.stdev(values)
    return f"{mean} ± {deviation / len(values) ** 0.5:.2f}" if paired else f"{mean} (sd {deviation:.2f})"


if __name__ == "__main__":
    main()
