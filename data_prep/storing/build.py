"""Command: from folders of records as downloaded to one store."""

import hashlib
import math
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, Literal

from data_prep import __version__
from data_prep.commands import run_command
from data_prep.errors import ECGError, LabelError, OptionError, RecordError, StoreError
from data_prep.labels import CPSC_TASK

if TYPE_CHECKING:
    import numpy as np

    from data_prep.store import StoreWriter
    from data_prep.storing.journal import Journal

_CHUNK = 32  # records that are handed to a process at a time
_RATES = {"cpsc2018": 250.0, "ptb-xl": 100.0}


def main(
    *,
    source: tuple[Path, ...] = (),
    out: Path | None = None,
    dataset: Literal["auto", "cpsc2018", "ptb-xl"] = "auto",
    rate: float | None = None,
    fs: float | None = None,
    unit: Literal["mV", "uV", "V", "nV"] | None = None,
    reference: Path | None = None,
    leave_out: Path | None = None,
    folds: Literal["stratified", "random"] = "stratified",
    seed: int = 0,
    workers: int | None = None,
    scheduler: str | None = None,
    strict: bool = False,
    check: Path | None = None,
) -> None:
    """Build a store of labelled records from folders as downloaded.

    Records that cannot be used are left out and listed with their reasons beside the store, for
    cpsc.h5 in cpsc.rejected.csv; so are files and folders that only look like records.  Nothing is
    left under the store's name unless all went well.  A build that was killed is resumed when the
    same command is run again: what it had read is kept in a file named after the store that ends in
    .journal.

    Args:
        source: folders of records: of CPSC 2018 (WFDB or the original .mat files, with
            REFERENCE.csv; without that file the headers' diagnoses count), of PTB-XL as
            published, or of any other format that ecg-predict reads, with a REFERENCE.csv.
        out: the store to write, such as cpsc.h5.
        dataset: what the folders hold; auto is ptb-xl where there is a ptbxl_database.csv and
            cpsc2018 elsewhere.
        rate: sampling rate of the store in Hz; by default 250 for cpsc2018 and 100 for ptb-xl.
        fs: sampling rate in Hz of recordings that state none, such as arrays.
        unit: of recordings that state none, such as tables; by default they are taken for mV if
            their values can be.
        reference: a CSV with the columns Recording, First_label, Second_label, Third_label, for
            cpsc2018; by default the REFERENCE.csv files in the source folders.
        leave_out: a CSV with a column Recording, such as a test set: these stay out of the store;
            by default none do.
        folds: how the records of cpsc2018 are dealt into ten folds: stratified by all their
            labels, or random as in MLBF-Net's paper; ptb-xl has its published folds.
        seed: of the dealing into folds.
        workers: processes that read records; by default one a core.
        scheduler: address of a Dask scheduler, such as tcp://host:8786, whose workers read the
            recordings instead, from the same paths as here (a shared disk).
        strict: stop at the first record that cannot be used instead of leaving it out.
        check: instead of building, say which layout this folder has and what is missing or extra
            in it.

    Raises:
        ECGError: if the options, the tables or, with strict, a record cannot be used, or no
            record can.
        OSError: with ``errno.ENOSPC`` if the disk is full.
    """
    from data_prep.files import write_csv
    from data_prep.labels import CPSC_CLASSES
    from data_prep.splits import random_folds, stratified_folds
    from data_prep.store import StoreWriter
    from data_prep.synthetic import is_generated

    if check is not None:
        _print_check(check)
        return
    if out is None:
        raise OptionError("no store is named; give --out, such as --out cpsc.h5.")
    kind = _dataset(source, dataset)
    form = _Form(_RATES[kind] if rate is None else rate, fs, unit)
    if not 10 <= form.rate <= 10_000:
        raise OptionError(
            f"a rate of {form.rate:g} Hz makes no sense for an ECG; give 10 to 10000."
        )
    if workers is not None and workers < 1:
        raise OptionError(f"{workers} workers cannot work; give at least 1.")
    if workers is not None and scheduler is not None:
        raise OptionError("--workers applies to this machine only; drop it or --scheduler.")
    if kind == "ptb-xl":
        if reference is not None:
            raise OptionError("PTB-XL has its labels in its own tables; drop --reference.")
        if folds != "stratified":
            raise OptionError("PTB-XL has its published folds; drop --folds.")
        entries, class_names, others = _ptbxl_entries(source, form.rate)
    else:
        entries, others = _cpsc_entries(source, reference)
        class_names = {CPSC_TASK: CPSC_CLASSES}
    entries = _without(entries, leave_out)
    provenance: dict[str, Any] = {
        "package": f"ecg-keras {__version__}",
        "source": [folder.resolve().name for folder in source],
        "options": {
            "rate": form.rate,
            "fs": fs,
            "unit": unit,
            "reference": reference.name if reference else None,
            "leave_out": leave_out.name if leave_out else None,
            "folds": "published" if kind == "ptb-xl" else folds,
            "seed": seed,
        },
    }
    generated = kind == "cpsc2018" and sum(is_generated(entry.path) for entry in entries)
    if generated:
        provenance["generated"] = "all" if generated == len(entries) else "some"
        print(f"{generated} of {len(entries)} records are generated by ecg-synthetic.")
    listed, columns = out.with_suffix(".rejected.csv"), ("record", "file", "reason")
    rejected = [(path.name, path, reason) for path, reason in others]
    with _journal(out, entries, form) as journal:
        if not out.exists():  # what an earlier build without a store left
            listed.unlink(missing_ok=True)
        with StoreWriter(
            out, dataset=kind, fs=form.rate, class_names=class_names, provenance=provenance
        ) as writer:
            for entry, refusal in _fill(writer, entries, form, workers, scheduler, journal):
                if strict:
                    raise refusal
                rejected.append((entry.id, entry.path, str(refusal)))
            if not len(writer):
                write_csv(listed, columns, rejected)
                raise StoreError(
                    f"none of the {len(entries)} records is usable, so that {out} was not made; see"
                    f" the reasons in {listed}."
                )
            if kind == "cpsc2018":
                labels = writer.labels(CPSC_TASK)
                writer.set_folds(
                    random_folds(len(labels), seed=seed)
                    if folds == "random"
                    else stratified_folds(labels, seed=seed)
                )
            num_records = len(writer)
        write_csv(listed, columns, rejected)
    print(f"{out}: {num_records} records at {form.rate:g} Hz.")
    if num_records < len(entries):
        print(
            f"{len(entries) - num_records} of {len(entries)} records could not be used; their"
            f" reasons are in {listed}."
        )
    if others:
        print(f"{len(others)} other files, folders or lines are no records; {listed} says why.")


