import csv
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from make_records import sine_leads, write_reference, write_struct, write_wfdb
from toy import CLASSES, toy_answers, toy_contract, toy_model, write_toy_store

from data_prep.errors import LabelError, ModelFileError, OptionError, RecordError, StoreError
from data_prep.files import locked
from data_prep.labels import CPSC_CLASSES, LEADS
from data_prep.records import Record, read_record
from data_prep.signals import prepare
from data_prep.store import Store
from ecg_keras.evaluation.answers import Answer, Answers, table_lines
from ecg_keras.evaluation.predictions import load_predictions
from ecg_keras.model.model_files import ECGModel, load_model, save_model, set_origin
from ecg_keras.model.origin import Origin
from ecg_keras.prediction import ensemble
from ecg_keras.prediction import predict as predicting
from ecg_keras.prediction.ensemble import (
    WINDOW,
    answer_records,
    choose_records,
    open_models,
)
from ecg_keras.prediction.predict import predict

Printed = pytest.CaptureFixture[str]
LENGTHS = {"A1": 1000, "A2": 700, "A3": 2600, "A4": 1300, "A5": 999}
FS = 500
CPSC = {"class_names": CPSC_CLASSES}


def signal_of(name: str) -> np.ndarray:
    return sine_leads(LENGTHS[name], fs=FS, seed=int(name[1:]))


def write_records(folder: Path) -> Path:
    """Five good recordings, in folders and layouts of their own."""
    for name in LENGTHS:
        if name == "A5":
            write_struct(folder / "structs", name, signal_of(name))
        else:
            write_wfdb(folder / f"part{int(name[1]) % 2}", name, signal_of(name), fs=FS)
    return folder


def save_models(folder: Path, *changes: dict[str, Any]) -> list[Any]:
    """Save toy networks ``fold_1/best.keras`` and so on, each with weights of its own."""
    models = []
    for i, change in enumerate(changes, start=1):
        models.append(toy_model(toy_contract(**change), seed=i))
        (folder / f"fold_{i}").mkdir(parents=True)
        models[-1].save(folder / f"fold_{i}" / "best.keras")
    return models


def expected_of(model: Any, names: list[str]) -> np.ndarray:
    """Probabilities by plain NumPy from the signals as written."""
    contract = model.get_layer("contract").contract
    form = {"target_fs": contract.sampling_rate, "length": contract.input_length}
    signals = [prepare(signal_of(n), fs=FS, fit=contract.fit, **form) for n in names]
    return toy_answers(model, np.stack(signals))


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def answer(tmp_path: Path, **options: Any) -> Path:
    """Predict with the models and records under ``tmp_path``, five good ones if none are there."""
    if "records" not in options and not (tmp_path / "records").exists():
        write_records(tmp_path / "records")
    fields: dict[str, Any] = {
        "models": (str(tmp_path / "fold_*" / "best.keras"),),
        "csv_file": None,
        "records": tmp_path / "records",
        "out": tmp_path / "out",
        "batch_size": 2,
    }
    predict(**{**fields, **options})
    return tmp_path / "out"


# --- Ensembles ---------------------------------------------------------------------------------


def test_models_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    save_models(tmp_path, {}, {}, {})
    pattern = str(tmp_path / "fold_*" / "best.keras")
    names = [model.path.parent.name for model in open_models([pattern])]
    assert names == ["fold_1", "fold_2", "fold_3"]
    two = [str(tmp_path / f"fold_{i}" / "best.keras") for i in (3, 1)]
    assert [model.path.parent.name for model in open_models(two)] == ["fold_3", "fold_1"]


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    toy_model(toy_contract()).save(tmp_path / "run[1].keras")
    path = tmp_path / "run[1].keras"
    for given in ([str(path)], [path], str(path), path):
        assert [model.path for model in open_models(given)] == [path]


