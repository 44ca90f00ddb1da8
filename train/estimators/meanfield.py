"""Pyro's mean-field ELBO without a wait for the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from pyro.infer import TraceMeanField_ELBO
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import kl_divergence

from train.estimators.base import Program, summarise, unscaled


class MeanFieldELBO(TraceMeanField_ELBO):
    r"""Pyro's :class:`~pyro.infer.TraceMeanField_ELBO`, which reads each loss from the device.

    Divergences are in closed form where there is one. A :func:`pyro.factor` of the guide's is added
    to the loss, with its ``poutine.scale``.

    Attributes:
        terms: What the last estimate was made of, by name: detached sums over the batch in nats,
            unscaled; factors of the guide by their names. They are not in the ``elbo``.

    References:
        | https://docs.pyro.ai/en/stable/inference_algos.html
    """

    terms: Mapping[str, Tensor] = {}

    def differentiable_loss(
        self, model: Program, guide: Program, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The loss, summed over the batch, of shape ()."""
        loss: Tensor | float = 0.0
        terms: dict[str, Tensor] = {}
        for traces in self._get_traces(model, guide, args, kwargs):
            part, found = self._particle(*traces)
            loss = loss + part / self.num_particles
            for name, value in found.items():
                terms[name] = terms.get(name, 0.0) + value / self.num_particles
        self.terms = terms
        return loss

    def _particle(self, model_trace: Trace, guide_trace: Trace) -> tuple[Tensor, dict[str, Tensor]]:
        loss: Tensor | float = 0.0
        log_likelihood: Tensor | float = 0.0
        kl: dict[str, Tensor] = {}
        factors: dict[str, Tensor] = {}
        for name, site in model_trace.nodes.items():
            if site["type"] != "sample":
                continue
            if site["is_observed"]:
                loss = loss - site["log_prob_sum"]
                log_likelihood = log_likelihood + unscaled(site).sum()
                continue
            guide_site = guide_trace.nodes[name]
            try:
                cost = kl_divergence(guide_site["fn"], site["fn"])
                cost = scale_and_mask(cost, mask=guide_site["mask"])
            except NotImplementedError:
                cost = unscaled(guide_site) - unscaled(site)
            loss = loss + (guide_site["scale"] * cost).sum()
            kl[name] = cost.sum()
        for name, site in guide_trace.nodes.items():
            if site["type"] == "sample" and name not in model_trace.nodes:
                loss = loss + site["log_prob_sum"]
                factors[name] = unscaled(site).sum().detach()
        return loss, summarise(torch.as_tensor(log_likelihood), kl) | factors
