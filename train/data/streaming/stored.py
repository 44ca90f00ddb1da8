"""Images that stay on disk, or in a data set of PyTorch's, and are read when they are asked for."""

from __future__ import annotations

import copy
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from pyro_models.shapes import Shape
from train import processes
from train.data.images import CLIPPED, ROUNDING, as_images, to_grey
from train.data.reading.paths import kind_of
from train.errors import InputError, first_line, note, require
from train.progress import progress

PROBES = 32
"""Images that are looked at before the others, evenly spaced."""

MOST_WORKERS = 4
"""Most processes that read images of one training process, unless the user gives a number."""

CHUNK = 2**20
"""Bytes that are read at once where a whole file is read."""


def in_memory(images: Tensor | StoredImages) -> Tensor:
    r"""Returns images :math:`(M, C, H, W)`, uint8, in memory; stored ones are read."""
    return images.load() if isinstance(images, StoredImages) else images


class StoredImages(ABC):
    r"""Images that are read when they are asked for: a tensor :math:`(M, C, H, W)` on disk.

    A subclass defines :meth:`read` and :meth:`digest`. Indexing reads, and returns uint8 tensors in
    memory; :meth:`select` returns a view, which reads nothing.

    Args:
        number: The number of images, :math:`M`.
        shape: Channels, height and width of an image.

    Attributes:
        stored_shape: Channels, height and width of a stored image.
        is_grey: Whether the colours of stored images are turned to grey.
        rows: The index of each image of a view among the stored ones; None for all of them.
        workers: Processes that read batches ahead; None for :attr:`default_workers`.
    """

    RUNS_CODE: ClassVar[bool] = False
    """Whether reading runs code of the user's, which may draw random numbers. Each batch then has
    a seed of its own, and no thread reads it while the training draws its random numbers."""

    READS_FAST: ClassVar[bool] = False
    """Whether images are read as fast as a copy of them is made in memory."""

    def __init__(self, number: int, shape: Shape) -> None:
        self.number = number
        self.stored_shape = Shape(*shape)
        self.is_grey = False
        self.rows: np.ndarray | None = None
        self.workers: int | None = None

    @abstractmethod
    def read(self, rows: np.ndarray) -> np.ndarray:
        r"""Reads images.

        Args:
            rows: Indices of stored images, of shape :math:`(L)`, int64.

        Returns:
            Of shape :math:`(L, C, H, W)`, uint8, with the channels that are stored.

        Raises:
            InputError: If an image cannot be read; the message names it.
        """

    @abstractmethod
    def digest(self) -> bytes:
        """Returns a hash by which a resumed run recognises the stored images."""

    @property
    def default_workers(self) -> int:
        """The number of processes that read batches ahead, where the user gives none."""
        return 0 if self.READS_FAST else spare_workers()

    def __len__(self) -> int:
        return self.number if self.rows is None else len(self.rows)

    ndim: ClassVar[int] = 4
    """The number of axes of the tensor that the images are."""

    @property
    def image_shape(self) -> Shape:
        """Channels, height and width of an image."""
        return self.stored_shape._replace(channels=1) if self.is_grey else self.stored_shape

    @property
    def shape(self) -> torch.Size:
        r"""The shape of the tensor that the images are, :math:`(M, C, H, W)`."""
        return torch.Size((len(self), *self.image_shape))

    def __getitem__(self, index: Tensor | np.ndarray | slice | int) -> Tensor:
        r"""Reads images as uint8, of shape :math:`(*, C, H, W)`, for an index of shape :math:`(*)`.

        Args:
            index: Indices in :math:`[0, M)`, a mask of shape :math:`(M)`, a slice, or an integer.
        """
        if isinstance(index, int):
            return self[index : index + 1 or None][0]
        rows = self._rows(index)
        images = torch.from_numpy(self.read(rows.reshape(-1)))
        if self.is_grey:
            images = to_grey(images)
        return images.reshape(*rows.shape, *self.image_shape)

    def select(self, index: Tensor | np.ndarray | slice) -> StoredImages:
        """Returns the images at an index, as a view."""
        view = copy.copy(self)
        view.rows = self._rows(index)
        return view

    def grey(self) -> StoredImages:
        """Returns the images in grey, as a view."""
        view = copy.copy(self)
        view.is_grey = True
        return view

    def split(self, size: int) -> Iterator[Tensor]:
        """Reads all images in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def load(self) -> Tensor:
        """Reads all images into memory, with progress, of shape (M, C, H, W)."""
        size = max(1, CHUNK // self.image_shape.values)
        images = torch.empty(self.shape, dtype=torch.uint8)
        total = -(-len(self) // size)
        chunks = progress(self.split(size), "reading images", total, f"{size:,} images")
        for target, chunk in zip(images.split(size), chunks, strict=True):
            target.copy_(chunk)
        return images

    def _rows(self, index: Tensor | np.ndarray | slice) -> np.ndarray:
        """Converts an index of this view to one of the stored images."""
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        index = np.asarray(index)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        return index if self.rows is None else self.rows[index]


class _File:
    """A file that is read at positions, by several threads and processes at once.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({first_line(error)})") from error

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)

    def __reduce__(self) -> tuple[type[_File], tuple[Path]]:
        """Has another process open the file again."""
        return _File, (self.path,)

    def fill(self, buffer: memoryview, position: int) -> None:
        """Reads bytes from a position on.

        Raises:
            InputError: If the file ends before, or cannot be read.
        """
        # One call reads 2 GB at most.
        while buffer:
            try:
                count = os.preadv(self.descriptor, (buffer,), position)
            except OSError as error:
                raise InputError(f"{self.path} cannot be read ({first_line(error)})") from error
            require(count > 0, f"{self.path} has become shorter: write it again")
            buffer, position = buffer[count:], position + count


