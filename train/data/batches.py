"""Mini-batches of data that lives on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from train.errors import require


class Batches:
    r"""Mini-batches as a function of the seed and the step alone.

    The data is on the device as whole tensors, and a batch is their rows at some indices. Each
    epoch is a new permutation of the examples, cut into batches of one size; the examples left
    over, fewer than a batch, wait for another epoch. As no state is carried from step to step, a
    resumed run draws what it would have drawn, and as permutations are drawn on the CPU so does a
    run on another device.

    Args:
        tensors: The data, each tensor of shape :math:`(M, *)`.
        batch_size: Examples in a batch.
        seed: Seed of the permutations, :math:`\ge 0`.
        device: Where the batches are wanted.

    Raises:
        InputError: If a batch is larger than the data.

    Example:
        >>> images = torch.zeros(10, 28, 28, dtype=torch.uint8)
        >>> batches = Batches((images,), batch_size=4, seed=0, device="cpu")
        >>> batches(step=7)[0].shape
        torch.Size([4, 28, 28])
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
        r"""The batch of a step, counted from 0: rows of each tensor, grey levels as numbers.

        Tensors of bytes are images and come as single precision in [0, 1].
        """
        rows = self.indices(step)
        return tuple(as_input(tensor.index_select(0, rows)) for tensor in self.tensors)

    def indices(self, step: int) -> Tensor:
        r"""The examples of a step.

        Args:
            step: The step, counted from 0 over the whole run.

        Returns:
            Distinct indices in :math:`[0, n)`, of shape :math:`(B,)`, int64, on the device.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            permutation = np.random.default_rng([self.seed, epoch]).permutation(self.n)
            # Moved once an epoch, so that a step copies nothing from the host.
            self._permutation = torch.from_numpy(permutation).to(self.device)
            self._epoch = epoch
        start = position * self.batch_size
        return self._permutation[start : start + self.batch_size]


def as_input(tensor: Tensor) -> Tensor:
    """What networks take: grey levels 0 to 255 as numbers from 0 to 1, all else as it is."""
    return tensor.float().div_(255) if tensor.dtype == torch.uint8 else tensor


@torch.no_grad()
def codes_of(
    encode: Callable[[Tensor], Tensor], images: Tensor, device: torch.device, batch: int = 1_000
) -> np.ndarray:
    r"""Codes of images, some at a time.

    Args:
        encode: From images :math:`(B, H, W)` in [0, 1] to codes :math:`(B, D)`.
        images: Of shape :math:`(M, H, W)`, uint8.
        device: Where to encode them.
        batch: How many at a time.

    Returns:
        Of shape (M, D).
    """
    parts = (as_input(part.to(device)) for part in images.split(batch))
    return torch.cat([encode(part).cpu() for part in parts]).numpy()
