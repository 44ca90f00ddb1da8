"""A guide and model at every number of objects at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_models.presence import FixPresence, all_present
from train.estimators.base import Program


class Counts(NamedTuple):
    r"""A guide and model on the path on which every object is present, for each count at once.

    Tensors have the shape :math:`(N + 1, B)`, with draws side by side :math:`(N + 1, K, B)`: row
    :math:`n` is what holds if the first :math:`n` objects are there and no more. None is scaled.

    Attributes:
        log_q: :math:`\log q(n | z, x)`, the guide's.
        log_likelihood: :math:`\log p(x | z_{1:n}, n)`.
        kl: By site, what its latent costs: the KL divergence from the prior, or its value at the
            draw, :math:`\log q - \log p`; zero if the object is absent. The presences' is under
            the name of the first: :math:`\log q(n | z, x) - \log p(n)`.
        scales: By site, its weight from :func:`pyro.poutine.scale`.
        presence: The name of the first presence.
    """

    log_q: Tensor
    log_likelihood: Tensor
    kl: dict[str, Tensor]
    scales: dict[str, Tensor | float]
    presence: str

    def log_joint(self, *, scaled: bool = False) -> Tensor:
        r""":math:`\log p(x, z_{1:n}, n) - \log q(z_{1:n})`, of shape :math:`(N + 1, B)`.

        Only with the divergences at the draw (``analytic=False``).

        Args:
            scaled: Whether the latents' log-probabilities have their weights.
        """
        scales = self.scales if scaled else dict.fromkeys(self.kl, 1.0)
        cost = sum(scales[name] * value for name, value in self.kl.items())
        return self.log_likelihood + scales[self.presence] * self.log_q - cost

    def means(self) -> tuple[Tensor, dict[str, Tensor]]:
        """Log-likelihood and divergences in the mean over the count, summed over the batch."""
        q = self.log_q.exp()
        kl = {name: (q * value).sum() for name, value in self.kl.items()}
        return (q * self.log_likelihood).sum(), kl


def count_out(
    model: Program,
    guide: Program,
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
            cost = divergence(guide_trace.nodes[name], site, analytic=analytic)
            kl[name] = scale_and_mask(cost, mask=site["mask"]).expand_as(log_q)
        scales[name] = site["scale"]
    kl[row.names[0]] = log_q - log_p
    return Counts(log_q, log_likelihood.expand_as(log_q), kl, scales, row.names[0])


def divergence(guide_site: dict[str, Any], model_site: dict[str, Any], *, analytic: bool) -> Tensor:
    """The KL divergence at a site, in closed form if asked and known, else at the draw."""
    if analytic:
        try:
            return kl_divergence(guide_site["fn"], model_site["fn"])
        except NotImplementedError:
            pass
    value = guide_site["value"]
    return guide_site["fn"].log_prob(value) - model_site["fn"].log_prob(value)
