"""Evaluates ICVAE on tables: each column's error, the target, and rows under other conditions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from train.data.conditions import Condition
from train.data.tabular.rows import Rows
from train.data.tabular.schema import Schema
from train.metrics import fairness
from train.metrics.invariance import Codes, InvarianceWatch
from train.metrics.measuring import Measures, Unmeasurable
from train.metrics.watch import TrainingLog

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from train.metrics.adversaries import Leakage


class TabularWatch(InvarianceWatch):
    r"""Evaluates a model and guide of rows.

    Args:
        model: The model.
        guide: Its guide.
        data: Training rows and held-out rows.
        condition: Converts columns to the condition :math:`c`.
        conditional: Whether model and guide depend on :math:`c`.
        invariance: Whether training penalises information about the condition in codes.
        seed: Seed of the adversaries.
    """

    PANELS: ClassVar = {
        "nats a row": {"elbo": "ELBO, training", "held_out_elbo": "ELBO, held out"},
        "nats": {"kl_z": "KL from the prior", "invariance": "term for invariance, weighted"},
        "error a cell": {"held_out_error": "held out"},
    }
    ERROR = "reconstruction_error"
    HELD_OUT_ERROR = "held_out_error"
    QUANTILES = (0.05, 0.5, 0.95)
    """The quantiles of a number in the figure ``swaps``."""
    MOST_VALUES = 4
    """Most categories of a condition in the figure ``swaps``."""

    train: Rows
    held_out: Rows

    @property
    def schema(self) -> Schema:
        """What the rows hold."""
        return self.train.schema

    def error(self, decoded: Tensor, data: Tensor) -> Tensor:
        r"""Returns the mean error of the cells of each row that are not missing, of shape
        :math:`(B)`.

        That of a number is its squared error in units of the column's variance, and that of a
        category is 0 if it is right and else 1.
        """
        errors = self.errors(decoded, data)
        present = ~errors.isnan()
        return errors.nan_to_num(0.0).sum(1) / present.sum(1).clamp(min=1)

    def errors(self, decoded: Tensor, data: Tensor) -> Tensor:
        r"""Returns the error of each cell, of shape :math:`(B, K)`, NaN where it is missing."""
        x = data[:, : decoded.shape[1]]
        categorical = self.model.shape.categorical
        errors = (decoded - x).double().square()
        wrong = (decoded[:, categorical] != x[:, categorical]).double()
        errors[:, categorical] = wrong.masked_fill(x[:, categorical].isnan(), torch.nan)
        return errors

    def usual(self) -> Tensor:
        r"""Returns the mean of each number, and the most frequent category, of shape
        :math:`(1, K)`."""
        cells = self.train.cells[:, : len(self.schema.columns)]
        values = []
        for i, column in enumerate(cells.unbind(1)):
            present = column[~column.isnan()]
            is_number = self.schema.columns[i].kind == "number"
            values.append(present.mean() if is_number else present.mode().values)
        return torch.stack(values).unsqueeze(0)

    def add_references(self, measures: Measures) -> None:
        """Adds the error of each column's usual value."""

        def usual() -> float:
            cells = self.held_out.cells
            decoded = self.usual().expand(len(cells), -1)
            return float(self.error(decoded, cells).mean())

        measures.add("reconstruction_error_usual_row", usual)

    def add_leakage(self, measures: Measures, part: Condition, *codes: Any) -> None:
        # Without a condition there is nothing that codes could reveal.
        if part.name is not None:
            super().add_leakage(measures, part, *codes)

    def add_readings(
        self, measures: Measures, train_codes: Callable[[], Codes], codes: Callable[[], Codes]
    ) -> None:
        r"""Adds what is read of the columns, and of the target.

        - ``columns`` has for each column the share that is decoded right of what its usual value
          gets wrong: :math:`R^2` of numbers, and 1 less the error over the error of the most
          frequent category.
        - ``read.TARGET`` is how well the target is predicted from sampled codes by the best of
          :func:`~train.metrics.adversaries.leakage`, and ``read_chance.TARGET`` the score without
          codes. Of classes, ``read_balanced.TARGET`` and ``read_auc.TARGET`` are the highest mean
          recall and area under the ROC curve.
        - ``demographic_parity.CONDITION`` and ``equalised_odds.CONDITION`` say how much the best
          one's predictions differ between groups: see :mod:`train.metrics.fairness`.
        """
        measures.add("columns", self.columns)
        if self.schema.target is None:
            return
        name = self.schema.target.name
        is_class = self.schema.target.kind != "number"
        targets = [self.train.target, self.held_out.target]
        known = [target for target in targets if target is not None]
        rows = [np.flatnonzero(~np.isnan(target)) for target in known]

        @cache
        def labelled() -> list[tuple[np.ndarray, np.ndarray]]:
            pairs = zip((train_codes(), codes()), known, rows, strict=True)
            kind = np.int64 if is_class else np.float64
            return [(z.sampled.numpy()[i], target[i].astype(kind)) for z, target, i in pairs]

        @cache
        def read() -> tuple[Leakage, np.ndarray]:
            from train.metrics import adversaries

            if min(map(len, rows)) < 2:
                raise Unmeasurable(f"hardly any row has a {name}")
            train, held_out = labelled()
            models = adversaries.fitted(train, self.seed)
            scores = adversaries.scored(models, held_out, self.seed)
            best = max(scores.scores, key=scores.scores.__getitem__)
            return scores, models[best].predict(held_out[0])

        def scores() -> dict[str, Any]:
            found = read()[0]
            return {
                f"read.{name}": found.best,
                f"read_chance.{name}": found.chance,
                f"read_interval.{name}": list(found.interval),
            }

        def auc() -> float:
            if (found := read()[0].auc) is None:
                raise Unmeasurable("a class is not among the held-out rows")
            return found

        measures.add(
            [f"{each}.{name}" for each in ("read", "read_chance", "read_interval")], scores
        )
        if not is_class:
            return
        measures.add(f"read_balanced.{name}", lambda: read()[0].balanced)
        measures.add(f"read_auc.{name}", auc)
        for part in self.condition.parts:
            if not part.classes or part.name is None:
                continue
            groups = part.targets(self.held_out)[rows[1]]

            def parity(groups: np.ndarray = groups) -> float:
                return fairness.demographic_parity(read()[1], groups)

            def odds(groups: np.ndarray = groups) -> float:
                return fairness.equalised_odds(read()[1], labelled()[1][1], groups)

            measures.add(f"demographic_parity.{part.name}", parity)
            measures.add(f"equalised_odds.{part.name}", odds)

    @torch.no_grad()
    def columns(self) -> dict[str, float]:
        """Returns the share of each column that codes keep: see :meth:`add_readings`."""
        codes = self.measured or self.encode(self.held_out)
        device = self.model.zero.device
        c = self.c(self.held_out)
        decoded = torch.cat(
            [
                self.model.decode(z.to(device), condition.to(device)).cpu()
                for z, condition in zip(codes.mean.split(1_000), c.split(1_000), strict=True)
            ]
        )
        cells = self.held_out.cells
        usual = self.usual().expand(len(cells), -1)
        errors, without = (self.errors(rows, cells).nanmean(0) for rows in (decoded, usual))
        kept = 1 - errors / without
        return {
            column.name: float(share)
            for column, share in zip(self.schema.columns, kept, strict=True)
        }

    def figures(self, log: TrainingLog) -> Mapping[str, Callable[[], Figure]]:
        from train import plots, plots_tables

        drawn: dict[str, Callable[[], Figure]] = {
            "columns": lambda: plots_tables.shares(self.columns())
        }
        if self.conditional:
            drawn["swaps"] = lambda: plots_tables.rows(*self.swaps())
            drawn["codes"] = lambda: plots.codes(*self.coloured())
        return drawn | dict(super().figures(log))

    @torch.no_grad()
    def swaps(self) -> tuple[list[str], dict[str, list[str]]]:
        """Decodes the code of the first held-out row under each value of the first condition.

        Returns:
            The names of the columns; and by title, the cells of the row, and of what its code is
            decoded to.
        """
        part = self.condition.parts[0]
        # Echo noise is made of other rows.
        others = self.held_out.select(torch.arange(min(500, len(self.held_out))))
        device = self.model.zero.device
        x, c = others.cells.to(device), self.c(others).to(device)
        z = self.guide.mean(x, c)[:1]
        values, names = self.values(part)
        conditions = c[:1].repeat(len(values), 1)
        conditions[:, : part.size] = values.to(device)
        decoded = self.model.decode(z.expand(len(values), -1), conditions)
        frame = self.schema.decode(decoded)
        own = part.column(others)[0]
        rows = {f"the row ({part.name} {own})": self._written(x[0].cpu())}
        for i, name in enumerate(names):
            rows[f"decoded, {part.name} {name}"] = [str(frame[c][i]) for c in self.schema.names]
        return self.schema.names, rows

    def _written(self, row: Tensor) -> list[str]:
        missing = row.isnan()
        frame = self.schema.decode(row.nan_to_num(0.0)[None, : len(self.schema.columns)])
        return [
            "missing" if missing[i] else str(frame[name][0])
            for i, name in enumerate(self.schema.names)
        ]

    def values(self, part: Condition) -> tuple[Tensor, list[str]]:
        r"""Returns values of a condition in :meth:`swaps`, of shape :math:`(V, C)`, and names."""
        if part.classes:
            names = list(map(str, part.values.values))[: self.MOST_VALUES]
            return torch.eye(part.classes)[: self.MOST_VALUES], names
        column = np.asarray(part.column(self.train), dtype=np.float64)
        quantiles = np.quantile(column, self.QUANTILES, axis=0)
        return part(torch.from_numpy(quantiles)), [f"{value:g}" for value in quantiles]

    def coloured(self, number: int = 5_000) -> tuple[np.ndarray, np.ndarray]:
        """Returns sampled codes of held-out rows, and the first condition."""
        codes = self.measured or self.encode(self.held_out)
        part = self.condition.parts[0]
        return codes.sampled[:number].numpy(), part.column(self.held_out)[:number]
