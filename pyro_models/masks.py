"""Masks of objects: label maps and tight boxes. Every function can be exported."""

from __future__ import annotations

import torch
from torch import Tensor


def label_maps(masks: Tensor, counts: Tensor, threshold: float = 0.5) -> Tensor:
    r"""Assigns each pixel to the object whose mask is the largest there, or to the background.

    .. math:: l_p = \begin{cases}
        1 + \text{argmax}_{i < n} \, m_{ip} & \text{if } \sum_{i < n} m_{ip} > t \\
        0 & \text{otherwise} \end{cases}

    Args:
        masks: The mask :math:`m_i` of each object, of shape :math:`(B, N, H, W)`, in [0, 1].
        counts: The number :math:`n` of objects in each image, of shape :math:`(B)`. Masks beyond
            the first ``counts`` have no effect.
        threshold: The level :math:`t` that the sum of the masks exceeds in the foreground.

    Returns:
        For each pixel the object's index, counted from 1, or 0 for the background; of shape
        :math:`(B, H, W)`, int64. Of two equal masks the first wins.

    Example:
        >>> masks = torch.tensor([[[[0.9, 0.3, 0.0]], [[0.1, 0.6, 0.2]]]])
        >>> label_maps(masks, torch.tensor([2]))
        tensor([[[1, 2, 0]]])
        >>> label_maps(masks, torch.tensor([1]))
        tensor([[[1, 0, 0]]])
    """
    present = torch.arange(masks.shape[1], device=masks.device) < counts.unsqueeze(1)
    masks = torch.where(present[..., None, None], masks, 0.0)
    return torch.where(masks.sum(1) > threshold, masks.argmax(1) + 1, 0)


def tight_boxes(masks: Tensor, threshold: float = 0.5) -> Tensor:
    r"""Returns the smallest box around the pixels where a mask exceeds a threshold.

    Args:
        masks: Of shape :math:`(*, H, W)`.
        threshold: The level that a pixel of the object exceeds.

    Returns:
        Boxes :math:`(x_0, y_0, x_1, y_1)` in pixels, half open, so that :math:`x_1 - x_0` is a
        width; zeros where no pixel exceeds the threshold. Of shape :math:`(*, 4)`, with the
        masks' dtype.

    Example:
        >>> mask = torch.zeros(6, 8)
        >>> mask[2:4, 3:7] = 1.0
        >>> tight_boxes(mask)
        tensor([3., 2., 7., 4.])
    """
    inside = masks > threshold
    x0, x1 = _extent(inside.any(-2))
    y0, y1 = _extent(inside.any(-1))
    return torch.stack([x0, y0, x1, y1], -1).to(masks.dtype)


def _extent(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the first index that is inside, and one more than the last; zeros if none is."""
    size = inside.shape[-1]
    index = torch.arange(size, device=inside.device)
    end = torch.where(inside, index + 1, 0).amax(-1)
    # The start of nothing is its end, which is 0.
    start = torch.where(inside, index, size).amin(-1)
    return torch.where(end > 0, start, 0), end
