"""From models and recordings to answers: an ensemble of any networks for the same classes."""

import glob
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from data_prep.errors import ModelFileError, OptionError, RecordError, StoreError
from data_prep.files import write_csv
from data_prep.labels import CPSC_TASK, known_first_labels, read_recordings
from data_prep.plausibility import Doubt, check
from data_prep.records import Record, find_records, read_record
from data_prep.signals import crop_or_pad
from data_prep.store import Store
from ecg_keras.evaluation.predictions import Predictions, averaged, save_predictions
from ecg_keras.explanation.methods import Explanation
from ecg_keras.explanation.pages import write_page
from ecg_keras.model.contract import Contract
from ecg_keras.model.model_files import ECGModel, load_model, prepare_record
from ecg_keras.model.networks import part
from ecg_keras.model.origin import generated_notice, overlap
from ecg_keras.training.batches import StoreBatches


class Explainer(Protocol):
    """What ``explain.py`` of both packages offers."""

    def explain(self, record: Record) -> Explanation:
        """Explain the answer to one recording."""
        ...


_DOUBTS_SHOWN = 10

# So many batches of recordings are read at a time and sorted by length, since some networks take
# as long for a batch as for its longest recording; which ones share a batch changes no answer.
WINDOW = 16


def open_models(pattern: Sequence[str]) -> list[ECGModel]:
    """Open the models of an ensemble.

    Args:
        pattern: files, or patterns such as ``runs/x/fold_*/best.keras``.

    Returns:
        The models, in the order of their names.

    Raises:
        ModelFileError: if there is none, one is unusable, or two were trained for different
            classes.
    """
    paths = [Path(p) for entry in pattern for p in sorted(glob.glob(str(entry))) or [entry]]
    if not paths:
        raise ModelFileError("no model is named; give at least one .keras file after --models.")
    for path in paths:
        if not path.is_file():
            raise ModelFileError(f"{path} does not exist; name .keras files after --models.")
    models = [load_model(path) for path in tqdm(paths, desc="models", unit="file", disable=None)]
    first = models[0]
    for model in models[1:]:
        for what in ("task", "class_names"):
            ours, theirs = (getattr(m.contract, what) for m in (first, model))
            if ours != theirs:
                raise ModelFileError(
                    f"{model.path} cannot join {first.path} in an ensemble: their"
                    f" {what.replace('_', ' ')} differ ({theirs} and {ours}); name models that"
                    " were trained for the same task."
                )
    return models


def choose_records(*, csv_file: Path | None, records: Path) -> dict[str, Path]:
    """Find the recordings to predict.

    Args:
        csv_file: a table with a column ``Recording``; None for all of a folder.
        records: a folder, or one recording.

    Returns:
        The file of each recording by its name, in the table's order.

    Raises:
        RecordError: if a recording is not there.
        LabelError: if the table cannot be used.
        OptionError: if a table comes with one recording only.
    """
    if not records.is_dir():
        if csv_file is not None:
            raise OptionError(
                f"{records} is not a folder; give with --records the folder that holds the"
                f" recordings of {csv_file}."
            )
        return {records.stem: records}
    found = find_records(records)
    if not found:
        raise RecordError(f"{records} holds no recording; give a folder with some.")
    if csv_file is None:
        return found
    wanted = read_recordings(csv_file)
    absent = [name for name in wanted if name not in found]
    if absent:
        raise RecordError(
            f"{csv_file} names {absent[0]}"
            + (f" and {len(absent) - 1} more recordings" if len(absent) > 1 else "")
            + f" not in {records}; give the right folder or correct the table."
        )
    return {name: found[name] for name in wanted}


@dataclass(frozen=True)
class _Refused:
    """A recording that cannot be used, and why."""

    name: str
    path: Path
    reason: str


@dataclass(frozen=True)
class _Usable:
    """A recording as each input form wants it, without the zeros behind it."""

    name: str
    inputs: list[np.ndarray]
    doubts: tuple[Doubt, ...] = ()


