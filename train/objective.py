"""The objectives of all methods: modules that map a batch to losses and metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import torch
from pyro.infer import ELBO
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from pyro_models.ae import Autoencoder
from pyro_models.announcements import unannounced
from pyro_models.components import PrincipalComponents
from pyro_models.sharing import one_estimate
from train.estimators import loss_and_terms
from train.losses.correspondence import Similarity, cycle
from train.losses.stacks import inhomogeneity, separation, unexplained

Batch = tuple[Tensor, ...]


class Objective(nn.Module, ABC):
    """Networks and their losses, one loss for each optimiser.

    An objective with a single optimiser sets :attr:`loss_name` and returns its loss under that
    name. An objective with several optimisers overrides :meth:`parameter_groups`.
    """

    loss_name: ClassVar[str] = "loss"
    """The name of the single loss, by which the default :meth:`parameter_groups` trains all
    parameters."""

    @abstractmethod
    def forward(self, batch: Batch, step: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Evaluates the losses of a batch.

        Args:
            batch: Tensors with one row for each datum.
            step: The number of completed steps, of shape (), on the device.

        Returns:
            The losses by name, of shape (), in nats per datum, each to be minimised by the
            parameters of its own optimiser alone; and metrics by name, detached, of shape ().
        """

    def start(self, batches: Iterable[Batch]) -> None:
        """Initialises weights from the data, before the first step; does nothing by default.

        Args:
            batches: Some of the training batches, on the device of the weights.
        """

    def parameter_groups(self, learning_rate: float) -> dict[str, list[dict[str, Any]]]:
        """Returns the parameter groups of each optimiser, as PyTorch takes them, by loss name.

        By default one optimiser, of the loss :attr:`loss_name`, trains all parameters.
        """
        return {self.loss_name: [{"params": list(self.parameters()), "lr": learning_rate}]}

    def learning_rate_factor(self, done: int) -> float:
        """Returns a factor on all learning rates, beside that of ``--decay``; 1 by default.

        Args:
            done: The number of completed steps.
        """
        return 1.0


@dataclass(frozen=True)
class Anneal:
    r"""A value that moves from ``start`` to ``end`` in ``steps`` steps and then stays.

    Attributes:
        start: The first value.
        end: The last value.
        steps: The number of steps from start to end; 0 for ``end`` at every step.
        geometric: Whether the value changes by equal factors rather than by equal amounts.
    """

    start: float
    end: float
    steps: int
    geometric: bool = False

    def __call__(self, step: Tensor) -> Tensor | float:
        """Returns the value after a number of steps, of shape (), on the step's device.

        One that never changes is a number, by which nothing has to be multiplied if it is 1.
        """
        if self.start == self.end:
            return self.end
        done = (step / self.steps).clamp(max=1.0) if self.steps else torch.ones_like(step).float()
        if self.geometric:
            return self.start * (self.end / self.start) ** done
        return self.start + (self.end - self.start) * done


def schedule(settings: Any, *names: str) -> dict[str, Anneal]:
    """Makes the schedules of annealed settings.

    Args:
        settings: Settings with these attributes for each name: ``NAME``, the last value, and
            ``NAME_start``, the first value, ``None`` for a constant. ``anneal_steps`` is the number
            of steps.
        names: Names of settings.

    Returns:
        Schedules by name, geometric where both values are above zero.
    """
    schedules = {}
    for name in names:
        end, start = getattr(settings, name), getattr(settings, f"{name}_start")
        first = end if start is None else start
        schedules[name] = Anneal(first, end, settings.anneal_steps, geometric=min(first, end) > 0)
    return schedules


