"""Command that builds one store from folders of downloaded records."""

import hashlib
import math
import os
import signal
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import current_thread, main_thread
from typing import TYPE_CHECKING, Any, Literal

from data_prep import __version__
from data_prep.commands import run_command
from data_prep.errors import ECGError, JobError, LabelError, OptionError, RecordError, StoreError
from data_prep.names import shown

if TYPE_CHECKING:
    import numpy as np

    from data_prep.store import StoreWriter
    from data_prep.storing.entries import Entry, Selection
    from data_prep.storing.journal import Journal

_CHUNK = 32  # records per task of a process
_PATIENCE = 5.0  # seconds between two looks at the workers of a cluster


def main(
    *,
    source: tuple[Path, ...] = (),
    out: Path | None = None,
    dataset: Literal["auto", "cpsc2018", "ptb-xl"] = "auto",
    labels: tuple[Path, ...] = (),
    map: Path | None = None,
    task: tuple[str, ...] = (),
    several_labels: Literal["leave-out", "rarest"] = "leave-out",
    rate: float | None = None,
    fs: float | None = None,
    unit: Literal["mV", "uV", "V", "nV"] | None = None,
    reference: Path | None = None,
    leave_out: Path | None = None,
    test_source: tuple[str, ...] = (),
    folds: Literal["stratified", "random"] = "stratified",
    seed: int = 0,
    workers: int | None = None,
    scheduler: str | None = None,
    strict: bool = False,
    check: Path | None = None,
) -> None:
    """Build a store of labelled records from folders of recordings.

    Labels come from your own tables (--labels), from the tables of CPSC 2018 or PTB-XL, or from
    the headers of recordings.  Records that cannot be used are left out and listed with the
    reasons beside the store, for cpsc.h5 in cpsc.rejected.csv; so are files and folders that only
    look like records.  The store gets its name only when it is complete.  To resume a build that
    was killed or ended with an error, run the same command again: what it had read is kept in a
    .journal file named after the store.

    Args:
        source: folders of records: of CPSC 2018 (WFDB or the original .mat files, with
            REFERENCE.csv; without that file, the diagnoses in the headers are used), of PTB-XL
            as published, or in any other format that ecg-predict reads.
        out: the store to write, such as cpsc.h5; required unless --check is given.
        dataset: what the folders hold; auto is ptb-xl for a folder with a ptbxl_database.csv and
            cpsc2018 for any other, whose store is named own if it holds other records.
        labels: your own tables, one per task: a CSV with the column Recording and either a column
            labels (names separated by ;, the main one first) or a column of 0 and 1 for each
            class; the columns patient, fold, age and sex are optional.
        map: a CSV with the columns from and to, which maps SNOMED CT codes in headers and SCP
            statements of PTB-XL to classes; the built-in cpsc2018 gives the nine classes of CPSC
            2018.
        task: name of the set of classes of each table, or of the map; by default the file name.
        several_labels: what single-label networks do with records that have several labels in
            unknown order: leave them out, or take the rarest as the main label.
        rate: sampling rate of the store in Hz; by default 100 for PTB-XL alone, otherwise 250.
        fs: sampling rate in Hz of recordings that state none, such as arrays; others keep theirs.
        unit: of recordings that state none, such as tables; others keep theirs; by default mV, if
            that is plausible.
        reference: a CSV with the columns Recording, First_label, Second_label, Third_label, for
            cpsc2018; by default the REFERENCE.csv files in the source folders.
        leave_out: a CSV with a column Recording, such as a test set, of records to leave out,
            with all others of the same patients; by default none.
        test_source: source folders whose records are all for testing: they make up fold 10, and
            all other records are assigned to folds 1 to 9, unless they are of the same patients.
        folds: how records without a fold are assigned to ten folds: stratified by all their
            labels, or random as in the MLBF-Net paper; ptb-xl has its published folds.  Records
            of the same patient always get the same fold.
        seed: of the assignment to folds.
        workers: number of processes that read records; by default one per core.
        scheduler: address of a Dask scheduler, such as tcp://host:8786, whose workers read the
            recordings instead, from the same paths as here (a shared disk).
        strict: stop at the first record that cannot be used instead of leaving it out.
        check: instead of building, report what this folder holds, what is missing or extra in it,
            and which options a build from it needs.

    Raises:
        ECGError: if the options, the tables, all records or, with strict, one record cannot be
            used.
        OSError: with ``errno.ENOSPC`` if the disk is full.
    """
    from data_prep.files import write_csv
    from data_prep.store import StoreWriter
    from data_prep.storing.entries import in_folds, is_ptbxl, select
    from data_prep.synthetic import is_generated

    if check is not None:
        _print_check(check)
        return
    if out is None:
        raise OptionError("no store is named; give --out, such as --out cpsc.h5.")
    if not out.name or out.is_dir():
        raise OptionError(f"--out {out} is a folder; give a file in it, such as --out cpsc.h5.")
    if not source:
        raise OptionError("no source is given; give the folders of the records.")
    for folder in source:
        if not folder.is_dir():
            raise OptionError(f"{folder} is not a folder; give the folders of the records.")
    published = [is_ptbxl(folder, dataset) for folder in source]
    if rate is None:
        rate = 100.0 if all(published) else 250.0
    form = _Form(rate, fs, unit)
    if not 10 <= form.rate <= 10_000:
        raise OptionError(
            f"a rate of {form.rate:g} Hz makes no sense for an ECG; give 10 to 10000."
        )
    if workers is not None and workers < 1:
        raise OptionError(f"{workers} workers cannot read anything; give at least 1.")
    if workers is not None and scheduler is not None:
        raise OptionError("--workers applies to this machine only; drop it or --scheduler.")
    if not 0 <= seed < 2**32:
        raise OptionError(f"--seed must be from 0 to {2**32 - 1}, not {seed}.")
    if all(published) and folds != "stratified" and not test_source:
        raise OptionError("PTB-XL has its published folds; drop --folds.")
    selection = select(
        source,
        dataset=dataset,
        rate=form.rate,
        reference=reference,
        labels=labels,
        task=task,
        code_map=map,
    )
    entries = in_folds(selection, source, leave_out=leave_out, test_source=test_source)
    provenance: dict[str, Any] = {
        "package": f"ecg-keras {__version__}",
        "source": [folder.resolve().name for folder in source],
        "options": {
            "labels": [table.name for table in labels],
            "map": map.name if map else None,
            "several_labels": several_labels,
            "rate": form.rate,
            "fs": fs,
            "unit": unit,
            "reference": reference.name if reference else None,
            "leave_out": leave_out.name if leave_out else None,
            "test_source": list(test_source),
            "folds": _origin_of_folds(selection, entries) or folds,
            "seed": seed,
        },
    }
    generated = selection.dataset != "ptb-xl" and sum(is_generated(each.path) for each in entries)
    if generated:
        provenance["generated"] = "all" if generated == len(entries) else "some"
        print(f"{generated} of {len(entries)} records are generated by ecg-synthetic.")
    listed, columns = _beside(out, ".rejected.csv"), ("record", "file", "reason")
    rejected = [(path.name, path, reason) for path, reason in selection.others]
    readable = False
    with _journal(out, entries, form) as journal:
        if not out.exists():  # left by an earlier build that wrote no store
            listed.unlink(missing_ok=True)
        with StoreWriter(
            out,
            dataset=selection.dataset,
            fs=form.rate,
            class_names=selection.class_names,
            provenance=provenance,
        ) as writer:
            for entry, refusal in _fill(
                writer, entries, selection, form, workers, scheduler, journal
            ):
                if strict:
                    raise refusal
                rejected.append((entry.id, entry.path, str(refusal)))
                readable |= isinstance(refusal, LabelError)
            if not len(writer):
                write_csv(listed, columns, rejected)
                if not readable:  # there is nothing to go on with
                    journal.remove()
                raise StoreError(
                    f"none of the {len(entries)} records is usable, so {out} was not made; see"
                    f" the reasons in {listed}."
                )
            num_folds = 9 if test_source else 10
            try:
                joined = _assign_folds(
                    writer, num_folds=num_folds, random=folds == "random", seed=seed
                )
            except StoreError as error:
                if not rejected:
                    raise
                write_csv(listed, columns, rejected)
                raise StoreError(f"{str(error)[:-1]}, or correct those in {listed}.") from None
            if test_source and not (writer.folds == 10).any():
                write_csv(listed, columns, rejected)
                raise StoreError(
                    f"no record of --test-source is usable, so {out} was not made; see the reasons"
                    f" in {listed}."
                )
            if not (writer.folds <= num_folds).any():
                write_csv(listed, columns, rejected)
                raise StoreError(
                    "no record of the other sources is left to train on: "
                    + (
                        "their patients are those of --test-source; if only their numbers are the"
                        " same, name them differently."
                        if joined
                        else f"none is usable; see the reasons in {listed}."
                    )
                )
            report = [*_counts(writer)] if selection.own else []
            if test_source and joined:
                report.append(
                    f"{joined} records of other sources are in fold 10 too, with the patients of"
                    " --test-source; if only their numbers are the same, name them differently."
                )
            if selection.dataset != "ptb-xl" or selection.own or several_labels == "rarest":
                report += _choose_main_labels(writer, several_labels)
            num_records = len(writer)
        write_csv(listed, columns, rejected)
    for line in [f"{out}: {num_records} records at {form.rate:g} Hz.", *report]:
        print(shown(line))
    if num_records < len(entries):
        print(
            f"{len(entries) - num_records} of {len(entries)} records could not be used; their"
            f" reasons are in {listed}."
        )
    if selection.others:
        others = f"{len(selection.others)} other files, folders or lines"
        print(f"{others} are not records; {listed} gives the reasons.")


