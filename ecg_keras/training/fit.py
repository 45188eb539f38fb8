"""Fitting a network on a store: the loop that both networks share."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from data_prep.errors import OptionError, StoreError
from data_prep.files import locked, written_whole
from data_prep.labels import known_first_labels
from data_prep.provenance import provenance
from data_prep.store import Store
from ecg_keras.evaluation.plots import plot_learning_curves, read_history
from ecg_keras.evaluation.predictions import Predictions, save_predictions
from ecg_keras.evaluation.scores import best_thresholds, macro_auc, macro_f1, single_label_macro_f1
from ecg_keras.model.backend import keras, tf
from ecg_keras.model.contract import Contract
from ecg_keras.model.model_files import set_origin, set_thresholds
from ecg_keras.model.origin import Origin
from ecg_keras.papers.tables import Spread, as_text
from ecg_keras.training.batches import StoreBatches, describe
from ecg_keras.training.checkpoint import (
    NEW_BEST,
    Checkpoint,
    digest_of_records,
    require_same_run,
    require_startable,
    state_of,
)

Monitor = Literal["macro-f1", "macro-auc"]

# Where a training keeps what the second validation part chose, see :class:`Parts`.
SECOND = "second"
Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]


@dataclass(frozen=True)
class Settings:
    """How to fit, whatever the network.

    Attributes:
        epochs: at most this many passes over the training records.
        batch_size: records a step.
        patience: epochs without a better validation score after which fitting stops.
        monitor: the validation score that chooses the epoch to keep.
        seed: of weights, dropout and order; fold k uses ``seed + k``.
        deterministic: make two runs on one machine give the same numbers.
        precision: Keras' dtype policy.
        tensorboard: also write logs for TensorBoard.
    """

    epochs: int
    batch_size: int
    patience: int
    monitor: Monitor
    seed: int
    deterministic: bool
    precision: Precision
    tensorboard: bool


_ABOVE_0 = (
    *("epochs", "batch_size", "learning_rate", "input_length", "filters", "gru_units"),
    *("low_channels", "high_channels", "temperature", "widths"),
)
_NOT_BELOW_0 = ("patience", "seed", "loss_weight", "alpha", "beta", "gamma")


def require_sensible(options: Mapping[str, Any]) -> None:
    """Refuse options of a training command with which nothing can be trained.

    Args:
        options: the command's options by name.

    Raises:
        OptionError: naming the option and the values it takes.
    """
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if name in _ABOVE_0 and not value > 0:
            raise OptionError(f"{option} must be above 0, not {value}.")
        if name in _NOT_BELOW_0 and not value >= 0:
            raise OptionError(f"{option} must be 0 or more, not {value}.")
    dropout, test_fold = options.get("dropout", 0.0), options.get("test_fold")
    if not 0 <= dropout < 1:
        raise OptionError(f"--dropout must be at least 0 and below 1, not {dropout}.")
    if test_fold is not None and not 1 <= test_fold <= 10:
        raise OptionError(f"--test-fold takes 1 to 10, or None to leave none out, not {test_fold}.")
    if options.get("tensorboard") and find_spec("tensorboard") is None:
        raise OptionError(
            "TensorBoard is not installed; run pip install tensorboard, or leave out --tensorboard."
        )


@dataclass(frozen=True)
class Parts:
    """Which records of a store train, and which choose the epoch and the thresholds.

    Attributes:
        train: indices of the training records.
        validation: indices of the validation records.
        second: indices of records that choose an epoch and thresholds of their own in the same
            fit, which ends when both have chosen; None for none.
    """

    train: np.ndarray
    validation: np.ndarray
    second: np.ndarray | None = None


def choose_folds(store: Store, folds: tuple[str, ...], test_fold: int | None) -> tuple[int, ...]:
    """Turn the ``--folds`` of a command into numbers.

    Args:
        store: whose folds they are.
        folds: numbers, or the one word ``all``.
        test_fold: the fold kept out of training, which ``all`` leaves out.

    Returns:
        The folds, each of which validates one model.

    Raises:
        OptionError: where there is none, a word is no number, or the test fold is asked to
            validate.
        StoreError: where the store has no record in a fold.
    """
    present = [int(f) for f in np.unique(store.folds)]
    if not folds:
        raise OptionError("--folds names no fold; give numbers, or the one word all.")
    if folds == ("all",):
        return tuple(f for f in present if f != test_fold)
    try:
        chosen = tuple(dict.fromkeys(int(f) for f in folds))
    except ValueError:
        raise OptionError(
            f"--folds takes numbers, or the one word all, not {' '.join(folds)}."
        ) from None
    for fold in chosen:
        if fold == test_fold:
            raise OptionError(
                f"fold {fold} is the test fold and cannot validate too; take it out of --folds or"
                " choose another --test-fold."
            )
        if fold not in present:
            raise StoreError(
                f"{store.path} has no record in fold {fold}; it has folds"
                f" {', '.join(map(str, present))}."
            )
    return chosen


def split(store: Store, *, task: str, fold: int, test_fold: int | None) -> Parts:
    """Part the records of a task.

    Args:
        store: an open store.
        task: records without a label of it are in neither part.
        fold: the validation records' fold.
        test_fold: in neither part either; None to leave none out.

    Returns:
        The parts; all folds but these two train.

    Raises:
        StoreError: where a part is empty.
    """
    usable = store.records_of(task)
    folds = store.folds[usable]
    outside = -1 if test_fold is None else test_fold
    parts = Parts(usable[(folds != fold) & (folds != outside)], usable[folds == fold])
    for name, records in (("training", parts.train), ("validation", parts.validation)):
        if not len(records):
            raise StoreError(
                f"{store.path} leaves no {name} record with a label of {task} when fold {fold}"
                " validates; choose another fold."
            )
    return parts


def gpus() -> list[str]:
    """Return the names of this machine's GPUs that TensorFlow can use."""
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def devices_strategy(devices: Sequence[str], *, batch_size: int) -> Any:
    """Choose how the steps of a fit are shared among devices.

    Several devices hold the same network each, take equal shares of every batch and average
    their gradients.  A step is then that of the whole batch but for batch norm, which normalises
    each share by itself; its moving statistics are averaged after each epoch.

    Args:
        devices: names of devices; with less than two of them nothing is shared.
        batch_size: records a step, all devices together.

    Returns:
        A ``tf.distribute.Strategy``, in whose scope the network is to be built.

    Raises:
        OptionError: where the devices cannot take equal shares.
    """
    if len(devices) < 2:
        return tf.distribute.get_strategy()
    if batch_size % len(devices):
        raise OptionError(
            f"--batch-size {batch_size} cannot be shared equally by {len(devices)} GPUs; give a"
            f" multiple of {len(devices)}, or set CUDA_VISIBLE_DEVICES to fewer of them."
        )
    return tf.distribute.MirroredStrategy(devices)


