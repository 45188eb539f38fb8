"""The callbacks of a training: scoring, keeping the best epoch, stopping, progress."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import StoreError
from data_prep.files import written_whole
from data_prep.labels import known_first_labels
from data_prep.provenance import provenance
from data_prep.store import Store
from ecg_keras.evaluation.predictions import Predictions, save_predictions
from ecg_keras.evaluation.scores import best_thresholds, macro_auc, macro_f1, single_label_macro_f1
from ecg_keras.model.backend import keras
from ecg_keras.model.model_files import set_origin, set_thresholds
from ecg_keras.model.origin import Origin
from ecg_keras.training.batches import StoreBatches
from ecg_keras.training.devices import average_statistics
from ecg_keras.training.settings import Monitor, log_name


class RequireNumbers(keras.callbacks.Callback):
    """Ends a training whose loss is no number any more, and says at which records that was.

    Args:
        store: whose records they are.
        batches: the training batches.
        fold: its number, to be shown.
    """

    def __init__(self, store: Store, batches: StoreBatches, *, fold: int) -> None:
        super().__init__()
        self.store = store
        self.batches = batches
        self.fold = fold
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Note the epoch."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Look at the loss.

        Raises:
            StoreError: naming the batch's records, where it is not finite.
        """
        assert logs is not None
        if np.isfinite(logs["loss"]):
            return
        records = self.store.ids[self.batches.records_of_batch(batch)]
        raise StoreError(
            f"the loss of fold {self.fold} is no number in epoch {self.epoch + 1}, batch"
            f" {batch + 1}, with the records {', '.join(records)} of {self.store.path}; leave out"
            " those that are no ECG, or lower --learning-rate, and train into another --out."
        )


