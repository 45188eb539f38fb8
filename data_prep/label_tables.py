"""The user's own label tables, and maps from a data set's codes to classes."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.class_names import require_class_names
from data_prep.errors import LabelError
from data_prep.labels import (
    CPSC_CLASSES,
    CPSC_SNOMED,
    CPSC_TASK,
    MOST_AGE,
    cpsc_label,
    plausible_age,
    read_rows,
    sex_of,
)

_ABOUT_THE_RECORD = ("patient", "fold", "age", "sex")


@dataclass(frozen=True)
class Line:
    """One line of a label table.

    Attributes:
        number: of the line in the file.
        labels: 0-based class indices; the main one first if the table is ordered.
        patient: the patient's name; empty if unknown.
        fold: 1 to 10; 0 if the table has none.
        age: in years; NaN if unknown.
        sex: ``"male"``, ``"female"`` or, if unknown, ``""``.
    """

    number: int
    labels: tuple[int, ...]
    patient: str
    fold: int
    age: float
    sex: str


@dataclass(frozen=True)
class LabelTable:
    """The labels of the records for one task.

    Attributes:
        path: of the file.
        task: its name.
        class_names: the classes, in order.
        lines: by the name of the recording.
        in_order: whether the labels of a record are ordered, the main one first.
        unused: names of the columns that say nothing here.
    """

    path: Path
    task: str
    class_names: tuple[str, ...]
    lines: Mapping[str, Line]
    in_order: bool
    unused: tuple[str, ...] = ()

    def require_recordings(self, known: Sequence[str]) -> None:
        """Make sure that every recording of the table was found.

        Args:
            known: names of the recordings found.

        Raises:
            LabelError: naming the first that was not found.
        """
        found = set(known)
        for name, line in self.lines.items():
            if name not in found:
                raise LabelError(
                    f"{self.path}, line {line.number}: there is no recording named {name!r}"
                    f" among the {len(found)} found, such as {known[0]}; write the file name"
                    " without its suffix, add its folder to --source, or delete the line."
                )

    @property
    def has_folds(self) -> bool:
        """Whether the table has a column ``fold``."""
        return any(line.fold for line in self.lines.values())

    def require_enough(self, num_folds: int, fold_of: Mapping[str, int]) -> None:
        """Make sure that every class can be in every fold.

        Args:
            num_folds: number of folds, from 1; records in others are for testing.
            fold_of: the fold of each recording; 0 if it is still to be assigned.

        Raises:
            LabelError: naming the first class with too few records, or patients.
        """
        what = "patients" if any(line.patient for line in self.lines.values()) else "records"
        for c, class_name in enumerate(self.class_names):
            asked = {name: line for name, line in self.lines.items() if c in line.labels}
            having = [name for name in asked if fold_of.get(name, num_folds + 1) <= num_folds]
            lacking = num_folds - len({fold_of[name] for name in having} - {0})
            free = {name: asked[name] for name in having if not fold_of[name]}
            number = len({line.patient or f"record {name}" for name, line in free.items()})
            if (asked and not having) or 0 < number < lacking:
                first = min(line.number for line in (free or asked).values())
                own = ", or give a column fold of your own" if num_folds == 10 else ""
                raise LabelError(
                    f"{self.path}, line {first}: the class {class_name!r} has {number} {what},"
                    f" fewer than the {lacking} folds that each need one; add some, or merge it"
                    f" with another class{own}."
                )


def read_label_table(path: Path, task: str) -> LabelTable:
    """Read a table of labels for any classes.

    Args:
        path: a CSV file with the column ``Recording`` and either a column ``labels``, names of
            classes separated by ``;``, the main one first, or one column of 0 and 1 for each
            class.  The columns ``patient``, ``fold`` (1 to 10), ``age`` (years) and ``sex``
            (male or female) are optional.  Beside ``labels``, further columns are not used.
        task: name of the set of classes.  ``cpsc2018`` always has the nine classes of CPSC
            2018, by name or by number.

    Returns:
        The table.  Its classes are in the order of CPSC 2018 if all belong to it; otherwise in the
        order of their columns or, if they are in a column ``labels``, in alphabetical order.

    Raises:
        LabelError: naming file and line, if the table is invalid, a record has two lines
            with different labels, no record has a class, or a class has an unusable name.
    """
    rows = read_rows(path, ["Recording"], optional=("labels", *_ABOUT_THE_RECORD))
    columns = list(rows[0][1])
    in_order = "labels" in columns
    known = ("Recording", *_ABOUT_THE_RECORD)
    names = [column for column in columns if column and column not in known]
    if not names:
        raise LabelError(
            f"{path} has neither a column 'labels' nor a column of 0 and 1 for each class; add"
            " one of the two."
        )
    found: dict[str, tuple[int, list[str], dict[str, str]]] = {}
    for number, row in rows:
        where, name = f"{path}, line {number}", row["Recording"]
        if not name:
            raise LabelError(f"{where}: the column Recording is empty; name the record there.")
        labels = _names_in(row["labels"]) if in_order else _names_of_columns(row, names, where)
        about = {column: row.get(column, "") for column in _ABOUT_THE_RECORD}
        _, *before = found.setdefault(name, (number, labels, about))
        if before != [labels, about]:
            raise LabelError(
                f"{where}: {name} is also in line {found[name][0]}, with other labels or"
                " another patient, fold, age or sex; keep the right line."
            )
    used = {label for _, labels, _ in found.values() for label in labels}
    class_names: tuple[str, ...] = CPSC_CLASSES
    if task == CPSC_TASK:
        written = [(n, labels) for n, labels, _ in found.values()] if in_order else [(1, names)]
        index = {
            label: cpsc_label(label, f"{path}, line {number}")
            for number, labels in written
            for label in labels
        }
    else:
        class_names, index = _class_names(sorted(used) if in_order else names)
        _require_usable(class_names, path)
    if not used:
        raise LabelError(f"{path} gives no record a label; fill in the labels.")
    for name in () if in_order or task == CPSC_TASK else names:
        if name not in used:
            raise LabelError(
                f"{path}, line 1: no record has the class {name!r}; delete its column, or write"
                " 1 where a record has it."
            )
    if any(about["fold"] for *_, about in found.values()):
        for name, (number, _, about) in found.items():
            if not about["fold"]:
                raise LabelError(
                    f"{path}, line {number}: {name} has no fold, and other lines have one; fill"
                    " in the whole column fold, or delete it."
                )
    lines = {
        name: _line(number, tuple(dict.fromkeys(index[label] for label in labels)), about, path)
        for name, (number, labels, about) in found.items()
    }
    unused = tuple(name for name in names if name != "labels") if in_order else ()
    return LabelTable(path, task, class_names, lines, in_order, unused)


def _names_in(text: str) -> list[str]:
    return list(dict.fromkeys(name for part in text.split(";") if (name := part.strip())))


def _names_of_columns(row: Mapping[str, str], names: Sequence[str], where: str) -> list[str]:
    for name in names:
        if row[name] not in ("0", "1", "0.0", "1.0"):
            raise LabelError(
                f"{where}: the column {name!r} holds {row[name]!r} and not 0 or 1; correct it, or"
                " delete the column if it is not a class."
            )
    return [name for name in names if float(row[name])]


def _require_usable(class_names: Sequence[str], path: Path) -> None:
    try:
        require_class_names(class_names)
    except ValueError as error:
        raise LabelError(f"{path}: {error}.") from None


def _class_names(names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes in order, and the index of each spelling."""
    folded = {name.casefold(): name for name in CPSC_CLASSES}
    if all(name.casefold() in folded for name in names):
        of_cpsc = {name: folded[name.casefold()] for name in names}
        ordered = tuple(name for name in CPSC_CLASSES if name in of_cpsc.values())
        return ordered, {name: ordered.index(of_cpsc[name]) for name in names}
    return tuple(names), {name: i for i, name in enumerate(names)}