def average_statistics(model: Any) -> None:
    """Give every device the mean of what the devices' batch norms have seen.

    Each device keeps moving statistics of its own, of which the first device's would be saved.
    They are linear in those of the batches, so averaging them now or after each step is one.
    (Averaged at each step, they would halt the devices in the midst of their steps, where Keras
    counts the losses that layers add for several devices.)

    Args:
        model: built in the scope of its strategy.
    """
    if model.distribute_strategy.num_replicas_in_sync == 1:
        return
    for variable in model.non_trainable_weights:
        values = model.distribute_strategy.experimental_local_results(variable.value)
        variable.assign(tf.add_n([tf.convert_to_tensor(value) for value in values]) / len(values))


def train_folds(
    store: Store,
    *,
    out: Path,
    folds: tuple[int, ...],
    test_fold: int | None,
    task: str,
    settings: Settings,
    contract_for: Callable[[np.ndarray], Contract],
    compiled_model: Callable[[Contract], Any],
    options: dict[str, Any],
    resume: bool = False,
) -> None:
    """Train one model for each fold, each into a folder of its own, on all GPUs there are.

    Of several folds the mean and SD of the best validation scores are printed at the end, those
    that were finished before included.

    A folder ``OUT/fold_k`` gets ``best.keras`` (the best epoch, with its thresholds),
    ``validation.npz`` (its answers to the validation records), ``history.csv``,
    ``learning_curves.png`` and ``args.json``; until it is finished also ``checkpoint.npz``.

    Args:
        store: an open store.
        out: the run's folder.
        folds: from :func:`choose_folds`.
        test_fold: the fold that is in no part; None to leave none out.
        task: whose labels.
        settings: how to fit.
        contract_for: gives the contract, knowing the training records.
        compiled_model: builds and compiles the network for a contract.
        options: the command's options, to be written down.
        resume: go on with what was killed, to the numbers it would have had: finished folds
            stay, half-finished ones go on after their last complete epoch, the others begin.

    Raises:
        OptionError: where the options make no sense, the GPUs cannot share a batch equally, a
            fold's folder is being trained by another process, or holds a run that is not to be
            resumed or was begun otherwise.
        StoreError: where the store does not suit.
    """
    require_sensible(options)
    folders = [out / f"fold_{fold}" for fold in folds]
    for folder in folders:
        with locked(folder, doing="trained"):
            require_startable(folder, resume=resume)
    for fold, folder in zip(folds, folders, strict=True):
        train_fold(
            store,
            folder=folder,
            fold=fold,
            parts=split(store, task=task, fold=fold, test_fold=test_fold),
            settings=replace(settings, seed=settings.seed + fold),
            contract_for=contract_for,
            compiled_model=compiled_model,
            options=options,
            resume=resume,
        )
    if len(folders) > 1:
        print(_mean_of_folds(folders, settings.monitor))


