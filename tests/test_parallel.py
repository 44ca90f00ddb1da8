"""Several ranks train the weights that one process trains, and end together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import doors
from tests.data.refusals import refused
from tests.kills import save_own
from train import processes
from train.engine import parallel

COMMON = (
    *("--device", "cpu", "--batch-size", "8", "--seed", "3", "--learning-rate", "1e-3"),
    *("--log-every", "1", "--eval-every", "4", "--checkpoint-every", "4", "--decay", "none"),
    # Long runs are compiled otherwise, in a process of their own.
    *("--compile", "off"),
)
METHODS = {
    "ae": ("--hidden", "16", "--cluster-starts", "2"),
    # Ranks draw different mixing coefficients, so it is fixed: 0 leaves the partner's code alone.
    "acai": ("--mixing", "0", "--depth", "2", "--z-dim", "16", "--cluster-starts", "2"),
    "abc": ("--stack-size", "5", "--views", "1", "--withheld", "--channels", "4"),
    "icvae": ("--invariance", "adversarial", "--hidden", "16", "16"),
    "air": (
        *("--train-scenes", "40", "--held-out-scenes", "20", "--iw-particles", "2"),
        *("--window-size", "8", "--what-hidden", "8", "--guide-hidden", "8", "--anchors", "2"),
    ),
}
RESUMED = ("icvae", "air")
"""Methods with two optimisers, and with a program of Pyro's: the loop is that of all."""
ESTIMATORS = ("enumerate", "rebar")
"""Estimators of discrete latents; the last one learns parameters of its own."""


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    return save_own(tmp_path_factory.mktemp("data"))


def flags_of(method: str, own: Path, run: Path, steps: int) -> tuple[str, ...]:
    data = ("--data", str(own)) if method != "air" else ()
    return (*COMMON, *data, *METHODS[method], "--steps", str(steps), "--run-dir", str(run))


def log(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]


def assert_close(run: Path, other: Path) -> None:
    for line, expected in zip(log(run), log(other), strict=True):
        assert line == pytest.approx(expected, rel=2e-3, abs=1e-5)
    weights = load_file(other / "model.safetensors")
    found = load_file(run / "model.safetensors")
    assert found.keys() == weights.keys()
    apart = torch.cat([(found[name] - weights[name]).abs().flatten() for name in weights])
    # Adam takes full steps even where the gradient is rounding error, as that of ABC's last bias,
    # and some processors round convolutions of half a batch otherwise than those of a whole one.
    assert apart.mean() < 1e-5
    assert (apart > 1e-4).double().mean() < 0.02


@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_train_what_one_does(tmp_path, own, method):
    """Some also resumed by other numbers of ranks. The mutation: gradients are not averaged."""
    one, two, said = tmp_path / "one", tmp_path / "two", tmp_path / "said"
    options = {"still": True, "trains_only": True}
    steps = 12 if method in RESUMED else 4
    alone = doors.start(method, *flags_of(method, own, one, steps), said=said, **options)
    flags = flags_of(method, own, two, 4)
    with doors.together(2, method, *flags, said=said, **options) as processes:
        assert [doors.finish(process) for process in (alone, *processes)] == [0, 0, 0], words(said)
    if method in RESUMED:
        flags = (*flags_of(method, own, two, 8), "--resume")
        with doors.together(2, method, *flags, said=said, **options) as processes:
            assert [doors.finish(process) for process in processes] == [0, 0], words(said)
        flags = (*flags_of(method, own, two, 12), "--resume")
        assert doors.finish(doors.start(method, *flags, said=said, **options)) == 0, words(said)
    assert_close(two, one)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_two_ranks_estimate_what_one_does(tmp_path, own, estimator):
    """Every particle has the same uniform draws for all data, so that ranks draw what one does.

    The mutation: gradients are not averaged, those of an estimator's own parameters included.
    """
    one, two, said = tmp_path / "one", tmp_path / "two", tmp_path / "said"
    options = {"still": True, "even": True, "trains_only": True}
    flags = ("--estimator", estimator, "--presence-prior", "0.5", "--presence-prior-start", "None")
    # A single particle has no dimension by which doors.evenly could tell it from data.
    flags += ("--particles", "2") if estimator == "rebar" else ()
    alone = doors.start("air", *flags_of("air", own, one, 6), *flags, said=said, **options)
    flags = (*flags_of("air", own, two, 6), *flags)
    with doors.together(2, "air", *flags, said=said, **options) as processes:
        assert [doors.finish(process) for process in (alone, *processes)] == [0, 0, 0], words(said)
    assert_close(two, one)
    found, expected = (load_file(run / "model.safetensors") for run in (two, one))
    for name in (name for name in expected if name.startswith("estimators.")):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5)


def words(said: Path) -> str:
    """Returns the output of all processes."""
    return "\n".join(path.read_text() for path in sorted(said.parent.glob(f"{said.name}*")))


