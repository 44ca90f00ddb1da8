"""Whatever is given, a command does what it was asked or says one line; it never breaks.

``INPUTS=10 python -m pytest tests/test_properties.py`` tries twenty-five times as many.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_dtypes, array_shapes, arrays, scalar_dtypes
from PIL import Image
from torch import nn

from tests import doors, kills
from tests.doors import SETTINGS
from tests.inputs import JSON, command_lines, damaged
from train.air import AIRSettings
from train.cli import command
from train.data import catalogue, datasets, files
from train.engine import runs, saved
from train.engine.checkpoints import Checkpoints
from train.engine.loop import Best, TrainState
from train.errors import InputError
from train.objective import Objective
from train.settings import Settings, restore

MANY = float(os.environ.get("INPUTS", "0.4"))


def tries(number: int) -> Callable[[Callable], Callable]:
    """Draws so many inputs, the same ones each time."""

    def wrap(test: Callable) -> Callable:
        quiet = settings(
            max_examples=round(number * MANY),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        return seed(0)(quiet(test))

    return wrap


@pytest.fixture(autouse=True)
def _small_numbers() -> None:
    """Runs in this process take numbers next to zero for zero; what draws inputs must not."""
    torch.set_flush_denormal(False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def used_or_refused(use: Callable[[], Any], folder: Path) -> None:
    """Passes if something works, or is refused in one line; and no file changes."""
    before = contents(folder)
    refusal = "refused"
    with contextlib.suppress(InputError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            use()
        except InputError as error:
            refusal = str(error)
            raise
    assert refusal
    assert "\n" not in refusal
    assert contents(folder) == before


def short(method: str, run: Path) -> list[str]:
    """The flags of a run of two steps."""
    flags = kills.case(method, run.parent)[1:]
    return ["--device", "cpu", "--batch-size", "8", *flags, "--steps", "2", "--run-dir", str(run)]


@pytest.mark.parametrize("method", SETTINGS)
def test_command_lines(tmp_path, method):
    """Each is run to its end: data, two steps, measures and figures."""
    door = importlib.import_module(f"train.{method}")
    run = tmp_path / "run"
    base = short(method, run)

    @tries(12)
    @given(command_lines(getattr(door, SETTINGS[method])))
    def check(flags: list[str]) -> None:
        shutil.rmtree(run, ignore_errors=True)
        said, status = io.StringIO(), 0
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            try:
                command(getattr(door, SETTINGS[method]), door.main, [*base, *flags])
            except SystemExit as stop:
                status = stop.code
        assert status in (0, 2), (flags, said.getvalue())
        # The command line's own parser draws a frame around what it says.
        if (message := said.getvalue()).startswith("error: "):
            assert message.count("\n") == 1, (flags, message)

    check()


SIZES = [
    *(("ae", f"--{name}") for name in ("z-dim", "hidden", "batch-size")),
    *(("acai", f"--{name}") for name in ("z-dim", "depth")),
    *(("abc", f"--{name}") for name in ("embed-dim", "channels", "hidden", "stack-size")),
    *(("icvae", f"--{name}") for name in ("z-dim", "hidden", "memory")),
    *(("air", f"--{name}") for name in ("what-dim", "what-hidden", "guide-hidden", "window-size")),
    *(("air", f"--{name}") for name in ("train-scenes", "canvas-size", "anchors", "iw-particles")),
]


@pytest.mark.parametrize(("method", "flag"), SIZES)
def test_sizes_that_no_memory_has(tmp_path, method, flag):
    """In a process that may take a gigabyte more."""
    flags = [*short(method, tmp_path / "run"), flag, str(2**31 - 16)]
    process = doors.start(method, *flags, said=tmp_path / "said", memory=1024**3)
    status, said = doors.finish(process, 30), (tmp_path / "said").read_text()
    if flag == "--iw-particles":
        # A measure, which costs a finished training nothing.
        assert status == 0, said
        assert "left out: iw_bound" in said
        results = json.loads((tmp_path / "run" / "results.json").read_text())
        assert results["iw_bound"] is None
        return
    assert status == 2, said
    assert said.startswith("error: ")
    assert said.count("\n") == 1


ARRAYS = st.one_of(
    arrays(np.uint8, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12)),
    arrays(scalar_dtypes(), array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12)),
    arrays(array_dtypes(), array_shapes(max_dims=2, max_side=12)),
    st.sampled_from([np.array([{"a": 1}]), np.array(None), np.array(["seven"] * 12)]),
    st.sampled_from([np.zeros((12, 5, 5), np.uint8), np.full((12, 3, 3), np.nan), np.arange(12)]),
)


@tries(250)
@given(
    st.dictionaries(
        st.sampled_from(["images", "labels", "counts", "boxes", "../images", ""]), ARRAYS
    )
)
def test_archives_of_any_arrays(tmp_path_factory, arrays):
    folder = tmp_path_factory.mktemp("npz", numbered=True)
    np.savez(folder / "data.npz", **arrays)
    used_or_refused(lambda: files.read(str(folder / "data.npz")), folder)
    shutil.rmtree(folder)


def sound_archive() -> bytes:
    buffer = io.BytesIO()
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)
    np.savez(buffer, images=images, labels=np.arange(12))
    return buffer.getvalue()


@tries(250)
@given(damaged(sound_archive()))
def test_damaged_archives(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("npz", numbered=True)
    (folder / "data.npz").write_bytes(content)
    used_or_refused(lambda: files.read(str(folder / "data.npz")), folder)
    shutil.rmtree(folder)


def sound_image(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, kind)
    return buffer.getvalue()


@tries(250)
@given(st.sampled_from(["png", "jpeg", "gif", "bmp", "tiff", "webp"]), st.data())
def test_folders_with_a_damaged_image(tmp_path_factory, kind, data):
    folder = tmp_path_factory.mktemp("images", numbered=True)
    for i in range(10):
        (folder / f"{i}.png").write_bytes(sound_image("png"))
    (folder / f"x.{kind}").write_bytes(data.draw(damaged(sound_image(kind))))
    used_or_refused(lambda: files.read(str(folder)), folder)
    shutil.rmtree(folder)


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
    return head + array.tobytes()


@tries(250)
@given(st.sampled_from(catalogue.IDX_FILES), st.data())
def test_damaged_downloads(tmp_path_factory, name, data):
    """The files exist, so nothing is downloaded, whatever their contents."""
    folder = tmp_path_factory.mktemp("mnist", numbered=True)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in catalogue.IDX_FILES:
        shape = (20, 4, 4) if "images" in file else (20,)
        sound = idx(np.zeros(shape, dtype=np.uint8))
        (raw / file).write_bytes(data.draw(damaged(sound)) if file == name else sound)
    used_or_refused(lambda: datasets.load("mnist", folder, "test"), folder)
    shutil.rmtree(folder)


class Wide(Objective):
    """As small as objectives get."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("seen", torch.zeros(2))

    def forward(self, batch, step):
        loss = (self.weight * batch[0]).mean()
        return {"one": loss}, {"metric": loss.detach()}

    def parameter_groups(self, learning_rate):
        return {"one": [{"params": [self.weight], "lr": learning_rate}]}


