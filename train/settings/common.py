"""The settings that methods have in common: frozen dataclasses whose fields are flags.

A field's annotation holds its type and range (:mod:`train.settings.values`), the string below it is
its help, and ``GROUPS`` says under which heading ``--help`` lists it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_type_hints

from train import processes
from train.data.catalogue import SINGLE
from train.data.counts import checked
from train.errors import InputError, brief, require
from train.settings.data import DataSettings
from train.settings.values import Count, NonNegative, Positive, Range, Whole, convert, problem


@dataclass(frozen=True)
class Settings(DataSettings):
    """The settings that every method has.

    Raises:
        InputError: If a value is not of its field's type or range, or values contradict each other;
            the message is one line that names the flag.
    """

    GROUPS: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "data": DataSettings.DATA,
        "model": (),
        "loss": (),
        "training": (
            *("steps", "batch_size", "learning_rate", "optimiser", "decay", "clip_norm", "seed"),
        ),
        "evaluation": ("eval_every", "measure_on"),
        "run folder": (
            *("run_dir", "resume", "log_every", "checkpoint_every", "keep_checkpoints"),
            "tensorboard",
        ),
        "device": ("device", "threads", "precision", "deterministic", "compile", "compile_from"),
    }
    """Headings of ``--help`` in order, and the fields under each. A subclass may list the fields
    that it adds in a ``GROUPS`` of its own. Fields that no class lists stand under "model"."""

    EARLIER: ClassVar[Mapping[str, Any]] = {}
    """What runs of versions without a setting had in its place, where that is not the default."""

    USED_WITH: ClassVar[Mapping[str, tuple[str, tuple[Any, ...]]]] = {}
    """Settings that have an effect with some values of another one alone: its name, and the values,
    or none if all that are true will do. A subclass may list those that it adds."""

    FREE: ClassVar[frozenset[str]] = frozenset(
        {
            *("checkpoint_every", "compile", "compile_from", "data_dir", "device"),
            *("keep_checkpoints", "log_every", "resume", "run_dir", "steps", "tensorboard"),
            "workers",
            # A resumed run takes the number that it was started with.
            "threads",
            # A run knows the content of its data, however it was read.
            *("labels", "label_column", "split_column", "grey", "skip_bad"),
        }
    )
    """Fields that may differ when a run is resumed: the weights after a given step do not depend on
    them. A method adds ``eval_every``, unless it keeps the weights of its best evaluation."""

    run_dir: Path | None = None
    """Folder that this run writes to; None: a new folder runs/METHOD-TIME."""
    resume: bool = False
    """Continue the run in --run-dir from its last checkpoint."""
    seed: Whole = 0
    """Seed of the data order, the initial weights and all random numbers."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on. auto: a GPU if there is one."""
    threads: Annotated[int, Range(1, 1_024)] | None = None
    """Threads to compute with on a CPU, of each process. None: OMP_NUM_THREADS of the environment,
    else the number with which a few steps were fastest before the first one. It is kept with the
    run: more or fewer threads round otherwise."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of the networks. Log-probabilities are always computed in fp32."""
    deterministic: bool = False
    """Use only deterministic CUDA algorithms. On the CPU all are deterministic."""
    compile: Literal["auto", "on", "background", "off"] = "auto"
    """Compile the training step, and on CUDA capture it as a CUDA graph. on: before the first step,
    about half a minute on a CPU, which keeps the compiled step for later runs. background: on a CPU
    steps are uncompiled until the compiled one is ready, or a given number, see --compile-from.
    auto: on for CUDA. On a CPU, background for a run whose steps take more than ten minutes as they
    are; for one of more than half a minute on, if an earlier run has kept the step; otherwise off.
    There compiled steps take over only if they are faster. Three steps are run with and without
    compilation, and then undone. If their results differ or compilation fails, "on" stops with an
    error, and the others train without it. Needs a C++ compiler."""
    compile_from: Whole | None = None
    """With --compile background, the number of uncompiled steps, after which training waits for the
    compiler if need be. results.json has that of each run, with which it can be repeated. None:
    until the compiler is ready."""
    steps: Count = 3_000
    """Number of training steps."""
    batch_size: Count = 64
    """Training examples per step, over all processes."""
    learning_rate: Positive = 1e-4
    """Learning rate."""
    optimiser: Literal["adam", "rmsprop"] = "adam"
    """Optimiser. RMSprop's smoothing constant is 0.9."""
    decay: Literal["none", "cosine"] = "none"
    """Learning rate schedule: constant, or half a cosine from --learning-rate to 0."""
    clip_norm: Positive | None = None
    """Upper bound of each optimiser's gradient norm (nats per example); None: no clipping."""
    log_every: Count = 50
    """Steps between lines of metrics.jsonl."""
    eval_every: Count = 500
    """Steps between evaluations on held-out data."""
    measure_on: tuple[Count, Count] = (60_000, 10_000)
    """Most training images, and most held-out or validation images, that a model is evaluated and
    measured on: random ones, the same each time. Of images on disk at most 256 MiB are used."""
    checkpoint_every: Count = 500
    """Steps between checkpoints."""
    keep_checkpoints: Count = 2
    """Number of checkpoints to keep; older ones are deleted."""
    tensorboard: bool = False
    """Write the metrics for TensorBoard too. Needs the extra tensorboard."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self), include_extras=True)
        for field in fields(self):
            hint = hints[field.name]
            value = convert(getattr(self, field.name), hint)
            # The dataclass is frozen, and this is its constructor.
            object.__setattr__(self, field.name, value)
            wrong = problem(value, hint)
            require(not wrong, f"{flag(field.name)} {wrong}")
        require(
            not self.resume or self.run_dir is not None,
            "--resume needs to know which run: add --run-dir DIR",
        )
        require(
            self.compile_from is None or self.compile == "background",
            f"--compile-from {self.compile_from} needs --compile background",
        )

    def select(self, *names: str) -> dict[str, Any]:
        """Returns some of the settings, by name."""
        return {name: getattr(self, name) for name in names}

    @property
    def local_batch_size(self) -> int:
        """Training examples per step of this process, one of those that torchrun started."""
        return self.batch_size // processes.size()


@dataclass(frozen=True)
class SceneSettings(Settings):
    """The settings of methods that train on scenes of digits."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "data": (
            *("train_scenes", "held_out_scenes", "canvas_size", "max_digits", "digit_counts"),
            *("held_out_digit_counts", "digit_size", "digit_shrink", "overlap"),
        )
    }
    USED_WITH: ClassVar[dict[str, tuple[str, tuple[str, ...]]]] = dict.fromkeys(
        (
            *("canvas_size", "max_digits", "digit_counts", "held_out_digit_counts", "digit_size"),
            *("digit_shrink", "overlap"),
        ),
        ("data", SINGLE),
    )
    MAX_DIGITS: ClassVar[int] = 2
    """The default of ``max_digits``."""

    train_scenes: Count = 60_000
    """Number of training scenes, made of training digits. Of your own scenes all are used. Like
    them, scenes that are drawn from code, such as multi-sprites, have a canvas and objects of their
    own: the settings below are for scenes made of single images."""
    held_out_scenes: Count = 5_000
    """Number of held-out scenes, made of held-out digits."""
    canvas_size: Count = 50
    """Height and width of a scene, in pixels."""
    max_digits: Count = MAX_DIGITS
    """Most digits in a scene. Each number of digits from 0 to this one is equally likely."""
    digit_counts: tuple[Whole, ...] | None = None
    """Numbers of digits in a scene, such as 0 1 3, each equally likely; replaces --max-digits.
    None: from 0 to --max-digits."""
    held_out_digit_counts: tuple[Whole, ...] | None = None
    """The same for held-out scenes, such as 2, to test on numbers that were not trained on; None:
    as in training."""
    digit_size: tuple[Count, Count] = (24, 24)
    """Smallest and largest height and width of a digit in a scene, in pixels."""
    digit_shrink: tuple[Positive, NonNegative] | None = None
    """Mean and standard deviation of the factor by which a digit is shrunk; replaces --digit-size.
    Pyro's example has 1.3 0.1."""
    overlap: Literal["apart", "half", "dim", "any"] = "apart"
    """How digits of a scene may overlap. apart: their boxes do not. half: two images have at most
    half of the smaller one in common. dim: the sum of their pixels is nowhere above white. any:
    they may."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("digit_counts", "held_out_digit_counts"):
            if getattr(self, name) is not None:
                checked(getattr(self, name), flag(name))
        if self.digit_counts is not None:
            most = max(self.digit_counts)
            require(
                most > 0,
                "--digit-counts 0 makes empty scenes only: give a number above 0 too",
            )
            require(
                self.max_digits in (self.MAX_DIGITS, most),
                f"--max-digits {self.max_digits} contradicts --digit-counts, which goes up to "
                f"{most} and replaces it: leave --max-digits out",
            )


@dataclass(frozen=True)
class ELBOSettings(Settings):
    """The settings of methods that maximise an ELBO."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"loss": ("beta", "beta_start", "anneal_steps")}

    beta: Positive = 1.0
    """Weight beta of the KL divergences in the negative ELBO."""
    beta_start: Positive | None = None
    """Value of --beta at step 0, annealed to --beta; None: constant."""
    anneal_steps: Whole = 1_000
    """Number of steps over which settings are annealed from their --...-start values."""


