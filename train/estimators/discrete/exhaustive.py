"""Estimators that evaluate the cost at values in turn: enumeration, measure-valued, sets."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

from train.estimators.costs import added, weighed
from train.estimators.discrete.families import Family, logits_of, require_family, uniform
from train.estimators.discrete.site import (
    Common,
    SiteDraws,
    SiteEstimator,
    flatten,
    unflatten,
)

MOST = 4_096
"""The largest number of values that are enumerated."""


class Weighted(SiteEstimator):
    """The base of estimators whose particles have unequal weights."""

    coupled = True

    def count(self, name: str, fn: Any, particles: int, joint: tuple[int, ...]) -> int:
        """Returns the number of particles that a site needs.

        Args:
            name: The site's name.
            fn: Its distribution.
            particles: The number of particles of other estimators.
            joint: See :attr:`~.site.SiteDraws.joint`.
        """
        return particles

    @abstractmethod
    def weights(self, draws: SiteDraws) -> Tensor:
        """Returns the weight of each particle in expectations, of shape (K, plates)."""


def variables(fn: Any, joint: tuple[int, ...]) -> tuple[int, int]:
    """Returns the number of variables that change one cost, and the number of their values."""
    family, logits = require_family(fn), logits_of(fn)
    event = logits.shape[len(fn.batch_shape) :]
    event = event[:-1] if family.one_hot else event
    plates = [fn.batch_shape[dim] for dim in joint if -dim <= len(fn.batch_shape)]
    return torch.Size([*plates, *event]).numel(), family.classes(logits)


class Enumerate(Weighted):
    r"""The exact sum over all values of a site.

    .. math:: \nabla_\phi \sum_z q_\phi(z) \, f(z)

    Sites that name it are enumerated together, and in their plates in parallel: it needs as many
    evaluations of the cost as their values have combinations. A Bernoulli of :math:`D` variables
    that change one cost has :math:`2^D`. Long chains need Pyro's
    :class:`~pyro.infer.TraceEnum_ELBO`, which sums one variable after another.
    """

    title = "enumerate"

    def count(self, name: str, fn: Any, particles: int, joint: tuple[int, ...]) -> int:
        number, classes = variables(fn, joint)
        if classes**number > MOST:
            raise ValueError(
                f"site {name} has {classes}^{number} values that change one cost, more than the "
                f"{MOST:,} that are enumerated: use disarm, rloo or mvd"
            )
        return classes**number

    def grid(self, fn: Any, width: int, joint: tuple[int, ...]) -> Tensor:
        """Returns all values of a site as vectors, of shape (values, plates, event)."""
        family, logits = require_family(fn), logits_of(fn)
        plates = len(fn.batch_shape)
        logits = logits.reshape((1,) * (1 + width - plates) + logits.shape)[:1]
        number, classes = variables(fn, joint)
        index = torch.tensor(
            list(itertools.product(range(classes), repeat=number)), device=logits.device
        )
        flat = flatten(logits, width + 1, joint, family.one_hot)
        shape = flat.shape[1:-1] if family.one_hot else flat.shape[1:]
        index = index.reshape(len(index), *(1,) * (len(shape) - 1), number)
        vectors = family.nth(index.expand(len(index), *shape), logits)
        return unflatten(vectors, logits.shape, width + 1, joint, family.one_hot)

    def weights(self, draws: SiteDraws) -> Tensor:
        """Returns the probability of each value, differentiable, of shape (K, plates)."""
        dims = list(draws.joint)
        log_q = draws.log_prob
        return (log_q.sum(dims, keepdim=True) if dims else log_q).exp()

    def surrogate(self, draws: SiteDraws) -> Tensor:
        raise NotImplementedError("the weights of enumerated values are differentiable")


class MeasureValued(Weighted):
    r"""The exact sum over the values of one variable at a time, with one draw of all others.

    .. math:: \mathbb{E}_{z \sim q} \Big[ \sum_c p_{dc} \, f(z_{-d}, c) \, (1_c - p_d) \Big]

    for each variable :math:`d` with values :math:`c`. For a Bernoulli it is
    :math:`p \, (1 - p) \, (f(z_{-d}, 1) - f(z_{-d}, 0))`, the measure-valued gradient, which is
    exact if the site is a single variable. It needs one evaluation, and one more for each variable
    that changes the same cost: :math:`D + 1`, or :math:`D (C - 1) + 1` with :math:`C` classes.

    References:
        | Monte Carlo Gradient Estimation in Machine Learning (Mohamed et al., 2020)
        | https://arxiv.org/abs/1906.10652
        | Local Expectation Gradients for Black Box Variational Inference (Titsias and
          Lázaro-Gredilla, 2015)
        | https://arxiv.org/abs/1503.01494
    """

    title = "mvd"

    def count(self, name: str, fn: Any, particles: int, joint: tuple[int, ...]) -> int:
        number, classes = variables(fn, joint)
        count = number * (classes - 1) + 1
        if count > MOST:
            raise ValueError(
                f"site {name} has {number:,} variables that change one cost, for which mvd needs "
                f"{count:,} evaluations, more than {MOST:,}: use disarm or rloo"
            )
        return count

    def coupling(self, common: Common, particles: int) -> Tensor:
        logits, family, joint, plates = common
        base = family.hard(family.perturbed(logits))
        flat = flatten(base, plates, joint, family.one_hot)
        classes = family.classes(logits)
        index = flat.argmax(-1) if family.one_hot else flat.long()
        number = index.shape[-1]
        index = index.repeat(particles, *(1,) * (index.ndim - 1))
        for d, step in itertools.product(range(number), range(1, classes)):
            index[1 + d * (classes - 1) + step - 1, ..., d] += step
        vectors = family.nth(index % classes, logits)
        return unflatten(vectors, logits.shape, plates, joint, family.one_hot)

    def _by_variable(self, draws: SiteDraws) -> tuple[Tensor, Tensor, Tensor]:
        """Returns probabilities and costs, of shape (classes, plates, D), and the scores there."""
        one_hot = draws.family.one_hot
        score = draws.flat(draws.score)
        cost = draws.to_variables(draws.cost).expand(draws.probability.shape)
        p, cost = (
            flatten(each, draws.cost.ndim, draws.joint, one_hot=False)
            for each in (draws.probability, cost)
        )
        number = cost.shape[-1]
        classes = (draws.particles - 1) // number + 1

        def arrange(value: Tensor, dim: int) -> Tensor:
            """Takes variable d from the particles in which it has each of its values."""
            own = torch.stack(
                [
                    torch.stack(
                        [
                            value[0 if c == 0 else 1 + d * (classes - 1) + c - 1].select(dim, d)
                            for d in range(number)
                        ],
                        dim,
                    )
                    for c in range(classes)
                ]
            )
            return own

        return arrange(p, -1), arrange(cost, -1), arrange(score, -2 if one_hot else -1)

    def surrogate(self, draws: SiteDraws) -> Tensor:
        p, cost, score = self._by_variable(draws)
        signal = weighed(p, cost)
        signal = signal[..., None] if draws.family.one_hot else signal
        gradient = draws.unflat((signal * score).sum(0, keepdim=True))
        return (gradient * draws.logits[:1]).sum()

    def weights(self, draws: SiteDraws) -> Tensor:
        """Returns the mean, over variables, of the probabilities of their values."""
        p, _, _ = self._by_variable(draws)
        first = p[0].mean(-1)
        # Back to one particle after another: those of the first variable come first.
        others = p[1:].movedim(-1, 0).flatten(0, 1) / p.shape[-1]
        result = torch.cat([first[None], others])
        return result


class UnorderedSet(Weighted):
    r"""A draw of :math:`K` different values of a site, without order.

    .. math:: \sum_{s \in S} \nabla_\phi p(s) \, R(S, s) \Big( f(s)
        - \sum_{s' \in S} p(s') \, R^{\setminus s}(S, s') \, f(s') \Big)

    :math:`R(S, s) = p^{\setminus s}(S \setminus s) / p(S)`, with :math:`p(S)` the probability that
    :math:`K` draws without replacement are the set :math:`S`; ``\ s`` is for draws without
    :math:`s`. If :math:`K` is the number of values, it is the exact sum.

    References:
        | Estimating Gradients for Discrete Random Variables by Sampling without Replacement (Kool
          et al., 2020)
        | https://arxiv.org/abs/2002.06043
    """

    title = "unordered-set"
    particles = fewest = 2
    most: ClassVar[int] = 6
    """The largest set: the probability of a set takes 2^K terms."""

    def count(self, name: str, fn: Any, particles: int, joint: tuple[int, ...]) -> int:
        number, classes = variables(fn, joint)
        if number > 1:
            raise ValueError(
                f"site {name} has {number:,} variables that change one cost, and unordered-set has "
                "a form for one: use rloo, or one site for each in a plate of its own costs"
            )
        if particles > min(classes, self.most):
            raise ValueError(
                f"site {name} has {classes} values, and unordered-set takes at most "
                f"{min(classes, self.most)} different ones: num_particles is {particles}"
            )
        return particles

    def coupling(self, common: Common, particles: int) -> Tensor:
        logits, family = common.logits, common.family
        scores = log_probabilities(logits, family)
        noise = uniform(scores.shape, scores).clamp(min=torch.finfo(scores.dtype).tiny)
        # The K largest of logits with Gumbel noise are draws without replacement.
        index = (scores - (-noise.log()).log()).topk(particles, dim=-1).indices[0]
        index = index.movedim(-1, 0)
        return family.nth(index, logits)

    def _ratios(self, draws: SiteDraws) -> tuple[Tensor, Tensor, Tensor]:
        """Returns p(s), R(S, s), and R without s of each s', with particles first."""
        one_hot = draws.family.one_hot
        first = log_probabilities(draws.fixed_logits[:1], draws.family)[0]
        classes = first.shape[-1]
        index = draws.value.argmax(-1) if one_hot else draws.value.long()
        inside = torch.nn.functional.one_hot(index, classes).sum(0).bool()
        outside = torch.where(inside, 0.0, first.exp()).sum(-1)
        return ratios(draws.probability, outside)

    def surrogate(self, draws: SiteDraws) -> Tensor:
        p, ratio, without = self._ratios(draws)
        # Where fewer values than K are possible, the others are drawn, too.
        cost = torch.where(draws.probability > 0, draws.to_variables(draws.cost), 0.0)
        baseline = (without * p * cost).sum(1)
        signal = p * ratio * (cost - baseline)
        signal = signal[..., None] if draws.family.one_hot else signal
        return (signal * draws.score * draws.logits).sum()

    def weights(self, draws: SiteDraws) -> Tensor:
        _, ratio, _ = self._ratios(draws)
        return (draws.probability * ratio).reshape(draws.cost.shape)


