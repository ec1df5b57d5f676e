"""Debiasing by the density of codes on MNIST with a rare group; writes benchmarks/uses/debias.json.

    python benchmarks/uses/debias.py --data-root DATA --out RUNS

Two designs, each with a group that has 1 % of 10,000 training images, drawn from the 60,000 with the seed:

- `class`: the rare group is the digit 9, the last one; the others are drawn as they come.
- `thickness`: within all classes, the images of thick strokes: the thickest fifth of the 60,000 by
  `measured_attributes`. Groups of test images are by the same threshold.

Four ways of drawing an epoch's images, with replacement except in the first:

- `uniform`: each once.
- `density, max` and `density, product`: by `density_weights` of the codes, 10 bins, smoothing 0.001; no labels.
- `oracle`: with weights by group, which has the share of the draws that it has in the 60,000. It knows the groups.

What is trained in each way, with five seeds, which also draw the images:

- a VAE, MLP 784-200-10 and its mirror, ReLU, a Bernoulli of dynamically binarized pixels, 20 epochs of batches of 128,
  Adam with a learning rate of 1e-3 that falls to 0 along a cosine; the weights are refreshed each epoch. `nll` is the
  mean NLL in nats of 300 test images of the group, with 200 importance samples.
- a classifier of the digits, MLP 784-200-10, ReLU, as many epochs of Adam (1e-3), on grey levels. Its weights are those
  of the VAE that was trained uniformly, and stay. `recall` is the share of the group's test images that it classifies
  correctly.

Columns end in `rare` or `rest`, of which the second is what the others pay; each is a mean over seeds with its standard
deviation, and `minus_uniform` is the difference to `uniform` of the same seed. `share_of_draws` and `effective_images`
are of the weights of the classifier. No setting was chosen by these numbers. Trainings and scores are kept in RUNS and
not repeated.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch
from torch import nn

from pyro_vae import Images, Spec, build, fit, load, load_data, save
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.data.batches import shuffled
from pyro_vae.evaluation import evidence
from pyro_vae.latent import codes
from pyro_vae.uses.attributes import measured_attributes
from pyro_vae.uses.debias import density_weights, group_means

PATH = Path(__file__).with_suffix(".json")
DESIGNS, RARE, RARE_CLASS, THICKEST = ("class", "thickness"), 0.01, 9, 0.2
SAMPLERS = {
    "uniform": "shuffle",
    "density, max": "latent-density",
    "density, product": {"kind": "latent-density", "combine": "product"},
    "oracle": None,
}
SPEC = {
    "dataset": "mnist",
    "network": {"kind": "mlp", "activation": "relu"},
    "hidden": (200,),
    "latent_dim": 10,
    "schedule": "cosine",
    "binarization": "dynamic",
    "validation_fraction": 0.0,
}
CPU = {"device": "cpu"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings and their scores")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--train-images", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=300, help="test images of each group whose NLL is estimated")
    parser.add_argument("--k", type=int, default=200, help="importance samples")
    parser.add_argument("--json", type=Path, default=PATH, help="file to write; elsewhere for a trial")
    arguments = parser.parse_args()
    splits = load_data("mnist", arguments.data_root)
    rows = []
    for design in DESIGNS:
        groups = groups_of(splits, design)
        of_seeds = [of_seed(arguments, splits, groups, design, seed) for seed in range(arguments.seeds)]
        rows += [
            {
                "design": design,
                "sampler": name,
                **summary([each[name] for each in of_seeds], [each["uniform"] for each in of_seeds]),
            }
            for name in SAMPLERS
        ]
    usual = {"epochs": 20, "train_images": 10_000, "seeds": 5, "images": 300, "k": 200}
    changed = [
        f" --{name.replace('_', '-')} {vars(arguments)[name]}" for name in usual if vars(arguments)[name] != usual[name]
    ]
    results = {
        "command": "python benchmarks/uses/debias.py --data-root DATA --out RUNS" + "".join(changed),
        "environment": environment("cpu"),
        **{name: vars(arguments)[name] for name in usual},
        "rows": rows,
    }
    files.write_json(arguments.json, results)


def groups_of(splits, design: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether each training and each test image is of the rare group."""
    if design == "class":
        return splits.train.labels == RARE_CLASS, splits.test.labels == RARE_CLASS
    train, test = (measured_attributes(images.as_float())["thickness"] for images in splits)
    limit = train.quantile(1 - THICKEST)
    return train > limit, test > limit


