"""Loads a data set of the catalogue, or the images of a file or folder."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from train.data import memory, opening
from train.data.catalogue import CATALOGUE
from train.data.images import to_grey
from train.data.labelled import Images, Split
from train.data.labels import Classes, are_classes
from train.data.options import DataOptions
from train.data.reading import huggingface
from train.data.reading.files import Contents
from train.data.splits import given_rows, hold_out
from train.data.streaming import adapters
from train.data.streaming.stored import StoredImages
from train.errors import note, require

EvaluateOn = Literal["test", "validation"]


def load(
    data: str, data_dir: Path, evaluate_on: EvaluateOn, options: DataOptions = DataOptions()
) -> Split:
    """Loads a data set. Its split is fixed, whatever the seed of a run.

    Args:
        data: A name in :data:`~train.data.catalogue.CATALOGUE`: ``mnist5k`` has 4,000 training and
            1,000 test images; the training images of ``lines`` are endless; most others are
            downloaded unless ``data_dir`` has their files, and have the test split that they come
            with. Or the path of a file or folder (see :func:`train.data.reading.files.read`), a
            fifth of which is the test split unless a split is given.
        data_dir: The folder of downloads.
        evaluate_on: The held-out images. ``"test"``: the test split; of a file or folder with a
            validation split alone, that one. ``"validation"``: the validation split that the data
            set comes with, or a fifth of the training split, which is removed from it; the test
            split is not returned then. A fifth is stratified by class where labels are classes.
        options: Labels, splits, colour and damaged files.

    Raises:
        InputError: If ``data`` is neither a name nor a usable path, or cannot be downloaded, or
            its files are damaged, or the options do not go together with it.

    Example:
        >>> split = load("mnist5k", Path("data"), "test")
        >>> split.train.images.shape, split.held_out.images.shape
        (torch.Size([4000, 1, 28, 28]), torch.Size([1000, 1, 28, 28]))
    """
    require_held_out(evaluate_on)
    if data in CATALOGUE:
        return _load_named(data, data_dir, evaluate_on, options)
    if huggingface.is_saved(data):
        saved = huggingface.load(data)
        if options.in_memory == "auto" and huggingface.size_of(saved) < opening.LARGE:
            # Nothing in a saved data set is random, so that its items need not be read again.
            options = replace(options, in_memory="always")
        return adapters.as_split(saved, evaluate_on, options)
    contents = opening.read(data, options)
    images = images_of(contents)
    rows = rows_of(contents, evaluate_on)
    return Split(*(images.select(torch.from_numpy(indices)) for indices in rows))


def images_of(contents: Contents[Tensor | StoredImages]) -> Images:
    """Returns the images of a file or folder with their labels and columns."""
    images = Images(contents.images, None, columns=contents.columns)
    return images.with_labels(*contents.label) if contents.label else images


def rows_of(
    contents: Contents[Any], evaluate_on: EvaluateOn, strata: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of the images to train on, and of those to evaluate on.

    Args:
        contents: The images of a file or folder.
        evaluate_on: See :func:`load`.
        strata: What a random split is stratified by, of shape (M,), integers; the label if it is
            not given and the label is classes.
    """
    n, validation = len(contents.images), evaluate_on == "validation"
    labels = contents.labels
    if strata is None and labels is not None and are_classes(labels):
        strata = Classes.of(labels).encode(labels).numpy()
    if contents.splits is None:
        train, held_out = hold_out(n, strata)
        return _without_fifth(train, strata) if validation else (train, held_out)
    _note_unused(contents.splits, validation)
    train, given = given_rows(contents.splits, validation)
    return _without_fifth(train, strata) if given is None else (train, given)


def _without_fifth(train: np.ndarray, strata: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Holds out a fifth of the training images."""
    rows = hold_out(len(train), None if strata is None else strata[train])
    return train[rows[0]], train[rows[1]]


def _note_unused(splits: np.ndarray, validation: bool) -> None:
    """Says what becomes of given validation images, where they are not asked for."""
    count = int((splits == "validation").sum())
    if validation or not count:
        return
    if (splits == "test").any():
        note(f"{count:,} validation images are not used: --evaluate-on validation uses them")
    else:
        note(f"there are no test images: the {count:,} validation images are evaluated on")


def require_held_out(evaluate_on: str) -> None:
    """Raises :class:`InputError` unless it names the test or the validation split."""
    require(
        evaluate_on in ("test", "validation"),
        f"--evaluate-on {evaluate_on}: give test or validation",
    )


def require_own_labels(data: str, options: DataOptions) -> None:
    """Raises :class:`InputError` if options are given that named data sets do not have.

    Args:
        data: The name of the data set.
        options: Labels, splits and damaged files of a person's own images.
    """
    for flag, value in (
        ("--labels", options.labels),
        ("--split-column", options.split_column),
        ("--skip-bad", options.skip_bad),
    ):
        require(
            value in (None, False),
            f"{flag} is for your own images, and --data {data} has its own labels and split: leave "
            f"{flag} out, or give the path of your images",
        )


def _load_named(data: str, data_dir: Path, evaluate_on: EvaluateOn, options: DataOptions) -> Split:
    require_own_labels(data, options)
    entry = CATALOGUE[data]
    validation = evaluate_on == "validation"
    own = entry.load_validation if validation else None
    is_given = own is not None
    split = (own or entry.load)(data_dir)
    split = Split(*(_placed(images, data, options) for images in split))
    if options.label_column:
        split = adapters.with_labels(split, options.label_column)
    if options.grey and split.train.shape.channels > 1:
        require(
            not entry.endless,
            f"--grey: the images of --data {data} are drawn in colour at each step: leave it out",
        )
        split = Split(*(replace(part, images=_grey(part.images)) for part in split))
    return split.train.hold_out() if validation and not is_given else split


def _placed(images: Images, data: str, options: DataOptions) -> Images:
    """Reads the images of a named data set into memory, or leaves them on disk.

    See :func:`train.data.opening.read`. Only those of files of pictures can stay on disk.
    """
    stored = images.images
    if not isinstance(stored, StoredImages):
        require(
            options.in_memory != "never",
            f"--in-memory never: the images of --data {data} cannot stay on disk: leave it out",
        )
        return images
    size, subject = math.prod(stored.shape), f"--data {data}: {len(stored):,} images"
    if options.in_memory == "always" or (options.in_memory == "auto" and size < opening.LARGE):
        memory.require_available(size, f"{subject} need", "leave --in-memory out")
        return replace(images, images=stored.load())
    stored.workers = options.workers
    note(f"{subject} stay on disk, and are read batch by batch")
    return images


def _grey(images: Tensor | StoredImages) -> Tensor | StoredImages:
    return images.grey() if isinstance(images, StoredImages) else to_grey(images)
