"""Clustering of MNIST without labels by a mixture VAE of 10 clusters, from three starts.

    python benchmarks/families/mixture.py --data-root DATA --out RUNS [--minutes 40]

Measured on the 10,000 test images, each in its most probable cluster: the share in the cluster that is matched to their
class (Hungarian matching), the normalised mutual information of cluster and class, and how many clusters have at least
1 % of the images. Errors are standard deviations over 5 seeds, of the initial weights, the order of the images and all
noise. Labels are used in this alone: training is on all 60,000 images, without labels, binarized dynamically.

`spread 0.1` and `spread 1` begin with means of the clusters at random, with these standard deviations around 0. `codes`
begins at the codes of a VAE with the same networks, trained before with beta 0.1, to which a mixture is fitted by
expectation-maximisation (:meth:`pyro_vae.models.mixture.Mixture.start_at`); `codes, before training` is that start
itself, so that what the training of the mixture adds can be seen. The rows have the epochs of both trainings together,
so that all starts have the same number of steps.

Each finished training is kept in RUNS and not repeated. Trainings begin until --minutes are over, the first seed of all
starts first; mixture.json then has the rows of what is finished.
"""

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pyro_vae import Images, Spec, build, fit, load_data
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.data import Splits, binarize
from pyro_vae.evaluation.latent_codes.clustering import clustering

SEEDS = range(5)
BEFORE, EPOCHS = 10, 20  # of the VAE, and of both trainings together
SPEC = Spec(
    dataset="mnist",
    latent_dim=10,
    hidden=(500, 500),
    network={"kind": "mlp", "activation": "relu"},
    binarization="dynamic",
    compile="capture",
    precision="bf16",
)
STARTS = ("codes", "spread 0.1", "spread 1")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trainings")
    parser.add_argument("--minutes", type=float, default=1e9, help="after which no further training begins")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    images, started = load_data("mnist", arguments.data_root), time.monotonic()
    for seed in SEEDS:
        for start in STARTS:
            done = arguments.out / f"mixture-{start.replace(' ', '-')}-{seed}.json"
            if done.is_file() or time.monotonic() - started > 60 * arguments.minutes:
                continue
            print(f"{start}, seed {seed}", flush=True)
            result = train(start, seed, images)
            files.write_json(done, {"start": start, "seed": seed} | result)
            print(f"{start}, seed {seed}: {result['measured']}", flush=True)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(arguments.out.glob("mixture-*.json"))]
    minutes = sum(result["training_seconds"] for result in results) / 60
    report = {
        "command": "python benchmarks/families/mixture.py --data-root DATA --out RUNS",
        "environment": environment("cpu"),
        "budget": f"{minutes:.0f} minutes of training on one shared core, and {len(results)} trainings",
        "rows": [row for start in (*STARTS, "codes, before training") for row in rows(start, results)],
    }
    files.write_json(Path(__file__).with_suffix(".json"), report)


def train(start: str, seed: int, images: Splits) -> dict[str, Any]:
    """The agreement of clusters and classes on the test images after a training, and before it."""
    quiet: dict[str, Any] = {"device": "cpu", "progress": False}
    options = {"kind": "mixture"} if start == "codes" else {"kind": "mixture", "spread": float(start.split()[1])}
    mixture = build(replace(SPEC, model=options, seed=seed, epochs=EPOCHS - BEFORE if start == "codes" else EPOCHS))
    seconds, before = 0.0, None
    if start == "codes":
        vae = build(replace(SPEC, seed=seed, beta=0.1, epochs=BEFORE))
        seconds = sum(fit(vae, images.train, **quiet).column("seconds"))
        mixture.start_at(vae, binarize(images.train, "static"), seed)
        before = agreement(mixture, images.test)
    history = fit(mixture, images.train, **quiet)
    return {
        "measured": agreement(mixture, images.test),
        "before": before,
        "epochs": EPOCHS,
        "training_seconds": seconds + sum(history.column("seconds")),
    }


def agreement(mixture: torch.nn.Module, images: Images) -> dict[str, float]:
    """The metrics of the clusters of these images."""
    test = binarize(images, "static")
    with torch.no_grad():
        probabilities = torch.cat([mixture.classify(x) for x in test.as_float().split(1000)])
    return dict(vars(clustering(probabilities, test.labels)))


def rows(name: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each metric of a start that has a finished training."""
    start, _, when = name.partition(", ")
    of_seeds = [result for result in results if result["start"] == start]
    measured = [result["before" if when else "measured"] for result in of_seeds]
    made = []
    for metric in ("cluster_accuracy", "cluster_nmi", "clusters_used") if measured else ():
        values = [each[metric] for each in measured]
        made.append(
            {
                "name": f"mixture, from {name}",
                "metric": metric,
                "value": statistics.mean(values),
                "error": statistics.stdev(values) if len(values) > 1 else None,
                "error_is": f"sd over {len(values)} seeds" if len(values) > 1 else None,
                "n_images": 10_000,
                "k": None,
                "epochs": BEFORE if when else of_seeds[0]["epochs"],
                "training_seconds": None if when else statistics.mean(each["training_seconds"] for each in of_seeds),
                "published": None,
                "published_source": None,
            }
        )
    return made


if __name__ == "__main__":
    main()
