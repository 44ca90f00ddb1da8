"""Compiled and replayed steps do what eager steps do, including their random numbers."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.data.refusals import refused
from train import processes
from train.abc import ABCSettings
from train.acai import ACAISettings
from train.ae import AESettings
from train.air import AIRSettings
from train.data.conditions import Condition
from train.engine import compiled, parallel, steps, takeover
from train.engine.callbacks import Callback
from train.engine.compiled import Replay
from train.engine.loop import fit
from train.engine.runs import Run
from train.engine.steps import Stepper
from train.errors import Interrupted
from train.icvae import ICVAESettings
from train.methods import METHODS
from train.objective import Batch, Objective
from train.settings import Settings

CPU, META = torch.device("cpu"), torch.device("meta")
AIR = AIRSettings(
    batch_size=4, max_objects=2, window_size=6, what_dim=2, what_hidden=4, guide_hidden=4, anchors=2
)
ICVAE = ICVAESettings(batch_size=6, hidden=(8, 8), memory=9)
ABC = ABCSettings(stack_size=5, channels=2, hidden=8, withheld=())
ACAI = ACAISettings(batch_size=4, depth=2, z_dim=16)
AE = AESettings(batch_size=4, hidden=(8,), z_dim=3)
SCORE = {"estimator": "tracegraph"}
CASES: dict[str, Settings] = {
    "air": AIR,
    "icvae": ICVAE,
    "abc": ABC,
    "acai": ACAI,
    "ae": AE,
    "air recurrent": replace(AIR, guide="recurrent", anchors=0),
    "air tracegraph": replace(AIR, **SCORE),
    "air average": replace(AIR, **SCORE, baseline="average"),
    "air network": replace(AIR, **SCORE, baseline="network", guide="recurrent"),
    "air enum": replace(AIR, estimator="enum"),
    "air iw": replace(AIR, estimator="iw", particles=3),
    "air concrete": replace(AIR, estimator="concrete", temperature_start=2.0),
    "air rws": replace(AIR, estimator="rws", particles=3),
    "air clipped": replace(AIR, clip_norm=0.1, count_prior="geometric"),
    "air constant": replace(AIR, background="constant"),
    "air image": replace(AIR, background="image", **SCORE, baseline="network"),
    "air learned": replace(AIR, background="learned"),
    "icvae pairwise": replace(ICVAE, invariance="pairwise", weight_start=1.0, beta_start=1.0),
    "icvae mmd": replace(ICVAE, invariance="mmd"),
    "icvae club": replace(ICVAE, invariance="club"),
    "icvae adversarial": replace(ICVAE, invariance="adversarial", weight_start=0.0),
    "icvae kt": replace(ICVAE, invariance="kt", memory=0),
    "icvae echo": replace(ICVAE, invariance="echo", memory=0, echo_terms=3),
    "icvae finite": replace(ICVAE, levels=4),
    "icvae bernoulli": replace(ICVAE, likelihood="bernoulli", network="conv"),
    "abc linf": replace(ABC, similarity="linf", views=1),
    "abc deep": replace(ABC, network="deep", normalise=True),
    "acai alone": replace(ACAI, critic=False, network="dense", hidden=(8,)),
    "ae noise": replace(AE, noise=0.3, network="conv"),
}


BUILDS = {method.settings: method.build for method in METHODS.values()}
INPUTS = {"shape": (16, 16), "condition": Condition(3, torch.zeros(0), torch.zeros(0)).state()}


def build(settings: Settings) -> Objective:
    """Builds the objective of a method's settings, for images of 16 by 16 of three classes."""
    return BUILDS[type(settings)](settings, INPUTS)


def batches(settings: Settings) -> Callable[[int], Batch]:
    """Returns the batches of a method, in the default floating-point type."""

    def batch(step: int) -> Batch:
        generator = torch.Generator().manual_seed(step)
        stack = (settings.stack_size,) if isinstance(settings, ABCSettings) else ()
        images = torch.rand(settings.batch_size, *stack, 1, 16, 16, generator=generator)
        if isinstance(settings, ABCSettings):
            return images, images.flip(1)
        if isinstance(settings, ICVAESettings):
            return images, torch.eye(3)[torch.arange(len(images)) % 3]
        return (images,)

    return batch


