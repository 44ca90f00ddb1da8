"""Measures of a finished training: what cannot be measured is null, with a reason."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from train.errors import InputError, first_line

NOT_FINITE = "it is not a finite number"
"""Why a number that came out is not in the results."""


class Unmeasurable(Exception):
    """The data does not allow a measure. The message says why, in one line."""


class Attempt(NamedTuple):
    """The outcome of a measure.

    Attributes:
        value: What it returned; ``None`` if it raised.
        reason: Why there is no value; empty if there is one.
        expected: Whether the measure itself foresees such data.
    """

    value: Any
    reason: str = ""
    expected: bool = True


def attempt(measure: Callable[[], Any]) -> Attempt:
    """Calls a measure, and catches what it raises.

    Args:
        measure: The measure.

    Raises:
        InputError: If a file cannot be read or written: every other measure would fail too.
    """
    try:
        return Attempt(measure())
    except InputError:
        raise
    except Unmeasurable as error:
        return Attempt(None, str(error))
    # No list names all data on which scikit-learn, SciPy and Matplotlib fail.
    except Exception as error:
        return Attempt(None, f"{type(error).__name__}: {first_line(error)}", expected=False)


class Measures(Mapping[str, Any]):
    """Takes measures so that one that fails costs no other; a mapping of their values.

    A measure that fails is ``None``, and so is a number that is not finite. The reason is kept,
    and printed on standard error where the measure did not expect it.

    Attributes:
        results: The measures by name.
        reasons: By the name of each measure that is ``None``, why.
    """

    def __init__(self) -> None:
        # Not values: a Mapping has a method of that name.
        self.results: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}

    def __getitem__(self, name: str) -> Any:
        return self.results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def take(self, names: str | Sequence[str], measure: Callable[[], Any]) -> None:
        """Takes a measure.

        Args:
            names: Its name; or several, of a measure that returns a mapping with these keys.
            measure: Returns the value, plain as JSON has it.
        """
        outcome = attempt(measure)
        several = not isinstance(names, str)
        named = list(names) if several else [names]
        self.explain(named, outcome)
        for name in named:
            value = outcome.value[name] if several and not outcome.reason else outcome.value
            self.results[name] = finite(value)
            self.reasons |= dict.fromkeys(broken(name, value), NOT_FINITE)

    def explain(self, names: Sequence[str], outcome: Attempt) -> None:
        """Keeps the reason of what failed, if it failed, and prints one that was not expected."""
        if outcome.reason:
            self.reasons |= dict.fromkeys(names, outcome.reason)
        if not outcome.expected:
            print(f"left out: {', '.join(names)} ({outcome.reason})", file=sys.stderr)


def finite(value: Any) -> Any:
    """A value with ``None`` in place of each number that is not finite."""
    if isinstance(value, Mapping):
        return {name: finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def broken(name: str, value: Any) -> Iterator[str]:
    """The names of numbers that are not finite; of a part of a mapping ``NAME.PART``."""
    if isinstance(value, Mapping):
        for part, inner in value.items():
            yield from broken(f"{name}.{part}", inner)
    elif isinstance(value, float) and not math.isfinite(value):
        yield name