class ArrayImages(StoredImages):
    r"""The images of an ``.npy`` file, read row by row.

    Rows are read by their position, and not mapped into memory: mapped pages count as memory of the
    process, and a file that is cut short would end it by a signal.

    Opening the file reads it once: the contents are hashed, and checked and converted by the rules
    of :func:`train.data.images.as_images`, for all images together.

    Args:
        path: A file that :func:`numpy.save` wrote, with an array as :func:`as_images` takes it.

    Raises:
        InputError: If the file is damaged, or its images cannot be used.
    """

    READS_FAST: ClassVar[bool] = True

    def __init__(self, path: Path) -> None:
        require(kind_of(path) == "file", f"{path} is no file that can be read")
        self.path = path
        self.file = _File(path)
        shape, self.dtype, self.offset = self._header()
        self.row_shape = shape[1:]
        first = self._raw(np.zeros(1, np.int64)) if shape[0] else np.zeros((0, 1, 1))
        require(shape[0] > 0, f"{path} is empty, its shape is {shape}: give images (N, H, W)")
        # The layout depends on the shape alone, so any contents in [0, 1] show it.
        ramp = np.linspace(0, 1, first.size, dtype=np.float32).reshape(first.shape)
        laid_out = as_images(ramp, name=f"{path}", say=note).numpy()
        self.channels_last = not np.array_equal(ramp.reshape(-1), laid_out.reshape(-1))
        super().__init__(shape[0], Shape(*laid_out.shape[1:]))
        self.row_bytes = self.dtype.itemsize * int(np.prod(self.row_shape))
        self.scale = 1
        self._digest = self._scan()

    def read(self, rows: np.ndarray) -> np.ndarray:
        images = self._raw(rows)
        if self.dtype.kind == "f":
            # As PyTorch rounds: halves to even.
            scaled = torch.from_numpy(images.astype(np.float32)).clamp_(0, 1).mul_(255).round_()
            images = scaled.to(torch.uint8).numpy()
        elif self.scale != 1 or self.dtype != np.uint8:
            images = images.astype(np.uint8) * np.uint8(self.scale)
        if self.channels_last:
            images = np.ascontiguousarray(np.moveaxis(images, -1, 1))
        return images.reshape(-1, *self.stored_shape)

    def digest(self) -> bytes:
        return self._digest

    def _header(self) -> tuple[tuple[int, ...], np.dtype, int]:
        """Reads shape, type and the position of the first row, and checks the file's size."""
        readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        try:
            with self.path.open("rb") as file:
                shape, column_major, dtype = readers[npy.read_magic(file)](file)
                offset, size = file.tell(), dtype.itemsize
            # In Python's integers, which do not overflow.
            for side in shape:
                size *= side
            sound = self.path.stat().st_size == offset + size and min(shape) >= 0
        # NumPy raises many kinds of exceptions on damaged headers.
        except Exception:
            sound = False
        require(
            sound and not dtype.hasobject,
            f"{self.path} is no .npy file of numbers, or a damaged one: write it with "
            "numpy.save(path, images)",
        )
        require(
            dtype.kind in "biuf",
            f"{self.path} is of type {dtype}: give uint8, or floats in [0, 1]",
        )
        require(
            not column_major or len(shape) < 2,
            f"{self.path} is in column-major order, in which an image cannot be read alone: write "
            "numpy.ascontiguousarray(images)",
        )
        return shape, dtype, offset

    def _raw(self, rows: np.ndarray) -> np.ndarray:
        """Reads rows as they are stored; rows that follow each other are read at once."""
        size = self.dtype.itemsize * int(np.prod(self.row_shape))
        images = np.empty((len(rows), *self.row_shape), self.dtype)
        if not images.size:
            return images
        buffer = images.reshape(-1).view(np.uint8).data
        starts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
        ends = np.append(starts[1:], len(rows))
        positions = self.offset + size * rows[starts]
        for start, end, position in zip(
            (size * starts).tolist(), (size * ends).tolist(), positions.tolist(), strict=True
        ):
            self.file.fill(buffer[start:end], position)
        return images

    def _scan(self) -> bytes:
        """Hashes the file, checks its values, and finds how they are converted."""
        digest = hashlib.blake2b(f"{self.dtype} {self.row_shape}".encode(), digest_size=16)
        lowest, highest = np.inf, -np.inf
        step = max(1, CHUNK // self.row_bytes)
        starts = range(0, self.number, step)
        for start in progress(starts, f"reading {self.path.name}", len(starts), "part"):
            rows = np.arange(start, min(start + step, self.number))
            chunk = self._raw(rows)
            digest.update(chunk.reshape(-1).view(np.uint8).data)
            # The maximum of bytes above 1 says nothing more.
            if self.dtype != np.uint8 or highest <= 1:
                low, high = chunk.min(), chunk.max()
                if self.dtype.kind == "f":
                    self._require_finite(chunk, low, high, start)
                lowest, highest = min(lowest, low), max(highest, high)
        self._convert(lowest, highest)
        return digest.digest()

    def _require_finite(self, chunk: np.ndarray, low: float, high: float, start: int) -> None:
        # The minimum of values with a NaN is NaN.
        if not (np.isfinite(low) and np.isfinite(high)):
            finite = np.isfinite(chunk.reshape(len(chunk), -1)).all(1)
            raise InputError(
                f"{self.path}: image {start + int(finite.argmin())} has values that are not "
                "finite: replace them or leave those images out"
            )

    def _convert(self, lowest: Any, highest: Any) -> None:
        """Checks the range of all values, and sets what a value is multiplied by."""
        if self.dtype.kind == "f":
            require(
                lowest >= -CLIPPED and highest <= 1 + CLIPPED,
                f"{self.path} runs from {lowest:g} to {highest:g}: floats must be in [0, 1]; "
                "divide by 255, or rescale them",
            )
            if lowest < -ROUNDING or highest > 1 + ROUNDING:
                note(
                    f"{self.path} runs from {lowest:.4g} to {highest:.4g} and is clipped to [0, 1]"
                )
            return
        require(
            lowest >= 0 and highest <= 255,
            f"{self.path} has integers from {lowest} to {highest}: grey levels are uint8, from 0 "
            "to 255; or give floats in [0, 1], divided by the value of white",
        )
        if self.dtype.kind == "b":
            self.scale = 255
        elif highest == 1:
            self.scale = 255
            note(
                f"{self.path}: the integers are 0 and 1 only, and are taken for black and white; "
                "give floats in [0, 1] if that is not what they are"
            )


class JoinedImages(StoredImages):
    """Images of several files, one after the other.

    Args:
        parts: The images of each, of one shape.
    """

    def __init__(self, parts: Sequence[StoredImages]) -> None:
        super().__init__(sum(map(len, parts)), parts[0].stored_shape)
        self.parts = tuple(parts)
        self.ends = np.cumsum([len(part) for part in parts])

    @classmethod
    def of(cls, parts: Sequence[ArrayImages]) -> StoredImages:
        """Joins the images of files; those of a single file stay as they are.

        Raises:
            InputError: If the images are of several shapes.
        """
        first, *others = parts
        for other in others:
            require(
                other.stored_shape == first.stored_shape,
                f"{other.path} has images of {other.stored_shape} but {first.path} of "
                f"{first.stored_shape}: give images of one shape",
            )
        return cls(parts) if others else first

    def read(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *self.stored_shape), np.uint8)
        of_row = np.searchsorted(self.ends, rows, side="right")
        for number, part in enumerate(self.parts):
            positions = np.flatnonzero(of_row == number)
            images[positions] = part.read(rows[positions] - (self.ends[number] - len(part)))
        return images

    def digest(self) -> bytes:
        return b"".join(part.digest() for part in self.parts)


