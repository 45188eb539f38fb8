"""Stores of labels that the user names: tables, maps, several sources."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import write_table
from make_records import sine_leads, write_cpsc, write_ptbxl, write_reference, write_wfdb

from data_prep.errors import ECGError, LabelError, OptionError, RecordError, StoreError
from data_prep.labels import CPSC_CLASSES, OWN_DATASET
from data_prep.store import Store
from data_prep.storing.build import main
from data_prep.storing.entries import select, source_names
from data_prep.storing.folders import inspect_folder
from ecg_keras.prediction.ensemble import choose_records

CLASSES = ("calm", "fast", "odd", "slow")


def write_own(folder: Path, num_records: int = 40) -> Path:
    """Write recordings ``r00``, ``r01``, … as CSV files of one second at 200 Hz."""
    folder.mkdir(parents=True)
    for i in range(num_records):
        write_table(folder / f"r{i:02d}.csv", sine_leads(200, fs=200, seed=i))
    return folder


def table(path: Path, header: str, rows: Sequence[Sequence[object]]) -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_two_tables_make_two_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write_own(tmp_path / "mine", 42), tmp_path / "s.h5"
    speed = table(
        tmp_path / "speed.csv",
        "Recording,labels,patient,age,sex",
        # Two records a patient; the first two have two labels each, in order.
        [
            (f"r{i:02d}", CLASSES[i % 4] + ";calm" * (i in (1, 2)), i // 2, 40, "F")
            for i in range(40)
        ]
        + [("r40", "", "", "", "")],
    )
    noise = table(
        tmp_path / "noise.csv",
        "Recording,clean,noisy",
        [(f"r{i:02d}", int(i != 3), int(i in range(3, 15))) for i in range(40)],
    )
    main(source=(source,), out=out, labels=(speed, noise), fs=200, unit="mV", workers=1)
    printed = capsys.readouterr().out
    assert ["mine", "12", "10", "10", "10", "40"] in [line.split() for line in printed.splitlines()]
    assert "11 records have several labels of noise, in no known order" in printed
    with Store(out) as store:
        assert (store.dataset, store.fs, store.tasks) == (OWN_DATASET, 250.0, ("noise", "speed"))
        assert store.class_names("speed") == CLASSES
        assert store.class_names("noise") == ("clean", "noisy")
        assert store.ids.tolist() == [f"r{i:02d}" for i in range(40)]
        assert store.labels("speed")[1].tolist() == [1, 1, 0, 0]
        assert store.first_labels("speed").tolist() == [i % 4 for i in range(40)]
        assert (store.first_labels("noise") == -1).all()
        # A record of two labels without an order is of no use to a network of one answer.
        assert len(store.records_of("noise")) == 40
        assert len(store.records_of("noise", single_label=True)) == 29
        assert set(store.sources) == {"mine"}
        assert store.ages[0] == 40 and store.sexes[0] == "female"
        for patient in range(20):
            assert len(set(store.folds[store.patients == str(patient)])) == 1
        assert sorted(set(store.folds)) == list(range(1, 11))
    assert (tmp_path / "s.rejected.csv").read_text().count("r4") >= 2

    main(
        source=(source,),
        out=out,
        labels=(noise,),
        several_labels="rarest",
        **{"fs": 200, "unit": "mV", "workers": 1},  # type: ignore[arg-type]
    )
    with Store(out) as store:
        assert len(store.records_of(single_label=True)) == 40
        assert store.first_labels().tolist() == [int(3 <= i < 15) for i in range(40)]


def test_folds_of_ones_own(tmp_path: Path) -> None:
    source = write_own(tmp_path / "mine", 9)  # the last of them without a label
    folds = [1, 1, 2, 2, 3, 3, 10, 10]
    rows = [(f"r{i:02d}", i % 2, 1, fold, i // 2) for i, fold in enumerate(folds)]
    labels = table(tmp_path / "l.csv", "Recording,a,b,fold,patient", rows)
    main(source=(source,), out=tmp_path / "s.h5", labels=(labels,), fs=200, unit="mV", workers=1)
    with Store(tmp_path / "s.h5") as store:
        assert store.tasks == ("l",) and store.folds.tolist() == folds
        assert store.provenance["options"]["folds"] == "given"


@pytest.mark.parametrize(
    ("header", "row", "trouble"),
    [
        ("Recording,labels", ("r99", "x"), r"labels\.csv, line 42: there is no recording named"),
        ("Recording,labels", ("r00", "x"), r"labels\.csv, line 42: r00 is also in line 2"),
        ("Recording,labels", ("r40", "x"), r"labels\.csv, line 42: the class 'x' has 1 records"),
        ("Recording,labels", ("r40", "calm", "fast"), r"labels\.csv, line 42: .* more cells than"),
    ],
)
def test_tables_that_do_not_fit(
    tmp_path: Path, header: str, row: Sequence[object], trouble: str
) -> None:
    source = write_own(tmp_path / "mine", 41)
    rows = [*((f"r{i:02d}", CLASSES[i % 4]) for i in range(40)), row]
    labels = table(tmp_path / "labels.csv", header, rows)
    with pytest.raises(LabelError, match=trouble):
        main(source=(source,), out=tmp_path / "s.h5", labels=(labels,), workers=1)
    assert not (tmp_path / "s.h5").exists()


def test_a_patient_in_two_folds_is_found_before_anything_is_read(tmp_path: Path) -> None:
    source = write_own(tmp_path / "mine", 4)
    rows = [("r00", "a", 1, "p"), ("r01", "b", 1, "q"), ("r02", "a", 2, "q"), ("r03", "b", 2, "")]
    labels = table(tmp_path / "l.csv", "recording,labels,Fold,Patient", rows)
    with pytest.raises(LabelError, match=r"l\.csv, line 4: patient q has r02 in fold 2 and r01 in"):
        main(source=(source,), out=tmp_path / "s.h5", labels=(labels,), workers=1)


def test_columns_that_are_not_used_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_own(tmp_path / "mine", 20)
    rows = [(f"r{i:02d}", "ab"[i % 2], f"p{i}", "x") for i in range(20)]
    labels = table(tmp_path / "l.csv", "Recording,labels,patient_id,site", rows)
    main(source=(source,), out=tmp_path / "s.h5", labels=(labels,), fs=200, unit="mV", workers=1)
    assert "l.csv: columns that are not used: patient_id, site." in capsys.readouterr().err


def test_a_line_that_may_be_of_two_recordings(tmp_path: Path) -> None:
    sources = write_own(tmp_path / "a", 3), write_own(tmp_path / "b", 2)
    labels = table(tmp_path / "l.csv", "Recording,labels", [("r02", "x"), ("r01", "y")])
    with pytest.raises(LabelError, match=r"l\.csv, line 3: r01 may be .*a/r01.csv or .*b/r01.csv"):
        main(source=sources, out=tmp_path / "s.h5", labels=(labels,), workers=1)
    only = table(tmp_path / "only.csv", "Recording,labels,fold", [("r02", "x;y", 1)])
    options: dict[str, Any] = {"fs": 200, "unit": "mV", "workers": 1}
    main(source=sources, out=tmp_path / "s.h5", labels=(only,), **options)
    with Store(tmp_path / "s.h5") as store:
        assert store.ids.tolist() == ["r02"]


def test_labels_that_no_network_can_learn_or_take(tmp_path: Path) -> None:
    source = write_own(tmp_path / "mine", 4)
    for text, error, trouble in (
        ("Recording,AF\nr00,1\nr01,0\n", LabelError, "only one class, 'AF'.* add a class"),
        ("Recording,labels\nr00,MI\nr01,CD\n", OptionError, "the classes of superdiagnostic are"),
    ):
        labels = tmp_path / "superdiagnostic.csv"
        labels.write_text(text)
        with pytest.raises(error, match=trouble):
            main(source=(source,), out=tmp_path / "s.h5", labels=(labels,), workers=1)


def test_a_source_for_testing_beside_unusable_records(tmp_path: Path) -> None:
    source, georgia, _ = write_sources(tmp_path)
    own = table(tmp_path / "map.csv", "from,to", [("17338001", "beats"), ("713427006", "block")])
    options: dict[str, Any] = {"map": own, "test_source": ("georgia",), "workers": 1}
    with pytest.raises(StoreError, match=r"none is usable; see the reasons in .*s\.rejected\.csv"):
        main(source=(source, georgia), out=tmp_path / "s.h5", **options)
    assert (tmp_path / "s.rejected.csv").read_text().count("A000") >= 9


def two_hospitals(folder: Path) -> tuple[Path, ...]:
    """Twenty recordings each in the folders ``a`` and ``b``."""
    for name in "ab":
        (folder / name).mkdir()
        for i in range(20):
            write_table(folder / name / f"{name}{i:02d}.csv", sine_leads(200, fs=200, seed=i))
    return folder / "a", folder / "b"


def test_what_a_source_for_testing_leaves_to_the_folds(tmp_path: Path) -> None:
    """Ten folds less one, of the records that are neither left out nor for testing."""
    sources, out, leave_out = two_hospitals(tmp_path), tmp_path / "s.h5", tmp_path / "out.csv"
    names = [f"{name}{i:02d}" for name in "ab" for i in range(20)]
    classes = {name: "x" if name in names[11:30] else "y" for name in names}
    labels = table(tmp_path / "l.csv", "Recording,labels", [*classes.items()])
    options: dict[str, Any] = {"source": sources, "out": out, "labels": (labels,), "workers": 1}
    options |= {"fs": 200, "unit": "mV", "test_source": ("b",)}
    main(**options)
    with Store(out) as store:
        x = store.labels()[:, store.class_names().index("x")]
        assert sorted(store.folds[(x == 1) & (store.folds < 10)]) == list(range(1, 10))
    leave_out.write_text("Recording\na11\n")
    with pytest.raises(LabelError, match="the class 'x' has 8 records, fewer than the 9 folds"):
        main(leave_out=leave_out, **options)
    for left, trouble in (("a", "to test on"), ("b", "to train on")):
        leave_out.write_text("\n".join(["Recording", *(n for n in names if n[0] != left)]))
        with pytest.raises(LabelError, match=f"no record is left {trouble} in the sources a, b"):
            main(leave_out=leave_out, **options)
    table(labels, "Recording,labels,fold", [(n, c, 1) for n, c in classes.items()])
    with pytest.raises(OptionError, match=r"--test-source assigns .*l\.csv has a column fold"):
        main(**options)


def test_a_source_for_testing_of_which_nothing_is_usable(tmp_path: Path) -> None:
    source, test = write_cpsc(tmp_path / "cpsc", 18), write_cpsc(tmp_path / "test", 2)
    (test / "A0001.hea").rename(test / "B0001.hea")
    (test / "A0001.mat").unlink()
    options: dict[str, Any] = {"test_source": ("test",), "workers": 1}
    sentence = r"no record of --test-source is usable, .* see the reasons in .*s\.rejected\.csv"
    with pytest.raises(StoreError, match=sentence):
        main(source=(source, test), out=tmp_path / "s.h5", **options)
    assert not (tmp_path / "s.h5").exists()
    listed = (tmp_path / "s.rejected.csv").read_text()
    assert "B0001.hea names, cannot be read" in listed
    assert "give each recording once, or rename one of the two if they differ" in listed


def test_recordings_that_cannot_be_used(tmp_path: Path) -> None:
    """All of them: the reason of the first. One that the table names: listed, the others taken."""
    folder = tmp_path / "r"
    folder.mkdir()
    for i in range(21):
        write_table(folder / f"r{i:02d}.csv", sine_leads(200, fs=200, seed=i))
    (folder / "r20.csv").write_text("1,2,3\n4,5,6\n")
    rows = [(f"r{i:02d}", "xy"[i % 2]) for i in range(21)]
    labels = table(tmp_path / "l.csv", "Recording,labels", rows)
    options: dict[str, Any] = {"fs": 200, "unit": "mV", "workers": 1, "labels": (labels,)}
    main(source=(folder,), out=tmp_path / "s.h5", **options)
    assert "r20" in (tmp_path / "s.rejected.csv").read_text()
    with Store(tmp_path / "s.h5") as store:
        assert len(store) == 20

    (tmp_path / "none").mkdir()
    (folder / "r20.csv").rename(tmp_path / "none" / "r20.csv")
    sentence = "no usable recording in .*none: .*r20.csv does not name leads"
    with pytest.raises(RecordError, match=sentence):
        main(source=(tmp_path / "none",), out=tmp_path / "n.h5", **options)
    with pytest.raises(RecordError, match=sentence):
        inspect_folder(tmp_path / "none")
    with pytest.raises(RecordError, match=sentence):
        choose_records(csv_file=None, records=tmp_path / "none")


def test_a_fold_of_ones_own_replaces_that_of_ptbxl(tmp_path: Path) -> None:
    """In whichever table it stands."""
    source = write_ptbxl(tmp_path / "ptbxl", [{"NORM": 100.0}] * 4, hr=False)
    names = [f"{i:05d}_lr" for i in range(1, 5)]
    plain = table(
        tmp_path / "a.csv", "Recording,labels", [(n, "xy"[i % 2]) for i, n in enumerate(names)]
    )
    folds = table(
        tmp_path / "b.csv",
        "Recording,labels,fold",
        [(n, "uv"[i % 2], 7) for i, n in enumerate(names)],
    )
    for order in ((plain, folds), (folds, plain)):
        main(source=(source,), out=tmp_path / "s.h5", labels=order, workers=1)
        with Store(tmp_path / "s.h5") as store:
            assert store.folds.tolist() == [7] * 4


@pytest.mark.parametrize("same", ["all", "one"])
def test_patients_of_a_source_for_testing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], same: str
) -> None:
    """Two hospitals number their patients alike."""
    sources = two_hospitals(tmp_path)
    rows = [
        (f"{name}{i:02d}", "xy"[i % 2], i if same == "all" or i == 3 else f"{name}-{i}")
        for name in "ab"
        for i in range(20)
    ]
    labels = table(tmp_path / "l.csv", "Recording,labels,patient", rows)
    options: dict[str, Any] = {"fs": 200, "unit": "mV", "workers": 1, "test_source": ("b",)}
    if same == "all":
        with pytest.raises(StoreError, match="their patients are those of --test-source"):
            main(source=sources, out=tmp_path / "s.h5", labels=(labels,), **options)
        return
    main(source=sources, out=tmp_path / "s.h5", labels=(labels,), **options)
    assert "1 records of other sources are in fold 10 too" in capsys.readouterr().out
    with Store(tmp_path / "s.h5") as store:
        assert store.ids[store.folds == 10].tolist() == ["a03", *(f"b{i:02d}" for i in range(20))]


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    source = write_cpsc(tmp_path / "cpsc", 2)
    ptbxl = write_ptbxl(tmp_path / "ptbxl", [{"NORM": 100.0}], hr=False)
    labels = table(tmp_path / "l.csv", "Recording,labels", [("A0001", "x")])
    own = table(tmp_path / "map.csv", "from,to", [("AF", "x")])
    cases: list[tuple[dict[str, object], type[ECGError], str]] = [
        ({"task": ("x",)}, OptionError, "--task names the classes of --labels or --map"),
        ({"labels": (labels,), "map": own}, OptionError, "give one of the two"),
        ({"labels": (labels,), "reference": labels}, OptionError, "drop --reference"),
        ({"labels": (labels,), "task": ("a", "b")}, OptionError, "different names, not a, b"),
        ({"labels": (labels,), "task": ("a/b",)}, OptionError, "'a/b' cannot be the name"),
        ({"labels": (labels,), "task": ("a\nb",)}, OptionError, "the task name .* line breaks"),
        ({"labels": (labels,), "task": ("a" * 101,)}, OptionError, "1 to 100 characters"),
        ({"map": own, "task": ("cpsc2018",)}, OptionError, "has x; give another --task"),
        ({"test_source": ("x",)}, OptionError, "--test-source x is not one of the sources"),
        ({"test_source": ("cpsc",)}, OptionError, "leaves no source to train on"),
    ]
    for options, error, trouble in cases:
        with pytest.raises(error, match=trouble):
            main(source=(source,), out=tmp_path / "s.h5", workers=1, **options)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="one for both with --map cpsc2018"):
        main(source=(source, ptbxl), out=tmp_path / "s.h5", workers=1)


def write_sources(folder: Path) -> tuple[Path, ...]:
    """Write a folder each of CPSC 2018, a challenge's records and PTB-XL."""
    cpsc = write_cpsc(folder / "cpsc", 9)
    for i in range(10):
        code = ("713427006,63593006", "17338001")[i % 2]
        write_wfdb(folder / "georgia", f"E{i:02d}", sine_leads(1000), comments=[f"Dx: {code}"])
    sets = [{"NORM": 100.0, "SR": 0.0}, {"IRBBB": 50.0, "STD_": 0.0}, {"LVH": 100.0}] * 4
    ptbxl = write_ptbxl(folder / "ptbxl", sets[:10], hr=False)
    statements = ptbxl / "scp_statements.csv"
    rows = "IRBBB,right block,1.0,,,CD,IRBBB\nSTD_,depression,,1.0,,,\n"
    statements.write_text(statements.read_text() + rows)
    return cpsc, folder / "georgia", ptbxl


