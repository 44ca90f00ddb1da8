"""What a trained AIR can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from guides.air import Detection
from pyro_models.air import Scene
from pyro_models.shapes import Shape
from train.arguments import whole
from train.data.images import centred, cropped
from train.errors import require
from train.verbs.base import Array, Codec, TensorFunction, Trained, clipped

MOST_OBJECTS = 1_000
"""The most objects of a run that is loaded: its weights do not bound the steps of its guide."""


class TrainedAIR(Trained):
    """AIR: ``train.air``.

    A run may name an estimator of one's own (``module:Class``). It is not imported, since no file
    may run code. Only a loss needs it: import it yourself, and set ``objective.estimator``.
    """

    def check(self, inputs: Mapping[str, Any]) -> None:
        objects = self.settings.max_objects
        if objects > MOST_OBJECTS:
            raise ValueError(f"max_objects is {objects:,}, more than {MOST_OBJECTS:,}")

    @property
    def code_size(self) -> int:
        return self.settings.max_objects * (4 + self.settings.what_dim)

    def detect(self, images: Array) -> Detection:
        """Detects objects: counts, probabilities, boxes, places, codes and reconstructions."""
        x = self.inputs(images)
        require(len(x) > 0, "there are no images: give one or more")
        batches = [self.objective.guide.detect(batch) for batch in x.split(self.batch)]
        return Detection(*(torch.cat(fields) for fields in zip(*batches, strict=True)))

    def encode(self, images: Array) -> Tensor:
        r"""Encodes scenes: presence, place and code of each object, :math:`(M, N (4 + D))`.

        Those of an absent object are zeros.
        """
        detection = self.detect(images)
        steps = torch.arange(self.settings.max_objects, device=self.device)
        presence = (steps < detection.counts.unsqueeze(1)).float().unsqueeze(-1)
        values = [torch.ones_like(presence), detection.z_where, detection.z_what]
        return (presence * torch.cat(values, dim=-1)).flatten(1)

    def functions(self) -> dict[str, TensorFunction]:
        guide, steps = self.objective.guide, self.settings.max_objects
        codes = {
            "z_where": self.example(steps, 3),
            "z_what": self.example(steps, self.settings.what_dim),
            "counts": self.example().long(),
        }
        images = {"image": self.example(*self.shape)}
        return {
            "encoder": TensorFunction(lambda x: tuple(guide.detect(x)), images, Detection._fields),
            "decoder": TensorFunction(self.objective.model.draw, codes, ("reconstruction",)),
        }

    @clipped
    def decode(self, z: Tensor | ArrayLike) -> Tensor:
        r"""Decodes what :meth:`encode` returns to canvases: :math:`(M, H, W)`, in [0, 1].

        An object is drawn where its presence is above 1/2. Halfway between two codes these are the
        objects that both have.
        """

        def draw(z: Tensor) -> Tensor:
            presence, z_where, z_what = z.split([1, 3, self.settings.what_dim], dim=-1)
            counts = (presence.squeeze(-1) > 0.5).sum(1)
            return self.objective.model.draw(z_where, z_what, counts)

        return self.in_batches(draw, self.codes(z).unflatten(1, (self.settings.max_objects, -1)))

    @clipped
    def reconstruct(self, images: Array) -> Tensor:
        """Draws the detected objects on a canvas of the images' shape."""
        return self.detect(images).reconstruction

    def sample(self, n: int, count: int | None = None) -> Scene:
        """Draws scenes from the prior; images and canvas are in [0, 1].

        Args:
            n: How many.
            count: The number of objects in each, from 0 to ``max_objects``; without one it is
                drawn from the prior.
        """
        most = self.settings.max_objects
        count = None if count is None else whole("count", count, least=0, most=most)
        scene = self.objective.model.sample(whole("n", n), count)
        return scene._replace(images=scene.images.clamp(0, 1), canvas=scene.canvas.clamp(0, 1))

    def codec(self, shape: Shape) -> Codec:
        """Encodes and decodes images, each alone in the middle of an empty scene."""
        require(
            all(scene >= image for scene, image in zip(self.shape, shape, strict=True)),
            f"its scenes are {self.shape}: too small for images of {shape}",
        )
        return Codec(
            lambda images: self.encode(centred(images.images, self.shape)).cpu().numpy(),
            lambda z, _: cropped(self.decode(torch.from_numpy(z)), shape).cpu(),
        )
