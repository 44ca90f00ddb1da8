"""The loop: what each loss updates, interrupts and resumes, early stopping, losses not finite."""

from __future__ import annotations

import gc
import inspect
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from pyro.infer.util import is_validation_enabled
from safetensors.torch import load_file
from torch import nn

from tests.data.refusals import refused
from tests.doors import memory_of
from train.ae import AESettings
from train.engine import steps
from train.engine.best import Best
from train.engine.callbacks import Callback, JSONLines
from train.engine.loop import fit
from train.engine.meters import Meter
from train.engine.runs import Run
from train.engine.steps import Stepper, build_optimiser, decay
from train.errors import Interrupted
from train.methods import METHODS
from train.objective import Anneal, Objective
from train.settings import Settings

CPU = torch.device("cpu")


class Twins(Objective):
    """Two linear layers with a loss each, where both losses depend on both layers."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(3, 1)
        self.two = nn.Linear(3, 1)
        self.broken_at = -1

    def forward(self, batch, step):
        (x,) = batch
        noise = torch.randn(())
        both = self.one(x) + self.two(x)
        term = torch.where(step == self.broken_at, torch.nan, (both**2).mean())
        losses = {"first": term + noise * 0, "second": ((both - noise) ** 2).mean()}
        return losses, {"fine": both.detach().mean(), "term": term.detach()}

    def parameter_groups(self, learning_rate):
        return {
            "first": [{"params": list(self.one.parameters()), "lr": learning_rate}],
            "second": [{"params": list(self.two.parameters()), "lr": 0.0}],
        }


def batch(step: int) -> tuple[torch.Tensor]:
    return (torch.randn(8, 3, generator=torch.Generator().manual_seed(step)),)


@pytest.fixture
def settings(tmp_path):
    return Settings(
        run_dir=tmp_path / "run",
        steps=20,
        batch_size=8,
        log_every=4,
        eval_every=10,
        checkpoint_every=7,
        learning_rate=0.01,
        device="cpu",
    )


def train(
    settings: Settings, kind: type[Twins] = Twins, callbacks: Sequence[Callback] = (), **options
) -> tuple[Twins, Run]:
    torch.manual_seed(settings.seed)
    objective = kind()
    run = Run.create(settings, "twins")
    fit(objective, batch, run, settings, CPU, callbacks=[JSONLines(run), *callbacks], **options)
    return objective, run


class Reader(Callback):
    """Calls a function with the step whenever metrics were read."""

    def __init__(self, function: Callable[[int], object]) -> None:
        self.function = function

    def step(self, step, metrics):
        if metrics:
            self.function(step)


def lines(run: Run) -> list[dict]:
    text = (run.directory / "metrics.jsonl").read_text()
    return [
        {k: v for k, v in json.loads(line).items() if "seconds" not in k}
        for line in text.splitlines()
    ]


def test_a_loss_updates_its_own_parameters_only(settings):
    torch.manual_seed(0)
    start = Twins()
    objective, _ = train(settings)
    # The second learning rate is 0. The first loss depends on those weights, but must not update
    # them.
    assert torch.equal(objective.two.weight, start.two.weight)
    assert not torch.equal(objective.one.weight, start.one.weight)


class Noisy(Twins):
    """Twins whose first loss, too, depends on random numbers."""

    def forward(self, batch, step):
        losses, metrics = super().forward(batch, step)
        return losses | {"first": losses["second"]}, metrics


@pytest.mark.parametrize("name", ["log_every", "eval_every", "checkpoint_every"])
def test_intervals_of_logs_and_checkpoints_change_no_weight(settings, tmp_path, name):
    """So a resumed run may change these intervals, unless evaluations select weights."""

    def look(step: int) -> dict[str, float]:
        return {"seen": torch.rand(3).sum().item()}

    changed = replace(settings, run_dir=tmp_path / "other", **{name: 3})
    one, other = (train(each, Noisy, evaluate=look)[0] for each in (settings, changed))
    for weights in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(*weights)


@pytest.mark.parametrize("kind", [method.settings for method in METHODS.values()])
def test_what_a_resumed_run_may_change(kind):
    assert Settings.FREE <= kind.FREE <= {field.name for field in fields(kind)}
    # The autoencoder ends with the weights of its best evaluation.
    assert ("eval_every" in kind.FREE) == (kind is not AESettings)


def test_metrics_are_means_over_the_steps_between_lines(settings):
    seen = []
    original = Twins.forward

    def record(self, *args):
        losses, metrics = original(self, *args)
        seen.append(losses["first"].item())
        return losses, metrics

    Twins.forward = record
    try:
        _, run = train(settings)
    finally:
        Twins.forward = original
    logged = [line for line in lines(run) if "first_loss" in line]
    assert [line["step"] for line in logged] == [4, 8, 12, 16, 20]
    # The first call is the check before the first step.
    seen = seen[1:]
    assert len(seen) == 20
    for i, line in enumerate(logged):
        assert line["first_loss"] == pytest.approx(sum(seen[4 * i : 4 * i + 4]) / 4, rel=1e-5)


def test_evaluating_does_not_change_the_training(settings, tmp_path):
    alone, _ = train(settings)
    watched, run = train(
        replace(settings, run_dir=tmp_path / "watched"),
        evaluate=lambda step: {"held_out_draw": torch.randn(()).item()},
    )
    assert torch.equal(alone.one.weight, watched.one.weight)
    assert [line["step"] for line in lines(run) if "held_out_draw" in line] == [10, 20]


def test_evaluations_are_without_checks(settings):
    """They take a tenth of an evaluation's time, and the first step was checked before."""
    checks = []
    train(settings, evaluate=lambda step: checks.append(is_validation_enabled()) or {})
    assert checks == [False, False]
    assert is_validation_enabled()


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_optimisers_are_those_of_pytorch_and_leave_its_compiler_alone(settings, monkeypatch, name):
    """The mutation: a method that imports the compiler, which takes longer than PyTorch's import.

    Such a method keeps what it has imported, which is dropped here.
    """
    settings = replace(settings, optimiser=name)

    def trained(build: Callable[[], torch.optim.Optimizer]) -> list[torch.Tensor]:
        optimiser = build()
        (weight,) = optimiser.param_groups[0]["params"]
        for step in range(3):
            weight.grad = weight.detach() * step
            optimiser.step()
        optimiser.load_state_dict(optimiser.state_dict())
        optimiser.zero_grad()
        return [weight.detach(), *optimiser.state[weight].values()]

    def weights() -> list[dict[str, Any]]:
        return [{"params": [nn.Parameter(torch.tensor([1.0, -2.0]))], "lr": 0.1}]

    with monkeypatch.context() as patch:
        for method in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
            inner = inspect.unwrap(getattr(torch.optim.Optimizer, method))
            patch.delattr(inner, "__dynamo_disable", raising=False)
        patch.setitem(sys.modules, "torch._dynamo", None)
        actual = trained(lambda: build_optimiser(weights(), settings, CPU))
    with monkeypatch.context() as patch:
        patch.setattr(steps, "untraced", lambda optimiser: optimiser)
        expected = trained(lambda: build_optimiser(weights(), settings, CPU))
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))


