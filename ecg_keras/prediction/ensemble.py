"""Predicts with an ensemble of any networks for the same classes."""

import glob
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from data_prep.errors import ModelFileError, OptionError, RecordError, StoreError
from data_prep.labels import known_first_labels, read_recordings
from data_prep.names import shown
from data_prep.plausibility import Doubt, check
from data_prep.records import Record, scan_folder
from data_prep.signals import crop_or_pad
from data_prep.store import Store
from ecg_keras.evaluation.answers import Answer, Answers, Rejected, seconds_cut
from ecg_keras.evaluation.predictions import (
    Predictions,
    are_probabilities,
    averaged,
)
from ecg_keras.model.contract import Contract
from ecg_keras.model.model_files import ECGModel, load_model, prepare_record
from ecg_keras.model.recordings import as_record
from ecg_keras.training.batches import StoreBatches

# This many batches of recordings are read at a time and sorted by length, because for some networks
# the longest recording of a batch determines its time.  The batching does not change the answers.
WINDOW = 16


def open_models(pattern: str | Path | Sequence[str | Path]) -> "Ensemble":
    """Open the models of an ensemble.

    Args:
        pattern: files, patterns such as ``runs/x/fold_*/best.keras``, or names of pretrained
            models; one or several.

    Returns:
        The models; those of a pattern in the order of their names.

    Raises:
        ModelFileError: if there is no model, one is unusable, or two were trained for different
            classes.
    """
    paths = files_of([pattern] if isinstance(pattern, str | Path) else pattern)
    if not paths:
        raise ModelFileError("no model is named; give at least one .keras file after --models.")
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
    return Ensemble(models)


class Ensemble(tuple[ECGModel, ...]):
    """Models that predict together: their probabilities and thresholds are averaged."""

    def predict_record(
        self, recording: Any, *, fs: float | None = None, unit: str | None = None
    ) -> Answer:
        """Predict from one recording; see :meth:`ECGModel.predict_record`."""
        answered = answer_records(
            self, [(None, recording)], fs=fs, unit=unit, workers=1, quiet=True
        )
        return answered.answers[0]

    def predict_records(
        self,
        recordings: Any,
        *,
        column: str | None = None,
        fs: float | None = None,
        unit: str | None = None,
        batch_size: int = 64,
    ) -> Answers:
        """Predict from several recordings.

        Args:
            recordings: a folder, searched with its subfolders; a list of recordings as for
                :meth:`predict_record`; or a pandas DataFrame with a column of paths.
            column: name of that column; by default the only column of paths.
            fs: sampling rate in hertz, of recordings that do not state it.
            unit: unit of recordings that do not state it.
            batch_size: recordings per batch.

        Returns:
            The answers in order; recordings that could not be used are in ``rejected``.

        Raises:
            RecordError: if no recording could be used.
            OptionError: if the DataFrame has no such column.
        """
        items = _named(recordings, column)
        return answer_records(
            self, items, batch_size=batch_size, fs=fs, unit=unit, fallback=True
        ).answers


def _named(recordings: Any, column: str | None) -> list[tuple[str, Any]]:
    """Give each recording a unique name: the file name, the full path, or a number."""
    if isinstance(recordings, str | Path):
        return list(choose_records(csv_file=None, records=Path(recordings)).items())
    if hasattr(recordings, "columns"):
        recordings = _paths_of(recordings, column)
    if (isinstance(recordings, np.ndarray) and recordings.ndim < 3) or _name_of(recordings):
        raise OptionError(
            "predict_records takes several recordings; give a single one to predict_record."
        )
    recordings = list(recordings)
    if not recordings:
        raise RecordError("there is no recording to predict from; give at least one.")
    names = [_name_of(each) or str(number) for number, each in enumerate(recordings, start=1)]
    times = Counter(names)
    names = [
        str(each) if times[name] > 1 and _is_path(each) else name
        for name, each in zip(names, recordings, strict=True)
    ]
    times = Counter(names)
    return [
        (name if times[name] == 1 else f"{name} ({number})", each)
        for number, (name, each) in enumerate(zip(names, recordings, strict=True), start=1)
    ]


def _is_path(recording: Any) -> bool:
    return isinstance(recording, str | Path)


def _name_of(recording: Any) -> str:
    if _is_path(recording):
        return shown(Path(recording).stem)
    return shown(str(getattr(recording, "id", "") or getattr(recording, "record_name", "") or ""))


