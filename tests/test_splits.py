from pathlib import Path

import numpy as np
import pytest

from data_prep.errors import StoreError
from data_prep.labels import encode, read_reference
from data_prep.splits import random_folds, require_patients_apart, stratified_folds


def random_labels(num_records: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    labels = (rng.random((num_records, 9)) < np.linspace(0.03, 0.3, 9)).astype(np.uint8)
    labels[np.arange(num_records), rng.integers(0, 9, num_records)] = 1
    return labels


def test_folds_spread_every_class_evenly() -> None:
    labels = random_labels(1000)
    folds = stratified_folds(labels, seed=0)
    assert folds.dtype == np.int16
    assert sorted(set(folds.tolist())) == list(range(1, 11))
    counts = np.stack([labels[folds == fold].sum(axis=0) for fold in range(1, 11)])
    even = labels.sum(axis=0) / 10
    assert np.abs(counts - even).mean() < 1  # dealt at random: about 4
    assert (np.abs(counts - even) < 0.3 * even + 1).all()
    assert np.ptp(np.bincount(folds)[1:]) < 20


def test_folds_follow_the_seed() -> None:
    labels = random_labels(300)
    np.testing.assert_array_equal(
        stratified_folds(labels, seed=1), stratified_folds(labels, seed=1)
    )
    assert (stratified_folds(labels, seed=1) != stratified_folds(labels, seed=2)).any()
    assert set(stratified_folds(labels, seed=1, num_folds=3).tolist()) == {1, 2, 3}


def test_fewer_records_than_folds() -> None:
    with pytest.raises(StoreError, match="9 usable records cannot be divided into 10 folds"):
        stratified_folds(random_labels(9), seed=0)
    with pytest.raises(StoreError, match="9 usable records cannot be divided into 10 folds"):
        random_folds(9, seed=0)


def test_random_folds_are_equal_in_size_and_know_no_labels() -> None:
    folds = random_folds(1003, seed=0)
    assert folds.dtype == np.int16
    np.testing.assert_array_equal(np.bincount(folds), [0, *[101] * 3, *[100] * 7])
    np.testing.assert_array_equal(folds, random_folds(1003, seed=0))
    assert (folds != random_folds(1003, seed=1)).mean() == pytest.approx(0.9, abs=0.05)
    # A class of every fifth record is spread as chance does it, not evenly.
    counts = np.bincount(folds[::5], minlength=11)[1:]
    assert 2 < counts.std() < 8


def test_folds_of_the_public_cpsc_records(shared_data: Path) -> None:
    reference = read_reference(shared_data / "labels/cpsc2018_REFERENCE.csv")
    labels = np.stack([encode(of, 9) for of in reference.values()])
    folds = stratified_folds(labels, seed=0)
    for label in range(9):
        per_fold = np.bincount(folds[labels[:, label] == 1], minlength=11)[1:]
        assert np.abs(per_fold - labels[:, label].sum() / 10).max() < 2


def test_patients_apart() -> None:
    folds = np.array([1, 1, 2, 3, 4])
    require_patients_apart(folds, np.array(["a", "a", "b", "", ""]))
    with pytest.raises(StoreError, match=r"1 patients have records in several folds \(b\)"):
        require_patients_apart(folds, np.array(["a", "a", "b", "b", ""]))
    many = np.repeat([f"p{i:02d}" for i in range(7)], 2)
    with pytest.raises(StoreError, match=r"7 patients .*\(p00, p01, p02, p03, p04, …\)"):
        require_patients_apart(np.tile([1, 2], 7), many)