def test_an_interrupted_run_resumes_exactly(settings, tmp_path):
    whole, whole_run = train(settings)

    def interrupt(step: int) -> None:
        if step == 12:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = replace(settings, run_dir=tmp_path / "stopped")
    with pytest.raises(Interrupted, match=r"stopped at step 1[23].*--resume --run-dir"):
        train(stopped, callbacks=[Reader(interrupt)])
    resumed, run = train(replace(stopped, resume=True))
    assert torch.equal(whole.one.weight, resumed.one.weight)
    assert lines(run) == lines(whole_run)


@pytest.mark.parametrize("stale", [True, False])
def test_a_run_killed_between_its_last_checkpoint_and_the_weights(settings, tmp_path, stale):
    """The resumed run has no step to take, and ``model.safetensors`` is an earlier one or absent.

    The mutation: weights that only a step writes.
    """
    _, run = train(replace(settings, steps=14))
    weights = run.directory / "model.safetensors"
    earlier = weights.read_bytes()
    train(replace(settings, resume=True))
    expected = weights.read_bytes()
    assert earlier != expected
    weights.write_bytes(earlier) if stale else weights.unlink()
    train(replace(settings, resume=True))
    assert weights.read_bytes() == expected


SCORES = {2: 3.0, 4: 2.0, 6: 2.5, 8: 1.0, 10: 1.0, 12: 4.0, 14: 5.0, 16: 0.5, 18: 2.0, 20: 3.0}


