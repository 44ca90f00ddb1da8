"""The training loop of every method."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager

import pyro
import torch

from train import processes
from train.data.streaming.workers import reading
from train.engine import parallel
from train.engine.best import Best
from train.engine.callbacks import Callback, FitResult, Running, running
from train.engine.runs import Run
from train.engine.state import TrainState
from train.errors import Interrupted
from train.objective import Batch, Objective
from train.settings import Settings

STARTING = 32
"""The number of batches that ``Objective.start`` may read before the first step."""


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
    """Minimises the losses of an objective, each with its own optimiser; leaves it in eval mode.

    Nothing in a step waits for the device: losses and metrics are summed there, and read every
    ``settings.log_every`` steps. Under torchrun every rank trains on its rows of each batch, and
    gradients are averaged; rank 0 evaluates, writes and calls the callbacks. All ranks end with
    identical weights.

    Args:
        objective: The networks and their losses, on ``device``.
        batch: Returns the training batch of a step, counted from 0; a pure function of the step. If
            it has a function ``local``, that one is used to return this rank's rows alone, and if
            it has a function ``close``, it is called at the end. If it has ``state_dict`` and
            ``load_state_dict``, checkpoints save its state.
        run: The run folder. With ``settings.resume`` training resumes from its last checkpoint.
        settings: Numbers of steps, learning rates and intervals.
        device: The device to train on.
        evaluate: Called with the number of steps done, every ``eval_every`` steps and after the
            last one, in eval mode and under a forked RNG. Returns metrics by name; if there are
            none, nothing is logged.
        best: Selects among the evaluations: the objective and ``model.safetensors`` end with its
            weights, and training stops early if it says so.
        callbacks: What logs and shows the metrics, for example
            :func:`train.engine.callbacks.standard`.

    Raises:
        InputError: If a loss is not finite, or another rank cannot be reached.
        Interrupted: If Ctrl-C was pressed; a checkpoint is saved.
        Exception: What ``evaluate`` or a callback raises.
    """
    joined = parallel.start(device)
    objective.start(map(batch, range(STARTING)))
    state = TrainState(objective, settings, device, best)
    state.stream = batch if hasattr(batch, "state_dict") else None
    if settings.resume:
        run.load_checkpoint(state.load_state_dict, device)
    state.synchronise()
    callbacks = () if processes.rank() else callbacks
    with (
        reading(batch),
        closing(state),
        running(callbacks, settings, state.step) as callback,
    ):
        _train(state, batch, run, evaluate, callback)
        if joined:
            parallel.stop()
        # There are no best weights if no evaluation was a number; the last ones stay then.
        if best is not None and best.weights:
            objective.load_state_dict(best.weights)
            run.save_weights(best.step, objective)
        objective.eval()
        callback.result = _result(state)
    return callback.result


def _train(
    state: TrainState,
    batch: Callable[[int], Batch],
    run: Run,
    evaluate: Callable[[int], Mapping[str, float]] | None,
    callback: Running,
) -> None:
    """Takes the remaining steps; reads metrics, evaluates and saves when that is due."""
    settings = state.settings

    def due(interval: int) -> bool:
        return state.step == settings.steps or state.step % interval == 0

    with interrupt_flag() as interrupted:
        if state.finished:
            # A run may have been killed after its last checkpoint, before it wrote the weights.
            run.save_weights(state.step, state.objective)
        else:
            state.prepare(batch)
        while not state.finished:
            state.train_step(batch)
            reads = due(settings.log_every)
            callback.step(state.step, state.read_metrics(run.checkpoints) if reads else {})
            if evaluate is not None and due(settings.eval_every):
                metrics = _evaluate(evaluate, state)
                if metrics:
                    callback.evaluated(state.step, metrics)
            # All ranks must stop at one step. A broadcast waits, so not every step has one.
            stop = parallel.broadcast(interrupted()) if reads or processes.size() == 1 else False
            if state.finished or stop or state.step % settings.checkpoint_every == 0:
                _save(state, run)
            if stop and not state.finished:
                raise Interrupted(
                    f"stopped at step {state.step:,}; go on with the same command and "
                    f"--resume --run-dir {run.directory}"
                )


def _evaluate(
    evaluate: Callable[[int], Mapping[str, float]], state: TrainState
) -> dict[str, float]:
    """Calls ``evaluate`` in rank 0; returns its metrics in all ranks, and updates ``best``.

    It runs in eval mode under a forked RNG, so that evaluating cannot change training, and without
    Pyro's checks, which :meth:`TrainState.prepare` has made.
    """
    metrics: dict[str, float] = {}
    if processes.rank() == 0:
        state.objective.eval()
        with torch.random.fork_rng(), torch.no_grad(), pyro.validation_enabled(False):
            torch.manual_seed(state.settings.seed + state.step)
            metrics = dict(evaluate(state.step))
        state.objective.train()
    metrics = parallel.broadcast(metrics)
    if state.best is not None:
        state.best.update(state.step, metrics, state.objective)
    return metrics


def _save(state: TrainState, run: Run) -> None:
    """Saves a checkpoint; raises :class:`InputError` instead if a loss was not finite."""
    state.require_finite(run.checkpoints)
    run.save_checkpoint(state.step, state.state_dict(), state.objective)


def _result(state: TrainState) -> FitResult:
    """The result of the steps done."""
    seconds = state.clock.seconds
    rate = state.settings.batch_size * state.step / max(seconds, 1e-9)
    return FitResult(
        *(state.step, state.warm_up.seconds, seconds, rate),
        *(str(state.device), torch.get_num_threads(), state.stepper.compiled_from),
    )


@contextmanager
def interrupt_flag() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C inside the block into a flag; a second one raises at once.

    Yields:
        A function that returns whether Ctrl-C was pressed. Outside the main thread, where Python
        delivers no signals, it always returns ``False``.
    """
    pressed = False
    if threading.current_thread() is not threading.main_thread():
        yield lambda: pressed
        return

    def handle(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, previous)
