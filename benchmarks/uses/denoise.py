"""Denoising of MNIST and Fashion-MNIST by a VAE's posterior mean, and by total variation, non-local means and wavelets.

    python benchmarks/uses/denoise.py --data-root DATA --out RUNS [--epochs 30]

Gaussian noise of three levels and salt and pepper of three shares are added to the first test images: 200 of MNIST,
black and white (a threshold at 1/2), and 50 of Fashion-MNIST, grey levels in [0, 1], since a sum over 256 levels takes
256 times as long. PSNR and SSIM to the clean images are averaged over images; errors are standard errors over them.

- `VAE`: trained on the clean training images, with Bernoulli pixels, or with mixtures of three discretized logistics
  for grey levels, so that margins may be certain while strokes are not; the posterior mean of
  :func:`pyro_vae.uses.denoise.denoise` with 50 draws. It is told the noise.
- `denoising VAE`: the same networks, whose encoder is trained on images with this noise
  (:class:`pyro_vae.models.denoising.Denoising`): 50 weighted codes of q(z|y), without a fit. For MNIST
  with the two higher levels of Gaussian noise, each with a training of its own.
- `total variation` (Chambolle), `non-local means` (fast mode, patches of 5, told the level) and `wavelets` (BayesShrink
  over cycle spins) of scikit-image, whose strengths are chosen for each noise by the PSNR of 100 training images.
- `median`: of 3 by 3 pixels, or twice, as chosen there, since the others are not meant for salt and pepper.
- Each of these for MNIST once more, `rounded` to black and white, which the VAE knows pixels to be and they do not.
- `noisy`: the images as they are, clipped to [0, 1], as the results of all methods are.

Each finished row is kept in RUNS and not repeated; denoise.json has the rows of what is finished.
"""

import argparse
import functools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage import restoration
from torch import Tensor

from pyro_vae import Spec
from pyro_vae._utils import files
from pyro_vae._utils.environment import environment
from pyro_vae.data import Splits, binarize, load_data
from pyro_vae.experiments.run import open_model, run
from pyro_vae.noise import GaussianNoise, Noise, noise_of
from pyro_vae.uses.denoise import denoise, median_of_neighbours
from pyro_vae.uses.image_quality import peak_signal_to_noise, structural_similarity