def scored(settings: Settings, patience: int | None, **changes) -> tuple[Twins, Run, Best]:
    """Trains with :data:`SCORES` as the results of evaluations."""
    best = Best("score", patience)
    settings = replace(settings, eval_every=2, **changes)
    objective, run = train(settings, evaluate=lambda step: {"score": SCORES[step]}, best=best)
    return objective, run, best


@pytest.mark.parametrize(
    ("patience", "step", "last"), [(None, 16, 20), (4, 16, 20), (2, 8, 14), (1, 8, 12), (0, 4, 6)]
)
def test_the_best_weights_are_restored_and_patience_stops(settings, tmp_path, patience, step, last):
    """The mutation: ``Best`` holds references, and training changes the weights it selected."""
    objective, run, best = scored(settings, patience)
    assert (best.step, best.value) == (step, SCORES[step])
    assert lines(run)[-1]["step"] == last
    stopped, _ = train(replace(settings, run_dir=tmp_path / "stopped", steps=step))
    for found in (objective.state_dict(), load_file(run.directory / "model.safetensors")):
        for name, weight in stopped.state_dict().items():
            assert torch.equal(found[name], weight)


def test_a_resumed_run_goes_on_selecting(settings, tmp_path):
    whole, whole_run, _ = scored(settings, 2)
    stopped = replace(settings, run_dir=tmp_path / "stopped")
    scored(stopped, 2, steps=10)
    resumed, run, best = scored(stopped, 2, resume=True)
    assert best.step == 8
    assert torch.equal(whole.one.weight, resumed.one.weight)
    # Early stopping ends it at step 14, as it ends the uninterrupted run.
    assert [line["step"] for line in lines(run) if "score" in line][-1] == 14
    again, _, _ = scored(stopped, 2, resume=True)
    assert torch.equal(whole.one.weight, again.one.weight)
    assert lines(whole_run)[-1]["step"] == 14


def test_optimisers(settings):
    """RMSprop decays its mean square by 0.9, as in Keras, where its learning rates are from."""
    rmsprop = Stepper(Twins(), replace(settings, optimiser="rmsprop"), CPU).optimisers["first"]
    assert isinstance(rmsprop, torch.optim.RMSprop)
    assert rmsprop.defaults["alpha"] == 0.9
    adam = Stepper(Twins(), settings, CPU).optimisers["first"]
    assert isinstance(adam, torch.optim.Adam)


@pytest.mark.parametrize("broken_at", [2, 13])
def test_a_loss_that_is_not_finite_is_named_with_its_step_and_the_last_checkpoint(
    settings, monkeypatch, broken_at
):
    init = Twins.__init__

    def broken(self):
        init(self)
        self.broken_at = broken_at

    monkeypatch.setattr(Twins, "__init__", broken)
    where = "of step 7" if broken_at == 13 else "no checkpoint"
    with refused("term", f"step {broken_at + 1}", "--learning-rate", where):
        train(settings)
    # The weights of the last good checkpoint are still there.
    state = settings.run_dir / "model.safetensors"
    assert state.exists() == (broken_at == 13)


def test_a_cosine_ends_at_zero(settings):
    cosine = replace(settings, decay="cosine")
    assert decay(0, cosine) == 1
    assert decay(10, cosine) == pytest.approx(0.5)
    assert decay(20, cosine) == pytest.approx(0)
    assert decay(15, settings) == 1


