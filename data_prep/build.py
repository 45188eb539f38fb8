"""Moved to :mod:`data_prep.storing.build`; this name will be removed in the next release."""

from warnings import warn

from data_prep.storing.build import main as main

warn("import data_prep.storing.build instead", DeprecationWarning, stacklevel=2)
