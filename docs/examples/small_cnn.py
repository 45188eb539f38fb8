"""A third network in the form of the other two: three convolutions and a pool."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from data_prep.commands import run_command, takes_options
from data_prep.store import Store
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract, SignalContract
from ecg_keras.training.fit import train_folds
from ecg_keras.training.settings import Run, Settings, Validation

layers = keras.layers
NETWORK = "SmallCNN"


def build_model(contract: Contract, *, dropout: float = 0.2) -> Any:
    """From ``signal`` in millivolts to a dict of probabilities, ``diagnosis`` first."""
    signal = keras.Input((contract.input_length, len(contract.leads)), name="signal")
    x = SignalContract(contract, name="contract")(signal)
    for filters in (16, 32, 64):
        x = layers.Conv1D(filters, 7, strides=2, padding="same", activation="relu")(x)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dropout(dropout)(x)
    answer = layers.Dense(
        len(contract.class_names),
        activation="softmax" if contract.single_label else "sigmoid",
        dtype="float32",
        name="diagnosis",
    )
    return keras.Model(signal, {"diagnosis": answer(x)}, name="small_cnn")


def compile_model(model: Any, *, learning_rate: float = 1e-3) -> Any:
    """Compile with a loss for each head; here there is one."""
    contract = model.get_layer("contract").contract
    loss = "categorical_crossentropy" if contract.single_label else "binary_crossentropy"
    model.compile(keras.optimizers.Adam(learning_rate), loss={"diagnosis": loss})
    return model


@dataclass(frozen=True)
class SmallCNN:
    """The network as the training takes it.

    Attributes:
        dropout: fraction of features dropped in training, 0 to 1.
    """

    dropout: float = 0.2

    def contract(self, store: Store, task: str, train: np.ndarray) -> Contract:
        """10 s at 100 Hz, not standardised (or else by the training records alone)."""
        return Contract(
            network=NETWORK,
            task=task,
            class_names=store.class_names(task),
            sampling_rate=100.0,
            input_length=1000,
            fit="pad",
            single_label=task == "cpsc2018",
        )

    def compiled_model(self, contract: Contract, settings: Settings) -> Any:
        """Build and compile."""
        model = build_model(contract, dropout=self.dropout)
        return compile_model(model, learning_rate=settings.learning_rate)


VALIDATION = Validation(folds=("1",), test_fold=None)
SMALL_CNN = SmallCNN()
TRAINING = Settings(epochs=20, patience=10, monitor="macro-auc")


@takes_options
def main(
    *,
    run: Run,
    validation: Validation = VALIDATION,
    network: SmallCNN = SMALL_CNN,
    training: Settings = TRAINING,
) -> None:
    """Train on a store, by default with fold 1 for validation."""
    train_folds(run, validation, network, training)


if __name__ == "__main__":
    run_command(main)
