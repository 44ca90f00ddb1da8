"""Settings that every method shares, and the command line made from them.

Nothing here imports torch, so that ``python -m train.METHOD --help`` answers at once.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from train import processes
from train.errors import InputError, brief, require


class Range(NamedTuple):
    """The values that a setting may have, written into its type.

    Attributes:
        low: The least value.
        high: The greatest value.
        open: Whether the ends themselves are left out.
    """

    low: float
    high: float = math.inf
    open: bool = False

    def holds(self, value: float) -> bool:
        """Whether a value is a finite number in the range, in single precision too."""
        try:
            (value,) = struct.unpack("f", struct.pack("f", value))
        except OverflowError:
            return False
        if not math.isfinite(value):
            return False
        if self.open:
            return self.low < value < self.high
        return self.low <= value <= self.high

    def __str__(self) -> str:
        if self.high < math.inf:
            return f"between {self.low} and {self.high}"
        return f"above {self.low}" if self.open else f"{self.low} or more"


LARGEST = 2**31
"""Whole numbers must be less: what NumPy and PyTorch take for seeds and sizes."""

LONGEST = 1_000
"""The most values of a setting that takes several."""

Count = Annotated[int, Range(1)]
Whole = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, open=True)]
NonNegative = Annotated[float, Range(0)]
Probability = Annotated[float, Range(0, 1, open=True)]


@dataclass(frozen=True)
class Settings:
    """What every method's command line has in common."""

    FREE: ClassVar[frozenset[str]] = frozenset(
        {
            *("checkpoint_every", "compile", "data_dir", "device", "keep_checkpoints"),
            *("log_every", "resume", "run_dir", "steps", "tensorboard"),
        }
    )
    """Settings that a resumed run may change: where it is, how long it goes, what is shown and
    measured. No other one may, as weights depend on it; so they may on ``eval_every``, where a
    method keeps the weights that did best in an evaluation."""

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
    seed: Whole = 0
    """Seed of the data, the initial weights and every draw."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the networks; log-probabilities are fp32 in any case."""
    deterministic: bool = False
    """Let CUDA use only algorithms that give the same numbers each time; the CPU's do anyway."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Whether a step is traced once and compiled, and on CUDA replayed as one graph. Three steps
    are first taken both ways and compared: where they differ, or it fails, on is refused, and auto,
    which is on for CUDA only, goes on without and says so. Needs a C++ compiler, and half a minute
    or so before the first step."""
    steps: Count = 3_000
    """Optimiser steps."""
    batch_size: Count = 64
    """Examples a step."""
    learning_rate: Positive = 1e-4
    """The optimiser's step size."""
    optimiser: Literal["adam", "rmsprop"] = "adam"
    """What moves the weights; RMSprop forgets a tenth of its mean square a step."""
    decay: Literal["none", "cosine"] = "none"
    """How the learning rate falls over the steps: not at all, or as half a cosine down to zero."""
    clip_norm: Positive | None = None
    """Largest norm of an optimiser's gradient, in nats per datum and unit of weight."""
    log_every: Count = 50
    """Steps between lines of metrics.jsonl; nothing waits for the device in between."""
    eval_every: Count = 500
    """Steps between evaluations on held-out data."""
    checkpoint_every: Count = 500
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """How many of the last checkpoints stay in the run folder."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for field in fields(self):
            hint = hints[field.name]
            value = _plain(getattr(self, field.name), hint)
            # Frozen for everybody else.
            object.__setattr__(self, field.name, value)
            require(
                _fits(value, hint),
                f"{flag(field.name)} is {brief(value)}: give {_kind(hint)}",
            )
            _check(field.name, value, hint)
        require(
            not self.resume or self.run_dir is not None,
            "--resume needs to know which run: add --run-dir DIR",
        )

    @property
    def local_batch_size(self) -> int:
        """Examples a step of this process, one of those that torchrun started."""
        return self.batch_size // processes.size()


@dataclass(frozen=True)
class SceneSettings(Settings):
    """What is common to methods that are trained on scenes of digits."""

    train_scenes: Count = 60_000
    """Scenes made of the training digits."""
    held_out_scenes: Count = 5_000
    """Scenes made of the held-out digits."""
    canvas_size: Count = 50
    """Side of a scene in pixels."""
    max_digits: Count = 2
    """Largest number of digits in a scene; all numbers from 0 are equally frequent."""
    digit_size: tuple[Count, Count] = (24, 24)
    """Smallest and largest side of a digit's image on the canvas, in pixels."""
    digit_shrink: tuple[Positive, NonNegative] | None = None
    """Mean and standard deviation of the factor by which digits shrink, in place of --digit-size;
    1.3 0.1 in Pyro's example."""
    overlap: Literal["apart", "dim", "any"] = "apart"
    """Whether digits' boxes are apart, or no pixel's sum is above white, or anything goes."""


@dataclass(frozen=True)
class ELBOSettings(Settings):
    """What is common to methods that are a Pyro model and guide."""

    beta: Positive = 1.0
    """Weight of the KL divergences in the loss."""
    beta_start: Positive | None = None
    """Where that weight starts when it is annealed; None for no annealing."""
    anneal_steps: Whole = 1_000
    """Steps until annealed values have arrived."""


