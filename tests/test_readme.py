"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch

from guides.air import ResidualGuide
from pyro_models.air import AIR
from train.estimators import MarginalELBO, TraceGraphELBO

BLOCKS = re.findall(
    r"```python\n(.*?)```", (Path(__file__).parents[1] / "README.md").read_text(), re.DOTALL
)


def test_what_air_finds_in_images():
    names: dict = {}
    exec(BLOCKS[0], names)
    assert names["found"].boxes.shape == (64, 3, 4)
    assert names["scenes"].canvas.shape == (16, 50, 50)
    assert names["loss"] > 0


def test_another_likelihood():
    names = {"AIR": AIR, "dist": dist, "pyro": pyro}
    exec(BLOCKS[1], names)
    model = names["BernoulliAIR"]((20, 20), window_size=8, presence_prior=0.5)
    guide = ResidualGuide(model, hidden=16)
    images = torch.rand(5, 20, 20).round()
    for estimator in (MarginalELBO(), TraceGraphELBO()):
        loss = estimator.differentiable_loss(model, guide, images)
        loss.backward()
        assert loss.isfinite()
    assert model.sample(50).images.unique().tolist() == [0, 1]
