"""Loads a data set of the catalogue, or the images of a file or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from train.data import files
from train.data.catalogue import CATALOGUE
from train.data.labelled import Images, Split
from train.errors import require


def load(data: str, data_dir: Path, evaluate_on: Literal["test", "validation"]) -> Split:
    """Loads a data set. Its split is fixed, whatever the seed of a run.

    Args:
        data: A name in :data:`~train.data.catalogue.CATALOGUE`: ``mnist5k`` has 4,000 training and
            1,000 test images; the training images of ``lines`` are endless; most others are
            downloaded unless ``data_dir`` has their files, and have the test split that they come
            with. Or the path of a file or folder (see :func:`train.data.files.read`), a fifth of
            which is the test split.
        data_dir: The folder of downloads.
        evaluate_on: The held-out images. ``"test"``: the test split. ``"validation"``: the
            validation split that the data set comes with, or a fifth of the training split, which
            is removed from it; the test split is not returned then. A fifth is stratified by class
            where labels are classes.

    Raises:
        InputError: If ``data`` is neither a name nor a usable path, or cannot be downloaded, or
            its files are damaged.

    Example:
        >>> split = load("mnist5k", Path("data"), "test")
        >>> split.train.images.shape, split.held_out.images.shape
        (torch.Size([4000, 1, 28, 28]), torch.Size([1000, 1, 28, 28]))
    """
    require(
        evaluate_on in ("test", "validation"),
        f"--evaluate-on {evaluate_on}: give test or validation",
    )
    entry = CATALOGUE.get(data)
    if entry is not None and entry.load_validation is not None and evaluate_on == "validation":
        return entry.load_validation(data_dir)
    split = _read(data) if entry is None else entry.load(data_dir)
    return split.train.hold_out() if evaluate_on == "validation" else split


def _read(path: str) -> Split:
    contents = files.read(path)
    return Images.labelled(torch.from_numpy(contents.images), contents.labels).hold_out()