def _line(number: int, labels: tuple[int, ...], about: Mapping[str, str], path: Path) -> Line:
    where = f"{path}, line {number}"
    try:
        age = float(about["age"] or "nan")
    except ValueError:
        age = -1.0
    if math.isnan(plausible_age(age)) and not math.isnan(age):
        raise LabelError(
            f"{where}: the age {about['age']!r} is not between 0 and {MOST_AGE} years; correct it,"
            " or leave the cell empty."
        )
    sex = sex_of(about["sex"])
    if about["sex"] and not sex:
        raise LabelError(
            f"{where}: the sex {about['sex']!r} is neither male nor female; write one of the two,"
            " or leave the cell empty."
        )
    fold = about["fold"].removesuffix(".0")
    if fold and fold not in map(str, range(1, 11)):
        raise LabelError(f"{where}: the fold {about['fold']!r} is not a number from 1 to 10.")
    return Line(number, labels, about["patient"], int(fold or 0), age, sex)


@dataclass(frozen=True)
class CodeMap:
    """Map from the codes of a data set to classes.

    Attributes:
        class_names: the classes, in order.
        classes: the class of each code, codes in lower case.
    """

    class_names: tuple[str, ...]
    classes: Mapping[str, str]

    def labels(self, codes: Iterable[str]) -> tuple[int, ...]:
        """Map the codes of a record to classes.

        Args:
            codes: in any letter case.

        Returns:
            0-based class indices in the order of ``codes``, each once; codes that are not in
            the map are ignored.
        """
        found = (self.classes.get(code.strip().casefold()) for code in codes)
        return tuple(
            dict.fromkeys(self.class_names.index(name) for name in found if name is not None)
        )