def predict_records(
    models: Sequence[ECGModel],
    records: dict[str, Path],
    *,
    batch_size: int = 64,
    workers: int = 2,
    fs: float | None = None,
    unit: str | None = None,
) -> tuple[Predictions, list[_Refused], dict[str, tuple[Doubt, ...]]]:
    """Let an ensemble answer for recordings.

    Args:
        models: from :func:`open_models`; each prepares the recordings as its contract says.
        records: their files by their names.
        batch_size: recordings at a time; sixteen times as many are held in memory.
        workers: threads that read recordings.
        fs: sampling rate, hertz, of files that state none.
        unit: of files that state none; see :func:`data_prep.records.read_record`.

    Returns:
        The mean of the models' probabilities with the mean of their thresholds, the recordings
        that could not be used, and what is doubtful about those that could, by their names.

    Raises:
        RecordError: if not one could be used.
    """
    names: list[str] = []
    answers: list[np.ndarray] = []
    refused: list[_Refused] = []
    doubts: dict[str, tuple[Doubt, ...]] = {}
    contracts = list(dict.fromkeys(m.contract.input_form for m in models))
    read = _read_in_blocks(
        records,
        partial(_read, contracts=[_first(models, form) for form in contracts], fs=fs, unit=unit),
        WINDOW * batch_size,
        workers,
    )
    with tqdm(total=len(records), desc="recordings", unit="rec", disable=None) as bar:
        for block in read:
            refused += [entry for entry in block if isinstance(entry, _Refused)]
            usable = [entry for entry in block if isinstance(entry, _Usable)]
            bar.update(len(block) - len(usable))
            names += [entry.name for entry in usable]
            doubts |= {entry.name: entry.doubts for entry in usable if entry.doubts}
            answers.append(_answer(models, contracts, usable, batch_size, bar))
    if not names:
        raise RecordError(refused[0].reason)
    members = [
        Predictions(
            ids=np.array(names),
            class_names=model.contract.class_names,
            probabilities=probabilities,
            members=probabilities[None],
            thresholds=np.array(model.contract.thresholds),
            single_label=model.contract.single_label,
            network=model.contract.network,
            task=model.contract.task,
            seen=model.seen(names),
            models=(model.facts,),
        )
        for model, probabilities in zip(models, np.concatenate(answers, axis=1), strict=True)
    ]
    return averaged(members), refused, doubts


def _first(models: Sequence[ECGModel], form: tuple[object, ...]) -> Contract:
    return next(m.contract for m in models if m.contract.input_form == form)


def _answer(
    models: Sequence[ECGModel],
    contracts: Sequence[tuple[object, ...]],
    usable: Sequence[_Usable],
    batch_size: int,
    bar: Any,
) -> np.ndarray:
    """Let all models answer: ``(models, recordings, classes)``, in the recordings' order.

    Recordings of similar length share a batch: some networks' time goes with its longest one.
    """
    classes = len(models[0].contract.class_names)
    answers = np.empty((len(models), len(usable), classes), np.float32)
    order = np.argsort([len(entry.inputs[0]) for entry in usable], kind="stable")
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        signals = {}
        for i, form in enumerate(contracts):
            length = _first(models, form).input_length
            inputs = [usable[row].inputs[i] for row in chosen]
            signals[form] = np.stack([crop_or_pad(signal, length) for signal in inputs])
        for number, model in enumerate(models):
            answers[number, chosen] = model.predict(
                signals[model.contract.input_form], batch_size=batch_size
            )
        bar.update(len(chosen))
    return answers


def _read_in_blocks(
    records: dict[str, Path], read: Callable[..., _Usable | _Refused], size: int, workers: int
) -> Iterator[list[_Usable | _Refused]]:
    """Read and prepare recordings, a block at a time."""
    items = list(records.items())
    with Parallel(n_jobs=workers, prefer="threads") as parallel:
        for start in range(0, len(items), size):
            yield parallel(delayed(read)(name, path) for name, path in items[start : start + size])


def _read(
    name: str, path: Path, contracts: Sequence[Contract], fs: float | None, unit: str | None
) -> _Usable | _Refused:
    try:
        record = read_record(path, fs=fs, unit=unit)
        prepared = [prepare_record(record, contract) for contract in contracts]
    except RecordError as error:
        return _Refused(name, path, str(error))
    return _Usable(name, [_without_padding(signal) for signal in prepared], check(record))


def _without_padding(signal: np.ndarray) -> np.ndarray:
    """Cut the zeros behind a recording off: most of a CPSC recording of 60 s is those."""
    recorded = np.flatnonzero(signal.any(axis=1))
    return signal[: recorded[-1] + 1].copy() if len(recorded) else signal[:1]


