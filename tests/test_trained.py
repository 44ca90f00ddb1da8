"""Runs are loaded from their weights and settings alone, and put to use."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from guides.air import Detection
from tests import doors
from tests.data.refusals import refused
from tests.kills import COMMON, SCENES, save_own
from train.export import ExportSettings, compare, export, exported
from train.export import main as export_main
from train.settings import command
from train.trained import METHODS, load

SHAPE = (16, 16)
FLAGS = {
    "ae": ("--hidden", "16", "--z-dim", "3"),
    "acai": ("--depth", "2", "--z-dim", "16", "--data", "PADDED"),
    "abc": ("--stack-size", "5", "--withheld", "--channels", "4"),
    "icvae": ("--hidden", "16", "16", "--memory", "20"),
    "icvae echo": ("--hidden", "16", "16", "--invariance", "echo", "--echo-terms", "5"),
    "icvae vae": ("--condition", "none", "--invariance", "none", "--hidden", "16"),
    "icvae sees": ("--encoder-sees-labels", "--invariance", "none", "--hidden", "16"),
    "air": (*SCENES, "--max-objects", "2"),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Makes a short run of each kind once."""
    folder = tmp_path_factory.mktemp("runs")
    own = save_own(folder)
    padded = folder / "padded.npz"
    images = np.random.default_rng(0).integers(0, 256, (60, 14, 13), dtype=np.uint8)
    np.savez(padded, images=images, labels=np.arange(60) % 3)

    def make(name: str) -> Path:
        run = folder / name
        if not run.exists():
            method = name.split()[0]
            flags = [str(padded) if word == "PADDED" else word for word in FLAGS[name]]
            data = [] if method == "air" or "--data" in flags else ["--data", str(own)]
            door = __import__(f"train.{method}", fromlist=["main"])
            settings = getattr(door, doors.SETTINGS[method])
            command(settings, door.main, [*COMMON, *data, *flags, "--run-dir", str(run)])
        return run

    return make


def images(n: int = 12, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (n, *shape), dtype=np.uint8)


@pytest.mark.parametrize("name", FLAGS)
def test_a_run_is_loaded_alone(runs, tmp_path, name):
    """Its folder may be anywhere, with nothing else in it; it has the weights of the run."""
    run = runs(name)
    alone = tmp_path / "elsewhere"
    alone.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(run / file, alone)
    trained = load(alone)
    assert type(trained) is METHODS[name.split()[0]]
    assert not trained.objective.training
    state = torch.load(
        sorted((run / "checkpoints").glob("*.pt"))[-1], weights_only=True, map_location="cpu"
    )
    expected = state["best"].get("weights") or state["module"]
    for key, value in trained.objective.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["ae", "acai"])
def test_an_autoencoder(runs, name):
    trained = load(runs(name))
    shape = trained.shape
    x = images(shape=shape)
    z = trained.encode(x)
    assert z.shape == (12, trained.settings.z_dim)
    drawn = trained.reconstruct(x)
    assert drawn.shape == x.shape
    torch.testing.assert_close(trained.decode(z), drawn)
    # Bytes, and floats from 0 to 1, are the same images; parts are what all at once is.
    torch.testing.assert_close(trained.encode(torch.from_numpy(x) / 255), z)
    trained.batch = 5
    torch.testing.assert_close(trained.encode(x), z)
    between = trained.interpolate(x[:4], x[4:8], n=5)
    assert between.shape == (4, 5, *shape)
    torch.testing.assert_close(between[:, 0], drawn[:4])
    torch.testing.assert_close(between[:, -1], drawn[4:8])
    assert json.loads((runs(name) / "results.json").read_text())["reconstruction_mse"] > 0


def test_what_is_measured_is_what_is_loaded(runs):
    """The error in results.json is that of the loaded autoencoder on the held-out images."""
    from train.data import digits

    for name in ("ae", "acai"):
        run = runs(name)
        trained = load(run)
        results = json.loads((run / "results.json").read_text())
        held_out = digits.load(trained.settings.data, Path("data"), "test").held_out.images
        error = (trained.reconstruct(held_out) - held_out / 255).square().mean()
        assert error.item() == pytest.approx(results["reconstruction_mse"], rel=1e-4)


def test_an_embedder_retrieves(runs):
    trained = load(runs("abc"))
    gallery = images(30)
    assert trained.encode(gallery).shape == (30, trained.settings.embed_dim)
    found = trained.retrieve(gallery[[7, 3]], gallery, k=4)
    assert found.shape == (2, 4)
    assert found[:, 0].tolist() == [7, 3]
    codes = trained.encode(gallery)
    squares = (codes[[7, 3], None] - codes).square().sum(-1)
    torch.testing.assert_close(squares.gather(1, found), squares.sort(dim=1).values[:, :4])
    with refused("k is 31", "30 images"):
        trained.retrieve(gallery, gallery, k=31)


@pytest.mark.parametrize("name", ["icvae", "icvae echo", "icvae vae", "icvae sees"])
def test_a_code_under_another_label(runs, name):
    trained = load(runs(name))
    x, labels = images(), np.arange(12) % 4
    told: dict[str, Any] = {} if name == "icvae vae" else {"labels": labels}
    assert trained.encode(x, **told).shape == (12, 2)
    assert trained.sample(12, **told).shape == (12, *SHAPE)
    assert trained.interpolate(
        x[:6], x[6:], 3, **({"labels": labels[:6]} if told else {})
    ).shape == (
        6,
        3,
        *SHAPE,
    )
    torch.manual_seed(0)
    same = trained.reconstruct(x, **told)
    assert same.shape == x.shape
    if not told:
        return
    torch.manual_seed(0)
    other = trained.transfer(x, (labels + 1) % 4, labels=labels)
    assert (other - same).abs().max() > 1e-4
    torch.manual_seed(0)
    torch.testing.assert_close(trained.transfer(x, labels, labels=labels), same)
    with refused("labels are missing"):
        trained.decode(torch.zeros(2, 2))
    with refused("3 labels for 2"):
        trained.decode(torch.zeros(2, 2), np.zeros(3))
    with refused("classes below 4"):
        trained.decode(torch.zeros(2, 2), np.array([0, 4]))


