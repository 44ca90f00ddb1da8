"""Converts labels, or named columns of the data, to the condition :math:`c` of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from train.data.circular import is_circular, on_circle
from train.data.labelled import Images
from train.data.labels import Classes, as_labels
from train.errors import InputError, require

LABELS = "labels"
"""The name of the condition that is the labels of the data, whatever their column is called."""


COUNTED = Classes(())
"""The classes 0, 1, ..., as many as a condition has."""


class Labelled(Protocol):
    """What a condition is read from: images, or rows of a table."""

    def __len__(self) -> int:
        """The number of data."""

    @property
    def known_labels(self) -> Tensor:
        """See :attr:`train.data.labelled.Images.known_labels`."""

    def require_labels(self) -> np.ndarray:
        """See :meth:`train.data.labelled.Images.require_labels`."""

    def column(self, name: str) -> np.ndarray:
        """Returns a column by its name."""


@dataclass(frozen=True, eq=False)
class Condition:
    r"""Converts labels to a condition :math:`c`: one-hot classes, or standardised quantities.

    Attributes:
        classes: The number of classes; 0 for quantities.
        loc: The means of the quantities in the training split, of shape :math:`(K)`.
        scale: Their standard deviations, of shape :math:`(K)`.
        values: The classes with their values in the data set; 0, 1, ... if not given.
        name: The name of the column; None for the labels where they are the only condition.
        circular: Whether the quantity is a hue, of which sine and cosine are standardised: see
            :mod:`train.data.circular`.
    """

    classes: int
    loc: Tensor
    scale: Tensor
    values: Classes = COUNTED
    name: str | None = None
    circular: bool = False

    def __post_init__(self) -> None:
        if len(self.values) != self.classes:
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
        labels = train.known_labels
        if labels.is_floating_point():
            return cls._of_quantities(labels.reshape(len(train), -1).double())
        known, other = (set(images.require_labels().tolist()) for images in (train, held_out))
        return cls._of_classes(known, other)

    @classmethod
    def fit_column(cls, name: str, train: Images, held_out: Images) -> Condition:
        """Returns the condition for a named column; ``labels`` is the labels.

        Args:
            name: The column's name.
            train: Training images.
            held_out: Held-out images.

        Raises:
            InputError: If there is no such column, a value is missing, it is constant, or a
                held-out image is of a class that is not in the training split.
        """
        require_unambiguous(name, train)
        if name == LABELS:
            return replace(cls.fit(train, held_out), name=name)
        require(
            name in train.columns,
            f"--condition {name}: --data has no such column: its columns are "
            f"{', '.join(train.columns) or 'none'}",
        )
        column, other = train.column(name), held_out.column(name)
        where = f"--condition {name}"
        if column.dtype.kind == "f":
            missing = int((~np.isfinite(np.concatenate([column, other]))).sum())
            require(
                not missing,
                f"{where}: {missing} of its values are missing: fill them in, or leave those "
                "images out",
            )
            circular = is_circular(name, column) and is_circular(name, other)
            features = on_circle(column) if circular else column[:, None]
            condition = cls._of_quantities(torch.from_numpy(features), where)
            return replace(condition, name=name, circular=circular)
        condition = cls._of_classes(set(column.tolist()), set(other.tolist()), where)
        return replace(condition, name=name)

    @classmethod
    def _of_quantities(cls, columns: Tensor, where: str | None = None) -> Condition:
        # Not a scale above 0, which rounding gives equal fractions.
        require(
            bool((columns.amax(0) > columns.amin(0)).all()),
            f"{where or '--data: a column of the labels'} is the same for every image: leave it "
            "out",
        )
        return cls(0, columns.mean(0).float(), columns.std(0).float())

    @classmethod
    def _of_classes(
        cls, train: set[int | str], held_out: set[int | str], where: str | None = None
    ) -> Condition:
        require(
            len(train) > 1,
            f"{where or '--data'} has a single class: there is nothing to be invariant to",
        )
        unknown = sorted(held_out - train)
        require(
            not unknown,
            f"{where or '--data'}: all images of class {next(iter(unknown), '')} are held out: add "
            "more of them",
        )
        return cls(len(train), torch.zeros(0), torch.zeros(0), Classes(tuple(sorted(train))))

    @classmethod
    def none(cls) -> Condition:
        """The condition of images without labels: of no columns, once it is standardised."""
        return cls(0, torch.zeros(1), torch.ones(1))

    def state(self) -> dict[str, Any]:
        """Returns plain values for :meth:`from_state`, as JSON takes them."""
        state = {
            "classes": self.classes,
            "loc": self.loc.tolist(),
            "scale": self.scale.tolist(),
            "values": list(self.values.values),
        }
        return (
            state if self.name is None else state | {"name": self.name, "circular": self.circular}
        )

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Condition:
        """Restores a condition from :meth:`state`; that of earlier versions has no ``values``.

        Raises:
            ValueError: If the values are not those of a condition.
        """
        loc, scale = (torch.tensor(state[name]) for name in ("loc", "scale"))
        n = int(state["classes"])
        classes = Classes.from_saved(state.get("values"), n)
        return cls(n, loc, scale, classes, state.get("name"), bool(state.get("circular", False)))

    @property
    def parts(self) -> tuple[Condition, ...]:
        """The conditions that it is made of: itself."""
        return (self,)

    @property
    def size(self) -> int:
        r"""The size :math:`C` of :math:`c`."""
        return self.classes or len(self.loc)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of :attr:`parts`."""
        return (self.size,)

    @property
    def width(self) -> int:
        r"""The number :math:`K` of columns of the labels."""
        return 1 if self.classes or self.circular else self.size

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
        if self.circular:
            labels = torch.from_numpy(on_circle(labels.reshape(-1).numpy()))
        return (labels.reshape(len(labels), -1).float() - self.loc) / self.scale

    def column(self, images: Labelled) -> np.ndarray:
        r"""Returns what images have for the condition, of shape :math:`(M)` or :math:`(M, K)`.

        Raises:
            InputError: If there is no such column.
        """
        if self.name is None or self.name == LABELS:
            return images.require_labels()
        return images.column(self.name)

    def targets(self, images: Labelled) -> np.ndarray:
        r"""Returns what adversaries predict: class indices :math:`(M)`, or quantities.

        Quantities are of shape :math:`(M)` or :math:`(M, K)`; hues are sine and cosine.
        """
        if self.name in (None, LABELS):
            return images.known_labels.numpy()
        column = self.column(images)
        if self.classes:
            return self.values.encode(column).numpy()
        return on_circle(column) if self.circular else column

    def of_images(self, images: Labelled, use_labels: bool = True) -> Tensor:
        r"""Returns :math:`c` of images, of shape :math:`(M, C)`.

        Args:
            images: Labelled images.
            use_labels: Whether the model is conditional; if not, :math:`c` has no columns.
        """
        if not use_labels:
            return torch.zeros(len(images), 0)
        if self.classes:
            return self(self.values.encode(self.column(images)))
        if self.name in (None, LABELS):
            return self(images.known_labels)
        return self(torch.from_numpy(self.column(images)))

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
        width = self.width
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


