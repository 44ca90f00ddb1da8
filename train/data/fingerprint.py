"""A hash of data, by which a resumed run recognises the data that it began with."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields

import numpy as np
from torch import Tensor

from train.data.annotated import Scenes
from train.data.labelled import Images
from train.data.streaming.stored import StoredImages


def fingerprint(*splits: Images | Scenes) -> str:
    """Hashes the contents of data, independently of the file or folder that they were read from.

    Of stored images it hashes what they say of themselves (see
    :meth:`train.data.streaming.stored.StoredImages.digest`) and which of them are there, in their
    order.

    Args:
        splits: Training and held-out data.

    Returns:
        32 hexadecimal digits. They change with any pixel, any label, and the order of the images.

    Example:
        >>> import torch
        >>> images = Images(torch.zeros(10, 4, 4, dtype=torch.uint8), None)
        >>> fingerprint(images) == fingerprint(images.select(torch.arange(9)))
        False
    """
    digest = hashlib.blake2b(digest_size=16)
    for split in splits:
        # Fields that are left out of comparisons are no contents.
        for field in (field for field in fields(split) if field.compare):
            value = getattr(split, field.name)
            if field.name == "masks" and value is None:
                # As in earlier versions, whose scenes had no masks.
                continue
            named = [(field.name, value)]
            if isinstance(value, Mapping):
                named = _not_labels(value, split.values if isinstance(split, Images) else None)
            for name, content in named:
                _update(digest, name, content)
    return digest.hexdigest()


def _update(
    digest: hashlib.blake2b, name: str, content: Tensor | StoredImages | np.ndarray | None
) -> None:
    """Adds an array and its name to a hash."""
    if isinstance(content, StoredImages):
        digest.update(f"{content.image_shape}".encode() + content.digest())
        content = np.arange(len(content)) if content.rows is None else content.rows
    if content is None:
        digest.update(f"{name} {content!r}".encode())
        return
    array = content.cpu().numpy() if isinstance(content, Tensor) else content
    array = np.ascontiguousarray(array)
    if name == "images" and array.ndim == 4 and array.shape[1] == 1:
        # As in earlier versions, whose images had no channels.
        array = array[:, 0]
    digest.update(f"{name} {array.dtype} {array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)


def _not_labels(
    columns: Mapping[str, np.ndarray], values: np.ndarray | None
) -> list[tuple[str, np.ndarray]]:
    """Returns the columns that are not among the labels, which have been hashed.

    So data with labels alone keep the hash of earlier versions, which had no named columns.

    Args:
        columns: The columns by name.
        values: The labels, of shape (M) or (M, K); ``None`` if there are none.
    """
    labels = [] if values is None else list(values.reshape(len(values), -1).T)
    return [
        (name, column)
        for name, column in columns.items()
        if not any(np.array_equal(column, label) for label in labels)
    ]
