"""Run folders that others made: nothing in them runs, and what is wrong is said in a line."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from guides.air import Detection
from tests.data.refusals import refused
from tests.test_train_air import SMALL
from train import acai, ae, air, icvae
from train.bench import BenchSettings, subject
from train.cli import command
from train.compare import codecs_of
from train.data.conditions import Condition
from train.data.labelled import Images, Split
from train.engine import runs
from train.engine.checkpoints import Checkpoints
from train.estimators import MarginalELBO
from train.export import ExportSettings
from train.export import main as export
from train.methods import METHODS
from train.settings import Settings
from train.trained import load

CPU = torch.device("cpu")
SHAPE = (16, 16)
SETTINGS: dict[str, Settings] = {
    "ae": ae.AESettings(hidden=(4,), z_dim=2),
    "acai": acai.ACAISettings(network="dense", hidden=(4,)),
    "icvae": icvae.ICVAESettings(hidden=(4,), memory=8),
    "air": air.AIRSettings(guide_hidden=4, what_hidden=4, what_dim=2, window_size=6, anchors=2),
}
"""What makes small networks."""
WIDE = {"autoencoder.decoder.0.0.weight": torch.zeros(512, 512)}
"""A weight of another shape than these networks have."""
CONDITION = Condition(4, torch.zeros(0), torch.zeros(0))
INPUTS = {"ae": {}, "acai": {"frame": [0, 0]}, "air": {}, "icvae": {"condition": CONDITION.state()}}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[[str], Path]:
    """Makes the folder of a run of a method, as it is after two steps, once."""
    folder = tmp_path_factory.mktemp("runs")

    def make(method: str) -> Path:
        if not (folder / method).exists():
            settings = replace(SETTINGS[method], run_dir=folder / method)
            run = runs.Run.create(settings, method, shape=SHAPE, **INPUTS[method])
            objective = METHODS[method].build(settings, {"shape": SHAPE, **INPUTS[method]})
            run.log(2, {"loss": 1.0})
            run.save_checkpoint(2, {"step": 2}, objective)
            run.finish({"train_seconds": 1.0})
        return folder / method

    return make


def rewritten(run: Path, **changes: Any) -> None:
    """Changes what config.json says."""
    path = run / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def settings(**changes: Any) -> Callable[[Path], None]:
    return lambda run: rewritten(
        run, settings=json.loads((run / "config.json").read_text())["settings"] | changes
    )


def inputs(**changes: Any) -> Callable[[Path], None]:
    return lambda run: rewritten(
        run, inputs=json.loads((run / "config.json").read_text())["inputs"] | changes
    )


def text(content: str | bytes) -> Callable[[Path], None]:
    content = content.encode() if isinstance(content, str) else content
    return lambda run: (run / "config.json").write_bytes(content)


def pipe(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).unlink()
        os.mkfifo(run / name)

    return change


def folder(name: str) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        (run / name).unlink()
        (run / name).mkdir()

    return change


def huge(name: str) -> Callable[[Path], None]:
    """As large as the disk says it is, and nothing in it."""
    return lambda run: os.truncate(run / name, 2**40)


def bit_turned(run: Path) -> None:
    """One bit of a weight."""
    path = run / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def weights(change: Callable[[dict[str, torch.Tensor]], Any], **metadata: str) -> Any:
    def rewrite(run: Path) -> None:
        held = load_file(run / "model.safetensors")
        change(held)
        save_file(held, run / "model.safetensors", metadata or {"step": "2"})

    return rewrite


def record(content: str) -> Callable[[Path], None]:
    return weights(lambda held: None, run=content)


def compressed(run: Path) -> None:
    path = run / "model.safetensors"
    path.write_bytes(b"\x1f\x8b" + path.read_bytes())


HOSTILE: list[tuple[str, Callable[[Path], Any], str]] = [
    ("ae", text("[" * 100_000), "config.json is damaged"),
    ("ae", text('{"settings": ' * 100_000), "config.json is damaged"),
    ("ae", text("[]"), "config.json is damaged"),
    ("ae", text("3"), "config.json is damaged"),
    ("ae", text("null"), "config.json is damaged"),
    ("ae", text(""), "config.json is damaged"),
    ("ae", text(b"\xff\xfe"), "config.json is damaged"),
    ("ae", text("{}"), "lacks method, settings or inputs"),
    ("ae", text('{"method": NaN}'), "not a finite number"),
    ("ae", text('{"method": 1e999}'), "not a finite number"),
    ("ae", text('{"method": ' + "9" * 5_000 + "}"), "config.json is damaged"),
    ("ae", pipe("config.json"), "config.json is not a file"),
    ("ae", folder("config.json"), "config.json is not a file"),
    ("ae", huge("config.json"), "1,099,511,627,776 bytes"),
    ("ae", lambda run: rewritten(run, method=["ae"]), "lacks method"),
    ("ae", lambda run: rewritten(run, method="os:system"), "cannot be loaded"),
    ("ae", lambda run: rewritten(run, method="a" * 10**6), "cannot be loaded"),
    ("ae", lambda run: rewritten(run, method="air"), "no setting"),
    ("ae", lambda run: rewritten(run, settings=[]), "lacks method"),
    ("ae", lambda run: rewritten(run, inputs=[[1, 2]]), "lacks method"),
    ("ae", settings(z_dim="2"), "--z-dim is '2'"),
    ("ae", settings(z_dim=-2), "--z-dim is -2"),
    ("ae", settings(z_dim=2**31 - 1), "is of shape"),
    ("ae", settings(z_dim=10**400), "--z-dim is 1000"),
    ("ae", settings(hidden=[2**31 - 1] * 2), "is damaged"),
    ("ae", settings(hidden=[4] * 100_000), "--hidden has 100,000 values"),
    ("ae", settings(hidden=[]), "is of shape"),
    ("ae", settings(hidden=[4, [4]]), "--hidden is (4, [4])"),
    ("ae", settings(hidden=eval("[" * 150 + "]" * 150)), "--hidden is"),
    ("ae", settings(**{"a" * 10**6: 1}), "no setting"),
    ("ae", settings(network="\x1b[2J"), "--network is"),
    ("ae", inputs(shape=[-16, -16]), "'shape' is [-16, -16]"),
    ("ae", inputs(shape=[0, 16]), "'shape' is [0, 16]"),
    ("ae", inputs(shape=[10**9, 10**9]), "'shape' is"),
    ("ae", inputs(shape=[2**15, 2**15]), "is of shape"),
    ("ae", inputs(shape=[16.0, 16.0]), "'shape' is [16.0, 16.0]"),
    ("ae", inputs(shape=[True, True]), "'shape' is"),
    ("ae", inputs(shape=[16, 16, 16, 16]), "'shape' is"),
    ("ae", inputs(shape=[0, 16, 16]), "'shape' is [0, 16, 16]"),
    ("ae", inputs(shape=[3, 16, 16]), "is of shape"),
    ("ae", inputs(shape="16"), "'shape' is '16'"),
    ("ae", inputs(shape={"0": 16}), "'shape' is"),
    ("ae", inputs(shape=None), "'shape' is None"),
    ("acai", inputs(frame=[-4, 0]), "'frame' is"),
    ("acai", inputs(frame=[16, 0]), "'frame' leaves nothing"),
    ("acai", inputs(frame=7), "'frame' is 7"),
    ("icvae", inputs(condition=None), "is damaged"),
    ("icvae", inputs(condition=[]), "is damaged"),
    ("icvae", inputs(condition={}), "is damaged"),
    ("icvae", inputs(condition={"classes": 4.5, "loc": [], "scale": []}), "neither classes nor"),
    ("icvae", inputs(condition={"classes": -4, "loc": [], "scale": []}), "neither classes nor"),
    ("icvae", inputs(condition={"classes": 2**30, "loc": [], "scale": []}), "without values"),
    ("icvae", inputs(condition={"classes": 0, "loc": [0], "scale": [0]}), "neither classes nor"),
    ("icvae", inputs(condition={"classes": 0, "loc": [], "scale": []}), "neither classes nor"),
    ("icvae", inputs(condition={"classes": 0, "loc": ["x"], "scale": [1]}), "neither classes nor"),
    ("icvae", inputs(condition=[CONDITION.state()]), "is damaged"),
    ("icvae", inputs(condition=[{"classes": -1, "loc": [], "scale": []}]), "neither classes nor"),
    ("air", settings(estimator=3), "--estimator is 3"),
    ("air", settings(max_objects=2**31 - 1), "max_objects is 2,147,483,647"),
    ("air", settings(estimator="nothing"), "--estimator nothing is not known"),
    ("air", settings(anchors=2**31 - 1), "is damaged"),
    ("air", settings(window_size=2**31 - 1), "is damaged"),
    ("ae", bit_turned, "checksum"),
    ("ae", weights(lambda held: held.popitem()), "is of shape None"),
    ("ae", weights(lambda held: held.update(more=torch.zeros(3))), "make it None"),
    ("ae", weights(lambda held: held.clear()), "is of shape None"),
    ("ae", record("[" * 100_000), "model.safetensors is damaged"),
    ("ae", record("{}"), "model.safetensors is damaged"),
    ("ae", record('{"step": 2, "sha256": 3}'), "checksum"),
    ("ae", record('{"step": -2, "sha256": ""}'), "its step is -2"),
    ("ae", weights(lambda held: None, step="x"), "model.safetensors is damaged"),
    ("ae", weights(lambda held: None, other="2"), "model.safetensors is damaged"),
    ("ae", compressed, "model.safetensors is damaged"),
    ("ae", pipe("model.safetensors"), "model.safetensors is not a file"),
    ("ae", folder("model.safetensors"), "model.safetensors is not a file"),
    ("ae", huge("model.safetensors"), "1,099,511,627,776 bytes"),
    ("ae", weights(lambda held: held.update(WIDE)), "(512, 512), but"),
]


@pytest.mark.parametrize(("method", "change", "words"), HOSTILE)
def test_a_hostile_run_is_refused_in_a_line(made, tmp_path, capsys, method, change, words):
    run = tmp_path / "run"
    shutil.copytree(made(method), run)
    change(run)
    with refused(str(run), words) as refusal:
        load(run)
    assert len(str(refusal.value)) < 1_000
    assert str(refusal.value).isprintable()
    with pytest.raises(SystemExit) as stop:
        command(ExportSettings, export, [str(run), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {refusal.value}\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoints/00000002.pt"])
def test_resuming_does_not_wait_for_a_pipe(made, tmp_path, name):
    run = tmp_path / "run"
    shutil.copytree(made("ae"), run)
    pipe(name)(run)
    again = replace(SETTINGS["ae"], run_dir=run, resume=True)
    with refused(str(run / name), "is not a file"):
        runs.Run.create(again, "ae").load_checkpoint(lambda state: None, CPU)


def test_a_checkpoint_that_unpacks_to_more_than_it_has(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {"step": 1, "weights": torch.zeros(10**6)})
    (path,) = checkpoints.paths()
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    assert path.stat().st_size < 10**5
    with refused(str(path), "it is compressed"):
        checkpoints.load(CPU)


def test_a_run_without_a_checksum_is_loaded(made, tmp_path):
    """As earlier versions left it."""
    run = tmp_path / "run"
    shutil.copytree(made("ae"), run)
    weights(lambda held: None)(run)
    trained, expected = load(run), load(made("ae"))
    assert trained.saved.step == expected.saved.step == 2
    for name, weight in expected.objective.state_dict().items():
        assert torch.equal(trained.objective.state_dict()[name], weight)


def test_the_same_weights_are_the_same_bytes(made, tmp_path):
    trained = load(made("ae"))
    files = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        runs.Run(tmp_path / name, "ae").save_weights(2, trained.objective)
        files.append((tmp_path / name / "model.safetensors").read_bytes())
    assert files[0] == files[1] == (made("ae") / "model.safetensors").read_bytes()


@pytest.fixture
def trapped(made, tmp_path, monkeypatch) -> Path:
    """A run of AIR whose config.json names a module that is there, and says so if it is run."""
    run = tmp_path / "run"
    shutil.copytree(made("air"), run)
    settings(estimator="a_trap:TrapELBO")(run)
    (tmp_path / "a_trap.py").write_text("raise SystemExit('the trap was sprung')")
    monkeypatch.syspath_prepend(tmp_path)
    return run


def test_nothing_that_a_file_names_is_imported(trapped, tmp_path):
    images = torch.rand(5, 16, 16)
    trained = load(trapped)
    assert trained.detect(images).counts.shape == (5,)
    assert trained.encode(images).shape == (5, 3 * (4 + 2))
    # All but the latent of a background, which has none.
    assert len(trained.functions()["encoder"].function(images)) == len(Detection._fields) - 1
    own = np.random.default_rng(0).integers(0, 256, (20, *SHAPE), dtype=np.uint8)
    known = Images(torch.from_numpy(own), torch.arange(20) % 2)
    assert codecs_of([trapped], Split(known, known), CPU)
    bench = BenchSettings(**SMALL, checkpoint=trapped, run_dir=tmp_path / "bench")
    assert subject(bench).step == 2
    assert "a_trap" not in sys.modules


def test_a_loss_needs_an_estimator_that_a_person_gives(trapped):
    trained = load(trapped)
    batch, step = (torch.rand(5, 1, 16, 16),), torch.zeros(())
    with refused("a_trap:TrapELBO", "a file names it", "objective.estimator"):
        trained.objective(batch, step)
    trained.objective.estimator = MarginalELBO()
    losses, _ = trained.objective(batch, step)
    assert losses["elbo"].isfinite()


def test_a_resumed_run_imports_what_its_command_line_names_alone(trapped):
    """The estimator is given again there, and has to be the one that the run began with."""
    again = replace(SETTINGS["air"], run_dir=trapped, resume=True)
    with refused("--estimator is 'marginal'", "has 'a_trap:TrapELBO'"):
        runs.Run.create(again, "air")
    assert "a_trap" not in sys.modules