def test_nine_classes_from_several_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = write_sources(tmp_path), tmp_path / "s.h5"
    main(source=source, out=out, map=Path("cpsc2018"), workers=1)
    printed = capsys.readouterr()
    assert "ptbxl has no records500: its 100 Hz records are resampled to 250 Hz" in printed.err
    assert "8 records have several labels of cpsc2018, in no known order" in printed.out
    lines = [line.split() for line in printed.out.splitlines()]
    assert ["cpsc", *["1"] * 9, "9"] in lines
    assert ["georgia", *"0 0 0 0 5 5 5 0 0".split(), "10"] in lines
    assert ["ptbxl", *"4 0 0 0 3 0 0 3 0".split(), "7"] in lines
    assert ["together", *"5 1 1 1 9 6 6 4 1".split(), "26"] in lines
    with Store(out) as store:
        assert (store.dataset, store.fs, store.tasks) == (OWN_DATASET, 250.0, ("cpsc2018",))
        assert store.class_names() == CPSC_CLASSES
        of_ptbxl = store.sources == "ptbxl"
        assert of_ptbxl.sum() == 7
        assert store.folds[of_ptbxl].tolist() == [1, 2, 4, 5, 7, 8, 10]
        assert store.patients[of_ptbxl].tolist() == [
            f"ptb-xl {100 + i}" for i in (1, 2, 4, 5, 7, 8, 10)
        ]
        assert sorted(np.bincount(store.folds[~of_ptbxl])[1:])[-1] <= 3
        assert len(store.records_of(single_label=True)) == 18

    main(source=source, out=out, map=Path("cpsc2018"), test_source=("georgia",), workers=1)
    with Store(out) as store:
        assert set(store.sources[store.folds == 10]) == {"georgia"}
        assert (store.sources == "georgia").sum() == (store.folds == 10).sum() == 10
        assert set(store.folds[store.folds < 10]) == set(range(1, 10))


