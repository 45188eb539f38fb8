"""Leads, classes, and the tables that map a record to its labels."""

import ast
import csv
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from io import TextIOWrapper
from pathlib import Path

import numpy as np

from data_prep.errors import LabelError, PredictionsError
from data_prep.files import opened

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

MOST_AGE = 120
"""The highest age that is believed, in years."""

CPSC_TASK = "cpsc2018"
CPSC_CLASSES = ("Normal", "AF", "I-AVB", "LBBB", "RBBB", "PAC", "PVC", "STD", "STE")
"""The classes of the China Physiological Signal Challenge 2018, in its order 1 to 9."""

CPSC_SNOMED = {
    "426783006": "Normal",
    "164889003": "AF",
    "270492004": "I-AVB",
    "164909002": "LBBB",
    "59118001": "RBBB",
    "284470004": "PAC",
    "164884008": "PVC",
    "429622005": "STD",
    "164931005": "STE",
}
"""SNOMED CT code of each of these classes, as in the headers of the PhysioNet challenges."""

OWN_DATASET = "own"
"""Data set name of a store with the user's own labels, or of several data sets."""

PTBXL_TASKS = ("all", "diagnostic", "subdiagnostic", "superdiagnostic", "form", "rhythm")
"""The six label sets of the PTB-XL benchmark (Strodthoff et al. 2021, section III)."""

PTBXL_SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")


def encode(labels: Sequence[int], num_classes: int) -> np.ndarray:
    """Turn class indices into a row of zeros and ones.

    Args:
        labels: 0-based class indices.
        num_classes: length of the row.

    Returns:
        uint8 ``(num_classes,)``, 1 at the given indices.
    """
    row = np.zeros(num_classes, np.uint8)
    row[list(labels)] = 1
    return row


def plausible_age(years: float) -> float:
    """Return an age; NaN if it is not in 0 to :data:`MOST_AGE` years."""
    return years if 0 <= years <= MOST_AGE else math.nan


def sex_of(text: str) -> str:
    """Convert a sex to ``"male"`` or ``"female"``; ``""`` for any other text."""
    return {"m": "male", "male": "male", "f": "female", "female": "female"}.get(
        text.strip().casefold(), ""
    )


def read_recordings(path: Path) -> tuple[str, ...]:
    """Read the ``Recording`` column of a CSV file.

    Args:
        path: a CSV file; its other columns are ignored.

    Returns:
        The names, in the file's order.

    Raises:
        LabelError: if the file is missing, is not a CSV file, lacks the column or names nothing.
    """
    rows = read_rows(path, ["Recording"])
    for line, row in rows:
        if not row["Recording"]:
            raise LabelError(
                f"{path}, line {line}: the column Recording is empty; name a record there or"
                " delete the line."
            )
    return tuple(row["Recording"] for _, row in rows)


def read_reference(path: Path) -> dict[str, tuple[int, ...]]:
    """Read a table of labels in the format of the challenge's ``REFERENCE.csv``.

    Args:
        path: a CSV file with the columns ``Recording``, ``First_label`` and, for records with
            several labels, ``Second_label`` and ``Third_label``; labels are the numbers 1 to 9
            or the names of :data:`CPSC_CLASSES`, in any letter case.

    Returns:
        0-based class indices (of :data:`CPSC_CLASSES`) of each recording, First_label first.

    Raises:
        LabelError: naming the file and line, if the table is invalid.
    """
    reference: dict[str, tuple[int, ...]] = {}
    others = ("Second_label", "Third_label")
    for line, row in read_rows(path, ["Recording", "First_label"], optional=others):
        where, name = f"{path}, line {line}", row["Recording"]
        if not name:
            raise LabelError(f"{where}: the column Recording is empty; name the record there.")
        if not row["First_label"]:
            raise LabelError(
                f"{where}: {name} has no First_label; give it one of 1 to 9, or a class's name."
            )
        texts = [row.get(f"{order}_label", "") for order in ("First", "Second", "Third")]
        labels = tuple(dict.fromkeys(cpsc_label(text, where) for text in texts if text))
        if reference.setdefault(name, labels) != labels:
            raise LabelError(
                f"{where}: {name} is listed twice with different labels; keep the right line."
            )
    return reference


