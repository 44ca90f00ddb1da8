"""What files of arrays hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.data.reading.columns import Columns


@dataclass(frozen=True)
class ArrayFiles:
    """Images in ``.npy`` files, none of which was read, one file after the other.

    Attributes:
        paths: The files.
        sizes: The number of images in each.
    """

    paths: tuple[Path, ...]
    sizes: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.sizes)


@dataclass(frozen=True, eq=False)
class Arrays:
    r"""The contents of an archive.

    Attributes:
        images: Grey levels or colours, of shape :math:`(M, C, H, W)`, uint8.
        columns: The labels, called ``labels``, or ``0``, ``1``, ... if an image has several; and
            the other arrays of shape :math:`(M)`, by their names.
        counts: The number of objects in each image, of shape :math:`(M)`, int64.
        boxes: Their boxes :math:`(x_0, y_0, x_1, y_1)` in pixels, of shape :math:`(M, K, 4)`,
            float32. The first ``counts`` rows of each image are boxes, the others zeros.
        masks: The object that is visible at each pixel, of shape :math:`(M, H, W)`, uint8: 0 for
            the background, :math:`k` for the object in row :math:`k - 1` of ``boxes``.
    """

    images: np.ndarray | ArrayFiles
    columns: Columns
    counts: np.ndarray | None = None
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None
