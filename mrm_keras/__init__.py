"""MRM-Net for 12-lead ECG classification: build, train, load, predict."""

from data_prep import __version__ as __version__  # first, so that Ctrl-C is quiet from then on

# isort: split
from typing import Any

import ecg_keras  # noqa: F401  (registers all networks before a module of this package is run)

__all__ = ["build_model", "compile_model", "load_model"]


def __getattr__(name: str) -> Any:
    """Import TensorFlow only when a model is needed, so that ``--help`` is fast."""
    if name in __all__:
        from mrm_keras import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
