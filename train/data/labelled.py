"""Images with labels, and their split into training and held-out images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_models.shapes import Shape
from train.data.labels import Classes, are_classes
from train.data.splits import hold_out
from train.data.streaming.loading import Drawing, LoadedBatches, Plan, batches_of
from train.data.streaming.stored import StoredImages
from train.errors import InputError, require


@dataclass(frozen=True, eq=False)
class Images:
    r"""Images and their labels.

    Attributes:
        images: Pixels, of shape :math:`(M, C, H, W)`, uint8, in memory or stored (see
            :class:`~train.data.streaming.stored.StoredImages`); grey ones in memory may be given as
            :math:`(M, H, W)`.
        labels: What networks take: class indices, of shape :math:`(M)`, int64; or quantities, of
            shape :math:`(M)` or :math:`(M, K)`, float32; None if there are none, or if they are
            several columns of text.
        given: The labels with the values that the data set has for them, of shape :math:`(M)` or
            :math:`(M, K)`; None if these are the values of ``labels``.
        columns: All that the data set says of an image, by name: arrays of shape :math:`(M)` of
            classes (int64 or text) or quantities (float64). ``labels`` are one or several of these,
            if the data set has names for them.
    """

    images: Tensor | StoredImages
    labels: Tensor | None
    given: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.images, Tensor) and self.images.ndim == 3:
            object.__setattr__(self, "images", self.images.unsqueeze(1))

    @classmethod
    def labelled(cls, images: Tensor | StoredImages, labels: np.ndarray | None) -> Images:
        r"""Combines images with labels as :func:`~train.data.labels.as_labels` returns them."""
        if labels is None:
            return cls(images, None)
        if are_classes(labels):
            return cls(images, Classes.of(labels).encode(labels), labels)
        if labels.dtype.kind == "U":
            return cls(images, None, labels)
        return cls(images, torch.from_numpy(labels.astype(np.float32)), labels)

    @classmethod
    def of_columns(
        cls,
        images: Tensor | StoredImages,
        columns: Mapping[str, np.ndarray],
        label: str | None = None,
    ) -> Images:
        r"""Combines images with named columns.

        Args:
            images: Grey levels or colours, uint8.
            columns: Arrays of shape :math:`(M)`: see :func:`~train.data.labels.as_labels`.
            label: The column that is the label; the first one if not given.
        """
        unlabelled = cls(images, None, columns=dict(columns))
        return unlabelled.with_labels(label or next(iter(columns))) if columns else unlabelled

    def with_labels(self, *names: str) -> Images:
        """Returns the images with the named columns as their labels.

        Args:
            names: One column of classes or quantities, or several, all of quantities.

        Raises:
            InputError: If there is no such column.
        """
        chosen = [self.column(name) for name in names]
        labels = chosen[0] if len(chosen) == 1 else np.stack(chosen, axis=1)
        return replace(Images.labelled(self.images, labels), columns=self.columns)

    def column(self, name: str) -> np.ndarray:
        r"""Returns a column by its name, of shape :math:`(M)`.

        Raises:
            InputError: If there is no such column.
        """
        names = ", ".join(self.columns) or "none"
        require(name in self.columns, f"--data has no column {name}: its columns are {names}")
        return self.columns[name]

    @property
    def values(self) -> np.ndarray | None:
        """The labels with the values that the data set has for them."""
        return self.labels.numpy() if self.given is None and self.labels is not None else self.given

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> Shape:
        """Channels, height and width of an image."""
        return Shape(*self.images.shape[1:])

    @property
    def max_batch_size(self) -> int:
        """The largest batch that :meth:`batches` can draw."""
        return len(self)

    def select(self, index: Tensor) -> Images:
        r"""Returns the images, and their labels, at ``index`` of shape :math:`(L)`."""
        images = self.images
        return Images(
            images[index] if isinstance(images, Tensor) else images.select(index),
            None if self.labels is None else self.labels[index],
            None if self.given is None else self.given[index.numpy()],
            {name: column[index.numpy()] for name, column in self.columns.items()},
        )

    def hold_out(self, one_in: int = 5) -> Split:
        """Holds out a fixed random subset, stratified by class where labels are classes.

        Args:
            one_in: One image in so many is held out. If there are fewer images, one is.
        """
        classes = None
        if self.labels is not None and not self.labels.is_floating_point():
            classes = self.labels.numpy()
        indices = hold_out(len(self), classes, min(one_in, len(self)))
        return Split(*(self.select(torch.from_numpy(rows)) for rows in indices))

    def batches(
        self, batch_size: int, seed: int, device: torch.device | str, *others: Tensor
    ) -> Callable[[int], tuple[Tensor, ...]]:
        r"""Returns a function from a step to its batch: images, and the same rows of ``others``.

        The images are of shape :math:`(B, C, H, W)`, float32, in [0, 1].

        Args:
            batch_size: Images in a batch, :math:`B`.
            seed: Seed of the order of the images.
            device: Device of the batches.
            others: Further tensors with a row for each image, of shape :math:`(M, *)`.

        Raises:
            InputError: If a batch is larger than :attr:`max_batch_size`.
        """
        return batches_of(self.images, others, batch_size, seed, device)

    def drawn(self, batches: Drawing, device: torch.device | str, seed: int) -> Any:
        """Returns batches as they are if the images are in memory, and else what reads them.

        Args:
            batches: Batches that draw among these images.
            device: Device of the batches.
            seed: Seed of the random numbers that a data set draws.
        """
        if isinstance(self.images, Tensor):
            return batches
        return LoadedBatches(self.images, Plan(batches.indices), device, seed=seed)

    @property
    def known_labels(self) -> Tensor:
        """The labels that networks take.

        Raises:
            InputError: If there are none, or they are several columns of text.
        """
        self.require_labels()
        require(self.labels is not None, "--data: the labels are text: give one column for classes")
        assert self.labels is not None
        return self.labels

    def require_labels(self) -> np.ndarray:
        """Returns the labels with the values that the data set has for them.

        Raises:
            InputError: If there are no labels.
        """
        if self.values is not None:
            return self.values
        remedy = (
            f"--label-column chooses one of its columns, {', '.join(self.columns)}"
            if self.columns
            else "add --labels FILE.csv, or an array labels to the .npz, give folders of classes, "
            "or a labelled data set, such as mnist5k"
        )
        raise InputError(f"--data has no labels: {remedy}")

    def require_contrast(self) -> None:
        """Raises :class:`InputError` if all images are identical."""
        first = self.images[:1]
        require(
            any(bool((chunk != first).any()) for chunk in self.images.split(10_000)),
            "--data: every image is the same one: there is nothing to encode",
        )


class Split(NamedTuple):
    """Images to train on and images to evaluate on; no image is in both."""

    train: Images
    held_out: Images


class ValidationSplit(NamedTuple):
    """A split whose validation images are held out of the training images, to select weights."""

    train: Images
    validation: Images
    held_out: Images
