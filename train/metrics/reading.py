"""Measures what codes reveal of each named column of the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from train.data.circular import is_circular, on_circle
from train.data.labelled import Images
from train.metrics.measuring import Measures

Codes = tuple[np.ndarray, np.ndarray]
"""Codes of training images and of held-out ones, of shapes (M, D) and (L, D)."""

UNNAMED = "labels"
"""What labels that are no column of the data are called."""


def label_names(images: Images) -> tuple[str, ...]:
    """Returns the names of the columns that are the labels, in the order of the labels' columns."""
    if images.values is None:
        return ()
    labels = images.values.reshape(len(images), -1).T
    return tuple(
        name
        for label in labels
        for name in images.columns
        if np.array_equal(images.columns[name], label)
    )


def readable(images: Images, excluded: Iterable[str] = ()) -> dict[str, np.ndarray]:
    """Returns the columns of images by name, the labels first.

    Args:
        images: Images with columns. Classes that are labels but no column are called ``labels``.
        excluded: Names of columns to leave out.
    """
    labels = label_names(images)
    columns: dict[str, np.ndarray] = {}
    if not labels and images.values is not None and images.values.ndim == 1:
        columns[UNNAMED] = images.values
    columns |= {name: images.columns[name] for name in labels} | dict(images.columns)
    return {name: column for name, column in columns.items() if name not in set(excluded)}


def add_readings(
    measures: Measures,
    codes: Callable[[], Codes],
    images: tuple[Images, Images],
    names: Sequence[str],
    *,
    seed: int = 0,
) -> None:
    r"""Measures how well columns are read from codes: ``read.NAME`` and ``read_chance.NAME``.

    They are accuracies for classes and :math:`R^2` for quantities: see
    :func:`train.metrics.probes.read`. Of hues they are the mean :math:`R^2` of sine and cosine: see
    :mod:`train.data.circular`.

    Args:
        measures: The measures, to which these are added.
        codes: Returns codes of training images and of held-out ones.
        images: Training images and held-out ones.
        names: The names of columns, as :func:`readable` has them.
        seed: Seed of the probes.
    """
    splits = [readable(each) for each in images]
    for name in names:

        def measure(name: str = name) -> dict[str, float]:
            from train.metrics.probes import read

            columns = [columns[name] for columns in splits]
            if all(is_circular(name, column) for column in columns):
                columns = [on_circle(column) for column in columns]
            (train, held_out), (first, second) = codes(), columns
            reading = read(train, first, held_out, second, seed=seed)
            return {f"read.{name}": reading.score, f"read_chance.{name}": reading.chance}

        measures.add((f"read.{name}", f"read_chance.{name}"), measure)
