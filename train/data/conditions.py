"""What a model is told of each image: classes or quantities, as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.data.labelled import Images
from train.data.labels import Classes, as_labels
from train.errors import require


@dataclass(frozen=True, eq=False)
class Condition:
    r"""Turns labels into a known factor :math:`c`.

    Attributes:
        classes: The number of classes; 0 for quantities.
        loc: The quantities' means in the training split, of shape :math:`(K)`.
        scale: Their standard deviations.
        values: The classes, by the values that the data have for them; 0, 1, ... if not given.
    """

    classes: int
    loc: Tensor
    scale: Tensor
    values: Classes | None = None

    def __post_init__(self) -> None:
        if self.values is None:
            object.__setattr__(self, "values", Classes(tuple(range(self.classes))))

    @classmethod
    def of(cls, train: Images, held_out: Images) -> Condition:
        """The condition for labels as they are in the training split.

        Raises:
            InputError: If there are no labels, or they are all the same, or a held-out one is of a
                class that training never saw.
        """
        labels = train.labels
        require(
            labels is not None or train.given is None,
            "--data: labels of several columns must be quantities, and these are text: give one "
            "column for classes",
        )
        require(labels is not None, "--data has no labels: add an array labels to the .npz")
        if labels.is_floating_point():
            columns = labels.reshape(len(labels), -1).double()
            scale = columns.std(0)
            require(
                bool((scale > 0).all()),
                "--data: a column of the labels is the same for every image: leave it out",
            )
            return cls(0, columns.mean(0).float(), scale.float())
        seen, others = (set(part.values.tolist()) for part in (train, held_out))
        require(len(seen) > 1, "--data has a single class: there is nothing to be invariant to")
        unseen = sorted(others - seen)
        require(
            not unseen,
            f"--data: class {next(iter(unseen), '')} is held out whole: add more of it",
        )
        return cls(len(seen), torch.zeros(0), torch.zeros(0), Classes(tuple(sorted(seen))))

    def state(self) -> dict[str, Any]:
        """Plain values, from which :meth:`restored` makes it again."""
        return {
            "classes": self.classes,
            "loc": self.loc.tolist(),
            "scale": self.scale.tolist(),
            "values": list(self.values.values),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Condition:
        """The condition of a :meth:`state`; earlier versions of it have no values.

        Raises:
            ValueError: If it is none.
        """
        loc, scale = (torch.tensor(state[name]) for name in ("loc", "scale"))
        number = int(state["classes"])
        return cls(number, loc, scale, Classes.restored(state.get("values"), number))

    @property
    def size(self) -> int:
        r"""The size :math:`C` of :math:`c`."""
        return self.classes or len(self.loc)

    def __call__(self, labels: Tensor) -> Tensor:
        r""":math:`c` of labels: classes' numbers as one-hot, quantities standardised.

        Args:
            labels: Of shape :math:`(M)`, or :math:`(M, K)` for several quantities.

        Returns:
            Of shape :math:`(M, C)`.
        """
        if self.classes:
            return torch.nn.functional.one_hot(labels, self.classes).float()
        return (labels.reshape(len(labels), -1).float() - self.loc) / self.scale

    def told(self, images: Images, labels: bool = True) -> Tensor:
        r""":math:`c` of images, of shape :math:`(M, C)`; of no columns if labels are not told."""
        if not labels:
            return torch.zeros(len(images), 0)
        return self(self.values.encode(images.values) if self.classes else images.labels)

    def of_labels(self, labels: Any, n: int) -> Tensor:
        r""":math:`c` of labels as a person has them, for a number of images.

        Args:
            labels: Values of classes as the data have them, or quantities: one for each image, of
                shape :math:`(n)`, :math:`(n, 1)` or :math:`(n, K)`; or one for all of them.
            n: The number of images.

        Returns:
            Of shape :math:`(n, C)`.

        Raises:
            InputError: If they are not as many, of other columns, or of an unknown class.
        """
        width = 1 if self.classes else self.size
        one = isinstance(labels, str | bytes) or np.ndim(labels) == 0
        array = as_labels([labels] if one else labels)
        if array.ndim == 1 and width > 1 and len(array) == width:
            array = array[None]
        require(
            len(array) in (1, n), f"there are {len(array)} labels for {n} images: give one or {n}"
        )
        if self.classes:
            require(
                array.ndim == 1,
                f"labels have shape {array.shape}, but are classes: give one an image",
            )
            return self(self.values.encode(array)).expand(n, -1)
        require(
            array.dtype.kind != "U" and array.size == len(array) * width,
            f"labels have shape {array.shape} and type {array.dtype}, but this model knows "
            f"{width} quantities an image: give numbers of shape (M, {width})",
        )
        return self(torch.from_numpy(array.astype(np.float32))).expand(n, -1)
