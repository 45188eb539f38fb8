"""Splits records into training and validation parts."""

from dataclasses import dataclass, replace

import numpy as np

from data_prep.errors import OptionError, StoreError
from data_prep.store import Store

# Subfolder for the model selected on the second validation part, see :class:`Parts`.
SECOND = "second"

_CALLED = {"train": "training", "validation": "validation", "second": "second validation"}


@dataclass(frozen=True)
class Parts:
    """The records of a store that train, and those that select the epoch and the thresholds.

    Attributes:
        train: indices of the training records.
        validation: indices of the validation records.
        second: indices of a second validation part, or None.  It selects its own epoch and
            thresholds in the same training, which ends when the patience of both parts has run
            out.
    """

    train: np.ndarray
    validation: np.ndarray
    second: np.ndarray | None = None

    @property
    def num_records(self) -> int:
        """Total number of records in all parts."""
        return sum(len(part) for part in vars(self).values() if part is not None)


def choose_folds(store: Store, folds: tuple[str, ...], test_fold: int | None) -> tuple[int, ...]:
    """Parse the ``--folds`` option of a command.

    Args:
        store: an open store.
        folds: numbers, or the single word ``all``.
        test_fold: the fold left out of training and of ``all``; None for none.

    Returns:
        The validation folds, one per model.

    Raises:
        OptionError: if no fold is given, a word is not a number, or the test fold is among them.
        StoreError: if the store has no record in a fold.
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


def with_main_labels(store: Store, parts: Parts, *, task: str) -> Parts:
    """Leave out the records that a single-label network cannot learn from.

    Args:
        store: an open store.
        parts: the training and validation records.
        task: the labels to learn.

    Returns:
        The parts without records that have several labels in unknown order.

    Raises:
        StoreError: if a part becomes empty.
    """
    usable = store.records_of(task, single_label=True)
    kept = {
        name: part[np.isin(part, usable)] for name, part in vars(parts).items() if part is not None
    }
    for name, part in kept.items():
        if not len(part):
            raise StoreError(
                f"{store.path} has no {_CALLED[name]} record with one label of {task}, or"
                " several in a known order, as a network with one label per record needs; build it"
                " again with --several-labels rarest, or train a network with several answers."
            )
    return replace(parts, **kept)


def split(store: Store, *, task: str, fold: int, test_fold: int | None) -> Parts:
    """Split the records of a task into training and validation records.

    Args:
        store: an open store.
        task: records without a label of this task are left out.
        fold: the validation fold.
        test_fold: fold to leave out, or None.  All other folds train.

    Returns:
        The parts.

    Raises:
        StoreError: if a part is empty.
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
