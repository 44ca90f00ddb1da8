"""Checkpoints: the last are kept, damage is reported, and no code from a file runs."""

from __future__ import annotations

import io
import pickle
import zipfile

import pytest
import torch

from tests.data.refusals import refused
from train.engine.checkpoints import Checkpoints

CPU = torch.device("cpu")


class Trap:
    """A pickle that runs code when it is loaded."""

    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


@pytest.fixture
def checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (5, 10, 15):
        checkpoints.save(step, {"step": step, "weights": torch.full((50,), float(step))})
    return checkpoints


def test_the_last_ones_stay(checkpoints):
    assert [path.name for path in checkpoints.paths()] == ["00000010.pt", "00000015.pt"]
    assert checkpoints.load(CPU)["step"] == 15
    assert "step 15" in str(checkpoints)


def test_foreign_files_are_left_alone(checkpoints):
    for name in ("notes.pt", "00000020.txt", "-1.pt"):
        (checkpoints.folder / name).write_text("mine")
    checkpoints.save(20, {})
    assert len(checkpoints.paths()) == 2
    assert (checkpoints.folder / "notes.pt").read_text() == "mine"


def crafted(path):
    path.write_bytes(pickle.dumps({"step": Trap()}))


def crafted_archive(path):
    torch.save({"step": Trap()}, path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    """Flips one bit of a weight, which ``torch.load`` does not notice."""
    content = bytearray(path.read_bytes())
    place = content.index(torch.full((50,), 15.0).numpy().tobytes())
    content[place + 2] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["weights"][0] != 15


def a_list(path):
    torch.save([1, 2], path)


def another_archive(path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../outside.txt", "hello")
    path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize(
    "damage", [crafted, crafted_archive, cut, emptied, flipped, a_list, another_archive]
)
def test_a_damaged_one_is_named_and_the_one_before_is_offered(checkpoints, damage, tmp_path):
    *_, before, newest = checkpoints.paths()
    damage(newest)
    with refused(str(newest), "is damaged", "delete it", before.name):
        checkpoints.load(CPU)
    assert Trap.sprung is False
    assert not (tmp_path / "outside.txt").exists()
    newest.unlink()
    assert checkpoints.load(CPU)["step"] == 10


def test_the_only_one_damaged(checkpoints):
    checkpoints.paths()[0].unlink()
    crafted(checkpoints.paths()[0])
    with refused("is damaged", "start the run anew"):
        checkpoints.load(CPU)
