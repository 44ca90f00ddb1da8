"""Runs a command from the command line: settings, errors in one line, exit statuses."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from train import processes
from train.errors import InputError, Interrupted
from train.settings.flags import parse

S = TypeVar("S")
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "calculation overflow")
"""Parts of the messages with which PyTorch reports that memory ran out."""

P = ParamSpec("P")
R = TypeVar("R")


def leaves_no_trace(main: Callable[P, R]) -> Callable[P, R]:
    """Decorates a ``main`` so that it restores what it sets for the whole process.

    That is the state of random generators and flags of PyTorch: see
    :func:`train.engine.runtime.preserved`.
    """

    @functools.wraps(main)
    def alone(*args: P.args, **options: P.kwargs) -> R:
        from train.engine import runtime

        with runtime.preserved():
            return main(*args, **options)

    return alone


def command(
    settings: type[S], main: Callable[[S], Mapping[str, Any]], args: list[str] | None = None
) -> None:
    """Runs ``main`` with settings from the command line, and prints its results.

    Every command has two more flags: ``--config FILE`` gives the settings that no flag gives, and
    ``--traceback`` shows where an error was raised. See :func:`train.settings.flags.parse`.

    Args:
        settings: The dataclass whose fields are the flags.
        main: The function to run. Of the results that it returns, numbers and strings are printed
            in one line on standard output. The ``lines`` of :class:`~train.verdict.Results` are
            printed on standard error.
        args: The command line without the program's name; :data:`sys.argv` if not given.

    Raises:
        SystemExit: With status 2, after one line on standard error, for an :class:`InputError`;
            with status 130 after Ctrl-C.
    """
    args = sys.argv[1:] if args is None else args
    # Several processes write to one terminal.
    prefix = f"process {processes.rank()}: " if processes.rank() else ""
    try:
        with _memory_errors_as_input_errors():
            given = parse(settings, args)
            # Imported here, so that --help and a wrong flag need no PyTorch.
            from train.engine import runtime

            runtime.tune_malloc()
            results = main(given)
    except Interrupted as stop:
        print(f"{prefix}{stop}", file=sys.stderr)
        raise SystemExit(130) from None
    except InputError as error:
        # Refused settings do not exist, so the flag is looked up in the command line.
        if "--traceback" in args:
            traceback.print_exc()
        print(f"{prefix}error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    # Only the first of several processes has results.
    if not results:
        return
    plain = {k: v for k, v in results.items() if not isinstance(v, Mapping | list)}
    shown = (f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in plain.items())
    print(" ".join(shown), flush=True)
    # On standard error, as scripts read standard output.
    for line in getattr(results, "lines", ()):
        print(line, file=sys.stderr)


@contextmanager
def _memory_errors_as_input_errors() -> Iterator[None]:
    """Raises :class:`InputError`, with a remedy, in place of the errors of too little memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # On the CPU PyTorch raises a RuntimeError.
        if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
            raise InputError(
                "there is not enough memory: give a smaller --batch-size, or smaller sizes of "
                "networks or data"
            ) from error
        raise
