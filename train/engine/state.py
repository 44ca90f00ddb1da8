"""The mutable state of training: what a checkpoint saves and a resumed run restores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from train import processes
from train.engine import parallel
from train.engine.best import Best
from train.engine.checkpoints import Checkpoints
from train.engine.meters import Meter, Stopwatch
from train.engine.runtime import random_state, set_random_state
from train.engine.steps import Stepper
from train.errors import InputError
from train.objective import Batch, Objective
from train.settings import LARGEST, Settings

RANK_STATES = "own"
"""The key of a checkpoint under which there is a list with the state of every rank."""


class TrainState:
    """The mutable training state: everything a checkpoint saves.

    Args:
        objective: The networks and their losses, on ``device``.
        settings: See :func:`train.engine.loop.fit`.
        device: The device to train on.
        best: Selects among evaluations; ``None`` if the last weights are wanted.

    Attributes:
        step: The number of steps done.
        stepper: Takes the steps; holds the optimisers.
        meter: Losses and metrics since they were last read.
        warm_up: The time spent on checks and compiling, during which no step is taken.
        clock: The time spent in steps.
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
        # What a checkpoint holds for this rank alone; None if it was saved by fewer ranks.
        self.rank_state: dict[str, Any] | None = None
        # Batches that know where they are in a stream; None if they depend on the step alone.
        self.stream: Any = None

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or ``best`` stops training early."""
        stops_early = self.best is not None and self.best.should_stop
        return self.step >= self.settings.steps or stops_early

    def prepare(self, batch: Callable[[int], Batch]) -> None:
        """Checks and compiles the step; see :meth:`train.engine.steps.Stepper.prepare`."""
        with self.warm_up:
            self.stepper.prepare(partial(local_batch, batch), self.step)

    def close(self) -> None:
        """Stops what compiles in the background."""
        if self.stepper.takeover is not None:
            self.stepper.takeover.close()

    def train_step(self, batch: Callable[[int], Batch]) -> None:
        """Takes one step on this rank's rows of the next batch."""
        takeover = self.stepper.takeover
        if takeover is not None and takeover.is_due(self.step):
            with self.warm_up:
                takeover.switch(self.step)
        with self.clock:
            losses, metrics = self.stepper(local_batch(batch, self.step), self.step)
            self.step += 1
            self.meter.add(self.step, losses, metrics)

    def read_metrics(self, checkpoints: Checkpoints) -> dict[str, float]:
        """Returns the means since the last reading, and ``train_seconds``; waits for the device.

        Raises:
            InputError: See :meth:`require_finite`.
        """
        with self.clock:
            self.require_finite(checkpoints)
            means = self.meter.read()
        return means | {"train_seconds": self.clock.seconds}

    def require_finite(self, checkpoints: Checkpoints) -> None:
        """Checks all losses and metrics so far; waits for the device.

        Args:
            checkpoints: Those of the run, for the message.

        Raises:
            InputError: If one of them was not finite.
        """
        step, names = self.meter.nonfinite()
        if step:
            raise InputError(
                f"not a finite number at step {step:,}: {', '.join(names)}; try a lower "
                f"--learning-rate, or --clip-norm 100 ({checkpoints})"
            )

    def state_dict(self) -> dict[str, Any]:
        """Returns the content of a checkpoint: tensors and plain values.

        It gathers from all ranks, so every rank has to call it.
        """
        rank_state = {
            "meter": self.meter.state_dict(),
            "random": random_state(self.device),
            "buffers": buffers(self.objective),
        }
        return {
            "step": self.step,
            "warm_up_seconds": self.warm_up.seconds,
            "train_seconds": self.clock.seconds,
            "compiled_from": self.stepper.compiled_from,
            "module": self.objective.state_dict(),
            "optimisers": self.stepper.state_dict(),
            "best": self.best.state_dict() if self.best is not None else {},
            "stream": self.stream.state_dict() if self.stream is not None else {},
            RANK_STATES: parallel.all_gather(rank_state),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned, with any number of ranks then and now."""
        self.objective.load_state_dict(state["module"])
        self.stepper.load_state_dict(state["optimisers"])
        if self.best is not None:
            self.best.load_state_dict(state["best"])
        if self.stream is not None:
            # Checkpoints of earlier versions have none.
            self.stream.load_state_dict(state.get("stream", {}))
        self.step = int(state["step"])
        self.warm_up.seconds = float(state["warm_up_seconds"])
        self.clock.seconds = float(state["train_seconds"])
        # Checkpoints of earlier versions have none.
        compiled_from = state.get("compiled_from")
        self.stepper.compiled_from = None if compiled_from is None else int(compiled_from)
        rank_states = list(state[RANK_STATES])
        if processes.rank() < len(rank_states):
            self.rank_state = rank_states[processes.rank()]
            self.meter.load_state_dict(self.rank_state["meter"])
            set_random_state(self.rank_state["random"], self.device)

    def synchronise(self) -> None:
        """Gives all ranks identical weights; ranks without a saved state get a seed of their own.

        Buffers may differ between ranks, so a rank restores its own after the broadcast.
        """
        parallel.broadcast_module(self.objective)
        if self.rank_state is not None:
            self.objective.load_state_dict(self.rank_state["buffers"], strict=False)
        elif processes.rank():
            seed = self.settings.seed + 1_000_003 * processes.rank() + self.step
            pyro.set_rng_seed(seed % LARGEST)


def local_batch(batch: Callable[[int], Batch], step: int) -> Batch:
    """Returns this rank's rows of the batch of a step.

    Args:
        batch: Returns the whole batch; or it has a function ``local`` of its own, which reads the
            rows of this rank alone.
        step: The step, counted from 0.
    """
    local = getattr(batch, "local", None)
    if local is not None:
        return local(step)
    return tuple(parallel.shard(tensor) for tensor in batch(step))


def buffers(module: nn.Module) -> dict[str, Tensor]:
    """Returns what ``state_dict`` holds besides parameters, on the CPU."""
    parameters = {name for name, _ in module.named_parameters()}
    return {
        name: tensor.cpu() for name, tensor in module.state_dict().items() if name not in parameters
    }
