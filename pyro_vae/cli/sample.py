"""`pyro-vae sample`: a picture of decoded draws from the prior."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyro_vae._utils.checks import fail
from pyro_vae._utils.console import show
from pyro_vae.cli.options import Run, Seed, Trust, path, whole_number


def sample(
    run: Run,
    n: Annotated[int, typer.Option(help="images to draw", parser=whole_number, metavar="INTEGER")] = 64,
    out: Annotated[Path, typer.Option(help="picture file to write", parser=path, metavar="PATH")] = Path("samples.png"),
    labels: Annotated[
        str | None,
        typer.Option(
            help="of a model that is conditional on labels: those to draw, in turn, a column for each, e.g. 0,1,2",
            metavar="NUMBERS",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    trust: Trust = False,
) -> None:
    """Draw samples of a trained model into one picture."""
    if n < 1:
        raise fail("--n", n, "a whole number of at least 1")

    numbers = None if labels is None else _labels(labels)

    import torch

    from pyro_vae import latent, plots
    from pyro_vae.experiments.run import open_model
    from pyro_vae.models.base import condition_of

    model = open_model(run, trust=trust)
    if numbers is None and "labels" in condition_of(model):
        raise fail("--labels", None, f"labels to draw, as 0,1,2: {type(model).__name__} is conditional on them")
    in_turn = None if numbers is None else torch.tensor(numbers).repeat(-(-n // len(numbers)))[:n]
    samples = latent.prior_samples(model, n, labels=in_turn, seed=seed)
    names = [] if numbers is None else [str(number) for number in numbers]
    figure = plots.image_grid(samples, f"Samples of {run.name}", columns=len(names) or None, column_names=names)
    plots.save_figure(figure, out)
    show(f"{n} samples: {out}")


def _labels(text: str) -> list[int]:
    labels = [label.strip() for label in text.split(",") if label.strip()]
    if not labels or not all(label.isdecimal() for label in labels):
        raise fail("--labels", text, "whole numbers with commas between them, as 0,1,2")
    return [whole_number(label) for label in labels]
