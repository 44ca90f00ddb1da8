"""Synthetic images of a line from the centre at any angle, whose true code is the angle.

References:
    | Understanding and Improving Interpolation in Autoencoders via an Adversarial Regularizer
      (Berthelot et al., 2018)
    | https://arxiv.org/abs/1807.07543
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from train.data.labelled import Images, Split
from train.errors import require

SIZE = 32
"""Height and width of an image, in pixels."""
WIDTH = 2.0
"""Thickness of a line, in pixels."""
CHUNK = 64
"""Steps whose angles are drawn, and copied to the device, at once."""


def draw(angles: Tensor, size: int = SIZE, width: float = WIDTH) -> Tensor:
    r"""Draws anti-aliased lines from the centre of an image to one pixel from its edge.

    A pixel's grey level approximates the fraction of its area that the line covers, as the product
    of the fractions along and across the line. With :math:`(u, v)` the pixel's centre in the
    coordinate system of the line, :math:`w` the line's thickness, :math:`l` its length and
    :math:`[\cdot]_0^1` clipping to [0, 1], it is

    .. math:: [w / 2 + 1 / 2 - |v|]_0^1 \, [u + 1 / 2]_0^1 \, [l + 1 / 2 - u]_0^1

    Args:
        angles: Counter-clockwise from the positive x axis, in radians, of shape :math:`(*)`.
        size: Height and width :math:`S`, in pixels.
        width: Thickness :math:`w`, in pixels.

    Returns:
        Images in [0, 1], of shape :math:`(*, S, S)`.
    """
    centres = torch.arange(size, device=angles.device) + 0.5 - size / 2
    cosine, sine = (component[..., None, None] for component in (angles.cos(), angles.sin()))
    right, up = centres, -centres[:, None]
    along, across = right * cosine + up * sine, up * cosine - right * sine
    ends = (along + 0.5).clamp(0, 1) * (size / 2 - 0.5 - along).clamp(0, 1)
    return (width / 2 + 0.5 - across.abs()).clamp(0, 1) * ends


def circle(n: int) -> Tensor:
    r"""Returns equally spaced angles in :math:`[0, 2 \pi)`, of shape :math:`(n)`."""
    return 2 * math.pi * torch.arange(n) / n


def sample(n: int = 5_000, seed: int = 0) -> Images:
    """Draws lines at random angles; the same seed gives the same lines."""
    angles = 2 * math.pi * np.random.RandomState(seed).random_sample(n)
    return Images((255 * draw(torch.from_numpy(angles))).round().byte().unsqueeze(1), None)


@dataclass(frozen=True, eq=False)
class EndlessLines(Images):
    """Training lines, new ones in each batch.

    ``images`` are a fixed sample, for what needs all training images, such as their mean.

    Attributes:
        next_seed: Seed of the lines that :meth:`hold_out` returns.
    """

    next_seed: int = field(default=1, compare=False)

    @property
    def max_batch_size(self) -> int:
        """2^31, more than any setting may be, as training lines are endless."""
        return 2**31

    def hold_out(self, one_in: int = 5) -> Split:
        """Returns endless training lines, and 5,000 fixed ones with their own seed.

        Args:
            one_in: Has no effect, as training lines are endless.
        """
        return Split(replace(self, next_seed=self.next_seed + 1), sample(seed=self.next_seed))

    def batches(
        self, batch_size: int, seed: int, device: torch.device | str, *others: Tensor
    ) -> LineBatches:
        r"""Returns a function from a step to its batch of new lines.

        Args:
            batch_size: Lines in a batch, :math:`B`.
            seed: Seed of the angles.
            device: Device of the batches.
            others: None may be given: endless lines have no rows.

        Raises:
            InputError: If other tensors are given.
        """
        require(not others, "--data lines has no labels: choose another data set")
        return LineBatches(batch_size, seed, device)


def split() -> Split:
    """Returns endless training lines, and 5,000 held-out ones."""
    held_out = sample()
    # The mean image of other lines would be the same one, but for noise.
    return Split(EndlessLines(held_out.images, None), held_out)


class LineBatches:
    r"""Mini-batches of new lines, each determined by the seed and the step alone.

    Angles are drawn on the CPU, for many steps at once, and lines on the device.

    Args:
        batch_size: Lines in a batch, :math:`B`.
        seed: Seed of the angles, :math:`\ge 0`.
        device: Device of the batches.

    Raises:
        InputError: If a batch is empty.

    Example:
        >>> LineBatches(4, seed=0)(step=7)[0].shape
        torch.Size([4, 1, 32, 32])
    """

    def __init__(self, batch_size: int, seed: int = 0, device: torch.device | str = "cpu") -> None:
        require(batch_size >= 1, f"--batch-size is {batch_size}: give 1 or more")
        self.batch_size = batch_size
        self.seed = seed
        self.device = device
        self._chunk: int | None = None
        self._angles = torch.empty(0)

    def __call__(self, step: int) -> tuple[Tensor]:
        r"""Returns the batch of a step, counted from 0: lines :math:`(B, 1, 32, 32)` in [0, 1]."""
        chunk, position = divmod(step, CHUNK)
        if chunk != self._chunk:
            random = np.random.default_rng([self.seed, chunk])
            angles = 2 * math.pi * random.random((CHUNK, self.batch_size), dtype=np.float32)
            self._angles = torch.from_numpy(angles).to(self.device)
            self._chunk = chunk
        return (draw(self._angles[position]).unsqueeze(1),)
