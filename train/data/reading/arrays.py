"""Maps or reads images in an ``.npy`` file, and the labels beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.data import memory
from train.data.reading.archives import DAMAGED, columns_of_labels, images_of
from train.data.reading.columns import Columns
from train.data.reading.contents import ArrayFiles
from train.data.reading.paths import kind_of
from train.errors import InputError, require

LABELS = "-labels"
"""``NAME-labels.npy`` has the labels of the images in ``NAME.npy``."""


REMEDY = "write it with numpy.save(path, images)"


def mapped(path: Path) -> np.ndarray:
    """Maps an array without reading it.

    Returns:
        The array as it is in the file, read only.

    Raises:
        InputError: If the file is damaged, empty, or holds Python objects.
    """
    try:
        # An array of objects is a pickle, which may run anything.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except PermissionError as error:
        raise InputError(f"{path} may not be read: change its permissions") from error
    except DAMAGED as error:
        raise InputError(
            f"{path} is no .npy file of numbers, or a damaged or empty one: {REMEDY}"
        ) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"{path} is an archive of arrays: call it .npz")
    return array


def read(path: Path) -> tuple[np.ndarray, Columns]:
    r"""Reads images, and labels if there is a file of them: see :data:`LABELS`.

    Returns:
        Images, of shape :math:`(M, C, H, W)`, uint8; and the columns of the labels.

    Raises:
        InputError: If a file is damaged, memory has no room for it, or images or labels cannot be
            used.
    """
    array = mapped(path)
    memory.require_available(array.nbytes, f"{path} needs", "give fewer images, or uint8")
    images = images_of(array, f"{path}")
    return images, labels_beside(path, len(images))


def opened(path: Path) -> tuple[ArrayFiles, Columns]:
    """Opens images without reading them, and reads the labels beside them.

    Raises:
        InputError: If a file is damaged, or the labels cannot be used.
    """
    array = mapped(path)
    n = len(array) if array.ndim else 0
    return ArrayFiles((path,), (n,)), labels_beside(path, n)


def labels_beside(path: Path, n: int) -> Columns:
    """Returns the columns of ``NAME-labels.npy`` beside ``NAME.npy``; none if there is no file.

    Args:
        path: The file of images.
        n: The number of images.

    Raises:
        InputError: If the file is damaged, or is not one label, or several, for each image.
    """
    file = path.with_name(f"{path.stem}{LABELS}{path.suffix}")
    kind = kind_of(file)
    if kind is None:
        return Columns()
    require(kind == "file", f"{file} is {kind}, not a file of labels: give it another name")
    array = np.array(mapped(file))
    require(
        array.ndim > 0 and len(array) == n,
        f"{file} has shape {array.shape} but {path} has {n:,} images: give one label an image",
    )
    return columns_of_labels(array, f"{file}", f"{file}")
