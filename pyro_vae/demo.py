"""`pyro-vae demo`: the whole path on the embedded digits."""

from __future__ import annotations

from pathlib import Path

from pyro_vae import plots, run_folder
from pyro_vae.evaluation import Metrics, evaluate, extractors
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
    model, history, images = run_folder.run(SPEC, folder, resume=True)
    classifier = extractors.by_name("classifier", images)
    metrics = evaluate(
        model, images.test, metrics=GROUPS, k=500, extractor=classifier, train=images.train, progress=True
    )
    run_folder.add_metrics(folder, metrics)
    return metrics, plots.save_run_figures(model, images.test, history, folder / "figures")
