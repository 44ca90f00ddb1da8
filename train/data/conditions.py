"""Converts labels to the condition :math:`c` of a conditional model."""

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
    r"""Converts labels to a condition :math:`c`: one-hot classes, or standardised quantities.

    Attributes:
        classes: The number of classes; 0 for quantities.
        loc: The means of the quantities in the training split, of shape :math:`(K)`.
        scale: Their standard deviations, of shape :math:`(K)`.
        values: The classes with their values in the data set; 0, 1, ... if not given.
    """

    classes: int
    loc: Tensor
    scale: Tensor
    values: Classes | None = None

    def __post_init__(self) -> None:
        if self.values is None:
            object.__setattr__(self, "values", Classes(tuple(range(self.classes))))

    @classmethod
    def fit(cls, train: Images, held_out: Images, *, optional: bool = False) -> Condition:
        """Returns the condition for the classes, or the mean and scale, of the training split.

        Args:
            train: Training images.
            held_out: Held-out images.
            optional: Whether images without labels have the condition :meth:`none`.

        Raises:
            InputError: If labels are missing or constant, or a held-out label is of a class that is
                not in the training split.
        """
        if optional and train.values is None:
            return cls.none()
        require(
            train.labels is not None or train.values is None,
            "--data: labels of several columns must be quantities, and these are text: give one "
            "column for classes",
        )
        train.require_labels()
        if train.labels.is_floating_point():
            return cls._of_quantities(train.labels.reshape(len(train), -1).double())
        return cls._of_classes(*(set(images.values.tolist()) for images in (train, held_out)))

    @classmethod
    def _of_quantities(cls, columns: Tensor) -> Condition:
        scale = columns.std(0)
        require(
            bool((scale > 0).all()),
            "--data: a column of the labels is the same for every image: leave it out",
        )
        return cls(0, columns.mean(0).float(), scale.float())

    @classmethod
    def _of_classes(cls, train: set[int | str], held_out: set[int | str]) -> Condition:
        require(len(train) > 1, "--data has a single class: there is nothing to be invariant to")
        unknown = sorted(held_out - train)
        require(
            not unknown,
            f"--data: all images of class {next(iter(unknown), '')} are held out: add more of them",
        )
        return cls(len(train), torch.zeros(0), torch.zeros(0), Classes(tuple(sorted(train))))

    @classmethod
    def none(cls) -> Condition:
        """The condition of images without labels: of no columns, once it is standardised."""
        return cls(0, torch.zeros(1), torch.ones(1))

    def state(self) -> dict[str, Any]:
        """Returns plain values for :meth:`from_state`, as JSON takes them."""
        return {
            "classes": self.classes,
            "loc": self.loc.tolist(),
            "scale": self.scale.tolist(),
            "values": list(self.values.values),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Condition:
        """Restores a condition from :meth:`state`; that of earlier versions has no ``values``.

        Raises:
            ValueError: If the values are not those of a condition.
        """
        loc, scale = (torch.tensor(state[name]) for name in ("loc", "scale"))
        n = int(state["classes"])
        return cls(n, loc, scale, Classes.from_saved(state.get("values"), n))

    @property
    def size(self) -> int:
        r"""The size :math:`C` of :math:`c`."""
        return self.classes or len(self.loc)

    def __call__(self, labels: Tensor) -> Tensor:
        r"""Converts labels to :math:`c`.

        Args:
            labels: Class indices, of shape :math:`(M)`; or quantities, of shape :math:`(M)` or
                :math:`(M, K)`.

        Returns:
            One-hot classes or standardised quantities, of shape :math:`(M, C)`.
        """
        if self.classes:
            return torch.nn.functional.one_hot(labels, self.classes).float()
        return (labels.reshape(len(labels), -1).float() - self.loc) / self.scale

    def of_images(self, images: Images, use_labels: bool = True) -> Tensor:
        r"""Returns :math:`c` of images, of shape :math:`(M, C)`.

        Args:
            images: Labelled images.
            use_labels: Whether the model is conditional; if not, :math:`c` has no columns.
        """
        if not use_labels:
            return torch.zeros(len(images), 0)
        return self(self.values.encode(images.values) if self.classes else images.labels)

    def of_labels(self, labels: Any, n: int) -> Tensor:
        r"""Returns :math:`c` of labels with their values in the data set, for :math:`n` images.

        Args:
            labels: Values of classes, or quantities: one for each image, of shape :math:`(n)`,
                :math:`(n, 1)` or :math:`(n, K)`; or one for all images.
            n: The number of images.

        Returns:
            The conditions, of shape :math:`(n, C)`.

        Raises:
            InputError: If there are neither 1 nor :math:`n` labels, they have another number of
                columns, or one is of an unknown class.
        """
        width = 1 if self.classes else self.size
        is_single = isinstance(labels, str | bytes) or np.ndim(labels) == 0
        array = as_labels([labels] if is_single else labels)
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
