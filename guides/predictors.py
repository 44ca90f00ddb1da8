"""Penalties with a network of their own, which predicts the condition from codes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pyro_models.networks import MLP


class Target(NamedTuple):
    r"""A condition that is predicted, one of those that :math:`c` is made of.

    Attributes:
        size: Its number of columns of :math:`c`.
        classes: Whether these are one-hot classes, and not standardised quantities.
    """

    size: int
    classes: bool

    @property
    def outputs(self) -> int:
        """The number of values that describe its distribution."""
        return self.size if self.classes else 2 * self.size

    def predicted(self, outputs: Tensor) -> Prediction:
        r"""Returns the distributions that outputs, of shape :math:`(B, *)`, describe."""
        return ClassPrediction(outputs) if self.classes else QuantityPrediction(outputs)


class Prediction(ABC):
    r"""Distributions :math:`q(c | z_i)` of a condition, given :math:`B` codes."""

    @abstractmethod
    def log_prob(self, c: Tensor) -> Tensor:
        r"""Returns :math:`\log q(c_i | z_i)`, of shape :math:`(B)`."""

    @abstractmethod
    def mean_log_prob(self, c: Tensor) -> Tensor:
        r"""Returns :math:`\frac{1}{B} \sum_j \log q(c_j | z_i)`, of shape :math:`(B)`."""


class ClassPrediction(Prediction):
    r"""Categorical distributions of one-hot classes.

    Args:
        logits: Of shape :math:`(B, C)`.
    """

    def __init__(self, logits: Tensor) -> None:
        self.log_q = logits.log_softmax(-1)

    def log_prob(self, c: Tensor) -> Tensor:
        return (self.log_q * c).sum(-1)

    def mean_log_prob(self, c: Tensor) -> Tensor:
        return self.log_q @ c.mean(0)


class QuantityPrediction(Prediction):
    r"""Diagonal Gaussians of standardised quantities.

    Args:
        outputs: Means, and log-variances before they are bounded, of shape :math:`(B, 2 K)`.
    """

    LIMIT = 4.0
    """Bound of the log-variances, as a density without one makes a penalty without one."""

    def __init__(self, outputs: Tensor) -> None:
        self.mean, log_variance = outputs.chunk(2, dim=-1)
        self.log_variance = self.LIMIT * (log_variance / self.LIMIT).tanh()

    def log_prob(self, c: Tensor) -> Tensor:
        return self._log_density((c - self.mean).square())

    def mean_log_prob(self, c: Tensor) -> Tensor:
        # The mean over j is one of squares, which are those of two moments.
        mean = c.mean(0)
        return self._log_density((mean - self.mean).square() + (c - mean).square().mean(0))

    def _log_density(self, squares: Tensor) -> Tensor:
        nats = squares * (-self.log_variance).exp() + self.log_variance + math.log(2 * math.pi)
        return -0.5 * nats.sum(-1)


class PredictivePenalty(nn.Module, ABC):
    r"""A penalty that a network :math:`q(c | z)` computes, trained beside the encoder.

    Two losses come of one batch, and each moves its own network. The penalty takes the network's
    weights as constants, so that its gradient is the encoder's. :meth:`loss`, of codes that are
    constants, is the network's: the negative log-likelihood of the condition. It has no weight, so
    that the network learns also where the penalty weighs nothing. Both networks take one step each,
    at the same time.

    With several conditions the network predicts each of them, and the penalties add up.

    Args:
        z_dim: The size :math:`D` of a code.
        targets: The conditions that :math:`c` is made of, in order.
        hidden: The widths of the network's hidden layers.
    """

    BETAS: ClassVar = (0.5, 0.999)
    """Decay rates of Adam's moments for the network: those of Radford et al., 2016, for adversarial
    training (https://arxiv.org/abs/1511.06434). With a longer memory of gradients it is late where
    codes move away from it."""

    def __init__(
        self, z_dim: int, targets: Sequence[Target], hidden: Sequence[int] = (128, 128)
    ) -> None:
        super().__init__()
        self.targets = tuple(targets)
        self.network = MLP(z_dim, sum(target.outputs for target in targets), hidden)

    def forward(self, z: Tensor, mu: Tensor, log_variance: Tensor, c: Tensor) -> Tensor:
        r"""Returns the penalty of each code, whose gradient does not reach the network.

        Args:
            z: Codes, of shape :math:`(B, D)`.
            mu: Unused, as the penalty is of samples.
            log_variance: Unused.
            c: The condition, of shape :math:`(B, K)`.

        Returns:
            Nats for each datum, of shape :math:`(B)`.
        """
        weights = {name: weight.detach() for name, weight in self.network.named_parameters()}
        outputs = functional_call(self.network, weights, (z,))
        predictions = self._predictions(outputs.to(z), c)
        return torch.stack([self.of_condition(q, part) for q, part in predictions]).sum(0)

    def loss(self, z: Tensor, c: Tensor) -> Tensor:
        r"""Returns the network's own loss, :math:`-\log q(c_i | z_i)`, of shape :math:`(B)`.

        Its gradient does not reach the codes.

        Args:
            z: Codes, of shape :math:`(B, D)`.
            c: The condition, of shape :math:`(B, K)`.
        """
        outputs = self.network(z.detach()).to(z)
        predictions = self._predictions(outputs, c)
        return -torch.stack([q.log_prob(part) for q, part in predictions]).sum(0)

    @abstractmethod
    def of_condition(self, q: Prediction, c: Tensor) -> Tensor:
        r"""Returns the penalty of one condition.

        Args:
            q: What the network predicts.
            c: The condition, of shape :math:`(B, C)`.

        Returns:
            Nats for each datum, of shape :math:`(B)`.
        """

    def _predictions(self, outputs: Tensor, c: Tensor) -> list[tuple[Prediction, Tensor]]:
        """Returns what is predicted of each condition, and what it is."""
        described = outputs.split([target.outputs for target in self.targets], dim=-1)
        parts = c.split([target.size for target in self.targets], dim=-1)
        of_each = zip(self.targets, described, parts, strict=True)
        return [(target.predicted(values), part) for target, values, part in of_each]


class AdversarialPenalty(PredictivePenalty):
    r"""Adversarial training: the encoder makes worse what the network makes better.

    .. math:: \log q(c_i | z_i)

    Its mean is at most :math:`I(z; c) - H(c)`, and equal to that for the best network: it is a
    lower bound of what is to be small, and negative for classes. For classes it is training against
    a cross entropy, as of Xie et al.; Madras et al. have an :math:`L_1` loss, with equal weight for
    both groups, in its place. For quantities it is training against a Gaussian likelihood.

    References:
        | Controllable Invariance through Adversarial Feature Learning (Xie et al., 2017)
        | https://arxiv.org/abs/1705.11122
        | Learning Adversarially Fair and Transferable Representations (Madras et al., 2018)
        | https://arxiv.org/abs/1802.06309

    Example:
        >>> import torch
        >>> penalty = AdversarialPenalty(2, [Target(10, classes=True)])
        >>> z, c = torch.randn(5, 2), torch.eye(10)[:5]
        >>> penalty(z, z, z, c).shape, penalty.loss(z, c).shape
        (torch.Size([5]), torch.Size([5]))
    """

    def of_condition(self, q: Prediction, c: Tensor) -> Tensor:
        return q.log_prob(c)


class CLUBPenalty(PredictivePenalty):
    r"""The contrastive log-ratio upper bound of the information between samples and condition.

    .. math:: \log q(c_i | z_i) - \frac{1}{B - 1} \sum_{j \ne i} \log q(c_j | z_i)

    With the true conditional :math:`p(c | z)` in place of :math:`q` its mean is at least
    :math:`I(z; c)`, and without bias at any batch size. With another :math:`q` it is an estimate,
    and bounds nothing; it may be negative. The sum over :math:`j` is exact: of classes it is one
    over their frequencies, of quantities, which are Gaussian, one of moments.

    References:
        | CLUB: A Contrastive Log-ratio Upper Bound of Mutual Information (Cheng et al., 2020)
        | https://arxiv.org/abs/2006.12013
    """

    def of_condition(self, q: Prediction, c: Tensor) -> Tensor:
        # The mean over all j has i in it, which makes it smaller by the factor (B - 1) / B.
        return (q.log_prob(c) - q.mean_log_prob(c)) * (len(c) / max(len(c) - 1, 1))
