"""A step of each method on made-up images, for benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_models.abc import Embedder, shifted
from train import acai, ae, air, icvae
from train.abc import ABCSettings
from train.acai import ACAISettings
from train.ae import AESettings
from train.air import AIRSettings
from train.data.batches import Batches
from train.data.stacks import Stacks
from train.icvae import ICVAESettings
from train.objective import Batch, CorrespondenceObjective, Objective, ReconstructionObjective
from train.settings import Settings

CPU = torch.device("cpu")
DEFAULTS = {
    "air": AIRSettings,
    "icvae": ICVAESettings,
    "abc": ABCSettings,
    "acai": ACAISettings,
    "ae": AESettings,
}
Case = tuple[Objective, Callable[[int], Batch]]


def images(n: int, side: int) -> Tensor:
    """Noise."""
    return torch.randint(0, 256, (n, side, side), dtype=torch.uint8)


@singledispatch
def case(settings: Settings) -> Case:
    """The objective of a method's settings, and data for it."""
    raise TypeError(type(settings))


@case.register
def _(settings: AIRSettings) -> Case:
    side = settings.canvas_size
    objective = air.assemble(settings, *air.build(settings, (side, side)))
    scenes = images(max(1_000, settings.batch_size), side)
    return objective, Batches((scenes,), settings.batch_size, 0, CPU)


@case.register
def _(settings: ICVAESettings) -> Case:
    told = F.one_hot(torch.arange(5_000) % 10, 10).float()
    objective = icvae.assemble(settings, *icvae.build(settings, (28, 28), 10))
    return objective, Batches((images(5_000, 28), told), settings.batch_size, 0, CPU)


@case.register
def _(settings: ABCSettings) -> Case:
    embedder = Embedder((28, 28), settings.embed_dim, channels=settings.channels)
    view = shifted if settings.views == 2 else None
    objective = CorrespondenceObjective(embedder, similarity=settings.similarity, view=view)
    sets = torch.arange(12_000) % 10
    pairs = settings.batch_size
    return objective, Stacks(images(12_000, 28), sets, settings.sizes, pairs=pairs)


@case.register
def _(settings: ACAISettings) -> Case:
    objective = acai.assemble(settings, *acai.build(settings, (32, 32)))
    return objective, Batches((images(5_000, 32),), settings.batch_size, 0, CPU)


@case.register
def _(settings: AESettings) -> Case:
    objective = ReconstructionObjective(ae.build(settings, (28, 28)), settings.noise)
    return objective, Batches((images(5_000, 28),), settings.batch_size, 0, CPU)
