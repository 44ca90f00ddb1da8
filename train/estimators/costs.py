"""What each site adds to an ELBO: its log-probability under masks, scales and subsampling.

An estimator asks for these costs instead of reading log-probabilities off traces by itself, so that
what Pyro's handlers say of a site holds in every estimator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import is_identically_zero, scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

Site = Mapping[str, Any]
"""A site of a trace."""
Weight = Tensor | float

PARTICLES = "num_particles_vectorized"
"""The plate in which Pyro's ELBOs make draws side by side."""


class Piece(NamedTuple):
    """A part of a cost, and the weights of :class:`pyro_models.objective.annealed` in it.

    Attributes:
        value: Nats, scaled, of the shape of the site's plates.
        annealed: The weights.
    """

    value: Tensor
    annealed: tuple[Weight, ...]


Kind = Literal["log_likelihood", "kl", "factor", "penalty"]
Mean = Callable[[Tensor], Tensor]
"""From a value at a site to its mean over what an estimator sums out, masked as the site is."""


class Cost(NamedTuple):
    """What a site adds to the objective, which is to be maximised.

    Attributes:
        name: The site's name.
        kind: ``"log_likelihood"`` for the model's observed sites and factors, ``"kl"`` for latents,
            ``"factor"`` for the guide's observed sites and factors, ``"penalty"`` for
            :func:`pyro_models.objective.penalty`.
        pieces: Their sum is the cost.
        stack: The plates around the site.
    """

    name: str
    kind: Kind
    pieces: tuple[Piece, ...]
    stack: tuple[Any, ...]

    @property
    def value(self) -> Tensor:
        """The cost, of the shape of the site's plates."""
        first, *others = self.pieces
        return sum((piece.value for piece in others), start=first.value)


def plates(site: Site) -> frozenset[Any]:
    """The vectorised plates around a site, without the one of the draws."""
    return frozenset(f for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES)


def log_prob(site: Site) -> Tensor:
    """The log-probability of a site's value: not scaled, not masked; computed once."""
    if "unscaled_log_prob" not in site:
        value = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        site["unscaled_log_prob"] = value
    return site["unscaled_log_prob"]


def score(site: Site) -> Tensor | None:
    """The score function's log-probability of a draw, or ``None`` if it is reparameterised.

    Scales and masks are not in it: they weigh costs, and say nothing of how a value was drawn.
    """
    if getattr(site["fn"], "has_rsample", False):
        return None
    parts = site["fn"].score_parts(site["value"], *site["args"], **site["kwargs"])
    return None if is_identically_zero(parts.score_function) else parts.score_function


def entropic(site: Site) -> Tensor:
    """The log-probability of a guide's draw, detached where its gradient is zero in the mean."""
    value = log_prob(site)
    return value if getattr(site["fn"], "has_rsample", False) else value.detach()


def annealed_at(site: Site) -> tuple[Weight, ...]:
    """The annealed weights in a site's scale."""
    return site.get("annealed", ())


def same_scale(one: Site, other: Site) -> bool:
    """Whether two scales are known to be equal without reading a number off the device."""
    a, b = one["scale"], other["scale"]
    if a is b:
        return True
    return isinstance(a, int | float) and isinstance(b, int | float) and a == b


def closed_form(guide_site: Site, model_site: Site) -> tuple[Tensor, Tensor | None] | None:
    """KL divergence and entropy of a guide's distribution, or ``None`` if there is no formula.

    The entropy is only there where scales differ or masks may; a formula that is missing for it
    makes the whole ``None``.
    """
    fns = guide_site["fn"], model_site["fn"]
    if any(isinstance(fn, MaskedDistribution) for fn in fns):
        # Their masks may differ, and a divergence has one.
        return None
    try:
        divergence = kl_divergence(*fns)
        sites = guide_site, model_site
        masked = not all(site["mask"] is None or site["mask"] is True for site in sites)
        entropy = fns[0].entropy() if masked or not same_scale(*sites) else None
    except NotImplementedError:
        return None
    return divergence, entropy


