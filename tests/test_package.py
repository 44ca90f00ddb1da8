"""The package: its public names, its command, and models that are shared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import structured_latents
from tests.data.refusals import refused
from tests.pages import ROOT
from train import ae
from train.ae import AESettings
from train.pretrained import CARD, FILES, from_pretrained, save_pretrained

IMAGES = np.random.default_rng(0).random((40, 8, 8))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    np.savez(folder / "own.npz", images=IMAGES)
    settings = {"steps": 2, "batch_size": 16, "z_dim": 3, "cluster_starts": 1, "device": "cpu"}
    ae.main(AESettings(data=str(folder / "own.npz"), run_dir=folder / "run", **settings))
    return folder / "run"


def test_public_names_can_be_imported():
    for name in structured_latents.__all__:
        assert getattr(structured_latents, name).__name__ == name
    assert set(structured_latents.__all__) == {
        n for ns in structured_latents.HOMES.values() for n in ns
    }
    assert set(structured_latents.__all__) <= set(dir(structured_latents))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        structured_latents.nothing  # noqa: B018


def test_public_names_are_those_that_type_checkers_see():
    """The mutation: a name that has a home, and is not imported for types."""
    text = (ROOT / "structured_latents.py").read_text()
    known = text.split("if TYPE_CHECKING:")[1].split("__all__")[0]
    for home, names in structured_latents.HOMES.items():
        assert f"from {home} import" in known
        assert all(name in known for name in names)


@pytest.mark.parametrize(
    ("args", "status", "words"),
    [
        (["ae", "--help"], 0, "usage: structured-latents ae"),
        (["--version"], None, structured_latents.__version__),
        ([], None, "Commands; each has --help"),
        (["nothing"], 2, "error: nothing: no such command"),
        (["ae", "--steps", "0"], 2, "--steps"),
    ],
)
def test_the_command_runs_methods_by_name(args, status, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["structured-latents", *args])
    if status is None:
        structured_latents.command()
    else:
        with pytest.raises(SystemExit) as stop:
            structured_latents.command()
        assert stop.value.code == status
    shown = capsys.readouterr()
    assert words in shown.out + shown.err


def test_a_file_that_hides_the_package_is_named(tmp_path):
    """As in nearly every folder of a person who trains models."""
    (tmp_path / "train.py").write_text("print('mine')\n")
    script = tmp_path / "mine.py"
    script.write_text("from structured_latents import load\n")
    found = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert found.returncode == 1
    line = found.stderr.strip().splitlines()[-1]
    assert line.startswith(f"ImportError: {tmp_path / 'train.py'} hides the package train")


def test_a_shared_model_is_the_run(run, tmp_path):
    files = save_pretrained(run, tmp_path / "shared")
    assert sorted(path.name for path in files) == sorted((*FILES, CARD))
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {*FILES, CARD}
    shared = from_pretrained(tmp_path / "shared")
    torch.testing.assert_close(shared.encode(IMAGES), structured_latents.load(run).encode(IMAGES))


def test_the_model_card_has_the_runs_own_numbers(run, tmp_path):
    save_pretrained(run, tmp_path)
    text = (tmp_path / CARD).read_text()
    error = json.loads((run / "results.json").read_text())["reconstruction_mse"]
    assert f"| {error:.5g} |" in text
    assert "| z_dim | `3` |" in text
    assert text.startswith("---\nlibrary_name: structured-latents")


def test_a_model_is_read_from_the_hubs_cache(run, tmp_path, monkeypatch):
    """As huggingface_hub keeps it; without a network."""
    commit = "0" * 40
    home = tmp_path / "hub" / "models--me--tiny"
    save_pretrained(run, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert from_pretrained("me/tiny").encode(IMAGES).shape == (40, 3)
    with refused("me/other", "not read from the hub"):
        from_pretrained("me/other")


def test_what_is_no_model_is_refused(run, tmp_path):
    with refused("holds no run"):
        from_pretrained(tmp_path)
    with refused("holds no run"):
        save_pretrained(tmp_path, tmp_path / "shared")
    with refused("no revisions"):
        from_pretrained(run, revision="main")
