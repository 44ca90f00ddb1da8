"""Runs are loaded from their weights and settings alone, and put to use."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from PIL import Image

from guides.air import Detection
from tests import doors
from tests.data.refusals import refused
from tests.kills import COMMON, SCENES, save_own
from train import icvae, plots
from train.cli import command
from train.data.streaming.stored import ArrayImages
from train.errors import InputError
from train.export import ExportSettings, compare, export, exported
from train.export import main as export_main
from train.trained import METHODS, load
from train.verbs import base

SHAPE = (16, 16)
FLAGS = {
    "ae": ("--hidden", "16", "--z-dim", "3"),
    "acai": ("--depth", "2", "--z-dim", "16", "--data", "PADDED"),
    "abc": ("--stack-size", "5", "--withheld", "--channels", "4"),
    "icvae": ("--hidden", "16", "16", "--memory", "20"),
    "icvae echo": ("--hidden", "16", "16", "--invariance", "echo", "--echo-terms", "5"),
    "icvae vae": ("--condition", "none", "--invariance", "none", "--hidden", "16"),
    "icvae sees": ("--encoder-sees-labels", "--invariance", "adversarial", "--hidden", "16"),
    "air": (*SCENES, "--max-objects", "2", "--guide", "residual"),
    "air image": (
        # One object, as its graph takes long to export; "air" has two.
        *(*SCENES, "--max-objects", "1", "--max-digits", "1"),
        *("--background", "image", "--composition", "mixture"),
    ),
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
    assert type(trained) is METHODS[name.split()[0]].trained
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
    shape = trained.shape.outside
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
    from train.data import datasets

    for name in ("ae", "acai"):
        run = runs(name)
        trained = load(run)
        results = json.loads((run / "results.json").read_text())
        held_out = datasets.load(trained.settings.data, Path("data"), "test").held_out.images
        drawn = trained.in_batches(trained.objective.autoencoder, trained.inputs(held_out))
        assert drawn.shape == held_out.shape
        error = (drawn - held_out / 255).square().mean()
        assert error.item() == pytest.approx(results["reconstruction_mse"], rel=1e-4)
        # What is outside of [0, 1] counts there, and is no part of an image.
        torch.testing.assert_close(trained.reconstruct(held_out), drawn[:, 0].clamp(0, 1))


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
    if name == "icvae echo":
        with refused("Echo noise have no prior", "encode(images, sample=True)"):
            trained.sample(12, **told)
    else:
        assert trained.sample(12, **told).shape == (12, *SHAPE)
        with refused("n is 0: give 1 or more"):
            trained.sample(0, **told)
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
        for verb in (trained.reconstruct, trained.encode):
            verb(x)
        with refused("condition none", "no labels to transfer to"):
            trained.transfer(x, labels)
        with refused("has no condition (condition none): give no labels"):
            trained.decode(torch.zeros(12, 2), labels)
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
    with refused("there is no class 4: the classes are 0, 1, 2, 3"):
        trained.decode(torch.zeros(2, 2), np.array([0, 4]))


@pytest.mark.parametrize("name", ["icvae", "icvae echo"])
def test_codes_are_sampled_or_means(runs, name):
    """A draw is the mean and noise of the encoder's; its seed leaves others' draws alone."""
    trained = load(runs(name))
    x = np.concatenate([images()] * 50)
    mean, one, again, other = (
        trained.encode(x, sample=sample, seed=seed)
        for sample, seed in ((False, 1), (True, 1), (True, 1), (True, 2))
    )
    torch.testing.assert_close(one, again, rtol=0, atol=0)
    assert (one != other).any(dim=1).float().mean() > 0.9
    if name == "icvae":
        torch.testing.assert_close(trained.encode(x), mean, rtol=0, atol=0)
        _, log_variance = trained.objective.guide.encode(trained.inputs(x), torch.zeros(len(x), 0))
        noise = (one - mean) / (0.5 * log_variance).exp()
        assert noise.mean().abs() < 5 / noise.numel() ** 0.5
        assert (noise.var() - 1).abs() < 5 * (2 / noise.numel()) ** 0.5
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    trained.encode(x, sample=True, seed=1)
    torch.testing.assert_close(torch.rand(2), expected, rtol=0, atol=0)
    with refused("seed is -1"):
        trained.encode(x, seed=-1)


def test_echo_noise_needs_others(runs):
    """Parts of what is encoded together are large enough, or it is refused."""
    trained = load(runs("icvae echo"))
    for n in (5, 0):
        with refused(f"there are {n} images", "encode 6 or more together"):
            trained.encode(images(n))
    trained.batch = 6
    assert trained.encode(images(17)).shape == (17, 2)


@pytest.mark.parametrize("name", ["ae", "acai", "icvae", "icvae vae", "air"])
def test_codes_as_they_come_are_decoded(runs, name):
    trained = load(runs(name))
    told: dict[str, Any] = {"labels": [1, 0]} if name == "icvae" else {}
    shape = trained.shape.outside
    z = trained.encode(images(2, shape))
    assert z.shape == (2, trained.code_size)
    drawn = trained.decode(z, **told)
    assert drawn.shape == (2, *shape)
    for given in (z.double().numpy(), z.tolist(), z.double().requires_grad_()):
        torch.testing.assert_close(trained.decode(given, **told), drawn)
    with refused(f"this model takes (M, {trained.code_size})"):
        trained.decode(z[:, 1:], **told)
    with refused("codes are of shape (0,)"):
        trained.decode([], **told)
    if not told:
        assert trained.decode(z[:0]).shape == (0, *shape)


def test_numbers_that_verbs_take(runs):
    """Each verb with its numbers at, below and above what they may be, and with nothing at all."""
    ae, abc, icvae, air = (load(runs(name)) for name in ("ae", "abc", "icvae", "air"))
    x = images(4)
    assert ae.interpolate(x, x, np.int64(2)).shape == (4, 2, *SHAPE)
    assert ae.interpolate(x[:0], x[:0], 2).shape == (0, 2, *SHAPE)
    told = {"labels": [0, 1, 2, 3]}
    for trained, known in ((ae, {}), (icvae, told)):
        for n in (1, 0, -1):
            with refused(f"n is {n}: give 2 or more"):
                trained.interpolate(x, x, n, **known)
        with refused("n is 2.5: give a whole number"):
            trained.interpolate(x, x, 2.5, **known)
        with refused("4 images to begin at and 3 to end at"):
            trained.interpolate(x, x[:3], **known)
        with refused("4 images to begin at and 1 to end at"):
            trained.interpolate(x, x[:1], **known)
    assert abc.retrieve(x[:0], x, np.int64(2)).shape == (0, 2)
    for k in (0, 1.5, 5):
        with refused(f"k is {k}"):
            abc.retrieve(x, x, k)
    with refused("the gallery is empty"):
        abc.retrieve(x, x[:0])
    for n in (0, -1):
        with refused(f"n is {n}: give 1 or more"):
            air.sample(n)
    assert air.sample(np.int64(2), np.int64(0)).counts.tolist() == [0, 0]
    for count in (-1, 4):
        with refused(f"count is {count}: give from 0 to {air.settings.max_objects}"):
            air.sample(1, count)
    for verb in (air.encode, air.detect, air.reconstruct):
        with refused("there are no images"):
            verb(images(0, air.shape.outside))


def test_devices_that_are_not_there(runs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    trained = load(runs("ae"), device="auto")
    assert trained.device.type in ("cpu", "mps")
    for device, words in (("cuda", "device cuda is not there"), ("banana", "device banana is no")):
        for put in (trained.to, lambda device: load(runs("ae"), device=device)):
            with pytest.raises(InputError, match=f"^{words}") as caught:
                put(device)
            assert "--" not in str(caught.value)


@pytest.mark.parametrize("name", FLAGS)
def test_copies_are_the_same(runs, tmp_path, name):
    """Pickled, by joblib too, copied and moved; without a draw of anybody else's."""
    trained = load(runs(name))
    joblib.dump(trained, tmp_path / "a")
    expected = trained.objective.state_dict()
    before = torch.get_rng_state()
    for copied in (
        pickle.loads(pickle.dumps(trained)),
        joblib.load(tmp_path / "a"),
        copy.deepcopy(trained).to("cpu"),
    ):
        assert type(copied) is type(trained)
        assert copied.settings == trained.settings
        assert copied.objective is not trained.objective
        torch.testing.assert_close(copied.objective.state_dict(), expected, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_objects_are_found(runs):
    trained = load(runs("air"))
    x = images(shape=trained.shape.outside)
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


DETECTION = ("counts", "probabilities", "boxes", "z_where", "z_what", "reconstruction")
DETECTION += ("windows", "masks", "background")
NAMES = {
    "ae": [(["image"], ["z"]), (["z"], ["reconstruction"])],
    "acai": [(["image"], ["z"]), (["z"], ["reconstruction"])],
    "abc": [(["image"], ["z"])],
    "icvae": [(["image"], ["mean", "log_variance"]), (["z", "label"], ["reconstruction"])],
    "icvae sees": [
        (["image", "label"], ["mean", "log_variance"]),
        (["z", "label"], ["reconstruction"]),
    ],
    "air image": [
        (["image"], [*DETECTION, "z_background"]),
        (["z_where", "z_what", "counts", "z_background"], ["reconstruction"]),
    ],
}
"""What docs/trained.md says that encoder and decoder take and give."""


@pytest.mark.parametrize(
    "name", [name for name in FLAGS if name not in ("icvae vae", "icvae echo")]
)
def test_exports_are_their_originals(runs, tmp_path, name):
    """Also when they are read again, in batches of other sizes than they were made with."""
    trained = load(runs(name))
    # A method's variants are the same to ONNX, and ACAI is an autoencoder.
    kinds = [".pt2"] + [".onnx"] * (name in NAMES.keys() - {"acai"})
    kinds += [".int8.onnx"] * (name in ("ae", "icvae"))
    files = export(trained, tmp_path, onnx=".onnx" in kinds, int8=".int8.onnx" in kinds)
    functions = trained.functions()
    assert [file.name for file in files] == [f"{key}{kind}" for key in functions for kind in kinds]
    for index, (key, function) in enumerate(functions.items()):
        program = torch.export.load(tmp_path / f"{key}.pt2")
        assert list(program.graph_signature.user_inputs) == list(function.inputs)
        inputs = [(3 * torch.rand(5, *x.shape[1:])).to(x.dtype) for x in function.inputs.values()]
        with torch.no_grad():
            expected = function.function(*inputs)
            torch.testing.assert_close(program.module()(*inputs), expected)
        if ".onnx" in kinds:
            names, outputs = run_onnx(tmp_path / f"{key}.onnx", inputs)
            assert names == NAMES[name][index]
            for output, value in zip(
                outputs, expected if isinstance(expected, tuple) else (expected,), strict=True
            ):
                torch.testing.assert_close(torch.from_numpy(output), value, rtol=1e-3, atol=1e-4)
        if ".int8.onnx" in kinds:
            assert_int8_is_near(tmp_path / f"{key}.onnx", tmp_path / f"{key}.int8.onnx", inputs)
    if name in ("ae", "acai", "abc", "air"):
        assert_verbs_agree(name, trained, tmp_path)


def run_onnx(
    file: Path, inputs: list[torch.Tensor]
) -> tuple[tuple[list[str], list[str]], list[np.ndarray]]:
    """What ONNX's runtime takes and gives, by name, and what it makes of inputs."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file))
    takes, gives = (
        [each.name for each in side()] for side in (session.get_inputs, session.get_outputs)
    )
    found = session.run(None, {key: each.numpy() for key, each in zip(takes, inputs, strict=True)})
    return (takes, gives), found


def assert_int8_is_near(floats: Path, int8: Path, inputs: list[torch.Tensor]) -> None:
    """Mutations: no operation is quantised; weights have four bits."""
    names, expected = run_onnx(floats, inputs)
    other_names, found = run_onnx(int8, inputs)
    assert other_names == names
    for output, value in zip(found, expected, strict=True):
        assert 0 < np.square(output - value).mean() ** 0.5 < 0.03 * value.std()
    assert int8.stat().st_size < floats.stat().st_size


def assert_verbs_agree(name: str, trained: Any, folder: Path) -> None:
    """Compares exports with a trained model's own verbs."""
    x = torch.rand(5, *trained.shape.outside)
    found = torch.export.load(folder / "encoder.pt2").module()(x)
    if name == "air":
        # A black background has no latent, which would come last.
        torch.testing.assert_close(found, tuple(trained.detect(x))[:-1])
        drawn = torch.export.load(folder / "decoder.pt2").module()
        codes = Detection(*found, z_background=torch.zeros(5, 0))
        picture = drawn(codes.z_where, codes.z_what, codes.counts)
        torch.testing.assert_close(picture, trained.reconstruct(x))
    else:
        torch.testing.assert_close(found, trained.encode(x))


@pytest.mark.parametrize("name", ["ae", "abc", "icvae", "air"])
def test_a_file_is_encoded_a_batch_at_a_time(runs, tmp_path, monkeypatch, name):
    """Mutations: the file is read as a whole; all images become floats at once; order is lost."""
    trained, file = load(runs(name)), tmp_path / "images.npy"
    trained.batch = 5
    x = np.concatenate([images(shape=trained.shape.outside)] * 4)
    np.save(file, x)
    expected, read, scaled = trained.encode(x), [], []
    monkeypatch.setattr(ArrayImages, "read", seen(ArrayImages.read, read, 1))
    monkeypatch.setattr(base, "as_input", seen(base.as_input, scaled, 0))
    torch.testing.assert_close(trained.encode(file), expected, rtol=0, atol=0)
    assert sum(read) == len(x)
    assert max(read) <= 6
    assert max(scaled) <= 6
    torch.testing.assert_close(trained.encode(ArrayImages(file)), expected, rtol=0, atol=0)
    np.save(file, np.zeros((3, 5, 5), np.uint8))
    with refused("images has shape (3, 1, 5, 5): this model takes"):
        trained.encode(str(file))
    with refused("nothing.npy is no file"):
        trained.encode(tmp_path / "nothing.npy")


def test_a_memory_map_is_read_as_its_file(runs, tmp_path, monkeypatch):
    """The mutation: it is converted as a whole, as parts and maps that were written to are."""
    trained, file = load(runs("ae")), tmp_path / "images.npy"
    x = np.concatenate([images(shape=trained.shape.outside)] * 4)
    np.save(file, x)
    mapped = np.load(file, mmap_mode="r")
    assert not isinstance(base.opened(mapped), ArrayImages)
    monkeypatch.setattr(base, "LARGE", 1)
    assert isinstance(base.opened(mapped), ArrayImages)
    torch.testing.assert_close(trained.encode(mapped), trained.encode(x), rtol=0, atol=0)
    torch.testing.assert_close(trained.encode(mapped[3:]), trained.encode(x[3:]), rtol=0, atol=0)
    written = np.load(file, mmap_mode="c")
    written[:] = 0
    torch.testing.assert_close(trained.encode(written), trained.encode(0 * x), rtol=0, atol=0)
    np.arange(10, dtype=np.uint8).tofile(tmp_path / "raw")
    raw = np.memmap(tmp_path / "raw", np.uint8, mode="r", offset=1, shape=(1, 3, 3))
    assert base.opened(raw) is raw


def seen(function: Callable[..., Any], lengths: list[int], of: int) -> Callable[..., Any]:
    """Has a function note the lengths of one of its arguments."""

    def seeing(*args: Any) -> Any:
        lengths.append(len(args[of]))
        return function(*args)

    return seeing


def test_an_export_of_other_weights_is_noticed(runs):
    trained, other = (load(runs("ae")) for _ in range(2))
    program = exported(trained, trained.functions()["decoder"]).module()
    compare(program, other.functions()["decoder"], trained.device)
    with torch.no_grad():
        next(other.objective.autoencoder.decoder.parameters()).mul_(1.5)
    with pytest.raises(AssertionError):
        compare(program, other.functions()["decoder"], trained.device)


def test_the_exports_command(runs, tmp_path, capsys, monkeypatch):
    command(ExportSettings, export_main, [str(runs("abc")), "--out", str(tmp_path / "there")])
    assert (tmp_path / "there" / "encoder.pt2").exists()
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    for flag in ("onnx", "int8"):
        with refused(f"--{flag} needs ONNX"):
            export(load(runs("abc")), tmp_path, **{flag: True})
    # The refusal names the flag that was given.
    with refused("--web needs ONNX"):
        export_main(ExportSettings(runs("abc"), web=tmp_path / "site"))
    (tmp_path / "a file").touch()
    with pytest.raises(SystemExit) as stop:
        command(ExportSettings, export_main, [str(runs("abc")), "--out", str(tmp_path / "a file")])
    assert stop.value.code == 2
    assert "a file" in capsys.readouterr().err


def test_bad_images(runs):
    trained = load(runs("ae"))
    with refused("(3, 9, 16)", "takes (M, 16, 16)"):
        trained.encode(images(3, (9, 16)))
    with refused("runs from 0 to 255", "[0, 1]") as caught:
        trained.encode(images().astype(float))
    assert "--" not in str(caught.value)
    assert trained.encode(images(0)).shape == (0, 3)


@pytest.mark.parametrize("name", ["ae", "acai", "abc", "icvae", "air"])
def test_images_in_any_form(runs, name):
    """One function takes them for every method; here that it does, and for one image."""
    trained = load(runs(name))
    x = images(4, trained.shape.outside)
    codes = trained.encode(x)
    for given in (x[:, None].astype(">i4"), list(x / 255), [Image.fromarray(each) for each in x]):
        torch.testing.assert_close(trained.encode(given), codes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(trained.encode(x[1]), codes[1:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["ae", "acai", "icvae", "air"])
def test_a_models_own_images_are_taken(runs, name):
    """Means of Normal pixels and canvases may be outside of [0, 1]: that is cut off."""
    trained = load(runs(name))
    x = images(4, trained.shape.outside)
    told = {"labels": 1} if name == "icvae" else {}
    drawn = [trained.reconstruct(x, **told)]
    if name == "icvae":
        drawn += [trained.sample(3, 2), trained.transfer(x, 3)]
    if name == "air":
        scenes = trained.sample(3, count=2)
        # Half of the noise on black is below it.
        assert 0 == scenes.images.min() <= scenes.images.max() <= 1
        drawn += [scenes.images, scenes.canvas]
    for each in drawn:
        assert trained.encode(each).isfinite().all()
    if name in ("acai", "icvae"):
        far = trained.decode(torch.full((2, trained.settings.z_dim), 1e3), **told)
        assert 0 == far.min() < far.max() <= 1


@pytest.mark.drawn
def test_labels_are_the_persons_own(tmp_path, monkeypatch):
    """Numbered by those that occur, kept with the run, named in figures; one is for all images."""
    values = ["ant", "cat", "dog"]
    own, run = tmp_path / "own.npz", tmp_path / "run"
    np.savez(own, images=images(60), labels=np.array(values[::-1] * 20)[:, None])
    rows: list[str] = []
    gallery = plots.gallery
    monkeypatch.setattr(plots, "gallery", lambda given: rows.extend(given) or gallery(given))
    flags = [*COMMON, *FLAGS["icvae"], "--steps", "2", "--data", str(own), "--run-dir", str(run)]
    command(icvae.ICVAESettings, icvae.main, flags)
    assert [row.strip() for row in rows if row.startswith("a ")] == ["a ant", "a cat", "a dog"]
    config = json.loads((run / "config.json").read_text())
    assert config["inputs"]["condition"]["values"] == values
    trained = load(run)
    z = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    for number, value in enumerate(values):
        expected = trained.objective.model.decode(z, torch.eye(3)[[number, number]]).detach()
        for labels in (value, [value], [value, value], np.array([[value]] * 2)):
            torch.testing.assert_close(trained.decode(z, labels), expected[:, 0].clamp(0, 1))
    for label, words in (("cow", "no class 'cow'"), (1.5, "no class 1.5")):
        with refused(words, "the classes are 'ant', 'cat', 'dog'"):
            trained.transfer(images(3), label)
    # Runs of earlier versions number their classes from 0.
    del config["inputs"]["condition"]["values"]
    (run / "config.json").write_text(json.dumps(config))
    torch.testing.assert_close(load(run).decode(z, 1), trained.decode(z, "cat"))


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