def test_only_records_of_cpsc_2018_are_called_so(tmp_path: Path) -> None:
    """Model cards give the data set's authors and licence."""
    cpsc, georgia, _ = write_sources(tmp_path)
    more = write_cpsc(tmp_path / "more", 9)
    rows = [("AF", "x"), ("PVC", "y"), ("17338001", "y")]
    own = table(tmp_path / "map.csv", "from,to", rows)
    for source, code_map, dataset in (
        ((cpsc,), None, "cpsc2018"),
        ((cpsc, more), Path("cpsc2018"), "cpsc2018"),
        ((cpsc, georgia), None, OWN_DATASET),
        ((cpsc, georgia), Path("cpsc2018"), OWN_DATASET),
        ((cpsc,), own, OWN_DATASET),
    ):
        assert select(source, rate=250, code_map=code_map).dataset == dataset


def test_a_map_of_ones_own(tmp_path: Path) -> None:
    source, out = write_sources(tmp_path)[:2], tmp_path / "s.h5"
    rows = [("17338001", "beats"), ("PVC", "beats"), ("RBBB", "block"), ("713427006", "block")]
    own = table(tmp_path / "map.csv", "from,to", rows)
    main(source=source, out=out, map=own, task=("kinds",), workers=1)
    with Store(out) as store:
        assert store.tasks == ("kinds",) and store.class_names() == ("beats", "block")
        assert store.labels().sum(axis=0).tolist() == [6, 6]
        assert store.sources.tolist() == ["cpsc"] * 2 + ["georgia"] * 10


