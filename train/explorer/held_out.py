"""The held-out images of a run, from its own data, and what they can be coloured by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from pyro_models.shapes import Shape
from train.data import samples
from train.data.annotated import Scenes
from train.data.fingerprint import fingerprint
from train.data.images import as_bytes, as_images
from train.data.labelled import Images
from train.data.labels import are_classes, as_labels
from train.errors import require

MOST_BYTES = 4 * 2**20
"""Bytes of images that a page is sent at most."""
MOST_CLASSES = 100
"""Most classes by which points are coloured one by one."""


def reopened(trained: Any, **changes: Any) -> Images:
    """Opens the data of a run, and returns the held-out images.

    Args:
        trained: What :func:`train.trained.load` returns.
        changes: Settings of the data that are not those of the run, such as ``data``.

    Returns:
        The held-out images with labels and columns; of scenes, ``counts`` are a column.

    Raises:
        InputError: If the data cannot be opened, or are not those of the run.
    """
    settings = replace(trained.settings, **changes)
    data = trained.method.load_data(settings)
    expected = trained.saved.inputs.get("data_hash")
    require(
        expected in (None, fingerprint(*data)),
        f"--data {settings.data} holds other data than the run was trained on: give the path of "
        "those",
    )
    return labelled(data.held_out)


def labelled(held_out: Images | Scenes) -> Images:
    """Returns images or scenes as images with columns."""
    return held_out.as_images() if isinstance(held_out, Scenes) else held_out


def given(images: Any, shape: Shape, labels: Any = None) -> Images:
    """Returns images that a person gives, with their labels.

    Args:
        images: Of any type: see :func:`train.data.images.as_images`.
        shape: The channels, height and width that they must have.
        labels: See :func:`train.data.labels.as_labels`; ``None`` if there are none.

    Raises:
        InputError: If they are of another shape or type, or there are more or fewer labels.
    """
    pixels = as_bytes(as_images(images, shape)).cpu()
    values = None if labels is None else as_labels(labels)
    require(
        values is None or len(values) == len(pixels),
        f"there are {0 if values is None else len(values)} labels for {len(pixels)} images: give "
        "as many",
    )
    return Images.labelled(pixels, values)


def sampled(images: Images, most: int) -> Images:
    """Returns a sample of images in memory, which is no more than a page can be sent."""
    return samples.sample(images, max(1, min(most, MOST_BYTES // images.shape.values)))


def colourings(images: Images) -> list[dict[str, Any]]:
    """Describes what images can be coloured by: labels and columns, by name.

    Returns:
        For each ``name``, ``values`` (a number an image), and ``classes`` (their names; the values
        are indices then) or ``None`` for quantities.
    """
    columns: Mapping[str, np.ndarray] = images.columns
    if images.values is not None and not columns:
        values = images.values
        columns = {"label": values} if values.ndim == 1 else _numbered(values)
    found = []
    for name, column in columns.items():
        column = np.asarray(column)
        if column.ndim != 1:
            continue
        if are_classes(column) or column.dtype.kind in "US":
            classes, index = np.unique(column, return_inverse=True)
            if len(classes) > MOST_CLASSES:
                continue
            names = [str(each) for each in classes.tolist()]
            found.append({"name": name, "values": index.tolist(), "classes": names})
        else:
            # A missing value has no colour.
            numbers = [float(x) if np.isfinite(x) else None for x in column]
            found.append({"name": name, "values": numbers, "classes": None})
    return found


def _numbered(values: np.ndarray) -> dict[str, np.ndarray]:
    return {f"label {i}": column for i, column in enumerate(values.T)}
