"""The cost of each site: what it adds to an ELBO under masks, scales and subsampling.

Estimators use these costs instead of reading log-probabilities off traces, so that every estimator
respects everything that Pyro's handlers do to a site.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.torch_distribution import ExpandedDistribution
from pyro.distributions.util import is_identically_one, is_identically_zero, scale_and_mask
from torch import Tensor
from torch.distributions import Independent, kl_divergence

Site = dict[str, Any]
"""A site of a trace."""
Weight = Tensor | float

PARTICLES = "num_particles_vectorized"
"""The name of the plate of vectorised draws in Pyro's ELBOs."""


class Summand(NamedTuple):
    """A summand of a cost, with its weights of :class:`pyro_models.objective.annealed`.

    Attributes:
        value: Nats, scaled, of the shape of the site's plates.
        annealed: The annealed weights that are factors of ``value``.
    """

    value: Tensor
    annealed: tuple[Weight, ...]


Kind = Literal["log_likelihood", "kl", "factor", "penalty"]
Expectation = Callable[[Tensor], Tensor]
"""Maps a value at a site to its expectation over what an estimator sums out, under the site's
mask."""
SiteExpectation = Callable[[Site, Tensor], Tensor]
"""An :data:`Expectation` that is given the site."""


class Cost(NamedTuple):
    """What a site adds to the objective, which is maximised.

    Attributes:
        name: The site's name.
        kind: ``"log_likelihood"`` for the model's observed sites and factors, ``"kl"`` for latents,
            ``"factor"`` for the guide's observed sites and factors, ``"penalty"`` for
            :func:`pyro_models.objective.penalty`.
        summands: Their sum is the cost.
        stack: The plates around the site.
    """

    name: str
    kind: Kind
    summands: tuple[Summand, ...]
    stack: tuple[Any, ...]

    @property
    def value(self) -> Tensor:
        """The cost, of the shape of the site's plates."""
        first, *others = self.summands
        return sum((summand.value for summand in others), start=first.value)


def plates(site: Site) -> frozenset[Any]:
    """Returns the vectorised plates around a site, without the plate of the draws."""
    return frozenset(f for f in site["cond_indep_stack"] if f.vectorized and f.name != PARTICLES)


def log_prob(site: Site) -> Tensor:
    """Returns and caches the log-probability of a site's value, neither scaled nor masked."""
    if "unscaled_log_prob" not in site:
        value = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        site["unscaled_log_prob"] = value
    return site["unscaled_log_prob"]


def is_masked(fn: Any) -> bool:
    """Whether a distribution has a mask of its own."""
    while isinstance(fn, Independent | ExpandedDistribution):
        fn = fn.base_dist
    return isinstance(fn, MaskedDistribution)


def unmasked(fn: Any) -> Any:
    """Returns a distribution without masks: it draws where its mask is false, too."""
    if isinstance(fn, MaskedDistribution):
        return unmasked(fn.base_dist)
    if isinstance(fn, Independent):
        return unmasked(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, ExpandedDistribution):
        return unmasked(fn.base_dist).expand(fn.batch_shape)
    return fn


def score_function(site: Site) -> Tensor | None:
    """Returns the log-probability in the score function of a draw.

    Scales and masks are not in it, also not a mask of the distribution's own: they weight costs,
    and do not change how a value is drawn.

    Returns:
        ``None`` if the draw is reparameterised.
    """
    if getattr(site["fn"], "has_rsample", False):
        return None
    parts = unmasked(site["fn"]).score_parts(site["value"], *site["args"], **site["kwargs"])
    return None if is_identically_zero(parts.score_function) else parts.score_function


def guide_log_prob(site: Site, *, live: bool = False) -> Tensor:
    r"""Returns the log-probability of a guide's draw.

    Args:
        site: The draw.
        live: Whether the log-probability of a draw that is not reparameterised has its gradient.
            In a mean of costs the expectation of that gradient is zero, and it is left out. In a
            weight :math:`\log w` of an importance-weighted bound it is not.
    """
    value = log_prob(site)
    return value if live or getattr(site["fn"], "has_rsample", False) else value.detach()


def annealed_weights(site: Site) -> tuple[Weight, ...]:
    """Returns the annealed weights in a site's scale."""
    return site.get("annealed", ())


def masked(value: Tensor, mask: Tensor | bool | None) -> Tensor:
    """Returns a value with zeros where its mask is false; the value itself without a mask."""
    if mask is None or mask is True or is_identically_zero(value):
        return value
    return torch.zeros_like(value) if mask is False else torch.where(mask, value, 0.0)


