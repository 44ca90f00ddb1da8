"""A person's own images, read from an ``.npz`` file or a folder and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from train.settings import InputError, require

NAMES = ("mnist5k", "mnist", "fashion-mnist", "kmnist")
"""What ``--data`` takes for a name; anything else is a path."""

FEWEST = 10
"""A file must hold this many images, so that something is left after two splits."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pgm")


@dataclass(frozen=True, eq=False)
class Contents:
    r"""What a file or folder holds.

    Attributes:
        images: :math:`(M, H, W)`, uint8.
        labels: Classes, :math:`(M,)` int64; or quantities, :math:`(M,)` or :math:`(M, K)` float32.
        counts: The number of objects in each image, :math:`(M,)` int64.
        boxes: Their boxes :math:`(x_0, y_0, x_1, y_1)` in pixels, :math:`(M, K, 4)` float32. The
            first ``counts`` rows of each image are boxes, the others zeros.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    counts: np.ndarray | None = None
    boxes: np.ndarray | None = None


def read(data: str) -> Contents:
    """Reads the path given as ``--data``.

    Args:
        data: An ``.npz`` file with an array ``images`` and, if there are any, ``labels``,
            ``counts`` and ``boxes``; or a folder of images of one size, which are taken in order
            of their names and turned to grey.

    Raises:
        InputError: If there is nothing at ``data``, it cannot be read, or what it holds cannot be
            used: fewer than :data:`FEWEST` images, another shape, type or range than those of
            :class:`Contents` (float images in [0, 1] are made uint8, boolean ones 0 and 255),
            values that are not finite, or arrays of different lengths.
    """
    path = Path(data).expanduser()
    require(
        path.exists(),
        f"--data {data}: no such file or folder; give one, or one of {', '.join(NAMES)}",
    )
    contents = Contents(_folder(path)) if path.is_dir() else _checked(path, _arrays(path))
    require(
        len(contents.images) >= FEWEST,
        f"{path} holds {len(contents.images)} images: give {FEWEST} or more, as a fifth of them "
        "is held out",
    )
    return contents


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` that have a meaning here; object arrays are refused."""
    remedy = "write it with numpy.savez(path, images=...)"
    known = ("images", "labels", "counts", "boxes")
    try:
        archive = np.load(path, allow_pickle=False)
    except PermissionError as error:
        raise InputError(f"{path} may not be read: change its permissions") from error
    # Whatever a damaged file makes NumPy and zipfile raise, here and below.
    except Exception as error:
        raise InputError(f"{path} is not an .npz file, or a damaged one: {remedy}") from error
    require(not isinstance(archive, np.ndarray), f"{path} is a single array: {remedy}")
    with archive:
        require(
            "images" in archive.files,
            f"{path} has no array 'images' (it has {', '.join(archive.files) or 'none'}): {remedy}",
        )
        arrays = {}
        for name in known:
            try:
                if name in archive.files:
                    arrays[name] = archive[name]
            except Exception as error:
                raise InputError(
                    f"{path}: '{name}' is damaged or holds Python objects, which are not read: "
                    "write it again as an array of numbers"
                ) from error
    return arrays


def _checked(path: Path, arrays: Mapping[str, np.ndarray]) -> Contents:
    images = _images(path, arrays["images"])
    for name, array in arrays.items():
        require(
            array.ndim > 0 and len(array) == len(images),
            f"{path}: '{name}' has shape {array.shape} but there are {len(images)} images: give "
            "one entry an image",
        )
    labels = _labels(path, arrays["labels"]) if "labels" in arrays else None
    counts = _counts(path, arrays["counts"]) if "counts" in arrays else None
    boxes = _boxes(path, arrays["boxes"], counts) if "boxes" in arrays else None
    return Contents(images, labels, counts, boxes)


