import csv
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from make_records import write_ptbxl_tables, write_reference

from data_prep.errors import LabelError
from data_prep.labels import (
    PTBXL_SUPERCLASSES,
    PTBXL_TASKS,
    cpsc_order,
    encode,
    rarest_labels,
    read_ptbxl_tables,
    read_recordings,
    read_reference,
)

ROW = {
    "ecg_id": 1,
    "patient_id": "7.0",
    "scp_codes": "{'NORM': 80.0, 'SR': 0.0}",
    "strat_fold": 3,
    "filename_lr": "records100/00000/00001_lr",
}


def test_encode() -> None:
    assert encode((2, 0), 4).tolist() == [1, 0, 1, 0]
    assert encode((), 2).tolist() == [0, 0]
    assert encode((1,), 2).dtype == np.uint8


def test_all_public_cpsc_labels(shared_data: Path) -> None:
    reference = read_reference(shared_data / "labels/cpsc2018_REFERENCE.csv")
    assert len(reference) == 6877
    first = Counter(labels[0] for labels in reference.values())
    assert [first[i] for i in range(9)] == [918, 1098, 704, 207, 1695, 574, 653, 826, 202]
    assert sum(len(labels) > 1 for labels in reference.values()) == 476


def test_reference_keeps_the_order_of_labels(tmp_path: Path) -> None:
    path = write_reference(tmp_path / "r.csv", {"A1": [8, 5], "A2": [1], "A3": [9, 1, 4]})
    assert read_reference(path) == {"A1": (7, 4), "A2": (0,), "A3": (8, 0, 3)}


def test_the_order_of_cpsc_labels_ships_with_the_package(shared_data: Path) -> None:
    reference = read_reference(shared_data / "labels/cpsc2018_REFERENCE.csv")
    several = {name: labels for name, labels in reference.items() if len(labels) > 1}
    assert cpsc_order() == several and len(several) == 476


def test_columns_of_a_reference_in_any_letter_case(tmp_path: Path) -> None:
    path = tmp_path / "REFERENCE.csv"
    path.write_text("recording,FIRST_LABEL,second_label,third_label\nA0001,5,1,\n")
    assert read_reference(path) == {"A0001": (4, 0)}


def test_reference_by_names(tmp_path: Path) -> None:
    path = write_reference(tmp_path / "r.csv", {"A1": ["rbbb", 2], "A2": ["Normal"], "A3": ["STE"]})
    assert read_reference(path) == {"A1": (4, 1), "A2": (0,), "A3": (8,)}


def test_the_rarest_label_is_the_main_one_if_no_order_is_known() -> None:
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 0], [1, 1, 0], [0, 0, 0]])
    first = np.array([-1, -1, -1, -1, 0, -1])
    # Four records have each of the first two classes: the first counts as the rarer.
    assert rarest_labels(labels, first).tolist() == [0, 0, 2, 1, 0, -1]


def test_reference_saved_by_a_spreadsheet(tmp_path: Path) -> None:
    """A byte-order mark, numbers as 5.0, spaces, and no column Third_label."""
    path = tmp_path / "r.csv"
    path.write_text("\ufeffRecording, First_label,Second_label\r\n A1 ,5.0,\r\n", encoding="utf-8")
    assert read_reference(path) == {"A1": (4,)}


@pytest.mark.parametrize("label", ["0", "10", "-1", "2.5", "RBB", "nan"])
def test_reference_with_an_unknown_label(tmp_path: Path, label: str) -> None:
    path = write_reference(tmp_path / "r.csv", {"A1": [1], "A2": [3, label]})
    with pytest.raises(LabelError, match=r"r\.csv, line 3: label '.*' is unknown"):
        read_reference(path)


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("", "no column 'Recording'"),
        ("name;First_label\nA1;1\n", "no column 'Recording'"),
        ("Recording\nA1\n", "no column 'First_label'"),
        ("Recording,First_label\n", "has a header line only"),
        ("Recording,First_label\nA1,\n", "line 2: A1 has no First_label"),
        ("Recording,First_label\n,3\n", "line 2: the column Recording is empty"),
        ("Recording,First_label\nA1,3\nA1,4\n", "line 3: A1 is listed twice"),
    ],
)
def test_broken_reference(tmp_path: Path, text: str, trouble: str) -> None:
    path = tmp_path / "r.csv"
    path.write_text(text)
    with pytest.raises(LabelError, match=trouble) as caught:
        read_reference(path)
    assert str(path) in str(caught.value)


def test_reference_that_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_bytes(b"Recording\xff\xfe\n")
    with pytest.raises(LabelError, match="not a CSV file in UTF-8"):
        read_reference(tmp_path / "r.csv")
    with pytest.raises(LabelError, match="cannot be read"):
        read_reference(tmp_path / "absent.csv")


