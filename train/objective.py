"""What the loop drives: a module that turns a batch into losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_models.ae import Autoencoder
from pyro_models.sharing import one_estimate
from train import losses

Batch = tuple[Tensor, ...]


class Objective(nn.Module, ABC):
    """Networks and their losses, one for each optimiser."""

    @abstractmethod
    def forward(self, batch: Batch, step: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Evaluates the losses of a batch.

        Args:
            batch: Tensors with one row for each datum.
            step: The number of steps done, of shape (), on the device.

        Returns:
            The losses by optimiser, of shape (), in nats per datum, each to be minimised by the
            parameters of that optimiser alone; and metrics by name, detached, of shape ().
        """

    def start(self, batches: Iterable[Batch]) -> None:
        """Sets what weights can be known from the data, before the first step; nothing by default.

        Args:
            batches: Some of the training batches, on the device of the weights.
        """

    @abstractmethod
    def parameter_groups(self, learning_rate: float) -> dict[str, list[dict[str, Any]]]:
        """The parameters of each optimiser, by the names of the losses, as PyTorch takes them."""


@dataclass(frozen=True)
class Anneal:
    r"""A value that goes from ``start`` to ``end`` in ``steps`` steps and stays there.

    Attributes:
        start: The first value.
        end: The last value.
        steps: How many steps it takes; 0 for ``end`` from the start.
        geometric: Whether it moves by equal factors rather than equal amounts.
    """

    start: float
    end: float
    steps: int
    geometric: bool = False

    def __call__(self, step: Tensor) -> Tensor:
        """The value after a number of steps, of shape (), on the step's device."""
        done = (step / self.steps).clamp(max=1.0) if self.steps else torch.ones_like(step).float()
        if self.geometric:
            return self.start * (self.end / self.start) ** done
        return self.start + (self.end - self.start) * done


def schedule(settings: Any, *names: str) -> dict[str, Anneal]:
    """What the settings say of annealed values.

    Args:
        settings: For each name it has a value to end at, ``NAME_start``, ``None`` for a value that
            stays, and the number of ``anneal_steps``.
        names: Names of settings. A start and an end above zero are joined by equal factors.
    """
    annealed = {}
    for name in names:
        end, start = getattr(settings, name), getattr(settings, f"{name}_start")
        first = end if start is None else start
        annealed[name] = Anneal(first, end, settings.anneal_steps, geometric=min(first, end) > 0)
    return annealed


