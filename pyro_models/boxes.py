"""Areas of boxes: corners (x0, y0, x1, y1) in pixels, of which x1 and y1 are outside."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

Boxes = TypeVar("Boxes", np.ndarray, torch.Tensor)


def shared(first: Boxes, second: Boxes) -> Boxes:
    r"""Returns the area that boxes have in common.

    Args:
        first: A tensor or an array of shape :math:`(*, 4)`.
        second: The same, of a shape that broadcasts with that.

    Example:
        >>> shared(torch.tensor([0, 0, 4, 4]), torch.tensor([[2, 1, 9, 9], [4, 0, 8, 4]]))
        tensor([6, 0])
    """
    low = first[..., :2].clip(second[..., :2])
    sides = (first[..., 2:].clip(None, second[..., 2:]) - low).clip(0)
    return sides[..., 0] * sides[..., 1]


def area(boxes: Boxes) -> Boxes:
    r"""Returns the areas of boxes, 0 where a side is negative.

    Args:
        boxes: A tensor or an array of shape :math:`(*, 4)`.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).clip(0)
    return sides[..., 0] * sides[..., 1]


def inside(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    r"""Returns which part of the smaller of two boxes is inside the other one, in [0, 1].

    Args:
        first: Boxes of some area, of shape :math:`(*, 4)`.
        second: The same, of a shape that broadcasts with that.

    Example:
        >>> inside(torch.tensor([0.0, 0.0, 4.0, 4.0]), torch.tensor([2.0, 1.0, 9.0, 9.0]))
        tensor(0.3750)
    """
    return shared(first, second) / torch.minimum(area(first), area(second))


def share_more(first: Boxes, second: Boxes, share: float) -> Boxes:
    r"""Returns whether boxes have more in common than a part of the smaller one.

    Args:
        first: As :func:`shared` takes them.
        second: As :func:`shared` takes them.
        share: The part, in [0, 1]. With 0, whether they have a pixel in common.
    """
    common = shared(first, second)
    # Areas take time, which scenes without any overlap need not.
    return common > (share * area(first).clip(None, area(second)) if share else 0)
