"""A trained ABC: encode, retrieve."""

from __future__ import annotations

import torch
from torch import Tensor

from train.arguments import whole
from train.errors import require
from train.explorer.sets import SetsView
from train.losses import correspondence
from train.verbs.base import Array, TensorFunction, Trained


class TrainedABC(Trained):
    """A trained embedder of style, of ``train.abc``."""

    view = SetsView

    @property
    def code_size(self) -> int:
        return self.settings.embed_dim

    def encode(self, images: Array) -> Tensor:
        return self.in_batches(self.objective.embedder, self.rows(images))

    def functions(self) -> dict[str, TensorFunction]:
        images, embedder = {"image": self.example(*self.shape.outside)}, self.objective.embedder
        return {
            "encoder": TensorFunction(lambda x: embedder(self.with_channels(x)), images, ("z",))
        }

    def retrieve(self, query: Array, gallery: Array, k: int = 1) -> Tensor:
        r"""Retrieves the images of a gallery whose embeddings are nearest to those of queries.

        Args:
            query: :math:`M` images.
            gallery: Images to retrieve from.
            k: The number of images to retrieve for each query, from 1 to the size of the gallery.

        Returns:
            Indices in the gallery, nearest first, of shape :math:`(M, k)`.

        Raises:
            InputError: If the gallery is empty, or has fewer than ``k`` images.
        """
        candidates = self.encode(gallery)
        require(len(candidates) > 0, "the gallery is empty: give images to retrieve from")
        k = whole("k", k)
        require(k <= len(candidates), f"k is {k}: the gallery has {len(candidates)} images")
        return self.nearest(self.encode(query), candidates, k)

    def nearest(self, codes: Tensor, candidates: Tensor, k: int) -> Tensor:
        r"""Returns the indices of the candidates that are nearest to codes.

        Args:
            codes: Of shape :math:`(M, D)`, as :meth:`encode` returns them.
            candidates: Of shape :math:`(L, D)`.
            k: The number of candidates for each code, from 1 to :math:`L`.

        Returns:
            Nearest first, of shape :math:`(M, k)`.
        """
        kind = self.settings.similarity
        parts = codes.split(100)
        nearest = [
            correspondence.similarity(part, candidates, kind).topk(k, dim=-1) for part in parts
        ]
        return torch.cat([found.indices for found in nearest])
