"""Makes a split of data that are given from Python: a data set of PyTorch's, or images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import IterableDataset

from train.data.items import DatasetImages, columns
from train.data.labelled import Images, Split
from train.data.labels import Classes, are_classes, as_labels
from train.data.stored import StoredImages
from train.data.streams import stream_split
from train.errors import require

KINDS = "a Split, Images, a data set of PyTorch's, or a pair of them to train on and to hold out"
"""What is accepted."""

FEWEST = 10
"""The fewest images, so that some are left after two splits."""


def as_split(
    data: Any,
    *,
    evaluate_on: Literal["test", "validation"] = "test",
    in_memory: Literal["auto", "always", "never"] = "auto",
    workers: int | None = None,
) -> Split:
    """Makes a split of data.

    - A :class:`~train.data.labelled.Split` stays as it is.
    - Of :class:`~train.data.labelled.Images`, and of a map-style data set, a fifth is held out,
      the same one each time; stratified, if they have labels that are classes.
    - Of an :class:`~torch.utils.data.IterableDataset` the first items are held out: see
      :func:`train.data.streams.stream_split`.
    - A pair of these has the images to train on, and those to hold out.
    - A mapping with the keys ``train`` and ``test``, such as Hugging Face's ``DatasetDict``, is
      such a pair. Without ``test``, a fifth of ``train`` is held out.

    Args:
        data: The data.
        evaluate_on: ``"validation"``: the split is one of the training images, and the held-out
            ones are not used.
        in_memory: ``"always"``: the images of a map-style data set are read once. Otherwise they
            are read anew for each batch, as they may be random.
        workers: Processes that read batches ahead; None for the default of the kind of data.

    Raises:
        InputError: If the data are of another kind, empty, or cannot be used.
    """
    if isinstance(data, Mapping):
        return _of_mapping(data, evaluate_on, in_memory, workers)
    if isinstance(data, Split):
        split = Split(*(as_images_of(part, in_memory, workers, "data") for part in data))
    elif isinstance(data, tuple) and len(data) == 2:
        train, held_out = data
        held_out = as_images_of(held_out, in_memory, workers, "the held-out data")
        if isinstance(train, IterableDataset):
            split = stream_split(train, held_out, workers)
        else:
            split = alike(as_images_of(train, in_memory, workers, "the training data"), held_out)
    elif isinstance(data, IterableDataset):
        split = stream_split(data, workers=workers)
    else:
        images = as_images_of(data, in_memory, workers, "data")
        require(
            len(images) >= FEWEST,
            f"data has {len(images)} images: give {FEWEST} or more, as a fifth of them is held out",
        )
        split = images.hold_out()
    require(
        split.train.shape == split.held_out.shape,
        f"the training images are {split.train.shape}, and the held-out ones "
        f"{split.held_out.shape}: bring all to one size and number of channels",
    )
    return split.train.hold_out() if evaluate_on == "validation" else split


def as_images_of(
    data: Any, in_memory: Literal["auto", "always", "never"], workers: int | None, name: str
) -> Images:
    """Converts images or a map-style data set to images with labels.

    Args:
        data: The data.
        in_memory: See :func:`as_split`.
        workers: See :func:`as_split`.
        name: What error messages call the data.

    Raises:
        InputError: If they are of another kind, or cannot be used.
    """
    if isinstance(data, Images):
        if isinstance(data.images, StoredImages):
            data.images.workers = workers
        return data
    require(
        hasattr(data, "__getitem__") and hasattr(data, "__len__") and not is_array(data),
        f"{name} is of type {type(data).__name__}: give {KINDS}",
    )
    stored = DatasetImages(data)
    stored.workers = workers
    known = {
        column: as_labels(values, f"{stored.name}: {column}")
        for column, values in columns(stored).items()
    }
    images = stored[:] if in_memory == "always" else stored
    if any(values.ndim > 1 for values in known.values()):
        # Several quantities an item have no name each.
        return Images.labelled(images, known["label"])
    return Images.of_columns(images, known, "label" if "label" in known else None)


def alike(train: Images, held_out: Images) -> Split:
    """Makes a split of images that were read apart, whose classes get common indices.

    Raises:
        InputError: If the labels of one are classes, and those of the other are not.
    """
    given = [images.values for images in (train, held_out)]
    if any(values is None for values in given):
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


def is_array(data: Any) -> bool:
    """Whether data are an array, a tensor or a list, whose labels and layout are not known."""
    return isinstance(data, np.ndarray | torch.Tensor | list | str | bytes)


def _of_mapping(
    data: Mapping[str, Any],
    evaluate_on: Literal["test", "validation"],
    in_memory: Literal["auto", "always", "never"],
    workers: int | None,
) -> Split:
    """Uses splits as they are given, by their names."""
    require("train" in data, f"data has the splits {', '.join(map(str, data))}: name one train")
    options: dict[str, Any] = {"in_memory": in_memory, "workers": workers}
    if evaluate_on == "validation" and "validation" in data:
        return as_split((data["train"], data["validation"]), **options)
    if "test" in data:
        return as_split((data["train"], data["test"]), evaluate_on=evaluate_on, **options)
    return as_split(data["train"], evaluate_on=evaluate_on, **options)
