"""Checks that bad input is refused with a message of one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from train.errors import InputError


@contextmanager
def refused(*words: str) -> Iterator[pytest.ExceptionInfo[InputError]]:
    """Passes if the block raises an InputError of one line that has all of ``words`` in it."""
    with pytest.raises(InputError) as caught:
        yield caught
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
