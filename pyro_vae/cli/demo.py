"""`pyro-vae demo`: trains, evaluates and draws figures, on the embedded digits."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pyro_vae._utils.console import show
from pyro_vae.cli.evaluate import show_metrics
from pyro_vae.cli.options import path
from pyro_vae.spec import GROUPS, Spec

SPEC = Spec(
    dataset="digits",
    latent_dim=8,
    network={"kind": "mlp", "activation": "relu"},
    likelihood="gaussian-learned",
    epochs=120,
    batch_size=64,
    lr=2e-3,
)


def demo(
    out: Annotated[Path, typer.Option(help="folder to make", parser=path, metavar="PATH")] = Path("demo"),
) -> None:
    """Train a VAE on the embedded 8x8 digits, evaluate it, and draw figures; under a minute on two cores."""
    from pyro_vae.evaluation import evaluate
    from pyro_vae.evaluation.samples import extractors
    from pyro_vae.experiments.figures.of_run import save_run_figures
    from pyro_vae.experiments.run import add_metrics, run

    model, history, images = run(SPEC, out, resume=True)
    classifier = extractors.by_name("classifier", images)
    metrics = evaluate(
        model, images.test, metrics=GROUPS, k=500, extractor=classifier, train=images.train, progress=True
    )
    add_metrics(out, metrics)
    figures = save_run_figures(model, images.test, history, out / "figures")

    show_metrics([metrics], "A VAE with 8 latent dimensions, on test images of 8x8 digits")
    show(f"Figures: {', '.join(map(str, figures))}")
    show(f"Next: pyro-vae sample {shlex.quote(str(out))} --n 100 --out samples.png")
    show("      pyro-vae data fetch mnist && pyro-vae train --dataset mnist --network conv --hidden 256 --out RUN")
