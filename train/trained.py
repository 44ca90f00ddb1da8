"""Trained models put to use: :func:`load`, and what each of them can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from guides.air import Detection
from pyro_models.air import Scene
from train import abc, acai, ae, air, icvae, losses
from train.data.batches import as_input
from train.data.conditions import Condition
from train.data.digits import Frame
from train.data.images import as_images
from train.metrics.interpolation import interpolate, mixes
from train.objective import Objective
from train.runs import Learnt, read_run
from train.settings import InputError, Settings, first_line, require, restore

Array = Any
"""Images of shape :math:`(M, H, W)`, or one of :math:`(H, W)`, for which the answer is a batch of
one: arrays, tensors, PIL images or lists, as :func:`train.data.images.as_images` takes them."""

Labels = Any
"""Labels as the data of the run have them, one for each image or one for all: whole numbers or text
for classes, or quantities, of shape :math:`(M)` or :math:`(M, K)`."""

Part = tuple[Callable[..., Any], tuple[Tensor, ...]]
"""A function of tensors, and examples of them."""


def clipped(verb: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Cuts off at 0 and 1 what a verb draws.

    Means of Normal pixels, and sums of objects, need not be images; what is given back can be given
    to any verb again.
    """

    @wraps(verb)
    def drawn(self: Trained, *args: Any, **options: Any) -> Tensor:
        return verb(self, *args, **options).clamp(0, 1)

    return drawn


