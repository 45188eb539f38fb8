"""The contract of a network: what its input and output are, stored in the model file.

Published ECG models are easily misused because their weights come without this: a wrong sampling
rate, unit, lead order or class order raises no error and silently gives wrong answers.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

from data_prep.class_names import require_class_names
from data_prep.errors import OptionError
from data_prep.labels import CPSC_CLASSES, CPSC_TASK, LEADS
from data_prep.names import require_name
from ecg_keras.evaluation.predictions import found_classes
from ecg_keras.model.backend import keras
from ecg_keras.model.origin import Origin

_RANGES = {
    "sampling_rate": (1.0, 10_000.0),  # Hz
    "input_length": (1, 36_000_000),  # an hour at the highest rate
    "mean": (-1000.0, 1000.0),  # mV
    "std": (1e-4, 1000.0),
}
_MEANT = {
    "network": "a text",
    "task": "a text",
    "class_names": "one or more texts, each once",
    "leads": "one or more texts, each once",
    "sampling_rate": "from 1 to 10,000 Hz",
    "input_length": "a whole number of samples, from 1 to 36,000,000",
    "mean": "from -1000 to 1000 mV",
    "std": "above 0 mV, from 0.0001 to 1000",
    "fit": "'pad' or 'stretch'",
    "single_label": "true or false",
    "thresholds": "from 0 to 1, one for each class",
}


def _require(met: Any, contract: "Contract", name: str) -> None:
    if not met:
        raise OptionError(
            f"{name} in a contract must be {_MEANT[name]}, not {getattr(contract, name)!r:.80}."
        )


@dataclass(frozen=True)
class Contract:
    """Everything needed to feed a network and to interpret its output.

    Attributes:
        network: name of the network, such as ``"MLBF-Net"`` or ``"MRM-Net"``.
        task: the task its classes belong to, such as ``"cpsc2018"`` or ``"superdiagnostic"``.
        class_names: the classes, in the order of the probabilities.
        sampling_rate: sampling rate of the input, in hertz.
        input_length: length of the input, in samples.
        fit: how a recording is brought to the input length: ``"pad"`` crops it or pads it with
            zeros at the end, ``"stretch"`` crops it or resamples it to that length.
        single_label: True if the answer is the most probable class (softmax), False if each class
            is decided independently (sigmoid).
        leads: leads of the input, in order.
        mean: subtracted from the signal inside the network, in millivolts.
        std: the signal is divided by this inside the network, in millivolts; above 0.
        thresholds: one per class; a class counts as present if its probability reaches its
            threshold.  Fitted on the validation records; 0.5 before that.

    Raises:
        OptionError: if a field has the wrong type or is out of range, a name is unusable, a class
            or lead is repeated, or the classes of CPSC 2018 or PTB-XL's superclasses are in another
            order.
    """

    network: str
    task: str
    class_names: tuple[str, ...]
    sampling_rate: float
    input_length: int
    fit: Literal["pad", "stretch"]
    single_label: bool
    leads: tuple[str, ...] = LEADS
    mean: float = 0.0
    std: float = 1.0
    thresholds: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        """Fill in the default thresholds and check all fields."""
        for name in ("network", "task"):
            _require(isinstance(getattr(self, name), str) and getattr(self, name), self, name)
        for name in ("class_names", "leads"):
            values = getattr(self, name)
            is_texts = isinstance(values, tuple) and all(isinstance(v, str) and v for v in values)
            _require(is_texts and values and len(set(values)) == len(values), self, name)
        self._require_names()
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            kind = Integral if name == "input_length" else Real
            _require(isinstance(value, kind) and not isinstance(value, bool), self, name)
            _require(least <= value <= most, self, name)  # also refuses NaN
        _require(self.fit in ("pad", "stretch"), self, "fit")
        _require(isinstance(self.single_label, bool | np.bool_), self, "single_label")
        if isinstance(self.thresholds, tuple) and not self.thresholds:
            object.__setattr__(self, "thresholds", (0.5,) * len(self.class_names))
        _require(
            isinstance(self.thresholds, tuple)
            and len(self.thresholds) == len(self.class_names)
            and all(isinstance(t, Real) and 0 <= t <= 1 for t in self.thresholds),
            self,
            "thresholds",
        )
        self._as_plain_types()

    def _require_names(self) -> None:
        try:
            require_name(self.network, "network", most=1000)  # those of an ensemble are joined
            require_name(self.task, "task")
            for lead in self.leads:
                require_name(lead, "lead")
            require_class_names(self.class_names, self.task)
        except ValueError as error:
            raise OptionError(f"{error} (in a contract).") from None

    def _as_plain_types(self) -> None:
        """Convert NumPy scalars to Python's types, which JSON can hold."""
        for name, kind in (
            ("sampling_rate", float),
            ("input_length", int),
            ("mean", float),
            ("std", float),
            ("single_label", bool),
        ):
            object.__setattr__(self, name, kind(getattr(self, name)))
        object.__setattr__(self, "thresholds", tuple(float(t) for t in self.thresholds))

    @property
    def input_form(self) -> tuple[float, int, str, tuple[str, ...]]:
        """What determines how a recording is prepared: rate, length, fit and leads."""
        return self.sampling_rate, self.input_length, self.fit, self.leads

    def found(self, probabilities: np.ndarray) -> np.ndarray:
        """Decide which classes are found.

        See :func:`ecg_keras.evaluation.predictions.found_classes`.

        Args:
            probabilities: ``(..., C)``, in the order of the class names.

        Returns:
            bool ``(..., C)``.
        """
        return found_classes(
            probabilities, self.thresholds, single_label=self.single_label, task=self.task
        )

    def require_sizes(self, *, num_classes: int, input_length: int, num_leads: int) -> None:
        """Check that a network is built with the sizes of its contract.

        Raises:
            OptionError: if the sizes differ.
        """
        asked = (num_classes, input_length, num_leads)
        promised = (len(self.class_names), self.input_length, len(self.leads))
        if promised != asked:
            raise OptionError(
                f"the contract promises {promised[0]} classes, {promised[1]} samples and"
                f" {promised[2]} leads, but the model was asked for {asked[0]}, {asked[1]} and"
                f" {asked[2]}; give both the same."
            )

    def in_lead_order(self, signal: np.ndarray) -> np.ndarray:
        """Select the leads of the input, in their order.

        Args:
            signal: ``(time, 12)``, leads in the standard order.

        Returns:
            ``(time, lead)``, leads in the contract's order.

        Raises:
            OptionError: if the contract has a lead that is not one of the twelve.
        """
        if self.leads == LEADS:
            return signal
        unknown = [lead for lead in self.leads if lead not in LEADS]
        if unknown:
            raise OptionError(
                f"this network takes a lead named {unknown[0]!r}, which no recording has; build"
                f" it with a contract whose leads are of {', '.join(LEADS)}."
            )
        return signal[:, [LEADS.index(lead) for lead in self.leads]]


