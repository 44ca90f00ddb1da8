"""Lists the image files of a folder, with their classes and splits, and decodes them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from train.data import memory
from train.data.images import as_bytes, as_images
from train.data.reading import pil
from train.data.reading.paths import kind_of
from train.data.splits import split_of
from train.errors import InputError, note, require

SUFFIXES = (*(".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".pgm", ".ppm"),)
"""The suffixes of image files."""

CLASS = "class"
"""The name of the column of classes that sub-folders make."""

MOST_NAMED = 3
"""The most files that an error message names."""

MOST_NOTED = 20
"""The most files that a note names."""


@dataclass(frozen=True, eq=False)
class Listing:
    """The image files of a folder, none of which was opened.

    Attributes:
        root: The folder.
        files: The files, sorted.
        columns: ``class``, the name of the sub-folder that a file is in, if there are such; of
            shape (F,), text.
        splits: Each file's split, ``"train"``, ``"validation"`` or ``"test"``, of shape (F,); None
            unless sub-folders are called so.
    """

    root: Path
    files: tuple[Path, ...]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    splits: np.ndarray | None = None

    @property
    def names(self) -> list[str]:
        """The files' paths below the folder, with ``/`` between their parts."""
        return [file.relative_to(self.root).as_posix() for file in self.files]


def listing(path: Path) -> Listing:
    """Lists the image files of a folder and of its sub-folders.

    A folder has images, or a sub-folder for each class, whose own sub-folders belong to the class;
    or it has folders ``train`` and ``test``, ``validation``, or both (see
    :data:`train.data.splits.WORDS`), each with images or with folders of classes. Names that begin
    with a dot are left out, as systems put hidden files with an image's suffix beside it.

    Raises:
        InputError: If there are no images, a folder may not be read, or images are beside folders
            of images.
    """
    files = sorted(_walk(path, ()))
    require(
        len(files) > 0,
        f"{path} holds no images: put files of one of these kinds into it, {', '.join(SUFFIXES)}",
    )
    names = [file.relative_to(path).parts for file in files]
    splits = _splits(path, names)
    classes = _classes(path, names, depth=0 if splits is None else 1)
    return Listing(path, tuple(files), {} if classes is None else {CLASS: classes}, splits)


def has_images(path: Path) -> bool:
    """Returns whether there is an image file in a folder or below it."""
    return next(_walk(path, ()), None) is not None


def _walk(path: Path, ancestors: tuple[str, ...]) -> Iterator[Path]:
    """Yields the files with an image's suffix in a folder and below it."""
    real = os.path.realpath(path)
    # A link to a folder above would be followed for ever.
    if real in ancestors:
        return
    try:
        with os.scandir(path) as entries:
            visible = [entry for entry in entries if not entry.name.startswith((".", "__MACOSX"))]
        for entry in visible:
            if os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                yield Path(path, entry.name)
            elif entry.is_dir():
                yield from _walk(Path(path, entry.name), (*ancestors, real))
    except OSError as error:
        raise InputError(f"{path} may not be read: change its permissions") from error


def _splits(path: Path, names: Sequence[tuple[str, ...]]) -> np.ndarray | None:
    """Returns each file's split, if the folders in ``path`` are named after splits.

    Args:
        path: The folder.
        names: The names of the folders that each file is in, and its own.
    """
    tops = sorted({name[0] for name in names if len(name) > 1})
    splits = {top: split_of(top) for top in tops}
    given = set(splits.values()) - {None}
    is_pair = "train" in given and len(given) > 1
    others = [top for top, split in splits.items() if split is None]
    flat = [name[0] for name in names if len(name) == 1]
    if not is_pair:
        require(
            bool(others or flat) or not given,
            f"{path} has the folders {', '.join(tops)} alone: a given split needs folders train "
            "and test, or train and validation; or give one of these folders itself",
        )
        return None
    words = [top for top in tops if splits[top] is not None]
    beside = [*others, *flat]
    require(
        not beside,
        f"{path} has the folders {', '.join(words)}, which are a split, and beside them "
        f"{beside[0] if beside else ''}: take that out, or rename the folders if they are classes",
    )
    require(
        len(given) == len(words),
        f"{path} has the folders {', '.join(words)}, and two of them are one split: join these",
    )
    return np.array([splits[name[0]] for name in names])


def _classes(path: Path, names: Sequence[tuple[str, ...]], depth: int) -> np.ndarray | None:
    """Returns the folder at a depth that each file is in; None if there are no such folders."""
    flat = [name for name in names if len(name) == depth + 1]
    if len(flat) == len(names):
        return None
    inside = next(name for name in names if len(name) > depth + 1)
    require(
        not flat,
        f"{path} has images beside folders of images, such as {'/'.join(flat[0]) if flat else ''} "
        f"and {'/'.join(inside)}: put each image into the folder of its class, or give one folder",
    )
    return np.array([name[depth] for name in names])


class _BadFile(Exception):
    """A file cannot be used.

    Args:
        file: The file.
        problem: What is wrong with it, to follow its name.
        remedy: What to do.
    """

    def __init__(self, file: Path, problem: str, remedy: str = "replace it") -> None:
        super().__init__(f"{file} {problem}")
        self.file = file
        self.problem = problem
        self.remedy = remedy


