"""A trained AIR: detect, encode, decode, reconstruct, sample."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from guides.air import Detection
from pyro_models.air import Scene
from pyro_models.shapes import Shape
from train.arguments import whole
from train.backgrounds import with_background
from train.data.images import as_images, centred, cropped, without_grey_axis
from train.data.streaming.stored import StoredImages, in_memory
from train.engine.saved import SavedRun
from train.errors import brief, require
from train.explorer.scenes import ScenesView
from train.verbs.base import Array, Codec, Record, TensorFunction, Trained, clipped, opened
from train.windows import on_canvas, scenes_at_once, with_windows

MOST_OBJECTS = 1_000
"""Most objects of a run that can be loaded. The size of the weights does not limit their number, so
a damaged file could make the guide run forever."""


def canvas_of(shape: Any, channels: int) -> Shape:
    """Returns the shape of a canvas, ``(H, W)`` or ``(C, H, W)``, with as many channels.

    Raises:
        InputError: If it is no shape, or has other channels.
    """
    try:
        sides = tuple(operator.index(side) for side in shape)
    except TypeError:
        sides = ()
    require(
        len(sides) in (2, 3) and min(sides) >= 1 and sides[:-2] in ((), (channels,)),
        f"shape is {brief(shape)}: give height and width in pixels, such as (84, 120)",
    )
    return Shape(channels, *sides[-2:])


def coded(detection: Detection) -> Tensor:
    r"""Returns codes of detections, :math:`(M, N (4 + D) + K)`: see :meth:`TrainedAIR.encode`."""
    objects = torch.cat([detection.z_where, detection.z_what], dim=-1)
    steps = torch.arange(objects.shape[1], device=objects.device)
    presence = (steps < detection.counts.unsqueeze(1)).float().unsqueeze(-1)
    codes = (presence * torch.cat([torch.ones_like(presence), objects], dim=-1)).flatten(1)
    return torch.cat([codes, detection.z_background], dim=1)


class TrainedAIR(Trained):
    """A trained AIR, of ``train.air``.

    If a run names a user-defined estimator (``module:Class``), it is not imported, because loading
    must not run code that a file names. Only losses need the estimator: to compute them, import it
    and set ``objective.estimator``.
    """

    view = ScenesView

    def __init__(self, method: Record, saved: SavedRun, device: torch.device) -> None:
        super().__init__(method, saved, device)
        self.batch = scenes_at_once(self.shape, self.settings.max_objects, self.batch)

    def check(self, inputs: Mapping[str, Any]) -> None:
        objects = self.settings.max_objects
        if objects > MOST_OBJECTS:
            raise ValueError(f"max_objects is {objects:,}, more than {MOST_OBJECTS:,}")

    def resized(self, shape: Any = None, max_objects: int | None = None) -> TrainedAIR:
        """Returns the same weights for scenes of another size, or for more objects.

        Objects keep their size in pixels. A baseline is left out, as only training needs it.

        Args:
            shape: Height and width of the scenes, in pixels, after the channels if there are
                several; ``None`` leaves it. The guide has to be ``convolutional``.
            max_objects: The most objects in a scene, from 1; ``None`` leaves it.

        Raises:
            InputError: If the guide or the background has the size of the canvas, or a value is
                out of its range.
        """
        settings = with_windows(with_background(self.settings), self.shape)
        inputs = dict(self.saved.inputs)
        canvas = self.shape if shape is None else canvas_of(shape, self.shape.channels)
        if canvas != self.shape:
            require(
                settings.guide == "convolutional",
                f"scenes of {canvas}: --guide {settings.guide} of this run takes scenes of "
                f"{self.shape} alone: train one with --guide convolutional",
            )
            require(
                self.objective.model.background.on_any_canvas,
                f"scenes of {canvas}: --background {settings.background} of this run is an image "
                f"of {self.shape}: train one with --background image",
            )
            settings = on_canvas(settings, self.shape, canvas)
            inputs |= {"shape": canvas.outside, "square_windows": True}
        most = settings.max_objects if max_objects is None else max_objects
        most = whole("max_objects", most, least=1, most=MOST_OBJECTS)
        settings = replace(settings, max_objects=most, baseline="none")
        weights = {
            name: tensor
            for name, tensor in self.objective.state_dict().items()
            if not name.startswith("guide.baseline.")
        }
        saved = self.saved._replace(settings=asdict(settings), inputs=inputs, weights=weights)
        return type(self)(self.method, saved, self.device)

    def on_canvas_of(self, images: Array) -> TrainedAIR:
        """Returns the model for the size of images: itself, or a resized one."""
        sides = tuple(getattr(images, "shape", ()))
        if self.settings.guide != "convolutional" or self.shape.sides in (sides[-2:], sides[-3:-1]):
            return self
        if isinstance(images, StoredImages):
            shape = images.image_shape
        else:
            shape = Shape(*as_images(images[None] if len(sides) == 2 else images).shape[1:])
        is_other = shape.channels == self.shape.channels and shape != self.shape
        return self.resized(shape) if is_other else self

    @property
    def code_size(self) -> int:
        model = self.objective.model
        return model.max_objects * (4 + model.what_dim) + model.background.size

    def scenes_of(self, images: Array) -> tuple[TrainedAIR, Tensor | StoredImages]:
        """Checks scenes, and returns them with this model on a canvas of their size.

        Raises:
            InputError: See :meth:`detect`.
        """
        images = opened(images)
        model = self.on_canvas_of(images)
        x = model.rows(images)
        require(len(x) > 0, "there are no images: give one or more")
        return model, x

    def detect(self, images: Array) -> Detection:
        """Detects objects in images: see :class:`guides.air.Detection`.

        Reconstructions and backgrounds of grey scenes have no channel axis. With
        ``--guide convolutional`` images may be of any size.

        Raises:
            InputError: If there are no images, or they are of a size that the guide does not
                support.
        """
        model, x = self.scenes_of(images)
        detections = [model.objective.guide.detect(batch) for (batch,) in model.batches(x)]
        if len(detections) == 1:
            return self.public(detections[0])
        return self.public(Detection(*map(torch.cat, zip(*detections, strict=True))))

    def public(self, detection: Detection) -> Detection:
        """Returns a detection whose images have no channel axis if they are grey."""
        return detection._replace(
            reconstruction=without_grey_axis(detection.reconstruction),
            background=without_grey_axis(detection.background),
        )

    def encode(self, images: Array) -> Tensor:
        r"""Encodes scenes: presence (1), position (3) and appearance (D) of each of N objects.

        Entries of absent objects are zeros. The latent of the background follows, K numbers if it
        has one.

        Returns:
            Of shape :math:`(M, N (4 + D) + K)`.
        """
        model, x = self.scenes_of(images)
        return model.in_batches(lambda batch: coded(model.objective.guide.detect(batch)), x)

    def functions(self) -> dict[str, TensorFunction]:
        guide, steps = self.objective.guide, self.settings.max_objects
        codes = {
            "z_where": self.example(steps, 3),
            "z_what": self.example(steps, self.settings.what_dim),
            "counts": self.example().long(),
        }
        size = self.objective.model.background.size
        # z_background comes last, and is left out where it has no numbers.
        found = Detection._fields if size else Detection._fields[:-1]
        if size:
            codes["z_background"] = self.example(size)
        images = {"image": self.example(*self.shape.outside)}

        def detect(images: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.public(guide.detect(self.with_channels(images))))[: len(found)]

        def draw(*codes: Tensor) -> Tensor:
            z_where, z_what, counts, *background = codes
            drawn = self.objective.model.draw(
                z_where, z_what, counts, *map(self.latent_background, background)
            )
            return without_grey_axis(drawn)

        return {
            "encoder": TensorFunction(detect, images, found),
            "decoder": TensorFunction(draw, codes, ("reconstruction",)),
        }

    def latent_background(self, values: Tensor) -> Tensor | None:
        """Returns the background's latent that flattened values (M, K) are; ``None`` if K is 0."""
        shape = self.objective.model.background.latent_shape
        return None if shape is None else values.unflatten(1, shape)

    @clipped
    def decode(self, z: Tensor | ArrayLike) -> Tensor:
        r"""Decodes codes of :meth:`encode` to canvases, in [0, 1].

        Objects with a presence above 1/2 are drawn. At the midpoint of two codes, these are the
        objects that are present in both.
        """

        model = self.objective.model
        sizes = [1, 3, model.what_dim]

        def draw(z: Tensor) -> Tensor:
            objects, background = z.tensor_split((model.max_objects * sum(sizes),), dim=1)
            objects = objects.unflatten(1, (model.max_objects, -1))
            presence, z_where, z_what = objects.split(sizes, dim=-1)
            counts = (presence.squeeze(-1) > 0.5).sum(1)
            return model.draw(z_where, z_what, counts, self.latent_background(background))

        return self.in_batches(draw, self.codes(z))

    def reconstruct(self, images: Array) -> Tensor:
        """Detects objects and draws them; returns canvases in [0, 1]."""
        return self.detect(images).reconstruction.clamp(0, 1)

    def sample(self, n: int, count: int | None = None) -> Scene:
        """Draws scenes from the prior; images and canvas are clipped to [0, 1].

        Grey images and canvases have no channel axis.

        Args:
            n: The number of scenes.
            count: The number of objects in each scene, from 0 to ``max_objects``; ``None`` draws it
                from the prior.
        """
        most = self.settings.max_objects
        count = None if count is None else whole("count", count, least=0, most=most)
        scene = self.objective.model.sample(whole("n", n), count)
        images, canvas = (without_grey_axis(x.clamp(0, 1)) for x in (scene.images, scene.canvas))
        return scene._replace(images=images, canvas=canvas)

    def codec(self, shape: Shape) -> Codec:
        """Returns an encoder of images, each centred in an empty scene, and a decoder that crops.

        Raises:
            InputError: If scenes are smaller than the images, or have other channels.
        """
        require(
            all(scene >= image for scene, image in zip(self.shape, shape, strict=True)),
            f"its scenes are {self.shape}: too small for images of {shape}",
        )
        require(
            self.shape.channels == shape.channels,
            f"its scenes are {self.shape} and the images {shape}: give images of as many channels",
        )
        return Codec(
            lambda images: (
                self.encode(centred(in_memory(images.images), self.shape.sides)).cpu().numpy()
            ),
            lambda z, _: cropped(
                self.with_channels(self.decode(torch.from_numpy(z))), shape.sides
            ).cpu(),
        )