def _beside(out: Path, ending: str) -> Path:
    """A file named after a store: s.journal after s.h5, ptb.100.journal after ptb.100."""
    return out.with_name(f"{out.stem if out.suffix == '.h5' else out.name}{ending}")


def _named(codes: Sequence[str]) -> str:
    """List diagnoses, those of SNOMED CT with what they stand for."""
    from data_prep.class_names import snomed_name

    names = [(code, snomed_name(code)) for code in codes]
    return ", ".join(f"{code} ({name})" if name else code for code, name in names)


def _origin_of_folds(selection: "Selection", entries: list["Entry"]) -> str:
    """Whether the folds are given by a table or published; empty if some are to be assigned."""
    if not all(
        entry.fold for entry in entries if entry.labels is None or any(entry.labels.values())
    ):
        return ""
    return "given" if any(table.has_folds for table in selection.tables) else "published"


def _assign_folds(writer: "StoreWriter", *, num_folds: int, random: bool, seed: int) -> int:
    """Assign folds to the records without one; a patient who already has a fold keeps it.

    Returns:
        How many records got the fold that their patient already had.
    """
    import numpy as np

    from data_prep.splits import random_folds, stratified_folds

    given, patients = writer.folds, writer.patients
    fold_of = {p: f for p, f in zip(patients, given, strict=True) if p and f}
    folds = np.array([f or fold_of.get(p, 0) for p, f in zip(patients, given, strict=True)])
    rest = np.flatnonzero(folds == 0)
    if len(rest):
        of_rest = patients[rest]
        labels = np.hstack([writer.labels(task) for task in writer.class_names])[rest]
        folds[rest] = (
            random_folds(len(rest), seed=seed, num_folds=num_folds, patients=of_rest)
            if random
            else stratified_folds(labels, seed=seed, num_folds=num_folds, patients=of_rest)
        )
    writer.set_folds(folds)
    return int(((given == 0) & (folds > 0)).sum()) - len(rest)


