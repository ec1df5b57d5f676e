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
    seed: Seed = 0,
    trust: Trust = False,
) -> None:
    """Draw samples of a trained model into one picture."""
    if n < 1:
        raise fail("--n", n, "a whole number of at least 1")

    from pyro_vae import latent, plots
    from pyro_vae.experiments.run import open_model

    model = open_model(run, trust=trust)
    plots.save_figure(plots.image_grid(latent.prior_samples(model, n, seed=seed), f"Samples of {run.name}"), out)
    show(f"{n} samples: {out}")
