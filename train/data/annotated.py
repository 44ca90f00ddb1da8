"""Scenes: images of several objects, with their counts, boxes and masks where these are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_models.shapes import Shape
from train.data.labelled import Images
from train.data.reading.archives import counts_of
from train.data.splits import hold_out
from train.data.streaming.loading import batches_of
from train.data.streaming.stored import StoredImages
from train.errors import require

MARGIN = 1.4
"""The side of an image of MNIST, 28 pixels, over that of the box around its digit, 20 pixels."""


@dataclass(frozen=True, eq=False)
class Scenes:
    r"""Images of 0 to :math:`K` objects.

    Attributes:
        images: Pixels, of shape :math:`(M, C, H, W)`, uint8, in memory or stored (see
            :class:`~train.data.streaming.stored.StoredImages`); grey ones in memory may be given as
            :math:`(M, H, W)`.
        counts: The number of objects in each image, of shape :math:`(M)`, int64; None if unknown.
        boxes: The tightest boxes :math:`(x_0, y_0, x_1, y_1)` around the objects, of shape
            :math:`(M, K, 4)`, float32; None if unknown. They are in pixels and half open, so that
            :math:`x_1 - x_0` is a width. The first ``counts`` rows of an image are boxes, the
            others zeros. A box of a digit is around all its ink; one of a drawn object that others
            may hide is around its pixels in ``masks``.
        object_size: The smallest and the largest side of most objects' images, in pixels, with the
            margin that an image of MNIST has around its digit; None if it is not given. See
            :attr:`usual_size`.
        masks: The object that is visible at each pixel, of shape :math:`(M, H, W)`, uint8: 0 for
            the background, :math:`k` for the object in row :math:`k - 1` of ``boxes``; None if
            unknown.
        factors: What is known of scenes and their objects, by name: arrays of shape
            :math:`(M, K, *)`, or :math:`(M, *)` of a whole scene. Rows of absent objects are zeros,
            or empty text. None if nothing is known.

    Raises:
        InputError: If masks are not of that shape and type.
    """

    images: Tensor | StoredImages
    counts: Tensor | None
    boxes: Tensor | None
    object_size: tuple[float, float] | None = field(default=None, compare=False)
    masks: Tensor | None = None
    factors: Mapping[str, np.ndarray] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.images, Tensor) and self.images.ndim == 3:
            object.__setattr__(self, "images", self.images.unsqueeze(1))
        if self.masks is not None:
            expected = (len(self.images), *self.images.shape[2:])
            require(
                tuple(self.masks.shape) == expected and self.masks.dtype == torch.uint8,
                f"masks have shape {tuple(self.masks.shape)} and type {self.masks.dtype}: give the "
                f"index of an object at each pixel, of shape {expected} and type uint8",
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> Shape:
        """Channels, height and width of an image."""
        return Shape(*self.images.shape[1:])

    @property
    def usual_size(self) -> tuple[float, float] | None:
        r"""The smallest and the largest side of most objects' images, in pixels.

        It is ``object_size`` if that is given, or else :data:`MARGIN` times the 5% and the 95%
        quantile of the longer sides of the boxes that are not zeros. None if there are none.

        Example:
            >>> boxes = torch.tensor([[[2.0, 2, 12, 7], [0, 0, 10, 10], [0, 0, 0, 0]]])
            >>> Scenes(torch.zeros(1, 30, 30), torch.tensor([2]), boxes).usual_size
            (14.0, 14.0)
        """
        if self.object_size is not None or self.boxes is None:
            return self.object_size
        longer = (self.boxes[..., 2:] - self.boxes[..., :2]).amax(-1)
        sides = longer[longer > 0].double().numpy()
        if not len(sides):
            return None
        low, high = MARGIN * np.quantile(sides, [0.05, 0.95])
        return float(low), float(high)

    def select(self, index: Tensor | slice) -> Scenes:
        r"""Returns the scenes at ``index``, of shape :math:`(L)`, or in a slice."""
        images = self.images
        rows = index.numpy() if isinstance(index, Tensor) else index
        factors = self.factors
        return Scenes(
            images[index] if isinstance(images, Tensor) else images.select(index),
            None if self.counts is None else self.counts[index],
            None if self.boxes is None else self.boxes[index],
            self.object_size,
            None if self.masks is None else self.masks[index],
            None if factors is None else {name: array[rows] for name, array in factors.items()},
        )

    def as_images(self) -> Images:
        """Returns the images without labels; ``counts`` are a column if they are known."""
        columns = {} if self.counts is None else {"counts": self.counts.numpy()}
        return Images(self.images, None, columns=columns)

    @property
    def max_batch_size(self) -> int:
        """The largest batch that :meth:`batches` can draw."""
        return len(self)

    def batches(
        self, batch_size: int, seed: int, device: torch.device | str
    ) -> Callable[[int], tuple[Tensor, ...]]:
        r"""Returns a function from a step to its batch: a tuple of scenes.

        The scenes are of shape :math:`(B, C, H, W)`, float32, in [0, 1].

        Args:
            batch_size: Scenes in a batch, :math:`B`.
            seed: Seed of the order of the scenes.
            device: Device of the batches.

        Raises:
            InputError: If there are fewer scenes than that.
        """
        return batches_of(self.images, (), batch_size, seed, device)

    def hold_out(self) -> ScenesSplit:
        """Holds out a fixed random fifth, stratified by the counts if they are known."""
        counts = None if self.counts is None else self.counts.numpy()
        indices = hold_out(len(self), counts)
        return ScenesSplit(*(self.select(torch.from_numpy(rows)) for rows in indices))


class ScenesSplit(NamedTuple):
    """Scenes to train on and scenes to evaluate on."""

    train: Scenes
    held_out: Scenes

    @classmethod
    def of(cls, train: Images, held_out: Images) -> ScenesSplit:
        """Makes scenes of images, whose column ``counts``, if they have it, has the counts."""
        counts = [images.columns.get("counts") for images in (train, held_out)]
        return cls(
            *(
                Scenes(
                    images.images,
                    None if of is None else torch.from_numpy(counts_of(of, "the column counts")),
                    None,
                )
                for images, of in zip((train, held_out), counts, strict=True)
            )
        )

    def require_room(self, max_objects: int) -> None:
        """Raises :class:`InputError` if a scene has more than ``max_objects`` objects."""
        counts = [scenes.counts for scenes in self if scenes.counts is not None]
        most = max((int(count.max()) for count in counts), default=0)
        require(
            most <= max_objects,
            f"--max-objects {max_objects} is below the {most} objects of a scene: "
            f"give {most} or more",
        )
