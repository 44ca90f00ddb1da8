"""A person's own images, read from an ``.npz`` file or a folder and checked."""

from __future__ import annotations

import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from train.data import memory, pil
from train.data.images import as_bytes, as_images
from train.data.labels import as_labels, chosen
from train.errors import InputError, note, require

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
        labels: Classes, :math:`(M,)` integers or text; or quantities, :math:`(M,)` float64; or
            several columns, :math:`(M, K)`; see :func:`train.data.labels.as_labels`.
        counts: The number of objects in each image, :math:`(M,)` int64.
        boxes: Their boxes :math:`(x_0, y_0, x_1, y_1)` in pixels, :math:`(M, K, 4)` float32. The
            first ``counts`` rows of each image are boxes, the others zeros.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    counts: np.ndarray | None = None
    boxes: np.ndarray | None = None


def read(data: str) -> Contents:
    """Reads the path given as ``--data``, and says what was done with what it holds.

    Args:
        data: An ``.npz`` file with an array ``images`` (see
            :func:`train.data.images.as_images`) and, if there are any, ``labels`` (see
            :func:`train.data.labels.as_labels`), ``counts`` and ``boxes``; or a folder of pictures
            of one size, taken in order of their names, every page of them, and turned to grey.

    Raises:
        InputError: If there is nothing at ``data``, it cannot be read, or what it holds cannot be
            used: fewer than :data:`FEWEST` images, another shape, type or range than those of
            :class:`Contents`, values that are not finite, arrays of different lengths, or more
            than memory has room for.
    """
    path = Path(data).expanduser()
    kind = _kind(path)
    require(
        kind is not None,
        f"--data {data}: no such file or folder; give one, or one of {', '.join(NAMES)}",
    )
    require(
        kind in ("file", "folder"),
        f"--data {data} is {kind}: give an .npz file or a folder of images",
    )
    contents = Contents(_folder(path)) if kind == "folder" else _checked(path, _arrays(path))
    require(
        len(contents.images) >= FEWEST,
        f"{path} holds {len(contents.images)} images: give {FEWEST} or more, as a fifth of them "
        "is held out",
    )
    return contents


KINDS = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
)


def _kind(path: Path) -> str | None:
    """What is at a path, links followed: ``file``, ``folder``, or else a few words; or None."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        # A link that leads nowhere, or back to itself, is there and yet is not.
        return "a link that leads nowhere" if path.is_symlink() else None
    return next((name for is_kind, name in KINDS if is_kind(mode)), "a device")


KNOWN = ("images", "labels", "counts", "boxes")
"""The arrays of an ``.npz`` that have a meaning here."""

DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError),
    *(ValueError, TypeError, LookupError, SyntaxError, tokenize.TokenError, ArithmeticError),
)
"""What zipfile and NumPy raise of damaged archives and arrays."""

LARGE = 256 * 2**20
TIGHT = 200
"""An array of more than :data:`LARGE` bytes is refused if an archive has it in this many times
fewer: deflate gets images to a twentieth or so, and what is the same all over to a thousandth."""


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz``; sizes are looked at first, and object arrays are refused."""
    remedy = "write it with numpy.savez(path, images=...)"
    try:
        with path.open("rb") as file:
            single = file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX
        require(not single, f"{path} is a single array: {remedy}")
        archive = zipfile.ZipFile(path)
    except PermissionError as error:
        raise InputError(f"{path} may not be read: change its permissions") from error
    except DAMAGED as error:
        raise InputError(f"{path} is not an .npz file, or a damaged one: {remedy}") from error
    with archive:
        names = {each.removesuffix(".npy"): each for each in archive.namelist()}
        require(
            "images" in names,
            f"{path} has no array 'images' (it has {', '.join(names) or 'none'}): {remedy}",
        )
        there = [name for name in KNOWN if name in names]
        sizes = {}
        for name in there:
            with _member(path, archive, names, name) as file:
                sizes[name] = _size_of(file, archive.getinfo(names[name]), name, path)
        memory.require_fits(
            sum(sizes.values()), f"{path} unpacks to", "give fewer images, smaller ones, or uint8"
        )
        arrays = {}
        for name in there:
            with _member(path, archive, names, name) as file:
                arrays[name] = npy.read_array(file, allow_pickle=False)
    return arrays


@contextmanager
def _member(
    path: Path, archive: zipfile.ZipFile, names: Mapping[str, str], name: str
) -> Iterator[IO[bytes]]:
    """An array's file in an archive, to be read."""
    try:
        with archive.open(names[name]) as file:
            yield file
    except DAMAGED as error:
        raise InputError(
            f"{path}: '{name}' is damaged or holds Python objects, which are not read: "
            "write it again as an array of numbers"
        ) from error


