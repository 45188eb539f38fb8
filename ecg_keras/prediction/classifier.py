"""A network as a classifier in scikit-learn's form, whose samples are recordings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from data_prep.errors import OptionError, RecordError
from data_prep.labels import OWN_DATASET
from data_prep.signals import fill_invalid, resample
from data_prep.splits import stratified_folds
from data_prep.store import StoreWriter
from ecg_keras.model.networks import announced, part
from ecg_keras.model.recordings import as_record
from ecg_keras.prediction.ensemble import open_models
from ecg_keras.training.fit import train_folds
from ecg_keras.training.settings import Run, Validation, options_of


class ECGClassifier(ClassifierMixin, BaseEstimator):
    """Trains a network on recordings with one label each, and predicts the labels of others.

    Args:
        network: ``"MRM-Net"``, ``"MLBF-Net"``, ``"BranchNet"`` or another network that an
            installed package trains; see :mod:`ecg_keras.model.networks`.
        epochs: maximum number of passes over the training recordings.
        folds: the recordings are dealt into so many; one chooses the epoch, the others train.
        seed: of folds, weights and the order of recordings.
        fs: sampling rate in hertz, of recordings that do not state it.
        unit: of recordings that do not state it.
        options: of the network and its training, as on the command line, such as
            ``{"input_length": 500, "batch_size": 16}``.

    Attributes:
        classes_: the labels, sorted.
        models_: the trained :class:`ecg_keras.prediction.ensemble.Ensemble`, of one model.
    """

    def __init__(
        self,
        network: str = "MRM-Net",
        *,
        epochs: int = 100,
        folds: int = 10,
        seed: int = 0,
        fs: float | None = None,
        unit: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.network, self.epochs, self.folds, self.seed = network, epochs, folds, seed
        self.fs, self.unit, self.options = fs, unit, options

    def fit(self, recordings: Sequence[Any], labels: Sequence[Any]) -> "ECGClassifier":
        """Train on recordings of any form that ``predict_record`` takes, one label each."""
        if not 2 <= self.folds <= 10:
            raise OptionError(f"folds must be 2 to 10, not {self.folds}.")
        train = part(self.network, "train")
        if train is None or self.network not in getattr(train, "NETWORKS", {}):
            raise OptionError(
                f"no installed package trains {self.network!r}; name another network."
            )
        given = {**(self.options or {}), "epochs": self.epochs, "seed": self.seed}
        network = train.NETWORKS[self.network]
        own = {name: given.pop(name) for name in options_of(network) if name in given}
        network, training = replace(network, **own), replace(train.TRAINING, **given)
        rate = import_module(announced()[self.network]).SAMPLING_RATE
        self.classes_, numbers = np.unique(labels, return_inverse=True)
        names = {"labels": tuple(map(str, self.classes_))}
        with TemporaryDirectory() as folder:
            run = Run(store=Path(folder, "store.h5"), out=Path(folder, "run"))
            with StoreWriter(run.store, dataset=OWN_DATASET, fs=rate, class_names=names) as store:
                for i, (recording, label) in enumerate(zip(recordings, numbers, strict=True)):
                    record = as_record(recording, fs=self.fs, unit=self.unit, fallback=True)
                    signal = resample(fill_invalid(record.signal), fs=record.fs, target_fs=rate)
                    store.append(str(i), signal, labels={"labels": (label,)}, first_label=label)
                of_all = store.labels("labels")
                store.set_folds(stratified_folds(of_all, seed=self.seed, num_folds=self.folds))
            train_folds(run, Validation(folds=("1",), test_fold=None), network, training)
            self.models_ = open_models([str(run.out / "fold_1" / "best.keras")])
        return self

    def predict_proba(self, recordings: Sequence[Any]) -> np.ndarray:
        """Return ``(recordings, classes)``; each row is scaled to sum to 1."""
        check_is_fitted(self)
        answers = self.models_.predict_records(list(recordings), fs=self.fs, unit=self.unit)
        if answers.rejected:
            raise RecordError(f"{answers.rejected[0].name}: {answers.rejected[0].reason}")
        rows = np.array([list(answer.probabilities.values()) for answer in answers])
        return rows / rows.sum(axis=1, keepdims=True)

    def predict(self, recordings: Sequence[Any]) -> np.ndarray:
        """Return the most probable label of each recording."""
        best = self.predict_proba(recordings).argmax(axis=1)
        return self.classes_[best]
