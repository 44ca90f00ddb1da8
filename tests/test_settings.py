"""Settings given from Python: convertible types are converted, others are refused by name."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.refusals import refused
from train.abc import ABCSettings
from train.acai import ACAISettings
from train.ae import AESettings
from train.compare import CompareSettings
from train.errors import InputError
from train.methods import METHODS
from train.settings import flags_to_arguments


def test_convertible_types_are_converted():
    plain = {"z_dim": 3, "hidden": (64, 32), "learning_rate": 0.5, "network": "dense"}
    others = {"data": "a.npz", "run_dir": Path("there"), "deterministic": True}
    given = AESettings(
        z_dim=np.int64(3),
        hidden=[np.int32(64), 32],
        learning_rate=np.float32(0.5),
        deterministic=np.bool_(True),
        data=Path("a.npz"),
        run_dir="there",
        network=np.str_("dense"),
    )
    assert given == AESettings(**plain, **others)
    json.dumps(asdict(given), default=str)
    for hidden in (np.array([64, 32]), torch.tensor([64, 32])):
        assert AESettings(hidden=hidden).hidden == (64, 32)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"z_dim": 3.0}, "--z-dim is 3.0: give a whole number"),
        ({"z_dim": True}, "--z-dim is True: give a whole number"),
        ({"z_dim": [3]}, "--z-dim is [3]: give a whole number"),
        ({"hidden": 64}, "--hidden is 64: give a tuple, each a whole number"),
        ({"hidden": np.ones((2, 2), int)}, "give a tuple, each a whole number"),
        ({"network": "cnn"}, "--network is 'cnn': give 'auto' or 'conv' or 'dense'"),
        ({"deterministic": 1}, "--deterministic is 1: give True or False"),
        ({"clip_norm": "1"}, "--clip-norm is '1': give a number or None"),
    ],
)
def test_other_types_are_refused(settings, words):
    with refused(words):
        AESettings(**settings)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (ACAISettings, {"batch_size": 1}, "batch_size 1: mixing needs a partner"),
        (ACAISettings, {"batch_size": 1}, "or critic=False"),
        (ABCSettings, {"normalise": True, "embed_dim": 1}, "normalise=True leaves embed_dim 1"),
        (AESettings, {"deterministic": 1}, "deterministic is 1: give True"),
    ],
)
def test_messages_for_python_name_arguments(kind, settings, words):
    with pytest.raises(InputError) as caught:
        kind(**settings)
    message = flags_to_arguments(str(caught.value), kind)
    assert words in message
    assert "--" not in message


def test_flags_that_are_no_settings_do_not_change():
    message = "--help says -- more, a--b"
    assert flags_to_arguments(message, AESettings) == message
    assert flags_to_arguments("--data has none", AESettings, data="X") == "X has none"


@pytest.mark.parametrize(
    "kind", [*(method.settings for method in METHODS.values()), CompareSettings]
)
def test_class_variables_have_types(kind):
    """Python 3.10 reads no plain ClassVar in the types of a dataclass."""
    for base in kind.__mro__:
        assert "ClassVar" not in vars(base).get("__annotations__", {}).values()
