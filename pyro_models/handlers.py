"""Pyro's handlers, with the types that they take: the types that Pyro declares are narrower."""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from pyro.poutine.mask_messenger import MaskMessenger
from torch import Tensor


def plate(name: str, size: int, device: torch.device) -> pyro.plate:
    """Returns the plate of a batch, ``pyro.plate(name, size, device=device)``.

    Args:
        name: The plate's name.
        size: The number of data in the batch.
        device: The device of the batch.
    """
    return pyro.plate(name, size, device=device)  # type: ignore[arg-type]


def mask(present: Tensor) -> MaskMessenger:
    r"""Returns ``poutine.mask(mask=present)``: log-probabilities are 0 where a mask is false.

    Args:
        present: Booleans, of a shape that broadcasts with that of the sites.
    """
    return poutine.mask(mask=present)  # type: ignore[call-overload]
