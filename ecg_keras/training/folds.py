"""Which records train a model and which validate it."""

from dataclasses import dataclass

import numpy as np

from data_prep.errors import OptionError, StoreError
from data_prep.store import Store

# Subfolder for the model that the second validation part chose, see :class:`Parts`.
SECOND = "second"


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