def equal_scales(one: Site, other: Site) -> bool:
    """Whether two scales are known to be equal, without reading a number off the device."""
    a, b = one["scale"], other["scale"]
    if a is b:
        return True
    return isinstance(a, int | float) and isinstance(b, int | float) and a == b


def closed_form(
    guide_site: Site, model_site: Site, *, same_mask: bool = False
) -> tuple[Tensor, Tensor | None] | None:
    """Returns KL divergence and entropy of a guide's distribution in closed form.

    Args:
        guide_site: The guide's site.
        model_site: The model's site.
        same_mask: Whether the two are known to have the same mask.

    Returns:
        The divergence; and the entropy, which is ``None`` if scales are equal, and masks too.
        ``None`` instead of both if PyTorch lacks a formula that is needed.
    """
    fns = guide_site["fn"], model_site["fn"]
    if any(isinstance(fn, MaskedDistribution) for fn in fns):
        # The two masks may differ, and a divergence has a single one.
        return None
    try:
        divergence = kl_divergence(*fns)
        sites = guide_site, model_site
        same_mask |= all(site["mask"] is None or site["mask"] is True for site in sites)
        entropy = None if same_mask and equal_scales(*sites) else fns[0].entropy()
    except NotImplementedError:
        return None
    return divergence, entropy


def latent_cost(
    guide_site: Site,
    model_site: Site,
    guide_expectation: Expectation,
    model_expectation: Expectation,
    *,
    analytic: bool,
    same_mask: bool = False,
    live: bool = False,
) -> Cost:
    r"""Returns the cost of a latent, :math:`\mathbb{E} [w_p \log p(z) - w_q \log q(z)]`.

    The weights are scale times mask. In closed form the cost is
    :math:`- w_p \, (\text{KL}(q \| p) + \text{H}(q)) + w_q \, \text{H}(q)`, which is
    :math:`- w \, \text{KL}(q \| p)` if model and guide have equal masks and scales.

    Args:
        guide_site: The guide's site.
        model_site: The model's site.
        guide_expectation: The expectation of a value under the guide's mask.
        model_expectation: The expectation of a value under the model's mask.
        analytic: Whether to use the closed form if there is one.
        same_mask: Whether the two sites are known to have the same mask.
        live: See :func:`guide_log_prob`.
    """
    forms = closed_form(guide_site, model_site, same_mask=same_mask) if analytic else None
    if forms is None:
        log_q = guide_expectation(guide_log_prob(guide_site, live=live))
        log_p = model_expectation(log_prob(model_site))
    else:
        divergence, entropy = forms
        if entropy is None:
            log_q, log_p = None, -model_expectation(divergence)
        else:
            # The cross-entropy is divergence + entropy.
            log_q, log_p = -guide_expectation(entropy), -model_expectation(divergence + entropy)
    return kl_cost(guide_site, model_site, log_q, log_p)


def kl_cost(
    guide_site: Site, model_site: Site | None, log_q: Tensor | None, log_p: Tensor | None
) -> Cost:
    r"""Returns the cost :math:`s_p \log p - s_q \log q` of a latent, with the sites' scales.

    Args:
        guide_site: The guide's site.
        model_site: The model's site, if it has one.
        log_q: The guide's log-probability, masked and not scaled; ``None`` for zero.
        log_p: The model's log-probability, masked and not scaled; ``None`` for zero.
    """
    name, stack = guide_site["name"], (model_site or guide_site)["cond_indep_stack"]

    def summand(value: Tensor, site: Site) -> Summand:
        return Summand(scaled(value, site["scale"]), annealed_weights(site))

    if log_p is None or model_site is None:
        log_ps: tuple[Summand, ...] = ()
    elif log_q is None or equal_scales(guide_site, model_site):
        value = log_p if log_q is None else log_p - log_q
        return Cost(name, "kl", (summand(value, model_site),), stack)
    else:
        log_ps = (summand(log_p, model_site),)
    assert log_q is not None
    return Cost(name, "kl", (*log_ps, summand(-log_q, guide_site)), stack)


def observed_cost(site: Site, model_expectation: Expectation) -> Cost:
    """Returns the cost of an observed site of the model."""
    value = scaled(model_expectation(log_prob(site)), site["scale"])
    summands = (Summand(value, annealed_weights(site)),)
    return Cost(site["name"], "log_likelihood", summands, site["cond_indep_stack"])


