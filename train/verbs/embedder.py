"""A trained ABC: encode, retrieve."""

from __future__ import annotations

import torch
from torch import Tensor

from train.arguments import whole
from train.errors import require
from train.losses import correspondence
from train.verbs.base import Array, TensorFunction, Trained


class TrainedABC(Trained):
    """A trained embedder of style, of ``train.abc``."""

    @property
    def code_size(self) -> int:
        return self.settings.embed_dim

    def encode(self, images: Array) -> Tensor:
        return self.in_batches(self.objective.embedder, self.inputs(images))

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
        kind = self.settings.similarity

        def nearest(codes: Tensor) -> Tensor:
            return correspondence.similarity(codes, candidates, kind).topk(k, dim=-1).indices

        return torch.cat([nearest(codes) for codes in self.encode(query).split(100)])
