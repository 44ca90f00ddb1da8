"""The view of ICVAE: a code under every condition, and what codes tell of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from train.data.labelled import Images
from train.data.streaming.stored import in_memory
from train.errors import brief, require
from train.explorer.arrays import images_of, is_number, packed, packed_images, rows_of
from train.explorer.base import Fields
from train.explorer.codes import CodesView
from train.explorer.measures import RECONSTRUCTION, Measure


class ConditionalView(CodesView):
    """Codes that are decoded under a condition: classes, quantities or several of them."""

    kind = "conditional"

    def __init__(
        self, trained: Any, held_out: Images, name: str, results: Mapping[str, Any]
    ) -> None:
        known = trained.labels_of(held_out)
        require(
            known is not None or not trained.settings.conditional,
            "labels are missing: this model decodes an image under them",
        )
        super().__init__(trained, held_out, name, results)

    def measures(self) -> Sequence[Measure]:
        found = []
        for part in self.trained.condition.parts:
            own = "class" if part.classes else "quantities"
            suffix, name = ("", own) if part.name is None else (f".{part.name}", part.name)
            share = bool(part.classes)
            read = f"{name}, read from codes" if share else f"R² of {name} read from codes"
            most = f"{name}, the most anybody can read"
            found += [
                Measure(f"leakage{suffix}", read, f"chance{suffix}", share),
                Measure(f"leakage_bound{suffix}", most, None, share),
            ]
        return (*found, RECONSTRUCTION)

    def held_out_codes(self) -> np.ndarray:
        images = self.held_out
        labels = self.trained.labels_of(images) if self.sees_labels else None
        return self.trained.encode(images.images, labels).cpu().numpy()

    @property
    def sees_labels(self) -> bool:
        """Whether the encoder takes labels, too."""
        return self.trained.settings.encoder_sees_labels and self.trained.settings.conditional

    def description(self) -> dict[str, Any]:
        parts = self.trained.condition.parts if self.trained.settings.conditional else ()
        return super().description() | {
            "conditions": [self._part(part) for part in parts],
            "encoder_sees_labels": self.sees_labels,
        }

    def _part(self, part: Any) -> dict[str, Any]:
        """Describes a condition: its classes, or the least and largest value of its quantities."""
        column = np.asarray(part.column(self.held_out))
        # The labels of the images that are shown, by which each is decoded as it is.
        own = column.reshape(len(column), -1).tolist()
        described = {"name": part.name, "classes": None, "own": own, "size": part.size}
        if part.classes:
            return described | {"classes": list(part.values.values), "own": column.tolist()}
        columns = column.reshape(len(column), -1).astype(float)
        return described | {
            "low": columns.min(0).tolist(),
            "high": columns.max(0).tolist(),
            "circular": part.circular,
            "loc": part.loc.tolist(),
            "scale": part.scale.tolist(),
        }

    def encode(self, fields: Fields) -> dict[str, Any]:
        """Returns the codes of ``images``; if the encoder sees labels, under ``labels``."""
        images = images_of(fields.get("images"), self.shape)
        n = len(images)
        labels = self.labels(fields.get("labels"), n) if self.sees_labels else None
        if self.trained.echo:
            # The noise of a code is made of the other images in its batch.
            others = self.held_out.select(torch.arange(self.trained.settings.echo_terms))
            images = torch.cat([images, in_memory(others.images)])
            if self.sees_labels:
                labels = _joined(labels, self.trained.labels_of(others))
        return {"codes": packed(self.trained.encode(images, labels)[:n])}

    def decode(self, fields: Fields) -> dict[str, Any]:
        """Returns the images of ``codes`` under ``labels``."""
        z = torch.from_numpy(rows_of(fields.get("codes"), self.codes.shape[1]))
        labels = self.labels(fields.get("labels"), len(z))
        return {"images": packed_images(self.trained.decode(z, labels), self.shape)}

    def labels(self, value: Any, n: int) -> Any:
        """Reads the labels of a request.

        Args:
            value: For each of ``n`` codes a list with a value for each condition: a class, or a
                list of quantities. ``None`` for a model without conditions.
            n: The number of codes.

        Returns:
            What the verbs of :class:`train.verbs.conditional.TrainedICVAE` take.

        Raises:
            InputError: If there are other labels than the model was told.
        """
        if not self.trained.settings.conditional:
            require(value is None, "this model has no condition: give no labels")
            return None
        parts = self.trained.condition.parts
        require(
            isinstance(value, list)
            and len(value) == n
            and all(isinstance(row, list) and len(row) == len(parts) for row in value),
            f"labels are {brief(value)}: give {n} lists of {len(parts)}",
        )
        columns = [self._column(part, [row[i] for row in value]) for i, part in enumerate(parts)]
        if parts[0].name is None:
            return columns[0]
        return {part.name: column for part, column in zip(parts, columns, strict=True)}

    @staticmethod
    def _column(part: Any, values: list[Any]) -> np.ndarray:
        for value in values:
            if part.classes:
                known = type(value) in (int, str) and value in part.values.values
                require(known, f"there is no class {brief(value)}: give {part.values}")
            else:
                require(
                    isinstance(value, list)
                    and len(value) == part.width
                    and all(map(is_number, value)),
                    f"labels have {brief(value)}: give {part.width} finite numbers for each code",
                )
        return np.array(values).reshape(len(values), *(() if part.classes else (part.width,)))


def _joined(labels: Any, others: Any) -> Any:
    """Returns labels followed by others, of the same conditions."""
    if isinstance(labels, Mapping):
        return {name: _joined(labels[name], others[name]) for name in labels}
    one, other = (np.asarray(each) for each in (labels, others))
    return np.concatenate([one, other.reshape(len(other), *one.shape[1:])])
