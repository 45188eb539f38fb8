"""MLBF-Net and what its tables set beside it: each training a unit that any machine can do."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data_prep.errors import StoreError
from data_prep.store import Store, StoreWriter

Precision = Literal["float32", "mixed_bfloat16", "mixed_float16"]

# The fold of records that train only, in a store made by :func:`merge_stores`.
EXTRA_FOLD = 11


@dataclass(frozen=True)
class Protocol:
    """How every unit of a command trains."""

    input_length: int
    epochs: int
    batch_size: int
    patience: int
    precision: str
    seed: int


@dataclass(frozen=True)
class Variant:
    """A network and its loss.

    Attributes:
        network: ``"MLBF-Net"`` or ``"BranchNet"``.
        auxiliary_heads: each lead has a head and a loss.
        loss_weight: lambda of those losses.
    """

    network: str = "MLBF-Net"
    auxiliary_heads: bool = True
    loss_weight: float = 1.0

    @property
    def name(self) -> str:
        """Short, for folders and rows."""
        if self.network == "BranchNet":
            return "branchnet"
        if not self.auxiliary_heads:
            return "single-loss"
        return f"lambda={self.loss_weight:g}"


def train(
    store: Path,
    folder: Path,
    *,
    network: str,
    auxiliary_heads: bool,
    loss_weight: float,
    test_fold: int | None,
    validation_fold: int,
    both_ways: bool,
    extra: bool,
    input_length: int,
    epochs: int,
    batch_size: int,
    patience: int,
    precision: Precision,
    seed: int,
) -> None:
    """Train one model and let it answer for its test fold: a unit of every table.

    Writes what ``mlbf-train`` writes for a fold, and ``test.npz`` with the answers of the best
    epoch to the test fold, at thresholds found on the validation fold.  Trained both ways, it also
    writes into the folder ``second`` what a training with the two folds exchanged would give: both
    see the same training records, so that with one seed they differ only in the epoch they keep.

    Args:
        store: the store's path.
        folder: where to write.
        network: ``"MLBF-Net"`` or ``"BranchNet"``.
        auxiliary_heads: each lead has a head and a loss.
        loss_weight: lambda of those losses.
        test_fold: in no part; None for no test.
        validation_fold: chooses epoch and thresholds.
        both_ways: also choose by the test fold, and answer for the validation fold.
        extra: train also on the records of :data:`EXTRA_FOLD`.
        input_length: samples.
        epochs: at most this many.
        batch_size: records a step.
        patience: epochs without a better validation score after which training stops.
        precision: Keras' dtype policy.
        seed: of weights, dropout and order.
    """
    options = dict(locals())
    from ecg_keras.evaluation.predictions import save_predictions
    from ecg_keras.model.contract import Contract
    from ecg_keras.prediction.ensemble import predict_store
    from ecg_keras.training.fit import train_fold
    from ecg_keras.training.folds import SECOND, Parts
    from ecg_keras.training.settings import Settings
    from mlbf_keras.model import (
        build_branchnet,
        build_model,
        compile_model,
        default_contract,
        load_model,
    )

    with Store(store) as opened:
        task = opened.resolve_task("cpsc2018")
        usable = opened.records_of(task)
        folds = opened.folds[usable]
        kept_out = [fold for fold in (test_fold, validation_fold) if fold is not None]
        trains = ~np.isin(folds, kept_out) & (extra | (folds < EXTRA_FOLD))
        build = (
            build_branchnet
            if network == "BranchNet"
            else partial(build_model, auxiliary_heads=auxiliary_heads)
        )

        def compiled_model(contract: Contract) -> Any:
            model = build(input_length=input_length, contract=contract)
            return compile_model(model, loss_weight=loss_weight)

        train_fold(
            opened,
            folder=folder,
            fold=validation_fold,
            parts=Parts(
                usable[trains],
                usable[folds == validation_fold],
                usable[folds == test_fold] if both_ways else None,
            ),
            settings=Settings(
                epochs=epochs,
                batch_size=batch_size,
                patience=patience,
                monitor="macro-f1",
                seed=seed,
                deterministic=False,
                precision=precision,
                tensorboard=False,
            ),
            contract_for=lambda train: default_contract(network=network, input_length=input_length),
            compiled_model=compiled_model,
            options=options,
            resume=True,
        )
        tested = {} if test_fold is None else {folder: test_fold}
        if both_ways:
            tested[folder / SECOND] = validation_fold
        for made, fold in tested.items():
            model = load_model(made / "best.keras")
            answers = predict_store(model, opened, usable[folds == fold], batch_size=batch_size)
            save_predictions(made / "test.npz", answers["diagnosis"])


def merge_stores(store: Path, extra: Path, out: Path) -> Path:
    """Write a store of real records and, in a fold that always trains, of others.

    Args:
        store: whose records keep their folds, 1 to 10.
        extra: whose records all go into fold :data:`EXTRA_FOLD`, their names after ``extra-``.
        out: the store to write; left as it is where it holds both already.

    Returns:
        ``out``.

    Raises:
        StoreError: where the two differ in rate or classes.
    """
    with Store(store) as real, Store(extra) as added:
        task = real.resolve_task("cpsc2018")
        if (real.fs, real.class_names(task)) != (added.fs, added.class_names(task)):
            raise StoreError(
                f"{extra} cannot be added to {store}, whose rate or classes are others; build it"
                " with the same options."
            )
        names = [*real.ids, *(f"extra-{name}" for name in added.ids)]
        if out.is_file():
            with Store(out) as before:
                if before.ids.tolist() == names and before.provenance == {
                    "stores": [real.provenance, added.provenance]
                }:
                    return out
        with StoreWriter(
            out,
            dataset=real.dataset,
            fs=real.fs,
            class_names={task: real.class_names(task)},
            provenance={"stores": [real.provenance, added.provenance]},
        ) as writer:
            for source, prefix in ((real, ""), (added, "extra-")):
                labels = source.labels(task)
                for i, name in enumerate(source.ids):
                    writer.append(
                        f"{prefix}{name}",
                        source.signal(i),
                        labels={task: tuple(int(c) for c in labels[i].nonzero()[0])},
                        first_label=int(source.first_labels[i]),
                        fold=EXTRA_FOLD if prefix else int(source.folds[i]),
                        patient=prefix + source.patients[i] if source.patients[i] else "",
                        age=float(source.ages[i]),
                        sex=str(source.sexes[i]),
                    )
    return out


def choose_test_folds(store: Path, folds: tuple[str, ...]) -> tuple[int, ...]:
    """Turn the ``--folds`` of the command into numbers.

    Args:
        store: whose folds they are.
        folds: numbers, or the one word ``all``.

    Raises:
        OptionError: where there is none, or a word is no number.
        StoreError: where the store has no record in a fold or is not at 250 Hz.
    """
    from ecg_keras.training.folds import choose_folds
    from mlbf_keras.model import SAMPLING_RATE

    with Store(store) as opened:
        if opened.fs != SAMPLING_RATE:
            raise StoreError(
                f"{store} holds signals at {opened.fs:g} Hz; build it again with"
                f" --rate {SAMPLING_RATE:g}, as MLBF-Net takes them."
            )
        return tuple(fold for fold in choose_folds(opened, folds, None) if fold != EXTRA_FOLD)
