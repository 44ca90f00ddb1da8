"""A trained ICVAE of tables: encode rows, decode them under other conditions, draw rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from torch import Tensor

from pyro_models.shapes import Shape
from train.arguments import whole
from train.data.conditions import named_columns
from train.data.tabular.frames import cleaned
from train.data.tabular.schema import Schema
from train.errors import InputError, require
from train.verbs.base import Codec, Labels, TensorFunction
from train.verbs.conditional import TrainedICVAE


class TrainedTable(TrainedICVAE):
    r"""A trained ICVAE of rows of a table, of ``train.icvae --data people.csv``.

    Rows are data frames with the columns of the run; others are not looked at. Conditions are read
    from the data frame, if it has their columns, or given as ``labels``: a mapping of names to
    values, one for all rows or one for each. See :class:`~train.verbs.conditional.TrainedICVAE` on
    what sampled codes and means reveal.

    Attributes:
        schema: What the columns hold.
    """

    view = None

    def check(self, inputs: Mapping[str, Any]) -> None:
        super().check(inputs)
        self.schema = Schema.from_state(inputs["schema"])

    def rows(self, images: Any) -> Tensor:
        r"""Encodes a data frame for the networks, of shape :math:`(M, K)`, on the device."""
        if not isinstance(images, pd.DataFrame):
            try:
                images = pd.DataFrame(images)
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"rows are a {type(images).__name__}: give a data frame"
                ) from error
        return self.schema.encode(cleaned(images)).to(self.device)

    def labels_in(self, rows: Any, labels: Labels | None) -> Labels | None:
        """Returns labels, those of a data frame if none are given."""
        if not self.settings.conditional:
            return labels
        known = named_columns(rows) or {}
        names = [part.name for part in self.condition.parts]
        own = {name: known[name] for name in names if name in known}
        if labels is None:
            return own or None
        if (given := named_columns(labels)) is not None:
            return own | given
        return labels

    def encode(
        self,
        images: Any,
        labels: Labels | None = None,
        *,
        sample: bool = False,
        seed: int | None = None,
    ) -> Tensor:
        r"""Encodes rows to codes, of shape :math:`(M, D)`; see
        :meth:`train.verbs.conditional.TrainedICVAE.encode`."""
        if self.settings.encoder_sees_labels:
            labels = self.labels_in(images, labels)
        return super().encode(images, labels, sample=sample, seed=seed)

    def decode(self, z: Tensor | ArrayLike, labels: Labels | None = None) -> pd.DataFrame:
        """Decodes codes under conditions to the most probable rows."""
        z = self.codes(z)
        conditions = self.conditions(labels, len(z))
        return self.schema.decode(self.in_batches(self.objective.model.decode, z, conditions))

    def reconstruct(self, images: Any, labels: Labels | None = None) -> pd.DataFrame:
        """Encodes rows and decodes their codes; no cell of the result is missing."""
        labels = self.labels_in(images, labels)
        return self.decode(self.encode(images, labels), labels)

    def impute(self, images: pd.DataFrame, labels: Labels | None = None) -> pd.DataFrame:
        """Returns rows whose missing cells are filled in with what their codes are decoded to."""
        decoded = self.reconstruct(images, labels).set_index(images.index)
        return images.assign(
            **{
                name: images[name].astype(object).where(images[name].notna(), decoded[name])
                for name in self.schema.names
            }
        )

    def transfer(self, images: Any, c: Labels, labels: Labels | None = None) -> pd.DataFrame:
        """Encodes rows, and decodes their codes under other conditions: the same person with
        another ``c``.

        Args:
            images: Rows.
            c: The conditions to decode under. Those that it does not name stay as they are in the
                rows or in ``labels``.
            labels: The conditions of the rows, if they have no columns of them.
        """
        known = self.labels_in(images, labels)
        if isinstance(c, Mapping) and (others := named_columns(known)) is not None:
            c = others | dict(c)
        return super().transfer(images, c, known)

    def resized(self, shape: Any = None, max_objects: int | None = None) -> TrainedTable:
        raise InputError("a run of a table has no images: leave out shape and max_objects")

    def interpolate(self, *args: Any, **options: Any) -> Any:
        raise InputError("rows have categories, between which there is nothing: use decode")

    def sample(self, n: int, labels: Labels | None = None) -> pd.DataFrame:
        """Draws rows from the model under conditions.

        Raises:
            InputError: If the model has no prior because of Echo noise.
        """
        require(
            not self.echo,
            "codes with Echo noise have no prior to draw from: decode those of rows, "
            "encode(rows, sample=True)",
        )
        n = whole("n", n)
        drawn = self.in_batches(self.objective.model.sample, self.conditions(labels, n))
        return self.schema.decode(drawn)

    def predict(self, images: Any, labels: Labels | None = None) -> np.ndarray:
        """Predicts the target from the means of codes.

        Raises:
            InputError: If the target has no likelihood.
        """
        target = self.schema.modelled
        if target is None:
            raise InputError(
                "this model does not predict a target: train it with --target and --target-weight"
            )
        z = self.encode(images, labels)
        row = self.in_batches(lambda z: self.objective.model.target_given(z).mode, z)
        return target.decode(row[:, 0].cpu().numpy())

    def codec(self, shape: Shape) -> Codec:
        raise InputError("a run of a table is not compared on images: leave it out")

    def functions(self) -> dict[str, TensorFunction]:
        model, guide = self.objective.model, self.objective.guide
        row = self.example(len(self.schema.encoded))
        return self.exported({"row": row}, guide.encode, "decoded", model.decode)
