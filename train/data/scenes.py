"""Scenes of several digits, for AIR."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pyro_models.shapes import Shape
from train.data import datasets, opening
from train.data.catalogue import CATALOGUE, STORED
from train.data.composition import Overlap, Rules, draw
from train.data.labelled import Images
from train.data.options import DataOptions
from train.data.reading.archives import counts_of
from train.data.splits import hold_out
from train.data.streaming.loading import batches_of
from train.data.streaming.stored import StoredImages
from train.errors import require

PIXELS_AT_ONCE = 2**23
"""Bounds the memory for drawing scenes to about 200 MB, without the scenes themselves."""


@dataclass(frozen=True, eq=False)
class Scenes:
    r"""Images of 0 to :math:`K` objects.

    Attributes:
        images: Pixels, of shape :math:`(M, C, H, W)`, uint8, in memory or stored (see
            :class:`~train.data.streaming.stored.StoredImages`); grey ones in memory may be given as
            :math:`(M, H, W)`.
        counts: The number of objects in each image, of shape :math:`(M)`, int64; None if unknown.
        boxes: The tightest boxes :math:`(x_0, y_0, x_1, y_1)` around the ink of each object, of
            shape :math:`(M, K, 4)`, float32; None if unknown. They are in pixels and half open, so
            that :math:`x_1 - x_0` is a width. The first ``counts`` rows of an image are boxes, the
            others zeros.
        object_size: The smallest and the largest side of the images that the scenes are made of, in
            pixels; None if scenes were not made of images.
    """

    images: Tensor | StoredImages
    counts: Tensor | None
    boxes: Tensor | None
    object_size: tuple[float, float] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.images.ndim == 3:
            object.__setattr__(self, "images", self.images.unsqueeze(1))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> Shape:
        """Channels, height and width of an image."""
        return Shape(*self.images.shape[1:])

    def select(self, index: Tensor | slice) -> Scenes:
        r"""Returns the scenes at ``index``, of shape :math:`(L)`, or in a slice."""
        stored = isinstance(self.images, StoredImages)
        return Scenes(
            self.images.select(index) if stored else self.images[index],
            None if self.counts is None else self.counts[index],
            None if self.boxes is None else self.boxes[index],
            self.object_size,
        )

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
        return batches_of((self.images,), batch_size, seed, device)

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


class SceneOptions(Protocol):
    """The settings of :func:`load_scenes`; see :class:`train.settings.SceneSettings`."""

    data: str
    data_dir: Path
    evaluate_on: Literal["test", "validation"]
    seed: int
    data_options: DataOptions
    train_scenes: int
    held_out_scenes: int
    canvas_size: int
    max_digits: int
    digit_size: tuple[int, int]
    digit_shrink: tuple[float, float] | None
    overlap: Overlap


def load_scenes(settings: SceneOptions) -> ScenesSplit:
    """Makes scenes of the images of a data set, or reads scenes from a file.

    Training scenes have training images only, and held-out scenes held-out ones. Each split has its
    own seed, so that it does not depend on the size of the other. If ``settings.data`` is a
    path (see :func:`train.data.reading.files.read`), its images are the scenes, a fifth of them is
    the test split unless a split is given, and the settings of canvas and digits have no effect. A
    column ``counts`` has the numbers of objects.

    Args:
        settings: The data set, and how scenes are made of it.

    Raises:
        InputError: If the data or the settings cannot be used.
    """
    if settings.data not in CATALOGUE:
        return _read_scenes(settings.data, settings.evaluate_on, settings.data_options)
    require(
        not CATALOGUE[settings.data].endless,
        f"--data {settings.data}: scenes are made of stored images: give one of {STORED}, or the "
        "path of your own scenes",
    )
    split = datasets.load(
        settings.data, settings.data_dir, settings.evaluate_on, settings.data_options
    )
    seeds = (2 * settings.seed, 2 * settings.seed + 1)
    return ScenesSplit(
        _scenes_of(split.train, settings.train_scenes, seeds[0], settings),
        _scenes_of(split.held_out, settings.held_out_scenes, seeds[1], settings),
    )


def _read_scenes(
    data: str, evaluate_on: Literal["test", "validation"], options: DataOptions
) -> ScenesSplit:
    contents = opening.read(data, options)
    counts = contents.counts
    if counts is None and "counts" in contents.columns:
        counts = counts_of(contents.columns["counts"], "the column counts")
    scenes = Scenes(
        contents.images,
        None if counts is None else torch.from_numpy(counts),
        None if contents.boxes is None else torch.from_numpy(contents.boxes),
    )
    # Stratified by the counts, if they are known.
    strata = np.zeros(len(scenes), np.int64) if counts is None else counts
    rows = datasets.rows_of(contents, evaluate_on, strata)
    return ScenesSplit(*(scenes.select(torch.from_numpy(indices)) for indices in rows))


def _scenes_of(images: Images, n: int, seed: int, settings: SceneOptions) -> Scenes:
    return make_scenes(
        images.images,
        n,
        canvas_size=settings.canvas_size,
        max_digits=settings.max_digits,
        digit_size=settings.digit_size,
        digit_shrink=settings.digit_shrink,
        overlap=settings.overlap,
        seed=seed,
    )


def make_scenes(
    digits: Tensor,
    n: int,
    *,
    canvas_size: int = 50,
    max_digits: int = 2,
    digit_size: tuple[int, int] = (24, 24),
    digit_shrink: tuple[float, float] | None = None,
    overlap: Overlap = "apart",
    seed: int,
) -> Scenes:
    r"""Draws scenes: digits of random size at random places on a black canvas.

    The count is uniform on :math:`0, \dots, K`, each digit is uniform among ``digits``, and its
    place is uniform among those where its image is inside the canvas. A scene that breaks the rule
    of ``overlap`` is rejected and drawn again with the same count: counts stay uniform, while
    scenes of several digits favour places and sizes that leave room.

    Args:
        digits: Images to draw from, of shape :math:`(D, C, S, S)`, uint8, or :math:`(D, S, S)`.
            In colour, ink is what is not black.
        n: The number of scenes, :math:`M \ge 1`.
        canvas_size: Height and width :math:`L \ge 1` of a scene.
        max_digits: The most digits in a scene, :math:`K \ge 1`.
        digit_size: The smallest and the largest size of a digit's image in pixels; sizes are
            uniform between them, both included, within :math:`[4, L]`.
        digit_shrink: If given, sizes are :math:`\lfloor S / (m + s \epsilon) \rfloor` for this
            :math:`(m, s)` and :math:`\epsilon \sim N(0, 1)` instead, clipped to :math:`[4, L]`.
        overlap: ``apart``: no two boxes have a pixel in common. ``dim``: the sum of the digits is
            at most 255 everywhere. ``any``: the sum is clipped to 255.
        seed: Seed of the scenes, :math:`\ge 0`. The same seed and settings give the same scenes,
            whatever the global random state and the number of threads.

    Returns:
        Scenes with counts and boxes; the images are square, and have as many
        channels as the digits.

    Raises:
        InputError: If a setting is out of its range, or fewer than one scene in fifty is accepted.

    Example:
        >>> digits = torch.full((10, 28, 28), 255, dtype=torch.uint8)
        >>> scenes = make_scenes(digits, 1000, seed=0)
        >>> scenes.images.shape, scenes.counts.shape, scenes.boxes.shape
        (torch.Size([1000, 1, 50, 50]), torch.Size([1000]), torch.Size([1000, 2, 4]))
    """
    rules = Rules(canvas_size, max_digits, digit_size, digit_shrink, overlap)
    require(n >= 1, f"{n} scenes were asked for: give --train-scenes and --held-out-scenes above 0")
    rules.check(digits.shape[-1])
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, max_digits + 1, size=n)
    digits = digits.unsqueeze(1) if digits.ndim == 3 else digits
    channels = digits.shape[1]
    images = torch.empty(n, channels, canvas_size, canvas_size, dtype=torch.uint8)
    boxes = torch.empty(n, max_digits, 4)
    chunk = max(1, PIXELS_AT_ONCE // (channels * canvas_size**2 * (max_digits + 1)))
    tried = accepted = 0
    for start in range(0, n, chunk):
        pending = np.arange(start, min(start + chunk, n))
        while len(pending) > 0:
            placement = rules.place(rng, counts[pending], len(digits), digits.shape[-1])
            drawing = draw(digits, placement, len(pending), rules)
            is_accepted = drawing.accepted.numpy()
            images[pending[is_accepted]] = drawing.images[drawing.accepted]
            boxes[pending[is_accepted]] = drawing.boxes[drawing.accepted].float()
            tried += len(pending)
            accepted += int(is_accepted.sum())
            rules.require_acceptance(accepted, tried)
            pending = pending[~is_accepted]
    return Scenes(images, torch.from_numpy(counts), boxes, rules.usual_sizes(digits.shape[-1]))