class Trained:
    """A trained method, in evaluation mode: :func:`load` makes it.

    What is given back is on its device, without gradients; images are in [0, 1].

    Args:
        learnt: What a run has learnt.
        device: Where to put it.

    Attributes:
        settings: The run's.
        objective: The networks; in Pyro, ``objective.model`` and ``objective.guide``.
        shape: The height and width of its images.
    """

    door: ClassVar[tuple[type[Settings], Callable[..., Objective]]]
    """The method's settings, and what builds its objective."""
    batch = 1_000
    """How many images are looked at together."""

    def __init__(self, learnt: Learnt, device: torch.device) -> None:
        self.learnt = learnt._replace(weights={})
        self.settings: Any = restore(self.door[0], learnt.settings)
        self.shape = tuple(learnt.inputs["shape"])
        self.objective: Any = self.build(learnt.inputs)
        self.objective.load_state_dict(learnt.weights)
        self.objective.to(device).eval()

    def __reduce__(self) -> tuple[Any, ...]:
        # As a run folder has it, and not as modules, which are of this version of the code alone.
        weights = {name: each.cpu() for name, each in self.objective.state_dict().items()}
        return type(self), (self.learnt._replace(weights=weights), torch.device("cpu"))

    def build(self, inputs: Mapping[str, Any]) -> Objective:
        """The networks, from what ``config.json`` says of the data."""
        return self.door[1](self.settings, self.shape)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.objective.parameters()).device

    def encode(self, images: Array) -> Tensor:
        r"""A code for each image, of shape :math:`(M, D)`."""
        raise NotImplementedError

    def parts(self) -> dict[str, Part]:
        """Encoder and, where there is one, decoder, as functions of tensors for export."""
        raise NotImplementedError

    def blank(self, *shape: int) -> Tensor:
        """An example of an input."""
        return torch.zeros(2, *shape, device=self.device)

    def inputs(self, images: Array) -> Tensor:
        r"""Images as networks take them: :math:`(M, H, W)`, numbers in [0, 1], on the device.

        What is done with them, beyond what they say themselves, is a warning.

        Raises:
            InputError: If they are of another shape, type or range; see
                :func:`train.data.images.as_images`.
        """
        return as_input(as_images(images, self.shape).to(self.device))

    def each(self, function: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """What a function makes of the rows of tensors, some at a time, without gradients."""
        with torch.no_grad():
            parts = zip(*(each.split(self.batch) for each in rows), strict=True)
            return torch.cat([function(*part) for part in parts])


class TrainedAutoencoder(Trained):
    """An autoencoder: ``train.ae``."""

    door = (ae.AESettings, ae.build)

    def encode(self, images: Array) -> Tensor:
        return self.each(self.objective.autoencoder.encode, self.inputs(images))

    def parts(self) -> dict[str, Part]:
        autoencoder = self.objective.autoencoder
        return {
            "encoder": (autoencoder.encode, (self.blank(*self.shape),)),
            "decoder": (autoencoder.decode, (self.blank(self.settings.z_dim),)),
        }

    @clipped
    def decode(self, z: Tensor) -> Tensor:
        r"""Images of codes: :math:`(M, D)` to :math:`(M, H, W)`, in [0, 1]."""
        return self.each(self.objective.autoencoder.decode, z.to(self.device))

    @clipped
    def reconstruct(self, images: Array) -> Tensor:
        """What is left of images after the way through the code; of their shape."""
        return self.each(self.objective.autoencoder, self.inputs(images))

    @clipped
    def interpolate(self, one: Array, other: Array, n: int = 11) -> Tensor:
        r"""Images on the straight line from code to code: :math:`(M, n, H, W)`, both ends too."""
        return self.each(
            lambda *ends: interpolate(self.objective.autoencoder, *ends, n),
            *(self.inputs(images) for images in (one, other)),
        )


class TrainedACAI(TrainedAutoencoder):
    """ACAI's autoencoder, or the one without a critic: ``train.acai``.

    Images have the frame that the networks' halvings need added, and taken off again.
    """

    door = (acai.ACAISettings, acai.build)

    def build(self, inputs: Mapping[str, Any]) -> Objective:
        objective = super().build(inputs)
        self.frame = Frame(*inputs["frame"])
        self.shape = tuple(s - f for s, f in zip(self.shape, self.frame, strict=True))
        return objective

    def parts(self) -> dict[str, Part]:
        autoencoder = self.objective.autoencoder
        (_, images), (_, z) = super().parts().values()
        return {
            "encoder": (lambda x: autoencoder.encode(self.frame.around(x)), images),
            "decoder": (lambda z: self.frame.inside(autoencoder.decode(z)), z),
        }

    def inputs(self, images: Array) -> Tensor:
        return self.frame.around(super().inputs(images))

    def decode(self, z: Tensor) -> Tensor:
        return self.frame.inside(super().decode(z))

    def reconstruct(self, images: Array) -> Tensor:
        return self.frame.inside(super().reconstruct(images))

    def interpolate(self, one: Array, other: Array, n: int = 11) -> Tensor:
        return self.frame.inside(super().interpolate(one, other, n))


class TrainedABC(Trained):
    """An embedder of style: ``train.abc``."""

    door = (abc.ABCSettings, abc.build)

    def encode(self, images: Array) -> Tensor:
        return self.each(self.objective.embedder, self.inputs(images))

    def parts(self) -> dict[str, Part]:
        return {"encoder": (self.objective.embedder, (self.blank(*self.shape),))}

    def retrieve(self, query: Array, gallery: Array, k: int = 1) -> Tensor:
        r"""The images of a gallery that are most alike in style, the nearest first.

        Args:
            query: Images, :math:`M` of them.
            gallery: Images to choose from.
            k: How many for each.

        Returns:
            Their places in the gallery, of shape :math:`(M, k)`.
        """
        there = self.encode(gallery)
        require(1 <= k <= len(there), f"k is {k}: the gallery has {len(there)} images")
        kind = self.settings.similarity

        def nearest(codes: Tensor) -> Tensor:
            return losses.similarity(codes, there, kind).topk(k, dim=-1).indices

        return torch.cat([nearest(part) for part in self.encode(query).split(100)])


class TrainedICVAE(Trained):
    r"""A conditional autoencoder: ``train.icvae``.

    Labels are as the run's data have them: see :data:`Labels`. Codes are the encoder's means.
    """

    door = (icvae.ICVAESettings, icvae.build)

    def build(self, inputs: Mapping[str, Any]) -> Objective:
        self.condition = Condition.restored(inputs["condition"])
        return self.door[1](self.settings, self.shape, self.condition)

    def told(self, labels: Labels | None, n: int) -> Tensor:
        r"""What the model is told of labels, of shape :math:`(n, C)`.

        Raises:
            InputError: If labels are missing, or not as many, or of a class that was never seen.
        """
        if self.settings.condition == "none":
            return torch.zeros(n, 0, device=self.device)
        require(labels is not None, "labels are missing: this model's codes need them to decode")
        return self.condition.of_labels(labels, n).to(self.device)

    def parts(self) -> dict[str, Part]:
        model, guide = self.objective.model, self.objective.guide
        z, c = self.blank(self.settings.z_dim), self.blank(model.c_dim)
        return {
            # What the encoder says of an image: mean and log-variance, or Echo's signal and gain.
            "encoder": (guide.encode, (self.blank(*self.shape), c)),
            "decoder": (model.decode, (z, c)),
        }

    def encode(self, images: Array, labels: Labels | None = None) -> Tensor:
        """Codes; labels are wanted only if the encoder was trained with them."""
        x = self.inputs(images)
        blind = not self.settings.encoder_sees_labels
        c = torch.zeros(len(x), 0, device=self.device) if blind else self.told(labels, len(x))
        return self.each(self.objective.guide.mean, x, c)

    @clipped
    def decode(self, z: Tensor, labels: Labels | None = None) -> Tensor:
        r"""Images of codes under labels, of shape :math:`(M, H, W)`."""
        return self.each(self.objective.model.decode, z.to(self.device), self.told(labels, len(z)))

    @clipped
    def reconstruct(self, images: Array, labels: Labels | None = None) -> Tensor:
        """What is left of images after the way through the code; of their shape."""
        return self.decode(self.encode(images, labels), labels)

    def transfer(self, images: Array, c: Labels, labels: Labels | None = None) -> Tensor:
        """Images as they would be under other labels ``c``, their codes as they are."""
        return self.decode(self.encode(images, labels), c)

    @clipped
    def interpolate(
        self, one: Array, other: Array, n: int = 11, labels: Labels | None = None
    ) -> Tensor:
        r"""Images on the line from code to code, under one label a pair: :math:`(M, n, H, W)`."""
        z = mixes(self.encode(one, labels), self.encode(other, labels), n)
        told = self.told(labels, len(z)).unsqueeze(1).expand(-1, n, -1)
        return self.each(
            self.objective.model.decode, z.flatten(0, 1), told.flatten(0, 1)
        ).unflatten(0, (len(z), n))

    @clipped
    def sample(self, n: int, labels: Labels | None = None) -> Tensor:
        r"""Mean images of codes from the prior, of shape :math:`(n, H, W)`."""
        return self.each(self.objective.model.sample, self.told(labels, n))


class TrainedAIR(Trained):
    """AIR: ``train.air``."""

    door = (air.AIRSettings, air.build)

    def detect(self, images: Array) -> Detection:
        """Counts, probabilities, boxes, places and codes of the objects in scenes."""
        parts = [
            self.objective.guide.detect(part) for part in self.inputs(images).split(self.batch)
        ]
        return Detection(*(torch.cat(each) for each in zip(*parts, strict=True)))

    def encode(self, images: Array) -> Tensor:
        r"""For each object whether it is there, its place and its code: :math:`(M, N (4 + D))`.

        Those of an object that is not there are zeros.
        """
        found = self.detect(images)
        steps = torch.arange(self.settings.max_objects, device=self.device)
        there = (steps < found.counts.unsqueeze(1)).float().unsqueeze(-1)
        parts = [torch.ones_like(there), found.z_where, found.z_what]
        return (there * torch.cat(parts, dim=-1)).flatten(1)

    def parts(self) -> dict[str, Part]:
        guide, steps = self.objective.guide, self.settings.max_objects
        codes = (self.blank(steps, 3), self.blank(steps, self.settings.what_dim))
        return {
            "encoder": (lambda x: tuple(guide.detect(x)), (self.blank(*self.shape),)),
            "decoder": (self.objective.model.draw, (*codes, self.blank().long())),
        }

    @clipped
    def decode(self, z: Tensor) -> Tensor:
        r"""Canvases of what :meth:`encode` gives: :math:`(M, H, W)`, in [0, 1].

        Halfway between two codes an object is there that is in both.
        """

        def drawn(z: Tensor) -> Tensor:
            there, z_where, z_what = z.split([1, 3, self.settings.what_dim], dim=-1)
            counts = (there.squeeze(-1) > 0.5).sum(1)
            return self.objective.model.draw(z_where, z_what, counts)

        return self.each(drawn, z.to(self.device).unflatten(1, (self.settings.max_objects, -1)))

    @clipped
    def reconstruct(self, images: Array) -> Tensor:
        """The objects found, on a canvas of the images' shape."""
        return self.detect(images).reconstruction

    def sample(self, n: int, count: int | None = None) -> Scene:
        """Scenes from the prior, of a number of objects if given; images and canvas in [0, 1]."""
        scene = self.objective.model.sample(n, count)
        return scene._replace(images=scene.images.clamp(0, 1), canvas=scene.canvas.clamp(0, 1))


METHODS: dict[str, type[Trained]] = {
    "ae": TrainedAutoencoder,
    "acai": TrainedACAI,
    "abc": TrainedABC,
    "icvae": TrainedICVAE,
    "air": TrainedAIR,
}
"""What :func:`load` gives for each method."""


def load(run_dir: str | Path, device: str | torch.device = "cpu") -> Any:
    """What a run has learnt, ready to be used: from its safetensors and ``config.json`` alone.

    Args:
        run_dir: The run folder.
        device: Where to put it.

    Returns:
        One of :data:`METHODS`.

    Raises:
        InputError: If there is no run, or it is damaged, or has no weights yet.

    So ``load("runs/my-acai").interpolate(images[:5], images[5:10], n=7)`` are images of shape
    (5, 7, 28, 28).
    """
    learnt = read_run(Path(run_dir))
    require(
        learnt.method in METHODS,
        f"{run_dir} holds a run of {learnt.method}, which cannot be loaded: give one of "
        f"{', '.join(METHODS)}",
    )
    require(
        "shape" in learnt.inputs,
        f"{run_dir}: its config.json, of an earlier version, has no inputs: train it anew",
    )
    kind = METHODS[learnt.method]
    try:
        # Weights are drawn before they are replaced, and others' draws are not to change by that.
        with torch.random.fork_rng(devices=[]):
            return kind(learnt, torch.device(device))
    # What PyTorch, or Python, says of weights and inputs that do not fit the settings.
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{run_dir} is damaged ({first_line(error)}): give another run") from error
