"""Measures and figures of a finished training: what cannot be taken is null, with a reason."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from train.engine.runs import Run
from train.errors import InputError, Interrupted, first_line

NOT_FINITE = "it is not a finite number"
"""Why a number that came out is not in the results."""


class Unmeasurable(Exception):
    """The data does not allow a measure. The message says why, in one line."""


class Attempt(NamedTuple):
    """What came of a measure.

    Attributes:
        value: What it gave; ``None`` if it raised.
        reason: Why there is no value; empty if there is one.
        expected: Whether the measure itself knows of such data.
    """

    value: Any
    reason: str = ""
    expected: bool = True


def attempt(measure: Callable[[], Any]) -> Attempt:
    """Calls a measure, whatever it raises.

    Args:
        measure: What to call.

    Raises:
        InputError: If a file cannot be written: no other measure would fare better.
    """
    try:
        return Attempt(measure())
    except InputError:
        raise
    except Unmeasurable as error:
        return Attempt(None, str(error))
    # Nobody knows all data on which scikit-learn, SciPy and Matplotlib fail.
    except Exception as error:
        return Attempt(None, f"{type(error).__name__}: {first_line(error)}", expected=False)


class Measures:
    """Takes the measures and draws the figures of a run, so that one that fails costs no other.

    What cannot be taken is ``None``, and so is a number that is not finite; the reason is kept, and
    told on standard error where the measure did not expect it.

    Args:
        run: Where figures go.

    Attributes:
        values: The measures by name.
        figures: By the figures' names, their paths inside the run folder.
        reasons: By the name of each measure or figure that could not be taken, why.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.values: dict[str, Any] = {}
        self.figures: dict[str, str | None] = {}
        self.reasons: dict[str, str] = {}

    def take(self, names: str | Sequence[str], measure: Callable[[], Any]) -> None:
        """Takes a measure.

        Args:
            names: Its name; or several, of a measure that returns a mapping with these keys.
            measure: Returns the value, plain as JSON has it.

        Raises:
            Interrupted: If Ctrl-C was pressed.
        """
        found = self._attempt(measure)
        several = not isinstance(names, str)
        named = list(names) if several else [names]
        self._explain(named, found)
        for name in named:
            value = found.value[name] if several and not found.reason else found.value
            self.values[name] = finite(value)
            self.reasons |= dict.fromkeys(broken(name, value), NOT_FINITE)

    def draw(self, name: str, figure: Callable[[], Figure]) -> None:
        """Draws a figure and writes it to the run folder as ``figures/NAME.png``.

        Args:
            name: The figure's name.
            figure: Makes it.

        Raises:
            InputError: If it cannot be written.
            Interrupted: If Ctrl-C was pressed.
        """
        found = self._attempt(lambda: self.run.save_figure(name, figure()))
        path = f"figures/{name}.png"
        self.figures[name] = None if found.reason else path
        self._explain([path], found)

    def results(self) -> dict[str, Any]:
        """All of it, for ``results.json``."""
        return self.values | {"figures": self.figures, "reasons": self.reasons}

    def _attempt(self, measure: Callable[[], Any]) -> Attempt:
        try:
            return attempt(measure)
        except KeyboardInterrupt:
            raise Interrupted(
                "training is done and saved, but not all is measured; go on with the same command "
                f"and --resume --run-dir {self.run.directory}"
            ) from None

    def _explain(self, names: Sequence[str], found: Attempt) -> None:
        if found.reason:
            self.reasons |= dict.fromkeys(names, found.reason)
        if not found.expected:
            print(f"left out: {', '.join(names)} ({found.reason})", file=sys.stderr)


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
