"""What a run leaves for others to read: its settings, its weights, its results."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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

MOST_BYTES = 8
"""Bytes of a number of the widest type that weights may have."""


class Config(NamedTuple):
    """What ``config.json`` says of a run.

    Attributes:
        method: The method's name.
        settings: Its settings, as JSON has them.
        inputs: What the model must know of its data; empty in runs of earlier versions.
    """

    method: str
    settings: dict[str, Any]
    inputs: dict[str, Any]


class SavedRun(NamedTuple):
    """What a run has learnt.

    Attributes:
        method: See :class:`Config`.
        settings: See :class:`Config`.
        inputs: See :class:`Config`.
        weights: By name.
        step: The step that they are of.
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
        InputError: If it is not there or damaged.
    """
    path = directory / "config.json"
    require(path.exists(), f"{directory} holds no run (there is no {path.name}): give a run folder")
    config = disk.read_json(path)
    method, settings = config.get("method"), config.get("settings")
    inputs = config.get("inputs", {})
    require(
        isinstance(method, str) and isinstance(settings, dict) and isinstance(inputs, dict),
        f"{path} is damaged (it lacks method, settings or inputs): give another run folder",
    )
    return Config(method, settings, inputs)


def read_weights(directory: Path, like: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Reads ``model.safetensors``, if it holds the weights that a network has.

    Args:
        directory: The run folder.
        like: Tensors of the network's names and shapes, on any device; no file that is larger is
            read.

    Returns:
        The weights by name, and the step that they are of.

    Raises:
        InputError: If it is not there or damaged, or of another network.
    """
    path = directory / "model.safetensors"
    require(path.exists(), f"{directory} has no checkpoint yet ({path.name}): give another run")
    most = disk.LONGEST_JSON + MOST_BYTES * sum(tensor.numel() for tensor in like.values())
    disk.require_regular(path, most)
    wanted = {name: tuple(tensor.shape) for name, tensor in like.items()}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            held = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            for name in sorted(held.keys() | wanted.keys()):
                if held.get(name) != wanted.get(name):
                    raise ValueError(
                        f"{brief(name)} is of shape {held.get(name)}, but config.json's settings "
                        f"make it {wanted.get(name)}"
                    )
            weights = {name: file.get_tensor(name) for name in held}
            metadata = file.metadata()
        # Runs of earlier versions have the step alone, and no checksum.
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
    """Serializes the weights and buffers of a module as safetensors, for :func:`read_weights`.

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
    """What ``results.json`` holds.

    Raises:
        InputError: If it is not there or damaged.
    """
    return disk.read_json(directory / "results.json")


def checksum(weights: Mapping[str, Tensor], step: int) -> str:
    """A hash of a step's weights on the CPU: their names, types, shapes and bytes."""
    checksum = hashlib.sha256(str(step).encode())
    for name, tensor in sorted(weights.items()):
        checksum.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        checksum.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return checksum.hexdigest()