def of_seed(arguments, splits, groups, design: str, seed: int) -> dict[str, dict[str, float]]:
    """The scores of each way of drawing, which are computed unless they are there."""
    of_train, of_test = groups
    train, rare = imbalanced(arguments, splits.train, of_train, seed)
    share = of_train.double().mean()
    by_group = torch.where(rare, share / rare.sum(), (1 - share) / (~rare).sum()).double()
    uniform = trained(arguments, train, by_group, f"{design}-{seed}", "uniform", seed)
    means = codes(uniform, train, **CPU)
    weights = {
        "uniform": None,
        "density, max": density_weights(means),
        "density, product": density_weights(means, combine="product"),
        "oracle": by_group,
    }
    results = {}
    for sampler, of_images in weights.items():
        name = f"{design}-{seed}-{sampler.replace(', ', '-')}"
        path = arguments.out / f"{name}.json"
        if not path.is_file():
            model = trained(arguments, train, by_group, f"{design}-{seed}", sampler, seed)
            scores = {
                **weight_scores(of_images, rare),
                **nll_scores(arguments, model, splits.test, of_test),
                **recall_scores(arguments, train, of_images, splits.test, of_test, seed),
            }
            files.write_json(path, scores)
        results[sampler] = json.loads(path.read_text(encoding="utf-8"))
        print(name, {key: round(value, 3) for key, value in results[sampler].items()}, flush=True)
    return results


def imbalanced(arguments, images: Images, of_group: torch.Tensor, seed: int) -> tuple[Images, torch.Tensor]:
    """Training images of which 1 % are of the group, in random order, and whether each is."""
    generator = torch.Generator().manual_seed(seed)
    few = round(RARE * arguments.train_images)
    chosen = []
    for member, count in ((True, few), (False, arguments.train_images - few)):
        index = (of_group == member).nonzero()[:, 0]
        chosen.append(index[torch.randperm(len(index), generator=generator)[:count]])
    index = torch.cat(chosen)
    index = index[torch.randperm(len(index), generator=generator)]
    return images.take(index), of_group[index]


def trained(arguments, images: Images, by_group, name: str, sampler: str, seed: int):
    """The VAE of a training, which is done unless its weights are there, and resumed from its checkpoint."""
    name = f"{name}-{sampler.replace(', ', '-')}"
    weights, checkpoint = arguments.out / f"{name}.safetensors", arguments.out / f"{name}-checkpoint"
    if not weights.is_file():
        model = build(Spec(**SPEC, epochs=arguments.epochs, seed=seed))
        how = SAMPLERS[sampler] or (lambda model, images: by_group)
        more = {"compile": "capture", "checkpoint": checkpoint, "resume": checkpoint.is_dir()}
        fit(model, images, sampler=how, **more, **CPU)
        save(model, weights)
    return load(weights)


def weight_scores(weights, rare) -> dict[str, float]:
    weights = torch.full((len(rare),), 1 / len(rare), dtype=torch.float64) if weights is None else weights
    return {
        "share_of_draws": (weights[rare].sum() / weights.sum()).item(),
        "effective_images": (weights.sum().square() / weights.square().sum()).item(),
    }


def nll_scores(arguments, model, test: Images, of_group) -> dict[str, float]:
    """The NLL of test images of each group."""
    scores = {}
    for name, member in (("rare", True), ("rest", False)):
        some = test.take((of_group == member).nonzero()[:, 0]).draw(arguments.images, seed=0)
        scores[f"nll_{name}"] = evidence(model, some, k=arguments.k, **CPU).nll_nats
    return scores


def recall_scores(arguments, train: Images, weights, test: Images, of_group, seed: int) -> dict[str, float]:
    """The share of the test images of each group that a classifier trained with these weights classifies correctly."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = nn.Sequential(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 10))
        optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-3, fused=True)
        x, y = train.as_float(), train.labels
        for _ in range(arguments.epochs):
            for index in shuffled(train.pixels, 128, weights=weights):
                optimizer.zero_grad()
                nn.functional.cross_entropy(classifier(x[index]), y[index]).backward()
                optimizer.step()
    with torch.no_grad():
        correct = (classifier(test.as_float()).argmax(1) == test.labels).double()
    means = group_means(correct, of_group.long())
    return {"recall_rare": means[1].mean, "recall_rest": means[0].mean}


def summary(scores, of_uniform) -> dict[str, object]:
    """The mean of each score over seeds and its standard deviation; of differences to `uniform`, too."""
    columns = {name: [each[name] for each in scores] for name in scores[0]}
    for name in [name for name in columns if name.startswith(("nll", "recall"))]:
        columns[f"{name}_minus_uniform"] = [
            each[name] - uniform[name] for each, uniform in zip(scores, of_uniform, strict=True)
        ]
    means = {name: statistics.fmean(values) for name, values in columns.items()}
    deviations = {f"{name}_sd": statistics.stdev(values) for name, values in columns.items() if len(values) > 1}
    return {"seeds": len(scores), **means, **deviations, "by_seed": columns}


if __name__ == "__main__":
    main()
