"""The cells that convolutions have on a canvas, for objects of one size or of several."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

OBJECT = 10
"""Images are averaged over squares of pixels, so that an object has about so many pixels a side."""
DEVIATIONS = math.sqrt(3)
"""A uniform distribution ends so many standard deviations from its mean."""


class Cells(NamedTuple):
    r"""The grid of cells that convolutions have on a canvas.

    Attributes:
        grid: The centre :math:`(x, y)` of each cell, from that of the canvas, in halves of the
            canvas' shorter side, of shape :math:`(A, 2)`, row by row.
        above: For each of :math:`K` sizes of windows, the share of each pooled row in a window
            around each row of cells, of shape :math:`(K, A_y, H')`. It is zero outside of the
            canvas.
        beside: The same of columns, of shape :math:`(K, A_x, W')`.
    """

    grid: Tensor
    above: Tensor
    beside: Tensor


def window_sides(median: float, spread: float, sizes: int) -> list[float]:
    r"""Returns the sides of windows for small objects to large ones, in pixels.

    Args:
        median: The prior median of a window's side.
        spread: The prior standard deviation of its logarithm.
        sizes: How many; of one, it is the median. More are at equal ratios, between the ends of a
            log-uniform distribution with that deviation.

    Example:
        >>> [round(side, 1) for side in window_sides(12.0, 0.36, 3)]
        [6.4, 12.0, 22.4]
    """
    if sizes == 1:
        return [median]
    ends = DEVIATIONS * spread
    return [median * math.exp(ends * (2 * i / (sizes - 1) - 1)) for i in range(sizes)]


def pools(sides: list[float]) -> list[int]:
    """Returns the squares that images are averaged over, for objects of each size, the smallest
    first, each once."""
    return sorted({max(1, round(side / OBJECT)) for side in sides})


def cells(sides: tuple[int, int], pool: int, windows: list[float]) -> Cells:
    r"""Returns the cells of a canvas.

    Args:
        sides: The canvas' height and width in pixels.
        pool: How many pixels a side are averaged.
        windows: The sides of windows, in pixels.
    """
    grid, shares = [], []
    for side in sides:
        centre = _centres(side, pool)
        edges = (torch.arange(-(-side // pool) + 1) * pool).clamp(max=side)
        covered = []
        for window in windows:
            inside = edges - (centre - window / 2).unsqueeze(-1)
            covered.append(inside.clamp(0, window).diff(dim=-1) / window)
        grid.append((2 * centre - side) / min(sides))
        shares.append(torch.stack(covered))
    return Cells(torch.cartesian_prod(*grid).flip(-1), *shares)


def between(sides: tuple[int, int], pool: int, coarse: int) -> list[Tensor]:
    r"""Returns matrices that interpolate maps of coarser cells linearly, at the cells of a canvas.

    A map :math:`f` of coarser cells, of shape :math:`(B_y, B_x)`, is :math:`R f C^T` at the cells.
    Beyond the outermost coarser cells it is theirs.

    Args:
        sides: The canvas' height and width in pixels.
        pool: How many pixels a side are averaged for the cells.
        coarse: The same for the coarser ones.

    Returns:
        :math:`R`, of shape :math:`(A_y, B_y)`, and :math:`C`, of shape :math:`(A_x, B_x)`; their
        rows sum to 1.
    """
    matrices = []
    for side in sides:
        fine, rough = _centres(side, pool), _centres(side, coarse)
        at = ((fine - rough[0]) / (2 * coarse)).clamp(0, len(rough) - 1)
        distance = (at.unsqueeze(-1) - torch.arange(len(rough))).abs()
        matrices.append((1 - distance).clamp(min=0))
    return matrices


def _centres(side: int, pool: int) -> Tensor:
    """Returns the centres of cells along a side, in pixels."""
    # The first convolution has stride 2, and its outputs are centred on even pixels.
    return (torch.arange(0, -(-side // pool), 2) + 0.5) * pool
