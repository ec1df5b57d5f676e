"""Attribute directions of VAEs on MNIST and on sprites; writes benchmarks/uses/attributes.json.

    python benchmarks/uses/attributes.py --data-root DATA --out RUNS

MNIST: VAEs with 8 and 32 latent dimensions (MLP 784-400-400-d and its mirror, ReLU, a Bernoulli of dynamically
binarized pixels, 60,000 training images, 20 epochs of batches of 128, Adam with a learning rate of 1e-3 that falls to 0
along a cosine: the trainings of benchmarks/uses/neighbours.py, which are found where RUNS is its folder). Directions of
intensity, thickness, slant, width and height, as measured by moments, are learned from 10,000 training images, drawn at
random, by three methods:

- `covariance`: of the code with the attribute;
- `covariance, orthogonal`: made orthogonal to the predictions of thickness, slant, width and height, without the
  attribute itself. Intensity is not among what is held: it is nearly a function of thickness and width;
- `regression`: the gradient of the least-squares prediction of the attribute.

The codes of 500 test images, drawn at random, are moved by 9 amounts from -r to r standard deviations of the training
codes along the direction, r = 1, 1.5 and 2, and decoded. For each row: the rank correlation of amount and attribute
along an image's traversal, and the change from the first to the last amount in standard deviations of the attribute
over the training images, for all attributes, as means over images (`effects`; in short: `spearman`,
`change_sd_of_attribute`, and `largest_other_change`, of another attribute); the share of images whose class stays, at
each amount, by the package's classifier of MNIST, against the label and against the class of the reconstruction (amount
0); and the mean of log p(z) at each amount.

Sprites: a VAE with 10 dimensions (the same MLP of 1024 pixels, 40 epochs) of 20,000 sprites of 32 by 32 pixels, whose
scale, rotation, x and y are known. Directions are learned from the true factors of the training sprites, by the three
methods; what is held are the other three factors. The factors of a decoded image are those of the nearest of all
36,864 sprites, by squared distance of pixels. `projection_r` is the correlation of the factor with the codes of 500 new
sprites along the direction, and `class_kept` is the share of the shape.

Trainings and finished rows are kept in RUNS and not repeated.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from pyro_vae import Spec, build, fit, latent, load, load_data, save
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.data import Images, Splits
from pyro_vae.data.synthetic import FACTORS, all_factors, sprites, sprites_of
from pyro_vae.evaluation.samples.classifier import in_domain_classifier
from pyro_vae.latent.directions import attribute_direction, even_amounts, orthogonalised
from pyro_vae.uses import attributes

PATH = Path(__file__).with_suffix(".json")
DIMENSIONS, RANGES_SD, STEPS = (8, 32), (1.0, 1.5, 2.0), 9
HELD = ("thickness", "slant", "width", "height")
METHODS = ("covariance", "covariance, orthogonal", "regression")
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
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings and finished rows")
    parser.add_argument("--epochs", type=int, default=20, help="of MNIST; twice as many of the sprites")
    parser.add_argument("--train-images", type=int, default=60_000, help="of MNIST; a third as many sprites")
    parser.add_argument("--images", type=int, default=500, help="to move")
    parser.add_argument("--json", type=Path, default=PATH, help="file to write; elsewhere for a trial")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for d in DIMENSIONS:
        rows += kept_rows(arguments, f"attributes-mnist-{d}", partial(of_mnist, arguments, d))
    rows += kept_rows(arguments, "attributes-sprites", partial(of_sprites, arguments))
    rows = [row | in_short(row) for row in rows]
    command = "python benchmarks/uses/attributes.py --data-root DATA --out RUNS"
    for option, default in (("epochs", 20), ("train_images", 60_000), ("images", 500)):
        if (value := getattr(arguments, option)) != default:
            command += f" --{option.replace('_', '-')} {value}"
    files.write_json(arguments.json, {"command": command, "environment": environment("cpu"), "rows": rows})


def in_short(row: dict) -> dict[str, object]:
    """The columns of the table: the effect on the attribute itself, the largest on another one, and both ends."""
    own = row["effects"][row["attribute"]]
    others = {name: abs(each["change_sd"]) for name, each in row["effects"].items() if name != row["attribute"]}
    largest = max(others, key=others.get)
    return {
        "spearman": own["spearman"],
        "spearman_se": own["spearman_se"],
        "change_sd_of_attribute": own["change_sd"],
        "largest_other_change": others[largest],
        "of_attribute": largest,
        "class_kept_at_the_ends": min(row["class_kept"][0], row["class_kept"][-1]),
        "class_of_reconstruction_kept_at_the_ends": min(
            row["class_of_reconstruction_kept"][0], row["class_of_reconstruction_kept"][-1]
        ),
        "is_part_of_table": row["range_sd"] == 1.0 and row["method"] != "regression",
    }


def kept_rows(arguments, name: str, compute: Callable[[], list[dict[str, object]]]) -> list[dict[str, object]]:
    """The rows of a model, which are computed unless they are there."""
    path = arguments.out / f"{name}.json"
    if not path.is_file():
        files.write_json(path, {"rows": compute()})
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def trained(arguments, images: Images, name: str, spec: Spec):
    """The model of a training, which is done unless its weights are there, and resumed from its checkpoint."""
    weights, checkpoint = arguments.out / f"{name}.safetensors", arguments.out / f"{name}-checkpoint"
    if not weights.is_file():
        model = build(spec)
        fit(model, images, checkpoint=checkpoint, resume=checkpoint.is_dir(), compile="capture", **CPU)
        save(model, weights)
    return load(weights)


def of_mnist(arguments, d: int) -> list[dict[str, object]]:
    splits = load_data("mnist", arguments.data_root)
    train, test = splits.train.draw(arguments.train_images), splits.test.draw(arguments.images)
    spec = Spec(**SPEC, dataset="mnist", latent_dim=d, epochs=arguments.epochs)
    model = trained(arguments, train, f"mnist-{d}", spec)
    classifier = in_domain_classifier(Splits(train, splits.test), cache=arguments.out / "classifiers", **CPU)
    learned_from = train.draw(10_000)
    values = attributes.measured_attributes(learned_from.as_float())

    def look(images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        probabilities = attributes.class_probabilities(classifier, images, **CPU)
        return attributes.measured_attributes(images), probabilities.argmax(-1)

    kinds = {"dataset": "mnist", "dimensions": d}
    return measured(model, learned_from, test, values, HELD, look, kinds)


def of_sprites(arguments) -> list[dict[str, object]]:
    train, factors = sprites(arguments.train_images // 3)
    test, of_test = sprites(arguments.images, seed=1)
    spec = Spec(**SPEC, latent_dim=10, image_shape=train.shape, epochs=2 * arguments.epochs)
    model = trained(arguments, train, "sprites-10", spec)
    names = FACTORS[1:]  # the shape is no number
    values = {name: factors[:, FACTORS.index(name)].double() for name in names}
    every = sprites_of(all_factors())
    nearest = partial(nearest_factors, templates=every.images.as_float().flatten(1), factors=every.factors)

    def look(images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        found = nearest(images)
        return {name: found[:, FACTORS.index(name)].double() for name in names}, found[:, 0]

    truth = {name: of_test[:, FACTORS.index(name)].double() for name in names}
    kinds = {"dataset": "sprites", "dimensions": 10}
    return measured(model, train, test, values, names, look, kinds, truth)


def nearest_factors(images: Tensor, templates: Tensor, factors: Tensor) -> Tensor:
    """The factors of the nearest sprite of each image, `(N, 5)`."""
    norms = templates.square().sum(1)
    near = [(norms - 2 * rows @ templates.T).argmin(1) for rows in images.flatten(1).split(200)]
    return factors[torch.cat(near)]


def measured(model, train: Images, test: Images, values, held, look, kinds, truth=None) -> list[dict[str, object]]:
    """A row for each attribute, method and range; `look` has the attributes and the classes of images."""
    codes, starts = (latent.codes(model, images, **CPU).double() for images in (train, test))
    covariance = torch.cov(codes.T)
    gradients = {name: attribute_direction(codes, each, "regression") for name, each in values.items()}
    rows = []
    for name, each in values.items():
        for method in METHODS:
            direction = attribute_direction(codes, each, method.split(",")[0])
            others = [other for other in held if other != name] if "orthogonal" in method else []
            if others:
                direction = orthogonalised(direction, [gradients[other] for other in others], covariance)
            for range_sd in RANGES_SD:
                amounts = even_amounts(codes, direction, range_sd, STEPS)
                moved = attributes.traverse(model, starts, direction, amounts)
                seen, predicted = look(moved.images.flatten(0, 1))
                predicted = predicted.unflatten(0, (len(starts), STEPS))
                along = {of: numbers.unflatten(0, predicted.shape) for of, numbers in seen.items()}
                effects = attributes.effects(amounts, along, values)
                row = {
                    **kinds,
                    "attribute": name,
                    "method": method,
                    "orthogonal_to": others,
                    "range_sd": range_sd,
                    "n_images": len(starts),
                    "effects": {of: asdict(effect) for of, effect in effects.items()},
                    "class_kept": attributes.class_kept(test.labels, predicted).tolist(),
                    "class_of_reconstruction_kept": attributes.class_kept(predicted[:, STEPS // 2], predicted).tolist(),
                    "log_prior_nats": moved.log_prior.mean(0).tolist(),
                }
                if truth:
                    row["projection_r"] = torch.corrcoef(torch.stack([starts @ direction, truth[name]]))[0, 1].item()
                rows.append(row)
                own = effects[name]
                print(*kinds.values(), name, method, range_sd, f"{own.spearman:.3f} {own.change_sd:.2f}", flush=True)
    return rows


if __name__ == "__main__":
    main()
