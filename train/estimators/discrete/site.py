r"""The base class of gradient estimators of one discrete site.

A site draws :math:`z \sim q_\phi` with logits :math:`\phi`, in each of :math:`K` particles. An
estimator is given the draws and the cost :math:`f_k` downstream of each, in nats, and returns what
has the gradient :math:`\nabla_\phi \, \mathbb{E}[f]` in expectation.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from train.estimators.costs import added
from train.estimators.discrete.families import (
    Family,
    Vectors,
    family_of,
    logits_of,
    require_family,
)


@dataclass
class SiteDraws:
    r"""The draws of a site, in the layout :math:`(K, *\text{plates}, *\text{event})`.

    Attributes:
        name: The site's name.
        fn: Its distribution in the first run, without those of other runs.
        vectors: The values as vectors; ``None`` if the distribution is of no family.
        compute_log_prob: Returns :attr:`log_prob`, which few estimators need.
        cost: The cost downstream of each draw, detached, of shape (K, plates). If the estimator
            softens, joint plates have size 1, and what is in them is summed.
        joint: The dimensions of the plates, from the right and without event, that some cost
            downstream is not in: their members change one cost together.
        infer: The site's options.
        slope: Returns the gradient of the costs, as far as they have one, with respect to the
            values, of the shape of the logits.
        evaluate: Returns these costs at relaxed values, of shape (n K, plates) with joint plates of
            size 1, from vectors of the shape of the logits with n K particles.
    """

    name: str
    fn: Any
    vectors: Vectors | None
    compute_log_prob: Callable[[], Tensor]
    cost: Tensor
    joint: tuple[int, ...]
    infer: dict[str, Any]
    slope: Callable[[], Tensor]
    evaluate: Callable[[Tensor], Tensor]

    @property
    def in_family(self) -> Vectors:
        """The values as vectors of the family."""
        # An estimator that needs a family is given no site without one: see SiteEstimator.require.
        assert self.vectors is not None
        return self.vectors

    @property
    def family(self) -> type[Family]:
        """The family of the distribution."""
        return self.in_family.family

    @property
    def logits(self) -> Tensor:
        """The logits, differentiable."""
        return self.in_family.logits

    @property
    def value(self) -> Tensor:
        """The values as vectors of the family, of the shape of the logits."""
        return self.in_family.value

    @property
    def particles(self) -> int:
        """The number of particles."""
        return self.cost.shape[0]

    @cached_property
    def log_prob(self) -> Tensor:
        """The log-probability of each draw, differentiable, of shape (K, plates)."""
        return self.compute_log_prob()

    @property
    def events(self) -> int:
        """The number of dimensions of the logits right of the plates."""
        return self.logits.ndim - self.cost.ndim

    @cached_property
    def fixed_logits(self) -> Tensor:
        """The logits, detached."""
        return self.logits.detach()

    @cached_property
    def mean(self) -> Tensor:
        """The mean vector, detached."""
        return self.family.mean(self.fixed_logits)

    @cached_property
    def score(self) -> Tensor:
        r""":math:`\nabla_\phi \log q(z)`, detached, of the shape of the logits."""
        return self.value - self.mean

    @cached_property
    def probability(self) -> Tensor:
        """The probability of each variable's value, detached; without class dimension."""
        value, mean = self.value, self.mean
        if self.family.one_hot:
            return (value * mean).sum(-1)
        return value * mean + (1 - value) * (1 - mean)

    def to_variables(self, signal: Tensor) -> Tensor:
        """Appends the event's dimensions but that of the classes, of size 1, to (K, plates)."""
        return signal.reshape(signal.shape + (1,) * (self.events - int(self.family.one_hot)))

    def covariance(self, vector: Tensor) -> Tensor:
        """Returns the covariance matrix of the site's vector times another vector."""
        return self.family.covariance(self.fixed_logits, vector)

    def to_logits(self, signal: Tensor) -> Tensor:
        """Appends the event's dimensions, of size 1, to a tensor of shape (K, plates)."""
        return signal.reshape(signal.shape + (1,) * self.events)

    def inner(self, one: Tensor, other: Tensor) -> Tensor:
        """Returns an inner product over the variables that change one cost, of shape (K, plates).

        Plates of these variables have size 1.
        """
        product = one * other
        dims = [*range(-self.events, 0), *(dim - self.events for dim in self.joint)]
        result = product.sum(dims, keepdim=True) if dims else product
        return result.reshape(result.shape[: result.ndim - self.events])

    def flat(self, value: Tensor) -> Tensor:
        """Moves the variables that change one cost into one dimension.

        Args:
            value: A tensor of the shape of the logits.

        Returns:
            Shape (K, plates, D), or (K, plates, D, classes) of one-hot vectors. Plates of the
            variables have size 1.
        """
        return flatten(value, self.cost.ndim, self.joint, self.family.one_hot)

    def unflat(self, value: Tensor) -> Tensor:
        """Undoes :meth:`flat`."""
        return unflatten(value, self.logits.shape, self.cost.ndim, self.joint, self.family.one_hot)


def _order(ndim: int, plates: int, joint: tuple[int, ...]) -> list[int]:
    """Returns all dimensions in an order that has joint plates last of the plates."""
    moved = [plates + dim for dim in sorted(joint)]
    return [
        *(d for d in range(plates) if d not in moved),
        *moved,
        *range(plates, ndim),
    ]


def flatten(value: Tensor, plates: int, joint: tuple[int, ...], one_hot: bool) -> Tensor:
    """See :meth:`SiteDraws.flat`; ``plates`` is the number of dimensions left of the event."""
    kept = [1 if d - plates in joint else size for d, size in enumerate(value.shape[:plates])]
    classes = value.shape[-1:] if one_hot else ()
    moved = value.permute(_order(value.ndim, plates, joint))
    return moved.reshape(*kept, -1, *classes)


