"""Scores predictions and writes a report as JSON, CSV, Markdown and one HTML page.

The content is assembled here; :mod:`ecg_keras.evaluation.document` lays it out.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_prep.errors import PredictionsError
from data_prep.files import csv_text, read_json, written_whole
from data_prep.labels import CPSC_CLASSES, known_first_labels, one_hot
from ecg_keras.evaluation import plots, scores
from ecg_keras.evaluation.document import (
    Block,
    Definitions,
    Estimate,
    Facts,
    Heading,
    Notes,
    Paragraph,
    Picture,
    Table,
    markdown,
    page,
)
from ecg_keras.evaluation.predictions import Predictions
from ecg_keras.model.origin import CHOSE, TRAINED, UNKNOWN, UNSEEN, facts_rows, generated_notice

# Title and definition of each overall score, in the order of the report.
SCORES = {
    "macro_f1_first_label": (
        "Macro-F1 over classes, one label per record",
        "F1 of each class, averaged over all classes with equal weight; the answer is the most"
        " probable class, the truth the record's first label. MLBF-Net's macro-F1.",
    ),
    "macro_f1_any_label": (
        "Macro-F1 over classes, one answer against all labels",
        "F1 of each class, averaged over all classes with equal weight; the answer is the most"
        " probable class, the truth all labels of the record, because it is unknown which is the"
        " first. One answer cannot find several labels.",
    ),
    "macro_f1_thresholds": (
        "Macro-F1 over classes, at the model's thresholds",
        "F1 of each class, averaged over all classes with equal weight; a class counts as present"
        " if its probability reaches its threshold, which was fitted on validation records and"
        " stored with the model. On those validation records themselves, this score is biased"
        " upwards.",
    ),
    "macro_f1_half": (
        "Macro-F1 over classes, at 0.5",
        "The same with 0.5 as the threshold of every class.",
    ),
    "cpsc_score": (
        "CPSC 2018 challenge score",
        "Mean F1 of the nine classes by the challenge's rule: the most probable class is correct if"
        " it is any of the record's labels, and otherwise counts as a confusion with the first.",
    ),
    "cpsc_AF": ("CPSC 2018, AF", "The challenge's Faf: the F1 of AF."),
    "cpsc_Block": (
        "CPSC 2018, block",
        "The challenge's Fblock: the F1 of I-AVB, LBBB and RBBB taken together.",
    ),
    "cpsc_Premature contraction": (
        "CPSC 2018, premature contraction",
        "The challenge's Fpc: the F1 of PAC and PVC taken together.",
    ),
    "cpsc_ST-segment change": (
        "CPSC 2018, ST-segment change",
        "The challenge's Fst: the F1 of STD and STE taken together.",
    ),
    "macro_auc": (
        "Macro-AUC over classes",
        "Area under the ROC curve of each class, averaged with equal weight over the classes that"
        " some records have and others do not. MRM-Net's AUC.",
    ),
    "record_f1": (
        "Mean per-record F1, at 0.5",
        "F1 of each record over its classes, averaged over records; a class counts as present at"
        " 0.5 or above. MRM-Net's F1, which is not the macro-F1 over classes.",
    ),
    "label_accuracy": (
        "Label accuracy, at 0.5",
        "Fraction of all labels, over records and classes, that are predicted correctly; a class"
        " counts as present at 0.5 or above. MRM-Net's accuracy; always high if labels are rare.",
    ),
    "brier_score": (
        "Brier score",
        "Mean squared difference between the probabilities and the labels, 0 or 1, over records and"
        " classes; for a network with one label per record, its first label. Lower is better.",
    ),
    "calibration_error": (
        "Expected calibration error",
        "Difference between the probabilities and the fraction of records that have the class: the"
        " gap in each of ten bins of equal width, weighted by the number of records, averaged over"
        " classes (Guo et al. 2017, eq. 3); lower is better. It has no interval, because resampling"
        " inflates it.",
    ),
}

_CLASS_COLUMNS = (
    ("Support", "Number of records with the class, by the labels used for precision and recall."),
    ("AP", "Average precision, the area under the precision-recall curve as a step function."),
    (
        "Sensitivity and specificity",
        "Sensitivity (recall) is the fraction of the records with the class that are predicted"
        " positive; specificity is the fraction of those without it that are predicted negative.",
    ),
)


# --- Scoring ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Result:
    """Predictions and all their scores.

    Attributes:
        name: name of the predictions in the report.
        path: file of the predictions.
        labels_from: source of the labels.
        predictions: predictions for the records that have a label.
        truth: ``(N, C)`` of 0 and 1: the first label for single-label networks, if known;
            otherwise all labels.
        first_labels: ``(N,)`` 0-based; None if any is unknown.
        left_out: number of predicted records without a label.
        values: all scores that the labels allow, by name in :data:`SCORES`.
        intervals: 95 % intervals ``(2,)`` of the scores by name, and ``(C, 2)`` of ``class_f1``
            and ``class_auc``.
        classes: precision, recall, F1 and support of each class.
        class_auc: ``(C,)``, NaN if undefined.
        average_precision: ``(C,)``, NaN if undefined.
        class_calibration: ``(C,)`` expected calibration error.
        class_brier: ``(C,)`` Brier score.
        only_unseen: True if these are the records of another result that no model has seen.
    """

    name: str
    path: Path
    labels_from: str
    predictions: Predictions
    truth: np.ndarray
    first_labels: np.ndarray | None
    left_out: int
    values: dict[str, float]
    intervals: dict[str, np.ndarray]
    classes: scores.ClassScores
    class_auc: np.ndarray
    average_precision: np.ndarray
    class_calibration: np.ndarray
    class_brier: np.ndarray
    only_unseen: bool = False

    @property
    def labels(self) -> np.ndarray:
        """``(N, C)`` uint8 of 0 and 1."""
        assert self.predictions.labels is not None
        return self.predictions.labels


def score_predictions(
    predictions: Predictions,
    *,
    path: Path,
    name: str,
    labels_from: str,
    resamples: int = 1000,
    seed: int = 0,
) -> Result:
    """Score predictions against the labels they carry.

    Records without any label of the task are left out, as in PTB-XL's protocol.

    Args:
        predictions: predictions with labels.
        path: file of the predictions.
        name: name of the predictions in the report.
        labels_from: source of the labels, for the report.
        resamples: number of bootstrap resamples for the intervals.
        seed: seed of the resampling.

    Raises:
        PredictionsError: if no record has a label.
    """
    labelled = np.zeros(len(predictions.ids), bool)
    if predictions.labels is not None:
        labelled |= predictions.labels.any(axis=1)
    if not labelled.any():
        raise PredictionsError(
            f"none of the {len(labelled)} records in {path} has a label of the task"
            f" {predictions.task}; give their labels with --reference or --store."
        )
    kept = _rows(predictions, np.flatnonzero(labelled))
    assert kept.labels is not None
    first_labels = known_first_labels(kept.labels, kept.first_labels)

    values = _scores_of(kept, first_labels)
    with _progress(f"resampling {name}", resamples) as score:
        intervals = scores.bootstrap_intervals(
            lambda counts: score(kept, first_labels, counts),
            groups=kept.groups,
            resamples=resamples,
            seed=seed,
        )
    truth, predicted = kept.labels, kept.probabilities >= kept.thresholds
    if kept.single_label:
        predicted = kept.found
    if kept.single_label and first_labels is not None:
        truth = one_hot(first_labels, len(kept.class_names))
    calibrations = [
        scores.calibration(of_class, probabilities).error
        for of_class, probabilities in zip(truth.T, kept.probabilities.T, strict=True)
    ]
    values["calibration_error"] = np.array([np.mean(calibrations)])
    return Result(
        name=name,
        path=path,
        labels_from=labels_from,
        predictions=kept,
        truth=truth,
        first_labels=first_labels,
        left_out=int((~labelled).sum()),
        values={key: float(values[key][0]) for key in SCORES if key in values},
        intervals=intervals,
        classes=scores.per_class(truth, predicted),
        class_auc=values["class_auc"][0],
        average_precision=scores.class_average_precision(kept.labels, kept.probabilities),
        class_calibration=np.array(calibrations),
        class_brier=scores.class_brier(truth, kept.probabilities),
    )


def score_unseen(result: Result, *, resamples: int = 1000, seed: int = 0) -> Result | None:
    """Score separately the records that neither trained a model nor selected its epoch.

    Args:
        result: result for all records.
        resamples: number of bootstrap resamples for the intervals.
        seed: seed of the resampling.

    Returns:
        The result for the unseen records; None if all records are unseen, or none is.
    """
    predictions = result.predictions
    if not predictions.overlap() or predictions.seen is None:
        return None
    unseen = np.flatnonzero(predictions.seen == UNSEEN)
    if not len(unseen):
        return None
    rest = score_predictions(
        _rows(predictions, unseen),
        path=result.path,
        name=f"{result.name}, unseen records",
        labels_from=result.labels_from,
        resamples=resamples,
        seed=seed,
    )
    return replace(rest, only_unseen=True)


def notices(results: Sequence[Result]) -> tuple[str, ...]:
    """Return notices to show before the first score, one sentence each.

    They are about models trained on generated records, and about scored records that a model has
    seen.
    """
    sentences_shown: list[str] = []
    several = len({result.path for result in results}) > 1
    for result in results:
        if result.only_unseen:
            continue
        sentences = (*generated_notice(result.predictions.models), *result.predictions.overlap())
        sentences_shown += [f"{result.name}: {each}" if several else each for each in sentences]
    return tuple(sentences_shown)


@dataclass(frozen=True, eq=False)
class Difference:
    """Two results on the same records, ``other - base`` by score."""

    base: Result
    other: Result
    values: dict[str, Estimate]


def compare(base: Result, other: Result, *, resamples: int, seed: int) -> Difference | None:
    """Compare two results by a paired bootstrap.

    Args:
        base: the result to subtract.
        other: the result to subtract it from.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        The differences of the scores that both have, of the Brier score only if both are held
        against the same labels; None unless both have the same records, classes and labels.
    """
    order = np.argsort(base.predictions.ids), np.argsort(other.predictions.ids)
    first, second = _rows(base.predictions, order[0]), _rows(other.predictions, order[1])
    if (
        first.class_names != second.class_names
        or not np.array_equal(first.ids, second.ids)
        or not np.array_equal(base.labels[order[0]], other.labels[order[1]])
    ):
        return None
    of_base, of_other = None, None
    if base.first_labels is not None and other.first_labels is not None:
        of_base, of_other = base.first_labels[order[0]], other.first_labels[order[1]]

    with _progress(f"comparing {other.name} with {base.name}", 2 * resamples) as score:
        intervals = scores.paired_bootstrap(
            lambda counts: score(first, of_base, counts),
            lambda counts: score(second, of_other, counts),
            groups=first.groups,
            resamples=resamples,
            seed=seed,
        )
    return Difference(
        base=base,
        other=other,
        values={
            key: Estimate.of(other.values[key] - base.values[key], intervals[key], signed=True)
            for key in SCORES
            if key in base.values and key in other.values and key in intervals
            if key != "brier_score" or _by_first_label(base) == _by_first_label(other)
        },
    )


def learning_curves(paths: Sequence[Path]) -> list[Picture]:
    """Draw one figure for each folder of runs, such as ``runs/NAME`` with ``fold_1``, ...

    Args:
        paths: history.csv files of training runs, each in its own folder.

    Raises:
        PredictionsError: if a history cannot be read.
    """
    groups: dict[Path, dict[str, dict[str, np.ndarray]]] = {}
    for path in paths:
        folder = path.absolute().parent
        groups.setdefault(folder.parent, {})[folder.name] = plots.read_history(path)
    return [
        Picture(
            f"learning_curves_{number}.png",
            plots.plot_learning_curves(histories, monitor=_monitor(folder / next(iter(histories)))),
            f"Learning curves of {folder.name}",
            "Training loss (dashed), validation loss and validation scores by epoch; a dot marks"
            f" the epoch that was kept. Runs: {_listed(list(histories))}.",
        )
        for number, (folder, histories) in enumerate(groups.items(), start=1)
    ]


def _monitor(run: Path) -> str:
    """Return the score that selected the epoch of a run; empty if its settings cannot be read."""
    try:
        return str(read_json(run / "args.json")["settings"]["monitor"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


# --- Writing ---------------------------------------------------------------------------------


def write_report(
    out: Path,
    results: Sequence[Result],
    *,
    learning: Sequence[Picture] = (),
    resamples: int,
    seed: int,
) -> Path:
    """Write scores.json, per_class.csv, report.md, figures and index.html.

    Args:
        out: the folder.
        results: one or more results.
        learning: the learning curves, if any.
        resamples: number of bootstrap resamples, here and in the results.
        seed: seed of the resampling.

    Returns:
        The path of index.html.
    """
    differences = [
        difference
        for other in results[1:]
        if not other.only_unseen
        if (difference := compare(results[0], other, resamples=resamples, seed=seed)) is not None
    ]
    blocks = _blocks(results, differences, learning, resamples=resamples, seed=seed)
    title = "Evaluation of " + " and ".join(result.name for result in results)
    models = [model for result in results for model in result.predictions.models]
    if any(model.generated for model in models):
        title += ", trained on generated records"
    shown = notices(results)

    for block in blocks:
        if isinstance(block, Picture):
            _write(out / block.file, block.png)
    _write(out / "scores.json", _json(results, differences, resamples=resamples, seed=seed))
    _write(out / "per_class.csv", _per_class_csv(results))
    _write(out / "report.md", markdown(title, blocks, notices=shown))
    _write(out / "index.html", page(title, blocks, notices=shown))
    return out / "index.html"


def summary(results: Sequence[Result]) -> str:
    """Format the overall scores as a small table for the terminal."""
    table = _score_table(results)
    rows = [["", *table.header[1:]], *([*map(str, row)] for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


# --- What the report says --------------------------------------------------------------------


def _blocks(
    results: Sequence[Result],
    differences: Sequence[Difference],
    learning: Sequence[Picture],
    *,
    resamples: int,
    seed: int,
) -> list[Block]:
    blocks: list[Block] = []
    if len(results) > 1:
        blocks += _comparison(results, differences)
    for result in results:
        blocks += _section(result, alone=len(results) == 1)
    if learning:
        blocks += [Heading("Learning curves"), *learning]
    used = [key for key in SCORES if any(key in result.values for result in results)]
    blocks += [
        Heading("What the scores are"),
        Definitions(tuple(SCORES[key] for key in used) + _CLASS_COLUMNS),
        Paragraph(
            f"Intervals are 95 % percentile intervals of {resamples:,} bootstrap resamples of"
            f" {_resampled(results)} (seed {seed}). A mean over classes takes the same classes in"
            " every resample: one that a resample lacks keeps its score over all records, so a"
            " class of a handful of records hardly widens the interval. The intervals show how much"
            " the scores would vary with other records of the same kind, not with another training"
            " of the network."
        ),
    ]
    return blocks


def _resampled(results: Sequence[Result]) -> str:
    """Describe what the bootstrap draws."""
    drawn = {scores.drawn_by(result.predictions.groups) for result in results}
    whole = "the patients, each with all records" if "patients" in drawn else "the records"
    return f"{whole} (the records, if no patients are known)" if len(drawn) > 1 else whole


def _section(result: Result, *, alone: bool) -> list[Block]:
    predictions = result.predictions
    members = len(predictions.members)
    blocks: list[Block] = [
        Heading(result.name),
        Facts(
            (
                ("Network", predictions.network),
                ("Task", f"{predictions.task}, {len(predictions.class_names)} classes"),
                ("Records", f"{len(predictions.ids):,}"),
                (
                    "Members",
                    "1 network"
                    if members == 1
                    else f"{members} networks, their probabilities averaged",
                ),
                (
                    "Answer",
                    "one class a record, the most probable"
                    if predictions.single_label
                    else "every class that reaches its threshold",
                ),
                *facts_rows(predictions.models),
                ("Labels from", result.labels_from),
                ("Predictions", str(result.path)),
            )
        ),
    ]
    tables = score_tables(result)
    return [*blocks, *(tables if alone else tables[1:]), *_pictures(result)]


def score_tables(result: Result) -> list[Block]:
    """Return the overall scores, remarks on them, and the tables of scores and answers by class."""
    remarks = Notes(tuple(_remarks(result)))
    return [_score_table([result]), remarks, _class_table(result), _answer_table(result)]


def _score_table(results: Sequence[Result]) -> Table:
    return Table(
        "Overall scores with 95 % intervals",
        ("Score", *(result.name for result in results)),
        tuple(
            (title, *(_estimate(result, key) for result in results))
            for key, (title, _) in SCORES.items()
            if any(key in result.values for result in results)
        ),
    )


def _remarks(result: Result) -> Iterator[str]:
    predictions, labels = result.predictions, result.labels
    names = np.array(predictions.class_names)
    if result.only_unseen:
        yield "These records neither trained a model nor chose its epoch and thresholds."
    yield from predictions.overlap()
    if predictions.overlap() and predictions.seen is not None:
        if not (predictions.seen == UNSEEN).any():
            yield "No record is left that is known to be unseen."
    if predictions.seen is None or (predictions.seen == UNKNOWN).any():
        yield "Whether these records trained the model is not known: its file does not say."
    if result.left_out:
        yield (f"{result.left_out:,} predicted records have no label of the task and are left out.")
    unsupported = names[result.classes.support == 0]
    if len(unsupported):
        which = "has as its first label" if _by_first_label(result) else "has"
        yield (
            f"No record {which} {_listed(unsupported)}: F1 is 0 there by convention, and counts"
            " in macro-F1."
        )
    few = names[(result.classes.support > 0) & (result.classes.support < 10)]
    if len(few):
        yield (
            f"Fewer than 10 records of {_listed(few)}: those scores are more uncertain than the"
            " intervals can show."
        )
    undefined = names[~np.isfinite(result.class_auc)]
    if len(undefined):
        yield (
            f"{_listed(undefined)} {'is' if len(undefined) == 1 else 'are'} present in no record or"
            " in every record: AUC is undefined there, and macro-AUC is over the other"
            f" {len(names) - len(undefined)} of {len(names)} classes."
        )
    else:
        yield f"Macro-AUC is over all {len(names)} classes; each has records with and without it."
    if result.first_labels is None and predictions.task == "cpsc2018":
        yield (
            "It is not known which label of each record stands first, so the CPSC 2018 challenge"
            " score and the confusion matrix are left out; a REFERENCE.csv would give both."
        )
    if "cpsc_score" in result.values and not np.isfinite(result.values["cpsc_score"]):
        yield (
            "The CPSC 2018 challenge score does not exist here: at least one of the nine classes"
            " is neither the first label nor the answer of any record."
        )
    if not predictions.single_label and (predictions.thresholds == 0.5).all():
        yield "The model's thresholds are all 0.5: none were fitted."
    yield (
        "Predicting no class at all would reach a label accuracy of"
        f" {1 - float(labels.mean()):.3f} on these records."
    )


def _class_table(result: Result) -> Table:
    return Table(
        f"Each class: F1 of {_answers(result)}; AUC and AP of the probabilities against all labels",
        ("Class", "Support", "F1", "AUC", "AP"),
        tuple(
            (
                name,
                f"{result.classes.support[c]:,}",
                Estimate.of(result.classes.f1[c], result.intervals["class_f1"][c]),
                Estimate.of(result.class_auc[c], result.intervals["class_auc"][c]),
                Estimate(float(result.average_precision[c])),
            )
            for c, name in enumerate(result.predictions.class_names)
        ),
    )


def _answer_table(result: Result) -> Table:
    classes, predictions = result.classes, result.predictions
    columns = {
        "Threshold": predictions.thresholds,
        "Sensitivity": classes.recall,
        "Specificity": classes.specificity,
        "Precision": classes.precision,
        "Brier score": result.class_brier,
        "Calibration error": result.class_calibration,
    }
    if predictions.single_label:
        del columns["Threshold"]
    return Table(
        f"Answers and calibration of each class: {_answers(result)}",
        ("Class", *columns),
        tuple(
            (name, *(Estimate(float(values[c])) for values in columns.values()))
            for c, name in enumerate(predictions.class_names)
        ),
    )


def _answers(result: Result) -> str:
    """Describe what is scored, and against which labels."""
    if not result.predictions.single_label:
        return "the answers at the model's thresholds against all labels"
    against = "the first label" if _by_first_label(result) else "all labels"
    return f"the most probable class against {against}"


def _by_first_label(result: Result) -> bool:
    return result.predictions.single_label and result.first_labels is not None


def _pictures(result: Result) -> Iterator[Picture]:
    predictions, names = result.predictions, result.predictions.class_names
    slug = re.sub(r"[^\w.]+", "-", result.name.lower()).strip("-")
    if result.first_labels is not None:
        matrix = scores.confusion_matrix(
            result.first_labels, predictions.answers, num_classes=len(names)
        )
        numbers = " and numbers are records" if len(names) <= plots.MOST_PANELS else ""
        yield Picture(
            f"{slug}_confusion_matrix.png",
            plots.plot_confusion_matrix(matrix, names),
            "Confusion matrix",
            "Rows are the record's first label, columns the most probable class; colour is the"
            f" share of the row{numbers}. A record with several labels is in the row of its first"
            " label.",
        )
    several = len(names) <= plots.MOST_PANELS
    yield Picture(
        f"{slug}_roc.png",
        plots.plot_roc(result.labels, predictions.probabilities, names),
        "ROC curves",
        "Sensitivity against 1 − specificity as the threshold falls, one panel per class, the other"
        " classes in grey; the dotted line is chance. All labels of a record count as the truth."
        if several
        else "Sensitivity against 1 − specificity as the threshold falls: mean over the classes"
        " that some records have and others do not, and the range of the middle 80 % of them; the"
        " dotted line is chance.",
        half=True,
    )
    yield Picture(
        f"{slug}_precision_recall.png",
        plots.plot_precision_recall(result.labels, predictions.probabilities, names),
        "Precision-recall curves",
        "Precision against recall as the threshold falls, one panel per class, the other classes in"
        " grey; the dotted line is the fraction of records that have the class, the precision of"
        " chance."
        if several
        else "Precision against recall as the threshold falls: mean over the classes that some"
        " records have and others do not, and the range of the middle 80 % of them; the dotted line"
        " is the mean fraction of records that have a class, the precision of chance.",
        half=True,
    )
    yield Picture(
        f"{slug}_reliability.png",
        plots.plot_reliability(result.truth, predictions.probabilities, names),
        "Reliability",
        "How often a class is present, against its predicted probability, in ten bins of equal"
        " width; larger dots are bins with more records. On the dotted line, calibration is"
        " perfect. ECE is the expected calibration error"
        f"{'' if several else ' over all records and classes'}.",
        half=True,
    )
    if np.isfinite(result.class_auc).any():
        yield Picture(
            f"{slug}_class_auc.png",
            plots.plot_class_auc(
                result.class_auc, result.intervals["class_auc"], result.labels.sum(axis=0), names
            ),
            "AUC of each class",
            "AUC with its 95 % interval, and in brackets the number of records with the class; the"
            " dotted line is macro-AUC. Classes for which AUC is undefined are left out.",
        )


def _comparison(results: Sequence[Result], differences: Sequence[Difference]) -> list[Block]:
    compared = {id(difference.other): difference for difference in differences}
    blocks: list[Block] = [Heading("Side by side"), _score_table(results)]
    for other in results[1:]:
        if other.only_unseen:
            continue
        difference = compared.get(id(other))
        if difference is None:
            blocks.append(
                Paragraph(
                    f"{other.name} and {results[0].name} have different records, classes or"
                    " labels, so their scores are not set against each other."
                )
            )
            continue
        blocks.append(
            Table(
                f"{other.name} minus {results[0].name}, on the same"
                f" {len(other.predictions.ids):,} records, with 95 % intervals of the paired"
                " bootstrap; an interval without 0 means that the difference is unlikely to be due"
                " to the choice of records",
                ("Score", "Difference"),
                tuple((SCORES[key][0], estimate) for key, estimate in difference.values.items()),
            )
        )
    return blocks


# --- JSON and CSV ----------------------------------------------------------------------------


def _json(
    results: Sequence[Result], differences: Sequence[Difference], *, resamples: int, seed: int
) -> str:
    content = {
        "bootstrap": {"resamples": resamples, "seed": seed, "interval": 0.95},
        "predictions": [
            {
                "name": result.name,
                "file": str(result.path),
                "network": result.predictions.network,
                "task": result.predictions.task,
                "records": len(result.predictions.ids),
                "left_out": result.left_out,
                "members": len(result.predictions.members),
                "single_label": result.predictions.single_label,
                "labels_from": result.labels_from,
                "only_unseen": result.only_unseen,
                "seen": _seen_counts(result.predictions),
                "models": [json.loads(model.to_json()) for model in result.predictions.models],
                "scores": {key: _numbers(_estimate(result, key)) for key in result.values},
                "classes": list(_class_rows(result)),
            }
            for result in results
        ],
        "differences": [
            {
                "of": difference.other.name,
                "minus": difference.base.name,
                "scores": {key: _numbers(each) for key, each in difference.values.items()},
            }
            for difference in differences
        ],
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _per_class_csv(results: Sequence[Result]) -> str:
    rows = [{"predictions": r.name, **row} for r in results for row in _class_rows(r)]
    return csv_text(list(rows[0]), [list(row.values()) for row in rows])


def _class_rows(result: Result) -> Iterator[dict[str, str | int | float | None]]:
    predictions, classes = result.predictions, result.classes
    for c, name in enumerate(predictions.class_names):
        f1, auc = result.intervals["class_f1"][c], result.intervals["class_auc"][c]
        yield {
            "class": name,
            "threshold": None if predictions.single_label else _finite(predictions.thresholds[c]),
            "support": int(classes.support[c]),
            "precision": _finite(classes.precision[c]),
            "recall": _finite(classes.recall[c]),
            "specificity": _finite(classes.specificity[c]),
            "f1": _finite(classes.f1[c]),
            "f1_low": _finite(f1[0]),
            "f1_high": _finite(f1[1]),
            "records_with_class": int(result.labels[:, c].sum()),
            "auc": _finite(result.class_auc[c]),
            "auc_low": _finite(auc[0]),
            "auc_high": _finite(auc[1]),
            "average_precision": _finite(result.average_precision[c]),
            "brier_score": _finite(result.class_brier[c]),
            "calibration_error": _finite(result.class_calibration[c]),
        }


@contextmanager
def _progress(what: str, steps: int) -> Iterator[Callable[..., dict[str, np.ndarray]]]:
    """Yield :func:`_scores_of`, made to advance a progress bar by the number of resamples."""
    with tqdm(total=steps, desc=what, leave=False) as bar:

        def score(*args: Any) -> dict[str, np.ndarray]:
            bar.update(len(args[-1]))
            return _scores_of(*args)

        yield score


# --- Small parts -----------------------------------------------------------------------------


def _scores_of(
    predictions: Predictions, first_labels: np.ndarray | None, counts: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    assert predictions.labels is not None
    return scores.all_scores(
        predictions.labels,
        first_labels,
        predictions.probabilities,
        thresholds=predictions.thresholds,
        single_label=predictions.single_label,
        cpsc=predictions.task == "cpsc2018" and predictions.class_names == CPSC_CLASSES,
        counts=counts,
    )


def _rows(predictions: Predictions, rows: np.ndarray) -> Predictions:
    by_record = ("ids", "probabilities", "labels", "first_labels", "patients", "seen")
    known = {name: array for name in by_record if (array := getattr(predictions, name)) is not None}
    chosen: dict[str, Any] = {name: array[rows] for name, array in known.items()}
    return replace(predictions, members=predictions.members[:, rows], **chosen)


def _seen_counts(predictions: Predictions) -> dict[str, int] | None:
    if predictions.seen is None:
        return None
    kinds = {"trained": TRAINED, "chose": CHOSE, "unseen": UNSEEN, "unknown": UNKNOWN}
    return {name: int((predictions.seen == code).sum()) for name, code in kinds.items()}


def _estimate(result: Result, key: str) -> Estimate:
    if key not in result.values:
        return Estimate(float("nan"))
    return Estimate.of(result.values[key], result.intervals.get(key, (np.nan, np.nan)))


def _numbers(cell: Estimate) -> dict[str, float | None]:
    return {"value": _finite(cell.value), "low": _finite(cell.low), "high": _finite(cell.high)}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _listed(names: Sequence[str] | np.ndarray) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else str(last)


def _write(path: Path, content: str | bytes) -> None:
    with written_whole(path) as part:
        part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
