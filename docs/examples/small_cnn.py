"""A third network in the form of the other two: three convolutions and a pool."""

from pathlib import Path
from typing import Any

from data_prep.commands import run_command
from ecg_keras.model.backend import keras
from ecg_keras.model.contract import Contract, SignalContract

layers = keras.layers
NETWORK = "SmallCNN"


def build_model(contract: Contract) -> Any:
    """From ``signal`` in millivolts to a dict of probabilities, ``diagnosis`` first."""
    signal = keras.Input((contract.input_length, len(contract.leads)), name="signal")
    x = SignalContract(contract, name="contract")(signal)
    for filters in (16, 32, 64):
        x = layers.Conv1D(filters, 7, strides=2, padding="same", activation="relu")(x)
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dropout(0.2)(x)
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


def main(*, store: Path, out: Path, epochs: int = 20, batch_size: int = 64) -> None:
    """Train on fold 1 of a store.

    Args:
        store: made by ecg-build at 100 Hz.
        out: folder of the run.
        epochs: at most this many.
        batch_size: records a step.
    """
    options = dict(locals())
    from data_prep.store import Store
    from ecg_keras.training.fit import train_folds
    from ecg_keras.training.settings import Settings

    with Store(store) as opened:
        task = opened.resolve_task(None)
        contract = Contract(
            network=NETWORK,
            task=task,
            class_names=opened.class_names(task),
            sampling_rate=100.0,
            input_length=1000,
            fit="pad",
            single_label=opened.dataset == "cpsc2018",
        )
        train_folds(
            opened,
            out=out,
            folds=(1,),
            test_fold=None,
            task=task,
            settings=Settings(
                epochs=epochs,
                batch_size=batch_size,
                patience=10,
                monitor="macro-auc",
                seed=0,
                deterministic=False,
                precision="float32",
                tensorboard=False,
            ),
            contract_for=lambda train: contract,
            compiled_model=lambda contract: compile_model(build_model(contract)),
            options=options,
        )


if __name__ == "__main__":
    run_command(main)
