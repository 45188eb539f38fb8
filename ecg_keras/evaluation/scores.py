"""All scores, computed from arrays.

Throughout, N is the number of records and C the number of classes; ``labels`` is ``(N, C)`` of 0
and 1, ``predicted`` too, ``first_labels`` and ``answers`` are ``(N,)`` of 0-based classes,
``probabilities`` is ``(N, C)`` in 0..1.  All functions raise ``PredictionsError`` if shapes
disagree, there is no record, a first label is unknown, or a probability is NaN or infinite.

Bootstrapped scores are functions of ``counts``, ``(R, N)``: how often each record is drawn in each
of R resamples.  The score itself is the special case of one resample with every record once, so a
score and its interval are always computed in the same way.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.metrics import average_precision_score

from data_prep.errors import PredictionsError
from data_prep.labels import one_hot

# Groups of the CPSC 2018 score, as 0-based classes in the challenge's order.
CPSC_GROUPS = {
    "AF": (1,),
    "Block": (2, 3, 4),
    "Premature contraction": (5, 6),
    "ST-segment change": (7, 8),
}


# --- Answers ---------------------------------------------------------------------------------


LEAST_THRESHOLD = 0.05
"""Smallest threshold that is chosen for a class.

A handful of records cannot place a threshold: on PTB-XL the best one of TAB_ and STE_ is 0.002 and
0.001, and nearly every recording is found to have them.  RESULTS.md, "Thresholds", compares this
bound with others on validation records.
"""


def best_thresholds(
    labels: np.ndarray, probabilities: np.ndarray, *, least: float = LEAST_THRESHOLD
) -> np.ndarray:
    """Find the threshold of each class that maximises F1 on these (validation) records.

    Thresholds lie midway between adjacent probabilities; ties are resolved in favour of the
    threshold nearest to 0.5, then of the lower one.

    Args:
        labels: ``(N, C)`` in {0, 1}.
        probabilities: ``(N, C)`` in 0..1.
        least: thresholds below it are raised to it.

    Returns:
        ``(C,)`` float32: a class counts as present if its probability, as float32, is at least its
        threshold; 0.5 for a class that no record has.
    """
    _require_fit(labels, probabilities)
    scores = np.asarray(probabilities, np.float32)
    thresholds = np.full(scores.shape[1], 0.5, np.float32)
    for c in range(scores.shape[1]):
        positive = np.asarray(labels)[:, c] > 0
        if not positive.any():
            continue
        values, group = np.unique(scores[:, c], return_inverse=True)
        # At candidate g, records with a probability of values[g] or above count as positive.
        called = np.bincount(group)[::-1].cumsum()[::-1]
        true_positive = np.bincount(group, weights=positive)[::-1].cumsum()[::-1]
        f1 = 2 * true_positive / (called + positive.sum())
        below = np.concatenate([[np.float32(0)], values[:-1]])
        candidates = below + (values - below) / 2
        # The midpoint of two neighbouring floats may be rounded down to the lower one.
        candidates = np.where(candidates > below, candidates, values)
        best = np.flatnonzero(f1 == f1.max())
        thresholds[c] = candidates[best[np.abs(candidates[best] - 0.5).argmin()]]
    return np.maximum(thresholds, np.float32(least))


# --- Scores over classes ---------------------------------------------------------------------


def class_f1(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """F1 of each class (MLBF-Net, section IV-B): ``(C,)``; 0 if there are no true positives."""
    _require_fit(labels, predicted)
    return _class_f1(labels, predicted, _once(labels))[0]


def macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean of :func:`class_f1` over all classes, also those in neither labels nor predictions."""
    return float(class_f1(labels, predicted).mean())


