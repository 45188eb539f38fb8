"""The meaning of class codes: one table for CPSC 2018, PTB-XL and SNOMED CT.

PTB-XL's statements are named as in its scp_statements.csv; the SNOMED CT codes are those of the
PhysioNet/CinC Challenges 2020 and 2021, named as in their mapping tables.
"""

import csv
from functools import cache
from importlib.resources import files

from data_prep.labels import CPSC_TASK, PTBXL_TASKS


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