def _print_check(folder: Path) -> None:
    from data_prep.storing.folders import inspect_folder

    report = inspect_folder(folder)
    print("\n".join(report.lines(folder)))
    if report.missing:
        raise RecordError(
            f"{folder} lacks {len(report.missing)} of its files, the first {report.missing[0]};"
            " fetch them (ecg-download resumes where it stopped), or build without them."
        )


@dataclass(frozen=True)
class _Entry:
    """A record that is to go into the store.

    ``labels`` is None if only the record's header knows them.
    """

    id: str
    path: Path
    labels: Mapping[str, tuple[int, ...]] | None
    fold: int = 0
    patient: str = ""
    age: float = math.nan
    sex: str = ""


@dataclass(frozen=True)
class _Form:
    """How recordings are read: the store's rate, and the rate and unit of files that state none."""

    rate: float
    fs: float | None = None
    unit: str | None = None


@dataclass(frozen=True)
class _Loaded:
    """What a worker returns: a signal at the store's rate, or why there is none."""

    refusal: str = ""
    signal: "np.ndarray | None" = None
    age: float = math.nan
    sex: str = ""
    codes: tuple[str, ...] = field(default=())


def _dataset(source: tuple[Path, ...], dataset: str) -> Literal["cpsc2018", "ptb-xl"]:
    for folder in source:
        if not folder.is_dir():
            raise OptionError(f"{folder} is not a folder; give the folders of the records.")
    if not source:
        raise OptionError("no source is given; give the folders of the records.")
    if dataset == "cpsc2018":
        return "cpsc2018"
    has_tables = [(folder / "ptbxl_database.csv").is_file() for folder in source]
    if dataset == "ptb-xl" or all(has_tables):
        return "ptb-xl"
    if any(has_tables):
        raise OptionError(
            f"{source[has_tables.index(True)]} is PTB-XL and"
            f" {source[has_tables.index(False)]} is not; build one store for each."
        )
    return "cpsc2018"


