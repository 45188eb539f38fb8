"""Heart rate and the irregularity of beats."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_prep.records import Record, read_record
from data_prep.rhythm import rhythm


def beats_at(times: np.ndarray, *, fs: float, seconds: float) -> Record:
    """Narrow QRS complexes at given times, of another size in each lead, in some noise."""
    time = np.arange(round(seconds * fs)) / fs
    qrs = np.exp(-(((time[:, None] - times) / 0.02) ** 2)).sum(axis=1)
    sizes = np.array([0.6, 1.0, 0.4, -0.8, 0.2, 0.7, -0.9, -0.6, 0.5, 1.2, 1.3, 1.0])
    noise = 0.02 * np.random.default_rng(0).normal(size=(len(time), 12))
    signal = (qrs[:, None] * sizes + noise).astype(np.float32)
    return Record("A1", signal, fs, float("nan"), "", (), Path("A1.hea"))


@pytest.mark.parametrize("fs", [100.0, 250.0, 257.0, 500.0])
def test_regular_beats(fs: float) -> None:
    times = np.arange(0.7, 10, 0.8)
    found = rhythm(beats_at(times, fs=fs, seconds=10))
    assert found is not None
    assert found.rate == pytest.approx(75, abs=1)
    assert found.irregularity < 0.02
    np.testing.assert_allclose(found.beats, times, atol=0.05)


def test_irregular_beats() -> None:
    intervals = np.array([0.5, 0.9, 0.6, 1.1, 0.7, 0.5, 1.0, 0.8, 0.6, 0.9, 0.5, 1.0])
    found = rhythm(beats_at(0.5 + intervals.cumsum(), fs=250, seconds=10))
    assert found is not None
    assert found.irregularity == pytest.approx(intervals[1:].std() / intervals[1:].mean(), abs=0.02)


def test_a_gap_in_leads_far_from_zero_is_no_beat() -> None:
    times = np.arange(0.7, 10, 0.8)
    times = times[(times < 3.5) | (times > 5)]
    record = beats_at(times, fs=250, seconds=10)
    signal = record.signal + np.float32(1.5)
    signal[925:1150] = np.nan
    signal[:, 3] = np.nan  # a lead that fell off
    found = rhythm(replace(record, signal=signal))
    assert found is not None
    assert len(found.beats) == len(times)


def test_no_beats() -> None:
    record = beats_at(np.arange(0.7, 10, 0.8), fs=250, seconds=10)
    assert rhythm(replace(record, signal=np.zeros_like(record.signal))) is None
    assert rhythm(replace(record, signal=record.signal[:100])) is None
    only_one = np.zeros_like(record.signal)
    only_one[:, 0] = record.signal[:, 0]
    assert rhythm(replace(record, signal=only_one)) is None


def test_fibrillation_is_irregular(shared_data: Path) -> None:
    folder = shared_data / "cpsc2018" / "challenge2020"
    found: dict[str, list[float]] = {"Normal": [], "AF": []}
    for path in sorted(folder.rglob("A*.hea")):
        record = read_record(path)
        if len(record.codes) == 1 and record.codes[0] in found:
            beats = rhythm(record)
            assert beats is not None and 35 < beats.rate < 180, path
            found[record.codes[0]].append(beats.irregularity)
    assert len(found["AF"]) >= 5 and len(found["Normal"]) >= 5
    assert np.median(found["Normal"]) < 0.06 and np.median(found["AF"]) > 0.15
