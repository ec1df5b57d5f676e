"""`pyro-vae denoise`: noisy test images and their posterior means under a trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pyro_vae._utils import checks, files
from pyro_vae._utils.console import show
from pyro_vae._utils.progress import say
from pyro_vae.cli.options import DataRoot, Dataset, Device, Out, Quiet, Run, Seed, Trust, whole_number
from pyro_vae.cli.per_image import drawn_test_images, means_of, naming, show_means, write_table
from pyro_vae.cli.provenance import provenance, run_name

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vae.models import Model
    from pyro_vae.noise import Noise

NOISE = "gaussian:0.3"  # of models that were not trained on noise
PICTURED = 10  # images, in the picture
MEANINGS = {
    f"{image}_{measure}": (f"{label}, {image}", meaning)
    for image in ("noisy", "denoised")
    for measure, label, meaning in (
        ("psnr_db", "PSNR", "peak signal-to-noise ratio to the clean image, decibels"),
        ("ssim", "SSIM", "structural similarity to the clean image, at most 1"),
    )
} | {
    "effective_samples": ("effective samples", "of the importance weights of an image"),
    "log_likelihood_nats": ("log p(y), nats", "of the noisy image under both models"),
}


def denoise(
    run: Run,
    noise: Annotated[
        str | None,
        typer.Option(
            help="gaussian:SD, salt-and-pepper:SHARE, or blur:WIDTH in pixels, blur:WIDTH:SD with the noise's SD; "
            f"without it, the noise of the model's training, or else {NOISE}",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help="importance, or encoder, for a model that was trained on noisy images")
    ] = "importance",
    n: Annotated[int, typer.Option(help="test images, drawn at random", parser=whole_number, metavar="INTEGER")] = 100,
    draws: Annotated[int, typer.Option(help="codes per image", parser=whole_number, metavar="INTEGER")] = 200,
    steps: Annotated[
        int, typer.Option(help="steps in which q(z) is fitted to each image", parser=whole_number, metavar="INTEGER")
    ] = 300,
    out: Out = None,
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
    from pyro_vae._utils.rng import seeded_rng, stream_seed
    from pyro_vae.noise import noise_of
    from pyro_vae.uses.code_posterior import Ascent
    from pyro_vae.uses.denoise import METHODS
    from pyro_vae.uses.denoise import denoise as denoise_images
    from pyro_vae.uses.image_quality import EQUAL_DB

    checks.one_of("--method", method, METHODS)
    with naming("--noise", "noise"):
        asked = None if noise is None else noise_of(noise)
    model, images, index = drawn_test_images(
        run, "denoise", n, seed, data_root, dataset, progress=not quiet, trust=trust
    )
    of_noise = _noise_for(model, asked, method)
    clean = images.as_float()
    with naming("--noise", "noise"), seeded_rng(torch.device("cpu"), stream_seed(seed, f"noise {of_noise}")):
        noisy = of_noise.corrupt(clean)
    with naming("--noise", "noise", "noisy"):
        denoised = denoise_images(
            model,
            noisy,
            of_noise,
            method=method,
            draws=draws,
            ascent=Ascent(steps=steps),
            device=device,
            seed=seed,
            progress=not quiet,
        )
    if unchanged := int((noisy == clean).flatten(1).all(1).sum()):
        say(
            f"pyro-vae: note: the noise left {unchanged} of {len(clean)} images as they were: the PSNR of these counts "
            f"as {EQUAL_DB:g} decibels in the mean"
        )
    columns = {
        **_quality("noisy", noisy, clean),
        **_quality("denoised", denoised.mean, clean),
        "effective_samples": denoised.effective_samples,
        "log_likelihood_nats": denoised.log_likelihood_nats,
    }
    folder, name = out or run / "denoise", str(of_noise).replace(":", "-")
    name += "" if method == "importance" else f"-{method}"
    rows = {"noisy": noisy, "denoised": denoised.mean, "sd": denoised.sd, "true": clean}
    figure = plots.image_rows(
        {row: values[:PICTURED].clamp(0, 1) for row, values in rows.items()},
        title=f"{run_name(run)}, noise {of_noise}",
    )
    settings = {
        "run": str(run),
        "noise": str(of_noise),
        "method": method,
        "n": len(clean),
        "draws": draws,
        "steps": steps,
        "seed": seed,
    }
    means = means_of(columns)
    write_table(folder / f"{name}.csv", columns, images, index)
    plots.save_figure(figure, folder / f"{name}.png")
    files.write_json(
        folder / f"{name}.json",
        {"means": means, "provenance": provenance(model, {"test": images}, settings, device)},
    )
    if not quiet:
        show_means(means, MEANINGS, f"{run}, {len(clean):,} test images with noise {of_noise}")
        show(f"Files: {folder / name}.csv, .json and .png")


def _noise_for(model: Model, asked: Noise | None, method: str) -> Noise:
    """The noise that is asked for, or that of the model's training; a note where the encoder saw another."""
    from pyro_vae.models.denoising import Denoising
    from pyro_vae.noise import noise_of

    of_training = model.noise if isinstance(model, Denoising) else None
    noise = asked or of_training or noise_of(NOISE)
    if method == "encoder" and noise != of_training:
        say(
            f"pyro-vae: note: the encoder was trained on {'clean images' if of_training is None else of_training}, "
            f"not on noise {noise}: few effective samples may be left, and --method importance is safer"
        )
    return noise


def _quality(name: str, images: Tensor, clean: Tensor) -> dict[str, Tensor]:
    """Columns of the quality of images; without structural similarity where they are smaller than its window."""
    from pyro_vae.uses.image_quality import WINDOW, peak_signal_to_noise, structural_similarity

    columns = {f"{name}_psnr_db": peak_signal_to_noise(images, clean)}
    if min(clean.shape[-2:]) >= WINDOW:
        columns[f"{name}_ssim"] = structural_similarity(images, clean)
    return columns
