r"""Runs of guide and model with several particles, whose draws an estimator may set.

All tensors here have one layout, :math:`(K, *\text{plates}, *\text{event})`: first the particles,
then as many dimensions of plates as the pair has at most, right-aligned, then those of the event.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_models.announcements import SampleTracer, leaves_weights
from train.estimators.contract import Contract
from train.estimators.costs import PARTICLES, Cost, Site, sum_to_plates, weighed
from train.estimators.discrete.dependencies import CostKey, costs_of, key_of
from train.estimators.discrete.families import Relaxed, Vectors, family_of, logits_of
from train.estimators.programs import Program, samples

Draw = Callable[[Any, int, int], Tensor]
"""Draws the values of all particles of a site from its distribution, the number of particles and
the number of dimensions of plates."""


@leaves_weights
class SetDraws(Messenger):
    """Draws some sites of a guide otherwise than their distribution does.

    Args:
        particles: The number of particles.
        width: The number of dimensions of plates.
        vectorized: Whether one run has all particles.
        values: Values that are given, by site, in the layout of this module.
        shared: Sites of which all particles have the first one's draw.
        draws: Sites whose particles are drawn together.
        relaxed: Sites whose draws are relaxed, with a function of logits that draws them.
        leaves: Sites with respect to whose draws costs are differentiated.
        subsamples: What subsampled plates have, by plate; drawn once for all particles if not here.

    Attributes:
        particle: The particle of the present run, where each has a run of its own.
    """

    def __init__(
        self,
        particles: int,
        width: int,
        vectorized: bool,
        *,
        values: Mapping[str, Tensor],
        shared: Collection[str],
        draws: Mapping[str, Draw],
        relaxed: Mapping[str, Callable[[Tensor], Tensor] | None],
        leaves: Collection[str],
        subsamples: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        self.particles, self.width, self.vectorized = particles, width, vectorized
        self.values = dict(values)
        self.shared, self.draws, self.relaxed = shared, draws, relaxed
        self.leaves = leaves
        self.subsamples = dict(subsamples)
        self.particle = 0

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if site_is_subsample(msg):
            # Particles are draws for the same data, also where each has a run of its own.
            if name in self.subsamples:
                msg["value"], msg["done"] = self.subsamples[name], True
            return
        if msg["is_observed"]:
            return
        if name in self.relaxed:
            msg["fn"] = fn = Relaxed(fn, self.relaxed[name])
        event = len(fn.event_shape)
        if name not in self.values and name in self.draws:
            self.values[name] = self.draws[name](fn, self.particles, self.width)
        if name in self.values:
            msg["value"] = self._of_this_run(self.values[name], event)
            msg["done"] = True

    def _pyro_post_sample(self, msg: Any) -> None:
        # Whatever has drawn it: the distribution, or a handler inside or outside of this one.
        name = msg["name"]
        if site_is_subsample(msg):
            self.subsamples[name] = msg["value"]
            return
        if msg["is_observed"]:
            return
        if name in self.leaves:
            msg["value"] = msg["value"].detach().requires_grad_()
        elif name in self.shared and name not in self.values:
            event = len(msg["fn"].event_shape)
            self.values[name] = self._first(msg["value"], event)
            msg["value"] = self._of_this_run(self.values[name], event)

    def _first(self, value: Tensor, event: int) -> Tensor:
        plates = value.ndim - event
        value = value.reshape((1,) * (1 + self.width - plates) + value.shape)
        return value[:1]

    def _of_this_run(self, value: Tensor, event: int) -> Tensor:
        if self.vectorized and self.particles > 1:
            # A program may stack it with values of all particles.
            return value.expand(self.particles, *value.shape[1:])
        value = value[self.particle if value.shape[0] > 1 else 0]
        # Plates that a site is not in have size 1 here, and no dimension in the site.
        while value.ndim > event and value.shape[0] == 1:
            value = value[0]
        return value


class Run:
    """Guide and model, run with one particle or more.

    Args:
        pairs: The sites of guide and model: of all particles, or of one particle after another.
        particles: The number of particles.
        width: The number of dimensions of plates.
        vectorized: Whether one run has all particles.
        analytic: Latents whose KL divergence is taken in closed form.
        subsamples: What subsampled plates have, by plate.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Mapping[str, Site], Mapping[str, Site]]],
        particles: int,
        width: int,
        vectorized: bool,
        analytic: Collection[str],
        subsamples: Mapping[str, Tensor],
    ) -> None:
        self.subsamples = subsamples
        self.guides = [guide for guide, _ in pairs]
        self.particles, self.width = particles, width
        self.together = vectorized and particles > 1
        self.costs: list[list[Cost]] = [costs_of(*pair, analytic) for pair in pairs]

    def arranged(self, tensors: Iterable[Tensor], event: int = 0) -> Tensor:
        """Arranges the tensors of all pairs in the layout of this module."""
        plates = self.width + int(self.together)
        padded = [t.reshape((1,) * (plates + event - t.ndim) + t.shape) for t in tensors]
        result = padded[0] if self.together else torch.stack(padded)
        return result.expand(self.particles, *result.shape[1:])

    def site(self, name: str, of: Callable[[Site], Tensor], event: int = 0) -> Tensor:
        """Arranges a tensor of each site with a name in the guide."""
        return self.arranged((of(guide[name]) for guide in self.guides), event)

    def values(self, name: str) -> Tensor:
        """Returns the values of a site of the guide, as it drew them."""
        event = len(self.guides[0][name]["fn"].event_shape)
        return self.site(name, lambda site: site["value"], event)

    def vectors(self, name: str) -> Vectors | None:
        """Returns the values of a site of the guide as vectors; ``None`` if it is of no family."""
        fn = self.guides[0][name]["fn"]
        family = family_of(fn)
        if family is None:
            return None
        events = logits_of(fn).ndim - len(fn.batch_shape)
        logits = self.site(name, lambda site: logits_of(site["fn"]), events)

        def vector(site: Site) -> Tensor:
            return family.vector(site["value"].detach(), logits_of(site["fn"]).detach())

        return Vectors(family, logits, self.site(name, vector, events).expand(logits.shape))

    def summed(
        self,
        keys: Collection[CostKey],
        name: str,
        *,
        joint: Collection[int] = (),
        detach: bool = False,
    ) -> Tensor:
        """Sums some costs to the plates of a site, of shape (K, plates).

        Args:
            keys: The costs.
            name: The site.
            joint: Dimensions of plates that are summed over as well, and then have size 1. A cost
                outside of a plate is otherwise there for each of its members.
            detach: Whether the sum has no gradient.
        """

        def of_pair(costs: list[Cost]) -> Tensor:
            values = [(c.value, c.stack) for c in costs if key_of(c) in keys]
            if detach:
                values = [(value.detach(), stack) for value, stack in values]
            stack = [f for f in self.guides[0][name]["cond_indep_stack"] if f.dim not in joint]
            return torch.as_tensor(sum_to_plates(values, stack))

        return self.arranged(map(of_pair, self.costs))

    def value(self, key: CostKey) -> Tensor:
        """Returns a cost of all particles, of shape (K, plates)."""
        return self.arranged(c.value for costs in self.costs for c in costs if key_of(c) == key)

    def weighted(self, weights: Mapping[CostKey, Tensor], others: float) -> list[Cost]:
        """Returns all costs times weights.

        Args:
            weights: By cost, the weight of each particle, of shape (K, plates).
            others: The weight of each particle of all other costs.
        """
        result = []
        for particle, costs in enumerate(self.costs):
            for cost in costs:
                weight: Tensor | float = others
                if key_of(cost) in weights:
                    weight = weights[key_of(cost)]
                    weight = weight if self.together else weight[particle]
                    while weight.ndim > cost.value.ndim and weight.shape[0] == 1:
                        weight = weight[0]
                summands = tuple(s._replace(value=weighed(weight, s.value)) for s in cost.summands)
                result.append(cost._replace(summands=summands))
        return result


