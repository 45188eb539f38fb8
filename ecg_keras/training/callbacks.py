"""Training callbacks: scoring, keeping the best epoch, stopping, progress."""

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
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
from ecg_keras.model.model_files import save_model, set_origin, set_thresholds
from ecg_keras.model.origin import Origin
from ecg_keras.training.batches import StoreBatches
from ecg_keras.training.devices import average_statistics
from ecg_keras.training.settings import Monitor, log_name


class OneCycle(keras.callbacks.Callback):
    """Sets the learning rate of every step: it rises to the given one, and then falls to nothing.

    From a 25th over the first 30 % of the steps, and to a 250,000th over the rest, each along half
    a cosine: the one-cycle policy (Smith 2018, arXiv 1803.09820) as in fastai, with which the
    PTB-XL benchmark was trained.  There momentum changes as well; Adam's is constant here.

    Args:
        highest: the highest learning rate.
        epochs: of the whole training.
        steps_per_epoch: training steps in an epoch.
    """

    def __init__(self, highest: float, *, epochs: int, steps_per_epoch: int) -> None:
        super().__init__()
        self.highest = highest
        self.steps = epochs * steps_per_epoch
        self.steps_per_epoch = steps_per_epoch
        self.done = 0

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        rising = 0.3 * self.steps
        if step < rising:
            start, end, part = self.highest / 25, self.highest, step / rising
        else:
            start, end = self.highest, self.highest / 250_000
            part = (step - rising) / (self.steps - rising)
        return float(end + (start - end) * (1 + np.cos(np.pi * part)) / 2)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Count the steps of the epochs before."""
        self.done = epoch * self.steps_per_epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Set the learning rate."""
        self.model.optimizer.learning_rate = self.rate(self.done + batch)


