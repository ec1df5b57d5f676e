"""Semi-supervised classification of MNIST with 100 to 3,000 known labels of 60,000.

    python benchmarks/families/semi_supervised.py --data-root DATA --out RUNS [--only 'm1+m2'] [--minutes 40]

Measured is the share of the 10,000 test images whose most probable class under q(y|x) is their label. Training sees all
60,000 training images, of which n have a label, n / 10 of each class, drawn anew for each of 3 seeds. The settings were
tried on 5,000 held-out training images, with 100 labels, which is not recorded. Pixels are binarized dynamically in
training; in testing the classifier sees grey levels, as Pyro's example does in training and testing. Errors are
standard deviations over the seeds.

`m2` is the kind `semi-supervised` with and without the classification loss, alpha log q(y|x); `m1+m2` is the same on
the codes of a VAE, the same for all, which is trained first without labels (its seconds are in a row of their own).
That VAE has 10 dimensions and beta 0.1, so that its codes keep apart what N(0, I) would mix; the paper has 50 and 1.
Published numbers are of Pyro's example `ss_vae_M2.py`, and for m1+m2 of Kingma et al., 2014.

Each finished training is kept in RUNS and not repeated. Trainings begin until --minutes are over, the first seed of all
settings first; semi_supervised.json then has the rows of what is finished, and the number of seeds of each.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pyro_vae import Spec, build, fit, load, load_data, save
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.data import Splits
from pyro_vae.evaluation.latent_codes.clustering import label_accuracy
from pyro_vae.models.stacked import StackedSemiSupervised

SEEDS = (0, 1, 2)
NETWORK = {"kind": "mlp", "activation": "relu"}
COMMON = {"dataset": "mnist", "network": NETWORK, "binarization": "dynamic", "precision": "bf16"}
M1 = Spec(latent_dim=10, hidden=(500, 500), beta=0.1, epochs=20, schedule="cosine", compile="inductor", **COMMON)
M2 = Spec(latent_dim=50, hidden=(500,), epochs=20, lr=3e-3, compile="inductor", **COMMON)
STACKED = {"latent_dim": 5, "hidden": (500,), "alpha": 20.0, "share": 0.02}
STACKED_EPOCHS = 20
ALPHA = 20.0  # of m2
PYRO, KINGMA = "Pyro's example ss_vae_M2.py", "Kingma et al., 2014"
SETTINGS = {  # of each row: what is trained, known labels, alpha, the published accuracy and its source
    "m1+m2, 100 labels": ("m1+m2", 100, None, 0.9667, KINGMA),
    "m2, 100 labels": ("m2", 100, ALPHA, 0.932, PYRO),
    "m2, 3000 labels": ("m2", 3000, ALPHA, 0.958, PYRO),
    "m2, 1000 labels": ("m2", 1000, ALPHA, 0.949, PYRO),
    "m2, 600 labels": ("m2", 600, ALPHA, 0.944, PYRO),
    "m2, 100 labels, no classification loss": ("m2", 100, 0.0, 0.225, PYRO),
    "m1+m2, 600 labels": ("m1+m2", 600, None, None, None),
    "m1+m2, 1000 labels": ("m1+m2", 1000, None, None, None),
    "m1+m2, 3000 labels": ("m1+m2", 3000, None, None, None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trainings")
    parser.add_argument("--only", choices=("m2", "m1+m2"), help="train these alone")
    parser.add_argument("--minutes", type=float, default=1e9, help="after which no further training begins")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    images, started = load_data("mnist", arguments.data_root), time.monotonic()
    for seed in SEEDS:
        for name, (kind, labels, alpha, *_) in SETTINGS.items():
            done = arguments.out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
            is_late = time.monotonic() - started > 60 * arguments.minutes
            if done.is_file() or is_late or arguments.only not in (None, kind):
                continue
            print(f"{name}, seed {seed}", flush=True)
            result = train(kind, labels, alpha, seed, images, arguments.out)
            files.write_json(done, {"name": name, "seed": seed} | result)
            print(f"{name}, seed {seed}: {result['accuracy']:.4f}", flush=True)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(arguments.out.glob("*labels*.json"))]
    minutes = sum(result["training_seconds"] for result in results) / 60
    report = {
        "command": "python benchmarks/families/semi_supervised.py --data-root DATA --out RUNS",
        "environment": environment("cpu"),
        "budget": f"{minutes:.0f} minutes of training on one shared core, and {len(results)} trainings",
        "rows": [*rows(results), *of_m1(arguments.out)],
    }
    files.write_json(Path(__file__).with_suffix(".json"), report)


def train(kind: str, labels: int, alpha: float | None, seed: int, images: Splits, out: Path) -> dict[str, Any]:
    """Accuracy on the test images after a training, its epochs and its seconds."""
    if kind == "m2":
        model = build(replace(M2, seed=seed, model={"kind": "semi-supervised", "labels": labels, "alpha": alpha}))
        history = fit(model, images.train, device="cpu", progress=False)
    else:
        m1 = train_m1(images, out)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = StackedSemiSupervised(m1, labels=labels, seed=seed, **STACKED)
        settings = {name: getattr(M1, name) for name in ("binarization", "compile", "precision", "schedule")}
        history = fit(model, images.train, epochs=STACKED_EPOCHS, seed=seed, device="cpu", progress=False, **settings)
    with torch.no_grad():
        probabilities = torch.cat([model.classify(x) for x in images.test.as_float().split(1000)])
    measured = label_accuracy(probabilities, images.test.labels)
    return {
        "accuracy": measured.label_accuracy,
        "se": measured.label_accuracy_se,
        "epochs": len(history.epochs),
        "training_seconds": sum(history.column("seconds")),
    }


def train_m1(images: Splits, out: Path) -> torch.nn.Module:
    """The VAE whose codes are classified, trained once."""
    weights = out / "m1.safetensors"
    if not weights.is_file():
        model = build(M1)
        checkpoint = out / "m1"
        resume = checkpoint.is_dir()
        history = fit(model, images.train, device="cpu", progress=False, checkpoint=checkpoint, resume=resume)
        files.write_json(
            out / "m1.json",
            {"loss_nats": history.column("train_loss_nats")[-1]}
            | {"epochs": len(history.epochs), "training_seconds": sum(history.column("seconds"))},
        )
        save(model, weights)
    return load(weights)


def rows(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each setting that has a finished training."""
    made = []
    for name, (_, _, _, published, source) in SETTINGS.items():
        of_seeds = [result for result in results if result["name"] == name]
        if not of_seeds:
            continue
        accuracies = [result["accuracy"] for result in of_seeds]
        several = len(of_seeds) > 1
        made.append(
            {
                "name": name,
                "metric": "label_accuracy",
                "value": statistics.mean(accuracies),
                "error": statistics.stdev(accuracies) if several else of_seeds[0]["se"],
                "error_is": f"sd over {len(of_seeds)} seeds" if several else "se over images",
                "n_images": 10_000,
                "k": None,
                "epochs": of_seeds[0]["epochs"],
                "training_seconds": statistics.mean(result["training_seconds"] for result in of_seeds),
                "published": published,
                "published_source": source,
            }
        )
    return made


def of_m1(out: Path) -> list[dict[str, Any]]:
    """The row of the VAE below m1+m2."""
    if not (out / "m1.json").is_file():
        return []
    trained = json.loads((out / "m1.json").read_text(encoding="utf-8"))
    return [
        {
            "name": "m1, which all rows of m1+m2 share",
            "metric": "loss_nats of the last epoch of training",
            "value": trained["loss_nats"],
            "error": None,
            "error_is": None,
            "n_images": 60_000,
            "k": None,
            "epochs": trained["epochs"],
            "training_seconds": trained["training_seconds"],
            "published": None,
            "published_source": None,
        }
    ]


if __name__ == "__main__":
    main()
