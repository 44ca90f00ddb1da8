"""What ABC's trained embedder can do."""

from __future__ import annotations

import torch
from torch import Tensor

from train import losses
from train.arguments import whole
from train.errors import require
from train.verbs.base import Array, TensorFunction, Trained


class TrainedABC(Trained):
    """An embedder of style: ``train.abc``."""

    @property
    def code_size(self) -> int:
        return self.settings.embed_dim

    def encode(self, images: Array) -> Tensor:
        return self.in_batches(self.objective.embedder, self.inputs(images))

    def functions(self) -> dict[str, TensorFunction]:
        images = {"image": self.example(*self.shape)}
        return {"encoder": TensorFunction(self.objective.embedder, images, ("z",))}

    def retrieve(self, query: Array, gallery: Array, k: int = 1) -> Tensor:
        r"""Finds the images of a gallery that are most similar in style, the nearest first.

        Args:
            query: Images, :math:`M` of them.
            gallery: Images to choose from.
            k: How many for each query, at most as many as the gallery has.

        Returns:
            Their indices in the gallery, of shape :math:`(M, k)`.
        """
        candidates = self.encode(gallery)
        require(len(candidates) > 0, "the gallery is empty: give images to choose from")
        k = whole("k", k)
        require(k <= len(candidates), f"k is {k}: the gallery has {len(candidates)} images")
        kind = self.settings.similarity

        def nearest(codes: Tensor) -> Tensor:
            return losses.similarity(codes, candidates, kind).topk(k, dim=-1).indices

        return torch.cat([nearest(codes) for codes in self.encode(query).split(100)])