class RequireNumbers(keras.callbacks.Callback):
    """Stops a training if its loss becomes NaN or infinite, and names the records of the batch.

    Args:
        store: the store of the training records.
        batches: the training batches.
        fold: number of the fold, for the message.
    """

    def __init__(self, store: Store, batches: StoreBatches, *, fold: int) -> None:
        super().__init__()
        self.store = store
        self.batches = batches
        self.fold = fold
        self.epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Remember the epoch."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Check the loss.

        Raises:
            StoreError: naming the records of the batch, if the loss is NaN or infinite.
        """
        assert logs is not None
        if np.isfinite(logs["loss"]):
            return
        records = self.store.ids[self.batches.records_of_batch(batch)]
        raise StoreError(
            f"the loss became NaN or infinite in fold {self.fold}, epoch {self.epoch + 1}, batch"
            f" {batch + 1}, with the records {', '.join(records)} of {self.store.path}; leave out"
            " those that are not ECGs, or lower --learning-rate, and train into another --out."
        )


class KeepBest(keras.callbacks.Callback):
    """Scores the validation records after each epoch and keeps the best model.

    Adds ``val_loss``, ``val_macro_f1`` and ``val_macro_auc`` to the epoch's logs.  Each new best
    model is saved immediately, with thresholds fitted on the validation records and the names of
    the records that trained and selected it, along with its predictions for the validation
    records.  The validation loss is that of the heads, without losses added by layers.

    Args:
        store: the store of the records.
        validation: batches of the validation records, not shuffled.
        trained: indices of the training records.
        folder: folder for ``best.keras`` and ``validation.npz``.
        monitor: the score to maximise.
        before: origin of the model whose weights the training starts from, if any.

    Attributes:
        key: name of the monitored score in the logs.
        score: best score so far.
        epoch: epoch of the best score, counted from 0; None before the first.
    """

    def __init__(
        self,
        store: Store,
        validation: StoreBatches,
        *,
        trained: np.ndarray,
        folder: Path,
        monitor: Monitor,
        before: Origin | None = None,
    ) -> None:
        super().__init__()
        self.validation = validation
        self.folder = folder
        self.key = log_name(monitor)
        self.score = -np.inf
        self.epoch: int | None = None
        self.ids = store.ids[validation.records]
        self.labels = store.labels(validation.contract.task)[validation.records]
        first_labels = store.first_labels(validation.contract.task)[validation.records]
        self.first_labels = known_first_labels(self.labels, first_labels)
        made_with = provenance()
        self.origin = Origin(
            dataset=store.dataset,
            trained=tuple(store.ids[trained].tolist()),
            chose=tuple(self.ids.tolist()),
            store=store.provenance,
            version=str(made_with["ecg-keras"]),
            commit=str(made_with["commit"]),
            monitor=self.key,
            before=before,
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Score the epoch, and keep its model if it is the best so far."""
        assert logs is not None
        average_statistics(self.model)
        truth = self.validation.labels
        # Further rows are records that only fill up the last batch.
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
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            epoch=epoch + 1,
            score=logs[self.key],
        )
        set_thresholds(self.model, thresholds)
        set_origin(self.model, origin)
        with written_whole(self.folder / "best.keras") as part:
            save_model(self.model, part)
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
    """Applies early stopping to each validation part, and ends training when all have stopped.

    Once the patience of a part has run out, it is no longer scored, so it keeps the same epoch as
    in a training validated on this part alone; its scores are NaN in the logs from then on.  In
    the logs, scores of parts after the first have the part's name as a prefix:
    ``second_val_loss``.

    Args:
        bests: the callback that keeps each part's best epoch, by the part's name.
        patience: epochs without a better score after which a part stops.

    Attributes:
        counters: the parts' callbacks whose counters :class:`Checkpoint` saves.
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
        """Set the model of all callbacks."""
        super().set_model(model)
        for callback in self.counters.values():
            callback.set_model(model)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Reset the counters."""
        for callback in self.counters.values():
            callback.on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Score each part that has not stopped yet."""
        assert logs is not None
        for name, best in self.bests.items():
            of_part = dict.fromkeys(("val_loss", "val_macro_f1", "val_macro_auc"), np.nan)
            if not self.stoppings[name].stopped_epoch:
                best.on_epoch_end(epoch, of_part)
                score = of_part[best.key]  # nothing would count as better than NaN
                score = -np.inf if np.isnan(score) else score
                self.stoppings[name].on_epoch_end(epoch, {best.key: score})
            prefix = name and f"{name}_"
            logs.update({f"{prefix}{key}": value for key, value in of_part.items()})
        self.model.stop_training = all(each.stopped_epoch for each in self.stoppings.values())


class Progress(keras.callbacks.Callback):
    """Advances a progress bar, and writes a line per epoch to the screen and to a file.

    The line gives the losses, the validation scores, the epoch's duration in seconds and the best
    score so far.  It is written after the epoch's checkpoint, so this callback must come after
    :class:`Checkpoint`.

    Args:
        bar: a tqdm bar; the caller closes it, even if training fails.
        best: the callback that keeps the best epoch.
        file: file to which the lines are appended.
    """

    def __init__(self, bar: Any, *, best: KeepBest, file: Path) -> None:
        super().__init__()
        self.bar = bar
        self.best = best
        self.file = file
        self.start = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Start the clock."""
        self.start = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Advance the bar."""
        self.bar.update()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the epoch's line."""
        assert logs is not None
        shown = ("loss", "val_loss", "val_macro_f1", "val_macro_auc")
        scores = ", ".join(f"{name} {logs[name]:.4f}" for name in shown)
        best, kept = self.best, "no score yet"
        if best.epoch is not None:
            kept = f"best {best.key} {best.score:.4f} in epoch {best.epoch + 1}"
        line = (
            f"epoch {epoch + 1} of {self.params['epochs']}: {scores};"
            f" {time.monotonic() - self.start:.0f} s; {kept}"
        )
        self.bar.write(f"{self.bar.desc}, {line}")
        before = self.file.read_text(encoding="utf-8") if self.file.exists() else ""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with written_whole(self.file) as part:
            part.write_text(f"{before}{now} {line}\n", encoding="utf-8")
