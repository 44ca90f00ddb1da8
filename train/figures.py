"""Figures of a run: functions of arrays that return a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

# Told apart by people who do not see red from green, and on black (Okabe and Ito, 2008).
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")


def picture(axes: Axes, image: np.ndarray) -> None:
    """Shows an image of values from 0 to 1 without ticks."""
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color("0.6")


def draw_boxes(axes: Axes, boxes: np.ndarray) -> None:
    """Draws boxes in pixels, of shape (n, 4), coloured by their place in the row."""
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        # A pixel's centre is a whole number on matplotlib's axes; boxes count from its edge.
        axes.add_patch(
            Rectangle(
                (x0 - 0.5, y0 - 0.5),
                x1 - x0,
                y1 - y0,
                fill=False,
                linewidth=1.6,
                edgecolor=COLOURS[i % len(COLOURS)],
            )
        )


def scenes(images: np.ndarray, stages: Sequence[tuple[int, Mapping[str, np.ndarray]]]) -> Figure:
    """Scenes over what a model made of them: at the first, the middle and the last stage.

    Args:
        images: Scenes, of shape (B, H, W).
        stages: For each stage its step, and by name the ``reconstruction`` (B, H, W), the ``boxes``
            (B, N, 4) in pixels, and the ``counts`` (B) of boxes found.
    """
    chosen = sorted({0, len(stages) // 2, len(stages) - 1}) if stages else []
    stages = [stages[i] for i in chosen]
    columns, rows = len(images), 1 + len(stages)
    figure = Figure(figsize=(1.25 * columns + 1.2, 1.3 * rows + 0.35), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, image in zip(axes[0], images, strict=True):
        picture(axis, image)
    titles = ["data"]
    for row, (step, found) in zip(axes[1:], stages, strict=True):
        titles.append(f"step {step:,}")
        columns = (found["reconstruction"], found["boxes"], found["counts"])
        for axis, image, box, count in zip(row, *columns, strict=True):
            picture(axis, image.clip(0, 1))
            draw_boxes(axis, box[:count])
            # A box may reach over the edge; the scene stays as large as it is.
            axis.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5))
    for row, title in zip(axes, titles, strict=True):
        row[0].set_ylabel(title, fontsize=9)
    if stages:
        steps = [
            Patch(
                fill=False,
                linewidth=1.6,
                edgecolor=COLOURS[i % len(COLOURS)],
                label=f"object {i + 1}",
            )
            for i in range(stages[0][1]["boxes"].shape[1])
        ]
        figure.legend(handles=steps, loc="outside lower center", ncols=len(steps), frameon=False)
    return figure


def curves(
    history: Mapping[str, tuple[np.ndarray, np.ndarray]],
    panels: Mapping[str, Mapping[str, str]],
) -> Figure:
    """Metrics over the steps of training.

    Args:
        history: By metric, the steps at which it was logged and its values.
        panels: For each panel the label of its vertical axis, and by metric the curve's name.
            Metrics that were never logged are left out, and panels with none of theirs.
    """
    panels = {
        label: {name: history[metric] for metric, name in lines.items() if metric in history}
        for label, lines in panels.items()
    }
    panels = {label: lines for label, lines in panels.items() if lines}
    figure = Figure(figsize=(4.4 * len(panels), 3.4), layout="constrained")
    for axis, (label, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for i, (name, (steps, values)) in enumerate(lines.items()):
            colour = ("#0072B2", "#D55E00", "#009E73")[i % 3]
            few = len(steps) < 30
            axis.plot(steps, values, color=colour, label=name, marker="o" if few else None, ms=4)
        axis.set(xlabel="step", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    return figure


def confusion(matrix: np.ndarray) -> Figure:
    """A confusion matrix of counts: rows true, columns found."""
    size = len(matrix)
    figure = Figure(figsize=(0.8 * size + 1.6, 0.8 * size + 1.2), layout="constrained")
    axis = figure.subplots()
    shares = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), number in np.ndenumerate(matrix):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, f"{number:,}", ha="center", va="center", color=colour)
    axis.set(xlabel="objects found", ylabel="objects in the scene")
    axis.set(xticks=range(size), yticks=range(size))
    return figure


def gallery(rows: Mapping[str, np.ndarray]) -> Figure:
    """Rows of images.

    Args:
        rows: For each row its label, and images of shape (n, H, W), values from 0 to 1; as many in
            each row.
    """
    columns = len(next(iter(rows.values())))
    figure = Figure(figsize=(1.25 * columns + 0.3, 1.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (label, images) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(label, fontsize=9)
        for axis, image in zip(row, images, strict=True):
            picture(axis, image.clip(0, 1))
    return figure
