"""Sizes that data are too few or too small for: brought down, or refused all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from pyro_models.shapes import Shape
from train import processes
from train.errors import note, require
from train.settings import Settings

if TYPE_CHECKING:
    from train.data.stacks import Sets

S = TypeVar("S", bound=Settings)


class Misfit(NamedTuple):
    """A setting that does not fit the data.

    Attributes:
        setting: Its name.
        fits: The value nearest to it that does.
        problem: What is wrong, with the setting's flag and value.
        remedy: What to do.
        instead: What is done in place of a default.
    """

    setting: str
    fits: Any
    problem: str
    remedy: str
    instead: str = ""


def fitted(settings: S, *misfits: Misfit | None) -> S:
    """Settings that fit the data.

    A setting that has its default is changed, and a line says so: nobody asked for it. One that a
    person chose is refused.

    Args:
        settings: What a person gave.
        misfits: What does not fit; None for what does.

    Raises:
        InputError: If a misfit is none of a default; its line names all of them.
    """
    wrong = [each for each in misfits if each is not None]
    defaults = {field.name: field.default for field in fields(settings)}
    chosen = [each for each in wrong if getattr(settings, each.setting) != defaults[each.setting]]
    require(not chosen, "; ".join(f"{each.problem}: {each.remedy}" for each in chosen))
    for each in wrong:
        note(f"{each.problem}: {each.instead or f'{each.fits} is taken in place of the default'}")
    return replace(settings, **changes(*wrong))


def changes(*misfits: Misfit | None) -> dict[str, Any]:
    """By their names, what settings that do not fit would have to be."""
    return {each.setting: each.fits for each in misfits if each is not None}


def batch(size: int, images: int, processes: int = 1) -> Misfit | None:
    """A batch that is larger than the training split.

    Args:
        size: Examples a step.
        images: Training examples.
        processes: How many processes share a batch out evenly.
    """
    most = max(images - images % processes, processes)
    if size <= images:
        return None
    problem = f"--batch-size {size} is larger than the {images} training examples"
    return Misfit("batch_size", most, problem, f"give {most} or less")


def echo_terms(terms: int, batch_size: int, held_out: int) -> Misfit | None:
    """More of Echo's terms than there are other images.

    Args:
        terms: Other images that make an image's noise.
        batch_size: Images of a batch, of which each process has an equal part.
        held_out: Held-out images.
    """
    local = batch_size // processes.size()
    images = min(local, held_out)
    if terms < images:
        return None
    problem = (
        f"--echo-terms {terms} is not below the images that there are (a batch has {local} images, "
        f"and only {held_out} images are held out)"
    )
    return Misfit("echo_terms", max(images - 1, 1), problem, f"give {images - 1} or less")


def stacks(sizes: Mapping[str, int | None], sets: Mapping[int | str, int]) -> list[Misfit]:
    """Stacks that are larger than a set.

    Args:
        sizes: By the settings' names, the sizes of stacks; None for one that is as the other.
        sets: How many images each set has, by the set's label.

    Raises:
        InputError: If a set has a single image, for which no stack is small enough.
    """
    fewest = min(sets.values())
    alone = [label for label, number in sets.items() if number < 2]
    require(
        not alone,
        f"set {next(iter(alone), '')} has a single image, and a stack needs 2: leave it out, or "
        "add --replacement",
    )
    misfits = []
    for name, size in sizes.items():
        if size is None or size <= fewest:
            continue
        small = [
            f"set {label} ({number} images)" for label, number in sets.items() if number < size
        ]
        flag = "--" + name.replace("_", "-")
        problem = f"{flag} {size} is larger than {', '.join(small)}"
        misfits.append(Misfit(name, fewest, problem, "give less, or add --replacement"))
    return misfits


def require_classes(invariance: str, classes: int) -> None:
    """Raises :class:`InputError` if a penalty needs classes and the labels are quantities."""
    require(
        classes > 0 or invariance != "direct",
        "--invariance direct needs classes, but the labels are quantities: give another one",
    )


def withheld(labels: Sequence[str], sets: Sets, *, least: int) -> Misfit | None:
    """Withheld sets that the data lack, or that leave too few sets to draw from.

    Args:
        labels: The sets to be withheld, by their labels.
        sets: The sets of the data.
        least: The number of sets that a pair of stacks needs.
    """
    missing = sets.missing(labels)
    left = len(sets.counts(labels))
    if missing:
        problem = f"--withheld {' '.join(missing)}: there is no such set"
    elif labels and left < least:
        problem = f"--data has {left} sets besides the withheld ones: a pair needs {least} or more"
    else:
        return None
    remedy = f"give some of {sets.classes}, or --withheld alone for none"
    return Misfit("withheld", (), problem, remedy, "nothing is withheld")


def code(z_dim: int, shape: Shape) -> Misfit | None:
    """A code that the places of ACAI's convolutions do not divide.

    Args:
        z_dim: Its size.
        shape: The images' height and width.
    """
    from pyro_models.acai import places

    number = places(shape)
    if z_dim % number == 0:
        return None
    nearest = number * max(1, round(z_dim / number))
    problem = f"--z-dim {z_dim} is no multiple of the code's {number} places"
    return Misfit("z_dim", nearest, problem, f"give {nearest}, or --network dense")
