"""Goals: what headline measures have to reach, relative to references without a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Goal(ABC):
    """A headline measure, and the reference that it is compared with.

    Attributes:
        measure: The measure's name in the results.
        reference: The name of its reference in the results.
        beside: The reference in words.
        advice: What to try if the goal is missed.
    """

    measure: str
    reference: str
    beside: str
    advice: str

    def judge(self, results: Mapping[str, Any]) -> bool | None:
        """Returns whether the goal is reached; ``None`` if measure or reference is missing."""
        value, reference = (results.get(name) for name in (self.measure, self.reference))
        if value is None or reference is None:
            return None
        return self.reached(value, reference, results)

    @abstractmethod
    def reached(self, value: float, reference: float, results: Mapping[str, Any]) -> bool:
        """Returns whether a value is good enough, given its reference."""

    @abstractmethod
    def words(self, reached: bool) -> str:
        """Returns how the measure compares with its reference, in words."""

    def sentence(self, results: Mapping[str, Any]) -> str:
        """Returns a sentence, without a full stop, that compares the measure with its reference."""
        reached = self.judge(results)
        value, reference = (results.get(name) for name in (self.measure, self.reference))
        if reached is None:
            missing = self.measure if value is None else self.reference
            why = results.get("reasons", {}).get(missing, "it was not measured")
            return f"{self.measure} cannot be judged: there is no {missing} ({why})"
        return (
            f"{self.measure} is {value:.4g}, {self.words(reached)} {self.beside}: {reference:.4g}"
        )


@dataclass(frozen=True, kw_only=True)
class Beats(Goal):
    r"""A measure that has to be better than its reference.

    With the value :math:`v`, the reference :math:`r` and the best possible value :math:`b`,
    training has closed a fraction :math:`(r - v) / (r - b)` of the gap.

    Attributes:
        best: :math:`b`, as a number, or the name of a measure in the results.
        least: The least fraction that counts as better.
    """

    best: float | str = 0.0
    least: float = 0.1

    def reached(self, value: float, reference: float, results: Mapping[str, Any]) -> bool:
        best = results.get(self.best) if isinstance(self.best, str) else self.best
        # If the reference is the best possible value, there is nothing to learn.
        if best is None or reference == best:
            return False
        return (reference - value) / (reference - best) >= self.least

    def words(self, reached: bool) -> str:
        return "better than" if reached else "hardly or no better than"


@dataclass(frozen=True, kw_only=True)
class Stays(Goal):
    r"""A measure that has to stay near its reference, because a low value is the aim.

    Attributes:
        worst: The worst possible value.
        most: The largest fraction of the way from the reference to it that counts as near.
    """

    worst: float = 1.0
    most: float = 0.25

    def reached(self, value: float, reference: float, results: Mapping[str, Any]) -> bool:
        return value - reference <= self.most * max(self.worst - reference, 0)

    def words(self, reached: bool) -> str:
        return "near" if reached else "far above"
