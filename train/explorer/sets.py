"""The view of ABC: an image, and its nearest neighbours in every other set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from train.arguments import whole
from train.data.labelled import Images
from train.data.stacks import Sets
from train.explorer.arrays import images_of, packed
from train.explorer.base import Fields
from train.explorer.codes import EncodedView
from train.explorer.measures import Measure

MOST_NEIGHBOURS = 8


class SetsView(EncodedView):
    """Embeddings of style, and sets whose images have it in common."""

    kind = "sets"

    def measures(self) -> Sequence[Measure]:
        return (
            Measure("class_accuracy", "class read from embeddings", "class_accuracy_pca", True),
            Measure(
                "retrieval_error", "error in style of the nearest image", "retrieval_error_random"
            ),
        )

    def __init__(
        self, trained: Any, held_out: Images, name: str, results: Mapping[str, Any]
    ) -> None:
        super().__init__(trained, held_out, name, results)
        sets = Sets.of(held_out, column=trained.settings.set_column)
        # Rows of the held-out images by set, in the order of the sets.
        self.rows = {
            str(value): np.flatnonzero(sets.indices[0].numpy() == index)
            for index, value in enumerate(sets.classes.values)
        }

    def description(self) -> dict[str, Any]:
        withheld = [str(each) for each in self.trained.settings.withheld]
        sets = [
            {"name": name, "rows": rows.tolist(), "withheld": name in withheld}
            for name, rows in self.rows.items()
        ]
        similarity = self.trained.settings.similarity
        return super().description() | {"sets": sets, "similarity": similarity}

    @property
    def verbs(self) -> Mapping[str, Callable[[Fields], dict[str, Any]]]:
        return {**super().verbs, "nearest": self.nearest}

    def nearest(self, fields: Fields) -> dict[str, Any]:
        """Finds the nearest held-out images of one of ``images``, in each set.

        Returns:
            ``code`` of the image, and for each set the indices of its ``k`` nearest images.
        """
        images = images_of(fields.get("images"), self.shape)[:1]
        k = whole("k", fields.get("k", 1), least=1, most=MOST_NEIGHBOURS)
        code = self.trained.encode(images)
        codes = torch.from_numpy(self.codes).to(code.device)
        found = {}
        for name, rows in self.rows.items():
            nearest = self.trained.nearest(code, codes[rows], min(k, len(rows)))[0].cpu().numpy()
            found[name] = rows[nearest].tolist()
        return {"code": packed(code), "nearest": found}
