"""Methods that explain a prediction, shared by both networks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from data_prep.ecg_paper import Shading
from data_prep.errors import OptionError
from data_prep.labels import LEADS
from data_prep.records import Record
from ecg_keras.evaluation.predictions import names_by_probability
from ecg_keras.model.backend import tf
from ecg_keras.model.contract import Contract, joint_contract
from ecg_keras.model.model_files import ECGModel, prepare_record
from ecg_keras.model.origin import ModelFacts

CELL = 0.1
"""Length in seconds of a cell, the part of a lead that is attributed and deleted as a unit."""

SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Fractions of the cells that the deletion test removes."""

MOST_CLASSES = 3
"""Maximum number of classes whose relevance is computed for one recording."""

# Every call of a network has this many signals, since another batch size would be compiled anew.
_BATCH = 16
_RANDOM_ORDERS = 4

Gradient = Callable[[np.ndarray], np.ndarray]
"""Maps signals ``(n, time, lead)`` to the gradient of a score, of the same shape."""


@dataclass(frozen=True, eq=False)
class Attention:
    """Attention weights of a network along the recording, mean over the ensemble.

    Attributes:
        title: name of the attention.
        caption: what its values mean.
        shading: the weights, to be drawn behind the traces.
    """

    title: str
    caption: str
    shading: Shading


@dataclass(frozen=True, eq=False)
class Relevance:
    """What made a class probable, by integrated gradients, and the deletion test of it.

    Attributes:
        class_name: the class.
        shading: relevance of each cell (0.1 s of one lead), in units of probability; the cells sum
            to ``total - residual``.
        total: probability for the recording minus that for a flat line.
        residual: error of ``total`` due to the finite number of integration steps.
        shares: ``(K,)`` fractions of the cells that were removed, from 0 to 1.
        marked: ``(K,)`` probability after removing the most relevant cells.
        random: ``(K,)`` the same for randomly drawn cells, mean over several draws.
    """

    class_name: str
    shading: Shading
    total: float
    residual: float
    shares: np.ndarray
    marked: np.ndarray
    random: np.ndarray


@dataclass(frozen=True, eq=False)
class Explanation:
    """The prediction of an ensemble for one recording, and its explanation.

    Attributes:
        record: the recording.
        contract: contract of the ensemble; see :func:`ecg_keras.model.contract.joint_contract`.
        members: ``(M, C)`` probabilities of each network.
        seconds: duration of the part that the networks used, from the start of the recording.
        attention: attention weights over time.
        heads: ``(C,)`` probabilities of each auxiliary head by name, mean over the ensemble.
        without_lead: ``(lead, C)`` probabilities with that lead set to 0 mV, mean over the
            ensemble.
        relevances: for each class found, the most probable first, at most three; for the most
            probable class if none was found.
        channels: ``(M, channels)`` weights in 0..1 of each network's feature channels, by name of
            the attention.
        models: the model files and their origin.
    """

    record: Record
    contract: Contract
    members: np.ndarray
    seconds: float
    attention: tuple[Attention, ...]
    heads: dict[str, np.ndarray]
    without_lead: np.ndarray
    relevances: tuple[Relevance, ...]
    channels: dict[str, np.ndarray] = field(default_factory=dict)
    models: tuple[ModelFacts, ...] = ()

    @property
    def probabilities(self) -> np.ndarray:
        """Mean over the ensemble, ``(C,)``."""
        return self.members.mean(axis=0)

    @property
    def found(self) -> tuple[str, ...]:
        """The classes found, the most probable first; see ``Contract.found``."""
        found = self.contract.found(self.probabilities)
        return names_by_probability(self.contract.class_names, self.probabilities, found)

    @property
    def members_found(self) -> np.ndarray:
        """``(M, C)`` bool, the classes each network finds by itself, at the mean thresholds."""
        return self.contract.found(self.members)


# --- Methods, for any network --------------------------------------------------------------------


