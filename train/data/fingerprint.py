"""A hash of data, so that a run goes on with the data that it began with."""

from __future__ import annotations

import hashlib
from dataclasses import fields

import numpy as np
from torch import Tensor

from train.data.labelled import Images
from train.data.scenes import Scenes


def fingerprint(*parts: Images | Scenes) -> str:
    """A hash of data as they were read, whatever file or folder they came from.

    Args:
        parts: Training and held-out data.

    Returns:
        32 hexadecimal digits, others as soon as one pixel or one label is another, or two images
        have changed places.

    Example:
        >>> import torch
        >>> images = Images(torch.zeros(10, 4, 4, dtype=torch.uint8), None)
        >>> fingerprint(images) == fingerprint(images.select(torch.arange(9)))
        False
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        for field in fields(part):
            value = getattr(part, field.name)
            if value is None:
                digest.update(f"{field.name} {value!r}".encode())
                continue
            array = value.cpu().numpy() if isinstance(value, Tensor) else value
            array = np.ascontiguousarray(array)
            digest.update(f"{field.name} {array.dtype} {array.shape}".encode())
            digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()
