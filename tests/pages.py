"""The Python of a page of documentation, which tests run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def read(page: str) -> str:
    """The text of a page, by its path in the repository."""
    return (ROOT / page).read_text()


def blocks(text: str) -> dict[str, str]:
    """A page's Python, by the names that its fences have.

    Raises:
        ValueError: If a block has no name, or two have the same: one of them would not be run.
    """
    found = re.findall(r"```python(?: (\S+))?\n(.*?)```", text, re.DOTALL)
    names = [name for name, _ in found]
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"blocks of Python need names of their own, and have {names}")
    return dict(found)
