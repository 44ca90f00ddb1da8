"""The importance-weighted bound of a pair with discrete latents: VIMCO and local DisARM."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from train.estimators.base import DifferentiableELBO
from train.estimators.contract import Contract
from train.estimators.costs import added, elbo_terms, log_prob, unmasked
from train.estimators.discrete.coupled import DisARM, pairs_surrogate
from train.estimators.discrete.dependencies import Dependencies, find_dependencies
from train.estimators.discrete.runs import Draw, Run, Runner
from train.estimators.programs import Program, preserved_state, run_guide, samples


class MultiSampleELBO(DifferentiableELBO):
    r"""The importance-weighted bound, with a gradient for discrete latents.

    .. math:: \mathcal{L}_K = \mathbb{E} \Big[ \log \frac{1}{K} \sum_k w_k \Big], \quad
        w_k = \frac{p(x, z_k)}{q(z_k | x)}

    for each datum, which is a member of the plates that are around every site. Weights have their
    own gradients. What is left is the score function of each draw, times a signal:

    - ``vimco``: :math:`\hat{\mathcal{L}}_K - \hat{\mathcal{L}}_{-k}`, with the weight of draw
      :math:`k` replaced by the geometric mean of the others. :math:`K` evaluations.
    - ``disarm``: antithetic pairs :math:`z_k, z_k'`, each with the other draws fixed, as in
      :class:`~.coupled.DisARM`; the mean over the bounds of all :math:`z` and of all :math:`z'`.
      :math:`2 K` evaluations, and Bernoulli latents whose distribution depends on no other draw.
    - ``reinforce``: :math:`\hat{\mathcal{L}}_K`, whose variance is large.

    Args:
        num_particles: The number of evaluations of the weight: :math:`K`, or :math:`2 K` for
            ``disarm``.
        gradient: The signal.
        options: See :class:`~train.estimators.base.DifferentiableELBO`. Particles are vectorised.

    Attributes:
        terms: The terms of the ELBO, and ``iw_bound``, :math:`\mathcal{L}_K` summed over the batch.

    Raises:
        ValueError: When a loss is computed, if the guide's draws have different scales, or
            ``disarm`` has no form for a site; the message names the site.

    References:
        | Variational Inference for Monte Carlo Objectives (Mnih and Rezende, 2016)
        | https://arxiv.org/abs/1602.06725
        | DisARM: An Antithetic Gradient Estimator for Binary Latent Variables (Dong et al., 2020)
        | https://arxiv.org/abs/2006.10680
    """

    def __init__(
        self,
        num_particles: int = 4,
        *,
        gradient: Literal["vimco", "disarm", "reinforce"] = "vimco",
        vectorize_particles: bool = True,
        **options: Any,
    ) -> None:
        fewest = {"vimco": 2, "disarm": 2, "reinforce": 1}
        if gradient not in fewest:
            raise ValueError(f"gradient is {gradient!r}: give {', '.join(fewest)}")
        if num_particles < fewest[gradient] or (gradient == "disarm" and num_particles % 2):
            number = "an even number of particles" if gradient == "disarm" else "particles"
            raise ValueError(
                f"num_particles is {num_particles}: {gradient} needs {number}, "
                f"{fewest[gradient]} or more"
            )
        super().__init__(num_particles, vectorize_particles=vectorize_particles, **options)
        self.gradient = gradient
        self._dependencies: Dependencies | None = None

    def _examine(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: Any
    ) -> Contract:
        contract = super()._examine(model, guide, args, kwargs)
        # Until all is checked, the pair is not examined: a pair that is refused stays so.
        examined, self._examined = self._examined, None
        contract.require_one_scale("MultiSampleELBO")
        self._dependencies = find_dependencies(model, guide, args, kwargs)
        if self.gradient == "disarm":
            with preserved_state(model, guide):
                sites = samples(run_guide(guide, args, kwargs)[0])
            for name in self._dependencies.discrete:
                DisARM().require(name, sites[name]["fn"], self.num_particles)
                if self._dependencies.ancestors[name]:
                    before = min(self._dependencies.ancestors[name])
                    raise ValueError(
                        f"site {name} depends on the draw of {before}, and disarm of the "
                        'importance-weighted bound needs latents that do not: use "vimco"'
                    )
        self._examined = examined
        return contract

    def estimate(
        self, model: Program, guide: Program, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        contract, dependencies = self.prepare(model, guide, args, kwargs), self._dependencies
        assert dependencies is not None
        runner = Runner(
            *(model, guide, args, kwargs, contract),
            vectorized=self.vectorize_particles,
            analytic=(),
            relaxed={},
        )
        draws: dict[str, Draw] = {}
        if self.gradient == "disarm":
            draws = dict.fromkeys(dependencies.discrete, partial(DisARM().draw, joint=()))
        run = runner(self.num_particles, draws=draws)
        # For a guide without draws, a weight is the model's probability.
        drawn = next((s for s in run.guides[0].values() if not s["is_observed"]), None)
        scale = 1.0 if drawn is None else drawn["scale"]
        width = contract.nesting
        common = frozenset(range(-width, 0)).intersection(*dependencies.plates.values())
        log_weights = added(to_plates(run.value(key), common) for key in dependencies.costs) / scale
        # Either all draws, or the first ones of all pairs and the second ones.
        number = 2 if self.gradient == "disarm" else 1
        sets = log_weights.unflatten(0, (-1, number)).movedim(1, 0)
        bound = (scale * (sets.logsumexp(1) - math.log(sets.shape[1])).mean(0)).sum()
        loss = -bound
        if torch.is_grad_enabled():
            names = dependencies.discrete
            term = self._score_term(run, names, sets.detach(), scale, common)
            loss = loss - (term - term.detach())
        terms = elbo_terms([cost for costs in run.costs for cost in costs], self.num_particles)
        return loss, {**terms, "iw_bound": bound.detach()}

    def _score_term(
        self,
        run: Run,
        names: Iterable[str],
        sets: Tensor,
        scale: Tensor | float,
        common: frozenset[int],
    ) -> Tensor:
        """Returns a scalar with the gradient of the discrete draws."""

        def of_draws(signal: Tensor) -> Tensor:
            return scale * signal.movedim(0, 1).flatten(0, 1)

        own = of_draws(sets.softmax(1) / len(sets))
        if self.gradient == "vimco":
            signal = of_draws(vimco_signal(sets))
        elif self.gradient == "disarm":
            signal = scale * pair_differences(sets)
        else:
            whole = sets.logsumexp(1, keepdim=True) - math.log(sets.shape[1])
            signal = of_draws(whole.expand(sets.shape))
        term = own.new_zeros(())
        for name in names:
            # A weight has the gradient of its own log q, too, which masks leave out.
            log_q = run.site(name, lambda site: scale_and_mask(log_prob(site), mask=site["mask"]))
            term = term - (to_plates(log_q, common) * own).sum()
            if self.gradient == "disarm":
                term = term + pairs_term(run, name, signal)
            else:
                score = run.site(name, lambda site: unmasked(site["fn"]).log_prob(site["value"]))
                term = term + (to_plates(score, common) * signal).sum()
        return term


def to_plates(value: Tensor, kept: frozenset[int]) -> Tensor:
    """Sums a tensor of shape (K, plates) over all plates but some, which become of size 1."""
    dims = [dim for dim in range(1 - value.ndim, 0) if dim not in kept]
    return value.sum(dims, keepdim=True) if dims else value


def with_one_replaced(log_weights: Tensor, others: Tensor) -> Tensor:
    """Returns the logarithm of the sum of weights, with each in turn replaced by another one.

    Args:
        log_weights: Shape (*, K, plates).
        others: What replaces each, of the same shape.
    """
    dim = 1
    number = log_weights.shape[dim]
    eye = torch.eye(number, dtype=torch.bool, device=log_weights.device)
    eye = eye.reshape(number, number, *(1,) * (log_weights.ndim - 2))
    table = torch.where(eye, others.unsqueeze(dim + 1), log_weights.unsqueeze(dim))
    return table.logsumexp(dim + 1)


def vimco_signal(sets: Tensor) -> Tensor:
    r"""Returns :math:`\hat{\mathcal{L}}_K - \hat{\mathcal{L}}_{-k}`, of the shape of the weights.

    Args:
        sets: The logarithms of weights, of shape (*, K, plates).
    """
    geometric = (sets.sum(1, keepdim=True) - sets) / (sets.shape[1] - 1)
    return sets.logsumexp(1, keepdim=True) - with_one_replaced(sets, geometric)


def pair_differences(sets: Tensor) -> Tensor:
    """Returns how the bound changes with a draw of each pair, the others fixed, of shape (K, *)."""
    own = sets.logsumexp(1, keepdim=True)
    swapped = with_one_replaced(sets, sets.flip(0))
    return 0.5 * ((own[0] - swapped[0]) + (swapped[1] - own[1]))


def pairs_term(run: Run, name: str, difference: Tensor) -> Tensor:
    """Returns a scalar with the gradient of :class:`~.coupled.DisARM` at one site."""
    vectors = run.vectors(name)
    # It is refused otherwise: see MultiSampleELBO._examine.
    assert vectors is not None
    events = vectors.logits.ndim - difference.ndim
    return pairs_surrogate(difference.reshape(difference.shape + (1,) * events), vectors)
