"""Why a network answered as it did: what both networks' explanations are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from data_prep.ecg_paper import Shading
from data_prep.errors import OptionError
from data_prep.labels import LEADS
from data_prep.records import Record
from ecg_keras.evaluation.predictions import names_by_probability
from ecg_keras.model.contract import Contract
from ecg_keras.model.model_files import ECGModel, prepare_record
from ecg_keras.model.origin import ModelFacts

CELL = 0.1
"""Seconds of one lead that relevance is summed over, and that the deletion test removes at once."""

SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the cells that the deletion test removes."""

MOST_CLASSES = 3
"""Classes whose relevance is computed for one recording."""

# Every call of a network has this many signals: other numbers would be compiled anew.
_BATCH = 16
_RANDOM_ORDERS = 4

Score = Callable[[np.ndarray], np.ndarray]
"""From signals ``(n, time, lead)`` to scores ``(n,)``, or to gradients of the signals' shape."""


@dataclass(frozen=True, eq=False)
class Attention:
    """What an attention of a network weighed along the recording, mean over the ensemble.

    Attributes:
        title: which attention it is.
        caption: what its numbers mean.
        shading: to be drawn behind the traces.
    """

    title: str
    caption: str
    shading: Shading


@dataclass(frozen=True, eq=False)
class Relevance:
    """What made a class probable, by integrated gradients, and whether that holds.

    Attributes:
        class_name: the class.
        shading: of each cell of 0.1 s and lead, in probability; all cells sum to ``total``.
        total: the probability of the recording less that of a flat line.
        residual: what the finite number of steps leaves between the sum over all cells and
            ``total``.
        shares: ``(K,)`` of all cells that were removed, from 0 to 1.
        marked: ``(K,)`` probability after removing the most relevant cells.
        random: ``(K,)`` the same for cells drawn at random, mean over several draws.
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
    """What an ensemble says of one recording, and why.

    Attributes:
        record: the recording.
        contract: of the first network; of the others, only the thresholds may differ.
        thresholds: ``(C,)`` mean over the ensemble.
        members: ``(M, C)`` each network's probabilities.
        seconds: of the recording that the networks saw, from its beginning.
        attention: what the networks' attentions weighed in time.
        heads: ``(C,)`` probabilities of each auxiliary head by its name, mean over the ensemble.
        without_lead: ``(lead, C)`` probabilities with that lead set to 0 mV, mean over the
            ensemble.
        relevances: for each class that was found, the most probable first, three at most; if
            none was found, for the most probable.
        channels: ``(M, channels)`` weights in 0..1 that each network gives its feature channels, by
            the name of the attention.
        models: the files that answered, and what trained them.
    """

    record: Record
    contract: Contract
    thresholds: np.ndarray
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
        """The answer: the classes found, the most probable first; see ``Contract.found``."""
        together = self._together.found(self.probabilities)
        return names_by_probability(self.contract.class_names, self.probabilities, together)

    @property
    def members_found(self) -> np.ndarray:
        """``(M, C)`` bool, what each network finds by itself, at the thresholds of all."""
        return self._together.found(self.members)

    @property
    def _together(self) -> Contract:
        return replace(self.contract, thresholds=tuple(self.thresholds.tolist()))


# --- Methods, for any network --------------------------------------------------------------------


def integrated_gradients(
    gradient: Score, signal: np.ndarray, baseline: np.ndarray, *, steps: int = 64
) -> np.ndarray:
    """Integrated gradients of a score (Sundararajan, Taly & Yan 2017, eq. 1).

    ``(x - x') * integral over a in 0..1 of the gradient at x' + a (x - x')``, the integral by
    the midpoint rule. What is not different from the baseline gets exactly 0.

    Args:
        gradient: of the score for signals ``(n, time, lead)``, of the same shape.
        signal: x, ``(time, lead)``.
        baseline: x', of the same shape: what counts as nothing there.
        steps: points on the way from baseline to signal.

    Returns:
        float64 ``(time, lead)``, in units of the score; the sum is, but for the finite number of
        steps, the score of the signal less that of the baseline ("completeness").
    """
    way = (signal - baseline).astype(np.float64)
    total = np.zeros_like(way)
    points = (np.arange(steps) + 0.5) / steps
    for start in range(0, steps, _BATCH):
        along = points[start : start + _BATCH, None, None]
        total += gradient((baseline + along * way).astype(np.float32)).sum(axis=0)
    return way * total / steps


def flat_line(signal: np.ndarray, recorded: int) -> np.ndarray:
    """Return the recording of nothing that integrated gradients start from.

    Args:
        signal: ``(time, lead)``, millivolts.
        recorded: samples before the padding.

    Returns:
        Of the same shape and type: each lead at its median, the padding as it is.
    """
    flat = signal.copy()
    flat[:recorded] = np.median(signal[:recorded], axis=0)
    return flat


def cell_sums(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Sum over the samples of each cell.

    Args:
        values: ``(time, lead)``.
        edges: ``(cells + 1,)`` first sample of each cell, and the end of the last.

    Returns:
        ``(cells, lead)``.
    """
    return np.add.reduceat(values[: edges[-1]], edges[:-1], axis=0)


def deletion_curve(
    score: Score,
    signal: np.ndarray,
    baseline: np.ndarray,
    edges: np.ndarray,
    order: np.ndarray,
    *,
    shares: Sequence[float] = SHARES,
) -> np.ndarray:
    """Score what is left of a signal when cells are removed in order.

    The deletion test of Petsiuk, Das & Saenko (2018): if an explanation marks what a score
    rests on, removing that first lowers the score faster than removing anything else.

    Args:
        score: of signals ``(n, time, lead)``.
        signal: ``(time, lead)``.
        baseline: of the same shape, put where cells are removed.
        edges: ``(cells + 1,)`` samples, as for :func:`cell_sums`.
        order: ``(cells, lead)``; cells of larger values are removed first.
        shares: of all cells that are removed, 0 to 1.

    Returns:
        ``(len(shares),)`` scores.
    """
    rank = np.argsort(np.argsort(-order, axis=None, kind="stable")).reshape(order.shape)
    of_sample = np.searchsorted(edges, np.arange(len(signal)), side="right") - 1
    within = of_sample < len(order)
    left = np.repeat(signal[None], len(shares), axis=0)
    for one, share in zip(left, shares, strict=True):
        gone = np.zeros(signal.shape, bool)
        gone[within] = rank[of_sample[within]] < round(share * order.size)
        one[gone] = baseline[gone]
    return score(left)


# --- An ensemble and one recording ---------------------------------------------------------------


class Lens:
    """The calls of one network that explaining needs, each compiled once.

    Args:
        model: the network with its contract.
        look: from a tensor of signals ``(batch, time, lead)`` to the network's answers by head
            and its attention weights by name.
    """

    def __init__(self, model: ECGModel, look: Callable[[Any], tuple[Any, Any]]) -> None:
        from ecg_keras.model.backend import tf

        self.contract = model.contract
        self.facts = model.facts
        network = model.network
        self._look = tf.function(look)

        @tf.function
        def gradient(signals: Any, chosen: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(signals)
                answers = network(signals, training=False)["diagnosis"]
                score = tf.reduce_sum(answers * chosen)
            return tape.gradient(score, signals)

        self._gradient = gradient

    def look(self, signal: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Return answers and weights for one signal ``(time, lead)``, without the batch axis."""
        answers, weights = (
            {name: value[0].numpy().astype(np.float32) for name, value in part.items()}
            for part in self._look(_filled(signal[None]))
        )
        return answers, weights

    def probabilities(self, signals: np.ndarray) -> np.ndarray:
        """Return ``(n, C)`` for signals ``(n, time, lead)``."""
        parts = (signals[i : i + _BATCH] for i in range(0, len(signals), _BATCH))
        answers = [self._look(_filled(part))[0]["diagnosis"].numpy()[: len(part)] for part in parts]
        return np.concatenate(answers)

    def gradient(self, signals: np.ndarray, chosen: int) -> np.ndarray:
        """Return the gradient of one class's probability for up to 16 signals."""
        one_hot = np.eye(len(self.contract.class_names), dtype=np.float32)[chosen]
        gradients: np.ndarray = self._gradient(_filled(signals), one_hot).numpy()
        return gradients[: len(signals)]


def _filled(signals: np.ndarray) -> Any:
    """Repeat the last signal until the batch is full."""
    from ecg_keras.model.backend import tf

    missing = _BATCH - len(signals)
    return tf.constant(np.pad(signals, ((0, missing), (0, 0), (0, 0)), mode="edge"))


def require_one_form(models: Sequence[ECGModel]) -> None:
    """Make sure that what several networks look at can be drawn over one another.

    Raises:
        OptionError: naming two that take signals of different form.
    """
    for model in models[1:]:
        if model.contract.input_form != models[0].contract.input_form:
            raise OptionError(
                f"{model.path} and {models[0].path} take signals of different rate, length or"
                " leads, so their explanations cannot be averaged; explain with one of them."
            )


@dataclass(frozen=True, eq=False)
class View:
    """A recording as the networks see it.

    Attributes:
        record: the recording.
        signal: ``(input_length, lead)``, millivolts.
        recorded: samples of the signal before its padding.
        seconds: of the recording that the signal shows, from its beginning.
    """

    record: Record
    signal: np.ndarray
    recorded: int
    seconds: float

    def shading(
        self, name: str, samples: np.ndarray, values: np.ndarray, *, least: float = 0.0
    ) -> Shading:
        """Bring what lies along the signal to seconds of the recording.

        Args:
            name: for the legend.
            samples: ``(steps + 1,)`` edges of the steps, in samples of the signal.
            values: ``(steps,)`` or ``(steps, 12)``.
            least: that full colour stands for.

        Returns:
            A shading without the steps that begin in the padding.
        """
        steps = int(np.searchsorted(samples[:-1], self.recorded))
        edges = np.clip(samples[: steps + 1], 0, self.recorded)
        return Shading(name, edges * (self.seconds / self.recorded), values[:steps], least)


def view(record: Record, contract: Contract) -> View:
    """Prepare a recording, and keep account of its time.

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
    lenses: Sequence[Lens],
    seen: View,
    *,
    attention: tuple[Attention, ...],
    answers: Sequence[dict[str, np.ndarray]],
    channels: dict[str, np.ndarray] | None = None,
    steps: int = 64,
    seed: int = 0,
) -> Explanation:
    """Put together what both networks' explanations have in common.

    Args:
        lenses: one for each network of the ensemble.
        seen: the recording.
        attention: what the networks' attentions weighed.
        answers: of each network to the recording, by head.
        channels: weights of the feature channels, ``(M, channels)``, by the attention's name.
        steps: of the integrated gradients.
        seed: of the random orders of the deletion test.

    Returns:
        The explanation.
    """
    contract = lenses[0].contract
    members = np.stack([answer["diagnosis"] for answer in answers])
    heads = [name for name in answers[0] if name != "diagnosis"]
    silenced = np.repeat(seen.signal[None], seen.signal.shape[1], axis=0)
    for lead, signal in enumerate(silenced):
        signal[:, lead] = 0.0
    partial = Explanation(
        record=seen.record,
        contract=contract,
        thresholds=np.mean([lens.contract.thresholds for lens in lenses], axis=0),
        members=members,
        seconds=seen.seconds,
        attention=attention,
        heads={name: np.mean([answer[name] for answer in answers], axis=0) for name in heads},
        without_lead=_mean_probabilities(lenses, silenced),
        relevances=(),
        channels=channels or {},
        models=tuple(lens.facts for lens in lenses),
    )
    chosen = [contract.class_names.index(name) for name in partial.found]
    chosen = chosen or [int(partial.probabilities.argmax())]
    return replace(
        partial,
        relevances=tuple(
            relevance(lenses, seen, c, steps=steps, seed=seed) for c in chosen[:MOST_CLASSES]
        ),
    )


def relevance(
    lenses: Sequence[Lens], seen: View, chosen: int, *, steps: int = 64, seed: int = 0
) -> Relevance:
    """Find what made a class probable, and test it by deletion.

    Args:
        lenses: one for each network of the ensemble; the score is their mean probability.
        seen: the recording.
        chosen: number of the class.
        steps: of the integrated gradients.
        seed: of the random orders of the deletion test.

    Returns:
        Relevance of cells of 0.1 s and one lead, against a flat line.
    """
    contract = lenses[0].contract
    baseline = flat_line(seen.signal, seen.recorded)

    def score(signals: np.ndarray) -> np.ndarray:
        return _mean_probabilities(lenses, signals)[:, chosen]

    def gradient(signals: np.ndarray) -> np.ndarray:
        return np.mean([lens.gradient(signals, chosen) for lens in lenses], axis=0)

    marks = integrated_gradients(gradient, seen.signal, baseline, steps=steps)
    cells = max(1, round(seen.seconds / CELL))
    edges = np.linspace(0, seen.recorded, cells + 1).round().astype(int)
    sums = cell_sums(marks, edges)
    ends = score(np.stack([seen.signal, baseline]))
    total = float(ends[0] - ends[1])
    random = np.random.default_rng(seed)
    orders = [sums, *(random.random(sums.shape) for _ in range(_RANDOM_ORDERS))]
    curves = [deletion_curve(score, seen.signal, baseline, edges, order) for order in orders]
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
        random=np.mean(curves[1:], axis=0),
    )


def _mean_probabilities(lenses: Sequence[Lens], signals: np.ndarray) -> np.ndarray:
    return np.mean([lens.probabilities(signals) for lens in lenses], axis=0)
