"""The run folder: files are complete, it holds one run, which resumes with its settings only."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.data.refusals import refused
from train.cli import command
from train.data import datasets
from train.data.fingerprint import fingerprint
from train.data.labelled import Images
from train.data.scenes import Scenes
from train.engine import disk
from train.engine.runs import Run
from train.engine.runtime import random_state, set_random_state, setup
from train.engine.saved import run_once
from train.errors import InputError
from train.export import ExportSettings
from train.export import main as export
from train.settings import Settings

CPU = torch.device("cpu")


@pytest.fixture
def settings(tmp_path):
    return Settings(run_dir=tmp_path / "run", device="cpu")


def network() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimiser = torch.optim.Adam(module.parameters(), 0.1)
    module(torch.randn(5, 3)).square().sum().backward()
    optimiser.step()
    return module, optimiser


def save(run: Run, step: int) -> None:
    module, optimiser = network()
    state = {"step": step, "module": module.state_dict(), "optimiser": optimiser.state_dict()}
    run.save_checkpoint(step, state, module)


def load(run: Run) -> None:
    """Loads the last checkpoint into a network of the same shape."""
    module, optimiser = network()

    def into(state):
        module.load_state_dict(state["module"])
        optimiser.load_state_dict(state["optimiser"])

    run.load_checkpoint(into, CPU)


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()
    }


class TestCreate:
    def test_the_config_says_what_ran(self, settings):
        Run.create(settings, "air")
        config = json.loads((settings.run_dir / "config.json").read_text())
        assert config["method"] == "air"
        assert config["settings"]["batch_size"] == 64
        assert config["versions"]["torch"] == torch.__version__

    def test_folders_get_names_of_their_own(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        first, second = (Run.create(Settings(), "air").directory for _ in range(2))
        assert first != second
        assert first.parent == Path("runs")

    @pytest.mark.parametrize(
        "name", ["config.json", "checkpoints", "results.json", "metrics.jsonl"]
    )
    def test_another_run_is_left_alone(self, settings, name):
        settings.run_dir.mkdir()
        (settings.run_dir / name).write_text("precious")
        with refused(str(settings.run_dir), name, "--resume"):
            Run.create(settings, "air")
        assert contents(settings.run_dir) == {name: b"precious"}

    def test_a_file_is_no_folder(self, settings):
        settings.run_dir.write_text("")
        with refused("--run-dir", "is a file"):
            Run.create(settings, "air")

    def test_tensorboard_is_missed_before_anything_is_written(self, settings, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
        with refused("--tensorboard", "pip install"):
            Run.create(replace(settings, tensorboard=True), "air")
        assert not settings.run_dir.exists()


class TestResume:
    @pytest.fixture
    def run(self, settings):
        run = Run.create(settings, "air")
        for step in (5, 10):
            run.log(step, {"loss": float(step)})
            run.save_stage(step, boxes=np.zeros(3))
        save(run, 10)
        run.log(15, {"loss": 15.0})
        run.save_stage(15, boxes=np.zeros(3))
        return run

    def test_everything_comes_back(self, run, settings):
        again = Run.create(replace(settings, resume=True), "air")
        taken = {}
        again.load_checkpoint(taken.update, CPU)
        module, optimiser = network()
        assert taken["step"] == 10
        for name, value in module.state_dict().items():
            assert torch.equal(taken["module"][name], value)
        moments = [o["state"][0]["exp_avg"] for o in (taken["optimiser"], optimiser.state_dict())]
        assert torch.equal(*moments)

    def test_what_came_after_the_checkpoint_is_forgotten(self, run, settings):
        with (settings.run_dir / "metrics.jsonl").open("a") as file:
            file.write('{"step": 20, "lo')
        load(run)
        assert run.history()["loss"][0].tolist() == [5, 10]
        assert [step for step, _ in run.stages()] == [5, 10]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"batch_size": 32}, ("--batch-size", "32", "64")),
            ({"seed": 1}, ("--seed", "1", "0")),
            ({"clip_norm": 3.0}, ("--clip-norm", "3.0", "None")),
            ({"eval_every": 7}, ("--eval-every", "7", "500")),
        ],
    )
    def test_other_settings_are_refused(self, run, settings, changes, words):
        before = contents(settings.run_dir)
        with refused(*words):
            Run.create(replace(settings, resume=True, **changes), "air")
        assert contents(settings.run_dir) == before

    def test_a_run_may_be_prolonged_and_shown_in_other_ways(self, run, settings):
        others = {"steps": 50_000, "log_every": 7, "checkpoint_every": 9, "tensorboard": True}
        Run.create(replace(settings, resume=True, **others), "air")

    def test_a_setting_that_an_earlier_version_lacks_has_its_default(self, run, settings):
        path = settings.run_dir / "config.json"
        config = json.loads(path.read_text())
        del config["settings"]["in_memory"]
        path.write_text(json.dumps(config))
        with refused("--in-memory is 'never', but", "has 'auto'"):
            Run.create(replace(settings, resume=True, in_memory="never"), "air")
        Run.create(replace(settings, resume=True), "air")

    def test_another_method_is_refused(self, run, settings):
        with refused("of air", "icvae"):
            Run.create(replace(settings, resume=True), "icvae")

    def test_nothing_to_resume(self, settings):
        with refused("--resume", "no run"):
            Run.create(replace(settings, resume=True), "air")

    def test_a_run_without_a_checkpoint_starts_again(self, settings):
        Run.create(settings, "air").log(5, {"loss": 1.0})
        again = Run.create(replace(settings, resume=True), "air")
        load(again)
        assert again.history() == {}

    def test_results_without_a_checkpoint_are_left_alone(self, settings):
        Run.create(settings, "air").finish({"elbo": 1.0})
        before = contents(settings.run_dir)
        with refused("no checkpoint", "another folder"):
            Run.create(replace(settings, resume=True), "air")
        assert contents(settings.run_dir) == before

    def test_a_checkpoint_of_another_network_is_named(self, run, settings):
        before = contents(settings.run_dir)
        again = Run.create(replace(settings, resume=True, steps=77), "air")
        with refused("00000010.pt", "of another network"):
            again.load_checkpoint(
                lambda state: nn.Linear(2, 2).load_state_dict(state["module"]), CPU
            )
        assert contents(settings.run_dir) == before

    def test_a_damaged_checkpoint_changes_nothing(self, run, settings):
        path = settings.run_dir / "checkpoints" / "00000010.pt"
        path.write_bytes(path.read_bytes()[:-100])
        before = contents(settings.run_dir)
        again = Run.create(replace(settings, resume=True, steps=77), "air")
        with refused(str(path), "is damaged", "start the run anew"):
            load(again)
        assert contents(settings.run_dir) == before

    def test_what_killed_processes_left_is_swept(self, run, settings):
        for name in (".config.json.77.part", "checkpoints/.00000020.pt.77.part"):
            (settings.run_dir / name).write_text("half")
        again = Run.create(replace(settings, resume=True), "air")
        load(again)
        assert not [name for name in contents(settings.run_dir) if "part" in name]

    def test_a_log_that_is_not_cut_stays_the_same_file(self, run, settings):
        load(run)
        path = settings.run_dir / "metrics.jsonl"
        before = path.stat().st_ino
        load(run)
        assert path.stat().st_ino == before

    @pytest.mark.parametrize(
        "line", [b"[1]", b'{"loss": 1}', b'{"step": "x"}', b"\xff", b"[" * 10**5]
    )
    def test_a_foreign_line_ends_the_log(self, run, line):
        with (run.directory / "metrics.jsonl").open("ab") as file:
            file.write(line + b'\n{"step": 20, "loss": 1.0}\n')
        assert run.history()["loss"][0].tolist() == [5, 10, 15]

    def test_foreign_stages_are_left_alone(self, run, settings):
        """The mutation: a file name that is not a number raises when figures are drawn."""
        for name in ("notes.npz", "-1.npz", "1e3.npz"):
            (settings.run_dir / "stages" / name).write_text("somebody's")
        load(run)
        assert [step for step, _ in run.stages()] == [5, 10]
        assert (settings.run_dir / "stages" / "notes.npz").read_text() == "somebody's"

    def test_weights_are_shared_as_safetensors(self, run, settings):
        from safetensors.torch import load_file

        weights = load_file(settings.run_dir / "model.safetensors")
        assert weights.keys() == network()[0].state_dict().keys()

    def test_a_full_disk_leaves_the_last_checkpoint(self, run, settings, monkeypatch):
        before = contents(settings.run_dir)

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(disk.os, "fsync", full)
        with refused("00000020.pt", "No space left on device"):
            save(run, 20)
        assert contents(settings.run_dir) == before


class TestData:
    """A run is resumed with identical data only, wherever they are."""

    ARRAYS: ClassVar = {
        "images": np.random.default_rng(0).integers(0, 256, (20, 4, 4), dtype=np.uint8),
        "labels": np.arange(20) % 2,
    }

    def begin(self, data: Path | str, run: Path, resume: bool = False) -> Run:
        settings = Settings(data=str(data), run_dir=run, resume=resume, device="cpu")
        split = datasets.load(settings.data, settings.data_dir, settings.evaluate_on)
        return Run.create(settings, "ae", shape=(4, 4), data_hash=fingerprint(*split))

    @pytest.fixture
    def own(self, tmp_path):
        path = tmp_path / "own.npz"
        np.savez(path, **self.ARRAYS)
        self.begin(path, tmp_path / "run")
        return path

    def test_the_same_data_under_another_path(self, own, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        shutil.copy(own, tmp_path / "moved.npz")
        for path in ("own.npz", "./own.npz", "~/own.npz", f"{tmp_path}//own.npz", "moved.npz"):
            self.begin(path, tmp_path / "run", resume=True)

    def test_a_folder_with_a_slash_at_its_end(self, tmp_path):
        (tmp_path / "images").mkdir()
        for i, image in enumerate(self.ARRAYS["images"]):
            Image.fromarray(image).save(tmp_path / "images" / f"{i:02d}.png")
        self.begin(tmp_path / "images", tmp_path / "run")
        self.begin(f"{tmp_path}/images/", tmp_path / "run", resume=True)
        (tmp_path / "images" / "07.png").unlink()
        with refused("--data", f"{tmp_path}/images", "other data"):
            self.begin(f"{tmp_path}/images/", tmp_path / "run", resume=True)

    @pytest.mark.parametrize("name", ["images", "labels"])
    def test_other_data_under_the_same_path(self, own, tmp_path, name):
        arrays = {key: array.copy() for key, array in self.ARRAYS.items()}
        arrays[name].reshape(-1)[7] ^= 1
        np.savez(own, **arrays)
        before = contents(tmp_path / "run")
        with refused(f"--data {own}", "other data", str(tmp_path / "run"), "start a run anew"):
            self.begin(own, tmp_path / "run", resume=True)
        assert contents(tmp_path / "run") == before

    def test_a_run_of_an_earlier_version_has_no_hash(self, own, tmp_path):
        """Then the path of the data has to be identical."""
        path = tmp_path / "run" / "config.json"
        config = json.loads(path.read_text())
        del config["inputs"]["data_hash"]
        path.write_text(json.dumps(config))
        self.begin(own, tmp_path / "run", resume=True)
        path.write_text(json.dumps(config))
        shutil.copy(own, tmp_path / "moved.npz")
        with refused("--data", "resumed as it was started"):
            self.begin(tmp_path / "moved.npz", tmp_path / "run", resume=True)


def test_a_fingerprint_is_of_what_is_in_the_data():
    images, labels = (torch.from_numpy(array) for array in TestData.ARRAYS.values())
    whole = Images(images, labels)
    others = [
        Images(images, None),
        Images(images, labels.float()),
        Images(images.reshape(20, 2, 8), labels),
        whole.select(torch.arange(19, -1, -1)),
        Scenes(images, labels, None),
    ]
    prints = [fingerprint(part) for part in (whole, *others)]
    assert len(set(prints)) == len(prints)
    assert fingerprint(whole) == fingerprint(Images(images.clone(), labels.clone()))
    assert fingerprint(whole, others[0]) != fingerprint(others[0], whole)


def test_numbers_that_are_none_become_null(settings):
    run = Run.create(settings, "air")
    run.log(1, {"loss": float("nan"), "fine": 2.0})
    run.finish({"elbo": float("inf"), "n": 3})
    assert json.loads((settings.run_dir / "metrics.jsonl").read_text())["loss"] is None
    assert json.loads((settings.run_dir / "results.json").read_text())["elbo"] is None
    assert list(run.history()) == ["fine"]


def test_a_run_with_results_is_not_made_again(tmp_path):
    directory = tmp_path / "run"
    calls = []

    def make(resume: bool) -> None:
        calls.append(resume)
        directory.mkdir()
        Run(directory, "air").finish({"elbo": 1.0})

    assert run_once(directory, make) == {"method": "air", "elbo": 1.0}
    assert run_once(directory, make) == {"method": "air", "elbo": 1.0}
    assert calls == [False]
    with refused(str(tmp_path / "other" / "results.json")):
        run_once(tmp_path / "other", lambda _: None)


def test_a_finished_run_takes_more_figures(settings):
    """The mutation: opening a folder writes its config."""
    Run.create(settings, "air").finish({"elbo": 1.0})
    before = contents(settings.run_dir)
    Run(settings.run_dir, "air").save_text("notes.txt", "more")
    assert contents(settings.run_dir) == before | {"notes.txt": b"more"}


@pytest.mark.parametrize("write", ["log", "save_stage", "finish"])
def test_a_folder_that_is_taken_away_is_not_made_again(settings, write):
    """The mutation: making parent folders hides that the rest of the run is lost."""
    run = Run.create(settings, "air")
    shutil.rmtree(settings.run_dir)
    call = {
        "log": lambda: run.log(1, {"loss": 1.0}),
        "save_stage": lambda: run.save_stage(1, boxes=np.zeros(3)),
        "finish": lambda: run.finish({}),
    }[write]
    with refused("its folder is gone"):
        call()
    with refused("its folder is gone"):
        save(run, 1)
    assert not settings.run_dir.exists()


def test_every_generator_goes_on_where_it_was():
    def draws():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002

    state = random_state(CPU)
    expected = draws()
    draws()
    set_random_state(state, CPU)
    assert draws() == expected


def test_a_device_that_is_not_there(settings, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with refused("--device cuda", "auto"):
        setup(replace(settings, device="cuda"))


def test_the_seed_makes_the_draws(settings):
    def first(seed):
        setup(replace(settings, seed=seed))
        return torch.rand(()).item()

    assert first(1) == first(1) != first(2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, ("--steps", "1 or more")),
        ({"batch_size": -3}, ("--batch-size", "1 or more")),
        ({"learning_rate": float("nan")}, ("--learning-rate", "above 0")),
        ({"clip_norm": 0.0}, ("--clip-norm", "above 0")),
        ({"seed": -1}, ("--seed", "0 or more")),
        ({"resume": True}, ("--resume", "--run-dir")),
    ],
)
def test_settings_out_of_range(settings, words):
    with refused(*words):
        Settings(**settings)


def test_the_traceback_flag(capsys, tmp_path):
    """``--traceback`` is a flag of every command, not a setting; the message stays last."""

    def main(settings: Settings) -> dict[str, float]:
        assert not hasattr(settings, "traceback")
        try:
            raise KeyError("the fault beneath")
        except KeyError as error:
            raise InputError("what a person reads") from error

    for flags in ([], ["--traceback"]):
        with pytest.raises(SystemExit) as stop:
            command(Settings, main, flags)
        assert stop.value.code == 2
        *above, line = capsys.readouterr().err.splitlines()
        assert line == "error: what a person reads"
        assert bool(above) == bool(flags)
    assert any("KeyError: 'the fault beneath'" in line for line in above)
    with pytest.raises(SystemExit):
        command(ExportSettings, export, [str(tmp_path), "--traceback"])
    assert "Traceback" in capsys.readouterr().err


def test_an_input_error_is_no_value_error():
    # tyro catches ValueError, and prints it in a frame as a usage error.
    assert not issubclass(InputError, ValueError)