def integrated_gradients(
    gradient: Gradient, signal: np.ndarray, baseline: np.ndarray, *, steps: int = 64
) -> np.ndarray:
    """Integrated gradients of a score (Sundararajan, Taly & Yan 2017, eq. 1).

    ``(x - x') * integral over a in 0..1 of the gradient at x' + a (x - x')``, the integral by
    the midpoint rule. Samples that equal the baseline get exactly 0.

    Args:
        gradient: gradient of the score for signals ``(n, time, lead)``, of the same shape.
        signal: x, ``(time, lead)``.
        baseline: x', of the same shape: an uninformative signal.
        steps: number of points between baseline and signal.  With half as many, the residual of
            MRM-Net for a record of PTB-XL (180, CLBBB) grew from 0.008 to 0.046.

    Returns:
        float64 ``(time, lead)``, in units of the score.  Up to the error from the finite number of
        steps, the sum is the score of the signal minus that of the baseline ("completeness").
    """
    difference = (signal - baseline).astype(np.float64)
    total = np.zeros_like(difference)
    points = (np.arange(steps) + 0.5) / steps
    for start in range(0, steps, _BATCH):
        along = points[start : start + _BATCH, None, None]
        total += gradient((baseline + along * difference).astype(np.float32)).sum(axis=0)
    return difference * total / steps


def flat_line(signal: np.ndarray, recorded: int) -> np.ndarray:
    """Return the baseline of integrated gradients, a flat line.

    Args:
        signal: ``(time, lead)``, millivolts.
        recorded: number of samples before the padding.

    Returns:
        Of the same shape and type: each lead at its median, the padding unchanged.
    """
    flat = signal.copy()
    flat[:recorded] = np.median(signal[:recorded], axis=0)
    return flat


