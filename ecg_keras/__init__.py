"""Everything around a network: train, predict, explain, export, evaluate, reproduce.

The public interface of ECG-Keras: ``load_model`` opens the model file of any installed network,
``load_pretrained`` opens a published model by its name, ``open_models`` opens an ensemble,
``ECGClassifier`` trains a network in scikit-learn's form, ``read_record`` reads a recording in any
supported format, and ``ecg_figure`` draws it on ECG paper.  Once this package is imported,
``keras.models.load_model`` opens the same model files.
"""

from data_prep import __version__ as __version__  # first, so that Ctrl-C is quiet from then on

# isort: split
from importlib import import_module
from typing import Any

from ecg_keras.model.registration import register_with_keras

_MODULES = {
    "ECGClassifier": "ecg_keras.prediction.classifier",
    "ecg_figure": "data_prep.ecg_paper",
    "load_model": "ecg_keras.model.model_files",
    "load_pretrained": "ecg_keras.model.model_files",
    "open_models": "ecg_keras.prediction.ensemble",
    "read_record": "data_prep.records",
}

__all__ = [
    "ECGClassifier",
    "ecg_figure",
    "load_model",
    "load_pretrained",
    "open_models",
    "read_record",
]

register_with_keras()


def __getattr__(name: str) -> Any:
    """Import TensorFlow only when it is needed, so that ``--help`` is fast."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