def test_a_map_of_codes_for_classes_of_reference(tmp_path: Path) -> None:
    source, out = write_sources(tmp_path)[0], tmp_path / "s.h5"
    rows = [("164889003", "flutter or AF"), ("normal", "sinus"), ("59118001", "block")]
    own = table(tmp_path / "map.csv", "From,To", rows)
    write_reference(
        source / "REFERENCE.csv",
        {f"A{i:04d}": [["AF"], ["Normal"], ["RBBB", "AF"], ["PAC"]][i % 4] for i in range(1, 10)},
    )
    for i in range(10, 21):
        write_wfdb(source, f"A{i:04d}", sine_leads(1000, seed=i))
    labels = {f"A{i:04d}": [["AF"], ["RBBB", "AF"]][i % 2] for i in range(10, 21)}
    (source / "more").mkdir()
    write_reference(source / "more" / "REFERENCE.csv", labels)
    main(source=(source,), out=out, map=own, task=("kinds",), workers=1)
    with Store(out) as store:
        assert store.class_names() == ("flutter or AF", "sinus", "block")
        assert store.labels().sum(axis=0).tolist() == [15, 3, 7]
        assert store.first_labels().tolist().count(2) == 7


def test_labels_of_ones_own_for_ptbxl(tmp_path: Path) -> None:
    """Patients and folds stay those that PTB-XL publishes, and the store says so."""
    source = write_ptbxl(tmp_path / "ptbxl", [{"NORM": 100.0}] * 4, hr=False)
    rows = [(f"{i:05d}_lr", "abc"[i % 3]) for i in range(1, 5)]
    labels = table(tmp_path / "l.csv", "Recording,labels", rows)
    main(source=(source,), out=tmp_path / "s.h5", labels=(labels,), workers=1)
    with Store(tmp_path / "s.h5") as store:
        assert (store.dataset, store.fs, store.class_names()) == (OWN_DATASET, 100.0, tuple("abc"))
        assert store.folds.tolist() == [1, 2, 3, 4]
        assert store.patients.tolist() == ["101", "102", "103", "104"]
        assert store.provenance["options"]["folds"] == "published"