CPSC_MAP = CodeMap(
    CPSC_CLASSES,
    {
        **{name.casefold(): name for name in CPSC_CLASSES},
        **CPSC_SNOMED,
        # Pairs that the scoring of the PhysioNet challenges 2020 and 2021 treats as one class.
        "713427006": "RBBB",  # complete right bundle branch block
        "733534002": "LBBB",  # complete left bundle branch block
        "63593006": "PAC",  # supraventricular premature beats
        # The challenges score these two as PVC; CPSC 2018's own code is 164884008.
        "427172004": "PVC",
        "17338001": "PVC",
        # Statements of PTB-XL.
        "norm": "Normal",
        "afib": "AF",
        "1avb": "I-AVB",
        "clbbb": "LBBB",
        "crbbb": "RBBB",
        "irbbb": "RBBB",
        "std_": "STD",
        "ste_": "STE",
    },
)
"""From class names, SNOMED CT codes and PTB-XL's SCP statements to CPSC 2018's nine classes."""


def read_code_map(path: Path) -> CodeMap:
    """Read a map of codes.

    Args:
        path: a CSV file with the columns ``from`` (a SNOMED CT code of the challenges' headers,
            an SCP statement of PTB-XL, or a class name of CPSC 2018) and ``to`` (a class).
            ``cpsc2018`` stands for :data:`CPSC_MAP`.

    Returns:
        The map.  Its classes are in the order in which the file first names them; the nine of
        CPSC 2018 are in the order of CPSC 2018.

    Raises:
        LabelError: naming file and line, if a cell is empty or a code is given two classes, or
            naming a class with an unusable name.
    """
    if str(path) == CPSC_TASK:
        return CPSC_MAP
    classes: dict[str, str] = {}
    for number, row in read_rows(path, ["from", "to"]):
        code, name = row["from"], row["to"]
        if not (code and name):
            raise LabelError(f"{path}, line {number}: a cell is empty; give both code and class.")
        if classes.setdefault(code.casefold(), name) != name:
            raise LabelError(
                f"{path}, line {number}: {code} is mapped to {name!r} and before that to"
                f" {classes[code.casefold()]!r}; keep one of the two lines."
            )
    code_map = CodeMap(tuple(dict.fromkeys(classes.values())), classes)
    _require_usable(code_map.class_names, path)
    if set(code_map.class_names) == set(CPSC_CLASSES):
        return replace(code_map, class_names=CPSC_CLASSES)
    return code_map