class _Header(NamedTuple):
    """What a file's header says of it: pages, height and width, and whether it may have colour."""

    pages: int
    size: tuple[int, int]
    may_have_colour: bool


def _headers(listing: Listing, bad: list[_BadFile]) -> dict[int, _Header]:
    """Reads headers, by the files' indices; adds files that cannot be used to ``bad``."""
    headers = {}
    for index, file in enumerate(listing.files):
        try:
            _require_regular(file)
            with _opened(file) as image:
                headers[index] = _Header(
                    pil.count_pages(image), pil.upright_size(image), pil.may_have_colour(image)
                )
        except _BadFile as error:
            bad.append(error)
    return headers


def _require_regular(file: Path) -> None:
    """Raises :class:`_BadFile` unless it is a regular file. Opening a pipe would block."""
    kind = kind_of(file)
    if kind != "file":
        kind = "a folder" if kind == "folder" else kind or "gone"
        raise _BadFile(file, f"is {kind}, not an image", "give it another name")


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    """Opens an image file; raises :class:`_BadFile` if it cannot be used."""
    try:
        with Image.open(file) as image:
            yield image
    except pil.Unusable as error:
        raise _BadFile(file, str(error)) from error
    except Image.DecompressionBombError as error:
        raise _BadFile(
            file, f"has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels", "make it smaller"
        ) from error
    except pil.UNREADABLE as error:
        raise _BadFile(file, "is not a readable image") from error


def _settle(listing: Listing, bad: Sequence[_BadFile], skip_bad: bool) -> None:
    """Refuses files that cannot be used, or notes that they are left out."""
    if not bad:
        return
    bad = sorted(bad, key=lambda error: error.file)
    if not skip_bad:
        named = _named(bad, MOST_NAMED, "{} {}")
        raise InputError(
            f"{named}: {bad[0].remedy} or take it out of the folder, or leave such files out with "
            "--skip-bad"
        )
    note(
        f"{listing.root}: {len(bad):,} of {len(listing.files):,} files are left out: "
        f"{_named(bad, MOST_NOTED, '{} {}')}"
    )
    require(
        len(bad) < len(listing.files),
        f"{listing.root}: none of the {len(bad):,} files is a readable image: give other ones",
    )


def _named(bad: Sequence[_BadFile], most: int, form: str) -> str:
    """Names files that cannot be used: the first few, and the number of the others."""
    named = ", ".join(form.format(error.file, error.problem) for error in bad[:most])
    more = len(bad) - most
    return f"{named} and {more:,} more cannot be used" if more > 0 else named


