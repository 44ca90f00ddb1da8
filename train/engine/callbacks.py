"""Callbacks of the training loop: the progress bar, the log, TensorBoard, and custom loggers.

:func:`train.engine.loop.fit` calls every callback at four points of a run. A logger for Weights &
Biases is five lines::

    class WeightsAndBiases(Callback):
        def start(self, settings, step): self.run = wandb.init(config=asdict(settings))
        def step(self, step, metrics): metrics and self.run.log(metrics, step=step)
        def evaluated(self, step, metrics): self.run.log(metrics, step=step)
        def end(self, result): self.run.finish(exit_code=int(result is None))

and ``fit(..., callbacks=[*standard(run, settings), WeightsAndBiases()])`` uses it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from train.engine import disk
from train.engine.tensorboard import tensorboard_writer
from train.errors import first_line, note
from train.progress import SECONDS

if TYPE_CHECKING:
    from train.engine.runs import Run
    from train.settings import Settings

LINES = 20
"""The largest number of lines of progress in a run, approximately."""


class FitResult(NamedTuple):
    """The result of a finished run.

    Attributes:
        steps: The number of optimiser steps, including those before a resume.
        warm_up_seconds: Seconds spent on checks and compiling, in which no step was taken;
            including those before a resume.
        train_seconds: Seconds spent in steps, without evaluations and checkpoints.
        examples_per_second: Training examples per second of ``train_seconds``.
        device: The device of the training, as PyTorch names it.
        threads: The number of threads that computed on the CPU.
        compiled_from: The number of steps that were done before the first compiled one; ``None`` if
            steps are not compiled.
    """

    steps: int
    warm_up_seconds: float
    train_seconds: float
    examples_per_second: float
    device: str
    threads: int
    compiled_from: int | None = None


class Callback:
    """What :func:`train.engine.loop.fit` calls; every method does nothing by default.

    Only the process of rank 0 calls callbacks, outside the measured training time, one callback
    after another in the order in which they were given. An exception that a method raises stops
    the run and leaves ``fit`` unchanged; the run can be resumed from its last checkpoint.
    """

    def start(self, settings: Settings, step: int) -> None:
        """Runs before the first step, and before compiling it.

        Args:
            settings: The settings of the run.
            step: The number of steps already done: 0, or that of the checkpoint on resume. What
                was logged for later steps is out of date.
        """

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Runs after every training step.

        Args:
            step: The number of steps done.
            metrics: Every ``settings.log_every`` steps and at the last one, the means of losses
                (``NAME_loss``) and metrics since they were last read, and ``train_seconds``;
                otherwise empty. Metrics stay on the device in between.
        """

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Runs after every evaluation that returned metrics, and after :meth:`step` of that step.

        Args:
            step: The number of steps done.
            metrics: What the evaluation returned; never empty.
        """

    def end(self, result: FitResult | None) -> None:
        """Runs once at the end of training, however it ends, if :meth:`start` returned.

        Close files and connections here.

        Args:
            result: The result of a finished run, whose last checkpoint and weights are on the
                disk; ``None`` if training stopped early: by Ctrl-C
                (:class:`~train.errors.Interrupted`, after a checkpoint), by a loss that is not
                finite (:class:`~train.errors.InputError`), or by any other exception.
        """


class Running:
    """The callbacks of a run in progress, called in order.

    Attributes:
        callbacks: Those whose ``start`` has returned.
        result: What ``end`` receives; ``None`` until training has finished.
    """

    def __init__(self) -> None:
        self.callbacks: list[Callback] = []
        self.result: FitResult | None = None

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Calls every :meth:`Callback.step`."""
        for callback in self.callbacks:
            callback.step(step, metrics)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """Calls every :meth:`Callback.evaluated`."""
        for callback in self.callbacks:
            callback.evaluated(step, metrics)

    def end(self) -> list[Exception]:
        """Calls every :meth:`Callback.end`; returns what they raise."""
        errors = []
        for callback in self.callbacks:
            try:
                callback.end(self.result)
            except Exception as error:
                errors.append(error)
        return errors


