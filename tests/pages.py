"""The Python of a page of documentation, which tests run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")))
"""The pages of documentation, by their paths in the repository."""


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


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", name.lower()).replace(" ", "-") for name in headings}


def links(text: str) -> list[tuple[str, str]]:
    """The files and anchors that a page links to, without those of other sites."""
    found = re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", prose(text))
    return [(file, anchor) for file, anchor in found if "://" not in file]
