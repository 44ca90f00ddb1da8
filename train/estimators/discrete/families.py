r"""The discrete distributions whose gradient estimators are written in logits.

An estimator of this package returns a gradient with respect to logits :math:`\phi`. What it needs
of a distribution is here: the value as a vector :math:`v`, its mean :math:`p`, the score
:math:`\nabla_\phi \log q(v) = v - p`, the covariance of :math:`v`, and relaxed draws. A Bernoulli's
:math:`v` is its value and :math:`p = \sigma(\phi)`. A categorical value is a one-hot vector, with
:math:`p = \text{softmax}(\phi)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from pyro.distributions import (
    Bernoulli,
    Categorical,
    MaskedDistribution,
    OneHotCategorical,
    TorchDistribution,
)
from pyro.distributions.torch_distribution import ExpandedDistribution
from torch import Tensor
from torch.distributions import Independent, constraints
from torch.distributions.utils import clamp_probs

TINY = 1e-30
"""Keeps logarithms of uniform draws finite."""

IMPOSSIBLE = -1e4
"""The logit of a class that is given minus infinity. Its exponential is 0 in every precision, and 0
times it is 0."""


def uniform(shape: torch.Size | tuple[int, ...], like: Tensor) -> Tensor:
    """Draws from the uniform distribution on [0, 1), with the dtype and device of ``like``.

    All estimators draw what couples their samples here, so that a test can give the draws.
    """
    return torch.rand(shape, dtype=like.dtype, device=like.device)


def logit(probability: Tensor) -> Tensor:
    """Returns the logit of a probability, finite also at 0 and 1."""
    probability = clamp_probs(probability)
    return probability.log() - (-probability).log1p()


class Family(ABC):
    """A family of discrete distributions with logits.

    Attributes:
        one_hot: Whether the last dimension of logits and vectors is that of the classes.
        differentiable: Whether a value is a vector already, so that a program can take one between
            two values, and has a gradient with respect to it.
    """

    one_hot: ClassVar[bool] = False
    differentiable: ClassVar[bool] = True

    @staticmethod
    @abstractmethod
    def mean(logits: Tensor) -> Tensor:
        """Returns the mean of the vector, of the shape of the logits."""

    @staticmethod
    @abstractmethod
    def covariance(logits: Tensor, vector: Tensor) -> Tensor:
        """Returns the covariance matrix of the vector times another vector."""

    @staticmethod
    @abstractmethod
    def log_prob(logits: Tensor, vector: Tensor) -> Tensor:
        """Returns the log-probability, linear between values, without classes."""

    @staticmethod
    @abstractmethod
    def perturbed(logits: Tensor) -> Tensor:
        """Draws logits with noise, :math:`z`, whose :meth:`hard` value is a draw."""

    @staticmethod
    @abstractmethod
    def perturbed_given(logits: Tensor, vector: Tensor) -> Tensor:
        """Draws logits with noise given the value that they have."""

    @staticmethod
    def normalized(logits: Tensor) -> Tensor:
        """Returns the logits to which the noise is added."""
        return logits

    @staticmethod
    @abstractmethod
    def hard(perturbed: Tensor) -> Tensor:
        """Returns the value of logits with noise, as a vector."""

    @staticmethod
    @abstractmethod
    def soft(perturbed: Tensor, temperature: Tensor | float) -> Tensor:
        """Returns the relaxed value of logits with noise, as a vector."""

    @staticmethod
    def vector(value: Tensor, logits: Tensor) -> Tensor:
        """Returns a value as a vector."""
        return value

    @staticmethod
    def value(vector: Tensor) -> Tensor:
        """Returns a vector as a value."""
        return vector

    @staticmethod
    @abstractmethod
    def classes(logits: Tensor) -> int:
        """Returns the number of values that one variable can have."""

    @staticmethod
    @abstractmethod
    def nth(index: Tensor, logits: Tensor) -> Tensor:
        """Returns the vector of the values with some indices.

        Args:
            index: Integers in 0 to the number of classes less 1, without class dimension.
            logits: Logits, for their dtype and number of classes.
        """


class BernoulliFamily(Family):
    """Bernoulli variables."""

    @staticmethod
    def mean(logits: Tensor) -> Tensor:
        return logits.sigmoid()

    @staticmethod
    def covariance(logits: Tensor, vector: Tensor) -> Tensor:
        return logits.sigmoid() * (-logits).sigmoid() * vector

    @staticmethod
    def log_prob(logits: Tensor, vector: Tensor) -> Tensor:
        return vector * logits - F.softplus(logits)

    @staticmethod
    def perturbed(logits: Tensor) -> Tensor:
        return logits + logit(uniform(logits.shape, logits))

    @staticmethod
    def perturbed_given(logits: Tensor, vector: Tensor) -> Tensor:
        # A uniform draw is above 1 - p where the value is 1, and below it where the value is 0.
        draw, absent = uniform(logits.shape, logits), (-logits).sigmoid()
        draw = vector * (absent + draw * logits.sigmoid()) + (1 - vector) * draw * absent
        return logits + logit(draw)

    @staticmethod
    def hard(perturbed: Tensor) -> Tensor:
        return (perturbed > 0).to(perturbed.dtype)

    @staticmethod
    def soft(perturbed: Tensor, temperature: Tensor | float) -> Tensor:
        return (perturbed / temperature).sigmoid()

    @staticmethod
    def classes(logits: Tensor) -> int:
        return 2

    @staticmethod
    def nth(index: Tensor, logits: Tensor) -> Tensor:
        return index.to(logits.dtype)


class OneHotFamily(Family):
    """One-hot vectors."""

    one_hot = True

    @staticmethod
    def normalized(logits: Tensor) -> Tensor:
        return logits.log_softmax(-1)

    @staticmethod
    def mean(logits: Tensor) -> Tensor:
        return logits.softmax(-1)

    @staticmethod
    def covariance(logits: Tensor, vector: Tensor) -> Tensor:
        p = logits.softmax(-1)
        return p * (vector - (p * vector).sum(-1, keepdim=True))

    @staticmethod
    def log_prob(logits: Tensor, vector: Tensor) -> Tensor:
        return (vector * logits.log_softmax(-1)).sum(-1)

    @staticmethod
    def perturbed(logits: Tensor) -> Tensor:
        exponential = -(uniform(logits.shape, logits).clamp(min=TINY)).log()
        return logits.log_softmax(-1) - exponential.clamp(min=TINY).log()

    @staticmethod
    def perturbed_given(logits: Tensor, vector: Tensor) -> Tensor:
        # The largest is a Gumbel draw; the others are Gumbel draws that are below it.
        exponential = -(uniform(logits.shape, logits).clamp(min=TINY)).log().clamp(max=-TINY)
        largest = (vector * exponential).sum(-1, keepdim=True).log()
        # In logarithms: the probability of a class may be too small for a number.
        below = -torch.logaddexp(exponential.log() - logits.log_softmax(-1), largest)
        return torch.where(vector > 0, -largest, below)

    @staticmethod
    def hard(perturbed: Tensor) -> Tensor:
        return F.one_hot(perturbed.argmax(-1), perturbed.shape[-1]).to(perturbed.dtype)

    @staticmethod
    def soft(perturbed: Tensor, temperature: Tensor | float) -> Tensor:
        return (perturbed / temperature).softmax(-1)

    @staticmethod
    def classes(logits: Tensor) -> int:
        return logits.shape[-1]

    @staticmethod
    def nth(index: Tensor, logits: Tensor) -> Tensor:
        return F.one_hot(index, logits.shape[-1]).to(logits.dtype)


class CategoricalFamily(OneHotFamily):
    """Indices of classes, which estimators handle as one-hot vectors."""

    differentiable = False

    @staticmethod
    def vector(value: Tensor, logits: Tensor) -> Tensor:
        return F.one_hot(value.long(), logits.shape[-1]).to(logits.dtype)

    @staticmethod
    def value(vector: Tensor) -> Tensor:
        return vector.argmax(-1)


class Vectors(NamedTuple):
    """The values of a site as vectors of a family.

    Attributes:
        family: The family of the site's distribution.
        logits: Its logits, differentiable, of shape (K, plates, event).
        value: The values, of the shape of the logits.
    """

    family: type[Family]
    logits: Tensor
    value: Tensor


FAMILIES: dict[type, type[Family]] = {
    Bernoulli: BernoulliFamily,
    OneHotCategorical: OneHotFamily,
    Categorical: CategoricalFamily,
}


def base_of(fn: Any) -> Any:
    """Returns a distribution without what wraps it: events, masks and expansions."""
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    return fn


def family_of(fn: Any) -> type[Family] | None:
    """Returns the family of a distribution; ``None`` if it is of none of :data:`FAMILIES`."""
    base = base_of(fn)
    return next((family for kind, family in FAMILIES.items() if isinstance(base, kind)), None)


def require_family(fn: Any) -> type[Family]:
    """Returns the family of a distribution that has one."""
    family = family_of(fn)
    assert family is not None
    return family


def logits_of(fn: Any) -> Tensor:
    """Returns the logits of a distribution of one of the families, of its full shape.

    Those of classes are normalised, and at least :data:`IMPOSSIBLE`.
    """
    base = base_of(fn)
    # Of a subclass with other event dimensions, as of one class at a time, logits are the same.
    shape = torch.Size(fn.batch_shape) + torch.Size(fn.event_shape)
    logits = base.logits
    if isinstance(base, Categorical):
        shape = shape + logits.shape[-1:]
    if not isinstance(base, Bernoulli):
        logits = logits.clamp(min=IMPOSSIBLE)
    return logits.expand(shape)


class Relaxed(TorchDistribution):
    """A discrete distribution whose log-probability is extended linearly between its values.

    It is reparameterised if it has draws of its own.

    Args:
        fn: The discrete distribution.
        draw: Returns a relaxed draw, as a vector, from logits; ``None`` if none is needed.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real
    has_rsample = True

    def __init__(self, fn: Any, draw: Any = None) -> None:
        self.fn, self.draw = fn, draw
        self.family = require_family(fn)
        super().__init__(fn.batch_shape, fn.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        result = self.family.log_prob(logits_of(self.fn), value)
        dims = len(self.event_shape) - int(self.family.one_hot)
        return result.sum(tuple(range(-dims, 0))) if dims else result

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.draw(logits_of(self.fn))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.rsample(sample_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Relaxed:
        return Relaxed(self.fn.expand(batch_shape), self.draw)
