"""The distribution of places: samples, densities, moments and divergences."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from torch.distributions import kl_divergence

from guides.places import PlaceNormal

DRAWS = 200_000


@pytest.fixture
def place():
    torch.manual_seed(0)
    loc, scale = torch.tensor([1.2, 0.3]), torch.tensor([0.05, 0.4])
    centre = torch.tensor([[0.8, -0.5], [-0.2, 0.9]])
    spread = torch.tensor([[0.1, 0.2], [0.3, 0.05]])
    return PlaceNormal(*(tensor.double() for tensor in (loc, scale, centre, spread)))


def z_scores(draws, wanted):
    """The distance of a mean of draws from what is wanted, in standard errors."""
    return (draws.mean(0) - wanted).abs() / (draws.std(0) / math.sqrt(len(draws)))


def test_the_density_is_that_of_the_two_steps(place):
    """The mutation: the density of independent Normals, or a Jacobian other than 1."""
    value = place.sample((5,))
    log_scale, shift = value[..., 0], value[..., 1:]
    around = -log_scale.exp().unsqueeze(-1) * place.centre
    wanted = dist.Normal(place.loc, place.scale).log_prob(log_scale)
    wanted = wanted + dist.Normal(around, place.spread).to_event(1).log_prob(shift)
    torch.testing.assert_close(place.log_prob(value), wanted)


def test_the_centre_does_not_depend_on_the_scale(place):
    """The mutation: x and y are drawn independently of s, whose noise then moves the centre."""
    draws = place.sample((DRAWS,))
    scale = draws[..., :1].exp()
    centres = -draws[..., 1:] / scale
    assert (z_scores(centres, place.centre) < 4).all()
    apart = (centres - place.centre) * scale / place.spread
    log_scale = (draws[..., :1] - place.loc[:, None]) / place.scale[:, None]
    assert (z_scores(apart * log_scale, torch.zeros(2, 2).double()) < 4).all()


def test_moments_are_those_of_draws(place):
    """The mutation: the median of s for its mean, or the spread alone for the variance."""
    draws = place.sample((DRAWS,))
    assert (z_scores(draws, place.mean) < 4).all()
    assert (z_scores((draws - place.mean).square(), place.variance) < 4).all()


def test_the_divergence_from_a_normal_is_that_of_draws(place):
    """The mutation: the divergence of independent Normals with the same means."""
    prior = dist.Normal(torch.tensor([1.0, 0.1, -0.2]).double(), 0.7).to_event(1)
    draws = place.sample((DRAWS,))
    ratio = place.log_prob(draws) - prior.log_prob(draws)
    divergence = kl_divergence(place, prior)
    assert (z_scores(ratio, divergence) < 4).all()
    assert (z_scores(-place.log_prob(draws), place.entropy()) < 4).all()
    independent = dist.Normal(place.mean, torch.cat([place.scale[:, None], place.spread], -1))
    wrong = kl_divergence(independent.to_event(1), prior)
    assert z_scores(ratio, wrong).max() > 8


def test_of_other_priors_the_divergence_is_unknown(place):
    for prior in (dist.Laplace(torch.zeros(3), 1).to_event(1), dist.Normal(0, 1).expand([3])):
        with pytest.raises(NotImplementedError):
            kl_divergence(place, prior)


def test_gradients_reach_every_parameter(place):
    parameters = [getattr(place, name).clone().requires_grad_() for name in place.arg_constraints]
    PlaceNormal(*parameters).rsample().square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in parameters)


def test_expanding_changes_the_batch_alone(place):
    wide = place.expand((4, 2))
    assert wide.batch_shape == (4, 2)
    value = place.sample()
    assert torch.equal(wide.log_prob(value), place.log_prob(value).expand(4, 2))


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="scale"):
        PlaceNormal(
            torch.tensor(0.0),
            torch.tensor(-1.0),
            torch.zeros(2),
            torch.ones(2),
            validate_args=True,
        )
