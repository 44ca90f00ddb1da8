"""The number of threads: chosen by timing, kept with the run, fixed by a flag."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.data.refusals import refused
from tests.test_transformers import small_digits
from train import processes
from train.engine import runtime, threads
from train.engine.step_key import step_key
from train.icvae import ICVAESettings, main
from train.methods import METHODS

CPU = torch.device("cpu")
TINY = {"steps": 2, "hidden": (8,), "memory": 5, "batch_size": 32, "device": "cpu"}


@pytest.fixture(autouse=True)
def _two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """PyTorch has two threads, as if no environment variable had set their number."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with runtime.preserved():
        torch.set_num_threads(2)
        yield


@pytest.fixture
def never(monkeypatch):
    """Nothing is timed."""
    monkeypatch.setattr(threads, "fastest", lambda *_: pytest.fail("timed"))


@pytest.fixture
def settings(tmp_path):
    np.savez(tmp_path / "own.npz", images=small_digits()[0], labels=np.arange(60) % 3)
    return ICVAESettings(**TINY, data=str(tmp_path / "own.npz"), run_dir=tmp_path / "run")


def clock(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], share: float = 1.0):
    """Returns a step that takes these seconds by the number of threads, of a clock of its own."""
    now = SimpleNamespace(wall=0.0, used=0.0, steps=0)

    def step() -> None:
        now.steps += 1
        now.wall += seconds[torch.get_num_threads()]
        now.used += share * seconds[torch.get_num_threads()]

    fake = SimpleNamespace(perf_counter=lambda: now.wall, thread_time=lambda: now.used)
    monkeypatch.setattr(threads, "time", fake)
    return step, now


@pytest.mark.parametrize(
    ("seconds", "most", "expected"),
    [
        ({1: 0.02, 2: 0.03}, 2, 1),
        ({1: 0.02, 2: 0.011}, 2, 2),
        # A twentieth is not worth a processor.
        ({1: 0.02, 2: 0.0195}, 2, 1),
        ({1: 0.02, 2: 0.012, 4: 0.008, 6: 0.006}, 6, 6),
        ({1: 0.02, 2: 0.012, 4: 0.013, 6: 0.001}, 6, 2),
        ({1: 9.0, 2: 5.0}, 2, 2),
    ],
)
def test_the_fastest_number_is_taken(monkeypatch, seconds, most, expected):
    step, _ = clock(monkeypatch, seconds)
    assert threads.fastest(step, most) == expected


def test_one_thread_is_taken_where_processors_are_busy(monkeypatch):
    """A step with two is not even tried: it may take minutes."""
    step, now = clock(monkeypatch, {1: 0.02}, share=0.6)
    assert threads.fastest(step, 2) == 1
    assert now.steps < 10


def test_slow_steps_are_timed_fewer_times(monkeypatch):
    step, now = clock(monkeypatch, {1: 3.0, 2: 2.0})
    assert threads.ratio(step, 2, 1) == pytest.approx(2 / 3)
    assert now.steps == 6


