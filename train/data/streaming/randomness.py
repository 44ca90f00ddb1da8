"""Random numbers of code that is not the training, which must leave the training's alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


class RandomNumbers:
    """Random numbers of their own for the code in a ``with`` block, on the CPU.

    They are PyTorch's, NumPy's and Python's global generators, which the block finds seeded, and
    leaves as they were. Another block with the same object goes on where the last one ended.

    Args:
        seeds: Integers, 0 or above, which seed the generators together.
    """

    def __init__(self, *seeds: int) -> None:
        numbers = np.random.SeedSequence(seeds).generate_state(3)
        # Not torch.manual_seed, which seeds CUDA's generators too.
        generator = torch.Generator().manual_seed(int(numbers[0]))
        self._states: Any = (
            generator.get_state(),
            np.random.RandomState(int(numbers[1])).get_state(),
            random.Random(int(numbers[2])).getstate(),
        )

    def __enter__(self) -> None:
        self._exchange()

    def __exit__(self, *_: object) -> None:
        self._exchange()

    def _exchange(self) -> None:
        """Exchanges the states of the generators with those that this object holds."""
        current = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
        torch.set_rng_state(self._states[0])
        np.random.set_state(self._states[1])  # noqa: NPY002
        random.setstate(self._states[2])
        self._states = current
