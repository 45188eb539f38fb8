"""What a reader returns, and the record made from it."""

import importlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import RecordError
from data_prep.files import MOST_BYTES, MOST_VALUES, opened
from data_prep.labels import LEADS, plausible_age, sex_of
from data_prep.readers.leads import MILLIVOLTS, complete_leads, find_leads

_RATES = (50.0, 10_000.0)
_SECONDS = (1.0, 3600.0)
# Standard deviation of a lead in mV.  Surface ECGs lie near 0.2; a unit wrong by a factor of a
# thousand is outside this range, and so is an empty recording.
_SPREADS = (0.001, 50.0)
_MOST_OFFSET = 2.0**13  # mV; above it, float32 values are spaced by 0.001 mV
# If the unit is only assumed, values outside this range are not taken to be millivolts.
_SUPPOSED_SPREADS = (0.01, 5.0)


def file_bytes(path: Path, *, most: int = MOST_BYTES, first: int = -1) -> bytes:
    """Read a recording's file.

    Args:
        path: of the file.
        most: largest allowed size, bytes.
        first: how many bytes to read; all of them by default.

    Raises:
        RecordError: if it cannot be read, is not a regular file, or is larger.
    """
    try:
        with opened(path, most=most) as file:
            return file.read(first)
    except OSError as error:
        raise RecordError(
            f"{path} cannot be read ({error.strerror}); correct it or leave this recording out."
        ) from error


@dataclass(frozen=True, eq=False)
class Tracing:
    """The contents of a file, before selection of leads and conversion of units.

    Attributes:
        names: of the signals, as the file gives them.
        values: float64 ``(time, signal)``, each in its unit, NaN if invalid.
        units: of each signal, such as ``"uV"``; ``""`` if the file states none.
        fs: sampling rate, hertz; NaN if the file states none.
        age: in years, NaN if unknown.
        sex: as the file gives it; ``""`` if unknown.
        codes: diagnoses as the file gives them.
    """

    names: tuple[str, ...]
    values: np.ndarray
    units: tuple[str, ...]
    fs: float
    age: float = math.nan
    sex: str = ""
    codes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Record:
    """A 12-lead recording.

    Attributes:
        id: the file's name without its suffix.
        signal: float32 ``(time, 12)``, millivolts, NaN if invalid; leads as in
            :data:`data_prep.labels.LEADS`.
        fs: sampling rate, hertz.
        age: in years, NaN if unknown.
        sex: ``"male"``, ``"female"``, or ``""`` if unknown.
        codes: diagnoses as the header gives them: names of classes, or SNOMED CT codes.
        path: of the file; for a WFDB record, of its header.
        derived: leads that are not in the file, computed from I and II.
    """

    id: str
    signal: np.ndarray
    fs: float
    age: float
    sex: str
    codes: tuple[str, ...]
    path: Path
    derived: tuple[str, ...] = ()


def record_of(
    tracing: Tracing, path: Path, *, fs: float | None, unit: str | None, fallback: bool = False
) -> Record:
    """Make a record of a tracing: all twelve leads, in order and in millivolts.

    Args:
        tracing: with at least I, II and V1 to V6 among its signals.
        path: of the file, for the record and for errors.
        fs: as in :func:`data_prep.records.read_record`.
        unit: the same.
        fallback: the same.

    Raises:
        RecordError: if a lead is missing, the rate, duration or unit is implausible or
            contradicts the given one, or the values cannot be an ECG.
    """
    chosen = choose_leads(tracing.names, path)
    stated = [tracing.units[i] for i in chosen.values()]
    units = [unit_of(each, None if fallback and each else unit, path) for each in stated]
    scale = [MILLIVOLTS[each.casefold()] for each in units]
    given = fs if math.isnan(tracing.fs) or not fallback else None
    rate = require_rate(agreed(tracing.fs, given, path), path)
    require_duration(len(tracing.values), rate, path)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite samples become NaN below
        values = tracing.values[:, list(chosen.values())] * scale
        signal, derived = complete_leads(list(chosen), values)
    _require_steps(signal, path)
    record = Record(
        id=path.stem,
        signal=millivolts(signal),
        fs=rate,
        age=plausible_age(tracing.age),
        sex=sex_of(tracing.sex),
        codes=tracing.codes,
        path=path,
        derived=derived,
    )
    if unit is None and "" in stated:
        _require_millivolts(record)
    require_ecg(record)
    return record


def _require_steps(signal: np.ndarray, path: Path) -> None:
    """Reject a lead so far from zero that float32 cannot resolve 1 uV."""
    for lead in np.flatnonzero((np.abs(signal) > _MOST_OFFSET).any(axis=0)):
        valid = signal[np.isfinite(signal[:, lead]), lead]
        level = float(np.median(valid)) if valid.size else 0.0
        with np.errstate(over="ignore"):
            spread = valid.std() if valid.size else 0.0
        # A lead that varies this much is in another unit, which require_ecg reports.
        if abs(level) > _MOST_OFFSET and spread <= _SPREADS[1]:
            raise RecordError(
                f"{path} has lead {LEADS[lead]} at {level:.3g} mV from zero, where the signal's"
                " steps would be lost; correct the offset (baseline) or leave this recording out."
            )


def choose_leads(names: Sequence[str], path: Path) -> dict[str, int]:
    """Find the column of each lead; a RecordError names the leads that are missing."""
    try:
        return find_leads(names)
    except ValueError as error:
        raise RecordError(
            f"{path} {error}; I, II and V1 to V6 are needed at least, so leave it out."
        ) from error


