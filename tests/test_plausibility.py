"""Each doubt is raised by what it names and by nothing else, on generated and real recordings."""

import csv
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_files import write_table
from make_records import write_wfdb
from toy import toy_contract, toy_model

from data_prep.labels import CPSC_CLASSES, LEADS
from data_prep.plausibility import check
from data_prep.records import Record, list_records, read_record
from data_prep.synthetic import synthetic_record
from ecg_keras.model.model_files import load_model
from ecg_keras.prediction.predict import predict

FS = 500


def record_of(signal: np.ndarray, *, fs: float = FS, derived: tuple[str, ...] = ()) -> Record:
    signal = signal.astype(np.float32)
    return Record("A1", signal, fs, math.nan, "", (), Path("A1.hea"), derived)


@pytest.fixture(scope="module")
def normal() -> np.ndarray:
    return synthetic_record((0,), seconds=10, seed=3, fs=FS).signal.astype(np.float64)


def kinds_of(signal: np.ndarray, **options: Any) -> list[str]:
    return [doubt.kind for doubt in check(record_of(signal, **options))]


def text_of(signal: np.ndarray, kind: str, **options: Any) -> str:
    (doubt,) = (d for d in check(record_of(signal, **options)) if d.kind == kind)
    return doubt.text


def limb_leads(right: np.ndarray, left: np.ndarray, foot: np.ndarray) -> np.ndarray:
    """The six limb leads of three electrodes' potentials, ``(time, 6)``."""
    middle = (right + left + foot) / 3
    bipolar = [left - right, foot - right, foot - left]
    return np.stack([*bipolar, *(1.5 * (x - middle) for x in (right, left, foot))], axis=1)


def rewired(signal: np.ndarray, right: str, left: str, foot: str) -> np.ndarray:
    """The recording with other electrodes (R, L, F; N: right leg) where the cables should be.

    The right leg is taken to have the left leg's potential, as Batchvarov, Malik & Camm (2007)
    have it; the precordial leads stay, though their reference shifts a little.
    """
    potential = {"R": 0 * signal[:, 0], "L": signal[:, 0], "F": signal[:, 1], "N": signal[:, 1]}
    limbs = limb_leads(potential[right], potential[left], potential[foot])
    return np.hstack([limbs, signal[:, 6:]])


@pytest.mark.parametrize("label", range(len(CPSC_CLASSES)))
def test_silent_on_generated_records_of_every_class(label: int) -> None:
    for seed in range(6):
        for fs in (100, 500):
            signal = synthetic_record((label,), seconds=10, seed=seed, fs=fs).signal
            assert check(record_of(signal, fs=fs)) == ()


def test_rewiring_nothing_changes_nothing(normal: np.ndarray) -> None:
    np.testing.assert_allclose(rewired(normal, "R", "L", "F"), normal, atol=1e-5)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (50.0, "far more than an ECG's .* uV may have been taken for mV, a factor of 1000"),
        (0.01, "far less than an ECG's .* V may have been taken for mV, a factor of 1000"),
    ],
)
def test_amplitude(normal: np.ndarray, factor: float, words: str) -> None:
    import re

    assert re.search(words, text_of(normal * factor, "amplitude"))
    assert "amplitude" not in kinds_of(normal * (2 if factor > 1 else 0.5))


def test_a_single_lead_out_of_range(normal: np.ndarray) -> None:
    normal = normal.copy()
    normal[1000:1010, 8] = 40
    assert "lead V3 reaches 40 mV" in text_of(normal, "amplitude")


def test_a_baseline_far_from_zero(normal: np.ndarray) -> None:
    """A network sees millivolts as they are: 32 mV from a wrong header are no ECG to it."""
    assert kinds_of(normal + 1) == []
    assert kinds_of(normal + 32) == ["offset"]
    signal = normal.copy()
    signal[:, 7] -= 3
    assert text_of(signal, "offset").startswith("lead V2 is up to 2.99 mV")


def test_flat_and_missing_leads(normal: np.ndarray) -> None:
    signal = normal.copy()
    signal[:, 7] = 0.2
    assert text_of(signal, "flat lead").startswith("lead V2 is flat for 100%")
    signal[500:, 9] = 0
    assert text_of(signal, "flat lead").startswith("leads V2, V4 are flat for 100%")
    signal = normal.copy()
    signal[: 3 * FS, 7] = 0.2  # less than half of the time
    assert kinds_of(signal) == []
    # Where all leads are flat, none is flat among others.
    signal = normal.copy()
    signal[: 4 * FS] = 0
    assert kinds_of(signal) == []