@dataclass(frozen=True)
class EstimatorSettings(ELBOSettings):
    """What is common to methods with discrete presence."""

    estimator: str = "marginal"
    """Estimator of the ELBO: marginal (the count summed out), tracegraph (Pyro's score function),
    enum (Pyro's enumeration), iw (importance-weighted, the count summed out), concrete (relaxed
    presence, biased), rws (reweighted wake-sleep), or your own as module:Class."""
    particles: Count | None = None
    """Draws a scene for the estimator; 10 for iw and rws, 1 for the others if not given."""
    temperature: Positive = 0.5
    """Temperature of relaxed presence, for --estimator concrete."""
    temperature_start: Positive | None = None
    """Where that temperature starts when it is annealed; None for no annealing."""
    baseline: Literal["none", "average", "network"] = "none"
    """Baseline of the score function, for --estimator tracegraph."""
    baseline_learning_rate: Positive = 1e-3
    """Adam's step size for the baseline network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.baseline == "none" or self.estimator == "tracegraph" or ":" in self.estimator,
            f"--baseline {self.baseline} is of no use to --estimator {self.estimator}: "
            "leave it out, or add --estimator tracegraph",
        )


def _plain(value: Any, hint: Any) -> Any:
    """A value in Python's own types, where it is NumPy's or PyTorch's, a list or a path."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(each.tolist() if hasattr(each, "tolist") else each for each in value)
    if isinstance(value, str) and Path in (hint, *get_args(hint)):
        return Path(value)
    if isinstance(value, os.PathLike) and hint is str:
        return os.fspath(value)
    return value


def _kind(hint: Any) -> str:
    """What a type takes, in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _kind(parts[0])
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin in (Union, UnionType):
        return " or ".join(map(_kind, parts))
    if origin is tuple:
        size = "a tuple" if parts[-1] is Ellipsis else f"a tuple of {len(parts)}"
        return f"{size}, each {_kind(parts[0])}"
    named = {
        int: "a whole number",
        float: "a number",
        bool: "True or False",
        str: "a string",
        Path: "a path",
        type(None): "None",
    }
    return named[hint]


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: a command line sees to that, a file does not."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _fits(value, parts[0])
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        hints = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(value) == len(hints) and all(map(_fits, value, hints))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _check(name: str, value: Any, hint: Any) -> None:
    """Raises :class:`InputError` if a setting is outside the :class:`Range` of its type."""
    if isinstance(value, int):
        require(value < LARGEST, f"{flag(name)} is {brief(value)}: give less than {LARGEST:,}")
    if isinstance(hint, Range):
        require(hint.holds(value), f"{flag(name)} is {brief(value)}: give a number that is {hint}")
    elif isinstance(value, tuple) and get_origin(hint) is tuple:
        require(
            len(value) <= LONGEST,
            f"{flag(name)} has {len(value):,} values: give {LONGEST:,} or fewer",
        )
        hints = get_args(hint)
        hints = hints[:1] * len(value) if hints[-1] is Ellipsis else hints
        for part, part_hint in zip(value, hints, strict=True):
            _check(name, part, part_hint)
    elif value is not None and get_origin(hint) is not Literal:
        for part_hint in (*get_args(hint), *getattr(hint, "__metadata__", ())):
            _check(name, value, part_hint)


S = TypeVar("S", bound=Settings)


def restore(settings: type[S], values: Mapping[str, Any]) -> S:
    """Settings from what ``config.json`` holds of them.

    Args:
        settings: The dataclass.
        values: Values by name, as JSON has them; a name that is missing has its default.

    Raises:
        InputError: If a name is not known, or a value cannot be.

    Nothing is imported, whatever the values name.
    """
    known = {field.name for field in fields(settings)}
    for name in values:
        require(
            name in known,
            f"config.json: {brief(name)} is no setting of this version's {settings.__name__}",
        )
    try:
        return settings(**values)
    except InputError as error:
        raise InputError(f"config.json: {error}") from error


def flag(name: str) -> str:
    """The command-line flag of the setting ``name``."""
    return "--" + name.replace("_", "-")


def parameters(message: str, settings: type[Settings], **others: str) -> str:
    """A message about flags in the words of somebody who calls from Python.

    Messages are written for the command line, and this is the one place where they are not.

    Args:
        message: What an :class:`InputError` says.
        settings: The dataclass that has the flags as fields.
        others: What to call those that the caller cannot give.

    Example:
        >>> parameters("--batch-size 7 is odd: give 8, or --no-resume", Settings)
        'batch_size 7 is odd: give 8, or resume=False'
    """
    hints = get_type_hints(settings)

    def named(match: re.Match[str]) -> str:
        name = match[1].replace("-", "_")
        positive = name.removeprefix("no_")
        if name in others:
            return others[name]
        if name in hints:
            asked = hints[name] is bool and not message.startswith(" is ", match.end())
            return f"{name}=True" if asked else name
        return f"{positive}=False" if positive in hints else match[0]

    return re.sub(r"--([a-z][a-z0-9-]*)", named, message)
