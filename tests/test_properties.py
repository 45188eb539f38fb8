"""What must hold whatever the input: properties over inputs that hypothesis makes up."""

import csv
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from make_records import write_reference, write_struct, write_wfdb
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, roc_auc_score

from data_prep.errors import ECGError, StoreError
from data_prep.label_tables import CPSC_MAP
from data_prep.labels import (
    CPSC_CLASSES,
    CPSC_SNOMED,
    LEADS,
    PTBXL_TASKS,
    one_hot,
    read_ptbxl_tables,
    read_reference,
)
from data_prep.records import read_record
from data_prep.signals import crop_or_pad, fill_invalid, fit_standardisation, prepare, resample
from data_prep.splits import require_patients_apart, stratified_folds
from data_prep.store import Store, StoreWriter
from ecg_keras.evaluation import scores

settings.register_profile(
    "project",
    derandomize=True,
    deadline=None,
    max_examples=50,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("project")

FINITE = st.floats(-30, 30, width=32)
SEEDS = st.integers(0, 2**32 - 1)


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- Readers -----------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    seed=SEEDS,
    order=st.permutations(range(12)),
    fs=st.sampled_from([100, 257, 500, 1000.5]),
    seconds=st.floats(1.01, 3),
    gain=st.sampled_from([200, 1000, 1234.5, 1e4]),
    unit=st.sampled_from(["mV", "uV", "V"]),
    upper=st.booleans(),
    ending=st.sampled_from([".mat", ".dat"]),
    gaps=st.floats(0, 0.1),
)
def test_any_wfdb_record_is_read_as_written(
    seed: int,
    order: list[int],
    fs: float,
    seconds: float,
    gain: float,
    unit: str,
    upper: bool,
    ending: str,
    gaps: float,
) -> None:
    """Leads in any order and case, any unit, gain, rate and length; gaps are NaN."""
    signal = np.clip(noise(seed, int(seconds * fs), 12), -3, 3).astype(np.float64)
    signal[noise(seed + 1, *signal.shape) < np.quantile(noise(seed + 1, 999), gaps)] = np.nan
    in_unit = {"mV": 1.0, "uV": 1e3, "V": 1e-3}[unit]
    with tempfile.TemporaryDirectory() as folder:
        header = write_wfdb(
            Path(folder),
            "A1",
            signal[:, order] * in_unit,
            fs=fs,
            leads=[LEADS[i].upper() if upper else LEADS[i] for i in order],
            gain=gain / in_unit,
            unit=unit,
            ending=ending,
        )
        record = read_record(header)
    assert record.fs == fs
    np.testing.assert_array_equal(np.isnan(record.signal), np.isnan(signal))
    np.testing.assert_allclose(record.signal, signal, atol=0.5001 / gain + 1e-6)


@settings(max_examples=15)
@given(seed=SEEDS, length=st.integers(500, 900), age=st.integers(0, 120), male=st.booleans())
def test_any_struct_is_read_as_written(seed: int, length: int, age: int, male: bool) -> None:
    signal = noise(seed, length, 12)
    with tempfile.TemporaryDirectory() as folder:
        path = write_struct(Path(folder), "A1", signal, sex="Male" if male else "Female", age=age)
        record = read_record(path)
    np.testing.assert_array_equal(record.signal, signal)
    assert (record.age, record.sex) == (age, "male" if male else "female")


@given(data=st.binary(max_size=3000), ending=st.sampled_from([".hea", ".mat", ".csv", ".xml", ""]))
def test_any_bytes_are_refused_in_one_sentence(data: bytes, ending: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"A1{ending}"
        path.write_bytes(data)
        with pytest.raises(ECGError, match="A1"):
            read_record(path)


# --- Signals -----------------------------------------------------------------------------------


@given(
    signal=arrays(np.float32, array_shapes(min_dims=2, max_dims=2), elements=FINITE),
    length=st.integers(0, 20),
)
def test_cropping_and_padding(signal: np.ndarray, length: int) -> None:
    fitted = crop_or_pad(signal, length)
    assert fitted.shape == (length, signal.shape[1]) and fitted.dtype == signal.dtype
    kept = min(length, len(signal))
    np.testing.assert_array_equal(fitted[:kept], signal[:kept])
    assert not fitted[kept:].any()


@given(
    signal=arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 3)), elements=FINITE),
    invalid=st.data(),
)
def test_gaps_are_bridged_between_their_ends(signal: np.ndarray, invalid: st.DataObject) -> None:
    """What is valid stays; what was not lies between its neighbours, or the lead is refused."""
    gaps = invalid.draw(arrays(bool, signal.shape))
    gapped = np.where(gaps, np.float32(np.nan), signal)
    if (gaps.mean(axis=0) > 0.5).any() or gaps.all(axis=0).any():
        with pytest.raises(ECGError, match="is invalid, which is more than"):
            fill_invalid(gapped, max_fraction=0.5)
        return
    filled = fill_invalid(gapped, max_fraction=0.5)
    np.testing.assert_array_equal(filled[~gaps], signal[~gaps])
    for lead in range(signal.shape[1]):
        for i in np.flatnonzero(gaps[:, lead]):
            before, after = (
                [signal[j, lead] for j in side if not gaps[j, lead]][:1]
                for side in (range(i - 1, -1, -1), range(i + 1, len(signal)))
            )
            around = [*before, *after]
            assert min(around) - 1e-5 <= filled[i, lead] <= max(around) + 1e-5