def test_models_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no model is named"):
        open_models([])
    for name in ("fold_*/best.keras", "best.keras"):
        with pytest.raises(ModelFileError, match="does not exist; name a .keras file"):
            open_models([str(tmp_path / name)])


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"class_names": ("a", "b", "c")}, "class names"),
        ({"class_names": CLASSES[::-1]}, "class names"),
        ({"class_names": CLASSES[:2]}, "class names"),
        ({"task": "rhythm"}, "task"),
    ],
)
def test_models_that_answer_differently_cannot_join(
    tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    save_models(tmp_path, {}, changes)
    with pytest.raises(ModelFileError) as error:
        answer(tmp_path, records=write_records(tmp_path / "records"))
    sentence = str(error.value)
    for expected in ("fold_2/best.keras cannot join", "fold_1/best.keras", f"their {what} differ"):
        assert expected in sentence
    assert not (tmp_path / "out").exists()


def test_an_ensemble_is_the_mean_of_its_members(tmp_path: Path) -> None:
    """Members of other rates, lengths, fits and standardisations each get their own input."""
    models = save_models(
        tmp_path,
        {"thresholds": (0.25, 0.5, 0.75)},
        {"sampling_rate": 100.0, "input_length": 150, "fit": "stretch", "mean": 0.1, "std": 0.3},
        {"thresholds": (0.5, 0.25, 0.0)},
    )
    found = load_predictions(answer(tmp_path) / "predictions.npz")
    assert found.ids.tolist() == list(LENGTHS)
    members = np.stack([expected_of(model, list(LENGTHS)) for model in models])
    assert found.members.shape == (3, 5, 3)
    np.testing.assert_allclose(found.members, members, atol=2e-4)
    np.testing.assert_allclose(found.probabilities, found.members.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.thresholds, [1.25 / 3, 1.25 / 3, 1.25 / 3], rtol=1e-6)
    assert (found.network, found.task, found.single_label) == ("Toy", "cpsc2018", True)
    assert found.class_names == CLASSES and found.labels is None


def test_leads_are_ordered_for_each_member(tmp_path: Path) -> None:
    save_models(tmp_path, {}, {"leads": LEADS[::-1]})
    found = load_predictions(answer(tmp_path) / "predictions.npz")
    model = load_model(tmp_path / "fold_2" / "best.keras")
    ready = prepare(signal_of("A2"), fs=FS, target_fs=50, length=100, fit="pad")
    expected = toy_answers(model.network, ready[None, :, ::-1])[0]
    np.testing.assert_allclose(found.members[1, 1], expected, rtol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_batch_size_changes_nothing(tmp_path: Path, batch_size: int) -> None:
    save_models(tmp_path, {})
    two = load_predictions(answer(tmp_path) / "predictions.npz")
    other = answer(tmp_path, batch_size=batch_size, out=tmp_path / "other")
    assert other == tmp_path / "out"
    found = load_predictions(tmp_path / "other" / "predictions.npz")
    assert found.ids.tolist() == two.ids.tolist()
    np.testing.assert_allclose(found.probabilities, two.probabilities, rtol=1e-6)


# --- Answers -----------------------------------------------------------------------------------


def test_answers_in_the_form_of_the_challenge(tmp_path: Path, capsys: Printed) -> None:
    models = save_models(tmp_path, CPSC, CPSC)
    (tmp_path / "test.csv").write_text("Recording,First_label\nA4,1\nA1,2\nA5,3\n")
    out = answer(tmp_path, csv_file=tmp_path / "test.csv")
    names = ["A4", "A1", "A5"]
    expected = np.mean([expected_of(model, names) for model in models], axis=0)
    assert {path.name for path in out.iterdir()} == {
        "answers.csv",
        "predictions.npz",
        "probabilities.csv",
        "rejected.csv",
        "warnings.csv",
    }
    results = [[n, str(c + 1)] for n, c in zip(names, expected.argmax(axis=1), strict=True)]
    assert rows_of(out / "answers.csv") == [["Recording", "Result"], *results]
    table = rows_of(out / "probabilities.csv")
    assert table[0] == ["Recording", *CPSC_CLASSES]
    assert [row[0] for row in table[1:]] == names
    np.testing.assert_allclose(np.array(table[1:])[:, 1:].astype(float), expected, atol=2e-4)
    assert all(math.isclose(sum(map(float, row[1:])), 1, abs_tol=3e-6) for row in table[1:])
    assert rows_of(out / "rejected.csv") == [["record", "file", "reason"]]
    assert f"\n{out}: 3 recordings answered by 2 models of Toy.\n" in capsys.readouterr().out


def test_answers_of_several_labels_are_names(tmp_path: Path) -> None:
    several = {"task": "rhythm", "single_label": False, "thresholds": (0.0, 1.0, 0.5)}
    (model,) = save_models(tmp_path, several)
    out = answer(tmp_path)
    probabilities = expected_of(model, list(LENGTHS))
    table = rows_of(out / "answers.csv")
    thresholds = [f"threshold_{name}" for name in CLASSES]
    assert table[0] == ["Recording", "found", *CLASSES, *thresholds, "warnings", "seconds_used"]
    for line, row in zip(table[1:], probabilities, strict=True):
        both = ["calm", "slow"] if row[0] >= row[2] else ["slow", "calm"]
        assert line[1] == ("; ".join(both) if row[2] >= 0.5 else "calm"), line[0]
        np.testing.assert_allclose([float(cell) for cell in line[2:5]], row, atol=2e-4)
        assert line[5:8] == ["0.000000", "1.000000", "0.500000"]
    found = {line[1] for line in table[1:]}
    assert found >= {"calm"} and len(found) > 1


def test_a_recording_longer_than_the_input_says_so(tmp_path: Path, capsys: Printed) -> None:
    save_models(tmp_path, {})
    table = {row[0]: row for row in rows_of(answer(tmp_path) / "answers.csv")}
    assert table["A3"][-1] == "2" and "only the first 2 s of 5.2 s were used." in table["A3"][-2]
    assert table["A2"][-1] == "1.4" and "were used" not in table["A2"][-2]
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("A3")]
    assert "first 2 s of 5.2 s" in line


def test_an_ensemble_uses_as_much_as_its_longest_network(tmp_path: Path) -> None:
    save_models(tmp_path, {}, {"input_length": 200})
    table = {row[0]: row for row in rows_of(answer(tmp_path) / "answers.csv")}
    assert table["A3"][-1] == "4" and "only the first 4 s of 5.2 s were used." in table["A3"][-2]
    assert table["A4"][-1] == "2.6" and "were used" not in table["A4"][-2]


def test_an_empty_answer_says_so(tmp_path: Path, capsys: Printed) -> None:
    save_models(tmp_path, {"task": "rhythm", "single_label": False, "thresholds": (1.0,) * 3})
    rows = rows_of(answer(tmp_path) / "answers.csv")[1:]
    assert {row[1] for row in rows} == {"none above its threshold"}
    assert capsys.readouterr().out.count("none above its threshold") == 5


def test_the_table_shows_twenty_recordings(tmp_path: Path, capsys: Printed) -> None:
    save_models(tmp_path, {"single_label": False})
    for number in range(10, 33):
        write_wfdb(tmp_path / "records", f"B{number}", sine_leads(1000, seed=number))
    answer(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["recording", "found"]
    assert [line.split()[0] for line in lines[1:21]] == [f"B{n}" for n in range(10, 30)]
    assert lines[21].startswith("and 3 more") and "23 recordings" in lines[22]


def test_the_table_shows_five_classes_a_recording() -> None:
    names = tuple(f"class {n:02d}" for n in range(12))
    both: dict[str, Any] = {
        "probabilities": dict.fromkeys(names, 1.0),
        "thresholds": dict.fromkeys(names, 0.5),
    }
    answers = Answers(
        (
            Answer("A1", labels=names, true_labels=names, notes=("flat lead",), **both),
            Answer("A2", labels=names[:1], true_labels=(), **both),
            Answer("A3", labels=(), true_labels=names[:5], **both),
        )
    )
    lines = list(table_lines(answers))
    five = "; ".join(names[:5])
    column = slice(lines[0].index("labels"), lines[0].index("warnings"))
    assert [line[column].rstrip() for line in lines] == ["labels", f"{five}; and 7 more", "", five]
    assert lines[1].endswith("; and 7 more  flat lead") and lines[2].endswith(" (1.00, 0.50)")
    unknown = Answers((Answer("A1", labels=names, **both),))
    assert "labels" not in "".join(table_lines(unknown)) and "labels" not in unknown.columns


@pytest.mark.parametrize(
    ("form", "table", "expected"),
    [
        (None, "Recording,First_label,Second_label,Third_label\nA1,1,,\n", "Result"),
        (None, "Recording,Note\nA1,x\n", "found"),
        ("names", "Recording\nA1\n", "found"),
        ("cpsc2018", "Recording,Note\nA1,x\n", "Result"),
    ],
)
def test_the_form_of_the_answers(tmp_path: Path, form: Any, table: str, expected: str) -> None:
    save_models(tmp_path, CPSC)
    (tmp_path / "test.csv").write_text(table)
    out = answer(tmp_path, csv_file=tmp_path / "test.csv", form=form)
    assert rows_of(out / "answers.csv")[0][1] == expected


@pytest.mark.parametrize("task", ["rhythm", "cpsc2018"])
def test_only_cpsc_2018_has_the_challenges_numbers(tmp_path: Path, task: str) -> None:
    """Its classes, not only its name: 1 of calm, fast, slow would be read as Normal."""
    save_models(tmp_path, {"task": task})
    with pytest.raises(OptionError, match=f"--format cpsc2018 .* these models answer {task}, calm"):
        answer(tmp_path, records=write_records(tmp_path / "records"), form="cpsc2018")


def test_cpsc_2018_has_one_result_whatever_the_network(tmp_path: Path) -> None:
    (model,) = save_models(tmp_path, {"single_label": False, **CPSC})
    table = rows_of(answer(tmp_path, form="cpsc2018") / "answers.csv")
    results = [row[1] for row in table[1:]]
    assert results == [str(i + 1) for i in expected_of(model, list(LENGTHS)).argmax(axis=1)]


@pytest.mark.parametrize("name", ["part0/A2.hea", "part0/A2.mat", "structs/A5.mat"])
def test_one_recording(tmp_path: Path, name: str) -> None:
    (model,) = save_models(tmp_path, {})
    records = write_records(tmp_path / "records") / name
    found = load_predictions(answer(tmp_path, records=records) / "predictions.npz")
    assert found.ids.tolist() == [records.stem]
    np.testing.assert_allclose(found.probabilities, expected_of(model, [records.stem]), atol=2e-4)


def test_earlier_answers_are_replaced(tmp_path: Path) -> None:
    save_models(tmp_path, {})
    records = write_records(tmp_path / "records")
    answer(tmp_path, records=records / "part0" / "A2.hea")
    out = answer(tmp_path)
    assert len(rows_of(out / "answers.csv")) == 6
    assert not [path for path in out.iterdir() if ".part" in path.name]


# --- Recordings and tables that cannot be used ---------------------------------------------------


def test_the_others_are_answered_when_some_cannot_be(tmp_path: Path, capsys: Printed) -> None:
    (model,) = save_models(tmp_path, {})
    folder = write_records(tmp_path / "records")
    write_wfdb(folder, "A0", sine_leads(900)[:, :11], leads=LEADS[:11])
    (folder / "A2b.hea").write_text("not a header\n")
    invalid = sine_leads(900)
    invalid[:500, 4] = np.nan
    write_wfdb(folder, "A9", invalid)
    (folder / "notes.txt").write_text("no recording")
    with pytest.raises(RecordError) as error:
        answer(tmp_path)
    out = tmp_path / "out"
    sentence = str(error.value)
    assert sentence.startswith("3 of 8 recordings could not be used, the first because: ")
    assert "A0.hea" in sentence and f"{out / 'rejected.csv'} lists all reasons" in sentence
    assert sentence.count(". ") == 0 and sentence.endswith(".")
    found = load_predictions(out / "predictions.npz")
    assert found.ids.tolist() == list(LENGTHS)
    expected = expected_of(model, list(LENGTHS))
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-4)
    rejected = {row[0]: row[1:] for row in rows_of(out / "rejected.csv")[1:]}
    assert {name: Path(path).name for name, (path, _) in rejected.items()} == {
        "A0": "A0.hea",
        "A2b": "A2b.hea",
        "A9": "A9.hea",
    }
    assert "lead aVR" not in rejected["A9"][1] and "lead aVL is invalid" in rejected["A9"][1]
    assert "5 recordings answered by 1 model of Toy" in capsys.readouterr().out


def test_no_recording_can_be_used(tmp_path: Path) -> None:
    save_models(tmp_path, {})
    (tmp_path / "records").mkdir()
    with pytest.raises(RecordError, match="records holds no recording; give a folder with some"):
        answer(tmp_path)
    (tmp_path / "records" / "A1.hea").write_text("")
    with pytest.raises(RecordError, match="A1.hea"):
        answer(tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "kind", "sentence"),
    [
        ("Record,First_label\nA1,1\n", LabelError, "test.csv.*Recording"),
        ("", LabelError, "test.csv"),
        ("Recording\n", LabelError, "test.csv"),
        ("Recording\nA7\n", RecordError, "test.csv names A7 not in .*records; give the right"),
        ("Recording\nB1\nB2\nB3\n", RecordError, "names B1 and 2 more recordings not in"),
        (None, LabelError, "test.csv"),
    ],
)
def test_tables_that_cannot_be_used(
    tmp_path: Path, table: str | None, kind: type[Exception], sentence: str
) -> None:
    save_models(tmp_path, {})
    if table is not None:
        (tmp_path / "test.csv").write_text(table)
    with pytest.raises(kind, match=sentence):
        answer(tmp_path, csv_file=tmp_path / "test.csv")
    assert not (tmp_path / "out").exists()