def plain_contract(
    *,
    network: str,
    sampling_rate: float,
    fit: Literal["pad", "stretch"],
    single_label: bool,
    num_classes: int,
    input_length: int,
    num_leads: int,
) -> Contract:
    """Return the contract of a network built without one, unstandardised.

    Args:
        network: name of the network.
        sampling_rate: of the input, in hertz.
        fit: ``"pad"`` or ``"stretch"``; see :class:`Contract`.
        single_label: whether the network gives one label per record.
        num_classes: nine for those of the task ``cpsc2018``, otherwise ``"class 1"`` and so on, of
            the task ``classes``.
        input_length: in samples.
        num_leads: number of leads, the first ones in the standard order.

    Raises:
        OptionError: if a value is out of range.
    """
    of_cpsc = num_classes == len(CPSC_CLASSES)
    return Contract(
        network=network,
        task=CPSC_TASK if of_cpsc else "classes",
        class_names=CPSC_CLASSES
        if of_cpsc
        else tuple(f"class {i}" for i in range(1, num_classes + 1)),
        sampling_rate=sampling_rate,
        input_length=input_length,
        fit=fit,
        single_label=single_label,
        leads=LEADS[:num_leads],
    )


def joint_contract(contracts: Sequence[Contract]) -> Contract:
    """Return the contract of an ensemble: that of the first network, except as follows.

    The names of the networks are joined, the thresholds averaged, and the ensemble is single-label
    if any network is, as in :func:`ecg_keras.evaluation.predictions.averaged`.  The standardisation
    is each network's own.

    Args:
        contracts: of networks with the same classes in the same order.
    """
    return replace(
        contracts[0],
        network=" + ".join(dict.fromkeys(contract.network for contract in contracts)),
        single_label=any(contract.single_label for contract in contracts),
        thresholds=tuple(np.mean([contract.thresholds for contract in contracts], axis=0).tolist()),
    )


@keras.saving.register_keras_serializable("ecg_keras")
class SignalContract(keras.layers.Layer):
    """The first layer of a network: standardises the signal and carries the contract.

    The contract and the model's origin are part of the layer's configuration, so every way of
    saving a model (``model.save``, a checkpoint, a clone) keeps them.

    Args:
        contract: a :class:`Contract`, or a dict of its fields.
        origin: which records trained and selected the model, or the dict from
            ``Origin.to_config``; None if unknown.
        digest: digest of the contract from :meth:`get_config`; a contract that was changed
            afterwards is refused.  None in files from earlier releases.

    Call arguments:
        signal: ``(batch, time, lead)``, millivolts.

    Returns:
        ``(signal - mean) / std``, of the same shape.

    Raises:
        OptionError: if the contract is invalid, or does not match the digest.
    """

    def __init__(
        self,
        contract: Contract | dict[str, Any],
        origin: Origin | dict[str, Any] | None = None,
        digest: str | None = None,
        **kwargs: Any,
    ) -> None:
        # In half precision, millivolts would lose digits before they are standardised.
        super().__init__(**{"dtype": "float32", **kwargs})
        if digest is not None and digest != _digest_of(contract):
            raise OptionError(
                "the contract was changed after the model was saved; copy the file again."
            )
        if not isinstance(contract, Contract):
            fields: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in contract.items()
            }
            contract = Contract(**fields)
        self.contract = contract
        self.origin = origin if isinstance(origin, Origin | None) else Origin.from_config(origin)

    def call(self, signal: Any) -> Any:
        """Standardise the signal."""
        if (self.contract.mean, self.contract.std) == (0.0, 1.0):
            return signal
        return (signal - self.contract.mean) / self.contract.std

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return ``input_shape``."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, contract and origin as dicts."""
        origin = {} if self.origin is None else {"origin": self.origin.to_config()}
        contract = asdict(self.contract)
        digest = _digest_of(contract)
        return {**super().get_config(), "contract": contract, **origin, "digest": digest}


def _digest_of(contract: Contract | dict[str, Any]) -> str:
    """SHA-256 of the fields as JSON; of a dict, only of the fields it has."""
    values = asdict(contract) if isinstance(contract, Contract) else contract
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
