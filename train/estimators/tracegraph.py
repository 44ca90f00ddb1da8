"""The score-function estimator with baselines: presences are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.infer import TraceGraph_ELBO
from pyro.infer.util import torch_item
from pyro.ops.provenance import detach_provenance, get_provenance
from pyro.poutine import Trace
from torch import Tensor

from train.estimators.contract import require_match
from train.estimators.costs import Site, sum_to_plates
from train.estimators.programs import Program, samples
from train.estimators.pyro_elbo import PyroELBO


class TraceGraphELBO(PyroELBO, TraceGraph_ELBO):
    r"""Pyro's :class:`~pyro.infer.TraceGraph_ELBO`, also as a module and with stateful baselines.

    Presences are drawn. Their gradient is that of the score function, with the Rao-Blackwellized
    cost :math:`C_i` downstream of each presence, less a baseline :math:`b_i`:

    .. math:: \nabla_\phi \, \mathbb{E}_q[-\text{ELBO}] = \mathbb{E}_q \Big[ \nabla_\phi C
        + \sum_i (C_i - b_i) \, \nabla_\phi \log q(z^\text{pres}_i) \Big]

    A guide gives a baseline at a presence as ``infer={"baseline": {"baseline_value": b}}``. A value
    without a dimension of vectorised draws is expanded to all draws. ``"observe_cost"`` beside it
    may be a function, which is called with the costs :math:`-C_i`, of the presence's shape, after
    each estimate with gradients: a baseline with a state is updated by them.

    Attributes:
        terms: The terms of the last estimate by name: detached sums over the batch, in nats.

    Raises:
        ValueError: If the guide lacks a latent of the model, or has a factor without
            ``has_rsample=True``; the message names the site.

    References:
        | Gradient Estimation Using Stochastic Computation Graphs (Schulman et al., 2015)
        | https://arxiv.org/abs/1506.05254
    """

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """Estimates the negative ELBO, with the gradients of :meth:`loss_and_grads`."""
        elbo, surrogate = self._loss_and_surrogate_loss(model, guide, args, kwargs)
        return surrogate + (-elbo - surrogate).detach()

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Estimates the negative ELBO as a number, without gradients."""
        with torch.no_grad():
            return -torch_item(self._loss_and_surrogate_loss(model, guide, args, kwargs)[0])

    def _get_trace(self, *args: Any) -> tuple[Trace, Trace]:
        model_trace, guide_trace = super()._get_trace(*args)
        require_match(model_trace, guide_trace)
        for site in samples(guide_trace).values():
            expand_baseline(site)
        return model_trace, guide_trace

    def _loss_and_surrogate_loss_particle(
        self, model_trace: Trace, guide_trace: Trace
    ) -> tuple[Tensor, Tensor]:
        estimate = super()._loss_and_surrogate_loss_particle(model_trace, guide_trace)
        if torch.is_grad_enabled():
            observe_costs(model_trace, guide_trace)
        return estimate


def expand_baseline(site: Site) -> None:
    """Expands a site's baseline to the site's shape: Pyro requires one for each draw."""
    options = site["infer"].get("baseline", {})
    shape = torch.Size(site["log_prob"].shape)
    # Pyro's downstream costs have no leading dimensions of size 1.
    while shape and shape[0] == 1:
        shape = shape[1:]

    def expanded(value: Tensor) -> Tensor:
        if value.shape == shape or value.numel() > shape.numel():
            return value
        while value.ndim > len(shape) and value.shape[0] == 1:
            value = value.squeeze(0)
        return value.expand(shape)

    changed: dict[str, Any] = {}
    if options.get("baseline_value") is not None:
        changed["baseline_value"] = expanded(options["baseline_value"])
    if options.get("nn_baseline") is not None:
        network: Callable[..., Tensor] = options["nn_baseline"]
        changed["nn_baseline"] = lambda value: expanded(network(value))
    if changed:
        # Not in place: the guide may use its dictionary of options again.
        site["infer"] = {**site["infer"], "baseline": {**options, **changed}}


def observe_costs(model_trace: Trace, guide_trace: Trace) -> None:
    """Calls each presence's ``observe_cost`` with the presence's downstream cost."""
    for name, guide_site in samples(guide_trace).items():
        observe = guide_site["infer"].get("observe_cost")
        if observe:
            costs = [
                (sign * site["log_prob"], site["cond_indep_stack"])
                for sign, trace in ((1, model_trace), (-1, guide_trace))
                for site in samples(trace).values()
                if name in get_provenance(site["log_prob"])
            ]
            cost = torch.as_tensor(sum_to_plates(costs, guide_site["cond_indep_stack"]))
            observe(detach_provenance(cost.detach()))