def predict_store(
    model: ECGModel, store: Store, records: np.ndarray, *, batch_size: int
) -> dict[str, Predictions]:
    """Let every head of a model answer for records of a store.

    Args:
        model: opened, with its contract.
        store: an open store with labels of the contract's task.
        records: indices of the records.
        batch_size: records at a time.

    Returns:
        For each head of the network, ``"diagnosis"`` first, its answers in the order of
        ``records``, with the model's thresholds and the store's labels and patients.

    Raises:
        StoreError: if the store's rate or classes are not the model's, or labels are missing.
    """
    contract = model.contract
    if store.class_names(contract.task) != contract.class_names:
        raise StoreError(
            f"{store.path} knows other classes of {contract.task} than {model.path}; use the store"
            " that it was trained on, or one built likewise."
        )
    order = np.argsort(store.lengths[records], kind="stable")
    heads = tuple(model.network.output)
    batches = StoreBatches(
        store, records[order], contract=contract, heads=heads, batch_size=batch_size
    )
    answers = model.network.predict(batches, verbose=0)
    back = np.argsort(order)
    labels = store.labels(contract.task)[records]
    diagnosis = Predictions(
        ids=store.ids[records],
        class_names=contract.class_names,
        probabilities=answers["diagnosis"][back],
        members=answers["diagnosis"][back][None],
        thresholds=np.array(contract.thresholds),
        single_label=contract.single_label,
        network=contract.network,
        task=contract.task,
        labels=labels,
        first_labels=known_first_labels(labels, store.first_labels(contract.task)[records]),
        patients=store.patients[records],
        seen=model.seen(store.ids[records], store.dataset),
        dataset=store.dataset,
        models=(model.facts,),
    )
    return {
        head: replace(
            diagnosis, probabilities=answers[head][back], members=answers[head][back][None]
        )
        for head in heads
    }


def fold_of_store(store: Store, *, contract: Contract, fold: int) -> np.ndarray:
    """Find the records of one fold, by their indices.

    Args:
        store: an open store.
        contract: of the network.  Records without a label of its task are left out; if it gives
            one answer a record, also those of several labels in no known order.
        fold: its number.

    Raises:
        StoreError: if the store lacks the task, or has no such record.
    """
    task = contract.task
    usable = store.records_of(task, single_label=contract.single_label)
    folds = store.folds[usable]
    if not (folds == fold).any():
        present = ", ".join(str(number) for number in np.unique(folds))
        raise StoreError(
            f"{store.path} has no record with a label of {task} in fold {fold}; give with --fold"
            f" one of {present}."
        )
    return usable[folds == fold]


def record_of_store(store: Store, index: int) -> Record:
    """Read a record of a store as if from a file.

    Args:
        store: an open store.
        index: of the record.
    """
    return Record(
        id=str(store.ids[index]),
        signal=store.signal(index),
        fs=store.fs,
        age=float(store.ages[index]),
        sex=str(store.sexes[index]),
        codes=(),
        path=store.path,
    )


def write_answers(
    out: Path,
    predictions: Predictions,
    refused: Sequence[_Refused],
    doubts: Mapping[str, Sequence[Doubt]],
) -> None:
    """Write what a prediction found.

    ``predictions.npz`` holds everything; ``probabilities.csv`` has a column a class;
    ``answers.csv`` (``Recording,Result``) names the classes found, the most probable first, with
    spaces between them.  For CPSC 2018, whose challenge wants one number from 1 to 9, and for
    networks of one answer it has the number of the first of them.  ``rejected.csv`` lists the
    recordings that could not be used, and ``warnings.csv`` what is doubtful about the others, a
    line each.

    Args:
        out: a folder; it is created, and files of these names in it are replaced.
        predictions: from :func:`predict_records`.
        refused: from it, too.
        doubts: likewise.
    """
    save_predictions(out / "predictions.npz", predictions)
    rows = zip(predictions.ids, predictions.probabilities, strict=True)
    _write_csv(
        out / "probabilities.csv",
        ["Recording", *predictions.class_names],
        [[name, *(f"{p:.6f}" for p in row)] for name, row in rows],
    )
    between = ";" if any(" " in name for name in predictions.class_names) else " "
    results = [between.join(names) for names in predictions.names_found]
    if predictions.task == CPSC_TASK:
        number = {name: str(c) for c, name in enumerate(predictions.class_names, start=1)}
        results = [number[names[0]] for names in predictions.names_found]
    _write_csv(
        out / "answers.csv",
        ["Recording", "Result"],
        [list(row) for row in zip(predictions.ids, results, strict=True)],
    )
    _write_csv(
        out / "rejected.csv",
        ["record", "file", "reason"],
        [[entry.name, str(entry.path), entry.reason] for entry in refused],
    )
    _write_csv(
        out / "warnings.csv",
        ["Recording", "kind", "warning"],
        [[name, doubt.kind, doubt.text] for name, found in doubts.items() for doubt in found],
    )


