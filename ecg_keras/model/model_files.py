"""A ``.keras`` file opened with its contract: enough to predict from any recording."""

import json
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import ModelFileError, OptionError, RecordError
from data_prep.plausibility import check
from data_prep.records import Record, read_record, record_of_array
from data_prep.signals import prepare
from ecg_keras.evaluation.predictions import names_by_probability
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract, SignalContract
from ecg_keras.model.networks import announced
from ecg_keras.model.origin import UNKNOWN, ModelFacts, Origin


@dataclass(frozen=True)
class Answer:
    """What a network says of one recording.

    Attributes:
        record: the recording's name.
        probabilities: of each class, by its name, in 0..1.
        labels: the classes found, the most probable first; see :meth:`Contract.found`.
        warnings: what is doubtful about the recording, a sentence each; see
            :func:`data_prep.plausibility.check`.
    """

    record: str
    probabilities: dict[str, float]
    labels: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ECGModel:
    """A trained network and what must be known to use it.

    Attributes:
        network: the Keras model, from ``signal`` to a dict of probabilities.
        contract: rate, length, leads, classes, standardisation and thresholds.
        path: the file it came from.
        origin: the records that trained and chose it; None for files of earlier releases.
    """

    network: Any
    contract: Contract
    path: Path
    origin: Origin | None = None

    @property
    def facts(self) -> ModelFacts:
        """What pages and reports say about this model."""
        file = str(self.path)
        return ModelFacts(file) if self.origin is None else self.origin.facts(file)

    def seen(self, names: Sequence[str], dataset: str = "") -> np.ndarray:
        """Say which records this model has seen; see :meth:`ecg_keras.model.origin.Origin.seen`.

        Returns:
            int8 ``(N,)``, -1 for all if its file does not say.
        """
        if self.origin is None:
            return np.full(len(names), UNKNOWN, np.int8)
        return self.origin.seen(names, dataset)

    def predict(self, signals: np.ndarray, *, batch_size: int = 64) -> np.ndarray:
        """Predict from arrays that are as the contract says.

        Args:
            signals: ``(records, input_length, lead)``, millivolts, at the contract's rate, leads
                in the contract's order; see :func:`data_prep.signals.prepare`.
            batch_size: records at a time.

        Returns:
            Probabilities ``(records, classes)``, float32.

        Raises:
            ModelFileError: if the shape is not the contract's.
        """
        expected = (self.contract.input_length, len(self.contract.leads))
        if np.ndim(signals) != 3 or np.shape(signals)[1:] != expected:
            raise ModelFileError(
                f"{self.path} takes signals of shape (records, {expected[0]}, {expected[1]}) and"
                f" was given {np.shape(signals)}; bring them to"
                f" {self.contract.sampling_rate:g} Hz and that length with"
                " data_prep.signals.prepare."
            )
        answers = self.network.predict(signals, batch_size=batch_size, verbose=0)
        return answers["diagnosis"]

    def predict_record(
        self,
        recording: Record | np.ndarray | str | Path,
        *,
        fs: float | None = None,
        unit: str | None = None,
    ) -> Answer:
        """Predict from one recording of any rate, length and lead order.

        Args:
            recording: a file; what :func:`data_prep.records.read_record` made of one; or an
                array ``(time, 12)`` or ``(12, time)``, leads in the order of
                :data:`data_prep.labels.LEADS`.
            fs: sampling rate in hertz, for an array, or a file that states none.
            unit: ``"mV"``, ``"uV"``, ``"V"`` or ``"nV"``, likewise; without it, values are
                taken for millivolts if they can be.

        Returns:
            Probabilities and labels by class name, and what is doubtful about the recording.

        Raises:
            RecordError: if the recording cannot be used.
            OptionError: if an array comes without its rate.
        """
        record = _record_of(recording, fs, unit)
        probabilities = self.predict(prepare_record(record, self.contract)[None])[0]
        names = self.contract.class_names
        return Answer(
            record=record.id,
            probabilities={name: float(p) for name, p in zip(names, probabilities, strict=True)},
            labels=names_by_probability(names, probabilities, self.contract.found(probabilities)),
            warnings=tuple(doubt.text for doubt in check(record)),
        )


