"""Lists the commands: ``python -m train``."""

from __future__ import annotations

import sys
from importlib.metadata import version

COMMANDS = {
    "train.air": "Train AIR: count and locate objects in scenes.",
    "train.icvae": "Train ICVAE: codes independent of a condition.",
    "train.abc": "Train ABC: embeddings of what varies in sets.",
    "train.acai": "Train ACAI: an autoencoder that interpolates.",
    "train.ae": "Train a plain or denoising autoencoder.",
    "train.estimators": "Compare estimators of AIR's ELBO.",
    "train.explore": "See and touch trained runs in the browser.",
    "train.compare": "Compare runs on the same held-out images.",
    "train.export": "Export encoder and decoder: torch.export, ONNX.",
    "train.figures": "Draw the figures of a finished run again.",
}
"""What each command does, by the name of its module."""


def main(args: list[str]) -> None:
    """Prints the commands, or the version.

    Raises:
        SystemExit: With status 2, after one line that names the mistake, for any other argument
            than ``--help`` and ``--version``.
    """
    if args == ["--version"]:
        print(version("structured-latents"))
        return
    if args and args[0] not in ("-h", "--help"):
        print(f"error: {args[0]}: no such command; see python -m train", file=sys.stderr)
        raise SystemExit(2)
    print("Commands; each has --help:\n")
    for module, purpose in COMMANDS.items():
        print(f"  python -m {module:18}{purpose}")


if __name__ == "__main__":
    main(sys.argv[1:])
