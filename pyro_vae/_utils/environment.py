"""Versions and hardware, for provenance."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from pyro_vae import __version__
from pyro_vae._utils.device import choose_device


def environment(device: str = "auto") -> dict[str, Any]:
    """Versions and hardware, for provenance."""
    import numpy
    import pyro

    chosen = choose_device(device)
    return {
        "pyro_vae": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(terse=True),
        "processor": platform.machine(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else chosen.type,
    }