def single_label_macro_f1(first_labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Macro-F1 over all classes, predicting the most probable class (MLBF-Net, section IV-B)."""
    num_classes = np.shape(probabilities)[1]
    truth = one_hot(first_labels, num_classes)
    _require_fit(truth, probabilities)
    return macro_f1(truth, one_hot(np.argmax(probabilities, axis=1), num_classes))


def class_auc(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each class: ``(C,)``, NaN unless it has positives and negatives.

    Ties count half.
    """
    _require_fit(labels, probabilities)
    return _class_auc(labels, probabilities, _once(labels))[0]


def macro_auc(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean of :func:`class_auc` over the classes for which it is defined; NaN if there is none."""
    return float(_mean_over_defined(class_auc(labels, probabilities)))


def class_average_precision(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Average precision of each class: ``(C,)``, NaN for a class that no record has."""
    _require_fit(labels, probabilities)
    labels = np.asarray(labels)
    return np.array(
        [
            average_precision_score(labels[:, c], probabilities[:, c])
            if labels[:, c].any()
            else np.nan
            for c in range(labels.shape[1])
        ]
    )


@dataclass(frozen=True, eq=False)
class ClassScores:
    """Scores of each of C classes, arrays ``(C,)``.

    Attributes:
        support: number of records with the class.
        precision: fraction of predicted positives that have the class (0 if there are none).
        recall: fraction of records with the class that are predicted positive (0 if there are
            none); also called sensitivity.
        specificity: fraction of records without the class that are predicted negative (NaN if
            there are none).
        f1: harmonic mean of precision and recall (0 if both are 0).
    """

    support: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    specificity: np.ndarray
    f1: np.ndarray


def per_class(labels: np.ndarray, predicted: np.ndarray) -> ClassScores:
    """Support, precision, recall, specificity and F1 of each class (MLBF-Net, eq. 11 and 12)."""
    _require_fit(labels, predicted)
    labels, predicted = np.asarray(labels, np.int64), np.asarray(predicted, np.int64)
    true_positive = np.asarray((labels * predicted).sum(axis=0))
    called, support = np.asarray(predicted.sum(axis=0)), np.asarray(labels.sum(axis=0))
    return ClassScores(
        support=support,
        precision=_ratio(true_positive, called),
        recall=_ratio(true_positive, support),
        specificity=_ratio(
            len(labels) - called - support + true_positive, len(labels) - support, undefined=np.nan
        ),
        f1=_ratio(2 * true_positive, called + support),
    )


# --- Calibration -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Calibration:
    """Predicted probabilities and observed frequencies in B bins of equal width, arrays ``(B,)``.

    Attributes:
        probability: mean probability in each bin; empty bins are left out.
        share: fraction of the entries in each bin that are true.
        number: number of entries in each bin.
    """

    probability: np.ndarray
    share: np.ndarray
    number: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error (Guo et al. 2017, eq. 3): mean gap, weighted by number."""
        return float(np.average(np.abs(self.share - self.probability), weights=self.number))


def calibration(truth: np.ndarray, probabilities: np.ndarray) -> Calibration:
    """Compare predicted probabilities with observed frequencies, in ten bins from 0 to 1.

    Args:
        truth: array of 0 and 1, of any shape; all entries are pooled.
        probabilities: of the same shape.
    """
    truth, probabilities = (np.reshape(values, (-1, 1)) for values in (truth, probabilities))
    _require_fit(truth, probabilities)
    bins = 10
    at = np.minimum((probabilities[:, 0] * bins).astype(int), bins - 1)
    number, *sums = (
        np.bincount(at, weights=weights, minlength=bins)
        for weights in (None, probabilities[:, 0], truth[:, 0])
    )
    filled = number > 0
    probability, share = (each[filled] / number[filled] for each in sums)
    return Calibration(probability, share, number[filled])


def class_brier(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Brier score of each class, the mean squared error of its probability: ``(C,)``."""
    _require_fit(truth, probabilities)
    error = np.asarray(probabilities, np.float64) - truth
    return np.asarray((error**2).mean(axis=0))


# --- Scores over records ---------------------------------------------------------------------


def record_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean over records of the F1 over classes at threshold 0.5 (MRM-Net's "F1").

    A record's F1 is 2 TP / (number of labels + number of predicted classes); it is 0 for a record
    without labels and predicted classes, as in scikit-learn's ``f1_score(average="samples")``.
    """
    _require_fit(labels, probabilities)
    return float(_record_f1(labels, probabilities).mean())


# --- CPSC 2018 -------------------------------------------------------------------------------


def cpsc_scores(
    labels: np.ndarray,
    first_labels: np.ndarray,
    answers: np.ndarray,
    counts: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Score one answer per record by the rule of the CPSC 2018 challenge.

    An answer is correct if it is any of the record's labels, and then counts for that class; any
    other answer counts as a confusion of the record's first label with the answer.

    Args:
        labels: ``(N, 9)`` of 0 and 1, the nine classes in the challenge's order.
        first_labels: ``(N,)`` 0-based.
        answers: ``(N,)`` 0-based.
        counts: ``(R, N)``; None for a single resample with every record once.

    Returns:
        ``f1`` ``(R, 9)``, the F1 of each class, NaN for a class that is neither the truth nor the
        answer of any record; ``score`` ``(R,)``, their mean as in :func:`all_scores`, NaN
        unless all nine classes occur; and ``(R,)`` the F1 of each of :data:`CPSC_GROUPS` by its
        name.
    """
    labels, answers = np.asarray(labels), np.asarray(answers)
    if labels.shape[1:] != (9,):
        raise PredictionsError(
            f"the CPSC 2018 score needs the challenge's nine classes, not {labels.shape[1:]}."
        )
    counts = _once(labels) if counts is None else counts
    called = one_hot(answers, 9)
    _require_fit(labels, called)
    right = np.take_along_axis(labels, answers[:, None], axis=1) > 0
    first = one_hot(first_labels, 9)
    rows = np.where(right, called, first).astype(np.float64)
    hit, margin = rows * called, rows + called
    hits, margins = counts @ hit, counts @ margin
    of_all = _ratio(2 * hit.sum(axis=0), margin.sum(axis=0), undefined=np.nan)
    f1 = np.where(
        margin.any(axis=0), _where_drawn(_ratio(2 * hits, margins), first, counts), np.nan
    )
    everywhere = bool(margin.any(axis=0).all())
    score = _same_classes_mean(f1, of_all) if everywhere else np.full(len(f1), np.nan)
    scores = {"score": score, "f1": f1}
    for name, group in CPSC_GROUPS.items():
        members = list(group)
        scores[name] = _ratio(
            2 * hits[:, members].sum(axis=1), margins[:, members].sum(axis=1), undefined=np.nan
        )
    return scores


def confusion_matrix(
    first_labels: np.ndarray, answers: np.ndarray, *, num_classes: int
) -> np.ndarray:
    """Count the records of each true class (rows) by the predicted class: ``(C, C)`` int64."""
    truth, called = one_hot(first_labels, num_classes), one_hot(answers, num_classes)
    _require_fit(truth, called)
    return truth.astype(np.int64).T @ called


# --- All of them, with intervals -------------------------------------------------------------


def all_scores(
    labels: np.ndarray,
    first_labels: np.ndarray | None,
    probabilities: np.ndarray,
    *,
    thresholds: np.ndarray,
    single_label: bool,
    cpsc: bool,
    counts: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Compute all scores that the given labels allow, for one or more resamples.

    Args:
        labels: ``(N, C)`` of 0 and 1.
        first_labels: ``(N,)`` 0-based, all known; or None.
        probabilities: ``(N, C)``.
        thresholds: ``(C,)``; a class counts as present if its probability reaches its threshold.
        single_label: True if the answer is the most probable class alone.
        cpsc: add the official CPSC 2018 score and its groups (needs ``first_labels``).
        counts: ``(R, N)``, how often each record is drawn in each resample; None for a single
            resample with every record once.

    Returns:
        Arrays ``(R,)`` by name: ``macro_f1_first_label`` (arg-max answer against first label),
        ``macro_f1_any_label`` (arg-max answer against all labels, for a single-label network if
        first labels are unknown), ``macro_f1_thresholds`` and ``macro_f1_half`` (at ``thresholds``
        and at 0.5, for a multi-label network), ``macro_auc``, ``label_accuracy``, ``record_f1``,
        ``brier_score``, ``cpsc_score``, ``cpsc_AF`` and so on for the other :data:`CPSC_GROUPS`;
        and arrays ``(R, C)``: ``class_f1``, for the kind of answer that the network gives, and
        ``class_auc``.  A mean over classes takes the same classes in every resample: one that a
        resample lacks keeps its score over all records.
    """
    _require_fit(labels, probabilities)
    labels, probabilities = np.asarray(labels), np.asarray(probabilities)
    counts = _once(labels) if counts is None else np.asarray(counts, np.float64)
    totals = counts.sum(axis=1)
    answers = one_hot(probabilities.argmax(axis=1), labels.shape[1])
    scores: dict[str, np.ndarray] = {}

    if first_labels is not None:
        truth = one_hot(first_labels, labels.shape[1])
        scores["class_f1"], macro_f1 = _with_mean(_class_f1, truth, answers, counts)
        scores["macro_f1_first_label"] = macro_f1
    elif single_label:
        scores["class_f1"], macro_f1 = _with_mean(_class_f1, labels, answers, counts)
        scores["macro_f1_any_label"] = macro_f1
    if not single_label:
        _, scores["macro_f1_half"] = _with_mean(_class_f1, labels, probabilities >= 0.5, counts)
        found = probabilities >= thresholds
        scores["class_f1"], macro_f1 = _with_mean(_class_f1, labels, found, counts)
        scores["macro_f1_thresholds"] = macro_f1
    one_answer = single_label and first_labels is not None
    error = probabilities.astype(np.float64) - (truth if one_answer else labels)
    scores["brier_score"] = counts @ (error**2).mean(axis=1) / totals
    scores["class_auc"], scores["macro_auc"] = _with_mean(_class_auc, labels, probabilities, counts)
    scores["record_f1"] = counts @ _record_f1(labels, probabilities) / totals
    scores["label_accuracy"] = counts @ _record_accuracy(labels, probabilities) / totals
    if cpsc and first_labels is not None:
        values = cpsc_scores(labels, first_labels, probabilities.argmax(axis=1), counts)
        scores |= {f"cpsc_{name}": value for name, value in values.items() if name != "f1"}
    return scores


def patient_groups(patients: np.ndarray | None, num_records: int) -> np.ndarray:
    """Group records by patient for a bootstrap.

    Args:
        patients: ``(N,)`` str, empty if unknown; None if all are unknown.
        num_records: number of records N.

    Returns:
        ``(N,)`` int64, equal for records of the same patient; each record of an unknown patient is
        its own group.
    """
    groups = np.arange(num_records)
    if patients is not None:
        _, first, patient = np.unique(patients, return_index=True, return_inverse=True)
        groups = np.where(patients == "", groups, first[patient])
    return groups


def drawn_by(groups: np.ndarray) -> str:
    """Return what a bootstrap over these groups draws: ``"patients"`` or ``"records"``."""
    return "patients" if len(np.unique(groups)) < len(groups) else "records"


def bootstrap_intervals(
    scores: Callable[[np.ndarray], dict[str, np.ndarray]],
    *,
    groups: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Compute 95 % percentile intervals of scores, by drawing groups of records with replacement.

    Records of one patient are not independent, so resampling records would give intervals that are
    too narrow; instead, patients are drawn, each with all records.  The draws depend only on the
    seed and the groups, not on what is scored.

    Args:
        scores: takes counts ``(R, N)`` and returns arrays ``(R,)`` or ``(R, C)`` by name.
        groups: ``(N,)``, group of each record; see :func:`patient_groups`.
        resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        For each name ``(2,)`` or ``(C, 2)``: the 2.5th and the 97.5th percentile over the
        resamples in which the score is defined; NaN if there are none.
    """
    drawn = [scores(counts) for counts in _resample(groups, resamples, seed)]
    return {name: _percentiles(np.concatenate([part[name] for part in drawn])) for name in drawn[0]}


def paired_bootstrap(
    scores: Callable[[np.ndarray], dict[str, np.ndarray]],
    others: Callable[[np.ndarray], dict[str, np.ndarray]],
    *,
    groups: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Compute 95 % percentile intervals of ``others - scores``, both on the same draws.

    Args:
        scores: takes counts ``(R, N)`` and returns arrays by name, as for
            :func:`bootstrap_intervals`.
        others: the same for another network on the same records in the same order.
        groups: as for :func:`bootstrap_intervals`.
        resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        Intervals by name, for the scores that both have.
    """

    def difference(counts: np.ndarray) -> dict[str, np.ndarray]:
        first, second = scores(counts), others(counts)
        return {name: second[name] - first[name] for name in first if name in second}

    return bootstrap_intervals(difference, groups=groups, resamples=resamples, seed=seed)


# --- Over folds or seeds ---------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over folds or seeds.

    Attributes:
        mean: mean of the values; NaN if there are none.
        sd: sample standard deviation (divided by n - 1); NaN for fewer than two values.
    """

    mean: float
    sd: float = math.nan

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> "Spread":
        """Compute the mean and SD of values, ignoring NaN."""
        known = np.asarray(values, np.float64)
        known = known[~np.isnan(known)]
        if not len(known):
            return cls(math.nan)
        return cls(float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else math.nan)

    def text(self, digits: int) -> str:
        """Format as ``0.852 ± 0.021``: without the SD if it is NaN, a dash if the mean is NaN."""
        if math.isnan(self.mean):
            return "–"
        sd = "" if math.isnan(self.sd) else f" ± {self.sd:.{digits}f}"
        return f"{self.mean:.{digits}f}{sd}"


# --- Over counts (R, N) ----------------------------------------------------------------------


def _once(labels: np.ndarray) -> np.ndarray:
    return np.ones((1, len(labels)))


def _resample(groups: np.ndarray, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield counts ``(R, N)`` in blocks small enough for the CPU cache."""
    random = np.random.default_rng(seed)
    group_of_record = np.unique(groups, return_inverse=True)[1]
    num_groups = group_of_record.max() + 1
    piece = max(1, min(128, 500_000 // len(groups)))
    for start in range(0, resamples, piece):
        rows = min(piece, resamples - start)
        drawn = random.integers(num_groups, size=(rows, num_groups))
        drawn += np.arange(rows)[:, None] * num_groups
        counts = np.bincount(drawn.ravel(), minlength=rows * num_groups)
        yield counts.reshape(rows, num_groups)[:, group_of_record].astype(np.float64)


def _class_f1(labels: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> np.ndarray:
    labels, predicted = np.asarray(labels, np.float64), np.asarray(predicted, np.float64)
    f1 = _ratio(2 * (counts @ (labels * predicted)), counts @ (labels + predicted))
    return _where_drawn(f1, labels, counts)


def _where_drawn(f1: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Set the F1 of a class to NaN in resamples that lack it, although some record has it.

    The labels alone decide, so that two networks are averaged over the same classes.
    """
    return np.where((counts @ labels == 0) & labels.any(axis=0), np.nan, f1)


def _class_auc(labels: np.ndarray, probabilities: np.ndarray, counts: np.ndarray) -> np.ndarray:
    labels, by_record = np.asarray(labels), counts.T.copy()
    areas = np.full((len(counts), labels.shape[1]), np.nan)
    for c in range(labels.shape[1]):
        order = np.argsort(probabilities[:, c], kind="stable")
        values, positive = probabilities[order, c], labels[order, c] > 0
        if positive.all() or not positive.any():
            continue
        # Records with the same probability share their mean rank, so that a positive beats every
        # negative below it and half of those tied with it.
        starts = np.concatenate([[True], values[1:] != values[:-1]])
        drawn = by_record[order]
        weights = np.add.reduceat(drawn, np.flatnonzero(starts))
        ranks = weights.cumsum(axis=0) - weights / 2
        drawn_positives = drawn[positive]
        num_positives = drawn_positives.sum(axis=0)
        beaten = np.einsum("pr,pr->r", drawn_positives, ranks[(starts.cumsum() - 1)[positive]])
        pairs = num_positives * (counts.sum(axis=1) - num_positives)
        areas[:, c] = _ratio(beaten - num_positives**2 / 2, pairs, undefined=np.nan)
    return areas


def _with_mean(
    class_score: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    labels: np.ndarray,
    answers: np.ndarray,
    counts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Score each class ``(R, C)``, and average over the same classes in every resample ``(R,)``."""
    (of_all,) = class_score(labels, answers, _once(labels))
    by_class = class_score(labels, answers, counts)
    return by_class, _same_classes_mean(by_class, of_all)


def _same_classes_mean(by_class: np.ndarray, of_all: np.ndarray) -> np.ndarray:
    """Mean over classes: one that a resample lacks (NaN) has its score over all records.

    Left out, a rare class that is never found would raise the mean of just those resamples that
    lack it.
    """
    return _mean_over_defined(np.where(np.isnan(by_class), of_all, by_class))


def _record_f1(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    called, labels = np.asarray(probabilities) >= 0.5, np.asarray(labels) > 0
    return _ratio(2 * (called & labels).sum(axis=1), called.sum(axis=1) + labels.sum(axis=1))


def _record_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return ((np.asarray(probabilities) >= 0.5) == (np.asarray(labels) > 0)).mean(axis=1)


# --- Arithmetic ------------------------------------------------------------------------------


def _require_fit(labels: np.ndarray, answers: np.ndarray) -> None:
    labels, answers = np.asarray(labels), np.asarray(answers)
    if labels.ndim != 2 or labels.shape != answers.shape:
        raise PredictionsError(
            f"labels {labels.shape} and predictions {answers.shape} disagree; give one row a"
            " record and one column a class in both."
        )
    if len(labels) == 0:
        raise PredictionsError("there is no record to score; give at least one.")
    if answers.dtype.kind == "f" and not np.isfinite(answers).all():
        raise PredictionsError(
            f"{(~np.isfinite(answers)).any(axis=1).sum()} records have a probability that is not"
            " a number; find the record or the model it came from and predict again."
        )


def _ratio(above: np.ndarray, below: np.ndarray, *, undefined: float = 0.0) -> np.ndarray:
    result = np.full(np.broadcast_shapes(np.shape(above), np.shape(below)), undefined)
    return np.divide(above, below, out=result, where=np.asarray(below) != 0)


def _mean_over_defined(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis, ignoring NaN; NaN if all are NaN."""
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1), undefined=np.nan)


def _percentiles(drawn: np.ndarray) -> np.ndarray:
    """Return the 95 % percentile intervals ``(..., 2)`` of ``(R, ...)``, ignoring NaN."""
    columns = drawn.reshape(len(drawn), -1).T
    intervals = np.full((len(columns), 2), np.nan)
    for interval, column in zip(intervals, columns, strict=True):
        existing = column[np.isfinite(column)]
        if len(existing):
            interval[:] = np.percentile(existing, [2.5, 97.5])
    return intervals.reshape(*drawn.shape[1:], 2)