class KeepBest(keras.callbacks.Callback):
    """Scores the validation records after each epoch and keeps the best model.

    Adds ``val_loss``, ``val_macro_f1`` and ``val_macro_auc`` to the epoch's logs.  The model is
    written as soon as it is the best, with thresholds found on these validation records and the
    names of the records that trained and chose it, beside its answers to them.  The validation
    loss is that of the heads alone: losses that layers add belong to training.

    Args:
        store: whose records they are.
        validation: their batches, in the records' order.
        trained: indices of the records that train.
        folder: where ``best.keras`` and ``validation.npz`` go.
        monitor: the score that decides.

    Attributes:
        key: name of that score in the logs.
        score: the best so far.
        epoch: when it was reached, from 0; None before.
    """

    def __init__(
        self,
        store: Store,
        validation: StoreBatches,
        *,
        trained: np.ndarray,
        folder: Path,
        monitor: Monitor,
    ) -> None:
        super().__init__()
        self.validation = validation
        self.folder = folder
        self.key = log_name(monitor)
        self.score = -np.inf
        self.epoch: int | None = None
        self.ids = store.ids[validation.records]
        self.labels = store.labels(validation.contract.task)[validation.records]
        self.first_labels = known_first_labels(self.labels, store.first_labels[validation.records])
        made_with = provenance()
        self.origin = Origin(
            dataset=store.dataset,
            trained=tuple(store.ids[trained].tolist()),
            chose=tuple(self.ids.tolist()),
            store=store.provenance,
            version=str(made_with["ecg-keras"]),
            commit=str(made_with["commit"]),
            monitor=self.key,
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Score, and keep what is better than before."""
        assert logs is not None
        average_statistics(self.model)
        truth = self.validation.labels
        # Behind them come answers to records that only fill up the last batch.
        answers = {
            head: answer[: len(truth)]
            for head, answer in self.model.predict(self.validation, verbose=0).items()
        }
        probabilities = np.asarray(answers["diagnosis"], np.float32)
        logs["val_loss"] = float(
            self.model.compute_loss(y=dict.fromkeys(answers, truth), y_pred=answers, training=False)
        )
        logs["val_macro_f1"], logs["val_macro_auc"] = self._scores(probabilities)
        if not logs[self.key] > self.score:
            return
        thresholds = best_thresholds(self.labels, probabilities)
        origin = replace(
            self.origin,
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            epoch=epoch + 1,
            score=logs[self.key],
        )
        set_thresholds(self.model, thresholds)
        set_origin(self.model, origin)
        with written_whole(self.folder / "best.keras") as part:
            self.model.save(part)
        contract = self.validation.contract
        save_predictions(
            self.folder / "validation.npz",
            Predictions(
                ids=self.ids,
                class_names=contract.class_names,
                probabilities=probabilities,
                members=probabilities[None],
                thresholds=thresholds,
                single_label=contract.single_label,
                network=contract.network,
                task=contract.task,
                labels=self.labels,
                first_labels=self.first_labels,
                seen=origin.seen(self.ids, origin.dataset),
                dataset=origin.dataset,
                models=(origin.facts("best.keras"),),
            ),
        )
        self.score, self.epoch = logs[self.key], epoch

    def _scores(self, probabilities: np.ndarray) -> tuple[float, float]:
        if not np.isfinite(probabilities).all():
            return np.nan, np.nan
        if self.validation.contract.single_label:
            f1 = single_label_macro_f1(self.validation.labels.argmax(axis=1), probabilities)
        else:
            f1 = macro_f1(self.labels, probabilities >= 0.5)
        return f1, macro_auc(self.labels, probabilities)


class ChooseEpochs(keras.callbacks.Callback):
    """Lets each validation part choose its epoch, and ends a fit when all have chosen.

    A part whose patience has ended chooses no more, so that it keeps what a fit that it validates
    alone would have kept.  Its scores are NaN in the logs from then on.  The logs of the parts
    behind the first carry the part's name before theirs: ``second_val_loss``.

    Args:
        bests: what keeps each part's best epoch, by the part's name.
        patience: epochs without a better score after which a part has chosen.

    Attributes:
        counters: the callbacks that count for the parts, as :class:`Checkpoint` takes them.
    """

    def __init__(self, bests: Mapping[str, KeepBest], *, patience: int) -> None:
        super().__init__()
        self.bests = dict(bests)
        self.stoppings = {
            name: keras.callbacks.EarlyStopping(best.key, mode="max", patience=patience)
            for name, best in self.bests.items()
        }
        self.counters: dict[str, Any] = {}
        for name, best in self.bests.items():
            prefix = name and f"{name} "
            self.counters |= {f"{prefix}best": best, f"{prefix}stopping": self.stoppings[name]}

    def set_model(self, model: Any) -> None:
        """Hand the model on."""
        super().set_model(model)
        for callback in self.counters.values():
            callback.set_model(model)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Begin to count."""
        for callback in self.counters.values():
            callback.on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Score, keep and count for each part that has not chosen yet."""
        assert logs is not None
        for name, best in self.bests.items():
            of_part = dict.fromkeys(("val_loss", "val_macro_f1", "val_macro_auc"), np.nan)
            if not self.stoppings[name].stopped_epoch:
                best.on_epoch_end(epoch, of_part)
                self.stoppings[name].on_epoch_end(epoch, of_part)
            prefix = name and f"{name}_"
            logs.update({f"{prefix}{key}": value for key, value in of_part.items()})
        self.model.stop_training = all(each.stopped_epoch for each in self.stoppings.values())


class Progress(keras.callbacks.Callback):
    """Moves a bar over all steps of all epochs, with what remains if none stops early.

    Args:
        bar: a bar of tqdm; it is closed by whom it belongs to, also when fitting fails.
        show: the score to show.
    """

    def __init__(self, bar: Any, *, show: str) -> None:
        super().__init__()
        self.bar = bar
        self.show = show

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Move it on."""
        self.bar.update()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Show the epoch's loss and score."""
        logs = logs or {}
        self.bar.set_postfix(
            epoch=epoch + 1, loss=f"{logs['loss']:.3f}", **{self.show: f"{logs[self.show]:.3f}"}
        )
