"""The record of ICVAE for tables, which ``python -m train.icvae --data people.csv`` trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.errors import require
from train.invariant import InvariantMethod
from train.settings.icvae import ICVAESettings

if TYPE_CHECKING:
    from guides.encoders import Invariance
    from pyro_models.rows import RowShape
    from train.data.tabular.rows import RowsSplit
    from train.metrics.tabular import TabularWatch
    from train.objective import ELBOObjective
    from train.verbs.tabular import TrainedTable


class TabularICVAE(InvariantMethod):
    """Codes of rows that say nothing about a column, such as a person's sex."""

    def takes(self, data: Any) -> bool:
        """Returns whether data given from Python are a table: a data frame, or two of them."""
        frames = data if isinstance(data, tuple | list) else (data,)
        return bool(frames) and all(
            hasattr(each, "columns") and hasattr(each, "iloc") for each in frames
        )

    def load_data(self, settings: ICVAESettings, data: Any = None) -> RowsSplit:
        """Reads the table, or takes data frames: all rows, or those to train on and to test on."""
        from train.data.tabular import frames, rows

        settings.require_defaults(settings.IMAGES, "is a setting of images")
        require(
            settings.condition != "labels",
            "--condition: name the column that codes are to say nothing about, or none",
        )
        roles = settings.roles(settings.conditions)
        if data is None:
            path = Path(settings.data).expanduser()
            return rows.prepare(frames.read(path), roles, settings.evaluate_on)
        if isinstance(data, tuple | list):
            require(len(data) == 2, "data: give one data frame, or those to train and to test on")
            train, held_out = data
            return rows.prepare_split(train, held_out, roles)
        return rows.prepare(data, roles, settings.evaluate_on)

    def inputs(self, settings: ICVAESettings, data: RowsSplit) -> dict[str, Any]:
        return super().inputs(settings, data) | {"schema": data.train.schema.state()}

    # Rows have columns, and not the channels, height and width of images.
    def shape(self, inputs: Mapping[str, Any]) -> RowShape:  # type: ignore[override]
        """Reads the columns out of :meth:`inputs`."""
        from train.data.tabular.schema import Schema

        return Schema.from_state(inputs["schema"]).shape

    def networks(
        self,
        settings: ICVAESettings,
        inputs: Mapping[str, Any],
        c_dim: int,
        penalty: Invariance | None,
    ) -> tuple[Any, Any]:
        from guides.tabular import model_and_guide
        from train.data.tabular.schema import Schema

        schema = Schema.from_state(inputs["schema"])
        names = ("z_dim", "levels", "invariance", "memory", "hidden", "echo_terms", "numbers")
        options = settings.select(*names, "target_weight", "encoder_sees_labels")
        return model_and_guide(schema.shape, c_dim, penalty, target=schema.target_kind, **options)

    def watch(
        self, settings: ICVAESettings, data: RowsSplit, objective: ELBOObjective
    ) -> TabularWatch:
        from train.metrics.tabular import TabularWatch

        others, options = self.watching(settings, data)
        return TabularWatch(objective.model, objective.guide, *others, **options)

    @property
    def trained(self) -> type[TrainedTable]:
        from train.verbs.tabular import TrainedTable

        return TrainedTable


TABLES = TabularICVAE()
"""The record."""
