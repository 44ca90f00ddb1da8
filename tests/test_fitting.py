"""Settings that are impossible with the data: lowered where they are defaults, else refused."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tests.data.refusals import refused
from train import fitting
from train.abc import METHOD, ABCSettings
from train.data.labelled import Images, Split
from train.data.labels import as_labels
from train.settings import Settings


@dataclass(frozen=True)
class Small(Settings):
    """The common settings, and one of ICVAE."""

    echo_terms: int = 100


def test_a_default_is_lowered_with_a_note(capsys):
    misfits = (fitting.batch(64, 50), fitting.echo_terms(100, 50, 12), None)
    settings = fitting.fitted(Small(), *misfits)
    assert (settings.batch_size, settings.echo_terms) == (50, 11)
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        "note: --batch-size 64 is larger than the 50 training examples: 50 is used in place of "
        "the default"
    )
    assert second.startswith("note: --echo-terms 100")
    assert "12 images are held out" in second


def test_chosen_values_are_refused_in_one_message(capsys):
    settings = Small(batch_size=80, echo_terms=90)
    misfits = (fitting.batch(80, 50), fitting.echo_terms(90, 50, 50))
    with refused("--batch-size 80", "give 50 or less; --echo-terms 90", "give 49 or less"):
        fitting.fitted(settings, *misfits)
    assert not capsys.readouterr().err


def test_possible_settings_do_not_change():
    settings = Small(batch_size=50)
    assert fitting.fitted(settings, fitting.batch(50, 50)) == settings
    assert fitting.echo_terms(9, 10, 10) is None
    assert fitting.stacks({"stack_size": 5, "other_stack_size": None}, {"a": 5}) == []


def test_a_lowered_batch_is_a_multiple_of_the_processes():
    assert fitting.batch(64, 50, processes=4).fits == 48


def sets(*counts: int, names: str = "abcdef") -> Split:
    """Images of sets of some sizes."""
    given = np.repeat(list(names[: len(counts)]), counts)
    images = torch.zeros(len(given), 2, 2, dtype=torch.uint8)
    labelled = Images.labelled(images, as_labels(given))
    return Split(labelled, labelled)


def sized(settings: ABCSettings, data: Split) -> ABCSettings:
    """The settings of ABC, fitted to data."""
    return fitting.fitted(settings, *METHOD.misfits(settings, data))


def test_withheld_sets_and_stacks(capsys):
    """The default 9 withholds nothing where there is no 9; stacks are of the smallest set left."""
    settings = sized(ABCSettings(other_stack_size=8), sets(10, 20, 8))
    assert (settings.withheld, settings.sizes) == ((), (8, 8))
    first, second = capsys.readouterr().err.splitlines()
    assert first == "note: --withheld 9: there is no such set: nothing is withheld"
    assert "--stack-size 256 is larger than set a (10 images), set b (20 images)" in second
    settings = sized(ABCSettings(withheld=("c",), stack_size=10), sets(10, 20, 8))
    assert (settings.withheld, settings.sizes) == (("c",), (10, 10))
    # A nine that is half of the data is not withheld either.
    assert sized(ABCSettings(stack_size=5), sets(9, 9, names="89")).withheld == ()
    assert sized(ABCSettings(stack_size=5), sets(9, 9, 9, names="789")).withheld == ("9",)
    for changes, words in (
        ({"withheld": ("d",)}, "--withheld d: there is no such set: give some of 'a', 'b', 'c'"),
        ({"withheld": ("a", "b")}, "1 sets besides the withheld ones"),
        (
            {"stack_size": 11, "other_stack_size": 12},
            "--stack-size 11 is larger than set a (10 images), set c (8 images): give less, or add "
            "--replacement; --other-stack-size 12",
        ),
    ):
        with refused(words):
            sized(ABCSettings(**({"withheld": ()} | changes)), sets(10, 20, 8))
    with refused("set c has a single image"):
        sized(ABCSettings(), sets(10, 20, 1))
    assert sized(ABCSettings(replacement=True), sets(10, 20, 1)).sizes == (256, 256)
