"""Signal preparation: pure functions on ``(time, lead)`` arrays."""

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from data_prep.errors import RecordError
from data_prep.labels import LEADS

_MOST_INVALID = 0.2


def fill_invalid(signal: np.ndarray, *, max_fraction: float = _MOST_INVALID) -> np.ndarray:
    """Interpolate invalid samples linearly, lead by lead.

    Args:
        signal: ``(time, lead)``, NaN or infinite if invalid; not modified.
        max_fraction: largest allowed fraction of invalid samples in a lead, 0 to 1.

    Returns:
        An array of the same shape and type, all finite; before the first and after the last
        valid sample of a lead, that sample is repeated.

    Raises:
        RecordError: if a larger fraction of a lead is invalid, or no sample of it is valid.
    """
    invalid = ~np.isfinite(signal)
    if not invalid.any():
        return signal
    _require_valid(invalid, max_fraction)
    time, filled = np.arange(len(signal)), signal.copy()
    for lead in np.flatnonzero(invalid.any(axis=0)):
        gaps = invalid[:, lead]
        filled[gaps, lead] = np.interp(time[gaps], time[~gaps], signal[~gaps, lead])
    return filled


def _require_valid(invalid: np.ndarray, max_fraction: float, within: str = "") -> None:
    """Reject a lead that is invalid for more than a fraction of the time, or for all of it."""
    fractions = invalid.mean(axis=0)
    for lead in np.flatnonzero((fractions > max_fraction) | (fractions == 1)):
        name = LEADS[lead] if len(fractions) == len(LEADS) else str(lead)
        raise RecordError(
            f"{fractions[lead]:.0%} of lead {name} is invalid{within}, which is more than"
            f" {max_fraction:.0%}; leave this recording out."
        )


def resample(signal: np.ndarray, *, fs: float, target_fs: float) -> np.ndarray:
    """Change the sampling rate by polyphase filtering.

    The line from the first to the last sample is subtracted first and added back afterwards, so
    that a baseline far from zero causes no ringing at the ends.

    Args:
        signal: ``(time, lead)``, finite.
        fs: its rate, hertz.
        target_fs: the new rate, hertz.

    Returns:
        float32 ``(ceil(time * target_fs / fs), lead)``.
    """
    from scipy.signal import resample_poly

    # Rates such as 499.99 Hz would need filters of millions of taps.  The relative error of this
    # fraction reaches 5e-4 near simple ratios: 250.1 Hz counts as 250, 60 samples in 10 minutes.
    ratio = Fraction(target_fs / fs).limit_denominator(1000)
    if ratio == 1:
        return signal.astype(np.float32)
    up, down = ratio.numerator, ratio.denominator
    values = signal.astype(np.float64)
    first, slope = values[0], (values[-1] - values[0]) / max(1, len(values) - 1)
    # The gain of a polyphase filter differs slightly between phases, so an offset would ripple.
    around_line = values - (first + slope * np.arange(len(values))[:, None])
    resampled = resample_poly(around_line, up, down, axis=0)
    resampled += first + slope * (np.arange(len(resampled))[:, None] * (down / up))
    return resampled.astype(np.float32)


def crop_or_pad(signal: np.ndarray, length: int) -> np.ndarray:
    """Crop a signal at its end, or pad it there with zeros.

    Args:
        signal: ``(time, lead)``.
        length: number of samples.

    Returns:
        ``(length, lead)``, of the same type.
    """
    missing = max(0, length - len(signal))
    return np.pad(signal[:length], ((0, missing), (0, 0)))


def stretch(signal: np.ndarray, length: int) -> np.ndarray:
    """Resample a signal to a number of samples by its Fourier transform.

    Args:
        signal: ``(time, lead)``, finite.
        length: number of samples.

    Returns:
        float32 ``(length, lead)``: the same duration at another rate; the signal is treated as
        periodic.
    """
    from scipy.signal import resample as fourier_resample

    return fourier_resample(signal.astype(np.float64), length, axis=0).astype(np.float32)


def fit_standardisation(signals: Iterable[ArrayLike]) -> tuple[float, float]:
    """Compute one mean and one standard deviation over all samples and leads.

    Args:
        signals: the *training* records, each ``(time, lead)`` in millivolts; they are read one
            by one and need not fit in memory together.

    Returns:
        ``(mean, std)`` in millivolts, over all samples together (long records weigh more).

    Raises:
        RecordError: if there are no samples, one is invalid, or all are equal.
    """
    count, mean, squares = 0, 0.0, 0.0
    for signal in signals:
        values = np.asarray(signal, np.float64)
        if not values.size:
            continue
        # Chan, Golub & LeVeque (1983), eq. 2.1: merges two sets without cancellation.
        step, total = values.mean() - mean, count + values.size
        squares += values.var() * values.size + step**2 * count * values.size / total
        mean += step * values.size / total
        count = total
    std = math.sqrt(squares / count) if count else 0.0
    if not (math.isfinite(std) and std > 0):
        raise RecordError(
            "the training records hold no samples, invalid samples or equal samples only, so that"
            " they have no standard deviation; build the store from other records."
        )
    return float(mean), std


def prepare(
    signal: np.ndarray, *, fs: float, target_fs: float, length: int, fit: Literal["pad", "stretch"]
) -> np.ndarray:
    """Convert a recording to the rate and length of a network's input.

    Args:
        signal: ``(time, 12)``, millivolts, NaN if invalid.
        fs: its rate, hertz.
        target_fs: the input's rate, hertz.
        length: of the input, samples.
        fit: treatment of shorter recordings: ``"pad"`` adds zeros at the end (MLBF-Net,
            section IV-C), ``"stretch"`` upsamples (MRM-Net, section IV-A). Longer recordings
            are cropped at the end either way.

    Returns:
        float32 ``(length, 12)``, millivolts.

    Raises:
        RecordError: if too much of a lead is invalid, in all or in what becomes the input.
    """
    seen = math.ceil(length * fs / target_fs)
    if seen < len(signal):
        within = f" in the first {length / target_fs:g} s"
        _require_valid(~np.isfinite(signal[:seen]), _MOST_INVALID, within)
    resampled = resample(fill_invalid(signal), fs=fs, target_fs=target_fs)
    if fit == "stretch" and len(resampled) < length:
        return stretch(resampled, length)
    return crop_or_pad(resampled, length)
