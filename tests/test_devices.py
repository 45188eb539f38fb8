"""Training shared among several devices, here two that TensorFlow makes of one processor."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import leave_graphs_as_traced
from toy import toy_contract, toy_network, write_toy_store

from data_prep.errors import OptionError
from data_prep.store import Store
from ecg_keras.model.backend import keras, tf
from ecg_keras.model.contract import Contract
from ecg_keras.training.batches import StoreBatches
from ecg_keras.training.devices import average_statistics, devices_strategy, gpus
from ecg_keras.training.settings import Run, Settings, Validation


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("records", "devices"), [(13, 2), (12, 2), (9, 4), (1, 4), (5, 1)])
def test_each_device_gets_as_many_records(
    tmp_path: Path, records: int, devices: int, shuffle: bool
) -> None:
    with Store(write_toy_store(tmp_path / "toy.h5")) as store:
        batches = StoreBatches(
            store,
            np.arange(records),
            contract=toy_contract(),
            heads=("diagnosis",),
            batch_size=4,
            shuffle=shuffle,
            devices=devices,
        )
        parts = [batches[i] for i in range(len(batches))]
    assert [len(signals) for signals, _ in parts[:-1]] == [4] * (len(parts) - 1)
    assert 0 < len(parts[-1][0]) <= 4 and len(parts[-1][0]) % devices == 0
    signals = np.concatenate([part for part, _ in parts])
    labels = np.concatenate([of_head["diagnosis"] for _, of_head in parts])
    missing = -records % devices
    assert len(signals) == len(labels) == records + missing
    # All records once, then the first ones again.
    assert len(np.unique(signals[:records, :5, 0], axis=0)) == records
    again = np.resize(np.arange(records), records + missing)[records:]
    np.testing.assert_array_equal(signals[records:], signals[again])
    np.testing.assert_array_equal(labels[records:], labels[again])


def test_devices_that_cannot_share_a_batch_equally() -> None:
    with pytest.raises(OptionError, match="--batch-size 64 cannot be shared equally by 3 GPUs"):
        devices_strategy(["GPU:0", "GPU:1", "GPU:2"], batch_size=64)


def test_gpus_are_those_that_tensorflow_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"GPU": ["/device:GPU:0", "/device:GPU:1"], "CPU": ["/device:CPU:0"]}
    monkeypatch.setattr(
        tf.config,
        "list_logical_devices",
        lambda kind: [SimpleNamespace(name=name) for name in names[kind]],
    )
    assert gpus() == names["GPU"]


def test_one_device_shares_nothing() -> None:
    for devices in ([], ["GPU:0"]):
        strategy = devices_strategy(devices, batch_size=7)
        assert strategy.num_replicas_in_sync == 1
        with strategy.scope():
            assert not tf.distribute.has_strategy()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlbf", "mrm"])
def test_two_devices_train_as_one(network: str, tmp_path: Path) -> None:
    """A step's gradients are the mean of those of the two halves, and a run is whole.

    Batch norm takes its statistics of the half each device has, so the whole batch's step on one
    device is another; that of each half is not.
    """
    run = subprocess.run(
        [sys.executable, __file__, network, str(tmp_path)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    seen = json.loads(run.stdout.splitlines()[-1])
    assert seen["replicas"] == 2
    # Relative to the largest change of each variable.
    assert seen["halves differ"] > 1e-2
    assert seen["mean of halves"] < 1e-4
    assert seen["equal halves"] < 1e-4
    assert seen["loss"] == pytest.approx(seen["expected loss"], rel=1e-5)
    assert seen["history"][-1] < seen["history"][0]
    assert seen["answers"] == 5
    assert seen["reloaded"] < 1e-5


def step_on_two_devices(network: str) -> dict[str, float]:
    """One step of gradient descent on two devices against steps on one."""
    # With a rate of 1, what a step takes from the weights are its gradients.
    keras.optimizers.Adam = keras.optimizers.SGD
    rng = np.random.default_rng(0)
    compiled, (length, leads, classes) = NETWORKS[network]
    a, b = rng.standard_normal((2, 4, length, leads), np.float32)
    of_a, of_b = np.eye(classes, dtype=np.float32)[rng.integers(0, classes, (2, 4))]
    strategy = devices_strategy(["CPU:0", "CPU:1"], batch_size=8)
    one = compiled(None, learning_rate=1.0, dropout=0.0)
    with strategy.scope():
        two = compiled(None, learning_rate=1.0, dropout=0.0)
    # Random, so that nothing has a gradient of zero as it has at the start.
    start = [
        np.abs(w) + 0.5 if "variance" in v.path or "gamma" in v.path else w + 0.05
        for v in one.weights
        for w in [np.asarray(v)]
    ]

    def step(model: Any, signals: np.ndarray, labels: np.ndarray) -> tuple[list, float]:
        for variable, value in zip(model.weights, start, strict=True):
            variable.assign(value.astype(variable.dtype))
        dataset = tf.data.Dataset.from_tensor_slices(
            (signals, dict.fromkeys(model.output, labels))
        ).batch(len(signals))
        loss = model.fit(dataset, shuffle=False, verbose=0).history["loss"][0]
        average_statistics(model)
        kept = zip(model.weights, start, strict=True)
        return [np.asarray(v) - w for v, w in kept if v.dtype == "float32"], loss

    def apart(changes: list, others: list) -> float:
        return max(
            float(np.abs(c - o).max() / (np.abs(o).max() + 1e-7))
            for c, o in zip(changes, others, strict=True)
        )

    (first, loss_a), (second, loss_b) = step(one, a, of_a), step(one, b, of_b)
    both, loss = step(two, np.concatenate([a, b]), np.concatenate([of_a, of_b]))
    twice, _ = step(two, np.concatenate([a, a]), np.concatenate([of_a, of_a]))
    return {
        "replicas": strategy.num_replicas_in_sync,
        "halves differ": apart(first, second),
        "mean of halves": apart(both, [(f + s) / 2 for f, s in zip(first, second, strict=True)]),
        "equal halves": apart(twice, first),
        "loss": loss,
        "expected loss": (loss_a + loss_b) / 2,
    }


def run_on_two_devices(network: str, folder: Path) -> dict[str, object]:
    """A whole run of training; its validation records do not share equally."""
    from ecg_keras.evaluation.plots import read_history
    from ecg_keras.evaluation.predictions import load_predictions
    from ecg_keras.model.model_files import load_model
    from ecg_keras.training import fit as training

    compiled, (length, _, _) = NETWORKS[network]
    name = {"mlbf": "MLBF-Net", "mrm": "MRM-Net"}[network]
    contract = toy_contract(
        network=name,
        input_length=length,
        leads=("I", "II", "III"),
        single_label=network == "mlbf",
        fit="pad",
    )
    training.gpus = lambda: ["CPU:0", "CPU:1"]
    path = write_toy_store(folder / "toy.h5", lengths=(length,) * 55)
    training.train_folds(
        Run(store=path, out=folder / "run"),
        Validation(folds=("6",), test_fold=None),
        toy_network(lambda c: compiled(c, learning_rate=3e-3, dropout=0.2), contract),
        Settings(epochs=6, batch_size=8),
    )
    with Store(path) as store:
        kept = load_predictions(folder / "run" / "fold_6" / "validation.npz")
        rows = [int(name[1:]) for name in kept.ids]
        signals = np.stack([contract.in_lead_order(store.signal(row)) for row in rows])
    model = load_model(folder / "run" / "fold_6" / "best.keras", networks=(name,))
    return {
        "history": read_history(folder / "run" / "fold_6" / "history.csv")["loss"].tolist(),
        "answers": len(kept.probabilities),
        "reloaded": float(np.abs(model.predict(signals) - kept.probabilities).max()),
    }


def compiled_mlbf(contract: Contract | None, *, learning_rate: float, dropout: float) -> Any:
    from mlbf_keras.model import build_model, compile_model

    model = build_model(
        input_length=256,
        num_leads=3,
        num_classes=3,
        filters=4,
        gru_units=3,
        dropout=dropout,
        contract=contract,
    )
    return compile_model(model, learning_rate=learning_rate)


def compiled_mrm(contract: Contract | None, *, learning_rate: float, dropout: float) -> Any:
    from mrm_keras.model import build_model, compile_model

    model = build_model(
        input_length=64,
        num_leads=3,
        num_classes=3,
        low_channels=8,
        high_channels=16,
        alpha=1.0,
        beta=1.0,
        gamma=1.0,
        dropout=dropout,
        contract=contract,
    )
    return compile_model(model, learning_rate=learning_rate)


NETWORKS = {"mlbf": (compiled_mlbf, (256, 3, 3)), "mrm": (compiled_mrm, (64, 3, 3))}

if __name__ == "__main__":
    leave_graphs_as_traced()
    processor = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(
        processor, [tf.config.LogicalDeviceConfiguration()] * 2
    )
    found = run_on_two_devices(sys.argv[1], Path(sys.argv[2]))
    print(json.dumps({**found, **step_on_two_devices(sys.argv[1])}))
