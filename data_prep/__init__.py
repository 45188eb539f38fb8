"""Turns ECG files of any format into one store of labelled recordings; never imports Keras."""

from data_prep.interrupts import end_quietly_while_importing

end_quietly_while_importing()


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("ecg-keras")
    except PackageNotFoundError:
        return "from a checkout"


__version__ = _version()