def _size_of(file: IO[bytes], entry: zipfile.ZipInfo, name: str, path: Path) -> int:
    """The bytes of an array, as its header has them.

    Raises:
        InputError: If the archive has hardly any of them.
        ValueError: If it holds Python objects, or the archive says otherwise.
    """
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError("of a version of the format that is for tables alone")
    shape, _, dtype = readers[version](file)
    size = dtype.itemsize
    for side in shape:
        size *= side
    if dtype.hasobject or min(shape, default=0) < 0 or file.tell() + size != entry.file_size:
        raise ValueError("not as many bytes as the header says")
    require(
        size <= LARGE or entry.file_size < TIGHT * entry.compress_size,
        f"{path}: '{name}' unpacks to {memory.readable(size)}, {TIGHT} times its size or more, so "
        "it is nearly all the same: if that is meant, write it with numpy.savez, not compressed",
    )
    return size


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
    require(
        images.size > 0,
        f"{path}: 'images' is empty, its shape is {images.shape}: give {FEWEST} images or more",
    )
    return as_bytes(as_images(images, name=f"{path}: 'images'", say=note)).numpy()


def _labels(path: Path, labels: np.ndarray) -> np.ndarray:
    read = as_labels(labels, f"{path}: 'labels'")
    if (line := chosen(labels, read)) is not None:
        note(f"{path}: {line}")
    return read


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
    r"""The pictures of a folder as :math:`(M, H, W)` uint8, in order of their names."""
    try:
        files = sorted(
            # Systems leave hidden companions beside images, with the same suffix.
            file
            for file in path.iterdir()
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        )
    except OSError as error:
        raise InputError(f"{path} may not be read: change its permissions") from error
    require(
        len(files) > 0,
        f"{path} holds no images: put files of one of these kinds into it, {', '.join(SUFFIXES)}",
    )
    for file in files:
        # Before any is opened: a pipe would be waited for.
        kind = _kind(file)
        require(
            kind == "file",
            f"{file} is {'a ' if kind == 'folder' else ''}{kind or 'gone'}, not an image: take it "
            "out of the folder or give it another name",
        )
    numbers, area = _look(files)
    total = sum(numbers)
    memory.require_fits(
        total * area, f"{path}: {total:,} images need", "give fewer images, or smaller ones"
    )
    return _read(path, files, numbers)


def _look(files: Sequence[Path]) -> tuple[list[int], int]:
    """How many pages each file has, and the pixels of a page, from what files begin with."""
    numbers, first = [], (0, 0)
    for file in files:
        with _picture(file) as image:
            numbers.append(pil.number_of_pages(image))
            first = first if first[0] else image.size
    return numbers, first[0] * first[1]


def _read(path: Path, files: Sequence[Path], numbers: Sequence[int]) -> np.ndarray:
    """Every page of every file."""
    images, names, done = np.empty((0, 0, 0), np.uint8), [], []
    alphas: dict[int, np.ndarray] = {}
    for file, number in zip(files, numbers, strict=True):
        with _picture(file) as image:
            for i, page in enumerate(pil.pages(image)):
                name = f"{file}, page {i + 1}," if number > 1 else str(file)
                if not names:
                    images = np.empty((sum(numbers), *page.grey.shape), np.uint8)
                require(
                    page.grey.shape == images.shape[1:],
                    f"{name} is {_size(page.grey)} but {files[0].name} is {_size(images[0])}: "
                    "bring all images to one size",
                )
                images[len(names)] = page.grey
                if page.alpha is not None:
                    alphas[len(names)] = page.alpha
                names.append(name)
                done.append(page.done)
    background = pil.put_on_background(images, alphas, names)
    several = [number for number in numbers if number > 1]
    if several:
        note(
            f"{path}: {len(several):,} of {len(files):,} files have several pages, and each page "
            f"is an image: {len(images):,} images in all"
        )
    pil.describe(done, len(alphas), background, lambda line: note(f"{path}: {line}"))
    return as_bytes(as_images(images, name=f"{path}", say=note)).numpy()


@contextmanager
def _picture(path: Path) -> Iterator[Image.Image]:
    """A picture's file, opened."""
    try:
        with Image.open(path) as image:
            yield image
    except pil.Unusable as error:
        raise InputError(f"{path} {error}") from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path} has more than {2 * Image.MAX_IMAGE_PIXELS:,} pixels: make it smaller"
        ) from error
    except pil.UNREADABLE as error:
        raise InputError(
            f"{path} is not a readable image: replace it or take it out of the folder"
        ) from error


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
