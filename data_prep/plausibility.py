"""Plausibility checks: warnings raised before prediction.

A warning does not stop a prediction.  The thresholds are set so that very few records of CPSC
2018, PTB-XL, Georgia or Chapman-Shaoxing trigger one.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_prep.labels import LEADS
from data_prep.records import Record

Kind = Literal[
    "amplitude",
    "clipped",
    "flat lead",
    "invalid samples",
    "limb leads contradict",
    "limb electrodes swapped",
    "mostly empty",
    "offset",
    "sampling rate",
    "short",
]

_V6 = LEADS.index("V6")

# Standard deviations of a lead in mV; surface ECGs lie from 0.02 to 1.2.
_SPREADS = (0.015, 3.0)
# Surface ECGs and pacemaker spikes stay below this, mV from the median.
_MOST = 15.0
# mV; the medians of real recordings stay below 0.4.
_MOST_OFFSET = 2.0
_FLAT = 0.01  # mV, peak to peak in one second
_SECONDS = 5.0
_INVALID_PART = 0.05
# Tolerated contradiction between limb leads, relative to their size: rounding and filters.
_CONTRADICTION = 0.25
# Beats per minute, mean frequency of the slopes, and its upper limit of integration, in hertz.
# One of 476 real recordings exceeds these; at half or twice their rate, four of five do.
_HALVED, _DOUBLED = (50.0, 12.0, 30.0), (110.0, 26.0, 45.0)
_SLOWEST = 38.0  # beats per minute
_SWAPPED_QRS = 0.1  # mV, peak to peak in two seconds
_OPPOSITE = -0.5  # correlation


@dataclass(frozen=True)
class Doubt:
    """A reason to doubt the prediction for a recording.

    Attributes:
        kind: the kind of warning.
        text: one sentence for the user, without the recording's name.
    """

    kind: Kind
    text: str


def check(record: Record, *, seconds: float = math.inf) -> tuple[Doubt, ...]:
    """Check whether a recording is plausible.

    Args:
        record: from :func:`data_prep.records.read_record`.
        seconds: how much of it a network sees from its start; only this, and at least one second,
            is judged.

    Returns:
        The warnings, most serious first; none for an ordinary recording.
    """
    length = len(record.signal) / record.fs
    seconds = min(max(seconds, 1.0), length)
    signal = record.signal[: math.ceil(seconds * record.fs)].astype(np.float64)
    medians = _by_lead(np.nanmedian, signal)
    centred = signal - np.nan_to_num(medians)
    ranges = _ranges(centred, round(record.fs))
    empty = np.all(ranges <= _FLAT, axis=1)
    doubts = [_mostly_empty(empty, f"first {seconds:g} s" if seconds < length else "recording")]
    if not empty.all():
        doubts += [
            _amplitude(centred),
            _offset(medians),
            _flat(ranges[~empty]),
            _invalid(signal),
            _clipped(centred, record.fs),
            _contradiction(centred, record.derived),
            _sampling_rate(centred, record.fs),
            _right_leg(_ranges(centred, round(2 * record.fs))) or _arms(centred, record.fs),
        ]
    doubts.append(_short(length))
    return tuple(doubt for doubt in doubts if doubt is not None)


def _by_lead(statistic: object, signal: np.ndarray) -> np.ndarray:
    """A statistic of each lead's valid samples, NaN if there are none."""
    assert callable(statistic)
    valid = [lead[np.isfinite(lead)] for lead in signal.T]
    return np.array([statistic(lead) if lead.size else np.nan for lead in valid])


