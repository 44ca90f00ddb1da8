"""What a model is told of each image: classes or quantities, as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train.data.digits import Images
from train.settings import require


@dataclass(frozen=True, eq=False)
class Condition:
    r"""Turns labels into a known factor :math:`c`.

    Attributes:
        classes: The number of classes; 0 for quantities.
        loc: The quantities' means in the training split, of shape :math:`(K)`.
        scale: Their standard deviations.
    """

    classes: int
    loc: Tensor
    scale: Tensor

    @classmethod
    def of(cls, train: Images, held_out: Images) -> Condition:
        """The condition for labels as they are in the training split.

        Raises:
            InputError: If there are no labels, or they are all the same, or a held-out one is of a
                class that training never saw.
        """
        labels = train.labels
        require(labels is not None, "--data has no labels: add an array labels to the .npz")
        if labels.is_floating_point():
            columns = labels.reshape(len(labels), -1).double()
            scale = columns.std(0)
            require(
                bool((scale > 0).all()),
                "--data: a column of the labels is the same for every image: leave it out",
            )
            return cls(0, columns.mean(0).float(), scale.float())
        classes = int(max(labels.max(), held_out.labels.max())) + 1
        require(
            len(labels.unique()) > 1,
            "--data has a single class: there is nothing to be invariant to",
        )
        unseen = set(held_out.labels.unique().tolist()) - set(labels.unique().tolist())
        require(
            not unseen,
            f"--data: class {min(unseen, default=0)} is held out whole: add more of it",
        )
        return cls(classes, torch.zeros(0), torch.zeros(0))

    def state(self) -> dict[str, Any]:
        """Plain values, from which :meth:`restored` makes it again."""
        return {"classes": self.classes, "loc": self.loc.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Condition:
        """The condition of a :meth:`state`."""
        loc, scale = (torch.tensor(state[name]) for name in ("loc", "scale"))
        return cls(int(state["classes"]), loc, scale)

    @property
    def size(self) -> int:
        r"""The size :math:`C` of :math:`c`."""
        return self.classes or len(self.loc)

    def __call__(self, labels: Tensor) -> Tensor:
        r""":math:`c` of labels: classes as one-hot, quantities standardised: :math:`(M, C)`."""
        if self.classes:
            return torch.nn.functional.one_hot(labels, self.classes).float()
        return (labels.reshape(len(labels), -1).float() - self.loc) / self.scale

    def told(self, images: Images, labels: bool = True) -> Tensor:
        r""":math:`c` of images, of shape :math:`(M, C)`; of no columns if labels are not told."""
        return self(images.labels) if labels else torch.zeros(len(images), 0)
