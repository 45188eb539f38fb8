"""Command ``ecg-evaluate``: score predictions and write a report; needs no network."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.commands import run_command
from data_prep.errors import OptionError, PredictionsError
from data_prep.files import written_as_one

if TYPE_CHECKING:
    from ecg_keras.evaluation.predictions import Predictions


FILES = (
    "index.html",
    "learning_curves_*.png",
    "per_class.csv",
    "report.md",
    "scores.json",
    *(
        f"*_{figure}.png"
        for figure in ("confusion_matrix", "roc", "precision_recall", "reliability", "class_auc")
    ),
)
"""The files that ``ecg-evaluate`` writes."""


def main(
    *,
    predictions: tuple[Path, ...],
    out: Path,
    reference: Path | None = None,
    store: Path | None = None,
    history: tuple[Path, ...] = (),
    bootstrap: int = 1000,
    seed: int = 0,
) -> None:
    """Score predictions against labels and write a report.

    Writes scores.json, per_class.csv, report.md, the figures as PNG, and index.html, a
    self-contained page with everything.  Several files of predictions are scored one by one, and
    compared if they are for the same records.  If scored records trained a model, or selected its
    epoch and thresholds, the report says so first, and the unseen records are also scored
    separately.

    Args:
        predictions: one or more predictions.npz written by ecg-predict.
        out: folder for the report only; an earlier report in it is overwritten.
        reference: REFERENCE.csv with the true labels (CPSC 2018's columns Recording,
            First_label, Second_label, Third_label).  Without it and without a store, the
            labels in the predictions are used.
        store: store with the true labels of the predictions' task.
        history: one or more history.csv of training runs, for their learning curves.
        bootstrap: number of bootstrap resamples for the 95 % intervals.
        seed: seed of the resampling.
    """
    from ecg_keras.evaluation.predictions import load_predictions
    from ecg_keras.evaluation.report import (
        learning_curves,
        notices,
        score_predictions,
        score_unseen,
        summary,
        write_report,
    )

    if not predictions:
        raise OptionError("there is nothing to score; name at least one file after --predictions.")
    if len(set(predictions)) < len(predictions):
        raise OptionError("a file of predictions is named twice; name each once.")
    if reference is not None and store is not None:
        raise OptionError(
            f"labels can be taken from {reference} or from {store}, not from both; give one of"
            " --reference and --store."
        )
    if bootstrap < 1:
        raise OptionError(f"--bootstrap must be at least 1, not {bootstrap}; 1000 is usual.")
    if seed < 0:
        raise OptionError(f"--seed must be 0 or more, not {seed}.")

    inputs = [path for path in (*predictions, *history, reference, store) if path is not None]
    with written_as_one(out, names=FILES, inputs=inputs) as folder:
        learning = learning_curves(history)
        labelled = [
            label_predictions(load_predictions(path), path, reference=reference, store=store)
            for path in predictions
        ]
        results = [
            score_predictions(
                answers,
                path=path,
                name=name,
                labels_from=str(reference or store or "the file of predictions itself"),
                resamples=bootstrap,
                seed=seed,
            )
            for answers, path, name in zip(
                labelled, predictions, _names(labelled, predictions), strict=True
            )
        ]
        results = [
            each
            for result in results
            for each in (result, score_unseen(result, resamples=bootstrap, seed=seed))
            if each is not None
        ]
        for notice in notices(results):
            print(f"warning: {notice}", file=sys.stderr)
        page = write_report(folder, results, learning=learning, resamples=bootstrap, seed=seed)
    print(summary(results))
    print(out / page.name)


def label_predictions(
    predictions: Predictions,
    path: Path,
    *,
    reference: Path | None = None,
    store: Path | None = None,
) -> Predictions:
    """Add the labels that predictions are to be scored against.

    Args:
        predictions: the predictions.
        path: file of the predictions, for the messages.
        reference: REFERENCE.csv with the labels, or None.
        store: store with the labels of the predictions' task, or None.

    Returns:
        The predictions with the ``labels`` and ``first_labels`` of the given source; unchanged if
        no source is given.

    Raises:
        PredictionsError: if there are no labels, a record is missing from their source, or the
            source has other classes than the predictions.
        LabelError: if the reference cannot be read.
        StoreError: if the store cannot be read or does not have the task.
    """
    import numpy as np

    if reference is not None:
        from data_prep.labels import CPSC_CLASSES, encode, read_reference

        _require_classes(predictions, path, CPSC_CLASSES, reference)
        known = read_reference(reference)
        _require_ids(predictions, path, known, reference)
        labels = np.array([encode(known[record], len(CPSC_CLASSES)) for record in predictions.ids])
        first_labels = np.array([known[record][0] for record in predictions.ids])
        return replace(predictions, labels=labels, first_labels=first_labels)

    if store is not None:
        from data_prep.store import Store

        with Store(store) as opened:
            task = opened.resolve_task(predictions.task)
            _require_classes(predictions, path, opened.class_names(task), store)
            rows = {str(record): row for row, record in enumerate(opened.ids)}
            _require_ids(predictions, path, rows, store)
            chosen = [rows[record] for record in predictions.ids]
            return replace(
                predictions,
                labels=np.asarray(opened.labels(task))[chosen],
                first_labels=opened.first_labels(task)[chosen],
                patients=opened.patients[chosen],
            )

    if predictions.labels is None:
        raise PredictionsError(
            f"{path} holds no labels to score against; give them with --reference REFERENCE.csv"
            " or --store STORE.h5."
        )
    return predictions


def _require_classes(
    predictions: Predictions, path: Path, class_names: tuple[str, ...], source: Path
) -> None:
    if predictions.class_names != tuple(class_names):
        raise PredictionsError(
            f"{path} predicts {', '.join(predictions.class_names)} but {source} labels"
            f" {', '.join(class_names)}; give labels of the task {predictions.task}."
        )


def _require_ids(
    predictions: Predictions, path: Path, known: Mapping[str, object], source: Path
) -> None:
    absent = [record for record in predictions.ids if record not in known]
    if absent:
        raise PredictionsError(
            f"{len(absent)} of the {len(predictions.ids)} records in {path} are absent from"
            f" {source} (the first is {absent[0]}); give the labels of these records."
        )


def _names(predictions: Sequence[Predictions], paths: Sequence[Path]) -> list[str]:
    """Name each by its network; if networks repeat, add the distinguishing part of the path."""
    networks = [each.network for each in predictions]
    if len(set(networks)) == len(networks):
        return networks
    parts = [path.absolute().parts for path in paths]
    start = len(os.path.commonprefix(parts))
    end = len(os.path.commonprefix([part[start:][::-1] for part in parts]))
    apart = ["/".join(part[start : len(part) - end]) or part[-2] for part in parts]
    return [f"{network} {part}" for network, part in zip(networks, apart, strict=True)]


def command() -> None:
    """Run ``ecg-evaluate``."""
    run_command(main)


if __name__ == "__main__":
    command()