def agreed(stated: float, given: float | None, path: Path) -> float:
    """The rate, from the one the file states (NaN: none) and the one the user gives."""
    if given is None and math.isnan(stated):
        raise RecordError(
            f"{path} does not state its sampling rate; give it in Hz with fs (--fs), or add a"
            " column time in seconds to a table."
        )
    if given is None or math.isnan(stated):
        return stated if given is None else given
    if abs(stated - given) > 0.005 * given:
        raise RecordError(
            f"{path} states a rate of {stated:g} Hz and not the {given:g} Hz given with fs (--fs);"
            " leave that out or correct the file."
        )
    return stated


def unit_of(stated: str, given: str | None, path: Path) -> str:
    """The unit, from the one the file states and the one the user gives; mV if there is neither."""
    for unit in (stated, given or ""):
        if unit and unit.casefold() not in MILLIVOLTS:
            raise RecordError(
                f"{path} has a lead in {unit!r}, which is not one of mV, uV, V, nV; convert it or"
                " leave this recording out."
            )
    if stated and given and MILLIVOLTS[stated.casefold()] != MILLIVOLTS[given.casefold()]:
        raise RecordError(
            f"{path} states the unit {stated} and not the {given} given with unit (--unit); leave"
            " that out or correct the file."
        )
    return stated or given or "mV"


def _require_millivolts(record: Record) -> None:
    """Reject values of unknown unit that are implausible as millivolts."""
    spread = _spread(record)
    if not _SUPPOSED_SPREADS[0] <= spread <= _SUPPOSED_SPREADS[1]:
        likely = "uV, or raw counts" if spread > 1 else "V"
        raise RecordError(
            f"{record.path} does not state its unit, and its leads vary by {spread:.3g} (standard"
            f" deviation), too {'much' if spread > 1 else 'little'} for mV: it may be in {likely};"
            " give the unit with unit (--unit)."
        )


def require_rate(fs: float, path: Path) -> float:
    """Return the rate in hertz; reject one that no ECG has."""
    if not _RATES[0] <= fs <= _RATES[1]:
        raise RecordError(
            f"{path} states a rate of {fs:g} Hz, which no ECG has (from {_RATES[0]:g} to"
            f" {_RATES[1]:g}); correct it or leave this recording out."
        )
    return fs


def require_duration(num_samples: int, fs: float, path: Path) -> None:
    """Reject recordings that are too short or too long."""
    if not _SECONDS[0] <= num_samples / fs <= _SECONDS[1]:
        raise RecordError(
            f"{path} is {num_samples / fs:g} s long; recordings from {_SECONDS[0]:g} s to"
            f" {_SECONDS[1] / 3600:g} h are read, so cut it or leave it out."
        )


def require_values(number: int, path: Path) -> None:
    """Reject more samples, over all signals, than the largest supported recording has."""
    if number > MOST_VALUES:
        raise RecordError(
            f"{path} has {number} samples in all its signals, and at most {MOST_VALUES} are read;"
            " cut it or leave it out."
        )


def millivolts(values: np.ndarray) -> np.ndarray:
    """Return contiguous float32; infinite values, or values too large for it, become NaN."""
    with np.errstate(over="ignore"):
        signal = np.ascontiguousarray(values, np.float32)
    return np.where(np.isfinite(signal), signal, np.float32(np.nan))


def require_ecg(record: Record) -> None:
    """Reject values that cannot be an ECG in millivolts."""
    spread = _spread(record)
    if not _SPREADS[0] <= spread <= _SPREADS[1]:
        raise RecordError(
            f"{record.path} holds no ECG in the unit it states: its leads vary by {spread:.3g} mV"
            " (standard deviation), as if a unit were misnamed by a factor of 1000; correct the"
            " unit or gain, or leave this recording out."
        )


def _spread(record: Record) -> float:
    """The median of the leads' standard deviations, or the largest if it is implausible, mV.

    A single lead may be almost empty if an electrode fell off, but a lead that varies more than
    any ECG has a wrong unit.
    """
    valid = [lead[~np.isnan(lead)].astype(np.float64) for lead in record.signal.T]
    spreads = [lead.std() for lead in valid if lead.size]
    if not spreads:
        raise RecordError(f"{record.path} holds invalid samples only; leave this recording out.")
    return float(max(spreads) if max(spreads) > _SPREADS[1] else np.median(spreads))


def age_of(text: str, *, unit: float = 1.0) -> float:
    """Parse an age; NaN if there is none or it is not in 0 to 120 years.

    Args:
        text: with a number, such as ``"89+"``.
        unit: of the number, in years; NaN if unknown.

    Returns:
        The age in years.
    """
    number = re.search(r"-?\d+(\.\d+)?(e[-+]?\d+)?", text.casefold())
    return plausible_age(float(number[0]) * unit if number else math.nan)


def years_between(birth: date | None, day: date | None) -> float:
    """Compute an age in whole years; NaN if a date is unknown.

    Args:
        birth: day of birth.
        day: of the recording.
    """
    return float((day - birth).days // 365.25) if birth and day and day > birth else math.nan


def library(name: str, path: Path) -> Any:
    """Import a library of the extra ``formats``.

    Args:
        name: of the module.
        path: of the recording that needs it.

    Raises:
        RecordError: if it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RecordError(
            f"{path} needs the library {name.partition('.')[0]}, which is not installed; run: pip"
            " install 'ecg-keras[formats]'."
        ) from error


def unreadable(path: Path, kind: str, error: Exception) -> RecordError:
    """Describe any error of a reader in one sentence.

    Args:
        path: of the recording.
        kind: its format's name.
        error: what was raised.
    """
    return RecordError(
        f"{path} cannot be read as {kind} ({reason(error)}); download it again or leave this"
        " recording out."
    )


def reason(error: Exception) -> str:
    """Shorten an error's message to one line."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:200]
