"""Estimators of the ELBO for models with presence, as subclasses of :class:`pyro.infer.ELBO`.

Each works in :class:`pyro.infer.SVI`, as a module (``elbo = MarginalELBO()(model, guide)``), and in
:class:`train.objective.ELBOObjective`. Losses are sums over the batch, as in Pyro. After each
estimate ``terms`` says what it was made of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO, TraceGraph_ELBO
from pyro.infer.util import torch_item
from pyro.ops.provenance import detach_provenance, get_provenance
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_models.presence import FixPresence, all_present


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
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """The negative ELBO, with the gradients of :meth:`loss_and_grads`."""
        elbo, surrogate = self._loss_and_surrogate_loss(model, guide, args, kwargs)
        return surrogate + (-elbo - surrogate).detach()

    def loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """The negative ELBO as a number, without gradients."""
        with torch.no_grad():
            return -torch_item(self._loss_and_surrogate_loss(model, guide, args, kwargs)[0])

    def _loss_and_surrogate_loss(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        self.terms = {}
        return super()._loss_and_surrogate_loss(model, guide, args, kwargs)

    def _loss_and_surrogate_loss_particle(
        self, model_trace: Trace, guide_trace: Trace
    ) -> tuple[Tensor, Tensor]:
        estimate = super()._loss_and_surrogate_loss_particle(model_trace, guide_trace)
        log_likelihood, kl = 0.0, {}
        for name, site in model_trace.nodes.items():
            if site["type"] != "sample":
                continue
            log_p = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"]).sum()
            if site["is_observed"]:
                log_likelihood = log_likelihood + log_p
            else:
                guide_site = guide_trace.nodes[name]
                log_q = scale_and_mask(guide_site["unscaled_log_prob"], mask=guide_site["mask"])
                kl[name] = log_q.sum() - log_p
        self.terms = {
            name: self.terms.get(name, 0.0) + detach_provenance(value) / self.num_particles
            for name, value in summarise(log_likelihood, kl).items()
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


class MarginalELBO(ELBO):
    r"""The ELBO with the number of objects summed out exactly.

    .. math:: \sum_{n = 0}^{N} q(n | z, x) \Big[ \log p(x | z_{1:n}, n)
        - \sum_{i \le n} \text{KL}_i - \log \frac{q(n | z, x)}{p(n)} \Big]

    Guide and model run once, on the path on which every object is present; see :func:`count_out`.
    The other latents are reparameterised, so the estimate's own gradient is an unbiased one: no
    score function and no baseline. It is :class:`~pyro.infer.TraceEnum_ELBO`'s value, without
    running anything :math:`2^N` times.

    Args:
        analytic: Whether to take KL divergences in closed form where PyTorch has one, rather than
            at the draw.
        options: Passed to :class:`pyro.infer.ELBO`; ``num_particles`` draws are averaged.

    Raises:
        ValueError: If particles are to be vectorised.

    Attributes:
        terms: What the last estimate was made of, by name: detached sums over the batch in nats.
    """

    terms: Mapping[str, Tensor] = {}

    def __init__(self, *, analytic: bool = True, **options: Any) -> None:
        super().__init__(**options)
        if self.vectorize_particles:
            raise ValueError("MarginalELBO draws its particles one after another")
        self.analytic = analytic

    def differentiable_loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """The negative ELBO, summed over the batch, of shape ()."""
        particles = [self._particle(model, guide, args, kwargs) for _ in range(self.num_particles)]
        losses, terms = zip(*particles, strict=True)
        self.terms = {
            name: sum(term[name] for term in terms) / self.num_particles for name in terms[0]
        }
        return sum(losses) / self.num_particles

    def loss(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """The negative ELBO as a number, without gradients."""
        with torch.no_grad():
            return torch_item(self.differentiable_loss(model, guide, *args, **kwargs))

    def loss_and_grads(
        self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> float:
        """The negative ELBO as a number; adds its gradients to the parameters'."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward(retain_graph=self.retain_graph)
        return torch_item(loss)

    def _particle(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        counts = count_out(model, guide, args, kwargs, analytic=self.analytic)
        q = counts.log_q.exp()
        log_likelihood = (q * counts.log_likelihood).sum()
        kl = {name: (q * value).sum() for name, value in counts.kl.items()}
        loss = sum(counts.scales[name] * value for name, value in kl.items()) - log_likelihood
        return loss, summarise(log_likelihood, kl)

    def _get_trace(self, *args: Any) -> tuple[Trace, Trace]:
        raise NotImplementedError("MarginalELBO needs traces of every count: see count_out")


class Counts(NamedTuple):
    r"""A guide and model on the path on which every object is present, for each count at once.

    Tensors have the shape :math:`(N + 1, B)`: row :math:`n` is what holds if the first :math:`n`
    objects are there and no more. None is scaled.

    Attributes:
        log_q: :math:`\log q(n | z, x)`, the guide's.
        log_likelihood: :math:`\log p(x | z_{1:n}, n)`.
        kl: By site, what its latent costs: the KL divergence from the prior, or its value at the
            draw, :math:`\log q - \log p`; zero if the object is absent. The presences' is under
            the name of the first: :math:`\log q(n | z, x) - \log p(n)`.
        scales: By site, its weight from :func:`pyro.poutine.scale`.
    """

    log_q: Tensor
    log_likelihood: Tensor
    kl: dict[str, Tensor]
    scales: dict[str, Tensor | float]

    def log_joint(self) -> Tensor:
        r""":math:`\log p(x, z_{1:n}, n) - \log q(z_{1:n})`, of shape :math:`(N + 1, B)`.

        Only with the divergences at the draw (``analytic=False``).
        """
        return self.log_likelihood + self.log_q - sum(self.kl.values())


def count_out(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    analytic: bool = True,
) -> Counts:
    r"""Runs guide and model once and evaluates every count.

    After the first absent object nothing further matters, so the guide's steps on the path on
    which all are present serve every count. The model is replayed with presences that have one
    more dimension on the left, a row for each count; masks and canvases follow by broadcasting.

    Args:
        model: A model whose presences are marked as :mod:`pyro_models.presence` says.
        guide: Its guide, whose other latents depend on its presences by masks only.
        args: Passed to both.
        kwargs: Passed to both.
        analytic: Whether to take KL divergences in closed form where PyTorch has one.

    Raises:
        ValueError: If the guide marks no site as a presence.
    """
    kwargs = kwargs or {}
    with FixPresence(all_present) as row:
        guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    if not row.names:
        raise ValueError('no site of the guide is marked with infer={"presence": True}')
    presences = [guide_trace.nodes[name]["fn"] for name in row.names]
    like = presences[0].logits
    counts = torch.arange(len(presences) + 1, device=like.device)
    counts = counts.reshape(-1, *(1 for _ in like.shape))
    steps = [(counts > i).to(like.dtype) for i in range(len(presences))]

    with FixPresence(lambda step, _: steps[step]):
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(
            *args, **kwargs
        )

    zero = like.new_zeros(())
    log_q = sum(
        torch.where(counts >= i, fn.log_prob(steps[i]), zero) for i, fn in enumerate(presences)
    )
    log_likelihood, log_p = zero, zero
    kl: dict[str, Tensor] = {}
    scales: dict[str, Tensor | float] = {}
    for name, site in prune_subsample_sites(model_trace).nodes.items():
        if site["type"] != "sample":
            continue
        if site["is_observed"]:
            log_prob = site["fn"].log_prob(site["value"])
            log_likelihood = log_likelihood + scale_and_mask(log_prob, mask=site["mask"])
        elif name in row.names:
            log_prob = site["fn"].log_prob(site["value"])
            log_p = log_p + scale_and_mask(log_prob, mask=site["mask"])
        else:
            divergence = _divergence(guide_trace.nodes[name], site, analytic)
            kl[name] = scale_and_mask(divergence, mask=site["mask"]).expand_as(log_q)
        scales[name] = site["scale"]
    kl[row.names[0]] = log_q - log_p
    return Counts(log_q, log_likelihood.expand_as(log_q), kl, scales)


def _divergence(guide_site: dict[str, Any], model_site: dict[str, Any], analytic: bool) -> Tensor:
    """The KL divergence at a site, in closed form if asked and known, else at the draw."""
    if analytic:
        try:
            return kl_divergence(guide_site["fn"], model_site["fn"])
        except NotImplementedError:
            pass
    value = guide_site["value"]
    return guide_site["fn"].log_prob(value) - model_site["fn"].log_prob(value)


def summarise(log_likelihood: Tensor, kl: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names the parts of an ELBO, detached, with the ELBO itself at beta 1.

    The steps of a site are added up: ``z_where_0`` and ``z_where_1`` count under ``kl_z_where``.
    """
    terms = {"log_likelihood": log_likelihood.detach()}
    elbo = terms["log_likelihood"]
    for site, value in kl.items():
        name = "kl_" + re.sub(r"_\d+$", "", site)
        terms[name] = terms.get(name, 0.0) + value.detach()
        elbo = elbo - value.detach()
    return {**terms, "elbo": elbo}


ESTIMATORS = {"marginal": MarginalELBO, "tracegraph": TraceGraphELBO}
"""Estimators by their names on the command line."""
