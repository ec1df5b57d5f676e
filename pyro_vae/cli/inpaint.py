"""`pyro-vae inpaint`: several ways to fill what is hidden of test images, under a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyro_vae._utils import checks, files
from pyro_vae._utils.console import show
from pyro_vae.cli.options import DataRoot, Dataset, Device, Out, Quiet, Run, Seed, Trust, whole_number
from pyro_vae.cli.per_image import drawn_test_images, means_of, naming, show_means, write_table
from pyro_vae.cli.provenance import provenance, run_name

if TYPE_CHECKING:
    from torch import Tensor

    from pyro_vae.uses.inpaint import Inpainted

PICTURED, ROWS = 10, 6  # images in the picture, and draws of each
MEANINGS = {
    "rmse_of_mean": ("RMSE of the mean", "root of the mean squared error of hidden pixels"),
    "rmse_of_draw": ("RMSE of a draw", "the same of a single draw: about 1.4 times as large where draws are right"),
    "effective_samples": ("effective samples", "of the importance weights of an image"),
    "acceptance": ("acceptance", "share of proposals that chains accept"),
    "log_score_nats": ("log-score, nats", "log p(hidden pixels | seen pixels) of an image; larger is better"),
    "log_score_mcse_nats": ("its Monte Carlo error", "standard error of the log-score of an image, nats"),
}


def inpaint(
    run: Run,
    mask: Annotated[
        str,
        typer.Option(
            help="what is hidden: top, left, center, random:SHARE of the pixels, or the black pixels of a .npy or .png"
        ),
    ] = "top",
    method: Annotated[
        str, typer.Option(help="importance, adaptive-importance, metropolis, collapsed-metropolis or pseudo-gibbs")
    ] = "importance",
    n: Annotated[int, typer.Option(help="test images, drawn at random", parser=whole_number, metavar="INTEGER")] = 100,
    draws: Annotated[int, typer.Option(help="draws for each image", parser=whole_number, metavar="INTEGER")] = 8,
    codes: Annotated[
        int,
        typer.Option(
            help="codes per image, of importance sampling and of the log-score", parser=whole_number, metavar="INTEGER"
        ),
    ] = 500,
    steps: Annotated[
        int,
        typer.Option(
            help="steps of each chain, or in which q(z) is fitted to each image", parser=whole_number, metavar="INTEGER"
        ),
    ] = 300,
    log_score: Annotated[
        bool, typer.Option("--log-score", help="estimate log p(hidden pixels | seen pixels) of each image as well")
    ] = False,
    out: Out = None,
    dataset: Dataset = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    seed: Seed = 0,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Hide parts of test images and draw them given the rest: a table of each image, a picture, and a summary."""
    for option, value in {"--n": n, "--draws": draws, "--codes": codes, "--steps": steps}.items():
        checks.positive_integer(option, value)
    if log_score and codes < 2:
        raise checks.fail("--codes", codes, "a whole number of at least 2, for the log-score")

    import torch

    from pyro_vae import plots
    from pyro_vae.uses.code_posterior import Ascent
    from pyro_vae.uses.inpaint import METHODS
    from pyro_vae.uses.inpaint import inpaint as inpaint_images
    from pyro_vae.uses.log_score import log_score as log_score_of
    from pyro_vae.uses.masks import mask_of

    checks.one_of("--method", method, METHODS)
    model, images, index = drawn_test_images(
        run, "inpaint", n, seed, data_root, dataset, progress=not quiet, trust=trust
    )
    x = images.as_float()
    with naming("--mask", "mask", "seen"):
        seen = mask_of(mask, len(x), images.shape, seed)
    result = inpaint_images(
        model,
        x,
        seen,
        method=method,
        draws=draws,
        codes=codes,
        steps=steps,
        ascent=Ascent(steps=steps),
        device=device,
        seed=seed,
        progress=not quiet,
    )
    columns = _columns(result, x, seen)
    if log_score:
        score = log_score_of(
            model, x, seen, codes=codes, ascent=Ascent(steps=steps), device=device, seed=seed, progress=not quiet
        )
        columns |= {"log_score_nats": score.nats, "log_score_mcse_nats": score.mcse_nats}
    means = means_of(columns)
    rows = {"seen": torch.where(seen, x, 0.5)}
    rows |= {f"draw {index + 1}": drawn for index, drawn in enumerate(result.draws[:ROWS])}
    figure = plots.image_rows(
        {row: values[:PICTURED].clamp(0, 1) for row, values in (rows | {"mean": result.mean, "true": x}).items()},
        title=f"{run_name(run)}, hidden: {Path(mask).name}, {method}",
    )
    folder, name = out or run / "inpaint", f"{_name_of(mask)}-{method}"
    settings = {"run": str(run), "mask": mask, "method": method, "n": len(x), "draws": draws, "steps": steps}
    settings |= {"codes": codes, "log_score": log_score, "seed": seed}
    write_table(folder / f"{name}.csv", columns, images, index)
    plots.save_figure(figure, folder / f"{name}.png")
    files.write_json(
        folder / f"{name}.json",
        {"means": means, "provenance": provenance(model, {"test": images}, settings, device)},
    )
    if not quiet:
        show_means(means, MEANINGS, f"{run}, {len(x):,} test images, hidden: {mask}")
        show(f"Files: {folder / name}.csv, .json and .png")


def _name_of(mask: str) -> str:
    """The mask in a file name: the name of its own file without the suffix."""
    path = Path(mask)
    return path.stem if path.suffix in (".npy", ".png") else mask.replace(":", "-")


def _columns(result: Inpainted, x: Tensor, seen: Tensor) -> dict[str, Tensor]:
    """The errors of each image's hidden pixels, and how the sampling went."""
    hidden = (~seen).expand(x.shape)
    pixels = hidden.sum((1, 2, 3))

    def error(images: Tensor) -> Tensor:  # squared, `(..., N)`
        return ((images - x).square() * hidden).sum((-3, -2, -1)) / pixels

    columns = {"rmse_of_mean": error(result.mean).sqrt(), "rmse_of_draw": error(result.draws).mean(0).sqrt()}
    measures = {"effective_samples": result.effective_samples, "acceptance": result.acceptance}
    return columns | {name: values for name, values in measures.items() if values is not None}