def _mean_of_folds(folders: Sequence[Path], monitor: Monitor) -> str:
    """Give mean and SD of the best validation score of finished trainings."""
    key = _key(monitor)
    best = [np.nanmax(read_history(folder / "history.csv")[key]) for folder in folders]
    spread = Spread.of(best)
    return f"{len(folders)} folds: best {key} {as_text(spread, digits=4)} (mean ± SD)"


def _key(monitor: Monitor) -> str:
    """Name a score as the logs of an epoch do."""
    return "val_" + monitor.replace("-", "_")


def train_fold(
    store: Store,
    *,
    folder: Path,
    fold: int,
    parts: Parts,
    settings: Settings,
    contract_for: Callable[[np.ndarray], Contract],
    compiled_model: Callable[[Contract], Any],
    options: dict[str, Any],
    callbacks: Sequence[Any] = (),
    resume: bool = False,
) -> None:
    """Train one model, on all GPUs there are.

    Args:
        store: an open store.
        folder: gets the files that :func:`train_folds` tells of.
        fold: its number, to be shown and written down.
        parts: which records train and which validate; what ``parts.second`` chooses goes into
            the folder ``second`` in this one, and is what a fit that it validates alone gives.
        settings: how to fit; the seed is this fold's own.
        contract_for: gives the contract, knowing the training records.
        compiled_model: builds and compiles the network for a contract.
        options: to be written down.
        callbacks: further callbacks of Keras, called before the checkpoint is written.
        resume: go on with a half-finished training, and leave a finished one as it is.

    Raises:
        OptionError: where the GPUs cannot share a batch equally, or the folder is being trained
            by another process, or holds a run that is not to be resumed or was begun otherwise.
        StoreError: where the store does not suit, the loss is no number, or no epoch gave a
            score.
    """
    strategy = devices_strategy(gpus(), batch_size=settings.batch_size)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    with locked(folder, doing="trained"):
        require_startable(folder, resume=resume)
        if state_of(folder) == "finished":
            print(f"fold {fold}: is finished; {folder}")
            return
        keras.backend.clear_session()  # also forgets the policy
        keras.config.set_dtype_policy(settings.precision)
        try:
            _fit(
                store,
                folder=folder,
                fold=fold,
                parts=parts,
                settings=settings,
                strategy=strategy,
                contract_for=contract_for,
                compiled_model=compiled_model,
                options=options,
                callbacks=callbacks,
            )
        finally:
            keras.config.set_dtype_policy("float32")


