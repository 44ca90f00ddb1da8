"""The work that :mod:`growth` repeats at each size: training steps, batches from disk, tables."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cases import CPU, DEFAULTS, case
from sizes import data_of
from streams import Items, write

from train.data import opening
from train.data.labelled import Images
from train.data.options import DataOptions
from train.data.streaming.adapters import as_split
from train.data.tabular import rows
from train.engine.state import TrainState
from train.methods import METHODS
from train.settings.icvae import ICVAESettings
from train.tabular import TABLES

Work = Callable[[], object]
Make = Callable[[dict[str, Any]], Work]
FOLDER = tempfile.TemporaryDirectory()
"""Where a process has its files, which go when it ends."""
DATA = 64
"""Images of the data of a training step, or a batch if it is larger."""


def step(method: str, channels: int | None = None) -> Make:
    """Returns what makes a training step of a method.

    Args:
        method: Its name.
        channels: The channels of its images, whose height and width is the setting ``side``; None
            for grey images as its benchmarks have them.
    """

    def make(settings: dict[str, Any]) -> Work:
        if channels is None:
            chosen = DEFAULTS[method](**settings)
            objective, batches = case(chosen)
        else:
            side = settings.pop("side")
            chosen = DEFAULTS[method](**settings)
            number = max(DATA, 2 * chosen.batch_size)
            data = data_of(method, (channels, side, side), number)
            if method == "abc":
                chosen = replace(chosen, withheld=())
            chosen = METHODS[method].resolved(chosen, data)
            objective, batches, _ = METHODS[method].prepare(chosen, data, CPU)
        training = TrainState(objective, chosen, CPU, None)
        return lambda: training.train_step(batches)

    return make


def from_disk(settings: dict[str, Any]) -> Work:
    """Reads batches of 28x28 images of an ``.npy`` file, in random order."""
    path = Path(FOLDER.name) / "images.npy"
    write(path, settings["images"])
    contents = opening.read(str(path), DataOptions(in_memory="never"))
    return following(Images(contents.images, None), settings["batch_size"])


def from_workers(settings: dict[str, Any]) -> Work:
    """Reads batches of a data set of PyTorch's by several processes."""
    images = torch.randint(0, 256, (20_000, 1, 28, 28), dtype=torch.uint8)
    split = as_split((Items(images),) * 2, options=DataOptions(workers=settings["workers"]))
    return following(split.train, settings["batch_size"])


def following(images: Images, batch_size: int) -> Work:
    """Returns a function that reads one batch after the other."""
    batches, numbers = images.batches(batch_size, 0, "cpu"), iter(range(2**31))
    return lambda: batches(next(numbers))


def table(number: int, columns: int) -> pd.DataFrame:
    """Returns a table of random numbers and categories, half of the columns each."""
    random = np.random.default_rng(0)
    found: dict[str, Any] = {"group": random.choice(["a", "b"], number)}
    for i in range(columns - 1):
        if i % 2:
            found[f"x{i}"] = random.normal(size=number)
        else:
            found[f"k{i}"] = random.choice(["p", "q", "r", "s"], number)
    return pd.DataFrame(found)


def of_table(settings: dict[str, Any]) -> ICVAESettings:
    """Returns the settings of a run on a table."""
    return ICVAESettings(
        data="table.csv",
        condition="group",
        invariance=settings.get("invariance", "none"),
        batch_size=settings["batch_size"],
    )


def table_step(settings: dict[str, Any]) -> Work:
    """Trains on a table."""
    chosen = of_table(settings)
    frame = table(max(4_000, 2 * chosen.batch_size), settings.get("columns", 8))
    data = TABLES.load_data(chosen, frame)
    objective, batches, _ = TABLES.prepare(chosen, data, CPU)
    training = TrainState(objective, chosen, CPU, None)
    return lambda: training.train_step(batches)


def table_read(settings: dict[str, Any]) -> Work:
    """Splits and encodes a table."""
    roles = of_table({"batch_size": 64}).roles(("group",))
    frame = table(settings["rows"], settings.get("columns", 8))
    return lambda: rows.prepare(frame, roles)