def cell_sums(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Sum over the samples of each cell.

    Args:
        values: ``(time, lead)``.
        edges: ``(cells + 1,)`` first sample of each cell, and the end of the last cell.

    Returns:
        ``(cells, lead)``.
    """
    return np.add.reduceat(values[: edges[-1]], edges[:-1], axis=0)


def without_cells(
    signal: np.ndarray,
    baseline: np.ndarray,
    edges: np.ndarray,
    order: np.ndarray,
    *,
    shares: Sequence[float],
) -> np.ndarray:
    """Remove more and more cells of a signal in order.

    For the deletion test of Petsiuk, Das & Saenko (2018): if an explanation marks the parts that a
    score depends on, removing those first lowers the score faster than removing any others.

    Args:
        signal: ``(time, lead)``.
        baseline: of the same shape; replaces the signal in removed cells.
        edges: ``(cells + 1,)`` samples, as for :func:`cell_sums`.
        order: ``(cells, lead)``; cells with larger values are removed first.
        shares: fractions of all cells to remove, from 0 to 1.

    Returns:
        ``(len(shares), time, lead)``.
    """
    rank = np.argsort(np.argsort(-order, axis=None, kind="stable")).reshape(order.shape)
    of_sample = np.searchsorted(edges, np.arange(len(signal)), side="right") - 1
    within = of_sample < len(order)
    left = np.repeat(signal[None], len(shares), axis=0)
    for one, share in zip(left, shares, strict=True):
        gone = np.zeros(signal.shape, bool)
        gone[within] = rank[of_sample[within]] < round(share * order.size)
        one[gone] = baseline[gone]
    return left


# --- An ensemble and one recording ---------------------------------------------------------------


class ExplainableModel:
    """A network that also gives its attention weights and gradients, each compiled once.

    Args:
        model: the network with its contract.
        with_attention: maps a tensor of signals ``(batch, time, lead)`` to the network's
            probabilities by head and its attention weights by name.
    """

    def __init__(self, model: ECGModel, with_attention: Callable[[Any], tuple[Any, Any]]) -> None:
        self.contract = model.contract
        self.facts = model.facts
        network = model.network
        self._with_attention = tf.function(with_attention)

        @tf.function
        def gradient(signals: Any, chosen: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(signals)
                answers = network(signals, training=False)["diagnosis"]
                score = tf.reduce_sum(answers * chosen)
            return tape.gradient(score, signals)

        self._gradient = gradient

    def with_attention(
        self, signals: np.ndarray
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return probabilities and attention weights for up to 16 signals ``(n, time, lead)``."""
        answers, weights = (
            {name: value[: len(signals)].numpy().astype(np.float32) for name, value in part.items()}
            for part in self._with_attention(_filled(signals))
        )
        return answers, weights

    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each head's probabilities and of each attention's weights."""
        flat = np.zeros((1, self.contract.input_length, len(self.contract.leads)), np.float32)
        return {
            name: value.shape for part in self.with_attention(flat) for name, value in part.items()
        }

    def probabilities(self, signals: np.ndarray) -> np.ndarray:
        """Return ``(n, C)`` for signals ``(n, time, lead)``."""
        parts = (signals[i : i + _BATCH] for i in range(0, len(signals), _BATCH))
        answers = [
            self._with_attention(_filled(part))[0]["diagnosis"].numpy()[: len(part)]
            for part in parts
        ]
        return np.concatenate(answers)

    def gradient(self, signals: np.ndarray, chosen: int) -> np.ndarray:
        """Return the gradient of one class's probability for up to 16 signals."""
        one_hot = np.eye(len(self.contract.class_names), dtype=np.float32)[chosen]
        gradients: np.ndarray = self._gradient(_filled(signals), one_hot).numpy()
        return gradients[: len(signals)]


def explainable(
    models: Sequence[ECGModel], attention_network: Callable[[Any], Callable[[Any], tuple[Any, Any]]]
) -> list[ExplainableModel]:
    """Return the networks of an ensemble, each with its attention weights and gradients.

    Args:
        models: the ensemble.
        attention_network: extends a network to output its attention weights too.

    Raises:
        OptionError: naming two models that differ in the form of input, in heads or in attention.
    """
    for model in models[1:]:
        if model.contract.input_form != models[0].contract.input_form:
            raise OptionError(
                f"{model.path} and {models[0].path} take signals of different rate, length or"
                " leads, so their explanations cannot be averaged; explain with one of them."
            )
    opened = [ExplainableModel(model, attention_network(model.network)) for model in models]
    outputs = [each.outputs() for each in opened] if len(opened) > 1 else []
    for model, own in zip(models[1:], outputs[1:], strict=True):
        if own != outputs[0]:
            raise OptionError(
                f"{model.path} and {models[0].path} differ in heads, attention or width, so their"
                " explanations cannot be averaged; explain with one of them."
            )
    return opened


def _filled(signals: np.ndarray) -> Any:
    """Repeat the last signal until the batch is full."""
    missing = _BATCH - len(signals)
    return tf.constant(np.pad(signals, ((0, missing), (0, 0), (0, 0)), mode="edge"))


@dataclass(frozen=True, eq=False)
class View:
    """A recording as the networks see it.

    Attributes:
        record: the recording.
        signal: ``(input_length, lead)``, millivolts.
        recorded: number of samples of the signal before the padding.
        seconds: duration of the part in the signal, from the start of the recording.
    """

    record: Record
    signal: np.ndarray
    recorded: int
    seconds: float

    def shading(
        self, name: str, samples: np.ndarray, values: np.ndarray, *, least: float = 0.0
    ) -> Shading:
        """Map values along the signal to the time axis of the recording.

        Args:
            name: text of the legend.
            samples: ``(steps + 1,)`` edges of the steps, in samples of the signal.
            values: ``(steps,)`` or ``(steps, 12)``.
            least: smallest value that may be drawn in full colour.

        Returns:
            A shading without the steps that begin in the padding.
        """
        steps = int(np.searchsorted(samples[:-1], self.recorded))
        edges = np.clip(samples[: steps + 1], 0, self.recorded)
        return Shading(name, edges * (self.seconds / self.recorded), values[:steps], least)


def view(record: Record, contract: Contract) -> View:
    """Prepare a recording, and record how its time maps to the input.

    Raises:
        RecordError: if it cannot be used.
    """
    signal = prepare_record(record, contract)
    rate, length = contract.sampling_rate, contract.input_length
    duration = len(record.signal) / record.fs
    seconds = min(duration, length / rate)
    recorded = length if contract.fit == "stretch" else min(length, round(seconds * rate))
    return View(record, signal, recorded, seconds)


def in_twelve(values: np.ndarray, leads: Sequence[str]) -> np.ndarray:
    """Spread values ``(steps, lead)`` over the twelve leads, NaN in those the network lacks."""
    spread = np.full((len(values), len(LEADS)), np.nan)
    spread[:, [LEADS.index(lead) for lead in leads]] = values
    return spread


def explain(
    models: Sequence[ExplainableModel],
    record: Record,
    *,
    attention: Callable[[View, dict[str, np.ndarray]], tuple[Attention, ...]],
    channels: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda weights: {},
) -> Explanation:
    """Explain the answer of an ensemble to a recording.

    Args:
        models: the networks of the ensemble.
        record: from :func:`data_prep.records.read_record`.
        attention: makes attention weights over time of the recording, as the networks see it, and
            of the attention weights by name, mean over the ensemble.
        channels: picks the weights of the feature channels, ``(M, channels)`` by name of the
            attention, from the weights ``(M, ...)`` of all networks.

    Returns:
        The explanation.

    Raises:
        RecordError: if the recording cannot be used.
    """
    seen = view(record, models[0].contract)
    # The recording, and the recording without each lead.
    signals = np.repeat(seen.signal[None], 1 + seen.signal.shape[1], axis=0)
    for lead, signal in enumerate(signals[1:]):
        signal[:, lead] = 0.0
    answers, by_model = zip(*(model.with_attention(signals) for model in models), strict=True)
    weights = {name: np.stack([each[name][0] for each in by_model]) for name in by_model[0]}
    contract = joint_contract([model.contract for model in models])
    members = np.stack([answer["diagnosis"] for answer in answers])  # (M, 1 + lead, C)
    heads = [name for name in answers[0] if name != "diagnosis"]
    partial = Explanation(
        record=seen.record,
        contract=contract,
        members=members[:, 0],
        seconds=seen.seconds,
        attention=attention(seen, {name: each.mean(axis=0) for name, each in weights.items()}),
        heads={name: np.mean([answer[name][0] for answer in answers], axis=0) for name in heads},
        without_lead=members[:, 1:].mean(axis=0),
        relevances=(),
        channels=channels(weights),
        models=tuple(model.facts for model in models),
    )
    chosen = [contract.class_names.index(name) for name in partial.found]
    chosen = chosen or [int(partial.probabilities.argmax())]
    return replace(
        partial, relevances=tuple(relevance(models, seen, c) for c in chosen[:MOST_CLASSES])
    )


def relevance(models: Sequence[ExplainableModel], seen: View, chosen: int) -> Relevance:
    """Compute which cells made a class probable, and apply the deletion test.

    Args:
        models: the networks of the ensemble; the score is their mean probability.
        seen: the recording.
        chosen: index of the class.

    Returns:
        Relevance of cells of 0.1 s of one lead, relative to a flat line.
    """
    contract = models[0].contract
    baseline = flat_line(seen.signal, seen.recorded)

    def gradient(signals: np.ndarray) -> np.ndarray:
        return np.mean([model.gradient(signals, chosen) for model in models], axis=0)

    marks = integrated_gradients(gradient, seen.signal, baseline)
    cells = max(1, round(seen.seconds / CELL))
    edges = np.linspace(0, seen.recorded, cells + 1).round().astype(int)
    sums = cell_sums(marks, edges)
    random = np.random.default_rng(0)
    orders = [sums, *(random.random(sums.shape) for _ in range(_RANDOM_ORDERS))]
    # Nothing and everything is removed once, as it is the same in every order.
    between = [
        without_cells(seen.signal, baseline, edges, order, shares=SHARES[1:-1]) for order in orders
    ]
    signals = np.concatenate([[seen.signal, baseline], *between])
    scores = np.mean([model.probabilities(signals)[:, chosen] for model in models], axis=0)
    whole, flat = scores[:2]
    curves = scores[2:].reshape(len(orders), -1)
    curves = np.pad(curves, ((0, 0), (1, 1)), constant_values=(whole, flat))
    total = float(whole - flat)
    name = contract.class_names[chosen]
    return Relevance(
        class_name=name,
        shading=seen.shading(
            f"relevance for {name}, probability", edges, in_twelve(sums, contract.leads)
        ),
        total=total,
        residual=total - float(marks.sum()),
        shares=np.array(SHARES),
        marked=curves[0],
        random=curves[1:].mean(axis=0),
    )
