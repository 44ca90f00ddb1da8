"""Makes scenes, for AIR: of several digits, drawn from code, or read from files."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from train.data import datasets, memory, opening
from train.data.annotated import Scenes, ScenesSplit
from train.data.catalogue import CATALOGUE, STORED
from train.data.composition import (
    MOST_MASKED,
    SHARES,
    Digits,
    Drawing,
    HardlyFitsError,
    Overlap,
    Placement,
    Rules,
    draw,
)
from train.data.counts import checked
from train.data.crowds import place_in_turn
from train.data.images import to_grey
from train.data.labelled import Images
from train.data.options import DataOptions
from train.data.reading.archives import counts_of
from train.data.streaming.stored import in_memory
from train.errors import require

__all__ = ["Scenes", "ScenesSplit", "load_scenes", "make_scenes"]

PIXELS_AT_ONCE = 2**23
"""Bounds the memory for drawing scenes to about 200 MB, without the scenes themselves."""


class SceneOptions(Protocol):
    """The settings of :func:`load_scenes`; see :class:`train.settings.SceneSettings`."""

    @property
    def data(self) -> str: ...

    @property
    def data_dir(self) -> Path: ...

    @property
    def evaluate_on(self) -> Literal["test", "validation"]: ...

    @property
    def seed(self) -> int: ...

    @property
    def data_options(self) -> DataOptions: ...

    @property
    def train_scenes(self) -> int: ...

    @property
    def held_out_scenes(self) -> int: ...

    @property
    def canvas_size(self) -> int: ...

    @property
    def max_digits(self) -> int: ...

    @property
    def digit_counts(self) -> tuple[int, ...] | None: ...

    @property
    def held_out_digit_counts(self) -> tuple[int, ...] | None: ...

    @property
    def digit_size(self) -> tuple[int, int]: ...

    @property
    def digit_shrink(self) -> tuple[float, float] | None: ...

    @property
    def overlap(self) -> Overlap: ...


def load_scenes(settings: SceneOptions) -> ScenesSplit:
    """Makes scenes of the images of a data set, draws them from code, or reads them from a file.

    Training scenes have training images only, and held-out scenes held-out ones. Each split has its
    own seed, so that it does not depend on the size of the other. The settings of canvas and digits
    have no effect on scenes that are not made of a data set's images:

    - If ``settings.data`` names scenes that are drawn from code, such as ``multi-sprites``, they
      have masks and factors, and test and validation scenes are of different seeds.
    - If it is a path (see :func:`train.data.reading.files.read`), its images are the scenes, and
      a fifth of them is the test split unless a split is given. A column ``counts`` has the numbers
      of objects.

    Args:
        settings: The data set, and how scenes are made of it.

    Raises:
        InputError: If the data or the settings cannot be used.
    """
    entry = CATALOGUE.get(settings.data)
    if entry is None:
        return _read_scenes(settings.data, settings.evaluate_on, settings.data_options)
    if entry.draw_scenes is not None:
        return _draw_scenes(entry.draw_scenes, settings)
    require(
        not entry.endless,
        f"--data {settings.data}: scenes are made of stored images: give one of {STORED}, or the "
        "path of your own scenes",
    )
    split = datasets.load(
        settings.data, settings.data_dir, settings.evaluate_on, settings.data_options
    )
    seeds = (2 * settings.seed, 2 * settings.seed + 1)
    held_out_counts = settings.held_out_digit_counts
    if held_out_counts is None:
        held_out_counts = settings.digit_counts
    return ScenesSplit(
        _scenes_of(split.train, settings.train_scenes, seeds[0], settings, settings.digit_counts),
        _scenes_of(split.held_out, settings.held_out_scenes, seeds[1], settings, held_out_counts),
    )


def _draw_scenes(draw_scenes: Callable[[int, int], Scenes], settings: SceneOptions) -> ScenesSplit:
    """Draws training scenes and held-out ones from code, each split with seeds of its own."""
    data, options = settings.data, settings.data_options
    datasets.require_own_labels(data, options)
    require(
        not options.label_column,
        f"--label-column: the scenes of --data {data} have no labels: leave it out",
    )
    require(
        options.in_memory != "never",
        f"--in-memory never: the scenes of --data {data} cannot stay on disk: leave it out",
    )
    datasets.require_held_out(settings.evaluate_on)
    n = settings.train_scenes + settings.held_out_scenes
    shape = draw_scenes(1, 0).shape
    size = n * (shape.values + math.prod(shape.sides))
    memory.require_available(size, f"--data {data}: {n:,} scenes need", "lower --train-scenes")
    third = 2 if settings.evaluate_on == "test" else 1
    split = ScenesSplit(
        draw_scenes(settings.train_scenes, 3 * settings.seed),
        draw_scenes(settings.held_out_scenes, 3 * settings.seed + third),
    )
    if not options.grey:
        return split
    return ScenesSplit(
        *(replace(scenes, images=to_grey(in_memory(scenes.images))) for scenes in split)
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
        masks=None if contents.masks is None else torch.from_numpy(contents.masks),
    )
    # Stratified by the counts, if they are known.
    strata = np.zeros(len(scenes), np.int64) if counts is None else counts
    rows = datasets.rows_of(contents, evaluate_on, strata)
    return ScenesSplit(*(scenes.select(torch.from_numpy(indices)) for indices in rows))


def _scenes_of(
    images: Images, n: int, seed: int, settings: SceneOptions, counts: Sequence[int] | None
) -> Scenes:
    return make_scenes(
        in_memory(images.images),
        n,
        canvas_size=settings.canvas_size,
        max_digits=settings.max_digits,
        counts=counts,
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
    counts: Sequence[int] | None = None,
    digit_size: tuple[int, int] = (24, 24),
    digit_shrink: tuple[float, float] | None = None,
    overlap: Overlap = "apart",
    masks: bool = False,
    seed: int,
) -> Scenes:
    r"""Draws scenes: digits of random size at random places on a black canvas.

    The count is uniform on :math:`0, \dots, K`, or on ``counts``. Each digit is uniform among
    ``digits``, and its place is uniform among those where its image is inside the canvas. A scene
    that breaks the rule of ``overlap`` is rejected and drawn again with the same count: counts stay
    uniform, while scenes of several digits favour places and sizes that leave room.

    In crowded scenes nearly all would be rejected. If fewer than one scene in fifty is accepted and
    ``overlap`` is ``apart`` or ``half``, all scenes are made in another way: their digits are
    placed one after another, each uniform among the places that the earlier ones leave free; see
    :func:`train.data.crowds.place_in_turn` for how their distribution differs.

    Args:
        digits: Images to draw from, of shape :math:`(D, C, S, S)`, uint8, or :math:`(D, S, S)`.
            In colour, ink is what is not black.
        n: The number of scenes, :math:`M \ge 1`.
        canvas_size: Height and width :math:`L \ge 1` of a scene.
        max_digits: The most digits in a scene, :math:`K \ge 1`.
        counts: The numbers of digits that scenes have, different ones, each equally likely;
            replaces ``max_digits``, and :math:`K` is the largest of them. If this is 0, boxes have
            one row all the same. ``range(K + 1)`` gives the scenes of ``max_digits``.
        digit_size: The smallest and the largest size of a digit's image in pixels; sizes are
            uniform between them, both included, within :math:`[4, L]`.
        digit_shrink: If given, sizes are :math:`\lfloor S / (m + s \epsilon) \rfloor` for this
            :math:`(m, s)` and :math:`\epsilon \sim N(0, 1)` instead, clipped to :math:`[4, L]`.
        overlap: ``apart``: no two boxes have a pixel in common. ``half``: the images of two digits
            have at most half of the smaller one in common, as in the scattered digits of SPAIR's
            official implementation. ``dim``: the sum of the digits is at most 255 everywhere.
            ``any``: digits may be anywhere. Sums are clipped to 255.
        masks: Whether scenes have masks, which need :math:`M L^2` bytes. At most 255 digits are in
            a scene then. At a pixel the digit with the most ink is visible (in colour, with
            the brightest channel), the first of equal ones.
        seed: Seed of the scenes, :math:`\ge 0`. The same seed and settings give the same scenes,
            whatever the global random state and the number of threads.

    Returns:
        Scenes with counts and boxes; the images are square, and have as many
        channels as the digits. The factors are ``digit``, the index of each digit's image in
        ``digits``, and ``size``, its height and width in pixels, both of shape :math:`(M, K)`.

    Raises:
        InputError: If a setting is out of its range, or digits hardly ever fit: fewer than one
            scene in fifty is accepted, and placing one digit after another fails too.

    Example:
        >>> digits = torch.full((10, 28, 28), 255, dtype=torch.uint8)
        >>> scenes = make_scenes(digits, 1000, seed=0)
        >>> scenes.images.shape, scenes.counts.shape, scenes.boxes.shape
        (torch.Size([1000, 1, 50, 50]), torch.Size([1000]), torch.Size([1000, 2, 4]))
    """
    choices: Sequence[int] = range(max_digits + 1)
    if counts is not None:
        choices = checked(counts, "--digit-counts")
        max_digits = max(*choices, 1)
    rules = Rules(canvas_size, max_digits, digit_size, digit_shrink, overlap)
    require(n >= 1, f"{n} scenes were asked for: give --train-scenes and --held-out-scenes above 0")
    rules.check(digits.shape[-1])
    require(
        not masks or max_digits <= MOST_MASKED,
        f"{max_digits} digits: scenes with masks have {MOST_MASKED} at most: lower max_digits",
    )
    digits = digits.unsqueeze(1) if digits.ndim == 3 else digits
    rng = np.random.default_rng(seed)
    numbers = np.asarray(choices)[rng.integers(0, len(choices), size=n)]
    try:
        return _compose(rng, numbers, digits, rules, masks)
    except HardlyFitsError:
        if overlap not in SHARES:
            raise
    return _compose(np.random.default_rng([seed, 1]), numbers, digits, rules, masks, crowded=True)


def _compose(
    rng: np.random.Generator,
    counts: np.ndarray,
    digits: Tensor,
    rules: Rules,
    masks: bool,
    crowded: bool = False,
) -> Scenes:
    """Draws scenes until all are accepted.

    Args:
        rng: Random numbers.
        counts: The number of digits in each scene, of shape (M,).
        digits: Images of digits, of shape (D, C, S, S), uint8.
        rules: The rules of the scenes.
        masks: Whether scenes have masks.
        crowded: Whether digits are placed one after another, so that no scene is rejected.
    """
    n, channels, side = len(counts), digits.shape[1], rules.canvas_size
    scenes = Scenes(
        torch.empty(n, channels, side, side, dtype=torch.uint8),
        torch.from_numpy(counts),
        torch.empty(n, rules.max_digits, 4),
        rules.usual_sizes(digits.shape[-1]),
        torch.empty(n, side, side, dtype=torch.uint8) if masks else None,
        {name: np.zeros((n, rules.max_digits), dtype=np.int64) for name in ("digit", "size")},
    )
    chunk = max(1, PIXELS_AT_ONCE // (channels * side**2 * (rules.max_digits + 1)))
    resized = Digits(digits)
    tried = accepted = 0
    for start in range(0, n, chunk):
        pending = np.arange(start, min(start + chunk, n))
        while len(pending) > 0:
            if crowded:
                placement = place_in_turn(rng, counts[pending], resized, rules)
            else:
                placement = rules.place(rng, counts[pending], resized)
            drawing = draw(resized, placement, len(pending), rules, masks)
            _write(scenes, pending, drawing, placement)
            tried += len(pending)
            accepted += len(drawing.images)
            rules.require_acceptance(accepted, tried)
            pending = pending[~drawing.accepted]
    return scenes


def _write(scenes: Scenes, rows: np.ndarray, drawing: Drawing, placement: Placement) -> None:
    """Writes the accepted scenes of a drawing into the given rows."""
    target = rows[drawing.accepted]
    assert scenes.boxes is not None
    assert scenes.factors is not None
    in_memory(scenes.images)[target] = drawing.images
    scenes.boxes[target] = drawing.boxes.float()
    if scenes.masks is not None and drawing.masks is not None:
        scenes.masks[target] = drawing.masks
    is_written = drawing.accepted[placement.scene]
    digits = rows[placement.scene[is_written]], placement.slot[is_written]
    for name in ("digit", "size"):
        scenes.factors[name][digits] = getattr(placement, name)[is_written]
