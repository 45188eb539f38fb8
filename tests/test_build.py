import csv
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cluster import cluster
from format_files import write_edf, write_table
from make_records import (
    sine_leads,
    write_cpsc,
    write_ptbxl,
    write_reference,
    write_struct,
    write_wfdb,
)
from test_commands import exit_of

from data_prep import synthetic
from data_prep.errors import ECGError, LabelError, OptionError, RecordError, StoreError
from data_prep.labels import read_ptbxl_tables
from data_prep.records import read_record
from data_prep.signals import resample
from data_prep.splits import random_folds, stratified_folds
from data_prep.store import Store, _Disk
from data_prep.storing import build
from data_prep.storing.build import main
from data_prep.storing.entries import select
from data_prep.storing.folders import inspect_folder

SETS = [
    {"NORM": 100.0, "SR": 0.0},
    {"ILMI": 15.0, "NDT": 0.0, "AFIB": 0.0},
    {"PVC": 100.0},
    {"CLBBB": 0.0, "LVH": 50.0},
]


def rejected(out: Path) -> dict[str, str]:
    with open(out.with_suffix(".rejected.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(Path(row["file"]).name.startswith(row["record"]) for row in rows)
    return {row["record"]: row["reason"] for row in rows}


def test_cpsc_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write_cpsc(tmp_path / "cpsc", 14), tmp_path / "out" / "cpsc.h5"
    write_struct(source, "A0015", sine_leads(1000, seed=15), sex="Male", age=70)
    labels = {f"A{i + 1:04d}": [i % 9 + 1] for i in range(14)} | {"A0015": [8, 2, 5]}
    write_reference(source / "REFERENCE.csv", labels)
    main(source=(source,), out=out, workers=1)

    assert capsys.readouterr().out == f"{out}: 15 records at 250 Hz.\n"
    assert rejected(out) == {}
    with Store(out) as store:
        assert (store.dataset, store.fs, store.tasks) == ("cpsc2018", 250.0, ("cpsc2018",))
        assert store.ids.tolist() == sorted(labels)
        assert store.class_names()[:2] == ("Normal", "AF")
        assert store.first_labels().tolist() == [labels[name][0] - 1 for name in store.ids]
        for row, name in zip(store.labels(), store.ids, strict=True):
            assert np.flatnonzero(row).tolist() == sorted(label - 1 for label in labels[name])
        assert set(store.folds.tolist()) == set(range(1, 11))
        assert (store.ages[14], store.sexes[14]) == (70.0, "male")
        assert store.provenance["source"] == ["cpsc"]
        assert store.provenance["options"]["rate"] == 250.0
        for i in (0, 14):
            record = read_record(source / store.ids[i])
            expected = resample(record.signal, fs=500, target_fs=250)
            np.testing.assert_array_equal(store.signal(i), expected)


def test_only_a_store_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the labels or records, as after a slip in --out."""
    source = write_cpsc(tmp_path / "cpsc", 14)
    before = {path: path.read_bytes() for path in source.iterdir()}
    for name in ("REFERENCE.csv", "A0001.hea", "A0001.mat"):
        with pytest.raises(StoreError, match=f"{name} exists and is not a store"):
            main(source=(source,), out=source / name, workers=1)
    monkeypatch.chdir(source)
    for out in (Path(), Path("/"), source):
        with pytest.raises(OptionError, match="is a folder; give a file in it"):
            main(source=(source,), out=out, workers=1)
    assert {path: path.read_bytes() for path in source.iterdir()} == before


def test_folds_are_stratified_or_random(tmp_path: Path) -> None:
    source = write_cpsc(tmp_path / "cpsc", 20)
    write_reference(source / "REFERENCE.csv", {f"A{i + 1:04d}": [i % 2 + 1] for i in range(20)})
    stratified, random = tmp_path / "stratified.h5", tmp_path / "random.h5"
    main(source=(source,), out=stratified, workers=1, seed=3)
    main(source=(source,), out=random, workers=1, seed=3, folds="random")
    with Store(stratified) as one, Store(random) as other:
        np.testing.assert_array_equal(one.folds, stratified_folds(one.labels(), seed=3))
        np.testing.assert_array_equal(other.folds, random_folds(20, seed=3))
        assert one.provenance["options"]["folds"] == "stratified"
        assert other.provenance["options"]["folds"] == "random"


def test_recordings_of_other_formats_become_a_store(tmp_path: Path) -> None:
    source, out = tmp_path / "mine", tmp_path / "mine.h5"
    source.mkdir()
    signals = {f"A{i}": sine_leads(1000, seed=i) for i in range(11)}
    for name, of_record in signals.items():
        write_table(source / f"{name}.csv", 1000 * of_record)
    write_edf(source / "A11.edf", sine_leads(1000, seed=11), fs=250, unit="mV")
    np.save(source / "A12.npy", sine_leads(1000, seed=12))
    write_reference(source / "REFERENCE.csv", {f"A{i}": [i % 3 + 1] for i in range(13)})
    with pytest.raises(StoreError, match="none of the 12 records is usable"):
        (source / "A11.edf").rename(tmp_path / "A11.edf")
        main(source=(source,), out=out, workers=1)
    (tmp_path / "A11.edf").rename(source / "A11.edf")
    assert "A0.csv does not state its sampling rate" in rejected(out)["A0"]
    main(source=(source,), out=out, fs=500, unit="uV", workers=1)
    reasons = rejected(out)
    assert set(reasons) == {"A12"}  # it is not in microvolts
    assert "A12.npy holds no ECG in the unit it states" in reasons["A12"]
    with Store(out) as store:
        assert store.ids.tolist() == sorted([*signals, "A11"])  # which states its own
        assert (store.provenance["options"]["fs"], store.provenance["options"]["unit"]) == (
            500,
            "uV",
        )
        for i, name in enumerate(store.ids):
            if name == "A11":
                expected = read_record(source / "A11.edf").signal
            else:
                expected = resample(signals[name].astype(np.float32), fs=500, target_fs=250)
            np.testing.assert_allclose(store.signal(i), expected, atol=1e-5)


def test_without_a_table_of_labels_a_format_without_diagnoses_is_refused(tmp_path: Path) -> None:
    write_edf(tmp_path / "A1.edf", sine_leads(1000), fs=250)
    with pytest.raises(StoreError):
        main(source=(tmp_path,), out=tmp_path / "mine.h5", workers=1)
    assert rejected(tmp_path / "mine.h5")["A1"].endswith(
        "its diagnoses are not given; give it one in a REFERENCE.csv or with --labels, or leave"
        " this recording out."
    )


def test_unusable_records_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write_cpsc(tmp_path / "cpsc", 14), tmp_path / "cpsc.h5"
    (source / "A0001.mat").write_bytes(b"")
    broken = sine_leads(1000)
    broken[:300, 7] = np.nan
    write_wfdb(source, "A0002", broken)
    write_wfdb(source, "A0099", sine_leads(1000), comments=["Dx: AF"])
    holed = sine_leads(1000)
    holed[100:110, 7] = np.nan
    write_wfdb(source, "A0003", holed)
    main(source=(source,), out=out, workers=1)

    reasons = rejected(out)
    assert sorted(reasons) == ["A0001", "A0002", "A0099"]
    assert "A0001.mat is cut short" in reasons["A0001"]
    assert "A0002.hea: 30% of lead V2 is invalid" in reasons["A0002"]
    assert "A0099.hea has no label of a known class: the table" in reasons["A0099"]
    assert "3 of 15 records could not be used; their reasons are in" in capsys.readouterr().out
    with Store(out) as store:
        assert store.ids.tolist() == [f"A{i:04d}" for i in range(3, 15)]
        assert np.isfinite(store.signal(0)).all()


def test_strict_stops_and_leaves_what_was_read(tmp_path: Path) -> None:
    source = write_cpsc(tmp_path / "cpsc", 14)
    (source / "A0009.mat").write_bytes(b"")
    (tmp_path / "out").mkdir()
    with pytest.raises(RecordError, match=r"A0009\.mat is cut short"):
        main(source=(source,), out=tmp_path / "out" / "c.h5", workers=1, strict=True)
    assert os.listdir(tmp_path / "out") == ["c.journal"]


def test_an_error_that_is_not_of_the_records_costs_no_reading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "georgia", tmp_path / "out" / "g.h5"
    for i in range(12):
        write_wfdb(source, f"E{i:02d}", sine_leads(1000, seed=i), comments=["Dx: 426177001"])
    with pytest.raises(StoreError, match="none of the 12 records is usable"):
        main(source=(source,), out=out, workers=1)
    assert sorted(os.listdir(out.parent)) == ["g.journal", "g.rejected.csv"]
    write_reference(source / "REFERENCE.csv", {f"E{i:02d}": [i % 9 + 1] for i in range(12)})
    main(source=(source,), out=out, workers=1)
    assert "12 of 12 records were already read" in capsys.readouterr().out
    assert sorted(os.listdir(out.parent)) == ["g.h5", "g.rejected.csv"]


def test_stores_that_differ_in_their_ending_share_no_file(tmp_path: Path) -> None:
    source, out = write_cpsc(tmp_path / "cpsc", 12), tmp_path / "out"
    for rate in (100, 250):
        main(source=(source,), out=out / f"s.{rate}", workers=1, rate=rate)
    (source / "A0001.mat").write_bytes(b"")
    with pytest.raises(RecordError, match="is cut short"):
        main(source=(source,), out=out / "s.500", workers=1, rate=500, strict=True)
    assert sorted(os.listdir(out)) == [
        *("s.100", "s.100.rejected.csv", "s.250", "s.250.rejected.csv"),
        "s.500.journal",
    ]


def test_labels_from_headers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "georgia", tmp_path / "g.h5"
    diagnoses = ["426783006", "AF,RBBB", "426177001", "164931005,426177001"] + ["STD"] * 10
    for i, text in enumerate(diagnoses):
        write_wfdb(source, f"E{i:02d}", sine_leads(1000, seed=i), comments=[f"Dx: {text}"])
    main(source=(source,), out=out, workers=1)
    printed = capsys.readouterr()
    assert "georgia has no REFERENCE.csv: labels are taken from the headers" in printed.err
    assert "1 records have several labels of cpsc2018, in no known order" in printed.out
    assert list(rejected(out)) == ["E02"]
    assert "its diagnoses are 426177001 (sinus bradycardia)" in rejected(out)["E02"]
    with Store(out) as store:
        assert store.ids.tolist()[:4] == ["E00", "E01", "E03", "E04"]
        assert [np.flatnonzero(row).tolist() for row in store.labels()[:4]] == [
            [0],
            [1, 4],
            [8],
            [7],
        ]
        assert store.first_labels()[:4].tolist() == [0, -1, 8, 7]


def test_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    source = write_cpsc(tmp_path / "cpsc", 80, seconds=1.5)
    (source / "A0040.mat").write_bytes(b"")
    for name, workers in [("a", 1), ("b", 2), ("c", 1)]:
        main(source=(source,), out=tmp_path / name / "s.h5", workers=workers)
    first = (tmp_path / "a" / "s.h5").read_bytes()
    assert (tmp_path / "b" / "s.h5").read_bytes() == first
    assert (tmp_path / "c" / "s.h5").read_bytes() == first
    main(source=(source,), out=tmp_path / "d" / "s.h5", workers=1, seed=1)
    with Store(tmp_path / "a" / "s.h5") as a, Store(tmp_path / "d" / "s.h5") as d:
        assert (a.folds != d.folds).any()
        np.testing.assert_array_equal(a.signal(70), d.signal(70))


def test_leave_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out, test = write_cpsc(tmp_path / "cpsc", 14), tmp_path / "s.h5", tmp_path / "test.csv"
    test.write_text("Recording\nA0002\nA0014\nB0001\n")
    main(source=(source,), out=out, workers=1, leave_out=test)
    printed = capsys.readouterr().out
    assert "2 records named in" in printed
    assert "1 of the 3 names in" in printed and "more records" not in printed
    with Store(out) as store:
        assert len(store) == 12 and not {"A0002", "A0014"} & set(store.ids.tolist())
        assert store.provenance["options"]["leave_out"] == "test.csv"
    test.write_text("Recording\n" + "".join(f"A{i:04d}\n" for i in range(1, 15)))
    with pytest.raises(LabelError, match=r"test\.csv leaves none of the 14 records found"):
        main(source=(source,), out=out, workers=1, leave_out=test)
    test.write_text("Recording\nA0002.mat\n")
    with pytest.raises(LabelError, match=r"test\.csv names none of the records found"):
        main(source=(source,), out=out, workers=1, leave_out=test)


def test_leave_out_takes_whole_patients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_ptbxl(tmp_path / "ptbxl", [{"NORM": 100.0}] * 6, hr=False)
    database = source / "ptbxl_database.csv"
    assert ",101" in database.read_text()
    database.write_text(database.read_text().replace(",106", ",101").replace("106,", "101,"))
    test = tmp_path / "test.csv"
    test.write_text("Recording\n00001_lr\n")
    main(source=(source,), out=tmp_path / "s.h5", workers=1, leave_out=test)
    assert "1 more records of the same patients are left out too" in capsys.readouterr().out
    with Store(tmp_path / "s.h5") as store:
        assert store.ids.tolist() == [f"0000{i}_lr" for i in (2, 3, 4, 5)]


def test_patients_in_two_folders_of_ptbxl(tmp_path: Path) -> None:
    sources = tmp_path / "train", tmp_path / "test"
    for folder in sources:
        write_ptbxl(folder, [{"NORM": 100.0}] * 3, hr=False)
    database = sources[0] / "ptbxl_database.csv"
    database.write_text(database.read_text().replace(",103.0,", ",,").replace("3,103.0", "3,"))
    entries = select(sources, rate=100).entries
    assert sorted(entry.patient for entry in entries) == [
        "",
        *("ptb-xl 101", "ptb-xl 101", "ptb-xl 102", "ptb-xl 102", "ptb-xl 103"),
    ]


def test_reference_given_or_found_in_folders_below(tmp_path: Path) -> None:
    write_cpsc(tmp_path / "both" / "a", 12)
    write_wfdb(tmp_path / "both" / "b", "A0100", sine_leads(1000))
    below = write_reference(tmp_path / "both" / "b" / "REFERENCE.csv", {"A0100": [9]})
    main(source=(tmp_path / "both",), out=tmp_path / "s.h5", workers=1)
    with Store(tmp_path / "s.h5") as store:
        assert store.first_labels()[store.ids == "A0100"].tolist() == [8]

    given = write_reference(tmp_path / "mine.csv", {f"A{i:04d}": [3] for i in range(1, 12)})
    main(source=(tmp_path / "both",), out=tmp_path / "s.h5", workers=1, reference=given)
    with Store(tmp_path / "s.h5") as store:
        assert store.first_labels().tolist() == [2] * 11
    assert sorted(rejected(tmp_path / "s.h5")) == ["A0012", "A0100"]

    write_reference(below, {"A0100": [9], "A0001": [7]})
    with pytest.raises(LabelError, match="gives A0001 other labels than another"):
        main(source=(tmp_path / "both",), out=tmp_path / "s.h5", workers=1)


def test_two_sources_and_a_record_in_both(tmp_path: Path) -> None:
    first, second = write_cpsc(tmp_path / "x", 12), write_cpsc(tmp_path / "y", 1)
    write_wfdb(second, "A0001", 2 * sine_leads(1000))
    write_wfdb(second, "B0001", sine_leads(1000))
    write_reference(second / "REFERENCE.csv", {"A0001": [5], "B0001": [6]})
    main(source=(first, second), out=tmp_path / "s.h5", workers=1, rate=500)
    with Store(tmp_path / "s.h5") as store:
        assert len(store) == 13 and store.fs == 500
        np.testing.assert_array_equal(store.signal(0), read_record(first / "A0001").signal)
        assert store.first_labels()[0] == 0
    assert "has the name of" in rejected(tmp_path / "s.h5")["A0001"]


def test_a_source_whose_name_is_not_in_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"folder\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this disk takes names in UTF-8 only")
    write_cpsc(folder, 3)
    cpsc = write_cpsc(tmp_path / "cpsc", 20)
    for i in range(1, 4):
        (cpsc / f"A{i:04d}.hea").unlink()
        (cpsc / f"A{i:04d}.mat").unlink()
    main(source=(folder, cpsc), out=tmp_path / "s.h5", workers=1, test_source=(str(folder),))
    with Store(tmp_path / "s.h5") as store:
        assert store.sources[store.folds == 10].tolist() == ["folder\\udce9"] * 3


def test_ptbxl_store(tmp_path: Path) -> None:
    source, out = write_ptbxl(tmp_path / "ptbxl", SETS, hr=False), tmp_path / "p.h5"
    main(source=(source,), out=out, workers=1)
    with Store(out) as store:
        assert (store.dataset, store.fs) == ("ptb-xl", 100.0)
        assert set(store.tasks) == {
            "all",
            "diagnostic",
            "subdiagnostic",
            "superdiagnostic",
            "form",
            "rhythm",
        }
        assert store.ids.tolist() == [f"{i:05d}_lr" for i in range(1, 5)]
        assert store.folds.tolist() == [1, 2, 3, 4]
        assert store.patients.tolist() == ["101", "102", "103", "104"]
        assert store.sexes.tolist() == ["female", "male"] * 2
        assert np.isnan(store.ages[0]) and store.ages[1:].tolist() == [42, 43, 44]
        assert store.first_labels("all").tolist() == [-1] * 4
        assert store.class_names("superdiagnostic") == ("NORM", "MI", "STTC", "CD", "HYP")
        assert store.labels("superdiagnostic").tolist() == [
            [1, 0, 0, 0, 0],
            [0, 1, 1, 0, 0],
            [0, 0, 0, 0, 0],
            [0, 0, 0, 1, 1],
        ]
        assert store.records_of("superdiagnostic").tolist() == [0, 1, 3]
        assert store.records_of("form").tolist() == [1, 2]
        np.testing.assert_allclose(store.signal(2), sine_leads(1000, fs=100, seed=3), atol=1e-6)


def test_the_tables_of_ptbxl_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = [write_ptbxl(tmp_path / name, SETS, hr=False) for name in "ab"]
    read = list[Path]()

    def counted(folder: Path) -> Any:
        read.append(folder)
        return read_ptbxl_tables(folder)

    monkeypatch.setattr("data_prep.storing.entries.read_ptbxl_tables", counted)
    select(tuple(sources), rate=100)
    assert read == sources
    statements = sources[1] / "scp_statements.csv"
    statements.write_text(statements.read_text().replace("MI,IMI", "MI,LMI"))
    with pytest.raises(LabelError, match=r"b/scp_statements\.csv differs from that of .*a; use"):
        select(tuple(sources), rate=100)


def test_ptbxl_at_500_hz(tmp_path: Path) -> None:
    source, out = write_ptbxl(tmp_path / "ptbxl", SETS, hr=True), tmp_path / "p.h5"
    main(source=(source,), out=out, workers=1, rate=250)
    with Store(out) as store:
        assert store.ids.tolist()[0] == "00001_hr"
        fine = sine_leads(5000, fs=500, seed=1)
        np.testing.assert_allclose(
            store.signal(0), resample(fine, fs=500, target_fs=250), atol=1e-5
        )
    main(source=(source,), out=out, workers=1)
    with Store(out) as store:
        assert store.ids.tolist()[0] == "00001_lr"


def test_ptbxl_without_the_records_needed(tmp_path: Path) -> None:
    source = write_ptbxl(tmp_path / "ptbxl", SETS, hr=False)
    (source / "records100").rename(tmp_path / "elsewhere")
    with pytest.raises(RecordError, match="has neither records100 nor records500"):
        main(source=(source,), out=tmp_path / "p.h5", workers=1)
    (tmp_path / "elsewhere").rename(source / "records100")
    (source / "records100/00000/00002_lr.dat").unlink()
    (source / "records100/00000/00003_lr.hea").unlink()
    main(source=(source,), out=tmp_path / "p.h5", workers=1)
    reasons = rejected(tmp_path / "p.h5")
    assert sorted(reasons) == ["00002_lr", "00003_lr"]
    assert "00002_lr.dat, which 00002_lr.hea names, cannot be read" in reasons["00002_lr"]


@pytest.mark.parametrize(
    ("old", "new", "error", "trouble"),
    [
        ("102.0", "101.0", StoreError, r"1 patients have records in several folds \(101\)"),
        ("records100/00000/00002", "../00002", LabelError, "not below its folder"),
        ("records100/00000/00002", "/etc/00002", LabelError, "not below its folder"),
        (",2,records100", ",11,records100", LabelError, "into fold 11"),
        ("ILMI", "ILMO", LabelError, "line 3: the statement 'ILMO' is unknown"),
    ],
)
def test_false_ptbxl_tables(
    tmp_path: Path, old: str, new: str, error: type[ECGError], trouble: str
) -> None:
    source = write_ptbxl(tmp_path / "ptbxl", SETS, hr=False)
    table = source / "ptbxl_database.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(error, match=trouble):
        main(source=(source,), out=tmp_path / "p.h5", workers=1)
    assert not (tmp_path / "p.h5").exists()


def test_a_line_of_ptbxl_that_cannot_be_understood(tmp_path: Path) -> None:
    source = write_ptbxl(tmp_path / "ptbxl", SETS, hr=True)
    table = source / "ptbxl_database.csv"
    deep = "{'PVC': " + "[" * 5000 + "]" * 5000 + "}"
    table.write_text(table.read_text().replace("{'PVC': 100.0}", deep).replace("42.0", "1e16"))
    statements = source / "scp_statements.csv"
    statements.write_text(statements.read_text().replace(",1.0,,,", ",0,,,"))  # PVC's, and others'
    statements.write_text(statements.read_text().replace(",1.0,1.0,,", ",1.0,0,,"))
    main(source=(source,), out=tmp_path / "p.h5", workers=1)
    assert list(rejected(tmp_path / "p.h5")) == ["00003_lr"]
    report = inspect_folder(source)
    assert (report.missing, report.extra) == ((), ())
    (line,) = report.unusable
    assert "ptbxl_database.csv, line 4: a column cannot be understood" in line
    with Store(tmp_path / "p.h5") as store:
        assert store.ids.tolist() == ["00001_lr", "00002_lr", "00004_lr"]
        assert np.isnan(store.ages[:2]).all() and store.ages[2] == 44
        assert "form" not in store.tasks and "rhythm" in store.tasks


def test_nothing_usable(tmp_path: Path) -> None:
    source, out = tmp_path / "cpsc", tmp_path / "out" / "c.h5"
    write_wfdb(source, "A1", np.zeros((1000, 12)))
    write_reference(source / "REFERENCE.csv", {"A1": [1]})
    with pytest.raises(StoreError, match=r"none of the 1 records is usable.*c\.rejected\.csv"):
        main(source=(source,), out=out, workers=1)
    assert os.listdir(out.parent) == ["c.rejected.csv"]
    assert "holds no ECG" in rejected(out)["A1"]

    # What an aborted build leaves is no list of another.
    few = write_cpsc(tmp_path / "few", 6)
    (few / "A0006.mat").write_bytes(b"")
    with pytest.raises(
        StoreError,
        match=r"5 usable records cannot be divided into 10 folds; .* in .*c\.rejected\.csv\.$",
    ):
        main(source=(few,), out=out, workers=1)
    assert list(rejected(out)) == ["A0006"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match="no recordings in .*empty"):
        main(source=(tmp_path / "empty",), out=out, workers=1)
    assert sorted(os.listdir(out.parent)) == ["c.journal", "c.rejected.csv"]


def test_options_that_contradict(tmp_path: Path) -> None:
    cpsc = write_cpsc(tmp_path / "cpsc", 2)
    ptbxl = write_ptbxl(tmp_path / "ptbxl", SETS, hr=False)
    out = tmp_path / "s.h5"
    with pytest.raises(OptionError, match="absent is not a folder"):
        main(source=(tmp_path / "absent",), out=out)
    with pytest.raises(OptionError, match="no source"):
        main(source=(), out=out)
    with pytest.raises(OptionError, match="ptbxl is PTB-XL and .*cpsc is not"):
        main(source=(cpsc, ptbxl), out=out)
    with pytest.raises(OptionError, match="drop --reference"):
        main(source=(ptbxl,), out=out, reference=cpsc / "REFERENCE.csv")
    with pytest.raises(OptionError, match="published folds; drop --folds"):
        main(source=(ptbxl,), out=out, folds="random")
    with pytest.raises(LabelError, match=r"scp_statements\.csv cannot be read"):
        main(source=(cpsc,), out=out, dataset="ptb-xl")
    for rate in (0.0, -100.0, 1e6, float("nan")):
        with pytest.raises(OptionError, match="makes no sense"):
            main(source=(cpsc,), out=out, rate=rate)
    with pytest.raises(OptionError, match="at least 1"):
        main(source=(cpsc,), out=out, workers=0)
    for seed in (-1, 2**32):
        with pytest.raises(OptionError, match=f"--seed must be from 0 to 4294967295, not {seed}"):
            main(source=(cpsc,), out=out, seed=seed)


def test_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write_cpsc(tmp_path / "cpsc", 12), tmp_path / "out" / "s.h5"
    main(source=(source,), out=out, workers=1)
    before = out.read_bytes()

    def full(disk: _Disk) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(disk.path))

    monkeypatch.setattr(_Disk, "require_written", full)
    assert exit_of(main, "--source", source, "--out", out, "--workers", 1) == 2
    assert f"ecg-toy: the disk is full while writing {out.parent}" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert sorted(os.listdir(out.parent)) == ["s.h5", "s.journal", "s.rejected.csv"]


@pytest.mark.slow
def test_a_cluster_builds_the_same_store(tmp_path: Path) -> None:
    """Its workers are sent the files: what they read, refuse and write is the same to the byte."""
    source = write_cpsc(tmp_path / "cpsc", 18)
    write_struct(source, "A0019", sine_leads(1000, seed=15))
    header = source / "A0003.hea"
    header.write_text(header.read_text().replace("A0003.mat", "elsewhere.mat"))
    (source / "A0003.mat").rename(source / "elsewhere.mat")
    (source / "A0004.mat").unlink()
    (source / "A0005.hea").write_text("A0005 12 500")
    (source / "A0006.hea").rename(source / "A0006_1.hea")
    length = len(read_record(source / "A0006_1").signal)
    (source / "A0006.hea").write_text(f"A0006/1 12 500 {length}\nA0006_1 {length}\n")
    labels = {f"A{i + 1:04d}": [i % 9 + 1] for i in range(19)}
    write_reference(source / "REFERENCE.csv", labels)

    main(source=(source,), out=tmp_path / "here" / "s.h5", workers=1)
    with cluster(tmp_path, workers=2) as (scheduler, _):
        main(source=(source,), out=tmp_path / "there" / "s.h5", scheduler=scheduler)
    refusals = rejected(tmp_path / "here" / "s.h5")
    assert {"A0004", "A0005"} <= set(refusals) and not {"A0003", "A0006"} & set(refusals)
    assert rejected(tmp_path / "there" / "s.h5") == refusals
    assert (tmp_path / "there" / "s.h5").read_bytes() == (tmp_path / "here" / "s.h5").read_bytes()


@pytest.mark.parametrize(("workers", "killed"), [(2, True), (2, False), (1, False)])
def test_memory_that_does_not_suffice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, killed: bool
) -> None:
    """The system kills the process, or Python itself gives up."""
    source, out = write_cpsc(tmp_path / "cpsc", 80, seconds=1), tmp_path / "out" / "s.h5"
    load_chunk = build._load_chunk

    def load(paths: list[Path], form: Any) -> Any:
        if "A0079" not in [path.stem for path in paths]:
            return load_chunk(paths, form)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        raise MemoryError

    monkeypatch.setattr(build, "_load_chunk", load)
    with pytest.raises(RecordError, match="ran out of memory; .* with fewer --workers"):
        main(source=(source,), out=out, workers=workers)
    assert killed or os.listdir(out.parent) == ["s.journal"]


def test_workers_of_one_kind_only(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--workers applies to this machine only"):
        main(
            source=(write_cpsc(tmp_path / "cpsc", 1),),
            out=tmp_path / "s.h5",
            workers=1,
            scheduler="tcp://localhost:8786",
        )


def test_one_sentence_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_cpsc(tmp_path / "cpsc", 12)
    write_reference(source / "REFERENCE.csv", {"A0001": [1], "A0002": [10]})
    assert exit_of(main, "--source", source, "--out", tmp_path / "s.h5") == 2
    assert capsys.readouterr().err == (
        f"ecg-toy: {source}/REFERENCE.csv, line 3: label '10' is unknown; labels are the"
        " numbers 1 to 9 or the names Normal, AF, I-AVB, LBBB, RBBB, PAC, PVC, STD, STE.\n"
    )


def test_interrupt(tmp_path: Path) -> None:
    """Ctrl-C goes to the command and to its workers; none of them may chatter."""
    source, out = write_cpsc(tmp_path / "cpsc", 400, seconds=1), tmp_path / "out" / "s.h5"
    out.parent.mkdir()
    before = b"\x89HDF\r\n\x1a\nwhat stood there"
    out.write_bytes(before)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "data_prep.storing.build", "--workers", "2"),
            *("--source", str(source), "--out", str(out)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 30
    while not (out.parent / "s.part.h5").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "interrupted; completed results are kept" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert output == ""
    assert sorted(os.listdir(out.parent)) == ["s.h5", "s.journal"]  # to go on with
    assert out.read_bytes() == before


def test_real_cpsc_records(shared_data: Path, tmp_path: Path) -> None:
    folders = [shared_data / "cpsc2018" / name for name in ("challenge2020", "original")]
    main(source=tuple(folders), out=tmp_path / "s.h5", rate=100, workers=1)
    assert rejected(tmp_path / "s.h5") == {}
    with open(shared_data / "labels/cpsc2018_REFERENCE.csv", newline="") as file:
        public = {row["Recording"]: row for row in csv.DictReader(file)}
    with Store(tmp_path / "s.h5") as store:
        assert store.ids.tolist() == [f"A{i:04d}" for i in range(1, 211)]
        for i, name in enumerate(store.ids):
            row = public[name]
            assert store.first_labels()[i] == int(row["First_label"]) - 1
            expected = {int(v) - 1 for k, v in row.items() if k.endswith("label") and v}
            assert set(np.flatnonzero(store.labels()[i]).tolist()) == expected
        assert (store.lengths.min(), store.lengths.max()) == (1000, 6400)
        assert np.bincount(store.folds, minlength=11)[1:].min() >= 17
        assert np.isfinite(store.ages).mean() > 0.9


@pytest.mark.parametrize(
    ("folder", "count"),
    [("ptbxl", 400), pytest.param("ptbxl_subset", 2044, marks=pytest.mark.slow)],
)
def test_real_ptbxl_records(shared_data: Path, tmp_path: Path, folder: str, count: int) -> None:
    main(source=(shared_data / folder,), out=tmp_path / "s.h5", workers=1)
    assert rejected(tmp_path / "s.h5") == {}
    with open(shared_data / folder / "ptbxl_database.csv", newline="") as file:
        published = {Path(row["filename_lr"]).name: row for row in csv.DictReader(file)}
    with Store(tmp_path / "s.h5") as store:
        assert len(store) == count == len(published)
        assert [int(published[name]["strat_fold"]) for name in store.ids] == store.folds.tolist()
        assert (store.lengths == 1000).all()
        norm = store.labels("all")[:, store.class_names("all").index("NORM")]
        assert [("'NORM'" in published[name]["scp_codes"]) for name in store.ids] == norm.tolist()
        np.testing.assert_array_equal(norm, store.labels("superdiagnostic")[:, 0])


@pytest.mark.parametrize("mixed", [False, True])
def test_a_store_knows_that_records_were_generated(
    tmp_path: Path, mixed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic.main(out=tmp_path / "made", records=10, max_seconds=6, workers=1)
    source = [tmp_path / "made" / "train"]
    if mixed:
        source.append(write_cpsc(tmp_path / "cpsc", 9))
        write_reference(source[1] / "REFERENCE.csv", {f"A{i:04d}": [i] for i in range(1, 10)})
    main(source=tuple(source), out=tmp_path / "s.h5", workers=1)
    with Store(tmp_path / "s.h5") as store:
        assert store.provenance["generated"] == ("some" if mixed else "all")
    assert "10 of" in capsys.readouterr().out


def test_a_store_of_real_records_says_nothing_of_generated_ones(tmp_path: Path) -> None:
    source = write_cpsc(tmp_path / "cpsc", 10)
    write_reference(source / "REFERENCE.csv", {f"A{i:04d}": [i % 9 + 1] for i in range(1, 11)})
    main(source=(source,), out=tmp_path / "s.h5", workers=1)
    with Store(tmp_path / "s.h5") as store:
        assert "generated" not in store.provenance
