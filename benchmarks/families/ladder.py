"""Several stochastic layers on MNIST: a ladder of five, and the models that it is compared with.

    python benchmarks/families/ladder.py --data-root DATA --out RUNS

All are trained on the 60,000 training images, whose pixels are drawn anew in each batch (dynamic binarization), without
a validation set and without early stopping; batch normalization and a leaky rectifier in all hidden layers, Adam, and a
cosine schedule of the learning rate.

- `ladder`: the five layers of Sønderby et al., z of 64, 32, 16, 8 and 4 dimensions, between which are two hidden layers
  of 512, 256, 128, 64 and 32 units; 100 epochs with a warm-up of 25. The paper trains for 2,000 epochs with a warm-up
  of 200. The encoder has one layer of 512 more than the paper's, which makes the features.
- `ladder-longer`: the same weights trained on, with a second cosine and half the batch.
- `one-layer`: the ladder without its upper layers, a VAE with the same networks and as many epochs.
- `bottom-up`: the same generative model and sizes, inferred from the image upwards; fewer epochs, as is written.
- `two-layers`: the sizes of Burda et al., z of 100 and 50 dimensions, hidden layers of 200 and 100 units, inferred
  upwards; `one-of-two` is the VAE of its first layer. Burda et al. have tanh, no batch normalization, and many more
  epochs.

Epochs and networks differ from those of the papers, whose numbers are lower; so does the number of draws per image in
training, one here: the 84.78 of Burda et al. is of 50, and with one they report 85.33 (table 1). `ladder-longer` has no
numbers in ladder.json yet.

Measured on the test images, whose pixels are drawn once, the same for all models: -log p(x) by importance sampling with
K draws of the guide for each image, on `n_images` drawn at random, and ELBO and the KL of each layer on all 10,000.
Differences are means of differences on the same images. A finished training, and its scores, are kept in RUNS and not
repeated; an interrupted training resumes from its last epoch. Writes ladder.json, of the trainings that are there.
"""

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pyro_vae import Images, Spec, build, fit, load, load_data, save
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.evaluation import bounds, evidence
from pyro_vae.training.history import History

