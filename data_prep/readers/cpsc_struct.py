"""MATLAB 5 files with one struct of numbers and strings.

After MathWorks' "MAT-File Format", chapter 1.  ``scipy.io.loadmat`` reads far more, but some
damaged files make it crash the whole process; here they cost only one record.
"""

import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.errors import RecordError
from data_prep.files import opened
from data_prep.labels import LEADS
from data_prep.readers.record import Tracing, age_of, file_bytes, require_values

CPSC_RATE = 500.0
"""Hertz; the original files of CPSC 2018 do not state their rate."""

_HEADER_BYTES = 128
_MOST_BYTES = 2**28  # an hour at 500 Hz takes 2**27.4
_MOST_ELEMENTS = 1000
_MOST_CHARACTERS = 10_000
_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
_STORED |= {13: "u8", 16: "u1", 17: "u2", 18: "u4"}
_CHAR, _STRUCT, _NUMBERS = 4, 2, range(6, 16)


def read_cpsc_struct(path: Path) -> Tracing:
    """Read a file of CPSC 2018 as first published: a struct ``ECG`` with sex, age and data.

    Args:
        path: of the file.

    Raises:
        RecordError: if it cannot be read, is damaged, or does not contain this struct.
    """
    if file_bytes(path, most=_MOST_BYTES, first=10) != b"MATLAB 5.0":
        raise RecordError(
            f"{path} has no header beside it and is not a MATLAB 5 file of CPSC 2018; put its"
            f" {path.stem}.hea beside it or leave this recording out."
        )
    try:
        fields = read_struct(path, "ECG")
        sex, age = (str(fields[name].item()) for name in ("sex", "age"))
        data = fields["data"]
        require_values(data.size, path)
        data = data.astype(np.float64)
    except (ValueError, LookupError, StopIteration, TypeError, ArithmeticError) as error:
        raise RecordError(
            f"{path} is cut short or holds no struct ECG with sex, age and data ({error}); fetch"
            " it again or leave this recording out."
        ) from error
    if data.ndim != 2 or data.shape[0] != len(LEADS):
        raise RecordError(
            f"{path} holds data of shape {data.shape} and not (12, time); leave this recording out."
        )
    return Tracing(LEADS, data.T, ("mV",) * len(LEADS), CPSC_RATE, age=age_of(age), sex=sex)


def read_struct(path: Path, name: str) -> dict[str, np.ndarray]:
    """Read a struct from a MATLAB 5 file.

    Args:
        path: of the file.
        name: of the struct, of size 1 × 1.

    Returns:
        The numeric fields, as arrays of the same shape, and the text fields, as arrays of one
        str.

    Raises:
        ValueError: if the file is damaged or does not contain this struct.
        OSError: if it cannot be read.
    """
    with opened(path, most=_MOST_BYTES) as file:
        data = memoryview(file.read())
    order = {b"IM": "<", b"MI": ">"}.get(bytes(data[126:128]), "")
    if data[:10] != b"MATLAB 5.0" or not order:
        raise ValueError("it is not a MATLAB 5 file")
    # The whole file is split before any part of it is used: if bytes were lost or duplicated, the
    # sizes do not add up, and later samples would be assigned to other leads.
    elements = list(_elements(data[_HEADER_BYTES:], order))
    rest = _MOST_BYTES
    for kind, content in elements:
        if kind == _COMPRESSED:
            unpacked = _decompressed(content, rest)
            rest -= len(unpacked)
            ((kind, content),) = _elements(memoryview(unpacked), order)
        if kind == _MATRIX:
            found, fields = _struct(content, order)
            if found == name:
                return fields
    raise ValueError(f"it has no struct {name}")


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Split bytes into data elements: pairs of type and content."""
    for _ in range(_MOST_ELEMENTS + 1):
        if not data:
            return
        if len(data) < 8:
            raise ValueError("it is cut short")
        kind, size = (int(word) for word in np.frombuffer(data[:8], f"{order}u4"))
        start = 8
        if kind >> 16:  # a small element: up to four bytes, within the tag
            kind, size, start = kind & 0xFFFF, kind >> 16, 4
        content = data[start : start + size]
        if len(content) < size or (start == 4 and size > 4):
            raise ValueError("it is cut short")
        yield kind, content
        stop = start + size
        data = data[stop if kind == _COMPRESSED else -8 * (-stop // 8) :]
    raise ValueError(f"it has more than {_MOST_ELEMENTS} parts")


def _decompressed(content: memoryview, most: int) -> bytes:
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(content, max(most, 1))
    except zlib.error as error:
        raise ValueError(f"its compressed part is damaged: {error}") from error
    if not unpacker.eof:
        raise ValueError("its compressed part is cut short or too large")
    return data


def _struct(content: memoryview, order: str) -> tuple[str, dict[str, np.ndarray]]:
    """Read a matrix element: its name and, if it is a struct, its fields."""
    elements = _elements(content, order)
    try:
        matrix_class, shape, name = _matrix_start(elements, order)
        if matrix_class != _STRUCT or math.prod(shape) != 1:
            return name, {}
        (width,) = np.frombuffer(next(elements)[1], f"{order}i4")
        names = bytes(next(elements)[1])
        if not 0 < width <= len(names):
            raise ValueError("its struct is damaged")
        starts = range(0, len(names), int(width))
        if len(starts) > _MOST_ELEMENTS:
            raise ValueError("its struct has too many fields")
        fields = [names[start : start + width].split(b"\0")[0].decode("ascii") for start in starts]
        return name, {field: _array(next(elements)[1], order) for field in fields}
    except StopIteration:
        raise ValueError("its struct is cut short") from None


def _matrix_start(
    elements: Iterator[tuple[int, memoryview]], order: str
) -> tuple[int, list[int], str]:
    """Read the header of a matrix: its class, shape and name."""
    flags = np.frombuffer(next(elements)[1], f"{order}u4")
    shape = np.frombuffer(next(elements)[1], f"{order}i4").tolist()
    return int(flags[0]) & 0xFF, shape, bytes(next(elements)[1]).decode("ascii")


def _array(content: memoryview, order: str) -> np.ndarray:
    """Read a matrix of numbers or text; anything else gives an empty array."""
    elements = _elements(content, order)
    matrix_class, shape, _ = _matrix_start(elements, order)
    if matrix_class not in (_CHAR, *_NUMBERS):
        return np.empty(0)
    kind, stored = next(elements)
    values = np.frombuffer(stored, order + _STORED[kind])
    if matrix_class == _CHAR:
        if values.size > _MOST_CHARACTERS:
            raise ValueError("it holds a text that is too long")
        return np.array(["".join(map(chr, values.tolist()))])
    return values.reshape(shape, order="F")
