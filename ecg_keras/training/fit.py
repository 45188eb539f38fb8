"""The training loop shared by all networks."""

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from data_prep.errors import OptionError, StoreError
from data_prep.files import locked, read_json, sha256_of, written_whole
from data_prep.provenance import provenance
from data_prep.store import Store
from ecg_keras.evaluation.plots import plot_learning_curves, read_history
from ecg_keras.evaluation.scores import Spread
from ecg_keras.model.backend import keras, tf
from ecg_keras.model.contract import Contract
from ecg_keras.model.model_files import ECGModel, load_model
from ecg_keras.model.origin import Origin
from ecg_keras.training.batches import StoreBatches, describe
from ecg_keras.training.callbacks import (
    ChooseEpochs,
    KeepBest,
    OneCycle,
    Progress,
    RequireNumbers,
)
from ecg_keras.training.checkpoint import (
    NEW_BEST,
    Checkpoint,
    can_add_epochs,
    digest_of_records,
    reopen,
    require_same_run,
    require_startable,
    state_of,
)
from ecg_keras.training.devices import devices_strategy, gpus
from ecg_keras.training.folds import SECOND, Parts, choose_folds, split, with_main_labels
from ecg_keras.training.settings import (
    Monitor,
    Run,
    Settings,
    Validation,
    log_name,
    options_of,
    require_sensible,
)
from ecg_keras.training.start import freeze_features, start_from


class Network(Protocol):
    """A network to train: a frozen dataclass whose fields are its options."""

    def contract(self, store: Store, task: str, train: np.ndarray) -> Contract:
        """Return the contract.

        Args:
            store: an open store.
            task: the labels to learn.
            train: indices of the training records, the only ones it may depend on.
        """

    def compiled_model(self, contract: Contract, settings: Settings) -> Any:
        """Build and compile the network for a contract."""


def train_folds(run: Run, validation: Validation, network: Network, settings: Settings) -> None:
    """Train one model per validation fold, each in its own folder, on all available GPUs.

    Each folder ``OUT/fold_k`` gets ``best.keras`` (the best epoch, with its thresholds),
    ``validation.npz`` (its predictions for the validation records), ``history.csv``,
    ``learning_curves.png``, ``training.log`` (one line per epoch) and ``args.json`` (all
    settings).  Until training is complete it also holds ``checkpoint.npz``, which becomes
    ``last_epoch.npz`` unless training was stopped early.  With ``run.resume``, unfinished folds
    continue after their last complete epoch, finished ones too if more epochs are requested, and
    folds without a run start from scratch.

    With several folds, the mean and SD of their best validation scores are printed at the end,
    including folds that were already finished.

    Args:
        run: the store and the output folder.
        validation: the validation folds.
        network: the network and its options.
        settings: how to train; fold k is seeded with ``settings.seed + k``.

    Raises:
        OptionError: if a setting is out of range, the GPUs cannot share a batch equally, or a
            fold's folder is in use by another process, holds a run and ``run.resume`` is not
            set, or holds a run with other settings.
        StoreError: if the store lacks the task, a fold or records for training.
    """
    options = options_of(run, validation, network, settings)
    with Store(run.store) as store:
        task = store.resolve_task(run.task)
        folds = choose_folds(store, validation.folds, validation.test_fold)
        require_sensible(options)
        aside = store.provenance.get("options", {}).get("test_source")
        if aside and validation.test_fold != 10:
            print(
                f"warning: fold 10 of {store.path} holds the records of {', '.join(aside)}, which"
                " --test-source set aside; without --test-fold 10 they train or validate.",
                file=sys.stderr,
            )
        folders = [run.out / f"fold_{fold}" for fold in folds]
        of_folds = [
            (
                split(store, task=task, fold=fold, test_fold=validation.test_fold),
                replace(settings, seed=settings.seed + fold),
            )
            for fold in folds
        ]
        for folder, (parts, of_fold) in zip(folders, of_folds, strict=True):
            with locked(folder, doing="trained"):
                require_startable(folder, resume=run.resume)
                _require_same(folder, store, task, parts, settings=of_fold, options=options)
        for fold, folder, (parts, of_fold) in zip(folds, folders, of_folds, strict=True):
            train_fold(
                store,
                folder=folder,
                fold=fold,
                task=task,
                parts=parts,
                network=network,
                settings=of_fold,
                options=options,
                resume=run.resume,
                keep_last=True,
            )
    if len(folders) > 1:
        print(_mean_of_folds(folders, settings.monitor))


