"""The number of threads that a run computes with on a CPU: chosen by timing, and kept with it.

Threads wait for each other after every operation. In small networks, and where other programs use
the processor, several are slower than one. How many are fastest is known only by trying.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

import torch

from train import processes
from train.engine import kept_steps
from train.engine.saved import read_config
from train.engine.state import local_batch
from train.engine.step_key import step_key
from train.engine.steps import Stepper
from train.errors import brief, note, require
from train.objective import Batch, Objective
from train.processes import spare_processors, usable_processors
from train.settings import Settings

S = TypeVar("S", bound=Settings)

GAIN = 0.95
"""Twice the threads are taken if steps take less than this fraction of the time."""

FREE = 0.9
"""One thread is taken if it has a processor for less than this share of the time."""

LOOK = 0.1
"""The seconds after which that is known."""

ROUNDS = 5
"""Timed steps with each number of threads."""

SECONDS = 1.0
"""Fewer rounds, but two at least, are timed if they take longer."""


def settled(
    settings: S, objective: Objective, batch: Callable[[int], Batch], device: torch.device
) -> S:
    """Sets the number of threads of a run; trains nothing, and leaves random states alone.

    It is that of ``settings.threads``, else that of the run to be resumed, else ``OMP_NUM_THREADS``
    of the environment, else the fastest: see :func:`fastest`. Of several processes that train
    together, each has as many as PyTorch gives it. Where the step is to be compiled, the number of
    an earlier run that has kept it comes before the fastest; while it is compiled in the background
    a processor is left to the compiler. It changes a setting of the whole process: call it inside
    :func:`train.engine.runtime.preserved`.

    Args:
        settings: The settings.
        objective: The networks and their losses, on ``device``.
        batch: Returns the training batch of a step.
        device: The device. On others than a CPU nothing is set.

    Returns:
        The settings with the number in ``threads``, for ``config.json``.

    Raises:
        InputError: If ``settings.threads`` is not that of the run to be resumed.
    """
    if device.type != "cpu":
        return settings
    number = _given(settings)
    if number is None:
        number = most = torch.get_num_threads()
        fixed = "OMP_NUM_THREADS" in os.environ or processes.size() > 1
        if settings.compile == "background":
            # Steps whose threads share a processor with the compiler take many times as long.
            most = max(1, min(most, spare_processors()))
        if not fixed:
            number = _measured(settings, objective, batch, most)
    # Refuses what config.json may hold instead of a number.
    settings = replace(settings, threads=number)
    usable = usable_processors()
    if number > usable:
        note(
            f"this run computes with {number} threads, and this process may use {usable} "
            "processors: steps are slower, and their numbers the same"
        )
    torch.set_num_threads(number)
    return settings


def _given(settings: Settings) -> int | None:
    """The number that the settings, or the run to be resumed, have; ``None`` if neither has one."""
    directory = settings.run_dir
    if not settings.resume or directory is None or not (directory / "config.json").exists():
        return settings.threads
    before = read_config(directory).settings.get("threads")
    # Runs of earlier versions have none.
    require(
        None in (before, settings.threads) or before == settings.threads,
        f"--threads is {settings.threads}, but the run in {directory} has {brief(before)}: "
        "a run is resumed as it was started, as sums in another order round otherwise",
    )
    return settings.threads if before is None else before


def _measured(
    settings: Settings, objective: Objective, batch: Callable[[int], Batch], most: int
) -> int:
    """Returns the number of threads of a run: see :func:`settled`."""
    if most == 1:
        return 1
    first = local_batch(batch, 0)
    kept = _kept(settings, objective, first, most)
    torch.set_num_threads(1)
    # A copy, as an objective may keep what it finds in its first call, on which the name of a kept
    # step depends: the step is found again however the number of threads was chosen.
    with suppress(Exception):
        objective = copy.deepcopy(objective)
    stepper = Stepper(objective, settings, torch.device("cpu"))
    step = stepper.step_tensor(0)

    def eager() -> object:
        return stepper.eager_step(first, step)

    with stepper.dry_run():
        stepper.check(first, step)
        number = fastest(eager, most)
        if not kept or number in kept:
            return number
        # To compile the step again takes longer than another number of threads costs, but where
        # threads wait for a processor.
        return kept[0] if kept[0] < number or share(eager) >= FREE else number


def _kept(settings: Settings, objective: Objective, batch: Batch, most: int) -> list[int]:
    """Returns the numbers of threads with which earlier runs have kept the compiled step."""
    if settings.compile not in ("on", "background"):
        return []
    parameters = Stepper(objective, settings, torch.device("cpu")).parameters
    kept = []
    for number in _numbers(most):
        # The key of a step has the number in it.
        torch.set_num_threads(number)
        key = step_key(objective, parameters, batch, settings.precision)
        if key is not None and kept_steps.is_kept(key):
            kept.append(number)
    return kept


def _numbers(most: int) -> list[int]:
    """Returns 1, 2, 4 and so on, and ``most`` as the last one."""
    return [2**i for i in range((most - 1).bit_length())] + [most]


def fastest(step: Callable[[], object], most: int) -> int:
    """Doubles the number of threads as long as steps get faster, if there are free processors.

    Args:
        step: Takes a step.
        most: The largest number to try; PyTorch is left with any number.
    """
    # Where one thread has to wait for a processor, a step with several may take minutes.
    if share(step) < FREE:
        return 1
    best, *others = _numbers(most)
    for more in others:
        if ratio(step, more, best) > GAIN:
            break
        best = more
    return best


def share(step: Callable[[], object]) -> float:
    """Returns the share of a processor that steps with one thread get, from 0 to 1."""
    torch.set_num_threads(1)
    step()
    start, used = time.perf_counter(), time.thread_time()
    while time.perf_counter() < start + LOOK:
        step()
    return (time.thread_time() - used) / (time.perf_counter() - start)


def ratio(step: Callable[[], object], more: int, less: int) -> float:
    """Returns the time of a step with one number of threads in units of that with another.

    They take turns, as the speed of a machine drifts. Sums are compared, as a step that waits for
    one of its threads may take many times as long.
    """
    seconds = {more: 0.0, less: 0.0}
    for turn in range(ROUNDS + 1):
        for threads in seconds:
            torch.set_num_threads(threads)
            start = time.perf_counter()
            step()
            # The first turn starts the threads.
            seconds[threads] += time.perf_counter() - start if turn else 0.0
        if turn > 1 and sum(seconds.values()) > SECONDS:
            break
    return seconds[more] / seconds[less]