def test_read_recordings(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text("site,Recording\n1,B2\n2,A1\n")
    assert read_recordings(path) == ("B2", "A1")
    path.write_text("site,Recording\n\n1,B2\n\n2,\n")
    with pytest.raises(LabelError, match="line 5: the column Recording is empty"):
        read_recordings(path)
    path.write_text("site,name\n1,B2\n")
    with pytest.raises(LabelError, match="no column 'Recording' but 'site, name'"):
        read_recordings(path)


def test_ptbxl_classes_and_likelihoods(tmp_path: Path) -> None:
    row = ROW | {"scp_codes": "{'ILMI': 0.0, 'NDT': 15.0, 'IMI': 50, 'AFIB': 0.0}"}
    tables = read_ptbxl_tables(write_ptbxl_tables(tmp_path, [row]))
    assert tables.class_names["superdiagnostic"] == PTBXL_SUPERCLASSES
    assert tables.class_names["subdiagnostic"] == ("STTC", "NORM", "IMI", "LVH", "CLBBB")
    assert tables.class_names["form"] == ("NDT", "PVC")
    assert tables.class_names["rhythm"] == ("SR", "AFIB")
    (record,) = tables.records
    named = {
        task: [tables.class_names[task][i] for i in tables.labels(task, record.statements)]
        for task in PTBXL_TASKS
    }
    assert named == {
        "all": ["NDT", "IMI", "ILMI", "AFIB"],
        "diagnostic": ["NDT", "IMI", "ILMI"],
        "subdiagnostic": ["STTC", "IMI"],
        "superdiagnostic": ["MI", "STTC"],
        "form": ["NDT"],
        "rhythm": ["AFIB"],
    }


@pytest.mark.parametrize(
    ("age", "sex", "expected"), [("56.0", "1", (56.0, "female")), ("300", "0", (math.nan, "male"))]
)
def test_ptbxl_person(tmp_path: Path, age: str, sex: str, expected: tuple[float, str]) -> None:
    row = ROW | {"age": age, "sex": sex, "filename_hr": "records500/00000/00001_hr"}
    (record,) = read_ptbxl_tables(write_ptbxl_tables(tmp_path, [row])).records
    assert (record.patient, record.fold, record.sex) == ("7", 3, expected[1])
    assert record.age == pytest.approx(expected[0], nan_ok=True)
    assert record.filename_hr == "records500/00000/00001_hr"


@pytest.mark.parametrize(
    ("column", "value", "trouble"),
    [
        ("scp_codes", "{'XYZ': 100.0}", "line 2: the statement 'XYZ' is unknown"),
        ("scp_codes", "NORM|SR", "line 2: a column cannot be understood"),
        ("strat_fold", "", "line 2: a column cannot be understood"),
        ("patient_id", "inf", "line 2: a column cannot be understood"),
        ("patient_id", "x", "line 2: a column cannot be understood"),
    ],
)
def test_broken_ptbxl_database(tmp_path: Path, column: str, value: str, trouble: str) -> None:
    write_ptbxl_tables(tmp_path, [ROW | {column: value}])
    with pytest.raises(LabelError, match=trouble) as caught:
        read_ptbxl_tables(tmp_path)
    assert "ptbxl_database.csv" in str(caught.value)


def test_broken_ptbxl_statements(tmp_path: Path) -> None:
    write_ptbxl_tables(tmp_path, [ROW])
    path = tmp_path / "scp_statements.csv"
    path.write_text(path.read_text().replace("MI,IMI", ",IMI", 1))
    with pytest.raises(LabelError, match=r"scp_statements\.csv, line 4: .* IMI has no class"):
        read_ptbxl_tables(tmp_path)
    path.write_text(path.read_text().replace("form", "shape"))
    with pytest.raises(LabelError, match="no column 'form'"):
        read_ptbxl_tables(tmp_path)


def test_all_ptbxl_labels(shared_data: Path, tmp_path: Path) -> None:
    """Classes and records of every task and fold of release 1.0.3, counted another way."""
    with open(shared_data / "labels/ptbxl_scp_codes.csv", newline="") as file:
        published = list(csv.DictReader(file))
    rows = [
        ROW
        | {
            "patient_id": i,
            "strat_fold": line["strat_fold"],
            "scp_codes": str(dict.fromkeys(filter(None, line["scp_codes"].split("|")), 0.0)),
        }
        for i, line in enumerate(published)
    ]
    write_ptbxl_tables(tmp_path, rows)
    statements = shared_data / "ptbxl/scp_statements.csv"
    (tmp_path / "scp_statements.csv").write_bytes(statements.read_bytes())
    tables = read_ptbxl_tables(tmp_path)
    assert len(tables.records) == 21_799
    assert [len(tables.class_names[task]) for task in PTBXL_TASKS] == [71, 44, 23, 5, 19, 12]

    # The other way: text of the two files, sets, no code of ours.
    with open(statements, newline="") as file:
        known = {line[""]: line for line in csv.DictReader(file)}
    column = {"subdiagnostic": "diagnostic", "superdiagnostic": "diagnostic"}
    records: dict[str, int] = {}
    for task in PTBXL_TASKS:
        counted: Counter[int] = Counter()
        for line in published:
            names = [s for s in line["scp_codes"].split("|") if s]
            flags = [task == "all" or known[s][column.get(task, task)] == "1.0" for s in names]
            counted[int(line["strat_fold"])] += any(flags)
        ours = Counter(r.fold for r in tables.records if tables.labels(task, r.statements))
        assert ours == +counted
        records[task] = sum(ours.values())
    # What the benchmark's published code finds in this release.
    assert records["superdiagnostic"] == records["diagnostic"] == 21_388
    # One class counted over the whole set: normal ECGs.
    norm = tables.class_names["superdiagnostic"].index("NORM")
    ours_norm = sum(norm in tables.labels("superdiagnostic", r.statements) for r in tables.records)
    assert ours_norm == sum("NORM" in line["scp_codes"].split("|") for line in published)
