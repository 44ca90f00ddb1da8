"""ICVAE for tables as a scikit-learn transformer of data frames."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from train.data.tabular import rows
from train.errors import require
from train.settings.icvae import ICVAESettings
from train.tabular import TABLES
from train.transformers import COMMAND_LINE_ONLY, Transformer

TARGET = "target"
"""The name of the target that ``y`` is."""


class TableTransformer(Transformer):
    r"""Transforms rows of a data frame by ICVAE, to codes that say nothing about a column.

    ``X`` is a data frame. ``condition`` names the columns that codes say nothing about, which are
    among those of ``X`` in ``fit``; ``transform`` does not need them. ``y`` is the target that
    codes are to predict, if ``target_weight`` is above 0, and else it is not used. Each column is
    scaled by itself: see :class:`train.data.tabular.columns.Column`.

    Args:
        condition: The name of a column, or several; ``"none"`` for a VAE.
        sample: Whether ``transform`` draws codes with ``seed``, or returns posterior means. Means
            may reveal more about the condition: see
            :class:`train.verbs.conditional.TrainedICVAE`.
        settings: The settings of ``python -m train.icvae`` by name.

    Attributes:
        trained_: The trained method: see :class:`train.verbs.tabular.TrainedTable`.

    Raises:
        ValueError: If ``X``, ``y`` or a setting is not valid.

    Example:
        >>> people = pd.DataFrame({"sex": ["f", "m"] * 30, "pay": np.arange(60.0) % 7})
        >>> codes = TableTransformer(condition="sex", steps=2, z_dim=3, hidden=(8,))
        >>> codes.fit_transform(people).shape
        (60, 3)
    """

    method = TABLES
    DEFAULTS: ClassVar = {"condition": "none", "invariance": "direct"}
    OPTIONS: ClassVar = {"sample": False}

    @classmethod
    def _fields(cls) -> list[Any]:
        left_out = {*COMMAND_LINE_ONLY, *ICVAESettings.IMAGES, "target"}
        return [field for field in fields(ICVAESettings) if field.name not in left_out]

    def fit(self, X: Any, y: Any = None) -> TableTransformer:
        """Trains ICVAE on rows.

        Args:
            X: A data frame with the condition's columns.
            y: A target for each row, NaN or None where it is unknown; needed if ``target_weight``
                is above 0.
        """
        with self._value_errors():
            frame = _frame(X)
            self.feature_names_in_ = np.array([str(name) for name in frame.columns], dtype=object)
            self.n_features_in_ = frame.shape[1]
            require(
                y is not None or not self.target_weight, "y is missing: target_weight weighs it"
            )
            settings = self._settings()
            if settings.target is not None:
                require(TARGET not in frame.columns, f"X has a column {TARGET}: rename it")
                frame = frame.assign(**{TARGET: np.asarray(y)})
            with self._training() as folder:
                settings = replace(settings, run_dir=folder)
                roles = settings.roles(settings.conditions)
                every = np.arange(len(frame))
                self._learn(
                    settings, rows.of_frame(rows.checked(frame, roles), roles, every, every)
                )
        return self

    def _settings(self) -> ICVAESettings:
        """Returns the settings, in which a VAE has no penalty."""
        values = {field.name: getattr(self, field.name) for field in self._fields()}
        if values["condition"] == "none" and values["invariance"] == "direct":
            values["invariance"] = "none"
        return ICVAESettings(**values, target=TARGET if values["target_weight"] else None)

    def transform(self, X: Any) -> np.ndarray:
        r"""Encodes rows to codes, of shape (M, D), float32."""
        check_is_fitted(self)
        with self._value_errors():
            z = self.trained_.encode(_frame(X), sample=self.sample, seed=self.seed)
        return z.cpu().numpy()

    def inverse_transform(self, X: Any, c: Any = None) -> pd.DataFrame:
        """Decodes codes (M, D) to the most probable rows under conditions.

        Args:
            X: Codes.
            c: The conditions by name, one for all codes or one for each; not needed for a VAE.
        """
        check_is_fitted(self)
        with self._value_errors():
            return self.trained_.decode(X, c)

    def transfer(self, X: Any, c: Any) -> pd.DataFrame:
        """Returns the same rows under other conditions ``c``, by name: see
        :meth:`train.verbs.tabular.TrainedTable.transfer`."""
        check_is_fitted(self)
        with self._value_errors():
            return self.trained_.transfer(_frame(X), c)

    def predict(self, X: Any) -> np.ndarray:
        """Predicts the target from codes."""
        check_is_fitted(self)
        with self._value_errors():
            return self.trained_.predict(_frame(X))


def _frame(X: Any) -> pd.DataFrame:
    require(
        isinstance(X, pd.DataFrame),
        f"X is a {type(X).__name__}: give a data frame with the columns",
    )
    return X