def training(settings: Settings) -> TrainState:
    return TrainState(Wide(), settings, torch.device("cpu"), Best("metric"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a small run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    small = Settings(run_dir=folder, device="cpu")
    run, whole = runs.Run.create(small, "air"), training(small)
    whole.train_step(lambda step: (torch.ones(4, 3),))
    run.log(1, {"loss": 1.0})
    run.save_checkpoint(1, whole.state_dict(), whole.objective)
    return folder


def resume(folder: Path) -> None:
    """What ``--resume`` does first; a run that is sound may be written to."""
    small = Settings(run_dir=folder, resume=True, device="cpu")
    run = runs.Run.create(small, "air")
    run.writes = False
    run.load_checkpoint(training(small).load_state_dict, torch.device("cpu"))


@tries(250)
@given(st.data())
def test_damaged_runs(tmp_path_factory, finished, data):
    """Any file of a run: its settings, its weights, its log, its checkpoint."""
    folder = tmp_path_factory.mktemp("run", numbered=True) / "run"
    shutil.copytree(finished, folder)
    path = data.draw(st.sampled_from(sorted(each for each in folder.rglob("*") if each.is_file())))
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    used_or_refused(lambda: resume(folder), folder)
    used_or_refused(lambda: restore(AIRSettings, saved.read_config(folder).settings), folder)
    used_or_refused(lambda: saved.read_weights(folder, Wide().state_dict()), folder)
    used_or_refused(lambda: runs.Run(folder, "air").history(), folder)
    shutil.rmtree(folder.parent)


@tries(250)
@given(JSON, st.one_of(JSON, st.dictionaries(st.sampled_from(sorted(asdict(AIRSettings()))), JSON)))
def test_configs_of_anything(tmp_path_factory, finished, method, values):
    folder = tmp_path_factory.mktemp("run", numbered=True) / "run"
    shutil.copytree(finished, folder)
    for config in (
        values,
        {"method": method, "settings": values},
        {"method": "air", "settings": values},
    ):
        (folder / "config.json").write_text(json.dumps(config))
        used_or_refused(lambda: resume(folder), folder)
        used_or_refused(lambda: restore(AIRSettings, saved.read_config(folder).settings), folder)
    shutil.rmtree(folder.parent)


PARTS = ("module", "optimisers", "step", "best", "own", "warm_up_seconds", "train_seconds")


@tries(250)
@given(st.dictionaries(st.sampled_from(PARTS), JSON, min_size=1))
def test_checkpoints_of_anything(tmp_path_factory, finished, changes):
    """Sound archives, in which some values are not what they should be."""
    folder = tmp_path_factory.mktemp("run", numbered=True) / "run"
    shutil.copytree(finished, folder)
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(10, checkpoints.load(torch.device("cpu")) | changes)
    used_or_refused(lambda: resume(folder), folder)
    shutil.rmtree(folder.parent)
