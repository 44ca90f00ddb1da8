"""Front doors in processes of their own, which can be killed, and can train together.

Processes are forked from a server that has everything imported, so that one starts in a moment.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from train.cli import command
from train.engine import loop

SETTINGS = {
    "air": "AIRSettings",
    "icvae": "ICVAESettings",
    "abc": "ABCSettings",
    "acai": "ACAISettings",
    "ae": "AESettings",
}
# Of the server alone: what front doors import while they run.
PRELOADED = (
    *(
        "tests.doors",
        # torch.use_deterministic_algorithms imports it, which takes longer than a short run.
        "torch._inductor",
        "pyro.infer",
        "sklearn.cluster",
        "sklearn.ensemble",
        "sklearn.neighbors",
        "mlxtend.data",
    ),
    *("train.figures", "train.engine.loop", "train.metrics.autoencoding", "train.metrics.coding"),
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
        said: The file of what it says.
        options: See :func:`enter`.
    """
    process = CONTEXT.Process(target=enter, args=(method, flags, said), kwargs=options)
    process.start()
    return process


def finish(process: BaseProcess, seconds: float = 120) -> int:
    """Its exit status; a process that does not end is killed."""
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def enter(
    method: str,
    flags: tuple[str, ...],
    said: Path,
    *,
    env: dict[str, str] | None = None,
    still: bool = False,
    dies_at: int | None = None,
    memory: int | None = None,
    trains_only: bool = False,
) -> None:
    """What the process does. Its figures are empty files: drawing them takes half of a short run.

    Args:
        method: See :func:`start`.
        flags: See :func:`start`.
        said: See :func:`start`.
        env: Added to its environment.
        still: Draw the mean of every Normal: what is left is decided by the data alone.
        dies_at: Which of the moments of writing files is its last; see :func:`deadly`.
        memory: Bytes that it may take beyond what it has.
        trains_only: End after training, before anything is measured.
    """
    os.environ.update(env or {})
    torch.set_num_threads(1)
    with said.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if still:
        torch.distributions.normal._standard_normal = zeros
    if dies_at is not None:
        deadly(dies_at)
    if memory is not None:
        taken = memory_of("self", 0)
        resource.setrlimit(resource.RLIMIT_AS, (taken + memory, taken + memory))
    Figure.savefig = lambda figure, file, **_: file.write(b"a figure")
    if trains_only:
        loop.fit = ended_after(loop.fit)
    door = importlib.import_module(f"train.{method}")
    sys.stdout.flush()
    command(getattr(door, SETTINGS[method]), door.main, list(flags))


def memory_of(pid: int | str, column: int) -> int:
    """Bytes of memory of a process: its address space (0), or what is resident (1)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[column]) * resource.getpagesize()


def ended_after(fit: Callable[..., Any]) -> Callable[..., Any]:
    """Ends the process with what it was to do."""

    def fit_and_end(*args: Any, **options: Any) -> None:
        fit(*args, **options)
        raise SystemExit

    return fit_and_end


def zeros(shape: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """In place of standard Normal numbers."""
    return torch.zeros(shape, dtype=dtype, device=device)


def deadly(moment: int) -> None:
    """Kills the process at one of the moments in which files are written.

    A file has four: opened, half written, all of it on the disk, and renamed.

    Args:
        moment: Which, counted from 0 over all files.
    """
    from train.engine import disk

    left = moment

    def tick() -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), 9)
        left -= 1

    whole = disk.write_atomically

    def write_atomically(path: Path, write: Any) -> None:
        def slowly(file: Any) -> None:
            tick()
            write(file)
            content = file.tell()
            file.truncate(content // 2)
            file.flush()
            tick()
            file.seek(0)
            file.truncate()
            write(file)
            file.flush()
            tick()

        whole(path, slowly)
        tick()

    disk.write_atomically = write_atomically


@contextmanager
def together(
    processes: int, method: str, *flags: str, said: Path, **options: Any
) -> Iterator[list[BaseProcess]]:
    """Starts processes that train together, as torchrun does; kills those left at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes)}
    started = []
    try:
        for rank in range(processes):
            env = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            file = said.with_name(f"{said.name}-{rank}")
            started.append(start(method, *flags, said=file, env=env, **options))
        yield started
    finally:
        for process in started:
            process.kill()
            process.join()
