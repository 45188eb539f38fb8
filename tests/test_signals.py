import numpy as np
import pytest
import scipy.fft

from data_prep.errors import RecordError
from data_prep.signals import (
    crop_or_pad,
    fill_invalid,
    fit_standardisation,
    prepare,
    resample,
    stretch,
)


def tones(seconds: float, fs: float, num_samples: int | None = None) -> np.ndarray:
    """Twelve sines of 1 to 12 Hz and an offset of -3 to 3 mV, as a formula of time."""
    count = round(seconds * fs) if num_samples is None else num_samples
    time = np.arange(count)[:, None] / fs
    return np.sin(2 * np.pi * np.arange(1, 13) * time) + np.linspace(-3, 3, 12)


def test_fill_invalid_by_straight_lines() -> None:
    signal = np.arange(24, dtype=np.float32).reshape(12, 2) ** 2
    broken = signal.copy()
    broken[[0, 5, 6, 11], 0] = [np.nan, np.nan, np.inf, np.nan]
    filled = fill_invalid(broken, max_fraction=0.5)
    low, high = signal[4, 0], signal[7, 0]
    expected = [signal[1, 0], low + (high - low) / 3, low + 2 * (high - low) / 3, signal[10, 0]]
    np.testing.assert_allclose(filled[[0, 5, 6, 11], 0], expected, rtol=1e-6)
    valid = np.isfinite(broken)
    np.testing.assert_array_equal(filled[valid], signal[valid])
    assert filled.dtype == np.float32
    assert np.isnan(broken[0, 0])  # the input stays as it was


def test_fill_invalid_up_to_a_fraction() -> None:
    signal = tones(1, 100)
    signal[:20, 4] = np.nan
    assert np.isfinite(fill_invalid(signal)).all()
    signal[20, 4] = np.nan
    with pytest.raises(RecordError, match="21% of lead aVL is invalid, which is more than 20%"):
        fill_invalid(signal)
    signal[:, 4] = np.nan
    with pytest.raises(RecordError, match="100% of lead aVL"):
        fill_invalid(signal, max_fraction=1.0)


@pytest.mark.parametrize(
    ("fs", "target_fs"),
    [(500, 250), (500, 100), (1000, 250), (257, 250), (360, 250), (100, 250), (128.5, 100)],
)
def test_resample_follows_the_formula(fs: float, target_fs: float) -> None:
    resampled = resample(tones(10, fs), fs=fs, target_fs=target_fs)
    assert resampled.dtype == np.float32
    assert len(resampled) == np.ceil(round(10 * fs) * target_fs / fs)
    expected = tones(10, target_fs, len(resampled))
    inner = slice(round(target_fs / 2), -round(target_fs / 2))
    np.testing.assert_allclose(resampled[inner], expected[inner], atol=3e-3)


def test_resample_keeps_what_is_at_the_rate() -> None:
    signal = tones(2, 250).astype(np.float32)
    np.testing.assert_array_equal(resample(signal, fs=250.0, target_fs=250), signal)


def test_resample_suppresses_what_would_alias() -> None:
    time = np.arange(5000)[:, None] / 500
    high = np.sin(2 * np.pi * 70 * time).repeat(12, axis=1)  # would come out at 30 Hz
    assert np.abs(resample(high, fs=500, target_fs=100)[50:-50]).max() < 0.01


def test_resample_does_not_ring_on_a_baseline_or_a_drift() -> None:
    """Zeros beyond the ends would draw 100 mV down to 50 at the first sample."""
    drift = np.linspace(100, 130, 5000)[:, None].repeat(12, axis=1)
    resampled = resample(drift, fs=500, target_fs=250)
    expected = np.interp(np.arange(2500) * 2, np.arange(5000), drift[:, 0])
    np.testing.assert_allclose(resampled[:, 0], expected, atol=0.02)


def test_resample_of_nearly_equal_rates_is_quick() -> None:
    assert len(resample(tones(10, 500), fs=499.9973, target_fs=250)) in (2500, 2501)


def test_two_samples_short_of_ten_seconds() -> None:
    assert len(resample(tones(0, 500, 4998), fs=500, target_fs=100)) == 1000


def test_crop_or_pad() -> None:
    signal = tones(1, 100).astype(np.float32)
    np.testing.assert_array_equal(crop_or_pad(signal, 60), signal[:60])
    padded = crop_or_pad(signal, 150)
    np.testing.assert_array_equal(padded[:100], signal)
    assert padded.shape == (150, 12) and padded.dtype == np.float32 and not padded[100:].any()


def test_stretch_against_zero_padding_the_spectrum() -> None:
    signal = tones(4, 100)[:399]
    spectrum = scipy.fft.rfft(signal, axis=0)
    padded = np.zeros((501, 12), complex)
    padded[: len(spectrum)] = spectrum
    expected = scipy.fft.irfft(padded, n=1000, axis=0) * 1000 / 399
    stretched = stretch(signal, 1000)
    assert stretched.shape == (1000, 12) and stretched.dtype == np.float32
    np.testing.assert_allclose(stretched, expected, atol=1e-5)


def test_fit_standardisation_against_all_samples_at_once() -> None:
    rng = np.random.default_rng(0)
    signals = [
        (rng.normal(size=(n, 12)) * 0.3 + 100).astype(np.float32) for n in (700, 1, 0, 3000, 50)
    ]
    together = np.concatenate(signals).astype(np.longdouble)
    mean, std = fit_standardisation(iter(signals))
    assert mean == pytest.approx(float(together.mean()), rel=1e-12)
    assert std == pytest.approx(float(together.std()), rel=1e-9)
    assert type(mean) is float and type(std) is float


@pytest.mark.parametrize("signals", [[], [np.zeros((0, 12))], [np.ones((5, 12))], [[[np.nan]]]])
def test_nothing_to_fit_a_standardisation_on(signals: list[np.ndarray]) -> None:
    with pytest.raises(RecordError, match="no standard deviation"):
        fit_standardisation(signals)


def test_prepare() -> None:
    signal = tones(8, 500)
    signal[1000:1020, 2] = np.nan
    padded = prepare(signal, fs=500, target_fs=100, length=1000, fit="pad")
    resampled = resample(fill_invalid(signal), fs=500, target_fs=100)
    np.testing.assert_array_equal(padded[:800], resampled)
    assert padded.shape == (1000, 12) and not padded[800:].any()
    stretched = prepare(signal, fs=500, target_fs=100, length=1000, fit="stretch")
    np.testing.assert_array_equal(stretched, stretch(resampled, 1000))
    late = tones(60, 500)
    late[:1500, 2] = np.nan  # a twentieth of it
    with pytest.raises(RecordError, match="30% of lead III is invalid in the first 10 s"):
        prepare(late, fs=500, target_fs=100, length=1000, fit="pad")
    for fit in ("pad", "stretch"):
        longer = prepare(tones(12, 500), fs=500, target_fs=100, length=1000, fit=fit)
        whole = resample(tones(12, 500), fs=500, target_fs=100)
        np.testing.assert_array_equal(longer, whole[:1000])
        assert longer.dtype == np.float32
