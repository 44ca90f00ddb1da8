"""A step of each method on made-up images, for benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from train.abc import ABCSettings
from train.air import AIRSettings
from train.data.labelled import Images, Split
from train.data.scenes import Scenes
from train.methods import METHODS
from train.objective import Batch, Objective
from train.settings import Settings

CPU = torch.device("cpu")
DEFAULTS = {name: method.settings for name, method in METHODS.items()}
RECORDS = {method.settings: method for method in METHODS.values()}
Case = tuple[Objective, Callable[[int], Batch]]


def case(settings: Settings, device: torch.device = CPU) -> Case:
    """The objective of a method's settings on a device, and batches of noise for it."""
    method = RECORDS[type(settings)]
    if isinstance(settings, ABCSettings):
        settings = replace(settings, withheld=())
    side = settings.canvas_size if isinstance(settings, AIRSettings) else 28
    n = max(12_000, settings.batch_size)
    images = torch.randint(0, 256, (n, side, side), dtype=torch.uint8)
    labels = torch.arange(n) % 10
    data = Images(images, labels) if side == 28 else Scenes(images, None, None)
    objective, batches, _ = method.prepare(settings, Split(data, data), device)
    return objective, batches
