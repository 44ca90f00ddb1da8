"""The last checkpoints of a run: one file for each step, with checksums."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from train.engine.disk import require_regular, write_inside
from train.errors import InputError, first_line, require


class _Writer:
    """Writes a checkpoint to a file as it is made, so that memory never holds it as a whole.

    PyTorch turns an :class:`OSError` of the file into another exception; this one is kept.

    Args:
        file: The open file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def save(self, state: Mapping[str, Any]) -> None:
        """Writes a state.

        Raises:
            OSError: If the file cannot be written.
        """
        try:
            # It asks no more of a file than to be written to.
            torch.save(dict(state), self)  # type: ignore[arg-type]
        except RuntimeError as error:
            raise (self.error or error) from None
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        """Writes bytes, as :func:`torch.save` asks for it."""
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Does nothing: the file is flushed when all is written."""


class Checkpoints:
    """A folder of checkpoints, ``STEP.pt``.

    A checkpoint is one file, so a crash cannot mix the states of two steps. The file is PyTorch's
    zip archive of tensors and plain values. Reading it runs no code from it (``weights_only``), and
    verifies the checksum of every member, which :func:`torch.load` does not.

    Args:
        folder: The folder; it is made with the first checkpoint.
        keep: How many of the last checkpoints are kept.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def paths(self) -> list[Path]:
        """Returns the files of all checkpoints, in order of their steps."""
        return sorted(path for path in self.folder.glob("*.pt") if path.stem.isdecimal())

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint, then removes all but the last ``keep``.

        Args:
            step: The number of steps done.
            state: Tensors and plain values, and lists and dictionaries of them.

        Raises:
            InputError: If it cannot be written; no earlier checkpoint is removed then.
        """
        name = f"{self.folder.name}/{step:08d}.pt"
        write_inside(self.folder.parent, name, lambda file: _Writer(file).save(state))
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)

    def load(self, device: torch.device) -> dict[str, Any]:
        """Reads the last checkpoint.

        Args:
            device: The device for the tensors.

        Raises:
            InputError: If it is damaged; the message names the one before it, if there is one.
        """
        *before, path = self.paths()
        require_regular(path)
        try:
            with zipfile.ZipFile(path) as archive:
                # PyTorch does not compress; a small compressed file could expand without limit.
                members = archive.filelist
                stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
                require(stored, "it is compressed")
                require(archive.testzip() is None, "a checksum is wrong")
            state = torch.load(path, map_location=device, weights_only=True)
            require(isinstance(state, dict), "it holds no state")
            return state
        # A damaged or crafted file makes zipfile and PyTorch raise exceptions of any type.
        except Exception as error:
            remedy = "start the run anew"
            if before:
                remedy = f"delete it, and --resume goes on from {before[-1].name}"
            raise InputError(f"{path} is damaged ({first_line(error)}): {remedy}") from error

    def __str__(self) -> str:
        """Says which checkpoint is the last one, for messages."""
        paths = self.paths()
        if not paths:
            return "there is no checkpoint yet"
        return f"the last good checkpoint, of step {int(paths[-1].stem):,}, is {paths[-1]}"
