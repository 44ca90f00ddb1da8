"""Samples of large data, on which models are measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from train.data.streaming.stored import StoredImages

MOST_BYTES = 256 * 2**20
"""Bytes of stored images that are read into memory at most."""


S = TypeVar("S", bound="Sampled")


class Sampled(Protocol):
    """Images or scenes."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def images(self) -> Tensor | StoredImages:
        """Of shape :math:`(M, C, H, W)`."""

    def select(self: S, index: Tensor) -> S:
        """Returns those at an index."""


def size(data: Sampled, most: int) -> int:
    """Returns the number of images in a sample.

    Args:
        data: The images.
        most: The most images. Of stored ones there are fewer if they are large: see
            :data:`MOST_BYTES`.
    """
    if isinstance(data.images, StoredImages):
        most = min(most, max(MOST_BYTES // data.images.image_shape.values, 1))
    return min(most, len(data.images))


def rows(data: Sampled, most: int) -> Tensor:
    """Returns the indices of a sample, in order: the same random ones each time."""
    number, total = size(data, most), len(data.images)
    if number == total:
        return torch.arange(total)
    chosen = np.random.default_rng(0).choice(total, number, replace=False)
    return torch.from_numpy(np.sort(chosen))


def sample(data: S, most: int, *, stored: bool = False) -> S:
    """Returns a random sample of images or scenes; all of them if they are few.

    Args:
        data: Images or scenes.
        most: The most images: see :func:`size`.
        stored: Whether the sample may stay on disk, if it is read fast from there. Otherwise it is
            in memory.
    """
    if size(data, most) == len(data.images) and isinstance(data.images, Tensor):
        return data
    chosen = data.select(rows(data, most))
    images = chosen.images
    if isinstance(images, Tensor) or (stored and images.READS_FAST):
        return chosen
    return replace(chosen, images=images.load())
