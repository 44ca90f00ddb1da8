"""Pyro's plate, with the types that it takes: the types that Pyro declares are narrower."""

from __future__ import annotations

import pyro
import torch


def plate(name: str, size: int, device: torch.device) -> pyro.plate:
    """Returns the plate of a batch, ``pyro.plate(name, size, device=device)``.

    Args:
        name: The plate's name.
        size: The number of data in the batch.
        device: The device of the batch.
    """
    return pyro.plate(name, size, device=device)  # type: ignore[arg-type]
