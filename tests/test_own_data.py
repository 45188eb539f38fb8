"""Four classes that nobody here has seen, from CSV files to a model that explains itself."""

import csv
import json
from importlib import import_module
from pathlib import Path

import pytest
from format_files import write_table
from make_records import sine_leads
from test_commands import exit_of

from data_prep.store import Store
from ecg_keras.evaluation.predictions import load_predictions
from ecg_keras.model.model_files import load_model

CLASSES = ("artefact", "flutter", "paced", "sinus rhythm")
FORM = ("--fs", 200, "--unit", "mV")


def run(module: str, *words: object) -> None:
    assert exit_of(import_module(module).main, *words) is None


def column(path: Path, name: str) -> list[str]:
    with open(path, newline="", encoding="utf-8") as file:
        return [row[name] for row in csv.DictReader(file)]


@pytest.mark.slow
def test_from_a_folder_and_a_table_to_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records, table, store = tmp_path / "mine", tmp_path / "rhythms.csv", tmp_path / "mine.h5"
    records.mkdir()
    lines = ["Recording,labels,patient"]
    for i in range(44):
        write_table(records / f"r{i:02d}.csv", sine_leads(400, fs=200, seed=i))
        lines.append(f"r{i:02d},{CLASSES[i % 4]},p{i}")
    table.write_text("\n".join(lines) + "\n")
    build = ("--source", records, "--labels", table, "--out", store, *FORM, "--workers", 1)
    run("data_prep.storing.build", *build)

    small = ("--input-length", 160, "--filters", 2, "--gru-units", 2, "--batch-size", 16)
    training = ("--store", store, "--epochs", 1, "--folds", 9, "--test-fold", 10, *small)
    run("mlbf_keras.train", *training, "--out", tmp_path / "run")
    best = tmp_path / "run" / "fold_9" / "best.keras"
    contract = load_model(best).contract
    assert (contract.task, contract.class_names) == ("rhythms", CLASSES)

    # Of the fold for testing, whose scores name the classes too.
    test, report = tmp_path / "test", tmp_path / "report"
    predict = ("--models", best, "--store", store, "--fold", 10, "--out", test)
    run("ecg_keras.prediction.command", *predict)
    answered = load_predictions(test / "predictions.npz")
    assert answered.class_names == CLASSES and answered.labels is not None
    assert set(column(test / "answers.csv", "found")) <= set(CLASSES)
    assert (test / "probabilities.csv").read_text().splitlines()[0] == ",".join(
        ("Recording", *CLASSES)
    )
    evaluate = ("--predictions", test / "predictions.npz", "--out", report, "--bootstrap", 5)
    run("ecg_keras.evaluation.command", *evaluate)
    assert set(column(report / "per_class.csv", "class")) == set(CLASSES)
    assert all(name in (report / "index.html").read_text() for name in CLASSES)

    # Of a new recording, with a page that explains the answer.
    write_table(tmp_path / "new.csv", sine_leads(400, fs=200, seed=99))
    explained = tmp_path / "explained"
    ask = ("--models", best, "--records", tmp_path / "new.csv", *FORM, "--out", explained)
    run("ecg_keras.prediction.command", *ask, "--explain")
    page = (explained / "explained" / "new.html").read_text()
    assert all(name in page for name in CLASSES)

    export = ("--models", best, "--out", tmp_path / "exported", "--formats", "saved_model")
    run("ecg_keras.export.command", *export)
    assert "sinus rhythm" in json.dumps(
        [f.read_text(errors="replace") for f in (tmp_path / "exported").rglob("*") if f.is_file()]
    )

    # The papers' tables are of the papers' classes; that is said, in one sentence.
    capsys.readouterr()
    words = ("table4", "--store", store, "--out", tmp_path / "tables")
    assert exit_of(import_module("mlbf_keras.reproduce").main, *words) == 2
    assert "has no task 'cpsc2018'; name one of rhythms" in capsys.readouterr().err
    with Store(store) as opened:
        assert set(opened.patients) == {f"p{i}" for i in range(44)}
