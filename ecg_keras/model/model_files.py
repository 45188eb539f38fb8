"""Opens and saves ``.keras`` files with their contract: all that predicting needs."""

import hashlib
import io
import json
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data_prep.errors import ModelFileError, OptionError, RecordError
from data_prep.readers.record import reason
from data_prep.records import Record
from data_prep.signals import prepare
from ecg_keras.evaluation.answers import Answer, Answers
from ecg_keras.evaluation.predictions import are_probabilities
from ecg_keras.model.backend import keras, tf
from ecg_keras.model.contract import Contract, SignalContract
from ecg_keras.model.networks import announced
from ecg_keras.model.origin import UNKNOWN, ModelFacts, Origin
from ecg_keras.model.pretrained import pretrained_file, pretrained_models

_DIGEST = "digest.txt"
_WEIGHTS = "model.weights.h5"
_MOST_CONFIG = 2**27  # bytes
_MOST_UNPACKED = 2**31  # bytes of all members
# What reading a damaged file, or one of another kind, can raise; RuntimeError if it is encrypted,
# compressed by an unknown method, or nested too deeply.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    RuntimeError,
    MemoryError,
    struct.error,
)


@dataclass(frozen=True)
class ECGModel:
    """A trained network with its contract.

    Attributes:
        network: the Keras model, from ``signal`` to a dict of probabilities.
        contract: rate, length, leads, classes, standardisation and thresholds.
        path: the file it was loaded from.
        origin: the records that trained and selected it; None for files from earlier releases.
    """

    network: Any
    contract: Contract
    path: Path
    origin: Origin | None = None

    @property
    def facts(self) -> ModelFacts:
        """What pages and reports say about this model."""
        file = Path(*self.path.parts[-2:]).as_posix()
        return ModelFacts(file) if self.origin is None else self.origin.facts(file)

    def seen(self, names: Sequence[str], dataset: str = "") -> np.ndarray:
        """Find which records this model has seen; see :meth:`ecg_keras.model.origin.Origin.seen`.

        Returns:
            int8 ``(N,)``; all -1 if the model file does not record its origin.
        """
        if self.origin is None:
            return np.full(len(names), UNKNOWN, np.int8)
        return self.origin.seen(names, dataset)

    def predict(self, signals: np.ndarray, *, batch_size: int = 64) -> np.ndarray:
        """Predict from arrays that are already in the form of the contract.

        Args:
            signals: ``(records, input_length, lead)``, millivolts, at the contract's rate, leads
                in the contract's order; see :func:`data_prep.signals.prepare`.
            batch_size: records per batch.

        Returns:
            Probabilities ``(records, classes)``, float32.

        Raises:
            ModelFileError: if the shape is not the contract's, or an answer is no probability.
        """
        expected = (self.contract.input_length, len(self.contract.leads))
        if np.ndim(signals) != 3 or np.shape(signals)[1:] != expected:
            raise ModelFileError(
                f"{self.path} takes signals of shape (records, {expected[0]}, {expected[1]}) and"
                f" was given {np.shape(signals)}; bring them to"
                f" {self.contract.sampling_rate:g} Hz and that length with"
                " data_prep.signals.prepare."
            )
        answers = self.run(signals, batch_size=batch_size)["diagnosis"]
        invalid = np.flatnonzero(~are_probabilities(answers))
        if len(invalid):
            raise ModelFileError(
                f"{self.path} gives NaN, or numbers outside 0 to 1, for signal {invalid[0]};"
                " look for NaN in that signal, or train the model again."
            )
        return answers

    def run(self, signals: np.ndarray, *, batch_size: int = 64) -> dict[str, np.ndarray]:
        """Run the network eagerly.

        ``keras.Model.predict`` traces and optimises a graph for each model and again for each
        batch size, which takes a minute for MLBF-Net and pays off only in training.

        Args:
            signals: as for :meth:`predict`; not checked.
            batch_size: records per batch.

        Returns:
            Output of each head, ``(records, classes)`` float32, not checked for NaN.
        """
        parts = [
            self.network(tf.constant(signals[start : start + batch_size]), training=False)
            for start in range(0, len(signals), batch_size)
        ]
        return {
            head: np.concatenate([np.asarray(part[head], np.float32) for part in parts])
            for head in self.network.output
        }

    def predict_record(
        self, recording: Any, *, fs: float | None = None, unit: str | None = None
    ) -> Answer:
        """Predict from one recording of any rate, length and lead order.

        Args:
            recording: a file, record, array, list, ``wfdb.Record`` or DataFrame; see
                :func:`ecg_keras.model.recordings.as_record`.
            fs: sampling rate in hertz, if the recording does not state it.
            unit: ``"mV"``, ``"uV"``, ``"V"`` or ``"nV"``, if the recording does not state it; by
                default values are taken as millivolts if that is plausible.

        Returns:
            Probabilities by class name, the classes found, and warnings about the recording.

        Raises:
            RecordError: if the recording cannot be used.
            OptionError: if an array, list or DataFrame is given without ``fs``.
        """
        return self._alone().predict_record(recording, fs=fs, unit=unit)

    def predict_records(self, recordings: Any, **options: Any) -> Answers:
        """Predict from several recordings.

        Args:
            recordings: a folder, a list of recordings as for :meth:`predict_record`, or a pandas
                DataFrame with a column of paths.
            **options: see :meth:`ecg_keras.prediction.ensemble.Ensemble.predict_records`.
        """
        return self._alone().predict_records(recordings, **options)

    def _alone(self) -> Any:
        from ecg_keras.prediction.ensemble import Ensemble  # which imports this module

        return Ensemble([self])