def unflatten(
    value: Tensor, shape: torch.Size, plates: int, joint: tuple[int, ...], one_hot: bool
) -> Tensor:
    """Undoes :func:`flatten`, to a shape whose first dimension is that of ``value``."""
    order = _order(len(shape), plates, joint)
    sizes = [value.shape[0] if dim == 0 else shape[dim] for dim in order]
    back = sorted(range(len(order)), key=order.__getitem__)
    return value.reshape(sizes).permute(back)


class Common(NamedTuple):
    """The distribution that all particles of a coupled site have.

    Attributes:
        logits: Its logits, detached, of shape (1, plates, event).
        family: Its family.
        joint: See :attr:`SiteDraws.joint`.
        plates: The number of dimensions left of the event, that of the particles included.
    """

    logits: Tensor
    family: type[Family]
    joint: tuple[int, ...]
    plates: int


class SiteEstimator(nn.Module):
    """A gradient estimator of one discrete site, or of several.

    Parameters of an estimator, such as the temperature of :class:`~.relaxed.Rebar`, are trained to
    lower the sum of squares of its gradient.

    Attributes:
        title: The estimator's name in options and messages.
        particles: The number of particles that it takes by default.
        fewest: The smallest number of particles.
        even: Whether the number of particles must be even.
        coupled: Whether a site's particles are drawn together, given one draw of its ancestors.
        needs_family: Whether it needs the distribution's logits.
        needs_gradient: Whether it needs the gradient of the cost with respect to values.
        softens: Whether it evaluates the cost at values between those of the site.
        relaxes: Whether the program gets such values in each run, so that the estimator is biased.
    """

    title: ClassVar[str]
    particles: ClassVar[int] = 1
    fewest: ClassVar[int] = 1
    even: ClassVar[bool] = False
    coupled: ClassVar[bool] = False
    needs_family: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = False
    softens: ClassVar[bool] = False
    relaxes: ClassVar[bool] = False
    families: ClassVar[tuple[type[Family], ...] | None] = None
    """The families that it has a form for; ``None`` for all."""

    @abstractmethod
    def surrogate(self, draws: SiteDraws) -> Tensor:
        """Returns a scalar whose gradient is the estimate, from draws of one site.

        Its value does not matter.
        """

    def draw(self, fn: Any, particles: int, width: int, joint: tuple[int, ...]) -> Tensor:
        """Draws the particles of a site together, if they are coupled.

        Args:
            fn: The distribution.
            particles: The number of particles.
            width: The number of dimensions of plates.
            joint: See :attr:`SiteDraws.joint`.

        Returns:
            Values, of shape (K, plates, event).
        """
        family, logits = require_family(fn), logits_of(fn)
        events = logits.ndim - len(fn.batch_shape)
        logits = logits.reshape((1,) * (1 + width + events - logits.ndim) + logits.shape)[:1]
        vectors = self.coupling(Common(logits.detach(), family, joint, width + 1), particles)
        return family.value(vectors)

    def draw_relaxed(self, family: type[Family]) -> Callable[[Tensor], Tensor]:
        """Returns a function that draws relaxed values, differentiable, from logits."""
        raise NotImplementedError

    def coupling(self, common: Common, particles: int) -> Tensor:
        """Draws vectors of all particles, of shape (K, *)."""
        raise NotImplementedError

    def require(self, name: str, fn: Any, particles: int) -> None:
        """Raises :class:`ValueError` if there is no estimate for a site; the message names it."""
        family = family_of(fn)
        kind = type(fn).__name__ if family is None else family.__name__.removesuffix("Family")
        if family is None and self.needs_family:
            raise ValueError(
                f"site {name} is a {kind}, for which {self.title} has no form: use rloo or "
                "reinforce"
            )
        if (
            family is not None
            and self.families is not None
            and not issubclass(family, self.families)
        ):
            known = " or ".join(f.__name__.removesuffix("Family") for f in self.families)
            raise ValueError(
                f"site {name} is a {kind}, and {self.title} has a form for {known}: use rloo, "
                "enumerate or mvd"
            )
        needs_slope = self.needs_gradient or self.softens or self.relaxes
        if family is not None and needs_slope and not family.differentiable:
            raise ValueError(
                f"site {name} is a {kind}, whose indices have no gradient, which {self.title} "
                "needs: draw it from OneHotCategorical, or use rloo, enumerate or mvd"
            )
        if particles < self.fewest or (self.even and particles % 2):
            number = f"an even number of particles, {self.fewest}" if self.even else self.fewest
            raise ValueError(
                f"site {name} is estimated by {self.title}, which needs {number} or more: "
                f"num_particles is {particles}"
            )

    def learn(self, gradient: Tensor) -> Tensor | float:
        """Returns a term of value zero that trains the parameters, from a differentiable gradient.

        Its gradient with respect to the parameters is that of the sum of squares of ``gradient``,
        and zero with respect to everything else.
        """
        weights = [weight for weight in self.parameters() if weight.requires_grad]
        if not weights or not gradient.requires_grad:
            return 0.0
        slopes = torch.autograd.grad(
            gradient.square().sum(),
            weights,
            retain_graph=True,
            materialize_grads=True,
            allow_unused=True,
        )
        pairs = zip(weights, slopes, strict=True)
        # Costs are maximised, and the variance is minimised.
        term = -added((weight * slope.detach()).sum() for weight, slope in pairs)
        return term - term.detach()

    def gradient_surrogate(self, draws: SiteDraws, gradient: Tensor) -> Tensor:
        """Returns a scalar with a gradient with respect to the logits, and trains parameters."""
        return (gradient.detach() * draws.logits).sum() + self.learn(gradient)
