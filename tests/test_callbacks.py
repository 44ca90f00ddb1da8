"""Callbacks are called in order, and closed however a run ends, without hiding its error."""

from __future__ import annotations

import os
import signal
import textwrap
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.data.refusals import refused
from tests.test_loop import CPU, Twins, batch
from train import processes
from train.engine import callbacks
from train.engine.callbacks import Callback, JSONLines, TensorBoard, standard
from train.engine.loop import Best, FitResult, fit
from train.engine.runs import Run
from train.errors import InputError, Interrupted
from train.settings import Settings


@pytest.fixture
def settings(tmp_path):
    return Settings(
        run_dir=tmp_path / "run",
        steps=6,
        batch_size=8,
        log_every=2,
        eval_every=3,
        checkpoint_every=3,
        device="cpu",
    )


class Recorder(Callback):
    """Records its calls; raises in the method named ``raises``."""

    def __init__(self, calls: list, raises: str = "", name: str = "") -> None:
        self.calls = calls
        self.raises = raises
        self.name = name

    def called(self, method: str, *values) -> None:
        self.calls.append((self.name + method, *values))
        if method == self.raises:
            raise ZeroDivisionError(method)

    def start(self, settings, step):
        self.called("start", step)

    def step(self, step, metrics):
        self.called("step", step, sorted(metrics))

    def evaluated(self, step, metrics):
        self.called("evaluated", step, sorted(metrics))

    def end(self, result):
        self.called("end", result and result.steps)


def train(settings: Settings, *given: Callback, evaluate=lambda step: {"score": step}, **options):
    torch.manual_seed(0)
    run = Run.create(settings, "twins")
    result = fit(Twins(), batch, run, settings, CPU, evaluate=evaluate, callbacks=given, **options)
    return run, result


READ = ["fine", "first_loss", "second_loss", "term", "train_seconds"]


def test_the_order_of_calls(settings):
    calls = []
    _, result = train(settings, Recorder(calls))
    assert isinstance(result, FitResult)
    assert calls == [
        ("start", 0),
        ("step", 1, []),
        ("step", 2, READ),
        ("step", 3, []),
        ("evaluated", 3, ["score"]),
        ("step", 4, READ),
        ("step", 5, []),
        ("step", 6, READ),
        ("evaluated", 6, ["score"]),
        ("end", 6),
    ]


def test_callbacks_are_called_in_the_order_given(settings):
    calls = []
    train(replace(settings, steps=1), Recorder(calls, name="a "), Recorder(calls, name="b "))
    methods = [
        f"{name} {method}" for method in ("start", "step", "evaluated", "end") for name in "ab"
    ]
    assert [name for name, *_ in calls] == methods


def test_the_end_comes_after_the_last_checkpoint_and_weights(settings):
    class Files(Callback):
        def end(self, result):
            self.names = {path.name for path in settings.run_dir.rglob("*")}

    files = Files()
    train(settings, files)
    assert {"model.safetensors", "00000006.pt"} <= files.names


def test_a_resumed_run_starts_at_the_step_of_the_checkpoint(settings):
    train(replace(settings, steps=4), Recorder([]))
    calls = []
    train(replace(settings, resume=True), Recorder(calls))
    assert [call[:2] for call in calls] == [
        *(("start", 4), ("step", 5), ("step", 6), ("evaluated", 6), ("end", 6)),
    ]
    # Nothing is left to do: the run still starts and ends.
    again = []
    train(replace(settings, resume=True), Recorder(again))
    assert again == [("start", 6), ("end", 6)]


def test_early_stopping_is_an_end_like_any_other(settings):
    calls = []
    best = Best("score", patience=0)
    train(replace(settings, eval_every=1), Recorder(calls), best=best)
    # The score grows, so the second evaluation is no better.
    assert calls[-1] == ("end", 2)


def test_an_interrupted_run_ends_without_a_result(settings):
    class Interrupt(Callback):
        def step(self, step, metrics):
            if step == 4:
                os.kill(os.getpid(), signal.SIGINT)

    calls = []
    with pytest.raises(Interrupted, match="stopped at step 4"):
        train(settings, Interrupt(), Recorder(calls))
    assert calls[-2:] == [("step", 4, READ), ("end", None)]
    assert (settings.run_dir / "checkpoints" / "00000004.pt").exists()


def test_a_broken_loss_ends_without_a_result(settings, monkeypatch):
    init = Twins.__init__

    def broken(self):
        init(self)
        self.broken_at = 2

    monkeypatch.setattr(Twins, "__init__", broken)
    calls = []
    with refused("not a finite number at step 3"):
        train(settings, Recorder(calls))
    assert calls[-1] == ("end", None)


