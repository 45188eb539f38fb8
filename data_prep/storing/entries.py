"""Which recordings go into a store, and what labels they have."""

import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from data_prep.class_names import require_class_names
from data_prep.errors import LabelError, OptionError, RecordError
from data_prep.label_tables import CPSC_MAP, CodeMap, LabelTable, read_code_map, read_label_table
from data_prep.labels import (
    CPSC_CLASSES,
    CPSC_SNOMED,
    CPSC_TASK,
    OWN_DATASET,
    PTBXLTables,
    cpsc_order,
    read_ptbxl_tables,
    read_recordings,
    read_reference,
)
from data_prep.names import require_name, shown
from data_prep.synthetic import is_generated

Dataset = Literal["auto", "cpsc2018", "ptb-xl"]
Records = list[tuple[str, Path]]

_CODES = tuple((name, *(c for c, of in CPSC_SNOMED.items() if of == name)) for name in CPSC_CLASSES)
"""What a map may call each class of CPSC 2018: its name, and its SNOMED CT code."""

_CPSC_NAME = re.compile(r"A\d{4}")


@dataclass(frozen=True)
class Entry:
    """A recording that goes into the store.

    Attributes:
        id: its name.
        path: its file.
        source: name of the folder it comes from.
        labels: for each task its 0-based classes; None if they are only in its header.
        first: the main class, for each task in which the order of the labels is known.
        fold: 1 to 10; 0 if it is still to be assigned.
        patient: the patient's name; empty if unknown.
        age: in years; NaN if unknown.
        sex: ``"male"``, ``"female"`` or, if unknown, ``""``.
    """

    id: str
    path: Path
    source: str
    labels: Mapping[str, tuple[int, ...]] | None = None
    first: Mapping[str, int] = field(default_factory=dict)
    fold: int = 0
    patient: str = ""
    age: float = math.nan
    sex: str = ""


@dataclass(frozen=True)
class Selection:
    """Everything that goes into a store.

    Attributes:
        dataset: name of the data set.
        class_names: of each task.
        entries: sorted by name, then by folder.
        others: files and folders that only look like recordings, each with the reason.
        code_map: from the diagnoses in headers to the classes of ``header_task``.
        header_task: the task whose labels may come from headers.
        own: whether the labels come from the user's own tables or map.
        tables: the user's own.
    """

    dataset: str
    class_names: dict[str, tuple[str, ...]]
    entries: list[Entry]
    others: list[tuple[Path, str]] = field(default_factory=list)
    code_map: CodeMap = CPSC_MAP
    header_task: str = CPSC_TASK
    own: bool = False
    tables: Sequence[LabelTable] = ()

    def labels_of(
        self, entry: Entry, codes: Sequence[str]
    ) -> tuple[Mapping[str, tuple[int, ...]], Mapping[str, int]]:
        """Find the labels of a recording, and the first label of each task if it is known.

        Args:
            entry: one of the entries.
            codes: the diagnoses in its header.
        """
        if entry.labels is not None:
            return entry.labels, entry.first
        labels = self.code_map.labels(codes)
        first = labels[0] if len(labels) == 1 else -1
        if len(labels) > 1 and self.class_names[self.header_task] == CPSC_CLASSES:
            in_order = cpsc_order().get(entry.id, ())
            first = in_order[0] if set(in_order) == set(labels) else -1
        return {self.header_task: labels}, {self.header_task: first}


def is_ptbxl(folder: Path, dataset: Dataset) -> bool:
    """Tell whether a folder is PTB-XL as published.

    Args:
        folder: with recordings.
        dataset: as given by the user.
    """
    if dataset == "auto":
        return (folder / "ptbxl_database.csv").is_file()
    return dataset == "ptb-xl"