def _mean_of_folds(folders: Sequence[Path], monitor: Monitor) -> str:
    """Summarise the best validation scores of finished trainings as mean and SD."""
    key = log_name(monitor)
    best = [np.nanmax(read_history(folder / "history.csv")[key]) for folder in folders]
    return f"{len(folders)} folds: best {key} {Spread.of(best).text(4)} (mean ± SD)"


def train_fold(
    store: Store,
    *,
    folder: Path,
    fold: int,
    task: str,
    parts: Parts,
    network: Network,
    settings: Settings,
    options: Mapping[str, Any],
    callbacks: Sequence[Any] = (),
    resume: bool = False,
    keep_last: bool = False,
) -> None:
    """Train one model on all available GPUs.

    Args:
        store: an open store.
        folder: folder for the files listed in :func:`train_folds`.
        fold: number of the fold, for messages and ``args.json``.
        task: the labels to learn.
        parts: the training and validation records.  The model selected on ``parts.second`` goes to
            the subfolder ``second``; it equals that of a training validated on ``parts.second``
            alone.
        network: the network and its options.
        settings: how to train, with this fold's own seed.
        options: all settings, for ``args.json``; a resumed training must have the same.
        callbacks: further Keras callbacks, called before the checkpoint is written.
        resume: continue an unfinished training, or a finished one that kept its last epoch if more
            epochs are requested.
        keep_last: keep the last checkpoint, so that a finished training can be continued.

    Raises:
        OptionError: if the GPUs cannot share a batch equally, the model of ``settings.init`` does
            not fit, or the folder is in use by another process, holds a run and ``resume`` is not
            set, or holds a run with other settings.
        ModelFileError: if that model cannot be opened.
        StoreError: if the loss becomes NaN or infinite, or no epoch gives a validation score.
    """
    strategy = devices_strategy(gpus(), batch_size=settings.batch_size)
    if settings.deterministic:
        tf.config.experimental.enable_op_determinism()
    with locked(folder, doing="trained"):
        require_startable(folder, resume=resume)
        if state_of(folder) == "finished" and not can_add_epochs(folder, epochs=settings.epochs):
            _require_same(folder, store, task, parts, settings=settings, options=options)
            print(f"fold {fold}: is finished; {folder}")
            return
        keras.backend.clear_session()  # also resets the policy
        keras.config.set_dtype_policy(settings.precision)
        try:
            source = None if settings.init is None else load_model(settings.init)
            keras.utils.set_random_seed(settings.seed)
            contract = network.contract(store, task, parts.train)
            if source is not None:
                # The pretrained layers expect signals that are scaled in the same way.
                contract = replace(contract, mean=source.contract.mean, std=source.contract.std)
            if contract.single_label:
                all_parts, parts = parts, with_main_labels(store, parts, task=task)
                if left_out := all_parts.num_records - parts.num_records:
                    print(
                        f"fold {fold}: {left_out} records with several labels in no known order"
                        " are left out."
                    )
            with strategy.scope():
                model = network.compiled_model(contract, settings)
                if source is not None:
                    _start(model, source, fold=fold, freeze=settings.freeze is not None)
            _fit(
                model,
                contract,
                store,
                folder=folder,
                fold=fold,
                parts=parts,
                settings=settings,
                options=options,
                callbacks=callbacks,
                keep_last=keep_last,
                source=source,
            )
        finally:
            keras.config.set_dtype_policy("float32")


def _require_same(
    folder: Path,
    store: Store,
    task: str,
    parts: Parts,
    *,
    settings: Settings,
    options: Mapping[str, Any],
) -> None:
    """Refuse a folder with a training of other options or records: it is not part of this run."""
    path = folder / "args.json"
    if not path.exists():
        return
    written = _read_args(path)
    digest = _digest(store, parts, task)
    if written.get("records") != digest:
        # Of a network with one answer, which only its contract tells.
        with suppress(StoreError):
            digest = _digest(store, with_main_labels(store, parts, task=task), task)
    asked = {"options": options, "settings": asdict(settings), "records": digest}
    require_same_run(written, asked, folder)


def _digest(store: Store, parts: Parts, task: str) -> str:
    validating = [parts.validation, *([] if parts.second is None else [parts.second])]
    return digest_of_records(store, parts.train, *validating, task=task)


def _start(model: Any, source: ECGModel, *, fold: int, freeze: bool) -> None:
    """Copy the weights of another model into a network, and print which layers were copied."""
    start = start_from(model, source)
    if freeze:
        freeze_features(model, start)
    kept = " and keep" if freeze else ""
    print(f"fold {fold}: {len(start.taken)} layers take{kept} the weights of {source.path}:")
    print(f"        {', '.join(start.taken)};")
    print(f"        new: {', '.join(start.new) or 'none'}.")
    if source.origin is None:
        print(f"        {source.path} does not name the records that trained it, so for the new")
        print("        model no record counts as unseen.")


