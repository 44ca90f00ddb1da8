"""Reads images from an ``.npz`` archive, an ``.npy`` array or a folder, with their columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from train.data.catalogue import NAMES
from train.data.images import to_grey
from train.data.options import DataOptions
from train.data.reading import archives, arrays, folders, tables
from train.data.reading.columns import Columns, default_label
from train.data.reading.contents import ArrayFiles, Arrays
from train.data.reading.folders import Pictures
from train.data.reading.paths import kind_of
from train.data.splits import SPLITS, split_of
from train.data.tabular.roles import is_table
from train.errors import note, require

FEWEST = 10
"""The fewest images, so that some are left after two splits."""

FEWEST_TRAINING = 8
"""The fewest images to train on, where a split is given."""

FEWEST_HELD_OUT = 2
"""The fewest images to evaluate on, where a split is given."""

ARRAYS = (".npz", ".npy")
"""The suffixes of files of arrays."""

Unread = np.ndarray | Pictures | ArrayFiles
"""Images, or what they can be read from."""
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, eq=False)
class Contents(Generic[T]):
    r"""The images of a file or a folder, and what is said of them.

    Attributes:
        images: Grey levels or colours, of shape :math:`(M, C, H, W)`, uint8, or what they can be
            read from.
        columns: What the data say of an image, by name: arrays of shape :math:`(M)`, of classes
            (int64 or text) or quantities (float64).
        label: The names of the columns that are the label; none if there is no label.
        splits: ``"train"``, ``"validation"`` or ``"test"`` for each image, of shape :math:`(M)`;
            None if no split is given.
        counts: The number of objects in each image, of shape :math:`(M)`, int64.
        boxes: Their boxes: see :class:`train.data.reading.archives.Arrays`.
        masks: The object at each pixel: see there.
    """

    images: T
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    label: tuple[str, ...] = ()
    splits: np.ndarray | None = None
    counts: np.ndarray | None = None
    boxes: np.ndarray | None = None
    masks: np.ndarray | None = None

    def with_images(self, images: U) -> Contents[U]:
        """Returns the contents with the images in another form."""
        contents: Contents[Any] = self
        return replace(contents, images=images)

    @property
    def labels(self) -> np.ndarray | None:
        r"""The label, of shape :math:`(M)`, or :math:`(M, K)` if it has several columns."""
        columns = [self.columns[name] for name in self.label]
        return None if not columns else columns[0] if len(columns) < 2 else np.stack(columns, 1)


def read(data: str, options: DataOptions = DataOptions()) -> Contents[np.ndarray]:
    """Reads the path given as ``--data``; prints a line for each conversion.

    Args:
        data: An ``.npz`` archive (see :func:`train.data.reading.archives.read`), an ``.npy`` array
            (see :func:`train.data.reading.arrays.read`), a folder of image files (see
            :func:`train.data.reading.folders.listing`), or a folder of arrays: ``train.npz`` and
            ``test.npz``, ``validation.npz``, or both; or the same of ``.npy``.
        options: Labels, splits, colour and damaged files.

    Raises:
        InputError: If there is nothing at ``data``, it cannot be read, or its contents cannot be
            used: fewer than :data:`FEWEST` images, another shape, type or range than those of
            :class:`Contents`, values that are not finite, arrays of different lengths, or more than
            memory has room for; or if the options do not go together with the data.
    """
    contents = _contents(data, options, in_memory=True)
    assert isinstance(contents.images, np.ndarray)
    return contents.with_images(contents.images)


def open_images(data: str, options: DataOptions = DataOptions()) -> Contents[Unread]:
    """Opens the path given as ``--data``, and reads all but the images, if it can be helped.

    Args:
        data: See :func:`read`.
        options: Labels, splits, colour and damaged files. Images of ``.npy`` files are not turned
            to grey.

    Returns:
        Contents whose images are :class:`~train.data.reading.folders.Pictures` of a folder, or
        :class:`~train.data.reading.arrays.ArrayFiles`; those of an ``.npz`` archive are read.

    Raises:
        InputError: See :func:`read`.
    """
    return _contents(data, options, in_memory=False)


def _contents(data: str, options: DataOptions, in_memory: bool) -> Contents[Unread]:
    path = Path(data).expanduser()
    kind = kind_of(path)
    require(
        kind != "file" or not is_table(data),
        f"--data {path} is a table, which python -m train.icvae alone takes: give images, or name "
        "the table by --labels if it has their labels",
    )
    require(
        kind is not None,
        f"--data {data}: no such file or folder; give one, or one of {NAMES}",
    )
    require(
        kind in ("file", "folder"),
        f"--data {data} is {kind}: give an .npz or .npy file or a folder of images",
    )
    table = None if options.labels is None else tables.read(options.labels.expanduser())
    split_files = array_files(path) if kind == "folder" else {}
    if kind == "folder" and not split_files:
        contents = _of_folder(path, table, options, in_memory)
    else:
        require(
            not options.skip_bad,
            f"--skip-bad: {path} is no folder of images: leave it out",
        )
        contents = _of_arrays(path, split_files, table, options, in_memory)
    _require_enough(path, contents)
    return contents


def array_files(path: Path) -> dict[str, Path]:
    """Returns the files of arrays in a folder that are named after splits, by the split.

    Raises:
        InputError: If two are of one split, there are none to train or to evaluate on, or there are
            images too.
    """
    files: dict[str, Path] = {}
    for file in sorted(file for suffix in ARRAYS for file in path.glob(f"*{suffix}")):
        split = split_of(file.stem)
        if split is not None and kind_of(file) == "file":
            require(
                split not in files,
                f"{path} has {files.get(split, file).name} and {file.name}, which are one split: "
                "leave one of them",
            )
            files[split] = file
    has_images = bool(files) and folders.has_images(path)
    names = ", ".join(file.name for file in files.values())
    if "train" in files and len(files) > 1:
        require(
            not has_images,
            f"{path} has images beside {names}: give a folder of images or one of arrays",
        )
        return {split: files[split] for split in SPLITS if split in files}
    require(
        not files or has_images,
        f"{path} has {names} alone: a given split needs files train and test, or train and "
        "validation; or give that file itself",
    )
    return {}


def _of_folder(
    path: Path, table: tables.Table | None, options: DataOptions, in_memory: bool
) -> Contents[Unread]:
    listing = folders.listing(path)
    columns = Columns(listing.columns, label=tuple(listing.columns))
    if table is not None:
        others = tables.columns_of_files(table, listing.names, path)
        columns = _joined(columns, others, table, options)
    columns, splits = _chosen(columns, listing.splits, path, options)
    decode = folders.read if in_memory else folders.pictures_of
    images, rows = decode(listing, options.grey, options.skip_bad)
    columns = columns.select(rows)
    return Contents(images, columns.values, columns.label, None if splits is None else splits[rows])


def _of_arrays(
    path: Path,
    split_files: Mapping[str, Path],
    table: tables.Table | None,
    options: DataOptions,
    in_memory: bool,
) -> Contents[Unread]:
    files = list(split_files.values()) or [path]
    contents = [_array(file, in_memory) for file in files]
    splits = None
    if split_files:
        splits = np.repeat(
            np.array(list(split_files)), [len(content.images) for content in contents]
        )
    joined = contents[0] if len(contents) == 1 else _concatenated(contents, files)
    columns = joined.columns
    if table is not None:
        others = tables.columns_of_rows(table, len(joined.images), str(path))
        columns = _joined(columns, others, table, options)
    columns, splits = _chosen(columns, splits, path, options)
    images = joined.images
    if options.grey and isinstance(images, np.ndarray):
        images = to_grey(torch.from_numpy(images)).numpy()
    objects = (joined.counts, joined.boxes, joined.masks)
    return Contents(images, columns.values, columns.label, splits, *objects)


def _array(path: Path, in_memory: bool) -> Arrays:
    if path.suffix.lower() != ".npy":
        return archives.read(path)
    return Arrays(*(arrays.read(path) if in_memory else arrays.opened(path)))


def _concatenated(contents: Sequence[Arrays], files: Sequence[Path]) -> Arrays:
    """Joins the arrays of several files, one after the other."""
    first, *others = contents
    for other, file in zip(others, files[1:], strict=True):
        for name, *given in (
            ("labels and columns", set(first.columns.names), set(other.columns.names)),
            ("counts", first.counts is None, other.counts is None),
            ("boxes", first.boxes is None, other.boxes is None),
            ("masks", first.masks is None, other.masks is None),
        ):
            require(
                given[0] == given[1],
                f"{file} and {files[0]} have different {name}: give both the same ones",
            )
    return Arrays(
        _joined_images([content.images for content in contents], files),
        Columns.concatenated([content.columns for content in contents], list(map(str, files))),
        _joined_arrays([content.counts for content in contents]),
        _joined_arrays([_padded(content.boxes, contents) for content in contents]),
        _joined_arrays([content.masks for content in contents]),
    )


def _joined_images(
    images: Sequence[np.ndarray | ArrayFiles], files: Sequence[Path]
) -> np.ndarray | ArrayFiles:
    unread = [content for content in images if isinstance(content, ArrayFiles)]
    if unread:
        return ArrayFiles(
            tuple(path for content in unread for path in content.paths),
            tuple(size for content in unread for size in content.sizes),
        )
    read = [content for content in images if isinstance(content, np.ndarray)]
    first, *others = read
    for other, file in zip(others, files[1:], strict=True):
        require(
            other.shape[1:] == first.shape[1:],
            f"{file} has images of shape {other.shape[1:]} but {files[0]} of {first.shape[1:]}: "
            "give images of one shape",
        )
    return np.concatenate(read)


def _joined_arrays(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    given = [array for array in arrays if array is not None]
    return np.concatenate(given) if given else None


def _padded(boxes: np.ndarray | None, contents: Sequence[Arrays]) -> np.ndarray | None:
    """Adds rows of zeros, so that all have as many rows an image."""
    if boxes is None:
        return None
    rows = max(content.boxes.shape[1] for content in contents if content.boxes is not None)
    return np.pad(boxes, ((0, 0), (0, rows - boxes.shape[1]), (0, 0)))


def _joined(
    columns: Columns, others: Columns, table: tables.Table, options: DataOptions
) -> Columns:
    """Adds the columns of a table, the first of which is the label unless another is asked for."""
    names = tuple(name for name in others.names if name != options.split_column)
    label = default_label(names)
    if len(names) > 1 and not options.label_column:
        note(
            f"{table.path}: the label is the column {label[0]}; --label-column chooses among "
            f"{', '.join(names)}"
        )
    others = Columns(others.values, others.unusable, label)
    return columns.joined(others, str(table.path))


def _chosen(
    columns: Columns, splits: np.ndarray | None, path: Path, options: DataOptions
) -> tuple[Columns, np.ndarray | None]:
    """Chooses the label and the split among columns."""
    require(
        splits is None or options.split_column is None,
        f"--split-column {options.split_column}: {path} has its split already, in files or folders "
        "called train and test or validation: leave --split-column out",
    )
    columns, chosen = columns.split(options.split_column)
    return columns.labelled(options.label_column), splits if chosen is None else chosen


def _require_enough(path: Path, contents: Contents[Unread]) -> None:
    n = len(contents.images)
    require(
        n >= FEWEST,
        f"{path} holds {n} images: give {FEWEST} or more, as a fifth of them is held out",
    )
    if contents.splits is not None:
        training = int((contents.splits == "train").sum())
        require(
            training >= FEWEST_TRAINING and n - training >= FEWEST_HELD_OUT,
            f"{path} has {training} images to train on and {n - training} to evaluate on: give "
            f"{FEWEST_TRAINING} and {FEWEST_HELD_OUT} or more",
        )