def _images(path: Path, images: np.ndarray) -> np.ndarray:
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    axis = 1 if images.ndim == 4 and images.shape[1] < images.shape[3] else 3
    require(
        images.ndim != 4,
        f"{path}: 'images' has shape {images.shape}, with channels: average them to get (N, H, W), "
        f"images.mean({axis}).astype(images.dtype)",
    )
    require(
        images.ndim == 3,
        f"{path}: 'images' has shape {images.shape}: give grey images of shape (N, H, W)",
    )
    require(
        images.size > 0,
        f"{path}: 'images' is empty, its shape is {images.shape}: give {FEWEST} images or more",
    )
    if images.dtype == np.uint8:
        return images
    if images.dtype == np.bool_:
        return images.astype(np.uint8) * np.uint8(255)
    require(
        np.issubdtype(images.dtype, np.floating),
        f"{path}: 'images' is of type {images.dtype}: give uint8, or floats in [0, 1]",
    )
    require(
        bool(np.isfinite(images).all()),
        f"{path}: 'images' has values that are not finite: replace them or leave those images out",
    )
    lowest, highest = float(images.min()), float(images.max())
    require(
        lowest >= 0 and highest <= 1,
        f"{path}: 'images' runs from {lowest:g} to {highest:g}: floats must be in [0, 1]; divide "
        "by 255, or rescale them",
    )
    return np.rint(images.astype(np.float32, copy=False) * 255).astype(np.uint8)


def _labels(path: Path, labels: np.ndarray) -> np.ndarray:
    require(
        labels.dtype.kind in "biuf",
        f"{path}: 'labels' is of type {labels.dtype}: number the classes, "
        "numpy.unique(labels, return_inverse=True)[1]",
    )
    require(
        labels.ndim in (1, 2) and labels.size > 0,
        f"{path}: 'labels' has shape {labels.shape}: give (N,), or (N, K) for K quantities",
    )
    require(
        bool(np.isfinite(labels).all()),
        f"{path}: 'labels' has values that are not finite: replace them or leave those images out",
    )
    if labels.ndim == 2 or labels.dtype.kind == "f":
        return labels.astype(np.float32)
    require(
        int(labels.min()) >= 0,
        f"{path}: 'labels' has the class {labels.min()}: number the classes from 0",
    )
    return labels.astype(np.int64)


def _counts(path: Path, counts: np.ndarray) -> np.ndarray:
    usable = counts.ndim == 1 and counts.dtype.kind in "biuf" and bool(np.isfinite(counts).all())
    require(
        usable and bool(((counts >= 0) & (counts == np.floor(counts))).all()),
        f"{path}: 'counts' must be (N,) whole numbers, 0 or more: the objects in each image",
    )
    return counts.astype(np.int64)


def _boxes(path: Path, boxes: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    require(
        boxes.ndim == 3 and boxes.shape[-1] == 4 and boxes.dtype.kind in "biuf",
        f"{path}: 'boxes' has shape {boxes.shape} and type {boxes.dtype}: give numbers of shape "
        "(N, K, 4)",
    )
    require(
        counts is not None,
        f"{path}: 'boxes' needs 'counts': add how many rows of each image are boxes",
    )
    slots = boxes.shape[1]
    require(
        int(counts.max()) <= slots,
        f"{path}: 'counts' goes up to {counts.max()} but 'boxes' has {slots} rows an image: give "
        "a row for every object",
    )
    present = np.arange(slots) < counts[:, None]
    require(
        bool(np.isfinite(boxes[present]).all()),
        f"{path}: 'boxes' has values that are not finite in the first 'counts' rows of an image: "
        "give all four corners of each object",
    )
    require(
        bool((boxes[present][:, 2:] > boxes[present][:, :2]).all()),
        f"{path}: 'boxes' has a box without area: give x0, y0, x1, y1 with x0 < x1 and y0 < y1, "
        "not a width and a height",
    )
    return np.where(present[..., None], boxes, 0).astype(np.float32)


def _folder(path: Path) -> np.ndarray:
    r"""The images of a folder as :math:`(M, H, W)` uint8, in order of their names."""
    names = sorted(
        # Systems leave hidden companions beside images, with the same suffix.
        file
        for file in path.iterdir()
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
    )
    require(
        len(names) > 0,
        f"{path} holds no images: put files of one of these kinds into it, {', '.join(SUFFIXES)}",
    )
    images = [_grey(name) for name in names]
    for name, image in zip(names, images, strict=True):
        require(
            image.shape == images[0].shape,
            f"{name} is {_size(image)} but {names[0].name} is {_size(images[0])}: bring all "
            "images to one size",
        )
    return np.stack(images)


def _grey(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            require(
                not image.mode.startswith(("I", "F")),
                f"{path} has more than 8 bits a channel: save it with 8",
            )
            return np.asarray(image.convert("L"))
    # PIL raises a SyntaxError for a broken PNG.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} is not a readable image: replace it or take it out of the folder"
        ) from error


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