def test_a_missing_recording_does_not_stop_the_others(tmp_path: Path) -> None:
    save_models(tmp_path, {})
    (tmp_path / "test.csv").write_text("Recording\nA4\nB1\nA1\n")
    with pytest.raises(RecordError, match="1 of 3 recordings could not be used.*B1 is not in"):
        answer(tmp_path, csv_file=tmp_path / "test.csv")
    assert [row[0] for row in rows_of(tmp_path / "out" / "answers.csv")[1:]] == ["A4", "A1"]
    assert [row[0] for row in rows_of(tmp_path / "out" / "rejected.csv")[1:]] == ["B1"]


def test_what_only_looks_like_a_recording_is_listed(tmp_path: Path) -> None:
    save_models(tmp_path, {})
    write_records(tmp_path / "records")
    (tmp_path / "records" / "six.csv").write_text("I,II,III,aVR,aVL,aVF\n" + "0,0,0,0,0,0\n" * 999)
    (tmp_path / "records" / "cut.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(RecordError, match="2 of 7 recordings could not be used"):
        answer(tmp_path)
    assert len(rows_of(tmp_path / "out" / "answers.csv")) == 6
    rejected = rows_of(tmp_path / "out" / "rejected.csv")[1:]
    assert [row[0] for row in rejected] == ["cut.npz", "six.csv"]
    # A table that names one of them gets its reason, not that it is missing.
    (tmp_path / "test.csv").write_text("Recording\nA4\nsix\n")
    with pytest.raises(RecordError, match="1 of 2 .*six.csv"):
        answer(tmp_path, csv_file=tmp_path / "test.csv")


@pytest.mark.parametrize("number", [np.nan, -0.1, 9.0])
def test_an_answer_that_is_no_probability_is_refused_by_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: float
) -> None:
    save_models(tmp_path, {}, {})
    run = ECGModel.run

    def once_nan(self: ECGModel, signals: np.ndarray, **options: Any) -> dict[str, np.ndarray]:
        answers = run(self, signals, **options)
        if self.path.parent.name == "fold_2":
            answers["diagnosis"][-1] = number
        return answers

    monkeypatch.setattr(ECGModel, "run", once_nan)
    with pytest.raises(RecordError, match="1 of 5 recordings .*fold_2/best.keras answers A5 with"):
        answer(tmp_path, batch_size=8)
    out = tmp_path / "out"
    names = ["A1", "A2", "A3", "A4"]
    assert [row[0] for row in rows_of(out / "answers.csv")[1:]] == names
    assert load_predictions(out / "predictions.npz").ids.tolist() == names
    with pytest.raises(ModelFileError, match="gives NaN, or numbers outside 0 to 1, for signal 0"):
        load_model(tmp_path / "fold_2" / "best.keras").predict(np.zeros((1, 100, 12), np.float32))
    with pytest.raises(ModelFileError, match="answers R0.. with NaN"):
        of_store(tmp_path)