@pytest.mark.parametrize("method", ["start", "step", "evaluated", "end"])
def test_a_callback_that_raises_stops_the_run_with_its_own_error(settings, method):
    calls, others = [], []
    with pytest.raises(ZeroDivisionError, match=method):
        train(settings, Recorder(others), Recorder(calls, method))
    assert others[0] == ("start", 0)
    # The training is done when an end fails.
    assert others[-1] == ("end", 6 if method == "end" else None)
    # A callback whose start failed is not ended.
    assert ("end" in {name for name, *_ in calls}) == (method != "start")


def test_an_end_that_fails_hides_no_error_and_no_other_end(settings, capsys):
    """The mutation: a ``finally`` whose exception replaces the one that stopped the run."""
    calls = []
    with pytest.raises(InputError, match="the first one"):
        train(
            settings,
            Recorder(calls, "end"),
            Recorder(calls),
            evaluate=lambda step: (_ for _ in ()).throw(InputError("the first one")),
        )
    assert calls[-2:] == [("end", None), ("end", None)]
    assert "a callback's end failed too (ZeroDivisionError: end)" in capsys.readouterr().err


def test_only_rank_zero_calls(settings, monkeypatch):
    monkeypatch.setattr(processes, "rank", lambda: 1)
    calls = []
    run, _ = train(settings, Recorder(calls))
    assert calls == []
    assert standard(run, settings) == []


def test_the_standard_ones(settings, monkeypatch, capsys):
    """The log and the progress bar, and TensorBoard if the settings ask for it."""
    monkeypatch.setattr(callbacks, "SECONDS", 0.0)
    run = Run.create(settings, "twins")
    fit(Twins(), batch, run, settings, CPU, callbacks=standard(run, settings))
    printed = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in printed] == [
        f"twins: step {step} of 6" for step in (2, 4, 6)
    ]
    assert "first_loss" in printed[0]
    assert run.history()["first_loss"][0].tolist() == [2, 4, 6]
    assert not (settings.run_dir / "tensorboard").exists()
    kinds = [type(callback) for callback in standard(run, replace(settings, tensorboard=True))]
    assert kinds == [JSONLines, TensorBoard, callbacks.ProgressBar]


def test_an_evaluation_without_metrics_is_not_logged(settings):
    """It may save a stage for the figures only."""
    calls, steps = [], []
    run, _ = train(
        settings,
        JSONLines(Run(settings.run_dir, "twins")),
        Recorder(calls),
        evaluate=lambda step: steps.append(step) or {},
    )
    assert steps == [3, 6]
    assert "evaluated" not in {name for name, *_ in calls}
    assert len((run.directory / "metrics.jsonl").read_text().splitlines()) == 3


def test_without_callbacks_nothing_is_logged_or_shown(settings, monkeypatch, capsys):
    monkeypatch.setattr(callbacks, "SECONDS", 0.0)
    train(settings)
    assert not (settings.run_dir / "metrics.jsonl").exists()
    assert capsys.readouterr().err == ""


def test_tensorboard_shows_a_resumed_run_once(settings):
    """Events after the checkpoint are hidden. The mutation: no ``purge_step``."""
    folder = settings.run_dir / "tensorboard"
    train(settings, TensorBoard(folder))
    (settings.run_dir / "checkpoints" / "00000006.pt").unlink()
    train(replace(settings, resume=True, log_every=6), TensorBoard(folder))
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("first_loss")] == [2, 6]
    assert [event.step for event in events.Scalars("score")] == [3, 6]


def test_the_logger_of_the_documentation(settings):
    """Weights & Biases in five lines, as the module's docstring has them."""
    rows, ends = [], []
    run = SimpleNamespace(
        log=lambda metrics, step: rows.append((step, sorted(metrics))),
        finish=lambda exit_code: ends.append(exit_code),
    )
    given = []
    wandb = SimpleNamespace(init=lambda config: given.append(config) or run)
    _, rest = callbacks.__doc__.split("::\n\n", 1)
    code = textwrap.dedent(rest.split("\n\n")[0])
    assert len(code.splitlines()) == 5
    names = {"Callback": Callback, "asdict": asdict, "wandb": wandb}
    exec(code, names)
    train(settings, names["WeightsAndBiases"]())
    assert rows == [(2, READ), (3, ["score"]), (4, READ), (6, READ), (6, ["score"])]
    assert given == [asdict(settings)]
    assert ends == [0]
