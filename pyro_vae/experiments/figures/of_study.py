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
    """The pictures, of those of their models that are done, where they are not drawn since."""
    for picture in pictures:
        shown = [runs[model][0] for model in picture.runs if model in runs]
        shown = [one for one in shown if one.done]
        if picture.runs and not shown:
            continue
        path = folder / picture.file
        if path.is_file() and all((one.folder / WEIGHTS).stat().st_mtime <= path.stat().st_mtime for one in shown):
            continue
        splits = images[shown[0].spec.dataset] if shown else None
        save_if_drawn(partial(_figure, picture, shown, splits), path)


def _figure(picture: Picture, runs: Sequence[StudyRun], splits: Splits | None) -> Figure:
    from pyro_vae.experiments import figures

    function = getattr(figures, picture.function)
    fitted = {one.model: figures.open_run(one.folder) for one in runs}
    options = _options(picture, function, splits, min((one.spec.epochs for one in runs), default=0))
    return function(fitted, splits and splits.test, **options)


def _options(picture: Picture, function: Any, splits: Splits | None, epochs: int) -> dict[str, Any]:
    """The options of a picture, and what its function asks for beside the test images."""
    options = dict(picture.options)
    asked = inspect.signature(function).parameters
    if "epochs" in options:  # of a shorter training than the study's
        options["epochs"] = tuple(sorted({*(one for one in options["epochs"] if one < epochs), epochs}))
    if splits is not None and "train" in asked:
        options["train"] = splits.train
    if splits is not None and "classifier" in asked:
        options["classifier"] = in_domain_classifier(splits, progress=False)
    return options
