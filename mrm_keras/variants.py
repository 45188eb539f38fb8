"""MRM-Net and what its tables set beside it: each training a unit that any machine can do."""

import json
import math
import time
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.errors import StoreError
from data_prep.store import Store

Monitor = Literal["macro-f1", "macro-auc"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
Selection = Literal["validation", "test"]
Fusion = Literal["mutual", "add", "concat", "low", "high"]


@dataclass(frozen=True)
class Protocol:
    """How every unit of a command trains, and what it is scored on.

    Attributes:
        input_length: samples at 100 Hz.
        epochs: of every training; none ends early.
        batch_size: records a step.
        learning_rate: Adam's, fixed.
        monitor: the score that chooses the epoch.
        precision: Keras' dtype policy.
        validation_fold: chooses epoch and thresholds.
        test_fold: is scored; None where the validation fold has to be.
    """

    input_length: int
    epochs: int
    batch_size: int
    learning_rate: float
    monitor: Monitor
    precision: Precision
    validation_fold: int
    test_fold: int | None


@dataclass(frozen=True)
class Variant:
    """A network; all but its name matters to MRM-Net only, and is the paper's by default."""

    network: str = "MRM-Net"
    fusion: Fusion = "mutual"
    low_channels: int = 128
    high_channels: int = 256
    alpha: float = 0.01
    beta: float = 0.01
    gamma: float = 0.1

    @property
    def name(self) -> str:
        """Short, for folders: the network and what differs from the paper's."""
        differing = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)[1:]
            if getattr(self, field.name) != field.default
        ]
        return "_".join([self.network, *differing])


def train(
    store: Path,
    folder: Path,
    *,
    network: str,
    fusion: Fusion,
    low_channels: int,
    high_channels: int,
    alpha: float,
    beta: float,
    gamma: float,
    task: str,
    seed: int,
    selection: Selection,
    input_length: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    monitor: Monitor,
    precision: Precision,
    validation_fold: int,
    test_fold: int | None,
) -> None:
    """Train one network once and let its best epoch answer: a unit of every table.

    Writes what ``mrm-train`` writes for a fold, ``scored.npz`` with the answers of the best epoch
    to the scored records, and ``training.json`` with the number of trained parameters, of epochs,
    and the seconds that they took (null where the training went on with an interrupted one).

    Args:
        store: the store's path.
        folder: where to write.
        network: ``"MRM-Net"`` or a name of ``mrm_keras.baselines.BUILDERS``.
        fusion: of MRM-Net, as the other arguments up to gamma; see
            :func:`mrm_keras.model.build_model`.
        low_channels: channels of its low branch.
        high_channels: channels of its high branch.
        alpha: weight of its first mutual loss.
        beta: weight of its second.
        gamma: weight of its third.
        task: whose labels.
        seed: of weights, dropout and order.
        selection: ``"validation"``; or ``"test"``, where the scored records themselves choose
            the epoch and the thresholds, and the validation fold stands by.
        input_length: samples.
        epochs: of the training.
        batch_size: records a step.
        learning_rate: Adam's.
        monitor: the score that chooses the epoch.
        precision: Keras' dtype policy.
        validation_fold: in no training.
        test_fold: in no training either; None to score the validation fold.

    Raises:
        StoreError: where a part is empty.
    """
    options = dict(locals())
    from data_prep.contract import Contract
    from data_prep.prediction import predict_store
    from data_prep.predictions import save_predictions
    from data_prep.training import Parts, Settings, train_fold
    from mrm_keras.baselines import BUILDERS
    from mrm_keras.model import build_model, compile_model, fitted_contract, load_model

    def compiled_model(contract: Contract) -> Any:
        sizes: dict[str, Any] = {
            "num_classes": len(contract.class_names),
            "input_length": input_length,
            "contract": contract,
        }
        if network in BUILDERS:
            model = BUILDERS[network](**sizes)
        else:
            model = build_model(
                low_channels=low_channels,
                high_channels=high_channels,
                alpha=alpha,
                beta=beta,
                gamma=gamma,
                fusion=fusion,
                **sizes,
            )
        return compile_model(model, learning_rate=learning_rate)

    with Store(store) as opened:
        usable = opened.records_of(task)
        folds = opened.folds[usable]
        scored = usable[folds == (validation_fold if test_fold is None else test_fold)]
        choosing = scored if selection == "test" else usable[folds == validation_fold]
        kept_out = [fold for fold in (validation_fold, test_fold) if fold is not None]
        parts = Parts(usable[~np.isin(folds, kept_out)], choosing)
        if not (len(parts.train) and len(choosing) and len(scored)):
            raise StoreError(
                f"{store} has no records of {task} to train, to validate or to score when fold"
                f" {validation_fold} validates; choose other folds."
            )
        goes_on = any(path.name != "unit.json" for path in folder.iterdir())
        start = time.perf_counter()
        train_fold(
            opened,
            folder=folder,
            fold=validation_fold,
            parts=parts,
            settings=Settings(
                epochs=epochs,
                batch_size=batch_size,
                patience=epochs,
                monitor=monitor,
                seed=seed,
                deterministic=False,
                precision=precision,
                tensorboard=False,
            ),
            contract_for=partial(
                fitted_contract, opened, network=network, task=task, input_length=input_length
            ),
            compiled_model=compiled_model,
            options=options,
            resume=True,
        )
        seconds = round(time.perf_counter() - start, 1)
        model = load_model(folder / "best.keras")
        training = {
            "parameters": sum(math.prod(w.shape) for w in model.network.trainable_weights),
            "epochs": epochs,
            "seconds": None if goes_on else seconds,
        }
        (folder / "training.json").write_text(json.dumps(training) + "\n", encoding="utf-8")
        answers = predict_store(model, opened, scored, batch_size=batch_size)
        save_predictions(folder / "scored.npz", answers)