def test_the_order_of_cpsc_2018_needs_no_second_download(tmp_path: Path) -> None:
    """A0043 is RBBB and AF, in this order; its header does not say so."""
    for i in range(12):
        name, codes = f"A{i + 40:04d}", "164889003,59118001" if i == 3 else "AF"
        write_wfdb(tmp_path / "cpsc", name, sine_leads(1000, seed=i), comments=[f"Dx: {codes}"])
    # Another record of that name, with other labels: nothing is known of it.
    write_wfdb(tmp_path / "cpsc", "A0079", sine_leads(1000), comments=["Dx: PAC,PVC"])
    main(source=(tmp_path / "cpsc",), out=tmp_path / "s.h5", workers=1)
    with Store(tmp_path / "s.h5") as store:
        of = dict(zip(store.ids, store.first_labels(), strict=True))
        assert (of["A0043"], of["A0079"], of["A0040"]) == (4, -1, 1)


def test_sources_are_named_by_what_tells_them_apart() -> None:
    assert source_names([Path("/x/a/train"), Path("/x/b/train")]) == ["a/train", "b/train"]
    assert source_names([Path("/x/a"), Path("/x/b")]) == ["a", "b"]


def test_words_of_reference(tmp_path: Path) -> None:
    source = write_cpsc(tmp_path / "cpsc", 12)
    write_reference(source / "REFERENCE.csv", {f"A{i:04d}": ["RBBB"] for i in range(1, 13)})
    main(source=(source,), out=tmp_path / "s.h5", workers=1)
    with Store(tmp_path / "s.h5") as store:
        assert store.first_labels().tolist() == [4] * 12
