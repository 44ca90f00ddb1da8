"""Runs commands and scripts in child processes, which tests can kill or join by rank.

The children are forked from a server that has imported everything, so each starts in milliseconds.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import runpy
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from tests import few, undrawn
from train import verdict
from train.cli import command
from train.engine import loop
from train.metrics import adversaries, clusters

SETTINGS = {
    "air": "AIRSettings",
    "icvae": "ICVAESettings",
    "abc": "ABCSettings",
    "acai": "ACAISettings",
    "ae": "AESettings",
}
# Modules that commands import while they run; only the server imports them in advance.
PRELOADED = (
    *(
        "tests.doors",
        "pyro.infer",
        "sklearn.cluster",
        "sklearn.ensemble",
        "sklearn.neighbors",
        "mlxtend.data",
    ),
    *(
        "train.plots",
        "train.plots_scenes",
        "train.engine.loop",
        "train.metrics.autoencoding",
        "train.metrics.coding",
    ),
    *(
        "train.metrics.counting",
        "train.metrics.embedding",
        "train.estimators.registry",
        "guides.air",
    ),
    *("guides.icvae", "pyro_models.acai", "pyro_models.abc", "pyro_models.icvae"),
    *(f"train.{method}" for method in SETTINGS),
)
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(PRELOADED))


def start(method: str, *flags: str, said: Path, **options: Any) -> BaseProcess:
    """Starts ``python -m train.METHOD FLAGS``.

    Args:
        method: ``air``, ``icvae`` and so on.
        flags: The command line.
        said: The file for its standard output and standard error.
        options: See :func:`run_command`.
    """
    process = CONTEXT.Process(target=run_command, args=(method, flags, said), kwargs=options)
    process.start()
    return process


def start_script(script: Path, *flags: str, said: Path) -> BaseProcess:
    """Starts ``python SCRIPT FLAGS`` in the working folder; see :func:`start`."""
    process = CONTEXT.Process(target=run_script, args=(script, flags, said))
    process.start()
    return process


def finish(process: BaseProcess, seconds: float = 120) -> int:
    """Returns the exit status of a process, after killing it if it runs longer than ``seconds``."""
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def run_command(
    method: str,
    flags: tuple[str, ...],
    said: Path,
    *,
    env: dict[str, str] | None = None,
    still: bool = False,
    even: bool = False,
    dies_at: int | None = None,
    memory: int | None = None,
    trains_only: bool = False,
) -> None:
    """Runs a command in the child process.

    Its figures are blank files: see :mod:`tests.undrawn`.

    Args:
        method: See :func:`start`.
        flags: See :func:`start`.
        said: See :func:`start`.
        env: Environment variables to set.
        still: Draw the mean of every Normal, so that results depend on the data only.
        even: Draw the same uniform numbers for all data, and others for each particle.
        dies_at: The point, while files are written, at which the process is killed; see
            :func:`kill_while_writing`.
        memory: How many bytes of address space it may allocate.
        trains_only: Exit after training, before anything is measured.
    """
    os.environ.update(env or {})
    become_a_command(said)
    if still:
        torch.distributions.normal._standard_normal = zeros
    if even:
        torch.rand = evenly
        torch.bernoulli = lambda probs: (evenly(probs.shape) < probs).to(probs.dtype)
    if dies_at is not None:
        kill_while_writing(dies_at)
    if memory is not None:
        limit = memory_of("self", 0) + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if trains_only:
        # fit makes the result last, when everything is saved.
        loop.FitResult = exit_after_training
    door = importlib.import_module(f"train.{method}")
    sys.stdout.flush()
    command(getattr(door, SETTINGS[method]), door.main, list(flags))


def run_script(script: Path, flags: tuple[str, ...], said: Path) -> None:
    """Runs a script in the child process, as :func:`run_command` does a command."""
    become_a_command(said)
    sys.argv = [str(script), *flags]
    runpy.run_path(str(script), run_name="__main__")


def become_a_command(said: Path) -> None:
    """Makes the child process a command of its own, with quick figures and measures."""
    # A child of the server would start a server for its children.
    multiprocessing.set_start_method("fork", force=True)
    torch.set_num_threads(1)
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    verdict.draw = undrawn.draw
    adversaries.candidates = few.candidates
    clusters.best_means = few.best_means


def memory_of(pid: int | str, column: int) -> int:
    """Returns the bytes of a process' address space (column 0) or resident memory (column 1)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[column]) * resource.getpagesize()


def exit_after_training(*_: Any) -> None:
    """Replaces :class:`~train.engine.loop.FitResult`; ends the process with status 0."""
    raise SystemExit


def zeros(shape: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Replaces PyTorch's draws from a standard Normal."""
    return torch.zeros(shape, dtype=dtype, device=device)


def evenly(*shape: Any, **options: Any) -> torch.Tensor:
    """Replaces uniform draws by numbers that differ along the first dimension alone: particles."""
    shape = shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape
    if not shape:
        return torch.full((), 0.5, **options)
    draws = (torch.arange(shape[0], **options) + 0.45) / shape[0]
    return draws.reshape(-1, *(1 for _ in shape[1:])).expand(shape).clone()


def kill_while_writing(point: int) -> None:
    """Patches :func:`train.engine.disk.write_atomically` to kill the process at one point.

    Every file has four points: after it was opened, half written, written, and renamed.

    Args:
        point: The number of the point, counted from 0 over all files.
    """
    from train.engine import disk

    remaining = point

    def pass_point() -> None:
        nonlocal remaining
        if remaining == 0:
            os.kill(os.getpid(), 9)
        remaining -= 1

    original = disk.write_atomically

    def write_atomically(path: Path, write: Any) -> None:
        def write_in_halves(file: Any) -> None:
            pass_point()
            write(file)
            size = file.tell()
            file.truncate(size // 2)
            file.flush()
            pass_point()
            file.seek(0)
            file.truncate()
            write(file)
            file.flush()
            pass_point()

        original(path, write_in_halves)
        pass_point()

    disk.write_atomically = write_atomically


@contextmanager
def together(
    processes: int, method: str, *flags: str, said: Path, **options: Any
) -> Iterator[list[BaseProcess]]:
    """Starts one process for each rank, as torchrun does; kills those that run at the end.

    The output of rank ``R`` goes to the file ``SAID-R``.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    ranks = []
    try:
        for rank in range(processes):
            env = world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            file = said.with_name(f"{said.name}-{rank}")
            ranks.append(start(method, *flags, said=file, env=env, **options))
        yield ranks
    finally:
        for process in ranks:
            process.kill()
            process.join()
