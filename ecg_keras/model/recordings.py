"""Makes a record of a recording in any common form: file, array, list, table, WFDB record."""

from pathlib import Path
from typing import Any

import numpy as np

from data_prep.errors import OptionError, RecordError
from data_prep.readers.record import Tracing, record_of
from data_prep.records import Record, read_record, record_of_array


def as_record(
    recording: Any, *, fs: float | None = None, unit: str | None = None, fallback: bool = False
) -> Record:
    """Convert a recording of any supported type to a record.

    Args:
        recording: a file; a record from :func:`data_prep.records.read_record`; an array or nested
            list, ``(time, 12)`` or ``(12, time)``, leads in the order of
            :data:`data_prep.labels.LEADS`; a ``wfdb.Record``; or a pandas DataFrame with a column
            for each lead.
        fs: sampling rate in hertz, of an array, list or DataFrame, or of a file that does not
            state it.
        unit: ``"mV"``, ``"uV"``, ``"V"`` or ``"nV"``, if the recording does not state it; by
            default values are taken as millivolts if that is plausible.
        fallback: as in :func:`data_prep.records.read_record`.

    Raises:
        RecordError: if the recording cannot be used.
        OptionError: if an array, list or DataFrame is given without ``fs``.
    """
    if isinstance(recording, Record):
        return recording
    if isinstance(recording, str | Path):
        return read_record(recording, fs=fs, unit=unit, fallback=fallback)
    if hasattr(recording, "sig_name") and hasattr(recording, "p_signal"):
        return _of_wfdb(recording, fs, unit, fallback)
    if hasattr(recording, "columns") and hasattr(recording, "to_numpy"):
        return _of_frame(recording, fs, unit)
    try:
        signal = np.asarray(recording, None if isinstance(recording, np.ndarray) else np.float64)
    except (ValueError, TypeError):
        raise RecordError(
            f"{type(recording).__name__} is not a recording; give a file, a (time, 12) array or"
            " list of numbers, a wfdb.Record, or a DataFrame with a column for each lead."
        ) from None
    if fs is None:
        raise OptionError("an array does not state its sampling rate; give it in Hz with fs=….")
    return record_of_array(signal, fs=fs, unit=unit)


def _of_wfdb(recording: Any, fs: float | None, unit: str | None, fallback: bool) -> Record:
    name = str(recording.record_name or "wfdb.Record")
    values = recording.p_signal
    if values is None and recording.d_signal is not None:
        values = recording.dac()
    if values is None:
        raise RecordError(f"{name} has no p_signal; read it with wfdb.rdrecord.")
    names = tuple(str(lead) for lead in recording.sig_name)
    units = tuple(str(each or "") for each in recording.units or ("",) * len(names))
    tracing = Tracing(names, np.asarray(values, np.float64), units, float(recording.fs or "nan"))
    return record_of(tracing, Path(name), fs=fs, unit=unit, fallback=fallback)


def _of_frame(recording: Any, fs: float | None, unit: str | None) -> Record:
    if fs is None:
        raise OptionError("a DataFrame does not state its sampling rate; give it in Hz with fs=….")
    numbers = recording.select_dtypes("number")
    names = tuple(str(column) for column in numbers.columns)
    values = numbers.to_numpy(np.float64, na_value=np.nan)
    tracing = Tracing(names, values, ("",) * len(names), float("nan"))
    return record_of(tracing, Path("DataFrame"), fs=fs, unit=unit)
