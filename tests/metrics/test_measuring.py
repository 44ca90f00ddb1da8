"""What cannot be measured or drawn is null, with a reason; all else of a run is there."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from tests.data.refusals import refused
from train.engine.runs import Run
from train.errors import Interrupted
from train.metrics.measuring import Measures, Unmeasurable
from train.metrics.watch import Watch
from train.verdict import draw, finish


def fails(error: BaseException):
    def measure():
        raise error

    return measure


def test_what_fails_is_null_and_all_else_is_kept(tmp_path, capsys):
    measures = Measures()
    measures.add("fine", lambda: 0.0)
    measures.add(("a", "b"), fails(ValueError("two\nlines")))
    measures.add("unlabelled", fails(Unmeasurable("the images have no labels")))
    measures.add(("c", "d"), lambda: {"c": 1, "d": float("nan"), "other": 2})
    measures.add("parts", lambda: {"one": float("inf"), "two": 2.0})
    assert dict(measures) == {
        **{"fine": 0.0, "a": None, "b": None, "unlabelled": None, "c": 1, "d": None},
        "parts": {"one": None, "two": 2.0},
    }
    assert measures.reasons == {
        "a": "ValueError: two",
        "b": "ValueError: two",
        "unlabelled": "the images have no labels",
        "d": "it is not a finite number",
        "parts.one": "it is not a finite number",
    }
    run = Run(tmp_path, "ae")
    figures = {"fine": Figure, "broken": fails(KeyError("x"))}
    assert draw(run, figures) == (
        {"fine": "figures/fine.png", "broken": None},
        {"figures/broken.png": "KeyError: 'x'"},
    )
    # What a measure knows of is no surprise.
    assert capsys.readouterr().err.splitlines() == [
        "left out: a, b (ValueError: two)",
        "left out: figures/broken.png (KeyError: 'x')",
    ]


def test_a_folder_that_is_gone_is_no_measure_that_failed(tmp_path):
    run = Run(tmp_path, "ae")
    tmp_path.rmdir()
    with refused("its folder is gone"):
        draw(run, {"figure": Figure})


def test_ctrl_c_says_how_to_take_the_measures(tmp_path):
    class Slow(Watch):
        def measure(self):
            measures = Measures()
            measures.add("slow", fails(KeyboardInterrupt()))
            return measures

    with pytest.raises(Interrupted, match=f"--resume --run-dir {tmp_path}"):
        finish(Run(tmp_path, "ae"), {}, Slow())
