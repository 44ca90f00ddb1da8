"""Prose is in British English: what :mod:`codespell` knows of it, in pages and in docstrings.

Misspelt words are found by ``codespell`` itself, which has no check for prose alone: names of other
people's code are American.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import codespell_lib
import pytest

from tests.pages import ROOT

PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *ROOT.glob("docs/**/*.md"))
ROOMS = ("pyro_models", "guides", "train", "benchmarks", "tests")
# Words that British English has too: a computer's program, a meter that measures, what is biased.
# And names: the file LICENSE, and the role of Sphinx that marks a formula.
KNOWN = {"biased", "license", "math", "meter", "program"}
CODE = re.compile(
    r"""``[^`]*`` | :\w+:`[^`]*` | `[^`]*` | "[^"]*" | https?://\S+  # quoted
    | ^\ *\|.*$ | >>>.*$ | ^\ *\.\.\.\ .*$  # titles of papers, and examples
    | ^\ *\w+:\ | --[\w-]+  # arguments, and flags
    """,
    re.VERBOSE | re.MULTILINE,
)
BLOCK = re.compile(r"^( *)```.*?^ *```", re.DOTALL | re.MULTILINE)
WORD = re.compile(r"(?<![\w./=-])[a-z]+(?![\w(=/])")
"""Words that are no part of a name, and are not called."""


def american() -> dict[str, str]:
    """American spellings, with the British ones."""
    data = Path(codespell_lib.__file__).parent / "data"
    pairs = [
        line.split("->")
        for line in (data / "dictionary_en-GB_to_en-US.txt").read_text().splitlines()
    ]
    british = {one for one, _ in pairs}
    words = {word.strip(): one for one, others in pairs for word in others.split(",")}
    return {word: one for word, one in words.items() if word not in british | KNOWN | {""}}


AMERICAN = american()


def spelt(text: str) -> set[str]:
    """The American words of a text."""
    return set(WORD.findall(text.lower())) & AMERICAN.keys()


def prose(source: str) -> str:
    """The docstrings and comments of a module, without the code in them."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    parts = [token.string for token in tokens if token.type == tokenize.COMMENT]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                parts.append(text)
    return CODE.sub(" ", "\n".join(parts))


@pytest.mark.parametrize("page", [str(page) for page in PAGES])
def test_pages_are_british(page):
    text = BLOCK.sub(" ", (ROOT / page).read_text())
    found = spelt(CODE.sub(" ", text))
    assert not found, {word: AMERICAN[word] for word in found}


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_and_comments_are_british(room):
    found = {}
    for file in ROOT.glob(f"{room}/**/*.py"):
        source = file.read_text()
        # Most files have no such word at all, and need not be parsed.
        if spelt(source) and (words := spelt(prose(source))):
            found[str(file)] = {word: AMERICAN[word] for word in words}
    assert not found


def test_american_words_are_found():
    assert spelt(prose('"""Normalizes colors."""\n')) == {"normalizes", "colors"}
    assert not spelt(prose('"""Calls ``normalize``, see train.normalize and --color."""\n'))
    assert not spelt(prose('COLOR = "color"\n'))