def log_probabilities(logits: Tensor, family: type[Family]) -> Tensor:
    """Returns log-probabilities with a last dimension of classes; a Bernoulli has 0 and 1."""
    if family.one_hot:
        return logits.log_softmax(-1)
    two = torch.stack([-logits, logits], -1)
    return torch.nn.functional.logsigmoid(two)


def ratios(p: Tensor, outside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Returns the ratios of :class:`UnorderedSet`.

    Args:
        p: Probabilities of the members of a set, of shape (K, *).
        outside: The probability of all other values, of shape (*).

    Returns:
        ``p``; :math:`R(S, s)`, of shape (K, *); and :math:`R^{\setminus s}(S, s')`, of shape
        (K, K, *), with :math:`s` first. At :math:`s' = s` it is 1, as :math:`s` itself is then not
        drawn again.
    """
    # Where all but one have a probability that is too small for a number.
    p = p.clamp(min=torch.finfo(p.dtype).tiny)
    members = range(len(p))
    known: dict[frozenset[int], Tensor] = {}

    def probability(rest: frozenset[int]) -> Tensor:
        """Probability of the set ``rest``, drawn without the other members."""
        if not rest:
            return torch.ones_like(outside)
        if rest not in known:
            total = outside + sum(p[s] for s in rest)
            # Where nothing else is possible, values of probability 0 are drawn, each alike.
            share = [torch.where(total > 0, p[s] / total, 1 / len(rest)) for s in rest]
            pairs = zip(share, rest, strict=True)
            known[rest] = added(each * probability(rest - {s}) for each, s in pairs)
        return known[rest]

    everything = frozenset(members)
    whole = probability(everything)
    ratio = torch.stack([probability(everything - {s}) / whole for s in members])
    without = torch.stack(
        [
            torch.stack(
                [probability(everything - {s, t}) / probability(everything - {s}) for t in members]
            )
            for s in members
        ]
    )
    return p, ratio, without
