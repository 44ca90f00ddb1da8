"""Colours by hue and by name, for data sets that are drawn from code."""

from __future__ import annotations

import numpy as np

COLOURS = {name: hue / 6 for hue, name in enumerate(("red", "yellow", "green", "cyan", "blue"))}
COLOURS["magenta"] = 5 / 6
"""The hues of the colours that have names, in [0, 1)."""

LUMA = np.array([0.299, 0.587, 0.114])
"""The weights of red, green and blue in luma (ITU-R BT.601), Pillow's grey level."""


def rgb(hues: np.ndarray, saturation: float = 1.0, value: float = 1.0) -> np.ndarray:
    r"""Converts hues to red, green and blue.

    Args:
        hues: Of shape :math:`(*)`, in [0, 1]. 0 and 1 are red, 1/3 is green, 2/3 is blue.
        saturation: In [0, 1]. 0 is grey.
        value: The largest of red, green and blue, in [0, 1].

    Returns:
        Of shape :math:`(*, 3)`, in [0, 1].
    """
    from matplotlib.colors import hsv_to_rgb

    hues = np.asarray(hues, dtype=np.float64)
    return hsv_to_rgb(np.stack([hues, *(np.full(hues.shape, x) for x in (saturation, value))], -1))


def of_luma(colours: np.ndarray, luma: float) -> np.ndarray:
    r"""Mixes colours with black, or with white, so that all are equally bright. Hues do not change.

    Args:
        colours: Of shape :math:`(*, 3)`, in [0, 1].
        luma: The brightness of the results, in [0, 1]: see :data:`LUMA`.

    Returns:
        Of shape :math:`(*, 3)`, in [0, 1].
    """
    before = (colours @ LUMA)[..., None]
    darker = colours * np.minimum(luma / np.maximum(before, 1e-12), 1)
    white = np.clip((luma - before) / np.maximum(1 - before, 1e-12), 0, 1)
    return darker + white * (1 - darker)
