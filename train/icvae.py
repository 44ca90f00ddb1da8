"""Trains ICVAE, codes that say nothing about a known factor: ``python -m train.icvae``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from train.cli import command
from train.data.tabular.roles import is_table
from train.invariant import InvariantMethod
from train.settings.icvae import ICVAESettings
from train.sized import SizedELBOMethod
from train.tabular import TABLES

if TYPE_CHECKING:
    from guides.encoders import Invariance
    from train.data.labelled import Split
    from train.engine.callbacks import Callback
    from train.method import Method
    from train.metrics.coding import ICVAEWatch
    from train.objective import ELBOObjective
    from train.verbs.conditional import TrainedICVAE


class ICVAE(InvariantMethod, SizedELBOMethod):
    """Codes of images that say nothing about a known factor; also a CVAE and a VAE.

    Tables are trained and loaded by the record of :mod:`train.tabular`.
    """

    needs_labels = True

    def networks(
        self,
        settings: ICVAESettings,
        inputs: Mapping[str, Any],
        c_dim: int,
        penalty: Invariance | None,
    ) -> tuple[Any, Any]:
        from guides.icvae import model_and_guide

        names = ("z_dim", "levels", "invariance", "memory", "hidden", "echo_terms")
        others = ("likelihood", "likelihood_scale", "encoder_sees_labels")
        options = self.arguments(settings, inputs, *names, *others)
        return model_and_guide(self.shape(inputs), c_dim, penalty, **options)

    def watch(self, settings: ICVAESettings, data: Split, objective: ELBOObjective) -> ICVAEWatch:
        from train.metrics.coding import ICVAEWatch

        others, options = self.watching(settings, data)
        return ICVAEWatch(objective.model, objective.guide, *others, **options)

    @property
    def trained(self) -> type[TrainedICVAE]:
        from train.verbs.conditional import TrainedICVAE

        return TrainedICVAE

    def of_run(self, inputs: Mapping[str, Any]) -> Method:
        return TABLES if "schema" in inputs else self

    def main(
        self, settings: ICVAESettings, callbacks: Sequence[Callback] = (), *, data: Any = None
    ) -> dict[str, Any]:
        from train.studies import sweeps

        if is_table(settings.data) if data is None else TABLES.takes(data):
            return TABLES.main(settings, callbacks, data=data)
        settings.require_defaults(settings.TABLES, "is a setting of tables (.csv, .tsv, .parquet)")
        train = partial(super().main, callbacks=callbacks, data=data)
        return sweeps.tradeoff(settings, train) if settings.sweep else train(settings)


METHOD = ICVAE()
main = METHOD.main

if __name__ == "__main__":
    command(ICVAESettings, main)