def prepare_record(record: Record, contract: Contract) -> np.ndarray:
    """Bring a recording into the form that a network expects.

    Args:
        record: from :func:`data_prep.records.read_record`.
        contract: the network's contract.

    Returns:
        ``(input_length, lead)`` float32, millivolts.

    Raises:
        RecordError: naming the file, if too much of it is invalid.
        OptionError: if the contract has a lead that is not one of the twelve.
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

    The layers come from the package that announces the network, see
    :mod:`ecg_keras.model.networks`; if no package announces it, import its layers first.

    Args:
        path: a ``.keras`` file, or the name of a pretrained model; see :func:`load_pretrained`.
        networks: networks to accept, such as ``("MLBF-Net", "BranchNet")``; None for any.

    Returns:
        The network with its contract.

    Raises:
        ModelFileError: if the file is missing or corrupt, has no contract, or holds another
            network or layers that no installed package provides.
        DownloadError: if a pretrained model has to be downloaded and cannot be.
    """
    path, layer = _found(path, networks)
    contract = layer.contract
    module = announced().get(contract.network)
    if module is not None:
        import_module(module)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many types, depending on the damage.
        if module is None and "Could not locate class" in str(error):
            raise ModelFileError(
                f"{path} holds the network {contract.network}, whose layers no installed package"
                " provides; install the package that trained it."
            ) from error
        raise ModelFileError(
            f"{path} is broken ({reason(error)}); copy it again or train again."
        ) from error
    _require_sizes(path, model, contract)
    return ECGModel(model, contract, path, layer.origin)


def read_origin(path: str | Path, *, networks: tuple[str, ...] | None = None) -> Origin:
    """Read which records trained and selected a model, without building the network.

    Args:
        path: as for :func:`load_model`, like the other argument and the errors.
        networks: networks to accept; None for any.

    Returns:
        The origin; :meth:`Origin.unknown` if the file does not name its records.
    """
    return _found(path, networks)[1].origin or Origin.unknown()


def _found(path: str | Path, networks: tuple[str, ...] | None) -> tuple[Path, SignalContract]:
    """Find a model file, and read its contract and origin."""
    path = Path(path)
    if not path.is_file() and str(path) in pretrained_models():
        path = pretrained_file(str(path))
    if path.is_dir():
        inside = sorted((*path.glob("best.keras"), *path.glob("*/best.keras")))
        example = inside[0] if inside else path / "best.keras"
        raise ModelFileError(f"{path} is a folder; name a .keras file in it, such as {example}.")
    if not path.is_file():
        raise ModelFileError(
            f"{path} does not exist; name a .keras file that training wrote, or a model that"
            " ecg-predict --list-pretrained lists."
        )
    layer = _read_contract(path)
    network = layer.contract.network
    if networks is not None and network not in networks:
        raise ModelFileError(
            f"{path} holds {network} and not {' or '.join(networks)}; open it with the package that"
            " trained it."
        )
    return path, layer


def load_pretrained(name: str, *, address: str | None = None) -> ECGModel:
    """Open a pretrained model by its name, downloading it if necessary.

    Args:
        name: one of those that ``ecg-predict --list-pretrained`` lists.
        address: URL of the folder to download from; see
            :func:`ecg_keras.model.pretrained.pretrained_file`.

    Returns:
        The network with its contract.

    Raises:
        OptionError: if there is no pretrained model of that name.
        DownloadError: if it cannot be downloaded.
        ModelFileError: if the file is not the one that was published.
    """
    return load_model(pretrained_file(name, address=address))


def set_thresholds(model: Any, thresholds: np.ndarray) -> None:
    """Set the decision thresholds in a network's contract.

    Args:
        model: a Keras model with a :class:`SignalContract` layer named ``contract``.
        thresholds: ``(classes,)``, in 0..1.
    """
    layer = model.get_layer("contract")
    values = tuple(float(t) for t in thresholds)
    layer.contract = replace(layer.contract, thresholds=values)


