"""Trains the plain autoencoder: ``python -m train.ae``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from train.cli import command
from train.settings.ae import AESettings
from train.sized import SizedMethod

if TYPE_CHECKING:
    from train.data.labelled import ValidationSplit
    from train.engine.loop import Best
    from train.metrics.autoencoding import AEWatch
    from train.objective import ReconstructionObjective
    from train.verbs.autoencoder import TrainedAutoencoder


class AE(SizedMethod):
    """The plain autoencoder."""

    name = "ae"
    settings = AESettings

    def load_data(self, settings: AESettings, data: Any = None) -> ValidationSplit:
        from train.data.labelled import ValidationSplit

        train, held_out = super().load_data(settings, data)
        train.require_contrast()
        # The weights are selected on images that are neither trained on nor reported on.
        train, validation = train.hold_out(12)
        return ValidationSplit(train, validation, held_out)

    def build(self, settings: AESettings, inputs: Mapping[str, Any]) -> ReconstructionObjective:
        from pyro_models import ae
        from train.objective import ReconstructionObjective

        shape, options = self.shape(inputs), self.arguments(settings, inputs)
        if options["network"] == "conv":
            autoencoder = ae.convolutional(shape, settings.z_dim, options["further_halvings"])
        else:
            autoencoder = ae.dense(shape, settings.z_dim, settings.hidden)
        return ReconstructionObjective(autoencoder, settings.noise)

    def watch(
        self, settings: AESettings, data: ValidationSplit, objective: ReconstructionObjective
    ) -> AEWatch:
        from train.metrics.autoencoding import AEWatch

        images = self.sampled(settings, data, stored=True)._asdict()
        starts, seed = settings.cluster_starts, settings.seed
        return AEWatch(objective.autoencoder, **images, starts=starts, seed=seed)

    def best(self, settings: AESettings) -> Best:
        from train.engine.loop import Best

        return Best("validation_mse", settings.patience)

    @property
    def trained(self) -> type[TrainedAutoencoder]:
        from train.verbs.autoencoder import TrainedAutoencoder

        return TrainedAutoencoder


METHOD = AE()
main = METHOD.main

if __name__ == "__main__":
    command(AESettings, main)
