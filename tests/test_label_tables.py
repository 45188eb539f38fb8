"""Tables and maps of the user's own."""

import math
import time
from pathlib import Path

import pytest

from data_prep.errors import LabelError
from data_prep.label_tables import CPSC_MAP, read_code_map, read_label_table
from data_prep.labels import CPSC_CLASSES, CPSC_SNOMED


def written(folder: Path, text: str) -> Path:
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def test_names_in_one_column_keep_their_order(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "Recording,labels,site,patient,age,sex\n"
        "r1,slow; fast,A,p1,50,F\nr2,fast,B,p1,,\nr3,,B,,70.5,Male\nr2,fast,B,p1,,\n",
    )
    table = read_label_table(path, "speed")
    assert (table.task, table.class_names, table.in_order) == ("speed", ("fast", "slow"), True)
    assert {name: line.labels for name, line in table.lines.items()} == {
        "r1": (1, 0),
        "r2": (0,),
        "r3": (),
    }
    first, last = table.lines["r1"], table.lines["r3"]
    assert (first.number, first.patient, first.age, first.sex, first.fold) == (
        *(2, "p1", 50.0, "female"),
        0,
    )
    assert (last.patient, last.age, last.sex) == ("", 70.5, "male")
    assert math.isnan(table.lines["r2"].age)


def test_a_column_for_each_class(tmp_path: Path) -> None:
    path = written(tmp_path, ",Recording,slow,fast,fold\n0,r1,1,0,3\n1,r2,1.0,1,10\n")
    table = read_label_table(path, "speed")
    assert (table.class_names, table.in_order) == (("slow", "fast"), False)
    assert [(line.labels, line.fold) for line in table.lines.values()] == [((0,), 3), ((0, 1), 10)]


def test_classes_of_cpsc_have_their_names_and_order(tmp_path: Path) -> None:
    table = read_label_table(written(tmp_path, "Recording,labels\na,rbbb;af\nb,RBBB\n"), "mine")
    assert table.class_names == ("AF", "RBBB")
    assert [line.labels for line in table.lines.values()] == [(1, 0), (1,)]
    # The task itself has all nine, by name or number.
    table = read_label_table(written(tmp_path, "Recording,labels\na,5;af\n"), "cpsc2018")
    assert table.class_names == CPSC_CLASSES and table.lines["a"].labels == (4, 1)
    table = read_label_table(written(tmp_path, "Recording,AF,STE\na,1,0\n"), "cpsc2018")
    assert table.class_names == CPSC_CLASSES and table.lines["a"].labels == (1,)


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        ("name,labels\na,x\n", "has no column 'Recording'"),
        ("Recording,patient\na,p\n", "has neither a column 'labels' nor"),
        ("Recording,labels\n,x\n", "line 2: the column Recording is empty"),
        ("Recording,labels\na,x\nb,\na,y\n", "line 4: a is also in line 2, with other labels"),
        ("Recording,labels\na,\n", "gives no record a label"),
        ("Recording,x,y\na,1,0\nb,1,0\n", "line 1: no record has the class 'y'"),
        ("Recording,x,site\na,1,A\n", "line 2: the column 'site' holds 'A' and not 0 or 1"),
        ("Recording,x\na,1\nb,\n", "line 3: the column 'x' holds ''"),
        ("Recording,labels,fold\na,x,11\n", "line 2: the fold '11'"),
        ("Recording,labels,fold\na,x,1\nb,x,\n", "line 3: b has no fold"),
        ("Recording,labels,age\na,x,old\n", "line 2: the age 'old'"),
        ("Recording,labels,sex\na,x,2\n", "line 2: the sex '2'"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, trouble: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(LabelError, match=trouble) as caught:
        read_label_table(path, "mine")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("names", "trouble"),
    [
        ("A\x1b[31m", "control"),
        ("A\u202eB", "control"),
        ('"A\nB"', "line breaks"),
        ("A" * 101, "100 characters"),
        ("B;b", "looks like the class 'B'"),
        ("\u00e9;e\u0301", "looks like"),
        ("A;threshold_A", "answers.csv"),
        ("A;Found", "answers.csv"),
        ("none above its threshold", "answers.csv"),
    ],
)
def test_unusable_class_names(tmp_path: Path, names: str, trouble: str) -> None:
    """They would spoil tables and the terminal, or look alike."""
    path = written(tmp_path, f"Recording,labels\na,{names}\n")
    with pytest.raises(LabelError, match=f"labels.csv: the class name .*{trouble}"):
        read_label_table(path, "mine")
    last = names.split(";")[-1]
    path.write_text(f"from,to\n1,B\n2,\u00e9\n3,{last}\n")
    with pytest.raises(LabelError, match=f"labels.csv: the class name .*{trouble[:5]}"):
        read_code_map(path)


