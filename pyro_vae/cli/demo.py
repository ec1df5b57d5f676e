"""`pyro-vae demo`: the whole path on the embedded digits."""

from __future__ import annotations

from pathlib import Path

from pyro_vae.evaluation import Metrics, evaluate
from pyro_vae.evaluation.samples import extractors
from pyro_vae.experiments.figures.of_run import save_run_figures
from pyro_vae.experiments.run import add_metrics, run
from pyro_vae.spec import GROUPS, Spec

SPEC = Spec(
    dataset="digits",
    latent_dim=8,
    likelihood="gaussian-learned",
    activation="relu",
    epochs=120,
    batch_size=64,
    lr=2e-3,
)


def run_demo(folder: Path) -> tuple[Metrics, list[Path]]:
    """Trains, judges and draws into a run folder; returns the metrics and the figures."""
    model, history, images = run(SPEC, folder, resume=True)
    classifier = extractors.by_name("classifier", images)
    metrics = evaluate(
        model, images.test, metrics=GROUPS, k=500, extractor=classifier, train=images.train, progress=True
    )
    add_metrics(folder, metrics)
    return metrics, save_run_figures(model, images.test, history, folder / "figures")
