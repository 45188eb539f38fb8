import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score
from test_commands import ROOT
from toy import (
    CLASSES,
    compiled_toy,
    toy_answers,
    toy_contract,
    toy_network,
    toy_signal,
    write_toy_store,
)

from data_prep.errors import OptionError, StoreError
from data_prep.store import Store
from ecg_keras.evaluation.plots import read_history
from ecg_keras.evaluation.predictions import load_predictions
from ecg_keras.evaluation.scores import best_thresholds, single_label_macro_f1
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract
from ecg_keras.model.model_files import load_model
from ecg_keras.model.origin import CHOSE
from ecg_keras.training import fit as training
from ecg_keras.training.batches import StoreBatches
from ecg_keras.training.callbacks import ChooseEpochs, KeepBest, OneCycle
from ecg_keras.training.fit import train_fold, train_folds
from ecg_keras.training.folds import Parts, choose_folds, split, with_main_labels
from ecg_keras.training.settings import Monitor, Run, Settings, Validation, require_sensible

pytestmark = pytest.mark.usefixtures("undrawn_curves")

SETTINGS = Settings(epochs=4, batch_size=16)
# Some records of two classes, one without any label.
LABELS = {3: (0, 1), 8: (2, 0), 14: (2, 1), 25: (1, 2), 38: ()}
# In fold 1 most have the first class too, which moves its threshold.
LABELS |= {10: (1, 0), 20: (2, 0), 50: (2, 0)}
FOLDS = range(1, 11)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store(write_toy_store(tmp_path_factory.mktemp("s") / "toy.h5", labels=LABELS)) as opened:
        yield opened


def train(
    store: Store,
    out: Path,
    *,
    contract: Contract | None = None,
    compiled: Callable[[Contract], Any] | None = None,
    folds: tuple[int, ...] = (1,),
    test_fold: int | None = 10,
    options: dict[str, Any] | None = None,
    step: float = 0.05,
    **changes: Any,
) -> Path:
    """Train the toy network, or the one compiled so, and return the first fold's folder."""
    compiled = compiled or partial(compiled_toy, learning_rate=step, dropout=0.2)
    train_folds(
        Run(store=store.path, out=out),
        Validation(folds=tuple(map(str, folds)), test_fold=test_fold),
        toy_network(compiled, contract, **options or {}),
        replace(SETTINGS, **changes),
    )
    return out / f"fold_{folds[0]}"


# --- The learning rate -------------------------------------------------------------------------


def test_one_cycle_of_a_hundred_steps() -> None:
    cycle = OneCycle(0.01, epochs=5, steps_per_epoch=20)
    rates = np.array([cycle.rate(step) for step in range(101)])
    assert rates[[0, 15, 30, 65]] == pytest.approx([0.0004, 0.0052, 0.01, 0.00500002])
    assert rates[20] == pytest.approx(0.0004 + 0.0096 * 0.75)  # two thirds up: (1 - cos 120°) / 2
    assert rates[100] == pytest.approx(4e-8)
    assert (np.diff(rates[:31]) > 0).all() and (np.diff(rates[30:]) < 0).all()


# --- Which records -----------------------------------------------------------------------------


def test_folds_by_number_and_all(store: Store) -> None:
    assert choose_folds(store, ("2", "1", "2"), None) == (2, 1)
    assert choose_folds(store, ("all",), None) == tuple(range(1, 11))
    assert choose_folds(store, ("all",), 10) == tuple(range(1, 10))