SPECS: dict[str, dict[str, Any]] = {
    "mnist": {"binarization": "threshold", "likelihood": "bernoulli"},
    "fashion-mnist": {"likelihood": {"kind": "discretized-logistic", "components": 3}, "compile": "inductor"},
}
IMAGES = {"mnist": 200, "fashion-mnist": 50}
NOISES = ("gaussian:0.2", "gaussian:0.4", "gaussian:0.8")
NOISES += ("salt-and-pepper:0.1", "salt-and-pepper:0.3", "salt-and-pepper:0.6")
STRENGTHS = {  # of each baseline: those to choose from; of non-local means in units of the noise's standard deviation
    "total variation": (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
    "non-local means": (0.4, 0.6, 0.8, 1.0, 1.3, 1.8),
    "wavelets": (0.5, 0.7, 1.0, 1.4, 2.0),
    "median": (1, 2),
}
BLACK_AND_WHITE = ("mnist",)
TRAINED_ON_NOISE = (("mnist", "gaussian:0.4"), ("mnist", "gaussian:0.8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of torchvision's data folders")
    parser.add_argument("--out", type=Path, required=True, help="folder for trainings and finished rows")
    parser.add_argument("--epochs", type=int, default=30, help="of each training")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for dataset in SPECS:
        for name in NOISES:
            of_vae = ("VAE", "denoising VAE") if (dataset, name) in TRAINED_ON_NOISE else ("VAE",)
            rounded = [f"{method}, rounded" for method in STRENGTHS] if dataset in BLACK_AND_WHITE else []
            for method in ("noisy", *STRENGTHS, *rounded, *of_vae):
                done = arguments.out / f"{dataset} {name} {method}.json".replace(" ", "-").replace(":", "-")
                if not done.is_file():
                    row = measure(dataset, noise_of(name), method, arguments)
                    files.write_json(done, row)
                    print(row, flush=True)
                    write_report(arguments)
    write_report(arguments)


def write_report(arguments: argparse.Namespace) -> None:
    """The rows that are finished."""
    paths = sorted(arguments.out.glob("*.json"), key=lambda path: path.stat().st_mtime)
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    rows.sort(key=lambda row: (list(SPECS).index(row["dataset"]), NOISES.index(row["noise"])))
    command = "python benchmarks/uses/denoise.py --data-root DATA --out RUNS"
    report = {
        "command": f"{command} --epochs {arguments.epochs}",
        "environment": environment("cpu"),
        "rows": rows,
    }
    files.write_json(Path(__file__).with_suffix(".json"), report)


def measure(dataset: str, noise: Noise, method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """A row: the quality of the test images after a method."""
    how = SPECS[dataset].get("binarization", "none")
    images = Splits(*(binarize(part, how) for part in load_data(dataset, arguments.data_root)))
    clean = images.test.as_float()[: IMAGES[dataset]]
    noisy = corrupted(noise, clean)
    strength = None
    if method == "noisy":
        result = noisy
    elif method == "VAE":
        result = denoise(trained(dataset, arguments), noisy, noise, draws=50, device="cpu").mean
    elif method == "denoising VAE":
        model = trained(dataset, arguments, noise)
        result = denoise(model, noisy, noise, method="encoder", draws=50, device="cpu").mean
    else:
        name, _, rounded = method.partition(", ")
        strength = chosen_strength(name, noise, images.train.as_float()[:100])
        result = by_baseline(name, corrupted(noise, clean), noise, strength)
        result = (result > 0.5).float() if rounded else result
    values = {
        "psnr_db": peak_signal_to_noise(result.clamp(0, 1), clean),
        "ssim": structural_similarity(result.clamp(0, 1), clean),
    }
    row = {"dataset": dataset, "noise": str(noise), "method": method, "strength": strength, "n_images": len(clean)}
    for name, value in values.items():
        row |= {name: value.mean().item(), f"{name}_se": value.std().item() / len(value) ** 0.5}
    return row


def corrupted(noise: Noise, clean: Tensor) -> Tensor:
    """The same noise for all methods."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return noise.corrupt(clean)


def trained(dataset: str, arguments: argparse.Namespace, noise: Noise | None = None) -> Any:
    """The VAE of a data set, or with an encoder of noisy images, trained at the first call."""
    folder = arguments.out / (f"vae-{dataset}" if noise is None else f"vae-{dataset}-{noise}".replace(":", "-"))
    if not (folder / "weights.safetensors").is_file():
        spec = Spec(
            dataset=dataset,
            model="vae" if noise is None else {"kind": "denoising", "noise": str(noise)},
            latent_dim=32,
            hidden=(500, 500),
            network={"kind": "mlp", "activation": "relu"},
            epochs=arguments.epochs,
            **SPECS[dataset],
        )
        run(spec, folder, data_root=arguments.data_root, device="cpu", resume=folder.is_dir())
    return open_model(folder)


def chosen_strength(method: str, noise: Noise, clean: Tensor) -> float:
    """The strength with the best PSNR on training images."""
    noisy = corrupted(noise, clean)

    def quality(strength: float) -> float:
        return peak_signal_to_noise(by_baseline(method, noisy, noise, strength).clamp(0, 1), clean).mean().item()

    return max(STRENGTHS[method], key=quality)


def by_baseline(method: str, noisy: Tensor, noise: Noise, strength: float) -> Tensor:
    """Grey images `(N, 1, H, W)` after a baseline."""
    if method == "median":
        return functools.reduce(lambda x, _: median_of_neighbours(x), range(int(strength)), noisy)
    sd = noise.sd if isinstance(noise, GaussianNoise) else restoration.estimate_sigma(noisy[0, 0].numpy())
    functions: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "total variation": lambda x: restoration.denoise_tv_chambolle(x, weight=strength),
        "non-local means": lambda x: restoration.denoise_nl_means(
            x, patch_size=5, patch_distance=6, h=strength * sd, sigma=sd, fast_mode=True
        ),
        "wavelets": lambda x: restoration.cycle_spin(
            x,
            func=restoration.denoise_wavelet,
            max_shifts=2,
            func_kw={"sigma": strength * sd, "rescale_sigma": False},
            num_workers=1,
        ),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of levels of wavelets that small images don't have
        return torch.stack([torch.from_numpy(functions[method](x[0].numpy())).float()[None] for x in noisy])


if __name__ == "__main__":
    main()
