"""Which examples are in which mini-batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from train.settings import require


class Batches:
    r"""Mini-batches as a function of the seed and the step alone.

    Each epoch is a new permutation of the examples, cut into batches of one size; the examples
    left over, fewer than a batch, wait for another epoch. As no state is carried from step to
    step, a resumed run draws what it would have drawn, and as permutations are drawn on the CPU
    so does a run on another device.

    With several processes, each takes its share of the same batch.

    Args:
        n: The number of examples.
        batch_size: Examples in a batch, over all processes.
        seed: Seed of the permutations, :math:`\ge 0`.
        device: Where the indices are wanted.
        rank: This process, from 0 to ``world_size - 1``.
        world_size: The number of processes.

    Raises:
        InputError: If a batch is larger than the data or cannot be shared out evenly.

    Example:
        >>> batches = Batches(n=10, batch_size=4, seed=0, device="cpu")
        >>> batches.indices(step=7).shape
        torch.Size([4])
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        require(batch_size >= 1, f"--batch-size is {batch_size}: give 1 or more")
        require(
            batch_size <= n,
            f"--batch-size {batch_size} is larger than the {n} training examples: give {n} or less",
        )
        require(
            batch_size % world_size == 0,
            f"--batch-size {batch_size} cannot be shared evenly by {world_size} processes: "
            f"give a multiple of {world_size}",
        )
        self.n = n
        self.batch_size = batch_size
        self.seed = seed
        self.device = torch.device(device)
        self.steps_per_epoch = n // batch_size
        self._share = batch_size // world_size
        self._first = rank * self._share
        self._epoch: int | None = None
        self._permutation = torch.empty(0, dtype=torch.int64)

    def indices(self, step: int) -> Tensor:
        r"""The examples of a step.

        Args:
            step: The step, counted from 0 over the whole run.

        Returns:
            Distinct indices in :math:`[0, n)`, of shape :math:`(B / R,)` for a batch of :math:`B`
            and :math:`R` processes, int64, on the device.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            permutation = np.random.default_rng([self.seed, epoch]).permutation(self.n)
            # Moved once an epoch, so that a step copies nothing from the host.
            self._permutation = torch.from_numpy(permutation).to(self.device)
            self._epoch = epoch
        start = position * self.batch_size + self._first
        return self._permutation[start : start + self._share]