def cpsc_label(text: str, where: str) -> int:
    """Parse a label of CPSC 2018.

    Args:
        text: a number from 1 to 9, or the name of a class in any letter case.
        where: file and line, for the message.

    Returns:
        The 0-based index of the class.

    Raises:
        LabelError: if it is neither of these.
    """
    folded = text.casefold()
    for index, name in enumerate(CPSC_CLASSES):
        if folded == name.casefold():
            return index
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if number not in range(1, len(CPSC_CLASSES) + 1):
        raise LabelError(
            f"{where}: label {text!r} is unknown; labels are the numbers 1 to 9 or the names"
            f" {', '.join(CPSC_CLASSES)}."
        )
    return int(number) - 1


@cache
def cpsc_order() -> dict[str, tuple[int, ...]]:
    """Return the labels, in order, of the public CPSC 2018 records that have several.

    PhysioNet's copy of CPSC 2018 gives the diagnoses of a record but not their order.  The
    challenge's own ``REFERENCE.csv`` did; its 476 lines with several labels are included in this
    package.

    Returns:
        0-based class indices of each of these records, First_label first.
    """
    return read_reference(Path(__file__).with_name("cpsc2018_several_labels.csv"))


@dataclass(frozen=True)
class PTBXLRecord:
    """One line of ``ptbxl_database.csv``.

    Attributes:
        patient: the patient's number.
        age: in years; NaN if unknown, or if above 89, which PTB-XL masks as 300.
        sex: ``"male"``, ``"female"`` or, if unknown, ``""``.
        statements: SCP-ECG statements of any likelihood.
        fold: the published fold, 1 to 10.
        filename_lr: path of the 100 Hz record, relative to the folder; ``""`` if not given.
        filename_hr: the same for the 500 Hz record.
    """

    patient: str
    age: float
    sex: str
    statements: tuple[str, ...]
    fold: int
    filename_lr: str
    filename_hr: str


@dataclass(frozen=True)
class PTBXLTables:
    """The contents of ``ptbxl_database.csv`` and ``scp_statements.csv``.

    Attributes:
        class_names: for each of :data:`PTBXL_TASKS` its classes, in the order in which
            ``scp_statements.csv`` first names them; the superclasses in the order of
            :data:`PTBXL_SUPERCLASSES`.
        classes: for each task, the class of each of its statements.
        records: the lines of the database.
        refused: the lines that cannot be read, by name, each with the reason.
    """

    class_names: dict[str, tuple[str, ...]]
    classes: dict[str, dict[str, str]]
    records: tuple[PTBXLRecord, ...]
    refused: tuple[tuple[str, str], ...] = ()

    def labels(self, task: str, statements: Iterable[str]) -> tuple[int, ...]:
        """Map a record's statements to the classes of a task.

        A statement counts whatever its likelihood, even 0, which in PTB-XL means "unknown": the
        benchmark's published code does so, and only this reproduces its record counts.

        Args:
            task: one of :data:`PTBXL_TASKS`.
            statements: SCP-ECG statements such as ``"AFIB"``.

        Returns:
            0-based indices into ``class_names[task]``, ascending.
        """
        classes = {self.classes[task][s] for s in statements if s in self.classes[task]}
        return tuple(i for i, name in enumerate(self.class_names[task]) if name in classes)


