"""The plane in which codes of any size are drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Plane(NamedTuple):
    r"""A plane in the space of codes, and the way there and back.

    Attributes:
        centre: The code :math:`c` at the plane's origin, of shape (D,).
        axes: The two directions :math:`A` of the plane, of shape (2, D). Of codes of one number the
            second one is zero.
    """

    centre: np.ndarray
    axes: np.ndarray

    @classmethod
    def of(cls, z: np.ndarray) -> Plane:
        """Returns the plane of codes, of shape (M, D): their first two principal components.

        Codes of one or two numbers are their own coordinates.

        Example:
            >>> Plane.of(np.eye(2)).project(np.array([[3.0, 4.0]])).tolist()
            [[3.0, 4.0]]
        """
        size = z.shape[1]
        if size <= 2:
            return cls(np.zeros(size), np.eye(2, size))
        centre = z.mean(0)
        # Of fewer than two codes there is one component at most.
        axes = np.linalg.svd(z - centre, full_matrices=False)[2][:2]
        return cls(centre, np.pad(axes, ((0, 2 - len(axes)), (0, 0))))

    def project(self, z: np.ndarray) -> np.ndarray:
        r"""Returns the coordinates :math:`(z - c) A^T` of codes (M, D), of shape (M, 2)."""
        return (z - self.centre) @ self.axes.T

    def lift(self, points: np.ndarray) -> np.ndarray:
        r"""Returns the codes :math:`c + p A` of points (M, 2) of the plane, of shape (M, D)."""
        return self.centre + points @ self.axes
