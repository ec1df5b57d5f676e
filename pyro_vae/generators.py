"""Pyro draws from torch's default generators; here they are borrowed, and given back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def own_generators(device: torch.device, seed: int) -> Iterator[None]:
    """Inside, the default generators of the CPU and of `device` start from `seed`; outside, they are as before.

    >>> with own_generators(torch.device("cpu"), seed=0):
    ...     inside = torch.rand(2)
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        seed_generators(device, seed)
        yield


def seed_generators(device: torch.device, seed: int) -> None:
    """The default generators of the CPU and of `device` start from `seed`."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Where the default generators of the CPU and of `device` stand."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(device: torch.device, states: dict[str, Tensor]) -> None:
    """Puts the default generators where they stood; states of a device that is not in use now are left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
