"""The files of onnxruntime-web, which runs a model in a browser: of npm's package."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from train.errors import InputError, first_line, require

PACKAGE = "onnxruntime-web@1.30.0"
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
LICENCE = """ONNX Runtime Web (https://onnxruntime.ai), the files of this folder:

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""
SECONDS = 300
FAILURES = (OSError, ValueError, KeyError, subprocess.TimeoutExpired, tarfile.TarError)
"""What is raised where npm hangs, or gives another archive."""
REMEDY = f"give --ort FOLDER, where npm's package {PACKAGE} is unpacked"


def files(folder: Path | None) -> dict[str, bytes]:
    """Reads the files of onnxruntime-web, and fetches them with npm if they are not given.

    Args:
        folder: The folder of the unpacked package, or its folder ``dist``; ``None`` fetches it.

    Returns:
        The content by name, with the licence.

    Raises:
        InputError: If the folder lacks a file, or npm cannot fetch the package.
    """
    if folder is None:
        return {**_fetched(), "LICENSE": LICENCE.encode()}
    found = {}
    for name in FILES:
        places = [place for place in (folder / name, folder / "dist" / name) if place.is_file()]
        require(bool(places), f"--ort {folder} has no {name}: {REMEDY}")
        found[name] = places[0].read_bytes()
    return {**found, "LICENSE": LICENCE.encode()}


def _fetched() -> dict[str, bytes]:
    npm = shutil.which("npm")
    require(npm is not None, f"--web needs onnxruntime-web, and there is no npm: {REMEDY}")
    with tempfile.TemporaryDirectory() as place:
        call = [str(npm), "pack", PACKAGE, "--silent", "--pack-destination", place]
        try:
            subprocess.run(
                call, check=True, capture_output=True, text=True, timeout=SECONDS, cwd=place
            )
            (archive,) = Path(place).glob("*.tgz")
            with tarfile.open(archive) as package:
                # Only files of known names are read, and none is unpacked.
                return {name: _content(package, f"package/dist/{name}") for name in FILES}
        except subprocess.CalledProcessError as error:
            reason = first_line(Exception(error.stderr))
            raise InputError(f"npm cannot fetch {PACKAGE} ({reason}): {REMEDY}") from error
        except (
            OSError,
            ValueError,
            KeyError,
            subprocess.TimeoutExpired,
            tarfile.TarError,
        ) as error:
            reason = first_line(error)
            raise InputError(f"npm cannot fetch {PACKAGE} ({reason}): {REMEDY}") from error


def _content(package: tarfile.TarFile, name: str) -> bytes:
    file = package.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file.read()
