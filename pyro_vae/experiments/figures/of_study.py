"""The figures of a study, drawn from its run folders."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae.data import Splits
from pyro_vae.evaluation import in_domain_classifier
from pyro_vae.experiments.figures.of_run import save_if_drawn
from pyro_vae.experiments.study import Picture
from pyro_vae.spec import WEIGHTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pyro_vae.experiments.study_folder import StudyRun


def draw_figures(
    pictures: Sequence[Picture], folder: Path, runs: Mapping[str, Sequence[StudyRun]], images: Mapping[str, Splits]
) -> None:
    """Draws each picture from those of its models that are done, unless the file is newer than their weights."""
    for picture in pictures:
        drawn = [runs[model][0] for model in picture.runs if model in runs]
        drawn = [run for run in drawn if run.done and run.evaluable]
        if picture.runs and not drawn:
            continue
        path = folder / picture.file
        if path.is_file() and all((run.folder / WEIGHTS).stat().st_mtime <= path.stat().st_mtime for run in drawn):
            continue
        splits = images[drawn[0].spec.dataset] if drawn else None
        save_if_drawn(partial(_figure, picture, drawn, splits), path)


def _figure(picture: Picture, runs: Sequence[StudyRun], splits: Splits | None) -> Figure:
    from pyro_vae.experiments import figures

    function = getattr(figures, picture.function)
    fitted = {run.model: figures.open_run(run.folder, trust=run.spec) for run in runs}
    options = _options(picture, function, splits, min((run.spec.epochs for run in runs), default=0))
    return function(fitted, splits and splits.test, **options)


def _options(picture: Picture, function: Any, splits: Splits | None, epochs: int) -> dict[str, Any]:
    """The options of a picture, and the other arguments that its function takes beside the test images."""
    options = dict(picture.options)
    asked = inspect.signature(function).parameters
    if "epochs" in options:  # where the training is shorter than the study's
        options["epochs"] = tuple(sorted({*(epoch for epoch in options["epochs"] if epoch < epochs), epochs}))
    if splits is not None and "train" in asked:
        options["train"] = splits.train
    if splits is not None and "classifier" in asked:
        options["classifier"] = in_domain_classifier(splits, progress=False)
    return options