def read_ptbxl_tables(folder: Path) -> PTBXLTables:
    """Read the two tables of a PTB-XL folder as published.

    Args:
        folder: holds ``ptbxl_database.csv`` and ``scp_statements.csv``.

    Returns:
        The classes of the six tasks, except those that have none, and all records.

    Raises:
        LabelError: naming the file and line, if a table, or every one of its lines, cannot be
            read, or a record has a statement that is not in ``scp_statements.csv``.
    """
    classes = {t: of for t, of in _read_statements(folder / "scp_statements.csv").items() if of}
    names = {task: tuple(dict.fromkeys(of.values())) for task, of in classes.items()}
    if "superdiagnostic" in names:
        unusual = [name for name in names["superdiagnostic"] if name not in PTBXL_SUPERCLASSES]
        names["superdiagnostic"] = (*PTBXL_SUPERCLASSES, *unusual)
    path = folder / "ptbxl_database.csv"
    table = read_rows(path, ["patient_id", "scp_codes", "strat_fold", "filename_lr"])
    records, refused = list[PTBXLRecord](), list[tuple[str, str]]()
    for number, row in table:
        try:
            records.append(_ptbxl_record(row, classes["all"], f"{path}, line {number}"))
        except _LineError as error:
            if len(table) == 1 + len(refused):  # every line
                raise
            refused.append((row["filename_lr"] or f"line {number}", str(error)))
    return PTBXLTables(names, classes, tuple(records), tuple(refused))


class _LineError(LabelError):
    """A line of a table cannot be read."""


def _read_statements(path: Path) -> dict[str, dict[str, str]]:
    columns = ["diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"]
    classes: dict[str, dict[str, str]] = {task: {} for task in PTBXL_TASKS}
    for line, row in read_rows(path, ["", *columns]):
        statement = row[""]
        classes["all"][statement] = statement
        for task in ("diagnostic", "form", "rhythm"):
            if row[task] in ("1", "1.0"):
                classes[task][statement] = statement
        if statement in classes["diagnostic"]:
            if not (row["diagnostic_class"] and row["diagnostic_subclass"]):
                raise LabelError(
                    f"{path}, line {line}: the diagnostic statement {statement} has no class;"
                    " use the file as published."
                )
            classes["subdiagnostic"][statement] = row["diagnostic_subclass"]
            classes["superdiagnostic"][statement] = row["diagnostic_class"]
    return classes


def _ptbxl_record(row: dict[str, str], known: dict[str, str], where: str) -> PTBXLRecord:
    try:
        statements = tuple(dict(ast.literal_eval(row["scp_codes"])))
        fold = int(row["strat_fold"])
        patient = str(int(float(row["patient_id"]))) if row["patient_id"] else ""
        age = float(row.get("age") or "nan")
    except (
        *(ValueError, TypeError, SyntaxError, OverflowError),
        *(RecursionError, MemoryError),  # thousands of nested brackets
    ) as error:
        raise _LineError(
            f"{where}: a column cannot be understood ({error}); use the file as published."
        ) from error
    for statement in statements:
        if statement not in known:
            raise LabelError(
                f"{where}: the statement {statement!r} is unknown to scp_statements.csv; use both"
                " files of one release."
            )
    return PTBXLRecord(
        patient=patient,
        age=plausible_age(age),
        sex={"0": "male", "1": "female"}.get(row.get("sex", ""), ""),
        statements=statements,
        fold=fold,
        filename_lr=row["filename_lr"],
        filename_hr=row.get("filename_hr", ""),
    )


