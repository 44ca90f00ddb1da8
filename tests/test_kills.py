"""A run that is killed at any time and resumed ends with the files of an uninterrupted run."""

from __future__ import annotations

import pytest

from tests import doors
from tests.kills import Case


@pytest.mark.parametrize("name", ["ae patience", "acai", "abc", "icvae", "air"])
def test_random_moments(tmp_path, name):
    """Ten kills at most. The mutation: a random state that is not restored."""
    assert Case(name, tmp_path).survive(kills=2, seed=0, until=0.5) >= 1


def test_each_moment_of_writing(tmp_path):
    """While a checkpoint, the weights, and the first file of a resumed run are written."""
    case = Case("ae", tmp_path)
    for moment in (2, 5, 7, 9):
        run = tmp_path / f"moment-{moment}"
        process = case.start(run, dies_at=moment)
        assert doors.finish(process) == -9, case.said.read_text()
        case.end(run)