def set_origin(model: Any, origin: Origin) -> None:
    """Set the origin that is saved with a network.

    Args:
        model: as for :func:`set_thresholds`.
        origin: origin of the current weights.
    """
    model.get_layer("contract").origin = origin


def save_model(model: Any, path: Path, *, half: bool = False) -> None:
    """Save a network with a digest of the file's content, which :func:`load_model` checks.

    Args:
        model: as for :func:`set_thresholds`.
        path: the ``.keras`` file; overwritten if it exists.
        half: store the weights in half precision (float16), in half the space.  The loaded network
            computes in float32 all the same.

    Raises:
        ModelFileError: if a weight is too large for half precision.
    """
    model.save(path)
    if half:
        _halve_weights(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(_DIGEST, _digest_of(archive))


def _halve_weights(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    halved = io.BytesIO()
    with h5py.File(io.BytesIO(members[_WEIGHTS])) as full, h5py.File(halved, "w") as file:

        def copy(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Dataset):
                with np.errstate(over="ignore"):
                    values = item[()].astype(np.float16)
                if not np.isfinite(values).all():
                    raise ModelFileError(
                        f"{name} has weights too large for half precision; save them in full."
                    )
                new = file.create_dataset(name, data=values)
            else:
                new = file.require_group(name)
            new.attrs.update(item.attrs)

        full.visititems(copy)
    members[_WEIGHTS] = halved.getvalue()
    part = path.with_name(path.name + ".half")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    os.replace(part, path)


def _digest_of(archive: zipfile.ZipFile) -> str:
    digest = hashlib.sha256()
    for name in sorted(set(archive.namelist()) - {_DIGEST}):
        digest.update(name.encode())
        with archive.open(name) as member:
            while block := member.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _require_digest(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a file that was changed after :func:`save_model`; accept files without a digest."""
    if _DIGEST not in archive.namelist():
        return
    with archive.open(_DIGEST) as member:
        stated = member.read(100).decode()
    if stated != _digest_of(archive):
        raise ModelFileError(
            f"{path} was changed after it was saved, or is damaged: its digest does not match; copy"
            " it again or train again."
        )


def _require_sizes(path: Path, model: Any, contract: Contract) -> None:
    """Refuse a file whose contract does not fit its network."""
    try:
        found = (*model.input.shape[1:], model.output["diagnosis"].shape[-1])
    except (AttributeError, LookupError, TypeError):
        raise ModelFileError(
            f"{path} holds no network from one signal to a diagnosis; name a best.keras that"
            " mlbf-train or mrm-train wrote."
        ) from None
    promised = (contract.input_length, len(contract.leads), len(contract.class_names))
    if found != promised:
        raise ModelFileError(
            f"{path} holds a network of {found[0]} samples, {found[1]} leads and {found[2]} classes"
            f" under a contract of {promised[0]}, {promised[1]} and {promised[2]}; copy it again"
            " or train again."
        )


def _read_contract(path: Path) -> SignalContract:
    """Read contract and origin without building the network, for clear errors on bad files."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("config.json").file_size > _MOST_CONFIG:
                raise ValueError("no network has so many layers")
            if sum(member.file_size for member in archive.infolist()) > _MOST_UNPACKED:
                raise ValueError("no network has so many weights")
            config = json.loads(archive.read("config.json"))
            _require_digest(path, archive)
            sealed = _DIGEST in archive.namelist()
        layers = {layer["class_name"]: layer["config"] for layer in config["config"]["layers"]}
    except _DAMAGE:
        raise ModelFileError(
            f"{path} is not a Keras model file; name a best.keras that mlbf-train or mrm-train"
            " wrote, or copy it again."
        ) from None
    if "Lambda" in layers:
        raise ModelFileError(
            f"{path} holds a Lambda layer, whose code would run on opening; open only files written"
            " by mlbf-train or mrm-train."
        )
    if "SignalContract" not in layers:
        raise ModelFileError(
            f"{path} is a Keras model but carries no contract of rate, leads and classes; name a"
            " best.keras that mlbf-train or mrm-train wrote."
        )
    try:
        config = layers["SignalContract"]
        layer = SignalContract(config["contract"], config.get("origin"), config.get("digest"))
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError, OptionError) as error:
        why = str(error).rstrip(".") if isinstance(error, OptionError) else "a field is damaged"
        raise ModelFileError(
            f"{path} carries a contract that this release cannot read ({why}); copy the file again,"
            " open it with the release that trained it, or train again."
        ) from None
    if layer.origin is not None and not sealed:  # by Keras, perhaps after more training
        layer.origin = _with_unknown_others(layer.origin)
    return layer


def _with_unknown_others(origin: Origin) -> Origin:
    """Add that the model may have seen other records than those that it names."""
    before = Origin.unknown() if origin.before is None else _with_unknown_others(origin.before)
    return replace(origin, before=before)
