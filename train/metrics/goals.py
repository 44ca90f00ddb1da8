"""What a method's headline measures are to reach, beside what is had without a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Goal(ABC):
    """A headline measure, and the reference that tells whether it was worth the training.

    Attributes:
        measure: The measure's name in the results.
        reference: That of what is had without a model.
        beside: What the reference is, in words.
        advice: What to try where the goal is missed.
    """

    measure: str
    reference: str
    beside: str
    advice: str

    def judge(self, results: Mapping[str, Any]) -> bool | None:
        """Whether the goal is reached; ``None`` if the measure or the reference is missing."""
        value, reference = (results.get(name) for name in (self.measure, self.reference))
        if value is None or reference is None:
            return None
        return self.reached(value, reference, results)

    @abstractmethod
    def reached(self, value: float, reference: float, results: Mapping[str, Any]) -> bool:
        """Whether a value is good enough beside its reference."""

    @abstractmethod
    def words(self, reached: bool) -> str:
        """How the measure is to its reference."""

    def sentence(self, results: Mapping[str, Any]) -> str:
        """The measure, its reference, and which of them is better; without an end."""
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
    r"""A measure that is to be better than its reference.

    With the value :math:`v`, the reference :math:`r` and the best there can be :math:`b`, the share
    of the way that training went is :math:`(r - v) / (r - b)`.

    Attributes:
        best: :math:`b`, as a number, or the name of a measure in the results.
        least: The least share that counts as better.
    """

    best: float | str = 0.0
    least: float = 0.1

    def reached(self, value: float, reference: float, results: Mapping[str, Any]) -> bool:
        best = results.get(self.best) if isinstance(self.best, str) else self.best
        # Where the reference is the best there is, there was nothing to learn.
        if best is None or reference == best:
            return False
        return (reference - value) / (reference - best) >= self.least

    def words(self, reached: bool) -> str:
        return "better than" if reached else "hardly or no better than"


@dataclass(frozen=True, kw_only=True)
class Stays(Goal):
    r"""A measure that is to stay near its reference, because what it measures is to be gone.

    Attributes:
        worst: What the measure is where all is there.
        most: The largest share of the way from the reference to there that counts as near.
    """

    worst: float = 1.0
    most: float = 0.25

    def reached(self, value: float, reference: float, results: Mapping[str, Any]) -> bool:
        return value - reference <= self.most * max(self.worst - reference, 0)

    def words(self, reached: bool) -> str:
        return "near" if reached else "far above"
