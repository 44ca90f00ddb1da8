"""The training loop: the only one, for every method."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple

import pyro
import torch
from torch import Tensor, nn

from train import processes
from train.engine import parallel
from train.engine.callbacks import Callback, Running, running
from train.engine.runs import Run
from train.engine.runtime import random_state, set_random_state
from train.engine.steps import Stepper
from train.errors import InputError, Interrupted
from train.objective import Batch, Objective
from train.settings import LARGEST, Settings

STARTING = 32
"""Batches that an objective may look at before its first step."""


class FitResult(NamedTuple):
    """What a finished run took.

    Attributes:
        steps: Optimiser steps, those before a resume included.
        warm_up_seconds: Seconds before the first of them: checks of it, and compiling it. Those
            before a resume count too.
        train_seconds: Seconds spent in them; evaluations and checkpoints do not count.
        examples_per_second: Training examples a second of these.
        device: Where they were done.
    """

    steps: int
    warm_up_seconds: float
    train_seconds: float
    examples_per_second: float
    device: str


class Best:
    """Keeps the weights that did best, and says when no better ones are to be expected.

    Args:
        metric: What is to be small, of what evaluations return.
        patience: How many evaluations in a row may be no better; ``None`` for any number.

    Attributes:
        value: The lowest value seen.
        step: When.
    """

    STATE: ClassVar = ("value", "step", "waited", "weights")

    def __init__(self, metric: str, patience: int | None = None) -> None:
        self.metric = metric
        self.patience = patience
        self.value = math.inf
        self.step = 0
        self.waited = 0
        self.weights: dict[str, Tensor] = {}

    def see(self, step: int, seen: Mapping[str, float], objective: Objective) -> None:
        """Takes in an evaluation."""
        self.waited += 1
        if seen[self.metric] < self.value:
            self.value, self.step, self.waited = seen[self.metric], step, 0
            self.weights = {name: each.clone() for name, each in objective.state_dict().items()}

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self.patience is not None and self.waited > self.patience

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to go on choosing."""
        return {name: getattr(self, name) for name in self.STATE}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes back a :meth:`state`."""
        for name in self.STATE:
            setattr(self, name, state[name])


def fit(
    objective: Objective,
    batch: Callable[[int], Batch],
    run: Run,
    settings: Settings,
    device: torch.device,
    *,
    evaluate: Callable[[int], Mapping[str, float]] | None = None,
    best: Best | None = None,
    callbacks: Iterable[Callback] = (),
) -> FitResult:
    """Minimises an objective's losses, each with its own optimiser; leaves it in evaluation mode.

    Nothing in a step waits for the device: losses and metrics are added up there, and read every
    ``settings.log_every`` steps. Processes that torchrun started each take their rows of every
    batch and average their gradients; rank 0 evaluates, writes and calls the callbacks. All of
    them end with the same weights.

    Args:
        objective: The networks and their losses, on ``device``.
        batch: Returns the training batch of a step; a pure function of the step.
        run: The run folder. With ``settings.resume`` training goes on from its last checkpoint.
        settings: Numbers of steps, learning rates and intervals.
        device: The device to train on.
        evaluate: Called in eval mode every ``eval_every`` steps and after the last one; returns
            metrics by name.
        best: Selects among the evaluations: its weights are what is left in the objective and in
            ``model.safetensors``, and training ends when it says so.
        callbacks: What logs and shows the metrics, for example
            :func:`train.engine.callbacks.standard`.

    Raises:
        InputError: If a loss is not a finite number, or another process is gone.
        Interrupted: If Ctrl-C was pressed; a checkpoint is saved.
        Exception: What ``evaluate`` or a callback raises.
    """
    joined = parallel.start(device)
    objective.start(map(batch, range(STARTING)))
    training = TrainState(objective, settings, device, best)
    if settings.resume:
        run.load_checkpoint(training.load, device)
    training.share()
    callbacks = () if processes.rank() else callbacks
    with running(callbacks, settings, training.step) as callback:
        _train(training, batch, run, evaluate, callback)
        if joined:
            parallel.stop()
        # Where no evaluation was a number there are no best weights; the last ones stay.
        if best is not None and best.weights:
            objective.load_state_dict(best.weights)
            run.save_weights(best.step, objective)
        objective.eval()
        callback.result = training.result()
    return callback.result


def _train(
    training: TrainState,
    batch: Callable[[int], Batch],
    run: Run,
    evaluate: Callable[[int], Mapping[str, float]] | None,
    callback: Running,
) -> None:
    """Takes the remaining steps; reads metrics, evaluates and saves when that is due."""
    settings = training.settings

    def due(every: int) -> bool:
        return training.step == settings.steps or training.step % every == 0

    with interrupts() as interrupted:
        if not training.finished:
            training.begin(batch)
        while not training.finished:
            training.take(batch)
            reads = due(settings.log_every)
            callback.step(training.step, training.read_metrics(run) if reads else {})
            if evaluate is not None and due(settings.eval_every):
                metrics = _evaluate(evaluate, training)
                if metrics:
                    callback.evaluated(training.step, metrics)
            # Processes must stop at the same step, so they ask each other, but not at each one.
            stop = parallel.broadcast(interrupted()) if reads or processes.size() == 1 else False
            if training.finished or stop or training.step % settings.checkpoint_every == 0:
                _save(training, run)
            if stop and not training.finished:
                raise Interrupted(
                    f"stopped at step {training.step:,}; go on with the same command and "
                    f"--resume --run-dir {run.directory}"
                )


def _evaluate(
    evaluate: Callable[[int], Mapping[str, float]], training: TrainState
) -> dict[str, float]:
    """Calls ``evaluate`` in rank 0; returns its metrics in all ranks, and selects by them.

    It runs in eval mode under a forked RNG, so that evaluating cannot change training.
    """
    metrics: dict[str, float] = {}
    if processes.rank() == 0:
        training.objective.eval()
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(training.settings.seed + training.step)
            metrics = dict(evaluate(training.step))
        training.objective.train()
    metrics = parallel.broadcast(metrics)
    if training.best is not None:
        training.best.see(training.step, metrics, training.objective)
    return metrics


def _save(training: TrainState, run: Run) -> None:
    """Saves a checkpoint, unless a loss since the last one was not finite."""
    training.meter.check(run)
    run.save_checkpoint(training.step, training.state(), training.objective)


class TrainState:
    """A run as far as it is: all that a checkpoint has to hold.

    Args:
        objective: What is trained, on ``device``.
        settings: See :func:`fit`.
        device: Where to train.
        best: See :func:`fit`.

    Attributes:
        step: The steps done.
        meter: Losses and metrics since they were last read.
        warm_up: How long it took to begin.
        clock: How long the steps took.
    """

    def __init__(
        self, objective: Objective, settings: Settings, device: torch.device, best: Best | None
    ) -> None:
        self.objective = objective
        self.settings = settings
        self.device = device
        self.best = best
        self.stepper = Stepper(objective, settings, device)
        self.meter = Meter()
        self.warm_up = Stopwatch()
        self.clock = Stopwatch()
        self.step = 0
        # What each process has of its own: draws, buffers, and losses of its share of the data.
        self.own: list[dict[str, Any]] = []

    def take(self, batch: Callable[[int], Batch]) -> None:
        """Takes a step on this process' share of the next batch."""
        with self.clock:
            losses, metrics = self.stepper(self.share_of(batch, self.step), self.step)
            self.step += 1
            self.meter.add(self.step, losses, metrics)

    def read_metrics(self, run: Run) -> dict[str, float]:
        """Means since the last reading, and ``train_seconds``; waits for the device."""
        with self.clock:
            means = self.meter.read(run)
        return means | {"train_seconds": self.clock.seconds}

    @property
    def finished(self) -> bool:
        """Whether the last step is done, or no better weights are to be expected."""
        return self.step >= self.settings.steps or (self.best is not None and self.best.over)

    def result(self) -> FitResult:
        """The result of the steps done."""
        seconds = self.clock.seconds
        rate = self.settings.batch_size * self.step / max(seconds, 1e-9)
        return FitResult(self.step, self.warm_up.seconds, seconds, rate, str(self.device))

    def begin(self, batch: Callable[[int], Batch]) -> None:
        """Makes ready for the first step; takes none."""
        with self.warm_up:
            self.stepper.begin(partial(self.share_of, batch), self.step)

    def share_of(self, batch: Callable[[int], Batch], step: int) -> Batch:
        """This process' part of the batch of a step."""
        return tuple(parallel.shard(part) for part in batch(step))

    def state(self) -> dict[str, Any]:
        """Everything, as tensors and plain values; every process has to ask for it."""
        own = {
            "meter": self.meter.state(),
            "random": random_state(self.device),
            "buffers": buffers(self.objective),
        }
        return {
            "step": self.step,
            "warm_up_seconds": self.warm_up.seconds,
            "train_seconds": self.clock.seconds,
            "module": self.objective.state_dict(),
            "optimisers": {
                name: optimiser.state_dict() for name, optimiser in self.stepper.optimisers.items()
            },
            "best": self.best.state() if self.best is not None else {},
            "own": parallel.all_gather(own),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes back a :meth:`state`, which another number of processes may have left."""
        self.objective.load_state_dict(state["module"])
        self.stepper.load(state["optimisers"])
        if self.best is not None:
            self.best.load(state["best"])
        self.step = int(state["step"])
        self.warm_up.seconds = float(state["warm_up_seconds"])
        self.clock.seconds = float(state["train_seconds"])
        self.own = list(state["own"])[processes.rank() :][:1]
        for own in self.own:
            self.meter.load(own["meter"])
            set_random_state(own["random"], self.device)

    def share(self) -> None:
        """Makes all processes begin with the same weights, and with draws of their own."""
        parallel.broadcast_module(self.objective)
        for own in self.own:
            self.objective.load_state_dict(own["buffers"], strict=False)
        if processes.rank() and not self.own:
            seed = self.settings.seed + 1_000_003 * processes.rank() + self.step
            pyro.set_rng_seed(seed % LARGEST)


class Meter:
    """Means of losses and metrics, added up on the device; remembers the first that broke."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.sums: Tensor | None = None
        self.steps = 0
        self.broken_step: Tensor | None = None
        self.broken_values: Tensor | None = None

    def add(self, step: int, losses: Mapping[str, Tensor], metrics: Mapping[str, Tensor]) -> None:
        """Takes in a step's losses and metrics."""
        named = {f"{name}_loss": loss for name, loss in losses.items()} | dict(metrics)
        values = torch.stack([value.float() for value in named.values()])
        if self.sums is None:
            self.load({"names": list(named), "sums": torch.zeros_like(values), "steps": 0})
        self.sums += values
        self.steps += 1
        first = (self.broken_step == 0) & ~values.isfinite().all()
        self.broken_step = torch.where(first, step, self.broken_step)
        self.broken_values = torch.where(first, values, self.broken_values)

    def read(self, run: Run) -> dict[str, float]:
        """The means since the last reading, as numbers; waits for the device."""
        self.check(run)
        parallel.all_reduce_mean([self.sums])
        means = (self.sums / self.steps).tolist()
        self.sums.zero_()
        self.steps = 0
        return dict(zip(self.names, means, strict=True))

    def check(self, run: Run) -> None:
        """Raises :class:`InputError` if anything was not a finite number; waits for the device."""
        step = int(self.broken_step)
        if step:
            finite = self.broken_values.isfinite().tolist()
            broken = [name for name, ok in zip(self.names, finite, strict=True) if not ok]
            raise InputError(
                f"not a finite number at step {step:,}: {', '.join(broken)}; try a lower "
                f"--learning-rate, or --clip-norm 100 ({run.checkpoints})"
            )

    def state(self) -> dict[str, Any]:
        """What a resumed run needs to log the same means."""
        return {"names": self.names, "sums": self.sums, "steps": self.steps}

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes back a :meth:`state`."""
        self.names, self.sums, self.steps = state["names"], state["sums"], state["steps"]
        self.broken_step = torch.zeros((), dtype=torch.long, device=self.sums.device)
        self.broken_values = torch.zeros_like(self.sums)


def buffers(module: nn.Module) -> dict[str, Tensor]:
    """What a module keeps beside its weights, which each process may have its own of."""
    weights = {name for name, _ in module.named_parameters()}
    return {name: each.cpu() for name, each in module.state_dict().items() if name not in weights}


class Stopwatch(AbstractContextManager["Stopwatch"]):
    """Adds up the seconds spent inside its ``with`` blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.start = 0.0

    def __enter__(self) -> Stopwatch:
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self.start


@contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a flag that the loop reads; a second one stops at once."""
    pressed = False
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread hears of it.
        yield lambda: pressed
        return

    def press(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
