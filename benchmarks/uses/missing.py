"""A VAE trained on MNIST with half of the pixels missing, against one that is trained on whole images.

    python benchmarks/uses/missing.py --data-root DATA --out RUNS [--images 200] [--epochs 30]

Both have 20 latent dimensions, one hidden layer of 400 units, and the objective `iwae` with 5 particles; pixels are
black or white (a threshold at 1/2). `miwae` is :class:`pyro_vae.models.miwae.MIWAE`, for which each pixel of a training
image is hidden with probability 1/2, once for all epochs; `whole` is the same network without. Of the first test images
other pixels are hidden, half of them at random, or the upper half, and predicted by importance sampling with 500 codes
(:func:`pyro_vae.uses.inpaint.inpaint`). Reported, with standard errors over images:

- `rmse_of_mean`: the root of the mean squared error of the hidden pixels, and `ratio`, that of the averages of `miwae`
  and `whole`, with the standard error of the delta method over the same images.
- `log_score_nats`: log p(hidden pixels | seen pixels), larger is better (:func:`pyro_vae.uses.log_score.log_score`).

Each finished row is kept in RUNS and not repeated; missing.json then has the rows of what is finished.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_vae import Spec
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.data import binarize, load_data
from pyro_vae.experiments.run import open_model, run
from pyro_vae.uses.inpaint import inpaint
from pyro_vae.uses.log_score import log_score
from pyro_vae.uses.masks import mask_of

MODELS = {"whole": "vae", "miwae": {"kind": "miwae", "missing": 0.5}}
MASKS = ("random:0.5", "top")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for trainings and finished rows")
    parser.add_argument("--images", type=int, default=200, help="test images for each row")
    parser.add_argument("--epochs", type=int, default=30, help="of each training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    test = binarize(load_data("mnist", arguments.data_root).test, "threshold").as_float()[: arguments.images]
    rows, errors = [], {}
    for mask in MASKS:
        for name in MODELS:
            done = arguments.out / f"{mask} {name}.json".replace(" ", "-").replace(":", "-")
            if not done.is_file():
                files.write_json(done, measure(mask, name, test, arguments))
            row = json.loads(done.read_text(encoding="utf-8"))
            errors[name] = torch.tensor(row.pop("rmse_of_each"))
            if name == "miwae":
                row["ratio"], row["ratio_se"] = ratio(errors["miwae"], errors["whole"])
            print(row, flush=True)
            rows.append(row)
    command = f"python benchmarks/uses/missing.py --data-root DATA --out RUNS --images {arguments.images}"
    report = {"command": f"{command} --epochs {arguments.epochs}", "environment": environment("cpu"), "rows": rows}
    files.write_json(Path(__file__).with_suffix(".json"), report)


def measure(mask: str, name: str, x: Tensor, arguments: argparse.Namespace) -> dict[str, Any]:
    """A row: the errors of a model, and those of each image."""
    model, seen = trained(name, arguments), mask_of(mask, len(x), (1, 28, 28))
    mean = inpaint(model, x, seen, draws=1, device="cpu").mean
    rmse = (((mean - x).square() * ~seen).sum((1, 2, 3)) / (~seen).sum((1, 2, 3))).sqrt()
    row: dict[str, Any] = {"mask": mask, "trained_on": name, "n_images": len(x), "rmse_of_each": rmse.tolist()}
    for measure, values in {
        "rmse_of_mean": rmse,
        "log_score_nats": log_score(model, x, seen, device="cpu").nats,
    }.items():
        row |= {measure: values.mean().item(), f"{measure}_se": values.std().item() / len(values) ** 0.5}
    return row


def ratio(a: Tensor, b: Tensor) -> tuple[float, float]:
    """mean(a) / mean(b) of the same images, and its standard error by the delta method."""
    value = (a.mean() / b.mean()).item()
    return value, ((a - value * b).std() / b.mean()).item() / len(a) ** 0.5


def trained(name: str, arguments: argparse.Namespace) -> Any:
    """A model, trained at the first call."""
    folder = arguments.out / name
    if not (folder / "weights.safetensors").is_file():
        spec = Spec(
            dataset="mnist",
            model=MODELS[name],
            latent_dim=20,
            hidden=(400,),
            network={"kind": "mlp", "activation": "relu"},
            binarization="threshold",
            objective="iwae",
            particles=5,
            epochs=arguments.epochs,
        )
        run(spec, folder, data_root=arguments.data_root, device="cpu", resume=folder.is_dir())
    return open_model(folder)


if __name__ == "__main__":
    main()