class Upside(Objective):
    """A convolution of images whose channels are next to each other in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(8, 16, 3, padding=1)

    def forward(self, batch, step):
        images = batch[0].permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
        return {"loss": self.convolution(images).sin().square().mean()}, {}


def test_a_gradient_in_another_layout_moves_its_own_weights(settings):
    """The mutation: a gradient as autograd.grad returns it, which a fused Adam reads in order."""
    torch.manual_seed(0)
    objective, images = Upside(), torch.randn(4, 8, 9, 7)
    before = objective.convolution.weight.detach().clone()
    (gradient,) = torch.autograd.grad(
        objective((images,), torch.tensor(0))[0]["loss"], [objective.convolution.weight]
    )
    stepper = Stepper(objective, settings, CPU)
    stepper((images,), 0)
    # In its first step Adam moves every weight by the rate, against its gradient.
    moved = objective.convolution.weight.detach() - before
    large = gradient.abs() > 1e-5
    assert large.double().mean() > 0.9
    wanted = -settings.learning_rate * gradient.sign()
    torch.testing.assert_close(moved[large], wanted[large], rtol=0.01, atol=1e-6)
    assert objective.convolution.weight.grad.stride() == before.stride() != gradient.stride()


def test_annealing():
    step = torch.tensor([0, 5, 10, 50])
    assert Anneal(2.0, 4.0, 10)(step).tolist() == pytest.approx([2, 3, 4, 4])
    assert Anneal(0.1, 0.001, 10, geometric=True)(step).tolist() == pytest.approx(
        [0.1, 0.01, 0.001, 0.001]
    )
    assert Anneal(2.0, 4.0, 0)(step).tolist() == [4, 4, 4, 4]


def test_a_meter_reports_no_step_twice():
    meter = Meter()
    for step in (1, 2):
        meter.add(step, {"a": torch.tensor(float(step))}, {})
    assert meter.read() == {"a_loss": 1.5}
    meter.add(3, {"a": torch.tensor(7.0)}, {})
    assert meter.read() == {"a_loss": 7.0}


def test_a_meter_sums_many_steps_and_knows_the_first_that_is_not_finite():
    """It sums blocks of steps; the first one may be anywhere in one."""
    values = [float(step) for step in range(1, 151)]
    for nonfinite in ([], [1], [64, 65], [70, 71, 149]):
        meter, resumed = Meter(), Meter()
        for step, value in enumerate(values, start=1):
            bad = math.inf if step in nonfinite else value
            meter.add(step, {"a": torch.tensor(bad)}, {"b": torch.tensor(-value)})
            if step == 100:
                resumed.load_state_dict(meter.state_dict())
            elif step > 100:
                resumed.add(step, {"a": torch.tensor(bad)}, {"b": torch.tensor(-value)})
        names = ["a_loss"] if nonfinite else []
        assert meter.nonfinite() == (min(nonfinite, default=0), names)
        assert meter.read() == {"a_loss": math.inf if nonfinite else 75.5, "b": -75.5}
        # A loss that is not finite stops a run before its checkpoint.
        late = [step for step in nonfinite if step > 100]
        assert resumed.nonfinite()[0] == min(late, default=0)


def test_memory_does_not_grow(settings):
    """Over 3,000 steps. The mutation: summing losses with their graphs takes 12 kB a step."""
    seen = {}

    def measure(step: int) -> None:
        gc.collect()
        seen[step] = memory_of("self", 1)

    long = replace(settings, steps=3_000, log_every=300, eval_every=10**5, checkpoint_every=1_500)
    train(long, callbacks=[Reader(measure)])
    assert len(seen) == 10
    assert seen[3_000] - seen[300] < 8 * 1024**2


def test_the_last_weights_stay_if_no_evaluation_is_finite(settings):
    """The mutation: loading the best weights, of which there are none, fails."""
    best = Best("nothing")
    trained, run = train(settings, evaluate=lambda step: {"nothing": math.nan}, best=best)
    plain, _ = train(replace(settings, run_dir=settings.run_dir.with_name("plain")))
    assert torch.equal(trained.one.weight, plain.one.weight)
    weights = load_file(run.directory / "model.safetensors")
    assert torch.equal(weights["one.weight"], plain.one.weight)