class ELBOObjective(Objective):
    r"""A Pyro model and guide with an estimator of their ELBO.

    The loss is the negative ELBO in nats per datum, under the name ``"elbo"``. Metrics are what
    the estimator says of its parts in ``terms``, among them the ELBO at beta 1.

    Args:
        model: Called with the batch and the annealed values.
        guide: Called like the model.
        estimator: Any ELBO of Pyro's with a ``differentiable_loss``, or one of
            :mod:`train.estimators`.
        annealed: Keyword arguments of model and guide that change over the steps: functions of
            the steps done, such as :class:`Anneal`.
        rates: Modules, parts of model or guide, with a learning rate of their own.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        estimator: ELBO,
        *,
        annealed: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        rates: Sequence[tuple[nn.Module, float]] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.guide = guide
        self.estimator = estimator
        self.annealed = dict(annealed or {})
        self.rates = tuple((tuple(module.parameters()), rate) for module, rate in rates)

    # A parameter store of its own: in the global one two models of a process would share weights.
    @pyro.get_param_store().scope()
    def forward(self, batch: Batch, step: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        annealed = {name: value(step) for name, value in self.annealed.items()}
        with one_estimate():
            loss = self.estimator.differentiable_loss(self.model, self.guide, *batch, **annealed)
        terms = getattr(self.estimator, "terms", {})
        size = len(batch[0])
        return {"elbo": loss / size}, {name: value / size for name, value in terms.items()}

    def parameter_groups(self, learning_rate: float) -> dict[str, list[dict[str, Any]]]:
        special = {id(weight) for weights, _ in self.rates for weight in weights}
        rest = [weight for weight in self.parameters() if id(weight) not in special]
        groups = [{"params": rest, "lr": learning_rate}]
        groups += [{"params": list(weights), "lr": rate} for weights, rate in self.rates]
        return {"elbo": groups}


class CorrespondenceObjective(Objective):
    r"""ABC's loss: stacks find each other's images, both ways, under the name ``"cycle"``.

    A datum is a pair of stacks. The metric ``cycle_accuracy`` is the share of images whose soft
    neighbour
    in the other stack is nearest to them.

    Args:
        embedder: From images :math:`(*, H, W)` to embeddings :math:`(*, D)`.
        similarity: See :func:`train.losses.similarity`.
        temperature: Above zero.
        view: Makes another view of images, if each is to be seen twice: one view finds the
            neighbour, the other one is returned to.
    """

    def __init__(
        self,
        embedder: nn.Module,
        *,
        similarity: losses.Similarity = "l2sq",
        temperature: float = 1.0,
        view: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.options = {"kind": similarity, "temperature": temperature}
        self.view = view

    def forward(self, batch: Batch, step: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        a, b = self.embed(batch, self.view)
        # Views that are not asked for are the images themselves.
        back_a, back_b = (a, b) if self.view is None else self.embed(batch, self.view)
        there, found = losses.cycle(a, b, back_a, **self.options)
        back, found_too = losses.cycle(b, a, back_b, **self.options)
        share = (found.float().mean() + found_too.float().mean()) / 2
        return {"cycle": (there + back).mean()}, {"cycle_accuracy": share}

    def embed(self, batch: Batch, view: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, ...]:
        """Embeddings of the stacks of pairs, all in one pass."""
        images = torch.cat(batch, dim=1)
        seen = images if view is None else view(images)
        return self.embedder(seen).split([stack.shape[1] for stack in batch], dim=1)

    def parameter_groups(self, learning_rate: float) -> dict[str, list[dict[str, Any]]]:
        return {"cycle": [{"params": list(self.parameters()), "lr": learning_rate}]}


class ReconstructionObjective(Objective):
    r"""An autoencoder's loss: the mean square of a pixel's error, under ``"autoencoder"``.

    .. math:: \frac{1}{H W} |g(f(x + \sigma \epsilon)) - x|^2, \quad \epsilon \sim \mathcal{N}(0, I)

    Args:
        autoencoder: The autoencoder.
        noise: :math:`\sigma`, the standard deviation of noise on what the encoder sees; a noisy
            pixel is brought back into [0, 1].
    """

    def __init__(self, autoencoder: Autoencoder, noise: float = 0.0) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.noise = noise

    def forward(self, batch: Batch, step: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        images = batch[0]
        seen = images
        if self.noise:
            seen = (images + self.noise * torch.randn_like(images)).clamp(0, 1)
        error = (self.autoencoder(seen) - images).square().mean()
        return {"autoencoder": error}, {"mse": error.detach()}

    def start(self, batches: Iterable[Batch]) -> None:
        self.autoencoder.start_at(mean_image(batches))

    def parameter_groups(self, learning_rate: float) -> dict[str, list[dict[str, Any]]]:
        return {"autoencoder": [{"params": list(self.parameters()), "lr": learning_rate}]}


class InterpolationObjective(Objective):
    r"""ACAI's losses: of an autoencoder that hides its mixes, and of a critic that finds them.

    .. math::
        \hat{x} = g(z), \quad z = f(x), \quad
        \tilde{x} & = g(\alpha z + (1 - \alpha) z'), \quad \alpha \sim \mathcal{U}(0, r) \\
        L_\text{autoencoder} & = |\hat{x} - x|^2 / (H W) + \lambda \, d(\tilde{x})^2 \\
        L_\text{critic} & = (d(\tilde{x}) - \alpha)^2
            + d(\hat{x} + \gamma (x - \hat{x}))^2

    with :math:`z'` the code of another image of the batch. One forward pass serves both: the loop
    gives each loss the gradients of its own weights only, and the critic's answer to the mixes is
    in both.

    Args:
        autoencoder: :math:`f` and :math:`g`.
        critic: :math:`d`, from images :math:`(B, H, W)` to :math:`(B)`.
        weight: :math:`\lambda`; half is the paper's with grey levels from -1 to 1, which is an
            eighth with levels from 0 to 1.
        blend: :math:`\gamma`, how much of an image there is in what the critic must call unmixed.
        reach: :math:`r`, the largest share of the one that is less, in [0, 0.5].

    References:
        | Understanding and Improving Interpolation in Autoencoders via an Adversarial Regularizer
          (Berthelot et al., 2018)
        | https://arxiv.org/abs/1807.07543
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        critic: nn.Module,
        *,
        weight: float = 0.125,
        blend: float = 0.2,
        reach: float = 0.5,
    ) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.critic = critic
        self.weight = weight
        self.blend = blend
        self.reach = reach

    def forward(self, batch: Batch, step: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        images = batch[0]
        z = self.autoencoder.encode(images)
        alpha = self.reach * torch.rand(len(images), device=images.device)
        # Rolled, not reversed: every image has a partner, in a batch of odd size too.
        mixed = torch.lerp(z.roll(1, 0), z, alpha.unsqueeze(1))
        decoded, mixes = self.autoencoder.decode(torch.cat([z, mixed])).chunk(2)
        found = self.critic(mixes)
        # Detached, as no gradient of this part is for the autoencoder.
        unmixed = self.critic(torch.lerp(decoded.detach(), images, self.blend))

        error = (decoded - images).square().mean()
        fooled = found.square().mean()
        missed = (found - alpha).square().mean()
        losses = {
            "autoencoder": error + self.weight * fooled,
            "critic": missed + unmixed.square().mean(),
        }
        return losses, {"mse": error.detach(), "mixing_mse": missed.detach()}

    def start(self, batches: Iterable[Batch]) -> None:
        self.autoencoder.start_at(mean_image(batches))

    def parameter_groups(self, learning_rate: float) -> dict[str, list[dict[str, Any]]]:
        parts = {"autoencoder": self.autoencoder, "critic": self.critic}
        return {
            name: [{"params": list(module.parameters()), "lr": learning_rate}]
            for name, module in parts.items()
        }


def mean_image(batches: Iterable[Batch]) -> Tensor:
    """The mean of the images that come first in each batch, of shape :math:`(H, W)`."""
    return torch.stack([batch[0].mean(0) for batch in batches]).mean(0)
