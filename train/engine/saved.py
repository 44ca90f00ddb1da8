"""The files of a run folder that other programs read: config, weights and results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from train.engine import disk
from train.errors import InputError, brief, first_line, require
from train.settings import LARGEST

MAX_ITEM_SIZE = 8
"""Bytes of the widest number type that weights may have (float64, int64)."""


class Config(NamedTuple):
    """The content of ``config.json`` that describes a run.

    Attributes:
        method: The method's name.
        settings: The settings, as plain JSON values by name.
        inputs: Facts about the data from which the model is built, for example its image shape;
            empty in runs of earlier versions.
    """

    method: str
    settings: dict[str, Any]
    inputs: dict[str, Any]


class SavedRun(NamedTuple):
    """The trained weights of a run, with the config from which its model is built.

    Attributes:
        method: See :class:`Config`.
        settings: See :class:`Config`.
        inputs: See :class:`Config`.
        weights: The weights and buffers by name.
        step: The number of training steps after which the weights were saved.
    """

    method: str
    settings: dict[str, Any]
    inputs: dict[str, Any]
    weights: dict[str, Tensor]
    step: int


def read_config(directory: Path) -> Config:
    """Reads ``config.json``.

    Args:
        directory: The run folder.

    Raises:
        InputError: If the file is missing or damaged.
    """
    path = directory / "config.json"
    require(path.exists(), f"{directory} holds no run (there is no {path.name}): give a run folder")
    config = disk.read_json(path)
    method: Any = config.get("method")
    settings: Any = config.get("settings")
    inputs = config.get("inputs", {})
    require(
        isinstance(method, str) and isinstance(settings, dict) and isinstance(inputs, dict),
        f"{path} is damaged (it lacks method, settings or inputs): give another run folder",
    )
    return Config(method, settings, inputs)


def read_weights(directory: Path, like: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Reads ``model.safetensors``, and checks that it fits a network.

    Args:
        directory: The run folder.
        like: The network's ``state_dict()``, on any device (the meta device will do): the file must
            have the same names and shapes. A file larger than that needs is not read.

    Returns:
        The weights by name, on the CPU, and the number of training steps done.

    Raises:
        InputError: If the file is missing or damaged, or is of another network.
    """
    path = directory / "model.safetensors"
    require(path.exists(), f"{directory} has no checkpoint yet ({path.name}): give another run")
    max_bytes = disk.MAX_JSON_BYTES + MAX_ITEM_SIZE * sum(w.numel() for w in like.values())
    disk.require_regular(path, max_bytes)
    expected = {name: tuple(tensor.shape) for name, tensor in like.items()}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            for name in sorted(shapes.keys() | expected.keys()):
                if shapes.get(name) != expected.get(name):
                    raise ValueError(
                        f"{brief(name)} is of shape {shapes.get(name)}, but config.json's settings "
                        f"make it {expected.get(name)}"
                    )
            weights = {name: file.get_tensor(name) for name in shapes}
            metadata = file.metadata()
        # Runs of earlier versions have the step only, without a checksum.
        record = json.loads(metadata["run"]) if "run" in metadata else metadata
        step = int(record["step"])
        if not 0 <= step < LARGEST:
            raise ValueError(f"its step is {step}")
        if record is not metadata and record["sha256"] != checksum(weights, step):
            raise ValueError("its checksum is not that of its weights")
    except (OSError, SafetensorError, *disk.MALFORMED) as error:
        reason = first_line(error)
        raise InputError(f"{path} is damaged ({reason}): give another run folder") from error
    return weights, step


def weights_file(step: int, module: nn.Module) -> bytes:
    """Serialises the weights and buffers of a module as safetensors, for :func:`read_weights`.

    Args:
        step: The number of training steps done.
        module: The module, on any device.

    Returns:
        The content of ``model.safetensors``: identical bytes for identical weights.
    """
    weights = {name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}
    # One metadata entry only: safetensors writes several in any order.
    record = {"run": json.dumps({"step": step, "sha256": checksum(weights, step)})}
    return safetensors.torch.save(weights, record)


def read_results(directory: Path) -> dict[str, Any]:
    """Reads ``results.json``.

    Args:
        directory: The run folder.

    Raises:
        InputError: If the file is missing or damaged.
    """
    return disk.read_json(directory / "results.json")


def checksum(weights: Mapping[str, Tensor], step: int) -> str:
    """Returns the SHA-256, in hex, of a step and of its weights' names, types, shapes and bytes."""
    checksum = hashlib.sha256(str(step).encode())
    for name, tensor in sorted(weights.items()):
        checksum.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Views as bytes: NumPy has no bfloat16.
        checksum.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return checksum.hexdigest()


def run_once(directory: Path, make: Callable[[bool], Any]) -> dict[str, Any]:
    """Returns the results of a run, which is made only if they are not there.

    Args:
        directory: The run folder.
        make: Makes the run. It is given whether the run was begun, and has to be resumed.
    """
    if not (directory / "results.json").exists():
        make((directory / "config.json").exists())
    return read_results(directory)
