"""Whatever the input, a command does what it was asked, or refuses in one line.

``INPUTS=10 python -m pytest tests/test_properties.py`` draws ten times as many inputs.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import resource
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
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from tests import doors, kills
from tests.doors import SETTINGS
from tests.inputs import JSON, command_lines, damaged
from train.air import AIRSettings
from train.cli import command
from train.data import datasets
from train.data.options import DataOptions
from train.data.reading import files, torchvision_sets
from train.engine import runs, saved
from train.engine.checkpoints import Checkpoints
from train.engine.loop import Best, TrainState
from train.errors import InputError
from train.objective import Objective
from train.settings import Settings, restore

SCALE = float(os.environ.get("INPUTS", "0.3"))


def examples(number: int) -> Callable[[Callable], Callable]:
    """Draws ``number`` inputs, times :data:`SCALE`; the same ones in every run of the tests."""

    def wrap(test: Callable) -> Callable:
        deterministic = settings(
            max_examples=max(round(number * SCALE), 1),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        return seed(0)(deterministic(test))

    return wrap


@pytest.fixture(autouse=True)
def _small_numbers() -> None:
    """Turns denormal numbers on, which commands in this process turn off: hypothesis needs them."""
    torch.set_flush_denormal(False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def used_or_refused(use: Callable[[], Any], folder: Path) -> None:
    """Checks that ``use`` works, or raises an :class:`InputError` of one line; no file changes."""
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
    """Returns the flags of a run of two steps."""
    flags = kills.case(method, run.parent)[1:]
    return ["--device", "cpu", "--batch-size", "8", *flags, "--steps", "2", "--run-dir", str(run)]


@pytest.mark.parametrize("method", SETTINGS)
def test_command_lines(tmp_path, method):
    """Runs each command to its end: data, two steps, measures and figures."""
    door = importlib.import_module(f"train.{method}")
    run = tmp_path / "run"
    base = short(method, run)

    @examples(5)
    @given(command_lines(getattr(door, SETTINGS[method])))
    def check(flags: list[str]) -> None:
        shutil.rmtree(run, ignore_errors=True)
        status, output = run_command(method, [*base, *flags])
        assert status in (0, 2), (flags, output)
        # The command line's parser prints its own errors in a frame.
        if output.startswith("error: "):
            assert output.count("\n") == 1, (flags, output)

    check()


def run_command(method: str, flags: list[str]) -> tuple[int, str]:
    """Runs ``python -m train.METHOD FLAGS`` in this process; returns its status and output."""
    door = importlib.import_module(f"train.{method}")
    output, status = io.StringIO(), 0
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
        try:
            command(getattr(door, SETTINGS[method]), door.main, flags)
        except SystemExit as stop:
            status = stop.code
    return status, output.getvalue()


SIZES = {
    "ae": ("z-dim", "hidden", "batch-size"),
    "acai": ("z-dim", "depth"),
    "abc": ("embed-dim", "channels", "hidden", "stack-size"),
    "icvae": ("z-dim", "hidden", "memory"),
    "air": (
        *("what-dim", "what-hidden", "guide-hidden", "window-size"),
        *("train-scenes", "canvas-size", "anchors", "iw-particles"),
    ),
}


def run_with_large_sizes(method: str, folder: Path, outcomes: Path) -> None:
    """Runs a command once for each of :data:`SIZES`, each time with a gigabyte of memory.

    It is the target of a child process, whose limit of memory ends with it.

    Args:
        method: A key of :data:`SIZES`.
        folder: The folder for the runs, one for each size.
        outcomes: A file for a JSON line of name, status and output for each size.
    """
    torch.set_num_threads(1)
    Figure.savefig = lambda figure, file, **_: file.write(b"a figure")
    _, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
    for name in SIZES[method]:
        limit = doors.memory_of("self", 0) + 1024**3
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard_limit))
        flags = [*short(method, folder / name), f"--{name}", str(2**31 - 16)]
        # The convolutional guide has no anchors and no hidden layers.
        flags += ["--guide", "residual"] if method == "air" else []
        outcome = name, *run_command(method, flags)
        with outcomes.open("a") as file:
            file.write(json.dumps(outcome) + "\n")


@pytest.mark.parametrize("method", SIZES)
def test_sizes_that_no_memory_has(tmp_path, method):
    outcomes = tmp_path / "outcomes"
    process = doors.CONTEXT.Process(target=run_with_large_sizes, args=(method, tmp_path, outcomes))
    process.start()
    status = doors.finish(process)
    lines = [json.loads(line) for line in outcomes.read_text().splitlines()]
    assert [name for name, *_ in lines] == [*SIZES[method]], status
    assert status == 0
    for name, status, output in lines:
        if name == "iw-particles":
            # A measure: if it fails, the training and its other results are still saved.
            assert status == 0, output
            assert "left out: iw_bound" in output
            results = json.loads((tmp_path / name / "results.json").read_text())
            assert results["iw_bound"] is None
        else:
            assert status == 2, (name, output)
            assert output.startswith("error: "), (name, output)
            assert output.count("\n") == 1, (name, output)


ARRAYS = st.one_of(
    arrays(np.uint8, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12)),
    arrays(scalar_dtypes(), array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=12)),
    arrays(array_dtypes(), array_shapes(max_dims=2, max_side=12)),
    st.sampled_from([np.array([{"a": 1}]), np.array(None), np.array(["seven"] * 12)]),
    st.sampled_from([np.zeros((12, 5, 5), np.uint8), np.full((12, 3, 3), np.nan), np.arange(12)]),
)


@examples(60)
@given(
    st.dictionaries(
        st.sampled_from(["images", "labels", "counts", "boxes", "../images", "", "0"]), ARRAYS
    )
)
def test_archives_of_any_arrays(tmp_path_factory, arrays):
    folder = tmp_path_factory.mktemp("npz", numbered=True)
    np.savez(folder / "data.npz", **arrays)
    used_or_refused(lambda: files.read(str(folder / "data.npz")), folder)
    shutil.rmtree(folder)


def valid_archive() -> bytes:
    buffer = io.BytesIO()
    images = np.random.default_rng(0).integers(0, 256, (12, 4, 4), dtype=np.uint8)
    np.savez(buffer, images=images, labels=np.arange(12))
    return buffer.getvalue()


@examples(60)
@given(damaged(valid_archive()))
def test_damaged_archives(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("npz", numbered=True)
    (folder / "data.npz").write_bytes(content)
    used_or_refused(lambda: files.read(str(folder / "data.npz")), folder)
    shutil.rmtree(folder)


TABLE = b'file,digit,"slant, of 3"\r\n' + b"".join(
    b"%d.png,%d,0.%d\r\n" % (row, row % 3, row) for row in range(10)
)


@examples(60)
@given(damaged(TABLE), st.sampled_from(["csv", "tsv"]), st.booleans())
def test_damaged_tables(tmp_path_factory, content, kind, is_folder):
    folder = tmp_path_factory.mktemp("labels", numbered=True)
    if is_folder:
        for row in range(10):
            (folder / f"{row}.png").write_bytes(valid_image("png"))
    else:
        np.save(folder / "data.npy", np.eye(10, dtype=np.uint8)[:, :, None] * 255)
    table = folder / f"labels.{kind}"
    table.write_bytes(content)
    options = DataOptions(labels=table)
    data = folder if is_folder else folder / "data.npy"
    used_or_refused(lambda: files.read(str(data), options), folder)
    shutil.rmtree(folder)


def valid_image(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, kind)
    return buffer.getvalue()


@examples(60)
@given(st.sampled_from(["png", "jpeg", "gif", "bmp", "tiff", "webp"]), st.data())
def test_folders_with_a_damaged_image(tmp_path_factory, kind, data):
    folder = tmp_path_factory.mktemp("images", numbered=True)
    for i in range(10):
        (folder / f"{i}.png").write_bytes(valid_image("png"))
    (folder / f"x.{kind}").write_bytes(data.draw(damaged(valid_image(kind))))
    used_or_refused(lambda: files.read(str(folder)), folder)
    shutil.rmtree(folder)


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">i4").tobytes()
    return head + array.tobytes()


@examples(60)
@given(st.sampled_from(torchvision_sets.IDX_FILES), st.data())
def test_damaged_downloads(tmp_path_factory, name, data):
    """The files exist, so nothing is downloaded, whatever their contents."""
    folder = tmp_path_factory.mktemp("mnist", numbered=True)
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in torchvision_sets.IDX_FILES:
        shape = (20, 4, 4) if "images" in file else (20,)
        valid = idx(np.zeros(shape, dtype=np.uint8))
        (raw / file).write_bytes(data.draw(damaged(valid)) if file == name else valid)
    used_or_refused(lambda: datasets.load("mnist", folder, "test"), folder)
    shutil.rmtree(folder)


class Wide(Objective):
    """An objective of three weights."""

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
    """Does what ``--resume`` does first, without writing into the run."""
    small = Settings(run_dir=folder, resume=True, device="cpu")
    run = runs.Run.create(small, "air")
    run.writes = False
    run.load_checkpoint(training(small).load_state_dict, torch.device("cpu"))


@examples(60)
@given(st.data())
def test_damaged_runs(tmp_path_factory, finished, data):
    """Damages any file of a run: its settings, its weights, its log, its checkpoint."""
    folder = tmp_path_factory.mktemp("run", numbered=True) / "run"
    shutil.copytree(finished, folder)
    path = data.draw(st.sampled_from(sorted(file for file in folder.rglob("*") if file.is_file())))
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    used_or_refused(lambda: resume(folder), folder)
    used_or_refused(lambda: restore(AIRSettings, saved.read_config(folder).settings), folder)
    used_or_refused(lambda: saved.read_weights(folder, Wide().state_dict()), folder)
    used_or_refused(lambda: runs.Run(folder, "air").history(), folder)
    shutil.rmtree(folder.parent)


@examples(60)
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


KEYS = (
    *("module", "optimisers", "step", "best", "own", "warm_up_seconds", "train_seconds"),
    "compiled_from",
)


@examples(60)
@given(st.dictionaries(st.sampled_from(KEYS), JSON, min_size=1))
def test_checkpoints_of_anything(tmp_path_factory, finished, changes):
    """Valid archives, in which some values have other types than they should."""
    folder = tmp_path_factory.mktemp("run", numbered=True) / "run"
    shutil.copytree(finished, folder)
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(10, checkpoints.load(torch.device("cpu")) | changes)
    used_or_refused(lambda: resume(folder), folder)
    shutil.rmtree(folder.parent)
