"""Lines from the middle of an image at any angle: data whose true code is known."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from train.data.labelled import Images

SIZE = 32
"""Height and width of an image of a line."""
WIDTH = 2.0
"""How thick lines are, in pixels."""
CHUNK = 64
"""Steps whose angles are drawn, and moved to the device, at once."""


def draw(angles: Tensor, size: int = SIZE, width: float = WIDTH) -> Tensor:
    r"""Draws lines from the middle of an image to a pixel from its edge.

    A pixel's grey is the share of it that the line covers, along and across taken apart: with
    :math:`(u, v)` a pixel's centre in the line's own axes, :math:`w` its thickness and :math:`l`
    its length,

    .. math:: [w / 2 + 1 / 2 - |v|]_0^1 \, [u + 1 / 2]_0^1 \, [l + 1 / 2 - u]_0^1

    Args:
        angles: Counter-clockwise from the right, in radians, of shape :math:`(*)`.
        size: Height and width :math:`S` in pixels.
        width: :math:`w`, in pixels.

    Returns:
        Images, of shape :math:`(*, S, S)`, in [0, 1].
    """
    centres = torch.arange(size, device=angles.device) + 0.5 - size / 2
    cosine, sine = (each[..., None, None] for each in (angles.cos(), angles.sin()))
    right, up = centres, -centres[:, None]
    along, across = right * cosine + up * sine, up * cosine - right * sine
    ends = (along + 0.5).clamp(0, 1) * (size / 2 - 0.5 - along).clamp(0, 1)
    return (width / 2 + 0.5 - across.abs()).clamp(0, 1) * ends


def circle(n: int) -> Tensor:
    r"""Angles all the way round at equal distances, of shape :math:`(n)`."""
    return 2 * math.pi * torch.arange(n) / n


def held_out(n: int = 5_000) -> Images:
    """Lines at random angles, always the same ones."""
    angles = 2 * math.pi * np.random.RandomState(0).random_sample(n)
    return Images((255 * draw(torch.from_numpy(angles))).round().byte(), None)


class Lines:
    r"""Mini-batches of new lines as a function of the seed and the step alone.

    Angles are drawn on the CPU, many steps at once, and lines on the device.

    Args:
        batch_size: Lines in a batch, :math:`B`.
        seed: Seed of the angles, :math:`\ge 0`.
        device: Where the batches are wanted.

    Example:
        >>> Lines(4, seed=0)(step=7)[0].shape
        torch.Size([4, 32, 32])
    """

    def __init__(self, batch_size: int, seed: int = 0, device: torch.device | str = "cpu") -> None:
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self._chunk: int | None = None
        self._angles = torch.empty(0)

    def __call__(self, step: int) -> tuple[Tensor]:
        r"""The batch of a step, counted from 0: :math:`(B, 32, 32)`, in [0, 1]."""
        chunk, position = divmod(step, CHUNK)
        if chunk != self._chunk:
            random = np.random.default_rng([self.seed, chunk])
            angles = 2 * math.pi * random.random((CHUNK, self.batch_size), dtype=np.float32)
            self._angles = torch.from_numpy(angles).to(self.device)
            self._chunk = chunk
        return (draw(self._angles[position]),)
