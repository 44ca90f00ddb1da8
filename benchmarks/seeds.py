"""Summaries of what several seeds measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mean_and_deviation(values: Sequence[float] | np.ndarray, decimals: int) -> str:
    """Writes a mean, and after it the standard deviation if there are several values.

    Args:
        values: A value for each seed.
        decimals: How many decimals both have.

    Example:
        >>> mean_and_deviation([0.25, 0.75], 2), mean_and_deviation([0.25], 2)
        ('0.50 ± 0.35', '0.25')
    """
    spread = f" ± {np.std(values, ddof=1):.{decimals}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{decimals}f}{spread}"