NORMALIZED = {"activation": "leaky-relu", "batch_norm": True}
UPPER = (32, 16, 8, 4)
LADDER = Spec(
    dataset="mnist",
    binarization="dynamic",
    model={"kind": "ladder", "upper": UPPER},
    network={"kind": "mlp", **NORMALIZED},
    hidden=(512, 512),
    latent_dim=64,
    epochs=100,
    beta_warmup=25,
    batch_size=256,
    lr=2e-3,
    schedule="cosine",
    compile="capture",
)
TWO_LAYERS = replace(
    LADDER,
    model={"kind": "hierarchical", "upper": (50,), "upper_hidden": (100,), **NORMALIZED},
    objective="path-gradient",
    hidden=(200, 200),
    latent_dim=100,
    epochs=20,
    beta_warmup=5,
)
TRAININGS = {
    "ladder": LADDER,
    "bottom-up": replace(
        LADDER,
        model={"kind": "hierarchical", "upper": UPPER, **NORMALIZED},
        objective="path-gradient",
        epochs=15,
        beta_warmup=4,
    ),
    "two-layers": TWO_LAYERS,
    "one-of-two": replace(TWO_LAYERS, model="vae"),
    "one-layer": replace(LADDER, model={"kind": "ladder", "upper": ()}),
    "ladder-longer": replace(LADDER, epochs=50, beta_warmup=0, batch_size=128, lr=1e-3),
}
STARTS = {"ladder-longer": "ladder"}  # from whose weights
K, NUM_IMAGES = 1000, 1000
PUBLISHED = {  # -log p(x) in nats, K = 5000, dynamic binarization
    "ladder": (81.74, "Sønderby et al., 2016, 5 layers, 2,000 epochs"),
    "ladder-longer": (81.74, "Sønderby et al., 2016, 5 layers, 2,000 epochs"),
    "two-layers": (84.78, "Burda et al., 2016, 2 stochastic layers, 50 draws in training; 85.33 with one"),
}
DIFFERENCES = (("ladder", "one-layer"), ("ladder-longer", "one-layer"), ("two-layers", "one-of-two"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings and their scores")
    parser.add_argument("--only", nargs="+", choices=TRAININGS, default=list(TRAININGS), help="train and score these")
    arguments = parser.parse_args()
    splits = load_data("mnist", arguments.data_root)
    for name in arguments.only:
        train(name, splits.train, arguments.out)
        score(name, splits.test, arguments.out)
    results = {
        "command": "python benchmarks/families/ladder.py --data-root DATA --out RUNS",
        "environment": environment("cpu"),
        "budget": "1 thread on 2 CPU cores that were shared with other work; a single seed",
        "rows": rows(arguments.out),
    }
    files.write_json(Path(__file__).with_name("ladder.json"), results)


def train(name: str, images: Images, out: Path) -> None:
    """Trains a model, or resumes, and keeps its weights."""
    folder = out / name
    if (folder / "weights.safetensors").exists():
        return
    model = build(TRAININGS[name])
    if name in STARTS:
        model.load_state_dict(load(out / STARTS[name] / "weights.safetensors").state_dict())
    checkpoint = folder / "checkpoint"
    history = fit(model, images, checkpoint=checkpoint, resume=checkpoint.exists())
    history.to_csv(folder / "history.csv")
    save(model, folder / "weights.safetensors")


def score(name: str, images: Images, out: Path) -> None:
    """Estimates the bounds on all images, and -log p(x) of some, each of which is kept for paired differences."""
    path = out / name / "scores.json"
    if path.exists():
        return
    model = load(out / name / "weights.safetensors")
    of_all = bounds(model, images)
    of_some = evidence(model, images.draw(NUM_IMAGES), k=K, progress=True)
    by_site = of_all.kl_by_site or {"z": of_all.kl_per_sample}
    scores = {"elbo_nats": of_all.elbo_nats, "elbo_se": of_all.elbo_se, "kl_by_site": dict(by_site)}
    scores |= {"nll_nats": (-of_some.log_likelihood).tolist(), "warnings": of_some.warnings}
    files.write_json(path, scores)
    print(f"{name}: NLL {of_some.nll_nats:.2f}, ELBO {of_all.elbo_nats:.2f}, KL {dict(by_site)}", flush=True)


def rows(out: Path) -> list[dict[str, Any]]:
    """A row for each number of the trainings that are there."""
    paths = {name: out / name / "scores.json" for name in TRAININGS}
    scores = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}
    nll = {name: torch.tensor(values["nll_nats"], dtype=torch.double) for name, values in scores.items()}
    table = []
    for name, values in scores.items():
        earlier = [STARTS[name]] if name in STARTS else []
        trained = [History.from_csv(out / part / "history.csv") for part in (*earlier, name)]
        about = {
            "name": name,
            "epochs": sum(len(history.epochs) for history in trained),
            "training_seconds": sum(sum(history.column("seconds")) for history in trained),
        }
        published, source = PUBLISHED.get(name, (None, None))
        of_nll = {"metric": "nll_nats", "published": published, "published_source": source}
        table.append(about | of_nll | mean_of(nll[name]) | {"k": K})
        elbo = {"metric": "elbo_nats", "value": values["elbo_nats"], "error": values["elbo_se"]}
        table.append(about | elbo | {"error_is": "se over images", "n_images": 10_000, "k": 1})
        for site, kl in values["kl_by_site"].items():
            of_site = {"metric": f"kl_of_{site}_nats", "value": kl, "error": None, "error_is": None}
            table.append(about | of_site | {"n_images": 10_000, "k": 1})
    for name, other in (pair for pair in DIFFERENCES if {*pair} <= scores.keys()):
        difference = {"name": f"{name} minus {other}", "metric": "nll_nats", "k": K}
        table.append(difference | mean_of(nll[name] - nll[other]) | {"epochs": None, "training_seconds": None})
    return [{"published": None, "published_source": None, **row} for row in table]


def mean_of(values: torch.Tensor) -> dict[str, Any]:
    n = len(values)
    return {
        "value": values.mean().item(),
        "error": values.std().item() / math.sqrt(n),
        "error_is": "se over images",
        "n_images": n,
    }


if __name__ == "__main__":
    main()