def guide_only_cost(site: Site, guide_expectation: Expectation, *, live: bool = False) -> Cost:
    """Returns the cost of a site of the guide that is no latent of the model."""
    kind: Kind = "kl"
    if site["is_observed"]:
        kind = "penalty" if site.get("penalty") else "factor"
    value = log_prob(site) if site["is_observed"] else guide_log_prob(site, live=live)
    value = -scaled(guide_expectation(value), site["scale"])
    summands = (Summand(value, annealed_weights(site)),)
    return Cost(site["name"], kind, summands, site["cond_indep_stack"])


def site_costs(
    model: Mapping[str, Site],
    guide: Mapping[str, Site],
    model_expectation: SiteExpectation,
    guide_expectation: SiteExpectation,
    *,
    exclude: Collection[str] = (),
    analytic: Collection[str] = (),
    same_mask: Collection[str] = (),
    live: bool = False,
) -> list[Cost]:
    """Returns the cost of each site.

    Args:
        model: The model's sites, by name.
        guide: The guide's sites, by name.
        model_expectation: Maps a site of the model and a value to the value's expectation under the
            site's mask.
        guide_expectation: Maps a site of the guide and a value to the value's expectation under the
            site's mask.
        exclude: Latents whose cost the estimator computes itself.
        analytic: Latents whose KL divergence may be taken in closed form.
        same_mask: Latents that are known to have the same mask in model and guide.
        live: See :func:`guide_log_prob`.
    """
    costs = []
    for name, site in model.items():
        if site["is_observed"]:
            costs.append(observed_cost(site, partial(model_expectation, site)))
        elif name in guide and name not in exclude:
            guide_site = guide[name]
            expectations = partial(guide_expectation, guide_site), partial(model_expectation, site)
            closed, same = name in analytic, name in same_mask
            costs.append(
                latent_cost(
                    *(guide_site, site, *expectations), analytic=closed, same_mask=same, live=live
                )
            )
    for name, site in guide.items():
        guide_only = name not in model or model[name]["is_observed"]
        if guide_only and name not in exclude:
            costs.append(guide_only_cost(site, partial(guide_expectation, site), live=live))
    return costs


def latent_sites(guide: Mapping[str, Site], exclude: Collection[str] = ()) -> list[Site]:
    """Returns the guide's latent sites, except those in ``exclude``."""
    return [site for name, site in guide.items() if name not in exclude and not site["is_observed"]]


def common_plates(stacks: Iterable[Iterable[Any]]) -> list[Any]:
    """Returns the vectorised plates that are in all stacks, the plate of the draws included."""
    first, *others = [[frame for frame in stack if frame.vectorized] for stack in stacks]
    return [frame for frame in first if all(frame in stack for stack in others)]


def sum_to_plates(
    values: Iterable[tuple[Tensor, Iterable[Any]]], frames: Iterable[Any]
) -> Tensor | float:
    """Sums values over all plates except some.

    Args:
        values: Pairs of a value, of the shape of its plates, and these plates.
        frames: The plates that remain.

    Returns:
        The sum, with dimensions up to the leftmost of the plates that remain.
    """
    frames = [frame for frame in frames if frame.vectorized]
    width = max((-frame.dim for frame in frames), default=0)
    result: Tensor | float = 0.0
    for value, stack in values:
        dims = [frame.dim for frame in stack if frame.vectorized and frame not in frames]
        # A plate of size 1 may have no dimension in the value.
        dims = [dim for dim in dims if -dim <= value.ndim]
        value = value.sum(dims, keepdim=True) if dims else value
        while value.ndim > width:
            value = value.squeeze(0)
        result = result + value
    return result


def total(costs: Iterable[Cost]) -> Tensor:
    """Returns the sum of all costs over all plates, of shape ()."""
    return added(summand.value.sum() for cost in costs for summand in cost.summands)


def weighed(weight: Tensor | float, cost: Tensor) -> Tensor:
    """Returns a weight times a cost, and 0 where a tensor of weights is 0.

    The cost of an impossible value is infinite, or is no number.
    """
    if isinstance(weight, Tensor):
        cost = torch.where(weight > 0, cost, 0.0)
    return weight * cost


def added(values: Iterable[Tensor]) -> Tensor:
    """Returns the sum of tensors; a zero of shape () if there are none."""
    first, *others = list(values) or [torch.zeros(())]
    return sum(others, start=first)