def test_mostly_empty(normal: np.ndarray) -> None:
    for nothing in (0.0, np.nan):
        signal = normal.copy()
        signal[3 * FS :] = nothing
        assert "for 70% of the recording" in text_of(signal, "mostly empty")
    assert kinds_of(normal * 0) == ["mostly empty"]
    assert kinds_of(normal * np.nan) == ["mostly empty"]


def test_only_what_the_network_sees_is_judged(normal: np.ndarray) -> None:
    record = record_of(np.concatenate([normal * 0, normal, normal]))
    assert check(record) == ()
    for seconds, part in ((10, "100% of the first 10 s"), (15.5, "of the first 15.5 s")):
        (doubt,) = check(record, seconds=seconds)
        assert doubt.kind == "mostly empty" and part in doubt.text
    assert check(record_of(normal), seconds=0.1) == ()  # one second is judged


def test_invalid_samples(normal: np.ndarray) -> None:
    signal = normal.copy()
    signal[:500, 4] = np.nan
    assert text_of(signal, "invalid samples").startswith("lead aVL is invalid for up to 10%")
    signal = normal.copy()
    signal[:200, 4] = np.nan
    assert kinds_of(signal) == []


@pytest.mark.parametrize("fs", [100, 500])
def test_clipped(fs: int) -> None:
    signal = synthetic_record((0,), seconds=10, seed=3, fs=fs).signal.astype(np.float64)
    middle, top = np.median(signal[:, 10]), np.quantile(signal[:, 10], 0.9)
    clipped = signal.copy()
    clipped[:, 10] = np.clip(3 * (signal[:, 10] - middle), -2, 3 * (top - middle))
    assert text_of(clipped, "clipped", fs=fs).startswith("lead V5 is repeatedly cut off")
    assert kinds_of(np.round(signal / 0.005) * 0.005, fs=fs) == []  # coarse steps are no clipping


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s[:, [1, 0, *range(2, 12)]], "II is not I + III"),
        (lambda s: s[:, [6, *range(1, 6), 0, *range(7, 12)]], "II is not I + III"),
        (lambda s: s * [1, 1, 1, -1, *[1] * 8], "aVR is not -(I + II) / 2: leads"),
        (lambda s: s[:, [0, 1, 2, 3, 5, 4, *range(6, 12)]], "aVL is not (I - III) / 2, aVF is not"),
        (lambda s: s * [1, 1, 1, 1, 1, 2, *[1] * 6], "aVF is not (II + III) / 2: leads"),
        (lambda s: s / s.std(axis=0), "II is not I + III"),
    ],
)
def test_contradicting_limb_leads(normal: np.ndarray, change: Any, words: str) -> None:
    assert words in text_of(change(normal), "limb leads contradict")


def test_derived_leads_cannot_contradict(normal: np.ndarray) -> None:
    signal = np.hstack([normal[:, :5], normal[:, 6:7], normal[:, 6:]])
    assert "limb leads contradict" in kinds_of(signal)
    assert "limb leads contradict" not in kinds_of(signal, derived=("aVF",))


@pytest.mark.parametrize("seed", range(8))
def test_swapped_arms_of_generated_records(seed: int) -> None:
    signal = synthetic_record((0,), seconds=10, seed=seed, fs=FS).signal.astype(np.float64)
    swapped = rewired(signal, right="L", left="R", foot="F")
    np.testing.assert_allclose(swapped[:, 0], -signal[:, 0], atol=1e-6)
    assert "arm electrodes were swapped" in text_of(swapped, "limb electrodes swapped")
    assert kinds_of(swapped) == ["limb electrodes swapped"]


@pytest.mark.parametrize(
    ("right", "left", "foot", "words"),
    [
        ("N", "L", "F", "lead II alone among I, II and III is almost flat"),
        ("R", "N", "F", "lead III alone among"),
        ("N", "F", "R", "lead I alone among"),
    ],
)
def test_right_leg_on_an_arm(
    normal: np.ndarray, right: str, left: str, foot: str, words: str
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.003, normal.shape)
    swapped = rewired(normal, right, left, foot) + noise
    assert words in text_of(swapped, "limb electrodes swapped")


def test_short(normal: np.ndarray) -> None:
    assert "lasts 3.0 s" in text_of(normal[: 3 * FS], "short")
    assert kinds_of(normal[: 6 * FS]) == []