@dataclass(frozen=True)
class EstimatorSettings(ELBOSettings):
    """The settings of methods with discrete latent variables and a choice of ELBO estimator."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "loss": (
            *("estimator", "particles", "temperature", "temperature_start", "baseline"),
            "baseline_learning_rate",
        )
    }
    USED_WITH: ClassVar[dict[str, tuple[str, tuple[str, ...]]]] = {
        "temperature": ("estimator", ("concrete",)),
        "temperature_start": ("estimator", ("concrete",)),
        "baseline_learning_rate": ("baseline", ("network",)),
    }

    estimator: str = "marginal"
    """Estimator of the ELBO and its gradient. marginal: sums over the object count. tracegraph:
    score function, as Pyro's TraceGraph_ELBO. enum: enumeration, as Pyro's TraceEnum_ELBO. iw:
    importance-weighted bound, sums over the object count. concrete: relaxed presence, biased. rws:
    reweighted wake-sleep. Gradients of drawn presences: reinforce, rloo, arm, disarm, arms,
    double-cv, rodeo, muprop, rebar, straight-through (biased), enumerate, mvd, unordered-set. Or
    your own, as module:Class."""
    particles: Count | None = None
    """Samples per scene in the estimator; None: 10 for iw and rws, 2 for estimators of gradients
    that compare samples, such as rloo and disarm, 1 for the others."""
    temperature: Positive = 0.5
    """Temperature of the relaxed presence of --estimator concrete."""
    temperature_start: Positive | None = None
    """Value of --temperature at step 0, annealed over --anneal-steps; None: constant."""
    baseline: Literal["none", "average", "network"] = "none"
    """Control variate of --estimator tracegraph: none, a running average, or a network."""
    baseline_learning_rate: Positive = 1e-3
    """Learning rate of the baseline network."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.baseline == "none" or self.estimator == "tracegraph" or ":" in self.estimator,
            f"--baseline {self.baseline} is of no use to --estimator {self.estimator}: "
            "leave it out, or add --estimator tracegraph",
        )


