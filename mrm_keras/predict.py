"""Moved to :mod:`ecg_keras.prediction.command`; this name will be removed in the next release."""

from warnings import warn

from ecg_keras.prediction.command import main as main

warn("import ecg_keras.prediction.command instead", DeprecationWarning, stacklevel=2)
