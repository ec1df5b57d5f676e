"""What the JSON files of commands record of where their numbers come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_vae.data import Images
    from pyro_vae.models import Model


def provenance(model: Model, sets: Mapping[str, Images], settings: Mapping[str, Any], device: str) -> dict[str, Any]:
    """The settings of a command, and fingerprints of weights and images, versions and hardware."""
    from pyro_vae._utils.environment import environment
    from pyro_vae.evaluation.samples.features import fingerprint

    images = {of_set: {"name": each.name, "n": len(each), "sha256": each.fingerprint} for of_set, each in sets.items()}
    return {**settings, "weights": fingerprint(model), "images": images, "environment": environment(device)}