def _fit(
    model: Any,
    contract: Contract,
    store: Store,
    *,
    folder: Path,
    fold: int,
    parts: Parts,
    settings: Settings,
    options: Mapping[str, Any],
    callbacks: Sequence[Any],
    keep_last: bool,
    source: ECGModel | None,
) -> None:
    validating = {"": parts.validation}
    if parts.second is not None:
        validating[SECOND] = parts.second
    # Batching validation records by length saves time and does not change the predictions.
    by_length = [r[np.argsort(store.lengths[r], kind="stable")] for r in validating.values()]
    train, *validations = (
        StoreBatches(
            store,
            records,
            contract=contract,
            heads=tuple(model.output),
            batch_size=settings.batch_size,
            shuffle=shuffle,
            seed=settings.seed,
            devices=model.distribute_strategy.num_replicas_in_sync,
        )
        for records, shuffle in ((parts.train, True), *((r, False) for r in by_length))
    )
    print(f"fold {fold}: trains on {describe(train)};")
    print(f"        validates on {' and on '.join(map(describe, validations))}.")
    run = {
        "options": options,
        "fold": fold,
        "settings": asdict(settings),
        "records": _digest(store, parts, contract.task),
        "init": None if source is None else sha256_of(source.path),
    }
    _write_args(folder, run)
    bests = {
        name: KeepBest(
            store,
            batches,
            trained=parts.train,
            folder=folder / NEW_BEST / name,
            monitor=settings.monitor,
            before=None if source is None else source.origin or Origin.unknown(),
        )
        for name, batches in zip(validating, validations, strict=True)
    }
    best = bests[""]
    # Stopped early, a cycle would never lower the rate.
    patience = settings.epochs if settings.schedule == "one-cycle" else settings.patience
    choose = ChooseEpochs(bests, patience=patience)
    checkpoint = Checkpoint(folder, counters=choose.counters, epochs=settings.epochs)
    # Keras' own count of epochs would start at 0 in a resumed training.
    in_order = keras.callbacks.LambdaCallback(on_epoch_begin=lambda e, logs: train.start_epoch(e))
    in_turn = [in_order, RequireNumbers(store, train, fold=fold), choose, *callbacks]
    if settings.schedule == "one-cycle":
        in_turn.append(
            OneCycle(settings.learning_rate, epochs=settings.epochs, steps_per_epoch=len(train))
        )
    if settings.tensorboard:
        in_turn.append(keras.callbacks.TensorBoard(str(folder / "tensorboard")))
    done, steps = checkpoint.epoch * len(train), settings.epochs * len(train)
    with tqdm(total=steps, initial=done, desc=f"fold {fold}", unit="step", file=sys.stderr) as bar:
        in_turn += [checkpoint, Progress(bar, best=best, file=folder / "training.log")]
        if not checkpoint.complete:
            # The batches already shuffle the records; Keras would shuffle the batches as well.
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
            f"no epoch of fold {fold} gave a validation score other than NaN, so {folder} holds no"
            " model; look for implausible signals in the store, or lower --learning-rate."
        )
    curves = {f"fold {fold}": read_history(folder / "history.csv")}
    with written_whole(folder / "learning_curves.png") as part:
        plot_learning_curves(curves, monitor=settings.monitor).savefig(part, dpi=150)
    checkpoint.finish(keep=keep_last)
    for name, each in bests.items():
        assert each.epoch is not None
        print(
            f"fold {fold}: best {each.key} {each.score:.4f} in epoch {each.epoch + 1};"
            f" {folder / name}"
        )


def _write_args(folder: Path, run: dict[str, Any]) -> None:
    """Write the settings of a run to ``args.json``, or check them against those already there."""
    path = folder / "args.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as part:
            text = json.dumps({**run, "made with": provenance()}, indent=2, default=str)
            part.write_text(text + "\n")
        return
    written = _read_args(path)
    require_same_run(written, run, folder)
    if state_of(folder) == "finished":
        reopen(folder)  # before args.json names more epochs, so that a kill here loses nothing
    if written["settings"]["epochs"] != run["settings"]["epochs"]:
        for which in ("options", "settings"):
            written[which]["epochs"] = run["settings"]["epochs"]
        with written_whole(path) as part:
            part.write_text(json.dumps(written, indent=2) + "\n")


def _read_args(path: Path) -> dict[str, Any]:
    try:
        return dict(read_json(path))
    except (ValueError, TypeError):
        raise OptionError(
            f"{path} is corrupt, so the settings of this run are unknown; remove {path.parent} or"
            " choose another --out."
        ) from None
