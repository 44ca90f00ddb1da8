"""Collects measures; one that fails is ``None`` in the results, with a reason."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from train.errors import InputError, first_line

NOT_FINITE = "it is not a finite number"
"""The reason for a measure that is NaN or infinite."""


class Unmeasurable(Exception):
    """Raised by a measure that the data do not allow. The message gives the reason in one line."""


class Attempt(NamedTuple):
    """The outcome of a measure.

    Attributes:
        value: The value that the measure returned; ``None`` if it raised.
        reason: Why there is no value; empty if there is one.
        expected: Whether it returned, or raised :class:`Unmeasurable`.
    """

    value: Any
    reason: str = ""
    expected: bool = True


def attempt(measure: Callable[[], Any]) -> Attempt:
    """Calls a measure, and catches the exceptions that it raises.

    Args:
        measure: Takes no arguments and returns the value.

    Raises:
        InputError: If a file cannot be read or written, since every other measure would fail too.
    """
    try:
        return Attempt(measure())
    except InputError:
        raise
    except Unmeasurable as error:
        return Attempt(None, str(error))
    # scikit-learn, SciPy and Matplotlib raise many kinds of exceptions on unusual data.
    except Exception as error:
        return Attempt(None, f"{type(error).__name__}: {first_line(error)}", expected=False)


class Measures(Mapping[str, Any]):
    """A mapping from names to measured values. A measure that fails does not lose the others.

    The value is ``None`` if the measure raised an exception, or if the number is not finite. An
    exception other than :class:`Unmeasurable` is also printed on standard error.

    Attributes:
        results: The values by name.
        reasons: By the name of each value that is ``None``, the reason.
    """

    def __init__(self) -> None:
        # Not called `values`, which is a method of Mapping.
        self.results: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}

    def __getitem__(self, name: str) -> Any:
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def add(self, names: str | Sequence[str], measure: Callable[[], Any]) -> None:
        """Calls a measure and adds its value.

        Args:
            names: The name of the value; or several names, if the measure returns a mapping that
                has them as keys.
            measure: Returns the value, of a type that JSON can represent.
        """
        outcome = attempt(measure)
        is_one = isinstance(names, str)
        keys = [names] if isinstance(names, str) else list(names)
        self.report(keys, outcome)
        for name in keys:
            value = outcome.value if is_one or outcome.reason else outcome.value[name]
            self.results[name] = finite(value)
            self.reasons |= dict.fromkeys(non_finite(name, value), NOT_FINITE)

    def report(self, names: Sequence[str], outcome: Attempt) -> None:
        """Records the reason of a failure, and prints it if it was not expected."""
        if outcome.reason:
            self.reasons |= dict.fromkeys(names, outcome.reason)
        if not outcome.expected:
            print(f"left out: {', '.join(names)} ({outcome.reason})", file=sys.stderr)


def finite(value: Any) -> Any:
    """Replaces each number that is not finite by ``None``, in nested mappings too."""
    if isinstance(value, Mapping):
        return {name: finite(entry) for name, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def non_finite(name: str, value: Any) -> Iterator[str]:
    """Yields the names of numbers that are not finite: ``NAME.KEY`` for an entry of a mapping."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield from non_finite(f"{name}.{key}", entry)
    elif isinstance(value, float) and not math.isfinite(value):
        yield name
