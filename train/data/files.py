"""Reads images from an ``.npz`` archive or a folder."""

from __future__ import annotations

from pathlib import Path

from train.data import archives, folders
from train.data.archives import Contents
from train.data.catalogue import NAMES
from train.data.paths import kind_of
from train.errors import require

FEWEST = 10
"""The fewest images, so that some are left after two splits."""


def read(data: str) -> Contents:
    """Reads the path given as ``--data``; prints a line for each conversion.

    Args:
        data: An ``.npz`` archive (see :func:`train.data.archives.read`) or a folder of image files
            (see :func:`train.data.folders.read`).

    Raises:
        InputError: If there is nothing at ``data``, it cannot be read, or its contents cannot be
            used: fewer than :data:`FEWEST` images, another shape, type or range than those of
            :class:`~train.data.archives.Contents`, values that are not finite, arrays of different
            lengths, or more than memory has room for.
    """
    path = Path(data).expanduser()
    kind = kind_of(path)
    require(
        kind is not None,
        f"--data {data}: no such file or folder; give one, or one of {NAMES}",
    )
    require(
        kind in ("file", "folder"),
        f"--data {data} is {kind}: give an .npz file or a folder of images",
    )
    contents = Contents(folders.read(path)) if kind == "folder" else archives.read(path)
    require(
        len(contents.images) >= FEWEST,
        f"{path} holds {len(contents.images)} images: give {FEWEST} or more, as a fifth of them "
        "is held out",
    )
    return contents
