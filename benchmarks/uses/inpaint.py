"""Inpainting of MNIST by five methods, against the mean image and a conditional normal distribution by PCA.

    python benchmarks/uses/inpaint.py --data-root DATA --out RUNS [--images 200] [--epochs 30]

The first test images, black and white (a threshold at 1/2), lose their upper half, their centre, or half of their
pixels. Reported are averages over images, with standard errors over them:

- `rmse_of_mean`, `rmse_of_draw`: the root of the mean squared error of the hidden pixels, of the mean and of one draw.
- `log_score_nats`: log p(hidden pixels | seen pixels), larger is better. `importance` has that of the model, of all
  hidden pixels together (:func:`pyro_vae.uses.log_score.log_score`, 500 codes), and `log_score_mcse_nats`, the mean of
  its Monte Carlo errors. PCA and the mean image have that of independent Bernoulli pixels with their means, clipped to
  [c, 1 - c]; c is the best of 0.001, 0.003, 0.01, 0.03, 0.1 for 100 training images. (A normal density of binary
  pixels would not compare with probabilities.)
- `log_score_of_mean_nats`: of independent Bernoulli pixels with the means of a method of the VAE, clipped at 0.001:
  what is lost where pixels are predicted one by one.
- `effective_samples`, `acceptance`: as the method has them.

The methods:

- `importance`, `adaptive-importance`, `metropolis`, `collapsed-metropolis`, `pseudo-gibbs`:
  :func:`pyro_vae.uses.inpaint.inpaint` with a VAE of 20 latent dimensions, 500 codes, or 4 chains of 300 steps.
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
from pyro_vae.uses.log_score import log_score
from pyro_vae.uses.masks import mask_of

MASKS = ("top", "center", "random:0.5")
BASELINES = ("PCA", "mean image")
COMPONENTS = 50
CLIPS = (0.001, 0.003, 0.01, 0.03, 0.1)


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
        model = trained(arguments)
        result = inpaint(model, x, seen, method=method, draws=4, steps=300, device="cpu")
        mean = result.mean
        values["rmse_of_draw"] = squared_error(result.draws, x, seen).mean(0).sqrt()
        values["log_score_of_mean_nats"] = bernoulli_score(mean, x, seen, 0.001)
        if result.effective_samples is None:
            values["acceptance"] = result.acceptance
        else:
            values["effective_samples"] = result.effective_samples
        if method == "importance":
            score = log_score(model, x, seen, device="cpu")
            values |= {"log_score_nats": score.nats, "log_score_mcse_nats": score.mcse_nats}
    else:
        mean = baseline(method, train, x, seen)
        of_train = train[:100], mask_of(mask, 100, (1, 28, 28), seed=1)
        means = baseline(method, train, *of_train)
        least = max(CLIPS, key=lambda clip: bernoulli_score(means, *of_train, clip).mean().item())
        values["log_score_nats"] = bernoulli_score(mean, x, seen, least)
    values["rmse_of_mean"] = squared_error(mean, x, seen).sqrt()
    row: dict[str, Any] = {"mask": mask, "method": method, "n_images": len(x)}
    for name, value in values.items():
        row |= {name: value.mean().item(), f"{name}_se": value.std().item() / len(value) ** 0.5}
    return row


def squared_error(images: Tensor, x: Tensor, seen: Tensor) -> Tensor:
    """The mean squared error of hidden pixels, `(..., N)`."""
    return ((images - x).square() * ~seen).sum((-3, -2, -1)) / (~seen).sum((-3, -2, -1))


def bernoulli_score(mean: Tensor, x: Tensor, seen: Tensor, least: float) -> Tensor:
    """The log-probability of the hidden pixels as independent Bernoulli ones, their means clipped, `(N,)`, nats."""
    pixels = torch.distributions.Bernoulli(probs=mean.double().clamp(least, 1 - least))
    return (pixels.log_prob(x.double()) * ~seen).sum((-3, -2, -1))


def baseline(method: str, train: Tensor, x: Tensor, seen: Tensor) -> Tensor:
    """The means of hidden pixels by PCA, or of the training images."""
    return torch.where(seen, x, conditional_means(train, x, seen) if method == "PCA" else train.mean(0))


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
