"""The view of AIR: a scene, and the objects that the model finds in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from pyro_models.networks import aspect
from train.arguments import whole
from train.data.labelled import Images
from train.data.streaming.stored import in_memory
from train.errors import require
from train.explorer.arrays import images_of, packed, packed_images, rows_of
from train.explorer.base import Fields, View
from train.explorer.measures import RECONSTRUCTION, Measure, told

MEASURES = (
    Measure("count_accuracy", "scenes counted right", "count_accuracy_majority", share=True),
    Measure("ap_50", "average precision of boxes"),
    RECONSTRUCTION,
)
MOST_DRAWS = 16
SEEDS = 2**32


class ScenesView(View):
    """Scenes to draw, to look into and to change.

    Args:
        trained: A :class:`train.verbs.scenes.TrainedAIR`.
        held_out: Held-out scenes, in memory.
        name: What the page calls the run.
        results: The run's ``results.json``; empty if it has none.
    """

    kind = "scenes"

    def __init__(
        self, trained: Any, held_out: Images, name: str, results: Mapping[str, Any]
    ) -> None:
        super().__init__(name)
        self.trained, self.held_out, self.results = trained, held_out, results

    @property
    def model(self) -> Any:
        """The generative model."""
        return self.trained.objective.model

    def description(self) -> dict[str, Any]:
        model, shape = self.model, self.trained.shape
        counts = self.held_out.columns.get("counts")
        return {
            "kind": self.kind,
            "name": self.name,
            "method": self.trained.method.name,
            "shape": list(shape),
            "objects": model.max_objects,
            "what": model.what_dim,
            "background": model.background.size,
            "counts": None if counts is None else counts.tolist(),
            # A window of a place (log s, x, y) covers the centre -(x, y) / s, plus and minus 1 / s,
            # where s of each axis has the factor of the canvas' aspect.
            "aspect": list(aspect(shape.sides)) if model.square_windows else [1.0, 1.0],
            "where": {"loc": model.where_loc.tolist(), "scale": model.where_scale.tolist()},
            "presence": model.step_logits().sigmoid().tolist(),
            "measures": told(self.results, MEASURES),
        }

    @property
    def verbs(self) -> Mapping[str, Callable[[Fields], dict[str, Any]]]:
        return {
            "images": self.images,
            "detect": self.detect,
            "decode": self.decode,
            "sample": self.sample,
        }

    def images(self, fields: Fields) -> dict[str, Any]:
        """Returns the held-out scenes."""
        return {"images": packed_images(in_memory(self.held_out.images), self.trained.shape)}

    def detect(self, fields: Fields) -> dict[str, Any]:
        """Returns the objects in one of ``images``: see :class:`guides.stepwise.Detection`."""
        shape = self.trained.shape
        found = self.trained.detect(images_of(fields.get("images"), shape)[:1])
        plain = ("counts", "probabilities", "boxes", "z_where", "z_what", "z_background")
        return {
            **{name: packed(getattr(found, name)[0]) for name in plain},
            "masks": packed((found.masks[0] * 255).round().to(torch.uint8)),
            "reconstruction": packed_images(found.reconstruction.clamp(0, 1), shape),
        }

    def decode(self, fields: Fields) -> dict[str, Any]:
        """Returns the scenes of ``codes``: see :meth:`train.verbs.scenes.TrainedAIR.decode`."""
        z = torch.from_numpy(rows_of(fields.get("codes"), self.trained.code_size))
        return {"images": packed_images(self.trained.decode(z), self.trained.shape)}

    def sample(self, fields: Fields) -> dict[str, Any]:
        """Draws ``n`` scenes from the prior, of ``count`` objects or as many as it draws."""
        n = whole("n", fields.get("n", 1), least=1, most=MOST_DRAWS)
        seed = whole("seed", fields.get("seed", 0), least=0, most=SEEDS - 1)
        count = fields.get("count")
        require(count is None or type(count) is int, "count is no whole number, nor null")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            scene = self.trained.sample(n, count)
        images = packed_images(scene.canvas, self.trained.shape)
        return {"images": images, "counts": packed(scene.counts)}
