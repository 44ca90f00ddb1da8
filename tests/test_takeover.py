"""Compiled steps are kept for later runs, and take over from eager ones at a recorded step."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from tests.data.refusals import refused
from tests.test_compiled import AE, CPU, Mutant, batches, sound
from train import processes
from train.engine import ahead, automatic, compiling, kept_steps, takeover
from train.engine.ahead import Layout, Traced
from train.engine.callbacks import Callback, FitResult
from train.engine.loop import fit
from train.engine.runs import Run
from train.engine.step_key import step_key
from train.engine.steps import Stepper
from train.errors import Interrupted
from train.settings import Settings

TRAINING = replace(AE, steps=12, log_every=3, eval_every=100, checkpoint_every=100, device="cpu")
COPIES = "import sys, shutil; from pathlib import Path; f = Path(sys.argv[1]); {}"
"""A stand-in for the compiler's process: copies the traced step."""
AT_ONCE = COPIES.format('shutil.copy(f / "traced.pickle", f / "step.pt2")')


def build(traced: Traced, package: Path) -> None:
    """Stands in for the compiler: what it leaves is the traced step, which runs uncompiled."""
    ahead.save_traced(traced, package.parent)
    (package.parent / ahead.TRACED).replace(package)


def load(package: Path) -> tuple[Callable[[list[Tensor]], list[Tensor]], Layout]:
    """Loads what :func:`build` leaves."""
    folder = package.parent / f"{package.stem}-loaded"
    folder.mkdir(exist_ok=True)
    (folder / ahead.TRACED).write_bytes(package.read_bytes())
    traced, _ = ahead.load_traced(folder)
    # Half a rounding error: so that a compiled step is another one, as it is in truth.
    return lambda inputs: [y * (1 + 2e-7) for y in fx.Interpreter(traced.graph).run(*inputs)], (
        traced.layout
    )


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Replaces the compiler, and gives each test a cache of its own; lists what was compiled."""
    made: list[Path] = []

    def noted(traced: Traced, package: Path) -> None:
        made.append(package)
        build(traced, package)

    monkeypatch.setattr(ahead, "build", noted)
    monkeypatch.setattr(ahead, "load", load)
    monkeypatch.setattr(ahead, "COMMAND", AT_ONCE)
    monkeypatch.setattr(compiling, "require_compiler", lambda: None)
    monkeypatch.setattr(takeover, "spare_processors", lambda: 1)
    monkeypatch.setenv(kept_steps.FOLDER, str(tmp_path / "cache"))
    return made


def kept() -> list[Path]:
    """The files of the kept steps."""
    return sorted(kept_steps.folder().glob("*.pt2"))


def prepared(objective: Any = None, **settings: Any) -> Stepper:
    """A stepper that is ready."""
    torch.manual_seed(0)
    given = replace(TRAINING, **{"compile": "on", **settings})
    stepper = Stepper(objective or Mutant(sound), given, CPU)
    stepper.prepare(batches(given), 0)
    return stepper


def test_a_second_start_compiles_nothing_and_traces_nothing(built, monkeypatch):
    """It takes the same steps, to the bit."""
    first = prepared()
    monkeypatch.setattr(compiling, "make_fx", None)
    second = prepared()
    assert len(built) == 1
    for i in range(3):
        losses = []
        for stepper in (first, second):
            torch.manual_seed(i)
            losses.append(stepper(batches(TRAINING)(i), i)[0]["all"])
        assert torch.equal(*losses)


MODULE = """
import torch
from torch import nn
from train.objective import Objective

SCALE = 2.0

def scaled(x):
    return x * SCALE

class Line(Objective):
    def __init__(self, shift=1.0, term=lambda x: x):
        super().__init__()
        self.linear = nn.Linear(16, 1)
        self.shift = shift
        self.term = term

    def forward(self, batch, step):
        return {"loss": self.term(scaled(self.linear(batch[0]) + self.shift)).square().mean()}, {}
"""


def imported(folder: Path, source: str = MODULE) -> ModuleType:
    """Imports a user's module from a file."""
    folder.mkdir(exist_ok=True)
    path = folder / "user_module.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("user_module", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["user_module"] = module
    spec.loader.exec_module(module)
    return module


def key(objective: Any, batch: Tensor | None = None, *options: str) -> str | None:
    groups = {"loss": list(objective.parameters())}
    return step_key(objective, groups, (torch.zeros(4, 16) if batch is None else batch,), *options)


