"""Training restores every process-wide setting that it changes."""

from __future__ import annotations

import ast
import os
import platform
import random
import resource
import signal
import warnings
from typing import Any

import numpy as np
import pyro
import pytest
import sympy  # noqa: F401
import torch

from tests.data.refusals import refused
from tests.test_transformers import SMALL, small_digits
from tests.test_transformers import ICVAETransformer as Transformer

# Imported before, because libraries change settings at import: SymPy adds a warning filter.
from train import cli, compare, processes
from train.engine import runtime
from train.icvae import ICVAESettings, main
from train.metrics import coding  # noqa: F401

TINY = {"steps": 2, "hidden": (8,), "memory": 5, "batch_size": 32, "device": "cpu"}


def process() -> dict[str, Any]:
    """Returns the process-wide settings that a library could change."""
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (kind, keys.tolist(), *rest),
        "python": random.getstate(),
        "deterministic": torch.get_deterministic_debug_mode(),
        "denormals": runtime.flushes_denormals(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "environment": {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")},
        "interrupt": signal.getsignal(signal.SIGINT),
        "warnings": list(warnings.filters),
        "parameters": list(pyro.get_param_store().keys()),
        "checks": (
            pyro.distributions.is_validation_enabled(),
            pyro.infer.util.is_validation_enabled(),
            pyro.poutine.util.is_validation_enabled(),
            torch.distributions.Distribution._validate_args,
        ),
    }


def test_setting_up_leaves_the_compiler_alone(monkeypatch):
    """PyTorch imports it whenever deterministic algorithms are set, which takes seconds."""
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *_: pytest.fail("set"))
    with runtime.preserved():
        runtime.setup(ICVAESettings(device="cpu"))


def digits_at(folder: Any) -> str:
    """Writes a data set of a few digits in three classes; returns its path."""
    np.savez(folder / "own.npz", images=small_digits()[0], labels=np.arange(60) % 3)
    return str(folder / "own.npz")


@pytest.fixture(params=[(0, None, False), (1, ":16:8", True)], ids=["defaults", "others"])
def before(request: Any, monkeypatch: Any) -> Any:
    """Changes some settings, returns all of them, and restores them after the test."""
    mode, workspace, flushes = request.param
    was = torch.get_deterministic_debug_mode(), runtime.flushes_denormals()
    torch.set_deterministic_debug_mode(mode)
    torch.set_flush_denormal(flushes)
    monkeypatch.delenv(runtime.CUBLAS, raising=False)
    if workspace:
        monkeypatch.setenv(runtime.CUBLAS, workspace)
    # It cannot be undone, so only a command may call it.
    monkeypatch.setattr(runtime, "tune_malloc", lambda: pytest.fail("malloc"))
    pyro.param("mine", torch.ones(()))
    yield process()
    torch.set_deterministic_debug_mode(was[0])
    torch.set_flush_denormal(was[1])


def test_a_transformer_leaves_a_process_as_it_was(before):
    x, y = small_digits()
    small = SMALL[Transformer] | {"deterministic": not before["deterministic"]}
    Transformer(**small).fit(x, y).transform(x)
    with pytest.raises(ValueError, match="batch_size is 0"):
        Transformer(**small | {"batch_size": 0}).fit(x, y)
    assert changed(before) == set()


@pytest.mark.parametrize("before", [(0, None, False)], indirect=True)
def test_a_command_called_from_python_leaves_a_process_as_it_was(tmp_path, before):
    main(
        ICVAESettings(
            **TINY, deterministic=True, data=digits_at(tmp_path), run_dir=tmp_path / "run"
        )
    )
    assert changed(before) == set()


def changed(before: dict[str, Any]) -> set[str]:
    after = process()
    return {name for name in before if before[name] != after[name]}


def test_a_comparison_is_made_by_one_process(monkeypatch):
    monkeypatch.setattr(processes, "size", lambda: 2)
    with refused("train.compare", "start it without torchrun"):
        compare.main(compare.CompareSettings())


def test_a_command_keeps_its_memory(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(runtime, "tune_malloc", lambda: kept.append(True))
    cli.command(ICVAESettings, lambda given: {}, [])
    assert kept == [True]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc of glibc is tuned")
def test_memory_of_a_step_is_kept_for_the_next():
    """Blocks of 64 MB, larger than any that glibc can be told not to map, fault in once."""
    receiver, sender = os.pipe()
    os.set_blocking(receiver, False)
    # A process of its own, as malloc cannot be untuned.
    if (child := os.fork()) == 0:
        try:
            runtime.tune_malloc()
            faults = []
            for _ in range(2):
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                np.ones(8 * 2**20)
                faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
            os.write(sender, repr(faults).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    first, second = ast.literal_eval(os.read(receiver, 100).decode())
    os.close(receiver)
    os.close(sender)
    # A page has 4 KB, so the block has 16,384; a machine may have larger pages.
    assert second < first / 10


def test_denormals_are_seen():
    before = runtime.flushes_denormals()
    try:
        for flushes in (True, False):
            torch.set_flush_denormal(flushes)
            assert runtime.flushes_denormals() == flushes
    finally:
        torch.set_flush_denormal(before)


def test_draws_from_a_seed():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    device = torch.device("cpu")
    with runtime.seeded(7, device):
        first = torch.rand(3)
    with runtime.seeded(7, device):
        torch.testing.assert_close(torch.rand(3), first, rtol=0, atol=0)
    with runtime.seeded(None, device):
        torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.find_device("cpu") == runtime.find_device(torch.device("cpu"))
    for name in ("cuda", "cuda:1", torch.device("cuda", 0), "cpu:3", "meta"):
        with refused(f"--device {name} is not there"):
            runtime.find_device(name)
    for name in ("banana", None, ""):
        with refused(f"--device {name} is no device: give auto, cpu, cuda or mps"):
            runtime.find_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runtime.find_device("auto").type == "cuda"
    assert runtime.find_device("cuda:1").index == 1
    with refused("--device cuda:2 is not there"):
        runtime.find_device("cuda:2")


def test_processes_that_do_not_write_end_quietly(tmp_path, monkeypatch, capsys):
    """In ranks above 0, training returns normally, without results or output."""
    x, y = small_digits()
    codes = Transformer(**SMALL[Transformer]).fit(x, y).transform(x)
    data = digits_at(tmp_path)
    monkeypatch.setattr(processes, "rank", lambda: 1)
    given = ICVAESettings(**TINY, data=data, run_dir=tmp_path / "run")
    assert main(given) == {}
    cli.command(ICVAESettings, lambda _: main(given), [])
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run").exists()
    # This rank has another seed, so its codes differ; but it can encode.
    assert Transformer(**SMALL[Transformer]).fit(x, y).transform(x).shape == codes.shape