def test_a_file_that_only_claims_to_be_of_a_network_explains_nothing(tmp_path: Path) -> None:
    save_models(tmp_path, {"network": "MLBF-Net"})
    with pytest.raises(ModelFileError, match=r"claims to be MLBF-Net, but lacks its layers"):
        answer(tmp_path, explain=True)


# --- In Python ---------------------------------------------------------------------------------


def test_recordings_of_any_form(tmp_path: Path) -> None:
    wfdb, pandas = pytest.importorskip("wfdb"), pytest.importorskip("pandas")
    save_models(tmp_path, {}, {})
    folder = write_records(tmp_path / "records")
    ensemble = open_models([str(tmp_path / "fold_*" / "best.keras")])
    of_folder = ensemble.predict_records(folder)
    assert [answer.record for answer in of_folder] == list(LENGTHS)
    table = rows_of(answer(tmp_path) / "answers.csv")
    frame = of_folder.to_frame()
    assert list(frame.columns) == table[0] and len(frame) == 5
    assert frame.found.tolist() == [row[1] for row in table[1:]]
    first = folder / "part1" / "A1.hea"
    other: dict[str, Any] = {"fs": FS / 2, "unit": "V"}  # than the files state
    assert ensemble.predict_records(folder, **other).to_frame().equals(frame)
    assert rows_of(answer(tmp_path, **other) / "answers.csv") == table
    with pytest.raises(RecordError, match="not the V given with unit"):
        ensemble.predict_record(first, **other)
    record = wfdb.rdrecord(str(first.with_suffix("")))
    signal = signal_of("A1")
    leads = pandas.DataFrame(signal[:, ::-1], columns=LEADS[::-1])
    forms: tuple[tuple[Any, dict[str, Any]], ...] = (
        (first, {}),
        (record, {}),
        (signal, {"fs": FS}),
        (signal.T.tolist(), {"fs": FS}),
        (leads, {"fs": FS}),
    )
    for recording, options in forms:
        alone = ensemble.predict_record(recording, **options)
        assert alone.labels == of_folder[0].labels
        np.testing.assert_allclose(
            list(alone.probabilities.values()), list(of_folder[0].probabilities.values()), atol=1e-5
        )
    assert alone.to_frame().found[0] == table[1][1]
    with pytest.raises(OptionError, match="DataFrame does not state its sampling rate"):
        ensemble.predict_record(leads)
    with pytest.raises(RecordError, match="list is not a recording"):
        ensemble.predict_record([[1, 2], [3]], fs=FS)

    paths = [first, folder / "absent.hea", str(folder / "part0" / "A2")]
    model = load_model(tmp_path / "fold_1" / "best.keras")
    for recordings in (paths, pandas.DataFrame({"age": [1, 2, 3], "file": paths})):
        answers = model.predict_records(recordings)
        assert [answer.record for answer in answers] == ["A1", "A2"]
        assert [entry.name for entry in answers.rejected] == ["absent"]
    twice = model.predict_records([first, first, signal, signal], fs=FS)
    assert len({answer.record for answer in twice}) == 4
    assert len(model.predict_records(pandas.DataFrame(paths))) == 2
    with pytest.raises(OptionError, match="name one with column"):
        model.predict_records(pandas.DataFrame({"age": [1]}))
    with pytest.raises(OptionError, match=r"no column 'age' of paths; those of paths are: file"):
        model.predict_records(pandas.DataFrame({"age": [1], "file": paths[:1]}), column="age")
    for alone_by_itself in (record, read_record(first), signal):
        with pytest.raises(OptionError, match="give a single one to predict_record"):
            model.predict_records(alone_by_itself)
    with pytest.raises(RecordError, match="there is no recording"):
        model.predict_records([])