def _paths_of(frame: Any, column: str | None) -> list[str | Path]:
    column = None if column is None else str(column)
    texts = {
        str(name): name
        for name in frame.columns
        if len(frame) and all(_is_path(value) for value in frame[name])
    }
    if column is None and len(texts) == 1:
        (column,) = texts
    if column is not None and column not in texts:
        raise OptionError(
            f"the DataFrame has no column {column!r} of paths; those of paths are:"
            f" {', '.join(texts) or 'none'}."
        )
    if column is None:
        raise OptionError(
            f"the DataFrame has {'several' if texts else 'no'} columns of paths"
            f" ({', '.join(texts) or 'none has a text in every row'}); name one with column=…."
        )
    return list(frame[texts[column]])


def choose_records(*, csv_file: Path | None, records: Path) -> dict[str, Path | Rejected]:
    """Find the recordings to predict.

    Args:
        csv_file: a table with a column ``Recording``; None for the whole folder.
        records: a folder, or one recording.

    Returns:
        The file of each recording by name, in the table's order, or the reason why it cannot be
        used; for a whole folder, this includes files that only look like recordings.

    Raises:
        RecordError: if there is no recording.
        LabelError: if the table cannot be used.
        OptionError: if a table is given, but ``records`` is not a folder.
    """
    if not records.is_dir():
        if csv_file is not None:
            raise OptionError(
                f"{records} is not a folder; give with --records the folder that holds the"
                f" recordings of {csv_file}."
            )
        return {records.stem: records}
    scan = scan_folder(records)
    found, refused = scan.by_name(records), scan.refused
    scan.require_some(records)
    if csv_file is None:
        others = {str(path): Rejected(path.name, str(path), why) for path, why in refused}
        return {**others, **found}
    wanted = read_recordings(csv_file)
    absent = [name for name in wanted if name not in found]
    if len(absent) == len(wanted):
        raise RecordError(
            f"{csv_file} names {absent[0]}"
            + (f" and {len(absent) - 1} more recordings" if len(absent) > 1 else "")
            + f" not in {records}; give the right folder or correct the table."
        )
    reasons = {path.stem: why for path, why in refused}
    return {
        name: found.get(name)
        or Rejected(name, "", reasons.get(name, f"{name} is not in {records}; correct the table."))
        for name in wanted
    }


@dataclass(frozen=True)
class _Usable:
    """A recording prepared for each form of input, without the zero padding."""

    name: str
    inputs: list[np.ndarray]
    doubts: tuple[Doubt, ...] = ()
    seconds: float = float("nan")


@dataclass(frozen=True)
class Answered:
    """The results of an ensemble for several recordings.

    Attributes:
        predictions: predictions of each model and their mean.
        rejected: recordings that could not be used.
        doubts: plausibility warnings about the others, by name.
        seconds: duration of each recording that was used, by name.
        used: duration that the models use of a recording at most, in seconds.
    """

    predictions: Predictions
    rejected: list[Rejected]
    doubts: dict[str, tuple[Doubt, ...]]
    seconds: dict[str, float]
    used: float

    @cached_property
    def answers(self) -> Answers:
        """One answer per recording, and the recordings that could not be used."""
        predictions, answers = self.predictions, []
        classes = predictions.class_names
        thresholds = dict(zip(classes, predictions.thresholds.tolist(), strict=True))
        for name, row, labels, true_labels in zip(
            predictions.ids.tolist(),
            predictions.probabilities.tolist(),
            predictions.names_found,
            predictions.names_of_labels,
            strict=True,
        ):
            doubts, total = self.doubts.get(name, ()), self.seconds[name]
            texts = [doubt.text for doubt in doubts]
            notes: list[str] = [doubt.kind for doubt in doubts]
            if seconds_cut(self.used, total):
                part = f"first {self.used:g} s of {total:.4g} s"
                texts.append(f"only the {part} were used.")
                notes.append(part)
            answers.append(
                Answer(
                    record=name,
                    probabilities=dict(zip(classes, row, strict=True)),
                    labels=labels,
                    warnings=tuple(texts),
                    thresholds=thresholds,
                    seconds_used=min(total, self.used),
                    notes=tuple(notes),
                    single_label=predictions.single_label,
                    true_labels=true_labels,
                )
            )
        return Answers(tuple(answers), tuple(self.rejected))


