"""Trained models put to use: :func:`load` returns one, from a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from train.engine import disk
from train.engine.outline import weightless
from train.engine.saved import SavedRun, read_config, read_weights
from train.errors import InputError, brief, first_line, require
from train.method import Method
from train.methods import METHODS
from train.verbs.base import named_device


def load(
    run_dir: str | Path,
    method: Method | None = None,
    device: str | torch.device = "cpu",
    *,
    shape: Any = None,
    max_objects: int | None = None,
) -> Any:
    """Loads what a run has learnt, ready to be used, from its safetensors and ``config.json``.

    Nothing in the folder is run, and nothing that it names is imported.

    Args:
        run_dir: The run folder.
        method: The record of a method of one's own; the five methods are known by their names.
        device: Where to put it; ``"auto"`` takes a GPU if there is one.
        shape: Height and width of the images, if they are not those of the run, of an AIR with
            ``--guide convolutional``.
        max_objects: The most objects of a scene, if it is not that of the run, of an AIR.

    Returns:
        A :class:`~train.verbs.base.Trained`, of the class that the method's record names.

    Raises:
        InputError: If there is no run, or it is damaged, of another method, or has no weights yet;
            or there is no such device.

    So ``load("runs/my-acai").interpolate(images[:5], images[5:10], n=7)`` are images of shape
    (5, 7, 28, 28).
    """
    require(
        method is None or isinstance(method, Method),
        f"method is {brief(method)}, no Method: give its record, or device={brief(method)}",
    )
    directory, device = Path(run_dir), named_device(device)
    config = read_config(directory)
    if method is None:
        require(
            config.method in METHODS,
            f"{run_dir} holds a run of {brief(config.method)}, which cannot be loaded by its name: "
            f"give load its record as method, or a run of one of {', '.join(METHODS)}",
        )
        method = METHODS[config.method]
    require(
        config.method == method.name,
        f"{run_dir} holds a run of {brief(config.method)}, not of {method.name}: give another one",
    )
    require(
        "shape" in config.inputs,
        f"{run_dir}: its config.json, of an earlier version, has no inputs: train it anew",
    )
    method = method.of_run(config.inputs)
    # Settings may ask for any amount of memory: the file of weights says whether it is needed.
    with _damage(directory), weightless():
        outline = method.trained(
            method, SavedRun(*config, weights={}, step=0), torch.device("meta")
        )
    weights, step = read_weights(directory, outline.objective.state_dict())
    with _damage(directory):
        trained = method.trained(method, SavedRun(*config, weights=weights, step=step), device)
    if shape is None and max_objects is None:
        return trained
    return trained.resized(shape, max_objects)


@contextmanager
def _damage(directory: Path) -> Iterator[None]:
    """Names the run, in an error, whose settings or inputs are damaged."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{directory}: {error}") from error
    except disk.MALFORMED as error:
        raise InputError(
            f"{directory}: config.json is damaged ({first_line(error)}): give another run"
        ) from error