def _cpsc_entries(
    source: tuple[Path, ...], reference: Path | None
) -> tuple[list[_Entry], list[tuple[Path, str]]]:
    """All recordings of the folders, sorted by name, then by folder; and what is none, and why."""
    from data_prep.labels import read_reference
    from data_prep.records import scan_folder

    entries, others = [], []
    for folder in source:
        files = [reference] if reference else sorted(folder.rglob("REFERENCE.csv"))
        labels: dict[str, tuple[int, ...]] = {}
        for file in files:
            for name, of in read_reference(file).items():
                if labels.setdefault(name, of) != of:
                    raise LabelError(
                        f"{file} gives {name} other labels than another REFERENCE.csv in {folder}"
                        " does; keep the right file."
                    )
        if not files:
            print(
                f"{folder} has no REFERENCE.csv: labels are taken from the headers, and the first"
                " label of a record with several is unknown.",
                file=sys.stderr,
            )
        found = scan_folder(folder)
        entries += [
            _Entry(name, path, {CPSC_TASK: labels.get(name, ())} if files else None)
            for name, path in found.records
        ]
        others += found.refused
    if not entries:
        raise RecordError(f"no recordings in {', '.join(map(str, source))}; give their folders.")
    return sorted(entries, key=lambda entry: entry.id), others


def _ptbxl_entries(
    source: tuple[Path, ...], fs: float
) -> tuple[list[_Entry], dict[str, tuple[str, ...]], list[tuple[Path, str]]]:
    """All records of the tables, sorted by name, then by folder.

    Also the classes of each task, and lines that cannot be understood.
    """
    from data_prep.labels import read_ptbxl_tables

    entries, others = [], []
    class_names: dict[str, tuple[str, ...]] = {}
    for folder in source:
        tables = read_ptbxl_tables(folder)
        if class_names and class_names != tables.class_names:
            raise LabelError(
                f"{folder / 'scp_statements.csv'} differs from that of {source[0]}; use folders"
                " of one release."
            )
        class_names = tables.class_names
        others += [(folder / name, reason) for name, reason in tables.refused]
        at_100_hz = fs == 100 and (folder / "records100").is_dir()
        if not at_100_hz and not (folder / "records500").is_dir():
            raise RecordError(
                f"{folder} has no records500, of which a store at {fs:g} Hz is made; download it"
                " or build at 100 Hz with records100."
            )
        for record in tables.records:
            path = Path(record.filename_lr if at_100_hz else record.filename_hr)
            if path.is_absolute() or ".." in path.parts or not path.name:
                raise LabelError(
                    f"{folder / 'ptbxl_database.csv'} names the file {str(path)!r}, which is not"
                    " below its folder; use the file as published."
                )
            if not 1 <= record.fold <= 10:
                raise LabelError(
                    f"{folder / 'ptbxl_database.csv'} puts {path} into fold {record.fold}; folds"
                    " are 1 to 10, so use the file as published."
                )
            labels = {task: tables.labels(task, record.statements) for task in class_names}
            entries.append(
                _Entry(
                    id=path.name,
                    path=folder / path,
                    labels=labels,
                    fold=record.fold,
                    patient=record.patient,
                    age=record.age,
                    sex=record.sex,
                )
            )
    return sorted(entries, key=lambda entry: entry.id), class_names, others


