"""NumPy arrays."""

import math
import zipfile
from pathlib import Path

import numpy as np

from data_prep.errors import RecordError
from data_prep.files import MOST_BYTES, MOST_VALUES, opened
from data_prep.labels import LEADS
from data_prep.npz import read_npy, read_npz, stated
from data_prep.readers.record import Tracing, reason

_MOST_IN = {"signal": MOST_VALUES, "fs": 1, "unit": 1, "leads": 1000}


def read_array(path: Path) -> Tracing:
    """Read a NumPy file: ``.npy``, or ``.npz`` with the array ``signal``.

    The array is ``(time, 12)`` or ``(12, time)``, leads in the order of
    :data:`data_prep.labels.LEADS`.  An ``.npz`` file may also hold ``fs``, ``unit`` and
    ``leads`` (the names, if they or their order differ).

    Args:
        path: of the file.

    Raises:
        RecordError: if it has no such array.
    """
    try:
        with opened(path) as file:
            zipped = file.read(2) == b"PK"
            file.seek(0)
            arrays = {} if zipped else {"signal": read_npy(file, MOST_BYTES, MOST_VALUES)}
        if zipped:
            arrays = read_npz(path, most_values=_MOST_IN)
        if "signal" not in arrays:
            raise ValueError(f"it has no array signal but {', '.join(arrays)[:200] or 'none'}")
        leads = tuple(str(name) for name in arrays.get("leads", LEADS))
        fs = float(arrays.get("fs", math.nan))
        return tracing_of(arrays["signal"], fs=fs, unit=str(arrays.get("unit", "")), leads=leads)
    except Exception as error:  # a damaged file raises many types of errors
        raise RecordError(
            f"{path} is not a NumPy recording ({reason(error)}); save a (time, 12) array of"
            " numbers."
        ) from error


def tracing_of(
    signal: np.ndarray, *, fs: float = math.nan, unit: str = "", leads: tuple[str, ...] = LEADS
) -> Tracing:
    """Make a tracing from an array.

    Args:
        signal: ``(time, lead)`` or ``(lead, time)``.
        fs: its rate, hertz; NaN if unknown.
        unit: of all leads; ``""`` if unknown.
        leads: their names.

    Raises:
        ValueError: if it is not a numeric array of that shape.
    """
    if signal.ndim != 2 or len(leads) not in signal.shape or signal.dtype.kind not in "iuf":
        raise ValueError(
            f"an array of shape {signal.shape} and type {signal.dtype} is not (time,"
            f" {len(leads)}) numbers"
        )
    values = signal if signal.shape[1] == len(leads) else signal.T
    return Tracing(leads, values.astype(np.float64), (unit,) * len(leads), fs)


def is_predictions(path: Path) -> bool:
    """Tell whether a file is the predictions.npz that ecg-predict writes beside its answers."""
    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            return {"ids.npy", "probabilities.npy"} <= set(archive.namelist())
    except Exception:  # whatever the error, these are not predictions
        return False


def is_recording(path: Path) -> bool:
    """Tell whether a NumPy file holds 12 leads, without reading its samples."""
    try:
        with opened(path) as file:
            if path.suffix.casefold() == ".npz":
                with zipfile.ZipFile(file) as archive:
                    return "signal.npy" in archive.namelist()
            shape, _ = stated(file)
    except Exception:  # whatever the error, this is not a recording
        return False
    return len(shape) == 2 and len(LEADS) in shape
