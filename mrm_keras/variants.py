"""MRM-Net and what its tables set beside it: each training a unit that any machine can do."""

import json
import math
import shutil
import time
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from data_prep.errors import StoreError
from data_prep.store import Store
from ecg_keras.evaluation.predictions import Predictions, save_predictions
from ecg_keras.model.origin import CHOSE

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecg_keras.model.model_files import ECGModel

Monitor = Literal["macro-f1", "macro-auc"]
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]
Selection = Literal["validation", "test"]
Fusion = Literal["mutual", "add", "concat", "low", "high"]

EPOCHS = "epochs"  # folder of the weights of every epoch


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
    every_epoch: bool,
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

    Writes what ``mrm-train`` writes for a fold; ``scored.npz`` with the answers of the best epoch
    to the scored records, and ``scored_low.npz`` and ``scored_high.npz`` with those of the two
    heads if the network has them; and ``training.json`` with the number of trained parameters, of
    epochs, and the seconds that they took (null if the training was interrupted and resumed).

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
        every_epoch: also score every epoch once the training is over, and write the answers of
            the one that is best on the scored records themselves to ``scored_on_test.npz`` (and
            for each head), as the authors' published code does; see :func:`best_on_test`.
        input_length: samples.
        epochs: of the training.
        batch_size: records a step.
        learning_rate: Adam's.
        monitor: the score that chooses the epoch.
        precision: Keras' dtype policy.
        validation_fold: in no training.
        test_fold: in no training either; None to score the validation fold.

    Raises:
        StoreError: if a part is empty.
    """
    options = dict(locals())
    from ecg_keras.model.contract import Contract
    from ecg_keras.prediction.ensemble import predict_store
    from ecg_keras.training.fit import train_fold
    from ecg_keras.training.folds import Parts
    from ecg_keras.training.settings import Settings
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
        choosing = usable[folds == validation_fold]
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
            callbacks=[keep_every_epoch(folder)] if every_epoch else [],
            resume=True,
        )
        seconds = round(time.perf_counter() - start, 1)
        model = load_model(folder / "best.keras")
        training: dict[str, Any] = {
            "parameters": sum(math.prod(w.shape) for w in model.network.trainable_weights),
            "epochs": epochs,
            "seconds": None if goes_on else seconds,
        }
        answer = partial(predict_store, model, opened, scored, batch_size=batch_size)
        for head, answers in answer().items():
            save_predictions(folder / scored_file(head, "validation"), answers)
        if every_epoch:
            training["epoch_on_test"], best = best_on_test(model, folder, answer)
            for head, answers in best.items():
                answers = replace(answers, seen=np.full(len(scored), CHOSE, np.int8))
                save_predictions(folder / scored_file(head, "test"), answers)
        (folder / "training.json").write_text(json.dumps(training) + "\n", encoding="utf-8")
        shutil.rmtree(folder / EPOCHS, ignore_errors=True)


def scored_file(head: str, selection: Selection) -> str:
    """Name of the file with a head's answers to the scored records."""
    on_test = "_on_test" if selection == "test" else ""
    return f"scored{on_test}{'' if head == 'diagnosis' else f'_{head}'}.npz"


def keep_every_epoch(folder: Path) -> Any:
    """Return a callback that keeps the weights of every epoch in ``EPOCHS`` of a folder."""
    from ecg_keras.model.backend import keras

    (folder / EPOCHS).mkdir(exist_ok=True)
    return keras.callbacks.ModelCheckpoint(
        str(folder / EPOCHS / "{epoch:04d}.weights.h5"), save_weights_only=True
    )


def best_on_test(
    model: "ECGModel", folder: Path, answer: "Callable[[], dict[str, Predictions]]"
) -> "tuple[int, dict[str, Predictions]]":
    """Choose the epoch that is best on the scored records, as the authors' training loop does.

    It keeps the epoch at which the greater of the two heads' sums of macro-AUC and F1 per record
    is largest on the *test* records, and reports that epoch's scores.

    Args:
        model: any epoch's; its weights are replaced.
        folder: of the training, with the weights of every epoch.
        answer: lets the model answer for the scored records, by head.

    Returns:
        The epoch, counted from 1, and its answers by head.
    """
    from ecg_keras.evaluation.scores import macro_auc, record_f1

    best, chosen = -math.inf, (0, dict[str, Predictions]())
    for file in sorted((folder / EPOCHS).glob("*.weights.h5")):
        model.network.load_weights(file)
        answers = answer()
        for head in [head for head in answers if head != "diagnosis"] or ["diagnosis"]:
            labels, probabilities = answers[head].labels, answers[head].probabilities
            assert labels is not None
            value = macro_auc(labels, probabilities) + record_f1(labels, probabilities)
            if value > best:
                best, chosen = value, (int(file.name.split(".")[0]), answers)
    return chosen
