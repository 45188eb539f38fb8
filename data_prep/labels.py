"""Leads, classes, and the tables that map a record to its labels."""

import ast
import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path

import numpy as np

from data_prep.errors import LabelError, PredictionsError
from data_prep.files import opened

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

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


def read_recordings(path: Path) -> tuple[str, ...]:
    """Read the ``Recording`` column of a CSV file.

    Args:
        path: a CSV file; its other columns are ignored.

    Returns:
        The names, in the file's order.

    Raises:
        LabelError: if the file is missing, is no CSV, lacks the column or names nothing.
    """
    names = tuple(row["Recording"] for _, row in _read_table(path, ["Recording"]))
    if not all(names):
        raise LabelError(
            f"{path}, line {names.index('') + 2}: the column Recording is empty; name a record"
            " there or delete the line."
        )
    return names


def read_reference(path: Path) -> dict[str, tuple[int, ...]]:
    """Read a table of labels in the form of the challenge's ``REFERENCE.csv``.

    Args:
        path: a CSV file with the columns ``Recording``, ``First_label`` and, for records of
            several labels, ``Second_label`` and ``Third_label``; labels are 1 to 9.

    Returns:
        0-based class indices (of :data:`CPSC_CLASSES`) of each recording, First_label first.

    Raises:
        LabelError: naming the file and line, if the table cannot be understood.
    """
    reference: dict[str, tuple[int, ...]] = {}
    for line, row in _read_table(path, ["Recording", "First_label"]):
        where, name = f"{path}, line {line}", row["Recording"]
        if not name:
            raise LabelError(f"{where}: the column Recording is empty; name the record there.")
        if not row["First_label"]:
            raise LabelError(f"{where}: {name} has no First_label; give it one of 1 to 9.")
        texts = [row.get(f"{order}_label", "") for order in ("First", "Second", "Third")]
        labels = tuple(dict.fromkeys(_cpsc_label(text, where) for text in texts if text))
        if reference.setdefault(name, labels) != labels:
            raise LabelError(
                f"{where}: {name} is listed twice with different labels; keep the right line."
            )
    return reference


def _cpsc_label(text: str, where: str) -> int:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if number not in range(1, len(CPSC_CLASSES) + 1):
        raise LabelError(f"{where}: label {text!r} is unknown; labels are the numbers 1 to 9.")
    return int(number) - 1


def cpsc_codes_to_labels(codes: Iterable[str]) -> tuple[int, ...]:
    """Map the diagnoses of a record's header to classes of CPSC 2018.

    Args:
        codes: class names in any letter case, or SNOMED CT codes.

    Returns:
        0-based class indices in the order of ``codes``; other diagnoses are passed over.
    """
    by_code = {name.casefold(): index for index, name in enumerate(CPSC_CLASSES)}
    by_code |= {code: CPSC_CLASSES.index(name) for code, name in CPSC_SNOMED.items()}
    known = (by_code.get(code.strip().casefold()) for code in codes)
    return tuple(dict.fromkeys(label for label in known if label is not None))