class NoTransfers(TorchDispatchMode):
    """Fails if an operation has tensors on two devices, which would copy data between them."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, found)) if isinstance(x, Tensor)]
        assert len({tensor.device for tensor in tensors}) <= 1, func
        return found


def step_without_numbers(objective: Objective, settings: Settings, batch: Batch) -> None:
    """Computes losses and gradients on the meta device, whose tensors have no values to read."""
    # An estimator inspects its model and guide in the first call, so that is on the CPU.
    objective(batch, torch.zeros((), dtype=torch.long))
    stepper = Stepper(objective.to(META), settings, META)
    batch = tuple(part.to(META) for part in batch)
    step = torch.empty((), dtype=torch.long, device=META)
    with NoTransfers():
        stepper.gradients(batch, step)


# All but Pyro's enumeration, which reads whether a mask is true everywhere.
NEVER_WAIT = [name for name in CASES if name != "air enum"]


@pytest.mark.parametrize("name", NEVER_WAIT)
def test_nothing_in_a_step_waits_for_the_device(name):
    settings = CASES[name]
    objective = build(settings)
    step_without_numbers(objective, settings, batches(settings)(0))


class Mutant(Objective):
    """A small objective that calls a function in every step and adds its result to the error."""

    def __init__(self, extra_term: Callable[[Mutant, Tensor], Any]) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 1)
        self.register_buffer("state", torch.zeros(()))
        self.register_buffer("counted", torch.zeros((), dtype=torch.int32))
        self.extra_term = extra_term
        self.calls = 0

    def forward(self, batch, step):
        self.calls += 1
        extra = self.extra_term(self, step)
        error = (self.linear(batch[0]) - torch.rand(()).to(batch[0]) - extra).square().mean()
        return {"all": error}, {}

    def parameter_groups(self, learning_rate):
        return {"all": [{"params": list(self.parameters()), "lr": learning_rate}]}


@pytest.mark.parametrize(
    "extra_term",
    [
        lambda self, step: 1.0 if self.linear.weight.sum() > 0 else 0.0,
        lambda self, step: self.linear.bias.mean().item(),
        lambda self, step: torch.tensor(1.0).to(step.device),
        lambda self, step: self.linear.weight[self.linear.weight > 0].sum(),
    ],
)
def test_a_step_that_waits_is_found(extra_term):
    """Mutations: a branch on a value, a value read, one copied, a shape that depends on one."""
    objective = Mutant(extra_term)
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        step_without_numbers(objective, AE, batches(AE)(0))


class Tape(TorchDispatchMode):
    """Emulates a CUDA graph on the CPU: repeats recorded operations on the same memory.

    Args:
        skips: Selects operations that are not repeated; their first results stay.
    """

    def __init__(self, skips: Callable[[Any, tuple[Any, ...]], bool] = lambda *_: False) -> None:
        super().__init__()
        self.skips = skips
        self.operations: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        found = func(*args, **(kwargs or {}))
        if not self.skips(func, args):
            self.operations.append((func, args, kwargs or {}, found))
        return found

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, before in self.operations:
            for old, new in zip(
                tree_leaves(before), tree_leaves(func(*args, **kwargs)), strict=True
            ):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def record(
    function: Callable[[], Any], dry_run: Callable[[], Any], **options: Any
) -> tuple[Any, Any]:
    """Stands in for :func:`train.engine.compiled.capture_graph`, on the CPU."""
    with dry_run():
        function()
    tape = Tape(**options)
    with dry_run(), tape:
        values = function()
    return tape.replay, values


@contextmanager
def captured(monkeypatch: pytest.MonkeyPatch, traced: bool) -> Iterator[pytest.MonkeyPatch]:
    """Captures steps as on CUDA, by :class:`Tape`.

    Args:
        monkeypatch: The fixture.
        traced: Whether to trace the step before; the traced graph runs uncompiled.
    """
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "capture_graph", record)
        for module in (steps, takeover):
            patch.setattr(module, "can_replay", lambda device: True)
        patch.setattr(torch, "compile", lambda graph, **_: graph)
        if not traced:
            patch.setattr(takeover, "compile_gradients", lambda function, *_: function)
        yield patch


def train(objective: Objective, settings: Settings, count: int) -> dict[str, Tensor]:
    """Trains from a fixed seed; returns losses, metrics, the next random numbers and the state."""
    batch = batches(settings)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    stepper = Stepper(objective, settings, CPU)
    stepper.prepare(batch, 0)
    values = []
    for i in range(count):
        losses, metrics = stepper(batch(i), i)
        values.append(torch.stack([*losses.values(), *metrics.values()]))
    return {"values": torch.stack(values), "next": torch.rand(3)} | objective.state_dict()


def assert_same(make: Callable[[], Objective], settings: Settings, count: int, again: Any) -> None:
    """Checks that compiled steps, taken inside the context ``again``, equal eager ones."""
    torch.manual_seed(0)
    expected = train(make(), replace(settings, compile="off"), count)
    with again:
        torch.manual_seed(0)
        found = train(make(), replace(settings, compile="on"), count)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9, msg=name)


# One of each kind of guide, estimator, penalty and loss: the others differ in a term, or lack what
# "air average" and "air network" have.
REPLAYED = [
    name
    for name in NEVER_WAIT
    if name
    not in (
        *("air constant", "air learned", "air clipped", "icvae pairwise", "icvae kt"),
        *("icvae bernoulli", "icvae club", "abc linf", "abc deep"),
        *("air recurrent", "air tracegraph"),
    )
]


@pytest.mark.parametrize("name", REPLAYED)
def test_replayed_steps_equal_eager_ones(double, monkeypatch, name):
    """In double precision and with a small learning rate, so that rounding errors stay small.

    AIR has a second object, which repeats the operations of the first, with each guide once.
    """
    settings = replace(CASES[name], learning_rate=1e-5, steps=30)
    if isinstance(settings, AIRSettings) and name not in ("air", "air network"):
        settings = replace(settings, max_objects=1)
    count = 12 if name in ("icvae", "abc", "acai", "ae") else 5
    assert_same(lambda: build(settings), settings, count, captured(monkeypatch, traced=True))


Fault = Callable[[pytest.MonkeyPatch], None]


def none(patch: pytest.MonkeyPatch) -> None:
    """No fault: the step is captured correctly."""


def left_out(skips: Callable[[Any, tuple[Any, ...]], bool]) -> Fault:
    """The captured graph lacks some operations."""
    return lambda patch: patch.setattr(compiled, "capture_graph", partial(record, skips=skips))


def stale(what: str) -> Fault:
    """A replay uses the batch, or the number of steps, with which it was captured."""
    call = Replay.__call__

    def replay(self: Replay, batch: Batch, step: Tensor) -> Any:
        return call(self, *((self.batch, step) if what == "batch" else (batch, self.step)))

    return lambda patch: patch.setattr(Replay, "__call__", replay)


def miscompiled(patch: pytest.MonkeyPatch) -> None:
    """One compiled gradient is a fifth too large."""

    def compile_(function: Any, *_: Any) -> Any:
        def differentiate(batch: Batch, step: Tensor) -> Any:
            losses, metrics, gradients = function(batch, step)
            first, *others = gradients["all"]
            return losses, metrics, {"all": (1.2 * first, *others)}

        return differentiate

    patch.setattr(takeover, "compile_gradients", compile_)


def no_memory(patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")

    patch.setattr(compiled, "capture_graph", refuse)


def sound(self: Mutant, step: Tensor) -> Tensor:
    """A correct step: everything that changes is in tensors, a counting buffer and the step."""
    return self.counted.add_(1) / 10 + step / 10


# For each fault: what the step does, how its capture is broken, and a phrase of the message.
FAULTS: dict[str, tuple[Callable[[Mutant, Tensor], Any], Fault, str]] = {
    "a count in Python": (lambda self, step: self.calls, none, "the loss all is"),
    "NumPy's numbers": (
        lambda self, step: np.random.rand(),  # noqa: NPY002
        none,
        "numpy's random generator",
    ),
    "a buffer replaced": (
        lambda self, step: setattr(self, "state", self.state + 1) or 0,
        none,
        "the buffer state",
    ),
    "a buffer left as it was": (
        sound,
        left_out(lambda func, args: func is torch.ops.aten.add_.Tensor and args[0].ndim == 0),
        "the loss all is",
    ),
    "the same random numbers": (
        sound,
        left_out(lambda func, args: torch.Tag.nondeterministic_seeded in func.tags),
        "random generator",
    ),
    "an optimiser left out": (
        sound,
        left_out(lambda func, args: "adam" in str(func)),
        "exp_avg of linear",
    ),
    "the same batch": (sound, stale("batch"), "step 2 of 3"),
    "the same step": (sound, stale("step"), "step 2 of 3: the loss all is"),
    "a rate that is no tensor": (
        sound,
        lambda patch: patch.setattr(torch, "tensor", lambda value, **_: value),
        "step 2 of 3: the update of linear",
    ),
    "the same rate": (
        sound,
        lambda patch: patch.setattr(Tensor, "fill_", lambda rate, value: rate),
        "step 2 of 3: the update of linear",
    ),
    "a wrong gradient": (sound, miscompiled, "exp_avg of linear.weight"),
    "no memory": (sound, no_memory, "CUDA out of memory."),
}


@pytest.mark.parametrize(("extra_term", "fault", "phrase"), FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("done", [0, 7])
def test_compiled_steps_that_differ_are_not_used(
    monkeypatch, capsys, extra_term, fault, phrase, done
):
    """All are mutations: the comparison finds the fault; steps stay eager, or are refused."""
    settings = replace(AE, steps=20)
    with captured(monkeypatch, traced=False) as patch:
        fault(patch)
        patch.setattr(steps, "should_compile", lambda *_: True)
        stepper = Stepper(Mutant(extra_term), settings, CPU)
        stepper.prepare(batches(settings), done)
        with refused("--compile: ", phrase, "give --compile off"):
            Stepper(Mutant(extra_term), replace(settings, compile="on"), CPU).prepare(
                batches(settings), done
            )
    assert stepper.step_function == stepper.eager_step
    assert stepper.optimisers["all"].param_groups[0]["lr"] == AE.learning_rate
    (line,) = capsys.readouterr().err.splitlines()
    assert phrase in line
    assert line.startswith("--compile: ")
    assert line.endswith("give --compile off; training continues uncompiled")


def test_all_ranks_use_the_compiled_step_or_none(monkeypatch, capsys):
    """Ranks compare without communicating; if the step of one differs, all stay eager."""

    def waits(*_: Any) -> None:
        raise AssertionError

    with captured(monkeypatch, traced=False) as patch:
        patch.setattr(steps, "should_compile", lambda *_: True)
        patch.setattr(processes, "size", lambda: 2)
        patch.setattr(processes, "rank", lambda: 0)
        patch.setattr(parallel, "all_reduce_mean", waits)
        patch.setattr(parallel, "all_gather", lambda value: [value, "--compile: another's differs"])
        stepper = Stepper(Mutant(sound), AE, CPU)
        stepper.prepare(batches(AE), 0)
    assert stepper.step_function == stepper.eager_step
    assert (
        capsys.readouterr().err == "--compile: another's differs; training continues uncompiled\n"
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_steps_without_faults_are_used(monkeypatch, capsys, precision):
    settings = replace(AE, steps=20, precision=precision, compile="on")
    with captured(monkeypatch, traced=False):
        stepper = Stepper(Mutant(sound), settings, CPU)
        stepper.prepare(batches(settings), 0)
    assert isinstance(stepper.step_function, Replay)
    assert not capsys.readouterr().err


needs_compiler = pytest.mark.skipif(
    not compiled.has_compiler(), reason="there is no C++ compiler here"
)


@needs_compiler
def test_compiled_steps_equal_eager_ones(double):
    settings = replace(ICVAE, learning_rate=1e-5)
    assert_same(lambda: build(settings), settings, 10, nullcontext())


@needs_compiler
def test_a_compiled_run_resumes_exactly(tmp_path):
    """The mutation: the first step after a resume is eager, and rounds differently."""
    settings = replace(
        AE,
        run_dir=tmp_path / "whole",
        compile="on",
        steps=20,
        log_every=5,
        checkpoint_every=50,
        device="cpu",
    )

    def run(settings: Settings, stop_at: int = 0) -> dict[str, Tensor]:
        class Interrupt(Callback):
            def step(self, step, metrics):
                if step == stop_at:
                    signal.raise_signal(signal.SIGINT)

        torch.manual_seed(0)
        objective = build(settings)
        run = Run.create(settings, "ae")
        fit(objective, batches(settings), run, settings, CPU, callbacks=[Interrupt()])
        return objective.state_dict()

    whole = run(settings)
    stopped = replace(settings, run_dir=tmp_path / "stopped")
    with pytest.raises(Interrupted):
        run(stopped, stop_at=10)
    resumed = run(replace(stopped, resume=True))
    for name, value in whole.items():
        assert torch.equal(resumed[name], value)


@pytest.mark.parametrize(
    ("extra_term", "word"),
    [
        (lambda self, step: 1.0 if self.linear.weight.sum() > 0 else 0.0, "cannot be compiled"),
        (lambda self, step: setattr(self, "state", self.state + 1) or self.state, "buffer"),
    ],
)
def test_a_step_that_cannot_be_compiled_is_refused(extra_term, word):
    objective = Mutant(extra_term)
    with refused("--compile", word):
        Stepper(objective, replace(AE, compile="on"), CPU).prepare(batches(AE), 0)


def test_a_step_that_waits_is_not_compiled(monkeypatch, capsys):
    """The default on CUDA, ``auto``, prints a line and stays eager."""
    settings = replace(CASES["air enum"], max_objects=1)
    with refused("--compile", "cannot be compiled"):
        Stepper(build(settings), replace(settings, compile="on"), CPU).prepare(batches(settings), 0)
    monkeypatch.setattr(steps, "should_compile", lambda *_: True)
    stepper = Stepper(build(settings), settings, CPU)
    stepper(batches(settings)(0), 0)
    assert "cannot be compiled" in capsys.readouterr().err
    assert stepper.step_function == stepper.eager_step


def test_when_steps_are_compiled():
    cuda = torch.device("cuda")

    def wanted(how: str, device: torch.device) -> bool:
        return compiled.should_compile(replace(AE, compile=how), device)

    assert [wanted(how, CPU) for how in ("auto", "on", "off")] == [False, True, False]
    assert [wanted(how, cuda) for how in ("auto", "on", "off")] == [True, True, False]


def test_no_compiler(monkeypatch, capsys, tmp_path):
    # Nothing is kept there, for which no compiler would be needed.
    monkeypatch.setenv("STRUCTURED_LATENTS_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with refused("--compile", "C++ compiler", "g++"):
        Stepper(build(AE), replace(AE, compile="on"), CPU).prepare(batches(AE), 0)
    monkeypatch.setattr(steps, "should_compile", lambda *_: True)
    stepper = Stepper(build(AE), AE, CPU)
    stepper.prepare(batches(AE), 0)
    assert "C++ compiler" in capsys.readouterr().err
    assert stepper.step_function == stepper.eager_step


@pytest.mark.parametrize("compares", [False, True])
def test_preparing_changes_nothing(double, monkeypatch, compares):
    """Weights, buffers, moments and random states are restored, before and after real steps."""
    torch.manual_seed(0)
    settings = CASES["air average"]
    stepper = Stepper(build(settings), settings, CPU)
    batch = batches(settings)
    for done in (0, 3):
        before = {name: each.clone() for name, each in stepper.objective.state_dict().items()}
        moments = [each.clone() for each in stepper.moments()]
        random = torch.get_rng_state()
        if compares:
            with captured(monkeypatch, traced=False) as patch:
                patch.setattr(steps, "should_compile", lambda *_: True)
                stepper.prepare(batch, done)
            assert isinstance(stepper.step_function, Replay)
        else:
            with stepper.dry_run():
                stepper.eager_step(batch(done), torch.tensor(done))
        assert torch.equal(torch.get_rng_state(), random)
        for name, each in stepper.objective.state_dict().items():
            assert torch.equal(each, before[name])
        found = stepper.moments()
        if done:
            assert all(torch.equal(a, b) for a, b in zip(found, moments, strict=True))
        else:
            assert found
            assert not any(each.any() for each in found)
        for step in range(3):
            stepper(batch(step), step)


def test_learning_rates_are_not_restored():
    """A checkpoint of CUDA has learning rates as tensors; the settings of this run replace them."""
    one, other = (Stepper(build(AE), AE, CPU) for _ in range(2))
    one(batches(AE)(0), 0)
    states = {name: optimiser.state_dict() for name, optimiser in one.optimisers.items()}
    for group in states["autoencoder"]["param_groups"]:
        group |= {"lr": torch.tensor(7.0), "capturable": True}
    other.load_state_dict(states)
    (group,) = other.optimisers["autoencoder"].param_groups
    assert (group["lr"], group["capturable"]) == (AE.learning_rate, False)
    assert all(torch.equal(a, b) for a, b in zip(one.moments(), other.moments(), strict=True))
