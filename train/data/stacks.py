"""Draws stacks of images, each from one set, for methods that learn from set membership (ABC)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from train.data.batches import as_input
from train.data.labelled import Images
from train.data.labels import Classes, are_whole
from train.data.streaming.stored import StoredImages
from train.errors import require

CHUNK = 64
"""Steps whose indices are drawn, and copied to the device, at once."""

MOST_LEVELS = 100
"""Most values of a quantity that are sets."""


class Sets(NamedTuple):
    r"""The set that each image belongs to.

    Attributes:
        classes: The sets, with the values that the labels have for them.
        indices: For each split, the index of each image's set, of shape :math:`(M)`, int64.
    """

    classes: Classes
    indices: tuple[Tensor, ...]

    @classmethod
    def of(cls, *splits: Images, column: int | str = 0) -> Sets:
        r"""Returns the sets of images: their classes, or the values in a column.

        Quantities that have few values, such as the levels of a factor, name sets too: each value
        is written with as few digits as tell the values apart.

        Args:
            splits: Labelled images, such as training and held-out ones, with sets in common.
            column: The name of a column of the data; or the number of a column of the labels,
                counted from 0.

        Raises:
            InputError: If there are no labels, there is no such column, or its values are
                quantities that do not repeat.
        """
        columns = [_column(images, column) for images in splits]
        values = np.concatenate(columns)
        if values.dtype.kind == "f" and not are_whole(values):
            return cls.of_levels(columns, column)
        if values.dtype.kind == "f":
            columns = [numbers.astype(np.int64) for numbers in columns]
        classes = Classes.of(np.concatenate(columns))
        return cls(classes, tuple(classes.encode(values) for values in columns))

    @classmethod
    def of_levels(cls, columns: Sequence[np.ndarray], name: int | str) -> Sets:
        r"""Returns the sets of quantities of few values, in the order of these.

        Args:
            columns: For each split quantities, of shape :math:`(M)`.
            name: The name of the column, or its number.

        Raises:
            InputError: If there are more than :data:`MOST_LEVELS` values, or fewer than two images
                of each on average.
        """
        values = np.concatenate(columns)
        levels = np.unique(values)
        require(
            len(levels) <= min(MOST_LEVELS, len(values) // 2),
            f"--set-column {name}: its values are not whole numbers, and {len(levels)} of them "
            "differ, so they name no sets",
        )
        classes = Classes(_written(levels))
        indices = (np.searchsorted(levels, column) for column in columns)
        return cls(classes, tuple(torch.from_numpy(index) for index in indices))

    def find(self, labels: Iterable[int | str]) -> tuple[int, ...]:
        """Returns the indices of the sets that are written like ``labels``.

        Raises:
            InputError: If there is no such set.
        """
        labels = tuple(labels)
        missing = self.missing(labels)
        require(not missing, f"there is no set {', '.join(missing)}: the sets are {self.classes}")
        found = [self.classes.find(label) for label in labels]
        return tuple(index for index in found if index is not None)

    def missing(self, labels: Iterable[int | str]) -> list[str]:
        """Returns the labels that no set is written like."""
        return [str(label) for label in labels if self.classes.find(label) is None]

    def counts(self, withheld: Iterable[int | str] = ()) -> dict[int | str, int]:
        """Returns the number of images in the first split of each set that is not withheld."""
        withheld = set(map(str, withheld))
        indices, counts = self.indices[0].unique(return_counts=True)
        return {
            self.classes.values[index]: count
            for index, count in zip(indices.tolist(), counts.tolist(), strict=True)
            if str(self.classes.values[index]) not in withheld
        }


def _column(images: Images, column: int | str) -> np.ndarray:
    """Returns a column of the data, or one of the labels by its number, of shape (M,)."""
    if isinstance(column, str):
        require(
            column in images.columns,
            f"--set-column {column}: --data has no such column: its columns are "
            f"{', '.join(images.columns) or 'none'}",
        )
        return images.columns[column]
    columns = images.require_labels().reshape(len(images), -1)
    require(
        column < columns.shape[1],
        f"--set-column {column}: the labels have {columns.shape[1]} columns, counted from 0",
    )
    return columns[:, column]


def _written(levels: np.ndarray) -> tuple[str, ...]:
    """Writes distinct numbers with as few digits as tell them apart, at least three."""
    for digits in range(3, 18):
        words = tuple(f"{level:.{digits}g}" for level in levels.tolist())
        if len(set(words)) == len(words):
            break
    return words


class StackPairs:
    r"""Mini-batches of pairs of stacks, each determined by the seed and the step alone.

    A stack has images of one set, and the two stacks of a pair are of different sets. There is no
    state, so a resumed run draws the batches that it would have drawn without a break. Indices are
    drawn on the CPU, for many steps at once, so that a step copies nothing from the host.

    Args:
        images: Images, of shape :math:`(M, C, H, W)`, uint8. Of stored ones (see
            :class:`~train.data.streaming.stored.StoredImages`) it draws the indices alone, on the
            CPU.
        sets: The index of each image's set, of shape :math:`(M)`.
        sizes: The sizes :math:`(n, m)` of the two stacks.
        pairs: Pairs in a batch, :math:`P`.
        withheld: Indices of the sets that are never drawn.
        names: The sets' names in error messages, by index; the indices if not given.
        curated: ``"both"``: each stack is of one set. ``"one"``: the second stack has images of
            any sets (ABC-X).
        replacement: Whether a stack may have an image more than once.
        seed: Seed of the draws, :math:`\ge 0`.
        device: Device of the batches.

    Raises:
        InputError: If a withheld set does not exist, too few sets are left for a pair, or one of
            them is smaller than a stack.

    Example:
        >>> images, sets = torch.zeros(8, 1, 28, 28, dtype=torch.uint8), torch.arange(8) % 2
        >>> a, b = StackPairs(images, sets, (3, 4), pairs=5)(step=0)
        >>> a.shape, b.shape
        (torch.Size([5, 3, 1, 28, 28]), torch.Size([5, 4, 1, 28, 28]))
    """

    def __init__(
        self,
        images: Tensor | StoredImages,
        sets: Tensor,
        sizes: tuple[int, int],
        *,
        pairs: int = 1,
        withheld: tuple[int, ...] = (),
        names: Sequence[int | str] | None = None,
        curated: Literal["both", "one"] = "both",
        replacement: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        existing = sets.unique().tolist()
        names = range(max(existing) + 1) if names is None else names
        _require_existing(withheld, existing, names)
        drawn = [index for index in existing if index not in withheld]
        self.members = [torch.nonzero(sets == index).flatten().numpy() for index in drawn]
        _require_enough(len(drawn), curated)
        if not replacement:
            sizes_by_name = {
                names[i]: len(rows) for i, rows in zip(drawn, self.members, strict=True)
            }
            _require_large(sizes_by_name, max(sizes))
        self.pool = np.concatenate(self.members)
        self.images = images if isinstance(images, StoredImages) else images.to(device)
        self.device = "cpu" if isinstance(images, StoredImages) else device
        self.sizes = sizes
        self.pairs = pairs
        self.curated = curated
        self.replacement = replacement
        self.seed = seed
        self._chunk: int | None = None
        self._indices = torch.empty(0, dtype=torch.int64)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        r"""Returns the batch of a step: stacks of :math:`n` and of :math:`m` images.

        The shapes are :math:`(P, n, C, H, W)` and :math:`(P, m, C, H, W)`. They are float32, in
        [0, 1]. Steps are counted from 0.
        """
        first, second = (self.images[rows] for rows in self.indices(step))
        return as_input(first), as_input(second)

    def indices(self, step: int) -> tuple[Tensor, Tensor]:
        r"""Returns the indices of a step's images, :math:`(P, n)` and :math:`(P, m)`, int64."""
        chunk, position = divmod(step, CHUNK)
        if chunk != self._chunk:
            random = np.random.default_rng([self.seed, chunk])
            pairs = [self._draw_pair(random) for _ in range(CHUNK * self.pairs)]
            indices = torch.from_numpy(np.stack(pairs)).unflatten(0, (CHUNK, self.pairs))
            self._indices = indices.to(self.device)
            self._chunk = chunk
        first, second = self._indices[position].split(list(self.sizes), dim=-1)
        return first, second

    def _draw_pair(self, random: np.random.Generator) -> np.ndarray:
        """Draws the indices of two stacks, concatenated: of shape (n + m,)."""
        if self.curated == "both":
            pools = [self.members[i] for i in random.choice(len(self.members), 2, replace=False)]
        else:
            pools = [self.members[random.integers(len(self.members))], self.pool]
        stacks = [
            pool[random.choice(len(pool), size, replace=self.replacement)]
            for pool, size in zip(pools, self.sizes, strict=True)
        ]
        return np.concatenate(stacks)


def _require_existing(
    withheld: Sequence[int], existing: Sequence[int], names: Sequence[int | str]
) -> None:
    for index in withheld:
        require(
            index in existing,
            f"--withheld {names[index] if index < len(names) else index}: there is no such set; "
            f"give some of {', '.join(str(names[i]) for i in existing)}, or --withheld alone for "
            "none",
        )


def _require_enough(sets: int, curated: Literal["both", "one"]) -> None:
    least = 2 if curated == "both" else 1
    require(
        sets >= least,
        f"--data has {sets} sets besides the withheld ones: a pair of stacks needs {least} or more",
    )


def _require_large(sizes: dict[int | str, int], stack_size: int) -> None:
    small = [f"set {name} ({size} images)" for name, size in sizes.items() if size < stack_size]
    require(
        not small,
        f"--stack-size {stack_size} is larger than {', '.join(small)}: give less, or add "
        "--replacement",
    )