@settings(max_examples=25)
@given(
    fs=st.sampled_from([100, 128, 250, 257, 360, 500, 1000]),
    target=st.sampled_from([100, 125, 250, 500]),
    seconds=st.floats(2, 6),
    frequency=st.floats(0.5, 15),
    level=FINITE,
)
def test_resampling_keeps_duration_level_and_waves(
    fs: float, target: float, seconds: float, frequency: float, level: float
) -> None:
    """A sine well below both rates' halves is the same sine at the other rate."""
    times = np.arange(int(seconds * fs)) / fs
    wave = level + np.sin(2 * np.pi * frequency * times)[:, None]
    resampled = resample(wave, fs=fs, target_fs=target)
    assert len(resampled) == math.ceil(len(wave) * target / fs) and resampled.dtype == np.float32
    again = np.arange(len(resampled)) / target
    middle = slice(len(again) // 4, -len(again) // 4)
    expected = level + np.sin(2 * np.pi * frequency * again)
    np.testing.assert_allclose(resampled[middle, 0], expected[middle], atol=0.02)
    flat = resample(np.full((len(wave), 2), level), fs=fs, target_fs=target)
    np.testing.assert_allclose(flat, level, atol=1e-4)


@given(
    seed=SEEDS,
    length=st.integers(300, 900),
    target=st.sampled_from([100, 250]),
    wanted=st.integers(1, 1200),
    fit=st.sampled_from(["pad", "stretch"]),
)
def test_preparing_gives_what_a_network_takes(
    seed: int, length: int, target: float, wanted: int, fit: str
) -> None:
    """The shape asked for, finite; a lead never leaks into another."""
    signal = noise(seed, length, 12)
    silent = signal.copy()
    silent[:, 4] = 0
    prepared, without = (
        prepare(x, fs=500, target_fs=target, length=wanted, fit=fit)  # type: ignore[arg-type]
        for x in (signal, silent)
    )
    assert prepared.shape == (wanted, 12) and prepared.dtype == np.float32
    assert np.isfinite(prepared).all() and not without[:, 4].any()
    others = [lead for lead in range(12) if lead != 4]
    np.testing.assert_array_equal(prepared[:, others], without[:, others])


@given(
    parts=st.lists(
        arrays(np.float32, st.tuples(st.integers(0, 9), st.just(2)), elements=FINITE), max_size=6
    )
)
def test_standardisation_is_that_of_all_samples_together(parts: list[np.ndarray]) -> None:
    values = np.concatenate([part.ravel() for part in parts] or [np.empty(0)]).astype(np.float64)
    if not values.size or values.std() == 0:
        with pytest.raises(ECGError, match="no standard deviation"):
            fit_standardisation(parts)
        return
    assume(values.std() > 1e-6)
    mean, std = fit_standardisation(parts)
    assert mean == pytest.approx(values.mean(), abs=1e-9)
    assert std == pytest.approx(values.std(), rel=1e-9)


# --- Labels and folds --------------------------------------------------------------------------


@given(
    table=st.dictionaries(
        st.text("ABC_0123456789-", min_size=1, max_size=8),
        st.lists(st.integers(1, 9), min_size=1, max_size=3, unique=True),
        min_size=1,
    )
)
def test_any_reference_is_read_as_written(table: dict[str, list[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_reference(Path(folder) / "REFERENCE.csv", table)
        read = read_reference(path)
    assert read == {name: tuple(n - 1 for n in labels) for name, labels in table.items()}


@given(codes=st.lists(st.sampled_from([*CPSC_CLASSES, *CPSC_SNOMED, "55827005", "", "x"])))
def test_codes_give_their_classes_once_each_in_order(codes: list[str]) -> None:
    """By either name; class and code are one to one."""
    labels = CPSC_MAP.labels([code.lower() for code in codes])
    names = [CPSC_SNOMED.get(code, code) for code in codes]
    expected = dict.fromkeys(name for name in names if name in CPSC_CLASSES)
    assert [CPSC_CLASSES[label] for label in labels] == list(expected)


KINDS = ("diagnostic", "form", "rhythm")


@settings(max_examples=25)
@given(
    statements=st.dictionaries(
        st.text("ABCDE", min_size=1, max_size=3),
        st.tuples(
            st.sets(st.sampled_from(KINDS)),
            st.sampled_from(["NORM", "MI", "STTC", "CD", "HYP"]),
            st.sampled_from(["AMI", "IMI", "LVH"]),
        ),
        min_size=1,
    ),
    data=st.data(),
)
def test_any_statements_give_their_classes_in_every_task(
    statements: dict[str, tuple[set[str], str, str]], data: st.DataObject
) -> None:
    """Of PTB-XL; a diagnostic one also its subclass and superclass, another none."""
    carried = data.draw(st.dictionaries(st.sampled_from(sorted(statements)), st.floats(0, 100)))
    with tempfile.TemporaryDirectory() as folder:
        with open(Path(folder) / "scp_statements.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["", *KINDS, "diagnostic_class", "diagnostic_subclass"])
            for name, (kinds, superclass, subclass) in statements.items():
                flags = ["1.0" if kind in kinds else "" for kind in KINDS]
                diagnosis = [superclass, subclass] if "diagnostic" in kinds else ["", ""]
                rows.writerow([name, *flags, *diagnosis])
        with open(Path(folder) / "ptbxl_database.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["patient_id", "scp_codes", "strat_fold", "filename_lr"])
            rows.writerow(["17.0", str(carried), "3", "records100/00000/00001_lr"])
        tables = read_ptbxl_tables(Path(folder))
    (record,) = tables.records
    assert (record.patient, record.fold, record.statements) == ("17", 3, tuple(carried))
    diagnoses = [name for name in carried if "diagnostic" in statements[name][0]]
    expected = {
        "all": set(carried),
        **{kind: {name for name in carried if kind in statements[name][0]} for kind in KINDS},
        "superdiagnostic": {statements[name][1] for name in diagnoses},
        "subdiagnostic": {statements[name][2] for name in diagnoses},
    }
    for task in PTBXL_TASKS:
        if task not in tables.class_names:  # no statement is of that kind
            assert not expected[task]
            continue
        labels = tables.labels(task, record.statements)
        names = [tables.class_names[task][label] for label in labels]
        assert set(names) == expected[task] and len(names) == len(expected[task])
        assert sorted(labels) == list(labels)


@settings(max_examples=25)
@given(seed=SEEDS, records=st.integers(3, 60), classes=st.integers(1, 5), folds=st.integers(2, 10))
def test_every_record_is_in_one_fold_and_classes_are_spread(
    seed: int, records: int, classes: int, folds: int
) -> None:
    labels = (noise(seed, records, classes) > 0.5).astype(np.uint8)
    labels[:, 0] |= ~labels.any(axis=1)
    if records < folds:
        with pytest.raises(StoreError, match="cannot be divided into"):
            stratified_folds(labels, seed=seed, num_folds=folds)
        return
    dealt = stratified_folds(labels, seed=seed, num_folds=folds)
    assert dealt.shape == (records,) and set(dealt.tolist()) <= set(range(1, folds + 1))
    counts = np.stack([labels[dealt == fold].sum(axis=0) for fold in range(1, folds + 1)])
    rarest = labels.sum(axis=0).argmin()  # is dealt first, as evenly as can be
    assert np.ptp(counts[:, rarest]) <= 1


@given(folds=st.lists(st.integers(1, 3), min_size=1, max_size=12), patients=st.data())
def test_patients_in_two_folds_are_always_found(folds: list[int], patients: st.DataObject) -> None:
    names = patients.draw(
        st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=len(folds), max_size=len(folds))
    )
    places = {name: {f for f, n in zip(folds, names, strict=True) if n == name} for name in names}
    torn = sorted(name for name, where in places.items() if name and len(where) > 1)
    if torn:
        with pytest.raises(StoreError, match=rf"{len(torn)} patients .*\({', '.join(torn)}\)"):
            require_patients_apart(np.array(folds), np.array(names))
    else:
        require_patients_apart(np.array(folds), np.array(names))


# In names of records; see data_prep.names.
USABLE = st.characters(exclude_categories=("C", "Zl", "Zp"), exclude_characters="/\\")


@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=8), names=st.data(), seed=SEEDS)
def test_any_store_is_read_as_written(lengths: list[int], names: st.DataObject, seed: int) -> None:
    number = len(lengths)
    ids, patients = (
        names.draw(st.lists(kind, min_size=number, max_size=number, unique=unique))
        for kind, unique in (
            (st.text(USABLE, min_size=1, max_size=50), True),
            (st.sampled_from(["", "17", "é"]), False),
        )
    )
    signals = [noise(seed + n, length, 12) for n, length in enumerate(lengths)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.h5"
        with StoreWriter(
            path, dataset="cpsc2018", fs=250, class_names={"cpsc2018": CPSC_CLASSES}
        ) as writer:
            for n, signal in enumerate(signals):
                labels = {"cpsc2018": (n % 9,)}
                writer.append(ids[n], signal, labels=labels, fold=1, patient=patients[n])
        with Store(path) as store:
            assert store.ids.tolist() == ids and store.patients.tolist() == patients
            assert store.labels().argmax(axis=1).tolist() == [n % 9 for n in range(number)]
            for n, signal in enumerate(signals):
                np.testing.assert_array_equal(store.signal(n), signal)


# --- Scores ------------------------------------------------------------------------------------


@st.composite
def answers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels ``(N, C)`` and probabilities of few values, so that many are equal."""
    shape = draw(st.tuples(st.integers(1, 25), st.integers(1, 5)))
    labels = draw(arrays(np.uint8, shape, elements=st.integers(0, 1)))
    probabilities = draw(arrays(np.float32, shape, elements=st.sampled_from([0, 0.25, 0.5, 1])))
    return labels, probabilities


@given(answers())
def test_scores_are_those_of_scikit_learn(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = drawn
    called = probabilities >= 0.5
    expected = [f1_score(t, p, zero_division=0) for t, p in zip(labels.T, called.T, strict=True)]
    np.testing.assert_allclose(scores.class_f1(labels, called), expected, atol=1e-12)
    assert scores.macro_f1(labels, called) == pytest.approx(np.mean(expected))
    cells = accuracy_score(labels.ravel(), called.ravel())
    every = scores.all_scores(
        labels, None, probabilities, thresholds=np.full(1, 0.5), single_label=False, cpsc=False
    )
    assert every["label_accuracy"] == pytest.approx(cells)
    by_record = [f1_score(t, p, zero_division=0) for t, p in zip(labels, called, strict=True)]
    assert scores.record_f1(labels, probabilities) == pytest.approx(np.mean(by_record))
    for column, auc in enumerate(scores.class_auc(labels, probabilities)):
        truth = labels[:, column]
        if 0 < truth.sum() < len(truth):
            assert auc == pytest.approx(roc_auc_score(truth, probabilities[:, column]))
        else:
            assert np.isnan(auc)


@given(answers(), SEEDS)
def test_scores_do_not_depend_on_the_order_of_records(
    drawn: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    labels, probabilities = drawn
    order = np.random.default_rng(seed).permutation(len(labels))
    for score in (scores.class_auc, scores.class_average_precision, scores.best_thresholds):
        np.testing.assert_allclose(
            score(labels, probabilities),
            score(labels[order], probabilities[order]),
            atol=1e-9,
            err_msg=str(score),
        )


@given(answers())
def test_no_threshold_is_better_than_the_best(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    labels, probabilities = drawn
    best = scores.best_thresholds(labels, probabilities, least=0)
    found = scores.class_f1(labels, probabilities >= best)
    for threshold in (0.01, 0.25, 0.3, 0.5, 0.7, 1.0):
        assert (found >= scores.class_f1(labels, probabilities >= threshold) - 1e-9).all()


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=40))
def test_the_challenge_score_is_its_definition(pairs: list[tuple[int, int]]) -> None:
    truth, answered = (np.array(side) for side in zip(*pairs, strict=True))
    matrix = confusion_matrix(truth, answered, labels=range(9))
    score = scores.cpsc_scores(one_hot(truth, 9), truth, answered)
    either = matrix.sum(axis=0) + matrix.sum(axis=1)
    expected = [2 * matrix[i, i] / either[i] if either[i] else np.nan for i in range(9)]
    np.testing.assert_allclose(score["f1"], [expected])
    np.testing.assert_allclose(score["score"], np.mean(expected))