class NoneUsableError(RecordError):
    """No recording could be used; the message is the reason of the first.

    Attributes:
        rejected: all of them, each with its reason.
    """

    def __init__(self, rejected: Sequence[Rejected]) -> None:
        super().__init__(rejected[0].reason)
        self.rejected = rejected


def _input_seconds(models: Sequence[ECGModel]) -> float:
    """Return the longest input of the models, in seconds."""
    return max(model.contract.input_length / model.contract.sampling_rate for model in models)


def answer_records(
    models: Sequence[ECGModel],
    items: Sequence[tuple[str | None, Any]],
    *,
    batch_size: int = 64,
    workers: int = 2,
    fs: float | None = None,
    unit: str | None = None,
    fallback: bool = False,
    quiet: bool = False,
) -> Answered:
    """Predict from several recordings with an ensemble.

    Args:
        models: from :func:`open_models`; recordings are prepared by the contract of each.
        items: name and recording of each: what :meth:`Ensemble.predict_record` takes, or the
            reason why one cannot be used; without a name it gets its own.
        batch_size: recordings per batch; sixteen times as many are held in memory.
        workers: number of threads that read recordings.
        fs: sampling rate in hertz, of recordings that do not state it.
        unit: unit of recordings that do not state it; see
            :func:`data_prep.records.read_record`.
        fallback: the same.
        quiet: show no progress.

    Returns:
        The mean probabilities and thresholds of the models, and all else that was found.

    Raises:
        NoneUsableError: if no recording could be used.
    """
    usable: list[_Usable] = []
    answers: list[np.ndarray] = []
    rejected: list[Rejected] = []
    contracts = list(dict.fromkeys(m.contract.input_form for m in models))
    read = _read_in_blocks(
        items,
        partial(
            _read,
            contracts=[_first(models, form) for form in contracts],
            seconds=_input_seconds(models),
            fs=fs,
            unit=unit,
            fallback=fallback,
        ),
        WINDOW * batch_size,
        workers,
    )
    hide = True if quiet else None
    with tqdm(total=len(items), desc="recordings", unit="rec", disable=hide) as bar:
        for block in read:
            rejected += [entry for entry in block if isinstance(entry, Rejected)]
            prepared = [entry for entry in block if isinstance(entry, _Usable)]
            bar.update(len(block) - len(prepared))
            of_block = _answer(models, contracts, prepared, batch_size, bar)
            valid = are_probabilities(of_block)
            usable_by_all: np.ndarray = np.asarray(valid.all(axis=0))
            for entry, of_models in zip(prepared, valid.T, strict=True):
                if not of_models.all():
                    rejected.append(_no_answer(models[int(of_models.argmin())], entry.name))
            answers.append(of_block[:, usable_by_all])
            usable += [
                replace(entry, inputs=[])
                for entry, known in zip(prepared, usable_by_all, strict=True)
                if known
            ]
    if not usable:
        raise NoneUsableError(rejected)
    names = [entry.name for entry in usable]
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
    return Answered(
        averaged(members),
        rejected,
        {entry.name: entry.doubts for entry in usable if entry.doubts},
        {entry.name: entry.seconds for entry in usable},
        _input_seconds(models),
    )


def _no_answer(model: ECGModel, name: str) -> Rejected:
    return Rejected(
        name,
        "",
        f"{model.path} answers {name} with NaN, or numbers not between 0 and 1; copy the model"
        " again or train it again.",
    )


def _first(models: Sequence[ECGModel], form: tuple[object, ...]) -> Contract:
    return next(m.contract for m in models if m.contract.input_form == form)


