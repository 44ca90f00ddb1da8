"""The command line of every command: settings read, errors in one line, exit statuses."""

from __future__ import annotations

import functools
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import make_dataclass
from typing import Annotated, Any, TypeVar

import tyro

from train import processes
from train.errors import InputError, Interrupted

S = TypeVar("S")
NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "calculation overflow")
"""What PyTorch says when there is too little memory."""

M = TypeVar("M", bound=Callable[..., Any])


def leaves_no_trace(main: M) -> M:
    """Makes a ``main`` leave the process of whoever calls it as it was; a decorator.

    See :func:`train.engine.runtime.preserved`.
    """

    @functools.wraps(main)
    def alone(*args: Any, **options: Any) -> Any:
        from train.engine import runtime

        with runtime.preserved():
            return main(*args, **options)

    return alone


def command(
    settings: type[S], main: Callable[[S], Mapping[str, Any]], args: list[str] | None = None
) -> None:
    """Runs ``main`` with settings read from the command line.

    Every command has the flag ``--traceback`` too, which is none of its settings: before the line
    of an error it shows where in the code the error came from.

    Args:
        settings: The dataclass whose fields are the flags.
        main: What to run; it returns the results. Those that are numbers or words are printed in a
            line on standard output, then the lines of :class:`~train.verdict.Results`, if that is
            what they are, on standard error.
        args: The command line; :data:`sys.argv` if not given.

    Raises:
        SystemExit: With status 2 and one line on standard error if an :class:`InputError` came,
            with 130 if Ctrl-C did.
    """
    args = sys.argv[1:] if args is None else args
    # Which process of several, so that a person sees where to look.
    who = f"process {processes.rank()}: " if processes.rank() else ""
    try:
        with _memory_named():
            given = _parsed(settings, args)
            # Not above: --help and a wrong flag are answered before PyTorch is there.
            from train.engine import runtime

            runtime.tune_malloc()
            results = main(given)
    except Interrupted as stop:
        print(f"{who}{stop}", file=sys.stderr)
        raise SystemExit(130) from None
    except InputError as error:
        # Settings that are refused are no object that could be asked.
        if "--traceback" in args:
            traceback.print_exc()
        print(f"{who}error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    # Of several processes only the first has any.
    if not results:
        return
    plain = {k: v for k, v in results.items() if not isinstance(v, Mapping | list)}
    shown = (f"{k}={v:.5g}" if isinstance(v, float) else f"{k}={v}" for k, v in plain.items())
    print(" ".join(shown), flush=True)
    # What a person reads comes last, and not where a script looks for numbers.
    for line in getattr(results, "lines", ()):
        print(line, file=sys.stderr)


def _parsed(settings: type[S], args: list[str]) -> S:
    """Settings of a command line that may also have the flag ``--traceback``."""
    shown = tyro.conf.arg(help="Show where in the code an error came from.")
    line = make_dataclass(
        "CommandLine",
        [
            ("settings", tyro.conf.OmitArgPrefixes[settings]),
            ("traceback", Annotated[tyro.conf.FlagCreatePairsOff[bool], shown], False),
        ],
    )
    return tyro.cli(line, args=args, description="").settings


@contextmanager
def _memory_named() -> Iterator[None]:
    """Raises :class:`InputError` where memory was what was missing."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # PyTorch has no type for it on the CPU.
        if isinstance(error, MemoryError) or any(word in str(error) for word in NO_MEMORY):
            raise InputError(
                "there is not enough memory: give a smaller --batch-size, or smaller sizes of "
                "networks or data"
            ) from error
        raise
