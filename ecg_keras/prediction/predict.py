"""The work of ``ecg-predict``: the answers of an ensemble, written as tables and pages."""

import csv
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Protocol

from tqdm import tqdm

from data_prep.errors import ModelFileError, OptionError, RecordError
from data_prep.files import locked, write_csv, written_as_one
from data_prep.labels import CPSC_CLASSES, CPSC_TASK
from data_prep.names import shown
from data_prep.plausibility import Doubt
from data_prep.records import Record
from data_prep.store import Store
from ecg_keras.evaluation.answers import table_lines
from ecg_keras.evaluation.predictions import Predictions, save_predictions
from ecg_keras.explanation.methods import Explanation
from ecg_keras.explanation.pages import write_page
from ecg_keras.model.contract import Contract, joint_contract
from ecg_keras.model.model_files import ECGModel
from ecg_keras.model.networks import part
from ecg_keras.model.origin import generated_notice
from ecg_keras.model.recordings import as_record
from ecg_keras.prediction.ensemble import (
    Answered,
    answer_fold,
    answer_records,
    choose_records,
    files_of,
    fold_of_store,
    open_models,
    record_of_store,
)


class Explainer(Protocol):
    """The interface of ``Explainer`` in a network package's module ``explain``."""

    def explain(self, record: Record) -> Explanation:
        """Explain the answer to one recording."""
        ...


Format = Literal["names", "cpsc2018"]

_DOUBTS_SHOWN = 10
_CHALLENGE_COLUMNS = {"recording", "first_label", "second_label", "third_label"}

FILES = (
    "answers.csv",
    "explained",
    "predictions.npz",
    "probabilities.csv",
    "rejected.csv",
    "warnings.csv",
)
"""The files that ``ecg-predict`` writes."""


def write_answers(out: Path, answered: Answered, form: Format) -> None:
    """Write the results of a prediction.

    ``predictions.npz`` holds everything; ``probabilities.csv`` has a column per class;
    ``rejected.csv`` lists the recordings that could not be used, and ``warnings.csv`` the
    plausibility warnings about the others, one per line.  ``answers.csv`` gives the classes found,
    the most probable first, the recordings' own labels if known, and all probabilities and
    thresholds; in the format of the CPSC 2018 challenge it gives one class number per recording,
    that of the first class found.

    Args:
        out: the folder.
        answered: results of an ensemble.
        form: format of ``answers.csv``.
    """
    predictions = answered.predictions
    save_predictions(out / "predictions.npz", predictions)
    rows = zip(predictions.ids, predictions.probabilities, strict=True)
    write_csv(
        out / "probabilities.csv",
        ["Recording", *predictions.class_names],
        [[name, *(f"{p:.6f}" for p in row)] for name, row in rows],
    )
    if form == "cpsc2018":
        number = {name: str(c) for c, name in enumerate(predictions.class_names, start=1)}
        columns = ["Recording", "Result"]
        table = [[answer.record, number[answer.labels[0]]] for answer in answered.answers]
    else:
        columns = answered.answers.columns
        table = [_as_text(row) for row in answered.answers.rows]
    write_csv(out / "answers.csv", columns, table)
    write_csv(
        out / "rejected.csv",
        ["record", "file", "reason"],
        [[entry.name, entry.file, entry.reason] for entry in answered.rejected],
    )
    write_csv(
        out / "warnings.csv",
        ["Recording", "kind", "warning"],
        [
            [name, doubt.kind, doubt.text]
            for name, found in answered.doubts.items()
            for doubt in found
        ],
    )


def _as_text(row: Sequence[Any]) -> list[str]:
    numbers = [f"{value:.6f}" if isinstance(value, float) else value for value in row[:-1]]
    return [*numbers, f"{row[-1]:.6g}"]


def _form_of(form: Format | None, csv_file: Path | None, contract: Contract) -> Format:
    """Choose the format of ``answers.csv``: the challenge's if its classes and table are given."""
    numbered = contract.task == CPSC_TASK and contract.class_names == CPSC_CLASSES
    if form == "cpsc2018" and not numbered:
        raise OptionError(
            "--format cpsc2018 numbers the classes of CPSC 2018, and these models answer"
            f" {contract.task}, {', '.join(contract.class_names)[:200]}; leave it out."
        )
    if form is None and csv_file is not None and numbered:
        with open(csv_file, newline="", encoding="utf-8-sig") as file:
            columns = {column.strip().casefold() for column in next(csv.reader(file), ())}
        return "cpsc2018" if columns <= _CHALLENGE_COLUMNS else "names"
    return form or "names"


