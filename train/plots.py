"""Figures of a run: functions of arrays that return a matplotlib figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from train.errors import require
from train.planes import Plane

# Distinguishable with colour blindness, and on black (Okabe and Ito, 2008).
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2")

LEGEND = 20
"""Most classes in a legend."""


def pixels(images: np.ndarray) -> np.ndarray:
    """Returns images as matplotlib takes them: grey (*, H, W), or colour (*, H, W, 3).

    Args:
        images: Of shape (*, C, H, W), from 0 to 1.

    Raises:
        InputError: If there are neither 1 nor 3 channels.
    """
    channels = images.shape[-3]
    require(channels in (1, 3), f"images have {channels} channels: figures show 1 or 3")
    return images[..., 0, :, :] if channels == 1 else np.moveaxis(images, -3, -1)


def picture(axes: Axes, image: np.ndarray) -> None:
    """Draws an image (C, H, W) of values from 0 to 1, without ticks."""
    axes.imshow(pixels(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_color("0.6")


def draw_boxes(axes: Axes, boxes: np.ndarray) -> None:
    """Draws boxes in pixels, of shape (n, 4), coloured by their index."""
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        # On matplotlib's axes integers are pixel centres; box coordinates count from pixel edges.
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
    """Draws scenes above their reconstructions at the first, a middle and the last stage.

    Args:
        images: Scenes, of shape (B, C, H, W).
        stages: For each stage its step, and by name the ``reconstruction`` (B, C, H, W), the
            ``boxes`` (B, N, 4) in pixels, and the ``counts`` (B) of detected boxes.
    """
    chosen = sorted({0, len(stages) // 2, len(stages) - 1}) if stages else []
    stages = [stages[i] for i in chosen]
    columns, rows = len(images), 1 + len(stages)
    figure = Figure(figsize=(1.25 * columns + 1.2, 1.3 * rows + 0.35), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, image in zip(axes[0], images, strict=True):
        picture(axis, image)
    titles = ["data"]
    for row, (step, stage) in zip(axes[1:], stages, strict=True):
        titles.append(f"step {step:,}")
        # Those of earlier versions have no channels.
        drawn = stage["reconstruction"].reshape(images.shape)
        objects = zip(stage["boxes"], stage["counts"], strict=True)
        for axis, image, (box, count) in zip(row, drawn, objects, strict=True):
            picture(axis, image.clip(0, 1))
            draw_boxes(axis, box[:count])
            # Lines of boxes at the edge extend beyond it, which must not rescale the axes.
            height, width = image.shape[-2:]
            axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
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
    """Plots metrics against training steps.

    Args:
        history: By metric, the steps at which it was logged and its values.
        panels: For each panel the label of its vertical axis, and by metric the curve's name.
            Metrics that were never logged are omitted, and so are panels without metrics. Of
            metrics with one name, the last of the panel that was logged is drawn.
    """
    drawn = {
        label: {name: history[metric] for metric, name in lines.items() if metric in history}
        for label, lines in panels.items()
    }
    drawn = {label: lines for label, lines in drawn.items() if lines}
    figure = Figure(figsize=(4.4 * len(drawn), 3.4), layout="constrained")
    for axis, (label, lines) in zip(
        figure.subplots(1, len(drawn), squeeze=False)[0], drawn.items(), strict=True
    ):
        for i, (name, (steps, values)) in enumerate(lines.items()):
            colour = ("#0072B2", "#D55E00", "#009E73")[i % 3]
            few = len(steps) < 30
            axis.plot(steps, values, color=colour, label=name, marker="o" if few else None, ms=4)
        axis.set(xlabel="step", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    return figure


def versus(
    runs: Mapping[str, Mapping[str, tuple[np.ndarray, np.ndarray]]], panels: Mapping[str, str]
) -> Figure:
    """Plots metrics of several runs against training steps.

    Args:
        runs: By the name of a run, its history: see :meth:`train.engine.runs.Run.history`.
        panels: By metric, the label of its panel's vertical axis.
    """
    figure = Figure(figsize=(4.4 * len(panels), 3.4), layout="constrained")
    for axis, (metric, label) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        for i, (name, history) in enumerate(runs.items()):
            if metric in history:
                axis.plot(*history[metric], "o-", color=COLOURS[-1 - i], label=name, markersize=4)
        axis.set(xlabel="step", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    return figure


def confusion(matrix: np.ndarray) -> Figure:
    """Draws a confusion matrix of counts: true counts in rows, inferred ones in columns."""
    size = len(matrix)
    figure = Figure(figsize=(0.8 * size + 1.6, 0.8 * size + 1.2), layout="constrained")
    axis = figure.subplots()
    frequencies = matrix / matrix.sum(axis=1, keepdims=True).clip(min=1)
    axis.imshow(frequencies, cmap="Blues", vmin=0, vmax=1)
    for (row, column), number in np.ndenumerate(matrix):
        colour = "white" if frequencies[row, column] > 0.5 else "black"
        axis.text(column, row, f"{number:,}", ha="center", va="center", color=colour)
    axis.set(xlabel="objects found", ylabel="objects in the scene")
    axis.set(xticks=range(size), yticks=range(size))
    return figure


def gallery(rows: Mapping[str, np.ndarray]) -> Figure:
    """Draws rows of images.

    Args:
        rows: For each row its label, and images of shape (n, C, H, W), in [0, 1]; every row has
            the same number.
    """
    columns = len(next(iter(rows.values())))
    figure = Figure(figsize=(1.25 * columns + 0.3, 1.3 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (label, images) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(label, fontsize=9)
        for axis, image in zip(row, images, strict=True):
            picture(axis, image.clip(0, 1))
    return figure


def estimators(table: Sequence[Mapping[str, Any]]) -> Figure:
    """Plots gradient estimators: bias, variance, time, and variance times time.

    Args:
        table: Rows of :func:`train.studies.gradients.compare`.
    """
    names = list(dict.fromkeys(row["estimator"] for row in table))
    groups = list(dict.fromkeys(row["group"] for row in table))
    heights = np.arange(len(names))[::-1]
    panels = {
        "variance": "gradient variance, nats²",
        "bias_se": "bias, standard errors",
        "milliseconds": "milliseconds a step",
        "variance_time": "variance × time, nats² s",
    }
    figure = Figure(figsize=(13, 0.42 * len(names) + 1.7), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    for axis, (column, label) in zip(axes, panels.items(), strict=True):
        for i, group in enumerate(groups):
            if i and column != "variance":
                continue
            values = [row[column] for row in table if row["group"] == group]
            style = {"marker": "s", "s": 46, "color": "black"} if group == "all" else {"s": 22}
            colour = {} if group == "all" else {"color": COLOURS[i % len(COLOURS)]}
            axis.scatter(values, heights, label=group, zorder=3, **style, **colour)
        axis.set(xscale="log", xlabel=label, yticks=heights, ylim=(-0.6, len(names) - 0.4))
        low, high = axis.get_xlim()
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 50 * low else (1,)))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    axes[0].set_yticklabels(names)
    # An unbiased mean is about one standard error away.
    axes[1].axvline(1, color="0.5", linestyle="--", linewidth=1)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(groups), frameon=False)
    return figure


class Panel(NamedTuple):
    """What one panel of :func:`races` shows.

    Attributes:
        x: The column on the horizontal axis.
        y: The column on the vertical axis.
        labels: The titles of both axes.
        log: Whether the vertical axis is logarithmic.
        log_x: Whether the horizontal axis is.
    """

    x: str
    y: str
    labels: tuple[str, str]
    log: bool = False
    log_x: bool = False


AIR_PANELS = (
    Panel("seconds", "elbo", ("seconds of training", "held-out ELBO, nats")),
    Panel("seconds", "count_accuracy", ("seconds of training", "count accuracy")),
)


def races(rows: Sequence[Mapping[str, Any]], panels: Sequence[Panel] = AIR_PANELS) -> Figure:
    """Plots measures of training runs, a line for each estimator and seed.

    Args:
        rows: Rows of :func:`train.studies.races.race`, or of another table with the columns
            ``estimator``, ``seed`` and those of the panels.
        panels: What is drawn. The first panel's vertical axis leaves out the lowest tenth.
    """
    names = list(dict.fromkeys(row["estimator"] for row in rows))
    styles = ("-", "--", ":")
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        for i, name in enumerate(names):
            for seed in sorted({row["seed"] for row in rows}):
                points = [row for row in rows if row["estimator"] == name and row["seed"] == seed]
                points = [row for row in points if row[panel.y] is not None]
                axis.plot(
                    [row[panel.x] for row in points],
                    [row[panel.y] for row in points],
                    styles[i // len(COLOURS) % len(styles)],
                    color=COLOURS[i % len(COLOURS)],
                    marker="o",
                    markersize=3,
                    label=name if seed == 0 else None,
                )
        axis.set(xlabel=panel.labels[0], ylabel=panel.labels[1])
        axis.set_yscale("log" if panel.log else "linear")
        axis.set_xscale("log" if panel.log_x else "linear")
        axis.grid(alpha=0.3)
    values = [row[panels[0].y] for row in rows if row[panels[0].y] is not None]
    if values:
        # A diverged run would squeeze the others into a line at the top.
        low, high = np.quantile(values, 0.1), max(values)
        axes[0].set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def codes(z: np.ndarray, labels: np.ndarray) -> Figure:
    """Plots codes in two dimensions, coloured by their labels.

    Args:
        z: Codes, of shape (M, D); if D > 2, their first two principal components are drawn.
        labels: Classes, whole numbers or text, of shape (M,), or quantities; of several
            columns the first.
    """
    name = "component" if z.shape[1] > 2 else "z"
    z = Plane.of(z).project(z)
    classes = labels.dtype.kind in "iuU"
    labels = labels if labels.ndim == 1 else labels[:, 0]
    names, numbers = np.unique(labels, return_inverse=True)
    # Few classes have a legend, more a colour bar.
    named = classes and len(names) <= LEGEND
    figure = Figure(figsize=(6.2, 5.2), layout="constrained")
    axis = figure.subplots()
    points = axis.scatter(
        z[:, 0],
        z[:, 1],
        c=numbers if classes else labels,
        s=4,
        linewidths=0,
        cmap="tab10" if named else "viridis",
        rasterized=True,
    )
    if named:
        handles, _ = points.legend_elements(num=None)  # type: ignore[arg-type]
        axis.legend(
            handles,
            [str(name)[:20] for name in names.tolist()],
            frameon=False,
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
    else:
        figure.colorbar(points, ax=axis, label="class, in order" if classes else "c")
    # The axes fill the figure: limits give way to the equal aspect, and the box does not.
    axis.set(xlabel=f"{name} 1", ylabel=f"{name} 2")
    axis.set_aspect("equal", adjustable="datalim")
    return figure


def tradeoff(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Plots leakage against reconstruction error, a line for each penalty, points by weight.

    Args:
        rows: For each run ``term``, ``weight``, ``z_dim``, ``leakage``, ``reconstruction_mse`` and
            ``chance``; ``None`` where a measure is missing.
    """
    sizes = sorted({row["z_dim"] for row in rows})
    figure = Figure(figsize=(5.4 * len(sizes) + 1.2, 4.4), layout="constrained")
    axes = figure.subplots(1, len(sizes), squeeze=False)[0]
    terms = list(dict.fromkeys(row["term"] for row in rows))
    for axis, size in zip(axes, sizes, strict=True):
        for i, term in enumerate(terms):
            own = [row for row in rows if row["term"] == term and row["z_dim"] == size]
            own.sort(key=lambda row: row["weight"])
            # A run without a measure has no point.
            own = [row for row in own if None not in (row["reconstruction_mse"], row["leakage"])]
            x = [row["reconstruction_mse"] for row in own]
            y = [row["leakage"] for row in own]
            line = "" if term in ("VAE", "CVAE") else "-"
            axis.plot(x, y, f"o{line}", color=COLOURS[i % len(COLOURS)], label=term)
            for row in own:
                if line:
                    place = (row["reconstruction_mse"], row["leakage"])
                    axis.annotate(f" {row['weight']:g}", place, fontsize=7)
        chance = [row["chance"] for row in rows if row["chance"] is not None]
        for level in chance[:1]:
            axis.axhline(level, color="0.5", linestyle="--", linewidth=1, label="chance")
        axis.set(xlabel="squared error a pixel", ylabel="leakage", title=f"z of {size}")
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def maps(panels: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> Figure:
    """Draws images at the positions of their embeddings.

    Args:
        panels: For each its title, embeddings of shape (n, D), and images of shape (n, C, H, W),
            values from 0 to 1.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(6.5 * columns, 6.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, (title, z, images) in zip(axes, panels, strict=False):
        places = Plane.of(z).project(z)
        # The size of an image in data units. If embeddings have collapsed, the axes are as short as
        # floating-point numbers resolve.
        half = 0.028 * max(np.ptp(places, axis=0).max(), 1e-3 * np.abs(places).max(), 1e-6)
        for (x, y), image in zip(places, images, strict=True):
            extent = (x - half, x + half, y - half, y + half)
            axis.imshow(_ink(image), extent=extent, zorder=2)
        # Equal sizes along both axes, whatever the spread of the components.
        middle = (places.min(0) + places.max(0)) / 2
        reach = np.ptp(places, axis=0).max() / 2 + half
        axis.set(title=title, xlabel="component 1", ylabel="component 2", aspect="equal")
        axis.set(xlim=middle[0] + reach * np.array([-1, 1]))
        axis.set(ylim=middle[1] + reach * np.array([-1, 1]))
    return figure


def _ink(image: np.ndarray) -> np.ndarray:
    """Returns an image (C, H, W) for a map, of shape (H, W, 4) or (H, W, 3).

    Grey ink is black on transparent ground, so that neighbours show through; colour is opaque.
    """
    if image.shape[0] > 1:
        return pixels(image.clip(0, 1))
    ink = np.zeros((*image.shape[1:], 4))
    ink[..., 3] = image[0].clip(0, 1)
    return ink


def comparison(rows: Sequence[Mapping[str, Any]], measures: Mapping[str, str]) -> Figure:
    """Draws a panel of bars for each measure, one bar per method.

    Args:
        rows: One for each method: its name under ``method``, and its measures.
        measures: The titles of the panels, by measure.
    """
    columns = 4
    lines = -(-len(measures) // columns)
    figure = Figure(figsize=(3.2 * columns, 0.3 * (len(rows) + 3) * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    names = [str(row["method"]) for row in rows]
    colours = [f"C{i % 10}" for i in range(len(rows))]
    for axes, (measure, title) in zip(panels.flat, measures.items(), strict=False):
        values = [math.nan if row[measure] is None else float(row[measure]) for row in rows]
        bars = axes.barh(names, np.nan_to_num(values), color=colours)
        captions = ["" if math.isnan(value) else f" {value:.3g}" for value in values]
        axes.bar_label(bars, captions, fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.margins(x=0.25)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0][0].invert_yaxis()
    for axes in panels.flat[len(measures) :]:
        axes.set_visible(False)
    return figure
