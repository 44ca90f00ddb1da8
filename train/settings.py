"""Settings that every method shares, and the command line made from them.

Nothing here imports torch, so that ``python -m train.METHOD --help`` answers at once.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tyro


class InputError(Exception):
    """What a person gave cannot be used.

    The message is one line that names the flag or the file and says what to do instead. The
    command line prints it and exits with status 2.
    """


def require(condition: bool, message: str) -> None:
    """Raises :class:`InputError` with ``message`` unless ``condition`` holds."""
    if not condition:
        raise InputError(message)


@dataclass(frozen=True)
class Settings:
    """What every method's command line has in common."""

    data: str = "mnist5k"
    """mnist5k (5,000 digits, nothing to download), mnist, fashion-mnist, kmnist, or the path of
    your own .npz file or folder of images."""
    data_dir: Path = Path("data")
    """Where downloaded data sets are kept."""
    evaluate_on: Literal["test", "validation"] = "test"
    """What is held out: the test split, or a fifth of the training split, to choose settings on."""
    run_dir: Path | None = None
    """Folder of this run; runs/METHOD-<time> if not given."""
    resume: bool = False
    """Go on from the last checkpoint in --run-dir."""
    seed: int = 0
    """Seed of the data, the initial weights and every draw."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the networks; log-probabilities are fp32 in any case."""
    compile: bool = False
    """Compile the networks with torch.compile; needs a C++ compiler on the CPU."""
    steps: int = 3_000
    """Optimiser steps."""
    batch_size: int = 64
    """Examples a step."""
    learning_rate: float = 1e-4
    """Adam's step size."""
    clip_norm: float | None = None
    """Largest norm of an optimiser's gradient, in nats per datum and unit of weight."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl; nothing waits for the device in between."""
    eval_every: int = 500
    """Steps between evaluations on held-out data."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "log_every", "eval_every", "checkpoint_every"):
            self.at_least(name, 1)
        self.at_least("seed", 0)
        self.positive("learning_rate")
        if self.clip_norm is not None:
            self.positive("clip_norm")
        require(
            not self.resume or self.run_dir is not None,
            "--resume needs to know which run: add --run-dir DIR",
        )

    def at_least(self, name: str, least: float) -> None:
        """Raises :class:`InputError` if the setting ``name`` is below ``least`` or not finite."""
        value = getattr(self, name)
        require(
            math.isfinite(value) and value >= least,
            f"{flag(name)} is {value}: give {least} or more",
        )

    def positive(self, name: str) -> None:
        """Raises :class:`InputError` unless the setting ``name`` is finite and above zero."""
        value = getattr(self, name)
        require(
            math.isfinite(value) and value > 0, f"{flag(name)} is {value}: give a number above 0"
        )


S = TypeVar("S", bound=Settings)


def flag(name: str) -> str:
    """The command-line flag of the setting ``name``."""
    return "--" + name.replace("_", "-")


def command(settings: type[S], main: Callable[[S], Any], args: list[str] | None = None) -> None:
    """Runs ``main`` with settings read from the command line.

    Args:
        settings: The dataclass whose fields are the flags.
        main: What to run.
        args: The command line; :data:`sys.argv` if not given.

    Raises:
        SystemExit: With status 2 and one line on standard error if an :class:`InputError` came.
    """
    try:
        main(tyro.cli(settings, args=args))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