class ELBOObjective(Objective):
    r"""The negative ELBO of a Pyro model and guide, in nats per datum, as the loss ``"elbo"``.

    The metrics are the estimator's terms per datum, among them the ELBO at beta 1: see
    :func:`train.estimators.loss_and_terms`.

    Args:
        model: Called with the batch and the annealed values.
        guide: Called like the model.
        estimator: Any ELBO of Pyro's with a ``differentiable_loss``, or one of
            :mod:`train.estimators`. If it has parameters of its own, in an attribute ``estimators``
            as :class:`train.estimators.DiscreteELBO` has, they are trained with those of the guide.
        annealed: Keyword arguments that may change over the steps, as functions of the number of
            completed steps, such as :class:`Anneal`. Model and guide take them, but those in
            :func:`train.estimators.annealed_names`, which the estimator takes.
        groups: Pairs of a submodule of model or guide and the options of its parameter group: its
            own learning rate ``lr``, and others that the optimiser has.
        begin: Initialises weights from batches of images, before the first step; ``None`` if there
            is nothing to initialise.
    """

    def __init__(
        self,
        model: nn.Module,
        guide: nn.Module,
        estimator: ELBO,
        *,
        annealed: Mapping[str, Callable[[Tensor], Tensor | float]] | None = None,
        groups: Sequence[tuple[nn.Module, Mapping[str, Any]]] = (),
        begin: Callable[[Iterable[Tensor]], None] | None = None,
    ) -> None:
        super().__init__()
        self.begin = begin
        # They have what their class has, which the method knows.
        self.model: Any = model
        self.guide: Any = guide
        self.estimator = estimator
        self.annealed = dict(annealed or {})
        self.groups = tuple((tuple(module.parameters()), options) for module, options in groups)

    @property
    def estimator(self) -> ELBO:
        """The estimator, which can be exchanged."""
        return self._estimator

    @estimator.setter
    def estimator(self, estimator: ELBO) -> None:
        self._estimator = estimator
        self.estimators = getattr(estimator, "estimators", None)

    def start(self, batches: Iterable[Batch]) -> None:
        if self.begin is not None:
            self.begin(batch[0] for batch in batches)

    # In the global parameter store two models of one process would get one set of weights.
    @pyro.get_param_store().scope()
    def forward(self, batch: Batch, step: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        annealed: dict[str, Any] = {name: value(step) for name, value in self.annealed.items()}
        pair = (self.model, self.guide)
        # The first step, in which Pyro validates, announces weights, so that clashes are found.
        announced = nullcontext() if is_validation_enabled() else unannounced()
        with one_estimate(), announced:
            loss, terms = loss_and_terms(self.estimator, *pair, *batch, **annealed)
        size = len(batch[0])
        return {"elbo": loss / size}, {name: value / size for name, value in terms.items()}

    def parameter_groups(self, learning_rate: float) -> dict[str, list[dict[str, Any]]]:
        special = {id(weight) for weights, _ in self.groups for weight in weights}
        others = [weight for weight in self.parameters() if id(weight) not in special]
        groups = [{"params": others, "lr": learning_rate}]
        groups += [{"params": list(weights), **options} for weights, options in self.groups]
        return {"elbo": groups}


class CorrespondenceObjective(Objective):
    r"""ABC's cycle loss of a pair of stacks, in both directions, as the loss ``"cycle"``.

    A datum is a pair of stacks. The metric ``cycle_accuracy`` is the fraction of images that are
    nearest, in their stack, to their soft neighbour in the other stack.

    The cycle finds what tells images apart most easily, and leaves the rest. With ``components``
    embeddings keep more of what varies inside stacks, and with ``energy_weight`` and
    ``separation_weight`` less of what is constant in them:

    .. math:: L = L(A, B) + L(B, A) + \lambda \, \frac{u(A) + u(B)}{2} + \gamma \, H(A, B)
        + \eta \max(S(A, B), 0)

    with the share :math:`u` of the images' principal components that is no linear function of
    embeddings (:func:`train.losses.stacks.unexplained`), the relative energy distance :math:`H`
    of the stacks' distributions (:func:`train.losses.stacks.inhomogeneity`) and the excess
    :math:`S` of neighbours of the own stack (:func:`train.losses.stacks.separation`). In the first
    ``component_steps`` steps the loss is :math:`\lambda \, (u(A) + u(B)) / 2` alone. The metrics
    are then all terms: ``cycle_nats``, ``unexplained``, ``inhomogeneity`` and ``separation``.

    Args:
        embedder: Maps images :math:`(*, C, H, W)` to embeddings :math:`(*, D)`. With components it
            has the images' ``shape``.
        similarity: See :func:`train.losses.correspondence.similarity`.
        temperature: The temperature of the softmax, above 0.
        view: Augments images. With it, each image is augmented twice: one view queries its
            neighbour, the other is the target of the way back.
        components: The number of principal components, which are fitted to the first batches; 0 for
            a loss without :math:`u`.
        component_weight: :math:`\lambda`.
        component_steps: The number of steps at first in which only components are learnt.
        energy_weight: :math:`\gamma`.
        separation_weight: :math:`\eta`.
    """

    loss_name = "cycle"

    def __init__(
        self,
        embedder: nn.Module,
        *,
        similarity: Similarity = "l2sq",
        temperature: float = 1.0,
        view: Callable[[Tensor], Tensor] | None = None,
        components: int = 0,
        component_weight: float = 1.0,
        component_steps: int = 0,
        energy_weight: float = 0.0,
        separation_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.options: dict[str, Any] = {"kind": similarity, "temperature": temperature}
        self.view = view
        self.components: PrincipalComponents | None = None
        if components:
            shape: Any = embedder.shape
            self.components = PrincipalComponents(shape, components)
        self.component_weight = component_weight
        self.component_steps = component_steps
        self.energy_weight = energy_weight
        self.separation_weight = separation_weight

    def start(self, batches: Iterable[Batch]) -> None:
        if self.components is not None:
            self.components.fit(stack for batch in batches for stack in batch)

    def forward(self, batch: Batch, step: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        a, b = self.embed(batch, self.view)
        nats, accuracy = self.cycle(batch, a, b)
        metrics = {"cycle_accuracy": accuracy}
        loss = nats
        if self.energy_weight:
            apart = inhomogeneity(a, b).mean()
            loss = loss + self.energy_weight * apart
            metrics["inhomogeneity"] = apart.detach()
        if self.separation_weight:
            excess = separation(a, b, **self.options).mean()
            # Neighbours that are of the own stack less often than by chance reveal nothing more.
            loss = loss + self.separation_weight * excess.relu()
            metrics["separation"] = excess.detach()
        if self.components is not None:
            stacks = zip((a, b), batch, strict=True)
            shares = [unexplained(z, self.components(images)).mean() for z, images in stacks]
            share = torch.stack(shares).mean()
            loss = loss * (step >= self.component_steps) + self.component_weight * share
            metrics["unexplained"] = share.detach()
        if loss is not nats:
            metrics["cycle_nats"] = nats.detach()
        return {"cycle": loss}, metrics

    def cycle(self, batch: Batch, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        r"""Returns the cycle loss in both directions, in nats, and the cycle accuracy.

        Args:
            batch: Stacks, each of shape :math:`(B, n, C, H, W)`.
            a: The embeddings of the first stack, of shape :math:`(B, n, D)`.
            b: Those of the second stack.
        """
        target_a, target_b = (a, b) if self.view is None else self.embed(batch, self.view)
        loss_a, nearest_a = cycle(a, b, target_a, **self.options)
        loss_b, nearest_b = cycle(b, a, target_b, **self.options)
        accuracy = (nearest_a.float().mean() + nearest_b.float().mean()) / 2
        return (loss_a + loss_b).mean(), accuracy

    def embed(self, batch: Batch, view: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, ...]:
        r"""Returns the embeddings of all stacks, from one forward pass.

        Args:
            batch: Stacks, each of shape :math:`(B, n, C, H, W)`.
            view: Augments images before they are embedded.

        Returns:
            For each stack a tensor of shape :math:`(B, n, D)`.
        """
        images = torch.cat(batch, dim=1)
        images = images if view is None else view(images)
        return self.embedder(images).split([stack.shape[1] for stack in batch], dim=1)


class ReconstructionObjective(Objective):
    r"""An autoencoder's mean squared error per pixel, as the loss ``"autoencoder"``.

    .. math:: \frac{1}{C H W} |g(f(x + \sigma \epsilon)) - x|^2, \quad
        \epsilon \sim \mathcal{N}(0, I)

    Args:
        autoencoder: The autoencoder :math:`g \circ f`.
        noise: :math:`\sigma`, the standard deviation of the noise on the encoder's input, which is
            clipped to [0, 1].
    """

    loss_name = "autoencoder"

    def __init__(self, autoencoder: Autoencoder, noise: float = 0.0) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.noise = noise

    def forward(self, batch: Batch, step: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        images = batch[0]
        inputs = images
        if self.noise:
            inputs = (images + self.noise * torch.randn_like(images)).clamp(0, 1)
        error = (self.autoencoder(inputs) - images).square().mean()
        return {"autoencoder": error}, {"mse": error.detach()}

    def start(self, batches: Iterable[Batch]) -> None:
        self.autoencoder.start_at(mean_image(batches))


class InterpolationObjective(Objective):
    r"""ACAI's two losses: the autoencoder's and the critic's.

    The critic estimates the mixing coefficient :math:`\alpha` of a decoded mix of two codes. The
    autoencoder is trained to make the critic answer 0.

    .. math::
        \hat{x} = g(z), \quad z = f(x), \quad
        \tilde{x} & = g(\alpha z + (1 - \alpha) z'), \quad \alpha \sim \mathcal{U}(0, r) \\
        L_\text{autoencoder} & = |\hat{x} - x|^2 / (C H W) + \lambda \, d(\tilde{x})^2 \\
        L_\text{critic} & = (d(\tilde{x}) - \alpha)^2
            + d(\hat{x} + \gamma (x - \hat{x}))^2

    with :math:`z'` the code of another image of the batch. One forward pass serves both losses: the
    loop gives each loss the gradients of its own parameters alone.

    Args:
        autoencoder: :math:`f` and :math:`g`.
        critic: :math:`d`, from images :math:`(B, C, H, W)` to :math:`(B)`.
        weight: :math:`\lambda`. The paper's 0.5 for pixels in [-1, 1] is 0.125 for pixels in
            [0, 1].
        blend: :math:`\gamma`, the proportion of the real image that is blended into the
            reconstruction for which the critic must answer 0.
        reach: :math:`r`, the upper bound of :math:`\alpha`, in [0, 0.5].

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
        # Rolled rather than reversed: with an odd batch size, too, each image gets another one.
        mixed = torch.lerp(z.roll(1, 0), z, alpha.unsqueeze(1))
        decoded, mixes = self.autoencoder.decode(torch.cat([z, mixed])).chunk(2)
        predicted = self.critic(mixes)
        # Detached, because this term is in the critic's loss alone.
        blended = torch.lerp(decoded.detach(), images, self.blend)
        predicted_unmixed = self.critic(blended)

        mse = (decoded - images).square().mean()
        fooling = predicted.square().mean()
        mixing_mse = (predicted - alpha).square().mean()
        losses = {
            "autoencoder": mse + self.weight * fooling,
            "critic": mixing_mse + predicted_unmixed.square().mean(),
        }
        return losses, {"mse": mse.detach(), "mixing_mse": mixing_mse.detach()}

    def start(self, batches: Iterable[Batch]) -> None:
        self.autoencoder.start_at(mean_image(batches))

    def parameter_groups(self, learning_rate: float) -> dict[str, list[dict[str, Any]]]:
        modules = {"autoencoder": self.autoencoder, "critic": self.critic}
        return {
            name: [{"params": list(module.parameters()), "lr": learning_rate}]
            for name, module in modules.items()
        }


def mean_image(batches: Iterable[Batch]) -> Tensor:
    r"""Returns the mean image of the first tensor of each batch, of shape :math:`(C, H, W)`."""
    return torch.stack([batch[0].mean(0) for batch in batches]).mean(0)
