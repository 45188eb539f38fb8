"""From any ECG file to one store of labelled recordings in millivolts; never imports Keras."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("ecg-keras")
except PackageNotFoundError:
    __version__ = "from a checkout"