def _fit(
    store: Store,
    *,
    folder: Path,
    fold: int,
    parts: Parts,
    settings: Settings,
    strategy: Any,
    contract_for: Callable[[np.ndarray], Contract],
    compiled_model: Callable[[Contract], Any],
    options: dict[str, Any],
    callbacks: Sequence[Any],
) -> None:
    keras.utils.set_random_seed(settings.seed)
    contract = contract_for(parts.train)
    with strategy.scope():
        model = compiled_model(contract)
    heads = tuple(model.output)
    validating = {"": parts.validation}
    if parts.second is not None:
        validating[SECOND] = parts.second
    # Records of similar length in a batch: their answers do not depend on it, only the time does.
    by_length = [r[np.argsort(store.lengths[r], kind="stable")] for r in validating.values()]
    train, *validations = (
        StoreBatches(
            store,
            records,
            contract=contract,
            heads=heads,
            batch_size=settings.batch_size,
            shuffle=shuffle,
            seed=settings.seed,
            devices=strategy.num_replicas_in_sync,
        )
        for records, shuffle in ((parts.train, True), *((r, False) for r in by_length))
    )
    print(f"fold {fold}: trains on {describe(train)};")
    print(f"        validates on {' and on '.join(map(describe, validations))}.")
    run = {
        "options": options,
        "fold": fold,
        "settings": asdict(settings),
        "records": digest_of_records(store, parts.train, *validating.values(), task=contract.task),
    }
    _write_down(folder, run)
    bests = {
        name: KeepBest(
            store,
            batches,
            trained=parts.train,
            folder=folder / NEW_BEST / name,
            monitor=settings.monitor,
        )
        for name, batches in zip(validating, validations, strict=True)
    }
    best = bests[""]
    choose = ChooseEpochs(bests, patience=settings.patience)
    checkpoint = Checkpoint(folder, counters=choose.counters)
    # Keras' own count of epochs would begin anew in a training that goes on.
    in_order = keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs: train.start_epoch(e))
    in_turn = [in_order, RequireNumbers(store, train, fold=fold), choose, *callbacks]
    if settings.tensorboard:
        in_turn.append(keras.callbacks.TensorBoard(str(folder / "tensorboard")))
    done, steps = checkpoint.epoch * len(train), settings.epochs * len(train)
    with tqdm(total=steps, initial=done, desc=f"fold {fold}", unit="step", file=sys.stderr) as bar:
        in_turn += [Progress(bar, show=best.key), checkpoint]
        if not checkpoint.complete:
            # The batches mix the records themselves; Keras would draw their order once more.
            model.fit(
                train,
                epochs=settings.epochs,
                initial_epoch=checkpoint.epoch,
                shuffle=False,
                callbacks=in_turn,
                verbose=0,
            )
    if any(each.epoch is None for each in bests.values()):
        raise StoreError(
            f"no epoch of fold {fold} gave a validation score that is a number, so {folder} holds"
            " no model; look for strange signals in the store, or lower the learning rate."
        )
    curves = {f"fold {fold}": read_history(folder / "history.csv")}
    with written_whole(folder / "learning_curves.png") as part:
        plot_learning_curves(curves).savefig(part, dpi=150)
    checkpoint.finish()
    for name, each in bests.items():
        assert each.epoch is not None
        print(
            f"fold {fold}: best {each.key} {each.score:.4f} in epoch {each.epoch + 1};"
            f" {folder / name}"
        )


def _write_down(folder: Path, run: dict[str, Any]) -> None:
    """Write what a run is made of into its folder, or make sure that it is what is there."""
    path = folder / "args.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            told = json.dumps({**run, "made with": provenance()}, indent=2, default=str)
            part.write_text(told + "\n")
        return
    try:
        written = dict(json.loads(path.read_text()))
    except (ValueError, TypeError):
        raise OptionError(
            f"{path} is broken, so that nobody knows what this run was begun with; remove {folder}"
            " or choose another --out."
        ) from None
    require_same_run(written, run, folder)


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
        self.key = _key(monitor)
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
