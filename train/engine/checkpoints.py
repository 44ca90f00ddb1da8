"""The last checkpoints of a run, each one file that says whether it is whole."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from train.engine.disk import require_regular, write_inside
from train.errors import InputError, first_line, require


class Checkpoints:
    """A folder of checkpoints, ``STEP.pt``.

    All of a step is in one file, so that no crash leaves halves of two steps. Files are archives
    of tensors and plain values: nothing in them is run when they are read, and each part has a
    checksum, which PyTorch itself does not look at.

    Args:
        folder: The folder; it is made with the first checkpoint.
        keep: How many of the last ones stay.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def paths(self) -> list[Path]:
        """The checkpoints there are, in order of their steps."""
        return sorted(path for path in self.folder.glob("*.pt") if path.stem.isdecimal())

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint; then older ones go, but for the last ``keep``.

        Args:
            step: The steps done.
            state: Tensors and plain values.

        Raises:
            InputError: If it cannot be written; those before are still there.
        """
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        name = f"{self.folder.name}/{step:08d}.pt"
        write_inside(self.folder.parent, name, lambda file: file.write(buffer.getbuffer()))
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)

    def load(self, device: torch.device) -> dict[str, Any]:
        """Reads the newest checkpoint.

        Args:
            device: Where tensors go.

        Raises:
            InputError: If it is damaged; the message says which one is before it.
        """
        *before, path = self.paths()
        require_regular(path)
        try:
            with zipfile.ZipFile(path) as archive:
                # What is stored as it is takes no more memory than the file has bytes.
                stored = all(each.compress_type == zipfile.ZIP_STORED for each in archive.filelist)
                require(stored, "it is compressed")
                require(archive.testzip() is None, "a checksum is wrong")
            state = torch.load(path, map_location=device, weights_only=True)
            require(isinstance(state, dict), "it holds no state")
            return state
        # A damaged or a crafted file makes zipfile and PyTorch raise errors of any type.
        except Exception as error:
            remedy = "start the run anew"
            if before:
                remedy = f"delete it, and --resume goes on from {before[-1].name}"
            raise InputError(f"{path} is damaged ({first_line(error)}): {remedy}") from error

    def __str__(self) -> str:
        paths = self.paths()
        if not paths:
            return "there is no checkpoint yet"
        return f"the last good checkpoint, of step {int(paths[-1].stem):,}, is {paths[-1]}"