S = TypeVar("S", bound=Settings)


def restore(settings: type[S], values: Mapping[str, Any]) -> S:
    """Makes settings from the values that a run's ``config.json`` holds.

    Nothing is imported, whatever the values name.

    Args:
        settings: The dataclass.
        values: Values by field name, as JSON has them. A missing field gets its default.

    Raises:
        InputError: If a name is not a field, or a value is not of its field's type or range.
    """
    names = {field.name for field in fields(settings)}
    for name in values:
        require(
            name in names,
            f"config.json: {brief(name)} is no setting of this version's {settings.__name__}",
        )
    try:
        return settings(**values)
    except InputError as error:
        raise InputError(f"config.json: {error}") from error


def flag(name: str) -> str:
    """The command-line flag of the setting ``name``."""
    return "--" + name.replace("_", "-")


def flags_to_arguments(message: str, settings: type[Settings], **others: str) -> str:
    """Rewrites a message about flags for a caller from Python, who gives keyword arguments.

    Messages are written for the command line, and this is the only place that translates them.

    Args:
        message: The message of an :class:`InputError`.
        settings: The dataclass whose fields are the flags.
        others: Replacements, by field name, of flags that the caller's function does not take.

    Example:
        >>> flags_to_arguments("--batch-size 7 is odd: give 8, or --no-resume", Settings)
        'batch_size 7 is odd: give 8, or resume=False'
    """
    hints = get_type_hints(settings)

    def argument(match: re.Match[str]) -> str:
        name = match[1].replace("-", "_")
        positive = name.removeprefix("no_")
        if name in others:
            return others[name]
        if name in hints:
            is_switch = hints[name] is bool and not message.startswith(" is ", match.end())
            return f"{name}=True" if is_switch else name
        return f"{positive}=False" if positive in hints else match[0]

    return re.sub(r"--([a-z][a-z0-9-]*)", argument, message)
