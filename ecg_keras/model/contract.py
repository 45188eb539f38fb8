"""What a model file promises about its input and output, carried inside the file itself.

Weights without their contract are how published ECG models come to be misused: a wrong rate,
unit, lead order or class order raises no error, it only gives wrong answers.
"""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from data_prep.errors import OptionError
from data_prep.labels import LEADS
from ecg_keras.evaluation.predictions import found_classes
from ecg_keras.model.backend import keras
from ecg_keras.model.origin import Origin


@dataclass(frozen=True)
class Contract:
    """All that must be known to feed a network and to read its answer.

    Attributes:
        network: the network's name, ``"MLBF-Net"`` or ``"MRM-Net"``.
        task: the task its classes belong to, such as ``"cpsc2018"`` or ``"superdiagnostic"``.
        class_names: the classes, in the order of the probabilities.
        sampling_rate: of the input, in hertz.
        input_length: of the input, in samples.
        fit: what is done to a recording of another length: ``"pad"`` crops it or pads it with
            zeros at its end, ``"stretch"`` crops it or resamples it up to the input's length.
        single_label: True if the answer is the class of the largest probability (softmax),
            False if each class has a probability of its own (sigmoid).
        leads: the input's leads, in order.
        mean: subtracted from the signal inside the network, in millivolts.
        std: by which the signal is divided inside the network, in millivolts.
        thresholds: probability from which a class counts as present, one per class, fitted on
            validation records; 0.5 until they are.
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
        """Fill in the thresholds and refuse what cannot be meant."""
        if not self.thresholds:
            object.__setattr__(self, "thresholds", (0.5,) * len(self.class_names))
        if len(self.thresholds) != len(self.class_names):
            raise OptionError(
                f"a contract needs one threshold for each of its {len(self.class_names)} classes,"
                f" not {len(self.thresholds)}; give as many as there are class names."
            )
        if not self.std > 0:
            raise OptionError(f"the standard deviation must be above 0 mV, not {self.std}.")

    @property
    def input_form(self) -> tuple[float, int, str, tuple[str, ...]]:
        """All that decides how a recording is prepared: rate, length, fit and leads."""
        return self.sampling_rate, self.input_length, self.fit, self.leads

    def found(self, probabilities: np.ndarray) -> np.ndarray:
        """Decide which classes are found; see :func:`found_classes` of the predictions.

        Args:
            probabilities: ``(..., C)``, in the order of the class names.

        Returns:
            bool ``(..., C)``.
        """
        return found_classes(
            probabilities, self.thresholds, single_label=self.single_label, task=self.task
        )

    def require_sizes(self, *, num_classes: int, input_length: int, num_leads: int) -> None:
        """Make sure that a network is built as its contract promises.

        Raises:
            OptionError: if the contract says otherwise.
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
        """Choose and order the leads of a recording.

        Args:
            signal: ``(time, 12)``, leads in the standard order.

        Returns:
            ``(time, lead)``, leads as the network takes them.

        Raises:
            OptionError: if the network takes a lead that is none of the twelve.
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


@keras.saving.register_keras_serializable("ecg_keras")
class SignalContract(keras.layers.Layer):
    """The first layer of a network: standardises the signal and carries the contract.

    The contract is part of the layer's configuration, so that every way of saving a model
    (``model.save``, a checkpoint, a clone) keeps it; so is what the model comes from.

    Args:
        contract: a :class:`Contract`, or the dict of its fields.
        origin: which records trained and chose the model, or what ``Origin.to_config`` gave; None
            if nobody knows.

    Call arguments:
        signal: ``(batch, time, lead)``, millivolts.

    Returns:
        ``(signal - mean) / std``, of the same shape.
    """

    def __init__(
        self,
        contract: Contract | dict[str, Any],
        origin: Origin | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        # Millivolts lose a digit in half precision before they are standardised.
        super().__init__(**{"dtype": "float32", **kwargs})
        if not isinstance(contract, Contract):
            fields: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in contract.items()
            }
            contract = Contract(**fields)
        self.contract = contract
        self.origin = Origin.from_config(origin) if isinstance(origin, dict) else origin

    def call(self, signal: Any) -> Any:
        """Standardise the signal."""
        if (self.contract.mean, self.contract.std) == (0.0, 1.0):
            return signal
        return (signal - self.contract.mean) / self.contract.std

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape stays as it is."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, contract and origin as dicts."""
        origin = {} if self.origin is None else {"origin": self.origin.to_config()}
        return {**super().get_config(), "contract": asdict(self.contract), **origin}
