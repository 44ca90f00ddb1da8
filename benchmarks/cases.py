"""Builds the objective of each method with batches of noise, for benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from train.abc import ABCSettings
from train.air import AIRSettings
from train.data.labelled import Images, Split
from train.data.scenes import Scenes
from train.methods import METHODS
from train.objective import Batch, Objective
from train.settings import Settings

CPU = torch.device("cpu")
DEFAULTS = {name: partial(method.settings, compile="off") for name, method in METHODS.items()}
"""The default settings of each method, uncompiled whatever steps earlier runs have kept."""
RECORDS = {method.settings: method for method in METHODS.values()}
Case = tuple[Objective, Callable[[int], Batch]]


def case(settings: Settings, device: torch.device = CPU) -> Case:
    """Builds the objective of a method's settings, and batches of noise that train it.

    Args:
        settings: The settings of one of :data:`~train.methods.METHODS`. ABC is trained on all sets.
        device: The device of objective and batches.

    Returns:
        The objective, and the training batch as a function of the step. Images are scenes of
        ``canvas_size`` for AIR, else of 28x28 pixels with ten classes as labels.
    """
    method = RECORDS[type(settings)]
    if isinstance(settings, ABCSettings):
        settings = replace(settings, withheld=())
    scenes = isinstance(settings, AIRSettings)
    side = settings.canvas_size if scenes else 28
    n = max(12_000, settings.batch_size)
    images = torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8)
    labels = torch.arange(n) % 10
    data = Scenes(images, None, None) if scenes else Images(images, labels)
    objective, batches, _ = method.prepare(settings, Split(data, data), device)
    return objective, batches
