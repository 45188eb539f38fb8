"""The training loop that every network shares."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from data_prep.errors import OptionError, StoreError
from data_prep.files import locked, written_whole
from data_prep.provenance import provenance
from data_prep.store import Store
from ecg_keras.evaluation.plots import plot_learning_curves, read_history
from ecg_keras.evaluation.scores import Spread
from ecg_keras.model.backend import keras, tf
from ecg_keras.model.contract import Contract
from ecg_keras.training.batches import StoreBatches, describe
from ecg_keras.training.callbacks import ChooseEpochs, KeepBest, Progress, RequireNumbers
from ecg_keras.training.checkpoint import (
    NEW_BEST,
    Checkpoint,
    digest_of_records,
    require_same_run,
    require_startable,
    state_of,
)
from ecg_keras.training.devices import devices_strategy, gpus
from ecg_keras.training.folds import SECOND, Parts, split
from ecg_keras.training.settings import Monitor, Settings, log_name, require_sensible


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
    key = log_name(monitor)
    best = [np.nanmax(read_history(folder / "history.csv")[key]) for folder in folders]
    return f"{len(folders)} folds: best {key} {Spread.of(best).text(4)} (mean ± SD)"


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
