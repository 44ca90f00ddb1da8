"""Fits settings to the data: lowers defaults that the data do not allow, refuses chosen values.

A function for each kind of setting returns a :class:`Misfit`, or None if the value is possible.
:func:`fitted` applies them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from train import processes
from train.errors import note, require
from train.settings import Settings
from train.settings.effects import changed

if TYPE_CHECKING:
    from train.data.labelled import Images
    from train.data.stacks import Sets

S = TypeVar("S", bound=Settings)


class Misfit(NamedTuple):
    """A setting whose value is impossible with the data.

    Attributes:
        setting: The setting's name.
        fits: The nearest possible value.
        problem: What is wrong; names the flag and its value.
        remedy: What to give instead, for the error message.
        instead: What is done if the value is the default, for the note; empty: a standard text.
    """

    setting: str
    fits: Any
    problem: str
    remedy: str
    instead: str = ""


def fitted(settings: S, *misfits: Misfit | None) -> S:
    """Returns settings that are possible with the data.

    A setting that has its default value is changed, and a note says so. Another value was chosen,
    and is refused.

    Args:
        settings: The settings.
        misfits: The settings that do not fit; None is ignored.

    Raises:
        InputError: If a value that is not the default does not fit. The message names all of them.
    """
    wrong = [misfit for misfit in misfits if misfit is not None]
    given = changed(settings, [misfit.setting for misfit in wrong])
    chosen = [misfit for misfit in wrong if misfit.setting in given]
    require(not chosen, "; ".join(f"{misfit.problem}: {misfit.remedy}" for misfit in chosen))
    for misfit in wrong:
        instead = misfit.instead or f"{misfit.fits} is used in place of the default"
        note(f"{misfit.problem}: {instead}")
    return replace(settings, **changes(*wrong))


def changes(*misfits: Misfit | None) -> dict[str, Any]:
    """Returns the nearest possible values of settings that do not fit, by setting name."""
    return {misfit.setting: misfit.fits for misfit in misfits if misfit is not None}


def batch(size: int, images: int, processes: int = 1) -> Misfit | None:
    """Checks that a batch is no larger than the training split.

    Args:
        size: The batch size.
        images: The number of training examples.
        processes: The number of processes. The nearest possible size is a multiple of it.
    """
    most = max(images - images % processes, processes)
    if size <= images:
        return None
    problem = f"--batch-size {size} is larger than the {images} training examples"
    return Misfit("batch_size", most, problem, f"give {most} or less")


def echo_terms(terms: int, batch_size: int, held_out: int) -> Misfit | None:
    """Checks that Echo's noise of an image is made of fewer images than there are others.

    Args:
        terms: The number of other images that make an image's noise.
        batch_size: The batch size over all processes. Echo uses the images of one process.
        held_out: The number of held-out images.
    """
    local = batch_size // processes.size()
    images = min(local, held_out)
    if terms < images:
        return None
    problem = (
        f"--echo-terms {terms} is not below the number of images (a batch of a process has {local} "
        f"images, and only {held_out} images are held out)"
    )
    return Misfit("echo_terms", max(images - 1, 1), problem, f"give {images - 1} or less")


def components(number: int, images: Images) -> Misfit | None:
    """Checks that images have as many principal components.

    Args:
        number: The number of components.
        images: The training images.
    """
    count, values = len(images), images.shape.values
    most = min(values, count)
    if number <= most:
        return None
    problem = f"--components {number} is above the {most} of {count} images of {values} values"
    return Misfit("components", most, problem, f"give {most} or fewer")


def stacks(sizes: Mapping[str, int | None], sets: Mapping[int | str, int]) -> list[Misfit]:
    """Checks that no stack is larger than a set.

    Args:
        sizes: Sizes of stacks, by setting name; None is ignored.
        sets: The number of images of each set, by the set's label.

    Raises:
        InputError: If a set has a single image: a stack has at least 2.
    """
    smallest = min(sets.values())
    single = [label for label, count in sets.items() if count < 2]
    require(
        not single,
        f"set {next(iter(single), '')} has a single image, and a stack needs 2: leave it out, or "
        "add --replacement",
    )
    misfits = []
    for name, size in sizes.items():
        if size is None or size <= smallest:
            continue
        small = [f"set {label} ({count} images)" for label, count in sets.items() if count < size]
        flag = "--" + name.replace("_", "-")
        problem = f"{flag} {size} is larger than {', '.join(small)}"
        misfits.append(Misfit(name, smallest, problem, "give less, or add --replacement"))
    return misfits


def require_classes(invariance: str, classes: int | Mapping[str, int]) -> None:
    """Raises :class:`InputError` if a penalty needs classes and a condition has quantities.

    Args:
        invariance: The penalty's name.
        classes: The number of classes of the condition, 0 for quantities; or of several conditions,
            by name.
    """
    if isinstance(classes, Mapping):
        quantities = [name for name, count in classes.items() if not count]
        values, has_quantities = f"the values of {', '.join(quantities)}", bool(quantities)
    else:
        values, has_quantities = "the labels", not classes
    require(
        not has_quantities or invariance not in ("direct", "mmd"),
        f"--invariance {invariance} needs classes, but {values} are quantities: "
        "give pairwise, kt, club, adversarial or echo",
    )


def withheld(labels: Sequence[int | str], sets: Sets, *, least: int) -> Misfit | None:
    """Checks that the withheld sets exist, and that enough other sets remain for training.

    Args:
        labels: The labels of the withheld sets.
        sets: The sets of the data.
        least: The number of sets that a pair of stacks needs.
    """
    missing = sets.missing(labels)
    remaining = len(sets.counts(labels))
    if missing:
        problem = f"--withheld {' '.join(missing)}: there is no such set"
    elif labels and remaining < least:
        problem = (
            f"--data has {remaining} sets besides the withheld ones: a pair needs {least} or more"
        )
    else:
        return None
    remedy = f"give some of {sets.classes}, or --withheld alone for none"
    return Misfit("withheld", (), problem, remedy, "nothing is withheld")