def read(
    listing: Listing, grey: bool = False, skip_bad: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    r"""Decodes every page of every file. Prints a line for each conversion: see :mod:`.pil`.

    Args:
        listing: The files.
        grey: Whether colour is turned to grey. If not, all images get three channels if any has
            colour.
        skip_bad: Whether files that cannot be used are left out.

    Returns:
        Images, of shape :math:`(M, C, H, W)`, uint8; and the index of each image's file, of shape
        :math:`(M)`.

    Raises:
        InputError: If images are of different sizes, memory has no room for them, or, unless
            ``skip_bad``, a file cannot be used.
    """
    bad: list[_BadFile] = []
    headers = _headers(listing, bad)
    _require_memory(listing, headers, grey)
    images, pages = _decode(listing, headers, grey, bad)
    _settle(listing, bad, skip_bad)
    rows = np.array([page.file for page in pages])
    names = [page.name for page in pages]
    alphas = {row: page.alpha for row, page in enumerate(pages) if page.alpha is not None}
    background = pil.put_on_background(images, alphas, names)
    _note_pages(listing, rows)
    pil.describe(
        [page.conversions for page in pages],
        len(alphas),
        background,
        lambda line: note(f"{listing.root}: {line}"),
        coloured=sum(page.is_coloured for page in pages),
    )
    return _as_bytes(images, f"{listing.root}"), rows


class _Decoded(NamedTuple):
    """A page beside its pixels."""

    file: int
    name: str
    alpha: np.ndarray | None
    conversions: frozenset[str]
    is_coloured: bool


def _require_memory(listing: Listing, headers: Mapping[int, _Header], grey: bool) -> None:
    if not headers:
        return
    total = sum(header.pages for header in headers.values())
    height, width = next(iter(headers.values())).size
    coloured = not grey and any(header.may_have_colour for header in headers.values())
    memory.require_available(
        total * height * width * (3 if coloured else 1),
        f"{listing.root}: {total:,} images need",
        "give fewer images, or smaller ones" + (", or --grey" if coloured else ""),
    )


def _decode(
    listing: Listing, headers: Mapping[int, _Header], grey: bool, bad: list[_BadFile]
) -> tuple[np.ndarray, list[_Decoded]]:
    """Decodes all pages into one array; adds files that cannot be used to ``bad``."""
    total = sum(header.pages for header in headers.values())
    images = np.empty((0, 1, 0, 0), np.uint8)
    pages: list[_Decoded] = []
    for index, header in headers.items():
        file, before = listing.files[index], len(pages)
        try:
            with _opened(file) as image:
                for number, page in enumerate(pil.pages(image, grey), start=1):
                    name = f"{file}, page {number}," if header.pages > 1 else str(file)
                    if not images.size:
                        images = np.empty((total, *page.pixels.shape), np.uint8)
                    _require_size(page.pixels, name, images, listing, pages)
                    if len(page.pixels) > images.shape[1]:
                        # The first colour image of a folder: the grey ones get three channels.
                        images = np.repeat(images, 3, axis=1)
                    images[len(pages)] = page.pixels
                    is_coloured = len(page.pixels) > 1
                    pages.append(_Decoded(index, name, page.alpha, page.conversions, is_coloured))
        except _BadFile as error:
            bad.append(error)
            del pages[before:]
    if not any(page.is_coloured for page in pages):
        images = images[:, :1]
    return images[: len(pages)], pages


def _require_size(
    pixels: np.ndarray, name: str, images: np.ndarray, listing: Listing, pages: list[_Decoded]
) -> None:
    first = listing.files[pages[0].file].name if pages else name
    require(
        pixels.shape[1:] == images.shape[2:],
        f"{name} is {_format_size(pixels.shape[1:])} but {first} is "
        f"{_format_size(images.shape[2:])}: bring all images to one size",
    )


def _as_bytes(images: np.ndarray, name: str) -> np.ndarray:
    """Converts masks of 0 and 1 to black and white."""
    # Without an axis of channels, as it is known which one that is.
    flat = images.reshape(len(images), -1, images.shape[-1])
    return as_bytes(as_images(flat, name=name, say=note)).numpy().reshape(images.shape)


def _note_pages(listing: Listing, rows: np.ndarray) -> None:
    files, counts = np.unique(rows, return_counts=True)
    several = int((counts > 1).sum())
    if several:
        note(
            f"{listing.root}: {several:,} of {len(files):,} files have several pages, and each "
            f"page is an image: {len(rows):,} images in all"
        )


def _format_size(size: Sequence[int]) -> str:
    return f"{size[1]} x {size[0]}"


@dataclass(frozen=True, eq=False)
class Pictures:
    r"""Images of files, decoded when they are asked for. They can be pickled.

    Attributes:
        files: The files.
        pages: The page of each image in its file, counted from 0.
        shape: Channels, height and width of an image.
        background: What is seen behind transparent pixels.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pil.Image.new("RGB", (40, 30), "red").save(Path(folder, "red.png"))
        ...     pictures, rows = pictures_of(listing(Path(folder)))
        ...     pictures.shape, pictures[0].shape
        ((3, 30, 40), (3, 30, 40))
    """

    files: tuple[Path, ...]
    pages: np.ndarray
    shape: tuple[int, int, int]
    background: pil.Background = "black"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> np.ndarray:
        r"""Decodes an image.

        Returns:
            An array of shape :math:`(C, H, W)`, uint8.

        Raises:
            InputError: If the file is damaged, or of another size than the first one.
        """
        file, (channels, *size) = self.files[index], self.shape
        try:
            with _opened(file) as image:
                image.seek(int(self.pages[index]))
                pixels = pil.on_background(pil.convert(image, channels == 1), self.background)
        except _BadFile as error:
            raise InputError(f"{error}: {error.remedy} or take it out of the folder") from error
        require(
            list(pixels.shape[1:]) == size,
            f"{file} is {_format_size(pixels.shape[1:])} but {self.files[0].name} is "
            f"{_format_size(size)}: bring all images to one size",
        )
        return np.repeat(pixels, channels, axis=0) if len(pixels) < channels else pixels


def pictures_of(
    listing: Listing, grey: bool = False, skip_bad: bool = False
) -> tuple[Pictures, np.ndarray]:
    """Prepares the images of a folder for being decoded one by one; reads the headers alone.

    A header cannot tell whether an image of three channels has colour, so all have three channels
    if any header has. Transparent images are put on black.

    Args:
        listing: The files.
        grey: Whether colour is turned to grey.
        skip_bad: Whether files without a readable header are left out.

    Returns:
        The images, and the index of each image's file, of shape (M,).

    Raises:
        InputError: If images are of different sizes, or, unless ``skip_bad``, a file has no
            readable header.
    """
    bad: list[_BadFile] = []
    headers = _headers(listing, bad)
    _settle(listing, bad, skip_bad)
    (first, header), *others = headers.items()
    for index, other in others:
        require(
            other.size == header.size,
            f"{listing.files[index]} is {_format_size(other.size)} but {listing.files[first].name} "
            f"is {_format_size(header.size)}: bring all images to one size",
        )
    counts = [header.pages for header in headers.values()]
    rows = np.repeat(np.array(list(headers)), counts)
    pages = np.concatenate([np.arange(count) for count in counts])
    coloured = not grey and any(header.may_have_colour for header in headers.values())
    _note_pages(listing, rows)
    files = tuple(listing.files[row] for row in rows)
    return Pictures(files, pages, (3 if coloured else 1, *header.size)), rows
