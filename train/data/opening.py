"""Reads the images of a file or folder into memory, or leaves them on disk if they are large."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.data.options import DataOptions
from train.data.reading import arrays, files, folders
from train.data.reading.contents import ArrayFiles
from train.data.reading.files import Contents
from train.data.reading.folders import Pictures
from train.data.reading.paths import kind_of
from train.data.streaming.stored import ArrayImages, JoinedImages, PictureImages, StoredImages
from train.errors import InputError, note, require

LARGE = 256 * 2**20
"""Bytes from which on images stay on disk, unless they are asked for in memory."""


def read(data: str, options: DataOptions = DataOptions()) -> Contents[Tensor | StoredImages]:
    """Reads the path given as ``--data``; large images stay on disk.

    Args:
        data: See :func:`train.data.reading.files.read`.
        options: Labels, splits, colour and damaged files; and ``in_memory``. ``"always"``: images
            are read into memory. ``"never"``: they stay on disk. ``"auto"``: they stay on disk from
            :data:`LARGE` on. Those of an ``.npz`` archive cannot stay there.

    Returns:
        Contents whose images are a tensor or :class:`~train.data.streaming.stored.StoredImages`.

    Raises:
        InputError: See :func:`train.data.reading.files.read`; or if an archive is to stay on disk.
    """
    path = Path(data).expanduser()
    large = options.in_memory != "always" and size_of(path) >= LARGE
    if not large and options.in_memory != "never":
        contents = files.read(data, options)
        return contents.with_images(torch.from_numpy(contents.images))
    unread = files.open_images(data, options)
    return unread.with_images(stored(path, unread.images, options))


def size_of(path: Path) -> int:
    """Returns the bytes of the images in a file or folder, without reading them.

    Of a folder it is an estimate, by the first image. It is 0 for archives, and for what is refused
    when it is read.
    """
    try:
        if kind_of(path) == "file":
            return arrays.mapped(path).size if path.suffix.lower() == ".npy" else 0
        if kind_of(path) != "folder":
            return 0
        given = files.array_files(path)
        if given:
            return sum(size_of(file) for file in given.values())
        listing = folders.listing(path)
        first = dataclasses.replace(listing, files=listing.files[:1])
        pictures, _ = folders.pictures_of(first)
        return len(listing.files) * math.prod(pictures.shape)
    # Said again, better, when the path is read.
    except InputError:
        return 0


def stored(path: Path, images: Any, options: DataOptions) -> StoredImages | Tensor:
    """Makes stored images of what :func:`train.data.reading.files.open_images` opened.

    Args:
        path: The file or folder, for messages.
        images: Pictures of a folder or files of arrays.
        options: ``grey`` and ``workers``.

    Raises:
        InputError: If they are of an archive, which cannot be read in parts.
    """
    require(
        not isinstance(images, np.ndarray),
        f"--in-memory never: {path} is an archive, which is read as a whole: write its images "
        "with numpy.save to an .npy file, or leave --in-memory out",
    )
    kept: StoredImages
    if isinstance(images, Pictures):
        kept = PictureImages(images, path)
    elif isinstance(images, ArrayFiles):
        kept = JoinedImages.of([ArrayImages(file) for file in images.paths])
    else:
        raise TypeError(type(images))
    kept = kept.grey() if options.grey else kept
    kept.workers = options.workers
    line = f"{path}: the {len(kept):,} images stay on disk, and are read batch by batch"
    if isinstance(images, Pictures) and kept.shape[1] > 1:
        line += "; they are in colour by their headers, and --grey turns it off"
    note(line)
    return kept
