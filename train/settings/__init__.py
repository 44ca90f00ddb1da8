"""Settings: dataclasses, types and ranges, the command line, and files of settings.

Nothing here imports torch, so that ``--help`` and errors of the command line appear at once.
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
from train.settings.data import DataSettings
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
    "DataSettings",
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