def _without(entries: list[_Entry], leave_out: Path | None) -> list[_Entry]:
    """The entries but for those of a table."""
    from data_prep.labels import read_recordings

    if leave_out is None:
        return entries
    names = set(read_recordings(leave_out))
    kept = [entry for entry in entries if entry.id not in names]
    if len(kept) == len(entries):
        raise LabelError(
            f"{leave_out} names none of the records found, such as {entries[0].id}; give them the"
            " same names there, or drop --leave-out."
        )
    print(f"{len(entries) - len(kept)} records stay out because {leave_out} names them.")
    return kept


def _fill(
    writer: "StoreWriter",
    entries: list[_Entry],
    form: _Form,
    workers: int | None,
    scheduler: str | None,
    journal: "Journal",
) -> Iterator[tuple[_Entry, RecordError | LabelError]]:
    """Append all usable records to the store, and yield the others with the reason."""
    from data_prep.labels import cpsc_codes_to_labels

    taken: dict[str, Path] = {}
    for entry, loaded in _loaded(entries, form, workers, scheduler, journal):
        if entry.id in taken:
            yield (
                entry,
                RecordError(
                    f"{entry.path} has the name of {taken[entry.id]}, which is in the store;"
                    " give each recording once."
                ),
            )
            continue
        if loaded.signal is None:
            yield entry, RecordError(loaded.refusal)
            continue
        labels = entry.labels or {CPSC_TASK: cpsc_codes_to_labels(loaded.codes)}
        if not any(labels.values()):
            known = f"its diagnoses are {', '.join(loaded.codes) or 'not given'}"
            where = known if entry.labels is None else "the table of labels gives it none"
            yield (
                entry,
                LabelError(
                    f"{entry.path} has no label of a known class: {where}; give it one in a"
                    " REFERENCE.csv, or leave this recording out."
                ),
            )
            continue
        classes = labels.get(CPSC_TASK, ())
        in_order = entry.labels is not None or len(classes) == 1
        writer.append(
            entry.id,
            loaded.signal,
            labels=labels,
            first_label=classes[0] if classes and in_order else -1,
            fold=entry.fold,
            patient=entry.patient,
            age=loaded.age if math.isnan(entry.age) else entry.age,
            sex=entry.sex or loaded.sex,
        )
        taken[entry.id] = entry.path


@contextmanager
def _journal(out: Path, entries: list[_Entry], form: _Form) -> Iterator["Journal"]:
    """Open what a killed build has read; it is kept only if this build is interrupted too."""
    from data_prep.files import locked
    from data_prep.storing.journal import Journal

    known = hashlib.sha256(f"{__version__} {form!r}".encode())
    for entry in entries:
        states = [_state(entry.path.with_suffix(e)) for e in (entry.path.suffix, ".mat", ".dat")]
        known.update(f"{entry.path.absolute()} {states}\n".encode(errors="surrogateescape"))
    with (
        locked(out, doing="built"),
        Journal(out.with_suffix(".journal"), belongs_to=known.hexdigest()) as journal,
    ):
        if journal.count:
            print(f"{journal.count} of {len(entries)} records were read by a build that ended.")
        try:
            yield journal
        except ECGError:
            journal.remove()
            raise
        journal.remove()


def _state(file: Path) -> tuple[int, int] | None:
    """What changes with a file's content; None if there is none."""
    try:
        state = os.stat(file)
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


