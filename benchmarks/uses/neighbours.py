"""Precision at 10 of nearest neighbours on MNIST and Fashion-MNIST; writes benchmarks/uses/neighbours.json.

    python benchmarks/uses/neighbours.py --data-root DATA --out RUNS

Codes of VAEs (MLP 784-400-400-d and its mirror, ReLU, a Bernoulli of dynamically binarized pixels, 60,000 training
images, 20 epochs of batches of 128, Adam with a learning rate of 1e-3 that falls to 0 along a cosine) with d = 2, 8
and 32, beside the pixels and d principal components. The queries are the 10,000 test images, in grey levels, the
reference the 60,000 training images. Precision at 10 is the share of the ten nearest, by Euclidean distance, that
have the class of the query: the mean over all queries with its standard error, and by class. A row is of one
training. Trainings are kept in RUNS and not repeated.
"""

import argparse
from pathlib import Path

from pyro_vae import Spec, build, fit, load, load_data, save
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.uses.neighbours import nearest, retrieval, spaces

PATH = Path(__file__).with_suffix(".json")
SETS, DIMENSIONS, K = ("mnist", "fashion-mnist"), (2, 8, 32), 10
SPEC = {
    "network": {"kind": "mlp", "activation": "relu"},
    "hidden": (400, 400),
    "schedule": "cosine",
    "binarization": "dynamic",
    "validation_fraction": 0.0,
}
CPU = {"device": "cpu"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--train-images", type=int, default=60_000)
    parser.add_argument("--images", type=int, default=10_000, help="queries")
    parser.add_argument("--json", type=Path, default=PATH, help="file to write; elsewhere for a trial")
    arguments = parser.parse_args()
    rows = []
    for dataset in SETS:
        splits = load_data(dataset, arguments.data_root)
        train, queries = splits.train.draw(arguments.train_images), splits.test.draw(arguments.images)
        for d in DIMENSIONS:
            model = trained(arguments, train, dataset, d)
            for name, pair in spaces(model, queries, train, **CPU).items():
                if name == "pixels" and d != DIMENSIONS[0]:
                    continue  # they are the same for all models
                result = retrieval(nearest(*pair, K, progress=True), train.labels, queries.labels)
                rows.append(row(dataset, name, d, result, queries.class_names))
                print(dataset, name, d, f"{result.precision:.3f}", flush=True)
    results = {
        "command": "python benchmarks/uses/neighbours.py --data-root DATA --out RUNS"
        + (f" --epochs {arguments.epochs}" if arguments.epochs != 20 else ""),
        "environment": environment("cpu"),
        "epochs": arguments.epochs,
        "num_reference": arguments.train_images,
        "rows": rows,
    }
    files.write_json(arguments.json, results)


def trained(arguments, images, dataset: str, d: int):
    """The model of a training, which is done unless its weights are there, and resumed from its checkpoint."""
    weights = arguments.out / f"{dataset}-{d}.safetensors"
    if not weights.is_file():
        model = build(Spec(**SPEC, dataset=dataset, latent_dim=d, epochs=arguments.epochs))
        checkpoint = arguments.out / f"{dataset}-{d}-checkpoint"
        fit(model, images, checkpoint=checkpoint, resume=checkpoint.is_dir(), compile="capture", **CPU)
        save(model, weights)
    return load(weights)


def row(dataset: str, space: str, d: int, result, class_names) -> dict[str, object]:
    return {
        "dataset": dataset,
        "space": space,
        "dimensions": 784 if space == "pixels" else d,
        "k": result.k,
        "n": result.n,
        "precision": result.precision,
        "precision_se": result.precision_se,
        "by_class": {class_names[label]: share for label, share in result.by_class.items()},
    }


if __name__ == "__main__":
    main()
