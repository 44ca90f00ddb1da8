"""Where and how to compute: device, seed, number format, random state."""

from __future__ import annotations

import ctypes
import os
import random
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pyro
import torch

from train import parallel
from train.settings import Settings, require

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def setup(settings: Settings) -> torch.device:
    """Seeds every generator and chooses the device.

    Args:
        settings: ``device`` and ``seed``; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: If the device that was asked for is not there, or the batch cannot be shared
            out among the processes that torchrun started.
    """
    processes = parallel.size()
    require(
        settings.batch_size % processes == 0,
        f"--batch-size {settings.batch_size} cannot be shared evenly by {processes} processes: "
        f"give a multiple of {processes}",
    )
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    name = settings.device
    if name == "auto":
        name = next(kind for kind, available in there.items() if available)
    require(
        there[name],
        f"--device {name} is not there: PyTorch finds no such device; give --device auto or cpu",
    )
    require(processes == 1 or name != "mps", "--device mps: one process only; give --device cpu")
    if name == "cuda" and processes > 1:
        name = f"cuda:{parallel.local_rank()}"
        torch.cuda.set_device(name)
    if settings.deterministic:
        # What cuBLAS asks for; read when it is first used.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(settings.deterministic)
    pyro.set_rng_seed(settings.seed)
    tune_cpu()
    return torch.device(name)


def tune_cpu() -> None:
    """Sets what makes steps on a CPU faster, and changes no result that matters."""
    # A CPU takes many times as long over numbers next to zero, of which a trained model has many.
    torch.set_flush_denormal(True)
    # What a step frees the next one wants again: where glibc gives it back to the system between
    # them, as it does in some processes and not in others, a quarter of a step goes into that.
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_TRIM_THRESHOLD, 256 * 2**20)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)


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
