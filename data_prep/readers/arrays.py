"""NumPy arrays."""

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from data_prep.errors import RecordError
from data_prep.files import MOST_VALUES, opened, require_text
from data_prep.labels import LEADS
from data_prep.readers.record import Tracing, reason

_MOST_ARRAYS = 100
_MOST_ITEM = 1000  # bytes of a number or string
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
        arrays = _arrays(path)
        for array in arrays.values():
            require_text(array)
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


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name, that of an ``.npy`` file as ``signal``; pickles are rejected.

    Raises:
        ValueError: also if data follow the array: if bytes were duplicated, all later samples
            would be assigned to other leads.
    """
    with opened(path) as file:
        if file.read(2) != b"PK":
            file.seek(0)
            return {"signal": _array(file, MOST_VALUES)}
        arrays = {}
        with zipfile.ZipFile(file) as archive:
            if len(archive.infolist()) > _MOST_ARRAYS:
                raise ValueError(f"it holds more than {_MOST_ARRAYS} arrays")
            for name in archive.namelist():
                with archive.open(name) as member:
                    short = name.removesuffix(".npy")
                    # (zipfile opens a member only if both copies of its name agree.)
                    known = short in _MOST_IN
                    arrays[short] = _array(member, _MOST_IN[short]) if known else np.empty(0)
    return arrays


def _array(file: IO[bytes], most: int) -> np.ndarray:
    # NumPy allocates what the header states, and a small zip file can unpack to any size.
    shape, dtype = _stated(file)
    if math.prod(shape) > most or dtype.itemsize > _MOST_ITEM:
        raise ValueError(f"an array of shape {shape} and type {dtype} is larger than any recording")
    file.seek(0)
    array = np.lib.format.read_array(file, allow_pickle=False)
    if file.read(1):
        raise ValueError("it holds more than the array it states")
    return array


def _stated(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and type that an array's header states."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it is in version {version} of NumPy's format")
    read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    shape, _, dtype = read_header(file)
    return shape, dtype


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


def is_recording(path: Path) -> bool:
    """Tell whether a NumPy file holds 12 leads, without reading its samples."""
    try:
        with opened(path) as file:
            if path.suffix.casefold() == ".npz":
                with zipfile.ZipFile(file) as archive:
                    return "signal.npy" in archive.namelist()
            shape, _ = _stated(file)
    except Exception:  # whatever the error, this is not a recording
        return False
    return len(shape) == 2 and len(LEADS) in shape