def select(
    source: tuple[Path, ...],
    *,
    dataset: Dataset = "auto",
    rate: float,
    reference: Path | None = None,
    labels: tuple[Path, ...] = (),
    task: tuple[str, ...] = (),
    code_map: Path | None = None,
) -> Selection:
    """Find the recordings in folders, and their labels.

    Args:
        source: the folders.
        dataset: what they hold.
        rate: of the store, in hertz: decides which version of PTB-XL is read.
        reference: a ``REFERENCE.csv`` to use in place of those in the folders.
        labels: label tables; see :func:`data_prep.label_tables.read_label_table`.
        task: names of their tasks, or of the one task of a map; by default the file names.
        code_map: map of diagnoses; see :func:`data_prep.label_tables.read_code_map`.

    Raises:
        OptionError: if the options contradict each other.
        LabelError: if a table is invalid or does not match the recordings.
        RecordError: if there are no recordings.
    """
    published = [is_ptbxl(folder, dataset) for folder in source]
    if task and not labels and code_map is None:
        raise OptionError("--task names the classes of --labels or --map; give one of those too.")
    if reference is not None and (labels or all(published)):
        has = "the tables of --labels" if labels else "the tables of PTB-XL"
        raise OptionError(f"the labels are those of {has}; drop --reference.")
    if labels:
        if code_map is not None:
            raise OptionError(
                "--labels names the classes itself, and --map is for diagnoses in headers and"
                " statements of PTB-XL; give one of the two."
            )
        tables = [
            read_label_table(path, name)
            for path, name in zip(labels, _task_names(labels, task), strict=True)
        ]
        for table in tables:
            _require_classes(table.path, table.class_names, table.task)
            if table.unused:
                unused = ", ".join(map(shown, table.unused))
                print(f"{table.path}: columns that are not used: {unused}.", file=sys.stderr)
        class_names = {table.task: table.class_names for table in tables}
        entries, rest = _found(source, published, rate, _unlabelled)
        entries = _labelled(entries, tables, rest)
        return Selection(OWN_DATASET, class_names, entries, rest, own=True, tables=tables)
    if code_map is None and all(published):
        of_folders = _tables_of_ptbxl(source)
        entries, rest = _found(source, published, rate, _unlabelled, of_folders=of_folders)
        return Selection("ptb-xl", of_folders[source[0]].class_names, entries, rest)
    if code_map is None and any(published):
        raise OptionError(
            f"{source[published.index(True)]} is PTB-XL and {source[published.index(False)]} is"
            " not; build one store for each, or one for both with --map cpsc2018."
        )
    mapped = CPSC_MAP if code_map is None else read_code_map(code_map)
    (name,) = (CPSC_TASK,) if code_map is None else _task_names((code_map,), task)
    if name == CPSC_TASK and mapped.class_names != CPSC_CLASSES:
        raise OptionError(
            f"the task {CPSC_TASK!r} has the nine classes of CPSC 2018, and {code_map} has"
            f" {', '.join(mapped.class_names)}; give another --task."
        )
    if code_map is not None:
        _require_classes(code_map, mapped.class_names, name)
    entries, rest = _found(
        source,
        published,
        rate,
        lambda folder, records: _by_reference(folder, records, reference, mapped, name),
        mapped=mapped,
        task=name,
    )
    of_cpsc = all(_CPSC_NAME.fullmatch(entry.id) or is_generated(entry.path) for entry in entries)
    other = "cpsc2018" if mapped is CPSC_MAP and of_cpsc else OWN_DATASET
    return Selection(
        dataset="ptb-xl" if all(published) else other,
        class_names={name: mapped.class_names},
        entries=entries,
        others=rest,
        code_map=mapped,
        header_task=name,
        own=code_map is not None,
    )


def _task_names(files: tuple[Path, ...], task: tuple[str, ...]) -> tuple[str, ...]:
    names = task or tuple(path.stem for path in files)
    if len(names) != len(files) or len(set(names)) != len(names):
        raise OptionError(
            f"{len(files)} tables need as many different names, not {', '.join(names)}; give"
            " --task one for each."
        )
    for name in names:
        try:
            require_name(name, "task")
        except ValueError as error:
            raise OptionError(f"{error}; give another with --task.") from None
        if "/" in name or name.startswith("."):
            raise OptionError(f"{name!r} cannot be the name of a task; choose a plain word.")
    return names


def _require_classes(path: Path, class_names: Sequence[str], task: str) -> None:
    """Refuse a single class, and the name of a published task with its classes in another order."""
    if len(class_names) == 1:
        raise LabelError(
            f"{path} has only one class, {class_names[0]!r}, and records without a label are left"
            " out; add a class for recordings that do not have it."
        )
    try:
        require_class_names(class_names, task)
    except ValueError as error:
        raise OptionError(f"{path}: {error}, with --task.") from None


def source_names(source: Sequence[Path]) -> list[str]:
    """Name each folder by the end of its path, as long as needed to be unique, fit to be shown.

    Args:
        source: the folders.
    """
    paths = [folder.resolve() for folder in source]
    depth = 1
    while depth < max(len(path.parts) for path in paths) and len(
        {path.parts[-depth:] for path in paths}
    ) < len(set(paths)):
        depth += 1
    return [shown(Path(*path.parts[-depth:]).as_posix()) for path in paths]


