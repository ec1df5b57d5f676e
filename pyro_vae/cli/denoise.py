"""`pyro-vae denoise`: noisy test images and their posterior means under a trained model."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyro_vae._utils import checks, files
from pyro_vae._utils.console import show, show_table
from pyro_vae._utils.progress import say
from pyro_vae.cli.options import DataRoot, Dataset, Device, Quiet, Run, Seed, Trust, path, whole_number

if TYPE_CHECKING:
    from torch import Tensor

PICTURED = 10  # images, in the picture
_MEANINGS = {
    "psnr_db": ("PSNR", "peak signal-to-noise ratio to the clean image, decibels"),
    "ssim": ("SSIM", "structural similarity to the clean image, at most 1"),
    "log_likelihood_nats": ("log p(y), nats", "of the noisy image under both models"),
    "effective_samples": ("effective samples", "of the importance weights of an image"),
}


def denoise(
    run: Run,
    noise: Annotated[
        str,
        typer.Option(
            help="gaussian:SD, salt-and-pepper:SHARE, or blur:WIDTH in pixels, blur:WIDTH:SD with the noise's SD"
        ),
    ] = "gaussian:0.3",
    n: Annotated[int, typer.Option(help="test images, drawn at random", parser=whole_number, metavar="INTEGER")] = 100,
    draws: Annotated[int, typer.Option(help="codes per image", parser=whole_number, metavar="INTEGER")] = 200,
    steps: Annotated[
        int, typer.Option(help="steps in which q(z) is fitted to each image", parser=whole_number, metavar="INTEGER")
    ] = 300,
    out: Annotated[
        Path | None,
        typer.Option(
            help="folder to write; denoise/ in the run folder by default",
            show_default=False,
            parser=path,
            metavar="PATH",
        ),
    ] = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    seed: Seed = 0,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Add noise to test images and take it off again: a table of each image, a picture, and a summary."""
    for option, value in {"--n": n, "--draws": draws, "--steps": steps}.items():
        checks.positive_integer(option, value)

    import torch

    from pyro_vae import plots
    from pyro_vae._utils.environment import environment
    from pyro_vae._utils.rng import seeded_rng, stream_seed
    from pyro_vae.data import binarize, fixed_binarization
    from pyro_vae.experiments.run import check_data, open_run
    from pyro_vae.models.base import warn_if_not_binary
    from pyro_vae.uses.code_posterior import Ascent
    from pyro_vae.uses.denoise import denoise as denoise_images
    from pyro_vae.uses.noise import noise_of

    of_noise = noise_of(noise)
    model, spec, images = open_run(run, data_root, dataset, progress=not quiet, trust=trust)
    if note := check_data(run, images):
        say(f"pyro-vae: note: {note}")
    chosen = binarize(images.test.draw(n, seed), fixed_binarization(spec.binarization))
    warn_if_not_binary(model, chosen, "none")
    clean = chosen.as_float()
    with seeded_rng(torch.device("cpu"), stream_seed(seed, f"noise {of_noise}")):
        noisy = of_noise.corrupt(clean)
    denoised = denoise_images(
        model,
        noisy,
        of_noise,
        draws=draws,
        ascent=Ascent(steps=steps),
        device=device,
        seed=seed,
        progress=not quiet,
    )
    columns = {
        **_quality("noisy", noisy, clean),
        **_quality("denoised", denoised.mean, clean),
        "effective_samples": denoised.effective_samples,
        "log_likelihood_nats": denoised.log_likelihood_nats,
    }
    folder, name = out or run / "denoise", str(of_noise).replace(":", "-")
    files.write(folder / f"{name}.csv", _table(columns))
    rows = {"noisy": noisy, "denoised": denoised.mean, "sd": denoised.sd, "true": clean}
    figure = plots.image_rows(
        {row: values[:PICTURED].clamp(0, 1) for row, values in rows.items()},
        title=f"{run.resolve().name}, noise {of_noise}",
    )
    plots.save_figure(figure, folder / f"{name}.png")
    settings = {"run": str(run), "noise": str(of_noise), "n": len(clean), "draws": draws, "steps": steps, "seed": seed}
    means = {column: _mean(values) for column, values in columns.items()}
    provenance = {**settings, "images": chosen.fingerprint, "environment": environment(device)}
    files.write_json(folder / f"{name}.json", {"means": means, "provenance": provenance})
    if not quiet:
        heads = ("mean over images", "value", "what it is")
        title = f"{run}, {len(clean):,} test images with noise {of_noise}"
        show_table([_row(column, mean) for column, mean in means.items()], title, "± standard error", heads)
        show(f"Files: {folder / name}.csv, .json and .png")


def _quality(name: str, images: Tensor, clean: Tensor) -> dict[str, Tensor]:
    """Columns of the quality of images; without structural similarity where they are smaller than its window."""
    from pyro_vae.uses.image_quality import WINDOW, peak_signal_to_noise, structural_similarity

    columns = {f"{name}_psnr_db": peak_signal_to_noise(images, clean)}
    if min(clean.shape[-2:]) >= WINDOW:
        columns[f"{name}_ssim"] = structural_similarity(images, clean)
    return columns


def _table(columns: dict[str, Tensor]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["image", *columns])
    for index, row in enumerate(zip(*(values.tolist() for values in columns.values()), strict=True)):
        writer.writerow([index, *(f"{value:.6g}" for value in row)])
    return buffer.getvalue()


def _mean(values: Tensor) -> dict[str, Any]:
    """The mean over images, and its standard error if there are two."""
    mean: dict[str, Any] = {"value": values.mean().item()}
    return mean if len(values) < 2 else mean | {"se": values.std().item() / len(values) ** 0.5}


def _row(column: str, mean: dict[str, Any]) -> tuple[str, str, str]:
    image, _, measure = column.partition("_") if column.startswith(("noisy", "denoised")) else ("", "", column)
    label, meaning = _MEANINGS[measure]
    value = f"{mean['value']:.3f}" + (f" ± {mean['se']:.3f}" if "se" in mean else "")
    return f"{label}, {image}" if image else label, value, meaning
