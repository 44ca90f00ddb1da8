"""Reads and checks the arrays of an ``.npz`` archive: images, labels, counts, boxes and masks."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from train.data import memory
from train.data.images import as_bytes, as_images
from train.data.labels import as_labels, interpretation
from train.data.reading.columns import Columns, of_labels
from train.data.reading.contents import Arrays
from train.errors import InputError, note, require

ARRAYS = ("images", "labels", "counts", "boxes", "masks")
"""The arrays that are read by their names. Others are columns if they have a number or a word for
each image, and are ignored if not."""

REMEDY = "write it with numpy.savez(path, images=...)"

DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError),
    *(ValueError, TypeError, LookupError, SyntaxError, tokenize.TokenError, ArithmeticError),
)
"""The exceptions of zipfile and NumPy for damaged archives and arrays."""

LARGE = 256 * 2**20
MAX_RATIO = 200
"""An array of more than :data:`LARGE` bytes is refused if it is compressed to a fraction of
1 / :data:`MAX_RATIO` or less. Images are compressed to 1/20 or so, a constant array to 1/1000."""


def read(path: Path) -> Arrays:
    """Reads an archive.

    Args:
        path: An ``.npz`` file with an array ``images`` (see :func:`train.data.images.as_images`)
            and optionally ``labels`` (see :func:`train.data.labels.as_labels`), ``counts``,
            ``boxes``, ``masks``, and columns of other names.

    Raises:
        InputError: If the archive is damaged, memory has no room for its arrays, or they are not
            as :class:`Arrays` describes them.
    """
    with _open(path) as archive:
        members = _members(path, archive)
        _require_memory(path, archive, members)
        arrays = {name: _read(path, archive, name, member) for name, member in members.items()}
    return _checked(path, arrays)


def _open(path: Path) -> zipfile.ZipFile:
    try:
        with path.open("rb") as file:
            is_single_array = file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX
        require(not is_single_array, f"{path} is a single array: call it .npy, or {REMEDY}")
        return zipfile.ZipFile(path)
    except PermissionError as error:
        raise InputError(f"{path} may not be read: change its permissions") from error
    except DAMAGED as error:
        raise InputError(f"{path} is not an .npz file, or a damaged one: {REMEDY}") from error


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, str]:
    """Returns the members of the archive that hold :data:`ARRAYS`, by the arrays' names."""
    members = {member.removesuffix(".npy"): member for member in archive.namelist()}
    require(
        "images" in members,
        f"{path} has no array 'images' (it has {', '.join(members) or 'none'}): {REMEDY}",
    )
    read = {name: members[name] for name in ARRAYS if name in members}
    (n, *_), _ = _header_of(archive, members["images"]) or ((0,), None)
    for name, member in members.items():
        shape, dtype = _header_of(archive, member) or ((), None)
        if name not in ARRAYS and shape == (n,) and dtype is not None and dtype.kind in "biufSU":
            read[name] = member
    return read


def _header_of(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], np.dtype] | None:
    """Returns the shape and type of an array; None if it has no axes or is not readable."""
    try:
        with archive.open(member) as file:
            shape, _, dtype = _read_header(file)
            return (shape, dtype) if shape else None
    except DAMAGED:
        return None


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads the shape, the order and the type of an array.

    Raises:
        ValueError: If it is not a header.
    """
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError("of a version of the format that is for structured arrays only")
    return readers[version](file)


def _require_memory(path: Path, archive: zipfile.ZipFile, members: Mapping[str, str]) -> None:
    """Raises :class:`InputError` if memory has no room for the arrays, by their headers."""
    size = 0
    for name, member in members.items():
        with _member(path, archive, name, member) as file:
            size += _size(path, file, name, archive.getinfo(member))
    memory.require_available(
        size, f"{path} unpacks to", "give fewer images, smaller ones, or uint8"
    )


def _read(path: Path, archive: zipfile.ZipFile, name: str, member: str) -> np.ndarray:
    with _member(path, archive, name, member) as file:
        # An array of objects is a pickle, which may run anything.
        return npy.read_array(file, allow_pickle=False)


@contextmanager
def _member(path: Path, archive: zipfile.ZipFile, name: str, member: str) -> Iterator[IO[bytes]]:
    """Opens an array's file in an archive, and refuses a damaged one."""
    try:
        with archive.open(member) as file:
            yield file
    except DAMAGED as error:
        raise InputError(
            f"{path}: '{name}' is damaged or holds Python objects, which are not read: "
            "write it again as an array of numbers"
        ) from error


def _size(path: Path, file: IO[bytes], name: str, entry: zipfile.ZipInfo) -> int:
    """Returns the number of bytes of an array, from its header.

    Raises:
        InputError: If the array is large and compressed to next to nothing.
        ValueError: If it holds Python objects, or the archive has another number of bytes.
    """
    shape, _, dtype = _read_header(file)
    # In Python's integers, which do not overflow.
    size = dtype.itemsize
    for side in shape:
        size *= side
    if dtype.hasobject or min(shape, default=0) < 0 or file.tell() + size != entry.file_size:
        raise ValueError("not as many bytes as the header says")
    require(
        size <= LARGE or entry.file_size < MAX_RATIO * entry.compress_size,
        f"{path}: '{name}' unpacks to {memory.readable(size)}, {MAX_RATIO} times its size or more, "
        "so it is nearly constant: if it is meant to be, write it with numpy.savez, not compressed",
    )
    return size


