"""Settings without effect: a note names each of them, and they truly have none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from train import abc, acai, air, icvae
from train.method import Method
from train.settings import Settings
from train.settings.air import AIRSettings
from train.settings.effects import changed, without_effect
from train.settings.icvae import ICVAESettings

CLASSES = {method.METHOD.settings: method.METHOD for method in (abc, acai, air, icvae)}


def entries(settings: type) -> dict[str, tuple[str, tuple[Any, ...]]]:
    """All of a class and its bases."""
    found: dict[str, tuple[str, tuple[Any, ...]]] = {}
    for base in settings.__mro__:
        found |= vars(base).get("USED_WITH", {})
    return found


@pytest.mark.parametrize("settings", CLASSES)
def test_every_entry_names_settings_and_their_values(settings):
    """The mutation: a setting, or a value of another one, that does not exist."""
    names = {field.name for field in fields(settings)}
    found = entries(settings)
    assert found
    for name, (other, values) in found.items():
        assert name in names
        # A baseline is refused beside the default estimator.
        beside = {"estimator": "tracegraph"} if other == "baseline" else {}
        for value in values:
            replace(settings(), **{other: value}, **beside)


@pytest.mark.parametrize(
    ("given", "resolved", "line"),
    [
        (
            AIRSettings(guide_hidden=64),
            AIRSettings(guide_hidden=64, guide="convolutional"),
            "--guide-hidden has no effect with --guide convolutional: leave it out, or give "
            "--guide residual or recurrent",
        ),
        (
            AIRSettings(canvas_size=84),
            AIRSettings(canvas_size=84, data="photos"),
            "--canvas-size has no effect with --data photos: leave it out, or give --data mnist5k, "
            "say",
        ),
        (
            acai.ACAISettings(mixing=0.4, critic=False),
            None,
            "--mixing has no effect with --no-critic: leave it out, or give --critic",
        ),
        (
            abc.ABCSettings(components=16),
            None,
            "--components has no effect with --component-weight 0.0: leave it out, or give "
            "--component-weight",
        ),
    ],
)
def test_a_line_names_the_setting_and_the_remedy(given, resolved, line):
    assert list(without_effect(given, resolved or given)) == [line]


@pytest.mark.parametrize(
    "given",
    [
        AIRSettings(guide="residual", guide_hidden=64, anchors=4),
        AIRSettings(guide="convolutional", guide_channels=8),
        # One's own estimator may take a temperature.
        AIRSettings(estimator="mine:Mine", temperature=0.3),
        ICVAESettings(invariance="club", predictor_learning_rate=0.1),
        abc.ABCSettings(components=16, component_weight=2.0),
        acai.ACAISettings(network="dense", dropout=0.1),
    ],
)
def test_what_has_an_effect_is_not_named(given):
    assert list(without_effect(given, given)) == []


def test_what_the_data_decide_is_not_named():
    """A value that a default was resolved to was not given."""
    given = AIRSettings(guide="convolutional")
    assert changed(replace(given, anchors=11), ["anchors"]) == ["anchors"]
    assert list(without_effect(given, replace(given, anchors=11))) == []


BUILT = [
    (AIRSettings(max_objects=1, guide="convolutional"), {"guide_hidden": 32, "anchors": 3}),
    (AIRSettings(max_objects=1, guide="residual"), {"guide_channels": 3, "mask_scale": 0.1}),
    (
        AIRSettings(max_objects=1, guide="convolutional", composition="over"),
        {"decoder_bias": 2.0},
    ),
    (
        AIRSettings(max_objects=1, guide="residual"),
        {"temperature": 0.1, "temperature_start": 2.0, "baseline_learning_rate": 0.1},
    ),
    (
        acai.ACAISettings(critic=False, z_dim=16),
        {"critic_weight": 3.0, "critic_blend": 0.4, "mixing": 0.2, "hidden": (8,), "dropout": 0.4},
    ),
    (acai.ACAISettings(network="dense"), {"depth": 3}),
    (abc.ABCSettings(), {"components": 5}),
    (
        ICVAESettings(invariance="mmd", likelihood="bernoulli", z_dim=3),
        {"predictor_learning_rate": 0.1, "memory": 7, "echo_terms": 3, "likelihood_scale": 0.2},
    ),
]


def cases() -> Iterator[Any]:
    for settings, changes in BUILT:
        for name, value in changes.items():
            yield pytest.param(settings, name, value, id=f"{type(settings).__name__}-{name}")


@pytest.mark.parametrize(("settings", "name", "value"), list(cases()))
def test_what_a_line_names_changes_nothing(settings, name, value):
    """Weights and losses are those without it.

    The mutation: an entry for a setting that is used, such as ``guide_channels`` with
    ``guide="convolutional"``.
    """
    given = replace(settings, **{name: value})
    assert len(list(without_effect(given, given))) == 1
    method = CLASSES[type(settings)]
    torch.testing.assert_close(trained(method, given), trained(method, settings), rtol=0, atol=0)


def trained(method: Method, settings: Settings) -> dict[str, Any]:
    """The weights, and the losses of a batch."""
    torch.manual_seed(0)
    size = (1, 16, 16)
    condition = {"classes": 2, "loc": [], "scale": [], "values": [0, 1]}
    objective = method.build(settings, {"shape": list(size), "condition": condition})
    weights = dict(objective.state_dict())
    batch = (torch.rand(8, *size),)
    if isinstance(settings, abc.ABCSettings):
        batch = (torch.rand(1, 2, 8, *size), torch.rand(1, 2, 8, *size))
    elif isinstance(settings, ICVAESettings):
        batch = (*batch, torch.eye(2)[torch.arange(8) % 2])
    torch.manual_seed(1)
    losses, _ = objective(batch, torch.tensor(3))
    return weights | losses
