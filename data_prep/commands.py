"""Turns a typed ``main`` into a command: options from its signature, errors as one sentence."""

import errno
import inspect
import os
import sys
from collections.abc import Callable

from data_prep import __version__
from data_prep.errors import ECGError
from data_prep.provenance import version_of


def run_command(main: Callable[..., None]) -> None:
    """Run ``main`` with the options of the command line, and exit.

    ``--version`` prints the versions of this package, Keras and TensorFlow instead.

    Args:
        main: the typed function of a command; its docstring becomes the help text.

    Raises:
        SystemExit: status 2, after one sentence on standard error, where the input cannot be
            used, a file cannot be read or written, the disk is full or the user interrupts.
    """
    import tyro

    if "--version" in sys.argv[1:]:
        others = ", ".join(f"{name} {version_of(name)}" for name in ("keras", "tensorflow"))
        print(f"{os.path.basename(sys.argv[0])} {__version__} ({others})")
        return
    try:
        tyro.cli(main)
    except ECGError as error:
        _stop(str(error))
    except KeyboardInterrupt:
        goes_on = ", and --resume goes on from there" if _resumes(main) else ""
        _stop(f"interrupted; what was complete stays as it was{goes_on}.")
    except OSError as error:
        # An exhausted quota is a full disk to whom it befalls.
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" while writing {error.filename}" if error.filename else ""
            again = "again with --resume" if _resumes(main) else "again"
            _stop(f"the disk is full{where}; free some space and run the same command {again}.")
        if error.filename:
            _stop(f"{error.filename} cannot be used ({error.strerror}); choose another place.")
        raise


def _resumes(main: Callable[..., None]) -> bool:
    return "resume" in inspect.signature(main).parameters


def _stop(sentence: str) -> None:
    print(f"{os.path.basename(sys.argv[0])}: {sentence}", file=sys.stderr)
    raise SystemExit(2)
