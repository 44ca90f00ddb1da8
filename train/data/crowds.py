"""Places digits one after another, on canvases where digits at random places hardly ever fit."""

from __future__ import annotations

import numpy as np

from pyro_models.boxes import share_more
from train.data.composition import SHARES, Digits, Placement, Rules

PLACES = 32
"""Places of a digit that are drawn at once."""
ROUNDS = 8
"""After so many times :data:`PLACES` places, a digit has no room and its scene is begun again."""
BEGINNINGS = 200
"""After so many beginnings of a scene, its digits do not fit on the canvas."""


def place_in_turn(
    rng: np.random.Generator, counts: np.ndarray, digits: Digits, rules: Rules
) -> Placement:
    r"""Draws which digits are in scenes, and their sizes and places, by a rule of overlap.

    The images and sizes of a scene's digits are drawn first. Then each digit in turn is placed:
    places where its image is inside the canvas are drawn uniformly until it has no more in common
    with those before it than the rule permits, which is random sequential adsorption. So each place
    is uniform among those that the digits before it leave free. This is not the distribution of
    whole scenes that are drawn until one follows the rule: there, arrangements that leave more room
    for the later digits are more frequent. If a digit has no room, its scene is begun again with
    other images, sizes and places, so that digits in crowded scenes are smaller than others on
    average.

    Args:
        rng: Random numbers.
        counts: The number of digits in each scene.
        digits: The digits.
        rules: The rules of the scenes, whose rule of overlap is in
            :data:`~train.data.composition.SHARES`.

    Returns:
        The digits, in the order of the scenes.

    Raises:
        HardlyFitsError: If fewer than one scene in fifty that was begun again gets room for all
            its digits, or one has been begun :data:`BEGINNINGS` times in vain.
    """
    first = np.cumsum(counts) - counts
    chosen = rules.place(rng, counts, digits)
    pending = np.flatnonzero(~_settle(rng, chosen, counts, digits, rules))
    beginnings = successes = 0
    for _ in range(BEGINNINGS - 1):
        if not len(pending):
            return chosen
        begun = rules.place(rng, counts[pending], digits)
        fits = _settle(rng, begun, counts[pending], digits, rules)
        rows = np.flatnonzero(fits[begun.scene])
        target = first[pending[begun.scene[rows]]] + begun.slot[rows]
        for name in ("digit", "size", "corner"):
            getattr(chosen, name)[target] = getattr(begun, name)[rows]
        beginnings += len(pending)
        successes += int(fits.sum())
        rules.require_acceptance(successes, beginnings)
        pending = pending[~fits]
    if len(pending):
        raise rules.hardly_fits()
    return chosen


def _settle(
    rng: np.random.Generator,
    placement: Placement,
    counts: np.ndarray,
    digits: Digits,
    rules: Rules,
) -> np.ndarray:
    """Moves each digit in turn to a place where it follows the rule with those before it.

    Args:
        rng: Random numbers.
        placement: The digits; their corners are overwritten.
        counts: The number of digits in each scene.
        digits: The digits.
        rules: The rules of the scenes.

    Returns:
        Whether all digits of a scene have a place, and ink, of shape (m,), bool.
    """
    outlines, has_ink = _ink_of(placement, digits)
    share = SHARES[rules.overlap]
    if not share.of_ink:
        outlines[:, :2], outlines[:, 2:] = 0, placement.size[:, None]
    fits = np.ones(len(counts), dtype=bool)
    fits[placement.scene[~has_ink]] = False
    first = np.cumsum(counts) - counts
    boxes = np.zeros((len(counts), rules.max_digits, 4), dtype=np.int32)
    for slot in range(rules.max_digits):
        scenes = np.flatnonzero(fits & (counts > slot))
        for _ in range(ROUNDS):
            rows = first[scenes] + slot
            room = rules.canvas_size - placement.size[rows] + 1
            corners = rng.integers(0, room[:, None, None], size=(len(rows), PLACES, 2))
            places = outlines[rows, None] + np.tile(corners, 2).astype(np.int32)
            is_free = ~_share(places, boxes[scenes, :slot], share.most)
            chosen = is_free.argmax(1)
            settled = np.flatnonzero(is_free.any(1))
            placement.corner[rows[settled]] = corners[settled, chosen[settled]]
            boxes[scenes[settled], slot] = places[settled, chosen[settled]]
            scenes = np.delete(scenes, settled)
            if not len(scenes):
                break
        fits[scenes] = False
    return fits


def _ink_of(placement: Placement, digits: Digits) -> tuple[np.ndarray, np.ndarray]:
    """Returns the box of each digit's ink in its image, (T, 4), int32, and whether it has ink."""
    boxes = np.zeros((len(placement.size), 4), dtype=np.int32)
    has_ink = np.zeros(len(placement.size), dtype=bool)
    for rows, sized, which in digits.windows(placement):
        boxes[rows] = sized.boxes[which].numpy()
        has_ink[rows] = sized.has_ink[which].numpy()
    return boxes, has_ink


def _share(places: np.ndarray, boxes: np.ndarray, share: float) -> np.ndarray:
    """Returns whether boxes (r, R, 4) share more than they may with any of (r, j, 4), as (r, R)."""
    forbidden = np.zeros(places.shape[:2], dtype=bool)
    for box in boxes.swapaxes(0, 1)[:, :, None]:
        forbidden |= share_more(places, box, share)
    return forbidden
