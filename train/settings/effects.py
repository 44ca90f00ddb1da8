"""Settings that were given and have no effect beside others: a note says so for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any

from train.settings.common import Settings, flag

MOST_CHOICES = 4
"""Most values that a line lists."""


def changed(settings: Any, names: Iterable[str]) -> list[str]:
    """Returns those of the names whose settings are not the defaults.

    Args:
        settings: A dataclass of settings.
        names: Names of its fields.

    Example:
        >>> changed(Settings(steps=10), ["steps", "seed"])
        ['steps']
    """
    defaults = {field.name: field.default for field in fields(settings)}
    return [name for name in names if getattr(settings, name) != defaults[name]]


def without_effect(given: Settings, settings: Settings) -> Iterator[str]:
    """Yields a line for each setting that was given and has no effect.

    Which settings another one switches on is in ``USED_WITH`` of their class.

    Args:
        given: The settings as they were given.
        settings: The same after the data have decided those that were left to them.
    """
    for base in type(given).__mro__:
        used_with = vars(base).get("USED_WITH", {})
        for name in changed(given, used_with):
            other, values = used_with[name]
            value = getattr(settings, other)
            if not _is_used(value, values):
                yield (
                    f"{flag(name)} has no effect with {_written(other, value)}: leave it out, or "
                    f"give {_choices(other, values)}"
                )


def _is_used(value: Any, values: Sequence[Any]) -> bool:
    """Returns whether a value is among those, or true if there are none, or a class of one's
    own."""
    if not values:
        return bool(value)
    return value in values or (isinstance(value, str) and ":" in value)


def _written(name: str, value: Any) -> str:
    """Writes a setting as on the command line."""
    return f"--no-{flag(name)[2:]}" if value is False else f"{flag(name)} {value}"


def _choices(name: str, values: Sequence[Any]) -> str:
    """Writes the values of a setting with which another one is used; of many the first."""
    if len(values) > MOST_CHOICES:
        return f"{flag(name)} {values[0]}, say"
    return " ".join([flag(name), " or ".join(map(str, values))]).strip()