def latent(
    guide_site: Site,
    model_site: Site,
    under_guide: Mean,
    under_model: Mean,
    *,
    analytic: bool,
) -> Cost:
    r"""What a latent adds: :math:`\mathbb{E} [w_p \log p(z) - w_q \log q(z)]`.

    The weights are scale times mask. In closed form it is
    :math:`- w_p \, (\text{KL}(q \| p) + \text{H}(q)) + w_q \, \text{H}(q)`, the first of which is
    the divergence where model and guide have the same masks and scales.

    Args:
        guide_site: The guide's.
        model_site: The model's.
        under_guide: The mean of a value under the guide's mask.
        under_model: The same under the model's.
        analytic: Whether to take the closed form where there is one.
    """
    forms = closed_form(guide_site, model_site) if analytic else None
    if forms is None:
        q, p = under_guide(entropic(guide_site)), under_model(log_prob(model_site))
    else:
        divergence, entropy = forms
        if entropy is None:
            q, p = None, -under_model(divergence)
        else:
            # Means of log q and log p: the entropy and the cross-entropy.
            q, p = -under_guide(entropy), -under_model(divergence + entropy)
    return difference(guide_site, model_site, q, p)


def difference(
    guide_site: Site, model_site: Site | None, q: Tensor | None, p: Tensor | None
) -> Cost:
    """The cost of a latent: the model's part less the guide's, each with its scale.

    Args:
        guide_site: The guide's.
        model_site: The model's, if it has one.
        q: What the guide takes away, masked and not scaled; ``None`` for nothing.
        p: What the model adds; ``None`` for nothing.
    """
    name, stack = guide_site["name"], (model_site or guide_site)["cond_indep_stack"]
    if p is not None and (q is None or same_scale(guide_site, model_site)):
        value = scaled(p if q is None else p - q, model_site["scale"])
        return Cost(name, "kl", (Piece(value, annealed_at(model_site)),), stack)
    pieces = (Piece(-scaled(q, guide_site["scale"]), annealed_at(guide_site)),)
    if p is not None:
        pieces = (Piece(scaled(p, model_site["scale"]), annealed_at(model_site)), *pieces)
    return Cost(name, "kl", pieces, stack)


def observed(site: Site, under_model: Mean) -> Cost:
    """What an observed site of the model adds."""
    value = scaled(under_model(log_prob(site)), site["scale"])
    pieces = (Piece(value, annealed_at(site)),)
    return Cost(site["name"], "log_likelihood", pieces, site["cond_indep_stack"])


def guide_alone(site: Site, under_guide: Mean) -> Cost:
    """What a site of the guide takes away that is no latent of the model."""
    kind: Kind = "kl"
    if site["is_observed"]:
        kind = "penalty" if site.get("penalty") else "factor"
    value = log_prob(site) if site["is_observed"] else entropic(site)
    pieces = (Piece(-scaled(under_guide(value), site["scale"]), annealed_at(site)),)
    return Cost(site["name"], kind, pieces, site["cond_indep_stack"])


def total(costs: Iterable[Cost]) -> Tensor:
    """The sum of costs over everything, of shape ()."""
    return sum(piece.value.sum() for cost in costs for piece in cost.pieces)


def of_sites(
    model: Mapping[str, Site],
    guide: Mapping[str, Site],
    under_model: Callable[[Site, Tensor], Tensor],
    under_guide: Callable[[Site, Tensor], Tensor],
    *,
    left_out: Collection[str] = (),
    closed: Collection[str] = (),
) -> list[Cost]:
    """What each site adds to the ELBO.

    Args:
        model: The model's sites, by name.
        guide: The guide's.
        under_model: From a site of the model and a value to the value's mean, masked as the site.
        under_guide: The same for the guide.
        left_out: Latents whose cost the estimator has in another way.
        closed: Latents whose divergence may be taken in closed form.
    """
    found = []
    for name, site in model.items():
        if site["is_observed"]:
            found.append(observed(site, partial(under_model, site)))
        elif name in guide and name not in left_out:
            means = partial(under_guide, guide[name]), partial(under_model, site)
            found.append(latent(guide[name], site, *means, analytic=name in closed))
    for name, site in guide.items():
        alone = name not in model or model[name]["is_observed"]
        if alone and name not in left_out:
            found.append(guide_alone(site, partial(under_guide, site)))
    return found


def summed(values: Iterable[tuple[Tensor, Iterable[Any]]], kept: Iterable[Any]) -> Tensor | float:
    """The sum of values over all plates but some.

    Args:
        values: Values of the shapes of their plates, with these plates.
        kept: Plates to keep.

    Returns:
        A tensor with a dimension for each place of a plate up to the leftmost that is kept.
    """
    kept = [frame for frame in kept if frame.vectorized]
    width = max((-frame.dim for frame in kept), default=0)
    result: Tensor | float = 0.0
    for value, stack in values:
        dims = [frame.dim for frame in stack if frame.vectorized and frame not in kept]
        # Plates of one member may have no dimension of their own.
        dims = [dim for dim in dims if -dim <= value.ndim]
        value = value.sum(dims, keepdim=True) if dims else value
        while value.ndim > width:
            value = value.squeeze(0)
        result = result + value
    return result