def predict(
    *,
    models: Sequence[str],
    out: Path,
    batch_size: int,
    records: Path | None = None,
    csv_file: Path | None = None,
    store: Path | None = None,
    fold: int | None = None,
    fs: float | None = None,
    unit: str | None = None,
    explain: bool = False,
    form: Format | None = None,
) -> None:
    """Do the work of ``ecg-predict``.

    Args:
        models: files or patterns.
        out: folder for the answers; those of an earlier run are overwritten.
        batch_size: recordings per batch.
        records: a folder, or one recording.
        csv_file: a table with a column ``Recording`` that selects recordings, or None.
        store: a store, instead of files.
        fold: fold of the store to predict; only records with a label of the models' task are used.
        fs: sampling rate in hertz, of recordings that do not state it.
        unit: unit of recordings that do not state it.
        explain: whether to write ``explained/NAME.html`` for each recording, after the answers.
        form: format of ``answers.csv``; None for the challenge's if ``csv_file`` has its columns
            and the models its task, otherwise names.

    Raises:
        ECGError: if no recording could be used; also if only some could, after writing the answers
            for those.
    """
    if batch_size < 1:
        raise OptionError(f"--batch-size must be above 0, not {batch_size}.")
    _require_one_source(records, store, fold, {"csv": csv_file, "fs": fs, "unit": unit})
    inputs = [path for path in (records, csv_file, store, *files_of(models)) if path is not None]
    with written_as_one(out, names=FILES, inputs=inputs) as folder, ExitStack() as stack:
        if store is None:
            assert records is not None
            chosen = choose_records(csv_file=csv_file, records=records)
            in_folder = records.is_dir()
        else:
            opened = stack.enter_context(Store(store))
        ensemble = open_models(models)
        explainer = explainer_of(ensemble) if explain else None
        form = _form_of(form, csv_file, ensemble[0].contract)
        read: Callable[[str], Record]
        in_fold = 0
        if store is not None:
            assert fold is not None
            contract = joint_contract([model.contract for model in ensemble])
            rows = fold_of_store(opened, contract=contract, fold=fold)
            in_fold = int((opened.folds == fold).sum())
            index = {str(opened.ids[row]): int(row) for row in rows}

            def read(name: str) -> Record:
                return record_of_store(opened, index[name])

            answered = answer_fold(ensemble, opened, rows, read, batch_size)
        else:
            answered = answer_records(
                ensemble,
                list(chosen.items()),
                batch_size=batch_size,
                fs=fs,
                unit=unit,
                fallback=in_folder,
            )

            def read(name: str) -> Record:
                return as_record(chosen[name], fs=fs, unit=unit, fallback=in_folder)

        predictions, doubts = answered.predictions, answered.doubts
        answers = answered.answers
        write_answers(folder, answered, form)
    count = len(answers)
    for line in table_lines(answers):
        print(line)
    print(
        f"{shown(str(out))}: {count} recording{'s' if count > 1 else ''} answered by"
        f" {len(ensemble)} model{'s' if len(ensemble) > 1 else ''} of {predictions.network}."
    )
    if in_fold > count:
        several = ", or several in no known order" if predictions.single_label else ""
        print(
            f"{in_fold - count} of the {in_fold} recordings of fold {fold} are left out: they have"
            f" no label of {shown(predictions.task)}{several}."
        )
    for notice in notices_of(predictions):
        print(f"warning: {notice}", file=sys.stderr)
    _print_doubts(doubts, out / "warnings.csv")
    if explainer is not None:
        # The answers are complete already, whatever stops the pages.
        with locked(Path(os.path.realpath(out)), doing="written"), ExitStack() as stack:
            if store is not None:
                opened = stack.enter_context(Store(store))
            _write_pages(out / "explained", explainer, predictions, read, doubts)
    if answered.rejected:
        rejected = answered.rejected
        raise RecordError(
            f"{len(rejected)} of {count + len(rejected)} recordings could not be used, the first"
            f" because: {rejected[0].reason.rstrip('.')}; the others are answered, and"
            f" {out / 'rejected.csv'} lists all reasons."
        )


def explainer_of(models: Sequence[ECGModel]) -> Explainer:
    """Return the explainer of an ensemble.

    Args:
        models: from :func:`open_models`.

    Raises:
        OptionError: if the networks differ, or their package has no explainer.
    """
    networks = list(dict.fromkeys(model.contract.network for model in models))
    if len(networks) > 1:
        raise OptionError(
            f"--explain works for one kind of network at a time, not for {' and '.join(networks)};"
            " name models of one kind, or leave it out."
        )
    explaining = part(networks[0], "explain")
    if explaining is None:
        raise OptionError(
            f"the package of {networks[0]} cannot explain answers; leave --explain out."
        )
    try:
        explainer: Explainer = explaining.Explainer(models)
    except (ValueError, LookupError, AttributeError, TypeError):
        raise ModelFileError(
            f"{models[0].path} claims to be {networks[0]}, but lacks its layers; leave --explain"
            " out, or name a file written by its package."
        ) from None
    return explainer


def notices_of(predictions: Predictions) -> tuple[str, ...]:
    """Return notices to show before the answers: about generated and previously seen records."""
    return (*generated_notice(predictions.models), *predictions.overlap("answered"))


def _require_one_source(
    records: Path | None, store: Path | None, fold: int | None, of_files: Mapping[str, object]
) -> None:
    if (records is None) == (store is None):
        raise OptionError(
            "give either --records, for files, or --store and --fold, for the records of one fold"
            " of a store."
        )
    if (store is None) != (fold is None):
        raise OptionError("--store and --fold go together; give both, or --records.")
    for name, value in of_files.items():
        if store is not None and value is not None:
            raise OptionError(f"--{name} is for files; leave it out, or --store.")


def _write_pages(
    folder: Path,
    explainer: Explainer,
    predictions: Predictions,
    read: Callable[[str], Record],
    doubts: Mapping[str, Sequence[Doubt]],
) -> None:
    for name, notices in zip(
        tqdm(predictions.ids, desc="explanations", unit="rec", disable=None),
        predictions.overlap_of_each(),
        strict=True,
    ):
        write_page(
            folder / f"{name}.html",
            explainer.explain(read(str(name))),
            warnings=[doubt.text for doubt in doubts.get(name, ())],
            notices=notices,
        )


def _print_doubts(doubts: Mapping[str, Sequence[Doubt]], file: Path) -> None:
    """Print the plausibility warnings to standard error, the first few in full."""
    lines = [f"{name}: {doubt.text}" for name, found in doubts.items() for doubt in found]
    for line in lines[:_DOUBTS_SHOWN]:
        print(f"doubtful: {line}", file=sys.stderr)
    if len(lines) > _DOUBTS_SHOWN:
        more = len(lines) - _DOUBTS_SHOWN
        print(f"doubtful: {more} more, see {file} for all.", file=sys.stderr)