def test_a_table_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(OptionError, match=r"to_frame\(\) needs pandas"):
        Answer("A1", {"calm": 0.5}, ("calm",), thresholds={"calm": 0.5}).to_frame()


def test_a_table_with_labels() -> None:
    pytest.importorskip("pandas")
    thresholds = {"a": 0.5, "b": 0.5}
    known = Answer(
        "A1", {"a": 1.0, "b": 0.0}, ("a",), thresholds=thresholds, true_labels=("a", "b")
    )
    unlabelled, unknown = replace(known, true_labels=()), replace(known, true_labels=None)
    frame = Answers((known, unlabelled, unknown)).to_frame()
    assert list(frame.columns[:3]) == ["Recording", "found", "labels"]
    assert frame.labels.tolist() == ["a; b", "", ""]
    assert known.to_frame().labels[0] == "a; b"
    assert "labels" in unlabelled.to_frame() and "labels" not in unknown.to_frame()


# --- The folder of the answers -------------------------------------------------------------------


def test_the_folder_of_answers_is_replaced_as_a_whole(tmp_path: Path) -> None:
    save_models(tmp_path, {})
    records = write_records(tmp_path / "records")
    out = answer(tmp_path, records=records / "part0" / "A2.hea")
    (out / "notes.txt").write_text("mine")
    (out / "explained").mkdir()
    answer(tmp_path)
    assert len(rows_of(out / "answers.csv")) == 6
    assert (out / "notes.txt").read_text() == "mine" and not (out / "explained").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")]


