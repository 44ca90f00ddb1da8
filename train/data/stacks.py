"""Stacks of images from sets, for methods that learn from which set an image is in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from train.data.batches import as_input
from train.data.labelled import Images
from train.data.labels import Classes, are_whole
from train.errors import require

CHUNK = 64
"""Steps whose indices are drawn, and moved to the device, at once."""


class Sets(NamedTuple):
    r"""Which set each image is in.

    Attributes:
        classes: The sets, by the values that labels have for them.
        numbers: The set of each image of each part, of shape :math:`(M)`, int64.
    """

    classes: Classes
    numbers: tuple[Tensor, ...]

    def find(self, labels: Iterable[str]) -> tuple[int, ...]:
        """The numbers of the sets that are written so.

        Raises:
            InputError: If there is no such set.
        """
        missing = self.missing(labels)
        require(not missing, f"there is no set {', '.join(missing)}: the sets are {self.classes}")
        return tuple(self.classes.find(label) for label in labels)

    def missing(self, labels: Iterable[str]) -> list[str]:
        """Those of the labels that no set is written like."""
        return [str(label) for label in labels if self.classes.find(label) is None]

    def counts(self, withheld: Iterable[str] = ()) -> dict[int | str, int]:
        """How many images of the first part are in each set that is not withheld."""
        withheld = set(map(str, withheld))
        numbers, counts = self.numbers[0].unique(return_counts=True)
        return {
            self.classes.values[number]: count
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)
            if str(self.classes.values[number]) not in withheld
        }


def sets_of(*parts: Images, column: int = 0) -> Sets:
    r"""The sets of images: their classes, or a column of the labels.

    Args:
        parts: Labelled images, training and held-out ones for instance, numbered together.
        column: Which column, if labels have several.

    Raises:
        InputError: If there are no labels, or no such column, or it has values that are not whole.
    """
    named = [_names(part, column) for part in parts]
    classes = Classes.of(np.concatenate(named))
    return Sets(classes, tuple(classes.encode(each) for each in named))


def _names(images: Images, column: int) -> np.ndarray:
    """A column of the labels: whole numbers or text."""
    require(images.values is not None, "--data has no labels: add an array labels to the .npz")
    columns = images.values.reshape(len(images), -1)
    require(
        column < columns.shape[1],
        f"--set-column {column}: the labels have {columns.shape[1]} columns, counted from 0",
    )
    values = columns[:, column]
    require(
        values.dtype.kind != "f" or are_whole(values),
        f"--set-column {column}: its values are not whole numbers, so they name no sets",
    )
    return values.astype(np.int64) if values.dtype.kind == "f" else values


class Stacks:
    r"""Pairs of stacks as a function of the seed and the step alone.

    A stack is of images of one set, without repetition, and the two of a pair are of two sets. As
    no state is carried from step to step, a resumed run draws what it would have drawn. Indices
    are drawn on the CPU, many steps at once, so that a step copies nothing from the host.

    Args:
        images: The images, of shape :math:`(M, H, W)`, uint8.
        sets: The set of each, of shape :math:`(M)`.
        sizes: The sizes :math:`(n, m)` of the two stacks.
        pairs: The number :math:`P` of pairs a step.
        withheld: The numbers of sets of which nothing is drawn.
        names: What an error calls the sets, by their numbers; the numbers if not given.
        curated: Whether ``"both"`` stacks are of one set each, or ``"one"``, and the other one of
            images of any set (ABC-X).
        replacement: Whether an image may be in a stack more than once.
        seed: Seed of the draws, :math:`\ge 0`.
        device: Where the stacks are wanted.

    Raises:
        InputError: If a withheld set does not exist, or fewer sets are left than a pair needs, or
            one of them is smaller than a stack.

    Example:
        >>> images, sets = torch.zeros(8, 28, 28, dtype=torch.uint8), torch.arange(8) % 2
        >>> a, b = Stacks(images, sets, (3, 4), pairs=5)(step=0)
        >>> a.shape, b.shape
        (torch.Size([5, 3, 28, 28]), torch.Size([5, 4, 28, 28]))
    """

    def __init__(
        self,
        images: Tensor,
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
        there = sets.unique().tolist()
        names = range(max(there) + 1) if names is None else names
        for each in withheld:
            require(
                each in there,
                f"--withheld {names[each] if each < len(names) else each}: there is no such set; "
                f"give some of {', '.join(str(names[i]) for i in there)}, or --withheld alone for "
                "none",
            )
        kept = [each for each in there if each not in withheld]
        least = 2 if curated == "both" else 1
        require(
            len(kept) >= least,
            f"--data has {len(kept)} sets besides the withheld ones: a pair of stacks needs "
            f"{least} or more",
        )
        self.members = [torch.nonzero(sets == each).flatten().numpy() for each in kept]
        counts = {each: len(rows) for each, rows in zip(kept, self.members, strict=True)}
        small = {each: count for each, count in counts.items() if count < max(sizes)}
        listed = [f"set {names[each]} ({count} images)" for each, count in small.items()]
        require(
            replacement or not small,
            f"--stack-size {max(sizes)} is larger than {', '.join(listed)}: give less, or add "
            "--replacement",
        )
        self.anything = np.concatenate(self.members)
        self.images = images.to(device)
        self.sizes = sizes
        self.pairs = pairs
        self.curated = curated
        self.replacement = replacement
        self.seed = seed
        self._chunk: int | None = None
        self._indices = torch.empty(0, dtype=torch.int64)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        r"""The stacks of a step: :math:`(P, n, H, W)` and :math:`(P, m, H, W)`, in [0, 1]."""
        first, second = (self.images[rows] for rows in self.indices(step))
        return as_input(first), as_input(second)

    def indices(self, step: int) -> tuple[Tensor, Tensor]:
        r"""The images of a step, counted from 0: :math:`(P, n)` and :math:`(P, m)`."""
        chunk, position = divmod(step, CHUNK)
        if chunk != self._chunk:
            random = np.random.default_rng([self.seed, chunk])
            drawn = [self._pair(random) for _ in range(CHUNK * self.pairs)]
            indices = torch.from_numpy(np.stack(drawn)).unflatten(0, (CHUNK, self.pairs))
            self._indices = indices.to(self.images.device)
            self._chunk = chunk
        first, second = self._indices[position].split(list(self.sizes), dim=-1)
        return first, second

    def _pair(self, random: np.random.Generator) -> np.ndarray:
        if self.curated == "both":
            pools = [self.members[i] for i in random.choice(len(self.members), 2, replace=False)]
        else:
            pools = [self.members[random.integers(len(self.members))], self.anything]
        stacks = [
            pool[random.choice(len(pool), size, replace=self.replacement)]
            for pool, size in zip(pools, self.sizes, strict=True)
        ]
        return np.concatenate(stacks)