# --- Real records --------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "word"), [(0.5, "half"), (2.0, "twice")])
def test_a_rate_given_wrongly(shared_data: Path, factor: float, word: str) -> None:
    """Most real recordings say so at half or twice their rate, and hardly any as they are."""
    folders = ("challenge2021", "ptbxl")
    paths = [path for folder in folders for _, path in list_records(shared_data / folder)[::8]]
    records = [read_record(path) for path in paths]
    assert sum(d.kind == "sampling rate" for r in records for d in check(r)) <= 1
    at_another = [check(replace(record, fs=factor * record.fs)) for record in records]
    found = [d for doubts in at_another for d in doubts if d.kind == "sampling rate"]
    assert len(found) >= 0.75 * len(records)
    assert all(word in doubt.text and "--fs" in doubt.text for doubt in found)


def test_a_rate_given_wrongly_for_a_table(normal: np.ndarray, tmp_path: Path) -> None:
    write_table(tmp_path / "A1.csv", normal)
    assert check(read_record(tmp_path / "A1.csv", fs=FS)) == ()
    (doubt,) = check(read_record(tmp_path / "A1.csv", fs=FS / 2))
    assert doubt.kind == "sampling rate" and "250 Hz" in doubt.text


FALSE_ALARMS = {
    "challenge2021": (1, 0.12),
    "cpsc2018/challenge2020": (3, 0.12),
    "cpsc2018/original": (2, 0.12),
    "ptbxl": (8, 0.12),
}


@pytest.mark.parametrize("folder", FALSE_ALARMS)
def test_few_doubts_about_real_records(shared_data: Path, folder: str) -> None:
    step, most = FALSE_ALARMS[folder]
    records = [read_record(path) for _, path in list_records(shared_data / folder)[::step]]
    doubtful = Counter(doubt.kind for record in records for doubt in check(record))
    assert doubtful.total() <= most * len(records), doubtful


def test_each_lead_scaled_by_itself_is_noticed(shared_data: Path) -> None:
    """What was done to this excerpt of PTB-XL takes the limb leads' relations away."""
    paths = [path for _, path in list_records(shared_data / "ptbxl_subset")[::100]]
    found = [any(d.kind == "limb leads contradict" for d in check(read_record(p))) for p in paths]
    assert np.mean(found) > 0.9


def test_swapped_arms_of_real_records(shared_data: Path) -> None:
    """Half of all records at least, of whatever diagnosis, and hardly one that is as it was."""
    found = {False: 0, True: 0}
    paths = [path for _, path in list_records(shared_data / "ptbxl")[::8]]
    for path in paths:
        record = read_record(path)
        swapped = replace(record, signal=rewired(record.signal, right="L", left="R", foot="F"))
        for way, one in ((False, record), (True, swapped)):
            found[way] += any(d.kind == "limb electrodes swapped" for d in check(one))
    assert found[True] >= 0.5 * len(paths) and found[False] <= 0.03 * len(paths)


# --- In answers ----------------------------------------------------------------------------------


def test_answers_carry_the_doubts(
    tmp_path: Path, normal: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    toy_model(toy_contract(), seed=1).save(tmp_path / "best.keras")
    flat = normal.copy()
    flat[:, 7] = 0
    write_wfdb(tmp_path / "records", "A1", normal)
    write_wfdb(tmp_path / "records", "A2", rewired(flat, "L", "R", "F"))

    predict(
        models=(str(tmp_path / "best.keras"),),
        csv_file=None,
        records=tmp_path / "records",
        out=tmp_path / "out",
        batch_size=2,
    )
    with open(tmp_path / "out" / "warnings.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["Recording", "kind", "warning"]
    assert [row[:2] for row in rows] == [["A2", "flat lead"], ["A2", "limb electrodes swapped"]]
    printed = [line for line in capsys.readouterr().err.splitlines() if "doubtful" in line]
    assert printed == [f"doubtful: A2: {row[2]}" for row in rows]

    late = np.concatenate([normal[: 3 * FS] * 0, normal])  # the network sees 2 s
    write_wfdb(tmp_path, "late", late)
    model = load_model(tmp_path / "best.keras")
    assert "100% of the first 2 s" in model.predict_record(tmp_path / "late.hea").warnings[0]
    unused = "only the first 2 s of 10 s were used."
    assert model.predict_record(tmp_path / "records" / "A1.hea").warnings == (unused,)
    answer = model.predict_record(tmp_path / "records" / "A2.hea")
    assert answer.warnings == (*(row[2] for row in rows), unused)
    assert LEADS[7] in answer.warnings[0]