def _loaded(
    entries: list[_Entry],
    form: _Form,
    workers: int | None,
    scheduler: str | None,
    journal: "Journal",
) -> Iterator[tuple[_Entry, _Loaded]]:
    """Read the records in several processes and return them in order."""
    from joblib import cpu_count
    from tqdm import tqdm

    before, rest = entries[: journal.count], entries[journal.count :]
    for entry, (told, samples) in zip(before, journal.entries(), strict=True):
        yield entry, _Loaded(signal=samples, **{**told, "codes": tuple(told["codes"])})
    chunks = [rest[start : start + _CHUNK] for start in range(0, len(rest), _CHUNK)]
    if not chunks:
        return
    paths = [[entry.path for entry in chunk] for chunk in chunks]
    if scheduler:
        read = _read_there(paths, form, scheduler)
    else:
        read = _read(paths, form, workers or cpu_count())
    with tqdm(total=len(entries), initial=len(before), unit="record", desc="reading") as progress:
        for chunk, loaded in zip(chunks, read, strict=True):
            for one in loaded:
                fields = {name: getattr(one, name) for name in ("refusal", "age", "sex", "codes")}
                journal.append(fields, one.signal)
            journal.flush()
            yield from zip(chunk, loaded, strict=True)
            progress.update(len(chunk))


def _read(chunks: list[list[Path]], form: _Form, workers: int) -> Iterator[list[_Loaded]]:
    """Read chunk after chunk, a few ahead of the one that is returned.

    So no process waits for another or for the writing, and what has been read but not yet
    written stays little.
    """
    from joblib.externals.loky import ProcessPoolExecutor

    processes = min(workers, len(chunks))
    if processes == 1:
        yield from (_load_chunk(chunk, form) for chunk in chunks)
        return
    pool = ProcessPoolExecutor(processes)
    try:
        with _interrupts_ignored():
            ahead = deque([pool.submit(_load_chunk, chunks[0], form)])
        for chunk in chunks[1:]:
            ahead.append(pool.submit(_load_chunk, chunk, form))
            if len(ahead) > 2 * processes:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(kill_workers=True)


def _read_there(chunks: list[list[Path]], form: _Form, scheduler: str) -> Iterator[list[_Loaded]]:
    """Let a cluster read chunk after chunk; the chunk of a lost worker is read by another."""
    from data_prep.cluster import connect, require_workers

    with connect(scheduler) as client:
        require_workers(client)
        ahead: deque[tuple[list[Path], Any]] = deque()
        for chunk in chunks:
            absolute = [path.absolute() for path in chunk]
            ahead.append((chunk, client.submit(_load_chunk, absolute, form, pure=False)))
            if len(ahead) > 2 * sum(client.nthreads().values()):
                yield _received(*ahead.popleft())
        while ahead:
            yield _received(*ahead.popleft())


def _received(chunk: list[Path], future: Any) -> list[_Loaded]:
    from distributed.scheduler import KilledWorker

    try:
        return future.result()
    except KilledWorker:
        raise RecordError(
            f"the workers that read {chunk[0]} and the records after it died; give them more"
            " memory, or build without --scheduler."
        ) from None
    except Exception as error:  # what a worker of another version trips over
        raise RecordError(
            f"a worker could not read {chunk[0]} and the records after it ({error!r}); install the"
            " same versions there, or build without --scheduler."
        ) from error


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started in this block never see Ctrl-C: the parent ends them quietly."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _load_chunk(paths: list[Path], form: _Form) -> list[_Loaded]:
    return [_load(path, form) for path in paths]


def _load(path: Path, form: _Form) -> _Loaded:
    from data_prep.records import read_record
    from data_prep.signals import fill_invalid, resample

    try:
        record = read_record(path, fs=form.fs, unit=form.unit)
    except RecordError as error:
        return _Loaded(refusal=str(error))
    try:
        signal = resample(fill_invalid(record.signal), fs=record.fs, target_fs=form.rate)
    except RecordError as error:
        return _Loaded(refusal=f"{path}: {error}")
    return _Loaded(signal=signal, age=record.age, sex=record.sex, codes=record.codes)


def command() -> None:
    """Run as ``ecg-build``."""
    run_command(main)


if __name__ == "__main__":
    command()
