"""A small store and a network whose answers a few lines of NumPy can repeat."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.store import StoreWriter
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract, SignalContract

CLASSES = ("calm", "fast", "slow")
FS = 50.0


def toy_contract(**changes: Any) -> Contract:
    """A contract of the toy network: 2 s at 50 Hz, three classes, one label per record."""
    fields: dict[str, Any] = {
        "network": "Toy",
        "task": "cpsc2018",
        "class_names": CLASSES,
        "sampling_rate": FS,
        "input_length": 100,
        "fit": "pad",
        "single_label": True,
    }
    return Contract(**{**fields, **changes})


def toy_model(contract: Contract, *, seed: int = 0, dropout: float = 0.0) -> Any:
    """Mean over time, dropout, one dense layer of random weights."""
    signal = keras.Input((contract.input_length, len(contract.leads)), name="signal")
    x = SignalContract(contract, name="contract")(signal)
    x = keras.layers.GlobalAveragePooling1D()(x)
    x = keras.layers.Dropout(dropout)(x)
    dense = keras.layers.Dense(
        len(contract.class_names),
        activation="softmax" if contract.single_label else "sigmoid",
        kernel_initializer=keras.initializers.RandomNormal(seed=seed),
        dtype="float32",
        name="diagnosis",
    )
    return keras.Model(signal, {"diagnosis": dense(x)}, name="toy")


def compiled_toy(contract: Contract, *, learning_rate: float = 0.05, **options: Any) -> Any:
    """Compile :func:`toy_model` with Adam and the loss its answers ask for."""
    model = toy_model(contract, **options)
    loss = "categorical_crossentropy" if contract.single_label else "binary_crossentropy"
    model.compile(keras.optimizers.Adam(learning_rate), loss={"diagnosis": loss})
    return model


def toy_network(
    compiled_model: Callable[[Contract], Any] = compiled_toy,
    contract: Contract | None = None,
    **options: Any,
) -> Any:
    """A network as a training takes it, its fields these options, which do nothing."""
    made = make_dataclass(
        "ToyNetwork",
        [(name, Any, field(default=value)) for name, value in options.items()],
        frozen=True,
        namespace={
            "contract": lambda self, store, task, train: contract or toy_contract(),
            "compiled_model": lambda self, contract, settings: compiled_model(contract),
        },
    )
    return made()


def toy_answers(model: Any, signals: np.ndarray) -> np.ndarray:
    """The toy network once more, in float64 NumPy, for signals ``(records, time, lead)``."""
    contract = model.get_layer("contract").contract
    kernel, bias = (w.astype(np.float64) for w in model.get_layer("diagnosis").get_weights())
    x = (signals.astype(np.float64) - contract.mean) / contract.std
    logits = x.mean(axis=1) @ kernel + bias
    if contract.single_label:
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-logits))


def toy_signal(length: int, label: int, *, seed: int) -> np.ndarray:
    """Noise about an offset of 0.5 mV in the lead of the class's number."""
    signal = np.random.default_rng(seed).normal(0, 0.3, (length, 12)).astype(np.float32)
    signal[:, label] += 0.5
    return signal


def write_toy_store(
    path: Path,
    *,
    lengths: Sequence[int] = (100,) * 60,
    fs: float = FS,
    labels: Mapping[int, Sequence[int]] | None = None,
    first_labels: Mapping[int, int] | None = None,
) -> Path:
    """Write records ``R000``, ``R001``, …: record i is of class ``i % 3`` and fold ``i % 10 + 1``.

    ``labels`` gives other labels to some records, ``first_labels`` other first ones.
    """
    with StoreWriter(path, dataset="cpsc2018", fs=fs, class_names={"cpsc2018": CLASSES}) as writer:
        for i, length in enumerate(lengths):
            of_record = (labels or {}).get(i, (i % 3,))
            writer.append(
                f"R{i:03d}",
                toy_signal(length, i % 3, seed=i),
                labels={"cpsc2018": of_record},
                first_label=(first_labels or {}).get(i, of_record[0] if of_record else -1),
                fold=i % 10 + 1,
            )
    return path