def _choose_main_labels(writer: "StoreWriter", several_labels: str) -> Iterator[str]:
    """Choose the main label of records with several in unknown order, and report how many."""
    from data_prep.labels import main_labels, rarest_labels

    for task in writer.class_names:
        labels, first = writer.labels(task), writer.first_labels(task)
        unknown = int(((labels.sum(axis=1) > 1) & (main_labels(labels, first) < 0)).sum())
        if not unknown:
            continue
        does = "networks with one label per record leave them out (--several-labels)"
        if several_labels == "rarest":
            writer.set_first_labels(task, rarest_labels(labels, first))
            does = "the rarest of them is the main one"
        yield f"{unknown} records have several labels of {task}, in no known order: {does}."


def _counts(writer: "StoreWriter") -> Iterator[str]:
    """Count the records by source and class."""
    import numpy as np

    sources = writer.sources
    for task, names in writer.class_names.items():
        labels = writer.labels(task)
        yield f"Records with each class of {task}, by source:"
        rows = [["", *names, "records"]]
        parts = {str(source): labels[sources == source] for source in np.unique(sources)}
        if len(parts) > 1:
            parts["together"] = labels
        for source, part in parts.items():
            rows.append([source, *(str(n) for n in part.sum(axis=0)), str(len(part))])
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for first, *others in rows:
            cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
            yield "  ".join(["", first.ljust(widths[0]), *cells])