def _found(
    source: tuple[Path, ...],
    published: list[bool],
    rate: float,
    label: Callable[[Path, Records], list[Entry]],
    *,
    of_folders: Mapping[Path, PTBXLTables] | None = None,
    mapped: CodeMap | None = None,
    task: str = "",
) -> tuple[list[Entry], list[tuple[Path, str]]]:
    """The recordings of all folders, sorted by name and folder; other files, with the reasons.

    With ``of_folders``, the tables of PTB-XL's folders, its records are labelled by all its tasks.
    """
    from data_prep.records import scan_folder

    entries: list[Entry] = []
    others: list[tuple[Path, str]] = []
    for folder, name, is_published in zip(source, source_names(source), published, strict=True):
        if is_published:
            tables = of_folders[folder] if of_folders else None
            found, refused = _of_ptbxl(folder, rate, tables=tables, mapped=mapped, task=task)
            if len(source) > 1:  # in other sources, the same number is another patient
                found = [
                    replace(each, patient=each.patient and f"ptb-xl {each.patient}")
                    for each in found
                ]
        else:
            scan = scan_folder(folder)
            found, refused = label(folder, scan.records), scan.refused
        others += refused
        entries += [replace(each, source=name) for each in found]
    if not entries:
        where = ", ".join(map(str, source))
        if others:
            raise RecordError(f"no usable recording in {where}: {others[0][1]}")
        raise RecordError(f"no recordings in {where}; give their folders.")
    return sorted(entries, key=lambda entry: entry.id), others


def _unlabelled(folder: Path, records: Records) -> list[Entry]:
    return [Entry(name, path, "", {}) for name, path in records]


def _labelled(
    entries: list[Entry], tables: list[LabelTable], refused: list[tuple[Path, str]]
) -> list[Entry]:
    """Give recordings the labels and patient data of tables, which may name refused files too."""
    names = [entry.id for entry in entries]
    for table in tables:
        table.require_recordings([*names, *(path.stem for path, _ in refused)])
    _require_one_each(entries, tables)
    made = []
    fold_of: dict[str, tuple[int, str]] = {}
    for entry in entries:
        labels: dict[str, tuple[int, ...]] = {table.task: () for table in tables}
        first: dict[str, int] = {}
        about: dict[str, str | int] = {}
        where = ""
        for table in tables:
            line = table.lines.get(entry.id)
            if line is None:
                continue
            labels[table.task] = line.labels
            if line.labels and table.in_order:
                first[table.task] = line.labels[0]
            for what, given in (("patient", line.patient), ("fold", line.fold)):
                if given and about.setdefault(what, given) != given:
                    raise LabelError(
                        f"{table.path}, line {line.number}: the {what} of {entry.id} is {given}"
                        f" here and {about[what]} in another table; correct one of the two."
                    )
            entry = replace(
                entry,
                patient=line.patient or entry.patient,
                fold=line.fold or entry.fold,
                age=entry.age if math.isnan(line.age) else line.age,
                sex=line.sex or entry.sex,
            )
            where = f"{table.path}, line {line.number}"
        if any(labels.values()) and entry.patient and entry.fold:
            fold, before = fold_of.setdefault(entry.patient, (entry.fold, entry.id))
            if fold != entry.fold:
                raise LabelError(
                    f"{where}: patient {entry.patient} has {entry.id} in fold {entry.fold} and"
                    f" {before} in fold {fold}, so that training would see a patient it is tested"
                    " on; correct one of the two, or name two patients differently."
                )
        made.append(replace(entry, labels=labels, first=first))
    return made


def _require_one_each(entries: list[Entry], tables: list[LabelTable]) -> None:
    """Refuse a line of a table that could be of either of two recordings."""
    before: dict[str, Path] = {}
    for entry in entries:
        path = before.setdefault(entry.id, entry.path)
        if path is entry.path:
            continue
        for table in tables:
            if entry.id in table.lines:
                raise LabelError(
                    f"{table.path}, line {table.lines[entry.id].number}: {entry.id} may be"
                    f" {path} or {entry.path}; rename one of the two files and its line, or leave"
                    " out a folder."
                )


def _by_reference(
    folder: Path, records: Records, reference: Path | None, mapped: CodeMap, task: str
) -> list[Entry]:
    """The recordings of a folder with the labels of its ``REFERENCE.csv``, if there is one."""
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
        print(f"{folder} has no REFERENCE.csv: labels are taken from the headers.", file=sys.stderr)
        return [Entry(name, path, "") for name, path in records]
    entries = []
    for name, path in records:
        of = mapped.labels(code for label in labels.get(name, ()) for code in _CODES[label])
        first = {task: of[0]} if of else {}
        entries.append(Entry(name, path, "", {task: of}, first))
    return entries


def _tables_of_ptbxl(source: tuple[Path, ...]) -> dict[Path, PTBXLTables]:
    """The tables of each folder, which must have the same classes."""
    of_folders = {folder: read_ptbxl_tables(folder) for folder in source}
    for folder, tables in of_folders.items():
        if tables.class_names != of_folders[source[0]].class_names:
            raise LabelError(
                f"{folder / 'scp_statements.csv'} differs from that of {source[0]}; use folders"
                " of one release."
            )
    return of_folders


