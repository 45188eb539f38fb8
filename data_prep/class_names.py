"""Names of classes: which are usable, and what codes of CPSC 2018, PTB-XL and SNOMED CT mean.

PTB-XL's statements are named as in its scp_statements.csv; the SNOMED CT codes are those of the
PhysioNet/CinC Challenges 2020 and 2021, named as in their mapping tables.
"""

import csv
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from data_prep.labels import CPSC_CLASSES, CPSC_TASK, PTBXL_SUPERCLASSES, PTBXL_TASKS
from data_prep.names import require_name, shown

# Names of columns in answers.csv, and its word for no class; also columns named threshold_….
_RESERVED = ("recording", "found", "labels", "warnings", "seconds_used", "none above its threshold")
_ORDERS = {CPSC_TASK: CPSC_CLASSES, "superdiagnostic": PTBXL_SUPERCLASSES}


@cache
def _table() -> dict[tuple[str, str], str]:
    text = files("data_prep").joinpath("class_names.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {(row["scheme"], row["code"]): row["name"] for row in rows}


def spelled_out(class_name: str, task: str) -> str:
    """Return what a class of CPSC 2018 or PTB-XL stands for.

    Args:
        class_name: such as ``"AFIB"``.
        task: of the class; only the abbreviations of the built-in tasks are known.

    Returns:
        The name, such as ``"atrial fibrillation"``; empty if unknown.
    """
    scheme = "ptb-xl" if task in PTBXL_TASKS else task if task == CPSC_TASK else ""
    return _table().get((scheme, class_name), "")


def snomed_name(code: str) -> str:
    """Return the meaning of a SNOMED CT code of the challenges; empty if unknown."""
    return _table().get(("snomed-ct", code), "")


def require_class_names(names: Sequence[str], task: str = "") -> None:
    """Reject names that would spoil a table, or two that a reader would take for one.

    Args:
        names: of the classes of one task.
        task: if it is CPSC 2018 or PTB-XL's superclasses, they must be in its order.

    Raises:
        ValueError: naming the first such class.
    """
    order = _ORDERS.get(task, ())
    if set(order) & set(names) and tuple(names[: len(order)]) != order:
        raise ValueError(
            f"the classes of {task} are {', '.join(order)}, in this order, and not"
            f" {', '.join(map(shown, names))}; give them so, or another task's name"
        )
    before: dict[str, str] = {}
    for name in names:
        require_name(name, "class")
        folded = unicodedata.normalize("NFKC", name).casefold()
        if ";" in name:
            trouble = "must have no semicolon"
        elif folded in _RESERVED or folded.startswith("threshold_"):
            trouble = "is the name of a column in answers.csv, or its word for no class"
        elif folded in before:
            trouble = f"looks like the class {before[folded]!r}; write both alike, or rename one"
        else:
            before[folded] = name
            continue
        raise ValueError(f"the class name {name!r} {trouble}")