class PictureImages(StoredImages):
    """The images of the files in a folder, decoded when they are asked for.

    The files are recognised by their names, sizes and times of modification, which copies with
    ``cp -a`` or ``rsync -a`` keep.

    Args:
        pictures: The decoded pictures: a sequence of arrays (C, H, W), with the ``files`` and
            ``pages`` that they are of.
        root: The folder.
    """

    def __init__(self, pictures: Any, root: Path) -> None:
        super().__init__(len(pictures), Shape(*pictures.shape))
        self.pictures = pictures
        self.root = root
        self.scale = 1
        highest = self.read(np.array(evenly(self.number, PROBES))).max()
        if highest == 1:
            self.scale = 255
            note(
                f"{root}: the pixels are 0 and 1 only, and are taken for black and white: "
                f"{PROBES} images that were looked at have no others"
            )

    def read(self, rows: np.ndarray) -> np.ndarray:
        images = np.empty((len(rows), *self.stored_shape), np.uint8)
        for image, row in zip(images, rows.tolist(), strict=True):
            image[:] = self.pictures[row]
        if self.scale > 1:
            images *= np.uint8(self.scale)
        return images

    def digest(self) -> bytes:
        digest = hashlib.blake2b(
            f"{self.stored_shape} {self.pictures.background}".encode(), digest_size=16
        )
        digest.update(np.ascontiguousarray(self.pictures.pages).data)
        for file in self.pictures.files:
            try:
                status = file.stat()
            except OSError as error:
                raise InputError(f"{file} cannot be read ({first_line(error)})") from error
            name = file.relative_to(self.root).as_posix()
            digest.update(f"{name} {status.st_size} {int(status.st_mtime)}\n".encode())
        return digest.digest()


def spare_workers() -> int:
    """Returns the number of processors beside the training's, from 1 to :data:`MOST_WORKERS`.

    Of several processes that train together each has as many, at most those that it is bound to.
    """
    share = (os.cpu_count() or 1) // processes.size()
    own = min(share, processes.usable_processors())
    return min(max(own - 1, 1), MOST_WORKERS)


def evenly(number: int, most: int) -> list[int]:
    """Returns evenly spaced indices below ``number``, ``most`` of them or all."""
    return np.unique(np.linspace(0, number - 1, min(number, most)).astype(np.int64)).tolist()
