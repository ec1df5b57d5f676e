"""Outlier scores of VAEs on MNIST and Fashion-MNIST; writes benchmarks/uses/outliers.json.

    python benchmarks/uses/outliers.py --data-root DATA --out RUNS

Models: MLP 784-400-400-20 and its mirror, ReLU, 60,000 training images, 10 epochs of batches of 128, Adam with a
learning rate of 1e-3 that falls to 0 along a cosine. Three likelihoods: Bernoulli of dynamically binarized pixels, a
normal of learned variance of dequantized pixels, and a discretized logistic of the 256 levels. For each data set and
likelihood: three seeds, of which the first is scored and all three give WAIC, and a background model, trained on
images of which a fifth of the pixels are replaced by uniform grey levels.

Two designs:

- `MNIST` against `Fashion-MNIST` and the other way round: inliers are test images of the training set's kind,
  outliers test images of the other's; all nine scores, three likelihoods.
- one class of MNIST held out, each of the ten: the model (Bernoulli, one seed) is trained on the other nine classes,
  whose test images are the inliers, and those of the held-out class the outliers; without ratio and WAIC.

1,000 inliers, 1,000 outliers (all images of a held-out class up to that), and 1,000 further inliers that set
thresholds and the mean of typicality, drawn at random with seed 0; of each the first 250 for the regret, which takes
longest. NLL with 100 importance samples. No setting was chosen by outliers: the rate of perturbed pixels is 0.2
throughout. Areas have bootstrap intervals over images (1,000 resamples); a row is of one training. Trainings and scores
are kept in RUNS and not repeated; with --held-out-classes the second design alone is done, and nothing is written.
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from pyro_vae import Spec, build, fit, load, load_data, save
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.uses.detection import detection, flagged_share, threshold
from pyro_vae.uses.outlier_table import SCORES, outlier_table
from pyro_vae.uses.outliers import perturbed

PATH = Path(__file__).with_suffix(".json")
SETS = ("mnist", "fashion-mnist")
LIKELIHOODS = {  # name: fields of the spec
    "bernoulli": {"binarization": "dynamic"},
    "gaussian-learned": {"binarization": "none", "dequantize": True},
    "discretized-logistic": {"binarization": "none"},
}
SPEC = {
    "network": {"kind": "mlp", "activation": "relu"},
    "hidden": (400, 400),
    "latent_dim": 20,
    "schedule": "cosine",
    "validation_fraction": 0.0,
}
SEEDS, RATE, FALSE_POSITIVES = 3, 0.2, 0.05
CPU = {"device": "cpu"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings and their scores")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--train-images", type=int, default=60_000)
    parser.add_argument("--images", type=int, default=1000, help="to score, of each set")
    parser.add_argument("--regret-images", type=int, default=250, help="to score by regret, of each set")
    parser.add_argument("--k", type=int, default=100, help="importance samples")
    parser.add_argument("--held-out-classes", action="store_true", help="the second design alone, no file")
    parser.add_argument("--json", type=Path, default=PATH, help="file to write; elsewhere for a trial")
    arguments = parser.parse_args()
    data = {name: load_data(name, arguments.data_root) for name in SETS}
    rows = []
    if arguments.held_out_classes:
        for label in range(10):
            of_held_out_class(arguments, data["mnist"], label)
        return
    for likelihood in LIKELIHOODS:
        for trained_on, other in (SETS, SETS[::-1]):
            rows += of_two_sets(arguments, data[trained_on], data[other].test, trained_on, likelihood)
    for label in range(10):
        rows += of_held_out_class(arguments, data["mnist"], label)
    results = {
        "command": "python benchmarks/uses/outliers.py --data-root DATA --out RUNS"
        + (f" --epochs {arguments.epochs}" if arguments.epochs != 10 else "")
        + (f" --train-images {arguments.train_images}" if arguments.train_images != 60_000 else ""),
        "environment": environment("cpu"),
        "epochs": arguments.epochs,
        "k": arguments.k,
        "rows": rows,
    }
    files.write_json(arguments.json, results)


def of_two_sets(arguments, splits, outliers, trained_on: str, likelihood: str) -> list[dict[str, object]]:
    """A row for each score of one model against the images of another set."""
    name = f"{trained_on}-{likelihood}"
    spec = Spec(**SPEC, **LIKELIHOODS[likelihood], dataset=trained_on, likelihood=likelihood, epochs=arguments.epochs)
    models = [trained(arguments, splits.train, replace(spec, seed=seed), f"{name}-{seed}") for seed in range(SEEDS)]
    noisy = perturbed(splits.train, RATE)
    background = trained(arguments, noisy, spec, f"{name}-background")
    more = {"background": background, "ensemble": models[1:]}
    kinds = {"design": "two-sets", "trained_on": trained_on, "outliers": outliers.name, "likelihood": likelihood}
    return scored(arguments, name, models[0], splits.train, splits.test, outliers, SCORES, kinds, more)


def of_held_out_class(arguments, splits, label: int) -> list[dict[str, object]]:
    """A row for each score of a model that has not seen one class, against that class."""
    train, test = (each.take((each.labels != label).nonzero()[:, 0]) for each in splits)
    outliers = splits.test.take((splits.test.labels == label).nonzero()[:, 0])
    spec = Spec(**SPEC, **LIKELIHOODS["bernoulli"], dataset="mnist", epochs=arguments.epochs)
    name = f"without-{label}"
    model = trained(arguments, train, spec, name)
    names = [score for score in SCORES if score not in ("ratio", "waic")]
    kinds = {"design": "held-out-class", "trained_on": f"mnist without {label}", "outliers": f"mnist {label}"}
    kinds["likelihood"] = "bernoulli"
    return scored(arguments, name, model, train, test, outliers, names, kinds, {})


def trained(arguments, images, spec: Spec, name: str):
    """The model of a training, which is done unless its weights are there, and resumed from its checkpoint."""
    weights = arguments.out / f"{name}.safetensors"
    if not weights.is_file():
        model, checkpoint = build(spec), arguments.out / f"{name}-checkpoint"
        some = images.draw(arguments.train_images, seed=0)
        fit(model, some, checkpoint=checkpoint, resume=checkpoint.is_dir(), compile="inductor", **CPU)
        save(model, weights)
    return load(weights)


def scored(arguments, name: str, model, train, test, outliers, names, kinds, more) -> list[dict[str, object]]:
    """The rows of one model."""
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    held_out, inliers = (part[: arguments.images] for part in order.tensor_split(2))
    sets = {"held out": test.take(held_out), "inliers": test.take(inliers), "outliers": outliers.draw(arguments.images)}
    fewer = {key: each.take(slice(arguments.regret_images)) for key, each in sets.items()}
    usual = [score for score in names if score != "regret"]
    stored = {
        **scores_of(arguments, f"{name}-scores", usual, model, sets, train, more),
        **scores_of(arguments, f"{name}-regret", ["regret"], model, fewer, train, {}),
    }
    rows = []
    for score in names:
        values = {key: torch.tensor(stored[score][key], dtype=torch.float64) for key in sets}
        result = asdict(detection(values["inliers"], values["outliers"]))
        limit = threshold(values["held out"], FALSE_POSITIVES)
        result["false_positive_rate"] = flagged_share(limit.flags(values["inliers"])).share
        result["true_positive_rate"] = flagged_share(limit.flags(values["outliers"])).share
        rows.append({**kinds, "score": score, **result})
        print(name, score, f"AUROC {result['auroc']:.3f}", flush=True)
    return rows


def scores_of(arguments, name: str, names, model, sets, train, more) -> dict[str, dict[str, list[float]]]:
    """Some scores of each set, which are computed unless they are there."""
    path = arguments.out / f"{name}.json"
    if not path.is_file():
        options = {"held_out": "held out", "train": train, "k": arguments.k, "progress": True, **more, **CPU}
        table = outlier_table(model, sets, names, **options)
        lists = {score: {key: each.tolist() for key, each in of.items()} for score, of in table.scores.items()}
        files.write_json(path, lists)
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
