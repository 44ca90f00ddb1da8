"""Codes that take finitely many values: the cells of a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

EDGE = math.sqrt(3.0)
"""Half the range of a code: a uniform distribution over it has variance 1."""


def quantised(z: Tensor, levels: int) -> Tensor:
    r"""Rounds each number to the centre of its cell.

    The range from :math:`-\sqrt{3}` to :math:`\sqrt{3}` has :math:`L` cells of equal width, and a
    number outside of it belongs to the outermost one.

    Args:
        z: Numbers, of any shape.
        levels: The number :math:`L` of cells.

    Example:
        >>> quantised(torch.tensor([-9.0, -0.1, 0.1]), 2)
        tensor([-0.8660, -0.8660,  0.8660])
    """
    return centres(cells(z, levels), levels).to(z.dtype)


def cells(z: Tensor, levels: int) -> Tensor:
    r"""Returns the index of each number's cell, from 0 to :math:`L - 1`: see :func:`quantised`."""
    return ((z / EDGE + 1) / 2 * levels).floor().clamp(0, levels - 1).long()


def centres(index: Tensor, levels: int) -> Tensor:
    """Returns the centre of each cell: see :func:`quantised`."""
    return EDGE * ((2 * index + 1) / levels - 1)


class Grid(TorchDistribution):
    r"""The uniform distribution over the centres of :math:`L` cells.

    Its log-probability is :math:`-\log L` for any value: a guide gives none but centres.

    Args:
        levels: The number :math:`L` of cells.
        batch_shape: The shape of independent numbers.
        zero: A tensor of the dtype and device of the draws.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real

    def __init__(self, levels: int, batch_shape: Sequence[int], zero: Tensor) -> None:
        self.levels, self.zero = levels, zero
        super().__init__(torch.Size(batch_shape), validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = (*sample_shape, *self.batch_shape)
        index = torch.randint(self.levels, shape, device=self.zero.device)
        return centres(index, self.levels).to(self.zero.dtype)

    def log_prob(self, value: Tensor) -> Tensor:
        r"""Returns :math:`-\log L`, of the shape of the value."""
        return torch.full_like(value, -math.log(self.levels))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Grid:
        """Expands the batch shape."""
        return Grid(self.levels, torch.Size(batch_shape), self.zero)
