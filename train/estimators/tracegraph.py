"""The score function with baselines: presences are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer import TraceGraph_ELBO
from pyro.infer.util import torch_item
from pyro.ops.provenance import detach_provenance, get_provenance
from pyro.poutine import Trace
from torch import Tensor

from train.estimators.base import Program, at_the_draw


class TraceGraphELBO(TraceGraph_ELBO):
    r"""Pyro's :class:`~pyro.infer.TraceGraph_ELBO`, also as a module and with stateful baselines.

    Presences are drawn; their gradient is the score function's, with the cost that follows each
    presence less a baseline :math:`b_i`:

    .. math:: \nabla_\phi \, \mathbb{E}_q[-\text{ELBO}] = \mathbb{E}_q \Big[ \nabla_\phi C
        + \sum_i (C_i - b_i) \, \nabla_\phi \log q(z^\text{pres}_i) \Big]

    A guide gives a baseline as ``infer={"baseline": {"baseline_value": b}}`` at a presence. Beside
    it, ``"observe_cost"`` may hold a function that is handed the costs :math:`-C_i`, of the
    presence's shape, after each estimate with gradients: a baseline that keeps a state learns from
    them.

    Attributes:
        terms: What the last estimate was made of, by name: detached sums over the batch in nats.

    References:
        | Gradient Estimation Using Stochastic Computation Graphs (Schulman et al., 2015)
        | https://arxiv.org/abs/1506.05254
    """

    terms: Mapping[str, Tensor] = {}

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The negative ELBO, with the gradients of :meth:`loss_and_grads`."""
        elbo, surrogate = self._loss_and_surrogate_loss(model, guide, args, kwargs)
        return surrogate + (-elbo - surrogate).detach()

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """The negative ELBO as a number, without gradients."""
        with torch.no_grad():
            return -torch_item(self._loss_and_surrogate_loss(model, guide, args, kwargs)[0])

    def _loss_and_surrogate_loss(
        self,
        model: Program,
        guide: Program,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        self.terms = {}
        return super()._loss_and_surrogate_loss(model, guide, args, kwargs)

    def _loss_and_surrogate_loss_particle(
        self, model_trace: Trace, guide_trace: Trace
    ) -> tuple[Tensor, Tensor]:
        estimate = super()._loss_and_surrogate_loss_particle(model_trace, guide_trace)
        terms = at_the_draw(model_trace, guide_trace)
        self.terms = {
            name: self.terms.get(name, 0.0) + detach_provenance(value) / self.num_particles
            for name, value in terms.items()
        }
        if torch.is_grad_enabled():
            observe_costs(model_trace, guide_trace)
        return estimate


def observe_costs(model_trace: Trace, guide_trace: Trace) -> None:
    """Hands each presence's downstream cost to the baseline that wants it."""
    for name, guide_site in guide_trace.nodes.items():
        observe = guide_site["type"] == "sample" and guide_site["infer"].get("observe_cost")
        if observe:
            costs = [
                sign * site["log_prob"]
                for sign, trace in ((1, model_trace), (-1, guide_trace))
                for site in trace.nodes.values()
                if site["type"] == "sample" and name in get_provenance(site["log_prob"])
            ]
            observe(detach_provenance(sum(costs).detach()))
