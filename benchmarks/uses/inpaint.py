"""Inpainting of MNIST by three methods, against the mean image and a conditional normal distribution by PCA.

    python benchmarks/uses/inpaint.py --data-root DATA --out RUNS [--images 200] [--epochs 30]

The first test images, black and white (a threshold at 1/2), lose their upper half, their centre, or half of their
pixels. Reported is the root of the mean squared error of the hidden pixels, of the mean and of single draws, averaged
over images with standard errors; and the mean effective samples or acceptance.

- `importance`, `metropolis`, `pseudo-gibbs`: :func:`pyro_vae.uses.inpaint.inpaint` with a VAE of 20 latent dimensions,
  8 draws, 500 codes, chains of 500 steps.
- `PCA`: the mean of hidden pixels given seen ones under a normal distribution with the training images' mean, their
  first 50 principal components, and the rest of the variance spread evenly (probabilistic PCA).
- `mean image`: of the training images.

Each finished row is kept in RUNS and not repeated; inpaint.json then has the rows of what is finished.
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
from pyro_vae.uses.inpaint import METHODS, inpaint
from pyro_vae.uses.masks import mask_of

MASKS = ("top", "center", "random:0.5")
BASELINES = ("PCA", "mean image")
COMPONENTS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for the training and finished rows")
    parser.add_argument("--images", type=int, default=200, help="test images for each row")
    parser.add_argument("--epochs", type=int, default=30, help="of the training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train, test = (binarize(part, "threshold").as_float() for part in load_data("mnist", arguments.data_root))
    for mask in MASKS:
        for method in (*METHODS, *BASELINES):
            done = arguments.out / f"{mask} {method}.json".replace(" ", "-").replace(":", "-")
            if not done.is_file():
                row = measure(mask, method, train, test[: arguments.images], arguments)
                files.write_json(done, row)
                print(row, flush=True)
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(arguments.out.glob("*.json"))]
    command = f"python benchmarks/uses/inpaint.py --data-root DATA --out RUNS --images {arguments.images}"
    report = {"command": f"{command} --epochs {arguments.epochs}", "environment": environment("cpu"), "rows": rows}
    files.write_json(Path(__file__).with_suffix(".json"), report)


def measure(mask: str, method: str, train: Tensor, x: Tensor, arguments: argparse.Namespace) -> dict[str, Any]:
    """A row: the errors of a method."""
    seen = mask_of(mask, len(x), (1, 28, 28))
    values = {}
    if method in METHODS:
        result = inpaint(trained(arguments), x, seen, method=method, device="cpu")
        mean = result.mean
        values["rmse_of_draw"] = squared_error(result.draws, x, seen).mean(0).sqrt()
        if result.effective_samples is None:
            values["acceptance"] = result.acceptance
        else:
            values["effective_samples"] = result.effective_samples
    elif method == "PCA":
        mean = torch.where(seen, x, conditional_means(train, x, seen))
    else:
        mean = torch.where(seen, x, train.mean(0))
    values["rmse_of_mean"] = squared_error(mean, x, seen).sqrt()
    row: dict[str, Any] = {"mask": mask, "method": method, "n_images": len(x)}
    for name, value in values.items():
        row |= {name: value.mean().item(), f"{name}_se": value.std().item() / len(value) ** 0.5}
    return row


def squared_error(images: Tensor, x: Tensor, seen: Tensor) -> Tensor:
    """The mean squared error of hidden pixels, `(..., N)`."""
    return ((images - x).square() * ~seen).sum((-3, -2, -1)) / (~seen).sum((-3, -2, -1))


def conditional_means(train: Tensor, x: Tensor, seen: Tensor) -> Tensor:
    """E[hidden pixels | seen ones] of probabilistic PCA; the values of seen pixels are arbitrary."""
    rows = train.flatten(1).double()
    mean = rows.mean(0)
    variances, vectors = torch.linalg.eigh(torch.cov(rows.T))
    rest = variances[:-COMPONENTS].clamp(min=0).mean()
    loadings = vectors[:, -COMPONENTS:] * (variances[-COMPONENTS:] - rest).clamp(min=0).sqrt()
    means = []
    for image, mask in zip(x.flatten(1).double(), seen.flatten(1), strict=True):
        of_seen = loadings[mask]
        precision = of_seen.T @ of_seen + rest * torch.eye(COMPONENTS, dtype=torch.float64)
        code = torch.linalg.solve(precision, of_seen.T @ (image - mean)[mask])
        means.append(mean + loadings @ code)
    return torch.stack(means).reshape(x.shape).float()


def trained(arguments: argparse.Namespace) -> Any:
    """The VAE, trained at the first call."""
    folder = arguments.out / "vae"
    if not (folder / "weights.safetensors").is_file():
        spec = Spec(
            dataset="mnist",
            latent_dim=20,
            hidden=(500, 500),
            network={"kind": "mlp", "activation": "relu"},
            binarization="threshold",
            epochs=arguments.epochs,
        )
        run(spec, folder, data_root=arguments.data_root, device="cpu", resume=folder.is_dir())
    return open_model(folder)


if __name__ == "__main__":
    main()