def common(stacks: Iterable[Iterable[Any]]) -> list[Any]:
    """The plates that all of some stacks have, that of the draws among them."""
    first, *others = [[frame for frame in stack if frame.vectorized] for stack in stacks]
    return [frame for frame in first if all(frame in stack for stack in others)]


def score_terms(guide_sites: Iterable[Site], costs: Sequence[Cost]) -> Tensor | float:
    r"""The score function of draws that are not reparameterised; zero in value.

    .. math:: \sum_d \bot \Big( \sum_{c} C_c \Big) \, \log q(d)

    with the costs summed to the plates of each draw. Its gradient is unbiased whatever depends on
    what, as costs that a draw does not change add nothing in the mean.

    Args:
        guide_sites: Draws of the guide.
        costs: All costs, in the mean over what is summed out.
    """
    scores = [(site, value) for site in guide_sites if (value := score(site)) is not None]
    if not scores:
        return 0.0
    values = [(cost.value.detach(), cost.stack) for cost in costs]
    surrogate = sum(
        (value * summed(values, site["cond_indep_stack"])).sum() for site, value in scores
    )
    return surrogate - surrogate.detach()


def drawn(guide: Mapping[str, Site], left_out: Collection[str] = ()) -> list[Site]:
    """The guide's draws, but for some that an estimator treats in another way."""
    return [
        site for name, site in guide.items() if name not in left_out and not site["is_observed"]
    ]


def loss_and_terms(
    runs: Iterable[tuple[Sequence[Cost], Sequence[Site]]], particles: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The negative ELBO in the mean over runs, with its gradient, and its :func:`terms`.

    Args:
        runs: The costs of each run, and the guide's draws that may need a score function.
        particles: The number of draws in all runs.
    """
    loss: Tensor | float = 0.0
    every: list[Cost] = []
    for costs, draws in runs:
        loss = loss - total(costs) - score_terms(draws, costs)
        every += costs
    return loss / particles, terms(every, particles)


def terms(costs: Iterable[Cost], particles: int = 1) -> dict[str, Tensor]:
    """Names the parts of an ELBO at beta 1: detached sums over everything, in nats.

    The steps of a site are added up: ``z_where_0`` and ``z_where_1`` count under ``kl_z_where``.

    Args:
        costs: The costs of all draws.
        particles: The number of draws.

    Returns:
        ``log_likelihood``; ``kl_NAME`` for each latent; what factors and penalties of the guide add
        to the loss, by their names; and ``elbo``, which has all of these but the penalties.
    """
    # Weights are shared by many sites, so sums that share them are divided by them once.
    sums: dict[tuple[str, str], dict[tuple[int, ...], list[Any]]] = {}
    for cost in costs:
        name = re.sub(r"_\d+$", "", cost.name) if cost.kind == "kl" else cost.name
        key = (cost.kind, "" if cost.kind == "log_likelihood" else name)
        for piece in cost.pieces:
            held = sums.setdefault(key, {})
            weights = tuple(map(id, piece.annealed))
            value = piece.value.detach().sum()
            before = held.get(weights)
            held[weights] = [piece.annealed, value if before is None else before[1] + value]
    named: dict[str, Tensor] = {}
    elbo: Tensor | float = 0.0
    for (kind, name), held in sums.items():
        value: Tensor | float = 0.0
        for weights, part in held.values():
            for weight in weights:
                part = part / weight
            value = value + part
        value = value / particles if particles > 1 else value
        if kind != "penalty":
            elbo = elbo + value
        if kind == "log_likelihood":
            named["log_likelihood"] = value
        else:
            named[f"kl_{name}" if kind == "kl" else name] = -value
    elbo = torch.as_tensor(elbo)
    named.setdefault("log_likelihood", torch.zeros_like(elbo))
    return {"log_likelihood": named.pop("log_likelihood"), **named, "elbo": elbo}


def scaled(value: Tensor, scale: Weight) -> Tensor:
    """A value with a scale, which mostly is one."""
    return scale_and_mask(value, scale=scale)
