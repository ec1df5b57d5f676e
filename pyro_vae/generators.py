"""Pyro draws from torch's default generators; here they are borrowed, and given back as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def own_generators(device: torch.device, seed: int) -> Iterator[None]:
    """Inside, the default generators of the CPU and of `device` start from `seed`; outside, they are as before.

    >>> with own_generators(torch.device("cpu"), seed=0):
    ...     inside = torch.rand(2)
    """
    with same_generators([device]):
        seed_generators(device, seed)
        yield


@contextmanager
def same_generators(devices: Iterable[torch.device]) -> Iterator[None]:
    """In the end the default generators of the CPU and of `devices` are as before."""
    before = [(device, generator_states(device)) for device in {torch.device("cpu"), *devices}]
    try:
        yield
    finally:
        for device, states in before:
            set_generator_states(device, states)


def seed_generators(device: torch.device, seed: int) -> None:
    """The default generators of the CPU and of `device` start from `seed`."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """Where the default generators of the CPU and of `device` stand."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_generator_states(device: torch.device, states: dict[str, Tensor]) -> None:
    """Puts the default generators where they stood; states of a device that is not in use now are left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