class Runner:
    """Runs a pair.

    Args:
        model: The model.
        guide: Its guide.
        args: Positional arguments of both.
        kwargs: Keyword arguments of both.
        contract: What was found by examining the pair.
        vectorized: Whether particles are run in parallel.
        analytic: Latents whose KL divergence is taken in closed form.
        relaxed: Sites whose draws are relaxed in each run.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        contract: Contract,
        *,
        vectorized: bool,
        analytic: Collection[str],
        relaxed: Mapping[str, Callable[[Tensor], Tensor]],
    ) -> None:
        self.programs = guide, model
        self.args, self.kwargs = args, kwargs
        self.contract = contract
        self.vectorized, self.analytic, self.relaxed = vectorized, analytic, relaxed

    def __call__(
        self,
        particles: int,
        *,
        values: Mapping[str, Tensor] | None = None,
        shared: Collection[str] = (),
        draws: Mapping[str, Draw] | None = None,
        soft: Collection[str] = (),
        leaves: Collection[str] = (),
        subsamples: Mapping[str, Tensor] | None = None,
    ) -> Run:
        """Runs guide and model.

        Args:
            particles: The number of particles.
            values: Values that sites of the guide are given.
            shared: Sites of which all particles have one draw.
            draws: Sites whose particles are drawn together.
            soft: Sites whose given values are relaxed.
            leaves: Sites with respect to whose draws costs are differentiated.
            subsamples: What subsampled plates have, by plate; drawn if not here.
        """
        relaxed = {**self.relaxed, **dict.fromkeys(soft)}
        setter = SetDraws(
            particles,
            self.contract.nesting,
            self.vectorized,
            values=values or {},
            shared=shared,
            draws=draws or {},
            relaxed=relaxed,
            leaves=leaves,
            subsamples=subsamples or {},
        )
        guide, model = self.programs
        together = self.vectorized and particles > 1
        if together:
            plate = pyro.plate(PARTICLES, particles, dim=-(self.contract.nesting + 1))
            guide, model = plate(guide), plate(model)
        pairs = []
        for particle in range(1 if together else particles):
            setter.particle = particle
            with setter:
                guide_trace = SampleTracer()(guide).get_trace(*self.args, **self.kwargs)
            replayed = poutine.replay(model, trace=guide_trace)
            with RelaxObserved(relaxed):
                model_trace = SampleTracer()(replayed).get_trace(*self.args, **self.kwargs)
            sites = samples(guide_trace), samples(model_trace)
            self.contract.require_sites(*sites)
            pairs.append(sites)
        return Run(
            *(pairs, particles, self.contract.nesting, self.vectorized, self.analytic),
            setter.subsamples,
        )


@leaves_weights
class RelaxObserved(Messenger):
    """Lets a model's sites have relaxed values."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names:
            msg["fn"] = Relaxed(msg["fn"])
