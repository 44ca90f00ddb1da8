"""The public names of structured-latents, and its command.

    structured-latents air --steps 500        # what python -m train.air is
    structured-latents compare runs/a runs/b

Each name below can be imported from here, and is imported when it is first used:

    from structured_latents import AIR, load
"""

from __future__ import annotations

import importlib
import runpy
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from guides.air import ConvolutionalGuide, RecurrentGuide, ResidualGuide
    from guides.icvae import EchoGuide, FiniteGuide, GaussianGuide
    from pyro_models.abc import Embedder
    from pyro_models.ae import Autoencoder
    from pyro_models.air import AIR
    from pyro_models.icvae import ICVAE
    from pyro_models.tabular import TabularICVAE
    from train.estimators import DiscreteELBO, MarginalELBO, MeanFieldELBO, MultiSampleELBO
    from train.method import ELBOMethod, Method
    from train.pretrained import from_pretrained, save_pretrained
    from train.table_transformer import TableTransformer
    from train.trained import load
    from train.transformers import (
        ABCTransformer,
        ACAITransformer,
        AETransformer,
        AIRTransformer,
        ICVAETransformer,
    )

__all__ = [
    "AIR",
    "ICVAE",
    "ABCTransformer",
    "ACAITransformer",
    "AETransformer",
    "AIRTransformer",
    "Autoencoder",
    "ConvolutionalGuide",
    "DiscreteELBO",
    "ELBOMethod",
    "EchoGuide",
    "Embedder",
    "FiniteGuide",
    "GaussianGuide",
    "ICVAETransformer",
    "MarginalELBO",
    "MeanFieldELBO",
    "Method",
    "MultiSampleELBO",
    "RecurrentGuide",
    "ResidualGuide",
    "TableTransformer",
    "TabularICVAE",
    "from_pretrained",
    "load",
    "save_pretrained",
]

HOMES = {
    "guides.air": ("ConvolutionalGuide", "RecurrentGuide", "ResidualGuide"),
    "guides.icvae": ("EchoGuide", "FiniteGuide", "GaussianGuide"),
    "pyro_models.abc": ("Embedder",),
    "pyro_models.ae": ("Autoencoder",),
    "pyro_models.air": ("AIR",),
    "pyro_models.icvae": ("ICVAE",),
    "pyro_models.tabular": ("TabularICVAE",),
    "train.estimators": ("DiscreteELBO", "MarginalELBO", "MeanFieldELBO", "MultiSampleELBO"),
    "train.method": ("ELBOMethod", "Method"),
    "train.pretrained": ("from_pretrained", "save_pretrained"),
    "train.table_transformer": ("TableTransformer",),
    "train.trained": ("load",),
    "train.transformers": (
        *("ABCTransformer", "ACAITransformer", "AETransformer", "AIRTransformer"),
        "ICVAETransformer",
    ),
}
"""The names that each module has, which are imported when they are first used."""

__version__ = version("structured-latents")


def require_own_packages() -> None:
    """Checks that ``train`` is this project's package.

    Raises:
        ImportError: If a person's own file ``train.py``, say, hides it. The message names the file.
    """
    for name in ("train", "guides", "pyro_models"):
        module = importlib.import_module(name)
        homes = getattr(module, "__path__", None)
        if homes is None or not any((Path(home) / "py.typed").exists() for home in homes):
            raise ImportError(
                f"{module.__file__ or name} hides the package {name} of structured-latents: rename "
                "that file or folder, or run from another folder"
            )


def __getattr__(name: str) -> Any:
    for home, names in HOMES.items():
        if name in names:
            require_own_packages()
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def command() -> None:
    """Runs ``python -m train.NAME`` by the name on the command line.

    Raises:
        SystemExit: With status 2, after one line on standard error, if there is no such command, or
            another module hides this project's.
    """
    try:
        require_own_packages()
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    from train import __main__ as overview

    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if f"train.{name}" not in overview.COMMANDS:
        overview.main(sys.argv[1:])
        return
    sys.argv = [f"structured-latents {name}", *sys.argv[2:]]
    runpy.run_module(f"train.{name}", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    command()
