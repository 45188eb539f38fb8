"""The trainings for the paper's tables: MRM-Net, variants and baselines, each a unit of work."""

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
from data_prep.files import written_whole
from data_prep.store import Store
from ecg_keras.evaluation.predictions import Predictions, save_predictions
from ecg_keras.model.origin import CHOSE
from ecg_keras.training.settings import Monitor, Precision, Schedule, Settings, picked
from mrm_keras.train import Fusion, MRMNet

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecg_keras.model.contract import Contract
    from ecg_keras.model.model_files import ECGModel

Selection = Literal["validation", "test"]

EPOCHS = "epochs"  # folder of the weights of every epoch


@dataclass(frozen=True)
class Protocol:
    """How all units of a command train, and which fold is scored.

    Attributes:
        input_length: samples at 100 Hz.
        epochs: of every training; none stops early.
        batch_size: records per step.
        learning_rate: Adam's, the highest if the schedule is one-cycle; None for that of
            :meth:`rate_of`.
        schedule: of the learning rate.
        monitor: the score that chooses the epoch.
        precision: Keras' dtype policy.
        validation_fold: the fold that chooses epoch and thresholds.
        test_fold: the fold that is scored; None to score the validation fold.
    """

    input_length: int
    epochs: int
    batch_size: int
    learning_rate: float | None
    schedule: Schedule
    monitor: Monitor
    precision: Precision
    validation_fold: int
    test_fold: int | None

    def rate_of(self, network: str) -> float:
        """Return the learning rate of a network.

        Unless one is given: the paper's (section IV-A); in one cycle, for the other networks, that
        of the code of the PTB-XL benchmark (Strodthoff 2021).
        """
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-2 if self.schedule == "one-cycle" and network != "MRM-Net" else 1e-3


@dataclass(frozen=True)
class Variant:
    """A network; the fields after its name are for MRM-Net only, with the paper's defaults."""

    network: str = "MRM-Net"
    fusion: Fusion = MRMNet.fusion
    low_channels: int = MRMNet.low_channels
    high_channels: int = MRMNet.high_channels
    alpha: float = MRMNet.alpha
    beta: float = MRMNet.beta
    gamma: float = MRMNet.gamma

    @property
    def name(self) -> str:
        """A short name for folders: the network and what differs from the paper's."""
        differing = [
            f"{field.name}={getattr(self, field.name)}"
            for field in fields(self)[1:]
            if getattr(self, field.name) != field.default
        ]
        return "_".join([self.network, *differing])


@dataclass(frozen=True)
class Baseline:
    """A network that the paper compares with MRM-Net.

    Attributes:
        network: a name of ``mrm_keras.baselines.BUILDERS``.
        input_length: samples at 100 Hz.
    """

    network: str
    input_length: int

    def contract(self, store: Store, task: str, train: np.ndarray) -> "Contract":
        """Return the contract, standardised by the training records."""
        from mrm_keras.model import fitted_contract

        return fitted_contract(
            store, train, network=self.network, task=task, input_length=self.input_length
        )

    def compiled_model(self, contract: "Contract", settings: Settings) -> Any:
        """Build and compile the network for a contract."""
        from mrm_keras.baselines import BUILDERS
        from mrm_keras.model import compile_model

        model = BUILDERS[self.network](
            num_classes=len(contract.class_names), input_length=self.input_length, contract=contract
        )
        return compile_model(model, learning_rate=settings.learning_rate)


def train(
    store: Path,
    folder: Path,
    *,
    task: str,
    validation_fold: int,
    test_fold: int | None,
    every_epoch: bool,
    **options: Any,
) -> None:
    """Train one network once and let its best epoch predict: a unit of every table.

    Writes what ``mrm-train`` writes for a fold; ``scored.npz`` with the predictions of the best
    epoch for the scored records, and ``scored_low.npz`` and ``scored_high.npz`` with those of the
    two heads if the network has them; and ``training.json`` with the numbers of trained parameters
    and epochs, and the seconds they took (null if the training was interrupted and resumed).

    Args:
        store: the store's path.
        folder: where to write.
        task: the labels to learn.
        validation_fold: the fold that chooses epoch and thresholds; not used for training.
        test_fold: the fold that is scored, not used for training; None to score the validation
            fold.
        every_epoch: also score every epoch after training, and write the predictions of the epoch
            that is best on the scored records themselves to ``scored_on_test.npz`` (and for each
            head), as in the authors' published code; see :func:`best_on_test`.
        options: the other fields of :class:`Variant` and :class:`Protocol`, and the seed.

    Raises:
        StoreError: if the training, validation or test set is empty.
    """
    summary = folder / "training.json"
    if summary.exists():  # killed while it removed the weights of the epochs
        shutil.rmtree(folder / EPOCHS, ignore_errors=True)
        return
    from ecg_keras.prediction.ensemble import predict_store
    from ecg_keras.training.fit import train_fold
    from ecg_keras.training.folds import Parts
    from mrm_keras.baselines import BUILDERS
    from mrm_keras.model import load_model

    of_baseline = options["network"] in BUILDERS
    settings = picked(Settings, {**options, "patience": options["epochs"]})
    split = {
        "task": task,
        "validation_fold": validation_fold,
        "test_fold": test_fold,
        "every_epoch": every_epoch,
    }
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
        resumed = any(path.name != "unit.json" for path in folder.iterdir())
        start = time.perf_counter()
        train_fold(
            opened,
            folder=folder,
            fold=validation_fold,
            task=task,
            parts=parts,
            network=picked(Baseline, options) if of_baseline else picked(MRMNet, options),
            settings=settings,
            options={"store": store, **split, **options},
            callbacks=[keep_every_epoch(folder)] if every_epoch else [],
            resume=True,
        )
        seconds = round(time.perf_counter() - start, 1)
        model = load_model(folder / "best.keras")
        training: dict[str, Any] = {
            "parameters": sum(math.prod(w.shape) for w in model.network.trainable_weights),
            "epochs": settings.epochs,
            "seconds": None if resumed else seconds,
        }
        answer = partial(predict_store, model, opened, scored, batch_size=settings.batch_size)
        for head, answers in answer().items():
            save_predictions(folder / scored_file(head, "validation"), answers)
        if every_epoch:
            training["epoch_on_test"], best = best_on_test(model, folder, answer)
            for head, answers in best.items():
                answers = replace(answers, seen=np.full(len(scored), CHOSE, np.int8))
                save_predictions(folder / scored_file(head, "test"), answers)
        with written_whole(summary) as part:
            part.write_text(json.dumps(training) + "\n", encoding="utf-8")
        shutil.rmtree(folder / EPOCHS, ignore_errors=True)


def scored_file(head: str, selection: Selection) -> str:
    """Return the name of the file with a head's predictions for the scored records."""
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

    Their loop keeps the epoch with the largest sum of macro-AUC and F1 per record, of the better of
    the two heads, on the *test* records, and reports the scores of that epoch.

    Args:
        model: of any epoch; its weights are replaced.
        folder: of the training, with the weights of every epoch.
        answer: returns the model's predictions for the scored records, by head.

    Returns:
        The epoch, counted from 1, and its predictions by head.
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
