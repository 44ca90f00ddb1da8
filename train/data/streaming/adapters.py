"""Makes a split of data that are given from Python: a data set of PyTorch's, or images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from train.data.images import to_grey
from train.data.labelled import Images, Split
from train.data.labels import Classes, are_classes, as_labels
from train.data.options import DataOptions
from train.data.reading.columns import Columns
from train.data.streaming.items import DatasetImages, columns
from train.data.streaming.streams import stream_split
from train.errors import require

KINDS = "a Split, Images, a data set of PyTorch's, or a pair of them to train on and to hold out"
"""What is accepted."""

FEWEST = 10
"""The fewest images, so that some are left after two splits."""


def as_split(
    data: Any,
    evaluate_on: Literal["test", "validation"] = "test",
    options: DataOptions = DataOptions(),
) -> Split:
    """Makes a split of data.

    - A :class:`~train.data.labelled.Split` stays as it is.
    - Of :class:`~train.data.labelled.Images`, and of a map-style data set, a fifth is held out,
      the same one each time; stratified, if they have labels that are classes.
    - Of an :class:`~torch.utils.data.IterableDataset` the first items are held out: see
      :func:`train.data.streaming.streams.stream_split`.
    - A pair of these has the images to train on, and those to hold out.
    - A mapping with the keys ``train`` and ``test``, such as Hugging Face's ``DatasetDict``, is
      such a pair. Without ``test``, a fifth of ``train`` is held out.

    Args:
        data: The data.
        evaluate_on: ``"validation"``: the split is one of the training images, and the held-out
            ones are not used.
        options: ``label_column``, ``grey``, ``workers``, and ``in_memory``: if it is ``"always"``,
            the items of a map-style data set are read once. Otherwise they are read anew for each
            batch, as they may be random.

    Raises:
        InputError: If the data are of another kind, empty, or cannot be used, or the options are
            for files.
    """
    for flag, value in (
        ("--labels", options.labels),
        ("--split-column", options.split_column),
        ("--skip-bad", options.skip_bad),
    ):
        require(
            value in (None, False),
            f"{flag} is for files of images, and data has labels and splits of its own: leave "
            f"{flag} out",
        )
    if isinstance(data, Mapping):
        return _of_mapping(data, evaluate_on, options)
    split = _split(data, options)
    require(
        split.train.shape == split.held_out.shape,
        f"the training images are {split.train.shape}, and the held-out ones "
        f"{split.held_out.shape}: bring all to one size and number of channels",
    )
    if options.label_column:
        split = with_labels(split, options.label_column)
    return split.train.hold_out() if evaluate_on == "validation" else split


def as_images_of(data: Any, options: DataOptions, name: str) -> Images:
    """Converts images or a map-style data set to images with labels.

    Args:
        data: The data.
        options: See :func:`as_split`.
        name: What error messages call the data.

    Raises:
        InputError: If they are of another kind, or cannot be used.
    """
    if not isinstance(data, Images):
        data = _of_items(data, options, name)
    if isinstance(data.images, Tensor):
        return replace(data, images=to_grey(data.images)) if options.grey else data
    images = data.images.grey() if options.grey else data.images.select(slice(None))
    images.workers = options.workers
    return replace(data, images=images)


def alike(train: Images, held_out: Images) -> Split:
    """Makes a split of images that were read apart, whose classes get common indices.

    Raises:
        InputError: If the labels of one are classes, and those of the other are not.
    """
    given = [images.values for images in (train, held_out) if images.values is not None]
    if len(given) < 2:
        return Split(train, held_out)
    kinds = {values.dtype.kind for values in given}
    require(
        len(kinds) == 1,
        "the labels to train on and those held out are of two kinds, classes, text or quantities: "
        "give one",
    )
    if not are_classes(given[0]):
        return Split(train, held_out)
    classes = Classes.of(np.concatenate(given))
    return Split(
        *(
            replace(images, labels=classes.encode(values), given=values)
            for images, values in zip((train, held_out), given, strict=True)
        )
    )


def with_labels(split: Split, names: tuple[str, ...]) -> Split:
    """Returns a split with the named columns as labels, encoded alike in both parts.

    Raises:
        InputError: If there is no such column, or the columns are no label together.
    """
    Columns(split.train.columns).labelled(names)
    return alike(*(part.with_labels(*names) for part in split))


def _split(data: Any, options: DataOptions) -> Split:
    if isinstance(data, Split):
        return Split(*(as_images_of(part, options, "data") for part in data))
    if isinstance(data, tuple) and len(data) == 2:
        train, held_out = data
        held_out = as_images_of(held_out, options, "the held-out data")
        if isinstance(train, IterableDataset):
            _require_colour(options)
            return stream_split(train, held_out, options.workers)
        return alike(as_images_of(train, options, "the training data"), held_out)
    if isinstance(data, IterableDataset):
        _require_colour(options)
        return stream_split(data, workers=options.workers)
    images = as_images_of(data, options, "data")
    require(
        len(images) >= FEWEST,
        f"data has {len(images)} images: give {FEWEST} or more, as a fifth of them is held out",
    )
    return images.hold_out()


def _require_colour(options: DataOptions) -> None:
    require(not options.grey, "--grey: turn the items of a stream to grey where they are made")


def _of_items(data: Any, options: DataOptions, name: str) -> Images:
    """Converts a map-style data set."""
    array = isinstance(data, np.ndarray | torch.Tensor | list | str | bytes)
    require(
        hasattr(data, "__getitem__") and hasattr(data, "__len__") and not array,
        f"{name} is of type {type(data).__name__}: give {KINDS}",
    )
    stored = DatasetImages(data)
    stored.workers = options.workers
    known = {
        column: as_labels(values, f"{stored.name}: {column}")
        for column, values in columns(stored).items()
    }
    images = stored.load() if options.in_memory == "always" else stored
    if any(values.ndim > 1 for values in known.values()):
        # Several quantities an item have no name each.
        return Images.labelled(images, known["label"])
    return Images.of_columns(images, known, "label" if "label" in known else None)


def _of_mapping(
    data: Mapping[str, Any], evaluate_on: Literal["test", "validation"], options: DataOptions
) -> Split:
    """Uses splits as they are given, by their names."""
    require("train" in data, f"data has the splits {', '.join(map(str, data))}: name one train")
    if evaluate_on == "validation" and "validation" in data:
        return as_split((data["train"], data["validation"]), "test", options)
    if "test" in data:
        return as_split((data["train"], data["test"]), evaluate_on, options)
    return as_split(data["train"], evaluate_on, options)