def _print_check(folder: Path) -> None:
    from data_prep.storing.folders import inspect_folder

    report = inspect_folder(folder)
    for line in report.lines(folder):
        print(shown(line))
    if report.missing:
        raise RecordError(
            f"{folder} lacks {len(report.missing)} of its files, the first {report.missing[0]};"
            " fetch them (ecg-download resumes where it stopped), or build without them."
        )


@dataclass(frozen=True)
class _Form:
    """How recordings are read: the store's rate, and rate and unit of files that state none."""

    rate: float
    fs: float | None = None
    unit: str | None = None


@dataclass(frozen=True)
class _Loaded:
    """What a worker returns: a signal at the rate of the store, or why there is none."""

    refusal: str = ""
    signal: "np.ndarray | None" = None
    age: float = math.nan
    sex: str = ""
    codes: tuple[str, ...] = field(default=())


def _fill(
    writer: "StoreWriter",
    entries: list["Entry"],
    selection: "Selection",
    form: _Form,
    workers: int | None,
    scheduler: str | None,
    journal: "Journal",
) -> Iterator[tuple["Entry", RecordError | LabelError]]:
    """Append all usable records to the store, and yield the others with the reasons."""
    taken: dict[str, Path] = {}
    for entry, loaded in _loaded(entries, form, workers, scheduler, journal):
        if entry.id in taken:
            yield (
                entry,
                RecordError(
                    f"{entry.path} has the name of {taken[entry.id]}, which is in the store;"
                    " give each recording once, or rename one of the two if they differ."
                ),
            )
            continue
        if loaded.signal is None:
            yield entry, RecordError(loaded.refusal)
            continue
        labels, first = selection.labels_of(entry, loaded.codes)
        if not any(labels.values()):
            known = f"its diagnoses are {_named(loaded.codes) or 'not given'}"
            where = known if entry.labels is None else "the table of labels gives it none"
            yield (
                entry,
                LabelError(
                    f"{entry.path} has no label of a known class: {where}; give it one in a"
                    " REFERENCE.csv or with --labels, or leave this recording out."
                ),
            )
            continue
        writer.append(
            entry.id,
            loaded.signal,
            labels=labels,
            first_label=first,
            fold=entry.fold,
            patient=entry.patient,
            age=loaded.age if math.isnan(entry.age) else entry.age,
            sex=entry.sex or loaded.sex,
            source=entry.source,
        )
        taken[entry.id] = entry.path


@contextmanager
def _journal(out: Path, entries: list["Entry"], form: _Form) -> Iterator["Journal"]:
    """Open the journal of an unfinished build; it is removed if this one succeeds or read none."""
    from data_prep.files import locked
    from data_prep.storing.journal import Journal

    known = hashlib.sha256(f"{__version__} {form!r}".encode())
    for entry in entries:
        endings = (entry.path.suffix, ".hea", ".mat", ".dat")
        states = [_state(entry.path.with_suffix(ending)) for ending in endings]
        known.update(f"{entry.path.absolute()} {states}\n".encode(errors="surrogateescape"))
    with (
        locked(out, doing="built"),
        Journal(_beside(out, ".journal"), belongs_to=known.hexdigest()) as journal,
    ):
        if journal.count:
            print(
                f"{journal.count} of {len(entries)} records were already read by an unfinished"
                " build."
            )
        try:
            yield journal
        except ECGError:
            if not journal.count:
                journal.remove()
            raise
        journal.remove()