def _checked(path: Path, arrays: Mapping[str, np.ndarray]) -> Arrays:
    images = images_of(arrays["images"], f"{path}: 'images'")
    for name, array in arrays.items():
        require(
            array.ndim > 0 and len(array) == len(images),
            f"{path}: '{name}' has shape {array.shape} but there are {len(images)} images: give "
            "one entry an image",
        )
    others = {name: array for name, array in arrays.items() if name not in ARRAYS}
    columns = _columns(path, others)
    if "labels" in arrays:
        labels = columns_of_labels(arrays["labels"], f"{path}: 'labels'", str(path))
        columns = columns.joined(labels, f"{path}: 'labels'")
    counts = counts_of(arrays["counts"], f"{path}: 'counts'") if "counts" in arrays else None
    boxes = _boxes(path, arrays["boxes"], counts) if "boxes" in arrays else None
    masks = None
    if "masks" in arrays:
        masks = _masks(path, arrays["masks"], images.shape[-2:], counts)
    return Arrays(images, columns, counts, boxes, masks)


def images_of(images: np.ndarray, name: str) -> np.ndarray:
    """Converts images to uint8 of shape (M, C, H, W): see :func:`train.data.images.as_images`.

    Raises:
        InputError: If there are none, or they are of another shape, type or range.
    """
    require(
        images.size > 0,
        f"{name} is empty, its shape is {images.shape}: give images of shape (N, H, W)",
    )
    # The axis of channels may have been moved.
    return as_bytes(as_images(images, name=name, say=note)).contiguous().numpy()


def columns_of_labels(given: np.ndarray, name: str, path: str) -> Columns:
    """Converts labels to columns, and notes how floats that are all whole were interpreted.

    Raises:
        InputError: If they are of another shape or type, or not finite.
    """
    labels = as_labels(given, name)
    if (line := interpretation(given, labels)) is not None:
        note(f"{path}: {line}")
    return of_labels(labels)


def _columns(path: Path, arrays: Mapping[str, np.ndarray]) -> Columns:
    """Converts arrays beside the labels to columns; those that are not finite are unusable."""
    values, unusable = {}, {}
    for name, array in arrays.items():
        try:
            values[name] = as_labels(array, f"{path}: '{name}'")
        except InputError as error:
            unusable[name] = str(error)
    return Columns(values, unusable)


def counts_of(counts: np.ndarray, name: str) -> np.ndarray:
    """Converts numbers of objects to int64.

    Raises:
        InputError: If they are not whole numbers of shape (M,), 0 or more.
    """
    is_numeric = counts.ndim == 1 and counts.dtype.kind in "biuf"
    require(
        is_numeric
        and bool((np.isfinite(counts) & (counts >= 0) & (counts == np.floor(counts))).all()),
        f"{name} must be (N,) whole numbers, 0 or more: the objects in each image",
    )
    return counts.astype(np.int64)


def _boxes(path: Path, boxes: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    require(
        boxes.ndim == 3 and boxes.shape[-1] == 4 and boxes.dtype.kind in "biuf",
        f"{path}: 'boxes' has shape {boxes.shape} and type {boxes.dtype}: give numbers of shape "
        "(N, K, 4)",
    )
    if counts is None:
        raise InputError(
            f"{path}: 'boxes' needs 'counts': add how many rows of each image are boxes"
        )
    rows = boxes.shape[1]
    require(
        int(counts.max()) <= rows,
        f"{path}: 'counts' goes up to {counts.max()} but 'boxes' has {rows} rows an image: give "
        "a row for every object",
    )
    is_box = np.arange(rows) < counts[:, None]
    require(
        bool(np.isfinite(boxes[is_box]).all()),
        f"{path}: 'boxes' has values that are not finite in the first 'counts' rows of an image: "
        "give all four corners of each object",
    )
    require(
        bool((boxes[is_box][:, 2:] > boxes[is_box][:, :2]).all()),
        f"{path}: 'boxes' has a box without area: give x0, y0, x1, y1 with x0 < x1 and y0 < y1, "
        "not a width and a height",
    )
    return np.where(is_box[..., None], boxes, 0).astype(np.float32)


def _masks(
    path: Path, masks: np.ndarray, sides: tuple[int, int], counts: np.ndarray | None
) -> np.ndarray:
    height, width = sides
    require(
        masks.shape[1:] == (height, width) and masks.dtype.kind in "biu",
        f"{path}: 'masks' has shape {masks.shape} and type {masks.dtype}: give whole numbers of "
        f"shape (N, {height}, {width}), the object at each pixel, 0 for the background",
    )
    low, high = int(masks.min()), int(masks.max())
    require(
        low >= 0 and high <= 255,
        f"{path}: 'masks' has values from {low} to {high}: number the objects of an image from 1, "
        "up to 255, and the background 0",
    )
    if counts is not None:
        most = masks.reshape(len(masks), -1).max(1)
        for image in np.flatnonzero(most > counts)[:1]:
            raise InputError(
                f"{path}: 'masks' has an object {most[image]} in image {image}, but 'counts' has "
                f"{counts[image]} there: number the objects of an image from 1 to its count"
            )
    return masks.astype(np.uint8)
