"""What a person gives: settings, their types and ranges, the command line and files of settings.

Nothing here imports torch, so that ``--help`` and the refusal of a wrong flag need no time.
"""

from train.settings.common import (
    ELBOSettings,
    EstimatorSettings,
    SceneSettings,
    Settings,
    flag,
    flags_to_arguments,
    restore,
)
from train.settings.values import (
    LARGEST,
    Count,
    NonNegative,
    Positive,
    Probability,
    Range,
    Whole,
)

__all__ = [
    "LARGEST",
    "Count",
    "ELBOSettings",
    "EstimatorSettings",
    "NonNegative",
    "Positive",
    "Probability",
    "Range",
    "SceneSettings",
    "Settings",
    "Whole",
    "flag",
    "flags_to_arguments",
    "restore",
]
