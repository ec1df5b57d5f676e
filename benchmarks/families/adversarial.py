"""Adversarial autoencoders on MNIST beside a VAE and an autoencoder of the same networks; writes adversarial.json.

    python benchmarks/families/adversarial.py --data-root DATA --out FOLDER

All models: MLP 784-400-d and its mirror, ReLU, a Bernoulli likelihood of dynamically binarized pixels, 60,000
training images, batches of 128, Adam with a learning rate of 1e-3 that falls to 0 along a cosine; d = 8, or 2. The
adversarial ones have a discriminator of two hidden layers of 400 units and betas (0.5, 0.9); with a fixed prior they
have weight 30, gradient_penalty 0.03 and discriminator_rate 4, which were chosen on 10,000 of the training images by
the two-sample accuracy of training and test codes. `generator` has the learned prior, and the model's defaults; `arae`
as well, at the sizes of Zhao et al.'s binarized MNIST (d = 100, encoder 800-400, generator 64-100 from noise of 32
dimensions, discriminator 100-60-20), but without the noise on codes and the clamped critic.

Measured on the 10,000 test images, each binarized once for all models, but for the Frechet distance:

- two-sample accuracy and the lower bound on KL(q(z) || p(z)): a classifier trained on 5,000 codes of test images (of
  the VAE a draw from q(z|x) each) and 5,000 draws of the prior, tested on as many others (n = 10,000);
- MSE per pixel at the location of q(z|x);
- Frechet distance of 10,000 samples, decoded means, to the test images in grey levels, by features of a classifier
  trained on MNIST: comparable within this table only. An autoencoder has no prior: its samples are decoded from
  N(0, I), and from a normal with the mean and covariance of the test codes, which knows more of them than a prior.

Over several seeds, a row is their mean and standard deviation; of one seed, the error is the standard error over
images. Each training is kept in FOLDER and not repeated. Also draws docs/_static/adversarial-codes.png: 2-d codes
under three priors.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch

from pyro_vae import Spec, build, evaluate, fit, latent, load, load_data, plots, save
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae._utils.rng import seeded_rng
from pyro_vae.evaluation import in_domain_classifier, two_sample_test
from pyro_vae.evaluation.samples.features import extract
from pyro_vae.evaluation.samples.frechet import frechet_from_features, frechet_se
from pyro_vae.evaluation.samples.scores import real_features
from pyro_vae.training.checkpoint import read_checkpoint

PATH = Path(__file__).with_suffix(".json")
PICTURE = Path(__file__).parents[2] / "docs" / "_static" / "adversarial-codes.png"
RELU = {"kind": "mlp", "activation": "relu"}
SPEC = {
    "dataset": "mnist",
    "binarization": "dynamic",
    "network": RELU,
    "validation_fraction": 0.0,
    "latent_dim": 8,
    "schedule": "cosine",
}
GAME = {"optimizer": {"kind": "adam", "betas": (0.5, 0.9)}}
AAE = GAME | {"model": {"kind": "adversarial", "weight": 30.0, "gradient_penalty": 0.03, "discriminator_rate": 4.0}}
LEARNED = GAME | {"model": "adversarial", "prior": "generator"}
ARAE = {"kind": "adversarial", "discriminator": (100, 60, 20)}
RUNS = {  # name: fields of the spec beside these, and seeds
    "adversarial": (AAE, 5),
    "vae": ({}, 1),
    "autoencoder": ({"model": "autoencoder"}, 1),
    "normal-2d": (AAE | {"latent_dim": 2}, 1),
    "mixture-2d": (AAE | {"latent_dim": 2, "prior": "mixture"}, 1),
    "swiss-roll-2d": (AAE | {"latent_dim": 2, "prior": "swiss-roll"}, 1),
    "generator": (LEARNED, 1),
    "arae": (LEARNED | {"model": ARAE, "latent_dim": 100, "hidden": (800, 400)}, 1),
}
METRICS = ("two_sample_accuracy", "marginal_kl_lower_nats", "mse_per_pixel", "frechet", "frechet_of_normal_codes")
CPU = {"device": "cpu"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings and their measurements")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--train-images", type=int, default=60_000)
    arguments = parser.parse_args()
    splits = load_data("mnist", arguments.data_root)
    wanted = [(name, seed) for name, (_, seeds) in RUNS.items() for seed in range(seeds)]
    for name, seed in sorted(wanted, key=lambda run: run[1]):  # one seed of each first
        measured(arguments, splits, name, seed)
    draw_codes(arguments.out, splits.test)
    results = {
        "command": "python benchmarks/families/adversarial.py --data-root DATA --out FOLDER"
        + (f" --epochs {arguments.epochs}" if arguments.epochs != 10 else "")
        + (f" --train-images {arguments.train_images}" if arguments.train_images != 60_000 else ""),
        "environment": environment("cpu"),
        "budget": f"{arguments.epochs} epochs of {arguments.train_images:,} images each, on one CPU core, which other "
        "work shared; the seconds are those of the clock",
        "rows": [row for name in RUNS for row in rows(arguments, name)],
    }
    files.write_json(PATH, results)
    print(json.dumps(results["rows"], indent=1))


def measured(arguments: argparse.Namespace, splits, name: str, seed: int) -> dict[str, float]:
    """The numbers of one training, which is done unless they are there."""
    path = arguments.out / f"{name}-{seed}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    spec = Spec(**{**SPEC, **RUNS[name][0]}, epochs=arguments.epochs, seed=seed)
    weights = path.with_suffix(".safetensors")
    if not weights.is_file():
        model = build(spec)
        train = splits.train.draw(arguments.train_images, seed=0)
        checkpoint = arguments.out / f"{name}-{seed}-checkpoint"
        fit(model, train, checkpoint=checkpoint, resume=checkpoint.is_dir(), compile="capture", **CPU)
        save(model, weights)
    model = load(weights)
    values = evaluate(model, splits.test, metrics=["bounds"], **CPU).to_dict()
    values = {key: values[key] for key in METRICS if key in values}
    values |= of_codes(model, splits.test) | of_samples(model, splits)
    files.write_json(path, values)
    print(name, seed, values, flush=True)
    return values


def of_codes(model, images) -> dict[str, float]:
    """Codes of the test images against draws of the prior."""
    if not hasattr(model, "prior"):
        return {}
    codes = latent.posterior_means(model, images, draws=1, **CPU)
    test = two_sample_test(codes, draws_of(model, len(images)))
    return {
        "two_sample_accuracy": test.accuracy,
        "two_sample_accuracy_se": test.accuracy_se,
        "marginal_kl_lower_nats": test.kl_lower_nats,
        "marginal_kl_lower_nats_se": test.kl_lower_se,
    }


def draws_of(model, n: int) -> torch.Tensor:
    with torch.no_grad(), seeded_rng(torch.device("cpu"), 1):
        return model.prior().sample((n,))


def of_samples(model, splits) -> dict[str, float]:
    """The Frechet distance of decoded draws to the test images."""
    codes = latent.codes(model, splits.test, **CPU)
    n, d = codes.shape
    noise = torch.randn(n, d, generator=torch.Generator().manual_seed(1))
    if hasattr(model, "prior"):
        draws = {"frechet": draws_of(model, n)}
    else:
        factor = torch.linalg.cholesky(codes.T.double().cov()).float()
        draws = {"frechet": noise, "frechet_of_normal_codes": codes.mean(0) + noise @ factor.T}
    classifier = in_domain_classifier(splits, **CPU)
    real = real_features(classifier, splits.test, torch.device("cpu"))
    values = {}
    for name, z in draws.items():
        images = torch.cat([latent.decode_codes(model, part) for part in z.split(1000)])
        pixels = (images * 255).round().clamp(0, 255).to(torch.uint8)
        pool = extract(classifier, pixels, **CPU).pool
        values |= {name: frechet_from_features(real.pool, pool), f"{name}_se": frechet_se(real.pool, pool)}
    return values


def rows(arguments: argparse.Namespace, name: str) -> list[dict[str, object]]:
    """A row for each metric of a run, over its seeds."""
    seeds = [
        json.loads((arguments.out / f"{name}-{seed}.json").read_text(encoding="utf-8")) for seed in range(RUNS[name][1])
    ]
    found = []
    for metric in METRICS:
        values = [values[metric] for values in seeds if metric in values]
        if not values:
            continue
        several = len(values) > 1
        error = statistics.stdev(values) if several else seeds[0].get(f"{metric}_se")
        found.append(
            {
                "name": name,
                "metric": metric,
                "value": statistics.mean(values),
                "error": error,
                "error_is": f"sd over {len(values)} seeds" if several else None if error is None else "se over images",
                "values": values,
                "n_images": 10_000,
                "k": None,
                "epochs": arguments.epochs,
                "training_seconds": statistics.mean(seconds(arguments.out, name, seed) for seed in range(len(seeds))),
                "published": None,
                "published_source": None,
            }
        )
    return found


def seconds(folder: Path, name: str, seed: int) -> float:
    """Those of the epochs of a training, on the clock."""
    stored = read_checkpoint(folder / f"{name}-{seed}-checkpoint")
    return sum(epoch["seconds"] for epoch in stored["epochs"])


def draw_codes(folder: Path, images) -> None:
    """Codes of test images in the plane under three priors, with draws of the prior in grey."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, 3, figsize=(12, 8), layout="constrained")
    for column, name in zip(panels.T, ("normal-2d", "mixture-2d", "swiss-roll-2d"), strict=True):
        model = load(folder / f"{name}-0.safetensors")
        codes, some = latent.codes(model, images, **CPU), slice(0, 4000)
        column[0].scatter(*draws_of(model, 4000).T, s=2, color="0.4")
        for label in range(10):
            chosen = codes[some][images.labels[some] == label]
            column[1].scatter(*chosen.T, s=2, color=plots.COLOURS[label], label=str(label))
        column[0].set_title(f"{name.removesuffix('-2d')}: draws of the prior")
        column[1].set_title("codes of test images")
        for axes in column:
            axes.set_aspect("equal", adjustable="datalim")
    figure.legend(*panels[1, 0].get_legend_handles_labels(), loc="outside right center", title="class", markerscale=4)
    figure.savefig(PICTURE, dpi=80)


if __name__ == "__main__":
    main()