@contextmanager
def threads_of(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def test_choosing_trains_nothing(settings, monkeypatch):
    session = METHODS["icvae"].begin(settings)
    objective, batches = session.prepared[:2]
    before = {name: value.clone() for name, value in objective.state_dict().items()}
    random = torch.get_rng_state()
    key = partial(step_key, objective, {"elbo": list(objective.parameters())}, batches(0))
    with threads_of(1):
        unmeasured = key()
    taken = []

    def fastest(step, most):
        taken.append(most)
        for _ in range(3):
            step()
        return 1

    monkeypatch.setattr(threads, "fastest", fastest)
    chosen = threads.settled(settings, objective, batches, CPU)
    assert taken == [2]
    assert chosen == replace(settings, threads=1)
    assert torch.get_num_threads() == 1
    assert torch.equal(torch.get_rng_state(), random)
    after = objective.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(weight.grad is None for weight in objective.parameters())
    # Nor is another compiled step looked for: an estimator keeps what it finds in its first call.
    assert key() == unmeasured is not None


@pytest.mark.parametrize(
    ("measured", "kept", "busy", "compiles", "expected"),
    [
        (1, 2, False, "on", 2),
        (2, 1, False, "on", 1),
        (2, 1, True, "on", 1),
        # Two threads would wait for each other.
        (1, 2, True, "on", 1),
        (1, 2, False, "off", 1),
        (2, 2, False, "on", 2),
        (2, None, False, "on", 2),
    ],
)
def test_the_number_of_a_step_that_is_kept_comes_before_the_fastest(
    settings, monkeypatch, measured, kept, busy, compiles, expected
):
    """To compile the step for another number of threads takes half a minute."""
    settings = replace(settings, compile=compiles)
    objective, batches = METHODS["icvae"].begin(settings).prepared[:2]
    keys = {}
    for number in (1, 2):
        with threads_of(number):
            weights = {"elbo": list(objective.parameters())}
            keys[number] = step_key(objective, weights, batches(0), settings.precision)
    monkeypatch.setattr(threads.kept_steps, "is_kept", lambda key: key == keys.get(kept, ""))
    monkeypatch.setattr(threads, "fastest", lambda step, most: measured)
    monkeypatch.setattr(threads, "share", lambda step: 0.5 if busy else 1.0)
    assert threads.settled(settings, objective, batches, CPU).threads == expected


def test_a_compiler_in_the_background_has_a_processor(settings, monkeypatch):
    """Threads that share a processor with it would wait for each other."""
    pair = METHODS["icvae"].begin(settings).prepared[:2]
    most = []
    monkeypatch.setattr(threads, "fastest", lambda step, number: most.append(number) or number)
    monkeypatch.setattr(threads, "spare_processors", lambda: 1)
    background = replace(settings, compile="background")
    assert threads.settled(background, *pair, CPU).threads == 1
    torch.set_num_threads(2)
    assert threads.settled(replace(settings, compile="on"), *pair, CPU).threads == 2
    torch.set_num_threads(4)
    monkeypatch.setattr(threads, "spare_processors", lambda: 3)
    assert threads.settled(background, *pair, CPU).threads == 3
    assert most == [2, 3]


def test_a_run_has_its_number_and_goes_on_with_it(settings, monkeypatch, capsys):
    monkeypatch.setattr(threads, "fastest", lambda step, most: 1)
    monkeypatch.setattr(threads, "usable_processors", lambda: 2)
    assert main(settings)["threads"] == 1
    assert torch.get_num_threads() == 2
    path = settings.run_dir / "config.json"
    config = json.loads(path.read_text())
    assert config["settings"]["threads"] == 1

    monkeypatch.setattr(threads, "fastest", lambda *_: pytest.fail("timed"))
    more = replace(settings, steps=3, resume=True)
    with refused("--threads is 2", str(settings.run_dir), "has 1"):
        main(replace(more, threads=2))
    assert main(more)["threads"] == 1
    assert "processors" not in capsys.readouterr().err

    # On a machine with fewer processors it is the number of the run, too.
    config["settings"]["threads"] = 3
    path.write_text(json.dumps(config))
    assert main(replace(more, steps=4))["threads"] == 3
    assert "note: this run computes with 3 threads" in capsys.readouterr().err
    assert json.loads(path.read_text())["settings"]["threads"] == 3

    # A file may hold anything.
    config["settings"]["threads"] = [2]
    path.write_text(json.dumps(config))
    with refused("--threads"):
        main(replace(more, steps=5))

    # A run of an earlier version has none.
    del config["settings"]["threads"]
    path.write_text(json.dumps(config))
    assert main(replace(more, steps=5, threads=2))["threads"] == 2


@pytest.mark.usefixtures("never")
def test_a_number_that_is_given_is_taken(settings, monkeypatch):
    session = METHODS["icvae"].begin(settings)
    pair = session.prepared[:2]
    given = threads.settled(replace(settings, threads=3), *pair, CPU)
    assert given.threads == torch.get_num_threads() == 3
    torch.set_num_threads(2)
    # By the environment, by torchrun, or on another device.
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads.settled(settings, *pair, CPU).threads == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads.settled(settings, *pair, torch.device("cuda")).threads is None
    with monkeypatch.context() as patch:
        patch.setattr(processes, "size", lambda: 2)
        assert threads.settled(settings, *pair, CPU).threads == 2
    torch.set_num_threads(1)
    assert threads.settled(settings, *pair, CPU).threads == 1


@pytest.mark.parametrize("number", [0, -1, 1_025, 1.5])
def test_impossible_numbers_are_refused(number):
    with refused("--threads is"):
        ICVAESettings(threads=number)


def test_the_flag_sets_threads_for_everything(settings):
    with runtime.preserved():
        runtime.setup(replace(settings, threads=1))
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
