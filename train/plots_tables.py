"""Figures of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from train.plots import COLOURS

LONGEST = 22
"""Most characters of a cell."""


def shares(kept: Mapping[str, float]) -> Figure:
    """Draws a bar for each column: the share of it that codes keep.

    Args:
        kept: By column, 1 for all of it, 0 for as little as its usual value; it may be below 0.
    """
    names = sorted(kept, key=kept.__getitem__)
    figure = Figure(figsize=(6, 0.28 * len(names) + 1.1), layout="constrained")
    axes = figure.subplots()
    values = [max(kept[name], 0.0) for name in names]
    axes.barh(names, values, color=COLOURS[1])
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        axes.text(value + 0.01, row, f"{kept[name]:.2f}", va="center", fontsize=8)
    axes.set(xlim=(0, 1.08), xlabel="share of the column that is decoded from codes")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def rows(columns: Sequence[str], cells: Mapping[str, Sequence[str]]) -> Figure:
    """Draws a table with a line for each column and a column for each row of data.

    Args:
        columns: The names of the columns.
        cells: By title, the cells of a row. Those that differ from the first decoded row are bold.
    """
    titles = list(cells)
    figure = Figure(
        figsize=(1.6 + 1.9 * len(titles), 0.27 * len(columns) + 0.6), layout="constrained"
    )
    axes = figure.subplots()
    axes.axis("off")
    text = [[_short(cells[title][i]) for title in titles] for i in range(len(columns))]
    table = axes.table(
        text, rowLabels=list(columns), colLabels=titles, loc="center", cellLoc="left"
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    table.scale(1, 1.25)
    for (i, j), cell in table.get_celld().items():
        cell.set_edgecolor("0.85")
        differs = i > 0 and j > 0 and text[i - 1][j] != text[i - 1][1]
        if i == 0 or differs:
            cell.set_text_props(weight="bold")
        if differs:
            cell.set_facecolor("#FFF3D6")
    return figure


def _short(cell: str) -> str:
    return cell if len(cell) <= LONGEST else cell[: LONGEST - 1] + "…"