def _state(file: Path) -> tuple[int, int] | None:
    """A file's state, to detect changes; None if the file is missing."""
    try:
        state = os.stat(file)
    except OSError:
        return None
    return state.st_size, state.st_mtime_ns


def _loaded(
    entries: list["Entry"],
    form: _Form,
    workers: int | None,
    scheduler: str | None,
    journal: "Journal",
) -> Iterator[tuple["Entry", _Loaded]]:
    """Read the records in several processes and return them in order."""
    from joblib import cpu_count
    from tqdm import tqdm

    before, rest = entries[: journal.count], entries[journal.count :]
    for entry, (fields, samples) in zip(before, journal.entries(), strict=True):
        if fields["refusal"]:  # by now, a file or library that was missing may be there
            yield entry, _load(entry.path, form)
        else:
            yield entry, _Loaded(signal=samples, **{**fields, "codes": tuple(fields["codes"])})
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
    """Read chunk after chunk on this machine."""
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        yield from _read_here(chunks, form, min(workers, len(chunks)))
    except (TerminatedWorkerError, MemoryError):
        raise RecordError(
            "a process that reads records was killed or ran out of memory; run the same command"
            " again with fewer --workers or more memory, and it goes on from there."
        ) from None


def _read_here(chunks: list[list[Path]], form: _Form, processes: int) -> Iterator[list[_Loaded]]:
    """Read chunk after chunk, a few ahead of the one that is returned.

    No process then waits for another or for the writing, and memory use stays small.
    """
    from joblib.externals.loky import ProcessPoolExecutor

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
    """Read chunk after chunk on a cluster; the chunk of a lost worker is read by another."""
    from data_prep.cluster import connect, require_workers, threads_of

    with connect(scheduler) as client:
        require_workers(client)
        ahead: deque[tuple[list[Path], Any]] = deque()
        for chunk in chunks:
            absolute = [path.absolute() for path in chunk]
            ahead.append((chunk, client.submit(_load_chunk, absolute, form, pure=False)))
            if len(ahead) > 2 * threads_of(client):
                yield _received(client, *ahead.popleft())
        while ahead:
            yield _received(client, *ahead.popleft())


def _received(client: Any, chunk: list[Path], future: Any) -> list[_Loaded]:
    """Wait for a chunk as long as there are workers."""
    from distributed import CancelledError
    from distributed.scheduler import KilledWorker

    from data_prep.cluster import WITHOUT_WORKERS, threads_of

    address, last_seen = client.scheduler.address, time.monotonic()
    while True:
        try:
            return future.result(timeout=_PATIENCE)
        except Exception as error:
            threads = threads_of(client)  # raises if the scheduler is gone, whatever the error
            if isinstance(error, (KilledWorker, MemoryError)):
                raise RecordError(
                    f"the workers that read {chunk[0]} and the records after it died; give them"
                    " more memory, or build without --scheduler."
                ) from None
            if isinstance(error, CancelledError):
                raise JobError(
                    f"the cluster at {address} was told to cancel the reading of {chunk[0]} and"
                    " the records after it; run the same command again, and it goes on from there."
                ) from None
            if not isinstance(error, TimeoutError) or future.status == "error":
                raise RecordError(  # such as from a worker of another version
                    f"a worker could not read {chunk[0]} and the records after it ({error!r});"
                    " install the same versions there, or build without --scheduler."
                ) from error
            if threads:
                last_seen = time.monotonic()
            elif time.monotonic() - last_seen > WITHOUT_WORKERS:
                raise JobError(
                    f"the cluster at {address} has no worker left; start some with `dask worker"
                    f" {address}` and run the same command again: it goes on from there."
                ) from None


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Processes started in this block ignore Ctrl-C: the parent ends them quietly."""
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
        record = read_record(path, fs=form.fs, unit=form.unit, fallback=True)
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
