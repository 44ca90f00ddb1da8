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
        self._seeds = seeds
        self._states: Any = None

    def __enter__(self) -> None:
        outside = _states()
        if self._states is None:
            seed_generators(*self._seeds)
        else:
            _restore(self._states)
        self._states = outside

    def __exit__(self, *_: object) -> None:
        inside = _states()
        _restore(self._states)
        self._states = inside


def seed_generators(*seeds: int) -> None:
    """Seeds PyTorch's generator on the CPU, NumPy's and Python's.

    Args:
        seeds: Integers, 0 or above, which seed the generators together.
    """
    numbers = np.random.SeedSequence(seeds).generate_state(3)
    # Not torch.manual_seed, which seeds CUDA's generators too.
    torch.default_generator.manual_seed(int(numbers[0]))
    np.random.seed(int(numbers[1]))  # noqa: NPY002
    random.seed(int(numbers[2]))


def _states() -> tuple[Any, ...]:
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


def _restore(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])
