"""The process-wide settings of training: device, seed, precision and random states."""

from __future__ import annotations

import ctypes
import os
import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import pyro
import torch

from train import processes
from train.errors import InputError, require
from train.settings import Settings

# Parameters of mallopt, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
"""The environment variable without which cuBLAS is not deterministic."""


def setup(settings: Settings) -> torch.device:
    """Chooses the device, and seeds every random generator.

    It changes settings of the whole process: call it inside :func:`preserved`.

    Args:
        settings: ``device`` (see :func:`find_device`), ``seed``, ``deterministic``,
            ``threads`` and ``batch_size``.

    Returns:
        The device. Under torchrun each rank gets the CUDA device of its local rank.

    Raises:
        InputError: If the device does not exist, or the batch size is not a multiple of the number
            of ranks.
    """
    ranks = processes.size()
    require(
        settings.batch_size % ranks == 0,
        f"--batch-size {settings.batch_size} cannot be shared evenly by {ranks} processes: "
        f"give a multiple of {ranks}",
    )
    device = find_device(settings.device)
    require(ranks == 1 or device.type != "mps", "--device mps: one process only; give --device cpu")
    if device.type == "cuda" and ranks > 1:
        device = find_device(f"cuda:{processes.local_rank()}")
        torch.cuda.set_device(device)
    if settings.deterministic:
        # cuBLAS reads it at its first use. A value that the user set stays.
        os.environ.setdefault(CUBLAS, ":4096:8")
    # Setting it imports PyTorch's compiler, which takes as long as importing PyTorch.
    if settings.deterministic or torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(settings.deterministic)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    pyro.set_rng_seed(settings.seed)
    # Denormals slow a CPU down many times over, and a trained model has many.
    torch.set_flush_denormal(True)
    return device


def find_device(name: str | torch.device) -> torch.device:
    """Finds a device by its name.

    Args:
        name: A device as PyTorch names it, for example ``"cuda:1"``; or ``"auto"`` for the first of
            CUDA, MPS and the CPU that is available.

    Raises:
        InputError: If the name is not one of a device, or PyTorch finds no such device.
    """
    counts = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if name == "auto":
        return torch.device(next(kind for kind, count in counts.items() if count))
    try:
        device = torch.device(name)
    # PyTorch raises a TypeError if the name is not a string.
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"--device {name!s:.60} is no device: give auto, cpu, cuda or mps"
        ) from error
    require(
        (device.index or 0) < counts.get(device.type, 0),
        f"--device {device} is not there: PyTorch finds no such device; give --device auto or cpu",
    )
    return device


def tune_cpu() -> None:
    """Makes steps on a CPU faster: flushes denormals to zero, and tunes malloc."""
    torch.set_flush_denormal(True)
    tune_malloc()


def tune_malloc() -> None:
    """Makes glibc keep freed memory for the next step; does nothing on other systems.

    It cannot be undone, so call it only in a process that does nothing but train.
    """
    # Each step needs the memory that the previous one freed. If glibc returns it to the system in
    # between, which depends on the process, that takes a quarter of a step. Blocks that it maps are
    # returned when they are freed, and 32 MB is the largest size below which it can be kept from
    # mapping one, so it is kept from mapping any.
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def preserved() -> Iterator[None]:
    """Restores, at the end of the block, every process-wide setting that training changes.

    These are the states of all random generators, deterministic mode, the treatment of denormals,
    the number of threads, the current CUDA device, and the environment variables of cuBLAS and
    PyTorch's compiler. Training sets nothing else for longer than a step: not Pyro's parameter
    store and validation, or warning filters.
    """
    cuda = torch.cuda.is_initialized()
    random_before = random_state(torch.device("cpu"))
    cuda_before = (torch.cuda.current_device(), torch.cuda.get_rng_state_all()) if cuda else None
    mode = torch.get_deterministic_debug_mode()
    environment = dict(os.environ)
    flushes, threads = flushes_denormals(), torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushes)
        torch.set_deterministic_debug_mode(mode)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        set_random_state(random_before, torch.device("cpu"))
        if cuda_before is not None:
            torch.cuda.set_device(cuda_before[0])
            torch.cuda.set_rng_state_all(cuda_before[1])
        elif torch.cuda.is_initialized():
            # CUDA was initialised inside the block. Outside it would start with the CPU's seed.
            torch.cuda.set_device(0)
            torch.cuda.manual_seed_all(torch.initial_seed())


def flushes_denormals() -> bool:
    """Whether PyTorch flushes denormal numbers to zero."""
    # PyTorch cannot be asked, so this adds two denormals. As integers they are 1.
    smallest = torch.ones(1, dtype=torch.int32).view(torch.float32)
    return not bool((smallest + smallest).view(torch.int32))


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Seeds PyTorch's generators inside the block, and restores their states at its end.

    Args:
        seed: The seed; ``None`` leaves the generators alone.
        device: Besides the CPU's, the generator of this device is seeded. That of MPS is not
            restored.
    """
    if seed is None:
        yield
        return
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        # torch.manual_seed would also seed other devices, which fork_rng does not restore.
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield


def precision(settings: Settings, device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context for forward passes: autocast to bfloat16 if the settings ask for it."""
    if settings.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def random_state(device: torch.device) -> dict[str, Any]:
    """Returns the states of the global generators of PyTorch, NumPy and Python.

    Args:
        device: Besides the CPU's, the state of a CUDA device's generator is included.

    Returns:
        Tensors and plain values by library, which ``torch.load(weights_only=True)`` can read.
    """
    # A user's own code may draw from the global generators of NumPy and Python.
    of_numpy: Any = np.random.get_state()  # noqa: NPY002
    kind, keys, position, has_gauss, gauss = of_numpy
    version, internal, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restores the states that :func:`random_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
