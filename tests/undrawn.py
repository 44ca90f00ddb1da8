"""Figures of runs that are not drawn, or once: half of a short run would be to make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, BinaryIO

from train import verdict


class Blank:
    """Stands for a figure."""

    def savefig(self, file: BinaryIO, **options: Any) -> None:
        file.write(b"a figure")


def draw(run: Any, figures: Mapping[str, Any], real: Any = verdict.draw) -> Any:
    """Takes the place of :func:`train.verdict.draw`: writes a blank file for each figure."""
    return real(run, dict.fromkeys(figures, Blank))


class DrawOnce:
    """Takes the place of :func:`train.verdict.draw`: draws the first figure of each name.

    A test that trains several runs gets blank files for the figures of all but the first.
    """

    def __init__(self) -> None:
        self.drawn: set[str] = set()

    def __call__(self, run: Any, figures: Mapping[str, Any], real: Any = verdict.draw) -> Any:
        firsts = {name: Blank if name in self.drawn else each for name, each in figures.items()}
        self.drawn |= figures.keys()
        return real(run, firsts)