@pytest.fixture
def user(tmp_path: Path) -> Iterator[ModuleType]:
    yield imported(tmp_path / "user")
    del sys.modules["user_module"]


def power(n: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x**n


def test_the_key_is_that_of_a_step(user, tmp_path, monkeypatch):
    """Weights and data are no part of it; each of the others is, and has to change it."""
    same, again = user.Line(), user.Line()
    original = key(same)
    assert original is not None
    again.load_state_dict({name: value + 1 for name, value in again.state_dict().items()})
    assert key(again, torch.ones(4, 16)) == original
    keys = {
        "attribute": key(user.Line(shift=1.5)),
        "constant": key(user.Line(shift=torch.zeros(1))),
        "another constant": key(user.Line(shift=torch.ones(1))),
        "function": key(user.Line(term=torch.exp)),
        "closure": key(user.Line(term=power(2))),
        "another closure": key(user.Line(term=power(3))),
        "option": key(same, None, "bf16"),
        "batch": key(same, torch.zeros(5, 16)),
        "layout of the batch": key(same, torch.zeros(16, 4).t()),
        "type of the weights": key(user.Line().double()),
        "frozen weights": key(user.Line().requires_grad_(False)),
    }
    user.SCALE = 3.0
    keys["global variable"] = key(same)
    user.SCALE = 2.0
    monkeypatch.setattr(torch, "__version__", "99")
    keys["version"] = key(same)
    monkeypatch.undo()
    monkeypatch.setenv("TORCHINDUCTOR_MAX_AUTOTUNE", "1")
    keys["environment"] = key(same)
    monkeypatch.undo()
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    keys["threads"] = key(same)
    torch.set_num_threads(threads)
    assert key(same) == original
    keys["source"] = key(imported(tmp_path / "user", MODULE.replace("square", "abs")).Line())
    assert None not in keys.values()
    assert len({original, *keys.values()}) == len(keys) + 1


@pytest.mark.parametrize(
    ("inside", "same"), [("site-packages/setuptools/_vendor", True), ("more/site-packages", False)]
)
def test_packages_inside_a_package_do_not_change_the_key(user, tmp_path, monkeypatch, inside, same):
    """An imported package adds them to the path, in this process and not in the next one."""
    before = key(user.Line())
    folder = tmp_path / inside
    (folder / "vendored-1.0.dist-info").mkdir(parents=True)
    monkeypatch.setattr("sys.path", [*sys.path, str(folder)])
    assert (key(user.Line()) == before) is same


def test_a_changed_line_of_the_project_changes_the_key(user, tmp_path, monkeypatch):
    monkeypatch.setattr("train.engine.step_key.PROJECT", tmp_path)
    file = tmp_path / "train" / "module.py"
    file.parent.mkdir()
    file.write_text("a = 1")
    before = key(user.Line())
    file.write_text("a = 2")
    assert before != key(user.Line())


def test_what_cannot_be_compared_has_no_key_and_is_not_kept(user, tmp_path, built):
    """An open file; and a class that no file defines, as in a notebook."""
    with (tmp_path / "file").open("w") as file:
        assert key(user.Line(shift=file)) is None
    exec(MODULE, cells := {"__name__": "cells"})
    sys.modules["cells"] = ModuleType("cells")
    assert key(cells["Line"]()) is None
    del sys.modules["cells"]
    stepper = prepared(Mutant(lambda self, step: 0 * len(file.name)))
    assert stepper.compiled_from == 0
    assert len(built) == 1
    assert not kept()


def test_a_stale_step_is_not_used(built, monkeypatch, capsys):
    """The mutation: the key does not change with the step. The comparison finds it."""
    monkeypatch.setattr(takeover, "step_key", lambda *_: "same")
    prepared()
    stepper = prepared(Mutant(lambda self, step: 1 + sound(self, step)))
    assert stepper.compiled_from == 0
    assert len(built) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "compiled anew" in line
    assert "the loss all is" in line


def test_a_damaged_file_is_not_used(built, capsys):
    prepared()
    (path,) = kept()
    path.write_bytes(path.read_bytes()[:-9])
    prepared()
    assert len(built) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path} is damaged" in line


def test_a_flipped_byte_is_found(tmp_path):
    path = tmp_path / "step.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("step/model.so", bytes(1000))
        archive.writestr(f"step/{ahead.LAYOUT}", json.dumps(Layout(["a"], [], {})._asdict()))
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="checksum"):
        ahead.load(path)