def test_objects_are_found(runs):
    trained = load(runs("air"))
    x = images(shape=trained.shape)
    found = trained.detect(x)
    steps = trained.settings.max_objects
    assert found.counts.shape == (12,)
    assert found.boxes.shape == (12, steps, 4)
    codes = trained.encode(x).unflatten(1, (steps, -1))
    assert codes.shape[-1] == 4 + trained.settings.what_dim
    assert codes[..., 0].sum(1).tolist() == found.counts.tolist()
    assert not codes[codes[..., 0] == 0].any()
    assert trained.reconstruct(x).shape == x.shape
    trained.batch = 5
    torch.testing.assert_close(trained.detect(x).boxes, found.boxes)
    assert trained.sample(3, count=2).counts.tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", FLAGS)
def test_exports_are_their_originals(runs, tmp_path, name):
    """Also when they are read again, in batches of other sizes than they were made with."""
    trained = load(runs(name))
    # A method's variants are the same to ONNX.
    kinds = (".pt2", ".onnx") if name in METHODS else (".pt2",)
    files = export(trained, tmp_path, onnx=".onnx" in kinds)
    parts = trained.parts()
    assert [file.name for file in files] == [f"{part}{kind}" for part in parts for kind in kinds]
    for part, (function, examples) in parts.items():
        program = torch.export.load(tmp_path / f"{part}.pt2").module()
        inputs = [(3 * torch.rand(5, *each.shape[1:])).to(each.dtype) for each in examples]
        with torch.no_grad():
            expected = function(*inputs)
            torch.testing.assert_close(program(*inputs), expected)
        if ".onnx" in kinds:
            for one, other in zip(
                run_onnx(tmp_path / f"{part}.onnx", inputs),
                expected if isinstance(expected, tuple) else (expected,),
                strict=True,
            ):
                torch.testing.assert_close(torch.from_numpy(one), other, rtol=1e-3, atol=1e-4)
    if name in ("ae", "acai", "abc", "air"):
        assert_verbs_agree(name, trained, tmp_path)


def run_onnx(file: Path, inputs: list[torch.Tensor]) -> list[np.ndarray]:
    """What ONNX's runtime makes of inputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file))
    # Inputs of no columns are left out: a condition that the encoder does not look at.
    names = [given.name for given in session.get_inputs()]
    return session.run(None, {key: each.numpy() for key, each in zip(names, inputs, strict=False)})


def assert_verbs_agree(name: str, trained: Any, folder: Path) -> None:
    """Compares exports with a trained model's own verbs."""
    x = torch.rand(5, *trained.shape)
    found = torch.export.load(folder / "encoder.pt2").module()(x)
    if name == "air":
        torch.testing.assert_close(found, tuple(trained.detect(x)))
        drawn = torch.export.load(folder / "decoder.pt2").module()
        codes = Detection(*found)
        picture = drawn(codes.z_where, codes.z_what, codes.counts)
        torch.testing.assert_close(picture, trained.reconstruct(x))
    else:
        torch.testing.assert_close(found, trained.encode(x))


def test_an_export_of_other_weights_is_noticed(runs):
    trained, other = (load(runs("ae")) for _ in range(2))
    program = exported(trained, trained.parts()["decoder"]).module()
    compare(program, other.parts()["decoder"], trained.device)
    with torch.no_grad():
        next(other.objective.autoencoder.decoder.parameters()).mul_(1.5)
    with pytest.raises(AssertionError):
        compare(program, other.parts()["decoder"], trained.device)


def test_the_exports_command(runs, tmp_path, capsys, monkeypatch):
    command(ExportSettings, export_main, [str(runs("abc")), "--out", str(tmp_path / "there")])
    assert (tmp_path / "there" / "encoder.pt2").exists()
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with refused("--onnx needs ONNX"):
        export(load(runs("abc")), tmp_path, onnx=True)
    (tmp_path / "a file").touch()
    with pytest.raises(SystemExit) as stop:
        command(ExportSettings, export_main, [str(runs("abc")), "--out", str(tmp_path / "a file")])
    assert stop.value.code == 2
    assert "a file" in capsys.readouterr().err


def test_bad_images(runs):
    trained = load(runs("ae"))
    with refused("(3, 9, 16)", "takes (M, 16, 16)"):
        trained.encode(images(3, (9, 16)))
    with refused("neither bytes nor floats from 0 to 1"):
        trained.encode(images().astype(float))
    with refused("neither bytes nor floats from 0 to 1"):
        trained.encode(images().astype(int))
    assert trained.encode(images(0)).shape == (0, 3)


def test_bad_runs(runs, tmp_path):
    with refused("holds no run"):
        load(tmp_path)
    run = tmp_path / "run"
    shutil.copytree(runs("ae"), run)
    config = json.loads((run / "config.json").read_text())
    for change, words in (
        ({"method": "air-sweep"}, "cannot be loaded"),
        ({"inputs": {}}, "has no inputs"),
        ({"inputs": {"shape": [16, 17]}}, "is damaged"),
        ({"inputs": {"shape": ["a", None]}}, "is damaged"),
        ({"method": "icvae", "settings": {}}, "is damaged"),
    ):
        (run / "config.json").write_text(json.dumps(config | change))
        with refused(words):
            load(run)