def _write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    write_csv(path, header, rows)


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
) -> None:
    """Do what ``ecg-predict`` does.

    Args:
        models: files or patterns.
        out: a folder for the answers.
        batch_size: recordings at a time.
        records: a folder, or one recording.
        csv_file: a table with a column ``Recording`` that chooses among them, or None.
        store: a store, instead of files.
        fold: of the store, whose records with a label of the models' task are answered.
        fs: sampling rate, hertz, of recordings that state none.
        unit: of recordings that state none.
        explain: whether to write ``explained/NAME.html`` for each recording.

    Raises:
        ECGError: if nothing could be predicted; also, after all else was predicted and
            written, where some recordings could not be used.
    """
    if batch_size < 1:
        raise OptionError(f"--batch-size must be above 0, not {batch_size}.")
    _require_one_source(records, store, fold, {"csv": csv_file, "fs": fs, "unit": unit})
    with ExitStack() as stack:
        read: Callable[[str], Record]
        refused: list[_Refused] = []
        if store is not None:
            assert fold is not None
            opened = stack.enter_context(Store(store))
            ensemble = open_models(models)
            explainer = explainer_of(ensemble) if explain else None
            rows = fold_of_store(opened, contract=ensemble[0].contract, fold=fold)
            index = {str(opened.ids[row]): int(row) for row in rows}
            predictions = averaged(
                [
                    predict_store(model, opened, rows, batch_size=batch_size)["diagnosis"]
                    for model in ensemble
                ]
            )

            def read(name: str) -> Record:
                return record_of_store(opened, index[name])

            found = {name: check(read(name)) for name in index}
            doubts = {name: doubt for name, doubt in found.items() if doubt}
        else:
            assert records is not None
            chosen = choose_records(csv_file=csv_file, records=records)
            ensemble = open_models(models)
            explainer = explainer_of(ensemble) if explain else None
            predictions, refused, doubts = predict_records(
                ensemble, chosen, batch_size=batch_size, fs=fs, unit=unit
            )

            def read(name: str) -> Record:
                return read_record(chosen[name], fs=fs, unit=unit)

        write_answers(out, predictions, refused, doubts)
        if explainer is not None:
            _write_pages(out / "explained", explainer, predictions, read, doubts)
    answered = len(predictions.ids)
    print(
        f"{out}: {answered} recording{'s' if answered > 1 else ''} answered by {len(ensemble)}"
        f" model{'s' if len(ensemble) > 1 else ''} of {predictions.network}."
    )
    for notice in notices_of(predictions):
        print(f"warning: {notice}", file=sys.stderr)
    _print_doubts(doubts, out / "warnings.csv")
    if refused:
        raise RecordError(
            f"{len(refused)} of {answered + len(refused)} recordings could not be used, the first"
            f" because: {refused[0].reason.rstrip('.')}; the others are answered, and"
            f" {out / 'rejected.csv'} lists all reasons."
        )


def explainer_of(models: Sequence[ECGModel]) -> Explainer:
    """Make what explains the answers of an ensemble.

    Args:
        models: from :func:`open_models`.

    Raises:
        OptionError: if the networks differ, or their package explains no answers.
    """
    networks = list(dict.fromkeys(model.contract.network for model in models))
    if len(networks) > 1:
        raise OptionError(
            f"--explain shows what networks of one kind looked at, not {' and '.join(networks)};"
            " name models of one of them, or leave it out."
        )
    explaining = part(networks[0], "explain")
    if explaining is None:
        raise OptionError(f"the package of {networks[0]} explains no answers; leave --explain out.")
    explainer: Explainer = explaining.Explainer(models)
    return explainer


def notices_of(predictions: Predictions) -> tuple[str, ...]:
    """Say what must be known before the answers: generated and already seen records."""
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
    assert predictions.seen is not None
    for name, seen in zip(
        tqdm(predictions.ids, desc="explanations", unit="rec", disable=None),
        predictions.seen,
        strict=True,
    ):
        write_page(
            folder / f"{name}.html",
            explainer.explain(read(str(name))),
            warnings=[doubt.text for doubt in doubts.get(name, ())],
            notices=overlap(
                seen[None],
                dataset=predictions.dataset,
                members=len(predictions.members),
                verb="answered",
            ),
        )


def _print_doubts(doubts: Mapping[str, Sequence[Doubt]], file: Path) -> None:
    """Say on standard error what is doubtful, at length for a few recordings."""
    lines = [f"{name}: {doubt.text}" for name, found in doubts.items() for doubt in found]
    for line in lines[:_DOUBTS_SHOWN]:
        print(f"doubtful: {line}", file=sys.stderr)
    if len(lines) > _DOUBTS_SHOWN:
        more = len(lines) - _DOUBTS_SHOWN
        print(f"doubtful: {more} more, see {file} for all.", file=sys.stderr)
