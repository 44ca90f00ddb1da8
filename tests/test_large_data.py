"""Data larger than memory, through the commands and from Python: the weights of data in memory."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import IterableDataset, TensorDataset

from tests import doors
from tests.data.refusals import refused
from tests.test_parallel import COMMON, METHODS, assert_close, wait_for, words
from train.ae import METHOD as AE
from train.data import samples
from train.errors import InputError
from train.settings.ae import AESettings

ARRAY = np.random.default_rng(0).integers(0, 256, (100, 16, 16), dtype=np.uint8)
LABELS = np.arange(100) % 4
OPTIONS = {"still": True, "trains_only": True}


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "own.npy"
    np.save(path, ARRAY)
    np.save(path.with_name("own-labels.npy"), LABELS)
    return path


def flags_of(method: str, data: Path, run: Path, steps: int, *others: str) -> tuple[str, ...]:
    flags = (*COMMON, "--data", str(data), *METHODS[method], *others)
    return (*flags, "--steps", str(steps), "--run-dir", str(run))


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def assert_equal(run: Path, other: Path) -> None:
    found, expected = weights(run), weights(other)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# ICVAE and ACAI have the batches of AE.
@pytest.mark.parametrize("method", ["ae", "abc", "air"])
def test_every_method_trains_on_disk_what_it_trains_in_memory(tmp_path, own, method):
    """Stopped inside an epoch and resumed: 80 images are ten batches. ABC has no epochs.

    The mutation: batches that are read ahead are those of the first step after a resume.
    """
    said = tmp_path / "said"
    runs = (
        ("in memory", 13, ()),
        ("on disk", 7, ("--in-memory", "never")),
        ("on disk", 13, ("--in-memory", "never", "--resume", "--workers", "1")),
    )
    for name, steps, others in runs:
        flags = flags_of(method, own, tmp_path / name, steps, *others)
        assert doors.finish(doors.start(method, *flags, said=said, **OPTIONS)) == 0, words(said)
    assert_equal(tmp_path / "on disk", tmp_path / "in memory")


def test_two_ranks_train_on_disk_what_one_does_in_memory(tmp_path, own):
    said = tmp_path / "said"
    flags = flags_of("ae", own, tmp_path / "one", 12)
    alone = doors.start("ae", *flags, said=said, **OPTIONS)
    flags = flags_of("ae", own, tmp_path / "two", 12, "--in-memory", "never")
    with doors.together(2, "ae", *flags, said=said, **OPTIONS) as processes:
        assert [doors.finish(process) for process in (alone, *processes)] == [0, 0, 0], words(said)
    assert_close(tmp_path / "two", tmp_path / "one")


@pytest.mark.parametrize("workers", ["0", "1"])
def test_ctrl_c_saves_a_run_that_reads_from_disk(tmp_path, own, workers):
    """The terminal sends it to the workers too."""
    run, said = tmp_path / "run", tmp_path / "said"
    others = ("--in-memory", "never", "--workers", workers, "--checkpoint-every", "50")
    process = doors.start("ae", *flags_of("ae", own, run, 10**7, *others), said=said)
    wait_for(run / "checkpoints" / "00000050.pt", process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == int(workers)
    for pid in (*children, process.pid):
        os.kill(int(pid), signal.SIGINT)
    assert doors.finish(process, 20) == 130, words(said)
    assert "--resume" in said.read_text()
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_a_worker_that_is_killed_is_named(tmp_path, own):
    """In one line, wherever the training is."""
    run, said = tmp_path / "run", tmp_path / "said"
    others = ("--in-memory", "never", "--workers", "1", "--checkpoint-every", "50")
    process = doors.start("ae", *flags_of("ae", own, run, 10**7, *others), said=said)
    wait_for(run / "checkpoints" / "00000050.pt", process)
    (worker,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    assert doors.finish(process, 20) == 2, words(said)
    (line,) = [line for line in said.read_text().splitlines() if line.startswith("error")]
    assert "a process that reads images has ended" in line
    assert "--workers" in line


def test_a_file_that_is_damaged_is_named_at_its_step(tmp_path):
    """In one line; the header alone is read before."""
    folder, said = tmp_path / "images", tmp_path / "said"
    folder.mkdir()
    for i, image in enumerate(ARRAY[:40]):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    content = (folder / "07.png").read_bytes()
    (folder / "07.png").write_bytes(content[: len(content) // 2])
    flags = flags_of("ae", folder, tmp_path / "run", 20, "--in-memory", "never")
    assert doors.finish(doors.start("ae", *flags, said=said)) == 2
    (line,) = [line for line in said.read_text().splitlines() if line.startswith("error")]
    assert "07.png is not a readable image" in line


def settings(run: Path, **options) -> AESettings:
    numbers = {"steps": 12, "batch_size": 8, "hidden": (16,), "cluster_starts": 2, "z_dim": 3}
    common = {"device": "cpu", "decay": "none", "eval_every": 6, "checkpoint_every": 5}
    return AESettings(run_dir=run, **(numbers | common | options))


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Draws no figures, which takes most of the time of a short run."""
    monkeypatch.setattr("train.verdict.draw", lambda *_: ({}, {}))