@dataclass(frozen=True, eq=False)
class JointCondition:
    r"""Several named conditions :math:`c = (c_1, \dots, c_K)`, concatenated.

    Attributes:
        parts: The conditions, each with the name of its column; classes and quantities may be
            mixed.

    Example:
        >>> columns = {"ink": np.array(["red", "blue"]), "size": np.array([0.5, 1.5])}
        >>> images = Images.of_columns(torch.zeros(2, 4, 4, dtype=torch.uint8), columns)
        >>> condition = JointCondition.fit(images, images, ["ink", "size"])
        >>> condition.of_labels({"ink": "red", "size": [1.0, 1.0]}, 2)
        tensor([[0., 1., 0.],
                [0., 1., 0.]])
    """

    parts: tuple[Condition, ...]

    @classmethod
    def fit(cls, train: Images, held_out: Images, names: Sequence[str]) -> JointCondition:
        """Returns the conditions for named columns: see :meth:`Condition.fit_column`.

        Raises:
            InputError: If a column cannot be a condition. The message names it.
        """
        return cls(tuple(Condition.fit_column(name, train, held_out) for name in names))

    def state(self) -> list[dict[str, Any]]:
        """Returns plain values for :meth:`from_state`, as JSON takes them."""
        return [part.state() for part in self.parts]

    @classmethod
    def from_state(cls, states: Sequence[Mapping[str, Any]]) -> JointCondition:
        """Restores the conditions from :meth:`state`.

        Raises:
            ValueError: If the values are not those of conditions with distinct names.
        """
        parts = tuple(map(Condition.from_state, states))
        names = [part.name for part in parts]
        if not names or len(set(names)) < len(names) or not all(isinstance(x, str) for x in names):
            raise ValueError("the conditions do not have distinct names")
        return cls(parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(part.name for part in self.parts if part.name is not None)

    @property
    def classes(self) -> dict[str, int]:
        """The number of classes of each condition by its name; 0 for quantities."""
        return {name: part.classes for name, part in zip(self.names, self.parts, strict=True)}

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of the conditions."""
        return tuple(part.size for part in self.parts)

    @property
    def size(self) -> int:
        r"""The size :math:`C` of :math:`c`."""
        return sum(self.sizes)

    def of_images(self, images: Labelled, use_labels: bool = True) -> Tensor:
        r"""Returns :math:`c` of images, of shape :math:`(M, C)`: see :meth:`Condition.of_images`.

        Raises:
            InputError: If there is no such column.
        """
        return torch.cat([part.of_images(images, use_labels) for part in self.parts], dim=1)

    def of_labels(self, labels: Any, n: int) -> Tensor:
        r"""Returns :math:`c` of labels with their values in the data set, for :math:`n` images.

        Args:
            labels: The columns by name, as a mapping or a table; each has one value for each image,
                or one for all. Or values in the order of :attr:`names`: a row for each image, of
                shape :math:`(n, K)`, or one row for all, of shape :math:`(K)`. A single condition
                takes its values alone, too.
            n: The number of images.

        Returns:
            The conditions, of shape :math:`(n, C)`.

        Raises:
            InputError: If a column is missing or unknown, or its values are not valid. The message
                names the column.
        """
        columns = self.columns(labels)
        conditions = []
        for name, part in zip(self.names, self.parts, strict=True):
            try:
                conditions.append(part.of_labels(columns[name], n))
            except InputError as error:
                raise InputError(f"{name}: {error}") from error
        return torch.cat(conditions, dim=1)

    def columns(self, labels: Any) -> dict[str, Any]:
        """Returns labels as columns by name: see :meth:`of_labels`.

        Raises:
            InputError: If a column is missing or unknown.
        """
        columns = named_columns(labels)
        if columns is None:
            return self._in_order(labels)
        remedy = f"give {', '.join(self.names)}"
        missing = [name for name in self.names if name not in columns]
        require(not missing, f"the labels have no {', '.join(missing)}: {remedy}")
        unknown = [str(name) for name in columns if name not in self.names]
        require(
            not unknown,
            f"the labels have {', '.join(unknown)}, of which this model was not told: {remedy}",
        )
        return columns

    def _in_order(self, labels: Any) -> dict[str, Any]:
        """Returns rows of values, in the order of the names, as columns by name."""
        if len(self.parts) == 1:
            return {self.names[0]: labels}
        if isinstance(labels, Tensor):
            labels = labels.detach().cpu()
        try:
            # As objects, because a row may have text and numbers.
            rows = np.array(labels, dtype=object)
        except ValueError:
            rows = np.empty(0, dtype=object)
        rows = rows[None] if rows.ndim == 1 else rows
        require(
            rows.ndim == 2
            and rows.shape[1] == len(self.parts)
            and not any(isinstance(value, list | tuple) for value in rows.flat),
            f"this model was told {', '.join(self.names)}: give labels by name, such as "
            f'{{"{self.names[0]}": ...}}, or rows of {len(self.parts)} values in this order',
        )
        return {name: rows[:, i].tolist() for i, name in enumerate(self.names)}


AnyCondition = Condition | JointCondition
"""The labels, or named columns."""


def named_columns(labels: Any) -> dict[str, Any] | None:
    """Returns the columns of a mapping, a data frame or a structured array; None for other labels.

    Args:
        labels: Labels of any type.
    """
    if isinstance(labels, Mapping):
        return dict(labels)
    if isinstance(labels, np.ndarray) and labels.dtype.names:
        return {name: labels[name] for name in labels.dtype.names}
    # pandas and Polars have a data frame of this kind, and are not dependencies.
    names = getattr(labels, "columns", None)
    if names is None or not hasattr(labels, "__getitem__"):
        return None
    return {name: np.asarray(labels[name]) for name in names}


def require_unambiguous(name: str, images: Images) -> None:
    """Checks that a column is not called like the condition ``labels`` or ``none``.

    ``labels`` always means the labels, and ``none`` no condition. A column ``labels`` that is the
    labels is no other thing.

    Args:
        name: The name of a condition.
        images: Images with columns.

    Raises:
        InputError: If a column of this name is something else.
    """
    if name not in (LABELS, "none") or name not in images.columns:
        return
    meaning = "the labels of the data" if name == LABELS else "no condition"
    require(
        name == LABELS
        and images.values is not None
        and np.array_equal(images.columns[name], images.values),
        f"--condition {name} means {meaning}, and --data has another column of this name: rename "
        "the column",
    )


def fit(train: Images, held_out: Images, condition: str | tuple[str, ...]) -> AnyCondition:
    """Returns what converts images to the condition that a setting names.

    Args:
        train: Training images.
        held_out: Held-out images.
        condition: ``"labels"``; ``"none"``; or the name of a column, or several.

    Raises:
        InputError: If a column cannot be a condition.
    """
    if condition in (LABELS, "none"):
        require_unambiguous(condition, train)
        return Condition.fit(train, held_out, optional=condition == "none")
    names = (condition,) if isinstance(condition, str) else condition
    return JointCondition.fit(train, held_out, names)


def restored(state: Any) -> AnyCondition:
    """Restores a condition from the state that ``config.json`` has of it.

    Args:
        state: A mapping for the labels, or a list of named conditions.

    Raises:
        ValueError: If it is no such state.
    """
    if isinstance(state, list):
        return JointCondition.from_state(state)
    return Condition.from_state(state)