def test_a_folder_that_others_can_write_to_is_not_used(built, capsys):
    prepared()
    kept_steps.folder().chmod(0o777)
    prepared()
    assert len(built) == 2
    assert "others can write to" in capsys.readouterr().err


def test_without_a_place_to_keep_steps_they_are_compiled(built, monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv(kept_steps.FOLDER, str(tmp_path / "file"))
    assert prepared().compiled_from == 0
    assert "cannot be kept" in capsys.readouterr().err


def test_the_least_used_steps_go(built, monkeypatch):
    """So do folders of processes that were killed; another's in use stays."""
    monkeypatch.setattr(kept_steps, "MOST", 2)
    for i in range(3):
        with kept_steps.workplace(True) as (folder, keeps):
            assert keeps
            (folder / "step.pt2").touch()
            kept_steps.keep(f"{i}", folder / "step.pt2")
        os.utime(kept_steps.folder() / f"{i}.pt2", (i, i))
    for name, seconds in {"part-old": 2 * kept_steps.DAY, "part-new": 0}.items():
        (kept_steps.folder() / name).mkdir()
        before = (kept_steps.folder() / name).stat().st_mtime - seconds
        os.utime(kept_steps.folder() / name, (before, before))
    prepared()
    names = {path.name for path in kept_steps.folder().iterdir()} - {kept()[-1].name}
    assert {"part-new"} < names
    assert "part-old" not in names
    assert len(kept()) == 2


def run(
    folder: Path, stop_at: int = 0, resume: bool = False, **settings: Any
) -> tuple[FitResult | None, dict[str, Tensor]]:
    """Trains, up to a step if it is given; returns the result and the weights."""

    class Stop(Callback):
        def step(self, step, metrics):
            if step == stop_at:
                signal.raise_signal(signal.SIGINT)

    given: Settings = replace(TRAINING, run_dir=folder, resume=resume, **settings)
    torch.manual_seed(0)
    objective = Mutant(sound)
    arguments = objective, batches(given), Run.create(given, "ae"), given, CPU
    if stop_at:
        with pytest.raises(Interrupted):
            fit(*arguments, callbacks=[Stop()])
        return None, objective.state_dict()
    return fit(*arguments), objective.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process in the background is done four steps after it began."""

    def is_running(self: Any) -> bool:
        self.polled = getattr(self, "polled", 0) + 1
        return self.polled <= 4

    monkeypatch.setattr(compiling.GradientCompiler, "is_running", is_running)


def test_a_run_that_switched_is_repeated_exactly(built, later, tmp_path, capsys):
    """The mutation, another step, ends elsewhere: the weights know where it was."""
    first, weights = run(tmp_path / "a", compile="background")
    assert first is not None
    assert first.compiled_from == 4
    assert "--compile-from 4 repeats this run" in capsys.readouterr().err
    again, others = run(tmp_path / "b", compile="background", compile_from=4)
    assert again is not None
    assert again.compiled_from == 4
    assert same(weights, others)
    assert not same(weights, run(tmp_path / "c", compile="background", compile_from=5)[1])
    assert not same(weights, run(tmp_path / "d", compile="on")[1])
    assert not same(weights, run(tmp_path / "e", compile="off")[1])


@pytest.mark.parametrize("stop", [2, 4, 7])
def test_a_run_that_switches_is_resumed_exactly(built, later, tmp_path, stop):
    """Before, at and after the step, whether it is given or is recorded in the checkpoint."""
    _, whole = run(tmp_path / "whole", compile="background", compile_from=4)
    given = {"compile": "background", "compile_from": 4}
    run(tmp_path / "given", stop, **given)
    result, weights = run(tmp_path / "given", resume=True, **given)
    assert result is not None
    assert result.compiled_from == 4
    assert same(whole, weights)
    if stop == 7:
        kept()[0].unlink()
        run(tmp_path / "recorded", stop, compile="background")
        # Else the step would be at hand at once, recorded or not.
        kept()[0].unlink()
        result, weights = run(tmp_path / "recorded", resume=True, compile="background")
        assert result is not None
        assert result.compiled_from == 4
        assert same(whole, weights)


def test_a_run_goes_on_uncompiled_if_the_compiler_fails(
    built, later, monkeypatch, tmp_path, capsys
):
    """But where compiled steps were asked for from a certain one on, it ends."""
    monkeypatch.setattr(ahead, "COMMAND", "raise SystemExit('no space left')")
    result, weights = run(tmp_path / "a", compile="background")
    assert result is not None
    assert result.compiled_from is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "no space left" in line
    assert line.endswith("training continues uncompiled")
    assert same(weights, run(tmp_path / "b", compile="off")[1])
    with refused("--compile", "no space left"):
        run(tmp_path / "c", compile="background", compile_from=4)


def test_a_step_that_differs_does_not_take_over(built, later, monkeypatch, tmp_path, capsys):
    """The mutation: what the process leaves is a fifth too large."""

    def load_wrong(package: Path) -> Any:
        function, layout = load(package)
        return lambda inputs: [1.2 * value for value in function(inputs)], layout

    monkeypatch.setattr(ahead, "load", load_wrong)
    result, weights = run(tmp_path / "a", compile="background")
    assert result is not None
    assert result.compiled_from is None
    assert "differs from the step itself" in capsys.readouterr().err
    assert same(weights, run(tmp_path / "b", compile="off")[1])


def test_a_run_that_ends_early_stops_the_compiler(built, monkeypatch, tmp_path):
    started: list[Any] = []
    start = compiling.GradientCompiler.start

    def noted(self: Any, *arguments: Any) -> None:
        start(self, *arguments)
        started.append((self, self.process))

    monkeypatch.setattr(compiling.GradientCompiler, "start", noted)
    monkeypatch.setattr(ahead, "COMMAND", "import time; time.sleep(60)")
    result, _ = run(tmp_path / "a", compile="background")
    ((compiler, process),) = started
    assert process.returncode == -signal.SIGKILL
    assert not compiler.folder.exists()
    assert result is not None
    assert result.compiled_from is None


def automatically(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> None:
    """Times are these: of an eager step before the first one, then of an eager and a compiled one.

    A run of few steps is long enough then.
    """
    monkeypatch.setattr(automatic, "FEWEST", 2)
    times = iter(seconds)
    monkeypatch.setattr(automatic, "seconds_of", lambda *steps: [next(times) for _ in steps])
    monkeypatch.setattr(automatic, "share_of", lambda step: 0.99)
    monkeypatch.setattr(automatic, "has_compiler", lambda: True)
    monkeypatch.setattr(automatic, "spare_processors", lambda: 1)


def auto(folder: Path, **settings: Any) -> tuple[int | None, dict[str, Tensor]]:
    """Trains with ``--compile auto``; returns the first compiled step, and the weights."""
    result, weights = run(folder, compile="auto", **settings)
    assert result is not None
    return result.compiled_from, weights


def test_a_kept_step_is_taken_automatically_where_it_pays(built, monkeypatch, tmp_path, capsys):
    """Of 12 steps: in a long run, and if it is faster; the run is repeated as the line says."""
    eager = run(tmp_path / "eager", compile="off")[1]
    compiled = run(tmp_path / "compiled", compile="on")[1]
    capsys.readouterr()
    long, short = automatic.KEPT_SECONDS / 12 + 0.01, automatic.KEPT_SECONDS / 12 - 0.01
    for name, times, expected in (
        ("short", (short,), None),
        ("slow", (long, 1.0, 0.96), None),
        ("fast", (long, 1.0, 0.5), 0),
    ):
        automatically(monkeypatch, *times)
        start, weights = auto(tmp_path / name)
        assert start == expected
        assert same(weights, eager if start is None else compiled)
        said = capsys.readouterr().err
        assert ("1.04 times as fast; training continues uncompiled" in said) == (name == "slow")
        line = "step 0 on, 2.0 times as fast: --compile background --compile-from 0 repeats"
        assert (line in said) == (name == "fast")
    assert len(built) == 1


@pytest.mark.parametrize("lacks", ["", "time", "processor", "share", "compiler"])
def test_a_long_run_compiles_in_the_background_automatically(
    built, later, monkeypatch, tmp_path, capsys, lacks
):
    """And takes over where that run would: the mutation compiles without one of the conditions."""
    step = automatic.SECONDS / 12 + (-0.01 if lacks == "time" else 0.01)
    automatically(monkeypatch, step, 1.0, 0.5)
    if lacks == "processor":
        monkeypatch.setattr(automatic, "spare_processors", lambda: 0)
    if lacks == "share":
        monkeypatch.setattr(automatic, "share_of", lambda step: 0.5)
    if lacks == "compiler":
        monkeypatch.setattr(automatic, "has_compiler", lambda: False)
    start, weights = auto(tmp_path / "auto")
    said = capsys.readouterr().err
    assert start == (None if lacks else 4)
    if lacks:
        assert not said
        assert same(weights, run(tmp_path / "eager", compile="off")[1])
    else:
        assert "take about 10 minutes" in said
        given = {"compile": "background", "compile_from": 4}
        assert same(weights, run(tmp_path / "again", **given)[1])


def test_a_compiled_step_that_is_no_faster_does_not_take_over(
    built, later, monkeypatch, tmp_path, capsys
):
    automatically(monkeypatch, automatic.SECONDS, 1.0, 1.0)
    start, weights = auto(tmp_path / "auto")
    assert start is None
    assert "1.00 times as fast; training continues uncompiled" in capsys.readouterr().err
    assert same(weights, run(tmp_path / "eager", compile="off")[1])


def test_a_kept_step_that_is_wrong_is_not_compiled_anew_automatically(
    built, monkeypatch, tmp_path, capsys
):
    """Nobody waits for the compiler who did not ask for it."""
    run(tmp_path / "first", compile="on")
    kept()[0].write_bytes(b"damaged")
    automatically(monkeypatch, automatic.SECONDS)
    assert auto(tmp_path / "auto")[0] is None
    assert "training continues uncompiled" in capsys.readouterr().err
    assert len(built) == 1


@pytest.mark.parametrize("how", ["off", "background"])
def test_a_resumed_run_goes_on_as_it_was_automatically(built, monkeypatch, tmp_path, how):
    """Compiled, whatever it takes, or not; nothing is timed."""
    given = {"compile": how} | ({"compile_from": 4} if how == "background" else {})
    _, whole = run(tmp_path / "whole", **given)
    run(tmp_path / "stopped", 6, **given)
    automatically(monkeypatch)
    for path in kept():
        path.unlink()
    start, weights = auto(tmp_path / "stopped", resume=True)
    assert start == (None if how == "off" else 4)
    assert same(whole, weights)


def test_with_one_processor_the_step_is_compiled_first(built, monkeypatch, capsys):
    monkeypatch.setattr(takeover, "spare_processors", lambda: 0)
    assert prepared(compile="background").compiled_from == 0
    assert "one processor" in capsys.readouterr().err


def test_what_cannot_be_in_the_background_is_refused(built, monkeypatch, tmp_path):
    with refused("--compile-from 4", "--compile background"):
        replace(TRAINING, compile="on", compile_from=4)
    with monkeypatch.context() as patch:
        patch.setattr(processes, "size", lambda: 2)
        with refused("--compile background", "one process", "--compile on"):
            prepared(compile="background")
    run(tmp_path / "a", 7, compile="off")
    with refused("--compile-from 4", "has done 7 steps"):
        run(tmp_path / "a", resume=True, compile="background", compile_from=4)


def test_a_traced_step_is_read_as_it_was_written(tmp_path):
    """The mutation is to pickle the graph itself: its random numbers become constants."""
    objective = Mutant(sound)
    stepper = Stepper(objective, TRAINING, CPU)
    batch, step = batches(TRAINING)(0), stepper.step_tensor(3)
    with stepper.dry_run():
        traced = compiling.trace(stepper.gradients, objective, batch, step)
    ahead.save_traced(traced, tmp_path)
    again, threads = ahead.load_traced(tmp_path)
    assert threads == torch.get_num_threads()
    for seed in range(2):
        found = []
        for each in (traced, again):
            torch.manual_seed(seed)
            with stepper.dry_run(), torch.no_grad():
                torch.manual_seed(seed)
                found.append(fx.Interpreter(each.graph).run(*traced.inputs))
        torch.manual_seed(seed)
        with stepper.dry_run():
            losses, _, gradients = stepper.gradients(batch, step)
        expected = [losses["all"], *gradients["all"]]
        for results in found:
            for one, other in zip(results, expected, strict=True):
                assert torch.equal(one, other)


def test_a_batch_is_laid_out_as_the_first_one_was():
    """A compiled step reads memory without looking how a batch lies there."""
    example = torch.zeros(2, 3)
    other = torch.arange(6.0).reshape(3, 2).t()
    found = compiling.like(other, example)
    assert found.stride() == example.stride()
    assert torch.equal(found, other)
    assert compiling.like(found, example) is found
    for wrong in (torch.zeros(3, 3), example.double()):
        with pytest.raises(RuntimeError, match="the first one had"):
            compiling.like(wrong, example)
