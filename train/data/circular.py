r"""Quantities on a circle: hues, of which 0 and 1 are the same.

A column is on a circle if it is called ``hue``, or its name ends in ``_hue``, and its values are in
[0, 1]. Models and regressions get such a quantity :math:`h` as the point
:math:`(\sin 2 \pi h, \cos 2 \pi h)`, so that 0.95 and 0.05 are near each other.
"""

from __future__ import annotations

import numpy as np


def is_circular(name: str, column: np.ndarray) -> bool:
    """Returns whether a column has hues.

    Args:
        name: The column's name.
        column: Classes or quantities, of shape (M,).

    Example:
        >>> is_circular("wall_hue", np.array([0.0, 0.9])), is_circular("hue", np.array([270.0]))
        (True, False)
    """
    return (
        name.rpartition("_")[2] == "hue"
        and column.dtype.kind == "f"
        and column.ndim == 1
        and bool(((column >= 0) & (column <= 1)).all())
    )


def on_circle(column: np.ndarray) -> np.ndarray:
    """Returns sine and cosine of quantities whose period is 1.

    Args:
        column: Of shape (M,).

    Returns:
        Of shape (M, 2), float64.
    """
    angle = 2 * np.pi * np.asarray(column, dtype=np.float64)
    return np.stack([np.sin(angle), np.cos(angle)], axis=1)
