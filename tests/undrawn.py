"""Figures of runs that nothing draws: half of a short run would be to make them."""

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
