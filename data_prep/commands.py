"""Turns a typed ``main`` into a command, with options from its signature and one-line errors."""

import errno
import inspect
import os
import select
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields, replace
from functools import partial, wraps
from inspect import Parameter
from io import TextIOWrapper
from typing import Any

from data_prep import __version__
from data_prep.errors import ECGError
from data_prep.interrupts import STATUS, raise_again
from data_prep.names import shown
from data_prep.provenance import version_of

CLOSED = 141
"""Status of a command whose output was closed, as a shell gives it."""


def takes_options(main: Callable[..., None]) -> Callable[..., None]:
    """Let a function of settings dataclasses be called with their fields as keywords.

    ``main(*, run: Run, settings: Settings = Settings(epochs=9))`` is then called as on the command
    line, with one option per field: ``main(store=Path("a.h5"), out=Path("runs/a"), epochs=3)``.

    Args:
        main: a function of dataclasses; no two of them share a field name.
    """
    settings = inspect.signature(main, eval_str=True).parameters
    options = []
    for each in settings.values():
        for field in fields(each.annotation):
            default = (
                field.default if each.default is each.empty else getattr(each.default, field.name)
            )
            options.append(
                Parameter(
                    field.name,
                    Parameter.KEYWORD_ONLY,
                    default=Parameter.empty if default is MISSING else default,
                    annotation=field.type,
                )
            )
    signature = inspect.Signature(options, return_annotation=None)

    @wraps(main)
    def called(**given: Any) -> None:
        signature.bind(**given)  # a TypeError names what is missing or unknown
        made = {}
        for name, each in settings.items():
            own = {f.name: given[f.name] for f in fields(each.annotation) if f.name in given}
            new = each.annotation if each.default is each.empty else partial(replace, each.default)
            made[name] = new(**own)
        main(**made)

    vars(called)["__signature__"] = signature
    return called


def run_command(main: Callable[..., None]) -> None:
    """Run ``main`` with the options of the command line, and exit.

    ``--version`` prints the versions of this package, Keras and TensorFlow instead.

    Args:
        main: the typed function of a command; its docstring becomes the help text.  A parameter
            that is a dataclass gives one option per field, explained by the dataclass's docstring.

    Raises:
        SystemExit: status 2, after one sentence on standard error, if the input cannot be
            used, a file cannot be read or written or the disk is full; status 130 if the user
            interrupts, and 141 if the output is closed.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals of few characters
    try:
        try:
            raise_again()
            if "--version" in sys.argv[1:]:
                others = ", ".join(f"{name} {version_of(name)}" for name in ("keras", "tensorflow"))
                print(f"{os.path.basename(sys.argv[0])} {__version__} ({others})")
                return
            from data_prep.options import call_with_options

            call_with_options(inspect.unwrap(main), os.path.basename(sys.argv[0]))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _output_is_closed():
            raise
        # What reads the output, such as head, has read enough; Python still flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(CLOSED) from None
    except ECGError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        further = ", and --resume continues from there" if _resumes(main) else ""
        _stop(f"interrupted; completed results are kept{further}.", status=STATUS)
    except OSError as error:
        # To the user, an exhausted quota is a full disk.
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" while writing {error.filename}" if error.filename else ""
            again = "again with --resume" if _resumes(main) else "again"
            _stop(f"the disk is full{where}; free some space and run the same command {again}.")
        if error.filename:
            _stop(f"{error.filename} cannot be used ({error.strerror}); choose another place.")
        raise


def _output_is_closed() -> bool:
    if not hasattr(select, "poll"):  # Windows
        return True
    poll = select.poll()
    poll.register(sys.stdout, select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _resumes(main: Callable[..., None]) -> bool:
    return "resume" in inspect.signature(main).parameters


def _stop(sentence: str, *, status: int = 2) -> None:
    print(shown(f"{os.path.basename(sys.argv[0])}: {sentence}"), file=sys.stderr)
    raise SystemExit(status)
