"""Trained models put to use: :func:`load`, and what each of them can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from guides.air import Detection
from pyro_models.air import Scene
from train import abc, acai, ae, air, icvae, losses
from train.arguments import as_codes, require_pairs, whole
from train.data.batches import as_input
from train.data.conditions import Condition
from train.data.digits import Frame
from train.data.images import as_images
from train.engine import disk, runtime
from train.engine.outline import weightless
from train.engine.runs import SavedRun, read_config, read_weights
from train.errors import InputError, brief, first_line, require
from train.estimators import restored
from train.metrics.interpolation import interpolate, mixes
from train.objective import Objective
from train.settings import LARGEST, Settings, flags_to_arguments, restore

Array = Any
"""Images of shape :math:`(M, H, W)`, or one of :math:`(H, W)`, for which the answer is a batch of
one: arrays, tensors, PIL images or lists, as :func:`train.data.images.as_images` takes them."""

Labels = Any
"""Labels as the data of the run have them, one for each image or one for all: whole numbers or text
for classes, or quantities, of shape :math:`(M)` or :math:`(M, K)`."""

LARGEST_SIDE = 2**16
"""Images of a run have fewer pixels on each side."""
MOST_OBJECTS = 1_000
"""A run of AIR finds no more objects: no weight would tell how many steps its guide takes."""


class Part(NamedTuple):
    """A function of tensors that can be exported.

    Attributes:
        function: The function.
        inputs: Examples of what it takes, by name, in order.
        outputs: The names of what it gives, in order.
    """

    function: Callable[..., Any]
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]


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
        learnt: What a run has saved.
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

    def __init__(self, saved: SavedRun, device: torch.device) -> None:
        self.saved = saved._replace(weights={})
        self.settings: Any = restore(self.door[0], saved.settings)
        self.shape = _sides("shape", saved.inputs["shape"], least=1)
        # Weights are drawn before they are replaced, and others' draws are not to change by that.
        with torch.random.fork_rng(devices=[]):
            self.objective: Any = self.build(saved.inputs)
        # There are none where a network's shapes are all that is wanted.
        if saved.weights:
            self.objective.load_state_dict(saved.weights)
        self.objective.to(device).eval()

    def __reduce__(self) -> tuple[Any, ...]:
        # As a run folder has it, and not as modules, which are of this version of the code alone.
        weights = {name: each.cpu() for name, each in self.objective.state_dict().items()}
        return type(self), (self.saved._replace(weights=weights), torch.device("cpu"))

    def build(self, inputs: Mapping[str, Any]) -> Objective:
        """The networks, from what ``config.json`` says of the data."""
        return self.door[1](self.settings, self.shape)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.objective.parameters()).device

    def to(self, device: str | torch.device) -> Trained:
        """Moves it to a device, and returns it.

        Raises:
            InputError: If there is no such device.
        """
        self.objective.to(named_device(device))
        return self

    @property
    def code_size(self) -> int:
        """The size :math:`D` of a code."""
        return self.settings.z_dim

    def codes(self, z: Tensor | ArrayLike) -> Tensor:
        r"""Codes as networks take them: see :func:`train.arguments.as_codes`."""
        return as_codes(z, self.code_size, self.device)

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
        # Equal parts: a last one of a few images would be too small for Echo's noise.
        number = max(1, len(rows[0]) // self.batch)
        with torch.no_grad():
            parts = zip(*(each.tensor_split(number) for each in rows), strict=True)
            return torch.cat([function(*part) for part in parts])


class TrainedAutoencoder(Trained):
    """An autoencoder: ``train.ae``."""

    door = (ae.AESettings, ae.build)

    def encode(self, images: Array) -> Tensor:
        return self.each(self.objective.autoencoder.encode, self.inputs(images))

    def parts(self) -> dict[str, Part]:
        autoencoder = self.objective.autoencoder
        images, z = self.blank(*self.shape), self.blank(self.settings.z_dim)
        return {
            "encoder": Part(autoencoder.encode, {"image": images}, ("z",)),
            "decoder": Part(autoencoder.decode, {"z": z}, ("reconstruction",)),
        }

    @clipped
    def decode(self, z: Tensor | ArrayLike) -> Tensor:
        r"""Images of codes: :math:`(M, D)` to :math:`(M, H, W)`, in [0, 1]."""
        return self.each(self.objective.autoencoder.decode, self.codes(z))

    @clipped
    def reconstruct(self, images: Array) -> Tensor:
        """What is left of images after the way through the code; of their shape."""
        return self.each(self.objective.autoencoder, self.inputs(images))

    @clipped
    def interpolate(self, one: Array, other: Array, n: int = 11) -> Tensor:
        r"""Images on the straight line from code to code: :math:`(M, n, H, W)`, both ends too."""
        n = whole("n", n, least=2)
        ends = [self.inputs(images) for images in (one, other)]
        require_pairs(*ends)
        return self.each(lambda *ends: interpolate(self.objective.autoencoder, *ends, n), *ends)


class TrainedACAI(TrainedAutoencoder):
    """ACAI's autoencoder, or the one without a critic: ``train.acai``.

    Images have the frame that the networks' halvings need added, and taken off again.
    """

    door = (acai.ACAISettings, acai.build)

    def build(self, inputs: Mapping[str, Any]) -> Objective:
        objective = super().build(inputs)
        self.frame = Frame(*_sides("frame", inputs["frame"], least=0))
        if any(s <= f for s, f in zip(self.shape, self.frame, strict=True)):
            raise ValueError(f"'frame' leaves nothing of images of {self.shape}")
        self.shape = tuple(s - f for s, f in zip(self.shape, self.frame, strict=True))
        return objective

    def parts(self) -> dict[str, Part]:
        encoder, decoder = super().parts().values()
        encode, decode = encoder.function, decoder.function
        return {
            "encoder": encoder._replace(function=lambda x: encode(self.frame.around(x))),
            "decoder": decoder._replace(function=lambda z: self.frame.inside(decode(z))),
        }

    def inputs(self, images: Array) -> Tensor:
        return self.frame.around(super().inputs(images))

    def decode(self, z: Tensor | ArrayLike) -> Tensor:
        return self.frame.inside(super().decode(z))

    def reconstruct(self, images: Array) -> Tensor:
        return self.frame.inside(super().reconstruct(images))

    def interpolate(self, one: Array, other: Array, n: int = 11) -> Tensor:
        return self.frame.inside(super().interpolate(one, other, n))


class TrainedABC(Trained):
    """An embedder of style: ``train.abc``."""

    door = (abc.ABCSettings, abc.build)

    @property
    def code_size(self) -> int:
        return self.settings.embed_dim

    def encode(self, images: Array) -> Tensor:
        return self.each(self.objective.embedder, self.inputs(images))

    def parts(self) -> dict[str, Part]:
        images = {"image": self.blank(*self.shape)}
        return {"encoder": Part(self.objective.embedder, images, ("z",))}

    def retrieve(self, query: Array, gallery: Array, k: int = 1) -> Tensor:
        r"""The images of a gallery that are most alike in style, the nearest first.

        Args:
            query: Images, :math:`M` of them.
            gallery: Images to choose from.
            k: How many for each, as many as the gallery has at most.

        Returns:
            Their places in the gallery, of shape :math:`(M, k)`.
        """
        there = self.encode(gallery)
        require(len(there) > 0, "the gallery is empty: give images to choose from")
        k = whole("k", k)
        require(k <= len(there), f"k is {k}: the gallery has {len(there)} images")
        kind = self.settings.similarity

        def nearest(codes: Tensor) -> Tensor:
            return losses.similarity(codes, there, kind).topk(k, dim=-1).indices

        return torch.cat([nearest(part) for part in self.encode(query).split(100)])


class TrainedICVAE(Trained):
    r"""A conditional autoencoder: ``train.icvae``.

    Labels are as the run's data have them: see :data:`Labels`.

    What training keeps labels out of is *sampled* codes. :meth:`encode` gives their means unless it
    is told otherwise, and from means more can be read: ``leakage`` and ``leakage_mean`` in
    ``results.json`` say how much. ``encode(images, sample=True)`` gives sampled codes.

    With ``invariance`` ``echo`` the noise of a code is made of other images of those that are
    encoded together, so there must be more of them than ``echo_terms``; it is drawn anew each time,
    for the mean as well.
    """

    door = (icvae.ICVAESettings, icvae.build)

    def build(self, inputs: Mapping[str, Any]) -> Objective:
        if self.echo:
            self.batch = max(self.batch, self.settings.echo_terms + 1)
        self.condition = Condition.restored(_sound(inputs["condition"]))
        return self.door[1](self.settings, self.shape, self.condition)

    @property
    def echo(self) -> bool:
        """Whether its codes have Echo noise, and no prior."""
        return self.settings.invariance == "echo"

    def told(self, labels: Labels | None, n: int) -> Tensor:
        r"""What the model is told of labels, of shape :math:`(n, C)`.

        Raises:
            InputError: If labels are missing, or not as many, or of a class that was never seen.
        """
        if self.settings.condition == "none":
            require(labels is None, "this model knows of no labels (condition none): give none")
            return torch.zeros(n, 0, device=self.device)
        require(labels is not None, "labels are missing: this model's codes need them to decode")
        return self.condition.of_labels(labels, n).to(self.device)

    def parts(self) -> dict[str, Part]:
        model, guide = self.objective.model, self.objective.guide
        label = {"label": self.blank(model.c_dim)} if model.c_dim else {}
        seen = label if self.settings.encoder_sees_labels else {}

        def told(rows: Tensor, given: tuple[Tensor, ...]) -> Tensor:
            return given[0] if given else rows.new_zeros(rows.shape[0], 0)

        echo = self.settings.invariance == "echo"
        return {
            "encoder": Part(
                lambda x, *c: guide.encode(x, told(x, c)),
                {"image": self.blank(*self.shape)} | seen,
                ("signal", "gain") if echo else ("mean", "log_variance"),
            ),
            "decoder": Part(
                lambda z, *c: model.decode(z, told(z, c)),
                {"z": self.blank(self.settings.z_dim)} | label,
                ("reconstruction",),
            ),
        }

    def encode(
        self,
        images: Array,
        labels: Labels | None = None,
        *,
        sample: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        r"""A code for each image, of shape :math:`(M, D)`.

        Args:
            images: Images.
            labels: Theirs; wanted only if the encoder was trained with them.
            sample: Whether to draw codes, which is what labels were kept out of, or to give their
                means, of which more can be read: see :class:`TrainedICVAE`.
            seed: Of the draws; those of PyTorch's own generators if not given.

        Raises:
            InputError: If labels are missing, or there are too few images for Echo noise.
        """
        x = self.inputs(images)
        terms = self.settings.echo_terms
        require(
            not self.echo or len(x) > terms,
            f"there are {len(x)} images, and the Echo noise of one is made of {terms} others: "
            f"encode {terms + 1} or more together",
        )
        blind = not self.settings.encoder_sees_labels
        c = torch.zeros(len(x), 0, device=self.device) if blind else self.told(labels, len(x))
        guide = self.objective.guide
        with runtime.seeded(None if seed is None else whole("seed", seed, 0), self.device):
            return self.each(guide.draw if sample else guide.mean, x, c)

    @clipped
    def decode(self, z: Tensor | ArrayLike, labels: Labels | None = None) -> Tensor:
        r"""Images of codes under labels, of shape :math:`(M, H, W)`."""
        z = self.codes(z)
        return self.each(self.objective.model.decode, z, self.told(labels, len(z)))

    @clipped
    def reconstruct(self, images: Array, labels: Labels | None = None) -> Tensor:
        """What is left of images after the way through the code; of their shape."""
        return self.decode(self.encode(images, labels), labels)

    def transfer(self, images: Array, c: Labels, labels: Labels | None = None) -> Tensor:
        """Images as they would be under other labels ``c``, their codes as they are.

        Raises:
            InputError: If the model was told no labels.
        """
        require(
            self.settings.condition == "labels",
            "this model knows of no labels (condition none): there are no others to transfer to",
        )
        return self.decode(self.encode(images, labels), c)

    @clipped
    def interpolate(
        self, one: Array, other: Array, n: int = 11, labels: Labels | None = None
    ) -> Tensor:
        r"""Images on the line from code to code, under one label a pair: :math:`(M, n, H, W)`."""
        n = whole("n", n, least=2)
        ends = [self.encode(images, labels) for images in (one, other)]
        require_pairs(*ends)
        z = mixes(*ends, n)
        told = self.told(labels, len(z)).unsqueeze(1).expand(-1, n, -1)
        return self.each(
            self.objective.model.decode, z.flatten(0, 1), told.flatten(0, 1)
        ).unflatten(0, (len(z), n))

    @clipped
    def sample(self, n: int, labels: Labels | None = None) -> Tensor:
        r"""Mean images of codes from the prior, of shape :math:`(n, H, W)`.

        Raises:
            InputError: If there is no prior, as with Echo noise.
        """
        require(
            not self.echo,
            "codes with Echo noise have no prior to draw from: decode those of images, "
            "encode(images, sample=True)",
        )
        n = whole("n", n)
        return self.each(self.objective.model.sample, self.told(labels, n))


class TrainedAIR(Trained):
    """AIR: ``train.air``.

    An estimator of the run's own (``module:Class``) is not imported, as a file is not to run code.
    It is needed for a loss alone: import it, and set ``objective.estimator``.
    """

    door = (air.AIRSettings, air.build)

    def build(self, inputs: Mapping[str, Any]) -> Objective:
        objects = self.settings.max_objects
        if objects > MOST_OBJECTS:
            raise ValueError(f"max_objects is {objects:,}, more than {MOST_OBJECTS:,}")
        estimator = restored(self.settings.estimator, self.settings.particles)
        return self.door[1](self.settings, self.shape, estimator)

    @property
    def code_size(self) -> int:
        return self.settings.max_objects * (4 + self.settings.what_dim)

    def detect(self, images: Array) -> Detection:
        """Counts, probabilities, boxes, places and codes of the objects in scenes."""
        x = self.inputs(images)
        require(len(x) > 0, "there are no images: give one or more")
        parts = [self.objective.guide.detect(part) for part in x.split(self.batch)]
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
        codes = {
            "z_where": self.blank(steps, 3),
            "z_what": self.blank(steps, self.settings.what_dim),
            "counts": self.blank().long(),
        }
        images = {"image": self.blank(*self.shape)}
        return {
            "encoder": Part(lambda x: tuple(guide.detect(x)), images, Detection._fields),
            "decoder": Part(self.objective.model.draw, codes, ("reconstruction",)),
        }

    @clipped
    def decode(self, z: Tensor | ArrayLike) -> Tensor:
        r"""Canvases of what :meth:`encode` gives: :math:`(M, H, W)`, in [0, 1].

        Halfway between two codes an object is there that is in both.
        """

        def drawn(z: Tensor) -> Tensor:
            there, z_where, z_what = z.split([1, 3, self.settings.what_dim], dim=-1)
            counts = (there.squeeze(-1) > 0.5).sum(1)
            return self.objective.model.draw(z_where, z_what, counts)

        return self.each(drawn, self.codes(z).unflatten(1, (self.settings.max_objects, -1)))

    @clipped
    def reconstruct(self, images: Array) -> Tensor:
        """The objects found, on a canvas of the images' shape."""
        return self.detect(images).reconstruction

    def sample(self, n: int, count: int | None = None) -> Scene:
        """Scenes from the prior; images and canvas in [0, 1].

        Args:
            n: How many.
            count: Their number of objects, from 0 to ``max_objects``; from the prior if not given.
        """
        most = self.settings.max_objects
        count = None if count is None else whole("count", count, least=0, most=most)
        scene = self.objective.model.sample(whole("n", n), count)
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

    Nothing in the folder is run, and nothing that it names is imported.

    Args:
        run_dir: The run folder.
        device: Where to put it; ``"auto"`` takes a GPU if there is one.

    Returns:
        One of :data:`METHODS`.

    Raises:
        InputError: If there is no run, or it is damaged, or has no weights yet; or no such device.

    So ``load("runs/my-acai").interpolate(images[:5], images[5:10], n=7)`` are images of shape
    (5, 7, 28, 28).
    """
    directory, device = Path(run_dir), named_device(device)
    config = read_config(directory)
    require(
        config.method in METHODS,
        f"{run_dir} holds a run of {brief(config.method)}, which cannot be loaded: give one of "
        f"{', '.join(METHODS)}",
    )
    require(
        "shape" in config.inputs,
        f"{run_dir}: its config.json, of an earlier version, has no inputs: train it anew",
    )
    kind = METHODS[config.method]
    # Settings may ask for any amount of memory: the file of weights says whether it is needed.
    with _damage(directory), weightless():
        outline = kind(SavedRun(*config, weights={}, step=0), torch.device("meta"))
    weights, step = read_weights(directory, outline.objective.state_dict())
    with _damage(directory):
        return kind(SavedRun(*config, weights=weights, step=step), device)


@contextmanager
def _damage(directory: Path) -> Iterator[None]:
    """Names the run whose settings and inputs cannot be those of a run."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error
    except disk.MALFORMED as error:
        raise InputError(
            f"{directory}: config.json is damaged ({first_line(error)}): give another run"
        ) from error