@pytest.mark.parametrize(
    ("folds", "test_fold", "kind", "sentence"),
    [
        (("one",), None, OptionError, "--folds takes numbers, or the one word all, not one"),
        (("all", "2"), None, OptionError, "not all 2"),
        ((), None, OptionError, "names no fold"),
        (("3", "10"), 10, OptionError, "fold 10 is the test fold and cannot validate too"),
        (("11",), None, StoreError, "toy.h5 has no record in fold 11; it has folds 1, 2, 3"),
        (("0",), None, StoreError, "no record in fold 0"),
    ],
)
def test_folds_that_cannot_be(
    store: Store,
    folds: tuple[str, ...],
    test_fold: int | None,
    kind: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(kind, match=sentence):
        choose_folds(store, folds, test_fold)


@pytest.mark.parametrize("test_fold", [None, 10])
@pytest.mark.parametrize("fold", [1, 7])
def test_no_record_is_in_two_parts_and_the_test_fold_in_none(
    store: Store, fold: int, test_fold: int | None
) -> None:
    parts = split(store, task="cpsc2018", fold=fold, test_fold=test_fold)
    numbers, labelled = np.arange(60) % 10 + 1, np.arange(60) != 38
    assert parts.validation.tolist() == np.flatnonzero(labelled & (numbers == fold)).tolist()
    kept = labelled & (numbers != fold) & (numbers != (test_fold or 0))
    assert parts.train.tolist() == np.flatnonzero(kept).tolist()


def test_an_empty_part_is_refused(tmp_path: Path) -> None:
    # Nobody in fold 2 has a label of the task.
    with Store(write_toy_store(tmp_path / "a.h5", lengths=(50,) * 10, labels={1: ()})) as store:
        with pytest.raises(StoreError, match="no validation record with a label .* fold 2 valid"):
            split(store, task="cpsc2018", fold=2, test_fold=None)
    with Store(write_toy_store(tmp_path / "b.h5", lengths=(50,) * 2)) as store:
        with pytest.raises(StoreError, match="no training record"):
            split(store, task="cpsc2018", fold=1, test_fold=2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"epochs": 0}, "--epochs must be above 0, not 0"),
        ({"seed": 2**31}, "--seed must be below 2147483648"),
        ({"batch_size": -1}, "--batch-size must be above 0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be above 0"),
        ({"input_length": 0}, "--input-length must be above 0"),
        ({"filters": 0}, "--filters must be above 0"),
        ({"low_channels": 0}, "--low-channels must be above 0"),
        ({"temperature": 0.0}, "--temperature must be above 0"),
        ({"patience": -1}, "--patience must be 0 or more"),
        ({"seed": -1}, "--seed must be 0 or more"),
        ({"loss_weight": -0.5}, "--loss-weight must be 0 or more"),
        ({"alpha": -1.0}, "--alpha must be 0 or more"),
        ({"dropout": 1.0}, "--dropout must be at least 0 and below 1, not 1.0"),
        ({"dropout": -0.1}, "--dropout must be"),
        ({"test_fold": 11}, "--test-fold takes 1 to 10"),
        ({"test_fold": 0}, "--test-fold takes 1 to 10"),
    ],
)
def test_options_nothing_can_be_trained_with(
    store: Store, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    shared = {n: options.pop(n) for n in {*vars(SETTINGS), "test_fold"} & {*options}}
    with pytest.raises(OptionError, match=sentence):
        train(store, tmp_path / "run", options=options, **shared)
    assert list(tmp_path.iterdir()) == []


def test_options_at_their_limits() -> None:
    require_sensible({"patience": 0, "seed": 0, "dropout": 0.0, "alpha": 0.0, "test_fold": None})


def test_tensorboard_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecg_keras.training.settings.find_spec", lambda name: None)
    with pytest.raises(OptionError, match="pip install tensorboard"):
        require_sensible({"tensorboard": True})
    require_sensible({"tensorboard": False})


# --- What a run leaves -------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[True, False], ids=["single label", "several labels"])
def run(
    store: Store, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    """A finished fold of the toy network, its best epoch not the last."""
    contract = toy_contract(single_label=request.param, mean=0.05, std=0.5)
    return train(store, tmp_path_factory.mktemp("run"), contract=contract, options={"a": Path("b")})


def test_a_run_folder_is_complete(run: Path) -> None:
    names = {"args.json", "best.keras", "history.csv", "learning_curves.png", "training.log"}
    assert {path.name for path in run.iterdir()} == {*names, "validation.npz", "last_epoch.npz"}
    saved = json.loads((run / "args.json").read_text())
    assert saved["options"].pop("store").endswith("toy.h5") and saved["options"].pop("out")
    expected = {"a": "b", "folds": ["1"], "test_fold": 10, "task": None, "resume": False}
    assert saved["options"] == {**expected, **asdict(SETTINGS)} and saved["fold"] == 1
    assert saved["settings"] == {**asdict(SETTINGS), "seed": 1}
    assert {"tensorflow", "keras", "commit", "machine", "cores"} <= saved["made with"].keys()
    assert (run / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    history = read_history(run / "history.csv")
    assert history["epoch"].tolist() == [0, 1, 2, 3]
    assert set(history) == {"epoch", "loss", "val_loss", "val_macro_f1", "val_macro_auc"}


def test_each_epoch_leaves_a_line(run: Path) -> None:
    history = read_history(run / "history.csv")
    best = int(history["val_macro_f1"].argmax())
    lines = (run / "training.log").read_text().splitlines()
    assert len(lines) == len(history["epoch"])
    for epoch, line in enumerate(lines):
        assert f"epoch {epoch + 1} of {SETTINGS.epochs}: loss {history['loss'][epoch]:.4f}" in line
        assert f"val_macro_f1 {history['val_macro_f1'][epoch]:.4f}" in line
    kept = f"best val_macro_f1 {history['val_macro_f1'][best]:.4f} in epoch {best + 1}"
    assert [kept in line for line in lines] == [epoch >= best for epoch in range(len(lines))]


def test_the_kept_scores_are_those_of_scikit_learn(run: Path) -> None:
    history = read_history(run / "history.csv")
    best = int(history["val_macro_f1"].argmax())  # the first of equal ones
    kept = load_predictions(run / "validation.npz")
    assert kept.labels is not None and kept.first_labels is not None
    truth = kept.labels
    if kept.single_label:
        truth = np.eye(3)[kept.first_labels]
        f1 = f1_score(
            kept.first_labels, kept.answers, average="macro", labels=[0, 1, 2], zero_division=0
        )
        loss = -np.log((kept.probabilities * truth).sum(axis=1)).mean()
    else:
        f1 = f1_score(truth, kept.probabilities >= 0.5, average="macro", zero_division=0)
        p = kept.probabilities.astype(np.float64)
        loss = -np.where(truth, np.log(p), np.log(1 - p)).mean()
    auc = roc_auc_score(kept.labels, kept.probabilities, average="macro")
    assert history["val_macro_f1"][best] == pytest.approx(f1, abs=1e-9)
    assert history["val_macro_auc"][best] == pytest.approx(auc, abs=1e-9)
    assert history["val_loss"][best] == pytest.approx(loss, rel=1e-5)


def test_the_kept_model_gives_the_kept_answers(run: Path, store: Store) -> None:
    kept = load_predictions(run / "validation.npz")
    model = load_model(run / "best.keras", networks=("Toy",))
    rows = [int(name[1:]) for name in kept.ids]
    signals = np.stack([store.signal(row) for row in rows])
    np.testing.assert_allclose(model.predict(signals), kept.probabilities, rtol=1e-5)
    np.testing.assert_allclose(toy_answers(model.network, signals), kept.probabilities, rtol=1e-4)
    np.testing.assert_array_equal(kept.members[0], kept.probabilities)
    assert (kept.network, kept.task, kept.class_names) == ("Toy", "cpsc2018", CLASSES)
    assert (model.contract.mean, model.contract.std) == (0.05, 0.5)


def test_the_kept_model_names_the_records_that_made_it(run: Path, store: Store) -> None:
    origin = load_model(run / "best.keras", networks=("Toy",)).origin
    assert origin is not None
    names = {fold: store.ids[store.labels().any(axis=1) & (store.folds == fold)] for fold in FOLDS}
    assert set(origin.chose) == set(names[1])
    assert set(origin.trained) == {name for fold in range(2, 10) for name in names[fold]}
    history = read_history(run / "history.csv")
    assert origin.epoch == history["val_macro_f1"].argmax() + 1
    assert origin.score == history["val_macro_f1"].max() and origin.monitor == "val_macro_f1"
    assert (origin.dataset, origin.store) == ("cpsc2018", store.provenance)
    made_with = json.loads((run / "args.json").read_text())["made with"]
    assert (origin.version, origin.commit) == (made_with["ecg-keras"], made_with["commit"])
    assert datetime.fromisoformat(origin.date).tzinfo is not None
    kept = load_predictions(run / "validation.npz")
    assert kept.seen is not None and (kept.seen == CHOSE).all()
    assert kept.models == (origin.facts("best.keras"),) and kept.dataset == "cpsc2018"


def test_thresholds_are_found_on_validation_records_only(run: Path, store: Store) -> None:
    kept = load_predictions(run / "validation.npz")
    assert kept.ids.tolist() == [f"R{i:03d}" for i in range(0, 60, 10)]
    np.testing.assert_array_equal(kept.labels, store.labels()[::10])
    expected = best_thresholds(store.labels()[::10], kept.probabilities)
    np.testing.assert_array_equal(kept.thresholds, expected)
    model = load_model(run / "best.keras", networks=("Toy",))
    np.testing.assert_array_equal(np.array(model.contract.thresholds), expected)
    assert (expected != 0.5).any()


def test_training_sees_the_training_part_only(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []
    made: list[StoreBatches] = []

    class Watched(StoreBatches):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    @dataclass(frozen=True)
    class Asked:
        def contract(self, store: Store, task: str, train: np.ndarray) -> Contract:
            asked.append(train.tolist())
            return toy_contract()

        def compiled_model(self, contract: Contract, settings: Settings) -> Any:
            return compiled_toy(contract)

    monkeypatch.setattr(training, "StoreBatches", Watched)
    train_folds(
        Run(store=store.path, out=tmp_path / "run"),
        Validation(folds=("2", "3"), test_fold=10),
        Asked(),
        replace(SETTINGS, epochs=1),
    )
    numbers = np.arange(60) % 10 + 1
    for fold, of_contract, batches in zip((2, 3), asked, (made[:2], made[2:]), strict=True):
        expected = [i for i in range(60) if i != 38 and numbers[i] not in (fold, 10)]
        assert of_contract == batches[0].records.tolist() == expected
        assert batches[1].records.tolist() == np.flatnonzero(numbers == fold).tolist()
        assert (batches[0].shuffle, batches[1].shuffle) == (True, False)
    # Every fold has weights and an order of its own.
    assert [batches.seed for batches in made] == [2, 2, 3, 3]


# --- Epochs ------------------------------------------------------------------------------------


def test_a_source_for_testing_that_is_not_left_out_is_named(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(store.path, tmp_path / "aside.h5")
    with h5py.File(tmp_path / "aside.h5", "r+") as file:
        file.attrs["provenance"] = json.dumps({"options": {"test_source": ["georgia"]}})
    with Store(tmp_path / "aside.h5") as aside:
        train(aside, tmp_path / "left-out", epochs=1)
        assert "georgia" not in capsys.readouterr().err
        train(aside, tmp_path / "in", epochs=1, test_fold=None)
        assert "fold 10 of" in (said := capsys.readouterr().err) and "records of georgia" in said


@pytest.mark.parametrize(("patience", "epochs"), [(1, 2), (3, 4), (50, 6)])
def test_fitting_stops_when_patience_ends(
    store: Store, tmp_path: Path, patience: int, epochs: int
) -> None:
    """With this learning rate the score stays as it was in the first epoch."""
    folder = train(store, tmp_path, epochs=6, patience=patience, step=1e-30)
    assert len(read_history(folder / "history.csv")["epoch"]) == epochs


def test_a_cycle_is_trained_to_its_end(store: Store, tmp_path: Path) -> None:
    """Stopped by its patience, it would never lower the rate."""
    folder = train(store, tmp_path, epochs=6, patience=1, schedule="one-cycle", learning_rate=1e-30)
    assert len(read_history(folder / "history.csv")["epoch"]) == 6


TRAINED = np.arange(2, 60, 10)


class Told(keras.callbacks.Callback):
    """Stands for KeepBest: scores that are given beforehand."""

    key = "val_macro_f1"

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = scores
        self.seen: list[int] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        assert logs is not None
        logs[self.key] = self.scores[epoch]
        self.seen.append(epoch)


def test_a_part_whose_patience_has_ended_chooses_no_more() -> None:
    """However much better its scores become while the other part is still choosing."""
    first = Told([0.1, 0.3, 0.3, 0.2, 0.9, 0.9, 0.9])
    second = Told([0.1, 0.2, 0.3, 0.3, 0.4, 0.4, 0.4])
    choose = ChooseEpochs({"": cast(Any, first), "second": cast(Any, second)}, patience=2)
    model = compiled_toy(toy_contract())
    choose.set_model(model)
    choose.on_train_begin()
    model.stop_training, logs = False, []
    while not model.stop_training:
        logs.append({"loss": 0.0})
        choose.on_epoch_end(len(logs) - 1, logs[-1])
    assert (first.seen, second.seen) == ([0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6])
    scores = [[entry[name + first.key] for entry in logs] for name in ("", "second_")]
    np.testing.assert_array_equal(scores[0], [0.1, 0.3, 0.3, 0.2, np.nan, np.nan, np.nan])
    assert scores[1] == second.scores
    assert len({tuple(entry) for entry in logs}) == 1  # the history has the same columns always


def test_scores_that_are_nan_at_first_spend_patience_only() -> None:
    best = Told([np.nan, np.nan, 0.1, 0.2, 0.2, 0.2])
    choose = ChooseEpochs({"": cast(Any, best)}, patience=2)
    choose.set_model(compiled_toy(toy_contract()))
    choose.on_train_begin()
    for epoch in range(6):
        assert not choose.model.stop_training
        choose.on_epoch_end(epoch, {"loss": 0.0})
    assert choose.model.stop_training


@pytest.mark.parametrize("monitor", ["macro-f1", "macro-auc"])
def test_the_best_epoch_is_kept_and_not_the_last(
    store: Store, tmp_path: Path, monitor: Monitor
) -> None:
    """Epoch 1 knows the classes; the others call a wrong one."""
    knowing = np.zeros((12, 3), np.float32)
    knowing[[0, 1, 2], [0, 1, 2]] = 30
    contract = toy_contract()
    batches = StoreBatches(store, np.arange(1, 60, 10), contract=contract, heads=("diagnosis",))
    model = compiled_toy(contract)
    best = KeepBest(store, batches, trained=TRAINED, folder=tmp_path, monitor=monitor)
    best.set_model(model)
    dense, logs = model.get_layer("diagnosis"), []
    for epoch, columns in enumerate([[1, 2, 0], [0, 1, 2], [2, 0, 1], [0, 1, 2]]):
        dense.set_weights([knowing[:, columns], np.zeros(3, np.float32)])
        logs.append({"loss": 0.0})
        best.on_epoch_end(epoch, logs[-1])
    assert (best.epoch, best.score) == (1, 1.0)  # of two equal ones the first
    assert [entry[best.key] for entry in logs][1::2] == [1.0, 1.0]
    assert max(entry[best.key] for entry in logs[::2]) < 0.9
    kept = load_model(tmp_path / "best.keras", networks=("Toy",))
    np.testing.assert_array_equal(kept.network.get_layer("diagnosis").get_weights()[0], knowing)
    assert load_predictions(tmp_path / "validation.npz").answers.tolist() == [1, 2, 0, 1, 2, 0]


def test_the_monitor_decides(store: Store, tmp_path: Path) -> None:
    """Epoch 0 ranks well and calls nothing; epoch 1 calls one class right and ranks badly."""
    contract = toy_contract(single_label=False)
    batches = StoreBatches(store, np.arange(0, 60, 10), contract=contract, heads=("diagnosis",))
    ranking, calling = np.zeros((12, 3), np.float32), np.zeros((12, 3), np.float32)
    ranking[[0, 1, 2], [0, 1, 2]] = 1
    epochs = [[ranking, np.full(3, -9, np.float32)], [calling, np.array([9, -9, -9], np.float32)]]
    chosen = {}
    monitors: tuple[Monitor, ...] = ("macro-f1", "macro-auc")
    for monitor in monitors:
        best = KeepBest(store, batches, trained=TRAINED, folder=tmp_path, monitor=monitor)
        model = compiled_toy(contract)
        best.set_model(model)
        for epoch, weights in enumerate(epochs):
            model.get_layer("diagnosis").set_weights(weights)
            best.on_epoch_end(epoch, {"loss": 0.0})
        chosen[monitor] = best.epoch
    assert chosen == {"macro-f1": 1, "macro-auc": 0}


def answering(toy: Any, answer: Any) -> Any:
    """The toy network with another answer."""
    model = keras.Model(toy.input, {"diagnosis": answer})
    model.compile(toy.optimizer, loss={"diagnosis": "categorical_crossentropy"})
    return model


@keras.saving.register_keras_serializable("toy")
class Penalty(keras.layers.Layer):
    """Adds 7 to the loss while training."""

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.add_loss(keras.ops.mean(x) * 0 + 7)
        return x


def test_losses_that_layers_add_stay_out_of_every_validation_loss(
    store: Store, tmp_path: Path
) -> None:
    def compiled_model(contract: Contract) -> Any:
        toy = compiled_toy(contract, learning_rate=1e-30)
        return answering(toy, Penalty(name="penalised")(toy.output["diagnosis"]))

    train(store, tmp_path, compiled=compiled_model, epochs=3)
    history = read_history(tmp_path / "fold_1" / "history.csv")
    kept = load_predictions(tmp_path / "fold_1" / "validation.npz")
    assert kept.first_labels is not None
    expected = -np.log(kept.probabilities[np.arange(6), kept.first_labels]).mean()
    np.testing.assert_allclose(history["val_loss"], [expected] * 3, rtol=1e-5)
    assert (history["loss"] > 7).all() and (history["val_loss"] < 2).all()


def test_a_loss_that_is_no_number_ends_training_and_names_the_records(
    store: Store, tmp_path: Path
) -> None:
    """The output for R017 is NaN: the batch that holds it is named, and no other."""
    strange = toy_signal(100, 2, seed=17)[0, 0]

    def compiled_model(contract: Contract) -> Any:
        toy = compiled_toy(contract)
        is_strange = keras.ops.equal(toy.input[:, :1, 0], strange)
        return answering(toy, keras.ops.where(is_strange, np.nan, toy.output["diagnosis"]))

    with pytest.raises(StoreError, match="NaN or infinite in fold 1") as caught:
        train(store, tmp_path, compiled=compiled_model, batch_size=4)
    named = re.findall(r"R\d{3}", str(caught.value))
    assert "R017" in named and len(named) == 4
    batch = re.search(r"epoch 1, batch (\d+), with the records", str(caught.value))
    assert batch is not None
    parts = split(store, task="cpsc2018", fold=1, test_fold=10)
    batches = StoreBatches(
        store,
        parts.train,
        contract=toy_contract(),
        heads=("diagnosis",),
        batch_size=4,
        shuffle=True,
        seed=1,
    )
    signals, _ = batches[int(batch[1]) - 1]
    expected = [toy_signal(100, int(name[1:]) % 3, seed=int(name[1:])) for name in named]
    np.testing.assert_array_equal(signals, expected)
    assert not (tmp_path / "fold_1" / "best.keras").exists()
    assert keras.config.dtype_policy().name == "float32"


@keras.saving.register_keras_serializable("toy")
class NoNumbers(keras.layers.Layer):
    """Answers only while training."""

    def call(self, x: Any, training: bool = False) -> Any:
        return x if training else x * np.nan


def test_scores_that_are_no_numbers_leave_no_model(store: Store, tmp_path: Path) -> None:
    def compiled_model(contract: Contract) -> Any:
        toy = compiled_toy(contract)
        return answering(toy, NoNumbers()(toy.output["diagnosis"]))

    with pytest.raises(StoreError, match="no epoch of fold 1 gave a validation score .*fold_1"):
        train(store, tmp_path, compiled=compiled_model)
    assert not (tmp_path / "fold_1" / "best.keras").exists()


def test_several_folds_end_with_mean_and_sd(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folds that were finished by another command count as well."""
    train(store, tmp_path, folds=(2,), epochs=2, step=0.01)
    assert "mean" not in capsys.readouterr().out
    train_folds(
        Run(store=store.path, out=tmp_path, resume=True),
        Validation(folds=("1", "2", "3"), test_fold=10),
        toy_network(partial(compiled_toy, learning_rate=0.01, dropout=0.2)),
        replace(SETTINGS, epochs=2),
    )
    best = []
    for fold in (1, 2, 3):
        answers = load_predictions(tmp_path / f"fold_{fold}" / "validation.npz")
        assert answers.first_labels is not None
        best.append(single_label_macro_f1(answers.first_labels, answers.probabilities))
    mean, sd = np.mean(best), np.std(best, ddof=1)
    assert 0 < sd < mean
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"3 folds: best val_macro_f1 {mean:.4f} ± {sd:.4f} (mean ± SD)"


# --- Runs that are there already, and failing disks --------------------------------------------


def test_a_network_of_one_answer_leaves_out_what_has_no_main_label(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_toy_store(
        tmp_path / "toy.h5", labels={i: (0, 1) for i in (0, 5, 6)}, first_labels={0: -1, 6: -1}
    )
    with Store(path) as store:
        parts = Parts(np.arange(1, 10), np.arange(0, 60, 10), np.array([6, 7]))
        left = with_main_labels(store, parts, task="cpsc2018")
        assert left.train.tolist() == [1, 2, 3, 4, 5, 7, 8, 9]
        assert left.validation.tolist() == [10, 20, 30, 40, 50]
        assert left.second is not None and left.second.tolist() == [7]
        with pytest.raises(
            StoreError, match="toy.h5 has no second validation record.*several-labels rarest"
        ):
            with_main_labels(store, replace(parts, second=np.array([6])), task="cpsc2018")
        for single_label in (True, False):
            network = toy_network(contract=toy_contract(single_label=single_label))
            train_fold(
                store,
                folder=tmp_path / str(single_label),
                fold=1,
                task="cpsc2018",
                parts=replace(parts, second=None),
                network=network,
                settings=replace(SETTINGS, epochs=1),
                options={},
            )
            kept = load_predictions(tmp_path / str(single_label) / "validation.npz")
            assert ("R000" in kept.ids) is not single_label
    printed = capsys.readouterr().out
    assert printed.count("fold 1: 2 records with several labels in no known order are left") == 1


def test_a_run_is_never_overwritten(store: Store, tmp_path: Path) -> None:
    """Found out before anything is trained."""
    (tmp_path / "fold_3").mkdir()
    (tmp_path / "fold_3" / "history.csv").write_text("epoch,loss\n")
    with pytest.raises(OptionError, match=r"fold_3 holds a run that was not .* with --resume"):
        train(store, tmp_path, folds=(2, 3))
    for name in ("best.keras", "learning_curves.png"):
        (tmp_path / "fold_3" / name).touch()
    with pytest.raises(OptionError, match=r"fold_3 holds a run already; .* take 3 out of --folds"):
        train(store, tmp_path, folds=(2, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["fold_3"]
    shutil.rmtree(tmp_path / "fold_3")
    assert (train(store, tmp_path, folds=(3,), epochs=1) / "best.keras").is_file()


def test_what_was_complete_survives_a_full_disk(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills up while the second, better model is written."""
    contract = toy_contract()
    batches = StoreBatches(store, np.arange(0, 60, 10), contract=contract, heads=("diagnosis",))
    model = compiled_toy(contract)
    best = KeepBest(store, batches, trained=TRAINED, folder=tmp_path, monitor="macro-f1")
    best.set_model(model)
    weights = np.zeros((12, 3), np.float32)
    model.get_layer("diagnosis").set_weights([weights, np.zeros(3, np.float32)])
    best.on_epoch_end(0, {"loss": 0.0})

    def full(model: Any, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(keras.Model, "save", full)
    better = weights.copy()
    better[[0, 1, 2], [0, 1, 2]] = 30
    model.get_layer("diagnosis").set_weights([better, np.zeros(3, np.float32)])
    with pytest.raises(OSError, match="No space left"):
        best.on_epoch_end(1, {"loss": 0.0})
    assert {path.name for path in tmp_path.iterdir()} == {"best.keras", "validation.npz"}
    kept = load_model(tmp_path / "best.keras", networks=("Toy",))
    np.testing.assert_array_equal(kept.network.get_layer("diagnosis").get_weights()[0], weights)
    validation = load_predictions(tmp_path / "validation.npz")
    np.testing.assert_array_equal(np.array(kept.contract.thresholds), validation.thresholds)
    np.testing.assert_allclose(validation.probabilities, 1 / 3, rtol=1e-6)


INTERRUPTED = """
import signal
from pathlib import Path
from data_prep.commands import run_command

# A shell starts what it puts in the background with the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def main(*, store: Path, out: Path) -> None:
    \"\"\"Train without end.\"\"\"
    from test_training import Store, train
    with Store(store) as opened:
        train(opened, out, epochs=10**6, patience=10**6)

run_command(main)
"""


def test_ctrl_c_keeps_what_was_complete(store: Store, tmp_path: Path) -> None:
    """The best epoch so far stays; the bar is closed, the sentence on a line of its own."""
    out = tmp_path / "run"
    words = ("--store", str(store.path), "--out", str(out))
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    ) as process:
        end, history = time.monotonic() + 240, out / "fold_1" / "history.csv"
        while time.monotonic() < end and process.poll() is None:
            if history.is_file() and len(history.read_text().splitlines()) > 3:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "-c: interrupted; completed results are kept."
    assert "Traceback" not in errors
    kept = load_model(out / "fold_1" / "best.keras", networks=("Toy",))
    validation = load_predictions(out / "fold_1" / "validation.npz")
    np.testing.assert_array_equal(np.array(kept.contract.thresholds), validation.thresholds)
    assert not list(out.rglob("*.part*"))


# --- Repetition and precision ------------------------------------------------------------------


def test_the_seed_fixes_the_run(store: Store, tmp_path: Path) -> None:
    def history(name: str, seed: int) -> str:
        return (train(store, tmp_path / name, seed=seed) / "history.csv").read_text()

    assert history("a", 0) == history("b", 0)
    assert history("c", 1) != history("a2", 0)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_ends_with_the_run(store: Store, tmp_path: Path, precision: Any) -> None:
    folder = train(store, tmp_path, epochs=1, precision=precision)
    assert keras.config.dtype_policy().name == "float32"
    kept = load_predictions(folder / "validation.npz")
    np.testing.assert_allclose(kept.probabilities.sum(axis=1), 1, atol=1e-6)
    model = load_model(folder / "best.keras", networks=("Toy",))
    assert {weight.dtype for weight in model.network.weights} == {"float32"}
    computed = {layer.compute_dtype for layer in model.network.layers}
    assert precision.removeprefix("mixed_") in computed


def test_progress_is_shown(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(store, tmp_path, epochs=2)
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("fold 1: trains on 47 records, 0 MB, held in memory")
    assert lines[1].strip() == "validates on 6 records, 0 MB, held in memory."
    assert lines[-1].startswith("fold 1: best val_macro_f1 ")
    assert lines[-1].endswith(str(tmp_path / "fold_1"))
    assert "fold 1: 100%" in printed.err
    (first,) = [line for line in lines if line.startswith("fold 1, epoch 1 of 2: loss ")]
    assert "val_macro_f1 " in first and "; best val_macro_f1 " in first
