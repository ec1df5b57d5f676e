"""Where the numbers of a command come from: the run that it opens, and what its JSON file records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_vae._utils.progress import say

if TYPE_CHECKING:
    from pyro_vae.data import Images, Splits
    from pyro_vae.models import Model
    from pyro_vae.spec import Spec


def opened_run(
    run: Path, data_root: Path | None, dataset: str | None, *, progress: bool, trust: bool
) -> tuple[Model, Spec, Splits]:
    """The model of a run, its spec and its images; where the run does not record which these were, a note says so."""
    from pyro_vae.experiments.run import check_data, open_run

    model, spec, images = open_run(run, data_root, dataset, progress=progress, trust=trust)
    if note := check_data(run, images):
        say(f"pyro-vae: note: {note}")
    return model, spec, images


def run_name(run: Path) -> str:
    """The name of a run in titles: that of its folder, or of its model in a study, `runs/MODEL/seed-0`."""
    folder = run.resolve()
    of_study = folder.parent.parent.name == "runs" and re.fullmatch(r"seed-\d+", folder.name)
    return folder.parent.name if of_study else folder.name


def provenance(model: Model, sets: Mapping[str, Images], settings: Mapping[str, Any], device: str) -> dict[str, Any]:
    """The settings of a command, and fingerprints of weights and images, versions and hardware."""
    from pyro_vae._utils.environment import environment
    from pyro_vae.evaluation.samples.features import fingerprint

    images = {of_set: {"name": each.name, "n": len(each), "sha256": each.fingerprint} for of_set, each in sets.items()}
    return {**settings, "weights": fingerprint(model), "images": images, "environment": environment(device)}
