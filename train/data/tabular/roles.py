"""What the columns of a table are for, as a person says it. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from train.errors import require

SUFFIXES = (".csv", ".tsv", ".parquet", ".pq")
"""The suffixes of tables."""


@dataclass(frozen=True)
class Roles:
    """What the columns of a table are for.

    Attributes:
        condition: Columns that codes say nothing about; they are not in x.
        target: The column that codes are to predict; it is not in x.
        drop: Columns that are left out, such as proxies of the condition.
        split: The column that says train, validation or test.
        numerical: Columns that are numbers, whatever they look like.
        categorical: Columns that are categories.
        ordinal: Columns that are ordered categories, with their order; empty for their own order.
        models_target: Whether the target has a likelihood.
    """

    condition: tuple[str, ...] = ()
    target: str | None = None
    drop: tuple[str, ...] = ()
    split: str | None = None
    numerical: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    ordinal: Mapping[str, tuple[str, ...]] | None = None
    models_target: bool = False

    @property
    def flags(self) -> dict[str, tuple[str, ...]]:
        """The columns that each flag names."""
        single = {"--target": self.target, "--split-column": self.split}
        return {
            "--condition": self.condition,
            **{flag: () if name is None else (name,) for flag, name in single.items()},
            "--drop": self.drop,
            "--numerical": self.numerical,
            "--categorical": self.categorical,
            "--ordinal": tuple(self.ordinal or {}),
        }

    def check(self, names: Iterable[str]) -> None:
        """Checks that columns exist, and that no column has two roles or two kinds.

        Raises:
            InputError: If a column does not exist or is named twice. The message names it.
        """
        known = list(names)
        for flag, given in self.flags.items():
            for name in given:
                require(
                    name in known,
                    f"{flag} {name}: --data has no such column: its columns are {', '.join(known)}",
                )
        self._require_once("--condition", "--target", "--drop", "--split-column")
        self._require_once("--numerical", "--categorical", "--ordinal")

    def _require_once(self, *flags: str) -> None:
        seen: dict[str, str] = {}
        for flag in flags:
            for name in self.flags[flag]:
                require(
                    name not in seen,
                    f"{flag} {name}: the column is named by {seen.get(name)} already: leave one "
                    "out",
                )
                seen[name] = flag


def orders(ordinal: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Reads ``--ordinal``: ``NAME``, or ``NAME=low,middle,high``.

    Raises:
        InputError: If a value is repeated.

    Example:
        >>> orders(["size=s,m,l", "stars"])
        {'size': ('s', 'm', 'l'), 'stars': ()}
    """
    found = {}
    for given in ordinal:
        name, _, order = given.partition("=")
        values = tuple(value.strip() for value in order.split(",") if value.strip())
        require(
            len(set(values)) == len(values) and len(values) != 1,
            f"--ordinal {given}: give two different values or more, as NAME=low,middle,high",
        )
        found[name.strip()] = values
    return found


def is_table(data: str) -> bool:
    """Returns whether ``--data`` names a table, by its suffix."""
    return Path(data).suffix.lower() in SUFFIXES
