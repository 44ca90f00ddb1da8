"""A step of each method on made-up images, for benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import singledispatch

import torch
from torch import Tensor

from train import abc, acai, ae, air, icvae
from train.abc import ABCSettings
from train.acai import ACAISettings
from train.ae import AESettings
from train.air import AIRSettings
from train.data.batches import Batches
from train.data.conditions import Condition
from train.icvae import ICVAESettings
from train.objective import Batch, Objective
from train.settings import Settings
from train.trained import METHODS

CPU = torch.device("cpu")
DEFAULTS = {name: kind.door[0] for name, kind in METHODS.items()}
Case = tuple[Objective, Callable[[int], Batch]]


def images(n: int, side: int) -> Tensor:
    """Noise."""
    return torch.randint(0, 256, (n, side, side), dtype=torch.uint8)


@singledispatch
def case(settings: Settings, device: torch.device = CPU) -> Case:
    """The objective of a method's settings on a device, and data for it."""
    raise TypeError(type(settings))


@case.register
def _(settings: AIRSettings, device: torch.device = CPU) -> Case:
    side = settings.canvas_size
    objective = air.build(settings, (side, side))
    scenes = images(max(1_000, settings.batch_size), side)
    return objective.to(device), Batches((scenes,), settings.batch_size, 0, device)


@case.register
def _(settings: ICVAESettings, device: torch.device = CPU) -> Case:
    condition = Condition(10, torch.zeros(0), torch.zeros(0))
    told = condition(torch.arange(5_000) % 10)
    objective = icvae.build(settings, (28, 28), condition)
    return objective.to(device), Batches((images(5_000, 28), told), settings.batch_size, 0, device)


@case.register
def _(settings: ABCSettings, device: torch.device = CPU) -> Case:
    objective = abc.build(settings, (28, 28))
    sets = torch.arange(12_000) % 10
    everything = replace(settings, withheld=())
    return objective.to(device), abc.stacks(everything, images(12_000, 28), sets, device)


@case.register
def _(settings: ACAISettings, device: torch.device = CPU) -> Case:
    objective = acai.build(settings, (32, 32))
    return objective.to(device), Batches((images(5_000, 32),), settings.batch_size, 0, device)


@case.register
def _(settings: AESettings, device: torch.device = CPU) -> Case:
    objective = ae.build(settings, (28, 28))
    return objective.to(device), Batches((images(5_000, 28),), settings.batch_size, 0, device)
