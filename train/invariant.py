"""What ICVAE for images and ICVAE for tables have in common: a condition, and a penalty."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from train.method import ELBOMethod
from train.settings.icvae import ICVAESettings

if TYPE_CHECKING:
    import torch

    from guides.encoders import Invariance
    from train.data.conditions import AnyCondition
    from train.fitting import Misfit
    from train.objective import Batch, ELBOObjective


class InvariantMethod(ELBOMethod):
    """Codes that say nothing about a known condition; also a CVAE and a VAE."""

    name = "icvae"
    settings = ICVAESettings
    estimators = ("meanfield", "tracegraph")

    @abstractmethod
    def networks(
        self,
        settings: ICVAESettings,
        inputs: Mapping[str, Any],
        c_dim: int,
        penalty: Invariance | None,
    ) -> tuple[Any, Any]:
        """Makes the model and the guide."""

    def condition(self, settings: ICVAESettings, data: Any) -> AnyCondition:
        """Returns what converts labels, or columns of the data, to the condition."""
        from train.data import conditions

        train, held_out = data
        return conditions.fit(train, held_out, settings.condition)

    def misfits(self, settings: ICVAESettings, data: Any) -> list[Misfit | None]:
        from train import fitting

        fitting.require_classes(settings.invariance, self.condition(settings, data).classes)
        (batch,) = super().misfits(settings, data)
        size = batch.fits if batch else settings.batch_size
        terms = fitting.echo_terms(settings.echo_terms, size, len(data.held_out))
        return [batch, terms if settings.invariance == "echo" else None]

    def inputs(self, settings: ICVAESettings, data: Any) -> dict[str, Any]:
        state = self.condition(settings, data).state()
        return super().inputs(settings, data) | {"condition": state}

    def batches(
        self, settings: ICVAESettings, data: Any, device: torch.device
    ) -> Callable[[int], Batch]:
        c = self.condition(settings, data).of_images(data.train, settings.conditional)
        return data.train.batches(settings.batch_size, settings.seed, device, c)

    def build(self, settings: ICVAESettings, inputs: Mapping[str, Any]) -> ELBOObjective:
        from train.data import conditions
        from train.estimators import restored
        from train.losses.invariance import invariance, network_groups, penalty_weights
        from train.objective import ELBOObjective, schedule

        condition = conditions.restored(inputs["condition"])
        c_dim = condition.size if settings.conditional else 0
        penalty = invariance(settings.invariance, condition.parts, settings.z_dim)
        model, guide = self.networks(settings, inputs, c_dim, penalty)
        annealed = penalty_weights(settings.invariance, **schedule(settings, "beta", "weight"))
        groups = network_groups(penalty, settings.predictor_learning_rate)
        estimator = self.estimator(settings, restored)
        return ELBOObjective(model, guide, estimator, annealed=annealed, groups=groups)

    def watching(self, settings: ICVAESettings, data: Any) -> tuple[tuple[Any, ...], dict]:
        """Returns what the method's watch takes after model and guide."""
        condition, sampled = self.condition(settings, data), self.sampled(settings, data)
        options = settings.select("conditional", "seed") | {"invariance": settings.penalised}
        return (sampled, condition), options
