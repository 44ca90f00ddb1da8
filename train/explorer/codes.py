"""The view of a method with an encoder: a map of held-out codes, and what is at each point."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from train.data.labelled import Images
from train.data.streaming.stored import in_memory
from train.explorer.arrays import images_of, packed, packed_images, rows_of
from train.explorer.base import Fields, View
from train.explorer.held_out import colourings
from train.explorer.measures import RECONSTRUCTION, Measure, told
from train.planes import Plane


class EncodedView(View):
    """Held-out images, their codes and the plane that these are drawn in.

    Args:
        trained: A :class:`train.verbs.base.Trained` with the verb ``encode``.
        held_out: Held-out images, in memory.
        name: What the page calls the run.
        results: The run's ``results.json``; empty if it has none.
    """

    def __init__(
        self, trained: Any, held_out: Images, name: str, results: Mapping[str, Any]
    ) -> None:
        super().__init__(name)
        self.trained, self.held_out, self.results = trained, held_out, results
        self.codes = self.held_out_codes()
        self.plane = Plane.of(self.codes)

    def held_out_codes(self) -> np.ndarray:
        """Returns the codes of the held-out images, of shape (M, D)."""
        return self.trained.encode(self.held_out.images).cpu().numpy()

    def description(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "method": self.trained.method.name,
            "shape": list(self.shape),
            "size": self.codes.shape[1],
            "codes": packed(self.codes),
            "points": packed(self.plane.project(self.codes)),
            "plane": {name: value.tolist() for name, value in self.plane._asdict().items()},
            "colourings": colourings(self.held_out),
            "measures": told(self.results, self.measures()),
        }

    def measures(self) -> Sequence[Measure]:
        """Returns the measures of ``results`` that the page tells."""
        return ()

    @property
    def verbs(self) -> Mapping[str, Callable[[Fields], dict[str, Any]]]:
        return {"images": self.images, "encode": self.encode}

    def images(self, fields: Fields) -> dict[str, Any]:
        """Returns the held-out images."""
        return {"images": packed_images(in_memory(self.held_out.images), self.shape)}

    def encode(self, fields: Fields) -> dict[str, Any]:
        """Returns the codes of ``images``."""
        return {"codes": packed(self.trained.encode(images_of(fields.get("images"), self.shape)))}

    @property
    def shape(self) -> Any:
        """Channels, height and width of an image."""
        return self.trained.shape


class CodesView(EncodedView):
    """The view of a method that decodes codes, too."""

    kind = "codes"

    def measures(self) -> Sequence[Measure]:
        return (RECONSTRUCTION, Measure("cluster_accuracy", "classes found by k-means", share=True))

    @property
    def verbs(self) -> Mapping[str, Callable[[Fields], dict[str, Any]]]:
        return {**super().verbs, "decode": self.decode}

    def decode(self, fields: Fields) -> dict[str, Any]:
        """Returns the images of ``codes``."""
        z = torch.from_numpy(rows_of(fields.get("codes"), self.codes.shape[1]))
        return {"images": packed_images(self.trained.decode(z), self.shape)}