def _of_ptbxl(
    folder: Path, rate: float, *, tables: PTBXLTables | None, mapped: CodeMap | None, task: str
) -> tuple[list[Entry], list[tuple[Path, str]]]:
    """All records of the tables, labelled by all tasks, by a map, or not at all; and bad lines."""
    by_tasks = tables is not None
    tables = tables or read_ptbxl_tables(folder)
    at_100_hz = rate == 100 and (folder / "records100").is_dir()
    if not at_100_hz and not (folder / "records500").is_dir():
        if not (folder / "records100").is_dir():
            raise RecordError(
                f"{folder} has neither records100 nor records500; download at least one of them."
            )
        at_100_hz = True
        print(
            f"{folder} has no records500: its 100 Hz records are resampled to {rate:g} Hz, and"
            " hold nothing above 50 Hz.",
            file=sys.stderr,
        )
    entries = []
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
        labels: dict[str, tuple[int, ...]] = {}
        if by_tasks:
            labels = {name: tables.labels(name, record.statements) for name in tables.class_names}
        elif mapped is not None:
            labels = {task: mapped.labels(record.statements)}
        entries.append(
            Entry(
                id=path.name,
                path=folder / path,
                source="",
                labels=labels,
                fold=record.fold,
                patient=record.patient,
                age=record.age,
                sex=record.sex,
            )
        )
    return entries, [(folder / name, reason) for name, reason in tables.refused]


def without(entries: list[Entry], leave_out: Path | None) -> list[Entry]:
    """Leave out the recordings named in a table, and all others of the same patients.

    Args:
        entries: all recordings.
        leave_out: a CSV file with a column ``Recording``; None to keep all.

    Raises:
        LabelError: if it names none of them, or leaves none.
    """
    if leave_out is None:
        return entries
    names = set(read_recordings(leave_out))
    named = [entry for entry in entries if entry.id in names]
    if not named:
        raise LabelError(
            f"{leave_out} names none of the records found, such as {entries[0].id}; give them the"
            " same names there, or drop --leave-out."
        )
    patients = {entry.patient for entry in named} - {""}
    kept = [e for e in entries if e.id not in names and e.patient not in patients]
    if not kept:
        raise LabelError(
            f"{leave_out} leaves none of the {len(entries)} records found; give another table, or"
            " add a source."
        )
    print(f"{len(named)} records named in {leave_out} are left out.")
    if others := len(entries) - len(named) - len(kept):
        print(f"{others} more records of the same patients are left out too.")
    if unknown := len(names - {entry.id for entry in named}):
        print(f"{unknown} of the {len(names)} names in {leave_out} match no record.")
    return kept


def in_folds(
    selection: Selection,
    source: Sequence[Path],
    *,
    leave_out: Path | None,
    test_source: Sequence[str],
) -> list[Entry]:
    """Take the recordings for a store, with the folds that are known before anything is read.

    Args:
        selection: all recordings.
        source: their folders.
        leave_out: as in :func:`without`.
        test_source: names of the sources, or their folders, whose recordings all go into fold 10;
            folds 1 to 9 are then left to the others.  Empty to leave the folds as they are.

    Raises:
        OptionError: if there is no such source, no other source, or a table gives folds too.
        LabelError: if nothing is left to store, to test on or to train on, or a class has too few
            records for the folds that are still to be assigned.
    """
    entries = without(selection.entries, leave_out)
    if test_source:
        entries = _tested_on(entries, test_source, source_names(source), selection.tables)
    fold_of = {entry.id: entry.fold for entry in entries}
    for table in selection.tables:
        table.require_enough(9 if test_source else 10, fold_of)
    return entries


def _tested_on(
    entries: list[Entry],
    test_source: Sequence[str],
    names: Sequence[str],
    tables: Sequence[LabelTable],
) -> list[Entry]:
    """Put all recordings of some sources into fold 10, and no other into any fold."""
    for table in tables:
        if table.has_folds:
            raise OptionError(
                f"--test-source assigns the folds, and {table.path} has a column fold; drop one of"
                " the two."
            )
    chosen = set()
    for name in test_source:
        ending = shown(Path(os.path.normpath(name)).as_posix())
        matching = [source for source in names if f"/{ending}".endswith(f"/{source}")]
        if not matching:
            raise OptionError(
                f"--test-source {name} is not one of the sources; name one of {', '.join(names)}."
            )
        chosen |= {max(matching, key=len)}
    if chosen == set(names):
        raise OptionError("--test-source leaves no source to train on; name fewer.")
    moved = [replace(entry, fold=10 if entry.source in chosen else 0) for entry in entries]
    left = {entry.fold for entry in moved}
    if len(left) == 1:
        what = "to train on" if left == {10} else "to test on"
        raise LabelError(
            f"no record is left {what} in the sources {', '.join(names)}; name another"
            " --test-source, or leave out fewer records."
        )
    return moved
