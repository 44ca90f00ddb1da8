"""Estimates with masks that are known to be presences are those with masks that are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from torch import Tensor

from guides import stepwise
from pyro_models import air, presence
from pyro_models.presence import presence_of, where_present
from train.estimators import MarginalELBO, make
from train.estimators.counts import count_out


def unmarked(z_pres: Tensor) -> Any:
    return poutine.mask(mask=z_pres > 0)


def same(program: Callable[..., Any]) -> Callable[..., Any]:
    return program


def estimate(estimator: Any, model: Any, guide: Any, weights: list[Tensor], images: Tensor):
    pyro.set_rng_seed(3)
    loss, terms = estimator.loss_and_terms(model, guide, images)
    return loss.detach(), dict(terms), torch.autograd.grad(loss, weights, allow_unused=True)


@pytest.mark.parametrize("name", ["marginal", "sampled", "iw", "concrete", "rws"])
@pytest.mark.parametrize(
    ("around_model", "around_guide"),
    [
        (same, same),
        (lambda model: poutine.mask(model, mask=torch.tensor([True, False])), same),
        (same, lambda guide: poutine.mask(guide, mask=torch.tensor([False, True]))),
        (lambda model: poutine.scale(model, scale=torch.tensor(3.0)), same),
    ],
    ids=["alone", "model masked", "guide masked", "model scaled"],
)
def test_estimates(small_air, monkeypatch, name, around_model, around_guide):
    small = small_air(max_objects=2)
    weights = [*small.model.parameters(), *small.guide.parameters()]
    images = small.images[:2]
    results = []
    for marks in (True, False):
        if not marks:
            for module in (air, presence, stepwise):
                monkeypatch.setattr(module, "where_present", unmarked)
        estimator = MarginalELBO(analytic=False) if name == "sampled" else make(name)
        pair = around_model(small.model), around_guide(small.guide)
        results.append(estimate(estimator, *pair, weights, images))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_masks_are_known_where_nothing_else_masks(small_air):
    small = small_air(max_objects=2)
    run = count_out(small.model, small.guide, (small.images,))
    latents = {f"z_{kind}_{i}" for kind in ("where", "what") for i in range(2)}
    assert run.same_masks >= latents
    assert run.known_model_mask(run.model["z_what_1"]) == (False, False, True)
    everything = torch.ones(len(small.images), dtype=torch.bool)
    masked = poutine.mask(small.model, mask=everything)
    run = count_out(masked, small.guide, (small.images,))
    assert not run.same_masks & latents
    assert run.known_model_mask(run.model["z_what_1"]) is None


def test_a_mark_is_void_under_another_mask():
    z_pres = torch.tensor([1.0, 0.0])
    other = torch.tensor([True, True])
    for handlers, known in (
        ((where_present(z_pres),), True),
        ((poutine.mask(mask=other), where_present(z_pres)), False),
        ((where_present(z_pres), poutine.mask(mask=other)), False),
        ((where_present(z_pres), where_present(torch.ones(2))), False),
    ):
        with poutine.trace() as traced, pyro.plate("scenes", 2):
            for handler in handlers:
                handler.__enter__()
            pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
            for handler in reversed(handlers):
                handler.__exit__(None, None, None)
        site = traced.trace.nodes["z"]
        assert (presence_of(site) is z_pres) == known
        assert site["mask"].tolist() == [True, False]
