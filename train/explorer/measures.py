"""The measures of a run that a view tells beside what it draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from train.explorer.arrays import is_number


class Measure(NamedTuple):
    """A measure of ``results.json``.

    Attributes:
        name: Its name there.
        title: What the page calls it.
        beside: The name of a measure to compare it with; ``None`` if there is none.
        share: Whether it is a share, which is told in per cent.
    """

    name: str
    title: str
    beside: str | None = None
    share: bool = False


RECONSTRUCTION = Measure(
    "reconstruction_mse", "squared error a pixel", "reconstruction_mse_mean_image"
)


def told(results: Mapping[str, Any], measures: Sequence[Measure]) -> list[dict[str, Any]]:
    """Returns the measures that a run has, for the page.

    Returns:
        For each ``title``, ``value`` and ``beside`` in words; ``beside`` may be empty.

    Example:
        >>> told({"leakage": 0.122, "chance": 0.1}, [Measure("leakage", "class", "chance", True)])
        [{'title': 'class', 'value': '12.2%', 'beside': 'chance 10.0%'}]
    """
    found = []
    for measure in measures:
        value: Any = results.get(measure.name)
        if not is_number(value):
            continue
        beside = ""
        other: Any = None if measure.beside is None else results.get(measure.beside)
        if measure.beside is not None and is_number(other):
            name = measure.beside.removeprefix(f"{measure.name}_").replace("_", " ")
            beside = f"{name} {_written(other, measure.share)}"
        written = _written(value, measure.share)
        found.append({"title": measure.title, "value": written, "beside": beside})
    return found


def _written(value: float, share: bool) -> str:
    return f"{value:.1%}" if share else f"{value:.3g}"