def _record_of(
    recording: Record | np.ndarray | str | Path, fs: float | None, unit: str | None
) -> Record:
    if isinstance(recording, Record):
        return recording
    if not isinstance(recording, np.ndarray):
        return read_record(recording, fs=fs, unit=unit)
    if fs is None:
        raise OptionError("an array does not know its sampling rate; give it in Hz with fs=….")
    return record_of_array(recording, fs=fs, unit=unit)


def prepare_record(record: Record, contract: Contract) -> np.ndarray:
    """Bring a recording to what a network expects.

    Args:
        record: from :func:`data_prep.records.read_record`.
        contract: of the network.

    Returns:
        ``(input_length, lead)`` float32, millivolts.

    Raises:
        RecordError: naming the file, if too much of it is invalid.
        OptionError: if the network takes a lead that recordings do not have.
    """
    try:
        signal = prepare(
            record.signal,
            fs=record.fs,
            target_fs=contract.sampling_rate,
            length=contract.input_length,
            fit=contract.fit,
        )
    except RecordError as error:
        raise RecordError(f"{record.path}: {error}") from None
    return contract.in_lead_order(signal)


def load_model(path: str | Path, *, networks: tuple[str, ...] | None = None) -> ECGModel:
    """Open a model file.

    Its layers come from the package that announces the network, see
    :mod:`ecg_keras.model.networks`; those of a network that none announces must have been
    imported.

    Args:
        path: a ``.keras`` file.
        networks: those it may hold, such as ``("MLBF-Net", "BranchNet")``; None for any.

    Returns:
        The network with its contract.

    Raises:
        ModelFileError: if the file is missing or corrupt, carries no contract, or holds another
            network, or one with layers that no installed package provides.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"{path} does not exist; name a .keras file that training wrote.")
    layer = _read_contract(path)
    contract = layer.contract
    if networks is not None and contract.network not in networks:
        raise ModelFileError(
            f"{path} holds {contract.network} and not {' or '.join(networks)}; open it with the"
            " package that trained it."
        )
    module = announced().get(contract.network)
    if module is not None:
        import_module(module)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds, by where it meets the damage.
        if module is None and "Could not locate class" in str(error):
            raise ModelFileError(
                f"{path} holds the network {contract.network}, whose layers no installed package"
                " provides; install the package that trained it."
            ) from error
        raise ModelFileError(
            f"{path} is broken ({_first_line(error)}); copy it again or train again."
        ) from error
    return ECGModel(model, contract, path, layer.origin)


def set_thresholds(model: Any, thresholds: np.ndarray) -> None:
    """Put decision thresholds into a network's contract.

    Args:
        model: a Keras model that :func:`load_model` could open once saved.
        thresholds: ``(classes,)``, in 0..1.
    """
    layer = model.get_layer("contract")
    values = tuple(float(t) for t in thresholds)
    layer.contract = replace(layer.contract, thresholds=values)


def set_origin(model: Any, origin: Origin) -> None:
    """Put into a network's file which records trained and chose it.

    Args:
        model: as for :func:`set_thresholds`.
        origin: of the weights it has now.
    """
    model.get_layer("contract").origin = origin


def _read_contract(path: Path) -> SignalContract:
    """Read contract and origin without the network, to say what is wrong with a strange file."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
        layers = {layer["class_name"]: layer["config"] for layer in config["config"]["layers"]}
    # A file that is something else shows itself in any of these.
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, LookupError, ValueError, TypeError):
        raise ModelFileError(
            f"{path} is not a Keras model file; name a best.keras that mlbf-train or mrm-train"
            " wrote, or copy it again."
        ) from None
    if "Lambda" in layers:
        raise ModelFileError(
            f"{path} holds a Lambda layer, that is, code which opening it would run; open only"
            " what mlbf-train or mrm-train wrote."
        )
    if "SignalContract" not in layers:
        raise ModelFileError(
            f"{path} is a Keras model but carries no contract of rate, leads and classes; name a"
            " best.keras that mlbf-train or mrm-train wrote."
        )
    try:
        config = layers["SignalContract"]
        return SignalContract(config["contract"], config.get("origin"))
    except (TypeError, KeyError, ValueError, AttributeError, OptionError):
        raise ModelFileError(
            f"{path} carries a contract that this release cannot read; open it with the release"
            " that trained it, or train again."
        ) from None


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")[:160]