def _sides(name: str, values: Any, least: int) -> tuple[int, int]:
    """Height and width in pixels, of an input that ``config.json`` has under a name."""
    if (
        not isinstance(values, list | tuple)
        or len(values) != 2
        or not all(type(value) is int and least <= value < LARGEST_SIDE for value in values)
    ):
        raise ValueError(
            f"'{name}' is {brief(values)}, not two whole numbers from {least} to {LARGEST_SIDE:,}"
        )
    return tuple(values)


def _sound(condition: Any) -> Mapping[str, Any]:
    """The state of a :class:`~train.data.conditions.Condition`, if that is what it is."""
    classes, loc, scale = (condition[name] for name in ("classes", "loc", "scale"))
    if (
        type(classes) is not int
        or not 0 <= classes < LARGEST
        or not all(isinstance(values, list) for values in (loc, scale))
        or not all(type(value) in (int, float) for value in (*loc, *scale))
        or len(loc) != len(scale)
        or min(scale, default=1) <= 0
        or not (classes or loc)
    ):
        raise ValueError(f"'condition' is {brief(condition)}, neither classes nor quantities")
    return condition


def named_device(device: str | torch.device) -> torch.device:
    """:func:`train.engine.runtime.find_device`, with errors for somebody who calls from Python."""
    try:
        return runtime.find_device(device)
    except InputError as error:
        raise InputError(flags_to_arguments(str(error), Settings)) from error
