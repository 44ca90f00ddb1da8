"""Trained autoencoders, plain or of ACAI: encode, decode, reconstruct, interpolate."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from train.arguments import require_pairs, whole
from train.data.images import without_grey_axis
from train.engine.saved import SavedRun
from train.explorer.codes import CodesView
from train.metrics.interpolation import interpolate
from train.verbs.base import Array, Record, TensorFunction, Trained, clipped


class TrainedAutoencoder(Trained):
    """A trained method whose objective has an autoencoder as ``objective.autoencoder``."""

    view = CodesView

    CONVOLUTIONS_AT_ONCE = 250
    """Images at once for convolutional networks: feature maps of more are not in the cache."""

    def __init__(self, method: Record, saved: SavedRun, device: torch.device) -> None:
        super().__init__(method, saved, device)
        if any(isinstance(layer, nn.Conv2d) for layer in self.objective.autoencoder.modules()):
            self.batch = self.CONVOLUTIONS_AT_ONCE

    def encode(self, images: Array) -> Tensor:
        return self.in_batches(self.objective.autoencoder.encode, self.rows(images))

    def functions(self) -> dict[str, TensorFunction]:
        autoencoder = self.objective.autoencoder
        images, z = self.example(*self.shape.outside), self.example(self.code_size)
        return {
            "encoder": TensorFunction(
                lambda x: autoencoder.encode(self.with_channels(x)), {"image": images}, ("z",)
            ),
            "decoder": TensorFunction(
                lambda z: without_grey_axis(autoencoder.decode(z)), {"z": z}, ("reconstruction",)
            ),
        }

    @clipped
    def decode(self, z: Tensor | ArrayLike) -> Tensor:
        r"""Decodes codes: :math:`(M, D)` to images, in [0, 1]."""
        return self.in_batches(self.objective.autoencoder.decode, self.codes(z))

    @clipped
    def reconstruct(self, images: Array) -> Tensor:
        """Encodes images and decodes their codes; returns images in [0, 1]."""
        return self.in_batches(self.objective.autoencoder, self.rows(images))

    @clipped
    def interpolate(self, one: Array, other: Array, n: int = 11) -> Tensor:
        r"""Decodes equidistant points on the straight line between the codes of two images.

        Args:
            one: :math:`M` images to begin at.
            other: :math:`M` images to end at.
            n: The number of points, including both ends; 2 or more.

        Returns:
            Images, of shape :math:`(M, n, H, W)` or, in colour, :math:`(M, n, C, H, W)`, in [0, 1].

        Raises:
            InputError: If the numbers of images differ, or ``n`` is not valid.
        """
        n = whole("n", n, least=2)
        one, other = self.rows(one), self.rows(other)
        require_pairs(one, other)

        def between(one: Tensor, other: Tensor) -> Tensor:
            return interpolate(self.objective.autoencoder, one, other, n)

        return self.in_batches(between, one, other)