def _answer(
    models: Sequence[ECGModel],
    contracts: Sequence[tuple[object, ...]],
    usable: Sequence[_Usable],
    batch_size: int,
    bar: Any,
) -> np.ndarray:
    """Run all models; return probabilities ``(models, recordings, classes)``.

    Recordings of similar length share a batch, see :data:`WINDOW`.
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
            signal = signals[model.contract.input_form]
            answers[number, chosen] = model.run(signal, batch_size=batch_size)["diagnosis"]
        bar.update(len(chosen))
    return answers


def _read_in_blocks(
    items: Sequence[tuple[str | None, Any]],
    read: Callable[..., _Usable | Rejected],
    size: int,
    workers: int,
) -> Iterator[list[_Usable | Rejected]]:
    """Read and prepare recordings, a block at a time."""
    with Parallel(n_jobs=workers, prefer="threads") as parallel:
        for start in range(0, len(items), size):
            yield parallel(delayed(read)(name, each) for name, each in items[start : start + size])


def _read(
    name: str | None,
    recording: Any,
    contracts: Sequence[Contract],
    seconds: float,
    fs: float | None,
    unit: str | None,
    fallback: bool,
) -> _Usable | Rejected:
    if isinstance(recording, Rejected):
        return recording
    file = str(recording) if _is_path(recording) else ""
    try:
        record = as_record(recording, fs=fs, unit=unit, fallback=fallback)
        prepared = [prepare_record(record, contract) for contract in contracts]
    except RecordError as error:
        return Rejected(name or _name_of(recording), file, str(error))
    return _Usable(
        name or record.id,
        [_without_padding(signal) for signal in prepared],
        check(record, seconds=seconds),
        len(record.signal) / record.fs,
    )


def _without_padding(signal: np.ndarray) -> np.ndarray:
    """Cut off the zero padding to save memory: it is most of a CPSC recording's 60 s input."""
    recorded = np.flatnonzero(signal.any(axis=1))
    return signal[: recorded[-1] + 1].copy() if len(recorded) else signal[:1]


def predict_store(
    model: ECGModel, store: Store, records: np.ndarray, *, batch_size: int
) -> dict[str, Predictions]:
    """Predict from records of a store with every head of a model.

    Args:
        model: the model.
        store: an open store with labels of the contract's task.
        records: indices of the records.
        batch_size: records per batch.

    Returns:
        For each head of the network, ``"diagnosis"`` first, its predictions in the order of
        ``records``, with the model's thresholds and the store's labels and patients.

    Raises:
        StoreError: if the store's rate or classes are not the model's, or labels are missing.
        ModelFileError: if a probability is NaN, naming the record.
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
    parts = [model.run(batches[i][0], batch_size=batch_size) for i in range(len(batches))]
    back = np.argsort(order)
    answers = {head: np.concatenate([part[head] for part in parts])[back] for head in heads}
    for head in heads:
        invalid = np.flatnonzero(~are_probabilities(answers[head]))
        if len(invalid):
            raise ModelFileError(_no_answer(model, store.ids[records[invalid[0]]]).reason)
    labels = store.labels(contract.task)[records]
    diagnosis = Predictions(
        ids=store.ids[records],
        class_names=contract.class_names,
        probabilities=answers["diagnosis"],
        members=answers["diagnosis"][None],
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
        head: replace(diagnosis, probabilities=answers[head], members=answers[head][None])
        for head in heads
    }


def fold_of_store(store: Store, *, contract: Contract, fold: int) -> np.ndarray:
    """Return the indices of the records of one fold.

    Args:
        store: an open store.
        contract: contract of the network.  Records without a label of its task are left out; for a
            single-label network, also records that have several labels in unknown order.
        fold: number of the fold.

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
        index: index of the record.
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


def answer_fold(
    models: Sequence[ECGModel],
    store: Store,
    rows: np.ndarray,
    read: Callable[[str], Record],
    batch_size: int,
) -> Answered:
    """Predict from records of a store with an ensemble.

    Args:
        models: from :func:`open_models`.
        store: the store.
        rows: indices of the records, as from :func:`fold_of_store`.
        read: returns the recording of a name, to be checked for plausibility.
        batch_size: recordings per batch.
    """
    predictions = averaged(
        [predict_store(model, store, rows, batch_size=batch_size)["diagnosis"] for model in models]
    )
    names = predictions.ids.tolist()
    used = _input_seconds(models)
    found = {name: check(read(name), seconds=used) for name in names}
    seconds = (store.lengths[rows] / store.fs).tolist()
    return Answered(
        predictions,
        [],
        {name: doubts for name, doubts in found.items() if doubts},
        dict(zip(names, seconds, strict=True)),
        used,
    )


def files_of(pattern: Sequence[str | Path]) -> list[Path]:
    """Return the files that patterns match, sorted; what matches none is a path itself."""
    return [Path(p) for entry in pattern for p in sorted(glob.glob(str(entry))) or [str(entry)]]