def test_a_stop_between_files_leaves_the_earlier_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_models(tmp_path, {})
    records = write_records(tmp_path / "records")
    out = answer(tmp_path, records=records / "part0" / "A2.hea")
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def stop(path: Path, *rest: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(predicting, "write_csv", stop)
        with pytest.raises(KeyboardInterrupt):
            answer(tmp_path)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("stored", [False, True])
def test_a_stop_between_pages_leaves_the_answers_and_the_pages_made(
    stored: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_models(tmp_path, {})
    made: list[Path] = []

    def write(path: Path, record: Record, **_: Any) -> None:
        if made:
            raise KeyboardInterrupt
        path.parent.mkdir(exist_ok=True)
        path.write_text(record.id)
        made.append(path)

    explainer = SimpleNamespace(explain=lambda record: record)
    monkeypatch.setattr(predicting, "explainer_of", lambda models: explainer)
    monkeypatch.setattr(predicting, "write_page", write)
    (tmp_path / "out" / "explained").mkdir(parents=True)
    (tmp_path / "out" / "explained" / "old.html").touch()
    with pytest.raises(KeyboardInterrupt):
        (of_store if stored else answer)(tmp_path, explain=True)
    out = tmp_path / "out"
    names = [row[0] for row in rows_of(out / "answers.csv")[1:]]
    assert len(names) == 5 and {path.name for path in out.iterdir()} == set(predicting.FILES)
    (page,) = (out / "explained").iterdir()
    assert page.stem == page.read_text() == names[0]


def test_answers_in_a_folder_of_the_records(tmp_path: Path) -> None:
    """They are no recordings to the next run."""
    save_models(tmp_path, {})
    out = write_records(tmp_path / "records") / "out"
    for _ in range(2):
        answer(tmp_path, records=tmp_path / "records", out=out)
    assert len(rows_of(out / "answers.csv")) == 6 and len(rows_of(out / "rejected.csv")) == 1


def test_a_folder_that_cannot_be_for_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_models(tmp_path, {})
    records = write_records(tmp_path / "records")
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(records)
    for out, sentence in {
        Path("."): "is the folder you are in",
        Path("/"): "or one above it",
        records: "is the folder you are in",
        tmp_path / "fold_1": "holds .*best.keras, which is read",
        tmp_path / "file": "is a file, not a folder",
        tmp_path / "loop": "is a file, not a folder",
    }.items():
        with pytest.raises(OptionError, match=sentence):
            answer(tmp_path, out=out)
    with locked(tmp_path / "out", doing="written"), pytest.raises(OptionError, match="is being"):
        answer(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_table_needs_a_folder(tmp_path: Path) -> None:
    records = write_records(tmp_path / "records") / "part0" / "A2.hea"
    table = write_reference(tmp_path / "test.csv", {"A2": [1]})
    with pytest.raises(OptionError, match="A2.hea is not a folder; .* recordings of .*test.csv"):
        choose_records(csv_file=table, records=records)
    with pytest.raises(OptionError, match="--batch-size must be above 0, not 0"):
        answer(tmp_path, batch_size=0)


def test_a_recording_or_folder_that_is_not_there(tmp_path: Path) -> None:
    save_models(tmp_path, {})
    with pytest.raises(RecordError, match="absent"):
        answer(tmp_path, records=tmp_path / "absent")


def test_recordings_are_read_a_block_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read waits in memory: never more than two blocks of it."""
    save_models(tmp_path, {})
    records = {f"A{i}": tmp_path / f"A{i}.hea" for i in range(80)}
    read, waiting = [], []
    model = load_model(tmp_path / "fold_1" / "best.keras")

    def read_one(name: str, path: Path, **options: Any) -> Any:
        read.append(name)
        return ensemble._Usable(name, [np.zeros((100, 12), np.float32)])

    def answer_one(self: ECGModel, signals: np.ndarray, *, batch_size: int) -> dict[str, Any]:
        waiting.append(len(read))
        return {"diagnosis": np.full((len(signals), 3), 1 / 3, np.float32)}

    monkeypatch.setattr(ensemble, "_read", read_one)
    monkeypatch.setattr(ECGModel, "run", answer_one)
    answered = answer_records([model], list(records.items()), batch_size=1)
    assert answered.predictions.ids.tolist() == list(records) and answered.rejected == []
    assert all(held <= WINDOW * (done // WINDOW + 2) for done, held in enumerate(waiting))


def test_recordings_of_similar_length_are_answered_together_and_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_models(tmp_path, {})
    model = load_model(tmp_path / "fold_1" / "best.keras")
    lengths = np.random.default_rng(0).permutation(np.arange(1, 41))
    records = {f"A{length}": tmp_path / f"A{length}.hea" for length in lengths}
    batches = []

    def read_one(path: Path, **options: Any) -> Any:
        signal = np.ones((int(path.stem[1:]), 12), np.float32)
        return Record(path.stem, signal, 50.0, math.nan, "", (), path)

    def prepare_one(record: Record, contract: Any) -> np.ndarray:
        signal = np.zeros((100, 12), np.float32)
        signal[: len(record.signal)] = 1
        return signal

    def answer_one(self: ECGModel, signals: np.ndarray, *, batch_size: int) -> dict[str, Any]:
        assert signals.shape[1:] == (100, 12)
        reach = signals.any(axis=2).sum(axis=1)
        batches.append(reach.tolist())
        return {"diagnosis": np.repeat(reach[:, None] / 100, 3, axis=1).astype(np.float32)}

    monkeypatch.setattr(ensemble, "as_record", read_one)
    monkeypatch.setattr(ensemble, "prepare_record", prepare_one)
    monkeypatch.setattr(ensemble, "check", lambda record, **_: ())
    monkeypatch.setattr(ECGModel, "run", answer_one)
    found = answer_records([model], list(records.items()), batch_size=8).predictions
    assert found.ids.tolist() == list(records)
    np.testing.assert_allclose(found.probabilities[:, 0], lengths / 100)
    assert batches == [list(range(i, i + 8)) for i in range(1, 41, 8)]


# --- A fold of a store, and what the models have seen ------------------------------------------


def trained_on(folder: Path, number: int, origin: Origin, **changes: Any) -> Any:
    """Save ``fold_N/best.keras`` of a network that certain records trained and chose."""
    model = toy_model(toy_contract(**changes), seed=number)
    set_origin(model, origin)
    (folder / f"fold_{number}").mkdir()
    save_model(model, folder / f"fold_{number}" / "best.keras")
    return model


def of_store(tmp_path: Path, **options: Any) -> Path:
    path = tmp_path / "toy.h5"
    if not path.exists():
        write_toy_store(path, labels={12: ()})
    return answer(tmp_path, **{"records": None, "store": path, "fold": 3, **options})


def test_a_fold_of_a_store(tmp_path: Path, capsys: Printed) -> None:
    """Its labels come with it, records without one are left out; models are compared by name."""
    outside = Origin("cpsc2018", trained=("R003", "R004"), chose=("R005",))
    models = [trained_on(tmp_path, 1, outside), trained_on(tmp_path, 2, outside, std=0.5)]
    out = of_store(tmp_path)
    found = load_predictions(out / "predictions.npz")
    assert found.ids.tolist() == ["R002", "R022", "R032", "R042", "R052"]
    assert found.labels is not None and found.first_labels is not None
    assert found.first_labels.tolist() == [int(name[1:]) % 3 for name in found.ids]
    with Store(tmp_path / "toy.h5") as store:
        signals = np.stack([store.signal(int(name[1:])) for name in found.ids])
    for model, member in zip(models, found.members, strict=True):
        np.testing.assert_allclose(member, toy_answers(model, signals), rtol=1e-4)
    assert found.seen is not None and not found.seen.any() and found.dataset == "cpsc2018"
    header, *rows = rows_of(out / "answers.csv")
    assert header[:4] == ["Recording", "found", "labels", CLASSES[0]]
    assert [row[:3] for row in rows] == [
        [name, CLASSES[a], CLASSES[int(name[1:]) % 3]]
        for name, a in zip(found.ids, found.answers, strict=True)
    ]
    assert {row[-1] for row in rows} == {"2"}
    assert {row[0] for row in rows_of(out / "warnings.csv")[1:]} == set(found.ids)  # 2 s are short
    printed = capsys.readouterr()
    assert f"\n{out}: 5 recordings answered by 2 models of Toy.\n" in printed.out
    assert "\n1 of the 6 recordings of fold 3 are left out: they have no label of" in printed.out
    assert "warning: " not in printed.err


def test_of_a_record_of_a_store_only_what_the_network_sees_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on(tmp_path, 1, Origin("cpsc2018", trained=("R003",), chose=("R005",)))
    judged = list[float]()
    monkeypatch.setattr(ensemble, "check", lambda record, *, seconds: judged.append(seconds))
    of_store(tmp_path)
    assert set(judged) == {2.0}


def test_the_labels_of_a_store_stand_beside_what_was_found(tmp_path: Path, capsys: Printed) -> None:
    several = {"single_label": False, "thresholds": (0.5, 0.0, 0.0)}
    save_models(tmp_path, several)
    write_toy_store(tmp_path / "toy.h5", labels={2: (2, 0), 12: (), 22: (0, 1, 2)})
    expected = ["calm; slow", "calm; fast; slow", "slow", "calm", "fast"]
    table = rows_of(of_store(tmp_path) / "answers.csv")
    assert [row[2] for row in table] == ["labels", *expected]
    shown = capsys.readouterr().out.splitlines()[:6]
    start, end = shown[0].index("labels"), shown[0].index("warnings")
    assert shown[0].index("found") < start
    assert [line[start:end].rstrip() for line in shown] == ["labels", *expected]
    assert all(line[start - 2 : start] == "  " for line in shown)


def test_one_network_with_one_answer_decides_wherever_it_stands(tmp_path: Path) -> None:
    """Records of several labels in no known order are left out in either order of the models."""
    write_toy_store(tmp_path / "toy.h5", labels={2: (2, 0)}, first_labels={2: -1})
    found = []
    for number, order in enumerate(((False, True), (True, False))):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_models(folder, *({"single_label": single} for single in order))
        pattern = str(folder / "fold_*" / "best.keras")
        of_store(tmp_path, models=(pattern,), out=folder / "out")
        found.append(load_predictions(folder / "out" / "predictions.npz"))
    for answers in found:
        assert answers.single_label and "R002" not in answers.ids


def test_records_that_the_models_have_seen(tmp_path: Path, capsys: Printed) -> None:
    trained_on(tmp_path, 1, Origin("cpsc2018", trained=("R002", "R022"), chose=("R032",)))
    trained_on(tmp_path, 2, Origin("ptb-xl", trained=("R042",), chose=("R052",)))
    out = of_store(tmp_path)
    found = load_predictions(out / "predictions.npz")
    assert found.seen is not None and found.seen.tolist() == [2, 2, 1, 0, 0]
    assert [model.trained for model in found.models] == [2, 1]
    warned = capsys.readouterr().err
    assert (
        "warning: 2 of 5 records answered here were used to train a member of this ensemble: "
        in warned
    )
    assert (
        "warning: 1 of 5 records answered here was used to choose the epoch and thresholds of a"
        in warned
    )


def test_files_in_a_folder_are_compared_by_name(tmp_path: Path, capsys: Printed) -> None:
    trained_on(tmp_path, 1, Origin("ptb-xl", trained=("A2", "A3"), chose=("B1",)))
    found = load_predictions(answer(tmp_path) / "predictions.npz")
    assert found.seen is not None and found.seen.tolist() == [0, 2, 2, 0, 0]
    assert found.dataset == ""
    warned = capsys.readouterr().err
    assert (
        "warning: 2 of 5 records answered here were used to train this model (compared by name"
        in warned
    )


def test_nothing_is_known_of_models_without_an_origin(tmp_path: Path, capsys: Printed) -> None:
    save_models(tmp_path, {})
    found = load_predictions(of_store(tmp_path) / "predictions.npz")
    assert found.seen is not None and (found.seen == -1).all()
    assert "warning: " not in capsys.readouterr().err


def test_models_of_generated_records_say_so(tmp_path: Path, capsys: Printed) -> None:
    trained_on(tmp_path, 1, Origin("cpsc2018", ("S1",), ("S2",), {"generated": "all"}))
    of_store(tmp_path)
    warned = capsys.readouterr().err
    assert "warning: This model was trained on generated records, not patients" in warned


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"records": Path("records")}, "either --records.* or --store and --fold"),
        ({"store": None, "fold": None}, "either --records.* or --store and --fold"),
        ({"fold": None}, "--store and --fold go together"),
        ({"store": None, "records": Path("records")}, "--store and --fold go together"),
        ({"csv_file": Path("test.csv")}, "--csv is for files"),
        ({"fs": 500.0}, "--fs is for files"),
        ({"unit": "uV"}, "--unit is for files"),
    ],
)
def test_options_that_contradict_each_other(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(OptionError, match=sentence):
        of_store(tmp_path, **options)


@pytest.mark.parametrize(
    ("changes", "fold", "sentence"),
    [
        ({}, 11, r"toy.h5 has no record with a label of cpsc2018 in fold 11; .* 1, 2, 3"),
        ({"task": "rhythm"}, 3, "toy.h5 has no task 'rhythm'; name one of cpsc2018"),
        ({"class_names": ("a", "b", "c")}, 3, "other classes of cpsc2018 than .*best.keras"),
        ({"sampling_rate": 100.0}, 3, "50 Hz and the network needs 100 Hz; build .*--rate 100"),
    ],
)
def test_a_store_that_does_not_suit(
    tmp_path: Path, changes: dict[str, Any], fold: int, sentence: str
) -> None:
    save_models(tmp_path, changes)
    with pytest.raises(StoreError, match=sentence):
        of_store(tmp_path, fold=fold)
    assert not (tmp_path / "out").exists()