def patient(own: Path, run: Path, steps: int) -> tuple[str, ...]:
    return (*flags_of("ae", own, run, steps), "--checkpoint-every", "50", "--log-every", "50")


def wait_for(path: Path, process: Any) -> None:
    """Waits until a file exists; fails if the process ends before."""
    end = time.monotonic() + 60
    while not path.exists() and process.is_alive() and time.monotonic() < end:
        time.sleep(0.01)
    assert path.exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_if_a_rank_dies_the_others_end(tmp_path, own, victim):
    """Within seconds, with an error in one line; a single process can resume the run."""
    run, said = tmp_path / "run", tmp_path / "said"
    with doors.together(2, "ae", *patient(own, run, 10**7), said=said) as processes:
        wait_for(run / "checkpoints" / "00000050.pt", processes[0])
        processes[victim].kill()
        start = time.monotonic()
        assert doors.finish(processes[1 - victim], 20) == 2
        assert time.monotonic() - start < 10
    (line,) = (tmp_path / f"said-{1 - victim}").read_text().splitlines()[-1:]
    assert "another process of this run cannot be reached" in line
    assert "--resume" in line
    last = int(max((run / "checkpoints").iterdir()).stem)
    flags = (*patient(own, run, last + 50), "--resume")
    assert doors.finish(doors.start("ae", *flags, said=said)) == 0, words(said)
    assert log(run)[-1]["step"] == last + 50


def test_a_run_is_resumed_with_more_ranks(tmp_path, own):
    """Ranks draw different random numbers: the noise of a denoising autoencoder."""
    run, said = tmp_path / "run", tmp_path / "said"
    flags = (*flags_of("ae", own, run, 8), "--noise", "0.5")
    with doors.together(2, "ae", *flags, said=said) as processes:
        assert [doors.finish(process) for process in processes] == [0, 0], words(said)
    state = torch.load(run / "checkpoints" / "00000008.pt", weights_only=True)
    first, second = (each["random"]["torch"] for each in state["own"])
    assert not torch.equal(first, second)
    flags = (*flags_of("ae", own, run, 12), "--noise", "0.5", "--resume")
    with doors.together(4, "ae", *flags, said=said) as processes:
        assert [doors.finish(process) for process in processes] == [0] * 4, words(said)
    assert log(run)[-1]["step"] == 12


@pytest.mark.parametrize(
    ("method", "flags", "words"),
    [
        ("ae", ["--batch-size", "7"], "7 cannot be shared evenly by 2 processes"),
        ("acai", ["--batch-size", "2"], "mixing needs a partner: give 2 or more a process"),
        ("icvae", ["--batch-size", "2"], "--invariance direct compares images of a process' batch"),
        ("icvae", ["--sweep", "1"], "start it without torchrun"),
    ],
)
def test_every_rank_reports_bad_input(tmp_path, own, method, flags, words):
    said = tmp_path / "said"
    flags = ["--data", str(own), "--run-dir", str(tmp_path / "run"), *flags]
    with doors.together(2, method, *flags, said=said) as processes:
        assert [doors.finish(process, 30) for process in processes] == [2, 2]
    first, second = ((tmp_path / f"said-{rank}").read_text() for rank in range(2))
    assert words in first
    assert first.startswith("error: ")
    assert second == f"process 1: {first}"
    assert not (tmp_path / "run").exists()


def test_torchrun_itself(tmp_path, own):
    """The command line of torchrun; if one rank is killed, all end, with status 1."""
    run = tmp_path / "run"
    flags = ["--nproc-per-node", "2", "-m", "train.ae", *patient(own, run, 10**7)]
    process = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *flags],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    process.is_alive = lambda: process.poll() is None
    try:
        wait_for(run / "checkpoints" / "00000050.pt", process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        start = time.monotonic()
        _, error = process.communicate(timeout=60)
        assert time.monotonic() - start < 20
    finally:
        process.kill()
    assert process.returncode == 1
    assert "SIGKILL" in error
    assert (run / "checkpoints" / "00000050.pt").exists() or len(list(run.glob("checkpoints/*.pt")))


def test_a_single_process_does_not_communicate(monkeypatch):
    """``WORLD_SIZE`` without ``MASTER_ADDR`` comes from a scheduler, not from torchrun."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    assert (processes.rank(), processes.size(), processes.local_rank()) == (0, 1, 0)
    rows = torch.arange(6)
    assert torch.equal(parallel.shard(rows), rows)
    parallel.all_reduce_mean([rows])
    assert torch.equal(rows, torch.arange(6))
    assert parallel.broadcast(3) == 3
    assert parallel.all_gather(3) == [3]


@pytest.mark.parametrize(("rank", "expected"), [(0, [0, 1, 2]), (1, [3, 4, 5])])
def test_shard(monkeypatch, rank, expected):
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "x", "RANK": str(rank)}.items():
        monkeypatch.setenv(name, value)
    assert parallel.shard(torch.arange(6)).tolist() == expected
    with refused("train.estimators", "without torchrun"):
        parallel.require_alone("train.estimators")