@pytest.mark.usefixtures("undrawn")
def test_data_are_given_from_python(tmp_path, own):
    """They are measured too, and the random numbers and threads of the process stay."""
    data = TensorDataset(torch.from_numpy(ARRAY), torch.from_numpy(LABELS))
    state = torch.get_rng_state()
    results = AE.main(settings(tmp_path / "given", workers=0), data=data)
    assert torch.equal(torch.get_rng_state(), state)
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]
    expected = AE.main(settings(tmp_path / "own", data=str(own)))
    assert_equal(tmp_path / "given", tmp_path / "own")
    for name in ("reconstruction_mse", "probe_accuracy", "cluster_accuracy"):
        assert results[name] == pytest.approx(expected[name])
    assert results["measured_on"] == {"train": 74, "validation": 6, "held_out": 20}
    config = (tmp_path / "given" / "config.json").read_text()
    assert '"given from Python"' in config


@pytest.mark.usefixtures("undrawn")
def test_a_run_knows_the_data_that_it_was_given(tmp_path):
    data = TensorDataset(torch.from_numpy(ARRAY))
    AE.main(settings(tmp_path / "run", workers=0, steps=5), data=data)
    other = TensorDataset(torch.from_numpy(255 - ARRAY))
    with refused(str(tmp_path / "run")):
        AE.main(settings(tmp_path / "run", workers=0, resume=True), data=other)
    AE.main(settings(tmp_path / "run", workers=0, resume=True), data=data)
    whole = settings(tmp_path / "whole", workers=0)
    AE.main(whole, data=data)
    assert_equal(tmp_path / "run", tmp_path / "whole")


class Stream(IterableDataset):
    """A stream that says where it is, and counts what is read from its beginning."""

    def __init__(self) -> None:
        self.position = self.begin = 0
        self.read: list[int] = []

    def __iter__(self):
        begin, self.begin = self.begin, 0
        for self.position in range(begin + 1, 101):
            self.read.append(self.position - 1)
            yield ARRAY[self.position - 1], int(LABELS[self.position - 1])

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.begin = state["position"]


@pytest.mark.usefixtures("undrawn")
def test_a_stream_is_resumed_where_it_was(tmp_path, monkeypatch):
    """From its state in the checkpoint. The mutation: the state is not saved."""
    monkeypatch.setattr("train.data.streaming.streams.HELD_OUT", 10)
    AE.main(settings(tmp_path / "whole", workers=0), data=Stream())
    AE.main(settings(tmp_path / "run", workers=0, steps=5), data=Stream())
    state = torch.load(tmp_path / "run" / "checkpoints" / "00000005.pt", weights_only=True)
    # 10 held out, 10 to select weights, and five batches.
    assert state["stream"] == {"step": 5, "epoch": 0, "stream": {"position": 60}}
    stream = Stream()
    AE.main(settings(tmp_path / "run", workers=0, resume=True), data=stream)
    assert_equal(tmp_path / "run", tmp_path / "whole")
    # The pass goes on where it was, without the items before.
    assert stream.read.count(60) == stream.read.count(59) + 1


def test_a_sample_is_random_and_the_same_each_time(tmp_path, own, monkeypatch):
    from train.data.labelled import Images
    from train.data.streaming.stored import ArrayImages

    images = Images.of_columns(torch.from_numpy(ARRAY), {"label": LABELS})
    assert samples.sample(images, 100) is images
    sample = samples.sample(images, 30)
    assert len(sample) == 30
    assert torch.equal(sample.images, samples.sample(images, 30).images)
    rows = samples.rows(images, 30)
    assert rows.tolist() == sorted(set(rows.tolist())) != list(range(30))
    assert sample.labels.tolist() == LABELS[rows].tolist()
    stored = Images.of_columns(ArrayImages(own), {"label": LABELS})
    loaded = samples.sample(stored, 30)
    assert torch.equal(loaded.images, sample.images)
    assert isinstance(samples.sample(stored, 30, stored=True).images, ArrayImages)
    # Few images of those that are large.
    monkeypatch.setattr(samples, "MOST_BYTES", 256 * 7)
    assert len(samples.sample(stored, 30)) == 7
    assert len(samples.sample(images, 30)) == 30


@pytest.mark.usefixtures("undrawn")
def test_results_say_how_many_images_they_are_of(tmp_path, own):
    results = AE.main(settings(tmp_path / "run", data=str(own), measure_on=(30, 9)))
    assert results["measured_on"] == {"train": 30, "validation": 6, "held_out": 9}


def test_an_archive_cannot_stay_on_disk(tmp_path):
    np.savez(tmp_path / "own.npz", images=ARRAY)
    with pytest.raises(InputError, match=r"--in-memory never: .* is an archive"):
        AE.begin(settings(None, data=str(tmp_path / "own.npz"), in_memory="never"))
