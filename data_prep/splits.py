"""Folds, stratified by all labels or random; no patient is ever in two folds."""

import numpy as np

from data_prep.errors import StoreError


def stratified_folds(
    labels: np.ndarray, *, seed: int, num_folds: int = 10, patients: np.ndarray | None = None
) -> np.ndarray:
    """Assign records to folds so that every class is spread evenly.

    Uses iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011), which considers all
    labels of a record, not only the first.

    Args:
        labels: uint8 ``(records, classes)``, 1 if a record has the class.
        seed: of the assignment; the same seed and labels give the same folds.
        num_folds: how many folds, 2 or more.
        patients: str ``(records,)``, ``""`` if unknown: all records of a patient get the same
            fold; the patient counts once, with all their labels.

    Returns:
        int16 ``(records,)``, 1 to ``num_folds``.

    Raises:
        StoreError: if there are fewer records, or patients, than folds.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedKFold

    if patients is not None:
        groups = _groups(patients)
        together = np.zeros((groups.max(initial=-1) + 1, labels.shape[1]), labels.dtype)
        np.maximum.at(together, groups, labels)
        return stratified_folds(together, seed=seed, num_folds=num_folds)[groups]
    _require_records(len(labels), num_folds)
    if labels.shape[1] == 1:  # the stratifier needs two or more classes
        labels = np.hstack([labels, 1 - labels])
    dealer = MultilabelStratifiedKFold(n_splits=num_folds, shuffle=True, random_state=seed)
    folds = np.zeros(len(labels), np.int16)
    for fold, (_, held_out) in enumerate(dealer.split(labels, labels), start=1):
        folds[held_out] = fold
    return folds


def _groups(patients: np.ndarray) -> np.ndarray:
    """Number the patients 0, 1, … as they first occur; a record without one is its own group."""
    numbers: dict[str, int] = {}
    names = [str(name) or f"\0{i}" for i, name in enumerate(patients)]
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def random_folds(
    num_records: int, *, seed: int, num_folds: int = 10, patients: np.ndarray | None = None
) -> np.ndarray:
    """Assign records to folds of equal size at random, whatever their labels.

    As in the MLBF-Net paper (sections IV-D and V-A).

    Args:
        num_records: how many records; fold sizes differ by at most one record.
        seed: of the assignment; the same seed and number give the same folds.
        num_folds: as for :func:`stratified_folds`, like the patients, the result and the errors.
        patients: str ``(records,)``.
    """
    if patients is not None:
        groups = _groups(patients)
        return random_folds(groups.max(initial=-1) + 1, seed=seed, num_folds=num_folds)[groups]
    _require_records(num_records, num_folds)
    even = np.arange(num_records, dtype=np.int16) % num_folds + 1
    return np.random.default_rng(seed).permutation(even)


def _require_records(num_records: int, num_folds: int) -> None:
    if num_records < num_folds:
        raise StoreError(
            f"{num_records} usable records cannot be divided into {num_folds} folds; give at least"
            f" {num_folds} records, of as many patients."
        )


def require_patients_apart(folds: np.ndarray, patients: np.ndarray) -> None:
    """Check that all records of a patient are in one fold.

    Args:
        folds: int ``(records,)``.
        patients: str ``(records,)``, ``""`` if the patient is unknown.

    Raises:
        StoreError: naming the patients that are in several folds.
    """
    first_fold: dict[str, int] = {}
    torn = []
    for patient, fold in zip(patients, folds, strict=True):
        if patient and first_fold.setdefault(str(patient), int(fold)) != fold:
            torn.append(str(patient))
    if torn:
        names = sorted(set(torn))
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        raise StoreError(
            f"{len(names)} patients have records in several folds ({shown}), so that training"
            " would see those it is tested on; put all records of a patient in one fold."
        )
