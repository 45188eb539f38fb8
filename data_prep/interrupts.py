"""Ctrl-C while a command is still being imported, before ``run_command`` can catch it."""

import os
import signal
import sys

STATUS = 130
"""The exit status of a command ended by Ctrl-C, as in shells."""

_PACKAGES = ("data_prep", "ecg_keras", "mlbf_keras", "mrm_keras")
_SCRIPTS = {  # of setup.cfg; a user's own script may begin like them
    *("ecg-download", "ecg-build", "ecg-synthetic", "ecg-predict", "ecg-evaluate"),
    *("ecg-export", "ecg-publish", "ecg-serve"),
    *("mlbf-train", "mlbf-predict", "mlbf-export", "mlbf-reproduce"),
    *("mrm-train", "mrm-predict", "mrm-export", "mrm-reproduce"),
}


def end_quietly_while_importing() -> None:
    """Let Ctrl-C end a command of this project without a traceback while it is still importing.

    Nothing changes in other programs that import the packages, or if Ctrl-C already has another
    handler, as in the processes that a command starts.
    """
    if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again() -> None:
    """Let Ctrl-C raise KeyboardInterrupt, as is usual."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _is_command() -> bool:
    given = sys.orig_argv[1:]
    if "-m" in given[:-1]:
        return given[given.index("-m") + 1].partition(".")[0] in _PACKAGES
    return bool(given) and os.path.basename(given[0]).removesuffix(".exe") in _SCRIPTS


def _end(number: int, frame: object) -> None:
    os.write(2, b"interrupted before anything began.\n")
    os._exit(STATUS)
