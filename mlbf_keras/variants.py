"""The trainings for the paper's tables: MLBF-Net and its variants, each a unit of work."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import StoreError
from data_prep.store import Store, StoreWriter
from ecg_keras.training.settings import Precision, Settings, picked
from mlbf_keras.train import MLBFNet

# The fold of the records used only for training in a store made by :func:`merge_stores`.
EXTRA_FOLD = 11


@dataclass(frozen=True)
class Protocol:
    """How all units of a command train; see :class:`ecg_keras.training.settings.Settings`."""

    input_length: int
    epochs: int
    batch_size: int
    patience: int
    precision: Precision
    seed: int


@dataclass(frozen=True)
class Variant:
    """A network, its loss and its initial weights.

    Attributes:
        network: ``"MLBF-Net"`` or ``"BranchNet"``.
        auxiliary_heads: whether each lead has its own head and loss.
        loss_weight: lambda, the weight of these losses.
        init: the model whose weights it starts from; None for random weights.
    """

    network: str = "MLBF-Net"
    auxiliary_heads: bool = True
    loss_weight: float = 1.0
    init: str | None = None

    @property
    def name(self) -> str:
        """A short name for folders and rows."""
        if self.init is not None:
            return "pretrained"
        if self.network == "BranchNet":
            return "branchnet"
        if not self.auxiliary_heads:
            return "single-loss"
        return f"lambda={self.loss_weight:g}"


def train(
    store: Path,
    folder: Path,
    *,
    test_fold: int | None,
    validation_fold: int,
    both_ways: bool,
    extra: bool,
    **options: Any,
) -> None:
    """Train one model and let it predict its test fold: a unit of every table.

    Writes what ``mlbf-train`` writes for a fold, and ``test.npz`` with the predictions of the best
    epoch for the test fold, with thresholds from the validation fold.  With ``both_ways`` it also
    writes to the folder ``second`` what a training with the two folds exchanged would give: both
    use the same training records, so with the same seed they differ only in the epoch they keep.

    Args:
        store: the store's path.
        folder: where to write.
        test_fold: the fold used neither for training nor for validation; None for no test.
        validation_fold: the fold that chooses epoch and thresholds.
        both_ways: also choose the epoch on the test fold, and predict the validation fold.
        extra: also train on the records of :data:`EXTRA_FOLD`.
        options: the fields of :class:`Variant` and :class:`Protocol`.
    """
    from ecg_keras.evaluation.predictions import save_predictions
    from ecg_keras.prediction.ensemble import predict_store
    from ecg_keras.training.fit import train_fold
    from ecg_keras.training.folds import SECOND, Parts
    from mlbf_keras.model import load_model

    settings = picked(Settings, options)
    split = {
        "test_fold": test_fold,
        "validation_fold": validation_fold,
        "both_ways": both_ways,
        "extra": extra,
    }
    with Store(store) as opened:
        task = opened.resolve_task("cpsc2018")
        usable = opened.records_of(task, single_label=True)
        folds = opened.folds[usable]
        kept_out = [fold for fold in (test_fold, validation_fold) if fold is not None]
        trains = ~np.isin(folds, kept_out) & (extra | (folds < EXTRA_FOLD))
        train_fold(
            opened,
            folder=folder,
            fold=validation_fold,
            task=task,
            parts=Parts(
                usable[trains],
                usable[folds == validation_fold],
                usable[folds == test_fold] if both_ways else None,
            ),
            network=picked(MLBFNet, {**options, "network": options["network"].lower()}),
            settings=settings,
            options={"store": store, **split, **options},
            resume=True,
        )
        tested = {} if test_fold is None else {folder: test_fold}
        if both_ways:
            tested[folder / SECOND] = validation_fold
        for made, fold in tested.items():
            predicted = predict_store(
                load_model(made / "best.keras"),
                opened,
                usable[folds == fold],
                batch_size=settings.batch_size,
            )
            save_predictions(made / "test.npz", predicted["diagnosis"])


def merge_stores(store: Path, extra: Path, out: Path) -> Path:
    """Merge two stores; the records of the second are used for training only.

    Args:
        store: the store whose records keep their folds, 1 to 10.
        extra: the store whose records all go into fold :data:`EXTRA_FOLD`, with ``extra-`` before
            their names.
        out: the store to write; left unchanged if it already holds both.

    Returns:
        ``out``.

    Raises:
        StoreError: if the two differ in sampling rate or classes.
    """
    with Store(store) as real, Store(extra) as added:
        task = real.resolve_task("cpsc2018")
        if (real.fs, real.class_names(task)) != (added.fs, added.class_names(task)):
            raise StoreError(
                f"{extra} cannot be added to {store}, since their rates or classes differ; build"
                " both with the same options."
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
                        first_label=int(source.first_labels(task)[i]),
                        fold=EXTRA_FOLD if prefix else int(source.folds[i]),
                        patient=prefix + source.patients[i] if source.patients[i] else "",
                        age=float(source.ages[i]),
                        sex=str(source.sexes[i]),
                        source=str(source.sources[i]),
                    )
    return out


def choose_test_folds(store: Path, folds: tuple[str, ...]) -> tuple[int, ...]:
    """Parse the ``--folds`` of the command.

    Args:
        store: path of the store.
        folds: numbers, or the single word ``all``.

    Raises:
        OptionError: if no fold is given, or a word is not a number.
        StoreError: if the store has no record in a fold, or is not at 250 Hz.
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