def test_many_columns_take_no_square_of_time(tmp_path: Path) -> None:
    columns = ",".join(f"c{i}" for i in range(50_000))
    path = written(tmp_path, f"Recording,{columns}\na{',1' * 50_000}\n")
    start = time.process_time()
    assert len(read_label_table(path, "mine").class_names) == 50_000
    assert time.process_time() - start < 10  # seconds; a square is a minute


def test_a_column_given_twice(tmp_path: Path) -> None:
    path = written(tmp_path, "Recording,labels,labels\na,A,B\n")
    with pytest.raises(LabelError, match="several columns 'labels'"):
        read_label_table(path, "mine")


@pytest.mark.parametrize("text", ["Recording,labels\na,RBB\n", "Recording,RBB\na,0\n"])
def test_only_the_classes_of_cpsc_for_its_task(tmp_path: Path, text: str) -> None:
    with pytest.raises(LabelError, match=r"line [12]: label 'RBB' is unknown"):
        read_label_table(written(tmp_path, text), "cpsc2018")


def test_recordings_and_numbers(tmp_path: Path) -> None:
    rows = "".join(f"r{i},{'x' if i else 'y'},p{i // 2}\n" for i in range(20))
    table = read_label_table(written(tmp_path, "Recording,labels,patient\n" + rows), "mine")
    table.require_recordings([f"r{i}" for i in range(21)])
    with pytest.raises(
        LabelError, match=r"line 21: there is no recording named 'r19' among the 19"
    ):
        table.require_recordings([f"r{i}" for i in range(19)])
    free = dict.fromkeys(table.lines, 0)
    with pytest.raises(
        LabelError, match=r"line 2: the class 'y' has 1 patients, fewer than the 10"
    ):
        table.require_enough(10, free)
    table.require_enough(1, free)
    # What has a fold fills it; what is left out does not count.
    folds = {f"r{i}": i // 2 + 1 for i in range(12)}
    table.require_enough(9, {**free, **folds})
    with pytest.raises(LabelError, match="the class 'x' has 4 patients, fewer than the 5 folds"):
        table.require_enough(11, {**free, **folds, "r0": 7})
    with pytest.raises(LabelError, match="the class 'x' has 9 patients, fewer than the 10 folds"):
        table.require_enough(10, {f"r{i}": 0 for i in range(2, 20)})
    left = {f"r{i}": 0 for i in range(2, 20)}
    for without in (left, {**left, "r0": 10}):  # for testing
        with pytest.raises(
            LabelError, match=r"'y' has 0 patients, .* merge it with another class\."
        ):
            table.require_enough(9, without)


def test_codes_by_name_snomed_and_scp() -> None:
    assert list(CPSC_SNOMED.values()) == list(CPSC_CLASSES)
    assert CPSC_MAP.labels(CPSC_SNOMED) == tuple(range(9))
    assert CPSC_MAP.labels(["i-avb", " NORMAL", "164889003"]) == (2, 0, 1)
    # Two names of one class count once, and other diagnoses (sinus bradycardia) not at all.
    assert CPSC_MAP.labels(["RBBB", "59118001", "426177001", ""]) == (4,)
    statements = ("NORM", "AFIB", "1AVB", "CLBBB", "CRBBB", "PAC", "PVC", "STD_", "STE_")
    assert CPSC_MAP.labels(statements) == tuple(range(9))
    assert CPSC_MAP.labels(["IRBBB", "SR", "LVH"]) == (4,)
    same = {"713427006": "RBBB", "63593006": "PAC", "427172004": "PVC", "17338001": "PVC"}
    assert CPSC_MAP.labels(same) == (4, 5, 6) and CPSC_MAP.labels(["733534002"]) == (3,)


def test_a_map_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text("from,to,note\n164889003,flutter or AF,\nAFIB,flutter or AF,\nSR,sinus,x\n")
    code_map = read_code_map(path)
    assert code_map.class_names == ("flutter or AF", "sinus")
    assert code_map.labels(["sr", "LVH", "AFIB", "164889003"]) == (1, 0)
    path.write_text("from,to\n" + "".join(f"{i},{n}\n" for i, n in enumerate(CPSC_CLASSES[::-1])))
    assert read_code_map(path).class_names == CPSC_CLASSES
    assert read_code_map(Path("cpsc2018")) is CPSC_MAP
    for text, trouble in (
        ("from,to\na,\n", "line 2: a cell is empty"),
        ("from,to\na,x\nA,y\n", "line 3: A is mapped to 'y' and before that to 'x'"),
        ("code,to\na,x\n", "no column 'from'"),
    ):
        path.write_text(text)
        with pytest.raises(LabelError, match=trouble):
            read_code_map(path)