def _ranges(signal: np.ndarray, width: int) -> np.ndarray:
    """Peak-to-peak range in each window and lead: ``(window, 12)``, 0 if all invalid."""
    windows = max(1, len(signal) // width)
    parts = signal[: windows * width].reshape(windows, -1, signal.shape[1])
    highest = np.where(np.isnan(parts), -np.inf, parts).max(axis=1)
    lowest = np.where(np.isnan(parts), np.inf, parts).min(axis=1)
    return np.maximum(highest - lowest, 0)


def _mostly_empty(empty: np.ndarray, judged: str) -> Doubt | None:
    if empty.mean() < 0.5:
        return None
    return Doubt(
        "mostly empty",
        f"all leads are flat or invalid for {empty.mean():.0%} of the {judged}; check that the file"
        " is complete.",
    )


def _amplitude(centred: np.ndarray) -> Doubt | None:
    spread = float(np.nanmedian(_by_lead(np.std, centred)))
    if not _SPREADS[0] <= spread <= _SPREADS[1]:
        how, slip = ("more", "uV") if spread > _SPREADS[1] else ("less", "V")
        return Doubt(
            "amplitude",
            f"the leads vary by {spread:.2g} mV (standard deviation), far {how} than an ECG's 0.02"
            f" to 1: {slip} may have been taken for mV, a factor of 1000, or the gain is wrong.",
        )
    most = _by_lead(lambda lead: np.abs(lead).max(), centred)
    if np.nanmax(most) > _MOST:
        return Doubt(
            "amplitude",
            f"lead {LEADS[int(np.nanargmax(most))]} reaches {np.nanmax(most):.0f} mV from its"
            " median, which no heart produces; look for artefacts or a wrong gain.",
        )
    return None


def _offset(medians: np.ndarray) -> Doubt | None:
    far = np.abs(medians) > _MOST_OFFSET
    if not far.any():
        return None
    return Doubt(
        "offset",
        f"{_named(far)} up to {np.nanmax(np.abs(medians)):.3g} mV from zero, where no network was"
        " trained; check the baseline that the file states, or remove the offset.",
    )


def _flat(ranges: np.ndarray) -> Doubt | None:
    flat = (ranges <= _FLAT).mean(axis=0)
    if (flat < 0.5).all():
        return None
    return Doubt(
        "flat lead",
        f"{_named(flat >= 0.5)} flat for {flat.max():.0%} of the time in which others are not; an"
        " electrode may have been off.",
    )


def _invalid(signal: np.ndarray) -> Doubt | None:
    invalid = np.isnan(signal).mean(axis=0)
    if (invalid <= _INVALID_PART).all():
        return None
    return Doubt(
        "invalid samples",
        f"{_named(invalid > _INVALID_PART)} invalid for up to {invalid.max():.0%}, which is bridged"
        " by straight lines.",
    )


def _clipped(centred: np.ndarray, fs: float) -> Doubt | None:
    """A lead that repeatedly stays at its own extreme."""
    clipped = np.array([_times_clipped(lead[np.isfinite(lead)], fs) >= 3 for lead in centred.T])
    if not clipped.any():
        return None
    return Doubt(
        "clipped",
        f"{_named(clipped)} repeatedly cut off at the highest or lowest value; the amplifier was"
        " saturated.",
    )


def _times_clipped(lead: np.ndarray, fs: float) -> int:
    """How often a lead stays at its extreme for at least 12 ms and three samples."""
    if not lead.size or np.ptp(lead) < 0.5:
        return 0
    shortest = max(3, round(0.012 * fs))
    times = []
    for extreme in (lead.max(), lead.min()):
        at = np.concatenate([[False], np.abs(lead - extreme) < 1e-6, [False]]).astype(int)
        starts, stops = np.flatnonzero(np.diff(at) == 1), np.flatnonzero(np.diff(at) == -1)
        times.append(int((stops - starts >= shortest).sum()))
    return max(times)


def _contradiction(centred: np.ndarray, derived: tuple[str, ...]) -> Doubt | None:
    """Check Einthoven's II = I + III, and Goldberger's aVR, aVL and aVF.

    They hold for every rhythm, since all six leads are computed from the potentials of three
    electrodes.
    """
    limbs = centred[np.isfinite(centred[:, :6]).all(axis=1), :6]
    if not len(limbs):
        return None
    i, ii, iii, avr, avl, avf = limbs.T
    parts = {
        "II is not I + III": ("III", ii - i - iii, (i, ii, iii)),
        "aVR is not -(I + II) / 2": ("aVR", avr + (i + ii) / 2, (i, ii, avr)),
        "aVL is not (I - III) / 2": ("aVL", avl - (i - iii) / 2, (i, iii, avl)),
        "aVF is not (II + III) / 2": ("aVF", avf - (ii + iii) / 2, (ii, iii, avf)),
    }
    broken = [
        text
        for text, (lead, residual, of) in parts.items()
        if lead not in derived and residual.std() > max(_CONTRADICTION * np.std(of), 0.03)
    ]
    if not broken:
        return None
    return Doubt(
        "limb leads contradict",
        f"{', '.join(broken)}: leads are swapped, inverted or scaled individually; check"
        " their names and gains.",
    )


def _sampling_rate(centred: np.ndarray, fs: float) -> Doubt | None:
    """Slow beats with slow slopes, or fast beats with fast slopes, mean a wrong sampling rate.

    In bradycardia QRS complexes stay steep, and broad complexes do not slow the heart.
    """
    from scipy.signal import find_peaks

    leads = np.nan_to_num(centred[:, [0, 1, *range(6, 12)]])  # the others are computed from these
    leads = leads / (leads.std(axis=0) + _FLAT)
    width = max(1, round(0.1 * fs))
    steepness = np.convolve((np.diff(leads, axis=0) ** 2).sum(axis=1), np.ones(width), "same")
    least = 0.3 * np.quantile(steepness, 0.98)
    beats, _ = find_peaks(steepness, height=least, distance=2 * width)
    if len(beats) < 4:
        return None
    pulse = 60 * fs / float(np.median(np.diff(beats)))
    frequency = np.fft.rfftfreq(len(leads), 1 / fs)
    power = (np.abs(np.fft.rfft(leads, axis=0)) ** 2).sum(axis=1) * frequency**2

    def slopes(most: float) -> float:
        here = (frequency > 2) & (frequency < most)  # without baseline drift
        return float((power * frequency)[here].sum() / power[here].sum())

    if pulse < _SLOWEST or (pulse < _HALVED[0] and slopes(_HALVED[2]) < _HALVED[1]):
        factor = "half"
    elif pulse > _DOUBLED[0] and slopes(_DOUBLED[2]) > _DOUBLED[1]:
        factor = "twice"
    else:
        return None
    return Doubt(
        "sampling rate",
        f"the heart would beat {pulse:.0f} times a minute, as if {fs:g} Hz were {factor} the"
        " recording's own rate; check the rate, such as that given with fs (--fs).",
    )


def _right_leg(ranges: np.ndarray) -> Doubt | None:
    """One of I, II and III almost flat: the right-leg electrode is on an arm.

    The sign is a peak-to-peak amplitude below 0.1 mV in that lead only (Batchvarov, Malik & Camm,
    Europace 2007; 9: 1081-1090).
    """
    i, ii, iii = np.median(ranges[:, :3], axis=0)
    for lead, size, others, electrodes in (
        ("II", ii, (i, iii), "right arm and right leg"),
        ("III", iii, (i, ii), "left arm and right leg"),
        ("I", i, (ii, iii), "both arms and both legs"),
    ):
        if size < _SWAPPED_QRS and min(others) > 3 * max(size, _SWAPPED_QRS):
            return Doubt(
                "limb electrodes swapped",
                f"lead {lead} alone among I, II and III is almost flat, as if the electrodes of"
                f" {electrodes} were swapped.",
            )
    return None


def _arms(centred: np.ndarray, fs: float) -> Doubt | None:
    """Lead I inverted: the arm electrodes are swapped.

    After Batchvarov, Malik & Camm (Europace 2007; 9: 1081-1090): P, QRS and T of lead I are
    inverted while the precordial leads are unchanged, so that lead I is opposite to V6, which it
    otherwise resembles.  An upright aVR is not required: aVR and aVL are exchanged, and aVL often
    points down.  Dextrocardia looks the same in the limb leads.
    """
    from scipy.signal import butter, sosfiltfilt

    band = (0.5, min(40.0, 0.45 * fs))
    filters = butter(2, band, "bandpass", fs=fs, output="sos")
    i, v6 = (sosfiltfilt(filters, np.nan_to_num(centred[:, lead])) for lead in (0, _V6))
    if min(i.std(), v6.std()) < _FLAT:
        return None
    # How much further lead I reaches up than down, ignoring single artefacts.
    deflection = np.quantile(i, 0.995) + np.quantile(i, 0.005)
    if np.corrcoef(i, v6)[0, 1] < _OPPOSITE and deflection < 0:
        return Doubt(
            "limb electrodes swapped",
            "lead I is inverted and runs against V6, as if the arm electrodes were swapped,"
            " or in dextrocardia.",
        )
    return None


def _short(seconds: float) -> Doubt | None:
    if seconds >= _SECONDS:
        return None
    return Doubt(
        "short",
        f"the recording lasts {seconds:.1f} s instead of the usual 10 s; it was padded or"
        " stretched.",
    )


def _named(which: np.ndarray) -> str:
    names = [lead for lead, chosen in zip(LEADS, which, strict=True) if chosen]
    return f"lead {names[0]} is" if len(names) == 1 else f"leads {', '.join(names)} are"