@contextmanager
def running(callbacks: Iterable[Callback], settings: Settings, step: int) -> Iterator[Running]:
    """Starts callbacks, and ends all that were started, however the block is left.

    The first exception is the one that is raised. Those that ``end`` raises after it are printed as
    notes, so that they cannot hide it.

    Args:
        callbacks: The callbacks.
        settings: See :meth:`Callback.start`.
        step: See :meth:`Callback.start`.
    """
    group = Running()
    try:
        for callback in callbacks:
            callback.start(settings, step)
            group.callbacks.append(callback)
        yield group
    except BaseException:
        _print(group.end())
        raise
    errors = group.end()
    _print(errors[1:])
    if errors:
        raise errors[0]


def _print(errors: Iterable[Exception]) -> None:
    for error in errors:
        note(f"a callback's end failed too ({type(error).__name__}: {first_line(error)})")


def standard(run: Run, settings: Settings) -> list[Callback]:
    """Returns the callbacks of the command line: log, TensorBoard (if set), progress bar.

    Args:
        run: The run folder. A process that does not write to it gets no callbacks.
        settings: ``tensorboard``.
    """
    if not run.writes:
        return []
    callbacks: list[Callback] = [JSONLines(run)]
    if settings.tensorboard:
        callbacks.append(TensorBoard(run.directory / "tensorboard"))
    return [*callbacks, ProgressBar(run.method)]


class JSONLines(Callback):
    """Appends metrics to ``metrics.jsonl``; on resume the run has cut it at the checkpoint's step.

    Args:
        run: The run folder.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        if metrics:
            self.run.log(step, metrics)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(step, metrics)


class TensorBoard(Callback):
    """Writes metrics as TensorBoard's scalars; on resume it hides those of later steps.

    Args:
        folder: The folder of the event files; it is made with the first metrics.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first_step = 0
        self.writer: Any = None

    def start(self, settings: Settings, step: int) -> None:
        self.first_step = step + 1

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        if metrics:
            self.evaluated(step, metrics)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        with disk.writing(self.folder):
            if self.writer is None:
                writer_class = tensorboard_writer()
                self.writer = writer_class(str(self.folder), purge_step=self.first_step)
            for name, value in metrics.items():
                self.writer.add_scalar(name, value, step)
            self.writer.flush()

    def end(self, result: FitResult | None) -> None:
        if self.writer is not None:
            self.writer.close()


class ProgressBar(Callback):
    """Shows progress on standard error: a bar on a terminal, occasional lines elsewhere.

    A line has the step, the last losses and evaluation, and the time elapsed and left. Lines are at
    least :data:`SECONDS` apart, and a run prints about :data:`LINES` at most, so that a run of a
    few seconds prints none.

    Args:
        name: The text at the beginning of the bar and of every line: the method's name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.metrics: dict[str, float] = {}

    def start(self, settings: Settings, step: int) -> None:
        terminal = sys.stderr.isatty()
        self.steps = settings.steps
        self.prints_lines = not terminal
        self.start_time = self.last_time = time.monotonic()
        self.start_step = self.last_step = step
        self.bar = tqdm(
            total=self.steps, initial=step, desc=self.name, unit="step", disable=not terminal
        )
        self.bar.set_postfix_str("warming up")

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        self.bar.update()
        if metrics:
            losses = {name: value for name, value in metrics.items() if name.endswith("_loss")}
            self.evaluated(step, losses)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        self.metrics |= metrics
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in self.metrics.items()})
        if self.prints_lines and self._line_is_due(step):
            self._print_line(step)

    def end(self, result: FitResult | None) -> None:
        self.bar.close()

    def _line_is_due(self, step: int) -> bool:
        in_time = time.monotonic() - self.last_time >= SECONDS
        return in_time and step - self.last_step >= self.steps / LINES

    def _print_line(self, step: int) -> None:
        self.last_time, self.last_step = time.monotonic(), step
        elapsed = self.last_time - self.start_time
        left = elapsed / max(step - self.start_step, 1) * (self.steps - step)
        values = "".join(f", {name} {value:.4g}" for name, value in self.metrics.items())
        clock = tqdm.format_interval
        print(
            f"{self.name}: step {step:,} of {self.steps:,}{values}; "
            f"{clock(elapsed)} taken, about {clock(left)} left",
            file=sys.stderr,
            flush=True,
        )