def score_surrogate(guide_sites: Iterable[Site], costs: Sequence[Cost]) -> Tensor | float:
    r"""Returns a term of value zero whose gradient is that of the score function.

    .. math:: \sum_d \bot \Big( \sum_{c} C_c \Big) \, \log q(d)

    with :math:`d` over the draws that are not reparameterised, and the costs summed to the plates
    of each draw (:math:`\bot` detaches). The gradient is unbiased for any dependence of costs on
    draws: the expectation is zero for the costs that a draw does not change.

    Args:
        guide_sites: Draws of the guide.
        costs: All costs, in expectation over what is summed out.
    """
    scores = [(site, value) for site in guide_sites if (value := score_function(site)) is not None]
    if not scores:
        return 0.0
    values = [(cost.value.detach(), cost.stack) for cost in costs]
    surrogate = added(
        (value * sum_to_plates(values, site["cond_indep_stack"])).sum() for site, value in scores
    )
    return surrogate - surrogate.detach()


def mean_loss_and_terms(
    runs: Iterable[tuple[Sequence[Cost], Sequence[Site]]], particles: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Returns the negative ELBO averaged over draws, with its gradient, and its terms.

    Args:
        runs: For each run its costs, and the guide's draws that may need a score function.
        particles: The number of draws in all runs.

    Returns:
        The loss, of shape (); and :func:`elbo_terms`.
    """
    surrogates: list[Tensor | float] = []
    all_costs: list[Cost] = []
    for costs, draws in runs:
        surrogates.append(score_surrogate(draws, costs))
        all_costs += costs
    sums = term_sums(all_costs)
    gain = added(summand.value for summands in sums.values() for summand in summands)
    return -_mean(gain + sum(surrogates), particles), _terms(sums, particles)


def elbo_terms(costs: Iterable[Cost], particles: int = 1) -> dict[str, Tensor]:
    """Returns the terms of an ELBO at beta 1: detached sums over all plates, in nats.

    Sites of several steps are added: ``z_where_0`` and ``z_where_1`` are both in ``kl_z_where``.

    Args:
        costs: The costs of all draws.
        particles: The number of draws.

    Returns:
        ``log_likelihood``; ``kl_NAME`` for each latent; what each factor and penalty of the guide
        adds to the loss, by its name; and ``elbo``, the sum of all of these but the penalties.
    """
    return _terms(term_sums(costs), particles)


def _terms(sums: TermSums, particles: int) -> dict[str, Tensor]:
    """Returns the terms of an ELBO: see :func:`elbo_terms`."""
    likelihood: Tensor | None = None
    others: dict[str, Tensor] = {}
    summed: list[Tensor] = []
    for (kind, name), summands in sums.items():
        value = _mean(added(map(unannealed, summands)), particles)
        if kind != "penalty":
            summed.append(value)
        if kind == "log_likelihood":
            likelihood = value
        else:
            others[f"kl_{name}" if kind == "kl" else name] = -value
    elbo = added(summed)
    likelihood = torch.zeros_like(elbo) if likelihood is None else likelihood
    return {"log_likelihood": likelihood, **others, "elbo": elbo}


def _mean(value: Tensor, particles: int) -> Tensor:
    """Returns a sum over draws divided by their number."""
    return value / particles if particles > 1 else value


TermSums = dict[tuple[Kind, str], list[Summand]]
"""The sums of costs over all plates, by kind and name: a summand for each set of annealed
weights."""


def term_sums(costs: Iterable[Cost]) -> TermSums:
    """Sums costs by kind and name over all plates, with their gradients."""
    # Many sites have one weight and one shape. They are added first, as each operation counts in a
    # step of small networks.
    groups: dict[tuple[Kind, str], dict[tuple[int, ...], dict[torch.Size, Summand]]] = {}
    for cost in costs:
        group = groups.setdefault((cost.kind, term_name(cost)), {})
        for summand in cost.summands:
            shapes = group.setdefault(tuple(map(id, summand.annealed)), {})
            before = shapes.get(summand.value.shape)
            value = summand.value if before is None else before.value + summand.value
            shapes[value.shape] = Summand(value, summand.annealed)
    return {
        key: [
            Summand(
                added(part.value.sum() for part in shapes.values()),
                next(iter(shapes.values())).annealed,
            )
            for shapes in group.values()
        ]
        for key, group in groups.items()
    }


def term_name(cost: Cost) -> str:
    """Returns the name under which a cost is reported: that of a latent has no step number."""
    if cost.kind == "log_likelihood":
        return ""
    return re.sub(r"_\d+$", "", cost.name) if cost.kind == "kl" else cost.name


def unannealed(summand: Summand) -> Tensor:
    """Returns a summand's value divided by its annealed weights, detached."""
    value = summand.value.detach()
    for weight in summand.annealed:
        value = value if is_identically_one(weight) else value / weight
    return value


def scaled(value: Tensor, scale: Weight) -> Tensor:
    """Returns a value times a scale; the value itself if the scale is the number 1."""
    return scale_and_mask(value, scale=scale)
