"""Trains ICVAE, codes that say nothing about a known factor: ``python -m train.icvae``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from train.cli import command
from train.settings.icvae import ICVAESettings
from train.sized import SizedELBOMethod

if TYPE_CHECKING:
    import torch

    from train.data.conditions import AnyCondition
    from train.data.labelled import Split
    from train.fitting import Misfit
    from train.metrics.coding import ICVAEWatch
    from train.objective import Batch, ELBOObjective
    from train.verbs.conditional import TrainedICVAE


class ICVAE(SizedELBOMethod):
    """Codes that say nothing about a known factor; also a CVAE and a VAE."""

    name = "icvae"
    settings = ICVAESettings
    estimators = ("meanfield", "tracegraph")
    needs_labels = True

    def condition(self, settings: ICVAESettings, data: Split) -> AnyCondition:
        """Returns what converts labels, or columns of the data, to the condition."""
        from train.data import conditions

        return conditions.fit(*data, settings.condition)

    def misfits(self, settings: ICVAESettings, data: Split) -> list[Misfit | None]:
        from train import fitting

        fitting.require_classes(settings.invariance, self.condition(settings, data).classes)
        (batch,) = super().misfits(settings, data)
        size = batch.fits if batch else settings.batch_size
        terms = fitting.echo_terms(settings.echo_terms, size, len(data.held_out))
        return [batch, terms if settings.invariance == "echo" else None]

    def inputs(self, settings: ICVAESettings, data: Split) -> dict[str, Any]:
        state = self.condition(settings, data).state()
        return super().inputs(settings, data) | {"condition": state}

    def batches(
        self, settings: ICVAESettings, data: Split, device: torch.device
    ) -> Callable[[int], Batch]:
        c = self.condition(settings, data).of_images(data.train, settings.conditional)
        return data.train.batches(settings.batch_size, settings.seed, device, c)

    def build(self, settings: ICVAESettings, inputs: Mapping[str, Any]) -> ELBOObjective:
        from guides.icvae import model_and_guide
        from train.data import conditions
        from train.estimators import restored
        from train.losses.invariance import invariance, network_groups, penalty_weights
        from train.objective import ELBOObjective, schedule

        condition = conditions.restored(inputs["condition"])
        c_dim = condition.size if settings.conditional else 0
        penalty = invariance(settings.invariance, condition.parts, settings.z_dim)
        names = ("z_dim", "levels", "invariance", "memory", "hidden", "echo_terms")
        names += ("likelihood", "likelihood_scale", "encoder_sees_labels")
        options = self.arguments(settings, inputs, *names)
        model, guide = model_and_guide(self.shape(inputs), c_dim, penalty, **options)
        annealed = penalty_weights(settings.invariance, **schedule(settings, "beta", "weight"))
        groups = network_groups(penalty, settings.predictor_learning_rate)
        estimator = self.estimator(settings, restored)
        return ELBOObjective(model, guide, estimator, annealed=annealed, groups=groups)

    def watch(self, settings: ICVAESettings, data: Split, objective: ELBOObjective) -> ICVAEWatch:
        from train.metrics.coding import ICVAEWatch

        condition, sampled = self.condition(settings, data), self.sampled(settings, data)
        options = settings.select("conditional", "seed") | {"invariance": settings.penalised}
        return ICVAEWatch(objective.model, objective.guide, sampled, condition, **options)

    @property
    def trained(self) -> type[TrainedICVAE]:
        from train.verbs.conditional import TrainedICVAE

        return TrainedICVAE

    def main(self, settings: ICVAESettings, *arguments: Any, **options: Any) -> dict[str, Any]:
        from train.studies import sweeps

        train = partial(super().main, **options)
        return sweeps.tradeoff(settings, train) if settings.sweep else train(settings, *arguments)


METHOD = ICVAE()
main = METHOD.main

if __name__ == "__main__":
    command(ICVAESettings, main)
