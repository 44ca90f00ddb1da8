"""The settings of tables: what their columns are for, and what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from train.data.tabular.roles import Roles, orders
from train.errors import InputError, require
from train.settings.common import ELBOSettings, flag
from train.settings.effects import changed
from train.settings.values import NonNegative


@dataclass(frozen=True)
class TabularSettings(ELBOSettings):
    """Settings of a method that takes images or tables."""

    TABLES: ClassVar[tuple[str, ...]] = (
        *("target", "target_weight", "drop", "numerical", "categorical", "ordinal", "numbers"),
    )
    """The settings that tables alone have."""

    IMAGES: ClassVar[tuple[str, ...]] = (
        *("labels", "label_column", "grey", "skip_bad", "in_memory", "workers", "network"),
        *("likelihood", "likelihood_scale"),
    )
    """The settings that images alone have."""

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {"tables": TABLES}

    target: str | None = None
    """Column that codes are to predict. It is no input, and the results say how well it is read
    from codes, and how much the predictions depend on the condition."""
    target_weight: NonNegative = 0.0
    """Weight of the target's log-likelihood given the code, so that what predicts it is kept. Rows
    without a target train without it. 0: codes are made without the target."""
    drop: tuple[str, ...] = ()
    """Columns that are left out, such as proxies of the condition."""
    numerical: tuple[str, ...] = ()
    """Columns that are numbers. Numbers of two values are categories otherwise."""
    categorical: tuple[str, ...] = ()
    """Columns that are categories, such as numbers that are codes of something."""
    ordinal: tuple[str, ...] = ()
    """Columns that are ordered categories: NAME, or NAME=low,middle,high."""
    numbers: Literal["normal", "robust"] = "normal"
    """Distribution of a number given the code. normal: a Normal. robust: Student's t with 4 degrees
    of freedom, for columns with outliers. Its deviation is learned for each column."""

    def __post_init__(self) -> None:
        super().__post_init__()
        orders(self.ordinal)
        require(
            self.target is not None or not self.target_weight,
            f"--target-weight {self.target_weight:g} has no target to weigh: add --target COLUMN",
        )

    def require_defaults(self, names: tuple[str, ...], why: str) -> None:
        """Raises :class:`InputError` if one of these settings is not its default."""
        for name in changed(self, names):
            raise InputError(f"{flag(name)} {why}: leave it out")

    def roles(self, condition: tuple[str, ...]) -> Roles:
        """Returns what the columns of a table are for.

        Args:
            condition: The names of the conditions.
        """
        return Roles(
            condition=condition,
            target=self.target,
            drop=self.drop,
            split=self.split_column,
            numerical=self.numerical,
            categorical=self.categorical,
            ordinal=orders(self.ordinal),
            models_target=self.target_weight > 0,
        )