@dataclass(frozen=True)
class PTBXLRecord:
    """One line of ``ptbxl_database.csv``.

    Attributes:
        patient: the patient's number.
        age: in years; NaN if unknown or, as PTB-XL does beyond 89 years, masked by 300.
        sex: ``"male"``, ``"female"`` or, if unknown, ``""``.
        statements: SCP-ECG statements, whatever their likelihood.
        fold: the published fold, 1 to 10.
        filename_lr: of the 100 Hz record, relative to the folder; ``""`` if not given.
        filename_hr: of the 500 Hz record, likewise.
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
    """What ``ptbxl_database.csv`` and ``scp_statements.csv`` say.

    Attributes:
        class_names: for each of :data:`PTBXL_TASKS` its classes, in the order in which
            ``scp_statements.csv`` first names them; the superclasses as
            :data:`PTBXL_SUPERCLASSES`.
        classes: for each task the class that each of its statements belongs to.
        records: the lines of the database.
        refused: name and reason of each line that cannot be understood.
    """

    class_names: dict[str, tuple[str, ...]]
    classes: dict[str, dict[str, str]]
    records: tuple[PTBXLRecord, ...]
    refused: tuple[tuple[str, str], ...] = ()

    def labels(self, task: str, statements: Iterable[str]) -> tuple[int, ...]:
        """Map a record's statements to the classes of a task.

        A statement counts whatever its likelihood, also 0, which in PTB-XL stands for
        "unknown": so the benchmark's published code does it, and so its record counts come out.

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
        The classes of the six tasks, without tasks that have none, and all records.

    Raises:
        LabelError: naming the file and line, if a table, or each of its lines, cannot be
            understood, or a record carries a statement that ``scp_statements.csv`` does not know.
    """
    classes = {t: of for t, of in _read_statements(folder / "scp_statements.csv").items() if of}
    names = {task: tuple(dict.fromkeys(of.values())) for task, of in classes.items()}
    if "superdiagnostic" in names:
        unusual = [name for name in names["superdiagnostic"] if name not in PTBXL_SUPERCLASSES]
        names["superdiagnostic"] = (*PTBXL_SUPERCLASSES, *unusual)
    path = folder / "ptbxl_database.csv"
    table = _read_table(path, ["patient_id", "scp_codes", "strat_fold", "filename_lr"])
    records, refused = list[PTBXLRecord](), list[tuple[str, str]]()
    for number, row in table:
        try:
            records.append(_ptbxl_record(row, classes["all"], f"{path}, line {number}"))
        except _LineError as error:
            if len(table) == 1 + len(refused):  # all of them
                raise
            refused.append((row["filename_lr"] or f"line {number}", str(error)))
    return PTBXLTables(names, classes, tuple(records), tuple(refused))


class _LineError(LabelError):
    """A line of a table cannot be understood."""


def _read_statements(path: Path) -> dict[str, dict[str, str]]:
    columns = ["diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"]
    classes: dict[str, dict[str, str]] = {task: {} for task in PTBXL_TASKS}
    for line, row in _read_table(path, ["", *columns]):
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
        *(RecursionError, MemoryError),  # expressions in thousands of brackets
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
        age=age if 0 <= age <= 120 else math.nan,
        sex={"0": "male", "1": "female"}.get(row.get("sex", ""), ""),
        statements=statements,
        fold=fold,
        filename_lr=row["filename_lr"],
        filename_hr=row.get("filename_hr", ""),
    )


def _read_table(path: Path, columns: list[str]) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file as (line number, column: stripped text), after checking its columns."""
    try:
        # Spreadsheet programs put a byte-order mark before the first column's name.
        with opened(path) as data, TextIOWrapper(data, "utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            found = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = found
            rows = [
                (reader.line_num, {name: (row[name] or "").strip() for name in found})
                for row in reader
            ]
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
    if not rows:
        raise LabelError(f"{path} has a header line only; give a table with records.")
    return rows


def one_hot(classes: np.ndarray, num_classes: int) -> np.ndarray:
    """Turn classes ``(N,)``, 0-based, into a matrix ``(N, num_classes)`` uint8 of 0 and 1.

    Raises:
        PredictionsError: if a class is outside 0..num_classes - 1, as an unknown one (-1) is.
    """
    classes = np.asarray(classes)
    outside = (classes < 0) | (classes >= num_classes)
    if outside.any():
        raise PredictionsError(
            f"{outside.sum()} records have no class between 0 and {num_classes - 1} (the first of"
            f" them has {classes[outside][0]}); give the first label of every record."
        )
    return (classes[:, None] == np.arange(num_classes)).astype(np.uint8)


def known_first_labels(labels: np.ndarray, first_labels: np.ndarray | None) -> np.ndarray | None:
    """Fill in the first label of each record that has just one; None if any stays unknown.

    Args:
        labels: ``(N, C)`` of 0 and 1.
        first_labels: ``(N,)`` 0-based, -1 if unknown; None if all are.

    Returns:
        ``(N,)`` int64, 0-based; or None.
    """
    labels = np.asarray(labels)
    known = np.full(len(labels), -1) if first_labels is None else np.array(first_labels, np.int64)
    lone = (known < 0) & (labels.sum(axis=1) == 1)
    known[lone] = labels[lone].argmax(axis=1)
    return None if (known < 0).any() else known
