"""Figures of scenes of objects: masks and boxes, accuracies by count and by overlap, failures."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from train.errors import require
from train.plots import COLOURS, draw_boxes, picture

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours of curves on white (Okabe and Ito, 2008); each has a marker too."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLES = ("-", "--", ":")
"""A second and a third round of the same colours."""


class Objects(NamedTuple):
    """The objects of scenes, true or inferred.

    Attributes:
        labels: For each pixel the index of the object that is visible, counted from 1, or 0 for
            the background; of shape (M, H, W).
        boxes: Boxes in pixels, half open, of shape (M, N, 4).
        counts: How many of its boxes each scene has, of shape (M,).
    """

    labels: np.ndarray
    boxes: np.ndarray
    counts: np.ndarray


class Curve(NamedTuple):
    """Accuracies of a method, as a line.

    Attributes:
        x: Counts, or overlaps, of shape (n,), in increasing order.
        y: Accuracies from 0 to 1, of shape (n,).
        low: The lowest of several seeds, of shape (n,); None draws no band.
        high: The highest of several seeds, of shape (n,); None draws no band.
    """

    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    low: Sequence[float] | np.ndarray | None = None
    high: Sequence[float] | np.ndarray | None = None


def segments(images: np.ndarray, rows: Mapping[str, Objects]) -> Figure:
    """Draws scenes, and below them their objects: masks in colours, and boxes.

    Args:
        images: Scenes, of shape (M, C, H, W), in [0, 1].
        rows: For each row its label, such as "true" and "inferred", and the objects. The title of
            a picture is its count.

    Raises:
        InputError: If label maps are not of the scenes' size.
    """
    for name, objects in rows.items():
        require(
            objects.labels.shape == (len(images), *images.shape[-2:]),
            f"label maps of {name} have shape {objects.labels.shape} and scenes {images.shape}: "
            "give a map for each scene, of its height and width",
        )
    figure, axes = _sheet(len(images), 1 + len(rows))
    axes[0][0].set_ylabel("scene", fontsize=9)
    for axis, image in zip(axes[0], images, strict=True):
        picture(axis, image)
    for row, (name, objects) in zip(axes[1:], rows.items(), strict=True):
        row[0].set_ylabel(name, fontsize=9)
        for axis, image, labels, boxes, count in zip(row, images, *objects, strict=True):
            picture(axis, _tinted(image, labels))
            _framed(axis, image, boxes[:count])
            axis.set_title(str(int(count)), fontsize=9, pad=3)
    return figure


def failures(
    images: np.ndarray,
    reconstructions: np.ndarray,
    boxes: np.ndarray,
    counts: np.ndarray,
    truth: np.ndarray,
    *,
    notes: Sequence[str] = (),
    columns: int = 10,
) -> Figure:
    """Draws scenes whose count is wrong, with boxes, above their reconstructions.

    Args:
        images: Scenes, of shape (M, C, H, W), in [0, 1].
        reconstructions: Of the same shape.
        boxes: Inferred boxes in pixels, half open, of shape (M, N, 4).
        counts: Inferred counts, of shape (M,).
        truth: True counts, of shape (M,).
        notes: For each scene what is wrong, or why; a few words. None unless given.
        columns: The most scenes in a row.
    """
    columns = max(1, min(columns, len(images)))
    bands = max(1, -(-len(images) // columns))
    figure, axes = _sheet(columns, 2 * bands)
    for axis in axes.flat:
        axis.set_axis_off()
    if not len(images):
        axes[0][0].text(0.5, 0.5, "none", ha="center", va="center")
    columns_of_data = (images, reconstructions, boxes, counts, truth)
    for i, (image, drawn, frames, count, true) in enumerate(zip(*columns_of_data, strict=True)):
        band, column = divmod(i, columns)
        above, below = axes[2 * band, column], axes[2 * band + 1, column]
        for axis, content in ((above, image), (below, drawn.clip(0, 1))):
            axis.set_axis_on()
            picture(axis, content)
        _framed(above, image, frames[:count])
        above.set_title(f"true {int(true)}, inferred {int(count)}", fontsize=8, pad=3)
    for i, note in enumerate(notes):
        band, column = divmod(i, columns)
        axes[2 * band + 1, column].set_xlabel(textwrap.fill(note, 24), fontsize=7)
    for band in range(bands if len(images) else 0):
        axes[2 * band, 0].set_ylabel("scene, boxes", fontsize=9)
        axes[2 * band + 1, 0].set_ylabel("reconstruction", fontsize=9)
    return figure


def accuracy_by_count(curves: Mapping[str, Curve], trained: Collection[int] = ()) -> Figure:
    """Plots accuracies against the true count; counts that were trained on are shaded.

    Args:
        curves: By the name of a method, accuracies at true counts.
        trained: The counts of training scenes.
    """
    figure, axis = _accuracies(curves)
    for first, last in _runs(trained):
        axis.axvspan(first - 0.5, last + 0.5, color="0.92", linewidth=0, zorder=0)
    axis.set(xlabel="objects in the scene", ylabel="right counts")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, _ = axis.get_legend_handles_labels()
    if trained:
        handles.append(Patch(color="0.92", label="trained on"))
    figure.legend(handles=handles, loc="outside right center", frameon=False)
    return figure


def accuracy_by_overlap(curves: Mapping[str, Curve]) -> Figure:
    """Plots accuracies against the overlap of objects.

    Args:
        curves: By the name of a method, accuracies at overlaps, which are IoUs of true boxes.
    """
    figure, axis = _accuracies(curves)
    axis.set(xlabel="IoU of the true boxes", ylabel="right counts")
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.legend(loc="outside right center", frameon=False)
    return figure


def _accuracies(curves: Mapping[str, Curve]) -> tuple[Figure, Axes]:
    """Draws curves of accuracies in percent; each has a colour and a marker, or else a dash."""
    figure = Figure(figsize=(7, 3.8), layout="constrained")
    axis = figure.subplots()
    lowest = 1.0
    for i, (name, curve) in enumerate(curves.items()):
        x, y, low, high = Curve(*curve)
        lowest = min(lowest, *np.ravel(y if low is None else low))
        colour, marker = LINES[i % len(LINES)], MARKERS[i % len(MARKERS)]
        style = STYLES[i // len(LINES) % len(STYLES)]
        axis.plot(x, y, style, color=colour, marker=marker, markersize=5, label=name, clip_on=False)
        if low is not None and high is not None:
            axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    # Where all are high, the whole axis would press them into a line.
    axis.set_ylim(0 if lowest < 0.5 else np.floor(10 * lowest - 0.5) / 10, 1)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _runs(numbers: Collection[int]) -> list[tuple[int, int]]:
    """Returns the first and the last of each run of consecutive integers.

    Example:
        >>> _runs([3, 0, 1])
        [(0, 1), (3, 3)]
    """
    runs: list[tuple[int, int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _sheet(columns: int, rows: int) -> tuple[Figure, np.ndarray]:
    """Makes a figure for pictures in rows and columns, (rows, columns)."""
    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, hspace=0, wspace=0)
    figure = Figure(figsize=(1.25 * columns + 0.3, 1.4 * rows), layout=layout)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _framed(axis: Axes, image: np.ndarray, boxes: np.ndarray) -> None:
    """Draws boxes on a picture, which stays as large as the image."""
    draw_boxes(axis, boxes)
    height, width = image.shape[-2:]
    axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def _tinted(image: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns an image (3, H, W): each object in a colour of its own, on a dark grey scene.

    Args:
        image: Of shape (C, H, W), in [0, 1].
        labels: Indices of objects, counted from 1, and 0 for the background; of shape (H, W).
    """
    grey = np.broadcast_to(image.clip(0, 1).mean(0), (3, *labels.shape))
    colours = np.array([to_rgb(colour) for colour in COLOURS])
    tint = np.moveaxis(colours[(labels.astype(np.int64) - 1) % len(colours)], -1, 0)
    # Some of the scene's brightness remains, so that strokes and shades can be seen in a mask.
    return np.where(labels > 0, (0.7 + 0.3 * grey) * tint, 0.5 * grey)
