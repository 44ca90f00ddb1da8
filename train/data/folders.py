"""Reads a folder of image files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from train.data import memory, pil
from train.data.images import as_bytes, as_images
from train.data.paths import kind_of
from train.errors import InputError, note, require

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pgm")
"""The suffixes of image files."""


def read(path: Path) -> np.ndarray:
    r"""Reads every page of every image file in a folder, in the order of the files' names.

    Prints a line for each conversion: see :func:`train.data.pil.to_grey`.

    Returns:
        Grey levels, of shape :math:`(M, H, W)`, uint8.

    Raises:
        InputError: If there are no images, they are of different sizes, one cannot be read, or
            memory has no room for them.
    """
    files = _image_files(path)
    _require_regular(files)
    page_counts, area = _measure(files)
    total = sum(page_counts)
    memory.require_available(
        total * area, f"{path}: {total:,} images need", "give fewer images, or smaller ones"
    )
    images = _read_pages(path, files, page_counts)
    return as_bytes(as_images(images, name=f"{path}", say=note)).numpy()


def _image_files(path: Path) -> list[Path]:
    try:
        files = sorted(
            # Systems put hidden files with an image's suffix beside it.
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
    return files


def _require_regular(files: Sequence[Path]) -> None:
    """Raises :class:`InputError` unless all are regular files. Opening a pipe would block."""
    for file in files:
        kind = kind_of(file)
        require(
            kind == "file",
            f"{file} is {'a ' if kind == 'folder' else ''}{kind or 'gone'}, not an image: take it "
            "out of the folder or give it another name",
        )


def _measure(files: Sequence[Path]) -> tuple[list[int], int]:
    """Returns each file's number of pages and the first page's pixels, from the files' headers."""
    page_counts, areas = [], []
    for file in files:
        with _opened(file) as image:
            page_counts.append(pil.count_pages(image))
            areas.append(image.width * image.height)
    return page_counts, areas[0]


def _read_pages(path: Path, files: Sequence[Path], page_counts: Sequence[int]) -> np.ndarray:
    """Reads all pages into one array, puts them on one background, and prints what was done."""
    images, names, conversions = np.empty((0, 0, 0), np.uint8), [], []
    alphas: dict[int, np.ndarray] = {}
    for name, page in _named_pages(files, page_counts):
        if not names:
            images = np.empty((sum(page_counts), *page.grey.shape), np.uint8)
        require(
            page.grey.shape == images.shape[1:],
            f"{name} is {_format_size(page.grey)} but {files[0].name} is "
            f"{_format_size(images[0])}: bring all images to one size",
        )
        images[len(names)] = page.grey
        if page.alpha is not None:
            alphas[len(names)] = page.alpha
        names.append(name)
        conversions.append(page.conversions)
    background = pil.put_on_background(images, alphas, names)
    _note_pages(path, page_counts)
    pil.describe(conversions, len(alphas), background, lambda line: note(f"{path}: {line}"))
    return images


def _named_pages(
    files: Sequence[Path], page_counts: Sequence[int]
) -> Iterator[tuple[str, pil.Page]]:
    """Yields the pages of all files, each with a name for error messages."""
    for file, count in zip(files, page_counts, strict=True):
        with _opened(file) as image:
            for number, page in enumerate(pil.pages(image), start=1):
                yield f"{file}, page {number}," if count > 1 else str(file), page


def _note_pages(path: Path, page_counts: Sequence[int]) -> None:
    several = sum(count > 1 for count in page_counts)
    if several:
        note(
            f"{path}: {several:,} of {len(page_counts):,} files have several pages, and each page "
            f"is an image: {sum(page_counts):,} images in all"
        )


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Opens an image file, and refuses one that cannot be used."""
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


def _format_size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"
