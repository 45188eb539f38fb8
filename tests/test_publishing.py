"""From a trained model to a published one: a smaller file that answers alike, and its card."""

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from toy import CLASSES, toy_contract, toy_network, write_toy_store

from data_prep.errors import OptionError
from data_prep.store import Store
from ecg_keras.model.model_files import load_model, save_model, set_origin
from ecg_keras.model.origin import Origin
from ecg_keras.prediction.ensemble import fold_of_store, predict_store
from ecg_keras.publishing import command
from ecg_keras.publishing.command import main as publish
from ecg_keras.training.fit import train_folds
from ecg_keras.training.settings import Run, Settings, Validation

BY = "toy-train --store toy.h5 --out run"


@pytest.fixture(scope="module", params=[True, False], ids=["one label", "several labels"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A store and a model: fold 9 chose it, fold 10 was left out."""
    folder = tmp_path_factory.mktemp("trained")
    store = write_toy_store(folder / "toy.h5", lengths=(100,) * 120)
    train_folds(
        Run(store=store, out=folder / "run"),
        Validation(folds=("9",), test_fold=10),
        toy_network(contract=toy_contract(single_label=request.param)),
        Settings(epochs=3, batch_size=16, monitor="macro-auc"),
    )
    return store, folder / "run" / "fold_9" / "best.keras"


def test_model_and_card(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, model = trained
    publish(
        model=model, name="toy-of-three", store=store, trained_by=BY, out=tmp_path, bootstrap=20
    )
    full, published = load_model(model), load_model(tmp_path / "toy_of_three.keras")
    assert published.contract == full.contract
    assert published.origin == full.origin
    for ours, before in zip(
        published.network.get_weights(), full.network.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, before.astype(np.float16).astype(np.float32))

    card = (tmp_path / "toy_of_three.md").read_text(encoding="utf-8")
    with Store(store) as opened:
        rows = fold_of_store(opened, contract=full.contract, fold=10)
        scored = predict_store(published, opened, rows, batch_size=64)["diagnosis"]
    auc = roc_auc_score(scored.labels, scored.probabilities, average="macro")
    shown = re.search(r"Macro-AUC over classes \| (\d\.\d+) \(", card)
    assert shown and float(shown[1]) == pytest.approx(auc, abs=5e-4)
    for words in (
        "# toy-of-three",
        f"**Trained by**: {BY}",
        f"**Commit**: {full.facts.commit}",
        f"**Epoch**: {full.facts.epoch} of 3, chosen by",
        "**Training time**:",
        "trained on 96 records; its epoch and thresholds were selected on 12 others",
        "**Input**: 12 leads, 2 s at 50 Hz;",
        "licence CC BY 4.0",
        "not a medical device",
        "in half precision",
        "| Class | Threshold | Sensitivity | Specificity |"
        if not full.contract.single_label
        else "| Class | Sensitivity | Specificity |",
    ):
        assert words in card, words
    if not full.contract.single_label:
        assert len(set(published.contract.thresholds)) > 1
        for name, threshold in zip(CLASSES, published.contract.thresholds, strict=True):
            cells = re.search(rf"^\| {name} \| (0\.\d+) \|", card, re.MULTILINE)
            assert cells and float(cells[1]) == pytest.approx(threshold, abs=5e-4)
    assert all(re.search(rf"^\| {name} \| 4 \|", card, re.MULTILINE) for name in CLASSES)

    line = capsys.readouterr().out.splitlines()[-1]
    digest = hashlib.sha256((tmp_path / "toy_of_three.keras").read_bytes()).hexdigest()
    described = "Toy for cpsc2018 (3 classes) trained on cpsc2018; macro-AUC"
    assert line.startswith(f"toy-of-three,{digest},{described}")


def test_full_precision_if_half_changes_the_scores(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    store, model = trained
    with patch.object(command, "MOST_CHANGE", -1.0):
        publish(model=model, name="toy", store=store, trained_by=BY, out=tmp_path, bootstrap=20)
    published = load_model(tmp_path / "toy.keras")
    for ours, before in zip(
        published.network.get_weights(), load_model(model).network.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, before)
    assert "The weights are stored in full" in (tmp_path / "toy.md").read_text(encoding="utf-8")


def test_full_precision_if_half_cannot_hold_the_weights(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    store, path = trained
    model = load_model(path)
    kernel, bias = model.network.get_layer("diagnosis").get_weights()
    bias[:] = 1e5  # of all classes, so the answers stay
    model.network.get_layer("diagnosis").set_weights([kernel, bias])
    shutil.copytree(path.parent, tmp_path / "run")
    save_model(model.network, tmp_path / "run" / path.name)
    publish(
        model=tmp_path / "run" / path.name, name="toy", store=store, trained_by=BY,
        out=tmp_path / "out", bootstrap=20,
    )  # fmt: skip
    assert "half precision cannot hold them" in (tmp_path / "out" / "toy.md").read_text()


@pytest.mark.parametrize(
    ("options", "trouble"),
    [
        ({"test_fold": 3}, "has seen records of fold 3"),
        ({"test_fold": 9}, "has seen records of fold 9"),
        ({"validation_fold": 3}, "records of fold 3 did not choose the epoch"),
        ({"validation_fold": 10}, "records of fold 10 did not choose the epoch"),
        ({"bootstrap": 0}, "--bootstrap must be at least 1"),
    ],
)
def test_folds_that_are_not_those_of_the_training_are_refused(
    trained: tuple[Path, Path], tmp_path: Path, options: dict[str, int], trouble: str
) -> None:
    """Before any record is predicted, which takes minutes."""
    store, model = trained
    unused = patch("ecg_keras.prediction.ensemble.predict_store", side_effect=AssertionError)
    with unused, pytest.raises(OptionError, match=trouble):
        publish(model=model, name="toy", store=store, trained_by=BY, out=tmp_path / "o", **options)
    assert not (tmp_path / "o").exists()


def test_a_model_from_unknown_records_is_refused(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    store, path = trained
    run = shutil.copytree(path.parent, tmp_path / "run")
    model = load_model(path)
    assert model.origin is not None
    set_origin(model.network, replace(model.origin, before=Origin.unknown()))
    model.network.save(run / "best.keras")
    options: dict[str, Any] = {
        "name": "toy",
        "store": store,
        "trained_by": BY,
        "out": tmp_path / "out",
    }
    with pytest.raises(OptionError, match="does not name all records that trained it"):
        publish(model=run / "best.keras", **options)


def test_a_model_without_its_training_is_refused(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    store, model = trained
    alone = tmp_path / "alone.keras"
    alone.write_bytes(model.read_bytes())
    with pytest.raises(OptionError, match=r"has no readable args\.json"):
        publish(model=alone, name="toy", store=store, trained_by=BY, out=tmp_path / "o")
