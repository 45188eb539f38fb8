"""What the codes of classes mean."""

import csv
from pathlib import Path

from data_prep.class_names import snomed_name, spelled_out
from data_prep.labels import CPSC_CLASSES, CPSC_SNOMED, CPSC_TASK


def test_names_belong_to_their_task() -> None:
    assert spelled_out("AFIB", "rhythm") == spelled_out("AF", CPSC_TASK) == "atrial fibrillation"
    assert spelled_out("AFIB", CPSC_TASK) == spelled_out("AF", "all") == ""
    # AMI stands for an anterior infarction in PTB-XL and often for an acute one elsewhere.
    assert spelled_out("AMI", "all") == "anterior myocardial infarction"
    assert spelled_out("AMI", "my own task") == ""


def test_every_class_of_cpsc_has_a_name_and_each_code_its_meaning() -> None:
    assert all(spelled_out(name, CPSC_TASK) for name in CPSC_CLASSES[1:])  # Normal is a word
    assert snomed_name("164889003") == "atrial fibrillation"
    assert all(map(snomed_name, CPSC_SNOMED))
    assert snomed_name("1") == ""


def test_every_statement_of_ptbxl_has_a_name(shared_data: Path) -> None:
    (table,) = (shared_data / "ptbxl").glob("scp_statements.csv")
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for column, task in (("", "all"), ("diagnostic_class", "superdiagnostic"),
                             ("diagnostic_subclass", "subdiagnostic")):  # fmt: skip
            assert not row[column] or spelled_out(row[column], task), row
