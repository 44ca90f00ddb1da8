"""Baselines: control variates of the score function estimators of AIR's presences."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pyro_models.networks import MLP


@runtime_checkable
class LearnsFromCosts(Protocol):
    """A baseline that is updated from observed costs, and not by a gradient.

    After each estimate, a score function estimator calls ``update`` of a :class:`RecurrentGuide`'s
    baseline that has it.
    """

    def update(self, step: int, costs: Tensor, weights: Tensor) -> None:
        r"""Updates the baseline with the costs downstream of the presences of a step, in nats.

        Args:
            step: The step, from 0.
            costs: Of the shape of the presence, :math:`(*, B)`.
            weights: One if all earlier objects are present, else zero; of the same shape.
        """


class DecayingAverage(nn.Module):
    r"""A baseline: the exponential moving average of the cost downstream of each presence.

    Its state is in buffers of the module. That of Pyro's own decaying average is in the parameter
    store.

    Args:
        steps: The number of presences.
        decay: The decay rate of the average, in [0, 1).
    """

    total: Tensor
    weight: Tensor

    def __init__(self, steps: int, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("total", torch.zeros(steps))
        self.register_buffer("weight", torch.zeros(steps))

    def forward(self, step: int, images: Tensor, hidden: Tensor) -> Tensor:
        r"""Returns the average in nats; zero before the first :meth:`update`.

        Args:
            step: The step, from 0.
            images: Scenes, of shape :math:`(B, C, H, W)`.
            hidden: The guide's state, of shape :math:`(*, B, S)`.

        Returns:
            Of shape :math:`(*, B)`.
        """
        mean = self.total[step] / self.weight[step].clamp(min=1e-12)
        return mean.expand(hidden.shape[:-1])

    @torch.no_grad()
    def update(self, step: int, costs: Tensor, weights: Tensor) -> None:
        """Updates the average with weighted costs; see :class:`LearnsFromCosts`."""
        for state, value in ((self.total, costs * weights), (self.weight, weights)):
            state[step] = self.decay * state[step] + value.sum()


class BaselineNetwork(nn.Module):
    r"""A baseline: a network that predicts the cost downstream of each presence.

    Its inputs are the image and the guide's detached state. It is trained by its squared error,
    which :class:`~pyro.infer.TraceGraph_ELBO` adds to the loss.

    Args:
        values: The number of values of an image, :math:`C H W`.
        state: The size of the guide's state.
        hidden: The width of the hidden layers.
        unit: The scale of the output, in nats. Costs are hundreds of nats, and training works best
            with outputs of order one.
    """

    def __init__(self, values: int, state: int, hidden: int = 256, unit: float = 100.0) -> None:
        super().__init__()
        self.unit = unit
        self.image = nn.Linear(values, hidden)
        self.state = nn.Linear(state, hidden, bias=False)
        self.head = MLP(hidden, 1, (hidden,))

    def forward(self, step: int, images: Tensor, hidden: Tensor) -> Tensor:
        r"""Predicts the cost in nats.

        Args:
            step: The step, from 0.
            images: Scenes, of shape :math:`(B, C, H, W)`.
            hidden: The guide's state, of shape :math:`(*, B, S)`.

        Returns:
            Of shape :math:`(*, B)`.
        """
        features = self.image(images.flatten(-3)) + self.state(hidden.detach())
        return self.unit * self.head(features.relu()).squeeze(-1).to(images.dtype)
