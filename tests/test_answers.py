"""One model's answer to one recording is the same wherever it is given."""

import csv
import html
import json
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from make_records import sine_leads, write_wfdb
from test_export import small_contract, small_model

from data_prep.errors import LabelError
from data_prep.label_tables import read_label_table
from data_prep.labels import CPSC_CLASSES
from data_prep.records import read_record
from ecg_keras.evaluation.answers import NONE_FOUND, Answer, Answers
from ecg_keras.evaluation.document import Picture
from ecg_keras.evaluation.predictions import found_classes, load_predictions, names_by_probability
from ecg_keras.export import command as export
from ecg_keras.model.backend import keras
from ecg_keras.model.model_files import prepare_record
from ecg_keras.prediction import command as prediction


@pytest.mark.parametrize(
    ("single_label", "task", "expected"),
    [
        (True, "cpsc2018", [[0, 0, 1], [1, 0, 0]]),
        (False, "rhythm", [[1, 0, 1], [0, 0, 0]]),
        (False, "cpsc2018", [[1, 0, 1], [1, 0, 0]]),
    ],
)
def test_the_rule(single_label: bool, task: str, expected: list[list[int]]) -> None:
    probabilities = np.array([[0.3, 0.1, 0.8], [0.2, 0.1, 0.1]], np.float32)
    thresholds = (0.3, 0.2, 0.8)
    rule = {"single_label": single_label, "task": task}
    found = found_classes(probabilities, thresholds, **rule)  # type: ignore[arg-type]
    assert found.tolist() == np.array(expected, bool).tolist()
    alone = found_classes(probabilities[0], thresholds, **rule)  # type: ignore[arg-type]
    assert alone.tolist() == found[0].tolist()


def test_no_class_of_a_label_table_has_the_name_of_another_column(tmp_path: Path) -> None:
    answer = Answer("r", {"A": 0.5}, ("A",), thresholds={"A": 0.5}, true_labels=("A",))
    columns = Answers((answer,)).columns
    assert columns.count("A") == 1
    for name in {*columns, NONE_FOUND} - {"A"}:
        (tmp_path / "labels.csv").write_text(f"Recording,labels\nr,{name}\n")
        with pytest.raises(LabelError, match=r"answers\.csv"):
            read_label_table(tmp_path / "labels.csv", "mine")


def test_the_most_probable_class_comes_first() -> None:
    found = np.array([True, False, True, True])
    names = names_by_probability(("a", "b", "c", "d"), np.array([0.3, 0.9, 0.8, 0.3]), found)
    assert names == ("c", "a", "d")


@pytest.mark.parametrize(
    ("package", "task", "members"),
    [
        ("mrm_keras", "cpsc2018", 1),
        pytest.param("mlbf_keras", "rhythm", 2, marks=pytest.mark.slow),
        pytest.param("mlbf_keras", "cpsc2018", 1, marks=pytest.mark.slow),
        pytest.param("mrm_keras", "rhythm", 2, marks=pytest.mark.slow),
    ],
)
def test_tables_page_function_and_exported_file_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, task: str, members: int
) -> None:
    monkeypatch.setattr(Picture, "png", b"")  # nobody looks at the pages' pictures here
    classes = CPSC_CLASSES if task == "cpsc2018" else ("calm", "fast", "slow", "odd")
    rng = np.random.default_rng(3)
    for number in range(members):
        thresholds = tuple(rng.uniform(0.3, 0.7, len(classes)).tolist())
        contract = small_contract(package, task=task, class_names=classes, thresholds=thresholds)
        (tmp_path / f"fold_{number}").mkdir()
        small_model(contract, seed=number).save(tmp_path / f"fold_{number}" / "best.keras")
    for name, gain in (("A1", 1.0), ("A2", 0.05)):
        write_wfdb(tmp_path / "records", name, gain * sine_leads(3000, seed=int(name[1])))
    models = (str(tmp_path / "fold_*" / "best.keras"),)
    prediction.main(models=models, records=tmp_path / "records", out=tmp_path / "out", explain=True)
    export.main(
        models=models,
        out=tmp_path / "exported",
        formats=("onnx",),
        records=tmp_path / "records",
    )

    predictions = load_predictions(tmp_path / "out" / "predictions.npz")
    with (tmp_path / "out" / "answers.csv").open(newline="") as file:
        table = {row["Recording"]: row["found"] for row in csv.DictReader(file)}
    session = onnxruntime.InferenceSession(tmp_path / "exported" / "model.onnx")
    properties = session.get_modelmeta().custom_metadata_map
    facts = {name: json.loads(text) for name, text in properties.items()}
    assert list(table) == ["A1", "A2"]
    for name, answer in zip(predictions.ids, predictions.names_found, strict=True):
        record = read_record(tmp_path / "records" / f"{name}.hea")
        text = (tmp_path / "out" / "explained" / f"{name}.html").read_text()
        (title,) = re.findall(r"<title>(.*)</title>", text)
        said = " and ".join(answer) or "none above its threshold"
        assert html.unescape(title) == f"{name}: {said}"
        assert table[name] == ("; ".join(answer) or "none above its threshold")
        (probabilities,) = session.run(
            ["diagnosis"], {"signal": prepare_record(record, contract)[None]}
        )
        rule = {"single_label": facts["single_label"], "task": facts["task"]}
        found = found_classes(probabilities[0], facts["thresholds"], **rule)
        assert names_by_probability(facts["class_names"], probabilities[0], found) == answer
        if members == 1:
            model = import_module(package).load_model(tmp_path / "fold_0" / "best.keras")
            assert model.predict_record(record).labels == answer
    keras.backend.clear_session()
