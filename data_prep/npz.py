"""NumPy's files, also from strangers: bounded in size, and never unpickled."""

import errno
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from data_prep.files import MOST_BYTES, opened

_MOST_ARRAYS = 100  # in a file of which only some are wanted
_MOST_ITEM = 1000  # bytes of a number or string of these, on average


def read_npz(
    path: Path, *, most_bytes: int = MOST_BYTES, most_values: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """Read the arrays of an ``.npz`` file.

    Args:
        path: of the file.
        most_bytes: largest allowed size of the file, and of its arrays together.
        most_values: largest allowed number of values of each array that is wanted, of 1,000 bytes
            on average; the others, of at most 100 arrays in all, are left empty.  None for all
            arrays, of any number.

    Returns:
        The arrays by name.

    Raises:
        OSError: if the file cannot be read, is not a regular file, or is too large.
        ValueError: if it is of another kind or damaged, or an array is too large.
    """
    arrays: dict[str, np.ndarray] = {}
    left = most_bytes
    with opened(path, most=most_bytes) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                if most_values is not None and len(archive.infolist()) > _MOST_ARRAYS:
                    raise ValueError(f"it holds more than {_MOST_ARRAYS} arrays")
                for member in archive.namelist():
                    name = member.removesuffix(".npy")
                    most = math.inf if most_values is None else most_values.get(name, 0)
                    # (zipfile opens a member only if both copies of its name agree.)
                    with archive.open(member) as part:
                        bound = min(left, _MOST_ITEM * most)
                        arrays[name] = read_npy(part, bound, most) if most else np.empty(0)
                    left -= arrays[name].nbytes
        except Exception as error:  # a damaged file raises many types of errors
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise  # of the disk; invalid is only an offset in a damaged file
            raise ValueError(str(error) or type(error).__name__) from error
    return arrays


def read_npy(file: IO[bytes], most_bytes: float, most_values: float) -> np.ndarray:
    """Read the one array of an open ``.npy`` file.

    Args:
        file: at its beginning.
        most_bytes: largest allowed size of the array.
        most_values: largest allowed number of its values.

    Raises:
        ValueError: if it is not such a file or is too large; also if data follow the array: if
            bytes were duplicated, all later samples would be assigned to other leads.
    """
    # NumPy allocates what the header states, and a small zip file can unpack to any size.
    shape, dtype = stated(file)
    values = math.prod(shape)
    if values > most_values or values * dtype.itemsize > most_bytes:
        raise ValueError(f"an array of shape {shape} and type {dtype} is too large")
    file.seek(0)
    array = np.lib.format.read_array(file, allow_pickle=False)
    if file.read(1):
        raise ValueError("it holds more than the array it states")
    _require_text(array)
    return array


def stated(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape and type that the header of an open ``.npy`` file states.

    Raises:
        ValueError: if there is no such header.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"it is in version {version} of NumPy's format")
    read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
    shape, _, dtype = read_header(file)
    return shape, dtype


def _require_text(array: np.ndarray) -> None:
    """Reject invalid strings, from a damaged file: Python itself fails on them."""
    if array.dtype.kind == "U" and array.dtype.itemsize:
        characters = np.ascontiguousarray(array).view(
            np.dtype("u4").newbyteorder(array.dtype.byteorder)
        )
        if ((characters > 0x10FFFF) | (characters >> 11 == 0xD800 >> 11)).any():
            raise ValueError("its texts are damaged")