def read_rows(
    path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()
) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file.

    Args:
        path: of the file, in UTF-8; its first line names the columns.
        columns: required columns.
        optional: columns that it may also have; like the required ones, in any letter case.

    Returns:
        Each row's line number and its cells by column, stripped of spaces.

    Raises:
        LabelError: if it cannot be read, is not a CSV file, lacks a column, has one twice, has no
            rows, or has more cells in a row than columns.
    """
    spelled = {name.casefold(): name for name in (*columns, *optional)}
    try:
        # Spreadsheet programs put a byte-order mark before the first column's name.
        with opened(path) as data, TextIOWrapper(data, "utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            found = [name.strip() for name in reader.fieldnames or ()]
            found = [spelled.get(name.casefold(), name) for name in found]
            reader.fieldnames = found
            rows = []
            for row in reader:
                # Spreadsheet programs also end lines with empty cells.
                if any(cell.strip() for cell in row.pop(reader.restkey, ())):
                    raise LabelError(
                        f"{path}, line {reader.line_num}: it has more cells than the first line"
                        " has names; put a cell that holds a comma in quotation marks, and"
                        " separate several labels by semicolons."
                    )
                rows.append((reader.line_num, {name: row[name].strip() for name in found}))
    except OSError as error:
        raise LabelError(
            f"{path} cannot be read ({error.strerror}); give the path of an existing CSV file."
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelError(
            f"{path} is not a CSV file in UTF-8 ({error}); save it again as such."
        ) from error
    for column in columns:
        if column not in found:
            raise LabelError(
                f"{path} has no column {column or 'without a name'!r} but {', '.join(found)!r};"
                " its first line must name the columns, separated by commas."
            )
    for column, times in Counter(found).items():
        if column and times > 1:
            raise LabelError(
                f"{path} has several columns {column!r}; delete or rename all but one."
            )
    if not rows:
        raise LabelError(f"{path} has a header line only; give a table with records.")
    return rows


def one_hot(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Turn 0-based classes ``(N,)`` into a uint8 matrix ``(N, num_classes)`` of 0 and 1.

    Raises:
        PredictionsError: if a class is not in 0..num_classes - 1, such as -1 (unknown).
    """
    classes = np.asarray(classes)
    outside = (classes < 0) | (classes >= num_classes)
    if outside.any():
        raise PredictionsError(
            f"{outside.sum()} records have no class between 0 and {num_classes - 1} (the first of"
            f" them has {classes[outside][0]}); give the first label of every record."
        )
    return (classes[:, None] == np.arange(num_classes)).astype(np.uint8)


def main_labels(labels: np.ndarray, first_labels: np.ndarray | None) -> np.ndarray:
    """Return the main label of every record, for networks with one label per record.

    Args:
        labels: ``(N, C)`` of 0 and 1.
        first_labels: ``(N,)`` 0-based, -1 if unknown; None if all are.

    Returns:
        ``(N,)`` int64, 0-based: the first label if it is known, else the only one; -1 for a
        record with no label, or with several in unknown order.
    """
    labels = np.asarray(labels)
    known = np.full(len(labels), -1) if first_labels is None else np.array(first_labels, np.int64)
    lone = (known < 0) & (labels.sum(axis=1) == 1)
    known[lone] = labels[lone].argmax(axis=1)
    return known


def rarest_labels(labels: np.ndarray, first_labels: np.ndarray) -> np.ndarray:
    """Choose the rarest label as the main one if a record has several in unknown order.

    Args:
        labels: ``(N, C)`` of 0 and 1.
        first_labels: ``(N,)`` 0-based, -1 if unknown.

    Returns:
        ``(N,)`` int64, 0-based; -1 if a record has no label.  Of two classes with equally many
        records, the first counts as the rarer.
    """
    labels = np.asarray(labels)
    known = main_labels(labels, first_labels)
    rarest = np.where(labels > 0, labels.sum(axis=0, dtype=np.int64), len(labels) + 1).argmin(
        axis=1
    )
    return np.where((known < 0) & labels.any(axis=1), rarest, known)


def known_first_labels(labels: np.ndarray, first_labels: np.ndarray | None) -> np.ndarray | None:
    """Return the main label of every record, see :func:`main_labels`; None if any is unknown.

    Args:
        labels: ``(N, C)`` of 0 and 1.
        first_labels: ``(N,)`` 0-based, -1 if unknown; None if all are.

    Returns:
        ``(N,)`` int64, 0-based; or None.
    """
    known = main_labels(labels, first_labels)
    return None if (known < 0).any() else known
