"""Heart rate and irregularity, from QRS complexes on which several leads agree."""

from dataclasses import dataclass

import numpy as np

from data_prep.labels import LEADS
from data_prep.records import Record
from data_prep.signals import resample

# Sampling rate for detection: at PTB-XL's 100 Hz many complexes are missed or found twice.
_RATE = 250.0
# III, aVR, aVL and aVF are computed from I and II.
_INDEPENDENT = [
    lead for lead, name in enumerate(LEADS) if name in ("I", "II") or name[1:].isdigit()
]
_SAME_BEAT = 0.06  # seconds within which detections in two leads are the same beat
_REFRACTORY = 0.25  # seconds
_FLAT = 0.05  # mV


@dataclass(frozen=True)
class Rhythm:
    """The beats of one recording.

    Attributes:
        beats: times of the QRS complexes, seconds from the start.
        rate: beats per minute, from the median RR interval.
        irregularity: standard deviation of the RR intervals divided by their mean.
    """

    beats: np.ndarray
    rate: float
    irregularity: float


def rhythm(record: Record) -> Rhythm | None:
    """Find the beats of a recording.

    Each independent lead is searched by wfdb's XQRS detector; a beat counts if at least half of
    the leads find it.

    Args:
        record: from :func:`data_prep.records.read_record`.

    Returns:
        The rhythm; None if fewer than three beats were found.
    """
    valid = np.ma.masked_invalid(record.signal)
    # A gap at zero would begin and end with a step in a lead whose baseline is elsewhere.
    level = np.ma.filled(np.ma.median(valid, axis=0), 0)
    signal = resample(np.where(valid.mask, level, record.signal), fs=record.fs, target_fs=_RATE)
    near, leads = round(_SAME_BEAT * _RATE), 0
    votes = np.zeros(len(signal))
    for lead in signal.T[_INDEPENDENT]:
        if np.ptp(lead) < _FLAT:
            continue
        leads += 1
        found = np.zeros(len(signal), bool)
        for beat in _complexes(lead):
            found[max(0, beat - near) : beat + near + 1] = True
        votes += found
    beats = _peaks(votes, least=max(2, leads / 2))
    if len(beats) < 3:
        return None
    intervals = np.diff(beats)
    return Rhythm(
        beats=beats,
        rate=float(60 / np.median(intervals)),
        irregularity=float(intervals.std() / intervals.mean()),
    )


def _complexes(lead: np.ndarray) -> np.ndarray:
    from wfdb.processing import xqrs_detect

    # The detector learns from the first seconds and may divide by zero if they are flat.
    with np.errstate(all="ignore"):
        return np.asarray(xqrs_detect(lead.astype(np.float64), fs=_RATE, verbose=False), int)


def _peaks(votes: np.ndarray, *, least: float) -> np.ndarray:
    """Times at which most leads agree, seconds."""
    from scipy.signal import find_peaks

    places, _ = find_peaks(votes, height=least, distance=round(_REFRACTORY * _RATE))
    return places / _RATE
