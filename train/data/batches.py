"""Mini-batches of data that are stored on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from train.errors import require

if TYPE_CHECKING:
    from train.data.streaming.stored import StoredImages


class Batches:
    r"""Mini-batches, each determined by the seed and the step alone.

    The data are on the device as whole tensors, and a batch gathers rows of them. Each epoch is a
    new permutation of the examples, cut into batches of equal size; the last examples, fewer than
    a batch, are left out of that epoch. There is no state, so a resumed run draws the batches that
    it would have drawn without a break. Permutations are drawn on the CPU, so that they do not
    depend on the device.

    Args:
        tensors: The data, each tensor of shape :math:`(M, *)`.
        batch_size: Examples in a batch, :math:`1 \le B \le M`.
        seed: Seed of the permutations, :math:`\ge 0`.
        device: Device of the batches.

    Raises:
        InputError: If a batch is empty or larger than the data.

    Example:
        >>> images = torch.zeros(10, 1, 28, 28, dtype=torch.uint8)
        >>> batches = Batches((images,), batch_size=4, seed=0, device="cpu")
        >>> batches(step=7)[0].shape
        torch.Size([4, 1, 28, 28])
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        batch_size: int,
        seed: int,
        device: torch.device | str,
    ) -> None:
        n = len(tensors[0])
        require(batch_size >= 1, f"--batch-size is {batch_size}: give 1 or more")
        require(
            batch_size <= n,
            f"--batch-size {batch_size} is larger than the {n} training examples: give {n} or less",
        )
        self.tensors = [tensor.to(device) for tensor in tensors]
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.device = torch.device(device)
        self.steps_per_epoch = n // batch_size
        self._epoch: int | None = None
        self._permutation = torch.empty(0, dtype=torch.int64)

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        r"""Returns the batch of a step, counted from 0.

        It has a tensor of shape :math:`(B, *)` for each tensor of the data: see :func:`as_input`.
        """
        rows = self.indices(step)
        return tuple(as_input(tensor.index_select(0, rows)) for tensor in self.tensors)

    def indices(self, step: int) -> Tensor:
        r"""Returns the indices of a step's examples.

        Args:
            step: The step, counted from 0 over the whole run.

        Returns:
            Distinct indices in :math:`[0, M)`, of shape :math:`(B)`, int64, on the device.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            permutation = np.random.default_rng([self.seed, epoch]).permutation(self.n)
            # Copied once an epoch, so that a step copies nothing from the host.
            self._permutation = torch.from_numpy(permutation).to(self.device)
            self._epoch = epoch
        start = position * self.batch_size
        return self._permutation[start : start + self.batch_size]


def as_input(tensor: Tensor) -> Tensor:
    """Scales uint8 grey levels to float32 in [0, 1]; returns other tensors unchanged."""
    return tensor.float().div_(255) if tensor.dtype == torch.uint8 else tensor


@torch.no_grad()
def codes_of(
    encode: Callable[[Tensor], Tensor],
    images: Tensor | StoredImages,
    device: torch.device,
    batch: int = 1_000,
) -> np.ndarray:
    r"""Encodes images in batches.

    Args:
        encode: Maps images :math:`(B, C, H, W)` in [0, 1] to codes :math:`(B, D)`.
        images: Images, of shape :math:`(M, C, H, W)`, uint8.
        device: Device to encode on.
        batch: Images in a batch.

    Returns:
        The codes, of shape (M, D).
    """
    batches = (as_input(chunk.to(device)) for chunk in images.split(batch))
    return torch.cat([encode(x).cpu() for x in batches]).numpy()
