"""Where and how to compute: device, seed, number format, random state."""

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

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def setup(settings: Settings) -> torch.device:
    """Seeds every generator and chooses the device.

    What it sets is of the whole process: call it inside :func:`preserved`.

    Args:
        settings: ``device`` and ``seed``; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: If the device that was asked for is not there, or the batch cannot be shared
            out among the processes that torchrun started.
    """
    number = processes.size()
    require(
        settings.batch_size % number == 0,
        f"--batch-size {settings.batch_size} cannot be shared evenly by {number} processes: "
        f"give a multiple of {number}",
    )
    device = find_device(settings.device)
    alone = number == 1
    require(alone or device.type != "mps", "--device mps: one process only; give --device cpu")
    if device.type == "cuda" and not alone:
        device = find_device(f"cuda:{processes.local_rank()}")
        torch.cuda.set_device(device)
    if settings.deterministic:
        # What cuBLAS asks for; read when it is first used.
        os.environ.setdefault(CUBLAS, ":4096:8")
    torch.use_deterministic_algorithms(settings.deterministic)
    pyro.set_rng_seed(settings.seed)
    # A CPU takes many times as long over numbers next to zero, of which a trained model has many.
    torch.set_flush_denormal(True)
    return device


def find_device(wanted: str | torch.device) -> torch.device:
    """The device of a name.

    Args:
        wanted: As PyTorch has it, or ``"auto"`` for CUDA, then MPS, then the CPU.

    Raises:
        InputError: If there is no such device.
    """
    there = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if wanted == "auto":
        return torch.device(next(kind for kind, number in there.items() if number))
    try:
        device = torch.device(wanted)
    # What PyTorch says of a word that is no device, and of what is no word.
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"--device {wanted!s:.60} is no device: give auto, cpu, cuda or mps"
        ) from error
    require(
        (device.index or 0) < there.get(device.type, 0),
        f"--device {device} is not there: PyTorch finds no such device; give --device auto or cpu",
    )
    return device


def tune_cpu() -> None:
    """Sets what makes steps on a CPU faster, and changes no result that matters."""
    torch.set_flush_denormal(True)
    tune_malloc()


def tune_malloc() -> None:
    """Keeps memory from step to step; for a process of our own, as nothing takes it back."""
    # What a step frees the next one wants again: where glibc gives it back to the system between
    # them, as it does in some processes and not in others, a quarter of a step goes into that.
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, 256 * 2**20)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)


@contextmanager
def preserved() -> Iterator[None]:
    """Puts back, at the end, all that training sets for the whole process.

    That is the state of every random generator, whether algorithms are deterministic, what is done
    with numbers next to zero, the current CUDA device, and the environment, where cuBLAS and
    PyTorch's compiler look. Nothing else is set for longer than a step: Pyro's parameter store and
    checks, the number of threads, filters of warnings.
    """
    cuda = torch.cuda.is_initialized()
    random_before = random_state(torch.device("cpu"))
    cuda_before = (torch.cuda.current_device(), torch.cuda.get_rng_state_all()) if cuda else None
    mode = torch.get_deterministic_debug_mode()
    environment = dict(os.environ)
    flushes = flushes_denormals()
    try:
        yield
    finally:
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
            # CUDA began meanwhile. It would have begun with the seed that the CPU has.
            torch.cuda.set_device(0)
            torch.cuda.manual_seed_all(torch.initial_seed())


def flushes_denormals() -> bool:
    """Whether PyTorch takes numbers next to zero for zero."""
    # PyTorch has no word for it, so one is added up.
    smallest = torch.ones(1, dtype=torch.int32).view(torch.float32)
    return not bool((smallest + smallest).view(torch.int32))


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draws from a seed, and goes on with the generators as they were; ``None`` changes nothing."""
    if seed is None:
        yield
        return
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        # Not torch.manual_seed, which also seeds devices that are not put back.
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        yield


def precision(settings: Settings, device: torch.device) -> AbstractContextManager[Any]:
    """The context of the networks' number format: bf16 where asked, else nothing."""
    if settings.precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every random generator, as tensors and plain values.

    Returns:
        What :func:`set_random_state` takes, and what ``torch.load(weights_only=True)`` reads.
    """
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    version, internal, gauss_next = random.getstate()
    # The global generators are what other people's code draws from.
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(internal), gauss_next],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Takes every random generator back to a :func:`random_state`."""
    torch.set_rng_state(state["torch"].cpu())
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.cpu().numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
